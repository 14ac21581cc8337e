"""Questions on texts: every shape people have is read, wrong places are repaired, nothing is left out in silence."""

from __future__ import annotations

import gzip
import json

import pytest

from bimo.runtime import DATA_REFUSED, USAGE, UserError
from bimo.tasks.answer.scoring import exact_match, f1, is_chinese
from bimo.text.questions import Span, find_nearest, read_questions

TEXT = "The cat sat on the mat. The dog sat on the log."
CAT, LOG = {"text": "The cat", "answer_start": 0}, {"text": "the log", "answer_start": 39}


def squad(*asked, context=TEXT):
    return {"version": "1.1", "data": [{"title": "t", "paragraphs": [{"context": context, "qas": list(asked)}]}]}


def ask(*answers, question="Who sat?", **more):
    return {"id": "1", "question": question, "answers": list(answers), **more}


def read(tmp_path, value, name="questions.json"):
    path = tmp_path / name
    path.write_text(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False), encoding="utf-8")
    return read_questions(path)


def test_squad_is_read_with_and_without_an_answer(tmp_path):
    v2 = [ask(is_impossible=True, plausible_answers=[CAT]), ask(), ask(LOG, CAT, LOG, is_impossible=False)]
    found = read(tmp_path, squad(ask(CAT), *v2))
    assert [one.answers for one in found.kept] == [
        (Span("The cat", 0),),
        (),
        (),
        (Span("the log", 39), Span("The cat", 0)),
    ]
    assert [one.references for one in found.kept] == [("The cat",), (), (), ("the log", "The cat")]
    assert [one.row for one in found.kept] == [1, 2, 3, 4]
    assert (found.refused, found.repaired, found.unplaced) == ([], 0, 0)
    assert found.describe().startswith("4 questions on 1 texts in the form of SQuAD; 2 without an answer")


def test_other_shapes_hold_the_same(tmp_path):
    cmrc = {"context_id": "T", "context_text": TEXT, "qas": [{"query_text": "Who sat?", "answers": ["The cat"]}]}
    flat = {"question": "Who sat?", "context": TEXT, "answers": {"text": ["The cat"], "answer_start": [0]}}
    nothing = {**flat, "answers": {"text": [], "answer_start": []}}
    for value, name, form in (
        ([cmrc], "cmrc.json", "CMRC 2018"),
        (
            json.dumps(flat) + "\n" + json.dumps({**flat, "answers": "The cat"}),
            "flat.jsonl",
            "question/context/answers",
        ),
    ):
        found = read(tmp_path, value, name)
        assert {one.answers for one in found.kept} == {(Span("The cat", 0),)}
        assert set(found.forms) == {form}
    assert [one.answers for one in read(tmp_path, [flat, nothing]).kept] == [(Span("The cat", 0),), ()]
    refused = read(tmp_path, [flat, {**flat, "answers": {"text": [" "], "answer_start": [0]}}]).refused
    assert [one.detail for one in refused] == ["it has no answers, and does not say that there is none"]
    packed = tmp_path / "packed.json.gz"
    packed.write_bytes(gzip.compress(json.dumps(squad(ask(CAT))).encode()))
    assert read_questions(packed).kept[0].answers == (Span("The cat", 0),)


def test_a_place_is_a_number_however_tables_spell_it(tmp_path):
    twice = {"question": "Where?", "context": "北京和北京", "answers": {"text": ["北京"], "answer_start": [3]}}
    for start in (3, 3.0, "3", " 3 "):
        row = {**twice, "answers": {"text": ["北京"], "answer_start": [start]}}
        assert read(tmp_path, [row]).kept[0].answers == (Span("北京", 3),)
    for start in (True, "", "three", 2.5, None):
        row = {**twice, "answers": {"text": ["北京"], "answer_start": [start]}}
        assert read(tmp_path, [row]).kept[0].answers == (Span("北京", 0),)


def test_a_wrong_place_is_repaired_by_the_nearest_one(tmp_path):
    found = read(
        tmp_path,
        squad(
            ask({"text": "sat on", "answer_start": 30}),  # at 8 and at 32
            ask({"text": "sat on", "answer_start": 10}),
            ask({"text": " the log. ", "answer_start": 38}),  # blanks around it do not count
            ask({"text": "The dog", "answer_start": -1}),
        ),
    )
    starts = [one.answers[0].start for one in found.kept]
    assert starts == [32, 8, 39, 24]
    assert all(TEXT[one.answers[0].start : one.answers[0].end] == one.answers[0].text for one in found.kept)
    assert found.repaired == 4
    assert find_nearest("ab-ab", "ab", 2) in (0, 3)
    assert find_nearest("ab", "c", 0) is None


