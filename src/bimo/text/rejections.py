"""Everything that was set aside: stored, counted, and the first few of each reason kept as examples."""

from __future__ import annotations

from collections import Counter
from typing import Any

from bimo.runtime import DATA_REFUSED, UserError, t
from bimo.text.documents import Rejected, describe_reason
from bimo.text.personal import excerpt
from bimo.text.store import DocumentWriter

__all__ = ["Rejections", "place_in", "unread_error"]

_EXAMPLES = 3
_EXAMPLE_CHARACTERS = 160


class Rejections:
    """Writes what was set aside and counts it by reason."""

    def __init__(self, writer: DocumentWriter) -> None:
        self._writer = writer
        self.counts: Counter[str] = Counter()
        self.examples: list[dict[str, Any]] = []
        self.bytes: Counter[str] = Counter()
        """In UTF-8, by reason."""
        self.languages: Counter[str] = Counter()
        """Documents that were left out for their language, by language."""
        self.files = 0

    def add(self, rejected: Rejected) -> None:
        """Set a piece aside."""
        self._writer.write(rejected)
        self.files += rejected.line == 0
        self.counts[rejected.reason] += 1
        self.bytes[rejected.reason] += len(rejected.text.encode())
        if rejected.reason == "language":
            self.languages[rejected.detail] += 1
        if self.counts[rejected.reason] <= _EXAMPLES:
            example = {"source": rejected.source, "line": rejected.line, "reason": rejected.reason}
            self.examples.append(
                {**example, "detail": rejected.detail, "text": excerpt(rejected.text, _EXAMPLE_CHARACTERS)}
            )

    def nothing_left(self, files: int) -> UserError:
        """The error for a corpus of which nothing is left, with the main reasons and their first examples."""
        reasons = "; ".join(
            t("{count:,} x {reason}", count=count, reason=describe_reason(reason))
            for reason, count in self.counts.most_common(3)
        )
        first = self.examples[0]
        return UserError(
            "No text is left of {files:,} files: {rejected:,} pieces were set aside ({reasons}). The first: "
            "{place}, {detail}. Name a folder with text, or ask for less (--lang, --text-column).",
            code=DATA_REFUSED,
            files=files,
            rejected=self.counts.total(),
            reasons=reasons,
            place=place_in(first["source"], first["line"]),
            detail=first["detail"],
        )


def unread_error(source: str, line: int, reason: str, detail: str) -> UserError:
    """The error of --strict for a file or row that cannot be read."""
    return UserError(
        "{place} cannot be read: {reason} ({detail}). Mend it or take it away, or run without --strict.",
        code=DATA_REFUSED,
        place=place_in(source, line),
        reason=describe_reason(reason),
        detail=detail,
    )


def place_in(source: str, line: int) -> str:
    """`notes.txt:12`, or the name of the source alone when it is meant as a whole."""
    return f"{source}:{line}" if line else source
