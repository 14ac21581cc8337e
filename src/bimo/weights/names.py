"""Our names of weights beside those of others, and the checks that reading their descriptions needs."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from bimo.models.config import ModelConfig
from bimo.models.families import StoredShape
from bimo.runtime import UserError

__all__ = [
    "ACTIVATIONS",
    "NamePairs",
    "count",
    "refuse_features",
    "renamed",
    "require_buildable",
    "require_fitting",
    "their_activation",
]

ACTIVATIONS = {
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu": "gelu",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}
"""Our names by those of Hugging Face, of which the first is the one that is written."""

LARGEST_COUNT = 1 << 32
MOST_LAYERS = 1 << 10
LARGEST_TABLE = 1 << 27
"""Positions times head width, of which a Decoder holds two tables: 1 GB. Or times width, where positions are waves."""

Weight = TypeVar("Weight")

NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")


@dataclass(frozen=True)
class NamePairs:
    """Our names of modules beside theirs; `{}` is the number of the layer."""

    pairs: tuple[tuple[str, str], ...]

    @property
    def to_theirs(self) -> dict[str, str]:
        """Theirs by ours."""
        return dict(self.pairs)

    @property
    def to_ours(self) -> dict[str, str]:
        """Ours by theirs."""
        return {theirs: ours for ours, theirs in self.pairs}


def renamed(weights: dict[str, Weight], names: dict[str, str]) -> dict[str, Weight]:
    """The same tensors; what stands before the last dot (`.weight`, `.bias`) is called by its other name.

    Raises UserError on a name that is not known.
    """
    found = {}
    for name, tensor in weights.items():
        module, _, last = name.rpartition(".")
        number = NUMBER.search(module + ".")
        pattern = NUMBER.sub("{}", module + ".")[:-1]
        if pattern not in names:
            raise UserError("The weights hold {name}, which a model of this type does not have.", name=name)
        found[f"{names[pattern].format(number[0] if number else '')}.{last}"] = tensor
    return found


def their_activation(ours: str) -> str:
    """What Hugging Face calls one of our activations."""
    return next(theirs for theirs, known in ACTIVATIONS.items() if known == ours)


def refuse_features(found: dict[str, bool], *, where: Path) -> None:
    """Raises UserError when a description has one of these features, which we do not compute, by their names."""
    if any(found.values()):
        raise UserError(
            "{where} uses {features}, which Bimo does not compute.",
            where=where,
            features=", ".join(name for name, present in found.items() if present),
        )


def count(value: Any) -> int:
    """A whole number of a description. Raises TypeError when it is none, ValueError when nothing is so large."""
    if type(value) is not int:
        raise TypeError(f"{value!r:.40} is not a whole number")
    if value > LARGEST_COUNT:
        raise ValueError(f"{min(value, 10**30):,} is too large")
    return value


def require_buildable(config: StoredShape, *, where: Path) -> None:
    """Raises UserError when a described shape would take time or memory out of proportion to its weights."""
    if config.layers > MOST_LAYERS:
        raise UserError(
            "{where} describes {layers:,} layers; Bimo reads models of up to {most:,}.",
            where=where,
            layers=config.layers,
            most=MOST_LAYERS,
        )
    if not isinstance(config, ModelConfig):
        return
    row = {"rotary": config.head_width, "sinusoidal": config.width}.get(config.positions, 0)
    if config.context * row > LARGEST_TABLE:
        raise UserError(
            "{path} is made for {context:,} positions; of this shape Bimo reads models for up to {most:,}.",
            path=where,
            context=config.context,
            most=LARGEST_TABLE // row,
        )
    scaling = config.rope_scaling
    numbers = [config.rope_theta, config.norm_epsilon]
    if scaling is not None:
        numbers += [scaling.factor, scaling.low, scaling.high, scaling.attention]
    # YaRN takes logarithms of these; with none of them infinite, nothing is divided by 0.
    if scaling is not None and scaling.kind == "yarn" and min(scaling.low, scaling.high) > 0:
        numbers += [scaling.original / (turns * 2 * math.pi) for turns in (scaling.low, scaling.high)]
        numbers.append(math.log(max(config.rope_theta, 1)))
    if not all(0 < number < math.inf for number in numbers):
        raise UserError("{where} describes numbers that cannot be computed with.", where=where)


def require_fitting(path: Path, *, tokens: int, vocabulary: int) -> None:
    """Raises UserError when a tokenizer has ids for which a model has no row in its embedding."""
    if tokens > vocabulary:
        raise UserError(
            "The tokenizer in {folder} has {tokens} tokens, but the model knows {vocabulary}: they do not fit.",
            folder=path,
            tokens=tokens,
            vocabulary=vocabulary,
        )
