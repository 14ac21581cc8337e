"""Which tokens may come next, so that a text keeps its form and still comes to its end in the tokens that are left.

S states of an automaton, V vocabulary.
"""

from __future__ import annotations

import functools

import numpy as np

from bimo.generate.constraints.automaton import FAR, START, Automaton
from bimo.generate.constraints.trie import Mask, TokenTrie
from bimo.runtime import USAGE, UserError
from bimo.tokens.spelling import Spelling

__all__ = ["Constraint", "Vocabulary", "allowed_reference"]

REMEMBERED_BYTES = 64e6
"""Of a form, for which tokens may come in which state: up to eight bytes a token and state."""

LONGEST_LOOK = 32
"""Bytes of the shortest way that are kept for each state: longer tokens are not thought of."""


class Vocabulary:
    """The tokens of a tokenizer as trees: as they are anywhere in a text, and as they are at its beginning."""

    def __init__(self, spelling: Spelling) -> None:
        self.anywhere = self.first = TokenTrie(spelling.pieces)
        if spelling.drops_blank:
            self.first = TokenTrie([piece.removeprefix(b" ") for piece in spelling.pieces])
        self.pieces = frozenset(spelling.pieces)

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
        # The next bytes of the shortest way from a state, and the tokens needed after each of them.
        self._ways: dict[int, tuple[bytes, tuple[int, ...]]] = {}
        remembered = max(8, int(REMEMBERED_BYTES / 8 / len(vocabulary.anywhere.ids)))
        self._mask = functools.lru_cache(remembered)(self._make_mask)

    def needed(self, state: int) -> int:
        """How many tokens are enough from a state to where the text may end: a way is known that takes as many.

        It is the least along the shortest way in bytes, which may be a few more than the least of all.
        """
        unknown: list[tuple[int, int]] = []
        way = state
        while way not in self._needed and not self.automaton.accepting(way):
            byte, after = self.automaton.nearest(way)
            unknown.append((way, byte))
            way = after
        if way not in self._needed:
            self._needed[way], self._ways[way] = 0, (b"", ())
        for before, byte in reversed(unknown):
            spelled, behind = self._ways[way]
            spelled, behind = (bytes((byte,)) + spelled)[:LONGEST_LOOK], (self._needed[way], *behind)[:LONGEST_LOOK]
            pieces = self._vocabulary.pieces
            self._needed[before] = 1 + min(n for length, n in enumerate(behind, 1) if spelled[:length] in pieces)
            self._ways[before] = spelled, behind
            way = before
        return self._needed[state]

    def require_room(self, tokens: int, *, first: bool) -> None:
        """Raises UserError where the text cannot come to its end in so many tokens; `first` as in `hide`."""
        if self.automaton.accepting(START):
            return
        reached = self._mask(START, first).reached.tolist()
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

        A token of `ends` may come where the text may end. `first` says that nothing stands before.
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
        self.automaton.expand(state)
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
