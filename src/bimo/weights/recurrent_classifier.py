"""Recurrent classifiers in a Hugging Face folder: a type of our own, for none of theirs is an LSTM."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor

from bimo.models.recurrent_classifier import RecurrentClassifierConfig
from bimo.weights.names import count

__all__ = ["MODEL_TYPE", "config_from_hf", "config_to_hf", "from_hf", "to_hf"]

MODEL_TYPE = "bimo_lstm_classifier"


def to_hf(weights: dict[str, Tensor], config: RecurrentClassifierConfig) -> dict[str, Tensor]:
    """Our state dict as it is."""
    return weights


def from_hf(weights: dict[str, Tensor], config: RecurrentClassifierConfig) -> dict[str, Tensor]:
    """The state dict as it is."""
    return weights


def config_to_hf(config: RecurrentClassifierConfig) -> dict[str, Any]:
    """`config.json` with the names of the shape, but for the size of the vocabulary, which tools look for."""
    sizes = {**asdict(config), "labels": list(config.labels)}
    return {"model_type": MODEL_TYPE, "vocab_size": sizes.pop("vocabulary"), **sizes, "dtype": "float32"}


def config_from_hf(settings: dict[str, Any], *, where: Path) -> RecurrentClassifierConfig:
    """The shape that a `config.json` describes."""
    labels = settings["labels"]
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
        raise TypeError(f"labels is {labels!r:.40}")
    return RecurrentClassifierConfig(
        vocabulary=count(settings["vocab_size"]),
        layers=count(settings["layers"]),
        width=count(settings["width"]),
        context=count(settings["context"]),
        labels=tuple(labels),
        several=bool(settings.get("several", False)),
    )
