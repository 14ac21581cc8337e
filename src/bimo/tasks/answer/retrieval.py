"""Which passages may hold the answer: by the words they share with a question, and by vectors of their meaning.

P passages, D width of a vector.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import numpy as np

from bimo.tasks.embed.similar import units
from bimo.text.segment import HAN, iter_words
from bimo.text.stop_words import stop_words

__all__ = ["Embed", "PassageIndex", "fuse", "telling_words", "terms"]

Embed = Callable[[Sequence[str]], np.ndarray]
"""Texts -> their vectors [P, D], each of length 1."""

HAN_RUN = re.compile(f"[{HAN}]+")
PART = re.compile(r"[^\W_]+")
GRAM = 4


def terms(text: str) -> list[str]:
    """What a text is found by: its `telling_words`, and runs of four letters or digits in them.

    The runs find other forms of a word; they and the pairs are measured on CMRC 2018 and XQuAD
    (benchmarks/answer_search.py).
    """
    words = telling_words(text)
    framed = [f"^{word}$" for word in words if word.isascii()]
    return words + [word[place : place + GRAM] for word in framed for place in range(len(word) - GRAM + 1)]


def telling_words(text: str) -> list[str]:
    """The words of a text but those that say little, and its pairs of Han characters: words may be cut otherwise."""
    little = stop_words()
    words = [part for word in iter_words(text) for part in PART.findall(word.lower()) if part not in little]
    return words + [run[place : place + 2] for run in HAN_RUN.findall(text) for place in range(len(run) - 1)]


class PassageIndex:
    """Passages, found by BM25 over their terms (Robertson and Zaragoza 2009), and by vectors where there is `embed`."""

    def __init__(self, texts: Sequence[str], *, embed: Embed | None = None) -> None:
        import bm25s

        self._numbers: dict[str, int] = {}
        corpus = [[self._numbers.setdefault(term, len(self._numbers)) for term in terms(text)] for text in texts]
        self._count = len(texts)
        self._words = bm25s.BM25() if self._numbers else None
        if self._words is not None:
            self._words.index((corpus, self._numbers), show_progress=False)
        self._embed, self._vectors = embed, units(embed(texts)) if embed else None

    def search(self, question: str, count: int) -> list[int]:
        """The numbers of the passages that fit best, the best first.

        By words alone none is found that shares no term with the question; by vectors every passage fits somewhat.
        """
        scores = self.scores(question)
        best = np.argsort(-scores, kind="stable")[:count]
        return [int(number) for number in best if self._embed is not None or scores[number] > 0]

    def scores(self, question: str) -> np.ndarray:
        """How well each passage fits [P]; without vectors 0 is not at all."""
        shared = self._shared(question)
        if self._embed is None or self._vectors is None:
            return shared
        return fuse(shared, self._vectors @ units(self._embed([question]))[0])

    def _shared(self, question: str) -> np.ndarray:
        """The BM25 score of each passage [P]."""
        known = [self._numbers[term] for term in terms(question) if term in self._numbers]
        if self._words is None or not known:
            return np.zeros(self._count)
        return self._words.get_scores_from_ids(np.array(known))


def fuse(*scores: np.ndarray) -> np.ndarray:
    """Scores of several kinds [P] -> their sum, each brought to 0 for the worst and 1 for the best passage.

    Bruch et al. 2023 find it better than a sum of reciprocal ranks, and so did we (docs/log.md).
    """
    spans = [max(float(np.ptp(one)), 1e-9) for one in scores]
    return np.sum([(one - one.min()) / span for one, span in zip(scores, spans, strict=True)], axis=0)
