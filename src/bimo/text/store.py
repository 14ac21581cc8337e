"""Documents on disk: Parquet shards, written and read in row groups so that memory stays small."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from bimo.files import replacing
from bimo.runtime import UserError
from bimo.text.documents import Document, Rejected

__all__ = ["DocumentWriter", "read_rejected", "read_stored"]

Row = TypeVar("Row", Document, Rejected)
_GROUP_CHARACTERS = 4_000_000
_GROUP_ROWS = 50_000
_READ_ROWS = 1024


def _schema(kind: type) -> Any:
    import pyarrow as pa

    kinds = {str: pa.string(), int: pa.int64()}
    hints = typing.get_type_hints(kind)
    return pa.schema([(field.name, kinds[hints[field.name]]) for field in dataclasses.fields(kind)])


class DocumentWriter:
    """Writes rows of the dataclass `kind` to `folder/name-00000.parquet` and on; at least one file, maybe empty.

    When the block ends with an error, the file in work is not left behind.
    """

    def __init__(self, folder: Path, name: str, *, kind: type = Document, rows_per_file: int = 1_000_000) -> None:
        self._folder, self._name, self._rows_per_file = folder, name, rows_per_file
        self._schema = _schema(kind)
        self._names = self._schema.names
        self._rows: list[Any] = []
        self._characters = self._files = self._in_file = 0
        self._open: ExitStack | None = None
        self._file: Any = None

    def __enter__(self) -> DocumentWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self._flush()
            if self._open is None and self._files == 0:
                self._start_file()
        if self._open is not None:
            self._open.__exit__(kind, error, trace)

    def write(self, row: Document | Rejected) -> None:
        """Add one row."""
        self._rows.append(row)
        self._characters += len(row.text)
        full = self._in_file + len(self._rows) >= self._rows_per_file
        if full or self._characters >= _GROUP_CHARACTERS or len(self._rows) >= _GROUP_ROWS:
            self._flush()

    def _flush(self) -> None:
        import pyarrow as pa

        if not self._rows:
            return
        if self._open is None:
            self._start_file()
        columns = {name: [getattr(row, name) for row in self._rows] for name in self._names}
        self._file.write_table(pa.table(columns, schema=self._schema))
        self._in_file += len(self._rows)
        self._rows, self._characters = [], 0
        if self._in_file >= self._rows_per_file and self._open is not None:
            self._open.close()
            self._open = None

    def _start_file(self) -> None:
        import pyarrow.parquet as pq

        self._open = ExitStack()
        part = self._open.enter_context(replacing(self._folder / f"{self._name}-{self._files:05d}.parquet"))
        self._file = self._open.enter_context(pq.ParquetWriter(part, self._schema, compression="zstd"))
        self._files += 1
        self._in_file = 0


def _shards(folder: Path, name: str) -> list[Path]:
    return sorted(folder.glob(f"{name}-[0-9][0-9][0-9][0-9][0-9].parquet"))


def read_stored(folder: Path, name: str) -> Iterator[Document]:
    """Yields stored documents in order, a few at a time. Raises UserError when there is no such file."""
    return _rows(folder, name, Document)


def read_rejected(folder: Path) -> Iterator[Rejected]:
    """Yields what was set aside, in order. Raises UserError when there is no such file."""
    return _rows(folder, "rejected", Rejected)


def _rows(folder: Path, name: str, kind: type[Row]) -> Iterator[Row]:
    shards = _shards(folder, name)
    if not shards:
        raise UserError("{folder} holds no {name} documents. Prepare the data again.", folder=folder, name=name)
    return _stream(shards, kind)


def _stream(shards: list[Path], kind: type[Row]) -> Iterator[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    fields = [field.name for field in dataclasses.fields(kind)]
    for shard in shards:
        try:
            with pq.ParquetFile(shard) as file:
                names = [name for name in fields if name in file.schema_arrow.names]  # tags came later than the others
                for batch in file.iter_batches(batch_size=_READ_ROWS, columns=names):
                    for values in zip(*(batch.column(name).to_pylist() for name in names), strict=True):
                        yield kind(**dict(zip(names, values, strict=True)))
        except (pa.ArrowException, OSError) as error:
            raise UserError("{path} is damaged ({error}). Prepare the data again.", path=shard, error=error) from None
