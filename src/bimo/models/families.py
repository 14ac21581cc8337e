"""The families of models: which class computes a shape."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from bimo.models.config import ModelConfig, load_presets
from bimo.models.encoder import Encoder, EncoderConfig
from bimo.models.perceptron import Perceptron, PerceptronConfig
from bimo.models.recurrent import Recurrent, RecurrentConfig
from bimo.models.recurrent_classifier import RecurrentClassifier, RecurrentClassifierConfig
from bimo.models.seq2seq import EncoderDecoder, Seq2SeqConfig
from bimo.models.transformer import Decoder
from bimo.runtime import USAGE, UserError

__all__ = [
    "CLASSIFIER",
    "FAMILIES",
    "PAIRED",
    "Family",
    "LanguageModule",
    "LanguageShape",
    "Model",
    "Shape",
    "StoredShape",
    "build",
    "choose_family",
    "family_of",
]

LanguageShape = ModelConfig | RecurrentConfig | PerceptronConfig
Shape = LanguageShape | EncoderConfig | Seq2SeqConfig
StoredShape = Shape | RecurrentClassifierConfig
"""What a folder may describe; a classifier is tuned, and no --family makes it."""
LanguageModule = Decoder | Recurrent | Perceptron
"""What predicts the next token. Every family of language models offers what a Decoder offers."""
Model = LanguageModule | Encoder | EncoderDecoder | RecurrentClassifier

PAIRED = "seq2seq"
"""The family that learns from pairs of texts rather than from prepared text."""

CLASSIFIER = "classifier"
"""What `family_of` calls a recurrent classifier."""


@dataclass(frozen=True)
class Family:
    """`shape` is the dataclass of its sizes, which `model` takes first, then compute_dtype and dropout by name.

    `context` is how many tokens it had best learn from at a time, where there is enough text.
    """

    shape: type[Any]
    model: Callable[..., Any]
    context: int = 256


FAMILIES = {
    "decoder": Family(ModelConfig, Decoder),
    "lstm": Family(RecurrentConfig, Recurrent, context=64),
    "mlp": Family(PerceptronConfig, Perceptron),
    "encoder": Family(EncoderConfig, Encoder, context=128),
    PAIRED: Family(Seq2SeqConfig, EncoderDecoder),
}
"""By the name that --family and run files give."""

_MODELS = {family.shape: family.model for family in FAMILIES.values()} | {
    RecurrentClassifierConfig: RecurrentClassifier
}


def choose_family(name: str, *, preset: str = "") -> Family:
    """Raises UserError when there is no such family, or when it has no size called `preset`."""
    if name not in FAMILIES:
        raise UserError(
            "There is no family {name}. There are: {known}.", code=USAGE, name=name, known=", ".join(FAMILIES)
        )
    presets = load_presets(name)
    if preset and preset not in presets:
        raise UserError(
            "There is no preset {preset}. There are: {known}.", code=USAGE, preset=preset, known=", ".join(presets)
        )
    return FAMILIES[name]


def family_of(shape: Any) -> str:
    """The family's name."""
    if isinstance(shape, RecurrentClassifierConfig):
        return CLASSIFIER
    return next(name for name, family in FAMILIES.items() if isinstance(shape, family.shape))


def build(shape: Any, *, compute_dtype: torch.dtype = torch.float32, dropout: float = 0.0) -> Any:
    """The model of a shape, its weights still to come. `dropout` is no part of the shape."""
    return _MODELS[type(shape)](shape, compute_dtype=compute_dtype, dropout=dropout)
