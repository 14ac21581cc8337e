"""Files to learn vectors from: pairs of texts that belong together, pairs with scores, or texts alone.

What a file holds is found by what stands in its columns, unless they are named.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bimo.runtime import DATA_REFUSED, USAGE, UserError, t
from bimo.text.documents import Rejected, describe_reason
from bimo.text.opening import Reading
from bimo.text.pairs import Pair, split_pairs
from bimo.text.readers import open_lines
from bimo.text.rejections import place_in
from bimo.text.rows import read_rows
from bimo.text.sources import SourceFile
from bimo.text.split import split_position
from bimo.text.tables import PAIR_KEYS, SCORE_KEYS, are_codes, unknown_column

__all__ = ["LEAST", "Columns", "Examples", "read_examples", "read_lines"]

LEAST = 20
"""Examples without which nothing could be learned and tested."""

HELD_SHARE, HELD_MOST = 0.1, 1000
"""Of texts without a partner."""

FIRST_ROWS = 2000
DISTINCT, LONG = 0.1, 20
"""A column of texts, and not of kinds of rows, has different ones in more than this share of them, or texts of so many
characters in the mean, such as answers that are given to many questions."""

NUMBERS, NUMBERS_NAMED = 0.9, 0.5
"""Shares of the cells of a column of numbers that are some: the others were left out, or spelled N/A."""

QUESTION_KEYS = (("question", "answer"), ("问题", "答案"))
"""Names of two texts that belong together."""

JUDGEMENTS = ("label", "labels", "gold_label", "标签")
"""Names of what may be said of a pair in words, or in numbers that are no likeness."""

MOST_JUDGEMENTS = 5
"""Other words tell what a pair is about."""

INFERENCES = (["premise", "hypothesis"], ["前提", "假设"])
"""Names of pairs of which it is said whether the second follows from the first."""

PLAIN_ENDINGS = (".txt", ".text", ".md")


@dataclass(frozen=True)
class Columns:
    """Of what columns examples are made; without `second` they are texts alone, without `score` all pairs belong."""

    first: str
    second: str = ""
    score: str = ""


@dataclass
class Examples:
    """`rows` are pairs, of texts alone each with itself; `scores` say how alike they are, where that is known.

    Each example is there once; `refused` are the rows that were set aside; `shared` says that second texts of these
    stand on the other side of a split as well.
    """

    path: Path
    columns: Columns
    rows: list[Pair] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    refused: list[Rejected] = field(default_factory=list)
    shared: bool = False

    @property
    def kind(self) -> str:
        """scored, pairs or texts."""
        return "scored" if self.columns.score else "pairs" if self.columns.second else "texts"

    def describe(self) -> str:
        """What the file was taken for."""
        first, second, score = self.columns.first, self.columns.second, self.columns.score
        count = len(self.rows)
        if self.kind == "texts":
            return t("{count:,} texts without partners, from {first}", count=count, first=first)
        if self.kind == "pairs":
            return t(
                "{count:,} pairs of texts that belong together, from {first} and {second}",
                count=count,
                first=first,
                second=second,
            )
        return t(
            "{count:,} pairs of texts with scores from {low:g} to {high:g}, from {first}, {second} and {score}",
            count=count,
            low=min(self.scores),
            high=max(self.scores),
            first=first,
            second=second,
            score=score,
        )

    def part(self, places: Sequence[int]) -> Examples:
        """Some of the examples."""
        scores = [self.scores[place] for place in places] if self.scores else []
        return Examples(self.path, self.columns, [self.rows[place] for place in places], scores)

    def split(self, *, seed: int) -> tuple[Examples, Examples]:
        """(To learn from, held out). Raises UserError when one would be empty.

        No text is on both sides; where that ties all pairs together, no first text is.
        """
        found = {} if self.kind == "texts" else split_pairs(self.rows, seed=seed, alike=True)
        held = {*found.get("validation", ()), *found.get("test", ())}
        shared = len(held) < 2 and self.kind != "texts"
        if len(held) < 2:
            firsts = sorted({pair.source for pair in self.rows}, key=lambda text: split_position(text, seed))
            chosen = {*firsts[: min(HELD_MOST, round(HELD_SHARE * len(firsts)))]}
            held = {pair for pair in self.rows if pair.source in chosen}
        if len(self.rows) < LEAST or not 2 <= len(held) < len(self.rows):
            raise UserError(
                "{path} has {count} examples that can be used, too few to hold some out with texts of their own. Add "
                "rows.",
                code=DATA_REFUSED,
                path=self.path,
                count=len(self.rows),
            )
        places = range(len(self.rows))
        kept = [self.part([place for place in places if (self.rows[place] in held) == side]) for side in (False, True)]
        kept[1].shared = shared
        return kept[0], kept[1]


def read_examples(path: Path, columns: Mapping[str, str] | None = None, *, repeats: bool = False) -> Examples:
    """All examples of a table or of lines of text. `columns` names them: text; or first, second and score.

    With `repeats` an example counts as often as it stands there. Raises UserError when the file has none, no such
    column, or but one score.
    """
    require_file(path)
    refused: list[Rejected] = []
    file = SourceFile(path, path.name, path.stat().st_size, chosen=True)
    given = dict(columns or {})
    unknown = given.keys() - {"text", "first", "second", "score"}
    if unknown:
        raise UserError(
            "--column names text, or first, second and score, but not {name}.", code=USAGE, name=min(unknown)
        )
    if file.ending in PLAIN_ENDINGS:
        if given:
            raise UserError("{path} is plain text and has no columns.", code=USAGE, path=path)
        rows: Iterable[tuple[int, dict[str, Any]]] = (
            (number, {"text": line}) for number, line in enumerate(read_lines(path), 1) if line.strip()
        )
    else:
        rows = read_rows(file, Reading(refused.append, named=given.values()))
    rows = iter(rows)
    first = list(itertools.islice(rows, FIRST_ROWS))
    found = Examples(path, choose_columns(path, [row for _, row in first], given, refused), refused=refused)
    _collect(found, itertools.chain(first, rows), repeats=repeats)
    refused.sort(key=lambda rejected: rejected.line)  # the first rows are parsed before any is looked at
    if not found.rows:
        raise UserError(
            "{path} holds no example that can be used{first}.",
            code=DATA_REFUSED,
            path=path,
            first=f" ({refused[0]})" if refused else "",
        )
    if found.scores and min(found.scores) == max(found.scores):
        raise UserError(
            "All pairs of {path} have the score {score:g}: which are more alike than others cannot be learned from "
            "that. Without the column {column} the pairs count as belonging together.",
            code=DATA_REFUSED,
            path=path,
            score=found.scores[0],
            column=found.columns.score,
        )
    return found


def require_file(path: Path) -> None:
    """Raises UserError when there is none."""
    if not path.is_file():
        raise UserError("There is no file {path}. Check how it is written.", code=USAGE, path=path)


def read_lines(path: Path) -> Iterator[str]:
    """The lines of a text file, packed or not, in any encoding. Raises UserError at the first that cannot be read."""
    require_file(path)

    def refuse(rejected: Rejected) -> None:
        place = place_in(str(path), rejected.line)
        raise UserError("{path} cannot be read: {error}.", code=DATA_REFUSED, path=place, error=rejected.detail)

    file = SourceFile(path, path.name, path.stat().st_size, chosen=True)
    yield from (line for _, line in open_lines(file, Reading(refuse)))


def choose_columns(
    path: Path, rows: Sequence[dict[str, Any]], given: Mapping[str, str], refused: Sequence[Rejected] = ()
) -> Columns:
    """The columns of examples by what stands in the first rows, where they are not `given`. Raises UserError."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    missing = next((name for name in given.values() if name not in names), None)
    if missing is not None:
        raise unknown_column(missing, names, path)
    if "text" in given:
        return Columns(given["text"])
    cells = {name: [row[name] for row in rows if _filled(row.get(name))] for name in names}
    numbers = [name for name in names if cells[name] and _holds_numbers(name, cells[name])]
    texts = [
        name
        for name in names
        if name not in numbers
        and cells[name]
        and all(isinstance(cell, str) for cell in cells[name])
        and (len(set(cells[name])) > DISTINCT * len(rows) or sum(map(len, cells[name])) >= LONG * len(cells[name]))
    ]
    free = [name for name in _likeliest(texts, cells) if name not in given.values()]
    sides = [given.get(side) or (free.pop(0) if free else "") for side in ("first", "second")]
    if not sides[0]:
        raise UserError(
            "{path} has no column of texts{first}. It has: {names}. Name them with --column first=NAME --column "
            "second=NAME.",
            code=DATA_REFUSED,
            path=path,
            first=f" ({refused[0]})" if refused else "",
            names=", ".join(names[:30]) or t("nothing"),
        )
    score = given.get("score") or (_score_column(numbers, cells) if sides[1] else "")
    if sides[1] and "score" not in given:
        judged = [name for name in names if name.strip().lower() in JUDGEMENTS and name not in sides and cells[name]]
        _refuse_judgements(path, sides, judged, score, cells, chosen={"first", "second"} <= given.keys())
    return Columns(sides[0], sides[1], score)


