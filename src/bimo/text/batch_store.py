"""Cleaned batches on disk, each whole or absent: what a stopped run finished is there when it goes on."""

from __future__ import annotations

import functools
import json
import os
import shutil
from pathlib import Path
from types import TracebackType
from typing import Any

from bimo.files import replacing
from bimo.runtime import INTERRUPTED, UserError
from bimo.text.documents import Document, Piece, Rejected

__all__ = ["CleanedBatches"]

_TABLES_OPEN = 64


class CleanedBatches:
    """A folder of batches under a key. `with CleanedBatches(folder, key) as batches:`

    Batches of another key, or of no key, are removed at the start. All are removed at the end, unless the block was
    interrupted: then those of a key stay for the next run with it.
    """

    def __init__(self, folder: Path, key: str) -> None:
        self.folder, self.key = folder, key
        named = folder / "key"
        if not key or not named.is_file() or named.read_text(encoding="utf-8") != key:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            with replacing(named) as part:
                part.write_text(key, encoding="utf-8")
        self._table = functools.lru_cache(_TABLES_OPEN)(self._open)

    def __enter__(self) -> CleanedBatches:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._table.cache_clear()
        resumable = isinstance(error, UserError) and error.code == INTERRUPTED
        if not self.key or error is None or (isinstance(error, UserError) and not resumable):
            shutil.rmtree(self.folder, ignore_errors=True)

    def _path(self, number: int) -> Path:
        return self.folder / f"batch-{number:07d}.arrow"

    def has(self, number: int) -> bool:
        """Whether this batch was finished before."""
        return self._path(number).is_file()

    def put(self, number: int, data: bytes) -> None:
        """Keep a batch as clean_batch packed it."""
        with replacing(self._path(number)) as part:
            part.write_bytes(data)

    def adopt(self, number: int, path: Path) -> None:
        """Take a batch that was written elsewhere into the folder, unless it is there."""
        if not self.has(number):
            os.replace(path, self._path(number))

    def _open(self, number: int) -> Any:
        """The table, mapped: what is not looked at is not read."""
        import pyarrow as pa

        with pa.memory_map(str(self._path(number))) as file:
            return pa.ipc.open_file(file).read_all()

    def facts(self, number: int) -> dict[str, Any]:
        """What clean_batch counted."""
        # Not kept open: while batches come in, pages of all of them would stay in memory.
        facts: dict[str, Any] = json.loads(self._open(number).schema.metadata[b"facts"])
        return facts

    def column(self, number: int, name: str) -> list[Any]:
        """A column of a batch, as clean_batch names it."""
        values: list[Any] = self._table(number).column(name).to_pylist()
        return values

    def pieces(self, number: int) -> list[Piece]:
        """All pieces of a batch, in order."""
        columns = (
            self.column(number, name) for name in ("text", "source", "line", "language", "reason", "detail", "tags")
        )
        return [_piece(*values) for values in zip(*columns, strict=True)]

    def document(self, number: int, row: int) -> Document:
        """One document of a batch; the others are not touched."""
        table = self._table(number)
        names = ("text", "source", "line", "language", "tags")
        return Document(*(table.column(name)[row].as_py() for name in names))


def _piece(text: str, source: str, line: int, language: str, reason: str, detail: str, tags: str) -> Piece:
    return Rejected(source, line, reason, detail, text) if reason else Document(text, source, line, language, tags)
