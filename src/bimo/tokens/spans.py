"""A question and a text in overlapping windows of tokens, each of which knows the characters that it stands for.

N tokens of a text, B windows, T ids of the longest.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from bimo.text.matches import IN_A_ROW, mark_matches
from bimo.tokens.framing import Framed, FramedBatch, Framing

__all__ = ["KINDS", "LocatedText", "SpanFraming", "SpanWindow", "locate"]

KINDS = 2 + IN_A_ROW
"""Of tokens where matches are marked: of the question; of the text, without and with each mark."""

LONGEST_QUESTION = 64
OVERLAP = 128
"""Tokens that neighbouring windows share (Devlin et al. 2019)."""


@dataclass(frozen=True)
class LocatedText:
    """The `ids` of a text, and the characters [starts, ends) that each stands for [N]; both never fall."""

    ids: list[int]
    starts: np.ndarray
    ends: np.ndarray

    def tokens_of(self, start: int, end: int) -> tuple[int, int] | None:
        """The first and the last token of those that stand for characters [start, end); None if there is none."""
        first = int(np.searchsorted(self.ends, start, side="right"))
        last = int(np.searchsorted(self.starts, end, side="left")) - 1
        return (first, last) if first <= last else None

    def characters_of(self, first: int, last: int) -> tuple[int, int]:
        """[start, end) of what two tokens and those between stand for."""
        return int(self.starts[first]), int(self.ends[last])

    def largest_in(self, marks: np.ndarray) -> np.ndarray:
        """Marks from 0 to IN_A_ROW of characters -> of each token the largest of those that it stands for [N]."""
        largest = np.zeros(len(self.ids), dtype=np.int64)
        for mark in range(1, IN_A_ROW + 1):
            before = np.concatenate([[0], np.cumsum(marks >= mark)])
            largest += before[self.ends] > before[self.starts]
        return largest


@dataclass(frozen=True)
class SpanWindow:
    """`framed` is the question and the tokens of `text` from `offset` on; `pair` numbers what was asked for.

    `matches` are the marks of bimo.text.matches of those tokens, where they are looked for.
    """

    framed: Framed
    text: LocatedText
    offset: int
    pair: int
    matches: np.ndarray | None = None

    @property
    def room(self) -> int:
        """How many tokens of the text stand in it."""
        return len(self.framed.ids) - self.framed.first - 1

    def places_of(self, start: int, end: int) -> tuple[int, int] | None:
        """First and last place in `framed.ids` of characters [start, end); None where they are not all inside."""
        tokens = self.text.tokens_of(start, end)
        if tokens is None or tokens[0] < self.offset or tokens[1] >= self.offset + self.room:
            return None
        shift = self.framed.first - self.offset
        return tokens[0] + shift, tokens[1] + shift

    def characters_at(self, first: int, last: int) -> tuple[int, int]:
        """[start, end) in the text of two places in `framed.ids`."""
        shift = self.framed.first - self.offset
        return self.text.characters_of(first - shift, last - shift)


def locate(framing: Framing, texts: Sequence[str]) -> list[LocatedText]:
    """The tokens of texts with their characters. Several may share one, where a character is of several bytes."""
    found = []
    for encoding in framing.tokenizer.inner.encode_batch(list(texts), add_special_tokens=False):
        offsets = np.array(encoding.offsets, dtype=np.int64).reshape(-1, 2)
        # Where a tokenizer adds or composes characters, a token may begin before the one in front of it has ended.
        starts, ends = np.maximum.accumulate(offsets, axis=0).T if len(offsets) else offsets.T
        found.append(LocatedText(encoding.ids, starts, ends))
    return found


class SpanFraming:
    """Frames questions with texts, which are read in as many windows as they need.

    With `matching` the kinds of the tokens say which words of a text stand in the question too.
    """

    def __init__(self, framing: Framing, *, matching: bool = False) -> None:
        self.framing, self.matching = framing, matching

    def windows(self, questions: Sequence[str], texts: Sequence[str]) -> list[SpanWindow]:
        """Of each question with its text, in order; a text that is met again is encoded once."""
        alone = list(dict.fromkeys(texts))
        located = dict(zip(alone, locate(self.framing, alone), strict=True))
        asked = self.framing.tokenizer.encode_batch(list(questions))
        return [
            window
            for pair, (question, ids, text) in enumerate(zip(questions, asked, texts, strict=True))
            for window in self._cut(ids, located[text], pair, self._matches(question, text, located[text]))
        ]

    def batch(self, windows: Sequence[SpanWindow]) -> tuple[FramedBatch, np.ndarray]:
        """Filled up on the right; and where tokens of the texts stand [B, T]."""
        framed = self.framing.batch([window.framed for window in windows])
        for row, window in enumerate(windows):
            if window.matches is not None:
                framed.segments[row, window.framed.first : window.framed.first + window.room] += window.matches
        places = np.arange(framed.ids.shape[1])
        first = np.array([[window.framed.first] for window in windows])
        end = np.array([[len(window.framed.ids) - 1] for window in windows])
        return framed, (first <= places) & (places < end)

    @property
    def longest_question(self) -> int:
        """Tokens of a question that are read."""
        return min(LONGEST_QUESTION, self.framing.context // 2)

    def unread(self, question: str) -> int:
        """How many tokens of a question are left out at its end."""
        return max(0, len(self.framing.tokenizer.encode(question)) - self.longest_question)

    def _matches(self, question: str, text: str, located: LocatedText) -> np.ndarray | None:
        return located.largest_in(mark_matches(question, text)) if self.matching else None

    def _cut(self, asked: list[int], text: LocatedText, pair: int, marks: np.ndarray | None) -> Iterator[SpanWindow]:
        framing = self.framing
        asked = asked[: self.longest_question]
        room = framing.room(len(asked) + 3)
        shared = min(OVERLAP, room // 2)
        for offset in range(0, max(1, len(text.ids) - shared), room - shared):
            part = text.ids[offset : offset + room]
            ids = [framing.opening, *asked, framing.closing, *part, framing.closing]
            matches = None if marks is None else marks[offset : offset + room]
            yield SpanWindow(Framed(ids, len(asked) + 2, len(part) < len(text.ids)), text, offset, pair, matches)
