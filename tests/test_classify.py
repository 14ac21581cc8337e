"""Classifiers: the compiled core as its twins, figures as scikit-learn has them, files in and out."""

from __future__ import annotations

import csv
import io
import json
import math
import shutil
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from typer.testing import CliRunner

from bimo.cli import app
from bimo.cli.app import piped_lines
from bimo.console import Console
from bimo.evaluate import classified as classified_file
from bimo.evaluate.classified import MEASURES, _difference_of, classified_lines
from bimo.evaluate.suite import evaluate
from bimo.kernel import load_library
from bimo.report.charts import matrix_chart
from bimo.report.page import render
from bimo.runtime import DATA_REFUSED, USAGE, UserError
from bimo.tasks.classify import grams as grams_file
from bimo.tasks.classify import linear as linear_file
from bimo.tasks.classify.classifier import classify, explain, open_classifier, verdicts
from bimo.tasks.classify.grams import characters_of, grams, grams_reference
from bimo.tasks.classify.linear import PAIR_MARK, LinearClassifier, joined, load_linear
from bimo.tasks.classify.linear_training import train_linear
from bimo.tasks.classify.measures import (
    accuracies,
    calibration_error,
    chances,
    chosen_labels,
    confusion,
    f1_scores,
    fitted_temperature,
    macro_f1s,
    measure,
    truth_matrix,
)
from bimo.tasks.classify.report import weakest_labels
from bimo.tasks.classify.tables import classify_table
from bimo.tasks.tune import tune
from bimo.text.labelled import Labelled

TEXTS = [
    "Hello, World! it's 5€ good-bye",
    "我喜欢这本书，very 好看！！",
    "",
    "a",
    "日",
    "naïve Ünïcode 😀😀 テスト 한국어 \U00020000字 İstanbul",
    "marks \x1e and \x1f inside",
]
GOOD, BAD = ("lovely", "great fun", "喜欢", "非常好看", "a pleasure"), ("awful", "a bore", "讨厌", "太差了", "a waste")

needs_core = pytest.mark.skipif(load_library() is None, reason="the compiled core is not built")


@pytest.fixture(scope="module")
def rows():
    """(text, label) of 160 reviews that words alone tell apart."""
    return [
        (f"{words[i % 5]} {noun} {i}", label)
        for label, words in (("good", GOOD), ("bad", BAD))
        for i, noun in enumerate(["film", "书", "room", "meal"] * 20)
    ]


@pytest.fixture(scope="module")
def model(rows, tmp_path_factory):
    """The folder of a linear classifier."""
    folder = tmp_path_factory.mktemp("classify")
    lines = "".join(json.dumps({"text": text, "label": label}) + "\n" for text, label in rows)
    (folder / "rows.jsonl").write_text(lines, encoding="utf-8")
    tune(None, folder / "rows.jsonl", out=folder / "model", task="classify")
    return folder / "model"


@needs_core
def test_the_core_meets_the_same_grams_in_the_same_order():
    characters = characters_of(TEXTS)
    expected = [[gram for gram, _, _ in text] for text in grams_reference(characters)]
    assert [text.tolist() for text in grams(characters)] == expected


def test_grams_are_those_that_the_description_names():
    [found] = grams_reference(characters_of(["Ab 好书!"]))
    spans = sorted((begin, end) for _, begin, end in found)
    # Words: ab, 好书 (or 好, 书), !, and pairs; parts of " ab ": 3 of two, 2 of three, 1 of four; of 好书: 2 + 1.
    assert (0, 2) in spans
    assert (3, 4) in spans
    assert (0, 5) in spans
    assert (5, 6) in spans
    assert sum(gram % 2 == 0 for gram, _, _ in found) == 6 + 3


def test_letters_are_small_and_words_are_cut(monkeypatch):
    assert characters_of(["ABC"]).codes.tolist() == [*b"abc\x1e"]
    codes, cuts, ends = characters_of(["我喜欢书", "x"])
    assert ends.tolist() == [5, 7]
    assert len(codes) == len(cuts)
    starts = [place for place, cut in enumerate(cuts) if cut]
    assert 0 in starts
    assert 3 in starts


@needs_core
def test_scores_of_the_core_agree_with_the_slow_twin(model):
    classifier = load_linear(model)
    np.testing.assert_allclose(
        classifier.scores(TEXTS), classifier.scores_reference(characters_of(TEXTS)), rtol=1e-5, atol=1e-5
    )


