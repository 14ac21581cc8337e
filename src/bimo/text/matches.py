"""Which words of a text stand in a question as well: the exact match of Chen et al. 2017 (section 3.2).

A Han character counts as a word here, since words may be cut differently in question and text.
"""

from __future__ import annotations

import re
from itertools import pairwise

import numpy as np

from bimo.text.segment import HAN

__all__ = ["ALONE", "IN_A_ROW", "mark_matches"]

ALONE, IN_A_ROW = 1, 2
"""The word stands in the question; so does a neighbour of it, next to it there as here."""

_PART = re.compile(rf"[{HAN}]|[^\W{HAN}]+")


def mark_matches(question: str, text: str) -> np.ndarray:
    """Of each character of the text 0, ALONE or IN_A_ROW: int8 [characters]."""
    asked = [part.casefold() for part in _PART.findall(question)]
    words, rows = set(asked), set(pairwise(asked))
    marks = np.zeros(len(text), dtype=np.int8)
    before: tuple[str, slice] | None = None
    for found in _PART.finditer(text):
        word, place = found[0].casefold(), slice(*found.span())
        if word in words:
            marks[place] = ALONE
            if before is not None and (before[0], word) in rows:
                marks[before[1]] = marks[place] = IN_A_ROW
        before = word, place
    return marks
