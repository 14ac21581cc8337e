"""Preferences in batches, and how surely the chosen answer is told from the rejected one: the objective of DPO.

A model is its own measure of reward (Rafailov et al. 2023): an answer is worth what its likelihood has gained over the
model that the tuning began with, the reference. P pairs, T positions, N positions that count.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from bimo.models.families import LanguageModule
from bimo.models.lora import adapter_off, is_adapted
from bimo.runtime import t
from bimo.tokens.chat import Lesson
from bimo.tokens.lengths import LengthBatches
from bimo.train.lessons import LessonBatches, answer_likelihoods, filled, log_likelihoods
from bimo.train.losses import IGNORED

__all__ = [
    "Duel",
    "DuelBatch",
    "DuelBatches",
    "Preferred",
    "answer_lengths",
    "batch_likelihoods",
    "divergence",
    "log_likelihoods_of_both",
    "margins",
    "preference_loss",
    "preference_loss_reference",
    "told_right",
]

MOST_TOKENS = 2048
"""Of the rows that are read together, filled up: what backward needs of them has to stand in memory."""

ROWS, PLACES = 8, 256
"""Lessons that are read together, and places whose chances stand in memory, when models are compared."""


@dataclass(frozen=True)
class Duel:
    """Two lessons that begin alike, of which the answers alone count."""

    chosen: Lesson
    rejected: Lesson

    @property
    def length(self) -> int:
        """Of the longer one, in ids."""
        return max(len(self.chosen.ids), len(self.rejected.ids))


class DuelBatch(NamedTuple):
    """Ids and targets [2 P, T], all chosen answers before all rejected ones, and the numbers of the pairs [P]."""

    ids: np.ndarray
    targets: np.ndarray
    pairs: np.ndarray


class DuelBatches:
    """Batches of `batch` pairs of like length, every pair once an epoch. There must be one at least.

    However long they are: a few pairs say too little of which answers are better.
    """

    def __init__(self, duels: Sequence[Duel], *, batch: int, seed: int) -> None:
        self.duels = duels
        lengths = [duel.length for duel in duels]
        self._order = LengthBatches(lengths, rows=batch, tokens=batch * max(lengths), seed=seed)
        self.steps_per_epoch = self._order.steps_per_epoch

    def at(self, step: int) -> DuelBatch:
        """The batch of a step."""
        return self._filled(self._order.at(step))

    def __iter__(self) -> Iterator[DuelBatch]:
        """Every batch once, the shortest pairs first."""
        return map(self._filled, self._order)

    def _filled(self, numbers: np.ndarray) -> DuelBatch:
        duels = [self.duels[number] for number in numbers]
        ids, targets = filled([*(duel.chosen for duel in duels), *(duel.rejected for duel in duels)])
        return DuelBatch(ids, targets, numbers)


def batch_likelihoods(model: LanguageModule, batch: DuelBatch) -> Tensor:
    """`answer_likelihoods` of a batch: [2 P]. At most MOST_TOKENS are read together.

    Where there are more, what backward needs is computed anew when its turn comes (Chen et al. 2016).
    """
    rows = max(1, MOST_TOKENS // batch.ids.shape[1])
    if len(batch.ids) <= rows:
        return answer_likelihoods(model, batch.ids, batch.targets)
    parts = [slice(start, start + rows) for start in range(0, len(batch.ids), rows)]
    return torch.cat(
        [
            checkpoint(answer_likelihoods, model, batch.ids[part], batch.targets[part], use_reentrant=False)
            for part in parts
        ]
    )


def preference_loss(likelihoods: Tensor, reference: Tensor, *, beta: float) -> Tensor:
    """Equation 7 of Rafailov et al. 2023 as the mean over pairs.

    Both [2 P]: natural logarithms of the probabilities of all chosen answers, then of all rejected ones.
    """
    return -F.logsigmoid(beta * margins(likelihoods - reference)).mean()


def margins(gains: Tensor) -> Tensor:
    """By how much more the chosen answer has gained than the rejected one: [2 P] -> [P]."""
    chosen, rejected = gains.chunk(2)
    return chosen - rejected


def preference_loss_reference(
    chosen: float, rejected: float, reference_chosen: float, reference_rejected: float, *, beta: float
) -> float:
    """The same for one pair, as it is written."""
    difference = beta * (chosen - reference_chosen) - beta * (rejected - reference_rejected)
    return float(-np.log(1 / (1 + np.exp(-difference))))


class _Reference:
    """What the reference says of answers, each pair once: asked for when it is needed, and kept.

    With an adapter the model without it is the reference, at any time; without one it is the model before its first
    step, so that all has to be asked before.
    """

    def __init__(self, pairs: int) -> None:
        self._kept = np.full((pairs, 2), np.nan, dtype=np.float32)

    @torch.no_grad()
    def of(self, model: LanguageModule, batch: DuelBatch) -> Tensor:
        """[2 P]"""
        kept = self._kept[batch.pairs]
        if np.isnan(kept).any():
            training = model.training
            model.eval()
            with adapter_off(model):
                found = batch_likelihoods(model, batch)
            model.train(training)
            kept = self._kept[batch.pairs] = found.view(2, -1).T.cpu().numpy()
        return torch.from_numpy(np.ascontiguousarray(kept.T)).flatten().to(model.embedding.weight.device)


class Preferred:
    """Prefer the chosen answers to the rejected ones without going far from the reference; `beta` says how far.

    A model without an adapter must come to `ask_reference` and to `validate` before its first step: see `_Reference`.
    """

    measure = "loss"

    def __init__(self, duels: Sequence[Duel], held_out: Sequence[Duel], *, beta: float, batch: int) -> None:
        self.beta = beta
        self._reference = _Reference(len(duels))
        self._held_out = DuelBatches(held_out, batch=batch, seed=0)
        self._held_out_reference = _Reference(len(held_out))

    def ask_reference(self, model: LanguageModule, batches: DuelBatches, update: Callable[[float], None]) -> None:
        """Let a model without an adapter say of all pairs what it thinks of them; one with an adapter is asked later.

        `update` is told the share that is done.
        """
        if not is_adapted(model):
            for number, batch in enumerate(batches, 1):
                self._reference.of(model, batch)
                update(number / batches.steps_per_epoch)

    def loss(self, model: LanguageModule, batch: DuelBatch) -> tuple[Tensor, int]:
        """Of pairs."""
        likelihoods = batch_likelihoods(model, batch)
        return preference_loss(likelihoods, self._reference.of(model, batch), beta=self.beta), len(batch.pairs)

    def facts(self, loss: float) -> dict[str, float]:
        """Nothing but the loss."""
        return {}

    def line(self, loss: float) -> str:
        """In nats a pair, as it is minimised; 0.693 is that of a model which prefers nothing."""
        return t("loss {loss:.3f}", loss=loss)

    @torch.no_grad()
    def gains(self, model: LanguageModule) -> np.ndarray:
        """What the likelihood of held-out answers has gained over the reference, in nats: [P, 2], chosen first."""
        training = model.training
        model.eval()
        found = np.empty((len(self._held_out.duels), 2), dtype=np.float32)
        for batch in self._held_out:
            gained = batch_likelihoods(model, batch) - self._held_out_reference.of(model, batch)
            found[batch.pairs] = gained.view(2, -1).T.cpu().numpy()
        model.train(training)
        return found

    def validate(self, model: LanguageModule) -> dict[str, float]:
        """Loss of held-out pairs; the share of them told right, undecided ones by half; mean rewards."""
        gains = torch.from_numpy(self.gains(model))
        rewards = self.beta * gains
        return {
            "loss": float(preference_loss(gains.T.flatten(), torch.zeros(2 * len(gains)), beta=self.beta)),
            "accuracy": float(told_right(gains.numpy()).mean()),
            "margin": float((rewards[:, 0] - rewards[:, 1]).mean()),
            "chosen_reward": float(rewards[:, 0].mean()),
            "rejected_reward": float(rewards[:, 1].mean()),
        }

    def verdict(self, measured: float, step: int) -> str:
        """As the loss of a pair."""
        return t("held-out loss {loss:.3f} after {step:,} steps", loss=measured, step=step)


def log_likelihoods_of_both(
    model: LanguageModule, duels: Sequence[Duel], *, update: Callable[[int], None] = lambda done: None
) -> np.ndarray:
    """Natural logarithms of the probabilities of both answers [P, 2], chosen ones first."""
    sides = [*(duel.chosen for duel in duels), *(duel.rejected for duel in duels)]
    return log_likelihoods(model, sides, update=update).reshape(2, -1).T


def answer_lengths(duels: Sequence[Duel]) -> np.ndarray:
    """Tokens of both answers that count [P, 2], chosen ones first."""
    return np.array([[sum(lesson.counted[1:]) for lesson in (duel.chosen, duel.rejected)] for duel in duels])


def told_right(gains: np.ndarray) -> np.ndarray:
    """1 for each pair [P, 2] whose chosen answer has gained more, 0 for the others, 0.5 where neither has."""
    return (np.sign(gains[:, 0] - gains[:, 1]) + 1) / 2


@torch.no_grad()
def divergence(model: LanguageModule, reference: LanguageModule | None, lessons: Sequence[Lesson]) -> float:
    """Kullback-Leibler divergence from the reference, in nats a token: over the whole vocabulary, at the places where
    a lesson's answer stands. `reference` None is the model without its adapter.
    """
    model.eval()
    total, places = 0.0, 0
    for ids, targets in LessonBatches(lessons, batch=ROWS, seed=0):
        read = torch.from_numpy(ids).to(model.embedding.weight.device)
        counting = torch.from_numpy(targets != IGNORED).to(read.device)
        ours = model.hidden_states(read)[counting]
        with adapter_off(model):
            theirs = (reference or model).hidden_states(read)[counting]
        for start in range(0, len(ours), PLACES):
            part = slice(start, start + PLACES)
            one = model.head(ours[part]).float().log_softmax(dim=-1)
            other = (reference or model).head(theirs[part]).float().log_softmax(dim=-1)
            total += float((one.exp() * (one - other)).sum())
        places += len(ours)
    return total / places
