"""How much of what a model writes stands word for word in the text it learned from.

The samples are built into a suffix automaton (Blumer et al. 1985), through which the training text passes once: exact,
and as large as the samples, whatever the size of the training text.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from bimo.baselines import sample_evenly
from bimo.kernel import Automaton, load_library

__all__ = ["copied_lengths", "copying_facts", "longest_met", "longest_met_reference"]

MOST_EXAMPLES = 5
EXAMPLE_CHARACTERS = 200
BETWEEN = 0xFFFFFFFF
"""Stands between samples for the compiled core: no character has that number."""


def copying_facts(
    samples: list[str], train_texts: Iterable[str], *, window: int = 50, reference_texts: Iterable[str] | None = None
) -> dict[str, Any]:
    """Longest copied runs, and the share of windows of `window` characters that stand in the training text.

    `reference_texts` are held-out texts by people: their share and longest run say how much repetition is natural in
    such text. Of them as many characters are used as the samples have. Runs of white space count as one space
    everywhere.
    """
    generated = [_one_spaced(text) for text in samples]
    most = max(sum(map(len, generated)), window)
    held_out = sample_evenly((_one_spaced(text) for text in reference_texts or ()), most)
    lengths = copied_lengths(generated + held_out, (_one_spaced(text) for text in train_texts))
    ours, theirs = lengths[: len(generated)], lengths[len(generated) :]
    copied, windows = _count_windows(ours, window)
    reference_copied, reference_windows = _count_windows(theirs, window)
    longest = [max(run, default=0) for run in ours]
    return {
        "samples": len(generated),
        "window": window,
        "windows": windows,
        "windows_copied": copied,
        "share_of_windows_copied": copied / windows if windows else None,
        "longest_run": max(longest, default=0),
        "median_longest_run": statistics.median(longest) if longest else 0,
        "longest_examples": _examples(generated, ours, longest),
        "reference_share": reference_copied / reference_windows if reference_windows else None,
        "reference_longest_run": max((max(run, default=0) for run in theirs), default=None),
    }


def copied_lengths(samples: list[str], texts: Iterable[str]) -> list[list[int]]:
    """For each place in each sample, the length of the longest run that ends there and stands in one of the texts."""
    automaton = _suffix_automaton(samples)
    found = longest_met(automaton, texts)
    _, shorter, length, ends = automaton
    by_length = sorted(range(1, len(length)), key=length.__getitem__)
    for state in reversed(by_length):  # whoever was met brought all its suffixes along
        if found[state]:
            found[shorter[state]] = length[shorter[state]]
    for state in by_length:
        if not found[state]:
            found[state] = found[shorter[state]]
    return [[found[state] for state in states] for states in ends]


def longest_met(automaton: SuffixAutomaton, texts: Iterable[str]) -> list[int]:
    """Of each state the length of the longest run of a text that ends in it, its shorter suffixes left out."""
    library = load_library()
    if library is None:
        return longest_met_reference(automaton, texts)
    ways = [
        sorted((BETWEEN if key is None else ord(key), to) for key, to in way.items()) for way in automaton.following
    ]
    flat = np.array([*itertools.chain(*ways)], dtype=np.int64).reshape(-1, 2)
    arrays = [
        np.cumsum([0, *map(len, ways)], dtype=np.int32),
        flat[:, 0].astype(np.uint32),
        flat[:, 1].astype(np.int32),
        np.array(automaton.shorter, dtype=np.int32),
        np.array(automaton.length, dtype=np.int32),
    ]
    there = Automaton(*(array.ctypes.data for array in arrays))
    found = np.zeros(len(ways), dtype=np.int32)
    for text in texts:
        codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
        library.bimo_walk_suffixes(there, codes.ctypes.data, len(codes), found.ctypes.data)
    return found.tolist()


def longest_met_reference(automaton: SuffixAutomaton, texts: Iterable[str]) -> list[int]:
    """The same, character by character: the slow twin."""
    following, shorter, length, _ = automaton
    found = [0] * len(length)
    for text in texts:
        state = matched = 0
        for character in text:
            after = following[state].get(character)
            while after is None and state:
                state = shorter[state]
                matched = length[state]
                after = following[state].get(character)
            if after is not None:
                state = after
                matched += 1
                if matched > found[state]:
                    found[state] = matched
    return found


class SuffixAutomaton(NamedTuple):
    """Of each state: the next states, the state of its shorter suffixes, its greatest length; of each place in each
    sample: its state."""

    following: list[dict[str | None, int]]
    shorter: list[int]
    length: list[int]
    ends: list[list[int]]


def _suffix_automaton(samples: list[str]) -> SuffixAutomaton:
    """The samples stand one behind the other with None between them, which no text contains."""
    following: list[dict[str | None, int]] = [{}]
    shorter, length = [-1], [0]
    last = 0
    ends: list[list[int]] = []
    for sample in samples:
        states = []
        for character in (*sample, None):
            new = len(length)
            following.append({})
            shorter.append(0)
            length.append(length[last] + 1)
            state = last
            while state >= 0 and character not in following[state]:
                following[state][character] = new
                state = shorter[state]
            if state >= 0:
                met = following[state][character]
                if length[met] > length[state] + 1:
                    copy = len(length)
                    following.append(following[met].copy())
                    shorter.append(shorter[met])
                    length.append(length[state] + 1)
                    while state >= 0 and following[state].get(character) == met:
                        following[state][character] = copy
                        state = shorter[state]
                    shorter[met] = met = copy
                shorter[new] = met
            last = new
            states.append(new)
        ends.append(states[:-1])
    return SuffixAutomaton(following, shorter, length, ends)


def _count_windows(lengths: list[list[int]], window: int) -> tuple[int, int]:
    """How many windows are copied, and how many there are."""
    ends = [length for run in lengths for length in run[window - 1 :]]
    return sum(length >= window for length in ends), len(ends)


def _examples(samples: list[str], lengths: list[list[int]], longest: list[int]) -> list[dict[str, Any]]:
    """The longest copies, one of each sample at most, none twice."""
    examples: dict[str, dict[str, Any]] = {}
    for number in sorted(range(len(samples)), key=longest.__getitem__, reverse=True):
        if longest[number] == 0 or len(examples) == MOST_EXAMPLES:
            break
        end = lengths[number].index(longest[number]) + 1
        text = samples[number][end - longest[number] : end][:EXAMPLE_CHARACTERS]
        examples.setdefault(text, {"sample": number, "length": longest[number], "text": text})
    return list(examples.values())


def _one_spaced(text: str) -> str:
    return " ".join(text.split())
