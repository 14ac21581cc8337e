"""Interpolated Kneser-Ney n-grams over integers: the strongest simple model, by which a neural one is judged.

Chen & Goodman 1999, "An empirical study of smoothing techniques for language modeling": modified Kneser-Ney, with three
discounts an order, interpolated down to a uniform distribution. For a symbol w after the history h, at order k:

    p_k(w | h) = (c(hw) - D(c(hw))) / C + (sum of D(c(hv)) over all v) / C * p_{k-1}(w | h without its first symbol)

with C = the sum of c(hv) over all v. The highest order has plain counts c; below it, c(g) is the number of different
symbols that stand before g. Each document is framed by one start, which is never predicted, and one end, which is.
Nothing stands before a start, so n-grams that begin with it keep plain counts in every order.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["KneserNey"]

Array = np.ndarray


@dataclass
class Level:
    """All k-grams of the training text, sorted. A key is (rank of the first k-1 symbols) * base + (last symbol)."""

    keys: Array
    counts: Array
    continuations: Array | None = None


@dataclass
class KneserNey:
    """The models of all orders up to `order`, from one fit; `vocabulary` symbols are known, 0 to vocabulary - 1."""

    vocabulary: int
    levels: list[Level]

    @classmethod
    def fit(cls, documents: list[Array], *, order: int, vocabulary: int) -> KneserNey:
        """Count the n-grams of [T] integer arrays; fewer orders if no document is long enough for the higher ones."""
        assert documents, "nothing to learn from"
        symbols, place = _join(documents, vocabulary)
        base = vocabulary + 2
        levels: list[Level] = []
        ids = np.empty(0, np.int64)
        begins = np.empty(0, np.bool_)
        context = np.zeros(len(symbols), np.int64)
        for length in range(1, order + 1):
            there = np.flatnonzero(context >= 0)
            if len(there) == 0:
                break
            keys, first, inverse, counts = np.unique(
                context[there] * base + symbols[there], return_index=True, return_inverse=True, return_counts=True
            )
            first = there[first]
            if length == 1:
                counts[keys == vocabulary + 1] = 0  # the start is given, never predicted
            else:
                below = levels[-1]
                continuations = np.bincount(ids[first], minlength=len(below.keys))
                below.continuations = np.where(begins, below.counts, continuations).astype(np.int32)
            levels.append(Level(keys, counts.astype(np.int32)))
            begins = place[first] == length - 1
            ids = np.full(len(symbols), -1, np.int64)
            ids[there] = inverse
            context = _contexts(ids, place)
        return cls(vocabulary, levels)

    def bits(self, documents: list[Array]) -> float:
        """Total -log2 probability of the documents and their ends, by the highest order."""
        return self.bits_by_order(documents)[len(self.levels)]

    def bits_by_order(self, documents: list[Array]) -> dict[int, float]:
        """Total -log2 probability of the documents and their ends, by each order from 1 up."""
        return {order: -float(logs.sum()) for order, logs in self.log2_probabilities(documents).items()}

    def log2_probabilities(self, documents: list[Array]) -> dict[int, Array]:
        """log2 probability [N] of each symbol and each end, document after document, by each order from 1 up."""
        symbols, place = _join(documents, self.vocabulary)
        base = self.vocabulary + 2
        lower = np.full(len(symbols), 1 / (self.vocabulary + 1))
        context = np.zeros(len(symbols), np.int64)
        result = {}
        for length, level in enumerate(self.levels, 1):
            ids = np.where(context >= 0, _find(level.keys, context * base + symbols), -1)
            owners = level.keys // base
            result[length] = np.log2(_interpolate(level.counts, owners, ids, context, lower)[place > 0])
            if level.continuations is not None:
                lower = _interpolate(level.continuations, owners, ids, context, lower)
                context = _contexts(ids, place)
        return result


def _join(documents: list[Array], vocabulary: int) -> tuple[Array, Array]:
    """All documents as one array, each from its start to its end, and the place of each symbol in its document."""
    sizes = np.array([len(text) + 2 for text in documents], np.int64)
    starts = np.cumsum(sizes) - sizes
    place = np.arange(sizes.sum()) - np.repeat(starts, sizes)
    symbols = np.full(len(place), vocabulary, np.int64)
    symbols[starts] = vocabulary + 1
    inner = (place > 0) & (place < np.repeat(sizes - 1, sizes))
    symbols[inner] = np.concatenate([np.empty(0, np.int64), *documents])
    body = symbols[inner]
    assert body.size == 0 or (body.min() >= 0 and body.max() < vocabulary), "symbols must be in 0 .. vocabulary - 1"
    return symbols, place


def _contexts(ids: Array, place: Array) -> Array:
    """At each place, the n-gram that ended just before; -1 where there is none."""
    context = np.concatenate([[-1], ids[:-1]])
    context[place == 0] = -1
    return context


def _find(keys: Array, wanted: Array) -> Array:
    """The rank of each wanted key among the sorted keys, -1 where it is missing."""
    ranks = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[ranks] == wanted, ranks, -1)


def _interpolate(counts: Array, owners: Array, ids: Array, context: Array, lower: Array) -> Array:
    """The formula at the top of this file for one order, [N] -> [N]; after unknown contexts, the lower order's."""
    discounts = _discounts(counts)[np.minimum(counts, 3)]
    totals = np.bincount(owners, counts)
    known = np.flatnonzero(context >= 0)  # whatever was seen and is no end was followed by something: no total is 0
    h, g = context[known], ids[known]
    own = np.where(g >= 0, counts[g] - discounts[g], 0.0)
    result = lower.copy()
    result[known] = (own + np.bincount(owners, discounts)[h] * lower[known]) / totals[h]
    return result


def _discounts(counts: Array) -> Array:
    """What to take from counts of 0, 1, 2, and 3 or more; rules of thumb where too few n-grams tell."""
    n1, n2, n3, n4 = (int(np.count_nonzero(counts == c)) for c in (1, 2, 3, 4))
    if min(n1, n2, n3, n4) == 0:
        return np.array([0.0, 0.5, 1.0, 1.5])
    y = n1 / (n1 + 2 * n2)
    found = np.array([0, 1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3])
    return np.clip(found, [0, 0.1, 0.1, 0.1], [0, 1, 2, 3])