@needs_core
def test_crowded_hash_tables_find_everything():
    features = np.sort(np.arange(1, 4000, dtype=np.uint64) << np.uint64(20))  # low bits all alike
    ones = np.ones(len(features), dtype=np.float32)
    crowded = LinearClassifier(("a", "b"), False, features, ones, np.ones((len(features), 2), np.float32), ones[:2])
    hashes, rows = crowded._in_core[1][:2]
    assert sorted(rows[rows >= 0].tolist()) == list(range(len(features)))
    assert (hashes[rows >= 0] == features[rows[rows >= 0]]).all()


def test_without_the_core_the_answers_are_the_same(model, monkeypatch):
    expected = load_linear(model).chances(["lovely film", "太差了"])
    monkeypatch.setattr(grams_file, "load_library", lambda: None)
    monkeypatch.setattr(linear_file, "load_library", lambda: None)
    np.testing.assert_allclose(load_linear(model).chances(["lovely film", "太差了"]), expected, atol=1e-5)


def test_figures_are_those_of_scikit_learn():
    metrics = pytest.importorskip("sklearn.metrics")
    random = np.random.default_rng(0)
    names = ["a", "b", "c"]
    found = random.dirichlet((1, 1, 1), size=60)
    truth = np.eye(3, dtype=bool)[random.integers(3, size=60)]
    chosen = chosen_labels(found, several=False)
    theirs = metrics.precision_recall_fscore_support(truth.argmax(1), chosen.argmax(1), zero_division=0)
    np.testing.assert_allclose(f1_scores(chosen, truth), np.stack(theirs[:3]))
    (accuracy,), (macro,) = accuracies(chosen, truth), macro_f1s(chosen, truth)
    assert accuracy == pytest.approx(metrics.accuracy_score(truth.argmax(1), chosen.argmax(1)))
    assert macro == pytest.approx(metrics.f1_score(truth.argmax(1), chosen.argmax(1), average="macro"), abs=1e-6)
    assert (confusion(chosen, truth) == metrics.confusion_matrix(truth.argmax(1), chosen.argmax(1))).all()
    facts = measure(found, truth, names, several=False)
    assert facts["log_loss"] == pytest.approx(metrics.log_loss(truth.argmax(1), found))
    low, high = facts["macro_f1_interval"]
    assert low < facts["macro_f1"] < high
    many = random.random((60, 3)) > 0.5
    (macro,) = macro_f1s(chosen_labels(found, several=True), many)
    assert macro == pytest.approx(metrics.f1_score(many, found > 0.5, average="macro", zero_division=0), abs=1e-6)


def test_calibration_error_of_known_cases():
    found = np.array([[0.8, 0.2]] * 10)
    truth = np.eye(2, dtype=bool)[[0] * 8 + [1] * 2]
    assert calibration_error(found, truth, several=False) == pytest.approx(0)
    assert calibration_error(found, ~truth, several=False) == pytest.approx(0.6)


def test_the_temperature_makes_it_as_sure_as_it_is_right():
    truth = np.eye(2, dtype=bool)[[0] * 80 + [1] * 20]
    scores = np.array([[10.0, 0.0]] * 100)
    factor = fitted_temperature(scores, truth, several=False)
    assert chances(factor * scores, several=False)[0, 0] == pytest.approx(0.8, abs=0.02)
    # Ten that are right are no proof that it always is.
    few = fitted_temperature(scores[:10], truth[:10], several=False)
    assert chances(few * scores, several=False)[0, 0] < 0.99


def test_labels_that_were_not_in_training_have_no_column():
    assert truth_matrix([("a",), ("z",), ("a", "b")], ["a", "b"]).tolist() == [[True, False], [False] * 2, [True] * 2]


def test_a_linear_classifier_learns_and_is_stored_whole(model, rows):
    facts = json.loads((model / "bimo" / "tune.json").read_text())
    assert facts["engine"] == "linear"
    assert facts["held_out"]["macro_f1"] > 0.95
    assert facts["baselines"]["majority"]["accuracy"] == pytest.approx(0.5)
    assert sorted(path.name for path in model.iterdir()) == ["bimo", "config.json", "model.safetensors"]
    assert ("Surest mistakes" in (model / "bimo" / "report.html").read_text()) == bool(facts["mistakes"])
    again = tune(None, model.parent / "rows.jsonl", out=model, task="classify")
    assert again == facts
    texts = ["a lovely meal", "讨厌的书"]
    assert [verdict.labels for verdict in classify(model, texts)] == [("good",), ("bad",)]
    with pytest.raises(UserError, match="Choose another folder"):
        tune(None, model.parent / "rows.jsonl", out=model, task="classify", columns={"label": "label"})


