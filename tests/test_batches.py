"""The order of windows: each once an epoch, a function of (seed, step, content) alone, whatever the workers."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bimo.runtime import DATA_REFUSED, UserError
from bimo.tokens.batches import Batches, permuted
from bimo.tokens.shards import TokenShards, TokenWriter

TOKENS = 1000


@pytest.fixture
def shards(tmp_path: Path) -> TokenShards:
    """1,000 tokens, each of which is its own place, in several files."""
    return counting(tmp_path, TOKENS, tokens_per_file=300)


def counting(folder: Path, tokens: int, **options: int) -> TokenShards:
    with TokenWriter(folder, "train", vocabulary=TOKENS, end=0, **options) as writer:
        while writer._in_file + writer.tokens < tokens:
            place = writer._in_file + writer.tokens
            writer.write([list(range(place, min(place + 48, tokens - 1)))])
    shards = TokenShards(folder, "train")
    assert abs(len(shards) - tokens) < 10
    return shards


@given(st.integers(1, 5000), st.integers(0, 2**64 - 1))
def test_a_permutation_hits_everything_once(size: int, key: int) -> None:
    result = permuted(np.arange(size), size, key)
    assert np.array_equal(np.sort(result), np.arange(size))


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 15, 16, 17, 255, 256, 257, 1023, 1024, 1025, 65_536, 100_003])
def test_a_permutation_of_awkward_sizes(size: int) -> None:
    for key in (0, 1, 2**63, 2**64 - 1):
        assert np.array_equal(np.sort(permuted(np.arange(size), size, key)), np.arange(size))


@given(st.integers(1, 2**40), st.integers(0, 2**64 - 1), st.data())
def test_a_permutation_of_any_part_agrees_with_the_whole(size: int, key: int, data: st.DataObject) -> None:
    indices = data.draw(st.lists(st.integers(0, size - 1), min_size=1, max_size=5))
    together = permuted(np.array(indices), size, key)
    assert [int(permuted(np.array([index]), size, key)[0]) for index in indices] == together.tolist()
    assert all(0 <= place < size for place in together)
    assert len(set(together.tolist())) == len(set(indices))


@pytest.mark.parametrize("size", [2, 3, 6, 10])
def test_a_permutation_sends_each_index_everywhere_alike(size: int) -> None:
    keys = 3000
    places = np.stack([permuted(np.arange(size), size, key) for key in range(keys)])
    for index in range(size):
        counts = np.bincount(places[:, index], minlength=size)
        chi_square = ((counts - keys / size) ** 2 / (keys / size)).sum()
        # The mean is size - 1, the deviation its double's root; eight deviations do not happen.
        assert chi_square < (size - 1) + 8 * (2 * (size - 1)) ** 0.5


def test_neighbours_do_not_stay_neighbours() -> None:
    steps = np.diff(permuted(np.arange(10_000), 10_000, 3))
    assert Counter(steps.tolist()).most_common(1)[0][1] < 12


@pytest.mark.parametrize("batch", [1, 3, 4, 40])
@pytest.mark.parametrize("context", [1, 7, 16, 100])
def test_each_window_is_visited_once_an_epoch(shards: TokenShards, batch: int, context: int) -> None:
    batches = Batches(shards, batch=batch, context=context, seed=5)
    windows = batches.windows
    assert windows == (len(shards) - 1) // context - 1
    steps = -(-3 * windows // batch)
    starts = np.concatenate([batches.starts(step) for step in range(steps)])
    for epoch in range(3):
        here = np.sort(starts[epoch * windows : (epoch + 1) * windows])
        # All windows of an epoch, next to one another, cut at the same offset.
        assert np.array_equal(np.diff(here), np.full(windows - 1, context))
        assert 0 <= here[0] < context
        assert here[-1] + context + 1 <= len(shards)


def test_windows_hold_what_stands_there(shards: TokenShards) -> None:
    batches = Batches(shards, batch=6, context=12, seed=1)
    for step in (0, 7, 100):
        rows = batches.at(step)
        assert (rows.shape, rows.dtype) == ((6, 13), np.int64)
        for start, row in zip(batches.starts(step), rows, strict=True):
            assert np.array_equal(row, shards.read(int(start), 13))


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_workers_share_the_rows_of_one(shards: TokenShards, workers: int) -> None:
    alone = Batches(shards, batch=8, context=10, seed=3)
    team = [Batches(shards, batch=8, context=10, seed=3, worker=n, workers=workers) for n in range(workers)]
    for step in (0, 1, 11, 12, 13, 500):
        shares = [worker.at(step) for worker in team]
        assert [len(share) for share in shares] == [8 // workers] * workers
        rows = sorted(row.tolist() for share in shares for row in share)
        assert rows == sorted(alone.at(step).tolist())


def test_a_step_does_not_depend_on_what_was_read_before(shards: TokenShards) -> None:
    batches = Batches(shards, batch=4, context=9, seed=0)
    fifth = batches.at(5)
    for step in (100, 3, 5000):
        batches.at(step)
    assert np.array_equal(batches.at(5), fifth)
    assert np.array_equal(Batches(shards, batch=4, context=9, seed=0).at(5), fifth)


def test_epochs_seeds_and_contents_differ(shards: TokenShards, tmp_path: Path) -> None:
    batches = Batches(shards, batch=1, context=10, seed=0)
    n = batches.windows

    def order(source: Batches, epoch: int) -> list[int]:
        return [int(source.starts(step)[0]) for step in range(epoch * n, (epoch + 1) * n)]

    first = order(batches, 0)
    other_text = counting(tmp_path / "other", TOKENS)
    others = [
        order(batches, 1),
        order(batches, 2),
        order(Batches(shards, batch=1, context=10, seed=1), 0),
        order(Batches(other_text, batch=1, context=10, seed=0), 0),
    ]
    for other in others:
        same = sum(a == b for a, b in zip(first, other, strict=False))
        assert same < n / 5
    # Over epochs the cuts move, so that no place in the text is always the first of its window.
    assert len({order(batches, epoch)[0] % 10 for epoch in range(12)}) > 4


def test_too_few_tokens_are_refused(tmp_path: Path) -> None:
    shards = counting(tmp_path, 40)
    context = (len(shards) - 1) // 2
    assert Batches(shards, batch=2, context=context, seed=0).at(0).shape == (2, context + 1)
    with pytest.raises(UserError, match="too few for a context") as caught:
        Batches(shards, batch=2, context=context + 1, seed=0)
    assert caught.value.code == DATA_REFUSED


def test_uneven_shares_are_refused(shards: TokenShards) -> None:
    with pytest.raises(UserError, match="cannot be shared evenly by 3 workers"):
        Batches(shards, batch=8, context=10, seed=0, worker=0, workers=3)
