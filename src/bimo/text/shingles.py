"""Texts as sets of hashed n-grams, many texts at once: what near-duplicates are found and compared by.

A token is one Han character or kana, or a run of other letters and digits, in lower case; white space and marks do not
count. A shingle is the hash of some tokens in a row: 5 in Chinese, whose tokens are characters, 3 in other languages.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bimo.text.measure import DIGIT, HAN, HANGUL, KANA, LATIN, LETTER, kinds_of

__all__ = ["CHARACTERS_IN_SHINGLE", "WORDS_IN_SHINGLE", "jaccard", "shingles"]

CHARACTERS_IN_SHINGLE = 5
WORDS_IN_SHINGLE = 3

_UNSPACED = np.isin(np.arange(9), (HAN, KANA))
_IN_WORDS = np.isin(np.arange(9), (LATIN, HANGUL, LETTER, DIGIT))
_PLACES = 64  # of a word that count; what comes after them is hashed as if it began anew


def _powers(base: int, count: int) -> np.ndarray:
    return np.array([pow(base, place, 1 << 64) for place in range(count)], np.uint64)


# Odd numbers without a pattern: from the fractions of the golden ratio and of the square root of two.
_BY_PLACE = _powers(0x9E3779B97F4A7C15, _PLACES)
_BY_ORDER = _powers(0x6A09E667F3BCC909, CHARACTERS_IN_SHINGLE)


def _mix(values: np.ndarray) -> np.ndarray:
    """[N] uint64, spread over all bits (the finaliser of splitmix64; Steele, Lea and Flood 2014)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def shingles(texts: Sequence[str], *, tokens: int) -> tuple[np.ndarray, np.ndarray]:
    """(hashes [S] uint64, offsets [N + 1]): text i has hashes[offsets[i]:offsets[i + 1]], in order, with repeats.

    `tokens` make a shingle. A text of fewer tokens has one shingle, of all it has; without any token it has none.
    """
    words, starts = _tokens(texts)
    counts = np.diff(starts)
    rows = np.repeat(np.arange(len(texts)), counts)
    left = starts[rows + 1] - np.arange(len(words))  # tokens from here to the end of the text
    hashes = np.zeros(len(words), np.uint64)
    for place in range(tokens):
        here = np.flatnonzero(left > place)
        hashes[here] += words[here + place] * _BY_ORDER[place]
    first = np.arange(len(words)) == starts[rows]
    kept = (left >= tokens) | first
    sizes = np.bincount(rows[kept], minlength=len(texts))
    return _mix(hashes[kept]), np.concatenate([[0], np.cumsum(sizes)])


def jaccard(ours: np.ndarray, theirs: np.ndarray) -> float:
    """|A and B| / |A or B| of two sorted arrays without repeats; 0 when both are empty."""
    common = len(np.intersect1d(ours, theirs, assume_unique=True))
    return common / max(1, len(ours) + len(theirs) - common)


def _tokens(texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """(hash of every token [T] uint64, where each text begins in it [N + 1])."""
    text = "\n".join(texts).lower()
    points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
    kinds = kinds_of()[points]
    alone, in_word = _UNSPACED[kinds], _IN_WORDS[kinds]
    begins = alone | (in_word & ~np.concatenate([[False], in_word[:-1]]))
    counted = np.flatnonzero(alone | in_word)
    token = np.cumsum(begins)[counted] - 1
    firsts = np.flatnonzero(begins)
    place = (counted - firsts[token]) % _PLACES
    summed = np.concatenate([[np.uint64(0)], np.cumsum(_mix(points[counted].astype(np.uint64)) * _BY_PLACE[place])])
    edges = np.searchsorted(counted, np.concatenate([firsts, [len(points)]]))
    # Lower case may change the length of a text, so its end is counted after it.
    ends = np.cumsum([len(one.lower()) + 1 for one in texts]) if texts else np.zeros(0, np.int64)
    return np.diff(summed[edges]), np.concatenate([[0], np.searchsorted(firsts, ends)])
