"""Expressions as automata over the bytes of UTF-8, and how far it is from each state to where the text may end.

Thompson's construction, then that of subsets (Hopcroft, Motwani, Ullman, chapters 2 and 4). S states.
"""

from __future__ import annotations

import functools
import itertools
from collections import deque
from dataclasses import dataclass

import numpy as np

from bimo.generate.constraints.expressions import Both, Characters, Choice, Expression, InOrder, Repeat, Sequence
from bimo.runtime import USAGE, UserError

__all__ = ["DEAD", "FAR", "START", "Automaton", "compile_expression"]

DEAD, START = 0, 1
"""States of every automaton: from DEAD nothing leads on, a text begins in START."""

MOST_STATES = 50_000
"""A kilobyte each."""
MOST_PLACES = 1_000_000

FAR = np.iinfo(np.int32).max
"""From an end: that cannot be reached."""
LENGTH_BORDERS = (0x7F, 0x7FF, 0xFFFF, 0x10FFFF)
"""The last code points that take one, two, three and four bytes."""

ByteRange = tuple[int, int]


@dataclass(frozen=True, eq=False)
class Automaton:
    """table [S, 256]: the state after a byte; accepting [S]: whether the text may end; distance [S]: bytes to there.

    Every state but DEAD leads to an accepting one.
    """

    table: np.ndarray
    accepting: np.ndarray
    distance: np.ndarray

    def accepts(self, text: str) -> bool:
        """Whether a whole text is allowed."""
        state = START
        for byte in text.encode():
            state = self.table[state, byte]
        return bool(self.accepting[state])

    def without(self, missing: list[int]) -> Automaton:
        """The texts that can be written without some bytes; where there is none, START is FAR from an end."""
        table = self.table.copy()
        table[:, missing] = DEAD
        return _trimmed(table, self.accepting)

    @functools.cached_property
    def nearest(self) -> tuple[np.ndarray, np.ndarray]:
        """(The byte, the state) [S] that come next on a shortest way to the end; zeros where the text may end."""
        closer = self.distance[self.table] < self.distance[:, None]
        byte = np.where(self.distance > 0, closer.argmax(axis=1), 0)
        state = np.where((self.distance > 0) & (self.distance < FAR), self.table[np.arange(len(byte)), byte], DEAD)
        return byte, state


def compile_expression(expression: Expression) -> Automaton:
    """The automaton of an expression. Raises UserError where it allows no text, or needs too many states."""
    automaton = _determinise(expression)
    if automaton.distance[START] == FAR:
        raise UserError("No text can have this form: it contradicts itself.", code=USAGE)
    return automaton


