"""Tunes an encoder to tell classes apart, from a folder of BERT's shape or from nothing but the texts; or an LSTM.

N texts, K labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from bimo.console import Console
from bimo.models.encoder import Encoder, EncoderConfig, with_head
from bimo.models.heads import Head
from bimo.models.recurrent_classifier import RecurrentClassifier, RecurrentClassifierConfig
from bimo.runtime import t
from bimo.tasks.classify.measures import accuracies, chances, chosen_labels, fitted_temperature, log_loss, macro_f1s
from bimo.tasks.classify.neural import NeuralClassifier, Reader, frame, logits_of, on_device
from bimo.tasks.folder import number_format, tell_cut
from bimo.text.labelled import Labelled, fold_numbers
from bimo.tokens.framing import FramedBatch, Framing
from bimo.tokens.lengths import LengthBatches
from bimo.tokens.masking import with_mask_token
from bimo.tokens.tokenizer import Tokenizer, choose_vocabulary, load_tokenizer, train_tokenizer
from bimo.train.tune import TuneConfig, Tuning
from bimo.weights.huggingface import load_encoder

__all__ = ["begin", "begin_recurrent", "open_start", "tune_neural", "usual"]

USUAL_BATCH, USUAL_EPOCHS, USUAL_CONTEXT = 32, 3.0, 256
"""Texts are shorter than conversations, for which the general settings are meant."""
USUAL_RATE, USUAL_RATE_FROM_NOTHING, LORA_RATE = 2e-4, 1e-3, 1e-3
"""Of AdamW; tried on little alone. At the first an adapter has learned nothing after an epoch (docs/log.md)."""
MOST_TOKENS = 8192
"""Of a batch, filled up."""
DROPOUT = 0.1
SMALL: dict[str, Any] = {"layers": 2, "width": 192, "heads": 4, "hidden": 768}
"""The encoder that begins with nothing: more of it learns a file of labels by heart."""
SMALL_RECURRENT: dict[str, Any] = {"layers": 1, "width": 128}
RECURRENT_DROPOUT = 0.3
MOST_UNEVEN = 10.0
"""How much more a text of a rare label may weigh than one of the most frequent."""


def usual(settings: TuneConfig, *, from_nothing: bool) -> TuneConfig:
    """Settings that nobody chose become those that are usual for texts."""
    if from_nothing:
        return settings.filled(
            rate=USUAL_RATE_FROM_NOTHING, epochs=3 * USUAL_EPOCHS, batch=USUAL_BATCH, context=USUAL_CONTEXT
        )
    rate = USUAL_RATE if settings.lora is None else LORA_RATE
    return settings.filled(rate=rate, epochs=USUAL_EPOCHS, batch=USUAL_BATCH, context=USUAL_CONTEXT)


@dataclass(frozen=True)
class _Batch:
    """Framed texts, and bool [N, K] of their labels."""

    texts: FramedBatch
    truth: np.ndarray


class _Batches:
    """Batches of at most `rows` texts, those of like length together, every text once an epoch."""

    def __init__(self, examples: Sequence[Labelled], truth: np.ndarray, framing: Framing, *, rows: int, seed: int):
        self.framed, self._truth, self._framing = _frame(framing, examples), truth, framing
        lengths = [len(one.ids) for one in self.framed]
        self._order = LengthBatches(lengths, rows=rows, tokens=MOST_TOKENS, seed=seed)
        self.steps_per_epoch = self._order.steps_per_epoch

    def at(self, step: int) -> _Batch:
        """The batch of a step."""
        numbers = self._order.at(step)
        return _Batch(self._framing.batch([self.framed[number] for number in numbers]), self._truth[numbers])


class Labels:
    """Tell the labels of texts. A label that is rare weighs more, up to MOST_UNEVEN times."""

    measure = "macro_error"

    def __init__(
        self, held_out: Sequence[Labelled], truth: np.ndarray, framing: Framing, *, weights: np.ndarray, several: bool
    ) -> None:
        self._framed, self._truth, self._framing = _frame(framing, held_out), truth, framing
        self._weights, self._several = torch.from_numpy(weights.astype(np.float32)), several

    def loss(self, model: Reader, batch: _Batch) -> tuple[Tensor, int]:
        """Mean cross-entropy in nats of a batch, and how many texts it has."""
        logits = model(**on_device(batch.texts, model)).float()
        truth = torch.from_numpy(batch.truth).to(logits.device)
        weights = self._weights.to(logits.device)
        if self._several:
            loss = F.binary_cross_entropy_with_logits(logits, truth.float(), pos_weight=weights)
        else:
            loss = F.cross_entropy(logits, truth.int().argmax(dim=1), weight=weights)
        return loss, len(batch.truth)

    def facts(self, loss: float) -> dict[str, float]:
        """The loss as it is."""
        return {"loss": loss}

    def line(self, loss: float) -> str:
        """In nats a text."""
        return t("loss {loss:.3f}", loss=loss)

    def scores(self, model: Reader) -> np.ndarray:
        """Logits [N, K] of what is held out."""
        training = model.training
        model.eval()
        found = logits_of(model, self._framing, self._framed)
        model.train(training)
        return found

    def validate(self, model: Reader) -> dict[str, float]:
        """Loss in nats, accuracy and one minus macro-F1 of what is held out."""
        found = chances(self.scores(model), several=self._several)
        chosen = chosen_labels(found, several=self._several)
        accuracy, macro = (float(of(chosen, self._truth)[0]) for of in (accuracies, macro_f1s))
        loss = log_loss(found, self._truth, several=self._several)
        return {"loss": loss, "accuracy": accuracy, "macro_error": 1 - macro}

    def verdict(self, measured: float, step: int) -> str:
        """As macro-F1."""
        return t("macro-F1 {macro:.3f} on unseen texts after {step:,} steps", macro=1 - measured, step=step)


def _frame(framing: Framing, examples: Sequence[Labelled]) -> Any:
    return frame(framing, [example.text for example in examples], [example.second for example in examples])


def open_start(path: Path, labels: Sequence[str], *, several: bool, context: int, seed: int) -> NeuralClassifier:
    """The encoder in a folder, with a new head for these labels. Raises UserError when there is none."""
    start = load_encoder(path)
    head = Head("classes", labels=tuple(labels), pooler=True, several=several)
    model = with_head(start, head, seed=seed, dropout=DROPOUT)
    # A third less to compute and to remember; a file of labels says little of most words.
    model.embedding.weight.requires_grad_(False)
    framing = Framing(load_tokenizer(path), context=min(context, start.config.context))
    return NeuralClassifier(model, framing)


def begin(
    examples: Sequence[Labelled], labels: Sequence[str], *, several: bool, context: int, seed: int
) -> NeuralClassifier:
    """A small encoder of random weights, with a tokenizer that is learned from the texts."""
    tokenizer = _tokenizer_of(examples)
    head = Head("classes", labels=tuple(labels), pooler=True, several=several)
    config = EncoderConfig(vocabulary=tokenizer.vocabulary, context=context, head=head, **SMALL)
    return NeuralClassifier(Encoder(config, dropout=DROPOUT).initialise(seed), Framing(tokenizer, context=context))


def begin_recurrent(
    examples: Sequence[Labelled], labels: Sequence[str], *, several: bool, context: int, seed: int
) -> NeuralClassifier:
    """An LSTM of both directions with random weights, and a tokenizer that is learned from the texts."""
    tokenizer = _tokenizer_of(examples)
    config = RecurrentClassifierConfig(
        vocabulary=tokenizer.vocabulary, context=context, labels=tuple(labels), several=several, **SMALL_RECURRENT
    )
    model = RecurrentClassifier(config, dropout=RECURRENT_DROPOUT).initialise(seed)
    return NeuralClassifier(model, Framing(tokenizer, context=context))


def _tokenizer_of(examples: Sequence[Labelled]) -> Tokenizer:
    texts = [part for example in examples for part in (example.text, example.second) if part]
    vocabulary = choose_vocabulary(sum(len(text.encode()) for text in texts))
    return with_mask_token(train_tokenizer(texts, vocabulary=vocabulary))


def tune_neural(
    start: NeuralClassifier,
    train: Sequence[Labelled],
    held_out: Sequence[Labelled],
    truths: tuple[np.ndarray, np.ndarray],
    *,
    settings: TuneConfig,
    home: Path,
    console: Console,
) -> tuple[dict[str, Any], np.ndarray]:
    """Tune it in place; returns what happened, and chances [N, K] of what is held out, as `judged_chances`.

    At the end its head is scaled so that it is as sure of itself as it is right on all that is held out.
    """
    sizes = np.maximum(1, truths[0].sum(axis=0))
    weights = np.minimum(MOST_UNEVEN, np.sqrt(sizes.max() / sizes))
    objective = Labels(held_out, truths[1], start.framing, weights=weights, several=start.several)
    model = start.model
    model.compute_dtype = number_format(home.parent, model.embedding.weight.device)
    batches = _Batches(train, truths[0], start.framing, rows=settings.batch, seed=settings.seed)
    tell_cut(batches.framed, start.framing.context, console)
    facts = Tuning(model, objective, batches, settings, home=home, console=console).run()
    model.compute_dtype = torch.float32
    scores = objective.scores(model)
    factor = fitted_temperature(scores, truths[1], several=start.several)
    assert model.head is not None
    with torch.no_grad():
        for weight in model.head.parameters():
            weight.mul_(factor)
    return {**facts, "temperature": factor}, judged_chances(scores, truths[1], held_out, several=start.several)


def judged_chances(scores: np.ndarray, truth: np.ndarray, held_out: Sequence[Labelled], *, several: bool) -> np.ndarray:
    """Chances [N, K] of scores, each by the temperature that fits the other half: none helped to choose its own."""
    second = fold_numbers(held_out, 2, seed=0) == 1
    found = np.empty(scores.shape)
    for half in (second, ~second):
        others = ~half if not half.all() else half
        factor = fitted_temperature(scores[others], truth[others], several=several)
        found[half] = chances(factor * scores[half], several=several)
    return found
