"""How much two measures of the same things agree. N things, R resamples of them."""

from __future__ import annotations

import numpy as np

__all__ = ["pearson", "ranks", "spearman"]


def pearson(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """The correlation [...] of two measures [..., N]; 0 where one of them is the same for all."""
    one, other = (side - side.mean(axis=-1, keepdims=True) for side in (one.astype(float), other.astype(float)))
    sizes = np.sqrt((one**2).sum(axis=-1) * (other**2).sum(axis=-1))
    return (one * other).sum(axis=-1) / np.where(sizes > 0, sizes, 1.0)


def spearman(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """The correlation [...] of the ranks of two measures [..., N] (Spearman 1904)."""
    return pearson(ranks(one), ranks(other))


def ranks(values: np.ndarray) -> np.ndarray:
    """Places [..., N] in ascending order; things that are equal share the mean of theirs."""
    from scipy.stats import rankdata

    return rankdata(values, axis=-1)
