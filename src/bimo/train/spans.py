"""Where answers stand: windows of question and text in batches, and the objective that finds first and last token.

A window without an answer points at its first token, `[CLS]` (Devlin et al. 2019, section 4.3).
B windows, T ids of the longest.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from bimo.models.encoder import Encoder
from bimo.runtime import t
from bimo.tokens.framing import FramedBatch
from bimo.tokens.lengths import LengthBatches
from bimo.tokens.spans import SpanFraming, SpanWindow

__all__ = ["MarkedWindow", "SpanBatch", "SpanBatches", "Spans", "span_logits"]

MOST_TOKENS = 4096
"""Of a batch, filled up: what backward needs of them has to stand in memory."""


class MarkedWindow(NamedTuple):
    """A window, and the places of the first and last token of its answer; both 0 where it holds none."""

    window: SpanWindow
    first: int
    last: int


class SpanBatch(NamedTuple):
    """A batch, where an answer may begin and end [B, T], where it does [B, 2], and which question each is of [B]."""

    framed: FramedBatch
    allowed: np.ndarray
    targets: np.ndarray
    pairs: np.ndarray


class SpanBatches:
    """Batches of at most `batch` windows and MOST_TOKENS, every window once an epoch. There must be one at least."""

    def __init__(self, marked: Sequence[MarkedWindow], framing: SpanFraming, *, batch: int, seed: int) -> None:
        self._marked, self._framing = marked, framing
        lengths = [len(one.window.framed.ids) for one in marked]
        self._order = LengthBatches(lengths, rows=batch, tokens=MOST_TOKENS, seed=seed)
        self.steps_per_epoch = self._order.steps_per_epoch

    def at(self, step: int) -> SpanBatch:
        """Of a step."""
        return self._filled(self._order.at(step))

    def __iter__(self) -> Iterator[SpanBatch]:
        """Every batch once, the shortest windows first."""
        return map(self._filled, self._order)

    def _filled(self, numbers: np.ndarray) -> SpanBatch:
        marked = [self._marked[number] for number in numbers]
        framed, of_text = self._framing.batch([one.window for one in marked])
        of_text[:, 0] = True
        targets = np.array([[one.first, one.last] for one in marked])
        return SpanBatch(framed, of_text, targets, np.array([one.window.pair for one in marked]))


def span_logits(model: Encoder, framed: FramedBatch, allowed: np.ndarray) -> Tensor:
    """How likely answers begin and end at each token [B, T, 2], float32; -inf where they may not."""
    device = model.embedding.weight.device
    ids, segments, real = (torch.from_numpy(part).to(device) for part in framed)
    logits = model(ids, segments=segments.clamp(max=model.config.segments - 1), real=real).float()
    return logits.masked_fill(~torch.from_numpy(allowed).to(device)[..., None], -torch.inf)


class Spans:
    """Find the first and the last token of each answer. `held_out` are all windows of questions not trained on."""

    measure = "missed"

    def __init__(self, held_out: Sequence[MarkedWindow], framing: SpanFraming, *, batch: int) -> None:
        self._batches = SpanBatches(held_out, framing, batch=batch, seed=0)

    def loss(self, model: Encoder, batch: SpanBatch) -> tuple[Tensor, int]:
        """The mean over both ends of all windows."""
        logits = span_logits(model, batch.framed, batch.allowed)
        targets = torch.from_numpy(batch.targets).to(logits.device)
        return F.cross_entropy(logits, targets), len(targets)

    def facts(self, loss: float) -> dict[str, float]:
        """The loss as it is."""
        return {"loss": loss}

    def line(self, loss: float) -> str:
        """In nats an end."""
        return t("loss {loss:.3f}", loss=loss)

    @torch.no_grad()
    def validate(self, model: Encoder) -> dict[str, float]:
        """Of held-out windows the mean loss, and of their questions the share `missed`: 1 - F1 over tokens of the
        surest window, which has to stay below no answer where the question has none.

        The loss grows again while answers still get better: what is missed it misses with more and more certainty.
        """
        training = model.training
        model.eval()
        loss, count = 0.0, 0
        surest: dict[int, tuple[float, float]] = {}
        answerable: set[int] = set()
        for batch in self._batches:
            logits = span_logits(model, batch.framed, batch.allowed)
            targets = torch.from_numpy(batch.targets).to(logits.device)
            loss += F.cross_entropy(logits, targets).item() * len(targets)
            count += len(targets)
            found, places = logits[:, 1:].max(dim=1)
            margins = (found - logits[:, 0]).sum(dim=1).tolist()
            agreed = _overlap(places + 1, targets).tolist()
            answerable.update(batch.pairs[batch.targets[:, 0] > 0].tolist())
            for pair, *window in zip(batch.pairs.tolist(), margins, agreed, strict=True):
                surest[pair] = max(surest.get(pair, (-math.inf, 0.0)), tuple(window))
        model.train(training)
        agreed = [share if pair in answerable else float(margin < 0) for pair, (margin, share) in surest.items()]
        return {"loss": loss / count, "missed": 1 - sum(agreed) / len(agreed)}

    def verdict(self, measured: float, step: int) -> str:
        """As what is not missed."""
        return t("F1 of tokens {share:.1%} on texts not seen after {step:,} steps", share=1 - measured, step=step)


def _overlap(found: Tensor, wanted: Tensor) -> Tensor:
    """F1 of two spans of first and last places [B, 2] -> [B]"""
    common = torch.minimum(found[:, 1], wanted[:, 1]) - torch.maximum(found[:, 0], wanted[:, 0]) + 1
    lengths = (found[:, 1] - found[:, 0] + 1).clamp(min=0) + wanted[:, 1] - wanted[:, 0] + 1
    return 2 * common.clamp(min=0) / lengths
