"""Duplicates are found whatever their white space, on disk; the split follows content alone."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bimo.text.dedup import SeenTexts, text_digest
from bimo.text.split import held_out_groups, split_position, validation_share


def test_a_text_is_new_once(tmp_path):
    with SeenTexts(tmp_path) as seen:
        assert seen.add(text_digest("天下大势"))
        assert not seen.add(text_digest("天下大势"))
        assert not seen.add(text_digest(" 天下\n大势\u3000"))
        assert seen.add(text_digest("天下大事"))


def test_nothing_is_left_behind(tmp_path):
    with SeenTexts(tmp_path / "out") as seen:
        for number in range(1000):
            assert seen.add(text_digest(f"text {number}"))
        assert list((tmp_path / "out").iterdir())
    assert list((tmp_path / "out").iterdir()) == []
    with pytest.raises(ZeroDivisionError), SeenTexts(tmp_path / "out"):
        _ = 1 / 0
    assert list((tmp_path / "out").iterdir()) == []


def test_what_a_killed_run_left_is_forgotten(tmp_path):
    left = SeenTexts(tmp_path)
    left.add(text_digest("once"))
    with SeenTexts(tmp_path) as seen:
        assert seen.add(text_digest("once"))
    left.__exit__(None, None, None)
    assert list(tmp_path.iterdir()) == []


def test_digests_lie_on_disk(tmp_path, monkeypatch):
    monkeypatch.setattr("bimo.text.dedup._CACHE_KILOBYTES", 100)
    with SeenTexts(tmp_path) as seen:
        for number in range(30_000):
            seen.add(text_digest(str(number)))
        size = sum(path.stat().st_size for path in Path(tmp_path).rglob("*.sqlite3"))
    assert size > 30_000 * 16 / 2


@given(st.text(), st.integers(min_value=0, max_value=2**63))
def test_white_space_moves_no_text_to_the_other_side(text, seed):
    spaced = " ".join(text) + "\n"
    assert text_digest(text) == text_digest(spaced)
    assert split_position(text, seed) == split_position(spaced, seed)


def test_the_split_is_even_and_follows_the_seed():
    texts = [f"document {number}" for number in range(4000)]
    chosen = {text for text in texts if split_position(text, 7) < 0.1}
    assert 300 < len(chosen) < 500
    assert chosen != {text for text in texts if split_position(text, 8) < 0.1}
    assert all(0 <= split_position(text, 7) < 1 for text in texts)


def test_shares():
    assert validation_share(0) == validation_share(1_000_000) == 0.1
    assert validation_share(2_000_000) == validation_share(100_000_000) == 0.05
    assert validation_share(10**10) * 10**10 == pytest.approx(5_000_000)
    shares = [validation_share(10**power) for power in range(12)]
    assert shares == sorted(shares, reverse=True)


@pytest.mark.parametrize(
    ("sizes", "most", "held_out"),
    [
        ([1] * 10, 100, [True] * 2 + [False] * 8),
        ([9, 1, 2, 1], 100, [False, True, True, False]),  # none is parted, and none exceeds what is left
        ([9, 1, 2, 1], 2, [False, True, False, True]),
        ([7, 5, 6], 100, [False, True, False]),
        ([90, 1, 1, 1, 1, 1], 100, [False, True, True, True, False, False]),  # what is left to learn from is not one
        ([5], 100, [False]),
        ([], 100, []),
    ],
)
def test_groups_are_held_out_whole_and_do_not_exceed_what_is_wanted(sizes, most, held_out):
    assert held_out_groups(sizes, share=0.2, most=most) == held_out
