"""Lessons in batches: a function of the step alone, as in tokens/batches.py.

One conversation a row, so that none sees another. Those of like length stand together, which wastes little on filling
up; each epoch takes the batches in another order.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import numpy as np

from bimo.tokens.batches import permuted
from bimo.tokens.chat import Lesson
from bimo.train.losses import IGNORED

__all__ = ["LessonBatches"]


MOST_TOKENS = 2048
"""Of a batch, filled up: what backward needs of them has to stand in memory."""


class LessonBatches:
    """Batches of at most `batch` lessons and MOST_TOKENS, every lesson once an epoch. There must be one at least."""

    def __init__(self, lessons: list[Lesson], *, batch: int, seed: int) -> None:
        assert lessons
        self._groups: list[list[Lesson]] = [[]]
        for lesson in sorted(lessons, key=lambda lesson: len(lesson.ids)):
            rows = len(self._groups[-1])
            if rows == batch or (rows and (rows + 1) * len(lesson.ids) > MOST_TOKENS):
                self._groups.append([])
            self._groups[-1].append(lesson)
        self._seed = seed

    @property
    def steps_per_epoch(self) -> int:
        """How many batches there are."""
        return len(self._groups)

    def at(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Ids and targets [B, T] of a step, int64."""
        epoch, place = divmod(step, len(self._groups))
        digest = hashlib.sha256(f"{self._seed}/{epoch}".encode()).digest()
        chosen = permuted(np.array([place]), len(self._groups), int.from_bytes(digest[:8], "little"))
        return _filled(self._groups[int(chosen[0])])

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Every batch once, the shortest lessons first."""
        return map(_filled, self._groups)


def _filled(lessons: list[Lesson]) -> tuple[np.ndarray, np.ndarray]:
    """Each position's target is the id after it, where that one counts."""
    longest = max(len(lesson.ids) for lesson in lessons) - 1
    ids = np.zeros((len(lessons), longest), dtype=np.int64)
    targets = np.full((len(lessons), longest), IGNORED, dtype=np.int64)
    for row, lesson in enumerate(lessons):
        T = len(lesson.ids) - 1
        ids[row, :T] = lesson.ids[:-1]
        targets[row, :T] = np.where(lesson.counted[1:], lesson.ids[1:], IGNORED)
    return ids, targets
