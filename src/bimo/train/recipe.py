"""The recipe: learning rates, and what keeps a text from being learned by heart, from the size of model and text."""

from __future__ import annotations

import math
from typing import Any

__all__ = ["masked_recipe", "recipe", "restart_recipe"]

MUON_RATE = 0.02
ADAM_RATE = 0.012
"""Up to a pressure of ADAM_PRESSURE; beyond it that of AdamW falls with the square root of the excess."""

ADAM_PRESSURE = 10.0
FREE_PRESSURE = 25.0
"""Up to here dropout and noise cost more than they bring."""

SHARE_PER_DOUBLING = 0.08
MOST_DROPOUT, MOST_NOISE = 0.2, 0.1

RESTART = 0.1
"""Of the usual rates, for a model that has learned from far more text than it will here."""

MASKED_ADAM_RATE, MASKED_WARMUP = 0.003, 0.05
"""Norms stand behind the layers of an encoder: at the rates of a decoder it stays with the frequencies of words."""


def recipe(parameters: int, *, tokens: int, unique: int) -> dict[str, Any]:
    """Settings of `TrainConfig` for a model that reads `tokens` of a text that has `unique` ones.

    The pressure to memorise is taken as parameters a unique token times how often each is read again. Fitted to the
    runs in docs/log.md (small texts): with too little against it a text is learned by heart before the time is over,
    with too much a model learns slowly.
    """
    pressure = parameters / unique * max(0.0, tokens / unique - 1)
    share = SHARE_PER_DOUBLING * math.log2(max(1.0, pressure / FREE_PRESSURE))
    return {
        "adam_rate": ADAM_RATE / max(1.0, pressure / ADAM_PRESSURE) ** 0.5,
        "dropout": min(MOST_DROPOUT, share),
        "noise": min(MOST_NOISE, share),
    }


def masked_recipe(parameters: int, *, tokens: int, unique: int) -> dict[str, Any]:
    """The same for an encoder: what it reads is masked anew each time, which is noise enough."""
    usual = recipe(parameters, tokens=tokens, unique=unique)
    rate = min(usual["adam_rate"], MASKED_ADAM_RATE)
    return {"adam_rate": rate, "warmup": MASKED_WARMUP, "dropout": usual["dropout"], "noise": 0.0}


def restart_recipe(parameters: int, *, tokens: int, unique: int) -> dict[str, Any]:
    """The same for a model from elsewhere that has learned long: rates that do not undo it, no dropout, no noise.

    What was trained here for minutes or hours goes on best with the usual recipe (docs/log.md).
    """
    usual = recipe(parameters, tokens=tokens, unique=unique)
    return {"muon_rate": RESTART * MUON_RATE, "adam_rate": RESTART * usual["adam_rate"]}
