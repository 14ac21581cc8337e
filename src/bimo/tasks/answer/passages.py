"""Documents -> passages of some sentences, each with the place where it stands."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from bimo.runtime import DATA_REFUSED, UserError
from bimo.text.documents import Rejected
from bimo.text.opening import Reading
from bimo.text.passages import end_of_part
from bimo.text.readers import is_running, read_file
from bimo.text.segment import split_sentences
from bimo.text.sources import find_sources

__all__ = ["Passage", "cut_passages", "read_passages"]

TARGET, LONGEST = 400, 800
"""Characters. A question is answered by a sentence or two, and needs those around them to be understood."""

AT_ONCE = 1 << 20
"""Characters of running text that are cut as one, so that next to no sentence is torn where texts are parted."""

SOFT_BREAK = re.compile(r"(?<=\S)[ \t]*\r?\n[ \t]*(?=[^\s#*+|•-])")
"""A line end that may stand inside a sentence: neither beside a blank line nor before an item, a heading or a table."""


class Passage(NamedTuple):
    """A text, the file it is from, and its first line there, or its row, object or page; both counted from 1."""

    source: str
    line: int
    text: str


def read_passages(sources: Sequence[Path], *, unread: Callable[[Rejected], None]) -> list[Passage]:
    """All passages of files and folders, of those that say the same the first; `unread` gets what cannot be read.

    Raises UserError when there is no text.
    """
    found: dict[str, Passage] = {}
    for file in find_sources(sources, cannot_open=lambda name, error: unread(Rejected.unopened(name, error))):
        running = is_running(file)
        for document in read_file(file, Reading(unread, AT_ONCE, by_page=True)):
            for line, text in cut_passages(document.text):
                passage = Passage(document.source, document.line + running * line, text)
                found.setdefault(" ".join(text.split()), passage)
    if not found:
        raise UserError(
            "There is no text in {sources} that could be searched.",
            code=DATA_REFUSED,
            sources=", ".join(map(str, sources)),
        )
    return list(found.values())


def cut_passages(text: str) -> Iterator[tuple[int, str]]:
    """(lines before it, passage) of a text, cut between sentences, which may go over lines.

    A sentence longer than LONGEST is cut itself.
    """
    line = before = size = 0
    parts: list[str] = []
    for sentence in _sentences(text):
        for piece in _parts(sentence):
            if parts and (size >= TARGET or size + len(piece) > LONGEST):
                yield from _joined(before, parts)
                parts, size, before = [], 0, line
            parts.append(piece)
            size += len(piece)
            line += piece.count("\n")
    yield from _joined(before, parts)


def _parts(sentence: str) -> Iterator[str]:
    start = 0
    while start < len(sentence):
        end = end_of_part(sentence, start, LONGEST)
        yield sentence[start:end]
        start = end


def _sentences(text: str) -> Iterator[str]:
    """Those of `split_sentences`, but lines that are wrapped count as one; what then gets too long is no sentence."""
    end = 0
    for sentence in split_sentences(SOFT_BREAK.sub(lambda match: " " * len(match[0]), text)):
        start, end = end, end + len(sentence)
        if len(sentence) <= LONGEST:
            yield text[start:end]
        else:
            yield from split_sentences(text[start:end])


def _joined(line: int, parts: list[str]) -> Iterator[tuple[int, str]]:
    text = "".join(parts)
    bare = text.lstrip()
    if bare:
        yield line + text[: len(text) - len(bare)].count("\n"), bare.rstrip()
