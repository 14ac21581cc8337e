"""The words of a text in figures, and samples drawn from it."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path

import pytest
from stories import write_stories

from bimo.files import digest_file
from bimo.prepare import prepare
from bimo.text.documents import Document, Rejected
from bimo.text.sampling import Sample
from bimo.text.vocabulary import measure_words


def test_words_are_counted_by_hand():
    found = measure_words(["The cat saw the dog. Cat, dog! cat dog", "云原生的云原生"])
    assert (found["words"], found["distinct"]) == (9 + 5, 4 + 3)  # 云, 原生 and 的
    assert found["common"][:2] == [["cat", 3], ["dog", 3]]
    assert "the" not in dict(found["common"])
    assert "的" not in dict(found["common"])


def test_texts_without_a_word_have_no_place_in_the_laws():
    found = measure_words(["👍", "……", "red fox", "red wolf", "grey wolf", "blue whale"])
    assert found["growth"][0] == [0, 0]
    assert 0 < found["heaps"] < 1
    assert measure_words(["👍"] * 9)["heaps"] is None


def test_a_pair_stands_side_by_side_and_holds_no_stop_word():
    found = measure_words(["red fox, grey wolf the red fox\nsat. 人工智能"])
    pairs = dict(found["pairs"])
    assert pairs["red fox"] == 2
    assert pairs["grey wolf"] == 1
    assert not {"fox grey", "wolf red", "the red", "wolf the"} & pairs.keys()


def test_laws_are_found_where_they_hold():
    draw = random.Random(0)
    ranks = range(1, 3001)
    words = [f"w{chr(97 + rank % 26)}{rank}" for rank in ranks]
    text = draw.choices(words, weights=[1 / rank for rank in ranks], k=60_000)
    found = measure_words(" ".join(text[start : start + 100]) for start in range(0, len(text), 100))
    assert found["zipf"] == pytest.approx(-1, abs=0.15)
    counts = sorted(Counter(text).values(), reverse=True)
    assert all(counts[rank - 1] == count for rank, count in found["ranks"])
    assert found["growth"][-1] == [60_000, len(set(text))]
    seen = len(set(text[: found["growth"][5][0]]))
    assert found["growth"][5][1] == seen
    assert 0.3 < found["heaps"] < 0.9


@pytest.mark.parametrize("texts", [[], [""], ["。"], ["word"], ["one two"]])
def test_little_text_has_no_laws(texts: list[str]):
    found = measure_words(texts)
    assert found["heaps"] is None
    assert json.loads(json.dumps(found))["words"] <= 2


def test_every_piece_is_as_likely_to_be_drawn():
    drawn: Counter[int] = Counter()
    for seed in range(2_000):
        sample = Sample(3, seed)
        for number in range(10):
            sample.add(Document("x", "file", number, "en"))
        drawn.update(piece["line"] for piece in sample.facts())
    # 600 expected of each, with a deviation of 20.
    assert drawn.total() == 6_000
    assert all(abs(drawn[number] - 600) < 100 for number in range(10))


def test_a_sample_says_why_and_shows_no_personal_data():
    sample = Sample(2, 0)
    sample.add(Rejected("a.txt", 3, "too_short", "7 < 20", "电话13800138000"))
    (shown,) = sample.facts()
    assert (shown["source"], shown["line"], shown["reason"], shown["detail"]) == ("a.txt", 3, "too_short", "7 < 20")
    assert "13800138000" not in shown["text"]


def test_the_data_sheet_accounts_for_what_went_in_and_came_out(tmp_path: Path):
    write_stories(tmp_path / "in" / "a.txt", 60)
    write_stories(tmp_path / "in" / "b.txt", 60, seed=1)
    (tmp_path / "in" / "bad.bin").write_bytes(b"\x00\xff")
    facts = prepare([tmp_path / "in"], out=tmp_path / "data", licence="CC0")["documents"]
    sheet = json.loads((tmp_path / "data" / "data_sheet.json").read_text())
    assert sheet["licence"] == "CC0"
    assert {source["name"]: source["sha256"] for source in sheet["sources"]} == {
        path.name: digest_file(path) for path in (tmp_path / "in").iterdir()
    }
    assert sheet["counts"]["train"] == facts["train"]
    assert sheet["counts"]["rejected"] == facts["rejected"]
    assert sheet["personal_data"]["treatment"] == "mask"
    assert sheet["processing"]["text"]["redact"] == "mask"
    outputs = {output["name"]: output["sha256"] for output in sheet["outputs"]}
    assert {"tokenizer.json", "tokens/train-00000.bin", "documents/train-00000.parquet"} <= outputs.keys()
    assert all(digest_file(tmp_path / "data" / name) == digest for name, digest in outputs.items())


def test_the_licence_stays_until_another_is_given(tmp_path: Path):
    write_stories(tmp_path / "in" / "a.txt", 60)
    sheet = tmp_path / "data" / "data_sheet.json"
    for given, said in (("CC BY 4.0", "CC BY 4.0"), ("", "CC BY 4.0"), ("CC0", "CC0")):
        prepare([tmp_path / "in"], out=tmp_path / "data", licence=given)
        assert json.loads(sheet.read_text())["licence"] == said
    before = sheet.stat().st_mtime_ns
    prepare([tmp_path / "in"], out=tmp_path / "data")
    assert sheet.stat().st_mtime_ns == before
