"""From logits to the next token: plain functions, applied one after the other. B batch, V vocabulary."""

from __future__ import annotations

import math
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
    ordered, index = logits.sort(dim=-1, descending=True)
    probability = ordered.softmax(dim=-1)
    before = probability.cumsum(dim=-1) - probability
    hidden = torch.empty_like(before, dtype=torch.bool).scatter(1, index, before >= p)
    return logits.masked_fill(hidden, -math.inf)


def keep_min_p(logits: Tensor, p: float) -> Tensor:
    """Hide those less likely than p times the likeliest (Nguyen et al. 2024). logits [B, V]."""
    return logits.masked_fill(logits < logits.max(dim=-1, keepdim=True).values + math.log(p), -math.inf)


def choose(logits: Tensor, seen: Tensor, sampling: Sampling, chance: Tensor) -> Tensor:
    """One id a row [B], from logits [B, V], the ids seen [B, T] and a number in [0, 1) a row, chance [B]."""
    logits = logits.float()
    if sampling.repetition_penalty != 1.0:
        logits = penalise_repetition(logits, seen, sampling.repetition_penalty)
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
    # Inverting the distribution function with one number a row keeps rows independent of their neighbours.
    cumulative = logits.double().softmax(dim=-1).cumsum(dim=-1)
    target = chance.to(cumulative.device)[:, None] * cumulative[:, -1:]
    return torch.searchsorted(cumulative, target, right=True)[:, 0].clamp(max=logits.shape[-1] - 1)
