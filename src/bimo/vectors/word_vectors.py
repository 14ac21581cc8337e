"""Words as vectors: which are near each other, which relations are alike, and how alike two texts are."""

from __future__ import annotations

import difflib
import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bimo.runtime import DATA_REFUSED, UserError
from bimo.text.segment import iter_words
from bimo.vectors.parts import parts_of

__all__ = ["WordVectors"]

RARE = 1e-3
"""The share of a text from which on a word counts for little in it (a of Arora et al. 2017)."""


@dataclass(frozen=True)
class WordVectors:
    """V words, the commonest first, with counts [V] and vectors [V, D], and P parts of words with theirs [P, D]."""

    words: list[str]
    counts: np.ndarray
    vectors: np.ndarray
    parts: list[str]
    part_vectors: np.ndarray

    @property
    def width(self) -> int:
        """D"""
        return self.vectors.shape[1]

    def vector(self, word: str) -> np.ndarray | None:
        """[D]: of a word, or of it in small letters; of one that was not in the text the mean of its parts, None where
        none is known."""
        if (number := self._number(word)) is not None:
            return self.vectors[number]
        small = word.lower()
        rows = [self._part_numbers[part] for part in parts_of(small) if part in self._part_numbers] if small else []
        return self.part_vectors[rows].mean(0) if rows else None

    def vectors_of(self, words: Sequence[str]) -> np.ndarray:
        """[words, D]. Raises UserError for one that is not known."""
        return np.array([self._known(word) for word in words], np.float32)

    def near(self, word: str, most: int = 10) -> list[tuple[str, float]]:
        """The words whose vectors have the smallest angle to that of `word`, and its cosine. Raises UserError."""
        return self._nearest(self._known(word), most, without={word, word.lower()})

    def analogy(self, a: str, b: str, c: str, most: int = 5) -> list[tuple[str, float]]:
        """What is to `c` as `b` is to `a`: nearest to b - a + c (3CosAdd, Mikolov et al. 2013). Raises UserError."""
        wanted = _unit(self._known(b)) - _unit(self._known(a)) + _unit(self._known(c))
        return self._nearest(wanted, most, without={a, b, c, a.lower(), b.lower(), c.lower()})

    def similarity(self, text: str, other: str) -> float:
        """The cosine of two texts. Raises UserError when one has no word that is known."""
        vectors = self.text_vectors([text, other])
        for each, vector in zip((text, other), vectors, strict=True):
            if not vector.any():
                raise UserError("No word of {text!r} is known to these vectors.", code=DATA_REFUSED, text=each[:80])
        return float(_unit(vectors[0]) @ _unit(vectors[1]))

    def text_vectors(self, texts: Sequence[str]) -> np.ndarray:
        """[texts, D]: the mean of the words of each, rare ones weighing more (Arora et al. 2017); zeros without any."""
        out = np.zeros((len(texts), self.width), np.float32)
        for row, text in zip(out, texts, strict=True):
            known = [(word, vector) for word in iter_words(text) if (vector := self.vector(word)) is not None]
            if known:
                weights = np.array([self._weight(word) for word, _ in known])
                row[:] = np.average([vector for _, vector in known], axis=0, weights=weights)
        return out

    def _weight(self, word: str) -> float:
        number = self._number(word)
        share = self.counts[number] / self._total if number is not None else 0.0
        return RARE / (RARE + share)

    def _number(self, word: str) -> int | None:
        """Our own vectors are of small letters, others' of words as they were met."""
        return self._numbers.get(word, self._numbers.get(word.lower()))

    def _known(self, word: str) -> np.ndarray:
        if (vector := self.vector(word)) is not None:
            return vector
        close = difflib.get_close_matches(word.lower(), self.words[:20_000], n=3)
        sentence = "The word {word!r} is not known to these vectors. Words like it: {close}."
        raise UserError(sentence, code=DATA_REFUSED, word=word, close=", ".join(close) or "-")

    def _nearest(self, vector: np.ndarray, most: int, *, without: set[str]) -> list[tuple[str, float]]:
        cosines = self._units @ _unit(vector)
        order = np.argsort(-cosines, kind="stable")[: most + len(without)]
        found = [(self.words[number], float(cosines[number])) for number in order if self.words[number] not in without]
        return found[:most]

    @functools.cached_property
    def _numbers(self) -> dict[str, int]:
        return {word: number for number, word in enumerate(self.words)}

    @functools.cached_property
    def _part_numbers(self) -> dict[str, int]:
        return {part: number for number, part in enumerate(self.parts)}

    @functools.cached_property
    def _total(self) -> int:
        return int(self.counts.sum())

    @functools.cached_property
    def _units(self) -> np.ndarray:
        return self.vectors / np.maximum(np.linalg.norm(self.vectors, axis=1, keepdims=True), 1e-12)


def _unit(vector: np.ndarray) -> np.ndarray:
    return vector / max(float(np.linalg.norm(vector)), 1e-12)
