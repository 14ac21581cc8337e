"""What a model is trained for: its loss, and how well it does on text that is held out."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from torch import Tensor

from bimo.models.encoder import EncoderConfig
from bimo.models.families import LanguageModule, Shape
from bimo.models.scoring import rolling_losses
from bimo.runtime import DATA_REFUSED, UserError, t
from bimo.tokens.batches import Batches
from bimo.tokens.masking import Masked, with_mask_token
from bimo.tokens.shards import TokenShards
from bimo.tokens.tokenizer import Tokenizer, load_tokenizer
from bimo.train.losses import masked_loss, next_token_loss
from bimo.train.masked_words import MaskedWords
from bimo.train.settings import TrainConfig

__all__ = ["NextToken", "Objective", "choose_objective", "tokenizer_of", "trial_loss"]

VALIDATION_TOKENS = 24_000
"""Validation during training looks at about so many tokens; the evaluation afterwards looks at all."""


class Objective(Protocol):
    """What a training asks of its objective."""

    measure: str
    """The name, in metrics and facts, of what `validate` finds; less is better."""

    def batches(self, shards: TokenShards, *, batch: int, seed: int) -> Any:
        """What `at(step)` gives the batch of a step, of so many windows."""

    def loss(self, model: Any, batch: Any) -> tuple[Tensor, int]:
        """The mean loss in nats over the targets of a batch, and how many those are."""

    def facts(self, loss: float) -> dict[str, float]:
        """What metrics keep of a loss."""

    def line(self, loss: float) -> str:
        """A loss for people, in few words."""

    def validate(self, model: Any) -> dict[str, float]:
        """`loss` in nats and `measure` on held-out text."""

    def verdict(self, measured: float, step: int) -> str:
        """What `validate` found, as a sentence."""


class NextToken:
    """Predict each token from those before it: the objective of every language model."""

    measure = "bits_per_byte"

    def __init__(self, validation: TokenShards, tokenizer: Tokenizer, *, context: int, noise: float) -> None:
        self.documents, self.bytes = _validation_part(validation, tokenizer)
        self.predicted = sum(len(document) - 1 for document in self.documents)
        self.context, self.noise = context, noise

    def batches(self, shards: TokenShards, *, batch: int, seed: int) -> Batches:
        """Windows [B, T + 1]."""
        return Batches(shards, batch=batch, context=self.context, seed=seed)

    def loss(self, model: LanguageModule, batch: np.ndarray) -> tuple[Tensor, int]:
        """Of windows [B, T + 1]."""
        return next_token_loss(model, batch, noise=self.noise)

    def facts(self, loss: float) -> dict[str, float]:
        """The loss as bits per byte, by the bytes that a token of the validation text has."""
        return {"bits_per_byte": loss / math.log(2) * self.predicted / self.bytes}

    def line(self, loss: float) -> str:
        """In bits per byte."""
        return t("{bits:.3f} bits/byte", bits=self.facts(loss)["bits_per_byte"])

    def validate(self, model: LanguageModule) -> dict[str, float]:
        """Bits per byte of documents that are not trained on."""
        total = sum(rolling_losses(model, self.documents, context=self.context, stride=self.context))
        return {"loss": total / self.predicted, "bits_per_byte": total / math.log(2) / self.bytes}

    def verdict(self, measured: float, step: int) -> str:
        """In bits per byte."""
        return t("{bits:.3f} bits per byte on unseen text after {step:,} steps", bits=measured, step=step)


def tokenizer_of(data: Path, family: str) -> Tokenizer:
    """The tokenizer of prepared data, as a family needs it: an encoder has a few more special tokens."""
    tokenizer = load_tokenizer(data)
    return with_mask_token(tokenizer) if family == "encoder" else tokenizer


def choose_objective(shape: Shape, validation: TokenShards, tokenizer: Tokenizer, settings: TrainConfig) -> Objective:
    """What a model of this shape is trained for."""
    if isinstance(shape, EncoderConfig):
        return MaskedWords(validation, tokenizer, context=shape.context)
    return NextToken(validation, tokenizer, context=shape.context, noise=settings.noise)


def trial_loss(model: Any, shape: Shape, batch: int) -> Tensor:
    """The loss of random ids, as a step of training computes it, so that its time can be taken."""
    ids = np.random.default_rng(0).integers(shape.vocabulary, size=(batch, shape.context + 1))
    if isinstance(shape, EncoderConfig):
        windows = ids[:, :-1]
        return masked_loss(model, Masked(windows, windows, windows % 7 == 0))[0]
    return next_token_loss(model, ids)[0]


def _validation_part(shards: TokenShards, tokenizer: Tokenizer) -> tuple[list[list[int]], int]:
    """Documents between end tokens, spread over the whole split, about VALIDATION_TOKENS; and their bytes."""
    documents = [document.tolist() for document in shards.documents()]
    if not documents:
        raise UserError(
            "The data holds no document to test with, so nothing could be said about the model. Add text, in two "
            "documents at least, and prepare again.",
            code=DATA_REFUSED,
        )
    every = max(1, round(len(shards) / VALIDATION_TOKENS))
    chosen = documents[::every]
    bytes_ = sum(len(tokenizer.decode(document).encode()) for document in chosen)
    return [[shards.end, *document, shards.end] for document in chosen], bytes_
