"""An encoder that points at answers: questions and texts in, the likeliest piece of each text out.

B windows, T ids of the longest.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from bimo.files import read_json, write_json
from bimo.models.encoder import Encoder
from bimo.runtime import USAGE, UserError, t
from bimo.tokens.framing import Framing
from bimo.tokens.lengths import LengthBatches
from bimo.tokens.spans import KINDS, SpanFraming, SpanWindow
from bimo.tokens.tokenizer import Tokenizer, load_tokenizer
from bimo.train.spans import span_logits
from bimo.weights.huggingface import load_encoder
from bimo.weights.names import require_fitting

__all__ = [
    "READER_FILE",
    "Calibration",
    "Reader",
    "ReaderConfig",
    "Reading",
    "best_spans",
    "best_spans_reference",
    "load_reader",
    "read_config",
]

READER_FILE = "answering.json"
"""In `bimo/` of a model folder."""

READ_AT_ONCE = 32
MOST_TOKENS = 8192


@dataclass(frozen=True)
class Calibration:
    """What margins mean: confidence is 1 / (1 + exp(-(slope * margin + intercept))), an answer is given from
    `threshold` on. As it stands: for models that bring none, by the rule of SQuAD 2.0.
    """

    slope: float = 1.0
    intercept: float = 0.0
    threshold: float = 0.0

    def confidence(self, margin: float) -> float:
        """From 0 to 1."""
        return 1 / (1 + math.exp(-max(-700.0, min(700.0, self.slope * margin + self.intercept))))


@dataclass(frozen=True)
class ReaderConfig:
    """How a model was taught to read: tokens of the `longest` answer that is looked for and of a window at most; and
    whether it is told by the kinds of tokens which words of a text stand in the question too.
    """

    longest: int = 30
    context: int = 384
    matching: bool = False
    calibration: Calibration = field(default_factory=Calibration)

    def save(self, folder: Path) -> None:
        """Write it into a model folder, whatever stood there."""
        facts = asdict(self)
        write_json(folder / "bimo" / READER_FILE, {**facts.pop("calibration"), **facts})


class Reading(NamedTuple):
    """The likeliest answer in a text: characters [start, end), and how far it stands above there being none."""

    start: int
    end: int
    margin: float


class Reader:
    """Reads texts in windows, and points at what answers a question."""

    def __init__(self, model: Encoder, tokenizer: Tokenizer, config: ReaderConfig) -> None:
        self.model, self.config = model, config
        framing = Framing(tokenizer, context=min(config.context, model.config.context))
        self.framing = SpanFraming(framing, matching=config.matching)

    def unread(self, question: str) -> int:
        """How many tokens of a question are left out at its end."""
        return self.framing.unread(question)

    def read(self, questions: Sequence[str], texts: Sequence[str]) -> list[Reading]:
        """Of each question with its text the answer, of all windows of the text that with the largest margin."""
        windows = self.framing.windows(questions, texts)
        best: list[Reading | None] = [None] * len(texts)
        if windows:
            lengths = [len(window.framed.ids) for window in windows]
            for numbers in LengthBatches(lengths, rows=READ_AT_ONCE, tokens=MOST_TOKENS, seed=0):
                chosen = [windows[number] for number in numbers]
                for window, reading in zip(chosen, self._read(chosen), strict=True):
                    before = best[window.pair]
                    if before is None or reading.margin > before.margin:
                        best[window.pair] = reading
        found = [reading or Reading(0, 0, -math.inf) for reading in best]
        return [_trimmed(reading, text) for reading, text in zip(found, texts, strict=True)]

    @torch.inference_mode()
    def _read(self, windows: Sequence[SpanWindow]) -> list[Reading]:
        framed, of_text = self.framing.batch(windows)
        allowed = of_text.copy()
        allowed[:, 0] = True
        firsts, lasts = span_logits(self.model, framed, allowed).cpu().numpy().transpose(2, 0, 1)
        found = best_spans(firsts, lasts, of_text, longest=self.config.longest)
        readings = []
        for row, (window, first, last) in enumerate(zip(windows, *found, strict=True)):
            if not window.room:
                readings.append(Reading(0, 0, -math.inf))
                continue
            score = firsts[row, first] + lasts[row, last] - firsts[row, 0] - lasts[row, 0]
            readings.append(Reading(*window.characters_at(int(first), int(last)), float(score)))
        return readings


def _trimmed(reading: Reading, text: str) -> Reading:
    """Without the blanks that tokens have before words."""
    piece = text[reading.start : reading.end]
    start = reading.start + len(piece) - len(piece.lstrip())
    return Reading(start, max(start, reading.end - len(piece) + len(piece.rstrip())), reading.margin)


def best_spans(
    firsts: np.ndarray, lasts: np.ndarray, of_text: np.ndarray, *, longest: int
) -> tuple[np.ndarray, np.ndarray]:
    """Scores [B, T] of both ends -> the places [B] and [B] with the largest sum, at most `longest` tokens of a text."""
    T = firsts.shape[1]
    longest = min(longest, T)
    begins = np.where(of_text, firsts, -np.inf)
    ends = np.pad(np.where(of_text, lasts, -np.inf), ((0, 0), (0, longest - 1)), constant_values=-np.inf)
    sums = begins[..., None] + np.lib.stride_tricks.sliding_window_view(ends, longest, axis=1)
    first, more = np.divmod(sums.reshape(len(sums), -1).argmax(axis=1), longest)
    return first, first + more


def best_spans_reference(
    firsts: np.ndarray, lasts: np.ndarray, of_text: np.ndarray, *, longest: int
) -> tuple[np.ndarray, np.ndarray]:
    """The slow twin: every pair of places is tried."""
    found = []
    for row in range(len(firsts)):
        places = np.flatnonzero(of_text[row])
        pairs = [(first, last) for first in places for last in places if first <= last < first + longest]
        found.append(max(pairs, key=lambda pair: firsts[row, pair[0]] + lasts[row, pair[1]], default=(0, 0)))
    first, last = np.array(found).T
    return first, last


def load_reader(folder: Path, *, device: torch.device | None = None) -> Reader:
    """The model in a folder that points at answers, of Bimo's or BertForQuestionAnswering. Raises UserError."""
    model, tokenizer = load_encoder(folder, device=device), load_tokenizer(folder)
    require_fitting(folder, tokens=tokenizer.vocabulary, vocabulary=model.config.vocabulary)
    if model.config.head.kind != "span":
        raise UserError(
            "{folder} holds an encoder that was not taught to answer. Teach it: "
            "bimo tune {folder} QUESTIONS --task answer --out OUT.",
            code=USAGE,
            folder=folder,
        )
    config = read_config(folder)
    if config.matching and model.config.segments < KINDS:
        raise UserError(
            "{folder} is damaged: it marks matching words, which takes {wanted} kinds of tokens, and knows {known}.",
            folder=folder,
            wanted=KINDS,
            known=model.config.segments,
        )
    return Reader(model, tokenizer, config)


def read_config(folder: Path) -> ReaderConfig:
    """That of a model folder, and what is usual of one that brings none. Raises UserError when the file is damaged."""
    path = folder / "bimo" / READER_FILE
    stored = read_json(path) if path.is_file() else {}
    try:
        if not isinstance(stored, dict):
            raise TypeError(t("it is not an object"))
        margins = {one.name: float(stored.pop(one.name)) for one in fields(Calibration) if one.name in stored}
        usual = asdict(ReaderConfig())
        config = ReaderConfig(
            calibration=Calibration(**margins), **{name: type(usual[name])(stored[name]) for name in stored}
        )
        if config.longest < 1:
            raise ValueError(f"longest is {config.longest}")
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise UserError("{path} is damaged: {fault}.", path=path, fault=str(error)[:200]) from None
    return config
