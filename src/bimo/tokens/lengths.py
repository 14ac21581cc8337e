"""Which of many texts a step sees, where texts of like length stand together: a function of (seed, step) alone.

That wastes little on filling up; each epoch takes the batches in another order.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

import numpy as np

from bimo.tokens.batches import permuted

__all__ = ["LengthBatches"]


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
