"""The whole way from files to stored documents: read, clean, de-duplicate, split, store; every step counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bimo.console import Update
from bimo.runtime import DATA_REFUSED, USAGE, UserError, t
from bimo.text.boilerplate import drop_boilerplate
from bimo.text.clean import normalize
from bimo.text.dedup import SeenTexts
from bimo.text.documents import Document, Rejected, describe_reason
from bimo.text.faults import find_fault
from bimo.text.language import script_of
from bimo.text.measure import Measures, Sizes, count_kinds
from bimo.text.opening import Reading
from bimo.text.passages import passage_characters
from bimo.text.readers import read_file
from bimo.text.sources import SourceFile, estimate_bytes, find_sources
from bimo.text.split import split_position, validation_share
from bimo.text.store import DocumentWriter

__all__ = ["TextOptions", "collect_documents", "read_texts"]

_EXAMPLES = 3
_EXAMPLE_CHARACTERS = 160
_UPDATE_EVERY = 200


@dataclass(frozen=True)
class TextOptions:
    """What a person may ask of reading and cleaning; None lets the data decide.

    `languages` keeps those (`zh`, `en`, other ISO codes) alone. `strict` stops at the first file or row that cannot
    be read. `text_column` names the column of tables. `validation_share` is a share of all text, `seed` picks which.
    """

    languages: tuple[str, ...] | None = None
    strict: bool = False
    text_column: str | None = None
    seed: int = 0
    validation_share: float | None = None


def _no_progress(done: float, text: str) -> None:
    pass


def read_texts(sources: Sequence[Path], *, unread: Callable[[Rejected], None]) -> Iterator[str]:
    """Whatever text stands in files and folders, as it is, in passages; `unread` gets what cannot be read."""
    files = find_sources(sources)
    reading = Reading(unread, passage_characters(estimate_bytes(files)), None)
    return (document.text for file in files for document in read_file(file, reading) if document.text.strip())


def collect_documents(
    sources: Sequence[Path],
    out: Path,
    options: TextOptions = TextOptions(),
    *,
    progress: Update = _no_progress,
) -> dict[str, Any]:
    """Read `sources` into out/documents/{train,validation}-*.parquet and out/rejected/rejected-*.parquet.

    Returns facts for JSON: sizes, encodings, languages, rejections with examples, kinds of characters. `progress`
    gets the share done, from 0 to 1, and the file in work. Raises UserError when no document is left, when a source
    is missing or closed, and with `strict` at the first file or row that cannot be read.
    """
    if options.validation_share is not None and not 0 < options.validation_share < 1:
        raise UserError(
            "The share for validation must lie between 0 and 1, but is {share}.",
            code=USAGE,
            share=options.validation_share,
        )
    with DocumentWriter(out / "rejected", "rejected", kind=Rejected) as writer:
        rejections = _Rejections(writer, strict=options.strict)
        files = find_sources(sources, out=out, cannot_open=rejections.closed_folder)
        total = estimate_bytes(files)
        reading = Reading(rejections.unread, passage_characters(total), options.text_column)
        share = options.validation_share or validation_share(total)
        measures, cleaning = Measures(), Counter[str]()
        with SeenTexts(out) as seen, _Split(out / "documents", share, options.seed) as split:
            for document in _cleaned(_read(files, reading, progress), rejections, options, cleaning):
                if seen.add(document.text):
                    measures.add(document)
                    split.add(document)
                else:
                    rejections.add(document, "duplicate", t("the same text was there before"))
            split.finish()
            if split.kept == 0:
                raise rejections.nothing_left(len(files))
    return {
        "files": len(files),
        "files_unreadable": rejections.files,
        "bytes_read": reading.bytes_read,
        "passage_characters": reading.passage_characters,
        "validation_share": share,
        "encodings": dict(sorted(reading.encodings.items())),
        "columns": dict(reading.columns.most_common(20)),
        "boilerplate_lines": cleaning["boilerplate_lines"],
        "damaged_characters": cleaning["damaged_characters"],
        "train": asdict(split.sizes[False]),
        "validation": asdict(split.sizes[True]),
        "rejected": dict(rejections.counts.most_common()),
        "rejected_examples": rejections.examples,
        **measures.facts(),
    }


def _read(files: Sequence[SourceFile], reading: Reading, progress: Update) -> Iterator[Document]:
    """All documents of all files, in order."""
    total, before, count = max(1, sum(file.size for file in files)), 0, 0
    for file in files:
        progress(before / total, file.name)
        for document in read_file(file, reading):
            yield document
            count += 1
            if count % _UPDATE_EVERY == 0:
                progress(min(1.0, (before + min(reading.position, file.size)) / total), file.name)
        before += file.size
    progress(1.0, "")


def _cleaned(
    documents: Iterator[Document], rejections: _Rejections, options: TextOptions, counts: Counter[str]
) -> Iterator[Document]:
    """Normalised documents with their language, without those that a rule or `options` keep out."""
    for document in documents:
        text, removed = drop_boilerplate(normalize(document.text))
        counts["boilerplate_lines"] += removed
        if removed and not text.strip():
            rejections.add(document, "boilerplate", t("{lines} such lines and nothing else", lines=removed))
            continue
        kinds = count_kinds(text)
        fault = find_fault(text, kinds)
        if fault is not None:
            rejections.add(document, *fault)
            continue
        language = script_of(text, kinds)
        if options.languages is not None and language not in options.languages:
            rejections.add(document, "language", language)
            continue
        # A few damaged characters in a good text say nothing, and a model should not learn to write them.
        counts["damaged_characters"] += text.count("\ufffd")
        yield Document(text.replace("\ufffd", ""), document.source, document.line, language)


class _Rejections:
    """Everything that was set aside: stored, counted, and the first few of each reason kept as examples."""

    def __init__(self, writer: DocumentWriter, *, strict: bool) -> None:
        self._writer, self._strict = writer, strict
        self.counts: Counter[str] = Counter()
        self.examples: list[dict[str, Any]] = []
        self.files = 0

    def add(self, document: Document, reason: str, detail: str) -> None:
        """A document that was read, but is not wanted."""
        self._store(Rejected(document.source, document.line, reason, detail, document.text))

    def unread(self, rejected: Rejected) -> None:
        """A file or row that could not be read: with `strict` the end."""
        if self._strict:
            raise UserError(
                "{place} cannot be read: {reason} ({detail}). Mend it or take it away, or run without --strict.",
                code=DATA_REFUSED,
                place=_place(rejected.source, rejected.line),
                reason=describe_reason(rejected.reason),
                detail=rejected.detail,
            )
        self.files += rejected.line == 0
        self._store(rejected)

    def closed_folder(self, name: str, error: OSError) -> None:
        """A folder that may not be opened."""
        self.unread(Rejected(name, 0, "unreadable", error.strerror or str(error), ""))

    def _store(self, rejected: Rejected) -> None:
        text = rejected.text.encode("utf-8", "replace").decode()
        self._writer.write(Rejected(rejected.source, rejected.line, rejected.reason, rejected.detail, text))
        self.counts[rejected.reason] += 1
        if self.counts[rejected.reason] <= _EXAMPLES:
            example = {"source": rejected.source, "line": rejected.line, "reason": rejected.reason}
            self.examples.append({**example, "detail": rejected.detail, "text": text[:_EXAMPLE_CHARACTERS]})

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
            place=_place(first["source"], first["line"]),
            detail=first["detail"],
        )


def _place(source: str, line: int) -> str:
    return f"{source}:{line}" if line else source


class _Split:
    """Writes train and validation. Of each side the document nearest to the other is held back to the end, so that
    it can change sides when the other one stayed empty; which one that is depends on contents alone.
    """

    def __init__(self, folder: Path, share: float, seed: int) -> None:
        self._share, self._seed = share, seed
        self._writers = {
            False: DocumentWriter(folder, "train"),
            True: DocumentWriter(folder, "validation"),
        }
        self._held: dict[bool, tuple[float, Document]] = {}
        self.sizes = {False: Sizes(), True: Sizes()}
        self.kept = 0

    def __enter__(self) -> _Split:
        return self

    def __exit__(self, *error: Any) -> None:
        for writer in self._writers.values():
            writer.__exit__(*error)

    def add(self, document: Document) -> None:
        """Put a document on its side."""
        self.kept += 1
        position = split_position(document.text, self._seed)
        side = position < self._share
        distance = abs(position - self._share)
        if side not in self._held:
            self._held[side] = (distance, document)
        elif distance < self._held[side][0]:
            self._write(side, self._held[side][1])
            self._held[side] = (distance, document)
        else:
            self._write(side, document)

    def finish(self) -> None:
        """Write what was held back; with two documents or more both sides get one, and a single one is trained on."""
        for side, (_, document) in sorted(self._held.items()):
            alone = (not side) not in self._held
            self._write(not side if alone and (side or self.kept >= 2) else side, document)
        self._held = {}

    def _write(self, side: bool, document: Document) -> None:
        self._writers[side].write(document)
        self.sizes[side].add(document)