class _Places:
    """An automaton in which several ways may be open: arcs that read a byte of a range, and leaps that read nothing."""

    def __init__(self) -> None:
        self.arcs: list[list[tuple[int, int, int]]] = []
        self.leaps: list[list[int]] = []

    def new(self) -> int:
        if len(self.arcs) >= MOST_PLACES:
            raise _too_large()
        self.arcs.append([])
        self.leaps.append([])
        return len(self.arcs) - 1

    def after(self, start: int) -> int:
        """A new place that can be reached from `start` alone, so that loops may lead back to it."""
        place = self.new()
        self.leaps[start].append(place)
        return place

    def add(self, expression: Expression, start: int) -> int:
        """Write an expression behind a place; returns the place where it ends, from which nothing leads on yet."""
        match expression:
            case Characters(ranges):
                return self._characters(ranges, start)
            case Sequence(parts):
                for part in parts:
                    start = self.add(part, start)
                return self.after(start)
            case Choice(parts):
                end = self.new()
                for part in parts:
                    self.leaps[self.add(part, self.after(start))].append(end)
                return end
            case Repeat():
                return self._repeat(expression, start)
            case InOrder():
                return self._in_order(expression, start)
            case Both(first, second):
                return self._embed(_product(_determinise(first), _determinise(second)), start)

    def _characters(self, ranges: tuple[tuple[int, int], ...], start: int) -> int:
        """Ways through the same last bytes share their places."""
        end = self.new()
        places: dict[tuple[ByteRange, ...], int] = {(): end}

        def place_of(rest: tuple[ByteRange, ...]) -> int:
            if rest not in places:
                places[rest] = self.new()
                self.arcs[places[rest]].append((*rest[0], place_of(rest[1:])))
            return places[rest]

        for spelled in _byte_ranges(ranges):
            self.arcs[start].append((*spelled[0], place_of(spelled[1:])))
        return end

    def _repeat(self, repeat: Repeat, start: int) -> int:
        part, least, most, between = repeat.part, repeat.least, repeat.most, repeat.between
        if most == 0:
            return self.after(start)
        final, entry = self.new(), self.after(start)
        if least == 0:
            self.leaps[entry].append(final)
        for count in itertools.count(1):
            loop = self.after(entry)
            end = self.add(part, loop)
            if count >= least:
                self.leaps[end].append(final)
            if most is None and count >= least:
                back = self.after(end) if between is None else self.add(between, self.after(end))
                self.leaps[back].append(loop)
                break
            if count == most:
                break
            entry = end if between is None else self.add(between, self.after(end))
        return final

    def _in_order(self, listed: InOrder, start: int) -> int:
        none_yet: int | None = self.after(start)
        some = self.new()
        for part, required in zip(listed.parts, listed.required, strict=True):
            entry, after = self.new(), self.new()
            if none_yet is not None:
                self.leaps[none_yet].append(entry)
            self.leaps[self.add(listed.between, self.after(some))].append(entry)
            self.leaps[self.add(part, entry)].append(after)
            if required:
                none_yet = None
            else:
                self.leaps[some].append(after)
            some = after
        end = self.after(some)
        if none_yet is not None:
            self.leaps[none_yet].append(end)
        return end

    def _embed(self, automaton: Automaton, start: int) -> int:
        """Write an automaton behind a place."""
        places = [self.new() for _ in automaton.table]
        end = self.new()
        self.leaps[start].append(places[START])
        for place, row, accepting in zip(places, automaton.table.tolist(), automaton.accepting, strict=True):
            self.arcs[place] = [(*span, places[state]) for span, state in _runs(row)]
            if accepting:
                self.leaps[place].append(end)
        return end

    def closure(self, places: frozenset[int]) -> frozenset[int]:
        """All that can be reached without reading anything, but those from which nothing is read."""
        seen, open_ = set(places), list(places)
        while open_:
            for place in self.leaps[open_.pop()]:
                if place not in seen:
                    seen.add(place)
                    open_.append(place)
        return frozenset(place for place in seen if self.arcs[place] or not self.leaps[place])


def _byte_ranges(ranges: tuple[tuple[int, int], ...]) -> list[tuple[ByteRange, ...]]:
    """Characters as sequences of ranges of bytes (Cox 2010, `Regular Expression Matching in the Wild`)."""
    found: list[tuple[ByteRange, ...]] = []
    for first, last in ranges:
        for before, border in itertools.pairwise((-1, *LENGTH_BORDERS)):
            low, high = max(first, before + 1), min(last, border)
            if low <= high:
                found += _same_length(list(chr(low).encode()), list(chr(high).encode()))
    return found


def _same_length(low: list[int], high: list[int]) -> list[tuple[ByteRange, ...]]:
    """Sequences of ranges for all bytes between two that have as many; those behind the first go from 80 to BF."""
    if len(low) == 1:
        return [((low[0], high[0]),)]
    if low[0] == high[0]:
        return [((low[0], low[0]), *rest) for rest in _same_length(low[1:], high[1:])]
    lowest, highest = [0x80] * (len(low) - 1), [0xBF] * (len(low) - 1)
    found: list[tuple[ByteRange, ...]] = []
    first, last = low[0], high[0]
    if low[1:] != lowest:
        found += [((first, first), *rest) for rest in _same_length(low[1:], highest)]
        first += 1
    behind: list[tuple[ByteRange, ...]] = []
    if high[1:] != highest:
        behind = [((last, last), *rest) for rest in _same_length(lowest, high[1:])]
        last -= 1
    if first <= last:
        found.append(((first, last), *[(0x80, 0xBF)] * (len(low) - 1)))
    return found + behind


