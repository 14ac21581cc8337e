"""How good a model will be, from its size and what it reads."""

from __future__ import annotations

import math

__all__ = ["expected_ratio", "order_gain", "terms"]

WEIGHTS = (0.4, 0.127, 0.404)
"""Of `terms`: least squares over our own runs (`benchmarks/plan.py --fit`), megabytes of text and a minute to ten, of
sizes that the plan chose and of others."""

ORDERS = 2.7
"""Longer contexts are worth as much to a model as so many further orders are to counting; fitted with the weights."""

HALF_LIFE = 6.0
"""Readings after which another one is worth 1/e of the first."""


def expected_ratio(parameters: int, *, tokens: int, unique: int, order_gain: float) -> float:
    """Bits per byte to expect, as a multiple of what Kneser-Ney reaches after a megabyte of the same text.

    Always a megabyte: counting gains from ever more text, and what it reaches with all of it says little of a model
    that has the time to read a part.
    """
    numbers = terms(parameters, tokens=tokens, unique=unique)
    return (1 - order_gain) ** ORDERS * sum(weight * number for weight, number in zip(WEIGHTS, numbers, strict=True))


def terms(parameters: int, *, tokens: int, unique: int) -> tuple[float, float, float]:
    """What the expectation is a weighted sum of: a floor, and what size and reading leave to be learned.

    The form of Hoffmann et al. 2022 (eq. 2) with repeated tokens discounted as in Muennighoff et al. 2023 (eq. 5).
    """
    repeats = max(0.0, tokens / unique - 1)
    useful = min(tokens, unique) + unique * HALF_LIFE * (1 - math.exp(-repeats / HALF_LIFE))
    return 1.0, (parameters / 1e6) ** -0.34, (useful / 1e6) ** -0.28


def order_gain(by_order: list[float]) -> float:
    """The share by which the last order of Kneser-Ney betters the one before, of bits per byte by order; 0 or more."""
    return max(0.0, 1 - by_order[-1] / by_order[-2]) if len(by_order) > 1 else 0.0