def test_the_words_that_decided(model):
    words = explain(open_classifier(model), "The lovely room, 讨厌")
    by_word = {one.word: one.weight for one in words}
    assert [one.word for one in words] == ["The", "lovely", "room", ",", "讨厌"]
    sign = 1 if classify(model, ["The lovely room, 讨厌"])[0].labels == ("good",) else -1
    assert sign * by_word["lovely"] > 0 > sign * by_word["讨厌"]


def test_attributions_sum_to_the_score(model):
    classifier = load_linear(model)
    text = "lovely lovely room, great fun"
    scores = classifier.scores_reference(characters_of([text]))[0]
    total = sum(weight for _, _, weight in classifier.decisive(text, 0))
    biases = classifier.biases
    assert total == pytest.approx((scores - biases)[0] - (scores - biases).mean(), abs=1e-4)


def test_unsure_is_no_label(model):
    classifier = open_classifier(model)
    [sure, unsure] = verdicts(classifier, [("lovely", ""), ("zzz", "")], abstain=0.9)
    assert sure.labels == ("good",)
    assert unsure.labels == ()
    assert sum(unsure.chances.values()) == pytest.approx(1)


def test_several_labels_and_none(tmp_path):
    rows = [
        {"text": f"{word} {i}", "label": labels}
        for i in range(40)
        for word, labels in (("red", ["colour"]), ("big", ["size"]), ("big red", ["colour", "size"]), ("hm", []))
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    facts = tune(None, tmp_path / "rows.jsonl", out=tmp_path / "model", task="classify")
    assert facts["several"]
    assert "confusion" not in facts["held_out"]
    found = classify(tmp_path / "model", ["big red", "hm", "red"])
    assert [set(verdict.labels) for verdict in found] == [{"colour", "size"}, set(), {"colour"}]


def test_combinations_that_are_all_different_are_learned(tmp_path):
    rows = [{"text": f"text {i}", "labels": labels} for i, labels in enumerate((["a"], ["b"], ["a", "b"], ["c"]))]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert tune(None, tmp_path / "rows.jsonl", out=tmp_path / "model", task="classify")["several"]


def test_rare_labels_are_found(tmp_path):
    """Nineteen of twenty are of one label: whoever always says so has a macro-F1 below 0.5."""
    rows = "".join(f"say {i} again and again,usual\n" for i in range(285)) + "".join(
        f"odd {i} thing,rare\n" for i in range(15)
    )
    (tmp_path / "rows.csv").write_text("text,label\n" + rows)
    facts = tune(None, tmp_path / "rows.csv", out=tmp_path / "model", task="classify")
    assert facts["held_out"]["labels"]["rare"]["recall"] > 0.9


@pytest.mark.parametrize(("name", "delimiter"), [("in.csv", ","), ("in.tsv", "\t")])
def test_tables_come_out_as_they_went_in(model, tmp_path, name, delimiter):
    path = tmp_path / name
    rows = [["id", "text", "label"], ["1", 'lovely, "great" fun', "x"], ["2", "", "y"], ["3", "太差了", "z"]]
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, delimiter=delimiter).writerows(rows)
    out, said = io.StringIO(), []
    count = classify_table(
        open_classifier(model), path, out, columns={}, abstain=0.0, refuse=pytest.fail, said=said.append
    )
    found = list(csv.reader(io.StringIO(out.getvalue()), delimiter=delimiter))
    assert count == 3
    assert found[0] == ["id", "text", "label", "label_2", "confidence"]
    assert [row[:3] for row in found[1:]] == rows[1:]
    assert [row[3] for row in found[1:]] == ["good", "", "bad"]
    assert found[2][4] == ""
    assert float(found[1][4]) > 0.5
    assert said == ["texts in text"]


