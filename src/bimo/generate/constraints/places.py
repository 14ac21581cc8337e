"""Expressions as places joined by the bytes that lead from one to the next (Thompson 1968)."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable

from bimo.generate.constraints.expressions import Both, Characters, Choice, Expression, InOrder, Repeat, Sequence
from bimo.runtime import USAGE, UserError

__all__ = ["Arcs", "Places", "TooLarge", "too_large"]

Arcs = list[tuple[int, int, int]]
"""First byte, last byte, the place or state that they lead to."""
Joined = Callable[[Expression, Expression], tuple[list[Arcs], list[bool]]]
"""Two expressions -> the arcs of each state of what both allow, and whether the text may end there."""

MOST_PLACES = 300_000

LENGTH_BORDERS = (0x7F, 0x7FF, 0xFFFF, 0x10FFFF)
"""The last code points that take one, two, three and four bytes."""

ByteRange = tuple[int, int]


class Places:
    """An automaton in which several ways may be open: arcs that read a byte of a range, and leaps that read nothing.

    `both` finds the automaton of what two expressions both allow.
    """

    def __init__(self, both: Joined) -> None:
        self._both = both
        self.arcs: list[Arcs] = []
        self.leaps: list[list[int]] = []

    def new(self) -> int:
        if len(self.arcs) >= MOST_PLACES:
            raise too_large()
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
                return self._embed(*self._both(first, second), start)

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

    def _embed(self, arcs: list[Arcs], accepting: list[bool], start: int) -> int:
        """Write an automaton behind a place: the arcs of its states, of which the first begins."""
        places = [self.new() for _ in arcs]
        end = self.new()
        self.leaps[start].append(places[0])
        for place, its_arcs, whole in zip(places, arcs, accepting, strict=True):
            self.arcs[place] = [(first, last, places[state]) for first, last, state in its_arcs]
            if whole:
                self.leaps[place].append(end)
        return end


@functools.cache
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


class TooLarge(UserError):
    """Of counts and nested parts that multiply."""


def too_large() -> TooLarge:
    """The error of a form for which there is no room."""
    return TooLarge(
        "This form is too large to be held in mind: it has counts or nested parts that multiply. Make them smaller, "
        "such as {{0,100}} instead of {{0,10000}}.",
        code=USAGE,
    )
