"""Passages end with sentences, and are found by what they share with a question, as BM25 is written."""

from __future__ import annotations

import json
import math
import textwrap
from collections import Counter

import numpy as np
import pytest
from printed import pdf

from bimo.tasks.answer.passages import LONGEST, Passage, cut_passages, read_passages
from bimo.tasks.answer.retrieval import PassageIndex, fuse, terms


def test_terms_find_words_pairs_and_runs():
    assert terms("The Newton-Raphson 方法，1990年") == [
        *("newton", "raphson", "方法", "1990", "年", "方法"),
        *("^new", "newt", "ewto", "wton", "ton$", "^rap", "raph", "aphs", "phso", "hson", "son$"),
        *("^199", "1990", "990$"),
    ]
    assert terms("的 the ，。!") == []


def test_bm25_is_as_it_is_written():
    """Robertson and Zaragoza 2009, with the idf of Lucene, as bm25s computes it."""
    texts = ["猫坐在垫子上", "狗追猫，猫跑了", "the dog sat", ""]
    index, question = PassageIndex(texts), "猫在哪里 dogs"
    bags = [Counter(terms(text)) for text in texts]
    mean = sum(bag.total() for bag in bags) / len(bags)
    expected = np.zeros(len(texts))
    for term in terms(question):
        holding = sum(term in bag for bag in bags)
        if holding:
            weight = math.log(1 + (len(texts) - holding + 0.5) / (holding + 0.5))
            for number, bag in enumerate(bags):
                expected[number] += weight * bag[term] / (bag[term] + 1.5 * (0.25 + 0.75 * bag.total() / mean))
    np.testing.assert_allclose(index.scores(question), expected, rtol=1e-5)
    assert index.search(question, 9) == [number for number in (-expected).argsort() if expected[number] > 0]
    assert index.search("完全无关 zzz", 5) == []
    assert PassageIndex(["，。"]).search("猫", 3) == []


def test_vectors_help_where_words_are_others():
    vectors = {"cat": [1.0, 0.0], "feline": [1.0, 0.0], "dog": [0.0, 1.0], "tree": [0.6, 0.8]}

    def embed(texts):
        return np.array([vectors[text] for text in texts])

    index = PassageIndex(["dog", "cat", "tree"], embed=embed)
    assert PassageIndex(["dog", "cat", "tree"]).search("feline", 3) == []
    assert index.search("feline", 1) == [1]
    assert PassageIndex(["dog"], embed=embed).search("cat", 3) == [0]
    assert fuse(np.array([0.0, 2.0, 4.0]), np.array([5.0, 5.0, 5.0])).tolist() == [0.0, 0.5, 1.0]


def test_passages_end_with_sentences_and_know_their_lines(tmp_path):
    text = "".join(f"第{number}句话说的是一些事情，后面还有一些字。\n" for number in range(100))
    pieces = list(cut_passages(text))
    assert "".join(piece for _, piece in pieces).replace("\n", "") == text.replace("\n", "")
    lines = text.split("\n")
    for line, piece in pieces:
        assert piece.startswith(lines[line])
        assert piece.endswith("。")
        assert len(piece) <= LONGEST
    assert max(len(piece) for _, piece in cut_passages("字" * 2000)) == LONGEST
    assert list(cut_passages("\n \n")) == []
    spoken = " ".join(f"in {1000 + number} they" for number in range(300))
    assert "".join(piece for _, piece in cut_passages(spoken)).replace(" ", "") == spoken.replace(" ", "")
    assert all(piece.split()[0] in ("in", "they") or len(piece.split()[0]) == 4 for _, piece in cut_passages(spoken))
    (tmp_path / "a.txt").write_text("\n   \nThe cat sat on the mat.\n", encoding="utf-8")
    (tmp_path / "b.jsonl").write_text(json.dumps({"text": "One.\nTwo."}) + "\n" + json.dumps({"text": "Three."}))
    found = read_passages([tmp_path], unread=pytest.fail)
    assert found == [
        Passage("a.txt", 3, "The cat sat on the mat."),
        Passage("b.jsonl", 1, "One.\nTwo."),
        Passage("b.jsonl", 2, "Three."),
    ]
    # A file of another ending is read as text where it was named, and its lines count as well.
    (tmp_path / "v.log").write_text(text, encoding="utf-8")
    named = read_passages([tmp_path / "v.log"], unread=pytest.fail)
    assert [(one.line, one.text) for one in named] == [(line + 1, piece) for line, piece in pieces]


def test_passages_of_a_pdf_know_their_page(tmp_path):
    """Pages so short that the file would be one text, and one that is blank."""
    pages = [f"Page {name} begins. " + "It says a few words more. " * 40 for name in ("one", "two", "three")]
    (tmp_path / "a.pdf").write_bytes(pdf(pages[0], "", *pages[1:]))
    found = read_passages([tmp_path], unread=pytest.fail)
    assert {one.line: one.text[:8] for one in reversed(found)} == {1: "Page one", 3: "Page two", 4: "Page thr"}
    assert [one.line for one in found] == sorted(one.line for one in found)


def test_what_may_not_be_opened_is_told_and_the_rest_is_read(tmp_path):
    (tmp_path / "a.txt").write_text("The cat sat.")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    unread = []
    assert read_passages([tmp_path], unread=unread.append) == [Passage("a.txt", 1, "The cat sat.")]
    assert [(one.source, one.line, one.reason) for one in unread] == [("loop", 0, "unreadable")]


def test_wrapped_lines_do_not_end_a_passage_inside_a_sentence(tmp_path):
    sentences = [
        f"Keeper {number} came home in {1800 + number}, and lived here{' still' * (number % 7)} a quiet life."
        for number in range(200)
    ]
    wrapped = textwrap.fill(" ".join(sentences), 60) + "\n"
    (tmp_path / "a.txt").write_text(wrapped)
    found = read_passages([tmp_path], unread=pytest.fail)
    assert " ".join(" ".join(one.text for one in found).split()) == " ".join(sentences)
    assert len(found) > 30
    assert all(one.text.endswith("life.") for one in found)
    lines = wrapped.split("\n")
    assert all(one.text.split("\n")[0] in lines[one.line - 1] for one in found)


def test_lines_that_are_no_sentences_stay_apart():
    rows = [f"row {number} of a table without any stop" for number in range(100)]
    for text in ("\n".join(rows), "\r\n".join(rows), "\n".join(f"- {row}" for row in rows)):
        found = list(cut_passages(text))
        assert len(found) > 5
        assert all(piece.split("\n")[0].strip() == text.split("\n")[line].strip() for line, piece in found)
        assert [row.strip() for _, piece in found for row in piece.split("\n")] == [r.strip() for r in text.split("\n")]


def test_copies_of_a_text_take_no_place_from_others(tmp_path):
    for name in ("a.txt", "b.txt", "c.jsonl"):
        (tmp_path / name).write_text('{"text": "The cat sat."}' if name == "c.jsonl" else "\nThe  cat\nsat.")
    (tmp_path / "d.txt").write_text("The dog sat.")
    found = read_passages([tmp_path], unread=pytest.fail)
    assert found == [Passage("a.txt", 2, "The  cat\nsat."), Passage("d.txt", 1, "The dog sat.")]
