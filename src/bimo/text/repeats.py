"""What stands more than once in all cleaned batches: the same text, nearly the same text, the same paragraph."""

from __future__ import annotations

import functools
from array import array
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import replace
from typing import Any

import numpy as np

from bimo.text.batch_store import CleanedBatches
from bimo.text.dedup import SeenTexts
from bimo.text.documents import Document
from bimo.text.near_duplicates import BANDS, band_keys, find_clusters, shingle_set
from bimo.text.paragraphs import REPEATED_IN, drop_paragraphs
from bimo.text.personal import excerpt
from bimo.text.rejections import place_in

__all__ = ["NEW", "SAME", "UNLIKE", "Repeats", "find_repeats", "keep_elsewhere"]

NEW, SAME, LIKE, NONE, UNLIKE = range(5)
"""What a row of a batch is: a text that is kept, one that was there before, a near-duplicate, no text at all, or (for
who compares with a reference) one that is too unlike it.
"""

_COUNTERS = 1 << 25
_SETS_HELD = 1024
_EXAMPLES = 10
_EXAMPLE_CHARACTERS = 160
_ROWS = 1 << 32


def _place(number: int, row: int) -> int:
    """A batch and a row in it as one number."""
    return number * _ROWS + row


class Repeats:
    """What find_repeats found."""

    def __init__(self) -> None:
        self.states: list[np.ndarray] = []
        """For each batch [rows] uint8 of NEW, SAME, LIKE, NONE, UNLIKE."""
        self.kept_instead: dict[int, int] = {}
        """Near-duplicates by place, and the place of the text that was kept in their stead, then perhaps not itself."""
        self.named: dict[int, str] = {}
        """Where these texts stand, by place."""
        self.keepers: dict[int, int] = {}
        """Repeated paragraphs by hash, and the place of the text that keeps them."""
        self.losing: set[int] = set()
        """Places of the texts that lose paragraphs."""
        self.examples: dict[int, dict[str, Any]] = {}
        """Of clusters, by the place of the text that is kept."""

    @property
    def clusters(self) -> int:
        """How many groups of near-duplicates there are."""
        return len(self.named.keys() - self.kept_instead.keys())

    def keeps(self, place: int) -> bool:
        """Whether the text in a place is still one that is kept."""
        number, row = divmod(place, _ROWS)
        return bool(self.states[number][row] == NEW)

    def left_of(self, document: Document, number: int, row: int) -> tuple[Document, list[str]]:
        """A document without the repeated paragraphs that another one keeps, and these."""
        place = _place(number, row)
        if place not in self.losing:
            return document, []
        text, dropped = drop_paragraphs(document.text, lambda value: self.keepers.get(value, place) != place)
        return replace(document, text=text), dropped

    def instead_of(self, number: int, row: int) -> str:
        """Where the text stands that is kept in the stead of a near-duplicate."""
        place = _place(number, row)
        while place in self.kept_instead:
            place = self.kept_instead[place]
        return self.named[place]


def find_repeats(batches: CleanedBatches, count: int, allow: Collection[str] = ()) -> Repeats:
    """Compare the documents of batches 0 to `count` with each other.

    With `near_duplicate` or `boilerplate` in `allow`, near-duplicates or repeated paragraphs stay. Near-duplicates are
    looked for twice: what differed in repeated paragraphs alone is alike without them.
    """
    found = Repeats()
    _find_same(batches, count, found)
    keys, places = _keys(batches, count, found)
    if "near_duplicate" not in allow:
        _find_like(batches, keys, places, found)
    if "boilerplate" not in allow:
        _find_paragraphs(batches, count, found)
    if found.losing and "near_duplicate" not in allow:
        for index, place in enumerate(places):
            if place in found.losing:
                document = _left(batches, place, found)
                keys[index] = band_keys([document.text], [document.language])[0]
        _find_like(batches, keys, places, found)
    return found


def _find_same(batches: CleanedBatches, count: int, found: Repeats) -> None:
    with SeenTexts(batches.folder) as seen:
        for number in range(count):
            digests = batches.column(number, "digest")
            states = [NONE if not digest else NEW if seen.add(digest) else SAME for digest in digests]
            found.states.append(np.array(states, np.uint8))


def _new(
    batches: CleanedBatches, count: int, column: str, found: Repeats
) -> Iterator[tuple[int, list[int], list[Any]]]:
    """(batch, rows, values of a column) of the texts that are not known as duplicates."""
    for number in range(count):
        rows = np.flatnonzero(found.states[number] == NEW).tolist()
        values = batches.column(number, column)
        yield number, rows, [values[row] for row in rows]


