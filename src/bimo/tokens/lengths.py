"""Which of many texts a step sees, where texts of like length stand together: a function of (seed, step) alone.

That wastes little on filling up; each epoch has other texts stand together, and takes them in another order.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import numpy as np

__all__ = ["LengthBatches", "MixedBatches"]

ROUNDED = 8
"""Ids up to which lengths are rounded where texts are put together: those that are then alike change company."""

LIKENESS = 0.3
"""Texts whose lengths differ by less than about this share are mixed at random."""


class LengthBatches:
    """Batches of at most `rows` texts and, filled up, `tokens` ids; every text once an epoch, in new company.

    A text by itself may be longer than that. There must be one at least.
    """

    def __init__(self, lengths: Sequence[int], *, rows: int, tokens: int, seed: int) -> None:
        assert len(lengths)
        self._rounded = np.minimum(-(-np.asarray(lengths) // ROUNDED) * ROUNDED, max(lengths))
        self._seed = seed
        begins = [0]
        for place, length in enumerate(np.sort(self._rounded).tolist()):
            full = place - begins[-1]
            if full == rows or (full and (full + 1) * length > tokens):
                begins.append(place)
        # Rounded lengths are the same in every epoch once they are sorted, and so are the places between batches.
        self._bounds = list(itertools.pairwise([*begins, len(lengths)]))
        self.steps_per_epoch = len(begins)
        self._by_length = np.argsort(lengths, kind="stable")
        self._epoch, self._batches = -1, list(self)

    def at(self, step: int) -> np.ndarray:
        """The numbers of the texts of a step."""
        epoch, place = divmod(step, self.steps_per_epoch)
        if epoch != self._epoch:
            self._epoch, self._batches = epoch, self._arranged(epoch)
        return self._batches[place]

    def __iter__(self) -> Iterator[np.ndarray]:
        """Every batch once, the shortest texts first."""
        return (self._by_length[begin:end] for begin, end in self._bounds)

    def _arranged(self, epoch: int) -> list[np.ndarray]:
        random = np.random.default_rng((self._seed, epoch))
        mixed = random.permutation(len(self._rounded))
        order = mixed[np.argsort(self._rounded[mixed], kind="stable")]
        return [order[slice(*self._bounds[place])] for place in random.permutation(self.steps_per_epoch)]


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
