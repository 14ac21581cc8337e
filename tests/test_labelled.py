"""Texts with labels: found in what people have, each once, and split so that no text is on both sides."""

from __future__ import annotations

import datetime
import json
from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest

from bimo.runtime import DATA_REFUSED, USAGE, UserError
from bimo.tasks.folder import write_refused
from bimo.text.labelled import Labelled, fold_numbers, read_labelled, split_labelled


def written(path: Path, text: str, encoding: str = "utf-8") -> Path:
    path.write_text(text, encoding=encoding)
    return path


@pytest.mark.parametrize(
    ("name", "content", "columns", "pairs"),
    [
        ("a.csv", "text,category\nhello there,x\ngood bye,y\n", ("text", "category", ""), [("hello there", "x")]),
        ("a.tsv", "ham\tsee you at the station\nspam\twin a prize today\nham\tcall me when home\n", ("2", "1", ""), []),
        (
            "a.csv",
            "\ufeff,split,topic,label,TEXT\n8,dev,race,1,你好\n9,dev,region,0,再见\n",
            ("TEXT", "label", ""),
            [],
        ),
        ("a.jsonl", '{"标签": "好", "文本": "很好看"}\n{"标签": "差", "文本": "不好看"}\n', ("文本", "标签", ""), []),
        (
            "a.jsonl",
            '{"premise": "a", "hypothesis": "b", "label": 0}\n{"premise": "c", "hypothesis": "d", "label": 1}\n',
            ("premise", "label", "hypothesis"),
            [("a", "0")],
        ),
        (
            "a.csv",
            "stars,comment\n5,liked it so much\n1,hated it so much\n5,would return\n",
            ("comment", "stars", ""),
            [],
        ),
    ],
)
def test_columns_are_found(tmp_path, name, content, columns, pairs):
    found = read_labelled(written(tmp_path / name, content))
    assert (found.columns.text, found.columns.label, found.columns.second) == columns
    assert not found.several
    assert {(one.text, one.labels[0]) for one in found.examples} >= set(pairs)


def test_columns_can_be_named_and_are_missed_by_name(tmp_path):
    path = written(tmp_path / "a.csv", "text,label,other\none text,a,x\ntwo text,a,y\n")
    assert read_labelled(path, columns={"label": "other"}).labels == ["x", "y"]
    with pytest.raises(UserError, match=r"has no column intent\. It has: text, label, other") as error:
        read_labelled(path, columns={"label": "intent"})
    assert error.value.code == DATA_REFUSED
    with pytest.raises(UserError, match="knows text, second, label, but not lable") as error:
        read_labelled(path, columns={"lable": "other"})
    assert error.value.code == USAGE


def test_a_folder_for_each_label(tmp_path):
    for label, text in (("pos", "lovely"), ("neg", "糟糕")):
        (tmp_path / label).mkdir()
        written(tmp_path / label / "1.txt", f"{text}\nand more", encoding="gb18030" if label == "neg" else "utf-8")
        written(tmp_path / label / "2.txt", "")
    found = read_labelled(tmp_path)
    assert {(one.text, one.labels) for one in found.examples} == {
        ("lovely\nand more", ("pos",)),
        ("糟糕\nand more", ("neg",)),
    }
    assert len(found.refused) == 2


def test_hidden_folders_are_no_labels_and_files_beside_folders_are_told(tmp_path):
    (tmp_path / ".ipynb_checkpoints").mkdir()
    written(tmp_path / "a.csv", "text,label\nhello there,x\ngood bye,y\n")
    assert read_labelled(tmp_path).labels == ["x", "y"]
    (tmp_path / "notes").mkdir()
    written(tmp_path / "notes" / "1.txt", "some text")
    written(tmp_path / ".hidden", "")
    found = read_labelled(tmp_path)
    assert found.labels == ["notes"]
    assert found.refused_lines() == ["1 rows set aside: it stands in no folder of a label (a.csv)"]


def test_rows_set_aside_are_told_with_their_numbers(tmp_path):
    path = written(tmp_path / "a.csv", "text,label\none text,x\n" + ",y\n" * 4 + "two,\n")
    assert read_labelled(path).refused_lines() == [
        "4 rows set aside: there is no text in it (a.csv:3, a.csv:4, a.csv:5 …)",
        "1 rows set aside: it has no label (a.csv:7)",
    ]


def test_what_cannot_be_learned_from_is_set_aside_with_its_reason(tmp_path):
    rows = [("a b", "x"), ("a  b", "x"), ("c d", "x"), ("c d", "y"), ("", "x"), ("e f", ""), ("g h", "y")]
    path = tmp_path / "a.jsonl"
    written(path, "".join(json.dumps({"text": text, "label": label}) + "\n" for text, label in rows) + "{broken\n")
    found = read_labelled(path)
    assert [(one.text, one.labels) for one in found.examples] == [("a b", ("x",)), ("g h", ("y",))]
    assert sorted(rejected.line for rejected in found.refused) == [2, 3, 4, 5, 6, 8]
    assert len(read_labelled(path, once=False).examples) == 5
    reasons = {rejected.line: rejected.detail for rejected in found.refused}
    assert "another label" in reasons[3]
    assert "was there before" in reasons[2]
    assert "no text" in reasons[5]
    assert "no label" in reasons[6]