@pytest.mark.parametrize(
    ("text", "piece", "place", "found"),
    [
        ("They concatenate what the cat ate.", "cat", 0, 26),
        ("The cat concatenates.", "cat", 9, 4),  # the one inside a word is nearer
        ("In 1990 there were 19.", "19", 0, 19),
        ("They concatenate.", "cat", 0, 8),  # better than nowhere
        ("于1990年在北京大学读书，后住北京。", "北京", 0, 7),  # there are no blanks
        ("于1990年来京。", "1990", 0, 1),
    ],
)
def test_what_stands_by_itself_is_rather_the_answer_than_what_stands_in_a_word(text, piece, place, found):
    assert find_nearest(text, piece, place) == found


def test_what_cannot_be_mended_is_set_aside_with_its_reason(tmp_path):
    bad = [
        ask({"text": "a bird", "answer_start": 3}),
        ask(CAT, question="  "),
        {"question": "Who?"},
        "nothing",
        ask(CAT, question="half \ud800"),
        ask({"text": "a bird", "answer_start": 3}, CAT),
    ]
    path = tmp_path / "bad.json"
    path.write_text(json.dumps(squad(*bad)))
    found = read_questions(path)
    assert [(one.line, one.detail) for one in found.refused] == [
        (1, "its answer 'a bird' does not stand in its text"),
        (2, "it has no question"),
        (3, "it has no answers, and does not say that there is none"),
        (4, "it is not an object"),
        (5, "its question holds half a character"),
    ]
    assert [(one.row, one.answers, one.references) for one in found.kept] == [
        (6, (Span("The cat", 0),), ("a bird", "The cat"))
    ]
    assert found.unplaced == 1


@pytest.mark.parametrize(
    ("name", "text", "code", "sentence"),
    [
        ("q.txt", "Who?", DATA_REFUSED, "is neither JSON nor JSON Lines"),
        ("q.json", '{"a": 1}', DATA_REFUSED, "There is no question in"),
        ("q.json", '{"data": [', DATA_REFUSED, "not valid JSON"),
        ("q.json", "[]", DATA_REFUSED, "There is no question in"),
    ],
)
def test_a_file_without_questions_is_refused_in_a_sentence(tmp_path, name, text, code, sentence):
    with pytest.raises(UserError, match=sentence) as error:
        read(tmp_path, text, name)
    assert error.value.code == code


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match="There is no file") as error:
        read_questions(tmp_path / "none.json")
    assert error.value.code == USAGE


@pytest.mark.parametrize(
    ("answer", "references", "exact", "agreement"),
    [
        ("the Cat!", ["a cat"], True, 1.0),  # articles, case and punctuation do not count
        ("the cat sat", ["cat"], False, 2 / 3),  # one of two, and one of one
        ("dog", ["cat", "the dog."], True, 1.0),  # the reference that is most like it
        ("cat cat", ["cat"], False, 2 / 3),  # a word counts as often as it is in both
        ("", ["cat"], False, 0.0),
        ("the", ["a"], True, 1.0),  # nothing is left of either
        ("mat the on", ["on the mat"], False, 1.0),  # order does not count
    ],
)
def test_english_is_scored_by_the_rule_of_squad(answer, references, exact, agreement):
    assert exact_match(answer, references, chinese=False) is exact
    assert f1(answer, references, chinese=False) == pytest.approx(agreement)


@pytest.mark.parametrize(
    ("answer", "references", "exact", "agreement"),
    [
        ("光荣和ω-force。", ["光荣和Ω-Force"], True, 1.0),
        ("在北京大学", ["北京大学"], False, 8 / 9),  # four of five, and four of four
        ("北京的大学", ["北京大学"], False, 4 / 9),  # the longest run in common is of two
        ("2010 年", ["2010年"], False, 1.0),  # the blank is no part, but exact match sees it
        ("由Sony公司", ["Sony"], False, 2 / 5),  # a word of letters is one part of four
        ("4,000人", ["4000人"], False, 0.5),  # a number is one part, marks and all
        ("“上海”", ["上海"], True, 1.0),
        ("上海", ["北京"], False, 0.0),
        ("！", ["上海"], False, 0.0),
    ],
)
def test_chinese_is_scored_by_the_rule_of_cmrc(answer, references, exact, agreement):
    assert exact_match(answer, references, chinese=True) is exact
    assert f1(answer, references, chinese=True) == pytest.approx(agreement)


def test_the_question_says_which_rule_counts():
    assert is_chinese("《战国无双3》是由谁开发的？")
    assert not is_chinese("Who developed it?")


def test_real_files_are_read_as_they_are_known(shared_data):
    folder = shared_data / "qa"
    dev = read_questions(folder / "cmrc2018" / "cmrc2018_dev.json.gz")
    assert (len(dev.kept), dev.repaired, dev.unplaced, dev.refused) == (3219, 7, 193, [])
    english = read_questions(folder / "xquad_en_zh" / "xquad.en.json")
    assert (len(english.kept), english.repaired, english.unplaced, english.refused) == (1190, 0, 0, [])
