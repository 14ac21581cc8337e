"""Which column or key of a table holds text, and how to find it in nested JSON and in loosely written CSV."""

from __future__ import annotations

import csv
import difflib
import itertools
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bimo.runtime import DATA_REFUSED, USAGE, UserError
from bimo.text.language import script_of

__all__ = [
    "LABEL_KEYS",
    "LANGUAGES",
    "ONE_COLUMN",
    "PAIR_KEYS",
    "SCORE_KEYS",
    "TEXT_KEYS",
    "Layout",
    "are_codes",
    "choose_columns",
    "find_layout",
    "free_name",
    "mend_row",
    "objects_in",
    "require_known",
    "row_text",
    "texts_in",
    "unknown_column",
]

TEXT_KEYS = (
    *("text", "content", "body", "paragraphs", "para", "article", "passage", "context", "document", "story"),
    *("messages", "conversations", "conversation", "dialogue", "dialog", "turns", "message", "review", "sentence"),
    *("正文", "内容", "文本", "全文", "评论"),
    *("abstract", "description", "desc", "summary", "摘要", "简介"),
)
"""Names of what holds the text, best first."""

ABOUT_KEYS = frozenset(("abstract", "description", "desc", "summary", "摘要", "简介"))
"""Text about what lies inside an object: it is read, and so is what lies inside."""

JOINED_KEYS = (
    ("instruction", "input", "output"),
    ("prompt", "response"),
    ("prompt", "completion"),
    ("prompt", "chosen"),
    ("question", "answer"),
)
"""Names that make one text together."""

ONE_COLUMN = "\x1f"
"""What a table with one column is said to be delimited by: it stands in no text."""

LABEL_KEYS = (
    *("label", "labels", "category", "categories", "class", "intent", "sentiment", "target", "topic", "polarity"),
    *("stars", "rating", "gold_label", "tag", "tags"),
    *("标签", "类别", "分类", "类型", "情感", "意图", "主题", "评分"),
)
"""Names of what holds the label, best first."""

PAIR_KEYS = (
    *(("premise", "hypothesis"), ("sentence1", "sentence2"), ("sentence_1", "sentence_2"), ("text1", "text2")),
    *(("text_a", "text_b"), ("question1", "question2"), ("前提", "假设"), ("句子1", "句子2")),
    *(("文本1", "文本2"), ("问题1", "问题2")),
)
"""Names of two texts that a label or a score is about together."""

SCORE_KEYS = ("score", "similarity", "sim", "label", "gold", "rating", "分数", "得分", "相似度", "标签")
"""Names of how alike two texts are."""

LANGUAGES = {
    **dict.fromkeys(("zh", "zho", "cmn", "chinese", "中文"), "zh"),
    **dict.fromkeys(("en", "eng", "english", "英文"), "en"),
}
"""How people call the languages that a script tells apart, and columns of them."""

_TURN_KEYS = ("content", "value", "message", "text")
_COLUMN_NAMES = frozenset(
    (
        *TEXT_KEYS,
        *LABEL_KEYS,
        *SCORE_KEYS,
        *LANGUAGES,
        *(name for names in (*JOINED_KEYS, *PAIR_KEYS) for name in names),
        *("source", "src", "tgt", "language", "lang", "id", "title", "author", "rejected"),
        *("原文", "译文", "语言", "标题", "作者", "问题", "答案"),
    )
)
"""Two of them in a first row are names of columns, however short what stands below, and so is one among plain words."""

_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)")
_CODE = re.compile(r"[!-~]*[\d_/:#][!-~]*")
_NAMES = re.compile(r"[A-Za-z_][\w .-]{0,39}|[\u4e00-\u9fff]{1,8}")

Columns = tuple[tuple[str, ...], ...]
"""Groups of columns to join, best first: the first group that gives text is the text of a row."""


def choose_columns(rows: Sequence[dict[str, Any]], wanted: str | None, *, source: str) -> Columns:
    """The columns that hold text, judged by their names in `rows`, else the one with the longest strings.

    `wanted` overrides. Raises UserError with a suggestion when no row has it.
    """
    names = list(dict.fromkeys(name for row in rows for name in row))
    if wanted is not None:
        if wanted not in names:
            raise _unknown_text_column(wanted, names, source)
        return ((wanted,),)
    plain: dict[str, str] = {}
    for name in names:
        plain.setdefault(name.strip().lower(), name)
    filled = {key for key, name in plain.items() if any(value_text(row.get(name)) for row in rows)}
    known = [(plain[key],) for key in TEXT_KEYS if key in filled]
    joined = [
        tuple(plain[key] for key in keys if key in plain) for keys in JOINED_KEYS if {keys[0], keys[-1]} <= filled
    ]
    if known or joined:
        return (*known, *joined)
    lengths: Counter[str] = Counter()
    for row in rows:
        lengths.update({name: len(value) for name, value in row.items() if isinstance(value, str)})
    return ((lengths.most_common(1)[0][0],),) if lengths else ()


