"""Files of pairs (a text and its translation) -> clean pairs, of which none is on both sides of the split."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bimo.runtime import DATA_REFUSED, USAGE, UserError, t
from bimo.text.chinese import convert
from bimo.text.clean import normalize
from bimo.text.dedup import text_digest
from bimo.text.documents import Rejected
from bimo.text.language import script_of
from bimo.text.opening import Reading
from bimo.text.rejections import place_in
from bimo.text.rows import read_rows
from bimo.text.sources import find_sources
from bimo.text.split import split_position, tied_places
from bimo.text.tables import LANGUAGES, are_codes, unknown_column

__all__ = [
    "COLUMNS",
    "COLUMN_OPTIONS",
    "SPLITS",
    "Pair",
    "PairColumns",
    "PairFile",
    "describe_aside",
    "describe_pairs",
    "names_no_languages",
    "one_line",
    "read_pairs",
    "require_file_of_pairs",
    "split_pairs",
]

SPLITS = ("train", "validation", "test")
"""To learn from, to watch the learning, to measure once at the end."""

_FIRST_ROWS = 2000
_DISTINCT, _DISTINCT_AGAIN = 0.5, 0.1
"""A column of texts has different ones in more than this share of its rows; a source may stand there several times in
pairs to measure by, once with each reference."""

_WRAPPERS = ("translation", "translations")
ASIDE = {
    "empty": "an empty side",
    "language": "no language to translate into",
    "same": "twice the same text",
    "duplicate": "there before",
    "unread": "could not be read",
}
"""Why rows are set aside."""

MOST_LANGUAGES = 100
"""Into which one file translates: each becomes a token."""

SPOKEN = {"zh": "Chinese", "en": "English"}
"""What languages are called in sentences."""

_EXAMPLE_CHARACTERS = 200

COLUMNS = ("source", "target", "to")
"""What can be named."""

COLUMN_OPTIONS = "--column source=NAME --column target=NAME"
"""How columns are named where what is read is not trained on from nothing."""

_HELD_SHARE, _HELD_MOST = 0.05, 1000
"""Of all pairs, for each of validation and test."""


@dataclass(frozen=True, slots=True)
class Pair:
    """A text and its translation, each on one line, and what the language of the translation is called, if that is said
    of each pair."""

    source: str
    target: str
    to: str = ""


@dataclass(frozen=True)
class PairColumns:
    """Which columns of a file are translated into which, and the language of each as its script tells.

    `to` is a column that names the language of the target row by row, or empty.
    """

    source: str
    target: str
    languages: tuple[str, str]
    to: str = ""

    @property
    def names(self) -> tuple[str, str]:
        """What to call the two sides: their languages, or, where both are written alike, their columns."""
        differ = len({*self.languages, "und"}) == 3
        return self.languages if differ else ("-".join(self.source.split()), "-".join(self.target.split()))


@dataclass(frozen=True)
class PairFile:
    """What a file of pairs came to: its pairs and the rows that were set aside, which `aside` counts by reason."""

    name: str
    columns: PairColumns
    pairs: list[Pair]
    rows: int
    aside: Counter[str]
    refused: list[Rejected]
    first_unread: str

    def turned(self) -> PairFile:
        """The same with sources and targets exchanged."""
        columns = replace(
            self.columns, source=self.columns.target, target=self.columns.source, languages=self.columns.languages[::-1]
        )
        return replace(self, columns=columns, pairs=[Pair(pair.target, pair.source, pair.to) for pair in self.pairs])


def read_pairs(
    path: Path,
    *,
    source: str = "",
    target: str = "",
    to: str = "",
    known: Collection[str] = (),
    chinese: str = "",
    repeats: bool = False,
    options: str = "--source NAME --target NAME",
) -> PairFile:
    """The pairs of a table of any format; `source` and `target` name columns, or languages (en, zh) by their script.

    Without names the first two columns count whose cells mostly differ from row to row. `to` names a column that says
    into which language each row is translated. Where languages are `known`, all its cells have to be among them; a file
    without a column of that name may have another one, the only one of which this holds.
    `chinese` brings Chinese into one script. Rows with an empty side are set aside, and so are those with twice the
    same text or that were there before, unless pairs that are there to measure by count with their `repeats`. All
    pairs are held in memory. Raises UserError when there are no two columns of text, or none of that name, or other
    languages than those that are known.
    """
    unread: list[Rejected] = []
    numbered = read_rows(_only_file(path), Reading(unread.append, named=(source, target, to)))
    rows = ((number, _unwrapped(row)) for number, row in numbered)
    first = list(itertools.islice(rows, _FIRST_ROWS))
    columns = _choose_columns(
        path, [row for _, row in first], source, target, to, known, repeats=repeats, options=options
    )
    aside: Counter[str] = Counter()
    refused: list[Rejected] = []
    pairs: list[Pair] = []
    there: set[Pair] = set()
    count = 0
    for number, row in itertools.chain(first, rows):
        count += 1
        left, right = (one_line(row.get(name), chinese) for name in (columns.source, columns.target))
        language = _as_tag(row.get(columns.to)) if columns.to else ""
        pair = Pair(left, right, language)
        reason = ""
        if not left or not right:
            reason = "empty"
        elif columns.to and not language:
            reason = "language"
        elif not repeats:
            reason = "same" if left == right else "duplicate" if pair in there else ""
        if reason:
            aside[reason] += 1
            shown = f"{left} | {right}"[:_EXAMPLE_CHARACTERS]
            refused.append(Rejected(path.name, number, "bad_row", describe_aside(reason), shown))
        else:
            there.add(pair)
            pairs.append(pair)
    aside.update({"unread": len(unread)} if unread else {})
    if not pairs:
        raise UserError("{path} holds no pair of texts.", code=DATA_REFUSED, path=path)
    if len(languages := {pair.to for pair in pairs}) > MOST_LANGUAGES:
        raise UserError(
            "Column {name} of {path} is to name languages, but has {count:,} different values.",
            code=DATA_REFUSED,
            name=columns.to,
            path=path,
            count=len(languages),
        )
    where = f"{place_in(unread[0].source, unread[0].line)}: {unread[0].detail}" if unread else ""
    refused = sorted([*refused, *unread], key=lambda rejected: rejected.line)
    return PairFile(path.name, columns, pairs, count + len(unread), aside, refused, where)


def require_file_of_pairs(path: Path) -> None:
    """Raises UserError when there is none; a folder may hold anything."""
    if path.is_dir():
        raise UserError("{path} is a folder. Name the file with the pairs.", code=USAGE, path=path)
    if not path.is_file():
        raise UserError("There is no file {path}. Check how it is written.", code=USAGE, path=path)


def describe_aside(reason: str) -> str:
    """Why rows are set aside, in words."""
    return t(ASIDE[reason])


def describe_pairs(name: str, rows: int, columns: PairColumns) -> str:
    """What is read from where, as a sentence."""
    read = {"rows": rows, "file": name, "source": columns.source, "target": columns.target}
    if columns.to:
        return t(
            "{rows:,} rows of {file}: column {source} is translated into column {target}, in the language that column "
            "{to} names",
            to=columns.to,
            **read,
        )
    from_, into = (t(SPOKEN.get(code, code)) for code in columns.languages)
    sentence = "{rows:,} rows of {file}: column {source} ({from_}) is translated into column {target} ({into})"
    return t(sentence, from_=from_, into=into, **read)


def names_no_languages(column: str, path: Path, known: Collection[str]) -> UserError:
    """What to raise where a column names other languages than those that a model is `known` to translate into."""
    return UserError(
        "Column {column} of {path} does not name languages that the model translates into. It knows: {known}.",
        code=DATA_REFUSED,
        column=column,
        path=path.name,
        known=", ".join(known) or t("nothing"),
    )


def _as_tag(cell: Any) -> str:
    """What a language is called: in one piece, since it becomes a token."""
    return "-".join(str(cell or "").split())


def _only_file(path: Path) -> Any:
    files = find_sources([path])
    if len(files) > 1:
        raise UserError("{path} holds several files. Name the one with the pairs.", code=DATA_REFUSED, path=path)
    return files[0]


def _unwrapped(row: dict[str, Any]) -> dict[str, Any]:
    """{"translation": {"en": ..., "zh": ...}} is what stands in it."""
    return next((row[name] for name in _WRAPPERS if isinstance(row.get(name), dict)), row)


def one_line(value: Any, chinese: str) -> str:
    """A side of a pair in the form in which it is learned; what is no text is empty."""
    text = " ".join(normalize(value).split()) if isinstance(value, str) else ""
    return convert(text, chinese) if chinese and script_of(text) == "zh" else text


def _choose_columns(
    path: Path,
    rows: list[dict[str, Any]],
    source: str,
    target: str,
    to: str,
    known: Collection[str],
    *,
    repeats: bool,
    options: str,
) -> PairColumns:
    """The two columns of text, in the direction that was asked for, and the one that names languages."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    cells = {
        name: [row[name] for row in rows if isinstance(row.get(name), str) and row[name].strip()] for name in names
    }
    if known:
        possible = [name for name in names if cells[name] and {*map(_as_tag, cells[name])} <= {*known}]
        if to and to in names and to not in possible:
            raise names_no_languages(to, path, known)
        to = to if to in possible else possible[0] if len(possible) == 1 else ""
    elif to and to not in names:
        raise unknown_column(to, names, path)
    free = {name: cells[name] for name in names if name != to}
    texts = _texts(free, _DISTINCT * len(rows))
    if repeats and len(texts) < 2:
        texts = _texts(free, _DISTINCT_AGAIN * len(rows))
    languages = {name: _language(cells[name]) for name in texts}
    chosen = [_named(path, wanted, names, texts, languages) if wanted else "" for wanted in (source, target)]
    for place, wanted in ((0, target), (1, source)):
        if not chosen[place]:
            others = [name for name in texts if name not in chosen]
            # Who asks for a language, and not for a column, wants it from or into another one.
            spoken = languages[chosen[1 - place]] if wanted and wanted not in names else ""
            foreign = [name for name in others if spoken and languages[name] != spoken]
            chosen[place] = next(iter([*foreign, *others]), "")
    if not all(chosen) or chosen[0] == chosen[1]:
        raise UserError(
            "{path} has no two columns of text that differ from row to row. It has: {names}. Name them with {options}.",
            code=DATA_REFUSED,
            path=path,
            names=", ".join(names[:30]) or t("nothing"),
            options=options,
        )
    return PairColumns(chosen[0], chosen[1], (_language(cells[chosen[0]]), _language(cells[chosen[1]])), to)


