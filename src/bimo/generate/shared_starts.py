"""Scores of windows that begin alike, such as answers below one question or questions below the same examples.

What they begin with is read once. B batch, T time (positions).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import torch

from bimo.generate.cache import open_cache
from bimo.models.families import LanguageModule
from bimo.models.scoring import Score, Window, all_scores, score_windows

__all__ = ["scores_sharing_starts"]

LEAST_SHARED = 32
"""Ids that windows must begin with together before it is worth reading them apart from the rest."""

MOST_PARTINGS = 32
"""How often windows are parted, within each other, into those that share more."""

POSITIONS_AT_ONCE = 2**12
"""Over all rows of a batch, of what the model remembers in every layer."""

READ_AT_ONCE = 512
"""Ids of a start: how they see each other takes memory by the square of their number."""


@torch.no_grad()
def scores_sharing_starts(model: LanguageModule, windows: list[Window]) -> list[Score]:
    """As `all_scores`, its slow twin."""
    training = model.training
    model.eval()
    scores = [Score()] * len(windows)
    alone: list[int] = []
    for numbers in _runs(windows):
        if len(numbers) == 1:
            alone += numbers
            continue
        for number, score in _scores_behind(model, windows, numbers):
            scores[number] = score
    for number, score in zip(alone, all_scores(model, [windows[number] for number in alone]), strict=True):
        scores[number] = score
    model.train(training)
    return scores


def _runs(windows: list[Window]) -> Iterator[list[int]]:
    """The numbers of windows in which something is scored, in runs whose starts are to be read once each.

    Those of a run are of like length: one long window among many short ones would leave it the room of a row.
    """
    scored = [number for number, window in enumerate(windows) if window.scored]
    for run in _cheapest_runs(windows, sorted(scored, key=lambda number: _before(windows[number]))):
        by_length: dict[int, list[int]] = {}
        for number in run:
            by_length.setdefault(len(windows[number].ids).bit_length(), []).append(number)
        yield from by_length.values()


def _cheapest_runs(windows: list[Window], order: list[int]) -> list[list[int]]:
    """Windows, sorted by what they begin with, parted where they share least: the way that has fewest ids to read.

    Questions below the same examples are one run; answers below several questions, which begin with the same
    instruction, are a run for each question.
    """
    befores = [_before(windows[number]) for number in order]
    shared = [_count_shared(one, other) for one, other in itertools.pairwise(befores)]
    same = [False, *(one == other for one, other in itertools.pairwise(befores))]
    behind = [len(windows[number].ids) - len(before) for number, before in zip(order, befores, strict=True)]

    def cheapest(begin: int, end: int, partings: int) -> tuple[int, list[list[int]]]:
        if end - begin == 1:
            return len(windows[order[begin]].ids), [order[begin:end]]
        least = min(shared[begin : end - 1])
        worth_sharing = least >= LEAST_SHARED
        # What several windows begin with as a whole, such as a question above its answers, is read once as well.
        read = sum(len(befores[place]) - least for place in range(begin, end) if place == begin or not same[place])
        together = least + read + sum(behind[begin:end])
        if worth_sharing and not partings:
            return together, [order[begin:end]]
        ends = [place + 1 for place in range(begin, end - 1) if shared[place] == least]
        inner = [
            cheapest(first, last, partings - worth_sharing) for first, last in itertools.pairwise([begin, *ends, end])
        ]
        apart = sum(ids for ids, _ in inner)
        if worth_sharing and together <= apart:
            return together, [order[begin:end]]
        return apart, [run for _, runs in inner for run in runs]

    return cheapest(0, len(order), MOST_PARTINGS)[1] if order else []


def _scores_behind(model: LanguageModule, windows: list[Window], numbers: list[int]) -> Iterator[tuple[int, Score]]:
    """The numbers of windows that begin alike and their scores, in batches of like length.

    Where some have all in common that is read before what is scored, such as a question above its answers, a row reads
    that once, and then what is scored, one after the other.
    """
    order = sorted(numbers, key=lambda number: len(windows[number].ids))
    befores = [_before(windows[number]) for number in numbers]
    shared = min(befores)[: _count_shared(min(befores), max(befores))]
    groups = _alike(windows, order)
    nested = 1 < len(groups) < len(order)
    if not nested:
        groups = [[number] for number in order]
    positions = len(windows[order[-1]].ids)
    rows = max(1, min(len(groups), POSITIONS_AT_ONCE // positions))
    device = next(model.parameters()).device
    cache = open_cache(model, slots=rows, positions=positions, device=device)
    for read in range(0, len(shared), READ_AT_ONCE):
        model.hidden_states(torch.tensor([shared[read : read + READ_AT_ONCE]], device=device), cache.rows([0], [read]))
    for slot in range(1, rows):
        cache.copy(0, slot, len(shared))
    for place in range(0, len(groups), rows):
        some = groups[place : place + rows]
        starts = [len(shared)] * len(some)
        if nested:
            texts = [_before(windows[group[0]])[len(shared) :] for group in some]
            filled = torch.zeros(len(some), max(1, *map(len, texts)), dtype=torch.long, device=device)
            for row, text in enumerate(texts):
                filled[row, : len(text)] = torch.tensor(text)
            model.hidden_states(filled, cache.rows([*range(len(some))], starts))
            starts = [len(shared) + len(text) for text in texts]
        for turn in itertools.zip_longest(*some):
            left = {slot: number for slot, number in enumerate(turn) if number is not None}
            rest = {slot: len(windows[number].ids) - 1 - starts[slot] for slot, number in left.items()}
            for slots in _fitting(rest, starts, positions):
                chosen, known = [left[slot] for slot in slots], [starts[slot] for slot in slots]
                seen = cache.rows(slots, known)
                scores = score_windows(model, [windows[number] for number in chosen], seen, read=known)
                yield from zip(chosen, scores, strict=True)


def _alike(windows: list[Window], order: list[int]) -> list[list[int]]:
    """The numbers of windows in groups that have all in common that is read before what is scored."""
    groups: dict[tuple[int, ...], list[int]] = {}
    for number in order:
        groups.setdefault(tuple(_before(windows[number])), []).append(number)
    return [*groups.values()]


def _fitting(rest: dict[int, int], starts: list[int], positions: int) -> list[list[int]]:
    """Slots, behind whose start so many ids are left to read, in batches that stay within so many positions when they
    are filled up to their longest."""
    batches: list[list[int]] = []
    for slot in sorted(rest, key=lambda slot: -rest[slot]):
        fitting = (batch for batch in batches if starts[slot] + rest[batch[0]] < positions)
        batch = next(fitting, None)
        if batch is None:
            batches.append([slot])
        else:
            batch.append(slot)
    return batches


def _before(window: Window) -> list[int]:
    """The ids that are read before the one from which the first scored id is predicted."""
    return window.ids[: len(window.ids) - 1 - window.scored]


def _count_shared(one: list[int], other: list[int]) -> int:
    """How many ids both begin with."""
    pairs = zip(one, other, strict=False)
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))
