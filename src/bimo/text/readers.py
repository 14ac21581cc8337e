"""Files -> documents, whatever their format and encoding; what cannot be read is refused with place and reason."""

from __future__ import annotations

import io
import itertools
import json
from collections.abc import Callable, Iterable, Iterator
from operator import itemgetter
from typing import Any

from bimo.runtime import UserError, t
from bimo.text.documents import Document, Rejected
from bimo.text.encodings import SAMPLE_BYTES
from bimo.text.json_values import LINES, values_of
from bimo.text.opening import FIRST_ROWS, OpenFile, Reading, peek
from bimo.text.pages import read_html, read_pdf
from bimo.text.passages import LONGEST_TARGET
from bimo.text.rows import fits, open_table, parquet_rows
from bimo.text.sources import SourceFile
from bimo.text.tables import Columns, choose_columns, objects_in, row_text, texts_in

__all__ = ["ENDINGS", "READ_APART", "SEPARATOR", "is_running", "open_lines", "read_file"]

SEPARATOR = "<|endoftext|>"


def read_file(file: SourceFile, reading: Reading) -> Iterator[Document]:
    """Yields the documents of one file. What it refuses goes to `reading.refuse`; never raises for bad content."""
    reading.position = 0
    read = _reader_of(file)
    if read is None:
        detail = t("the ending {ending!r} is not one of {known}", ending=file.ending, known=" ".join(ENDINGS))
        reading.refuse(Rejected(file.name, 0, "unknown_format", detail, ""))
        return
    found = False
    source = OpenFile(file, reading)
    with source.refusing():
        for document in read(source):
            found = True
            yield document
    if not found and not source.refused:
        source.refuse(0, "empty", t("no text in it"))


def is_running(file: SourceFile) -> bool:
    """Whether a file is read as running text, whose documents carry lines; of others rows, objects or pages count."""
    return _reader_of(file) is _read_text


def _reader_of(file: SourceFile) -> Callable[[OpenFile], Iterator[Document]] | None:
    return _READERS.get(file.ending) or (_read_text if file.chosen else None)


def _read_text(source: OpenFile) -> Iterator[Document]:
    lines = source.lines()
    first, lines = peek(lines, size=lambda pair: len(pair[1]) + 1, rows=SAMPLE_BYTES, characters=SAMPLE_BYTES)
    divided = any(SEPARATOR in line for _, line in first)
    target = LONGEST_TARGET if divided else source.reading.passage_characters
    for _, part in itertools.groupby(_parts(lines), key=itemgetter(0)):
        yield from source.passages((pair for _, pair in part), target)


def _parts(lines: Iterable[tuple[int, str]]) -> Iterator[tuple[int, tuple[int, str]]]:
    """(number of the document, (number of the line, line)): SEPARATOR ends a document, even inside a line."""
    part = 0
    for number, line in lines:
        if SEPARATOR in line:
            for count, piece in enumerate(line.split(SEPARATOR)):
                part += count > 0
                yield part, (number, piece)
        else:
            yield part, (number, line)


def open_lines(file: SourceFile, reading: Reading) -> Iterator[tuple[int, str]]:
    """(number, line) of a file of text, packed or not, whatever its encoding; what cannot be read is refused."""
    source = OpenFile(file, reading)
    with source.refusing():
        yield from source.lines()


def _read_json(source: OpenFile) -> Iterator[Document]:
    first, values = peek(values_of(source), size=lambda pair: len(str(pair[1])))
    objects = [found for _, value in first for found in itertools.islice(objects_in(value), 10 * FIRST_ROWS)]
    columns = _choose(source, objects) if objects else ()
    if columns is None:
        return
    used: set[tuple[str, ...]] = set()
    for number, value in values:
        found = False
        for text, group, about in texts_in(value, columns, about=source.reading.controls):
            found = True
            if group and group not in used:
                used.add(group)
                source.reading.columns["+".join(group)] += 1
            yield from source.documents(text, number, source.tags(about))
        if not found:
            source.refuse(number, "no_text", t("no text in this object"), json.dumps(value, ensure_ascii=False))


def _choose(source: OpenFile, rows: list[dict[str, Any]]) -> Columns | None:
    """The columns that hold text; None, and the file refused, when it has none of the name that was asked for."""
    try:
        return choose_columns(rows, source.reading.text_column, source=source.name)
    except UserError as error:
        source.refuse(0, "no_column", str(error))
        return None


def _columns(source: OpenFile, rows: list[dict[str, Any]]) -> Columns | None:
    columns = _choose(source, rows)
    if columns:
        source.reading.columns["+".join(columns[0])] += 1
    return columns


def _read_csv(source: OpenFile) -> Iterator[Document]:
    table = open_table(source)
    if table is None:
        return
    layout, rows = table
    first, rows = peek(rows, size=lambda row: sum(map(len, row[1])))
    columns = _columns(source, [dict(zip(layout.names, row, strict=False)) for _, row in first])
    if columns is None:
        return
    for number, row in rows:
        if fits(source, number, row, layout):
            cells = dict(zip(layout.names, row, strict=False))
            text, _ = row_text(cells, columns)
            if text:
                yield from source.documents(text, number, source.tags(cells))
            else:
                source.refuse(number, "no_text", t("no text in this row"), layout.delimiter.join(row))


def _read_parquet(source: OpenFile) -> Iterator[Document]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    data = source.whole() if source.packed else None
    if source.packed and data is None:
        return
    try:
        with pq.ParquetFile(io.BytesIO(data) if data is not None else source.path) as file:
            if data is None:
                source.reading.bytes_read += source.path.stat().st_size
            rows = parquet_rows(file, None)
            first = list(itertools.islice(rows, FIRST_ROWS))
            columns = _columns(source, first)
            if columns is None:
                return
            wanted = [*(name for group in columns for name in group), *source.reading.controls]
            names = [name for name in dict.fromkeys(wanted) if name in file.schema_arrow.names]
            for number, row in enumerate(parquet_rows(file, names), 1):
                text, _ = row_text(row, columns)
                if text:
                    yield from source.documents(text, number, source.tags(row))
                else:
                    source.refuse(number, "no_text", t("no text in this row"))
    except pa.ArrowException as error:
        source.refuse(0, "unreadable", t("broken Parquet: {error}", error=error))


_READERS: dict[str, Callable[[OpenFile], Iterator[Document]]] = {
    **dict.fromkeys((".txt", ".text", ".md", ".markdown", ".rst"), _read_text),
    **dict.fromkeys((*LINES, ".json"), _read_json),
    **dict.fromkeys((".csv", ".tsv", ".tab"), _read_csv),
    **dict.fromkeys((".parquet", ".pq"), _read_parquet),
    **dict.fromkeys((".html", ".htm", ".xhtml"), read_html),
    ".pdf": read_pdf,
}
ENDINGS = tuple(_READERS)
"""Endings that are read, each also with .gz or .zst behind it."""

READ_APART = (".html", ".htm", ".xhtml", ".pdf")
"""Endings of formats that take longer to read than to clean."""
