"""Files -> rows of tables: delimited text, JSON, JSON lines or Parquet; what cannot be read is refused."""

from __future__ import annotations

import csv
import io
import json
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any

from bimo.runtime import t, whole_text
from bimo.text.encodings import LONGEST_LINE
from bimo.text.json_values import LINES, values_of
from bimo.text.opening import FIRST_ROWS, OpenFile, Reading, peek
from bimo.text.sources import SourceFile
from bimo.text.tables import Layout, find_layout, mend_row

__all__ = ["fits", "layout_of", "open_table", "parquet_rows", "read_rows"]


def read_rows(file: SourceFile, reading: Reading) -> Iterator[tuple[int, dict[str, Any]]]:
    """(number, cells by column) of each row of a table: delimited text, JSON, JSON lines or Parquet.

    Columns without names are called "1", "2", ... What cannot be read goes to `reading.refuse`, as in `read_file`.
    """
    source = OpenFile(file, reading)
    read = _ROWS.get(source.ending, _delimited_rows)
    with source.refusing():
        yield from read(source)


def layout_of(file: SourceFile, *, named: Collection[str] = ()) -> Layout | None:
    """How the rows that `read_rows` gives are written, where they are delimited text; what it refuses is not told."""
    source = OpenFile(file, Reading(lambda rejected: None, named=named))
    table = None
    with source.refusing():
        table = None if source.ending in _ROWS else open_table(source)
    return None if table is None else table[0]


def _delimited_rows(source: OpenFile) -> Iterator[tuple[int, dict[str, Any]]]:
    table = open_table(source)
    if table is not None:
        layout, rows = table
        yield from (
            (number, dict(zip(layout.names, row, strict=False)))
            for number, row in rows
            if fits(source, number, row, layout)
        )


def _json_rows(source: OpenFile) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, value in values_of(source):
        value = _without_halves(value)
        if isinstance(value, dict):
            yield number, value
        else:
            source.refuse(number, "bad_row", t("not an object with names"), json.dumps(value, ensure_ascii=False))


def _without_halves(value: Any) -> Any:
    """A JSON value without lone surrogates, which its escapes can spell, but no text holds and no file can take."""
    if isinstance(value, dict):
        return {_without_halves(name): _without_halves(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_without_halves(inner) for inner in value]
    return whole_text(value) if isinstance(value, str) else value


def _stored_rows(source: OpenFile) -> Iterator[tuple[int, dict[str, Any]]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    data = source.whole() if source.packed else source.path
    if data is None:
        return
    try:
        with pq.ParquetFile(io.BytesIO(data) if isinstance(data, bytes) else data) as file:
            yield from enumerate(parquet_rows(file, None), 1)
    except pa.ArrowException as error:
        source.refuse(0, "unreadable", t("broken Parquet: {error}", error=error))


def parquet_rows(file: Any, names: list[str] | None) -> Iterator[dict[str, Any]]:
    """The rows of an open ParquetFile, some at a time; of the columns `names` alone, where they are given."""
    for batch in file.iter_batches(batch_size=FIRST_ROWS, columns=names):
        yield from batch.to_pylist()


def open_table(source: OpenFile) -> tuple[Layout, Iterator[tuple[int, list[str]]]] | None:
    """How a delimited file is written, and its rows below the header; None if there is nothing in it."""
    lines = source.lines()
    first, lines = peek(lines, size=lambda pair: len(pair[1]))
    if not any(line.strip() for _, line in first):
        return None
    reading = source.reading
    named = {*reading.named, *reading.controls, reading.text_column or ""}
    layout = find_layout([line for _, line in first], tabs=source.ending != ".csv", named=named)
    rows = _csv_rows(source, lines, layout)
    if layout.header:
        next(rows, None)
    return layout, rows


def fits(source: OpenFile, number: int, row: list[str], layout: Layout) -> bool:
    """Whether a row has no more cells than there are columns; it is refused if it has."""
    if any(cell.strip() for cell in row[len(layout.names) :]):
        detail = t("{found} columns instead of {expected}", found=len(row), expected=len(layout.names))
        source.refuse(number, "bad_row", detail, layout.delimiter.join(row))
        return False
    return True


def _csv_rows(source: OpenFile, lines: Iterable[tuple[int, str]], layout: Layout) -> Iterator[tuple[int, list[str]]]:
    """(number of its first line, cells) for each row. Where csv cannot parse, a line is mended or refused by itself,
    and those that were taken for the rest of its row are read anew.
    """
    csv.field_size_limit(LONGEST_LINE)
    taken: list[tuple[int, str]] = []
    again: deque[tuple[int, str]] = deque()
    lines = iter(lines)

    def take() -> Iterator[str]:
        while pair := again.popleft() if again else next(lines, None):
            taken.append(pair)
            yield pair[1] + "\n"

    reader = csv.reader(take(), **layout.csv_options)
    while True:
        taken.clear()
        try:
            row = next(reader)
            if row:
                yield taken[0][0], row
        except StopIteration:
            return
        except csv.Error as error:
            (number, line), *others = taken
            again.extendleft(reversed(others))
            reader = csv.reader(take(), **layout.csv_options)
            mended = mend_row(line, layout)
            if mended:
                yield number, mended
            else:
                source.refuse(number, "bad_row", str(error), line)


_ROWS: dict[str, Callable[[OpenFile], Iterator[tuple[int, dict[str, Any]]]]] = {
    **dict.fromkeys((".json", *LINES), _json_rows),
    **dict.fromkeys((".parquet", ".pq"), _stored_rows),
}
