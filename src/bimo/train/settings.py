"""How to train: the settings of a run, checked when they are made."""

from __future__ import annotations

import math
from dataclasses import dataclass

from bimo.config import require_ranges
from bimo.runtime import USAGE, UserError, t

__all__ = ["TrainConfig"]

RANGES = {
    "steps": "at least 1",
    "batch": "at least 1",
    "muon_rate": "0 or more",
    "adam_rate": "0 or more",
    "weight_decay": "0 or more",
    "warmup": "from 0 to 1",
    "decay": "from 0 to 1",
    "clip": "above 0",
    "dropout": "from 0 to below 1",
    "noise": "from 0 to 1",
    "smoothing": "from 0 to below 1",
    "minutes": "0 or more",
    "validations": "0 or more",
    "window": "0 or more",
    "seed": "0 or more, below 2^63",
    "dtype": "auto, float32 or bfloat16",
}

USELESS = {"encoder": ("noise", "smoothing"), "seq2seq": ("window",)}
"""What training a model of a family does not look at."""


@dataclass(frozen=True)
class TrainConfig:
    """How to train. `minutes` moves the planned end so that training ends on time; 0 keeps `steps` as they are.

    `warmup` and `decay` are shares of all steps; rates are those of Muon (matrices inside layers) and AdamW (the rest,
    or all if that of Muon is 0); `batch` counts windows (of pairs: as many as have the tokens of so many windows);
    `dropout` is the share of the columns that layers leave out, `noise` that of the tokens read that are exchanged,
    both against learning a small text by heart; `smoothing` is the share of each target that is spread over all tokens;
    `start` names a model whose weights training goes on with; `window` is how many tokens are learned from at a time, 0
    as many as the model reads; `vectors` names word vectors from which the embedding starts; `dtype` is float32,
    bfloat16 or auto (what is measurably faster here).
    """

    steps: int
    batch: int = 16
    muon_rate: float = 0.02
    adam_rate: float = 0.003
    weight_decay: float = 0.1
    warmup: float = 0.02
    decay: float = 0.5
    clip: float = 1.0
    dropout: float = 0.0
    noise: float = 0.0
    smoothing: float = 0.0
    minutes: float = 0.0
    validations: int = 8
    seed: int = 0
    start: str = ""
    window: int = 0
    vectors: str = ""
    dtype: str = "auto"
    device: str = "auto"

    def __post_init__(self) -> None:
        fits = {
            "steps": self.steps >= 1,
            "batch": self.batch >= 1,
            "muon_rate": 0 <= self.muon_rate < math.inf,
            "adam_rate": 0 <= self.adam_rate < math.inf,
            "weight_decay": 0 <= self.weight_decay < math.inf,
            "warmup": 0 <= self.warmup <= 1,
            "decay": 0 <= self.decay <= 1,
            "clip": self.clip > 0,
            "dropout": 0 <= self.dropout < 1,
            "noise": 0 <= self.noise <= 1,
            "smoothing": 0 <= self.smoothing < 1,
            "minutes": 0 <= self.minutes < math.inf,
            "validations": self.validations >= 0,
            "window": self.window >= 0,
            "seed": 0 <= self.seed < 2**63,
            "dtype": self.dtype in ("auto", "float32", "bfloat16"),
        }
        require_ranges(self, fits, lambda name: t(RANGES[name]), where="train.")

    def require_use(self, family: str) -> None:
        """Raises UserError when one is not 0 for which training a model of this family has no use."""
        for name in USELESS.get(family, ()):
            if getattr(self, name):
                raise UserError(
                    "The setting train.{name} has no place in training a model of the family {family}: leave it at 0.",
                    code=USAGE,
                    name=name,
                    family=family,
                )