def test_json_lines_come_out_as_json_lines(model, tmp_path):
    path = tmp_path / "in.jsonl"
    path.write_text('{"text": "lovely", "n": [1]}\n{"text": "太差了", "n": null}\n')
    out = io.StringIO()
    classify_table(open_classifier(model), path, out, columns={}, abstain=0.0, refuse=pytest.fail, said=lambda _: None)
    found = [json.loads(line) for line in out.getvalue().splitlines()]
    assert [(row["label"], row["n"]) for row in found] == [("good", [1]), ("bad", None)]


def classified(model, path, **columns):
    out = io.StringIO()
    classify_table(
        open_classifier(model), path, out, columns=columns, abstain=0.0, refuse=pytest.fail, said=lambda _: None
    )
    return out.getvalue().splitlines()


def test_quotes_that_people_wrote_between_tabs_stay_as_they_are(model, tmp_path):
    rows = ["text\tn", 'she said "lovely" twice\t1', '"great fun\t2', "太差了\t3"]
    (tmp_path / "in.tsv").write_text("".join(f"{row}\n" for row in rows), encoding="utf-8")
    found = classified(model, tmp_path / "in.tsv")
    assert [line.rsplit("\t", 2)[0] for line in found] == rows
    assert [line.split("\t")[2] for line in found] == ["label", "good", "good", "bad"]
    (tmp_path / "in.csv").write_text("text;n\nlovely;1\n太差了;2\n", encoding="utf-8")
    assert [line.split(";")[:3] for line in classified(model, tmp_path / "in.csv")][1] == ["lovely", "1", "good"]


def test_a_label_that_only_later_rows_have_is_kept(model, tmp_path):
    rows = [{"text": "lovely"}] * 1000 + [{"text": "太差了", "label": "mine", "confidence": 3}]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    *_, first, last = map(json.loads, classified(model, tmp_path / "in.jsonl"))
    assert first["label"] == "good"
    assert (last["label"], last["confidence"], last["label_2"]) == ("mine", 3, "bad")


def test_a_column_of_a_misspelt_kind_is_not_passed_over(model, tmp_path):
    (tmp_path / "in.csv").write_text("text,body\nlovely,太差了\n", encoding="utf-8")
    with pytest.raises(UserError, match="--column knows text, second, label, but not txt"):
        classified(model, tmp_path / "in.csv", txt="body")


def test_only_texts_with_a_second_one_are_joined_whatever_stands_beside_them():
    assert joined(["lovely", "a bore"], ["", "a waste"]) == ["lovely", f"a bore{PAIR_MARK}a waste"]
    assert joined(["lovely"], ()) == ["lovely"]


def test_texts_in_use_have_the_form_of_those_that_were_learned(model, tmp_path):
    clean, raw = "a pleasure, 非常好看, café", "\ufeffa plea\xadsure, 非常\u200b好看, cafe\u0301 "
    one, other = classify(model, [clean, raw])
    assert one.chances == other.chances
    words = [explain(open_classifier(model), text) for text in (clean, raw)]
    assert words[0] == words[1]
    (tmp_path / "in.jsonl").write_text(json.dumps({"text": "\u200b \ufeff"}) + "\n")
    assert json.loads(classified(model, tmp_path / "in.jsonl")[0])["label"] == ""


def test_the_matrix_is_drawn_with_every_count():
    broad, narrow = matrix_chart(["a", "b<c"], [[3, 1], [0, 2]], totals=[4, 2], alternative="4 of 6")
    for drawing in map(render, (broad, narrow)):
        assert drawing.count("<rect") == 4
        assert "a → b&lt;c: 1" in drawing
        assert 'fill-opacity="0.750"' in drawing
        assert 'class="cell wrong"' in drawing
    assert matrix_chart([], [], totals=[], alternative="") == []


def run(*arguments, stdin=None):
    return CliRunner().invoke(app, [*map(str, arguments)], input=stdin)


def test_the_command(model):
    assert run("classify", model, "lovely").stdout.startswith("good")
    assert [line.split("\t")[0] for line in run("classify", model, stdin="lovely\n太差了\n").stdout.splitlines()] == [
        "good",
        "bad",
    ]
    found = json.loads(run("classify", model, "lovely", "--json", "--why").stdout)
    assert found["labels"] == ["good"]
    assert math.isclose(sum(found["chances"].values()), 1, abs_tol=1e-6)
    assert found["why"][0]["word"] == "lovely"
    table = model.parent / "table.csv"
    table.write_text("text,n\nlovely,1\n太差了,2\n" + "x" * 17_000_000 + ",3\n", encoding="utf-8")
    listed = run("classify", model, "--file", table)
    assert [line.split(",")[:3] for line in listed.stdout.splitlines()] == [
        ["text", "n", "label"],
        ["lovely", "1", "good"],
        ["太差了", "2", "bad"],
    ]
    assert "1 rows could not be read" in listed.stderr
    assert run("classify", model, "lovely", "--abstain", "2").exit_code == USAGE
    assert run("classify", model, "--why").exit_code == USAGE
    refused = run("classify", model, "lovely", "--labels", "a,b")
    assert refused.exit_code == USAGE
    assert "has labels of its own" in refused.output


