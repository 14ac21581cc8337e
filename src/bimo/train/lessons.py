"""Lessons in batches, and how well the held-out ones are answered: the objective of tuning on conversations.

One conversation a row, so that none sees another. Those of like length stand together, which wastes little on filling
up; each epoch takes the batches in another order.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from bimo.models.families import LanguageModule
from bimo.runtime import t
from bimo.tokens.chat import Lesson
from bimo.tokens.lengths import LengthBatches
from bimo.train.losses import IGNORED, answer_loss, token_losses

__all__ = ["Answers", "LessonBatches", "answer_likelihoods", "filled", "likelihoods_per_token", "log_likelihoods"]

MOST_TOKENS = 2048
"""Of a batch, filled up: what backward needs of them has to stand in memory."""


class LessonBatches:
    """Batches of at most `batch` lessons and MOST_TOKENS, every lesson once an epoch. There must be one at least."""

    def __init__(self, lessons: Sequence[Lesson], *, batch: int, seed: int) -> None:
        self._lessons = lessons
        self._order = LengthBatches([len(lesson.ids) for lesson in lessons], rows=batch, tokens=MOST_TOKENS, seed=seed)
        self.steps_per_epoch = self._order.steps_per_epoch

    def at(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Ids and targets [B, T] of a step, int64."""
        return self._filled(self._order.at(step))

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Every batch once, the shortest lessons first."""
        return map(self._filled, self._order)

    def _filled(self, numbers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return filled([self._lessons[number] for number in numbers])


def filled(lessons: Sequence[Lesson]) -> tuple[np.ndarray, np.ndarray]:
    """Ids and targets [B, T], int64: each position's target is the id after it, where that one counts."""
    longest = max(len(lesson.ids) for lesson in lessons) - 1
    ids = np.zeros((len(lessons), longest), dtype=np.int64)
    targets = np.full((len(lessons), longest), IGNORED, dtype=np.int64)
    for row, lesson in enumerate(lessons):
        T = len(lesson.ids) - 1
        ids[row, :T] = lesson.ids[:-1]
        targets[row, :T] = np.where(lesson.counted[1:], lesson.ids[1:], IGNORED)
    return ids, targets


def answer_likelihoods(model: LanguageModule, ids: np.ndarray, targets: np.ndarray) -> Tensor:
    """Natural logarithm of the probability of each row's answer: ids and targets [B, T] -> [B] in float32."""
    device = model.embedding.weight.device
    read, wanted = torch.from_numpy(ids).to(device), torch.from_numpy(targets).to(device)
    counting = wanted != IGNORED
    hidden, head = model.hidden_states(read)[counting], model.head
    losses = token_losses(hidden, head.weight, wanted[counting], head.bias)
    rows = torch.arange(len(ids), device=device)[:, None].expand(ids.shape)[counting]
    return torch.zeros(len(ids), device=device).index_add(0, rows, -losses)


@torch.no_grad()
def log_likelihoods(
    model: LanguageModule, lessons: Sequence[Lesson], *, update: Callable[[int], None] = lambda done: None
) -> np.ndarray:
    """Natural logarithm of the probability of each lesson's answers: [B]. `update` hears how many are read."""
    training = model.training
    model.eval()
    found, done = np.empty(len(lessons)), 0
    for numbers in LengthBatches([len(lesson.ids) for lesson in lessons], rows=8, tokens=MOST_TOKENS, seed=0):
        batch = filled([lessons[number] for number in numbers])
        found[numbers] = answer_likelihoods(model, *batch).cpu().numpy()
        update(done := done + len(numbers))
    model.train(training)
    return found


def likelihoods_per_token(model: LanguageModule, lessons: Sequence[Lesson]) -> np.ndarray:
    """The same over the number of their tokens: [B]."""
    return log_likelihoods(model, lessons) / [sum(lesson.counted[1:]) for lesson in lessons]


class Answers:
    """Predict what the assistant says, token by token. `held_out_bytes` are those of the answers that are held out."""

    measure = "bits_per_byte"

    def __init__(self, held_out: Sequence[Lesson], *, held_out_bytes: int, batch: int) -> None:
        self._batches = LessonBatches(held_out, batch=batch, seed=0)
        self._tokens = sum(sum(lesson.counted[1:]) for lesson in held_out)
        self._bytes = held_out_bytes

    def loss(self, model: LanguageModule, batch: tuple[np.ndarray, np.ndarray]) -> tuple[Tensor, int]:
        """Of the tokens that count."""
        return answer_loss(model, batch)

    def facts(self, loss: float) -> dict[str, float]:
        """As bits a byte of what the assistant says."""
        return {"bits_per_byte": loss * self._tokens / math.log(2) / self._bytes}

    def line(self, loss: float) -> str:
        """In nats a token, as it is minimised."""
        return t("loss {loss:.3f}", loss=loss)

    @torch.no_grad()
    def validate(self, model: LanguageModule) -> dict[str, float]:
        """Mean cross-entropy in nats of all tokens that count in held-out lessons, each once; and bits per byte."""
        training = model.training
        model.eval()
        losses = [answer_loss(model, part) for part in self._batches]
        model.train(training)
        loss = sum(loss.item() * counted for loss, counted in losses) / sum(counted for _, counted in losses)
        return {"loss": loss, **self.facts(loss)}

    def verdict(self, measured: float, step: int) -> str:
        """As the loss of a token."""
        loss = measured * math.log(2) * self._bytes / self._tokens
        return t("held-out loss {loss:.3f} after {step:,} steps", loss=loss, step=step)
