"""Passages are cut by content: nothing is lost, lengths are bounded, and what is met again is cut the same way."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bimo.text.passages import passage_characters, split_passages

SHARED = Path(__file__).resolve().parents[1].parent / "shared" / "data"
BETWEEN = {"blank lines": "\n\n", "lines": "\n", "one line": ""}


def passages(text: str, target: int) -> list[str]:
    return [passage for _, passage in split_passages(enumerate(text.split("\n"), 1), target)]


def book(paragraphs: int, between: str, seed: int = 0) -> str:
    draw = random.Random(seed)
    sentences = [
        "".join(draw.choices("天地玄黄宇宙洪荒日月盈昃辰宿列张", k=draw.randint(4, 40))) + "。" for _ in range(4000)
    ]
    return between.join("".join(draw.choices(sentences, k=draw.randint(1, 6))) for _ in range(paragraphs)) + between


@pytest.mark.parametrize("between", BETWEEN.values(), ids=BETWEEN)
def test_a_text_ten_times_over_gives_barely_more_passages(between):
    once = set(passages(book(1500, between), 1000))
    tenfold = set(passages(book(1500, between) * 10, 1000))
    assert len(once) > 50
    assert len(tenfold) <= len(once) + 8
    assert len(once - tenfold) <= 3


@pytest.mark.parametrize("between", BETWEEN.values(), ids=BETWEEN)
def test_a_chapter_inside_another_book_gives_the_same_passages(between):
    chapter, other = book(600, between), book(300, between, seed=9)
    alone, inside = set(passages(chapter, 1000)), set(passages(other + chapter + other, 1000))
    assert len(alone & inside) >= 0.85 * len(alone)


def test_real_text_ten_times_over():
    path = SHARED / "lm" / "tinyshakespeare" / "input.txt"
    if not path.exists():
        pytest.skip("tinyshakespeare is not beside the repository")
    text = path.read_text(encoding="utf-8")[:200_000]
    once, tenfold = set(passages(text, 900)), set(passages(text * 10, 900))
    assert len(tenfold) <= len(once) + 8


@settings(deadline=None, max_examples=150)
@given(
    st.lists(st.text(alphabet="ab。！. \n天", max_size=400), max_size=40).map("\n".join),
    st.integers(min_value=1, max_value=300),
)
def test_nothing_is_lost_and_no_passage_is_too_long(text, target):
    found = passages(text, target)
    assert "".join("".join(found).split()) == "".join(text.split())
    assert all(len(passage) <= 2 * target + 1 for passage in found)
    assert all(passage.strip() for passage in found)


def test_sizes_are_near_the_target():
    found = passages(book(3000, "\n"), 1000)
    mean = sum(map(len, found)) / len(found)
    assert 800 < mean < 1300
    assert min(map(len, found[:-1])) >= 500


def test_up_to_twice_the_target_stays_whole():
    text = "\n".join(["句子。"] * 40)
    assert passages(text, 80) == [text]
    assert len(passages(text, 79)) > 1


def test_blocks_between_blank_lines_are_not_cut():
    poems = [f"第{number}首\n" + "\n".join("春眠不觉晓" for _ in range(number % 7 + 2)) for number in range(300)]
    for passage in passages("\n\n".join(poems), 200):
        assert passage.startswith("第")
        assert passage.split("\n\n")[-1] in poems


def test_blank_lines_inside_a_passage_stay():
    (passage,) = passages("\n\n甲\n\n\n乙\n丙\n\n", 100)
    assert passage == "甲\n\n\n乙\n丙"


def test_long_lines_are_cut_at_sentences():
    line = "".join(f"他说了第{number}句话。" for number in range(400))
    assert all(passage.endswith("。") for passage in passages(line, 200))
    english = "".join(f"This is sentence number {number}. " for number in range(400))
    assert all(passage.rstrip().endswith(".") for passage in passages(english, 200))


@pytest.mark.parametrize(
    ("item", "between"),
    [
        ("138001380{:02}", ","),
        ("6222 0212 3456 78{:02}", "，"),
        ("li.ming-{:02}@mail.example.com", "、"),
        ("sk_live_4eC39HqLyjWDarjt{:02}", '","'),
        ("unpunctuated{:02}", " "),
    ],
)
def test_long_lines_without_sentences_are_not_cut_within_a_number_or_word(item, between):
    """Half a telephone number is none that redaction would find."""
    items = [item.format(number) for number in range(100)]
    found = passages(between.join(items), 307)
    assert len(found) > 2
    assert [one for one in items if not any(one in passage for passage in found)] == []


def test_what_has_no_gap_is_cut_all_the_same():
    assert list(map(len, passages("x" * 1000, 300))) == [300, 300, 300, 100]
    assert "".join(passages("字" * 1000, 300)) == "字" * 1000


def test_first_lines_are_numbered():
    lines = [(number, f"paragraph {number} " + "x" * 50) for number in range(1, 200)]
    for number, passage in split_passages(lines, 300):
        assert passage.startswith(f"paragraph {number} ")


def test_a_passage_begins_in_the_line_that_it_names():
    """Blanks alone are no line end, so that they stayed while their line was not counted."""
    lines = ["   ", "", "\t", "  The cat sat.", " ", "End."]
    assert list(split_passages(enumerate(lines, 1), 100)) == [(4, "  The cat sat.\n \nEnd.")]


def test_splitting_is_lazy():
    taken = 0

    def lines():
        nonlocal taken
        while True:
            taken += 1
            yield taken, f"第{taken}段：" + "字" * 40

    stream = split_passages(lines(), 500)
    for _ in range(20):
        next(stream)
    assert taken < 20 * 1000 / 40 + 100


def test_targets():
    assert passage_characters(0) == 300
    assert passage_characters(10**12) == 4000
    assert passage_characters(1_200_000) == 1000
