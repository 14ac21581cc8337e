"""Tags of documents (genre, topic, length ...) as a header in front of them, by which a model learns to write to order.

    genre: 诗
    length: short

    床前明月光，疑是地上霜。...

Tags are columns of tables and keys of JSON; the length is that of the text beside those of all others.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bimo.files import read_json, write_json
from bimo.runtime import DATA_REFUSED, USAGE, UserError, whole_text
from bimo.text.documents import Document

__all__ = ["CONTROLS_FILE", "LENGTH", "LENGTHS", "Controls", "check_names", "pack_tags", "read_controls", "tags_of"]

CONTROLS_FILE = "controls.json"
LENGTH = "length"
LENGTHS = ("short", "medium", "long")

SHARE_WITHOUT = 0.1
"""Of the documents that are trained on without a header, so that the model writes without one, too."""
SHARE_PARTIAL = 0.4
"""Of those that have one: with some of their tags only, so that a model can be asked for these alone."""
LEAST_DOCUMENTS = 5
"""That have a value, or it is left out: a model learns nothing from fewer, and it may stand for one person."""
LONGEST_VALUE = 40
LARGEST_SAMPLE = 200_000


def check_names(names: Sequence[str]) -> None:
    """Raises UserError for columns that can be no tags."""
    for name in names:
        if name == LENGTH:
            raise UserError("--control length is always there; name other columns alone.", code=USAGE)
        if not name.strip() or not name.isprintable() or ":" in name:
            raise UserError("--control {name!r} can be no tag: it is empty or holds a colon.", code=USAGE, name=name)


def tags_of(row: Mapping[str, Any], names: Sequence[str]) -> dict[str, str]:
    """The columns of a row that are tags, as short texts; lists, long texts and what is empty are none."""
    found = {}
    for name in names:
        value = row.get(name)
        text = " ".join(whole_text(str(value)).split()) if isinstance(value, str | int | float) else ""
        if text and len(text) <= LONGEST_VALUE:
            found[name] = text
    return found


def pack_tags(tags: Mapping[str, str]) -> str:
    """Tags as a document carries them."""
    return json.dumps(tags, ensure_ascii=False) if tags else ""


@dataclass(frozen=True)
class Controls:
    """The tags that a corpus has: how many documents there are of each value, and when a text is short or medium.

    `short` and `medium` are the most characters of such a text: a third of the documents each.
    """

    values: dict[str, dict[str, int]]
    short: int
    medium: int

    @classmethod
    def of_documents(cls, documents: Iterable[Document], names: Sequence[str]) -> Controls:
        """Count the tags of documents. Raises UserError when a column gives none."""
        counts: dict[str, Counter[str]] = {name: Counter() for name in names}
        lengths: list[int] = []
        for document in documents:
            for name, value in _unpacked(document).items():
                counts[name][value] += 1
            if len(lengths) < LARGEST_SAMPLE:
                lengths.append(len(document.text))
        values = {
            name: {value: count for value, count in found.most_common() if count >= LEAST_DOCUMENTS}
            for name, found in counts.items()
        }
        for name, kept in values.items():
            if not kept:
                raise UserError(
                    "--control {name} gives no tags: no value of such a column or key stands beside {least} texts that "
                    "are kept.",
                    code=DATA_REFUSED,
                    name=name,
                    least=LEAST_DOCUMENTS,
                )
        short, medium = np.quantile(lengths, [1 / 3, 2 / 3], method="lower")
        return cls(values, int(short), int(medium))

    def write(self, folder: Path) -> None:
        """Keep them as `controls.json`."""
        facts = {"values": self.values, LENGTH: {"short": self.short, "medium": self.medium}}
        write_json(folder / CONTROLS_FILE, facts)

    def tags(self, document: Document) -> dict[str, str]:
        """The known tags of a document, its length last."""
        found = _unpacked(document)
        known = {name: found[name] for name, values in self.values.items() if found.get(name) in values}
        length = LENGTHS[(len(document.text) > self.short) + (len(document.text) > self.medium)]
        return {**known, LENGTH: length}

    def training_text(self, document: Document) -> str:
        """A document as it is trained on: with all its tags, with some of them or without, by chance of its content."""
        draw = random.Random(hashlib.blake2b(document.text.encode(), digest_size=8).digest())
        tags = self.tags(document)
        if draw.random() < SHARE_WITHOUT:
            return document.text
        if draw.random() < SHARE_PARTIAL:
            kept = draw.sample([*tags], draw.randint(1, len(tags)))
            tags = {name: value for name, value in tags.items() if name in kept}
        return _header(tags) + document.text

    def header(self, chosen: Mapping[str, str]) -> str:
        """What stands before a text with these tags. Raises UserError for tags and values that nobody has seen."""
        known = {**{name: [*values] for name, values in self.values.items()}, LENGTH: [*LENGTHS]}
        for name, value in chosen.items():
            if name not in known:
                raise UserError(
                    "This model knows no control {name}. It knows: {known}.",
                    code=USAGE,
                    name=name,
                    known=", ".join(known),
                )
            if value not in known[name]:
                close = difflib.get_close_matches(value, known[name], n=3, cutoff=0.3) or known[name][:10]
                raise UserError(
                    "This model has met no {name} {value}. It has met, among others: {known}.",
                    code=USAGE,
                    name=name,
                    value=value,
                    known=", ".join(close),
                )
        return _header({name: chosen[name] for name in known if name in chosen})

    def without_header(self, text: str) -> str:
        """A text that a model has written, without the tags that it may have begun with."""
        head, gap, rest = text.partition("\n\n")
        names = {line.partition(": ")[0] for line in head.split("\n")}
        return rest if gap and names <= {*self.values, LENGTH} else text


def read_controls(folder: Path) -> Controls | None:
    """Those that stand in a folder of data, or in `bimo` of a model; None where there are none."""
    if not (folder / CONTROLS_FILE).is_file():
        return None
    facts = read_json(folder / CONTROLS_FILE)
    try:
        values = {
            str(name): {str(value): int(count) for value, count in found.items()}
            for name, found in facts["values"].items()
        }
        return Controls(values, int(facts[LENGTH]["short"]), int(facts[LENGTH]["medium"]))
    except (AttributeError, KeyError, TypeError, ValueError):
        raise UserError("{path} is no list of tags. Train the model again.", path=folder / CONTROLS_FILE) from None


def _header(tags: Mapping[str, str]) -> str:
    return "".join(f"{name}: {value}\n" for name, value in tags.items()) + "\n" if tags else ""


def _unpacked(document: Document) -> dict[str, str]:
    return json.loads(document.tags) if document.tags else {}