def test_the_weakest_labels_are_those_of_the_texts_and_those_that_were_given():
    found = np.array([[0.9, 0.1, 0.0, 0.0], [0.2, 0.8, 0.0, 0.0], [0.2, 0.0, 0.8, 0.0]])
    figures = measure(found, truth_matrix([["a"], ["b"], ["b"]], "abcd"), "abcd", several=False)
    assert [label for label, _ in weakest_labels(figures)] == ["c", "b", "a"]
    lines = classified_lines({"held_out": figures, "mistakes": [], "model": "m", "kept": False})
    assert [line.split(":")[0] for line in lines[1:4]] == ["c", "b", "a"]
    assert not any(line.startswith("d:") for line in lines)


@pytest.mark.parametrize("name", MEASURES)
def test_texts_on_which_two_classifiers_agree_tell_nothing_apart(name):
    truth = np.eye(2, dtype=bool)[np.arange(400) % 2]
    theirs = truth.copy()
    theirs[:4] = ~truth[:4]
    assert _difference_of(MEASURES[name], truth, theirs, truth)[2] == 0.125
    assert _difference_of(MEASURES[name], truth, truth, truth)[2] == 1.0


def test_evaluation_and_a_pair_of_classifiers(model, rows, tmp_path):
    path = tmp_path / "test.csv"
    path.write_text("text,label\n" + "".join(f"{t},{label}\n" for t, label in rows[::7]) + "odd thing,unheard\n")
    (tmp_path / "few.csv").write_text("text,label\n" + "".join(f"{t},{label}\n" for t, label in rows[:2] + rows[80:82]))
    tune(None, tmp_path / "few.csv", out=tmp_path / "few", task="classify")
    result = run("evaluate", model, path, "--against", tmp_path / "few", "--json")
    assert result.exit_code == 0, result.output
    assert "1 labels were not in training" in result.stderr
    facts = json.loads(result.stdout)
    assert facts["held_out"]["accuracy"] == pytest.approx(23 / 24)
    assert facts["unseen_labels"] == ["unheard"]
    assert facts["held_out"]["labels"]["unheard"]["recall"] == 0
    assert facts["against"]["accuracy"]["ours"] > facts["against"]["accuracy"]["theirs"]
    assert facts["against"]["accuracy"]["p"] < 0.05
    page = (model / "bimo" / "classification.html").read_text()
    assert "<svg" in page
    assert "often it is the file" in page.lower()
    own = run("evaluate", model, model.parent / "rows.jsonl")
    assert "learned from this very file" in own.stderr
    assert run("evaluate", model, path, "--column", "label=nothing").exit_code == DATA_REFUSED
    (tmp_path / "other.csv").write_text("text,label\none thing,p\ntwo things,q\n")
    other = run("evaluate", model, tmp_path / "other.csv")
    assert other.exit_code == DATA_REFUSED
    assert "has none of the labels" in other.stderr


@pytest.mark.parametrize(
    ("content", "options", "code", "sentence"),
    [
        ("text,label\none,a\ntwo,a\nthree,a\nfour,a\n", (), DATA_REFUSED, "All 4 texts of"),
        ("text,label\none,a\ntwo,b\n", (), DATA_REFUSED, "four are needed"),
        ("text,label\none,a\ntwo,b\nthree,a\nfour,b\n", ("--column", "label=intent"), DATA_REFUSED, "has no column"),
        ("text,label\none,a\ntwo,b\nthree,a\nfour,b\n", ("--engine", "forest"), USAGE, "--engine must be one of"),
        ("text,label\none,a\ntwo,b\nthree,a\nfour,b\n", ("--engine", "decoder"), USAGE, "needs no tuning"),
        ("text,label\none,a\ntwo,b\nthree,a\nfour,b\n", ("--lora",), USAGE, "An adapter learns beside a model"),
        ("text,label\none,a\ntwo,b\nthree,a\nfour,b\n", ("--epochs", "3"), USAGE, "the engine linear has no use"),
        ("text,label\n,\n", (), DATA_REFUSED, "holds no"),
    ],
)
def test_what_cannot_be_learned_ends_in_a_sentence(tmp_path, content, options, code, sentence):
    (tmp_path / "a.csv").write_text(content)
    result = run("tune", tmp_path / "a.csv", "--task", "classify", "--out", tmp_path / "model", *options)
    assert result.exit_code == code, result.output
    assert sentence in result.stderr
    assert not (tmp_path / "model" / "config.json").exists()


