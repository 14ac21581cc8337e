"""A file while it is read: unpacked block by block, its encoding found, its lines counted, its refusals reported."""

from __future__ import annotations

import gzip
import itertools
import zlib
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from bimo.runtime import t
from bimo.text.controls import pack_tags, tags_of
from bimo.text.documents import Document, Rejected
from bimo.text.encodings import SAMPLE_BYTES, decode_blocks, decode_late, decode_lines, find_encoding, resumed
from bimo.text.passages import LONGEST_TARGET, split_passages
from bimo.text.sources import SourceFile

__all__ = ["FIRST_ROWS", "WHOLE_FILE_BYTES", "OpenFile", "Reading", "peek"]

WHOLE_FILE_BYTES = 256 << 20
"""Unpacked; HTML, PDF, packed Parquet and single JSON values are held whole, and refused beyond this."""

FIRST_ROWS = 100
"""That a table is understood by."""

_FIRST_CHARACTERS = 1 << 22
_BLOCK_BYTES = 1 << 20
_BITE_BYTES = 4096
_LARGEST_WINDOW = 1 << 27
_EXAMPLE_CHARACTERS = 2000


@dataclass
class Reading:
    """How to read, where refused pieces go, and what was met on the way."""

    refuse: Callable[[Rejected], None]
    passage_characters: int = LONGEST_TARGET
    text_column: str | None = None
    controls: tuple[str, ...] = ()
    named: Collection[str] = ()
    """Columns that the user named."""
    by_page: bool = False
    """Whether each page of a PDF is a document, so that what stands there can be found again."""
    encodings: Counter[str] = field(default_factory=Counter)
    columns: Counter[str] = field(default_factory=Counter)
    bytes_read: int = 0
    position: int = 0
    """Bytes of the file in work, as it lies on the disk, that were read so far."""


def peek(
    items: Iterator[Any], *, size: Callable[[Any], int], rows: int = FIRST_ROWS, characters: int = _FIRST_CHARACTERS
) -> tuple[list[Any], Iterator[Any]]:
    """The first items, within both bounds, and all items again."""
    first: list[Any] = []
    total = 0
    for item in items:
        first.append(item)
        total += size(item)
        if len(first) >= rows or total >= characters:
            break
    return first, itertools.chain(first, items)


