"""Questions with answers to choose from: each form is read as it is meant, and counted as the harness does."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from bimo.console import Console
from bimo.evaluate.choices import FORMS, Question, form_in, read_questions
from bimo.evaluate.suite import evaluate, evaluation_lines
from bimo.generate.engine import load
from bimo.runtime import UserError
from bimo.weights.huggingface import save_model

PAIRS = [
    {"sentence_good": f"The {who} {one} here.", "sentence_bad": f"The {who} {other} here."}
    for who in ("dog", "cat", "old ship", "moon")
    for one, other in (("is", "are"), ("stands", "stand"), ("was not", "were not"))
]
CAUSES = [
    {"premise": "我打开水龙头。", "choice1": "水流了出来。", "choice2": "门关上了。", "question": "effect", "label": 0},
    {"premise": "The man fell.", "choice1": "He sang.", "choice2": "It was icy.", "question": "cause", "label": 1},
]
CHOICES = [
    {"question": "1 + 1 =", "choices": ["2", "3", "4"], "answer": "A"},
    {"question": "2 + 2 =", "choices": ["3", "4"], "answer": 1},
    {"question": "3 + 3 =", "choices": ["five", "six"], "answer": "six"},
    {"question": "Which can be given to all?", "choices": ["A", "B", "AB", "O"], "answer": "O"},
    {"question": "Which can be given to none but its own?", "choices": ["O", "A", "B", "AB"], "answer": "AB "},
    {"question": "Which comes first?", "choices": ["B", "A"], "answer": "A"},
]


@pytest.fixture(scope="module")
def model(tmp_path_factory, make_model, tiny_tokenizer):
    folder = tmp_path_factory.mktemp("choices") / "model"
    save_model(folder, make_model(vocabulary=tiny_tokenizer.vocabulary, context=64), end=tiny_tokenizer.end)
    tiny_tokenizer.save(folder)
    return folder


def write_rows(path, rows):
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def test_forms_are_told_by_their_columns(tmp_path):
    expected = {"minimal pairs": PAIRS, "causal choice": CAUSES, "multiple choice": CHOICES}
    for name, rows in expected.items():
        assert form_in(write_rows(tmp_path / "rows.jsonl", rows)).name == name
    assert form_in(write_rows(tmp_path / "rows.jsonl", [{"text": "a"}])) is None
    assert form_in(tmp_path) is None
    (tmp_path / "rows.csv").write_text("sentence_good,sentence_bad\n狗来了。,狗来。\n猫走了。,猫。\n", encoding="utf-8")
    assert form_in(tmp_path / "rows.csv").name == "minimal pairs"
    assert form_in(write_rows(tmp_path / "rows.jsonl", [{"sentence_good": "a"}, *PAIRS])).name == "minimal pairs"


def test_rows_become_questions(tmp_path):
    pairs, causes, choices = (
        read_questions(write_rows(tmp_path / "rows.jsonl", rows), form)
        for rows, form in zip((PAIRS[:1], CAUSES, CHOICES), FORMS, strict=True)
    )
    assert pairs == [Question("", (" The dog is here.", " The dog are here."), 0)]
    assert causes[0] == Question("我打开水龙头 所以", (" 水流了出来。", " 门关上了。"), 0)
    assert causes[1] == Question("The man fell 因为", (" he sang.", " it was icy."), 1)
    assert [question.right for question in choices] == [0, 1, 1, 3, 3, 1]


def test_rows_that_are_none_are_told(tmp_path, model):
    file = write_rows(tmp_path / "rows.jsonl", [*CHOICES, {"question": "?", "choices": ["1"], "answer": 7}])
    assert evaluate(model, file)["questions"] == len(CHOICES)
    wrong = write_rows(tmp_path / "wrong.jsonl", [{"question": "?", "choices": "ab", "answer": "z"}])
    with pytest.raises(UserError, match="holds no question of the form “multiple choice”"):
        evaluate(model, wrong)
    choices = {"question": "?", "choices": ["3", "4", "5"]}
    bad = [{**choices, "answer": answer} for answer in ("", "AB", -1, 3, "D")]
    bad += [{**choices, "answer": 0, "choices": {"text": ["3", "4"], "label": ["A", "B"]}}]
    with pytest.raises(UserError, match="holds no question"):
        evaluate(model, write_rows(tmp_path / "bad.jsonl", bad))


@pytest.mark.parametrize(
    ("rows", "broken"),
    [
        (PAIRS, {"sentence_good": None}),
        (PAIRS, {"sentence_bad": ["The dog are here."]}),
        (CAUSES, {"question": None}),
        (CAUSES, {"choice1": None}),
        (CHOICES, {"question": None}),
        (CHOICES, {"question": 7}),
        (CHOICES, {"choices": ["3", None]}),
        (CHOICES, {"answer": float("inf")}),
    ],
)
def test_what_should_be_text_and_is_none_makes_no_question(tmp_path, model, rows, broken):
    warned = []
    console = SimpleNamespace(warn=warned.append)
    file = write_rows(tmp_path / "rows.jsonl", [*rows, {**rows[0], **broken}])
    assert len(read_questions(file, form_in(file), console=console)) == len(rows)
    assert "is no question of the form" in warned[0]
    assert evaluate(model, file)["questions"] == len(rows)


def test_the_likeliest_answer_is_the_one_that_counts(tmp_path, model):
    """The slow twin asks for one likelihood at a time."""
    language_model = load(model)
    facts = evaluate(model, write_rows(tmp_path / "rows.jsonl", PAIRS))
    right = by_length = 0
    for row in PAIRS:
        good, bad = (language_model.loglikelihood("", f" {row[name]}") for name in ("sentence_good", "sentence_bad"))
        right += good > bad
        by_length += good / len(row["sentence_good"]) > bad / len(row["sentence_bad"])
    assert facts["accuracy"] == pytest.approx(right / len(PAIRS))
    assert facts["accuracy_by_length"] == pytest.approx(by_length / len(PAIRS))
    assert facts["chance"] == 0.5
    assert f"12 questions: {right / 12:.1%} right" in evaluation_lines(facts)[0]


def test_a_model_without_preferences_is_right_by_chance(tmp_path, make_model, tiny_tokenizer):
    """All its likelihoods of so many tokens are the same, so that no place among the answers may be the better one."""
    blank = make_model(vocabulary=tiny_tokenizer.vocabulary, context=64)
    blank.head.weight.data.zero_()
    save_model(tmp_path / "blank", blank, end=tiny_tokenizer.end)
    tiny_tokenizer.save(tmp_path / "blank")
    pairs = [{"sentence_good": f"{one} {other}", "sentence_bad": f"{other} {one}"} for one, other in ("ab", "cd")]
    assert evaluate(tmp_path / "blank", write_rows(tmp_path / "rows.jsonl", pairs))["accuracy"] == 0.5
    orders = ["a b c", "b c a", "c a b", "c b a"]
    choices = [{"question": "?", "choices": orders, "answer": answer} for answer in range(4)]
    facts = evaluate(tmp_path / "blank", write_rows(tmp_path / "rows.jsonl", choices))
    assert (facts["accuracy"], facts["accuracy_by_length"]) == (facts["chance"], facts["chance"])


def test_a_model_that_computes_no_numbers_is_no_figure(tmp_path, make_model, tiny_tokenizer):
    broken = make_model(vocabulary=tiny_tokenizer.vocabulary, context=64)
    for weight in broken.parameters():
        if weight.ndim == 1:  # the gains of the norms: finite, and too large
            weight.data.fill_(3e38)
    save_model(tmp_path / "broken", broken, end=tiny_tokenizer.end)
    tiny_tokenizer.save(tmp_path / "broken")
    with pytest.raises(UserError, match="What this model computes is no number"):
        evaluate(tmp_path / "broken", write_rows(tmp_path / "rows.jsonl", PAIRS))


def test_two_models_are_compared_on_the_same_questions(tmp_path, model, make_model, tiny_tokenizer):
    other = tmp_path / "other"
    save_model(other, make_model(vocabulary=tiny_tokenizer.vocabulary, context=64, seed=5), end=tiny_tokenizer.end)
    tiny_tokenizer.save(other)
    file = write_rows(tmp_path / "rows.jsonl", PAIRS)
    facts, theirs = evaluate(model, file, against=other), evaluate(other, file)
    assert facts["against"]["accuracy"] == theirs["accuracy"]
    assert facts["against"]["model"] == str(other)
    low, high = facts["against"]["difference_interval"]
    assert low <= facts["accuracy"] - theirs["accuracy"] <= high
    assert f"{theirs['accuracy']:.1%}" in evaluation_lines(facts)[1]
    assert evaluate(model, file, against=model)["against"]["p"] == 1.0


def test_many_likelihoods_are_those_of_each(model):
    language_model = load(model)
    pairs = [("the cat", " sat"), ("", "一只猫"), ("a " * 100, "b"), ("x", "the dog " * 60)]
    found = language_model.loglikelihoods(pairs)
    for (context, continuation), one in zip(pairs, found, strict=True):
        assert one.logarithm == pytest.approx(language_model.loglikelihood(context, continuation), abs=1e-4)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of the harness and what it imports
def test_the_harness_finds_the_same_figures(tmp_path, model, monkeypatch):
    """A task of the same form, run by lm-evaluation-harness itself through our adapter."""
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    lm_eval = pytest.importorskip("lm_eval", reason="lm-eval is not installed: pip install 'bimo[eval]'")
    from lm_eval.tasks import TaskManager

    from bimo.evaluate.harness import HarnessModel

    file = write_rows(tmp_path / "rows.jsonl", PAIRS)
    task = {
        "task": "pairs",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"validation": str(file)}},
        "output_type": "multiple_choice",
        "validation_split": "validation",
        "doc_to_text": "",
        "doc_to_target": 0,
        "doc_to_choice": "{{[sentence_good, sentence_bad]}}",
        "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
    }
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "pairs.yaml").write_text(json.dumps(task))
    manager = TaskManager(include_path=str(tmp_path / "tasks"), include_defaults=False)
    found = lm_eval.simple_evaluate(HarnessModel(model), tasks=["pairs"], task_manager=manager, bootstrap_iters=0)
    facts = evaluate(model, file)
    assert found["results"]["pairs"]["acc,none"] == pytest.approx(facts["accuracy"])
    assert found["results"]["pairs"]["acc_norm,none"] == pytest.approx(facts["accuracy_by_length"])


@pytest.mark.filterwarnings("ignore")  # of the harness and what it imports
def test_the_adapter_says_what_transformers_would(model):
    """Three methods: a continuation, a whole text, what is written; beside the harness' own way with transformers."""
    pytest.importorskip("lm_eval", reason="lm-eval is not installed: pip install 'bimo[eval]'")
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    from bimo.evaluate.harness import HarnessModel

    def ask(kind, *arguments):
        return [Instance(request_type=kind, doc={}, arguments=one, idx=number) for number, one in enumerate(arguments)]

    ours = HarnessModel(model)
    theirs, without_begin = (
        HFLM(str(model), device="cpu", dtype="float32", batch_size=1, add_bos_token=begin) for begin in (True, False)
    )
    continuations = ask("loglikelihood", ("the cat", " sat on it"), ("", "一只猫"), ("the cat " * 50, " sat"))
    for mine, other in zip(ours.loglikelihood(continuations), theirs.loglikelihood(continuations), strict=True):
        assert mine[0] == pytest.approx(other[0], abs=1e-3)
        assert mine[1] == other[1]
    whole = ask("loglikelihood_rolling", ("the cat sat",), ("the cat sat on a mat. " * 40,))
    # With add_bos_token their rolling method begins a text twice.
    expected = without_begin.loglikelihood_rolling(whole)
    for mine, other in zip(ours.loglikelihood_rolling(whole), expected, strict=True):
        assert mine == pytest.approx(other, rel=1e-4)
    written = ask("generate_until", ("the cat", {"until": ["zzzz"], "max_gen_toks": 12}))
    assert ours.generate_until(written) == theirs.generate_until(written)


def test_questions_that_are_longer_than_the_model_reads_are_told(model, tmp_path):
    said = []
    console = Console(quiet=True)
    console.warn = said.append
    rows = [*CHOICES, {"question": "one and one and " * 50, "choices": ["2", "3"], "answer": 0}]
    facts = evaluate(model, write_rows(tmp_path / "rows.jsonl", rows), console=console)
    assert facts["cut"] == 1
    assert said == ["1 of 7 questions are longer than the model reads: their beginning is left out"]
