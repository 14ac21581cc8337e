"""The tokens of a vocabulary as a tree of bytes, gone through together with an automaton.

V tokens, N nodes.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from bimo.generate.constraints.automaton import DEAD, Automaton
from bimo.kernel import TokenWalk, load_library

__all__ = ["Mask", "TokenTrie"]


class Mask(NamedTuple):
    """Ids of tokens, the state after each, and these states, each once."""

    ids: np.ndarray
    after: np.ndarray
    reached: np.ndarray


class TokenTrie:
    """The bytes of all tokens as a tree, its nodes in the order of their bytes: each before all that are below it.

    `bytes_` [N] leads to a node, which is `depths` [N] bytes from the root and has `behind` [N] as the first node that
    is not below it. The tokens that end in it are ids[tokens[node] : tokens[node + 1]].
    """

    def __init__(self, pieces: list[bytes]) -> None:
        self.pieces = pieces
        self.ids = np.array(sorted(filter(pieces.__getitem__, range(len(pieces))), key=pieces.__getitem__), np.int32)
        spelled = [pieces[id_] for id_ in self.ids]
        self._lengths = np.array([len(piece) for piece in spelled])
        self._flat = np.frombuffer(b"".join(spelled), np.uint8)
        self._starts = np.cumsum(self._lengths) - self._lengths
        shared = self._shared()
        new = self._lengths - shared  # nodes that a token adds to those before
        last = np.cumsum(new)
        depth = np.arange(last[-1]) - np.repeat(last - new - shared, new)
        self.bytes_ = np.concatenate([np.zeros(1, np.uint8), self._flat[np.repeat(self._starts, new) + depth]])
        self.depths = np.concatenate([[0], depth + 1]).astype(np.int32)
        self.behind = np.full(len(self.bytes_), len(self.bytes_), np.int32)
        for level in range(1, self.depths.max() + 1):
            above = np.flatnonzero(self.depths <= level)
            own = self.depths[above[:-1]] == level
            self.behind[above[:-1][own]] = above[1:][own]
        self.tokens = np.searchsorted(last, np.arange(len(self.bytes_) + 1)).astype(np.int32)

    def missing_bytes(self) -> list[int]:
        """Bytes that are no token by themselves."""
        return sorted({*range(256)} - {piece[0] for piece in self.pieces if len(piece) == 1})

    def mask(self, automaton: Automaton, state: int) -> Mask:
        """All tokens that lead from a state of an automaton to one that is not DEAD."""
        library = load_library()
        if library is None:
            return self.mask_reference(automaton, state)
        ids, after = np.empty_like(self.ids), np.empty_like(self.ids)
        states = np.full(self.depths.max() + 1, state, np.int32)
        arrays = (self.bytes_, self.depths, self.behind, self.tokens, self.ids, states, ids, after)
        walk = TokenWalk(*(array.ctypes.data for array in arrays), len(self.bytes_), 1, 0)
        wanted = state
        with automaton.lock:  # the core reads the table where it lies, which moves when it grows
            while wanted >= 0:
                automaton.expand(wanted)
                wanted = library.bimo_walk_tokens(walk, automaton.table.ctypes.data, automaton.expanded.ctypes.data)
        return _mask(ids[: walk.found].copy(), after[: walk.found].copy())

    def mask_reference(self, automaton: Automaton, state: int) -> Mask:
        """The same, byte by byte of all tokens at once: the slow twin."""
        states = np.full(len(self.ids), state, np.int32)
        alive = np.arange(len(self.ids))
        for place in range(self._lengths.max()):
            alive = alive[(self._lengths[alive] > place) & (states[alive] != DEAD)]
            for each in np.unique(states[alive]).tolist():
                automaton.expand(each)
            states[alive] = automaton.table[states[alive], self._flat[self._starts[alive] + place]]
        allowed = states != DEAD
        return _mask(self.ids[allowed], states[allowed])

    def _shared(self) -> np.ndarray:
        """How many bytes each token has in common with that before it."""
        shared = np.zeros(len(self.ids), np.int64)
        alive = np.arange(1, len(self.ids))
        for place in range(self._lengths.max()):
            alive = alive[np.minimum(self._lengths[alive], self._lengths[alive - 1]) > place]
            alive = alive[self._flat[self._starts[alive] + place] == self._flat[self._starts[alive - 1] + place]]
            shared[alive] += 1
        return shared


def _mask(ids: np.ndarray, after: np.ndarray) -> Mask:
    return Mask(ids, after, np.flatnonzero(np.bincount(after)))
