"""Files of texts with labels -> texts each once, and a split that no text is on both sides of, if there is one.

A table with a column of texts, perhaps a second one, and a column of labels; or a folder with a folder for each label.
"""

from __future__ import annotations

import itertools
import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from bimo.runtime import DATA_REFUSED, USAGE, UserError, t
from bimo.text.clean import normalize
from bimo.text.dedup import text_digest
from bimo.text.documents import Rejected
from bimo.text.opening import Reading
from bimo.text.readers import open_lines
from bimo.text.rejections import place_in
from bimo.text.rows import read_rows
from bimo.text.sources import find_sources
from bimo.text.split import split_position, tied_places
from bimo.text.tables import LABEL_KEYS, PAIR_KEYS, TEXT_KEYS, require_known, unknown_column

__all__ = [
    "Labelled",
    "LabelledColumns",
    "LabelledFile",
    "choose_labelled_columns",
    "fold_numbers",
    "read_labelled",
    "split_labelled",
]

COLUMNS = ("text", "second", "label")
"""What can be named."""

SEVERAL = ("labels", "categories", "tags")
"""In a column of such a name `|` stands between the labels of a text."""

FIRST_ROWS = 2000
MOST_LABELS = 0.5
"""A column with more values than this share of its rows holds no labels."""
HELD_OUT, MOST_HELD_OUT = 0.1, 2000
"""Of the texts of each label, and of all."""
EXAMPLE_CHARACTERS, REFUSED_SHOWN = 200, 3


@dataclass(frozen=True, slots=True)
class Labelled:
    """A text, its labels in order, and the second text where the labels are about two."""

    text: str
    labels: tuple[str, ...]
    second: str = ""


@dataclass(frozen=True)
class LabelledColumns:
    """What the columns are called in a file; `second` is "" where a label is about one text."""

    text: str
    label: str
    second: str = ""


@dataclass(frozen=True)
class LabelledFile:
    """What a file came to. `several` says that a text may have more labels than one, or none."""

    path: Path
    columns: LabelledColumns | None
    examples: list[Labelled]
    refused: list[Rejected]
    several: bool

    @property
    def labels(self) -> list[str]:
        """All labels, sorted: numbers by size, then words."""
        found = {label for example in self.examples for label in example.labels}
        return sorted(found, key=lambda label: (not label.isdecimal(), int(label) if label.isdecimal() else 0, label))

    def describe(self) -> str:
        """What was read from where, as a sentence."""
        counts = Counter(label for example in self.examples for label in example.labels)
        most = ", ".join(f"{label} {count:,}" for label, count in counts.most_common(4))
        sentence = t(
            "{texts:,} texts, {labels:,} labels: {most}", texts=len(self.examples), labels=len(counts), most=most
        )
        if len(counts) > 4:
            sentence += " …"
        if self.columns is None:
            return sentence + t(" (a folder for each label)")
        texts = "+".join(filter(None, (self.columns.text, self.columns.second)))
        return sentence + t(" (texts in {text}, labels in {label})", text=texts, label=self.columns.label)

    def refused_lines(self) -> list[str]:
        """What was set aside, by reason, and where the first of it stands."""
        places: dict[str, list[str]] = {}
        for rejected in self.refused:
            places.setdefault(rejected.detail, []).append(place_in(rejected.source, rejected.line))
        return [
            t(
                "{count:,} rows set aside: {reason} ({places})",
                count=len(found),
                reason=reason,
                places=", ".join(found[:REFUSED_SHOWN]) + (" …" if len(found) > REFUSED_SHOWN else ""),
            )
            for reason, found in places.items()
        ]


def read_labelled(
    path: Path, *, columns: Mapping[str, str] | None = None, once: bool = True, several: bool = False
) -> LabelledFile:
    """The texts of a file or folder with their labels; `columns` says what `text`, `label` and `second` are called.

    With `several` `|` stands between labels whatever their column is called. Rows without a text or label are set
    aside; with `once` so are texts that were there before, and all rows of texts that have contradicting labels. Raises
    UserError when nothing is left or a column is not there.
    """
    require_known(columns or {}, COLUMNS)
    refused: list[Rejected] = []
    chosen: LabelledColumns | None = None
    if path.is_dir() and any(inner.is_dir() for inner in _visible(path)):
        found = list(_folder_examples(path, refused))
    else:
        rows, chosen = _open_rows(path, columns or {}, refused)
        divided = several or chosen.label.strip().lower() in SEVERAL
        read = list(_examples(rows, chosen, path.name, divided=divided, refused=refused))
        several = several or any(listed for _, listed in read)
        found = [one for one, _ in read]
    kept = _each_once(found, refused) if once else [example for *_, example in found]
    if not kept:
        first_refused = f" {place_in(refused[0].source, refused[0].line)}: {refused[0].detail}." if refused else ""
        sentence = "{path} holds no text with a label.{first}"
        raise UserError(sentence, code=DATA_REFUSED, path=path, first=first_refused)
    return LabelledFile(path, chosen, kept, refused, several)