def _unknown_text_column(wanted: str, names: list[str], source: str) -> UserError:
    close = difflib.get_close_matches(wanted, names, n=1)
    if not close:
        return unknown_column(wanted, names, source)
    sentence = "{source} has no column {wanted}. Did you mean {close}?"
    return UserError(sentence, code=DATA_REFUSED, source=source, wanted=wanted, close=close[0])


def unknown_column(wanted: str, names: Sequence[str], source: str | Path) -> UserError:
    """What to raise for a column that a table does not have."""
    return UserError(
        "{source} has no column {wanted}. It has: {names}.",
        code=DATA_REFUSED,
        source=source,
        wanted=wanted,
        names=", ".join(names[:30]),
    )


def are_codes(cells: Sequence[str]) -> bool:
    """Whether cells number rows or say where they are from, such as doc_12: they have letters, too, but are no text."""
    return all(map(_CODE.fullmatch, cells))


def value_text(value: Any) -> str:
    """A string, a list of strings (one a line) or the turns of a conversation as text; else an empty string."""
    if isinstance(value, str):
        return value
    if not isinstance(value, list | tuple) or not value:
        return ""
    lines = [item if isinstance(item, str) else _turn(item) for item in value]
    return "\n".join(line for line in lines if line) if all(line is not None for line in lines) else ""


def _turn(item: Any) -> str | None:
    if isinstance(item, dict):
        return next((item[key] for key in _TURN_KEYS if isinstance(item.get(key), str)), None)
    return None


def row_text(row: dict[str, Any], columns: Columns) -> tuple[str, tuple[str, ...]]:
    """The text of a row and the columns that it came from; an empty text when it has none."""
    for group in columns:
        parts = [value_text(row.get(name)) for name in group]
        if any(part.strip() for part in parts):
            return "\n".join(part for part in parts if part.strip()), group
    return "", ()


def objects_in(value: Any) -> Iterator[dict[str, Any]]:
    """Every object inside a JSON value, outermost first."""
    if isinstance(value, dict):
        yield value
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    for item in inner:
        if isinstance(item, dict | list):
            yield from objects_in(item)


def texts_in(
    value: Any,
    columns: Columns,
    *,
    about: Sequence[str] = (),
    above: Mapping[str, Any] | None = None,
    around: str = "",
) -> Iterator[tuple[str, tuple[str, ...], Mapping[str, Any]]]:
    """(text, its keys, what stands about it) of each object in a JSON value that holds text. Objects inside such an
    object are part of it, but for those with a text of their own under the same keys, as replies and sections have;
    what stands in the text `around` them, such as names that are marked in it, is none. What stands about a text are
    its keys `about`, or those of the objects around it.
    """
    above = above or {}
    if isinstance(value, dict) and about:
        above = {**above, **{name: value[name] for name in about if value.get(name) is not None}}
    if isinstance(value, str):
        yield value, (), above
    elif isinstance(value, list):
        for item in value:
            if isinstance(item, dict | list):
                yield from texts_in(item, columns, about=about, above=above, around=around)
    elif isinstance(value, dict):
        text, group = row_text(value, columns)
        if text and text.strip() not in around:
            yield text, group, above
            if not ABOUT_KEYS.issuperset(name.strip().lower() for name in group):
                columns, around = (group,), text
        for name, item in value.items():
            if isinstance(item, dict | list) and name not in group:
                yield from texts_in(item, columns, about=about, above=above, around=around)


@dataclass(frozen=True, slots=True)
class Layout:
    """How a delimited file is written. `names` are its columns; without a header they are "1", "2", ..."""

    delimiter: str
    quoted: bool
    header: bool
    names: tuple[str, ...]

    @property
    def csv_options(self) -> dict[str, Any]:
        """What csv.reader needs to know."""
        quoting = csv.QUOTE_MINIMAL if self.quoted else csv.QUOTE_NONE
        return {"delimiter": self.delimiter, "quoting": quoting, "strict": True}


def find_layout(lines: Sequence[str], *, tabs: bool, named: Collection[str] = ()) -> Layout:
    """Delimiter, quoting and header of a table from its first lines: those that give every row the same width.

    A first row with a column that the user `named` is a header.
    """
    best: tuple[float, Layout] | None = None
    for delimiter in ("\t", ",", ";", "|") if tabs else (",", "\t", ";", "|"):
        ways = (True,) if delimiter != "\t" else (True, False) if _is_quoted(lines) else (False, True)
        for quoted in ways:
            layout = Layout(delimiter, quoted, False, ())
            rows = _parse(lines, layout)
            widths = Counter(map(len, rows))
            if not widths:
                continue
            width, count = widths.most_common(1)[0]
            # A mark that the first row lacks, a header or not, is part of the text below; no text has tabs.
            split = width > 1 and (len(rows[0]) > 1 or delimiter == "\t" or _is_title(rows, named))
            share = count / len(rows) if split else 0.0
            if best is None or share > best[0]:
                header = _has_header(rows, named)
                names = _told_apart(rows[0]) if header else tuple(str(number) for number in range(1, width + 1))
                best = share, Layout(delimiter, quoted, header, names)
    if best is None or best[0] <= 0:
        rows = _parse(lines, Layout(ONE_COLUMN, True, False, ()))
        header = bool(rows) and _has_header(rows, named)
        return Layout(ONE_COLUMN, True, header, tuple(rows[0]) if header else ("1",))
    return best[1]


