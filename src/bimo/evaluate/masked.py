"""How well an encoder guesses words that are masked in held-out text, beside guessing the most frequent ones.

N windows, T ids of each.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from bimo.console import SILENT, Console
from bimo.evaluate.keeping import measure_once, model_digests
from bimo.files import digest_json
from bimo.generate.blanks import Blank, blanks_in
from bimo.generate.sample import require_numbers
from bimo.models.encoder import Encoder
from bimo.runtime import DATA_REFUSED, USAGE, UserError, t
from bimo.stages import Stages, is_prepared
from bimo.tokens.masking import Masking
from bimo.tokens.shards import TokenShards
from bimo.tokens.tokenizer import Tokenizer, load_tokenizer
from bimo.train.masked_words import WINDOWS_AT_ONCE, held_out_windows, masked_measures
from bimo.weights.huggingface import load_encoder

__all__ = ["blank_line", "evaluate_masked", "held_out_blanks", "masked_line", "unigram_measures"]

VERSION = 3
"""Goes up when the same model and text would give other figures."""

MOST_TOKENS = 200_000
"""Held-out tokens that are looked at, spread evenly; one in seven is guessed."""

SHOWN = 5
WINDOW = 64
"""Tokens of a window in which a blank is shown."""


def evaluate_masked(model: Path, data: Path, *, console: Console = SILENT) -> dict[str, Any]:
    """Measure an encoder on the held-out part of prepared data, once, see `measure_once`. Returns facts as JSON."""
    if not is_prepared(data):
        raise UserError(
            "An encoder is evaluated on prepared data, which {source} is not. Make it with: bimo prepare SOURCE --out "
            "DATA.",
            code=USAGE,
            source=data,
        )
    key = digest_json({"version": VERSION, "model": model_digests(model), "tokens": Stages(data).key("tokens")})
    return measure_once(model, data, key=key, measure=lambda: _measure(model, data, console), console=console)


def _measure(folder: Path, data: Path, console: Console) -> dict[str, Any]:
    encoder, tokenizer = load_encoder(folder), load_tokenizer(folder)
    if encoder.config.head.kind != "words":
        raise UserError(
            "{model} does not guess masked words: its head is of another kind. Train an encoder with: bimo train DATA "
            "--out MODEL --family encoder.",
            code=USAGE,
            model=folder,
        )
    held_out, learned = (TokenShards(data / "tokens", split) for split in ("validation", "train"))
    if next(iter(held_out.documents()), None) is None:
        raise UserError("{source} holds no text to evaluate on.", code=DATA_REFUSED, source=data)
    if not load_tokenizer(data).inner.get_vocab().items() <= tokenizer.inner.get_vocab().items():
        raise UserError(
            "{data} was prepared with another tokenizer than {model} has, so the model cannot be measured on it.",
            code=USAGE,
            data=data,
            model=folder,
        )
    masking = Masking(tokenizer)
    windows = held_out_windows(held_out, masking, context=encoder.config.context, tokens=MOST_TOKENS)
    with console.progress("Evaluate", 1.0):
        measures = masked_measures(encoder, masking, windows)
    require_numbers(np.array([measures["masked_loss"]]))
    return {
        "task": "masked",
        "masked_loss": measures["masked_loss"],
        "masked_accuracy": measures["masked_accuracy"],
        "unigram": unigram_measures(masking, windows, learned.counts(tokenizer.vocabulary)),
        "context": encoder.config.context,
        "validation": {"tokens": int(windows.size)},
        "blanks": [blank.facts() for blank in held_out_blanks(encoder, tokenizer, held_out, count=SHOWN)],
    }


def unigram_measures(masking: Masking, windows: np.ndarray, counts: np.ndarray) -> dict[str, float]:
    """What the frequencies of tokens alone, counted [V] in the training text, reach on the same masks."""
    parts = [
        masking.mask(windows[start : start + WINDOWS_AT_ONCE], seed=(start,))
        for start in range(0, len(windows), WINDOWS_AT_ONCE)
    ]
    targets = np.concatenate([part.ids[part.chosen] for part in parts])
    weights = np.where(masking.is_special, 0, counts + 1)  # special tokens are never hidden
    return {
        "masked_loss": float(-np.log(weights[targets] / weights.sum()).mean()),
        "masked_accuracy": float((targets == weights.argmax()).mean()),
    }


def held_out_blanks(model: Encoder, tokenizer: Tokenizer, shards: TokenShards, *, count: int) -> list[Blank]:
    """Words hidden in so many places of held-out text, and the model's guesses."""
    context = min(model.config.context, WINDOW)
    windows = held_out_windows(shards, Masking(tokenizer), context=context, tokens=count * context)
    return blanks_in(model, tokenizer, windows)


def masked_line(facts: dict[str, Any]) -> str:
    """The figures for people."""
    return t(
        "{accuracy:.1%} of masked tokens guessed in text it never saw ({unigram:.1%} by frequency alone); "
        "{loss:.3f} nats a masked token ({unigram_loss:.3f})",
        accuracy=facts["masked_accuracy"],
        unigram=facts["unigram"]["masked_accuracy"],
        loss=facts["masked_loss"],
        unigram_loss=facts["unigram"]["masked_loss"],
    )


def blank_line(blank: dict[str, Any]) -> str:
    """A blank for people: the text around the hidden word, and the guesses."""
    guesses = ", ".join(f"{word} {share:.0%}" for word, share in blank["guesses"])
    return t(
        "{before}[{word}]{after}  guessed: {guesses}",
        before=blank["before"],
        word=blank["word"],
        after=blank["after"],
        guesses=guesses,
    )