class OpenFile:
    """One file while it is read: its bytes unpacked, and its refusals counted."""

    def __init__(self, file: SourceFile, reading: Reading) -> None:
        self.path, self.name, self.reading = file.path, file.name, reading
        self.packed, self.ending = file.packed, file.ending
        self.refused = 0

    @contextmanager
    def refusing(self) -> Iterator[None]:
        """What keeps the file from being read, meanwhile, is its refusal."""
        try:
            yield
        except (OSError, ValueError, RecursionError) as error:
            self.refuse(0, "unreadable", getattr(error, "strerror", None) or str(error) or type(error).__name__)

    def refuse(self, line: int, reason: str, detail: str, text: str = "") -> None:
        """Report a piece that is kept out; line 0 is the whole file."""
        self.refused += 1
        self.reading.refuse(Rejected(self.name, line, reason, detail, text[:_EXAMPLE_CHARACTERS]))

    def documents(self, text: str, line: int, tags: str = "") -> Iterator[Document]:
        """A document in its own right: whole, unless it is very long; all its passages carry its line and its tags."""
        if len(text) <= 2 * LONGEST_TARGET:
            yield Document(text, self.name, line, tags=tags)
        else:
            for _, passage in split_passages(((line, part) for part in text.split("\n")), LONGEST_TARGET):
                yield Document(passage, self.name, line, tags=tags)

    def tags(self, row: Mapping[str, Any]) -> str:
        """Of a row or an object, what a document carries of it beside its text."""
        return pack_tags(tags_of(row, self.reading.controls)) if self.reading.controls else ""

    def passages(self, lines: Iterable[tuple[int, str]], target_characters: int) -> Iterator[Document]:
        """Running text, given as (number, line), in passages that carry the numbers of their first lines."""
        for number, passage in split_passages(lines, target_characters):
            yield Document(passage, self.name, number)

    def blocks(self) -> Iterator[bytes]:
        """The unpacked bytes. Raises ValueError when the packing is broken."""
        with self.path.open("rb") as raw:
            for block in _unpacked(raw, self.packed):
                self.reading.bytes_read += len(block)
                self.reading.position = raw.tell()
                yield block

    def whole(self) -> bytes | None:
        """All bytes; None, and refused, when there are too many."""
        parts, size = [], 0
        for block in self.blocks():
            parts.append(block)
            size += len(block)
            if size > WHOLE_FILE_BYTES:
                self.refuse_size(0)
                return None
        return b"".join(parts)

    def refuse_size(self, line: int) -> None:
        """Report a piece that is too large to be held whole."""
        limit = WHOLE_FILE_BYTES >> 20
        self.refuse(line, "too_long", t("more than {limit} MB, and this format is read whole", limit=limit))

    def lines(self) -> Iterator[tuple[int, str]]:
        """(number, line) of a text file; nothing, and refused, when it is not text."""
        encoding, blocks = self._find_encoding()
        if encoding is not None:
            yield from decode_lines(blocks, encoding, self.refuse)

    def characters(self) -> Iterator[str]:
        """The characters of a text file, a block at a time; nothing, and refused, when it is not text."""
        encoding, blocks = self._find_encoding()
        if encoding is not None:
            yield from decode_blocks(blocks, encoding)

    def _find_encoding(self) -> tuple[str | None, Iterator[bytes]]:
        """The encoding, and all blocks. It is None, and refused, when this is not text."""
        blocks, first, broken = self.blocks(), b"", None
        try:
            while len(first) < SAMPLE_BYTES and (block := next(blocks, b"")):
                first += block
        except ValueError as error:
            if not first:
                raise
            broken = error
        encoding = find_encoding(first[:SAMPLE_BYTES])
        all_blocks = resumed(first, broken, blocks)
        if encoding is None:
            self.refuse(0, "unreadable", t("not text in UTF-8, UTF-16, GB18030, Big5 or Windows-1252"))
        elif first and encoding == "utf-8" and first[:SAMPLE_BYTES].isascii():
            return encoding, decode_late(all_blocks, self._count_encoding)
        elif first:
            self._count_encoding(encoding)
        return encoding, all_blocks

    def _count_encoding(self, encoding: str) -> None:
        self.reading.encodings[encoding] += 1


def _unpacked(raw: Any, packed: str) -> Iterator[bytes]:
    """The unpacked bytes in blocks; what comes before a broken place is given before ValueError is raised."""
    parts: list[bytes] = []
    size = 0
    broken: ValueError | None = None
    bites = {"": _plain, ".gz": _from_gzip, ".zst": _from_zstandard}[packed](raw)
    while True:
        try:
            bite = next(bites, b"")
        except ValueError as error:
            bite, broken = b"", error
        parts.append(bite)
        size += len(bite)
        if size >= _BLOCK_BYTES or (size and not bite):
            yield b"".join(parts)
            parts, size = [], 0
        if broken is not None:
            raise broken
        if not bite:
            return


def _plain(raw: Any) -> Iterator[bytes]:
    while bite := raw.read(_BLOCK_BYTES):
        yield bite


def _from_gzip(raw: Any) -> Iterator[bytes]:
    file = gzip.GzipFile(fileobj=raw)
    try:
        while bite := file.read1(_BLOCK_BYTES):
            yield bite
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(t("broken gz: {error}", error=error)) from None


def _from_zstandard(raw: Any) -> Iterator[bytes]:
    import zstandard

    # Fed in small bites, since a bite may unpack to many thousand times its size.
    stream: Any = None
    try:
        while bite := raw.read(_BITE_BYTES):
            while bite:
                stream = stream or zstandard.ZstdDecompressor(max_window_size=_LARGEST_WINDOW).decompressobj()
                unpacked = stream.decompress(bite)
                if unpacked:
                    yield unpacked
                bite = b""
                if stream.eof:
                    bite, stream = stream.unused_data, None
    except zstandard.ZstdError as error:
        raise ValueError(t("broken zst: {error}", error=error)) from None
    if stream is not None:
        raise ValueError(t("broken zst: {error}", error="the end is missing"))
