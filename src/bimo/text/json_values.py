"""JSON and JSON lines -> their values, one after the other and never all; what cannot be read is refused."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from bimo.runtime import DATA_REFUSED, USAGE, UserError, t
from bimo.text.documents import Rejected
from bimo.text.opening import WHOLE_FILE_BYTES, OpenFile, Reading
from bimo.text.sources import PACKED, SourceFile

__all__ = ["LINES", "holds_json", "json_values", "values_of"]

LINES = (".jsonl", ".ndjson")
"""Endings of files with a value a line."""

_DEEPEST = 200
"""Objects and lists inside each other; what is read may be walked by functions that call themselves."""

_GAP = (re.compile(r"\s*"), re.compile(r"[\s,]*"))


def holds_json(path: Path) -> bool:
    """Whether `json_values` reads files of such a name."""
    inner = path.with_suffix("") if path.suffix.lower() in PACKED else path
    return inner.suffix.lower() in (*LINES, ".json")


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
            known=", ".join((*LINES, ".json")),
        )
    source = OpenFile(SourceFile(path, path.name, path.stat().st_size, chosen=True), Reading(refuse))
    with source.refusing():
        yield from values_of(source)


def values_of(source: OpenFile) -> Iterator[tuple[int, Any]]:
    """As json_values, of a file that is read already; of .json the number counts items, as lines mean nothing there."""
    for number, value, written in _lines(source) if source.ending in LINES else _items(source):
        if _is_deep(value, written):
            source.refuse(number, "bad_row", t("it is nested without end"), written)
        else:
            yield number, value


def _lines(source: OpenFile) -> Iterator[tuple[int, Any, str]]:
    """(number, value, as it is written)"""
    for number, line in source.lines():
        if line and not line.isspace():
            try:
                value = json.loads(line)
            except (ValueError, RecursionError) as error:
                source.refuse(number, "bad_row", t("not valid JSON: {error}", error=error), line)
                continue
            yield number, value, line


def _items(source: OpenFile) -> Iterator[tuple[int, Any, str]]:
    """(number, value, as it is written) for the items of a list, never all, or for values that follow each other.

    After an item that is not valid nothing tells where the next one starts, so the rest is refused with it.
    """
    decoder, blocks = json.JSONDecoder(), source.characters()
    text, place, number, ended = "", 0, 1, False
    listed: bool | None = None
    while True:
        gap = _GAP[bool(listed)].match(text, place)
        assert gap is not None  # an empty gap matches as well
        place = gap.end()
        if listed is None and place < len(text):
            listed = text[place] == "["
            place += listed
            continue
        if listed and text[place : place + 1] == "]":
            return
        value, end, problem = _item(decoder, text, place)
        if problem is None and (ended or end < len(text)):  # else a number might go on in the next block
            yield number, value, text[place:end]
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


def _is_deep(value: Any, written: str) -> bool:
    """Whether a value has more than _DEEPEST levels; how it was `written` mostly shows that it cannot."""
    if written.count("{") + written.count("[") <= _DEEPEST:
        return False
    levels, level = 0, [value]
    while level and levels <= _DEEPEST:
        inner = (each.values() if isinstance(each, dict) else each for each in level if isinstance(each, dict | list))
        levels, level = levels + 1, list(itertools.chain.from_iterable(inner))
    return levels > _DEEPEST


def _item(decoder: json.JSONDecoder, text: str, place: int) -> tuple[Any, int, str | None]:
    """(value, where it ends, None), or what is wrong with it."""
    try:
        return *decoder.raw_decode(text, place), None
    except (ValueError, RecursionError) as error:
        return None, place, getattr(error, "msg", str(error))
