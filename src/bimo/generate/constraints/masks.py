"""Which tokens may come next, so that a text keeps its form and still comes to its end in the tokens that are left.

S states of an automaton, V vocabulary, N nodes of a trie.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np

from bimo.generate.constraints.automaton import DEAD, FAR, START, Automaton
from bimo.runtime import USAGE, UserError
from bimo.tokens.spelling import Spelling

__all__ = ["Constraint", "TokenTrie", "Vocabulary", "allowed_reference"]

STATES_REMEMBERED = 256
"""For how many states it is kept which tokens may come: up to eight bytes a token each."""

LONGEST_LOOK = 32
"""Bytes of a token that are looked at where the way behind is known already."""


class Mask(NamedTuple):
    """Ids of tokens, the state after each, and these states, each once."""

    ids: np.ndarray
    after: np.ndarray
    reached: np.ndarray


class TokenTrie:
    """The bytes of all tokens as a tree. The children of a node, and the tokens that end in it, stand together.

    `edges` [N - 1] are 256 times a node, plus a byte, in order: that at place i leads to node i + 1.
    """

    def __init__(self, pieces: list[bytes]) -> None:
        self.pieces = pieces
        self.ids = np.array(sorted((id_ for id_, piece in enumerate(pieces) if piece), key=pieces.__getitem__))
        spelled = [pieces[id_] for id_ in self.ids]
        lengths = np.array([len(piece) for piece in spelled])
        flat, starts = np.frombuffer(b"".join(spelled), np.uint8), np.cumsum(lengths) - lengths
        nodes = np.zeros(len(spelled), dtype=np.int64)  # of each token, where its bytes so far lead
        parents, bytes_, count = [np.array([-1])], [np.zeros(1, np.uint8)], 1
        open_ = np.arange(len(spelled))
        for depth in range(lengths.max()):
            open_ = open_[lengths[open_] > depth]
            byte = flat[starts[open_] + depth]
            key = nodes[open_] * 256 + byte
            new = np.concatenate([[True], key[1:] != key[:-1]])
            nodes[open_] = count + np.cumsum(new) - 1
            parents.append(key[new] // 256)
            bytes_.append(byte[new])
            count += int(new.sum())
        self.byte = np.concatenate(bytes_)
        parent = np.concatenate(parents)
        everyone = np.arange(len(parent))
        self.edges = parent[1:] * 256 + self.byte[1:]
        self.first_child, self.after_children = np.searchsorted(parent, everyone), np.searchsorted(parent, everyone + 1)
        order = np.argsort(nodes, kind="stable")
        self.ids, ending = self.ids[order], nodes[order]
        self.first_token, self.after_tokens = np.searchsorted(ending, everyone), np.searchsorted(ending, everyone + 1)

    def missing_bytes(self) -> list[int]:
        """Bytes that are no token by themselves."""
        return sorted({*range(256)} - {piece[0] for piece in self.pieces if len(piece) == 1})

    def child(self, node: int, byte: int) -> int:
        """The node behind a byte; 0, which is the root, where there is none."""
        place = int(np.searchsorted(self.edges, node * 256 + byte))
        return place + 1 if place < len(self.edges) and self.edges[place] == node * 256 + byte else 0

    def ends_token(self, node: int) -> bool:
        """Whether the way to a node is a whole token."""
        return bool(self.after_tokens[node] > self.first_token[node])

    def mask(self, automaton: Automaton, state: int) -> Mask:
        """All tokens that lead from a state of an automaton to one that is not DEAD."""
        nodes, states = np.zeros(1, dtype=np.int64), np.array([state], dtype=np.int32)
        ids, after = [], []
        while len(nodes):
            which, nodes = _spans(self.first_child[nodes], self.after_children[nodes])
            automaton.expand(states)
            states = automaton.table[states[which], self.byte[nodes]]
            alive = np.flatnonzero(states != DEAD)
            nodes, states = nodes[alive], states[alive]
            which, tokens = _spans(self.first_token[nodes], self.after_tokens[nodes])
            ids.append(self.ids[tokens])
            after.append(states[which])
        met = np.concatenate(after)
        return Mask(np.concatenate(ids), met, np.unique(met))


def _spans(firsts: np.ndarray, afters: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The numbers of all spans [first, after) one after another: (the place of each one's span, the number)."""
    counts = afters - firsts
    which = np.repeat(np.arange(len(counts)), counts)
    return which, np.arange(len(which)) + np.repeat(firsts - (np.cumsum(counts) - counts), counts)


class Vocabulary:
    """The tokens of a tokenizer as trees: as they are anywhere in a text, and as they are at its beginning."""

    def __init__(self, spelling: Spelling) -> None:
        self.anywhere = self.first = TokenTrie(spelling.pieces)
        if spelling.drops_blank:
            self.first = TokenTrie([piece.removeprefix(b" ") for piece in spelling.pieces])

    def trie(self, *, first: bool) -> TokenTrie:
        """That for the first token of a text, or that for the others."""
        return self.first if first else self.anywhere


