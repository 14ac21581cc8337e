"""How well a model predicts token ids that stand already: one forward pass, many positions.

B batch, T time (positions), V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from bimo.models.families import LanguageModule

__all__ = ["Score", "Window", "all_scores", "rolling_scores", "rolling_windows", "score_windows"]

IGNORED = -100

LOGITS_AT_ONCE = 2**24
"""64 MB in fp32."""


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


@torch.no_grad()
def score_windows(
    model: LanguageModule, windows: list[Window], cache: Any = None, *, read: Sequence[int] = ()
) -> list[Score]:
    """How well the scored ids of each window were predicted, of which the cache remembers so many `read` already."""
    read = read or [0] * len(windows)
    T = max(1, *(len(window.ids) - 1 - known for window, known in zip(windows, read, strict=True)))
    inputs = torch.zeros(len(windows), T, dtype=torch.long)
    targets = torch.full((len(windows), T), IGNORED, dtype=torch.long)
    for row, (window, known) in enumerate(zip(windows, read, strict=True)):
        # Padding stands on the right, where no earlier position can see it.
        length = len(window.ids) - 1 - known
        inputs[row, :length] = torch.tensor(window.ids[known:-1])
        targets[row, length - window.scored : length] = torch.tensor(window.ids[len(window.ids) - window.scored :])
    device = next(model.parameters()).device
    counted = targets != IGNORED
    # The head sees what is scored and no more, some at a time: a row of it may be a hundred times one of the layers.
    hidden = model.hidden_states(inputs.to(device), cache)[counted.to(device)]
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


def all_scores(model: LanguageModule, windows: list[Window]) -> list[Score]:
    """As `score_windows`, of any number: as many of like length at a time as memory allows."""
    order = sorted(range(len(windows)), key=lambda number: len(windows[number].ids))
    scores = [Score()] * len(windows)
    training = model.training
    model.eval()
    while order:
        longest = len(windows[order[-1]].ids)
        rows = max(1, LOGITS_AT_ONCE // (longest * model.config.vocabulary))
        group, order = order[-rows:], order[:-rows]
        for number, score in zip(group, score_windows(model, [windows[number] for number in group]), strict=True):
            scores[number] = score
    model.train(training)
    return scores
