"""Learning vectors of texts: those that belong together come near each other, all others of a batch move away.

B couples of a batch, D width.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from bimo.correlation import pearson, spearman
from bimo.models.encoder import Encoder
from bimo.models.pooling import pool
from bimo.runtime import seeded, t
from bimo.tokens.framing import Framed, FramedBatch, Framing
from bimo.tokens.lengths import MixedBatches

__all__ = [
    "Contrast",
    "Couple",
    "CoupleBatches",
    "Couples",
    "Pooling",
    "Ranking",
    "info_nce",
    "info_nce_reference",
    "ranking_loss",
    "ranking_loss_reference",
]

MOST_TOKENS = 8192
"""Of a batch, both sides together: what backward needs of them has to stand in memory."""

STEPS = 4

TEMPERATURE = 0.05
"""Of Gao et al. 2021, for cosines; CoSENT's factor of 20 is the same."""


def info_nce(first: Tensor, second: Tensor, same: Tensor, *, temperature: float = TEMPERATURE) -> Tensor:
    """Mean loss in nats of finding each one's partner among all of the batch, from both sides: [B, D] twice.

    van den Oord et al. 2018, eq. 4, with cosines. `same` [B, B] tells others that are no strangers: they do not count.
    """
    cosines = F.normalize(first, dim=-1) @ F.normalize(second, dim=-1).mT / temperature
    own = torch.eye(len(cosines), dtype=torch.bool, device=cosines.device)
    logits = cosines.masked_fill(same & ~own, float("-inf"))
    places = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, places) + F.cross_entropy(logits.mT, places)) / 2


def info_nce_reference(first: Tensor, second: Tensor, same: Tensor, *, temperature: float = TEMPERATURE) -> Tensor:
    """The same, as it is written, pair by pair."""
    losses = []
    for left, right, others in ((first, second, same), (second, first, same.mT)):
        for i in range(len(left)):
            likeness = [torch.exp(F.cosine_similarity(left[i], one, dim=0) / temperature) for one in right]
            strangers = [likeness[j] for j in range(len(right)) if j != i and not others[i, j]]
            losses.append(-torch.log(likeness[i] / torch.stack([likeness[i], *strangers]).sum()))
    return torch.stack(losses).mean()


def ranking_loss(cosines: Tensor, scores: Tensor, *, temperature: float = TEMPERATURE) -> Tensor:
    """CoSENT (Su 2022): log(1 + sum of exp((cosine_j - cosine_i) / temperature) over all i scored above j); [B] twice.

    It asks for the order of the scores alone, which is what Spearman's correlation measures.
    """
    gaps = (cosines[None, :] - cosines[:, None]) / temperature
    above = scores[:, None] > scores[None, :]
    gaps = gaps.masked_fill(~above, float("-inf")).flatten()
    return torch.cat([gaps.new_zeros(1), gaps]).logsumexp(dim=0)


def ranking_loss_reference(cosines: Tensor, scores: Tensor, *, temperature: float = TEMPERATURE) -> Tensor:
    """The same, as it is written."""
    total = torch.ones(())
    for i in range(len(scores)):
        for j in range(len(scores)):
            if scores[i] > scores[j]:
                total = total + torch.exp((cosines[j] - cosines[i]) / temperature)
    return torch.log(total)


class Couple(NamedTuple):
    """Two framed texts; `known` numbers them, equal texts alike; `score` says how alike they are, where that is known.

    Of a text alone, the text twice: dropout makes two vectors of it (Gao et al. 2021), and tokens that are left out.
    """

    first: Framed
    second: Framed
    known: tuple[int, int]
    score: float = 0.0


class Couples(NamedTuple):
    """A batch: both sides, which second is no stranger to which first [B, B], and scores [B]."""

    first: FramedBatch
    second: FramedBatch
    same: np.ndarray
    scores: np.ndarray