def test_several_labels_from_lists_and_from_bars(tmp_path):
    listed = written(tmp_path / "a.jsonl", '{"text": "one", "label": ["b", "a"]}\n{"text": "two", "label": []}\n')
    found = read_labelled(listed)
    assert found.several
    assert [one.labels for one in found.examples] == [("a", "b"), ()]
    barred = read_labelled(written(tmp_path / "b.csv", "text,labels\none text,a|b\ntwo text,a\n"))
    assert barred.several
    assert [one.labels for one in barred.examples] == [("a", "b"), ("a",)]
    rows = ({"text": "one", "labels": 0}, {"text": "two", "labels": False}, {"text": "three", "labels": [1, 0]})
    numbers = read_labelled(written(tmp_path / "c.jsonl", "".join(json.dumps(row) + "\n" for row in rows)))
    assert [one.labels for one in numbers.examples] == [("0",), ("false",), ("0", "1")]


def test_numbers_are_labels_whatever_their_form(tmp_path):
    path = tmp_path / "a.jsonl"
    values = [1.0, 1, "1", True, 10, 2]
    written(path, "".join(json.dumps({"text": f"text {i}", "label": v}) + "\n" for i, v in enumerate(values)))
    assert read_labelled(path).labels == ["1", "2", "10", "true"]


def test_the_split_is_stratified_stable_and_shares_no_text():
    examples = [Labelled(f"text {i}", ("rare",) if i % 20 == 0 else ("usual",)) for i in range(200)]
    train, held_out = split_labelled([*examples, Labelled("alone", ("single",))], seed=0)
    assert len(train) + len(held_out) == 201
    assert not {one.text for one in train} & {one.text for one in held_out}
    assert sum(one.labels == ("rare",) for one in held_out) == 1
    assert Labelled("alone", ("single",)) in train
    again = split_labelled([*examples[::-1], Labelled("alone", ("single",))], seed=0)[1]
    assert set(again) == set(held_out)
    assert set(split_labelled(examples, seed=1)[1]) != set(held_out)


def test_folds_spread_each_label():
    examples = [Labelled(f"text {i}", (str(i % 3),)) for i in range(31)] + [Labelled("alone", ("single",))]
    folds = fold_numbers(examples, 5, seed=0)
    for label in "012":
        sizes = np.bincount([fold for fold, one in zip(folds, examples, strict=True) if one.labels == (label,)])
        assert sizes.max() - sizes.min() <= 1
    assert folds[-1] == 4


def swapped(pairs):
    return [one for a, b, label in pairs for one in (Labelled(a, (label,), b), Labelled(b, (label,), a))]


PAIRS = {
    "both ways round": swapped((f"how {n}", f"why {n}", "yn"[n % 2]) for n in range(200)),
    "one premise, three hypotheses": [Labelled(f"it is {n // 3}", ("ecn"[n % 3],), f"so {n}") for n in range(390)],
    "one hypothesis, many premises": [Labelled(f"it is {n}", ("ecn"[n % 3],), f"so {n // 3}") for n in range(390)],
}


@pytest.mark.parametrize("name", PAIRS)
def test_no_text_of_a_pair_is_held_out_and_learned_from(name):
    examples = PAIRS[name]
    train, held_out = split_labelled(examples, seed=0)
    texts = [{text for one in side for text in (one.text, one.second)} for side in (train, held_out)]
    assert texts[0].isdisjoint(texts[1])
    assert len(train) + len(held_out) == len(examples)
    assert len(held_out) == pytest.approx(0.1 * len(examples), abs=3)
    folds = fold_numbers(examples, 5, seed=0)
    parts = [
        {t for n in np.flatnonzero(folds == fold) for t in (examples[n].text, examples[n].second)} for fold in range(5)
    ]
    assert sum(map(len, parts)) == len(set.union(*parts))
    assert np.bincount(folds).min() >= 0.18 * len(examples)


def test_pairs_that_are_all_tied_are_split_by_their_first_texts():
    examples = [Labelled(f"ask {one}", ("yn"[one % 2],), f"tell {other}") for one in range(40) for other in range(6)]
    train, held_out = split_labelled(examples, seed=0)
    assert len(held_out) == 24
    assert {one.text for one in train}.isdisjoint(one.text for one in held_out)
    one_text = [Labelled("ask", ("yn"[n % 2],), f"tell {n}") for n in range(40)]
    assert len(split_labelled(one_text, seed=0)[1]) == 4


def test_combinations_of_labels_that_are_met_once_are_spread_as_well():
    names = "abcdefghij"
    examples = [
        Labelled(f"text {i}", tuple(name for place, name in enumerate(names) if (i + 1) >> place & 1))
        for i in range(1000)
    ]
    sizes = np.bincount(fold_numbers(examples, 5, seed=0))
    assert sizes.min() >= 0.9 * 200
    assert 0.05 < len(split_labelled(examples, seed=0)[1]) / 1000 < 0.2


