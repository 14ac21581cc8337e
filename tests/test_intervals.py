"""Intervals by bootstrap: those of a mean are where theory puts them."""

from __future__ import annotations

import numpy as np
import pytest

from bimo.intervals import bootstrap, paired_mean_difference, share_interval


def test_the_interval_of_a_mean_is_that_of_theory():
    values = np.random.default_rng(1).normal(3.0, 2.0, size=400)
    low, high = bootstrap(lambda drawn: values[drawn].mean(axis=1), len(values))
    half = 1.96 * values.std() / 20
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.05)


def test_pairs_tell_apart_what_intervals_by_themselves_do_not():
    random = np.random.default_rng(2)
    hard = random.normal(0.0, 5.0, size=300)
    one, other = hard + 0.3 + random.normal(0, 0.5, 300), hard + random.normal(0, 0.5, 300)
    low, high, p = paired_mean_difference(one, other)
    assert 0 < low < 0.3 < high < 0.5
    assert p == 0.001
    assert paired_mean_difference(one, one)[2] == 1.0


@pytest.mark.parametrize(
    ("right", "examples", "expected"), [(2, 2, (0.342, 1.0)), (0, 10, (0.0, 0.278)), (81, 263, (0.255, 0.366))]
)
def test_shares_have_the_interval_of_wilson(right, examples, expected):
    """The last is the example of Newcombe (1998), table I."""
    values = np.array([1.0] * right + [0.0] * (examples - right))
    assert share_interval(values) == pytest.approx(expected, abs=5e-4)


def test_few_examples_tell_nothing_apart():
    better, worse = np.array([1.0] * 5), np.array([0.0] * 5)
    assert paired_mean_difference(better[:1], worse[:1])[2] == 1.0
    assert paired_mean_difference(better, worse)[2] == 1 / 16


@pytest.mark.parametrize(("differing", "expected"), [(1, 1.0), (2, 0.5), (4, 0.125)])
def test_examples_on_which_two_agree_tell_nothing_apart(differing, expected):
    """As the exact sign test has it, however many others there are."""
    worse = np.random.default_rng(3).integers(0, 2, size=1000).astype(float)
    better = worse.copy()
    better[np.flatnonzero(worse == 0)[:differing]] = 1
    assert paired_mean_difference(better, worse)[2] == expected
