"""SentencePiece's BPE inside a GGUF file's metadata, as Llama 2 has it: pieces with scores instead of merges.

`tokenizer.json` has merges with ranks, and joins the pair of the best rank; a GGUF file has pieces with scores, and the
pair is joined that makes the piece of the best score, in whatever two parts it comes. Of equals both join the first.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Sequence
from typing import Any

from tokenizers import Tokenizer, decoders, models, normalizers

from bimo.runtime import UserError

__all__ = [
    "BEFORE",
    "BLANK",
    "BYTES",
    "MOST_CHARACTERS",
    "are_scores",
    "begins_with_blank",
    "piece_scores",
    "piece_tokenizer",
]

BLANK = "\u2581"
"""Stands for the blank in pieces."""

BYTES = tuple(f"<0x{byte:02X}>" for byte in range(256))
"""Tokens of bytes, in their order: what a character becomes that is in no piece."""

AS_BLANK = {"type": "Replace", "pattern": {"String": " "}, "content": BLANK}
BEFORE = {"type": "Prepend", "prepend": BLANK}

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


def begins_with_blank(settings: dict[str, Any]) -> bool | None:
    """Whether a `tokenizer.json` of pieces begins a text as after a blank; None when it is no tokenizer of pieces.

    Where Metaspace is what does so, a text that begins with a blank gets no second one, which no key of GGUF can say.
    """
    model = settings["model"]
    others = ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "ignore_merges")
    if model["type"] != "BPE" or not model["byte_fallback"] or any(model.get(key) for key in others):
        return None
    normalizer, cut = settings["normalizer"] or {}, settings["pre_tokenizer"] or {}
    steps = normalizer.get("normalizers", [normalizer] if normalizer else [])
    if not model["vocab"].keys() >= {*BYTES}:
        return None
    if not cut and steps in ([AS_BLANK], [BEFORE, AS_BLANK]):
        return BEFORE in steps
    if steps or cut.get("type") != "Metaspace" or cut["replacement"] != BLANK or cut["split"]:
        return None
    return cut["prepend_scheme"] != "never"


def piece_scores(model: dict[str, Any], tokens: Sequence[str], *, apart: Collection[str]) -> dict[str, float]:
    """Scores with which pieces are joined as the merges of a BPE do it; no text must come to the tokens `apart`.

    Whatever stands around a piece, it is joined as it is alone, or not at all: so of its parts no others are ever met
    than those that it comes of alone. That the merges lack other parts, or rank them otherwise, changes no ids, but
    where a piece alone ends as two parts that scores would join. Raises UserError for merges that no scores can follow.
    """
    merges = [tuple(merge) for merge in model["merges"]]
    pieces = [piece for piece, _ in itertools.groupby(map("".join, merges))]
    ranks = {piece: rank for rank, piece in enumerate(pieces)}
    twice = next((piece for rank, piece in enumerate(pieces) if ranks[piece] != rank), None)
    strange = next((part for merge in merges for part in merge if part in apart), twice)
    # A character without a token is one part here, as it is in llama.cpp; no merge has the token that stands for it.
    alone = Tokenizer(models.BPE(model["vocab"], merges, unk_token=BYTES[0]))
    for token, encoding in zip(tokens, alone.encode_batch_fast([*tokens]), strict=True):
        parts = len(encoding.ids)
        if parts == 2 or (parts == 1 and len(token) > 1 and token in apart):
            strange = strange or token
    if strange is not None:
        raise UserError(
            "A GGUF file cannot hold this tokenizer: no score of {piece!r} says what its merges say.", piece=strange
        )
    return {token: -float(ranks.get(token, len(ranks))) for token in tokens if token not in apart}
