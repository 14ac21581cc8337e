"""How sure a figure is: percentile intervals by bootstrap (Efron and Tibshirani 1993, chapters 13 and 16), and of
shares by Wilson (1927), since all resamples of what is always right are always right.

N examples, R resamples.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

__all__ = [
    "FEWEST",
    "Statistic",
    "bootstrap",
    "chance_of_agreement",
    "interval_if_enough",
    "mean_interval",
    "paired_bootstrap",
    "paired_mean_difference",
    "share_interval",
]

RESAMPLES = 1000
FEWEST = 5
"""Examples from which resamples say how sure a figure is; those of one text are all that text."""

CHUNK = 50
"""Resamples that are drawn at a time: 50 of a million examples are 400 MB."""

Statistic = Callable[[np.ndarray], np.ndarray]
"""Numbers of examples [R, N], with repetitions -> the figure that each resample has [R]."""


def bootstrap(statistic: Statistic, examples: int, *, seed: int = 0) -> tuple[float, float]:
    """Between which two values a figure lies in 95 % of resamples of so many examples."""
    low, high = np.quantile(_resampled(statistic, examples, seed), (0.025, 0.975))
    return float(low), float(high)


def interval_if_enough(statistic: Statistic, examples: int) -> list[float] | None:
    """[low, high] as `bootstrap` has them; None where there are fewer examples than FEWEST."""
    return [*bootstrap(statistic, examples)] if examples >= FEWEST else None


def mean_interval(values: np.ndarray) -> list[float]:
    """[low, high] of the mean of values [N]."""
    return [*bootstrap(lambda drawn: values[drawn].mean(axis=1), len(values))]


def share_interval(right: np.ndarray) -> list[float]:
    """[low, high] of the share of what is right, of values [N] that are 1, 0 or, where several are as good, a share."""
    share, weight = float(right.mean()), 1.96**2 / len(right)
    middle = (share + weight / 2) / (1 + weight)
    half = math.sqrt(weight * share * (1 - share) + weight**2 / 4) / (1 + weight)
    return [max(0.0, middle - half), min(1.0, middle + half)]


def paired_mean_difference(one: np.ndarray, other: np.ndarray) -> tuple[float, float, float]:
    """As `paired_bootstrap`, of the means of values [N] of the same examples."""
    return paired_bootstrap(
        lambda drawn: one[drawn].mean(axis=1),
        lambda drawn: other[drawn].mean(axis=1),
        len(one),
        differing=int((one != other).sum()),
    )


def paired_bootstrap(
    one: Statistic, other: Statistic, examples: int, *, differing: int, seed: int = 0
) -> tuple[float, float, float]:
    """(low, high, p): the 95 % interval of `one` minus `other` on the same examples, and the two-sided p-value of
    their being equal, which is at least 1 / resamples, and at least `chance_of_agreement`."""
    differences = _resampled(lambda drawn: one(drawn) - other(drawn), examples, seed)
    low, high = np.quantile(differences, (0.025, 0.975))
    worse = min(float(np.mean(differences <= 0)), float(np.mean(differences >= 0)))
    return float(low), float(high), min(1.0, max(2 * worse, 1 / RESAMPLES, chance_of_agreement(differing)))


def chance_of_agreement(differing: int) -> float:
    """How likely it is that so many coins fall alike: no p-value is below it where two differ on so many examples
    (sign test; Dixon and Mood 1946). Examples on which they agree are no coins."""
    return min(1.0, 0.5 ** (differing - 1))


def _resampled(statistic: Statistic, examples: int, seed: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    rows = (random.integers(0, examples, size=(CHUNK, examples)) for _ in range(RESAMPLES // CHUNK))
    return np.concatenate([statistic(drawn) for drawn in rows])