def _texts(cells: dict[str, list[str]], least: float) -> list[str]:
    """The columns of more than `least` different texts, likeliest first: called as languages, or no codes of rows."""
    found = [name for name in cells if len(set(cells[name])) > least and _language(cells[name]) != "und"]
    called = [name for name in found if name.strip().lower() in LANGUAGES]
    written = [name for name in found if not are_codes(cells[name])]
    likely = next((names for names in (called, written) if len(names) > 1), found)
    return [*likely, *(name for name in found if name not in likely)]


def _named(path: Path, wanted: str, names: Sequence[str], texts: Sequence[str], languages: dict[str, str]) -> str:
    """The column called `wanted`, else the first whose text is in the language of that name."""
    if wanted in names:
        return wanted
    code = LANGUAGES.get(wanted.lower(), wanted.lower())
    found = next((name for name in texts if languages[name] == code), None)
    if found is None:
        raise UserError(
            "{path} has no column {wanted}, and none with text in that language. It has: {names}.",
            code=DATA_REFUSED,
            path=path,
            wanted=wanted,
            names=", ".join(names[:30]),
        )
    return found


def _language(cells: Sequence[str]) -> str:
    return script_of(" ".join(cells[:200]))


def split_pairs(pairs: Sequence[Pair], *, seed: int, alike: bool = False) -> dict[str, list[Pair]]:
    """Pairs by SPLITS, such that no source and no target, whatever its white space, is in two of them.

    A text may be a source here and a target there, where pairs name their language or the sides are `alike`; then none
    is in two of them at all.
    Pairs that share a side belong together; which groups are held out depends on their contents and `seed` alone.
    """
    groups = sorted(_groups(pairs, alike), key=lambda group: min(split_position(pairs[i].target, seed) for i in group))
    room = max(1, min(_HELD_MOST, round(_HELD_SHARE * len(pairs))))
    held: dict[str, list[int]] = {name: [] for name in SPLITS}
    for group in groups:
        # A group is small, unless one everyday sentence ties many together: such a one is learned from.
        fitting = (name for name in SPLITS[1:] if len(held[name]) + len(group) <= room)
        held[next(fitting, "train") if len(groups) > len(SPLITS) else "train"] += group
    return {name: [pairs[i] for i in sorted(chosen)] for name, chosen in held.items()}


def _groups(pairs: Sequence[Pair], alike: bool) -> list[list[int]]:
    """Places of pairs that are tied by a shared source or target, directly or by others."""
    sides = ((pair, ((False, pair.source), (True, pair.target))) for pair in pairs)
    return tied_places(
        [(is_target and not (pair.to or alike), text_digest(text)) for is_target, text in texts]
        for pair, texts in sides
    )