def _told_apart(names: Sequence[str]) -> tuple[str, ...]:
    """Names of columns, of which a later one called as an earlier gets a number behind it: note, note_2."""
    found: list[str] = []
    for name in names:
        found.append(free_name(name, {*found, *names}) if name in found else name)
    return tuple(found)


def free_name(name: str, taken: Collection[str]) -> str:
    """`label`, or `label_2` where there is such a column already."""
    numbered = (f"{name}_{number}" for number in itertools.count(2))
    return name if name not in taken else next(other for other in numbered if other not in taken)


def require_known(given: Collection[str], known: Sequence[str]) -> None:
    """Raises UserError when `--column` says what something is called that is none of what is `known`."""
    wrong = next((name for name in given if name not in known), None)
    if wrong is not None:
        raise UserError("--column knows {known}, but not {name}.", code=USAGE, known=", ".join(known), name=wrong)


def _is_quoted(lines: Sequence[str]) -> bool:
    """Whether quotes enclose cells between tabs, rather than being part of what people wrote.

    They do where quotes inside are doubled, where all cells of a column have them, or those alone that spreadsheets put
    into them: with commas.
    """
    rows = [line.split("\t") for line in lines]
    cells = [cell for row in rows for cell in row]
    quoted = [cell for cell in cells if cell.startswith('"')]
    if not quoted or not all(len(cell) > 1 and cell.endswith('"') for cell in quoted):
        return False
    columns = [column[1:] or column for column in zip(*rows, strict=False)]  # a header may have none
    return (
        any('""' in cell[1:-1] for cell in quoted)
        or all(("," in cell) == cell.startswith('"') for cell in cells)
        or any(all(cell.startswith('"') for cell in column) for column in columns)
    )


def mend_row(line: str, layout: Layout) -> list[str]:
    """The cells of a line whose quotes do not match: read as leniently as gives the right width."""
    lenient = {**layout.csv_options, "strict": False}
    for options in (lenient, {**lenient, "quoting": csv.QUOTE_NONE}):
        row = next(csv.reader([line], **options), [])
        if len(row) == len(layout.names):
            return row
    return []


def _parse(lines: Sequence[str], layout: Layout) -> list[list[str]]:
    rows: list[list[str]] = []
    try:
        rows.extend(row for row in csv.reader((line + "\n" for line in lines), **layout.csv_options) if row)
    except csv.Error:
        rows.append([])  # counts as a row of another width
    return rows


def _has_header(rows: list[list[str]], named: Collection[str]) -> bool:
    """Whether the first row names the columns: as the user does, by known names, or plainly and unlike what follows."""
    first, rest = [cell.strip() for cell in rows[0]], rows[1:]
    columns = [[row[place].strip() for row in rest if place < len(row)] for place in range(len(first))]
    # What most rows have in a place, such as the code of a language, is no name of it.
    below = [(name, cells) for name, cells in zip(first, columns, strict=True) if 2 * cells.count(name) <= len(cells)]
    known = _COLUMN_NAMES.intersection(name.lower() for name, _ in below)
    if len(known) > 1 or known.intersection(TEXT_KEYS):
        return True
    if any(name in named and not name.isdigit() for name, _ in below):
        return True
    filled = [name for name in first if name]
    if not rest or not filled or len(set(filled)) < len(filled) or not all(map(_NAMES.fullmatch, filled)):
        return False
    if any(name and name in column for name, column in zip(first, columns, strict=True)):
        return False
    below = [(name, cells) for name, cells in below if name and cells]
    if known or any(_are_numbers(cells) for _, cells in below):
        return True
    scripts = [script_of(name) for name, _ in below]
    if {"en", "zh"} <= {*scripts} and scripts == [script_of(" ".join(cells)) for _, cells in below]:
        return False  # a word and its translation, above others
    return any(sum(map(len, cells)) > 2 * len(name) * len(cells) for name, cells in below)


def _is_title(rows: list[list[str]], named: Collection[str]) -> bool:
    """Whether a first row of one cell says what a table is about, rather than what its only column is called."""
    return rows[0][0].strip().lower() not in {*TEXT_KEYS, *named} and _has_header(rows[1:], named)


def _are_numbers(cells: list[str]) -> bool:
    return any(cells) and all(map(_NUMBER.fullmatch, filter(None, cells)))