def _likeliest(texts: Sequence[str], cells: Mapping[str, Sequence[Any]]) -> list[str]:
    """Columns of texts, first those called as two that belong together; codes of rows are none, where there are
    others."""
    plain = {name.strip().lower(): name for name in reversed(texts)}
    pairs = ([plain[key] for key in keys] for keys in (*PAIR_KEYS, *QUESTION_KEYS) if {*keys} <= plain.keys())
    written = [name for name in texts if not are_codes(cells[name])]
    return list(dict.fromkeys([*next(pairs, []), *(written or texts)]))


def _refuse_judgements(
    path: Path,
    sides: Sequence[str],
    judged: Sequence[str],
    score: str,
    cells: Mapping[str, Sequence[Any]],
    *,
    chosen: bool,
) -> None:
    """Raises UserError where a column says of pairs, but not by how much, whether they belong together; unless both
    sides were `chosen`, for then all of them do."""
    if score in judged and [name.strip().lower() for name in sides] in INFERENCES:
        raise UserError(
            "Column {column} of {path} may say what follows from what, and not how alike texts are. Where larger "
            "numbers mean more alike, say --column score={column}.",
            code=DATA_REFUSED,
            column=score,
            path=path,
        )
    if score or chosen or [name.strip().lower() for name in sides] in map(list, QUESTION_KEYS):
        return
    worded = next((name for name in judged if 1 < len(set(map(str, cells[name]))) <= MOST_JUDGEMENTS), None)
    if worded is not None:
        raise UserError(
            "Column {column} of {path} says in words which pairs belong together ({values}). Keep the rows that do, or "
            "take all of them with --column first=NAME --column second=NAME.",
            code=DATA_REFUSED,
            column=worded,
            path=path,
            values=", ".join(sorted(set(map(str, cells[worded])))),
        )


