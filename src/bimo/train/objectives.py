"""What a model is trained for: its loss, and how well it does on text that is held out."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from bimo.models.encoder import EncoderConfig
from bimo.models.families import LanguageModule, Shape
from bimo.models.scoring import Score, rolling_scores
from bimo.models.seq2seq import EncoderDecoder
from bimo.runtime import DATA_REFUSED, UserError, t
from bimo.tokens.batches import count_windows
from bimo.tokens.masking import LEARNED, Masked, with_mask_token
from bimo.tokens.pairs import PairBatch, PairBatches, PairTokens
from bimo.tokens.shards import TokenShards
from bimo.tokens.tokenizer import Tokenizer, load_tokenizer
from bimo.train.losses import masked_loss, next_token_loss, translation_loss
from bimo.train.masked_words import MaskedWords, tokens_between
from bimo.train.settings import TrainConfig

__all__ = [
    "VALIDATION_TOKENS",
    "NextToken",
    "Objective",
    "Pretraining",
    "Translate",
    "choose_objective",
    "require_windows",
    "tokenizer_of",
    "trial_loss",
]

VALIDATION_TOKENS = 24_000
"""Validation during training looks at about so many tokens; the evaluation afterwards looks at all."""

VALIDATION_BATCH = 4_096
"""Padded tokens that are looked at together."""
MOST_NATS = 700
"""Of a token: its perplexity would be no number beyond."""


class Objective(Protocol):
    """What a training asks of its objective."""

    measure: str
    """The name, in metrics and facts, of what `validate` finds; less is better."""

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


class Pretraining(Objective, Protocol):
    """What a training from nothing asks as well."""

    def clean_loss(self, model: Any, batch: Any) -> tuple[Tensor, int]:
        """`loss` as `validate` takes it: of the batch as it is, without noise and smoothing."""


class NextToken:
    """Predict each token from those before it: the objective of every language model."""

    measure = "bits_per_byte"

    def __init__(
        self, validation: TokenShards, tokenizer: Tokenizer, *, context: int, noise: float, smoothing: float = 0.0
    ) -> None:
        self.documents, self.bytes = _validation_part(validation, tokenizer)
        self.predicted = sum(len(document) - 1 for document in self.documents)
        self.context, self.noise, self.smoothing = context, noise, smoothing

    def loss(self, model: LanguageModule, batch: Any) -> tuple[Tensor, int]:
        """Of windows [B, T + 1]."""
        return next_token_loss(model, batch, noise=self.noise, smoothing=self.smoothing)

    def clean_loss(self, model: LanguageModule, batch: Any) -> tuple[Tensor, int]:
        """Of windows [B, T + 1], as they are."""
        return next_token_loss(model, batch)

    def facts(self, loss: float) -> dict[str, float]:
        """The loss as bits per byte, by the bytes that a token of the validation text has."""
        return {"bits_per_byte": loss / math.log(2) * self.predicted / self.bytes}

    def line(self, loss: float) -> str:
        """In bits per byte."""
        return t("{bits:.3f} bits/byte", bits=self.facts(loss)["bits_per_byte"])

    def validate(self, model: LanguageModule) -> dict[str, float]:
        """Bits per byte of documents that are not trained on; perplexity, and the share of the tokens foreseen."""
        total = sum(rolling_scores(model, self.documents, context=self.context, stride=self.context), Score())
        return {
            "loss": total.nats / self.predicted,
            "bits_per_byte": total.nats / math.log(2) / self.bytes,
            "perplexity": math.exp(min(total.nats / self.predicted, MOST_NATS)),
            "accuracy": total.hits / self.predicted,
        }

    def verdict(self, measured: float, step: int) -> str:
        """In bits per byte."""
        return t("{bits:.3f} bits per byte on unseen text after {step:,} steps", bits=measured, step=step)


def tokenizer_of(data: Path, family: str) -> Tokenizer:
    """The tokenizer of prepared data, as a family needs it: an encoder has a few more special tokens."""
    tokenizer = load_tokenizer(data)
    return with_mask_token(tokenizer) if family == "encoder" else tokenizer


def choose_objective(shape: Shape, validation: TokenShards, tokenizer: Tokenizer, settings: TrainConfig) -> Pretraining:
    """What a model of this shape is trained for. Raises UserError where no document is held out."""
    if next(iter(validation.documents()), None) is None:
        raise UserError(
            "The data holds no document to test with, so nothing could be said about the model. Add text, in two "
            "documents at least, and prepare again.",
            code=DATA_REFUSED,
        )
    window = settings.window or shape.context
    if isinstance(shape, EncoderConfig):
        settings.require_use("encoder")
        return MaskedWords(validation, tokenizer, context=window)
    return NextToken(validation, tokenizer, context=window, noise=settings.noise, smoothing=settings.smoothing)


def require_windows(shape: Shape, *, tokens: int) -> None:
    """Raises UserError where a text of so many tokens is too short for the context of a shape."""
    count_windows(tokens, context=tokens_between(shape.context) if isinstance(shape, EncoderConfig) else shape.context)


def trial_loss(model: Any, shape: Shape, batch: int) -> Tensor:
    """The loss of random ids, as a step of training computes it, so that its time can be taken."""
    ids = np.random.default_rng(0).integers(shape.vocabulary, size=(batch, shape.context + 1))
    if isinstance(shape, EncoderConfig):
        windows = ids[:, :-1]
        return masked_loss(model, Masked(windows, windows, windows % 10 < 10 * LEARNED))[0]
    return next_token_loss(model, ids)[0]


SMOOTHING = 0.1
"""Usual of translation (Vaswani et al. 2017, section 5.4)."""


class Translate:
    """Predict each token of a target from its source and the tokens before it."""

    measure = "bits_per_byte"

    def __init__(
        self, validation: PairTokens, tokenizer: Tokenizer, *, pad: int, noise: float, smoothing: float
    ) -> None:
        self.noise, self.smoothing = noise, smoothing
        batches = PairBatches(validation, tokens=VALIDATION_BATCH, pad=pad, seed=0)
        self.batches = [batches.at(step) for step in range(batches.steps_per_epoch)]
        self.predicted = int(validation.lengths[:, 1].sum())
        targets = (row[row != pad].tolist() for batch in self.batches for row in batch.target)
        self.bytes = max(1, sum(len(tokenizer.decode(target).encode()) for target in targets))

    def loss(self, model: EncoderDecoder, batch: PairBatch) -> tuple[Tensor, int]:
        """Of pairs, smoothed."""
        return translation_loss(model, batch, noise=self.noise, smoothing=self.smoothing)

    def clean_loss(self, model: EncoderDecoder, batch: PairBatch) -> tuple[Tensor, int]:
        """Of pairs, as they are."""
        return translation_loss(model, batch)

    def facts(self, loss: float) -> dict[str, float]:
        """The loss as bits a byte of the target, and as perplexity of a token."""
        return {
            "bits_per_byte": loss / math.log(2) * self.predicted / self.bytes,
            "perplexity": math.exp(min(loss, MOST_NATS)),
        }

    def line(self, loss: float) -> str:
        """In nats a token, as it is minimised."""
        return t("loss {loss:.3f}", loss=loss)

    @torch.no_grad()
    def validate(self, model: EncoderDecoder) -> dict[str, float]:
        """Of all pairs that are held out, unsmoothed."""
        training = model.training
        model.eval()
        found = [translation_loss(model, batch) for batch in self.batches]
        model.train(training)
        loss = sum(mean.item() * counted for mean, counted in found) / self.predicted
        return {"loss": loss, **self.facts(loss)}

    def verdict(self, measured: float, step: int) -> str:
        """In bits per byte, and as the perplexity of a token."""
        loss = measured * math.log(2) * self.bytes / self.predicted
        return t(
            "{bits:.3f} bits per byte of unseen targets, perplexity {perplexity:.1f}, after {step:,} steps",
            bits=measured,
            perplexity=math.exp(min(loss, MOST_NATS)),
            step=step,
        )


def _validation_part(shards: TokenShards, tokenizer: Tokenizer) -> tuple[list[list[int]], int]:
    """Documents between end tokens, spread over the whole split, about VALIDATION_TOKENS; and their bytes."""
    documents = [document.tolist() for document in shards.documents()]
    every = max(1, round(len(shards) / VALIDATION_TOKENS))
    chosen = documents[::every]
    bytes_ = sum(len(tokenizer.decode(document).encode()) for document in chosen)
    return [[shards.end, *document, shards.end] for document in chosen], bytes_
