"""How good a model will be, from its size and what it reads."""

from __future__ import annotations

import math

__all__ = ["expected_ratio", "order_gain"]


def expected_ratio(parameters: int, *, tokens: int, unique: int, order_gain: float) -> float:
    """Bits per byte to expect, as a multiple of what Kneser-Ney reaches on the same text.

    The form of Hoffmann et al. 2022 (eq. 2) with repeated tokens discounted as in Muennighoff et al. 2023 (eq. 5).
    `order_gain` is the share that Kneser-Ney still gains from its last order: where longer contexts help counting,
    they help attention more. The constants were fitted to our own runs (docs/log.md): megabytes, minutes to hours.
    """
    floor, by_gain, by_parameters, by_tokens, half_life = 0.495, 3.1, 0.16, 0.45, 6.0
    repeats = max(0.0, tokens / unique - 1)
    useful = min(tokens, unique) + unique * half_life * (1 - math.exp(-repeats / half_life))
    learned = by_parameters * (parameters / 1e6) ** -0.34 + by_tokens * (useful / 1e6) ** -0.28
    return max(0.1, floor - by_gain * order_gain + learned)


def order_gain(by_order: list[float]) -> float:
    """The share by which the last order of Kneser-Ney betters the one before, of bits per byte by order; 0 or more."""
    return max(0.0, 1 - by_order[-1] / by_order[-2]) if len(by_order) > 1 else 0.0
