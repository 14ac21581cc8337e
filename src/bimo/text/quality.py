"""How much a text is like a corpus that its owner thinks well of: its perplexity under a small model of that corpus.

After CCNet (Wenzek et al. 2020), which keeps what a language model of Wikipedia finds likely. The model here predicts
each character from the two before it (Jelinek and Mercer 1980), counted in tables of a fixed size by hash.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

__all__ = ["Reference", "worst_allowed"]

_PLACES = 1 << 21
_ORDERS = 3
_WEIGHTS = (0.1, 0.3, 0.6)
"""Of the estimates from no, one and two characters before; fixed, since a share is kept and not a score."""

_FACTORS = tuple(np.uint64(factor) for factor in (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9))
_LONGEST = 20_000
"""Characters of a text that are looked at: more say nothing new."""


class Reference:
    """Character trigrams of a corpus: `Reference(texts).bits("...")`."""

    def __init__(self, texts: Iterable[str]) -> None:
        self._counts = np.zeros((_ORDERS, _PLACES), np.int32)
        self._contexts = np.zeros((_ORDERS, _PLACES), np.int32)
        self.characters = 0
        for text in texts:
            for grams, contexts, order in _places(text):
                np.add.at(self._counts[order], grams, 1)
                np.add.at(self._contexts[order], contexts, 1)
            self.characters += len(text)

    def bits(self, text: str) -> float:
        """Bits a character, lower for text that is more like the corpus; 0 for a text without characters."""
        chances = np.full(min(len(text), _LONGEST), 1e-6)  # what was never seen can still be
        for (grams, contexts, order), weight in zip(_places(text[:_LONGEST]), _WEIGHTS, strict=True):
            seen = self._contexts[order][contexts]
            chances += weight * np.where(seen, self._counts[order][grams] / np.maximum(seen, 1), 0)
        return float(-np.log2(chances).mean()) if len(chances) else 0.0


def worst_allowed(scores: Mapping[str, Sequence[float]], share: float) -> dict[str, float]:
    """By language, the highest score among the `share` of the texts that has the lowest ones."""
    return {
        language: float(np.sort(np.asarray(found))[max(1, round(share * len(found))) - 1])
        for language, found in scores.items()
        if len(found)
    }


def _places(text: str) -> Iterable[tuple[np.ndarray, np.ndarray, int]]:
    """For each order, where every character with what stands before it is counted, and where the latter alone is."""
    points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32).astype(np.uint64)
    before = np.zeros(len(points), np.uint64)
    for order in range(_ORDERS):
        if order:
            earlier = np.concatenate([np.zeros(order, np.uint64), points])[: len(points)]
            before = before + (earlier + np.uint64(1)) * _FACTORS[order]
        yield _place(before + (points + np.uint64(1)) * _FACTORS[0]), _place(before), order


def _place(keys: np.ndarray) -> np.ndarray:
    mixed = (keys ^ (keys >> np.uint64(29))) * _FACTORS[1]
    return ((mixed ^ (mixed >> np.uint64(32))) % np.uint64(_PLACES)).astype(np.int64)
