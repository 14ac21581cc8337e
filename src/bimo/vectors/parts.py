"""Parts of words: letters and characters in a row that several words share, as fastText has them.

Bojanowski et al. 2017 hash all n-grams of 3 to 6 letters. Here a Chinese word has n-grams of its own size, and a part
is kept where at least two words have it: in one word alone it says no more than the word itself.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

__all__ = ["Parts", "find_parts", "parts_of"]

LETTERS, HAN = (3, 6), (1, 3)
"""Shortest and longest n-gram of a word, its two brackets counted, in letters and in Chinese characters."""

_FIRST_HAN = "\u2e80"


@dataclass(frozen=True)
class Parts:
    """The parts of V words: which there are, and for word i the rows[offsets[i] : offsets[i + 1]] of `names`."""

    names: list[str]
    offsets: np.ndarray
    rows: np.ndarray


def parts_of(word: str) -> list[str]:
    """`parts_of("深圳")`: 深, 圳, <深, 深圳, 圳>, <深圳, 深圳>; the whole word between its brackets is none."""
    shortest, longest = HAN if word[0] >= _FIRST_HAN else LETTERS
    closed = f"<{word}>"
    sizes = range(shortest, min(longest, len(closed) - 1) + 1)
    found = [closed[start : start + size] for size in sizes for start in range(len(closed) - size + 1)]
    return [part for part in dict.fromkeys(found) if part not in "<>"]


def find_parts(words: Sequence[str]) -> Parts:
    """The parts that at least two of the words have."""
    shared = Counter(part for word in words for part in parts_of(word))
    names = [part for part, count in shared.items() if count > 1]
    numbers = {part: number for number, part in enumerate(names)}
    rows = [[numbers[part] for part in parts_of(word) if part in numbers] for word in words]
    offsets = np.zeros(len(words) + 1, np.int64)
    np.cumsum([len(each) for each in rows], out=offsets[1:])
    return Parts(names, offsets, np.array([row for each in rows for row in each], np.int32))
