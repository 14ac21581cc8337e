"""What the words of a text are like: the commonest words and pairs, how their number grows, how often each occurs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import numpy as np

from bimo.text.segment import segment
from bimo.text.stop_words import stop_words

__all__ = ["SAMPLE_CHARACTERS", "measure_words"]

SAMPLE_CHARACTERS = 500_000
"""What is read of a large text: cutting words takes as long as all of the cleaning, and shares no longer change."""

_COMMON_WORDS, _COMMON_PAIRS = 30, 20
_POINTS = 60


def measure_words(texts: Iterable[str]) -> dict[str, Any]:
    """Facts for JSON: `words` and `distinct`, `common` and `pairs` without stop words, `growth` [[words, distinct]],
    `ranks` [[rank, count]], and the exponents of Heaps' and Zipf's laws, fitted to both in powers of ten.

    A pair is two words side by side, neither of them a stop word, with nothing or blanks between them.
    """
    without = stop_words()
    counts: Counter[str] = Counter()
    pairs: Counter[tuple[str, str]] = Counter()
    total = 0
    growth: list[list[int]] = []
    for text in texts:
        row = [word.lower() if word[0].isalnum() else "" for word in segment(text) if not word.isspace()]
        words = [word for word in row if word]
        counts.update(words)
        pairs.update((a, b) for a, b in pairwise(row) if a and b and a not in without and b not in without)
        total += len(words)
        growth.append([total, len(counts)])
    ranked = sorted(counts.values(), reverse=True)
    ranks = [[rank, ranked[rank - 1]] for rank in _spread(len(ranked))]
    growth = [growth[place - 1] for place in _spread(len(growth))]
    common = [[word, count] for word, count in counts.most_common(_COMMON_WORDS + len(without)) if word not in without]
    return {
        "words": total,
        "distinct": len(counts),
        "common": common[:_COMMON_WORDS],
        "pairs": [[_joined(*pair), count] for pair, count in pairs.most_common(_COMMON_PAIRS)],
        "growth": growth,
        "ranks": ranks,
        "heaps": _exponent(growth),
        "zipf": _exponent(ranks),
    }


def _spread(count: int) -> list[int]:
    """Up to _POINTS of the numbers 1 to `count`, as far from each other in powers of ten as can be."""
    return sorted({round(number) for number in np.geomspace(1, count, _POINTS)}) if count else []


def _joined(first: str, second: str) -> str:
    return f"{first} {second}" if first.isascii() or second.isascii() else first + second


def _exponent(points: list[list[int]]) -> float | None:
    """The slope of a line through the points in powers of ten, which 0 is none of; None for less than three."""
    points = [point for point in points if min(point) > 0]
    if len(points) < 3:
        return None
    x, y = np.log10(np.array(points, float)).T
    return round(float(np.polyfit(x, y, 1)[0]), 3) if np.ptp(x) else None
