"""What flows through this folder: documents that are kept, and pieces that are set aside with a reason."""

from __future__ import annotations

from dataclasses import dataclass

from bimo.runtime import t

__all__ = ["ALLOWABLE", "REASONS", "UNREAD_REASONS", "Document", "Piece", "Rejected", "describe_reason"]


@dataclass(frozen=True, slots=True)
class Document:
    """One text and where it came from. `line` counts lines, rows, objects or pages of the source from 1.

    `tags` are what stood beside it and is to be learned with it (controls.py), as JSON; empty where nothing was asked.
    """

    text: str
    source: str
    line: int
    language: str = ""
    tags: str = ""

    def rejected(self, reason: str, detail: str) -> Rejected:
        """The same text, set aside."""
        return Rejected(self.source, self.line, reason, detail, self.text)


@dataclass(frozen=True, slots=True)
class Rejected:
    """A piece that was set aside: `reason` is a code of REASONS, `detail` a sentence; line 0 is the whole file."""

    source: str
    line: int
    reason: str
    detail: str
    text: str

    @classmethod
    def unopened(cls, name: str, error: OSError) -> Rejected:
        """A file or folder inside a source that may not be opened."""
        return cls(name, 0, "unreadable", error.strerror or str(error), "")

    def __str__(self) -> str:
        return f"{self.source}:{self.line or ''} {self.detail}"


Piece = Document | Rejected

REASONS = {
    "unknown_format": "the format is not one that Bimo reads",
    "unreadable": "the file is broken or may not be read",
    "encrypted": "the file is locked with a password",
    "empty": "there is nothing in it",
    "no_text": "there is no text in it",
    "no_column": "a table without the column that was named",
    "too_long": "a single piece is too long to hold",
    "bad_bytes": "bytes that are not valid in the encoding of the file",
    "bad_row": "a row that does not fit its table",
    "too_short": "fewer than two letters",
    "mojibake": "damaged characters",
    "repetition": "the same few words over and over",
    "links": "a list of links",
    "machine": "strings made by machines",
    "identifiers": "a list of numbers and names with numbers",
    "markup": "mostly tags of a web page",
    "symbols": "hardly any letters",
    "boilerplate": "nothing but page furniture, such as copyright lines",
    "language": "not in a language that was asked for",
    "personal": "personal data or secrets in it",
    "unlike": "less like the reference than what was to be kept",
    "duplicate": "the same text was there before",
    "near_duplicate": "nearly the same as another text, which is longer or came first",
}

UNREAD_REASONS = (
    *("unknown_format", "unreadable", "encrypted", "empty", "no_text", "no_column", "too_long", "bad_bytes", "bad_row"),
)
"""Reasons of what never became a document."""

ALLOWABLE = (
    *("too_short", "mojibake", "repetition", "links", "machine", "identifiers", "markup", "symbols"),
    *("boilerplate", "near_duplicate"),
)
"""Reasons that are a matter of judgement: a person may keep such texts."""


def describe_reason(reason: str) -> str:
    """A reason in words, in the user's language."""
    return t(REASONS[reason])
