"""Token ids packed on disk: a header with digests, then the ids as they stand in memory.

A file is `MAGIC`, a JSON header padded to HEADER_BYTES, then `tokens` little-endian ids of `dtype`. Documents follow
one another, each closed by the end token; every file starts with one, so that the first document is begun as well.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np

from bimo.runtime import UserError

__all__ = ["TokenShards", "TokenWriter", "join_documents"]

MAGIC = b"BIMOTOK1"
HEADER_BYTES = 4096
HEADER_FIELDS = {"dtype": str, "tokens": int, "documents": int, "end": int, "sha256": str}
TOKENS_PER_FILE = 2**28


class TokenWriter(AbstractContextManager["TokenWriter"]):
    """Packs documents into `folder/{split}-00000.bin` and on; ids are uint16 if the vocabulary allows, else uint32."""

    def __init__(
        self, folder: Path, split: str, *, vocabulary: int, end: int, tokens_per_file: int = TOKENS_PER_FILE
    ) -> None:
        self.folder, self.split, self.end = folder, split, end
        self.dtype = np.dtype("<u2" if vocabulary <= 2**16 else "<u4")
        self.tokens_per_file = tokens_per_file
        self.tokens = self.documents = self._files = 0
        self._file: BinaryIO | None = None
        folder.mkdir(parents=True, exist_ok=True)
        self._open()

    def write(self, documents: Sequence[Sequence[int]]) -> None:
        """Add documents; a document is never spread over two files."""
        self.write_flat(*join_documents(documents))

    def write_flat(self, ids: np.ndarray, ends: np.ndarray) -> None:
        """Add documents that stand one after another in `ids`, each up to its position in `ends`."""
        closed = np.insert(ids, ends, self.end).astype(self.dtype)
        ends = ends + np.arange(1, len(ends) + 1)  # now behind the end token that was put after each
        first = start = 0
        while first < len(ends):
            room = self.tokens_per_file - self._in_file
            after = int(np.searchsorted(ends, start + room, side="right"))
            if after <= first and self._in_file > 1:
                self._close()
                self._open()
                continue
            after = max(after, first + 1)  # a document that no file can hold gets one of its own
            self._put(closed[start : ends[after - 1]])
            self._documents_in_file += after - first
            first, start = after, int(ends[after - 1])

    def _put(self, ids: np.ndarray) -> None:
        data = ids.tobytes()
        assert self._file is not None
        self._file.write(data)
        self._digest.update(data)
        self._in_file += len(ids)

    def _open(self) -> None:
        self._file = (self.folder / f"{self.split}-{self._files:05d}.bin").open("wb")
        self._file.write(b"\0" * HEADER_BYTES)
        self._digest = hashlib.sha256()
        self._in_file = self._documents_in_file = 0
        self._put(np.array([self.end], dtype=self.dtype))

    def _close(self) -> None:
        assert self._file is not None
        header = {
            "dtype": self.dtype.name,
            "tokens": self._in_file,
            "documents": self._documents_in_file,
            "end": self.end,
            "sha256": self._digest.hexdigest(),
        }
        self._file.seek(0)
        self._file.write((MAGIC + json.dumps(header).encode()).ljust(HEADER_BYTES))
        self._file.close()
        self._file = None
        self._files += 1
        self.tokens += self._in_file
        self.documents += self._documents_in_file

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is None:
            self._close()
        elif self._file is not None:
            self._file.close()


def join_documents(documents: Sequence[Sequence[int]]) -> tuple[np.ndarray, np.ndarray]:
    """(The ids of all documents one after another, uint32; the position where each ends, int64)."""
    ends = np.cumsum([len(ids) for ids in documents], dtype=np.int64)
    total = int(ends[-1]) if documents else 0
    return np.fromiter(itertools.chain.from_iterable(documents), np.uint32, count=total), ends


class TokenShards:
    """The files of one split as a single sequence of ids, mapped into memory rather than read."""

    def __init__(self, folder: Path, split: str) -> None:
        paths = sorted(folder.glob(f"{split}-*.bin"))
        if not paths:
            raise UserError(
                "{folder} holds no packed {split} tokens. Prepare the data first: bimo prepare SOURCE --out DATA.",
                folder=folder,
                split=split,
            )
        self._paths = paths
        self._headers = [_read_header(path) for path in paths]
        self._parts = [_map_ids(path, header) for path, header in zip(paths, self._headers, strict=True)]
        self._starts = np.cumsum([0, *(len(part) for part in self._parts)])
        self.end: int = self._headers[0]["end"]

    def __len__(self) -> int:
        return int(self._starts[-1])

    @property
    def fingerprint(self) -> str:
        """Names the content: the digest of the digests of the files."""
        return hashlib.sha256("".join(header["sha256"] for header in self._headers).encode()).hexdigest()

    def read(self, start: int, count: int) -> np.ndarray:
        """The ids [start, start + count) as int64, across files. Raises IndexError beyond the end."""
        if start < 0 or start + count > len(self):
            raise IndexError(f"tokens {start} to {start + count} of {len(self)}")
        pieces = []
        file = int(np.searchsorted(self._starts, start, side="right")) - 1
        while count > 0:
            inside = start - int(self._starts[file])
            piece = self._parts[file][inside : inside + count]
            pieces.append(piece)
            start, count, file = start + len(piece), count - len(piece), file + 1
        return np.concatenate(pieces).astype(np.int64) if pieces else np.empty(0, np.int64)

    def documents(self) -> Iterator[np.ndarray]:
        """The ids of each document in turn, without the end tokens."""
        for part in self._parts:
            ends = np.flatnonzero(part == self.end)
            for before, after in itertools.pairwise(ends):
                yield part[before + 1 : after].astype(np.int64)

    def counts(self, vocabulary: int) -> np.ndarray:
        """How often each id stands there [vocabulary]."""
        blocks = (part[start : start + 2**20] for part in self._parts for start in range(0, len(part), 2**20))
        return sum((np.bincount(block, minlength=vocabulary) for block in blocks), np.zeros(vocabulary, dtype=np.int64))

    def spans(self) -> np.ndarray:
        """Where each document begins and where it ends, its end token included, int64 [documents, 2]."""
        spans = []
        for start, part in zip(self._starts, self._parts, strict=False):
            ends = start + np.flatnonzero(part == self.end)
            spans.append(np.stack([ends[:-1] + 1, ends[1:] + 1], axis=1))
        return np.concatenate(spans)

    def verify(self) -> None:
        """Read everything and compare with the digests. Raises UserError naming the damaged file."""
        for path, header, part in zip(self._paths, self._headers, self._parts, strict=True):
            if hashlib.sha256(part.data).hexdigest() != header["sha256"]:
                raise UserError("{path} is damaged: its digest is wrong. Delete it and prepare again.", path=path)


def _read_header(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        head = file.read(HEADER_BYTES)
    header = _parse_header(head)
    if header is None:
        raise UserError("{path} is not a file of packed tokens. Prepare the data again.", path=path)
    expected = HEADER_BYTES + header["tokens"] * np.dtype(header["dtype"]).itemsize
    if path.stat().st_size != expected:
        raise UserError(
            "{path} is damaged: it has {actual} bytes where {expected} were written. Delete it and prepare again.",
            path=path,
            actual=path.stat().st_size,
            expected=expected,
        )
    return header


def _parse_header(head: bytes) -> dict[str, Any] | None:
    """What the first bytes of a file say of it; None if they are not what TokenWriter writes."""
    try:
        header = json.loads(head.removeprefix(MAGIC)) if head.startswith(MAGIC) else {}
    except ValueError:
        return None
    # A foreign dtype, such as numpy's "object", would make of the ids whatever the file wants.
    whole = isinstance(header, dict) and {name: type(value) for name, value in header.items()} == HEADER_FIELDS
    return header if whole and header["dtype"] in ("uint16", "uint32") and header["tokens"] > 0 else None


def _map_ids(path: Path, header: dict[str, Any]) -> np.ndarray:
    dtype = np.dtype(header["dtype"]).newbyteorder("<")
    return np.memmap(path, dtype=dtype, mode="r", offset=HEADER_BYTES, shape=(header["tokens"],))
