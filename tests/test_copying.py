"""Copied runs are found exactly: against a search of every run by hand, and on texts of which we know the answer."""

from __future__ import annotations

import random
import statistics

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bimo.evaluate.copying import _suffix_automaton, copied_lengths, copying_facts, longest_met, longest_met_reference


def copied_lengths_reference(samples: list[str], texts: list[str]) -> list[list[int]]:
    def longest_ending_at(sample: str, end: int) -> int:
        runs = (sample[begin:end] for begin in range(end))
        return max((len(run) for run in runs if any(text.find(run) >= 0 for text in texts)), default=0)

    return [[longest_ending_at(sample, end) for end in range(1, len(sample) + 1)] for sample in samples]


few_letters = st.text("ab 笔", max_size=20)


@settings(max_examples=300, deadline=None)
@given(samples=st.lists(few_letters, max_size=4), texts=st.lists(few_letters, max_size=4))
def test_lengths_agree_with_the_slow_twin(samples, texts):
    assert copied_lengths(samples, texts) == copied_lengths_reference(samples, texts)


@settings(max_examples=200, deadline=None)
@given(
    samples=st.lists(st.text("abc", max_size=15), max_size=4),
    texts=st.lists(st.text("abc", max_size=25), max_size=4),
    window=st.integers(1, 8),
)
def test_facts_agree_with_a_search_of_every_run(samples, texts, window):
    def stands(run: str) -> bool:
        return any(run in text for text in texts)

    facts = copying_facts(samples, texts, window=window)
    windows = [sample[i : i + window] for sample in samples for i in range(len(sample) - window + 1)]
    longest = [
        max((n for n in range(1, len(s) + 1) if any(stands(s[i : i + n]) for i in range(len(s) - n + 1))), default=0)
        for s in samples
    ]
    assert facts["windows"] == len(windows)
    assert facts["windows_copied"] == sum(stands(run) for run in windows)
    assert facts["longest_run"] == max(longest, default=0)
    assert facts["median_longest_run"] == (statistics.median(longest) if longest else 0)
    for example in facts["longest_examples"]:
        assert len(example["text"]) == example["length"] == longest[example["sample"]]
        assert stands(example["text"])


@settings(max_examples=300)
@given(st.lists(st.text("ab中\U0001f600\ud800"), max_size=4), st.lists(st.text("ab中\U0001f600\ud800"), max_size=4))
def test_the_longest_runs_are_those_of_the_slow_twin(samples, texts):
    automaton = _suffix_automaton(samples)
    assert longest_met(automaton, texts) == longest_met_reference(automaton, texts)


def letters(seed: int, count: int) -> str:
    return "".join(random.Random(seed).choices("abcdefghijklmnopqrstuvwxyz", k=count))


def test_a_planted_copy_is_found_and_shown():
    text = letters(1, 5000)
    facts = copying_facts([letters(2, 100) + text[300:360] + letters(3, 40), letters(4, 200)], [letters(5, 900), text])
    assert facts["samples"] == 2
    assert facts["windows"] == 151 + 151
    assert 11 <= facts["windows_copied"] <= 15  # a letter beside the copy may agree by chance
    assert facts["share_of_windows_copied"] == facts["windows_copied"] / 302
    assert 60 <= facts["longest_run"] <= 64
    first = facts["longest_examples"][0]
    assert first["sample"] == 0
    assert text[300:360] in first["text"]
    assert first["text"] in text


def test_a_run_does_not_reach_over_the_end_of_a_text_or_a_sample():
    assert copied_lengths(["abcd"], ["ab", "cd"]) == [[1, 2, 1, 2]]
    assert copied_lengths(["ab", "cd"], ["abcd"]) == [[1, 2], [1, 2]]


def test_white_space_counts_as_one_space_on_both_sides():
    facts = copying_facts(["one\n\ntwo  three"], ["  one two\tthree "], window=5)
    assert facts["longest_run"] == len("one two three")
    assert facts["share_of_windows_copied"] == 1.0


def test_held_out_text_is_the_yardstick():
    train = [letters(6, 2000)]
    samples = [letters(7, 400)] * 3
    held_out = [train[0][:300] + letters(8, 300), letters(9, 600)]
    facts = copying_facts(samples, iter(train), reference_texts=iter(held_out))
    assert facts["share_of_windows_copied"] == 0.0
    assert facts["reference_share"] == pytest.approx(251 / (551 + 551), abs=0.005)
    assert 300 <= facts["reference_longest_run"] <= 304
    alone = copying_facts(samples, train)
    assert (alone["reference_share"], alone["reference_longest_run"]) == (None, None)


def test_no_more_of_the_held_out_text_is_used_than_there_are_samples():
    facts = copying_facts(["a" * 60], ["b" * 100], reference_texts=["c" * 60, "b" * 60])
    assert facts["reference_share"] == 0.0  # every second text, so only the first


def test_long_copies_are_cut_in_the_examples_and_none_is_shown_twice():
    text = letters(10, 1000)
    facts = copying_facts([text[:500]] * 3 + [text[600 : 600 + n] for n in (90, 80, 70, 60, 50)], [text])
    assert [example["length"] for example in facts["longest_examples"]] == [500, 90, 80, 70, 60]
    assert facts["longest_examples"][0]["text"] == text[:200]


def test_nothing_to_measure_gives_zeros():
    facts = copying_facts(["", "short"], [])
    assert (facts["windows"], facts["share_of_windows_copied"], facts["longest_run"]) == (0, None, 0)
    assert facts["longest_examples"] == []
    assert copying_facts([], ["text"])["samples"] == 0
