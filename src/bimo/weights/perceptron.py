"""Feed-forward language models in a Hugging Face folder: a type of our own, for none of theirs is one."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bimo.models.perceptron import Perceptron, PerceptronConfig
from bimo.weights.names import NamePairs, count

__all__ = ["NAMES", "build", "config_from_hf", "config_to_hf", "from_hf", "to_hf"]

NAMES = NamePairs((("embedding", "embedding"), ("layers.{}", "layers.{}"), ("head", "head")))
"""Of modules, the same on both sides."""


def to_hf(weights: dict[str, Tensor], config: PerceptronConfig) -> dict[str, Tensor]:
    """Our state dict as it is."""
    return weights


def from_hf(weights: dict[str, Tensor], config: PerceptronConfig) -> dict[str, Tensor]:
    """The state dict as it is."""
    return weights


def build(config: PerceptronConfig, *, compute_dtype: torch.dtype) -> Perceptron:
    """The model, its weights still to come."""
    return Perceptron(config, compute_dtype=compute_dtype)


def config_to_hf(config: PerceptronConfig) -> dict[str, Any]:
    """`config.json` with the names of `PerceptronConfig`, but for the size of the vocabulary, which tools look for."""
    sizes = asdict(config)
    return {"model_type": "bimo_mlp", "vocab_size": sizes.pop("vocabulary"), **sizes, "dtype": "float32"}


def config_from_hf(settings: dict[str, Any], *, where: Path) -> PerceptronConfig:
    """The shape that a `config.json` describes."""
    return PerceptronConfig(
        vocabulary=count(settings["vocab_size"]),
        layers=count(settings["layers"]),
        width=count(settings["width"]),
        embedding_width=count(settings["embedding_width"]),
        window=count(settings["window"]),
        context=count(settings["context"]),
        activation=str(settings.get("activation", "tanh")),
        direct=bool(settings.get("direct", False)),
    )
