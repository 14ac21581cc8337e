"""Pairs of texts as ids, packed on disk, and which of them a training step sees (as in tokens.batches).

Sources and targets lie in files of their own, as documents do; the end token that closes a document is what tells the
encoder that a source is over, and what the decoder learns to write.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from bimo.runtime import DATA_REFUSED, UserError
from bimo.text.pairs import Pair
from bimo.tokens.batches import permuted
from bimo.tokens.shards import TokenShards, TokenWriter
from bimo.tokens.tokenizer import Tokenizer, in_batches

__all__ = ["PairBatch", "PairBatches", "PairTokens", "pack_pairs"]

STEP = 1.15
"""Lengths that differ by less than this factor are padded to the same one."""


class PairBatch(NamedTuple):
    """Ids of sources [B, S] and targets [B, T], int64, each closed by the end token, then filled up with padding."""

    source: np.ndarray
    target: np.ndarray


def pack_pairs(
    folder: Path,
    split: str,
    pairs: Iterable[Pair],
    tokenizer: Tokenizer,
    *,
    longest: int,
    tags: Mapping[str, int],
) -> dict[str, int]:
    """Write the pairs whose sides have at most `longest` ids, tag and end included.

    `tags` has the id that stands before a source for the language that its target is in; a pair that names none has
    none. Returns counts of pairs and tokens.
    """
    names = [f"{split}-source", f"{split}-target"]
    too_long = bytes_ = 0
    with (
        TokenWriter(folder, names[0], vocabulary=tokenizer.vocabulary, end=tokenizer.end) as sources,
        TokenWriter(folder, names[1], vocabulary=tokenizer.vocabulary, end=tokenizer.end) as targets,
    ):
        for texts in in_batches(f"{pair.to}\t{pair.source}\t{pair.target}" for pair in pairs):
            languages, *sides = zip(*(text.split("\t") for text in texts), strict=True)
            source, target = (tokenizer.encode_batch(list(side)) for side in sides)
            tagged = ([tags[to], *ids] if to else ids for to, ids in zip(languages, source, strict=True))
            entries = zip(tagged, target, sides[1], strict=True)
            fitting = [entry for entry in entries if max(len(entry[0]), len(entry[1])) < longest]
            sources.write([ids for ids, _, _ in fitting])
            targets.write([ids for _, ids, _ in fitting])
            bytes_ += sum(len(text.encode()) for _, _, text in fitting)
            too_long += len(texts) - len(fitting)
    return {
        "pairs": targets.documents,
        "too_long": too_long,
        "source_tokens": sources.tokens - 1,
        "target_tokens": targets.tokens - 1,
        "target_bytes": bytes_,
    }


class PairTokens:
    """The packed pairs of one split, by their numbers."""

    def __init__(self, folder: Path, split: str) -> None:
        self.sides = [TokenShards(folder, f"{split}-{side}") for side in ("source", "target")]
        self._spans = [side.spans() for side in self.sides]
        if len(self._spans[0]) != len(self._spans[1]) or not len(self):
            raise UserError(
                "There is no pair for {split}: all are longer than a model would read, or so many share a sentence "
                "that none can be held out.",
                code=DATA_REFUSED,
                split=split,
            )

    def __len__(self) -> int:
        return len(self._spans[0])

    @property
    def lengths(self) -> np.ndarray:
        """How many ids source and target of each pair have, the end included [N, 2]."""
        return np.stack([spans[:, 1] - spans[:, 0] for spans in self._spans], axis=1)

    @property
    def fingerprint(self) -> str:
        """Names the content."""
        return hashlib.sha256("".join(side.fingerprint for side in self.sides).encode()).hexdigest()

    def verify(self) -> None:
        """Read everything and compare with the digests. Raises UserError naming the damaged file."""
        for side in self.sides:
            side.verify()

    def batch(self, numbers: Sequence[int] | np.ndarray, *, pad: int) -> PairBatch:
        """The pairs of these numbers, filled up with `pad`."""
        return PairBatch(*(self._padded(side, numbers, pad) for side in (0, 1)))

    def _padded(self, side: int, numbers: Sequence[int] | np.ndarray, pad: int) -> np.ndarray:
        spans = self._spans[side][np.asarray(numbers)]
        rows = np.full((len(spans), int((spans[:, 1] - spans[:, 0]).max())), pad, dtype=np.int64)
        for row, (start, end) in zip(rows, spans.tolist(), strict=True):
            row[: end - start] = self.sides[side].read(start, end - start)
        return rows


class PairBatches:
    """Batches by step, a function of (seed, step, content) alone: pairs of like length, of about `tokens` padded ids.

    The longer side decides which pairs are alike. Every epoch has the same number of batches, sees each pair once,
    draws anew which pairs of like length stand together, and visits the batches in another order.
    """

    def __init__(self, pairs: PairTokens, *, tokens: int, pad: int, seed: int) -> None:
        self.pairs, self.pad, self.seed = pairs, pad, seed
        longer = pairs.lengths.max(axis=1)
        kind = np.ceil(np.log(longer) / np.log(STEP)).astype(np.int64)
        order = np.argsort(kind, kind="stable")
        firsts = np.unique(kind[order], return_index=True)[1]
        self._kinds = [order[first:last] for first, last in zip(firsts, [*firsts[1:], len(order)], strict=True)]
        self._batches: list[tuple[int, int, int]] = []  # the kind, and from where to where in it
        for number, members in enumerate(self._kinds):
            rows = max(1, tokens // int(longer[members].max()))
            count = -(-len(members) // rows)
            bounds = np.linspace(0, len(members), count + 1).round().astype(int).tolist()
            self._batches += [(number, *bounds[i : i + 2]) for i in range(count)]
        self._fingerprint = pairs.fingerprint

    @property
    def steps_per_epoch(self) -> int:
        """How many batches an epoch has."""
        return len(self._batches)

    def numbers(self, step: int) -> np.ndarray:
        """Which pairs the step sees."""
        epoch, place = divmod(step, self.steps_per_epoch)
        chosen = int(permuted(np.array([place]), self.steps_per_epoch, self._key(epoch, "order"))[0])
        kind, start, end = self._batches[chosen]
        members = self._kinds[kind]
        return members[permuted(np.arange(start, end), len(members), self._key(epoch, kind))]

    def at(self, step: int) -> PairBatch:
        """The pairs of the step."""
        return self.pairs.batch(self.numbers(step), pad=self.pad)

    def _key(self, epoch: int, part: int | str) -> int:
        text = f"{self.seed}/{epoch}/{part}/{self._fingerprint}"
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")
