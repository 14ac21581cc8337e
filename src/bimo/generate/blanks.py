"""What an encoder would put into blanks: the guesses by which a person sees what it learned.

T ids of a window, V vocabulary.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from bimo.models.encoder import Encoder
from bimo.tokens.masking import Masking
from bimo.tokens.tokenizer import Tokenizer

__all__ = ["Blank", "blanks_in"]

GUESSES = 3
AROUND = 6
"""Tokens that are shown on both sides of a blank."""


@dataclass(frozen=True)
class Blank:
    """A word that was hidden from the model, what stood around it, and the likeliest guesses with their shares."""

    before: str
    word: str
    after: str
    guesses: tuple[tuple[str, float], ...]

    def facts(self) -> dict[str, Any]:
        """As JSON."""
        return {**asdict(self), "guesses": [list(guess) for guess in self.guesses]}


def blanks_in(model: Encoder, tokenizer: Tokenizer, windows: np.ndarray, *, seed: int = 0) -> list[Blank]:
    """In each framed window [T], hide one word that is a single token, and let the model guess."""
    masking = Masking(tokenizer)
    found = []
    for window in windows:
        words = masking.words(window[None])[0]
        place = _single_word(words, [_shown(tokenizer, token) for token in window], seed)
        if place is None:
            continue
        read = window[None].copy()
        read[0, place] = masking.mask_id
        (guesses,) = _guesses(model, tokenizer, read, read == masking.mask_id)
        start, end = _around(words, place)
        before, word, after = (
            " ".join(tokenizer.decode(ids.tolist()).strip("\ufffd").split("\n"))
            for ids in (window[start:place], window[place : place + 1], window[place + 1 : end])
        )
        blank = word[: len(word) - len(word.lstrip())]
        found.append(Blank(before.lstrip() + blank, word.strip(), after, guesses))
    return found


def _single_word(words: np.ndarray, texts: list[str], seed: int) -> int | None:
    """Where one token is a whole word of letters; one of these places by chance. words [T] are numbers of words."""
    counts = np.bincount(words[words >= 0])
    alone = [place for place in np.flatnonzero(words >= 0) if counts[words[place]] == 1 and texts[place].isalpha()]
    return int(np.random.default_rng(seed).choice(alone)) if alone else None


def _around(words: np.ndarray, place: int) -> tuple[int, int]:
    """Where the text around a place begins and ends: some tokens on both sides, no word cut."""
    start, end = max(0, place - AROUND), min(len(words), place + 1 + AROUND)
    while 0 < start < place and words[start] == words[start - 1]:
        start += 1
    while place + 1 < end < len(words) and words[end] == words[end - 1]:
        end -= 1
    return start, end


def _shown(tokenizer: Tokenizer, token: int) -> str:
    return tokenizer.decode([int(token)]).strip()


@torch.no_grad()
def _guesses(
    model: Encoder, tokenizer: Tokenizer, read: np.ndarray, chosen: np.ndarray
) -> list[tuple[tuple[str, float], ...]]:
    """The likeliest tokens at the chosen places of read [1, T], a tuple a place."""
    training = model.training
    model.eval()
    logits = model(torch.from_numpy(read).to(model.embedding.weight.device))
    shares, tokens = logits[torch.from_numpy(chosen)].float().softmax(dim=-1).topk(GUESSES)
    model.train(training)
    return [
        tuple((_shown(tokenizer, token), share) for token, share in zip(row, of, strict=True))
        for row, of in zip(tokens.tolist(), shares.tolist(), strict=True)
    ]