def test_a_damaged_classifier_is_refused(model, tmp_path):
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(model, copy)
    settings = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**settings, "labels": ["a", "b", "c"]}))
    with pytest.raises(UserError, match="do not fit"):
        load_linear(copy)
    (copy / "config.json").write_text(json.dumps({**settings, "labels": 7}))
    with pytest.raises(UserError, match="is not complete"):
        load_linear(copy)


def test_the_doctor_knows_a_classifier(model):
    result = run("doctor", model)
    assert result.exit_code == 0, result.output
    assert "a classifier, bimo_linear" in result.stdout
    assert "2 labels: bad, good" in result.stdout
    assert "Bimo can: classify, evaluate" in result.stdout


def test_labels_of_strangers_cannot_steer_the_terminal(model, tmp_path):
    copy = shutil.copytree(model, tmp_path / "copy")
    settings = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps({**settings, "labels": ["bad\x1b[2J", "good"]}))
    output = run("doctor", copy).stdout
    assert "\x1b" not in output
    assert "'bad\\x1b[2J', good" in output


def test_what_is_no_classifier_says_what_to_do(tmp_path):
    result = run("classify", tmp_path, "hello")
    assert result.exit_code == USAGE
    assert "has not learned any labels" in result.stderr


@pytest.mark.parametrize(("texts", "held_out"), [(100, 100), (300, 300), (400, 320), (2000, 400)])
def test_choices_are_tried_until_enough_texts_were_held_out(texts, held_out, monkeypatch):
    monkeypatch.setattr("bimo.tasks.classify.linear_training.ENOUGH_HELD_OUT", 300)
    examples = [Labelled(f"{'好坏'[i % 2]}{i:05}", ("good" if i % 2 == 0 else "bad",)) for i in range(texts)]
    trained = train_linear(examples, ["bad", "good"], several=False, seed=0, console=Console(silent=True))
    assert len(trained.places) == held_out == len(np.unique(trained.places))


def test_choices_are_tried_where_few_texts_have_many_rows(monkeypatch):
    """Four first texts go into four of five parts, whole."""
    monkeypatch.setattr("bimo.tasks.classify.linear_training.ENOUGH_HELD_OUT", 30)
    rows = [(text, row) for text in range(4) for row in range(50)]
    examples = [
        Labelled(f"task {text}", ("pass" if row % 2 else "fail",), f"{'好坏'[row % 2]} {text} {row}")
        for text, row in rows
    ]
    trained = train_linear(examples, ["fail", "pass"], several=False, seed=0, console=Console(silent=True))
    assert len(trained.places) == 50
    assert len({examples[place].text for place in trained.places}) == 1


def test_choices_are_tried_on_every_label_that_two_texts_have(monkeypatch):
    monkeypatch.setattr("bimo.tasks.classify.linear_training.ENOUGH_HELD_OUT", 30)
    sizes = {"usual": 250, "few": 4, "two": 2, "one": 1}
    examples = [Labelled(f"{label} {i}", (label,)) for label, size in sizes.items() for i in range(size)]
    trained = train_linear(examples, sorted(sizes), several=False, seed=0, console=Console(silent=True))
    assert {examples[place].labels[0] for place in trained.places} == {"usual", "few", "two"}
    assert len(trained.places) < 60


def test_a_header_that_only_a_named_column_tells_comes_out_whole(model, tmp_path):
    (tmp_path / "in.csv").write_text("gripe,dept\nlovely,p\n太差了,q\n", encoding="utf-8")
    found = list(csv.reader(classified(model, tmp_path / "in.csv", text="gripe")))
    assert [row[:3] for row in found] == [["gripe", "dept", "label"], ["lovely", "p", "good"], ["太差了", "q", "bad"]]


