"""Learns word vectors from a corpus by negative sampling: skip-gram or CBOW, with the parts of words or without.

Mikolov et al. 2013 (negative sampling, subsampling), Bojanowski et al. 2017 (parts). V words, P parts, D width.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from bimo.console import Update
from bimo.kernel import INSTRUCTIONS, VectorsInTraining, best_instructions, load_library
from bimo.runtime import NO_ROOM, USAGE, UserError, require_least
from bimo.vectors.corpus import END, Corpus
from bimo.vectors.parts import Parts, find_parts
from bimo.vectors.reference import walk
from bimo.vectors.word_vectors import WordVectors

__all__ = ["METHODS", "VectorSettings", "train_vectors"]

METHODS = ("skip-gram", "cbow")
LAST_SHARE_OF_RATE = 1 / 250
NEGATIVE_POWER = 0.75
REGISTER = 16
"""Numbers that the kernel reads at once: rows are as long as whole ones."""

_BLOCK = 1 << 18
_MOST = np.iinfo(np.uint32).max

Walk = Callable[[VectorsInTraining, np.ndarray], None]


@dataclass(frozen=True)
class VectorSettings:
    """What to learn and how; `rate` None is 0.025, or 0.05 with parts. Raises UserError for what cannot be."""

    method: str = "skip-gram"
    width: int = 100
    window: int = 5
    negatives: int = 5
    epochs: int = 5
    least_count: int = 5
    parts: bool = True
    sample: float = 1e-3
    rate: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise UserError(
                "There is no method {method!r}. Choose from {known}.",
                code=USAGE,
                method=self.method,
                known=", ".join(METHODS),
            )
        for name, least in (
            ("width", 1),
            ("window", 1),
            ("negatives", 1),
            ("epochs", 1),
            ("least_count", 1),
            ("seed", 0),
        ):
            require_least({name.replace("_", "-"): (getattr(self, name), least)})


def train_vectors(corpus: Corpus, settings: VectorSettings, *, threads: int, progress: Update) -> WordVectors:
    """Vectors of the words of a corpus; `progress` gets the number of words read.

    One thread gives the same vectors each time; more write to the same memory without waiting (Hogwild).
    Raises UserError where there is no room for them.
    """
    words = len(corpus.words)
    parts = (
        find_parts(corpus.words) if settings.parts else Parts([], np.zeros(words + 1, np.int64), np.zeros(0, np.int32))
    )
    try:
        training = _begin(corpus, parts, settings)
        read = _walk(threads)
        for done, block in _blocks(corpus.ids, settings.epochs):
            training.struct.done = done
            read(training.struct, block)
            progress(done + len(block), "")
    except MemoryError:
        gigabytes = 4e-9 * settings.width * (2 * words + len(parts.names))
        sentence = "{words:,} vectors need {gigabytes:.1f} GB of memory. Raise --least-count, or lower --width."
        raise UserError(sentence, code=NO_ROOM, words=words, gigabytes=gigabytes) from None
    inputs = training.inputs[:, : settings.width]
    return WordVectors(
        words=corpus.words,
        counts=corpus.counts,
        vectors=_means(inputs, words, parts),
        parts=parts.names,
        part_vectors=inputs[words:].copy(),
    )


@dataclass(frozen=True)
class _Training:
    """The structure of the kernel, and the arrays that it points into."""

    struct: VectorsInTraining
    inputs: np.ndarray
    others: tuple[np.ndarray, ...]


def _begin(corpus: Corpus, parts: Parts, settings: VectorSettings) -> _Training:
    words, width = len(corpus.words), settings.width
    stride = -(-width // REGISTER) * REGISTER
    inputs = np.zeros((words + len(parts.names), stride), np.float32)
    # As gensim begins; word2vec's own half of it needs longer on little text.
    inputs[:, :width] = np.random.default_rng(settings.seed).uniform(-1 / width, 1 / width, (len(inputs), width))
    outputs = np.zeros((words, stride), np.float32)
    part_rows = parts.rows + np.int32(words)
    keep = _kept_share(corpus.counts, settings.sample)
    alias_keep, alias = _alias_table(corpus.counts**NEGATIVE_POWER)
    rate = settings.rate or (0.05 if settings.parts else 0.025)
    others = (outputs, parts.offsets, part_rows, keep, alias_keep, alias)
    struct = VectorsInTraining(
        *(array.ctypes.data for array in (inputs, *others)),
        done=0,
        total=settings.epochs * len(corpus.ids),
        seed=settings.seed,
        words=words,
        stride=stride,
        window=settings.window,
        negatives=settings.negatives,
        cbow=settings.method == "cbow",
        first_rate=rate,
        last_rate=rate * LAST_SHARE_OF_RATE,
    )
    return _Training(struct, inputs, others)


def _kept_share(counts: np.ndarray, sample: float) -> np.ndarray:
    """The chance that an occurrence is read, of 2^32 - 1: common words less often (word2vec's formula)."""
    times = counts / (sample * counts.sum()) if sample else np.ones(len(counts))
    return (np.minimum(1.0, np.sqrt(1 / times) + 1 / times) * _MOST).astype(np.uint32)


def _alias_table(weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Walker's table (Vose 1991): place i is itself with chance keep[i] of 2^32 - 1, else alias[i]."""
    chances = weights / weights.mean()
    alias = np.arange(len(weights), dtype=np.int32)
    small = [place for place, chance in enumerate(chances) if chance < 1]
    large = [place for place, chance in enumerate(chances) if chance >= 1]
    while small and large:
        short, tall = small.pop(), large[-1]
        alias[short] = tall
        chances[tall] -= 1 - chances[short]
        if chances[tall] < 1:
            small.append(large.pop())
    chances[small + large] = 1
    return (np.minimum(chances, 1) * _MOST).astype(np.uint32), alias


def _walk(threads: int) -> Walk:
    """The kernel's way through a block, or its twin's."""
    library, instructions = load_library(), best_instructions()
    if library is None or instructions is None:
        return walk
    number = INSTRUCTIONS.index(instructions)

    def walk_in_kernel(struct: VectorsInTraining, ids: np.ndarray) -> None:
        if library.bimo_train_vectors(ctypes.byref(struct), threads, number, ids.ctypes.data, len(ids)):
            raise MemoryError

    return walk_in_kernel


def _blocks(ids: np.ndarray, epochs: int) -> Iterator[tuple[int, np.ndarray]]:
    """(numbers read before, a few whole lines), again for each epoch."""
    for epoch in range(epochs):
        start = 0
        while start < len(ids):
            end = min(start + _BLOCK, len(ids))
            while end < len(ids) and ids[end - 1] != END:
                end += 1
            yield epoch * len(ids) + start, ids[start:end]
            start = end


def _means(inputs: np.ndarray, words: int, parts: Parts) -> np.ndarray:
    """[V, D]: each word's own row and those of its parts as one."""
    sizes = np.diff(parts.offsets)
    sums = inputs[:words].copy()
    np.add.at(sums, np.repeat(np.arange(words), sizes), inputs[words + parts.rows])
    return sums / (1 + sizes)[:, None].astype(np.float32)