def _runs(row: list[int]) -> list[tuple[ByteRange, int]]:
    """Ranges of bytes that lead to the same state, those to DEAD left out."""
    runs, start = [], 0
    for state, group in itertools.groupby(row):
        length = len(list(group))
        if state != DEAD:
            runs.append(((start, start + length - 1), state))
        start += length
    return runs


def _determinise(expression: Expression) -> Automaton:
    """An automaton with one open way: its states are sets of places."""
    places = _Places()
    start = places.new()
    end = places.add(expression, start)
    closure = functools.cache(places.closure)
    numbers: dict[frozenset[int], int] = {closure(frozenset([start])): START}
    states = list(numbers)
    rows = [np.zeros(256, dtype=np.int32)]
    for state in states:  # grows while it is gone through
        row = np.zeros(256, dtype=np.int32)
        for first, after, targets in _cut([arc for place in state for arc in places.arcs[place]]):
            reached = closure(targets)
            if reached not in numbers:
                numbers[reached] = len(states) + 1
                states.append(reached)
                if len(states) > MOST_STATES:
                    raise _too_large()
            row[first:after] = numbers[reached]
        rows.append(row)
    accepting = np.array([False, *(end in state for state in states)])
    return _trimmed(np.stack(rows), accepting)


def _cut(arcs: list[tuple[int, int, int]]) -> list[tuple[int, int, frozenset[int]]]:
    """(First byte, byte after the last, places reached) for arcs, cut where one of them begins or ends."""
    arcs = sorted(arcs)
    if all(last < first for (_, last, _), (first, _, _) in itertools.pairwise(arcs)):
        return [(first, last + 1, frozenset([target])) for first, last, target in arcs]
    borders = sorted({first for first, _, _ in arcs} | {last + 1 for _, last, _ in arcs})
    pieces = []
    for first, after in itertools.pairwise(borders):
        targets = frozenset(target for low, high, target in arcs if low <= first <= high)
        if targets:
            pieces.append((first, after, targets))
    return pieces


def _product(first: Automaton, second: Automaton) -> Automaton:
    """What both allow: its states are pairs."""
    numbers = {(START, START): START}
    pairs = list(numbers)
    rows = [np.zeros(256, dtype=np.int32)]
    for one, other in pairs:  # grows while it is gone through
        row = np.zeros(256, dtype=np.int32)
        ahead = np.stack([first.table[one], second.table[other]], axis=1)
        met, which = np.unique(ahead, axis=0, return_inverse=True)
        for place, pair in enumerate(map(tuple, met.tolist())):
            if DEAD in pair:
                continue
            if pair not in numbers:
                numbers[pair] = len(pairs) + 1
                pairs.append(pair)
                if len(pairs) > MOST_STATES:
                    raise _too_large()
            row[which.ravel() == place] = numbers[pair]
        rows.append(row)
    accepting = np.array([False, *(first.accepting[one] and second.accepting[other] for one, other in pairs)])
    return _trimmed(np.stack(rows), accepting)


def _trimmed(table: np.ndarray, accepting: np.ndarray) -> Automaton:
    """With the distances to the end; ways that never get there lead to DEAD instead."""
    before: list[list[int]] = [[] for _ in table]
    for state, row in enumerate(table):
        for after in np.unique(row).tolist():
            before[after].append(state)
    distance = np.where(accepting, 0, FAR).astype(np.int32)
    waiting = deque(np.flatnonzero(accepting).tolist())
    while waiting:
        state = waiting.popleft()
        for earlier in before[state]:
            if distance[earlier] == FAR and earlier != DEAD:
                distance[earlier] = distance[state] + 1
                waiting.append(earlier)
    return Automaton(np.where(distance[table] == FAR, DEAD, table), accepting, distance)


def _too_large() -> UserError:
    return UserError(
        "This form is too large to be held in mind: it has counts or nested parts that multiply. Make them smaller, "
        "such as {{0,100}} instead of {{0,10000}}.",
        code=USAGE,
    )
