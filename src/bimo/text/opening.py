"""A file while it is read: unpacked block by block, its encoding found, its lines counted, its refusals reported."""

from __future__ import annotations

import gzip
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from bimo.runtime import t
from bimo.text.documents import Document, Rejected
from bimo.text.encodings import SAMPLE_BYTES, decode_lines, find_encoding
from bimo.text.passages import LONGEST_TARGET, split_passages
from bimo.text.sources import SourceFile

__all__ = ["OpenFile", "Reading"]

WHOLE_FILE_BYTES = 256 << 20
"""Unpacked; JSON, HTML, PDF and packed Parquet are read as a whole, and refused beyond this."""


_BLOCK_BYTES = 1 << 20
_BITE_BYTES = 4096
_EXAMPLE_CHARACTERS = 2000


@dataclass
class Reading:
    """How to read, where refused pieces go, and what was met on the way."""

    refuse: Callable[[Rejected], None]
    passage_characters: int = LONGEST_TARGET
    text_column: str | None = None
    encodings: Counter[str] = field(default_factory=Counter)
    columns: Counter[str] = field(default_factory=Counter)
    bytes_read: int = 0
    position: int = 0
    """Bytes of the file in work, as it lies on the disk, that were read so far."""


class OpenFile:
    """One file while it is read: its bytes unpacked, and its refusals counted."""

    def __init__(self, file: SourceFile, reading: Reading, *, packed: str, ending: str) -> None:
        self.path, self.name, self.reading = file.path, file.name, reading
        self.packed, self.ending = packed, ending
        self.refused = 0

    def refuse(self, line: int, reason: str, detail: str, text: str = "") -> None:
        self.refused += 1
        self.reading.refuse(Rejected(self.name, line, reason, detail, text[:_EXAMPLE_CHARACTERS]))

    def documents(self, text: str, line: int) -> Iterator[Document]:
        """A document in its own right: whole, unless it is very long; all its passages carry its line."""
        if len(text) <= 2 * LONGEST_TARGET:
            yield Document(text, self.name, line)
        else:
            for _, passage in split_passages(((line, part) for part in text.split("\n")), LONGEST_TARGET):
                yield Document(passage, self.name, line)

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
                limit = WHOLE_FILE_BYTES >> 20
                self.refuse(0, "too_long", t("more than {limit} MB, and this format is read whole", limit=limit))
                return None
        return b"".join(parts)

    def encoding_of(self, sample: bytes) -> str | None:
        """The encoding; None, and refused, when it is not text."""
        encoding = find_encoding(sample)
        if encoding is None:
            self.refuse(0, "unreadable", t("not text in UTF-8, UTF-16, GB18030, Big5 or Windows-1252"))
        else:
            self.reading.encodings[encoding] += 1
        return encoding

    def lines(self) -> Iterator[tuple[int, str]]:
        """(number, line) of a text file; nothing, and refused, when it is not text."""
        blocks = self.blocks()
        first: list[bytes] = []
        broken: ValueError | None = None
        while sum(map(len, first)) < SAMPLE_BYTES:
            try:
                block = next(blocks, b"")
            except ValueError as error:
                broken = error
                break
            if not block:
                break
            first.append(block)
        sample = b"".join(first)
        if broken is not None and not sample:
            raise broken
        encoding = self.encoding_of(sample[:SAMPLE_BYTES])
        if encoding is None:
            return
        yield from decode_lines(_then(sample, blocks, broken), encoding, self.refuse)


def _then(sample: bytes, blocks: Iterator[bytes], broken: ValueError | None) -> Iterator[bytes]:
    if sample:
        yield sample
    if broken is not None:
        raise broken
    yield from blocks


def _unpacked(raw: Any, packed: str) -> Iterator[bytes]:
    if packed == ".zst":
        yield from _unpacked_zstandard(raw)
        return
    file = gzip.GzipFile(fileobj=raw) if packed == ".gz" else raw
    try:
        while block := file.read(_BLOCK_BYTES):
            yield block
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(t("broken gz: {error}", error=error)) from None


def _unpacked_zstandard(raw: Any) -> Iterator[bytes]:
    import zstandard

    # Fed in small bites, since a bite may unpack to many thousand times its size.
    stream: Any = None
    parts: list[bytes] = []
    size = 0
    try:
        while bite := raw.read(_BITE_BYTES):
            while bite:
                if stream is None:
                    stream = zstandard.ZstdDecompressor(max_window_size=1 << 27).decompressobj()
                parts.append(stream.decompress(bite))
                size += len(parts[-1])
                bite = b""
                if stream.eof:
                    bite, stream = stream.unused_data, None
            if size >= _BLOCK_BYTES:
                yield b"".join(parts)
                parts, size = [], 0
    except zstandard.ZstdError as error:
        if size:
            yield b"".join(parts)
        raise ValueError(t("broken zst: {error}", error=error)) from None
    if size:
        yield b"".join(parts)
    if stream is not None:
        raise ValueError(t("broken zst: {error}", error="cut off"))
