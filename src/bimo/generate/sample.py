"""From logits to the next token: plain functions, applied one after the other. B batch, V vocabulary.

In numpy, which stays on one thread: threads of torch that wait awake would take the kernel's processors from it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bimo.config import require_ranges
from bimo.runtime import UserError, t

__all__ = ["Sampling", "choose", "keep_min_p", "keep_top_k", "keep_top_p", "penalise_repetition", "require_numbers"]

Array = np.ndarray

LEAST_TEMPERATURE = 1e-30
"""Below this only the likeliest token is left anyway, and float32 comes to its end."""

RANGES = {
    "temperature": "0 or more",
    "top_k": "0 or more",
    "top_p": "above 0 and at most 1",
    "min_p": "at least 0 and below 1",
    "repetition_penalty": "between 0.001 and 1000",
}


@dataclass(frozen=True)
class Sampling:
    """How to choose tokens. Temperature 0 takes the likeliest; top_k 0, top_p 1, min_p 0 and penalty 1 do nothing."""

    temperature: float = 0.8
    top_k: int = 0
    top_p: float = 0.95
    min_p: float = 0.0
    repetition_penalty: float = 1.0

    def __post_init__(self) -> None:
        fits = {
            "temperature": 0.0 <= self.temperature < math.inf,
            "top_k": self.top_k >= 0,
            "top_p": 0.0 < self.top_p <= 1.0,
            "min_p": 0.0 <= self.min_p < 1.0,
            "repetition_penalty": 0.001 <= self.repetition_penalty <= 1000.0,
        }
        require_ranges(self, fits, lambda name: t(RANGES[name]))


def penalise_repetition(logits: Array, seen: Sequence[Sequence[int]], penalty: float) -> Array:
    """Make ids less likely that stand in the row's seen ids (Keskar et al. 2019, section 4.1). logits [B, V]."""
    logits = logits.copy()
    for row, ids in zip(logits, seen, strict=True):
        met = np.unique(np.asarray(ids, dtype=np.int64))
        scores = row[met]
        with np.errstate(over="ignore"):  # `choose` finds out
            row[met] = np.where(scores > 0, scores / penalty, scores * penalty)
    return logits


def keep_top_k(logits: Array, k: int) -> Array:
    """Hide all but the k best (Fan et al. 2018). logits [B, V]."""
    place = max(0, logits.shape[-1] - k)
    kth_best = np.partition(logits, place, axis=-1)[:, place, None]
    return np.where(logits < kth_best, -np.inf, logits)


def keep_top_p(logits: Array, p: float) -> Array:
    """Hide all but the fewest whose probabilities reach p (Holtzman et al. 2020). logits [B, V]."""
    probability = np.exp(logits - logits.max(axis=-1, keepdims=True))
    probability /= probability.sum(axis=-1, keepdims=True)
    # All that are less likely than this hold less than 1 - p together, so p is reached before any of them is needed.
    needless = probability < (1 - p) / logits.shape[-1]
    kept = np.where(needless, -np.inf, logits)
    for row in range(len(logits)):
        places = np.flatnonzero(~needless[row])
        order = np.argsort(-probability[row, places], kind="stable")
        ordered = probability[row, places[order]]
        before = np.cumsum(ordered, dtype=np.float64) - ordered
        kept[row, places[order[before >= p]]] = -np.inf
    return kept


def keep_min_p(logits: Array, p: float) -> Array:
    """Hide those less likely than p times the likeliest (Nguyen et al. 2024). logits [B, V]."""
    return np.where(logits < logits.max(axis=-1, keepdims=True) + math.log(p), -np.inf, logits)


def require_numbers(computed: Array) -> None:
    """Raises UserError where a model has computed something that is infinite or no number."""
    if not np.isfinite(computed).all():
        raise UserError(
            "What this model computes is no number: its weights are too large, or damaged. Get it anew from its source."
        )


def choose(logits: Array, seen: Sequence[Sequence[int]], sampling: Sampling, chance: Sequence[float]) -> list[int]:
    """One id a row, from float32 logits [B, V], the ids that each row has seen and a number in [0, 1) a row.

    Raises UserError when logits are not numbers.
    """
    if sampling.repetition_penalty != 1.0:
        logits = penalise_repetition(logits, seen, sampling.repetition_penalty)
    require_numbers(logits.max(axis=-1))  # which is no number where one of the logits is none
    if sampling.temperature == 0.0:
        return logits.argmax(axis=-1).tolist()
    # With 0 for the likeliest, no temperature is so low that the quotient is no number.
    logits = (logits - logits.max(axis=-1, keepdims=True)) / np.float32(max(sampling.temperature, LEAST_TEMPERATURE))
    if sampling.top_k:
        logits = keep_top_k(logits, sampling.top_k)
    if sampling.min_p:
        logits = keep_min_p(logits, sampling.min_p)
    if sampling.top_p < 1.0:
        logits = keep_top_p(logits, sampling.top_p)
    return [_draw(row, number) for row, number in zip(logits, chance, strict=True)]


def _draw(logits: Array, chance: float) -> int:
    """Invert the distribution function of logits [V]: one number a row keeps rows independent of their neighbours."""
    left = np.flatnonzero(logits > -np.inf)
    cumulative = np.cumsum(np.exp(logits[left].astype(np.float64) - logits.max()))
    place = int(np.searchsorted(cumulative, chance * cumulative[-1], side="right"))
    return int(left[min(place, len(left) - 1)])