def _holds_numbers(name: str, cells: Sequence[Any]) -> bool:
    """Whether nearly all cells are numbers, or most of those of a column that is called as scores are."""
    needed = NUMBERS_NAMED if name.strip().lower() in SCORE_KEYS else NUMBERS
    return sum(as_score(cell) is not None for cell in cells) >= needed * len(cells)


def _score_column(numbers: Sequence[str], cells: Mapping[str, Sequence[Any]]) -> str:
    """The column of scores among those of numbers, "" where there is none; numbers of rows are no scores."""
    scores = [name for name in numbers if len(set(cells[name])) < len(cells[name]) or len(cells[name]) < LEAST]
    named = [name for name in numbers if name.strip().lower() in SCORE_KEYS]
    return next(iter([*named, *scores]), "")


def _filled(cell: Any) -> bool:
    return cell is not None and bool(str(cell).strip())


def as_score(cell: Any) -> float | None:
    """The finite number that a cell holds, or None."""
    try:
        number = float(cell)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) and not isinstance(cell, bool) else None


def _collect(found: Examples, rows: Iterable[tuple[int, dict[str, Any]]], *, repeats: bool) -> None:
    """Put rows into `found`, or set them aside with the reason."""
    columns = found.columns
    there: set[Pair] = set()
    for number, row in rows:
        sides = [_text(row.get(name)) for name in (columns.first, columns.second or columns.first)]
        pair, score = Pair(*sides), as_score(row.get(columns.score)) if columns.score else 0.0
        reason = ""
        if not all(sides):
            reason = t("a text is missing")
        elif score is None:
            reason = t("its score is no number")
        elif found.kind == "pairs" and sides[0] == sides[1]:
            reason = t("both texts are the same")
        elif pair in there and not repeats:
            reason = describe_reason("duplicate")
        if reason:
            found.refused.append(Rejected(found.path.name, number, "bad_row", reason, " | ".join(sides)[:200]))
            continue
        there.add(pair)
        found.rows.append(pair)
        if columns.score:
            assert score is not None
            found.scores.append(score)


def _text(cell: Any) -> str:
    return cell.strip() if isinstance(cell, str) else ""
