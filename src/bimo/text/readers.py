"""Files -> documents, whatever their format and encoding; what cannot be read is refused with place and reason."""

from __future__ import annotations

import csv
import io
import itertools
import json
import re
from collections.abc import Callable, Iterable, Iterator
from operator import itemgetter
from pathlib import Path
from typing import Any

from bimo.runtime import DATA_REFUSED, USAGE, UserError, t
from bimo.text.documents import Document, Rejected
from bimo.text.encodings import LONGEST_LINE, SAMPLE_BYTES
from bimo.text.opening import WHOLE_FILE_BYTES, OpenFile, Reading
from bimo.text.pages import read_html, read_pdf
from bimo.text.passages import LONGEST_TARGET
from bimo.text.sources import SourceFile
from bimo.text.tables import Columns, Layout, choose_columns, find_layout, mend_row, objects_in, row_text, texts_in

__all__ = [
    "ENDINGS",
    "READ_APART",
    "SEPARATOR",
    "ending_of",
    "holds_json",
    "json_values",
    "open_lines",
    "read_file",
    "read_rows",
]

SEPARATOR = "<|endoftext|>"
_PACKED = (".gz", ".zst")
_LINES = (".jsonl", ".ndjson")
_FIRST_ROWS = 100
_FIRST_CHARACTERS = 1 << 22
_HALF = re.compile("[\ud800-\udfff]")
_JSON_GAP = (re.compile(r"\s*"), re.compile(r"[\s,]*"))


def ending_of(file: SourceFile) -> str:
    """What says the format: `.html` of `page.html` and of `page.html.gz`."""
    outer = file.path.suffix.lower()
    return Path(file.path.stem).suffix.lower() if outer in _PACKED else outer


def read_file(file: SourceFile, reading: Reading) -> Iterator[Document]:
    """Yields the documents of one file. What it refuses goes to `reading.refuse`; never raises for bad content."""
    reading.position = 0
    packed = file.path.suffix.lower() if file.path.suffix.lower() in _PACKED else ""
    ending = ending_of(file)
    read = _READERS.get(ending) or (_read_text if file.chosen else None)
    if read is None:
        detail = t("the ending {ending!r} is not one of {known}", ending=ending, known=" ".join(ENDINGS))
        reading.refuse(Rejected(file.name, 0, "unknown_format", detail, ""))
        return
    found = False
    source = OpenFile(file, reading, packed=packed, ending=ending)
    try:
        for document in read(source):
            found = True
            yield document
    except (OSError, ValueError, RecursionError) as error:
        source.refuse(0, "unreadable", getattr(error, "strerror", None) or str(error) or type(error).__name__)
    if not found and not source.refused:
        source.refuse(0, "empty", t("no text in it"))


def _read_text(source: OpenFile) -> Iterator[Document]:
    lines = source.lines()
    first, lines = _peek(lines, size=lambda pair: len(pair[1]) + 1, rows=SAMPLE_BYTES, characters=SAMPLE_BYTES)
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


