"""Which of many texts a step sees, where texts of like length stand together: a function of (seed, step) alone.

That wastes little on filling up; each epoch takes the batches in another order.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

import numpy as np

from bimo.tokens.batches import permuted

__all__ = ["LengthBatches", "MixedBatches"]

LIKENESS = 0.3
"""Texts whose lengths differ by less than about this share are mixed at random."""


class LengthBatches:
    """Batches of at most `rows` texts and, filled up, `tokens` ids; every text once an epoch.

    A text by itself may be longer than that. There must be one at least.
    """

    def __init__(self, lengths: Sequence[int], *, rows: int, tokens: int, seed: int) -> None:
        assert len(lengths)
        groups: list[list[int]] = [[]]
        for number in np.argsort(lengths, kind="stable").tolist():
            full = len(groups[-1])
            if full == rows or (full and (full + 1) * lengths[number] > tokens):
                groups.append([])
            groups[-1].append(number)
        self._groups = [np.array(group) for group in groups]
        self._seed = seed
        self.steps_per_epoch = len(groups)

    def at(self, step: int) -> np.ndarray:
        """The numbers of the texts of a step."""
        epoch, place = divmod(step, self.steps_per_epoch)
        digest = hashlib.sha256(f"{self._seed}/{epoch}".encode()).digest()
        chosen = permuted(np.array([place]), self.steps_per_epoch, int.from_bytes(digest[:8], "little"))
        return self._groups[int(chosen[0])]

    def __iter__(self) -> Iterator[np.ndarray]:
        """Every batch once, the shortest texts first."""
        return iter(self._groups)


class MixedBatches:
    """Batches of exactly `rows` texts in a new company each epoch, of somewhat like length; what is left over waits.

    For losses that compare the texts of a batch with each other. There must be one batch at least.
    """

    def __init__(self, lengths: Sequence[int], *, rows: int, seed: int) -> None:
        assert 0 < rows <= len(lengths)
        self._lengths, self._rows, self._seed = np.asarray(lengths), rows, seed
        self.steps_per_epoch = len(lengths) // rows
        self._epoch, self._batches = -1, np.empty((0, rows), dtype=np.int64)

    def at(self, step: int) -> np.ndarray:
        """The numbers of the texts of a step."""
        epoch, place = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            self._epoch, self._batches = epoch, self._arranged(epoch)
        return self._batches[place]

    def _arranged(self, epoch: int) -> np.ndarray:
        random = np.random.default_rng((self._seed, epoch))
        chosen = random.permutation(len(self._lengths))[: self.steps_per_epoch * self._rows]
        about = self._lengths[chosen] * random.uniform(1 - LIKENESS, 1 + LIKENESS, size=len(chosen))
        batches = chosen[np.argsort(about, kind="stable")].reshape(-1, self._rows)
        return batches[random.permutation(self.steps_per_epoch)]