def test_columns_of_one_name_all_come_out(model, tmp_path):
    (tmp_path / "in.csv").write_text("text,note,note,note_2\nlovely,a,b,c\n", encoding="utf-8")
    found = list(csv.reader(classified(model, tmp_path / "in.csv")))
    assert [row[:4] for row in found] == [["text", "note", "note_3", "note_2"], ["lovely", "a", "b", "c"]]


def test_blank_lines_have_no_label(model):
    assert run("classify", model, stdin="lovely\n \n太差了\n").stdout.splitlines()[1] == "\t"
    (verdict,) = classify(model, ["\u200b"])
    assert (verdict.labels, verdict.confidence, set(verdict.chances.values())) == ((), 0.0, {0.0})
    assert run("classify", model, " ").exit_code == USAGE


def test_lines_are_read_whatever_their_encoding(model):
    lines = "lovely\n太差了，真是太差了\n"
    expected = run("classify", model, stdin=lines).stdout
    for encoding in ("gb18030", "utf-8-sig", "utf-16"):
        assert run("classify", model, stdin=lines.encode(encoding)).stdout == expected
    broken = run("classify", model, stdin=b"lovely\n" + "很好\n".encode() * 20 + b"\xff\xfe\n")
    assert broken.exit_code == DATA_REFUSED
    assert "Line 22 of the input holds bytes that are no text." in broken.stderr
    assert run("classify", model, stdin=bytes(range(256)) * 9).exit_code == DATA_REFUSED


def test_lines_are_answered_as_they_come(model, monkeypatch):
    """Whatever the first one tells of the encoding; a return inside a line does not end it."""
    blocks = [b"lovely\n", "太差了，".encode("gb18030"), "真是太差了\nlovely\rlovely\n".encode("gb18030"), b""]
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=SimpleNamespace(read1=lambda size: blocks.pop(0))))
    lines = piped_lines()
    assert (next(lines), len(blocks)) == ("lovely", 3)
    assert [*lines] == ["太差了，真是太差了", "lovely\rlovely"]


def test_what_was_labelled_can_be_measured(tmp_path):
    """The table of a classifier of several labels is one that `bimo evaluate` reads."""
    things = [("red", "colour"), ("big", "size"), ("red big", "colour|size")]
    rows = [f"{words} {n},{labels}" for n in range(20) for words, labels in things]
    (tmp_path / "rows.csv").write_text("\n".join(["text,tags", *rows]))
    tune(None, tmp_path / "rows.csv", out=tmp_path / "model", task="classify")
    (tmp_path / "in.csv").write_text("text\n" + "".join(f"{words} {n}\n" for n in range(50, 60) for words, _ in things))
    lines = classified(tmp_path / "model", tmp_path / "in.csv")
    assert lines[0] == "text,labels,confidence"
    for name in ("labels", "label"):
        (tmp_path / "out.csv").write_text("\n".join([lines[0].replace("labels", name), *lines[1:]]))
        facts = evaluate(tmp_path / "model", tmp_path / "out.csv")
        assert (facts["unseen_labels"], facts["held_out"]["accuracy"]) == ([], 1.0)


def test_figures_are_shown_where_they_cannot_be_kept(model, rows, tmp_path, monkeypatch):
    (tmp_path / "test.csv").write_text("text,label\n" + "".join(f"{t},{label}\n" for t, label in rows[::7]))

    def refuse(path, facts):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(classified_file, "write_json", refuse)
    said = []
    console = Console(quiet=True)
    monkeypatch.setattr(console, "warn", said.append)
    assert evaluate(model, tmp_path / "test.csv", console=console)["held_out"]["accuracy"] == 1.0
    assert "cannot be written: Permission denied" in said[-1]


def test_a_folder_that_others_made_is_not_tuned_over(model, rows, tmp_path):
    """Even where evaluating it has left something in its `bimo/`."""
    shutil.copytree(model, tmp_path / "theirs", ignore=shutil.ignore_patterns("manifest.json", "tune.json"))
    before = (tmp_path / "theirs" / "config.json").read_bytes()
    with pytest.raises(UserError, match="holds something made from another"):
        tune(None, model.parent / "rows.jsonl", out=tmp_path / "theirs", task="classify")
    assert (tmp_path / "theirs" / "config.json").read_bytes() == before
