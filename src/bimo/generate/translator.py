"""A translation model in use: lines in, lines out."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from bimo.generate.beam import Beams, search
from bimo.models.seq2seq import EncoderDecoder
from bimo.runtime import UserError, pick_device
from bimo.tokens.tokenizer import Tokenizer, load_tokenizer
from bimo.weights.huggingface import load_translator
from bimo.weights.names import require_fitting

__all__ = ["Translation", "Translator", "load", "translate"]

USUAL = Beams()

TOGETHER = 32
"""Sentences that are searched together, of like length."""

AHEAD = 16 * TOGETHER
"""Texts that are read before the first is translated, so that there are some of like length."""


@dataclass(frozen=True)
class Translation:
    """The best target of a text with its score, the others after it, and whether the text was cut to what fits."""

    text: str
    score: float
    others: list[str]
    cut: bool


class Translator:
    """An encoder-decoder with its tokenizer."""

    def __init__(self, model: EncoderDecoder, tokenizer: Tokenizer) -> None:
        self.model, self.tokenizer = model, tokenizer

    def translate(self, texts: Iterable[str], beams: Beams = USUAL, *, ahead: int = AHEAD) -> Iterator[Translation]:
        """The translation of each text, in their order; `ahead` are read first, to search like lengths together.

        An empty text is translated as one. What is longer than the model reads is cut at its end.
        """
        texts = iter(texts)
        while window := list(itertools.islice(texts, ahead)):
            yield from self._window(window, beams)

    def _window(self, texts: list[str], beams: Beams) -> list[Translation]:
        limit = self.model.config.context - 1
        encoded = self.tokenizer.encode_batch(texts)
        done: list[Translation] = [Translation("", 0.0, [], False)] * len(texts)
        order = sorted((i for i, ids in enumerate(encoded) if ids), key=lambda i: len(encoded[i]))
        for start in range(0, len(order), TOGETHER):
            group = order[start : start + TOGETHER]
            sources = [[*encoded[i][:limit], self.tokenizer.end] for i in group]
            for i, found in zip(group, search(self.model, sources, end=self.tokenizer.end, beams=beams), strict=True):
                best, *others = [self.tokenizer.decode(hypothesis.ids) for hypothesis in found]
                done[i] = Translation(best, found[0].score, others, len(encoded[i]) > limit)
        return done


def load(path: str | Path, *, device: str = "auto") -> Translator:
    """The translation model in a Marian folder. Raises UserError when it holds none."""
    path = Path(path)
    if not path.is_dir():
        raise UserError("There is no model folder {folder}.", folder=path)
    model, tokenizer = load_translator(path, device=pick_device(device)), load_tokenizer(path)
    require_fitting(path, tokens=tokenizer.vocabulary, vocabulary=model.config.vocabulary)
    return Translator(model, tokenizer)


def translate(path: str | Path, texts: Iterable[str], beams: Beams = USUAL) -> list[str]:
    """The translations of texts by the model at `path`."""
    return [found.text for found in load(path).translate(texts, beams)]
