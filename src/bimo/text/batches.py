"""Sources in batches, the same however many work at them: pieces that were read, or files still to be read."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

from bimo.text.documents import Piece, Rejected
from bimo.text.opening import Reading
from bimo.text.readers import READ_APART, read_file
from bimo.text.sources import SourceFile

__all__ = ["Batch", "file_stretches", "make_batches", "read_pieces"]

BATCH_CHARACTERS = 2_000_000
BATCH_ROWS = 10_000
BATCH_FILE_BYTES = 8_000_000
BATCH_FILES = 64
STRETCH_BYTES = 64_000_000


@dataclass
class Batch:
    """Either `pieces` or `files`. `bytes` is how much of the sources on disk is in it, `last` the file it ends in."""

    number: int
    pieces: list[Piece] = field(default_factory=list)
    files: list[SourceFile] = field(default_factory=list)
    bytes: int = 0
    last: str = ""


def read_pieces(files: Iterable[SourceFile], reading: Reading, refused: deque[Rejected]) -> Iterator[Piece]:
    """All documents of all files and, where they stood, the pieces that `reading` put into `refused`."""
    for file in files:
        for document in read_file(file, reading):
            while refused:
                yield refused.popleft()
            yield document
        while refused:
            yield refused.popleft()


def file_stretches(files: Iterable[SourceFile]) -> Iterator[list[SourceFile]]:
    """Files in order, STRETCH_BYTES and more at a time: what one machine reads, however many there are."""
    stretch: list[SourceFile] = []
    size = 0
    for file in files:
        stretch.append(file)
        size += file.size
        if size >= STRETCH_BYTES:
            yield stretch
            stretch, size = [], 0
    if stretch:
        yield stretch


def make_batches(files: Iterable[SourceFile], reading: Reading, refused: deque[Rejected]) -> Iterator[Batch]:
    """Light formats are read here, one file after the other; what takes long to read is left to who gets the batch."""
    number = 0
    for stretch in file_stretches(files):
        for batch in _batches_of(stretch, reading, refused):
            yield replace(batch, number=number)
            number += 1


def _batches_of(files: Iterable[SourceFile], reading: Reading, refused: deque[Rejected]) -> Iterator[Batch]:
    number = before = covered = characters = 0
    pieces: list[Piece] = []
    apart: list[SourceFile] = []
    name = ""
    for file in files:
        if file.ending in READ_APART:
            apart.append(file)
            if len(apart) >= BATCH_FILES or sum(one.size for one in apart) >= BATCH_FILE_BYTES:
                yield _of_files(number, apart)
                number, apart = number + 1, []
            continue
        name = file.name
        for piece in read_pieces([file], reading, refused):
            pieces.append(piece)
            characters += len(piece.text)
            if characters >= BATCH_CHARACTERS or len(pieces) >= BATCH_ROWS:
                position = before + min(reading.position, file.size)
                yield Batch(number, pieces, bytes=position - covered, last=name)
                number, pieces, characters, covered = number + 1, [], 0, position
        before += file.size
    if pieces:
        yield Batch(number, pieces, bytes=before - covered, last=name)
        number += 1
    if apart:
        yield _of_files(number, apart)


def _of_files(number: int, files: list[SourceFile]) -> Batch:
    return Batch(number, files=files, bytes=sum(file.size for file in files), last=files[-1].name)
