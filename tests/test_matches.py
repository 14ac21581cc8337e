"""Which words of a text stand in a question too."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bimo.text.matches import ALONE, IN_A_ROW, mark_matches


@pytest.mark.parametrize(
    ("question", "text", "marks"),
    [
        ("Who met?", "they MET who?", "     111 111 "),
        ("Who met there?", "She who met him", "    222 222    "),
        ("谁决定了？", "会议决定由谁", "  22 1"),
        ("哪一年香港小姐?", "2008年度香港小姐", "    1 2222"),
        ("Was Bimo笔墨?", "Bimo笔 2", "22222  "),
        ("", "nothing", "       "),
        ("nothing", "", ""),
        ("met met", "met, met", "222  222"),
    ],
)
def test_words_and_rows_of_them_are_marked(question, text, marks):
    assert "".join(" 12"[mark] for mark in mark_matches(question, text)) == marks


PIECES = st.lists(st.sampled_from(["cat", "Cat", "sat", "猫", "坐", "在", " ", ", ", "é", "2"]), max_size=12).map(
    "".join
)


@given(PIECES, PIECES)
def test_marks_are_those_of_every_pair_of_words(question, text):
    """The slow twin compares each word of the one with each of the other, and their neighbours with one another."""
    part = re.compile("[\u4e00-\u9fff]|[A-Za-zé0-9]+")
    asked = [one[0].casefold() for one in part.finditer(question)]
    found = list(part.finditer(text))
    words = [one[0].casefold() for one in found]
    expected = np.zeros(len(text), dtype=int)
    for place, one in enumerate(found):
        for there, word in enumerate(asked):
            if word != words[place]:
                continue
            before = place and there and words[place - 1] == asked[there - 1]
            after = words[place + 1 : place + 2] == asked[there + 1 : there + 2] != []
            mark = IN_A_ROW if before or after else ALONE
            expected[one.start() : one.end()] = np.maximum(expected[one.start() : one.end()], mark)
    np.testing.assert_array_equal(mark_matches(question, text), expected)
