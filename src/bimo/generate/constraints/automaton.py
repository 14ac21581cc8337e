"""Expressions as automata over the bytes of UTF-8, and how far it is from each state to where the text may end.

Thompson's construction at once, that of subsets as far as somebody looks (Hopcroft, Motwani, Ullman, chapters 2 and 4):
what a text may be can have more states than any memory, of which writing one text sees a few hundred. S states.
"""

from __future__ import annotations

import functools
import itertools
import threading
from collections import Counter, deque

import numpy as np

from bimo.generate.constraints.expressions import Expression
from bimo.generate.constraints.places import Arcs, Places, too_large
from bimo.runtime import USAGE, UserError

__all__ = ["DEAD", "FAR", "START", "Automaton", "compile_expression"]

DEAD, START = 0, 1
"""States of every automaton: from DEAD nothing leads on, a text begins in START."""

FAR = np.iinfo(np.int32).max
"""From an end: that cannot be reached."""

FIRST_ROWS = 512
"""Of the table, which doubles when it is full."""

MOST_STATES = 20_000
"""Where all of them are needed at once."""


def compile_expression(expression: Expression) -> Automaton:
    """The automaton of an expression. Raises UserError where it allows no text, or is too large."""
    automaton = _open(expression)
    if automaton.distance[START] == FAR:
        raise UserError("No text can have this form: it contradicts itself.", code=USAGE)
    return automaton


class Automaton:
    """States are sets of places, numbered as they are met; every state but DEAD leads to an end.

    table [S, 256] is the state after a byte, for those that were expanded; distance [S] how many bytes are missing at
    least to an end, where it is 0. Several threads may expand one; who follows the table elsewhere holds the `lock`.
    """

    def __init__(
        self,
        places: Places,
        start: int,
        end: int,
        *,
        missing: frozenset[int] = frozenset(),
        far: list[int] | None = None,
    ) -> None:
        self._places, self._start, self._end, self._missing = places, start, end, missing
        self._far = far or self._distances()
        self._closure = functools.cache(self._close)
        self._numbers: dict[frozenset[int], int] = {frozenset(): DEAD}
        self._nearest: dict[int, tuple[int, int]] = {}
        self._states: list[frozenset[int]] = [frozenset()]
        self.table = np.zeros((FIRST_ROWS, 256), dtype=np.int32)
        self.distance = np.full(FIRST_ROWS, FAR, dtype=np.int32)
        self.expanded = np.zeros(FIRST_ROWS, dtype=bool)
        self.expanded[DEAD] = True
        self.lock = threading.RLock()
        if self._number(self._closure(frozenset([start]))) == DEAD:
            self._states.append(frozenset())  # START is there, and leads nowhere
        self.expand(START)

    def accepts(self, text: str) -> bool:
        """Whether a whole text is allowed."""
        state = START
        for byte in text.encode():
            state = self.after(state, byte)
        return self.accepting(state)

    def after(self, state: int, byte: int) -> int:
        """The state after one byte."""
        self.expand(state)
        return int(self.table[state, byte])

    def accepting(self, state: int) -> bool:
        """Whether the text may end."""
        return bool(self.distance[state] == 0)

    def nearest(self, state: int) -> tuple[int, int]:
        """(The byte, the state) that come next on a shortest way to an end, which is not here."""
        if state not in self._nearest:
            with self.lock:
                self.expand(state)
                byte = int((self.distance[self.table[state]] < self.distance[state]).argmax())
                self._nearest[state] = byte, int(self.table[state, byte])
        return self._nearest[state]

    def without(self, missing: list[int]) -> Automaton:
        """The texts that can be written without some bytes; where there is none, START is FAR from an end."""
        gone = frozenset(missing)
        lost = any(
            gone.issuperset(range(first, last + 1))
            for arcs in self._places.arcs
            for first, last, _ in arcs
            if last - first < len(gone)
        )
        return Automaton(self._places, self._start, self._end, missing=gone, far=None if lost else self._far)

    def expand(self, state: int) -> None:
        """Let the table have the row of a state."""
        if self.expanded[state]:
            return
        with self.lock:
            arcs = [arc for place in self._states[state] for arc in self._places.arcs[place]]
            for first, after, targets in _cut(arcs):
                self.table[state, first:after] = self._number(self._closure(targets))
            self.table[state, list(self._missing)] = DEAD
            self.expanded[state] = True

    def complete(self) -> int:
        """Expand all states; returns how many there are. Raises UserError where they are too many."""
        state = START
        with self.lock:
            while state < len(self._states):
                self.expand(state)
                if len(self._states) > MOST_STATES:
                    raise too_large()
                state += 1
        return len(self._states)

    def _number(self, places: frozenset[int]) -> int:
        if places not in self._numbers:
            number = self._numbers[places] = len(self._states)
            self._states.append(places)
            if number == len(self.table):
                self.table = np.concatenate([self.table, np.zeros_like(self.table)])
                self.distance = np.concatenate([self.distance, np.full_like(self.distance, FAR)])
                self.expanded = np.concatenate([self.expanded, np.zeros_like(self.expanded)])
            self.distance[number] = min(self._far[place] for place in places)
        return self._numbers[places]

    def _close(self, places: frozenset[int]) -> frozenset[int]:
        """All places that can be reached without reading anything and lead to an end; those that only lead on, not."""
        seen, open_ = set(places), list(places)
        while open_:
            for place in self._places.leaps[open_.pop()]:
                if place not in seen:
                    seen.add(place)
                    open_.append(place)
        return frozenset(
            place for place in seen if self._far[place] < FAR and (self._places.arcs[place] or place == self._end)
        )

    def _distances(self) -> list[int]:
        """Bytes from each place to the end, by a search from there back, in which leaps cost nothing."""
        before: list[list[tuple[int, int]]] = [[] for _ in self._places.arcs]
        for place, (arcs, leaps) in enumerate(zip(self._places.arcs, self._places.leaps, strict=True)):
            for first, last, target in arcs:
                if not self._missing.issuperset(range(first, last + 1)):
                    before[target].append((place, 1))
            for target in leaps:
                before[target].append((place, 0))
        far = [int(FAR)] * len(before)
        far[self._end] = 0
        waiting = deque([(0, self._end)])
        while waiting:
            distance, place = waiting.popleft()
            if distance > far[place]:
                continue
            for earlier, cost in before[place]:
                if distance + cost < far[earlier]:
                    far[earlier] = distance + cost
                    (waiting.append if cost else waiting.appendleft)((distance + cost, earlier))
        return far