class Constraint:
    """An automaton with the tokens of a model, without the bytes for which it has no token.

    States are those of the automaton; a text begins in START.
    """

    def __init__(self, automaton: Automaton, vocabulary: Vocabulary) -> None:
        missing = vocabulary.anywhere.missing_bytes()
        self.automaton = automaton.without(missing) if missing else automaton
        if self.automaton.distance[START] == FAR:
            raise _no_tokens()
        self._vocabulary = vocabulary
        self._needed: dict[int, int] = {}
        self._mask = functools.lru_cache(STATES_REMEMBERED)(self._make_mask)

    def needed(self, state: int) -> int:
        """How many tokens are enough from a state to where the text may end: a way is known that takes as many.

        It is the least along the shortest way in bytes, which may be a few more than the least of all.
        """
        if state in self._needed:
            return self._needed[state]
        ways, bytes_ = [state], []
        while ways[-1] not in self._needed and not self.automaton.accepting(ways[-1]):
            byte, way = self.automaton.nearest(ways[-1])
            bytes_.append(byte)
            ways.append(way)
        # Behind a state whose number is known its way goes on, for tokens that reach beyond it.
        known = len(ways) - 1
        while not self.automaton.accepting(ways[-1]) and len(ways) - known < LONGEST_LOOK:
            byte, way = self.automaton.nearest(ways[-1])
            bytes_.append(byte)
            ways.append(way)
        for start in range(len(ways) - 1, -1, -1):
            if self.automaton.accepting(ways[start]):
                self._needed[ways[start]] = 0
            elif ways[start] not in self._needed:
                self._needed[ways[start]] = 1 + self._fewest_behind(ways[start:], bytes_[start:])
        return self._needed[state]

    def _fewest_behind(self, ways: list[int], bytes_: list[int]) -> int:
        """Of the states on a way that one token reaches from its first, the fewest tokens from there."""
        trie, node, found = self._vocabulary.anywhere, 0, []
        for byte, way in zip(bytes_, ways[1:], strict=True):
            node = trie.child(node, byte)
            if not node:
                break
            if trie.ends_token(node) and way in self._needed:
                found.append(self._needed[way])
        return min(found)

    def require_room(self, tokens: int) -> None:
        """Raises UserError where the text cannot come to its end in so many tokens."""
        if self.automaton.accepting(START):
            return
        reached = self._mask(START, True).reached.tolist()
        if not reached:
            raise _no_tokens()  # where it would have to begin with the blank that is dropped
        least = 1 + min(map(self.needed, reached))
        if least > tokens:
            raise UserError(
                "A text of this form needs {least} tokens of this model, but max_tokens is {value}. Allow more.",
                code=USAGE,
                least=least,
                value=tokens,
            )

    def hide(self, logits: np.ndarray, state: int, *, first: bool, left: int, ends: frozenset[int]) -> np.ndarray:
        """logits [V] with -inf for all tokens after which the text could not end in the `left` - 1 tokens that remain.

        A token of `ends` may come where the text may end. `first` says that nothing was written before.
        """
        ids, after, reached = self._mask(state, first)
        far = reached[self.automaton.distance[reached] >= left]  # in bytes, of which every token spells at least one
        late = [each for each in far.tolist() if self.needed(each) >= left]
        if late:
            in_time = np.ones(len(self.automaton.distance), dtype=bool)
            in_time[late] = False
            ids = ids[in_time[after]]
        hidden = np.full_like(logits, -np.inf)
        hidden[ids] = logits[ids]
        closing = [*ends]
        hidden[closing] = logits[closing] if self.automaton.accepting(state) else -np.inf
        return hidden

    def after(self, state: int, token: int, *, first: bool) -> int:
        """The state when a token that was allowed has been written."""
        for byte in self._vocabulary.trie(first=first).pieces[token]:
            state = self.automaton.after(state, byte)
        return state

    def closed(self, state: int) -> bool:
        """Whether the text is whole and nothing can follow."""
        self.automaton.expand(np.array([state]))
        return self.automaton.accepting(state) and not self.automaton.table[state].any()

    def _make_mask(self, state: int, first: bool) -> Mask:
        return self._vocabulary.trie(first=first).mask(self.automaton, state)


def _no_tokens() -> UserError:
    return UserError("This model's tokenizer has no tokens for a text of this form.", code=USAGE)


def allowed_reference(
    automaton: Automaton, spelling: Spelling, state: int, *, first: bool, left: int, ends: frozenset[int]
) -> set[int]:
    """The slow twin of `Constraint.hide`: every token is tried byte by byte, and after it all that could follow.

    It knows the fewest tokens to the end exactly, so that it may allow a few more tokens shortly before the last.
    """

    def after(state: int, piece: bytes) -> int:
        for byte in piece:
            state = automaton.after(state, byte)
        return state

    states = range(automaton.complete())
    fewest = [0 if automaton.accepting(each) else 1_000_000 for each in states]
    for _ in states:
        for each in states[START:]:
            reached = [after(each, piece) for piece in spelling.pieces if piece]
            fewest[each] = min(fewest[each], 1 + min(fewest[one] for one in reached))
    pieces = [piece.removeprefix(b" ") if first and spelling.drops_blank else piece for piece in spelling.pieces]
    allowed = {id_ for id_, piece in enumerate(pieces) if piece and fewest[after(state, piece)] < left}
    return allowed | ends if automaton.accepting(state) else allowed - ends
