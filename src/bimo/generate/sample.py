"""From logits to the next token: plain functions, applied one after the other. B batch, V vocabulary."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bimo.runtime import USAGE, UserError, t

__all__ = ["Sampling", "choose", "keep_min_p", "keep_top_k", "keep_top_p", "penalise_repetition"]

LEAST_TEMPERATURE = 1e-30
"""Below this only the likeliest token is left anyway, and float32 comes to its end."""

RANGES = {
    "temperature": "0 or more",
    "top_k": "0 or more",
    "top_p": "above 0 and at most 1",
    "min_p": "at least 0 and below 1",
    "repetition_penalty": "above 0",
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
            "repetition_penalty": 0.0 < self.repetition_penalty < math.inf,
        }
        for name, allowed in fits.items():
            if not allowed:
                raise UserError(
                    "{name} must be {range}, but is {value}.",
                    code=USAGE,
                    name=name,
                    range=t(RANGES[name]),
                    value=getattr(self, name),
                )


def penalise_repetition(logits: Tensor, seen: Tensor, penalty: float) -> Tensor:
    """Make ids that stand in seen [B, T] less likely (Keskar et al. 2019, section 4.1). logits [B, V]."""
    scores = logits.gather(1, seen)
    scores = torch.where(scores > 0, scores / penalty, scores * penalty)
    return logits.scatter(1, seen, scores)


def keep_top_k(logits: Tensor, k: int) -> Tensor:
    """Hide all but the k best (Fan et al. 2018). logits [B, V]."""
    kth_best = logits.topk(min(k, logits.shape[-1]), dim=-1).values[..., -1:]
    return logits.masked_fill(logits < kth_best, -math.inf)


def keep_top_p(logits: Tensor, p: float) -> Tensor:
    """Hide all but the fewest whose probabilities reach p (Holtzman et al. 2020). logits [B, V]."""
    probability = logits.softmax(dim=-1)
    # All that are less likely than this hold less than 1 - p together, so p is reached before any of them is needed.
    needless = probability < (1 - p) / logits.shape[-1]
    kept = logits.masked_fill(needless, -math.inf)
    for row in range(len(logits)):
        places = (~needless[row]).nonzero()[:, 0]
        ordered, order = probability[row, places].sort(descending=True, stable=True)
        before = ordered.cumsum(dim=-1) - ordered
        kept[row, places[order[before >= p]]] = -math.inf
    return kept


def keep_min_p(logits: Tensor, p: float) -> Tensor:
    """Hide those less likely than p times the likeliest (Nguyen et al. 2024). logits [B, V]."""
    return logits.masked_fill(logits < logits.max(dim=-1, keepdim=True).values + math.log(p), -math.inf)


def choose(logits: Tensor, seen: Sequence[Sequence[int]], sampling: Sampling, chance: Tensor) -> Tensor:
    """One id a row [B], from logits [B, V], the ids that each row has seen and a number in [0, 1) a row, chance [B]."""
    logits = logits.float()
    if sampling.repetition_penalty != 1.0:
        rows = zip(logits.split(1), seen, strict=True)
        penalty = sampling.repetition_penalty
        logits = torch.cat([penalise_repetition(row, torch.as_tensor(ids).long()[None], penalty) for row, ids in rows])
    if sampling.temperature == 0.0:
        return logits.argmax(dim=-1)
    # With 0 for the likeliest, no temperature is so low that the quotient is no number.
    logits = (logits - logits.max(dim=-1, keepdim=True).values) / max(sampling.temperature, LEAST_TEMPERATURE)
    if sampling.top_k:
        logits = keep_top_k(logits, sampling.top_k)
    if sampling.min_p:
        logits = keep_min_p(logits, sampling.min_p)
    if sampling.top_p < 1.0:
        logits = keep_top_p(logits, sampling.top_p)
    return torch.tensor([_draw(row, float(number)) for row, number in zip(logits, chance, strict=True)])


def _draw(logits: Tensor, chance: float) -> int:
    """Invert the distribution function of logits [V]: one number a row keeps rows independent of their neighbours."""
    left = (logits > -math.inf).nonzero()[:, 0]
    cumulative = (logits[left].double() - logits.max().double()).exp().cumsum(dim=-1)
    place = int(torch.searchsorted(cumulative, chance * cumulative[-1], right=True))
    return int(left[min(place, len(left) - 1)])