class CoupleBatches:
    """Batches of `batch` couples in another company each epoch; fewer where those have more than MOST_TOKENS, or where
    there are so few couples that an epoch would be over in less than STEPS.

    `dropped` is the share of the tokens that each text is read without, each time others.
    """

    def __init__(
        self, couples: Sequence[Couple], framing: Framing, *, batch: int, seed: int, dropped: float = 0.0
    ) -> None:
        self._couples, self._framing, self._dropped, self._seed = couples, framing, dropped, seed
        lengths = [len(couple.first.ids) + len(couple.second.ids) for couple in couples]
        room = int(MOST_TOKENS / np.quantile(lengths, 0.9))
        self.together = max(2, min(batch, room))
        self.rows = min(len(couples), max(2, min(self.together, len(couples) // STEPS)))
        self._order = MixedBatches(lengths, rows=self.rows, seed=seed)
        self.steps_per_epoch = self._order.steps_per_epoch

    def at(self, step: int) -> Couples:
        """The batch of a step."""
        return self._filled([self._couples[number] for number in self._order.at(step)], step)

    def __iter__(self) -> Iterator[Couples]:
        """Every couple once, in their order, up to `together` in batches of like size."""
        count = math.ceil(len(self._couples) / self.together)
        for number, places in enumerate(np.array_split(np.arange(len(self._couples)), count)):
            yield self._filled([self._couples[place] for place in places], number)

    def _filled(self, couples: Sequence[Couple], number: int) -> Couples:
        random = np.random.default_rng((self._seed, number))
        known = np.array([couple.known for couple in couples])
        left, right = known[:, 0], known[:, 1]
        same = left[:, None] == left
        same |= right[:, None] == right
        same |= left[:, None] == right
        first, second = (
            self._framing.batch([without_some(framed, self._dropped, random) for framed in side])
            for side in ([couple.first for couple in couples], [couple.second for couple in couples])
        )
        return Couples(first, second, same, np.array([couple.score for couple in couples], dtype=np.float32))


def without_some(framed: Framed, share: float, random: np.random.Generator) -> Framed:
    """A text without a share of its tokens; the special ones around it stay (the token cutoff of Yan et al. 2021)."""
    ids = framed.ids
    if share:
        kept = random.random(len(ids)) >= share
        kept[[0, -1]] = True
        ids = [id for id, stays in zip(ids, kept, strict=True) if stays]
    return framed._replace(ids=ids, first=len(ids))


@dataclass(frozen=True)
class Pooling:
    """How vectors are made while they are learned: `how` is one of models.pooling.POOLINGS."""

    how: str

    def __call__(self, model: Encoder, batch: FramedBatch) -> Tensor:
        """Vectors [B, D] of the length 1."""
        ids, real = (torch.from_numpy(part).to(model.embedding.weight.device) for part in (batch.ids, batch.real))
        return pool(model.hidden_states(ids, real=real), real, how=self.how, normalize=True)


class Contrast:
    """Find each text's partner among those of a batch.

    Where partners are the same text they differ by chance alone, so that dropout stays on for the held-out ones as
    well, always the same (`noisy`).
    """

    measure = "loss"

    def __init__(self, held_out: CoupleBatches, pooling: Pooling, *, noisy: bool) -> None:
        self._held_out, self._pooling, self._noisy = held_out, pooling, noisy

    def loss(self, model: Encoder, batch: Couples) -> tuple[Tensor, int]:
        """Of both sides."""
        same = torch.from_numpy(batch.same).to(model.embedding.weight.device)
        return info_nce(self._pooling(model, batch.first), self._pooling(model, batch.second), same), len(batch.same)

    def facts(self, loss: float) -> dict[str, float]:
        """The loss says it all."""
        return {}

    def line(self, loss: float) -> str:
        """In nats a text."""
        return t("loss {loss:.3f}", loss=loss)

    @torch.no_grad()
    def validate(self, model: Encoder) -> dict[str, float]:
        """The loss of held-out couples among each other, batch by batch, and the share of partners that are found."""
        training = model.training
        model.train(self._noisy)
        total, found, count = 0.0, 0, 0
        with seeded(0):
            for batch in self._held_out:
                first, second = self._pooling(model, batch.first), self._pooling(model, batch.second)
                same = torch.from_numpy(batch.same).to(first.device)
                total += info_nce(first, second, same).item() * len(first)
                strangers = same & ~torch.eye(len(same), dtype=torch.bool, device=same.device)
                nearest = (first @ second.mT).masked_fill(strangers, float("-inf")).argmax(dim=1)
                found += int((nearest.cpu() == torch.arange(len(first))).sum())
                count += len(first)
        model.train(training)
        return {"loss": total / count, "found": found / count}

    def verdict(self, measured: float, step: int) -> str:
        """As the loss of a text."""
        return t("held-out loss {loss:.3f} after {step:,} steps", loss=measured, step=step)


class Ranking:
    """Bring the cosines of couples into the order of their scores."""

    measure = "disorder"

    def __init__(self, held_out: CoupleBatches, pooling: Pooling) -> None:
        self._held_out, self._pooling = held_out, pooling

    def loss(self, model: Encoder, batch: Couples) -> tuple[Tensor, int]:
        """Of the order."""
        scores = torch.from_numpy(batch.scores).to(model.embedding.weight.device)
        return ranking_loss(self._cosines(model, batch), scores), len(scores)

    def facts(self, loss: float) -> dict[str, float]:
        """The loss says it all."""
        return {}

    def line(self, loss: float) -> str:
        """Of a batch."""
        return t("loss {loss:.3f}", loss=loss)

    @torch.no_grad()
    def validate(self, model: Encoder) -> dict[str, float]:
        """Correlations of cosines and scores over all held-out couples; `disorder` is 1 less Spearman's."""
        training = model.training
        model.eval()
        cosines, scores, losses = [], [], []
        for batch in self._held_out:
            cosines.append(self._cosines(model, batch).cpu().numpy())
            scores.append(batch.scores)
            losses.append(ranking_loss(torch.from_numpy(cosines[-1]), torch.from_numpy(batch.scores)).item())
        model.train(training)
        one, other = np.concatenate(cosines), np.concatenate(scores)
        order = float(spearman(one, other))
        loss = float(np.average(losses, weights=[*map(len, scores)]))
        return {"loss": loss, "spearman": order, "pearson": float(pearson(one, other)), "disorder": 1 - order}

    def verdict(self, measured: float, step: int) -> str:
        """As Spearman's correlation."""
        return t("Spearman {value:.3f} on held-out pairs after {step:,} steps", value=1 - measured, step=step)

    def _cosines(self, model: Encoder, batch: Couples) -> Tensor:
        return (self._pooling(model, batch.first) * self._pooling(model, batch.second)).sum(dim=1)
