"""How often words occur, in how many documents, and how evenly: what tells words of a subject from stop words."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Set
from dataclasses import dataclass

from bimo.text.segment import WordList, iter_words

__all__ = ["WordCounts", "WordFacts"]

EVEN = 0.9
EVERYWHERE = 0.3
ROUNDING = 1e-9
LEAST_DOCUMENTS = 20
"""With fewer documents, words that all of them share may be what the text is about."""


@dataclass(frozen=True)
class WordFacts:
    """A word: how often it occurs, the share of documents that have it, and how evenly it is spread over the text.

    Evenness is the entropy of the documents in which the word's occurrences stand, over the entropy of those in which
    any word stands: 0 for a word of a single document, 1 for one that goes with the length of the documents, a little
    more for one that short documents have as often as long ones.
    """

    word: str
    count: int
    documents: float
    evenness: float


class WordCounts:
    """Counts words, small letters only, one document after the other; memory grows with the vocabulary alone."""

    def __init__(self, words: WordList | None = None) -> None:
        self.documents = self.total = 0
        self._words = words
        self._counts: Counter[str] = Counter()
        self._documents: Counter[str] = Counter()
        # Sums of n ln n over the documents, of a word and of all: with the count n of the whole they give the entropy.
        self._spread: dict[str, float] = {}
        self._whole_spread = 0.0

    def add(self, text: str) -> None:
        """Count a document."""
        counts = Counter(word.lower() for word in iter_words(text, self._words))
        self.documents += 1
        self.total += counts.total()
        self._whole_spread += _n_log_n(counts.total())
        self._counts.update(counts)
        self._documents.update(counts.keys())
        for word, count in counts.items():
            if count > 1:
                self._spread[word] = self._spread.get(word, 0.0) + _n_log_n(count)

    @property
    def distinct(self) -> int:
        """How many words there are."""
        return len(self._counts)

    def facts(self, word: str) -> WordFacts:
        """What is known of a word that occurred."""
        whole = _entropy(self.total, self._whole_spread)
        own = _entropy(self._counts[word], self._spread.get(word, 0.0))
        return WordFacts(
            word=word,
            count=self._counts[word],
            documents=self._documents[word] / self.documents,
            evenness=own / whole if whole else 1.0,
        )

    def most_common(self, most: int, *, without: Set[str] = frozenset()) -> list[WordFacts]:
        """The words that occur most often, but for some."""
        ranked = sorted(self._counts.keys() - without, key=lambda word: (-self._counts[word], word))
        return [self.facts(word) for word in ranked[:most]]

    def proposed_stop_words(self, *, known: Set[str]) -> list[WordFacts]:
        """Words of this text that behave like stop words although no list has them, those in most documents first.

        That is, words in at least EVERYWHERE of the documents, spread with an evenness of at least EVEN.
        """
        if self.documents < LEAST_DOCUMENTS:
            return []
        widespread = (word for word, count in self._documents.items() if count >= EVERYWHERE * self.documents)
        found = [self.facts(word) for word in widespread if word not in known]
        even = [facts for facts in found if facts.evenness >= EVEN]
        return sorted(even, key=lambda facts: (-facts.documents, facts.word))


def _n_log_n(count: int) -> float:
    return count * math.log(count) if count else 0.0


def _entropy(total: int, spread: float) -> float:
    """In nats, of shares n / total, given the sum of n ln n."""
    entropy = math.log(total) - spread / total if total else 0.0
    # What rounding leaves of a single document's would be neither zero nor something to divide by.
    return entropy if entropy > ROUNDING else 0.0
