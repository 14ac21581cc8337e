"""Choosing tokens: each filter against a slow obvious twin, draws against the distribution they come from."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bimo.generate.sample import Sampling, choose, keep_min_p, keep_top_k, keep_top_p, penalise_repetition
from bimo.runtime import USAGE, UserError

finite = st.floats(-20, 20, width=32)
rows = st.lists(finite, min_size=1, max_size=30)
distinct = st.lists(st.integers(-400, 400), min_size=1, max_size=30, unique=True).map(lambda row: [n / 20 for n in row])


def logits_of(*rows: list[float]) -> np.ndarray:
    return np.array(rows, dtype=np.float32)


def kept(logits: np.ndarray, before: list[float]) -> set[int]:
    """Which places of one row are not hidden; those must stand as before."""
    places = {index for index, value in enumerate(logits[0].tolist()) if value > -math.inf}
    assert all(logits[0, place] == before[place] for place in places)
    return places


def probabilities(row: list[float]) -> list[float]:
    weights = [math.exp(value - max(row)) for value in row]
    return [weight / sum(weights) for weight in weights]


@given(rows, st.integers(1, 40))
def test_top_k_keeps_the_k_best_and_their_equals(row: list[float], k: int) -> None:
    kth_best = sorted(row, reverse=True)[min(k, len(row)) - 1]
    assert kept(keep_top_k(logits_of(row), k), row) == {i for i, value in enumerate(row) if value >= kth_best}


@given(distinct, st.floats(0.001, 0.999))
def test_top_p_keeps_the_fewest_that_reach_p(row: list[float], p: float) -> None:
    places = kept(keep_top_p(logits_of(row), p), row)
    best_first = sorted(range(len(row)), key=lambda index: -row[index])
    assert places == set(best_first[: len(places)])
    share = probabilities(row)
    reached = [sum(share[index] for index in best_first[:count]) for count in (len(places), len(places) - 1)]
    assert reached[0] > p - 1e-5
    assert reached[1] < p + 1e-5


@given(rows, st.floats(0.001, 0.999))
def test_min_p_keeps_those_near_the_best(row: list[float], p: float) -> None:
    places = kept(keep_min_p(logits_of(row), p), row)
    share = probabilities(row)
    assert {i for i, each in enumerate(share) if each > 1.0001 * p * max(share)} <= places
    assert {i for i, each in enumerate(share) if each >= 0.9999 * p * max(share)} >= places


@given(rows, st.data(), st.floats(0.5, 3))
def test_repetition_makes_less_likely_once(row: list[float], data: st.DataObject, penalty: float) -> None:
    seen = data.draw(st.lists(st.integers(0, len(row) - 1), min_size=1, max_size=50))
    expected = list(row)
    for index in set(seen):
        expected[index] = row[index] / penalty if row[index] > 0 else row[index] * penalty
    found = penalise_repetition(logits_of(row), [seen], penalty)
    np.testing.assert_allclose(found, [expected], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_logits_that_are_no_numbers_end_in_a_sentence(wrong: float, temperature: float) -> None:
    logits = logits_of([0.0, 1.0, 2.0], [0.0, wrong, 2.0])
    with pytest.raises(UserError, match="What this model computes is no number"):
        choose(logits, [[], []], Sampling(temperature), [0.5, 0.5])


@pytest.mark.parametrize(("row", "penalty"), [([3e38, -3e38, 0.0], 0.5), ([-3e38, -2e38, -3e38], 2.0)])
def test_penalties_that_leave_no_number_end_in_a_sentence(row: list[float], penalty: float) -> None:
    with pytest.raises(UserError, match="What this model computes is no number"):
        choose(logits_of(row), [[0, 1, 2]], Sampling(repetition_penalty=penalty), [0.5])


def test_filters_look_at_each_row_alone_and_keep_what_is_hidden_hidden() -> None:
    logits = logits_of([1.0, 5.0, -math.inf, 3.0], [4.0, -2.0, 4.0, -math.inf])
    for filter_, value in ((keep_top_k, 2), (keep_top_p, 0.9), (keep_min_p, 0.1)):
        together = filter_(logits, value)
        for row in (0, 1):
            assert np.array_equal(filter_(logits[row : row + 1], value)[0], together[row])
        assert np.isneginf(together[0, 2])
        assert np.isneginf(together[1, 3])


def draw(row: list[float], sampling: Sampling, seen: tuple[int, ...] = (), draws: int = 20_000) -> np.ndarray:
    """How often each token was chosen."""
    chance = np.random.default_rng(0).random(draws).tolist()
    tokens = choose(logits_of(row).repeat(draws, axis=0), [seen] * draws, sampling, chance)
    return np.bincount(tokens, minlength=len(row))


@pytest.mark.parametrize(
    ("sampling", "expected"),
    [
        (Sampling(1.0, top_p=1.0), [0.4, 0.3, 0.2, 0.1]),
        (Sampling(0.5, top_p=1.0), [0.16 / 0.3, 0.09 / 0.3, 0.04 / 0.3, 0.01 / 0.3]),
        (Sampling(1.0, top_k=2, top_p=1.0), [4 / 7, 3 / 7, 0, 0]),
        (Sampling(1.0, top_p=0.69), [4 / 7, 3 / 7, 0, 0]),
        (Sampling(1.0, top_p=0.71), [4 / 9, 3 / 9, 2 / 9, 0]),
        (Sampling(1.0, top_p=1.0, min_p=0.45), [4 / 9, 3 / 9, 2 / 9, 0]),
        (Sampling(0.5, top_k=3, top_p=0.8), [16 / 25, 9 / 25, 0, 0]),
        (Sampling(2.0, top_p=1.0), [math.sqrt(p) / sum(map(math.sqrt, (4, 3, 2, 1))) for p in (4, 3, 2, 1)]),
    ],
)
def test_draws_follow_the_distribution(sampling: Sampling, expected: list[float]) -> None:
    found = draw([math.log(p) + 7 for p in (0.4, 0.3, 0.2, 0.1)], sampling).tolist()
    possible = [index for index, share in enumerate(expected) if share > 0]
    assert sum(found[index] for index in possible) == 20_000
    chi_square = sum((found[i] - 20_000 * expected[i]) ** 2 / (20_000 * expected[i]) for i in possible)
    # One in a thousand samples of three degrees of freedom exceeds 16.3.
    assert chi_square < 16.3


def test_the_penalty_shifts_draws() -> None:
    sampling = Sampling(1.0, top_p=1.0, repetition_penalty=2.0)
    found = draw([2.0, 2.0], sampling, seen=(0, 0)) / 20_000
    assert found[0] == pytest.approx(math.exp(1) / (math.exp(1) + math.exp(2)), abs=0.02)


@given(rows)
def test_temperature_zero_takes_the_likeliest(row: list[float]) -> None:
    greedy = choose(logits_of(row, row), [(), ()], Sampling(0.0, top_k=1, min_p=0.5), [0.0, 0.999])
    assert greedy == [row.index(max(row))] * 2


@pytest.mark.parametrize(
    "sampling", [Sampling(top_k=1), Sampling(top_p=1e-9), Sampling(1e-3), Sampling(1e-45), Sampling(5e-324)]
)
def test_narrow_settings_take_the_likeliest(sampling: Sampling) -> None:
    logits = np.tile(logits_of([3.0, 9.0, -4.0], [-20.0, -30.0, -25.0]), (50, 1))
    assert choose(logits, [()] * 100, sampling, np.linspace(0, 0.999999, 100).tolist()) == [1, 0] * 50


@given(st.lists(finite, min_size=2, max_size=10), st.data())
def test_what_is_hidden_is_never_chosen(row: list[float], data: st.DataObject) -> None:
    hidden = data.draw(st.sets(st.integers(0, len(row) - 1), max_size=len(row) - 1))
    logits = logits_of([-math.inf if i in hidden else value for i, value in enumerate(row)])
    largest = math.nextafter(1.0, 0.0)
    chance = [0.0, 1e-300, 0.5, 1 - 1e-9, largest]
    assert hidden.isdisjoint(choose(logits.repeat(5, axis=0), [()] * 5, Sampling(1.0, top_p=1.0), chance))


def test_rows_do_not_depend_on_their_neighbours() -> None:
    random = np.random.default_rng(0)
    logits = (3 * random.standard_normal((40, 50))).astype(np.float32)
    chance = random.random(40).tolist()
    seen = random.integers(50, size=(40, 6)).tolist()
    sampling = Sampling(0.9, top_k=20, top_p=0.9, min_p=0.01, repetition_penalty=1.2)
    together = choose(logits, seen, sampling, chance)
    alone = [choose(logits[i : i + 1], seen[i : i + 1], sampling, chance[i : i + 1])[0] for i in range(40)]
    assert together == alone
    assert len(set(alone)) > 10


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("temperature", value) for value in (-0.1, math.inf, math.nan)),
        ("top_k", -1),
        *(("top_p", value) for value in (0.0, 1.01, -1.0, math.nan)),
        *(("min_p", value) for value in (-0.1, 1.0, math.nan)),
        *(("repetition_penalty", value) for value in (0.0, 1e-38, -1.0, 1001.0, math.inf, math.nan)),
    ],
)
def test_settings_out_of_range_are_refused(name: str, value: float) -> None:
    with pytest.raises(UserError, match=f"{name} must be .* but is {value}") as caught:
        Sampling(**{name: value})
    assert caught.value.code == USAGE
