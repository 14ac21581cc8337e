"""A translation that is learned in seconds: a sequence backwards, every id one higher. Half learned, it is unsure."""

from __future__ import annotations

import functools

import numpy as np
import torch

from bimo.models.seq2seq import EncoderDecoder, Seq2SeqConfig
from bimo.tokens.pairs import PairBatch
from bimo.train.losses import translation_loss
from bimo.train.optim import build_optimizers

END, PAD = 0, 31
SHAPE = Seq2SeqConfig(PAD + 1, layers=2, decoder_layers=2, width=32, heads=4, hidden=64, context=24)


def sources(count: int, *, seed: int = 0) -> list[list[int]]:
    """Sequences of one to eight ids, each closed by END."""
    draw = np.random.default_rng(seed)
    return [[*draw.integers(1, PAD - 1, size=draw.integers(1, 9)).tolist(), END] for _ in range(count)]


def answer(source: list[int]) -> list[int]:
    """What a source is translated into."""
    return [*(token + 1 for token in reversed(source[:-1])), END]


def filled(rows: list[list[int]]) -> np.ndarray:
    """Rows filled up with PAD [B, T]."""
    longest = max(map(len, rows))
    return np.array([row + [PAD] * (longest - len(row)) for row in rows])


@functools.cache
@torch.enable_grad()
def half_learned(steps: int = 60) -> EncoderDecoder:
    """A model after so many steps."""
    model = EncoderDecoder(SHAPE).initialise(0)
    optimizers = build_optimizers(model, muon_rate=0.02, adam_rate=0.01, weight_decay=0.0)
    for step in range(steps):
        texts = sources(64, seed=step)
        loss, _ = translation_loss(model, PairBatch(filled(texts), filled([answer(text) for text in texts])))
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
    return model.eval()