def choose_labelled_columns(
    rows: Sequence[Mapping[str, Any]], wanted: Mapping[str, str], *, path: Path, label: bool = True
) -> LabelledColumns:
    """The columns of texts and labels: as named, else by known names, else by how many values they have.

    Without `label` none is looked for. Raises UserError when there is none.
    """
    require_known(wanted, COLUMNS)
    names = list(dict.fromkeys(name for row in rows for name in row))
    for name in wanted.values():
        if name not in names:
            raise unknown_column(name, names, path)
    plain: dict[str, str] = {}
    for name in names:
        plain.setdefault(name.strip().lower(), name)
    values = {name: [row[name] for row in rows if row.get(name) not in (None, "")] for name in names}
    pair = next((pair for pair in PAIR_KEYS if set(pair) <= plain.keys()), None)
    text, second = wanted.get("text"), wanted.get("second", "")
    if text is None and pair is not None:
        sides = [plain[key] for key in pair]
        text, second = next(name for name in sides if name != second), second or sides[1]
    called = {key: name for key, name in plain.items() if name not in (text, second)}
    labels = wanted.get("label") or next((called[key] for key in LABEL_KEYS if key in called), None)
    text = text or next((called[key] for key in TEXT_KEYS if key in called and called[key] != labels), None)
    if labels is None and label:
        free = [name for name in names if name not in (text, second)]
        counts = {name: len({json.dumps(value, default=str) for value in values[name]}) for name in free}
        likely = [name for name in free if 2 <= counts[name] <= max(2, MOST_LABELS * len(values[name]))]
        labels = min(likely, key=counts.__getitem__, default=None)
    if text is None:
        free = [name for name in names if name not in (labels, second)]
        free = [name for name in free if any(isinstance(value, str) for value in values[name])]
        text = max(free, key=lambda name: sum(len(str(value)) for value in values[name]), default=None)
    if text is None or (labels is None and label):
        sentence = (
            "{path} has no column of texts beside one of labels. It has: {names}. Name them with --column text=... and "
            "--column label=..."
        )
        names_found = ", ".join(map(str, names[:30])) or t("nothing")
        raise UserError(sentence, code=DATA_REFUSED, path=path, names=names_found)
    twice = next((name for name, count in Counter((text, labels, second)).items() if name and count > 1), None)
    if twice is not None:
        raise UserError("Column {name} of {path} cannot be two things at once.", code=USAGE, name=twice, path=path)
    return LabelledColumns(text, labels or "", second)


def fold_numbers(examples: Sequence[Labelled], folds: int, *, seed: int) -> np.ndarray:
    """In which of so many parts each example is, int [N]: each label is spread over all of them as evenly as can be.

    Which ones depends on the texts and `seed` alone. Each label fills the parts from the last one on: its only text is
    in that, of two there is one in the last but one.
    """
    numbers = np.empty(len(examples), dtype=np.int64)
    for groups in _by_labels(examples, seed):
        sizes = [0] * folds
        for group in groups:
            smallest = max(range(folds), key=lambda fold: (-sizes[fold], fold))
            sizes[smallest] += len(group)
            numbers[group] = smallest
    return numbers


def split_labelled(examples: Sequence[Labelled], *, seed: int) -> tuple[list[Labelled], list[Labelled]]:
    """(to learn from, held out): about HELD_OUT, of each label."""
    share = min(HELD_OUT, MOST_HELD_OUT / max(1, len(examples)))
    held_out = _held_out_places(examples, share, seed=seed)
    sides: tuple[list[Labelled], list[Labelled]] = [], []
    for example, held in zip(examples, held_out.tolist(), strict=True):
        sides[held].append(example)
    return sides


def _held_out_places(examples: Sequence[Labelled], share: float, *, seed: int) -> np.ndarray:
    """Whether each example is held out, bool [N]: of each label about `share` and one text at least.

    Which ones depends on the texts and `seed` alone; a label's only text is learned from.
    """
    held_out = np.zeros(len(examples), dtype=bool)
    for groups in _by_labels(examples, seed):
        room = max(1, round(share * sum(map(len, groups))), min(map(len, groups)))
        for group in groups if len(groups) > 1 else ():
            if len(group) <= room:
                held_out[group] = True
                room -= len(group)
    return held_out


def _by_labels(examples: Sequence[Labelled], seed: int) -> Iterable[list[list[int]]]:
    """Places of the examples of each label, those together that no split may part, in an order that their texts decide;
    of several labels the rarest counts: most combinations of labels are met once, and could be spread over nothing."""
    texts = Counter(label for example in examples for label in example.labels)
    positions = [split_position(f"{example.text}\n{example.second}", seed) for example in examples]
    found: dict[str, list[list[int]]] = {}
    for group in _inseparable(examples):
        labels = {label for place in group for label in examples[place].labels}
        rarest = min(labels, key=lambda label: (texts[label], label), default="")
        found.setdefault(rarest, []).append(group)
    for groups in found.values():
        groups.sort(key=lambda group: min(positions[place] for place in group))
    return found.values()


