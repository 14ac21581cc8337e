"""Segmentation loses nothing, cuts Chinese into words and leaves everything else as it is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bimo.text.segment import iter_words, mark_words, segment

SHARED = Path(__file__).resolve().parents[1].parent / "shared" / "data"
MIXED = st.text(
    alphabet=st.one_of(st.characters(exclude_categories=["Cs"]), st.sampled_from("我们在学习人工智能ab1 .,'-\n"))
)


def test_words():
    assert segment("我们在学习GPT-4，don't stop 3.14 次！\n") == [
        *("我们", "在", "学习", "GPT", "-", "4", "，", "don't", " ", "stop", " ", "3.14", " ", "次", "！", "\n")
    ]


@given(MIXED)
def test_joined_words_are_the_text(text):
    words = segment(text)
    assert "".join(words) == text
    assert all(words)


def test_iter_words_leaves_marks_and_blanks_out():
    assert list(iter_words("北京，you're 2 late…")) == ["北京", "you're", "2", "late"]


def test_marks_stand_between_chinese_words_only():
    assert mark_words("我们学习AI模型 today.", "|") == "|我们|学习|AI|模型| today."


def test_long_words_are_cut():
    marked = mark_words("中华人民共和国万岁", "|")
    assert marked.replace("|", "") == "中华人民共和国万岁"
    assert max(map(len, marked.split("|"))) <= 4
    assert "中华人民共和国" in mark_words("中华人民共和国万岁", "|", longest=7).split("|")


@given(MIXED, st.integers(min_value=1, max_value=6))
def test_without_its_marks_it_is_the_text(text, longest):
    mark = "\x00"
    text = text.replace(mark, "")
    marked = mark_words(text, mark, longest=longest)
    assert marked.replace(mark, "") == text
    for part in marked.split(mark):
        han = re.findall("[々〇\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]", part)
        assert len(han) in (0, len(part))
        assert not han or len(part) <= longest


@given(MIXED, st.integers(min_value=1, max_value=6))
def test_marking_all_runs_at_once_agrees_with_one_by_one(text, longest):
    import rjieba

    def slow(run: str) -> str:
        parts = [word[start : start + longest] for word in rjieba.cut(run) for start in range(0, len(word), longest)]
        return "\x00" + "\x00".join(parts) + "\x00"

    expected = re.sub("[々〇\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]+", lambda m: slow(m[0]), text)
    assert mark_words(text, "\x00", longest=longest) == expected


def test_most_words_agree_with_gold_segmentation():
    path = SHARED / "segment" / "ud_chinese_gsdsimp" / "zh_gsdsimp-ud-test.conllu"
    if not path.exists():
        pytest.skip("the gold segmentation is not beside the repository")
    right = found = wanted = 0
    for sentence in path.read_text(encoding="utf-8").split("\n\n"):
        gold = [row.split("\t")[1] for row in sentence.split("\n") if re.match(r"\d+\t", row)]
        ours, theirs = spans(segment("".join(gold))), spans(gold)
        right, found, wanted = right + len(ours & theirs), found + len(ours), wanted + len(theirs)
    assert 2 * right / (found + wanted) > 0.75


def spans(words: list[str]) -> set[tuple[int, int]]:
    result, start = set(), 0
    for word in words:
        result.add((start, start + len(word)))
        start += len(word)
    return result
