"""Train or validation: decided by the content of a text alone, so that no duplicate is on both sides."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Iterable, Sequence
from pathlib import Path
from typing import Any

from bimo.text.dedup import text_digest
from bimo.text.documents import Document
from bimo.text.measure import Sizes
from bimo.text.store import DocumentWriter

__all__ = ["SplitWriter", "held_out_groups", "split_position", "tied_places", "validation_share"]

_MOST = 0.1
_LEAST_FOR_SMALL = 0.05
_ENOUGH_BYTES = 100_000
_MOST_BYTES = 5_000_000


def validation_share(total_bytes: int) -> float:
    """Which share of the text to keep for validation: 0.1 up to 1 MB, 0.05 from 2 to 100 MB, at most 5 MB beyond.

    100 kB are what bits per byte need to be steady within about a percent; more than 5 MB only cost time.
    """
    total_bytes = max(1, total_bytes)
    share = min(_MOST, max(_LEAST_FOR_SMALL, _ENOUGH_BYTES / total_bytes))
    return min(share, _MOST_BYTES / total_bytes)


def split_position(text: str, seed: int) -> float:
    """Where a text lies in [0, 1), evenly spread, whatever its white space; below the share wanted is validation."""
    drawn = hashlib.blake2b(text_digest(text), digest_size=8, key=b"split %d" % seed).digest()
    return int.from_bytes(drawn, "big") / 2**64


def tied_places(keys: Iterable[Iterable[Hashable]]) -> list[list[int]]:
    """Groups of the places whose keys are given: what shares a key, directly or by others, stands in one group."""
    parent: list[int] = []

    def root(place: int) -> int:
        while parent[place] != place:
            parent[place] = place = parent[parent[place]]
        return place

    first: dict[Hashable, int] = {}
    for place, own in enumerate(keys):
        parent.append(place)
        for key in own:
            parent[root(place)] = root(first.setdefault(key, place))
    groups: dict[int, list[int]] = {}
    for place in range(len(parent)):
        groups.setdefault(root(place), []).append(place)
    return [*groups.values()]


def held_out_groups(sizes: Sequence[int], *, share: float, most: int) -> list[bool]:
    """Whether each group of examples is held out, of which none may be parted: those that come first and do not exceed
    the share that is wanted, `most` at most, else the smallest one; never the only one, nor more than half of them."""
    room = min(most, max(1, round(share * sum(sizes))))
    held_out: list[bool] = []
    for size in sizes:
        held_out.append(size <= room and sum(held_out) < len(sizes) // 2)
        room -= size if held_out[-1] else 0
    if not any(held_out) and len(sizes) > 1:
        held_out[sizes.index(min(sizes))] = True
    return held_out if len(sizes) > 1 else [False] * len(sizes)


class SplitWriter:
    """Writes the documents of train and validation. Of each side the document nearest to the other is held back to
    the end, so that it can change sides when the other one stayed empty; which one depends on contents alone.
    """

    def __init__(self, folder: Path, share: float, seed: int) -> None:
        self._share, self._seed = share, seed
        self._writers = {
            False: DocumentWriter(folder, "train"),
            True: DocumentWriter(folder, "validation"),
        }
        self._held: dict[bool, tuple[float, Document]] = {}
        self.sizes = {False: Sizes(), True: Sizes()}
        self.kept = 0

    def __enter__(self) -> SplitWriter:
        return self

    def __exit__(self, *error: Any) -> None:
        for writer in self._writers.values():
            writer.__exit__(*error)

    def add(self, document: Document) -> None:
        """Put a document on its side."""
        self.kept += 1
        position = split_position(document.text, self._seed)
        side = position < self._share
        distance = abs(position - self._share)
        if side not in self._held:
            self._held[side] = (distance, document)
        elif distance < self._held[side][0]:
            self._write(side, self._held[side][1])
            self._held[side] = (distance, document)
        else:
            self._write(side, document)

    def finish(self) -> None:
        """Write what was held back; with two documents or more both sides get one, and a single one is trained on."""
        for side, (_, document) in sorted(self._held.items()):
            alone = (not side) not in self._held
            self._write(not side if alone and (side or self.kept >= 2) else side, document)
        self._held = {}

    def _write(self, side: bool, document: Document) -> None:
        self._writers[side].write(document)
        self.sizes[side].add(document)
