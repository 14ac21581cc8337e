"""The recipe: nothing against memory where there is no danger, more the smaller the text and the longer the time."""

from __future__ import annotations

import pytest

from bimo.train.recipe import ADAM_RATE, MOST_DROPOUT, MOST_NOISE, SHARE_PER_DOUBLING, recipe
from bimo.train.settings import TrainConfig

KEYS = ("adam_rate", "dropout", "noise")


def test_a_text_too_large_to_be_learned_by_heart_is_left_as_it_is():
    free = {"adam_rate": ADAM_RATE, "dropout": 0.0, "noise": 0.0}
    assert recipe(3_000_000, tokens=2_000_000, unique=1_000_000) == free
    assert recipe(10**9, tokens=1_000_000, unique=1_000_000) == free  # who reads once cannot learn by heart


def test_more_readings_and_more_parameters_raise_what_stands_against_memory():
    for settings in (
        [recipe(3_000_000, tokens=tokens, unique=1_000_000) for tokens in (10e6, 15e6, 25e6, 40e6)],
        [recipe(parameters, tokens=10e6, unique=1_000_000) for parameters in (3e6, 5e6, 8e6, 12e6)],
    ):
        rates, dropouts, noises = ([setting[key] for setting in settings] for key in KEYS)
        assert rates == sorted(rates, reverse=True)
        assert dropouts == sorted(dropouts)
        assert len(set(rates)) == len(set(dropouts)) == 4
        assert noises == sorted(noises)


def test_it_follows_both_text_and_readings():
    """Half the text, its tokens read again twice as often, by twice as many parameters a token."""
    whole = recipe(3_000_000, tokens=11_000_000, unique=1_000_000)
    half = recipe(3_000_000, tokens=10_500_000, unique=500_000)
    assert half["dropout"] == pytest.approx(whole["dropout"] + 2 * SHARE_PER_DOUBLING)
    assert half["adam_rate"] == pytest.approx(whole["adam_rate"] / 2)


def test_there_is_a_most_and_all_of_it_can_be_trained_with():
    extreme = recipe(500_000_000, tokens=10**9, unique=2_000)
    assert (extreme["dropout"], extreme["noise"]) == (MOST_DROPOUT, MOST_NOISE)
    assert 0 < extreme["adam_rate"] < ADAM_RATE
    TrainConfig(steps=1, **extreme)