def _inseparable(examples: Sequence[Labelled]) -> list[list[int]]:
    """Places of the examples that share a text, on whichever side it stands; where that ties more than half of them
    together, of those that share their first text, since nothing else could be held out."""
    firsts = [[text_digest(example.text)] for example in examples]
    seconds = [[text_digest(example.second)] if example.second else [] for example in examples]
    both = tied_places([*first, *second] for first, second in zip(firsts, seconds, strict=True))
    for groups in (both, tied_places(firsts)):
        if 2 * max(map(len, groups), default=0) <= len(examples):
            return groups
    return [[place] for place in range(len(examples))]


def _open_rows(
    path: Path, wanted: Mapping[str, str], refused: list[Rejected]
) -> tuple[Iterator[tuple[int, dict[str, Any]]], LabelledColumns]:
    files = find_sources([path])
    if len(files) > 1:
        sentence = "{path} holds several files and no folder for each label. Name one file of texts with labels."
        raise UserError(sentence, code=DATA_REFUSED, path=path)
    rows = read_rows(files[0], Reading(refused.append, named=wanted.values()))
    first = list(itertools.islice(rows, FIRST_ROWS))
    if not first:
        detail = f" ({place_in(refused[0].source, refused[0].line)}: {refused[0].detail})" if refused else ""
        sentence = "{path} holds no rows with a text and a label{detail}."
        raise UserError(sentence, code=DATA_REFUSED, path=path, detail=detail)
    columns = choose_labelled_columns([row for _, row in first], wanted, path=path)
    return itertools.chain(first, rows), columns


_Found = tuple[str, int, Labelled]
"""(file, row, what stands there)"""


def _examples(
    rows: Iterable[tuple[int, dict[str, Any]]],
    columns: LabelledColumns,
    source: str,
    *,
    divided: bool,
    refused: list[Rejected],
) -> Iterator[tuple[_Found, bool]]:
    """Each with whether its labels are a list, or are `divided` by `|`."""
    for number, row in rows:
        texts = [_text(row.get(name)) for name in (columns.text, columns.second) if name]
        value = row.get(columns.label)
        listed = isinstance(value, list) or (divided and isinstance(value, str) and "|" in value)
        labels = _labels(value, several=listed)
        reason = ""
        if not all(texts):
            reason = t("there is no text in it")
        elif labels is None:
            reason = t("it has no label")
        if labels is None or reason:
            shown = json.dumps(row, ensure_ascii=False, default=str)[:EXAMPLE_CHARACTERS]
            refused.append(Rejected(source, number, "bad_row", reason, shown))
        else:
            yield (source, number, Labelled(texts[0], labels, *texts[1:])), listed


def _text(value: Any) -> str:
    return normalize(value).strip() if isinstance(value, str) else ""


def _labels(value: Any, *, several: bool) -> tuple[str, ...] | None:
    """None where there is none; a list may be empty."""
    if several:
        parts = value if isinstance(value, list) else value.split("|") if isinstance(value, str) else [value]
        named = {name for part in parts if (name := _label(part))}
        return tuple(sorted(named)) if named or isinstance(value, list) else None
    name = _label(value)
    return (name,) if name else None


def _label(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and (value.is_integer() or not math.isfinite(value)):
        return str(int(value)) if math.isfinite(value) else ""
    return " ".join(str(value).split()) if isinstance(value, str | int | float) else ""


def _visible(folder: Path) -> list[Path]:
    return sorted(inner for inner in folder.iterdir() if not inner.name.startswith("."))


def _folder_examples(path: Path, refused: list[Rejected]) -> Iterator[_Found]:
    for inner in _visible(path):
        if not inner.is_dir():
            refused.append(Rejected(inner.name, 0, "no_text", t("it stands in no folder of a label"), ""))
            continue
        for file in find_sources([inner]):
            before, named = len(refused), f"{inner.name}/{file.name}"
            text = _text("\n".join(line for _, line in open_lines(file, Reading(refused.append))))
            refused[before:] = [replace(rejected, source=named) for rejected in refused[before:]]
            if text:
                yield named, 0, Labelled(text, (inner.name,))
            elif len(refused) == before:
                refused.append(Rejected(named, 0, "empty", t("there is no text in it"), ""))


def _each_once(found: Iterable[_Found], refused: list[Rejected]) -> list[Labelled]:
    groups: dict[tuple[bytes, bytes], list[_Found]] = {}
    for one in found:
        key = text_digest(one[2].text), text_digest(one[2].second)
        groups.setdefault(key, []).append(one)
    kept = []
    for group in groups.values():
        if len({example.labels for *_, example in group}) > 1:
            reason, aside = t("the same text has another label elsewhere"), group
        else:
            kept.append(group[0][2])
            reason, aside = t("the same text was there before"), group[1:]
        for source, number, example in aside:
            refused.append(Rejected(source, number, "duplicate", reason, example.text[:EXAMPLE_CHARACTERS]))
    return kept
