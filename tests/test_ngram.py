"""Kneser-Ney: sums to one, agrees with a dictionary-based twin, finds structure, never gives probability zero."""

from __future__ import annotations

import math
from collections import Counter, defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bimo.models.ngram import KneserNey

START, END = "start", "end"


def discount(counts: list[int], count: int) -> float:
    if count == 0:
        return 0.0
    n = [sum(1 for c in counts if c == wanted) for wanted in range(5)]
    if 0 in n[1:]:
        return min(count, 3) / 2
    y = n[1] / (n[1] + 2 * n[2])
    kind = min(count, 3)
    return min(max(kind - (kind + 1) * y * n[kind + 1] / n[kind], 0.1), kind)


def kneser_ney_reference(train: list[list[int]], order: int, vocabulary: int):
    """The textbook, one n-gram at a time: returns probability(context, symbol)."""
    plain: Counter[tuple] = Counter()
    before: dict[tuple, set] = defaultdict(set)
    for text in train:
        line = [START, *text, END]
        for stop in range(1, len(line)):
            for begin in range(max(0, stop - order + 1), stop + 1):
                gram = tuple(line[begin : stop + 1])
                plain[gram] += 1
                if begin > 0:
                    before[gram].add(line[begin - 1])
    counts = {g: c if len(g) == order or g[0] == START else len(before[g]) for g, c in plain.items()}
    same_length = {k: [c for g, c in counts.items() if len(g) == k] for k in range(1, order + 1)}

    def probability(context: tuple, symbol) -> float:
        def at(history: tuple) -> float:
            lower = at(history[1:]) if history else 1 / (vocabulary + 1)
            followers = {g[-1]: c for g, c in counts.items() if g[:-1] == history}
            total = sum(followers.values())
            if total == 0:
                return lower
            all_counts = same_length[len(history) + 1]
            held = sum(discount(all_counts, c) for c in followers.values())
            count = followers.get(symbol, 0)
            return (count - discount(all_counts, count) + held * lower) / total

        history = (START, *context)
        return at(history[max(0, len(history) - order + 1) :])

    return probability


def arrays(texts: list[list[int]]) -> list[np.ndarray]:
    return [np.array(text, np.int64) for text in texts]


texts_of_few_symbols = st.lists(st.lists(st.integers(0, 3), max_size=12), min_size=1, max_size=5)


@settings(max_examples=60, deadline=None)
@given(train=texts_of_few_symbols, valid=texts_of_few_symbols, order=st.integers(1, 5))
def test_agrees_with_the_slow_twin(train, valid, order):
    probability = kneser_ney_reference(train, order, vocabulary=5)
    wanted = [probability(tuple(text[:i]), w) for text in valid for i, w in enumerate([*text, END])]
    model = KneserNey.fit(arrays(train), order=order, vocabulary=5)
    logs = model.log2_probabilities(arrays(valid))
    np.testing.assert_allclose(2 ** logs[len(model.levels)], wanted, atol=1e-9)
    assert model.bits(arrays(valid)) == pytest.approx(-sum(math.log2(p) for p in wanted), abs=1e-9)


def test_agrees_with_the_slow_twin_on_estimated_discounts():
    random = np.random.default_rng(7)
    train = [list(random.zipf(1.6, 60).clip(max=12) - 1) for _ in range(12)]
    valid = [list(random.zipf(1.6, 30).clip(max=14) - 1) for _ in range(3)]
    model = KneserNey.fit(arrays(train), order=3, vocabulary=14)
    for order in (1, 2, 3):
        probability = kneser_ney_reference(train, order, vocabulary=14)
        wanted = [probability(tuple(text[:i]), w) for text in valid for i, w in enumerate([*text, END])]
        np.testing.assert_allclose(2 ** model.log2_probabilities(arrays(valid))[order], wanted, atol=1e-9)


@pytest.mark.parametrize("context", [[], [0], [1, 2], [3, 3, 3], [0, 1, 2, 0, 1], [4, 4]])
def test_probabilities_sum_to_one_after_any_context(context):
    random = np.random.default_rng(1)
    train = arrays([random.integers(0, 4, 40) for _ in range(6)])  # symbols 4 and 5 are never seen
    model = KneserNey.fit(train, order=6, vocabulary=6)
    at = len(context)
    ends = model.log2_probabilities(arrays([context]))
    each = [model.log2_probabilities(arrays([[*context, symbol]])) for symbol in range(6)]
    for order in range(1, 7):
        chances = [2 ** ends[order][at], *(2 ** logs[order][at] for logs in each)]
        assert min(chances) > 0
        assert sum(chances) == pytest.approx(1, abs=1e-12)


def test_one_fit_gives_the_same_as_a_fit_for_each_order():
    random = np.random.default_rng(2)
    train, valid = (arrays([random.integers(0, 9, 50) for _ in range(n)]) for n in (8, 3))
    together = KneserNey.fit(train, order=6, vocabulary=9).bits_by_order(valid)
    assert list(together) == [1, 2, 3, 4, 5, 6]
    for order, bits in together.items():
        assert KneserNey.fit(train, order=order, vocabulary=9).bits(valid) == pytest.approx(bits, abs=1e-9)


def test_learns_what_repeats():
    train = arrays([[0, 1, 2, 3] * 50] * 4)
    model = KneserNey.fit(train, order=3, vocabulary=4)
    bits = model.bits_by_order(arrays([[0, 1, 2, 3] * 50]))
    assert bits[1] > 390  # the order of the four symbols is unknown to single counts: 2 bits each
    assert bits[2] < 30


def test_bits_of_documents_add_up():
    random = np.random.default_rng(3)
    model = KneserNey.fit(arrays([random.integers(0, 5, 80)]), order=4, vocabulary=5)
    texts = arrays([random.integers(0, 5, n) for n in (0, 1, 7, 30)])
    assert model.bits(texts) == pytest.approx(sum(model.bits([text]) for text in texts))


def test_documents_too_short_for_the_order_stop_it_early():
    model = KneserNey.fit(arrays([[0, 1], [1]]), order=6, vocabulary=2)
    assert list(model.bits_by_order(arrays([[0, 1, 0, 1, 0]]))) == [1, 2, 3, 4]


def test_large_vocabularies_do_not_overflow():
    random = np.random.default_rng(4)
    train = arrays([random.integers(0, 10**6, 3000), random.integers(0, 10**6, 3000)])
    model = KneserNey.fit(train, order=6, vocabulary=10**6)
    assert 0 < model.bits(train[:1]) < model.bits(arrays([random.integers(0, 10**6, 3000)]))


def test_symbols_outside_the_vocabulary_are_a_bug():
    with pytest.raises(AssertionError):
        KneserNey.fit(arrays([[0, 5]]), order=2, vocabulary=5)
