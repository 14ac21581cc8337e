"""Encoder-decoders for CTranslate2, and whether it translates as we do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bimo.generate.beam import Beams, search
from bimo.runtime import t
from bimo.tokens.tokenizer import load_tokenizer
from bimo.weights.ctranslate import beam_outputs, write_ctranslate2
from bimo.weights.huggingface import load_translator

__all__ = ["compare_ctranslate2", "write_ctranslate2"]

MOST_TOKENS = 128
TIE = 1e-4
"""Of scores: nearer than this two translations are equally good in float32."""


def compare_ctranslate2(folder: Path, written: Path, texts: list[str]) -> tuple[dict[str, Any], list[str]]:
    """(What was compared, in words what differs): the best of four beams for each text."""
    model, tokenizer = load_translator(folder), load_tokenizer(folder)
    limit = model.config.context - 1
    beams = Beams(max_tokens=min(MOST_TOKENS, limit))
    sources = [[*ids[:limit], tokenizer.end] for ids in tokenizer.encode_batch(texts) if ids]
    ours = search(model, sources, end=tokenizer.end, beams=beams)
    theirs = beam_outputs(written, sources, width=beams.width, max_tokens=beams.max_tokens)
    other = [
        number
        for number, (mine, found) in enumerate(zip(ours, theirs, strict=True))
        if found[0] != mine[0].ids and not (len(mine) > 1 and mine[0].score - mine[1].score < TIE)
    ]
    facts = {"engine": "CTranslate2", "prompts": len(sources), "equal_translations": len(sources) - len(other)}
    if not other:
        return facts, []
    text = tokenizer.decode(sources[other[0]])
    return facts, [
        t(
            "{count} of {texts} texts are translated otherwise, first “{text}”",
            count=len(other),
            texts=len(sources),
            text=text,
        )
    ]
