"""SentencePiece's BPE inside a GGUF file's metadata, as Llama 2 has it: pieces with scores instead of merges."""

from __future__ import annotations

import math
from collections.abc import Sequence

from tokenizers import Tokenizer, decoders, models, normalizers

__all__ = ["BLANK", "MOST_CHARACTERS", "are_scores", "piece_tokenizer"]

BLANK = "\u2581"
"""Stands for the blank in pieces."""

MOST_CHARACTERS = 1 << 22
"""Of all pieces together, of which each is cut in all places. The quarter of a million of Gemma have 2 million."""


def are_scores(values: object, count: int) -> bool:
    """Whether a value is a list of so many finite numbers."""
    return (
        isinstance(values, list)
        and len(values) == count
        and all(type(value) is float and math.isfinite(value) for value in values)
    )


def piece_tokenizer(
    tokens: Sequence[str], scores: Sequence[float], *, merged: Sequence[bool], unknown: str | None, blank_before: bool
) -> Tokenizer:
    """A tokenizer of pieces that joins, again and again, what makes the piece of the best score.

    `merged` says which tokens text may come to, others stand in the list alone; what is in no piece becomes tokens of
    its bytes, `<0x00>` to `<0xFF>`, where they are there. With `blank_before` a text begins as after a blank.
    """
    ids = {token: number for number, token in enumerate(tokens)}
    merges = []
    for token, score, is_merged in zip(tokens, scores, merged, strict=True):
        cuts = ((token[:place], token[place:]) for place in range(1, len(token) if is_merged else 0))
        merges += [(-score, ids[one], ids[two]) for one, two in cuts if one in ids and two in ids]
    pairs = [(tokens[one], tokens[two]) for _, one, two in sorted(merges)]
    inner = Tokenizer(models.BPE(ids, pairs, unk_token=unknown, fuse_unk=True, byte_fallback=True))
    before = [normalizers.Prepend(BLANK)] if blank_before else []
    inner.normalizer = normalizers.Sequence([*before, normalizers.Replace(" ", BLANK)])
    steps = [decoders.Replace(BLANK, " "), decoders.ByteFallback(), decoders.Fuse()]
    inner.decoder = decoders.Sequence([*steps, *([decoders.Strip(" ", 1, 0)] if blank_before else [])])
    return inner