def test_of_every_label_some_texts_are_held_out_however_many_labels_there_are():
    examples = [Labelled(f"text {i} {j}", (f"label {i}",)) for i in range(500) for j in range(6)]
    learned, held_out = split_labelled(examples, seed=0)
    labels = {(f"label {i}",) for i in range(500)}
    assert {example.labels for example in held_out} == {example.labels for example in learned} == labels


def test_half_characters_and_times_and_broken_files_are_no_error_of_ours(tmp_path):
    rows = [{"text": f"text {i}", "label": "ab"[i % 2]} for i in range(4)] + [{"text": "\ud83d", "label": "a"}]
    found = read_labelled(written(tmp_path / "a.jsonl", "".join(json.dumps(row) + "\n" for row in rows)))
    assert [one.detail for one in found.refused] == ["there is no text in it"]
    cut = read_labelled(written(tmp_path / "b.jsonl", json.dumps({"text": "great \ud83d", "label": "a"}) + "\n"))
    assert cut.examples == [Labelled("great", ("a",))]
    write_refused(tmp_path, found.refused)
    times = [datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)] * 4
    texts = [f"some longer text {i}" for i in range(4)]
    table = pyarrow.table({"words": texts, "dept": ["x", "y", "x", "y"], "made": times})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    assert read_labelled(tmp_path / "a.parquet").labels == ["x", "y"]
    for label in ("pos", "neg"):
        (tmp_path / "folders" / label).mkdir(parents=True)
        written(tmp_path / "folders" / label / "a.txt", f"a {label} text")
    written(tmp_path / "folders" / "pos" / "b.txt.gz", "no gzip at all")
    found = read_labelled(tmp_path / "folders")
    assert len(found.examples) == 2
    assert len(found.refused) == 1


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("", "holds no rows with a text and a label"),
        ("text,label\n,\n,\n", "holds no text with a label|holds no rows"),
        ("body\nhello\nthere\n", "has no column of texts beside one of labels. It has: body"),
    ],
)
def test_files_without_texts_and_labels_are_refused(tmp_path, content, sentence):
    with pytest.raises(UserError, match=sentence) as error:
        read_labelled(written(tmp_path / "a.csv", content))
    assert error.value.code == DATA_REFUSED


def test_a_line_of_forty_megabytes_is_set_aside(tmp_path):
    path = written(tmp_path / "a.csv", "text,label\nfirst text,a\n" + "x" * 40_000_000 + ",b\nlast text,b\n")
    found = read_labelled(path)
    assert [one.text for one in found.examples] == ["first text", "last text"]
    assert len(found.refused) == 1
    assert found.refused[0].line == 3


def test_no_column_is_two_things(tmp_path):
    questions = written(tmp_path / "a.csv", "question,sentence,label\nwho,he did,0\nwhen,today,1\n")
    found = read_labelled(questions, columns={"second": "sentence"}).columns
    assert (found.text, found.second, found.label) == ("question", "sentence", "label")
    turned = written(tmp_path / "b.csv", "premise,hypothesis,label\na b,c d,0\ne f,g h,1\n")
    found = read_labelled(turned, columns={"second": "premise"}).columns
    assert (found.text, found.second) == ("hypothesis", "premise")
    rated = written(tmp_path / "c.csv", "target,stars\nnice place,5\nbad food,1\n")
    assert read_labelled(rated, columns={"text": "target"}).labels == ["1", "5"]
    with pytest.raises(UserError, match=r"Column target of .* cannot be two things at once"):
        read_labelled(rated, columns={"text": "target", "label": "target"})


def test_labels_divided_far_below_are_seen(tmp_path):
    lines = ["text,tags", *(f"text {n},a" for n in range(2100)), "the last,a|b"]
    found = read_labelled(written(tmp_path / "a.csv", "\n".join(lines)))
    assert (found.several, found.labels) == (True, ["a", "b"])


def test_what_is_no_number_is_no_label(tmp_path):
    found = read_labelled(written(tmp_path / "a.jsonl", '{"text": "a", "label": NaN}\n{"text": "b", "label": 2.0}\n'))
    assert (found.labels, [one.detail for one in found.refused]) == (["2"], ["it has no label"])


def test_what_is_set_aside_of_a_folder_is_named(tmp_path):
    for label, name, text in (("pos", "1", "lovely"), ("pos", "2", "lovely"), ("neg", "1", ""), ("neg", "2", "bad")):
        (tmp_path / "data" / label).mkdir(parents=True, exist_ok=True)
        written(tmp_path / "data" / label / f"{name}.txt", text)
    found = read_labelled(tmp_path / "data")
    assert [one.source for one in found.refused] == ["neg/1.txt", "pos/2.txt"]
    write_refused(tmp_path / "out", found.refused)
    kept = (tmp_path / "out" / "bimo" / "refused.jsonl").read_text().splitlines()
    assert [json.loads(line)["file"] for line in kept] == ["neg/1.txt", "pos/2.txt"]