def _cut(arcs: Arcs) -> list[tuple[int, int, frozenset[int]]]:
    """(First byte, byte after the last, places reached) for arcs, cut where one of them begins or ends."""
    ordered = sorted(arcs)
    if all(one[1] < other[0] for one, other in itertools.pairwise(ordered)):
        return [(first, last + 1, frozenset((target,))) for first, last, target in ordered]
    changes: dict[int, list[tuple[int, int]]] = {}
    for first, last, target in arcs:
        changes.setdefault(first, []).append((target, 1))
        changes.setdefault(last + 1, []).append((target, -1))
    pieces: list[tuple[int, int, frozenset[int]]] = []
    open_: Counter[int] = Counter()
    borders = sorted(changes)
    for first, after in itertools.pairwise(borders):
        for target, change in changes[first]:
            open_[target] += change
            if not open_[target]:
                del open_[target]
        if open_:
            pieces.append((first, after, frozenset(open_)))
    return pieces


def _open(expression: Expression) -> Automaton:
    places = Places(_both)
    start = places.new()
    return Automaton(places, start, places.add(expression, start))


def _both(first: Expression, second: Expression) -> tuple[list[Arcs], list[bool]]:
    """What two expressions both allow: the arcs of each pair of their states, and whether the text may end there."""
    one, other = _open(first), _open(second)
    one.complete()
    other.complete()
    numbers = {(START, START): 0}
    pairs = [(START, START)]
    found: list[Arcs] = []
    for mine, theirs in pairs:  # grows while it is gone through
        arcs = []
        both = zip(one.table[mine].tolist(), other.table[theirs].tolist(), strict=True)
        for pair, group in itertools.groupby(enumerate(both), key=lambda entry: entry[1]):
            reached = [byte for byte, _ in group]
            if DEAD in pair:
                continue
            if pair not in numbers:
                numbers[pair] = len(pairs)
                pairs.append(pair)
                if len(pairs) > MOST_STATES:
                    raise too_large()
            arcs.append((reached[0], reached[-1], numbers[pair]))
        found.append(arcs)
    return found, [one.accepting(mine) and other.accepting(theirs) for mine, theirs in pairs]
