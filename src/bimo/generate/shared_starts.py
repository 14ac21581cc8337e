"""Scores of windows that begin alike, such as answers below one question or questions below the same examples.

What they begin with is read once. B batch, T time (positions).
"""

from __future__ import annotations

import itertools

import torch

from bimo.generate.cache import open_cache
from bimo.models.families import LanguageModule
from bimo.models.scoring import Score, Window, all_scores, score_windows

__all__ = ["scores_sharing_starts"]

LEAST_SHARED = 32
"""Ids that windows must begin with together before it is worth reading them apart from the rest."""

POSITIONS_AT_ONCE = 2**12
"""Over all rows of a batch, of what the model remembers in every layer."""


@torch.no_grad()
def scores_sharing_starts(model: LanguageModule, windows: list[Window]) -> list[Score]:
    """As `all_scores`, its slow twin."""
    training = model.training
    model.eval()
    by_start: dict[tuple[int, ...], list[int]] = {}
    for number, window in enumerate(windows):
        by_start.setdefault(tuple(_before(window)[:LEAST_SHARED]), []).append(number)
    scores = [Score()] * len(windows)
    alone: list[int] = []
    for start, numbers in by_start.items():
        if len(start) < LEAST_SHARED or len(numbers) == 1:
            alone += numbers
            continue
        found = _scores_behind(model, _common_start([_before(windows[number]) for number in numbers]), windows, numbers)
        for number, score in found:
            scores[number] = score
    for number, score in zip(alone, all_scores(model, [windows[number] for number in alone]), strict=True):
        scores[number] = score
    model.train(training)
    return scores


def _scores_behind(
    model: LanguageModule, shared: list[int], windows: list[Window], numbers: list[int]
) -> list[tuple[int, Score]]:
    """The scores of windows with their places, in batches of like length."""
    order = sorted(numbers, key=lambda number: len(windows[number].ids))
    positions = len(windows[order[-1]].ids)
    rows = max(1, min(len(order), POSITIONS_AT_ONCE // positions))
    device = next(model.parameters()).device
    cache = open_cache(model, slots=rows, positions=positions, device=device)
    model.hidden_states(torch.tensor([shared], device=device), cache.rows([0], [0]))
    for slot in range(1, rows):
        cache.copy(0, slot, len(shared))
    found: list[tuple[int, Score]] = []
    for place in range(0, len(order), rows):
        group = order[place : place + rows]
        seen = cache.rows([*range(len(group))], [len(shared)] * len(group))
        scores = score_windows(model, [windows[number] for number in group], seen, read=len(shared))
        found += zip(group, scores, strict=True)
    return found


def _before(window: Window) -> list[int]:
    """The ids that are read before the one from which the first scored id is predicted."""
    return window.ids[: len(window.ids) - 1 - window.scored]


def _common_start(several: list[list[int]]) -> list[int]:
    pairs = zip(min(several), max(several), strict=False)
    return [one for one, _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs)]
