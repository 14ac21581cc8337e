"""Recurrent language models in a Hugging Face folder: a type of our own, for none of theirs is an LSTM."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor

from bimo.models.recurrent import RecurrentConfig
from bimo.weights.names import count

__all__ = ["config_from_hf", "config_to_hf", "from_hf", "to_hf"]


def to_hf(weights: dict[str, Tensor], config: RecurrentConfig) -> dict[str, Tensor]:
    """Our state dict as it is."""
    return weights


def from_hf(weights: dict[str, Tensor], config: RecurrentConfig) -> dict[str, Tensor]:
    """The state dict as it is; an output matrix beside an embedding that is used as one is left out."""
    return {name: tensor for name, tensor in weights.items() if not (config.tied and name == "head.weight")}


def config_to_hf(config: RecurrentConfig) -> dict[str, Any]:
    """`config.json` with the names of `RecurrentConfig`, but for the size of the vocabulary, which tools look for."""
    sizes = asdict(config)
    return {"model_type": "bimo_lstm", "vocab_size": sizes.pop("vocabulary"), **sizes, "dtype": "float32"}


def config_from_hf(settings: dict[str, Any], *, where: Path) -> RecurrentConfig:
    """The shape that a `config.json` describes."""
    return RecurrentConfig(
        vocabulary=count(settings["vocab_size"]),
        layers=count(settings["layers"]),
        width=count(settings["width"]),
        context=count(settings["context"]),
        tied=bool(settings.get("tied", False)),
    )