def _peek(
    items: Iterator[Any], *, size: Callable[[Any], int], rows: int = _FIRST_ROWS, characters: int = _FIRST_CHARACTERS
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


def open_lines(file: SourceFile, reading: Reading) -> Iterator[tuple[int, str]]:
    """(number, line) of a file of text, packed or not, whatever its encoding; what cannot be read is refused."""
    packed = file.path.suffix.lower() if file.path.suffix.lower() in _PACKED else ""
    source = OpenFile(file, reading, packed=packed, ending=ending_of(file))
    try:
        yield from source.lines()
    except (OSError, ValueError) as error:
        source.refuse(0, "unreadable", getattr(error, "strerror", None) or str(error) or type(error).__name__)


def _read_json_lines(source: OpenFile) -> Iterator[Document]:
    yield from _read_values(source, _parse_lines(source, source.lines()))


def _parse_lines(source: OpenFile, lines: Iterable[tuple[int, str]]) -> Iterator[tuple[int, Any]]:
    for number, line in lines:
        if line and not line.isspace():
            try:
                yield number, json.loads(line)
            except (ValueError, RecursionError) as error:
                source.refuse(number, "bad_row", t("not valid JSON: {error}", error=error), line)


def holds_json(path: Path) -> bool:
    """Whether `json_values` reads files of such a name."""
    inner = path.with_suffix("") if path.suffix.lower() in _PACKED else path
    return inner.suffix.lower() in (*_LINES, ".json")


def json_values(path: Path, refuse: Callable[[Rejected], None]) -> Iterator[tuple[int, Any]]:
    """(number, value) for the lines of a .jsonl file or the items of a .json file, packed or not.

    What cannot be read goes to `refuse`. Raises UserError when there is no such file, never for bad content.
    """
    if not path.is_file():
        raise UserError("There is no file {path}. Check how it is written.", code=USAGE, path=path)
    if not holds_json(path):
        raise UserError(
            "{path} is neither JSON nor JSON Lines: Bimo reads such files from {known}, also packed with gz or zst.",
            code=DATA_REFUSED,
            path=path,
            known=", ".join((*_LINES, ".json")),
        )
    file = SourceFile(path, path.name, path.stat().st_size, chosen=True)
    packed = path.suffix.lower() if path.suffix.lower() in _PACKED else ""
    source = OpenFile(file, Reading(refuse), packed=packed, ending=ending_of(file))
    try:
        yield from _parse_lines(source, source.lines()) if source.ending in _LINES else _json_values(source)
    except (OSError, ValueError, RecursionError) as error:
        source.refuse(0, "unreadable", getattr(error, "strerror", None) or str(error) or type(error).__name__)


def _read_json(source: OpenFile) -> Iterator[Document]:
    yield from _read_values(source, _json_values(source))


def _json_values(source: OpenFile) -> Iterator[tuple[int, Any]]:
    """(number, value) for the items of a list, one after the other and never all, or for values that follow each other.

    After an item that is not valid nothing tells where the next one starts, so the rest is refused with it.
    """
    decoder, blocks = json.JSONDecoder(), source.characters()
    text, place, number, ended = "", 0, 1, False
    listed: bool | None = None
    while True:
        gap = _JSON_GAP[bool(listed)].match(text, place)
        assert gap is not None  # an empty gap matches as well
        place = gap.end()
        if listed is None and place < len(text):
            listed = text[place] == "["
            place += listed
            continue
        if listed and text[place : place + 1] == "]":
            return
        value, end, problem = _json_value(decoder, text, place)
        if problem is None and (ended or end < len(text)):  # else a number might go on in the next block
            yield number, value
            number, place = number + 1, end
        elif not ended and len(text) - place > WHOLE_FILE_BYTES:
            source.refuse_size(number)
            return
        elif not ended:
            text, place = text[place:], 0
            ended = True
            for block in blocks:
                text += block
                if len(text) >= 2 * (len(text) - len(block)) or len(text) > WHOLE_FILE_BYTES:
                    ended = False
                    break
        else:
            if listed or place < len(text):
                source.refuse(number, "bad_row", t("not valid JSON: {error}", error=problem), text[place:])
            return


def _json_value(decoder: json.JSONDecoder, text: str, place: int) -> tuple[Any, int, str | None]:
    """(value, where it ends, None), or what is wrong with it."""
    try:
        return *decoder.raw_decode(text, place), None
    except (ValueError, RecursionError) as error:
        return None, place, getattr(error, "msg", str(error))


def _read_values(source: OpenFile, values: Iterator[tuple[int, Any]]) -> Iterator[Document]:
    """JSON values -> documents. In a .json file the number counts objects, as lines mean nothing there."""
    first, values = _peek(values, size=lambda pair: len(str(pair[1])))
    objects = [found for _, value in first for found in itertools.islice(objects_in(value), 10 * _FIRST_ROWS)]
    columns = choose_columns(objects, source.reading.text_column, source=source.name) if objects else ()
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


def _columns(source: OpenFile, rows: list[dict[str, Any]]) -> Columns:
    columns = choose_columns(rows, source.reading.text_column, source=source.name)
    if columns:
        source.reading.columns["+".join(columns[0])] += 1
    return columns


def _read_csv(source: OpenFile) -> Iterator[Document]:
    table = _open_table(source)
    if table is None:
        return
    layout, rows = table
    first, rows = _peek(rows, size=lambda row: sum(map(len, row[1])))
    columns = _columns(source, [dict(zip(layout.names, row, strict=False)) for _, row in first])
    for number, row in rows:
        if _fits(source, number, row, layout):
            cells = dict(zip(layout.names, row, strict=False))
            text, _ = row_text(cells, columns[:1])
            if text:
                yield from source.documents(text, number, source.tags(cells))
            else:
                source.refuse(number, "no_text", t("no text in this row"), layout.delimiter.join(row))


def _open_table(source: OpenFile) -> tuple[Layout, Iterator[tuple[int, list[str]]]] | None:
    """How a delimited file is written, and its rows below the header; None if there is nothing in it."""
    lines = source.lines()
    first, lines = _peek(lines, size=lambda pair: len(pair[1]))
    if not any(line.strip() for _, line in first):
        return None
    layout = find_layout([line for _, line in first], tabs=source.ending != ".csv")
    rows = _csv_rows(source, lines, layout)
    if layout.header:
        next(rows, None)
    return layout, rows


def _fits(source: OpenFile, number: int, row: list[str], layout: Layout) -> bool:
    """Whether a row has no more cells than there are columns; it is refused if it has."""
    if any(cell.strip() for cell in row[len(layout.names) :]):
        detail = t("{found} columns instead of {expected}", found=len(row), expected=len(layout.names))
        source.refuse(number, "bad_row", detail, layout.delimiter.join(row))
        return False
    return True


def _csv_rows(source: OpenFile, lines: Iterable[tuple[int, str]], layout: Layout) -> Iterator[tuple[int, list[str]]]:
    """(number of its first line, cells) for each row; lines that csv cannot parse are mended one by one or refused."""
    csv.field_size_limit(LONGEST_LINE)
    taken: list[tuple[int, str]] = []

    def take() -> Iterator[str]:
        for number, line in lines:
            taken.append((number, line))
            yield line + "\n"

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
            for number, line in taken:
                mended = mend_row(line, layout)
                if mended:
                    yield number, mended
                else:
                    source.refuse(number, "bad_row", str(error), line)


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
            rows = _parquet_rows(file, None)
            first = list(itertools.islice(rows, _FIRST_ROWS))
            columns = _columns(source, first)
            wanted = [*(name for group in columns for name in group), *source.reading.controls]
            names = [name for name in dict.fromkeys(wanted) if name in file.schema_arrow.names]
            for number, row in enumerate(_parquet_rows(file, names), 1):
                text, _ = row_text(row, columns)
                if text:
                    yield from source.documents(text, number, source.tags(row))
                else:
                    source.refuse(number, "no_text", t("no text in this row"))
    except pa.ArrowException as error:
        source.refuse(0, "unreadable", t("broken Parquet: {error}", error=error))


def _parquet_rows(file: Any, names: list[str] | None) -> Iterator[dict[str, Any]]:
    for batch in file.iter_batches(batch_size=_FIRST_ROWS, columns=names):
        yield from batch.to_pylist()


def read_rows(file: SourceFile, reading: Reading) -> Iterator[tuple[int, dict[str, Any]]]:
    """(number, cells by column) of each row of a table: delimited text, JSON, JSON lines or Parquet.

    Columns without names are called "1", "2", ... What cannot be read goes to `reading.refuse`, as in `read_file`.
    """
    packed = file.path.suffix.lower() if file.path.suffix.lower() in _PACKED else ""
    source = OpenFile(file, reading, packed=packed, ending=ending_of(file))
    read = _ROWS.get(source.ending, _delimited_rows)
    try:
        yield from read(source)
    except (OSError, ValueError, RecursionError) as error:
        source.refuse(0, "unreadable", getattr(error, "strerror", None) or str(error) or type(error).__name__)


def _delimited_rows(source: OpenFile) -> Iterator[tuple[int, dict[str, Any]]]:
    table = _open_table(source)
    if table is not None:
        layout, rows = table
        yield from (
            (number, dict(zip(layout.names, row, strict=False)))
            for number, row in rows
            if _fits(source, number, row, layout)
        )


def _json_rows(source: OpenFile) -> Iterator[tuple[int, dict[str, Any]]]:
    values = _json_values(source) if source.ending == ".json" else _parse_lines(source, source.lines())
    for number, value in values:
        try:
            value = _without_halves(value)
        except RecursionError:
            source.refuse(number, "bad_row", t("it is nested without end"))
            continue
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
    return _HALF.sub("", value) if isinstance(value, str) else value


def _stored_rows(source: OpenFile) -> Iterator[tuple[int, dict[str, Any]]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    data = source.whole() if source.packed else source.path
    if data is None:
        return
    try:
        with pq.ParquetFile(io.BytesIO(data) if isinstance(data, bytes) else data) as file:
            yield from enumerate(_parquet_rows(file, None), 1)
    except pa.ArrowException as error:
        source.refuse(0, "unreadable", t("broken Parquet: {error}", error=error))


_ROWS: dict[str, Callable[[OpenFile], Iterator[tuple[int, dict[str, Any]]]]] = {
    **dict.fromkeys((".json", ".jsonl", ".ndjson"), _json_rows),
    **dict.fromkeys((".parquet", ".pq"), _stored_rows),
}

_READERS: dict[str, Callable[[OpenFile], Iterator[Document]]] = {
    **dict.fromkeys((".txt", ".text", ".md", ".markdown", ".rst"), _read_text),
    **dict.fromkeys(_LINES, _read_json_lines),
    ".json": _read_json,
    **dict.fromkeys((".csv", ".tsv", ".tab"), _read_csv),
    **dict.fromkeys((".parquet", ".pq"), _read_parquet),
    **dict.fromkeys((".html", ".htm", ".xhtml"), read_html),
    ".pdf": read_pdf,
}
ENDINGS = tuple(_READERS)
"""Endings that are read, each also with .gz or .zst behind it."""

READ_APART = (".html", ".htm", ".xhtml", ".pdf")
"""Endings of formats that take longer to read than to clean."""
