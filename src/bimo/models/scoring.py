"""How well a model predicts token ids that stand already: one forward pass, many positions.

B batch, T time (positions), V vocabulary.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from bimo.models.families import LanguageModule
from bimo.models.transformer import Decoder

__all__ = ["Score", "SharedPrefix", "Window", "all_scores", "rolling_scores", "rolling_windows", "score_windows"]

IGNORED = -100

LOGITS_AT_ONCE = 2**24
"""64 MB in fp32."""

KEPT_AT_ONCE = 2**14
"""Positions of a shared prefix, over all rows of a batch, whose keys and values stand in memory for a moment."""

LEAST_SHARED = 32
"""Ids that windows must begin with together before it is worth reading them apart from the rest."""


@dataclass(frozen=True)
class Window:
    """Ids to read; the last `scored` of them are to be predicted from those before. `owner` says whose they are."""

    ids: list[int]
    scored: int
    owner: int = 0


@dataclass(frozen=True)
class Score:
    """Cross-entropy in nats, summed over ids, and how many of them were the likeliest of all."""

    nats: float = 0.0
    hits: int = 0

    def __add__(self, other: Score) -> Score:
        return Score(self.nats + other.nats, self.hits + other.hits)


def rolling_windows(ids: list[int], *, context: int, stride: int, owner: int = 0) -> Iterator[Window]:
    """Cover ids[1:] so that each id is predicted once, with at least context - stride ids before it where there are."""
    end = min(len(ids), context + 1)
    if end > 1:
        yield Window(ids[:end], end - 1, owner)
    while end < len(ids):
        new_end = min(len(ids), end + stride)
        yield Window(ids[max(0, new_end - context - 1) : new_end], new_end - end, owner)
        end = new_end


class SharedPrefix:
    """What a decoder keeps of ids that all windows of a batch begin with; read once, and never added to."""

    def __init__(self, model: Decoder, ids: Sequence[int]) -> None:
        self.length = len(ids)
        self._model = model
        self._layers: list[tuple[Tensor, Tensor]] = []
        self._device = model.embedding.weight.device
        self._reading = True
        model.hidden_states(torch.tensor([ids], device=self._device), self)
        self._reading = False

    def hidden_states(self, ids: Tensor) -> Tensor:
        """ids [B, T] behind the prefix -> what the head multiplies [B, T, D]."""
        return self._model.hidden_states(ids, self)

    def positions(self, count: int) -> Tensor:
        """Of the next `count` ids, whatever the row: [1, T]."""
        start = 0 if self._reading else self.length
        return torch.arange(start, start + count, device=self._device)[None]

    def update(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """k, v [B, G, T, K] behind those of the prefix: [B, G, P + T, K]."""
        if self._reading:
            self._layers.append((k, v))
            return k, v
        before = (kept.expand(len(k), -1, -1, -1) for kept in self._layers[layer])
        both = [torch.cat(pair, dim=2) for pair in zip(before, (k, v), strict=True)]
        return both[0], both[1]

    def allowed(self, count: int) -> Tensor:
        """The prefix, oneself and what came before: [1, 1, T, P + T]."""
        before = 0 if self._reading else self.length
        return torch.ones(1, 1, count, before + count, dtype=torch.bool, device=self._device).tril(before)


@torch.no_grad()
def score_windows(model: LanguageModule, windows: list[Window], prefix: SharedPrefix | None = None) -> list[Score]:
    """How well the scored ids of each window were predicted. All begin with the ids of the prefix, if there is one."""
    read = 0 if prefix is None else prefix.length
    T = max(1, *(len(window.ids) - 1 - read for window in windows))
    inputs = torch.zeros(len(windows), T, dtype=torch.long)
    targets = torch.full((len(windows), T), IGNORED, dtype=torch.long)
    for row, window in enumerate(windows):
        # Padding stands on the right, where no earlier position can see it.
        unread = window.ids[read:]
        length = len(unread) - 1
        inputs[row, :length] = torch.tensor(unread[:-1])
        targets[row, length - window.scored : length] = torch.tensor(unread[1:])[length - window.scored :]
    device = next(model.parameters()).device
    counted = targets != IGNORED
    # The head sees what is scored and no more, some at a time: a row of it may be a hundred times one of the layers.
    reader = model if prefix is None else prefix
    hidden = reader.hidden_states(inputs.to(device))[counted.to(device)]
    ids = targets[counted].to(device)
    losses, right = [torch.zeros(0)], [torch.zeros(0, dtype=torch.bool)]
    at_once = max(1, LOGITS_AT_ONCE // model.config.vocabulary)
    for some, wanted in zip(hidden.split(at_once), ids.split(at_once), strict=True):
        logits = model.head(some).float()
        losses.append(F.cross_entropy(logits, wanted, reduction="none").cpu())
        right.append((logits.argmax(dim=-1) == wanted).cpu())
    lengths = counted.sum(dim=1).tolist()
    by_row = zip(torch.cat(losses).split(lengths), torch.cat(right).split(lengths), strict=True)
    return [Score(nats.sum(dtype=torch.float64).item(), int(hits.sum())) for nats, hits in by_row]


def rolling_scores(model: LanguageModule, documents: Iterable[list[int]], *, context: int, stride: int) -> list[Score]:
    """How well each document was predicted, every id but the first once."""
    documents = list(documents)
    windows = [
        window
        for owner, ids in enumerate(documents)
        for window in rolling_windows(ids, context=context, stride=stride, owner=owner)
    ]
    totals = [Score()] * len(documents)
    for window, score in zip(windows, all_scores(model, windows), strict=True):
        totals[window.owner] += score
    return totals


@torch.no_grad()
def all_scores(model: LanguageModule, windows: list[Window]) -> list[Score]:
    """As `score_windows`, of any number: as many of like length at a time as memory allows.

    What several windows begin with, such as examples above each question, or a question before each of its answers, is
    read once by a decoder.
    """
    scores = [Score()] * len(windows)
    training = model.training
    model.eval()
    for numbers, shared in _together(windows) if isinstance(model, Decoder) else [([*range(len(windows))], [])]:
        prefix = SharedPrefix(model, shared) if shared and isinstance(model, Decoder) else None
        order = sorted(numbers, key=lambda number: len(windows[number].ids))
        while order:
            longest = len(windows[order[-1]].ids) - len(shared)
            rows = max(
                1, min(LOGITS_AT_ONCE // (longest * model.config.vocabulary), KEPT_AT_ONCE // max(1, len(shared)))
            )
            group, order = order[-rows:], order[:-rows]
            found = score_windows(model, [windows[number] for number in group], prefix)
            for number, score in zip(group, found, strict=True):
                scores[number] = score
    model.train(training)
    return scores


def _together(windows: list[Window]) -> list[tuple[list[int], list[int]]]:
    """Places of windows with the ids that they begin with together; those that share too little are the last."""
    by_start: dict[tuple[int, ...], list[int]] = {}
    for number, window in enumerate(windows):
        by_start.setdefault(tuple(_before(window)[:LEAST_SHARED]), []).append(number)
    found, alone = [], []
    for start, numbers in by_start.items():
        if len(start) < LEAST_SHARED or len(numbers) == 1:
            alone += numbers
        else:
            found.append((numbers, _common_start([_before(windows[number]) for number in numbers])))
    return [*found, (alone, [])]


def _before(window: Window) -> list[int]:
    """The ids that are read before the one from which the first scored id is predicted."""
    return window.ids[: len(window.ids) - 1 - window.scored]


def _common_start(several: list[list[int]]) -> list[int]:
    first, last = min(several), max(several)
    same = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(first, last, strict=False))
    return [one for one, _ in same]
