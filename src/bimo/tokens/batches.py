"""Which tokens a training step sees: a function of (seed, step, content) alone (docs/decisions.md).

The tokens are cut into windows; each epoch cuts them elsewhere and visits them in another order. Nothing is kept
between steps, so a run that resumes at step s sees what it would have seen, on any number of workers.
"""

from __future__ import annotations

import hashlib

import numpy as np

from bimo.runtime import DATA_REFUSED, UserError
from bimo.tokens.shards import TokenShards

__all__ = ["Batches", "count_windows", "permuted"]

ROUNDS = 6
"""Rounds of the Feistel network; four make a permutation that looks random (Luby and Rackoff 1988)."""


def permuted(index: np.ndarray, size: int, key: int) -> np.ndarray:
    """Where a fixed shuffle of range(size), chosen by `key`, sends each index: a bijection that needs no memory.

    A Feistel network over the next even power of two; what falls outside is sent on until it falls inside.
    """
    half_bits = max(1, ((size - 1).bit_length() + 1) // 2)
    mask = np.uint64((1 << half_bits) - 1)
    shift = np.uint64(half_bits)
    keys = np.random.default_rng(key).integers(0, 2**63, size=ROUNDS, dtype=np.uint64)
    result = index.astype(np.uint64)
    outside = np.ones(result.shape, dtype=bool)
    while outside.any():
        left, right = result[outside] >> shift, result[outside] & mask
        for round_key in keys:
            left, right = right, left ^ (_scramble(right ^ round_key) & mask)
        result[outside] = (left << shift) | right
        outside = result >= size
    return result.astype(np.int64)


def _scramble(x: np.ndarray) -> np.ndarray:
    """A 64-bit mixer (the finaliser of SplitMix64, Steele et al. 2014)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def count_windows(tokens: int, *, context: int) -> int:
    """How many windows an epoch has of so many tokens. Raises UserError when there is none."""
    # The last `context` starts are left to the offset of the epoch, so that every epoch has as many windows.
    windows = (tokens - 1) // context - 1
    if windows < 1:
        raise UserError(
            "The training text has {tokens} tokens: too few for a context of {context}. Add text, or set a "
            "shorter model.context.",
            code=DATA_REFUSED,
            tokens=tokens,
            context=context,
        )
    return windows


class Batches:
    """Batches of windows [rows, context + 1] by step. With several workers each takes its own rows of every batch."""

    def __init__(
        self, shards: TokenShards, *, batch: int, context: int, seed: int, worker: int = 0, workers: int = 1
    ) -> None:
        if batch % workers:
            raise UserError(
                "A batch of {batch} cannot be shared evenly by {workers} workers.", batch=batch, workers=workers
            )
        self.windows = count_windows(len(shards), context=context)
        self.shards, self.batch, self.context, self.seed = shards, batch, context, seed
        self.worker, self.workers = worker, workers
        self._fingerprint = shards.fingerprint

    def starts(self, step: int) -> np.ndarray:
        """Where in the tokens the windows of this step begin, for all workers: [batch]."""
        samples = np.arange(step * self.batch, (step + 1) * self.batch, dtype=np.int64)
        epochs, positions = np.divmod(samples, self.windows)
        starts = np.empty_like(samples)
        for epoch in np.unique(epochs):
            here = epochs == epoch
            key = self._key(int(epoch))
            starts[here] = permuted(positions[here], self.windows, key) * self.context + key % self.context
        return starts

    def _key(self, epoch: int) -> int:
        text = f"{self.seed}/{epoch}/{self._fingerprint}"
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")

    def at(self, step: int) -> np.ndarray:
        """This worker's windows of the step, int64 [batch / workers, context + 1]."""
        mine = self.starts(step)[self.worker :: self.workers]
        return np.stack([self.shards.read(int(start), self.context + 1) for start in mine])
