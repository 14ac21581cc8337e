"""Many sequences at once, each joining and leaving at any step (continuous batching, Yu et al. 2022, section 4.1).

Every step reads one token of each sequence that writes, and part of the prompts of those that have just come. What a
slot remembers stays when its sequence has left, so that a prompt which begins alike need not be read again.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import numpy as np

from bimo.generate.constraints.automaton import START
from bimo.generate.constraints.masks import Constraint
from bimo.generate.sample import Sampling, choose
from bimo.generate.stepping import Steps
from bimo.runtime import USAGE, UserError

__all__ = ["Batch", "Request", "Written"]

PROMPT_ROWS = 256
"""Tokens of prompts that one step reads at most, so that those who write do not wait long for those who come."""


@dataclass(frozen=True)
class Request:
    """Go on from `prompt`, which is not empty, up to `max_tokens` or a token of `ends`.

    The text depends on the seed alone, not on who else is written at the same time. With a `constraint` it has that
    form, also when it takes all of max_tokens; it is over when nothing can follow, with or without a token of `ends`.
    `begins` says that a text begins with what is written, as an answer does, and not with the prompt.
    """

    prompt: list[int]
    max_tokens: int
    sampling: Sampling
    seed: int = 0
    ends: frozenset[int] = frozenset()
    constraint: Constraint | None = None
    begins: bool = True

    def __post_init__(self) -> None:
        assert self.prompt, "there is something to go on from"
        if self.max_tokens < 1:
            raise UserError("max_tokens must be at least 1, but is {value}.", code=USAGE, value=self.max_tokens)
        if self.constraint is not None:
            assert self.ends, "a text that may go on ends with a token"
            self.constraint.require_room(self.max_tokens, first=self.begins)


@dataclass(frozen=True)
class Written:
    """One token that was written, and whether it is the last of its sequence."""

    ticket: int
    token: int
    last: bool


@dataclass
class _Sequence:
    ticket: int
    request: Request
    slot: int = -1
    unread: list[int] = field(default_factory=list)
    ids: list[int] = field(default_factory=list)
    state: int = START

    def __post_init__(self) -> None:
        self.ids = list(self.request.prompt)
        self.chances = np.random.default_rng(self.request.seed)

    @property
    def written(self) -> int:
        return len(self.ids) - len(self.request.prompt)

    @property
    def at_beginning(self) -> bool:
        return self.request.begins and not self.written

    @property
    def seen(self) -> list[int]:
        """What counts as repeated: not what ends documents and messages, or a penalty would keep them from ending."""
        return [id_ for id_ in self.ids if id_ not in self.request.ends]


class Batch:
    """Sequences that are written together, in the slots that `steps` has or that are reserved."""

    def __init__(self, steps: Steps) -> None:
        self._steps = steps
        self._waiting: deque[_Sequence] = deque()
        self._running: list[_Sequence] = []
        self._remembered: list[list[int]] = [[] for _ in range(steps.slots)]
        self._tickets = 0

    @property
    def slots(self) -> int:
        """How many sequences can be written at once."""
        return self._steps.slots

    @property
    def positions(self) -> int:
        """How many tokens of each sequence are remembered."""
        return self._steps.positions

    def reserve(self, slots: int, positions: int) -> None:
        """Make room, while nothing is being written; what was remembered is forgotten."""
        assert not self.busy
        self._steps.reserve(slots, positions)
        self._remembered = [[] for _ in range(slots)]

    def add(self, request: Request) -> int:
        """Let a sequence join at the next step that has a slot for it; returns its ticket."""
        self._tickets += 1
        self._waiting.append(_Sequence(self._tickets, request))
        return self._tickets

    def cancel(self, ticket: int) -> None:
        """Let a sequence leave now; its slot is free at the next step. One that has left already is no error."""
        self._waiting = deque(sequence for sequence in self._waiting if sequence.ticket != ticket)
        self._running = [sequence for sequence in self._running if sequence.ticket != ticket]

    @property
    def busy(self) -> bool:
        """Whether there is anything left to write."""
        return bool(self._waiting or self._running)

    @property
    def free_slots(self) -> int:
        """How many more sequences could be written at once."""
        return self.slots - len(self._running)

    def step(self) -> list[Written]:
        """Read what is due and write one token of each sequence whose prompt was read.

        What ends before tokens are chosen, by an error or a signal, has changed nothing: the next step begins there.
        """
        while self._waiting and self.free_slots:
            self._seat(self._waiting.popleft())
        budget = PROMPT_ROWS
        tokens: list[int] = []
        slots: list[int] = []
        positions: list[int] = []
        reading: list[tuple[_Sequence, list[int]]] = []
        ready: list[_Sequence] = []
        wanted: list[int] = []
        for sequence in self._running:
            now = sequence.unread[: 1 if len(sequence.unread) == 1 else budget]
            if len(sequence.unread) > 1:
                budget -= len(now)
            start = len(self._remembered[sequence.slot])
            tokens += now
            slots += [sequence.slot] * len(now)
            positions += range(start, start + len(now))
            reading.append((sequence, now))
            if now and len(now) == len(sequence.unread):
                ready.append(sequence)
                wanted.append(len(tokens) - 1)
        if not tokens:
            return []
        logits = self._steps.step(
            *(np.array(numbers, dtype=np.int32) for numbers in (tokens, slots, positions, wanted))
        )
        chosen = _choose_all(ready, logits)
        for sequence, now in reading:
            self._remembered[sequence.slot] += now
            del sequence.unread[: len(now)]
        return self._write(ready, chosen)

    def _write(self, ready: list[_Sequence], chosen: list[int]) -> list[Written]:
        written = []
        for sequence, token in zip(ready, chosen, strict=True):
            last = self._note(sequence, token)
            written.append(Written(sequence.ticket, token, last))
            if last:
                self._running.remove(sequence)
            else:
                self._go_on(sequence)
        return written

    def _note(self, sequence: _Sequence, token: int) -> bool:
        """Add a token to its sequence; says whether it is the last."""
        request, first = sequence.request, sequence.at_beginning
        sequence.ids.append(token)
        if token in request.ends or sequence.written == request.max_tokens:
            return True
        if request.constraint is None:
            return False
        sequence.state = request.constraint.after(sequence.state, token, first=first)
        return request.constraint.closed(sequence.state)

    def _go_on(self, sequence: _Sequence) -> None:
        """The token just written is read next. When the context is full, its second half is read again first."""
        sequence.unread = [sequence.ids[-1]]
        if len(self._remembered[sequence.slot]) == self._steps.positions:
            self._remembered[sequence.slot] = []
            sequence.unread = sequence.ids[-max(1, self._steps.positions // 2) :]

    def _seat(self, sequence: _Sequence) -> None:
        """Give a sequence a free slot: one that remembers how its prompt begins, else a copy of such a one."""
        ids = sequence.ids[-self._steps.positions :]
        taken = {other.slot for other in self._running}
        free = [slot for slot in range(self._steps.slots) if slot not in taken]
        # Of the last token the logits are needed, so it is read in any case.
        shared = [_common(kept, ids[:-1]) for kept in self._remembered]
        # Among those that share as much, a free one, and of these the one that forgets least.
        forgets_least = [-len(kept) for kept in self._remembered]
        best = max(range(self._steps.slots), key=lambda slot: (shared[slot], slot in free, forgets_least[slot]))
        slot = best if best in free else max(free, key=forgets_least.__getitem__)
        if slot != best:
            self._steps.copy(best, slot, shared[best])
        self._remembered[slot] = ids[: shared[best]]
        sequence.slot, sequence.unread = slot, ids[shared[best] :]
        self._running.append(sequence)


def _common(a: list[int], b: list[int]) -> int:
    """How many ids two sequences begin with alike."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def _choose_all(sequences: list[_Sequence], logits: np.ndarray) -> list[int]:
    """The next id of each sequence from logits [B, V]; those who choose alike choose together."""
    chosen = [0] * len(sequences)
    groups: dict[Sampling, list[int]] = {}
    for row, sequence in enumerate(sequences):
        request, written = sequence.request, sequence.written
        if request.constraint is not None:
            left = request.max_tokens - written
            logits[row] = request.constraint.hide(
                logits[row], sequence.state, first=sequence.at_beginning, left=left, ends=request.ends
            )
        groups.setdefault(request.sampling, []).append(row)
    for sampling, rows in groups.items():
        chances = [sequences[row].chances.random() for row in rows]
        seen = [sequences[row].seen for row in rows] if sampling.repetition_penalty != 1.0 else [[]] * len(rows)
        for row, token in zip(rows, choose(logits[rows], seen, sampling, chances), strict=True):
            chosen[row] = token
    return chosen