def _keys(batches: CleanedBatches, count: int, found: Repeats) -> tuple[np.ndarray, array[int]]:
    """([N, BANDS] uint64, [N] places) of all new texts; the keys are mapped from a file that has no name any more."""
    path = batches.folder / "keys"
    places = array("q")
    with path.open("wb") as file:
        for number, rows, packed in _new(batches, count, "keys", found):
            places.extend(_place(number, row) for row in rows)
            file.write(b"".join(packed))
    shape = (len(places), BANDS)
    keys = np.memmap(path, np.uint64, "r+", shape=shape) if places else np.zeros(shape, np.uint64)
    path.unlink()
    return keys, places


def _left(batches: CleanedBatches, place: int, found: Repeats) -> Document:
    number, row = divmod(place, _ROWS)
    return found.left_of(batches.document(number, row), number, row)[0]


def _find_like(batches: CleanedBatches, keys: np.ndarray, places: array[int], found: Repeats) -> None:
    """Of each cluster of near-duplicates the longest text is kept, of equally long ones the first."""

    @functools.lru_cache(_SETS_HELD)
    def shingles_of(index: int) -> np.ndarray:
        document = _left(batches, places[index], found)
        return shingle_set(document.text, document.language)

    first = find_clusters(keys, shingles_of)
    clusters: dict[int, list[int]] = {}
    for index in np.flatnonzero(first != np.arange(len(first))).tolist():
        clusters.setdefault(int(first[index]), [int(first[index])]).append(index)
    for _, indices in sorted(clusters.items()):
        # A group may be large, so its texts are looked at one by one.
        kept = max(indices, key=lambda index: (len(_left(batches, places[index], found).text), -index))
        document = _left(batches, places[kept], found)
        where = found.named[places[kept]] = place_in(document.source, document.line)
        others = [index for index in indices if index != kept]
        if places[kept] in found.examples:
            found.examples[places[kept]]["documents"] += len(others)
        elif len(found.examples) < _EXAMPLES:
            other = _left(batches, places[others[0]], found)
            found.examples[places[kept]] = {
                "documents": len(indices),
                "kept": where,
                "text": excerpt(document.text, _EXAMPLE_CHARACTERS),
                "other": place_in(other.source, other.line),
                "other_text": excerpt(other.text, _EXAMPLE_CHARACTERS),
            }
        for index in others:
            number, row = divmod(places[index], _ROWS)
            found.states[number][row] = LIKE
            found.kept_instead[places[index]] = places[kept]
            found.examples.pop(places[index], None)
            keys[index] = 0


def _find_paragraphs(batches: CleanedBatches, count: int, found: Repeats) -> None:
    """Paragraphs in REPEATED_IN new texts or more. Only hashes whose counter, which several share, got so far in a
    first pass are counted by themselves in a second one: what stands once takes no memory of its own.
    """
    counters = np.zeros(_COUNTERS, np.uint8)
    for _, _, hashes in _paragraphs(batches, count, found):
        shared, times = np.unique(hashes % np.uint64(_COUNTERS), return_counts=True)
        counters[shared] = np.minimum(counters[shared] + np.minimum(times, REPEATED_IN), REPEATED_IN)
    counts: Counter[int] = Counter()
    for number, rows, hashes in _paragraphs(batches, count, found):
        often = counters[hashes % np.uint64(_COUNTERS)] >= REPEATED_IN
        for value, row in zip(hashes[often].tolist(), rows[often].tolist(), strict=True):
            counts[value] += 1
            found.keepers.setdefault(value, _place(number, row))
    found.keepers = {value: place for value, place in found.keepers.items() if counts[value] >= REPEATED_IN}
    repeated = np.array(sorted(found.keepers), np.uint64)
    for number, rows, hashes in _paragraphs(batches, count, found) if found.keepers else ():
        known = np.isin(hashes, repeated)
        for value, row in zip(hashes[known].tolist(), rows[known].tolist(), strict=True):
            if found.keepers[value] != _place(number, row):
                found.losing.add(_place(number, row))


def keep_elsewhere(batches: CleanedBatches, count: int, found: Repeats) -> None:
    """Give repeated paragraphs whose keeper is not kept itself, after all, to the next text that has them."""
    orphans = {value for value, place in found.keepers.items() if not found.keeps(place)}
    for number, rows, hashes in _paragraphs(batches, count, found) if orphans else ():
        for value, row in zip(hashes.tolist(), rows.tolist(), strict=True):
            if value in orphans:
                found.keepers[value] = _place(number, row)
                orphans.remove(value)


def _paragraphs(batches: CleanedBatches, count: int, found: Repeats) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """(batch, rows [P], hashes [P]) of the paragraphs of all new texts."""
    for number, rows, packed in _new(batches, count, "paragraphs", found):
        yield number, np.repeat(rows, [len(value) // 8 for value in packed]), np.frombuffer(b"".join(packed), np.uint64)
