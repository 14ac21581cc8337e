"""What in a text decided: weights of its words."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from bimo.text.segment import segment, word_offsets

__all__ = ["WordWeight", "leave_one_out", "word_weights"]

MOST_WORDS = 200
"""Of a text that are left out one by one."""


class WordWeight(NamedTuple):
    """A word of a text and what it counts for the label; below zero it counts against it."""

    word: str
    weight: float


def leave_one_out(
    scores_of: Callable[[Sequence[str]], np.ndarray], text: str, label: int, *, several: bool
) -> list[tuple[int, int, float]]:
    """(begins, ends, weight) of the first words of a text: how much the score of a label, against the mean of all,
    loses without each. `scores_of` texts is [N, K]."""
    places = [place for place in word_offsets(segment(text)) if not text[slice(*place)].isspace()][:MOST_WORDS]
    scores = scores_of([text, *(text[:begin] + " " + text[end:] for begin, end in places)])
    worth = scores[:, label] - (0 if several else scores.mean(axis=1))
    return [(*place, float(worth[0] - other)) for place, other in zip(places, worth[1:], strict=True)]


def word_weights(text: str, parts: Sequence[tuple[int, int, float]]) -> list[WordWeight]:
    """The words of a text in order, each with the weight of what lies in it: a part's is spread over its characters."""
    spread = np.zeros(len(text))
    for begin, end, weight in parts:
        spread[begin:end] += weight / max(1, end - begin)
    words = segment(text)
    found = zip(words, word_offsets(words), strict=True)
    return [WordWeight(word, float(spread[begin:end].sum())) for word, (begin, end) in found if not word.isspace()]
