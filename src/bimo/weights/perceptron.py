"""Feed-forward language models in a Hugging Face folder: a type of our own, for none of theirs is one."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor

from bimo.models.perceptron import PerceptronConfig
from bimo.weights.names import count

__all__ = ["config_from_hf", "config_to_hf", "from_hf", "to_hf"]


def to_hf(weights: dict[str, Tensor], config: PerceptronConfig) -> dict[str, Tensor]:
    """Our state dict as it is."""
    return weights


def from_hf(weights: dict[str, Tensor], config: PerceptronConfig) -> dict[str, Tensor]:
    """The state dict as it is."""
    return weights


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
