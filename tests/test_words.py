"""Counting words: numbers that can be counted by hand, stop words, and which words of a text behave like them."""

from __future__ import annotations

import math
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from stories import write_stories

from bimo.console import SILENT
from bimo.prepare import prepare
from bimo.runtime import UserError
from bimo.text.counting import LEAST_DOCUMENTS, WordCounts
from bimo.text.segment import WordList, iter_words
from bimo.text.stop_words import stop_words
from bimo.words.counts import count_lines, count_words
from bimo.words.sources import texts_of


def test_stop_words_are_function_words_of_both_languages():
    words = stop_words()
    assert {"the", "don't", "of", "的", "我们", "因为"} <= words
    assert not {"said", "day", "说", "人", "模型"} & words
    assert all(word == word.lower() == word.strip() for word in words)
    assert stop_words(add=["Said", "道"]) - words == {"said", "道"}
    assert words - stop_words(remove=["The", "的"]) == {"the", "的"}


def test_no_stop_word_is_listed_twice():
    folder = Path(__file__).parents[1] / "src" / "bimo" / "assets"
    for file in folder.glob("stop_words.*.txt"):
        lines = file.read_text(encoding="utf-8").splitlines()
        counts = Counter(word for line in lines if not line.startswith("#") for word in line.split())
        assert [word for word, count in counts.items() if count > 1] == []


def test_what_is_named_and_lies_in_a_folder_that_is_named_counts_once(tmp_path):
    for name in ("one", "two"):
        (tmp_path / f"{name}.txt").write_text(f"The {name} boat sails.\n", encoding="utf-8")
    sources = [tmp_path / "one.txt", tmp_path, tmp_path / "one.txt"]
    assert sorted(texts_of(sources, SILENT)) == ["The one boat sails.", "The two boat sails."]


def test_counts_documents_and_evenness_by_hand():
    counts = WordCounts()
    for text in ("Tea tea, milk!", "tea 茶", "milk milk milk milk"):
        counts.add(text)
    assert (counts.documents, counts.total, counts.distinct) == (3, 9, 3)
    tea, chinese_tea = counts.facts("tea"), counts.facts("茶")
    assert (tea.count, tea.documents) == (3, 2 / 3)
    whole = -sum(share * math.log(share) for share in (3 / 9, 2 / 9, 4 / 9))
    own = -sum(share * math.log(share) for share in (2 / 3, 1 / 3))
    assert tea.evenness == pytest.approx(own / whole)
    assert (chinese_tea.count, chinese_tea.evenness) == (1, 0)
    assert [facts.word for facts in counts.most_common(2)] == ["milk", "tea"]
    assert [facts.word for facts in counts.most_common(9, without={"milk"})] == ["tea", "茶"]


@given(st.lists(st.text(alphabet="ab 我们学习\n"), min_size=1, max_size=8))
@example(["a习a们a们习a习a习a们a们习a习a a们们a"])
def test_it_counts_what_is_cut(texts):
    counts = WordCounts()
    for text in texts:
        counts.add(text)
    expected = Counter(word for text in texts for word in iter_words(text))
    assert {facts.word: facts.count for facts in counts.most_common(1000)} == dict(expected)
    assert all(facts.evenness >= 0 and 0 < facts.documents <= 1 for facts in counts.most_common(1000))


def test_words_of_a_list_count_whatever_they_begin_with():
    assert list(iter_words("We use .NET, and C++.", WordList([".NET", "C++"]))) == ["We", "use", ".NET", "and", "C++"]


def test_a_manifest_of_something_else_is_no_prepared_data(tmp_path):
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "manifest.json").write_text('{"text": "tea and milk"}')
    (tmp_path / "site" / "a.txt").write_text("tea and milk")
    assert count_words([tmp_path / "site"])["words"] == 6


def test_in_a_single_document_every_word_is_as_even_as_the_text():
    counts = WordCounts()
    counts.add("a习a们a们习a习a习a们a们习a习a a们们a")
    assert {facts.evenness for facts in counts.most_common(9)} == {1.0}


def test_words_that_are_everywhere_alike_are_proposed():
    counts = WordCounts()
    for number in range(LEAST_DOCUMENTS):
        # "chapter" is in all of them, "storm" in all but nearly always in one, "rare" in a few.
        storms = 500 if number == 0 else 1
        counts.add("the chapter " * 20 + "storm " * storms + ("rare " if number < 3 else ""))
    assert [facts.word for facts in counts.proposed_stop_words(known=stop_words())] == ["chapter"]
    assert counts.proposed_stop_words(known={"the", "chapter"}) == []


def test_few_documents_propose_nothing():
    counts = WordCounts()
    for _ in range(LEAST_DOCUMENTS - 1):
        counts.add("chapter")
    assert counts.proposed_stop_words(known=frozenset()) == []


def test_files_and_prepared_data_are_counted_alike(tmp_path):
    write_stories(tmp_path / "text" / "a.txt", 60)
    prepare([tmp_path / "text"], out=tmp_path / "data")
    facts = [count_words([tmp_path / name], most=5) for name in ("text", "data")]
    assert facts[0]["words"] >= facts[1]["words"] > 0
    assert [word["word"] for word in facts[0]["common"]] == [word["word"] for word in facts[1]["common"]]


def test_what_is_left_out_can_be_chosen(tmp_path):
    (tmp_path / "a.txt").write_text("The cat and the 云原生数据湖 and the dog. The end.", encoding="utf-8")

    def common(**options):
        return [word["word"] for word in count_words([tmp_path], **options)["common"]]

    assert "the" not in common()
    assert common(every=True)[0] == "the"
    assert common(keep=["the"])[0] == "the"
    assert "cat" not in common(without=["Cat"])
    assert "云原生数据湖" in common(words=WordList(["云原生数据湖"]))


def test_lines_for_people(tmp_path):
    for number in range(LEAST_DOCUMENTS):
        (tmp_path / f"{number}.txt").write_text(f"The chapter about thing number{number}", encoding="utf-8")
    lines = count_lines(count_words([tmp_path], most=2))
    assert lines[0] == "100 words, 24 of them different, in 20 documents"
    assert lines[2].split() == ["count", "documents", "evenness", "word"]
    assert lines[3].split() == ["20", "100%", "1.00", "chapter"]
    assert "stop words of this text" in lines[6]
    assert [line.split()[-1] for line in lines[8:]] == ["chapter", "thing"]


def test_nothing_to_count_is_an_error(tmp_path):
    (tmp_path / "a.txt").write_text("... !!!", encoding="utf-8")
    with pytest.raises(UserError, match="There is no word in"):
        count_words([tmp_path])
    with pytest.raises(UserError, match="--most must be at least 1"):
        count_words([tmp_path], most=0)
