"""Texts and pairs of texts as an encoder reads them: between special tokens, filled up to the longest of a batch.

B texts, T ids of the longest.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from bimo.runtime import UserError
from bimo.tokens.tokenizer import Tokenizer

__all__ = ["Framed", "FramedBatch", "Framing"]


class Framed(NamedTuple):
    """`[CLS] first [SEP]` or `[CLS] first [SEP] second [SEP]`: `ids`, of which `first` belong to the first text.

    Both counts hold the special tokens; `cut` says whether something was left out so that it fits.
    """

    ids: list[int]
    first: int
    cut: bool


class FramedBatch(NamedTuple):
    """ids [B, T] and segments [B, T], int64; real [B, T] is false where there is but padding."""

    ids: np.ndarray
    segments: np.ndarray
    real: np.ndarray


class Framing:
    """Frames texts by the tokenizer of an encoder that reads at most `context` ids."""

    def __init__(self, tokenizer: Tokenizer, *, context: int) -> None:
        self.tokenizer, self.context = tokenizer, context
        self.opening, self.closing = tokenizer.special_id("cls_token"), tokenizer.special_id("sep_token")
        self.padding = tokenizer.special_id("pad_token")

    def texts(self, texts: Sequence[str]) -> list[Framed]:
        """Each text by itself; of one that is too long the beginning."""
        room = self.room(2)
        return [
            Framed([self.opening, *ids[:room], self.closing], min(len(ids), room) + 2, len(ids) > room)
            for ids in self.tokenizer.encode_batch(list(texts))
        ]

    def pairs(self, firsts: Sequence[str], seconds: Sequence[str]) -> list[Framed]:
        """Pairs of texts; the longer of the two is cut at its end until both fit."""
        room = self.room(3)
        found = []
        for first, second in zip(*map(self.tokenizer.encode_batch, (list(firsts), list(seconds))), strict=True):
            cut = len(first) + len(second) > room
            if cut:
                kept = max(room - len(second), min(len(first), room // 2))
                first, second = first[:kept], second[: room - kept]
            ids = [self.opening, *first, self.closing, *second, self.closing]
            found.append(Framed(ids, len(first) + 2, cut))
        return found

    def batch(self, framed: Sequence[Framed]) -> FramedBatch:
        """Filled up on the right."""
        shape = len(framed), max(len(one.ids) for one in framed)
        ids = np.full(shape, self.padding, dtype=np.int64)
        segments, real = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=bool)
        for row, one in enumerate(framed):
            ids[row, : len(one.ids)] = one.ids
            segments[row, one.first : len(one.ids)] = 1
            real[row, : len(one.ids)] = True
        return FramedBatch(ids, segments, real)

    def room(self, special: int) -> int:
        """How many ids fit beside so many others. Raises UserError when none does."""
        if self.context <= special:
            raise UserError(
                "A model that reads {context} tokens has no room for texts between special tokens.",
                context=self.context,
            )
        return self.context - special
