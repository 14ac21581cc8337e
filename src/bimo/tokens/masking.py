"""What an encoder has to guess: whole words of a window are masked, as a function of (seed, step) alone.

B windows, T ids of each.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import tokenizers
from tokenizers import AddedToken, decoders, models, processors

from bimo.text.segment import segment
from bimo.tokens.batches import Batches
from bimo.tokens.tokenizer import Tokenizer

__all__ = ["FRAME", "LEARNED", "Masked", "MaskedBatches", "Masking", "with_mask_token"]

MEASURED, LEARNED = 0.15, 0.4
"""The share of tokens to be guessed where it is measured (Devlin et al. 2019) and where it is learned: of twice as many
twice as much is learned from each window (Wettig et al. 2022; docs/log.md)."""

MASKED, EXCHANGED = 0.8, 0.1
"""The share of those that becomes the mask token, or a random one (Devlin et al. 2019)."""

FRAME = 2
"""Special tokens around a window, one on each side."""

NEW_TOKENS = {"cls_token": "[CLS]", "pad_token": "[PAD]", "mask_token": "[MASK]"}

PRINTABLE = [*range(33, 127), *range(161, 173), *range(174, 256)]
BYTES = {
    **{chr(byte): bytes([byte]) for byte in PRINTABLE},
    **{chr(256 + place): bytes([byte]) for place, byte in enumerate(sorted({*range(256)} - {*PRINTABLE}))},
}
"""How byte-level BPE writes bytes: as the character of that number, or those from 256 on (Radford et al. 2019)."""

FIRST_HAN = "\u2e80"
"""About where characters begin between which no blanks stand."""

OTHER = "\0"
"""Stands for a special token where words are looked for: it is a word by itself."""


def with_mask_token(tokenizer: Tokenizer) -> Tokenizer:
    """The same ids, and behind them the special tokens that an encoder needs, unless it has them already.

    What ends a text there separates texts here: it is `sep_token`.
    """
    if {"cls_token", "sep_token", "pad_token", "mask_token"} <= tokenizer.special.keys():
        return tokenizer
    inner = tokenizers.Tokenizer.from_str(tokenizer.inner.to_str())
    # A hidden word of English takes the blank before it along, as the tokens of words do.
    inner.add_special_tokens(
        [
            AddedToken(token, special=True, normalized=False, lstrip=role == "mask_token")
            for role, token in NEW_TOKENS.items()
        ]
    )
    first, last = NEW_TOKENS["cls_token"], inner.id_to_token(tokenizer.end) or ""
    inner.post_processor = processors.TemplateProcessing(
        single=f"{first} $A {last}",
        pair=f"{first} $A {last} $B:1 {last}:1",
        special_tokens=[(first, inner.token_to_id(first)), (last, tokenizer.end)],
    )
    return Tokenizer(inner, {**NEW_TOKENS, "sep_token": last})


@dataclass(frozen=True)
class Masked:
    """Windows `ids` [B, T], what is `read` of them [B, T], and where something was `chosen` to be guessed [B, T]."""

    ids: np.ndarray
    read: np.ndarray
    chosen: np.ndarray


class Masking:
    """Knows the words of a tokenizer that has a mask token, see `with_mask_token`."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.first, self.last = tokenizer.special_id("cls_token"), tokenizer.end
        self.mask_id = tokenizer.special_id("mask_token")
        self._spellings = spellings(tokenizer)
        self._lengths = np.array([len(spelling) for spelling in self._spellings])
        special = [number for number, token in tokenizer.inner.get_added_tokens_decoder().items() if token.special]
        self.is_special = np.zeros(tokenizer.vocabulary, dtype=bool)
        self.is_special[special] = True
        self._ordinary = np.flatnonzero(~self.is_special)

    def framed(self, windows: np.ndarray) -> np.ndarray:
        """[B, T - FRAME] -> [B, T], as the tokenizer frames a text."""
        return np.pad(windows, ((0, 0), (1, 1)), constant_values=((0, 0), (self.first, self.last)))

    def words(self, ids: np.ndarray) -> np.ndarray:
        """The number of the word that each token belongs to [B, T], words being counted through; -1 if it is special.

        A token that holds the end of a word and the beginning of the next makes one word of both.
        """
        flat = ids.reshape(-1)
        text = b"".join([self._spellings[token] for token in flat]).decode("utf-8", "surrogateescape")
        lengths = [len(word.encode("utf-8", "surrogateescape")) for word in segment(text)]
        ends = np.cumsum(self._lengths[flat])
        begins_word = np.zeros(ends[-1] + 1, dtype=bool)
        begins_word[0] = True
        begins_word[np.cumsum(lengths)] = True
        numbers = np.cumsum(begins_word[ends - self._lengths[flat]]) - 1
        return np.where(self.is_special[flat], -1, numbers).reshape(ids.shape)

    def mask(self, ids: np.ndarray, *, seed: tuple[int, ...], share: float = MEASURED) -> Masked:
        """Choose words of ids [B, T] until they hold that share of all tokens that are not special."""
        random = np.random.default_rng(seed)
        words = self.words(ids)
        sizes = np.bincount(words[words >= 0], minlength=words.max() + 1)
        order = random.permutation(np.flatnonzero(sizes))
        count = np.searchsorted(np.cumsum(sizes[order]), share * sizes.sum(), side="right")
        wanted = np.zeros(len(sizes) + 1, dtype=bool)  # the last place is that of special tokens
        wanted[order[: max(1, count)]] = True
        chosen = wanted[words]
        read = ids.copy()
        fate = random.random(int(chosen.sum()))
        others = random.choice(self._ordinary, size=len(fate))
        read[chosen] = np.select([fate < MASKED, fate < MASKED + EXCHANGED], [self.mask_id, others], ids[chosen])
        return Masked(ids, read, chosen)


class MaskedBatches:
    """Batches of windows of `context` ids, framed and masked, by step."""

    def __init__(self, batches: Batches, masking: Masking, *, seed: int) -> None:
        self._batches, self._masking, self._seed = batches, masking, seed

    def at(self, step: int) -> Masked:
        """The windows of the step; what is masked follows from the seed, the step and the worker."""
        ids = self._masking.framed(self._batches.at(step))
        return self._masking.mask(ids, seed=(self._seed, step, self._batches.worker), share=LEARNED)


def spellings(tokenizer: Tokenizer) -> list[bytes]:
    """The bytes that each token stands for in a text; where words of a WordPiece begin, a blank before them."""
    inner = tokenizer.inner
    tokens = [inner.id_to_token(number) or "" for number in range(tokenizer.vocabulary)]
    special = {token.content for token in inner.get_added_tokens_decoder().values() if token.special}
    if isinstance(inner.model, models.WordPiece):
        spell = _spell_wordpiece
    elif isinstance(inner.decoder, decoders.ByteLevel):
        spell = _spell_bytes
    else:
        spell = _spell_metaspace
    return [OTHER.encode() if token in special else spell(token) for token in tokens]


def _spell_bytes(token: str) -> bytes:
    return b"".join(BYTES.get(character, character.encode()) for character in token)


def _spell_wordpiece(token: str) -> bytes:
    """Chinese is cut into characters, between which there was nothing."""
    if token.startswith("##"):
        return token[2:].encode()
    return token.encode() if token >= FIRST_HAN else b" " + token.encode()


def _spell_metaspace(token: str) -> bytes:
    return token.replace("\u2581", " ").encode()
