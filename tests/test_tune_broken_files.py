"""`bimo tune` on broken files: a sentence and an exit code; what can be used is, the rest is kept, nothing is lost."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from random_models import randomised
from typer.testing import CliRunner, Result

from bimo.cli import app
from bimo.files import digest_file
from bimo.models.encoder import Encoder, EncoderConfig
from bimo.runtime import DATA_REFUSED
from bimo.tokens.masking import with_mask_token
from bimo.weights.huggingface import save_encoder, save_model

pytestmark = pytest.mark.usefixtures("one_number_format")

Row = dict[str, Any]

ROWS: dict[str, list[Row]] = {
    "chat": [{"instruction": f"say {i}", "output": f"it is {i}"} for i in range(20)],
    "prefer": [{"prompt": f"say {i}", "chosen": f"it is {i}", "rejected": "no"} for i in range(20)],
    "classify": [{"text": f"a {['bad', 'good'][i % 2]} thing, {i}", "label": "np"[i % 2]} for i in range(40)],
    "answer": [
        {"context": f"Number {i} is at house {i}.", "question": f"Where is {i}?", "answers": [f"house {i}"]}
        for i in range(20)
    ],
    "embed": [{"first": f"the cat {i}", "second": f"{i} cats"} for i in range(80)],
}
"""Good rows of each task; the first key holds a text, the last what is to be learned."""

HUGE = "words of a line without an end " * (40_000_000 // 31)


@pytest.fixture(scope="module")
def models(tmp_path_factory, make_model, tiny_tokenizer) -> Path:
    """A folder with a small `decoder` and a small `encoder`."""
    folder = tmp_path_factory.mktemp("models")
    save_model(folder / "decoder", make_model(vocabulary=tiny_tokenizer.vocabulary), end=tiny_tokenizer.end)
    tiny_tokenizer.save(folder / "decoder")
    tokenizer = with_mask_token(tiny_tokenizer)
    shape = EncoderConfig(vocabulary=tokenizer.vocabulary, layers=1, width=24, heads=3, hidden=40, context=32)
    save_encoder(folder / "encoder", randomised(Encoder(shape)), pad=tokenizer.special_id("pad_token"))
    tokenizer.save(folder / "encoder")
    return folder


def lines(rows: list[Row]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def tune(models: Path, task: str, content: str) -> tuple[Result, Path]:
    """What the command says of a file, which it leaves as it is, and the folder that it was to make."""
    folder = models / f"{task} {len(list(models.iterdir()))}"
    folder.mkdir()
    file, out = folder / "rows.jsonl", folder / "out"
    file.write_text(content, encoding="utf-8")
    model = {"classify": [], "answer": ["encoder"], "embed": ["encoder"]}.get(task, ["decoder"])
    before = digest_file(file)
    given = ["tune", *(str(models / name) for name in model), str(file), "--task", task, "--out", str(out)]
    once = [] if task == "classify" else ["--epochs", "1"]
    result = CliRunner().invoke(app, [*given, *once, "--device", "cpu"])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert "Traceback" not in result.output
    assert digest_file(file) == before
    return result, out


def rows_with(task: str, change: dict[str, Any], *, every: int = 1) -> list[Row]:
    return [{**row, **change} if number % every == 0 else row for number, row in enumerate(ROWS[task])]


def emptied(task: str) -> dict[str, Any]:
    """What a good row holds, with nothing in it."""
    return {key: type(value)() for key, value in ROWS[task][0].items()}


@pytest.mark.parametrize("task", ROWS)
@pytest.mark.parametrize("broken", ["no rows", "no JSON", "empty rows", "one row"])
def test_a_file_without_two_usable_rows_is_refused(models, task, broken):
    contents = {
        "no rows": "",
        "no JSON": 'text,label\n"a"\n' * 3,
        "empty rows": lines(rows_with(task, emptied(task))),
        "one row": lines(ROWS[task][:1]),
    }
    result, out = tune(models, task, contents[broken])
    assert result.exit_code == DATA_REFUSED
    assert "rows.jsonl" in result.output
    assert not (out / "model.safetensors").exists()


@pytest.mark.parametrize("task", [task for task in ROWS if task != "embed"])  # texts alone can be embedded
def test_without_the_column_that_is_to_be_learned_none_is_guessed(models, task):
    wanted = list(ROWS[task][0])[-1]
    result, out = tune(models, task, lines([{key: row[key] for key in row if key != wanted} for row in ROWS[task]]))
    assert result.exit_code == DATA_REFUSED
    assert "rows.jsonl" in result.output
    assert not (out / "model.safetensors").exists()


def test_texts_without_partners_are_said_to_be_that(models):
    result, out = tune(models, "embed", lines([{"first": row["first"]} for row in ROWS["embed"]]))
    assert result.exit_code == 0
    assert "80 texts without partners" in result.output
    assert (out / "model.safetensors").exists()


@pytest.mark.parametrize(
    ("task", "change", "sentence"),
    [
        ("classify", {"label": "p"}, "nothing to tell apart"),
        ("embed", {"score": 1}, "have the score 1"),
        ("answer", {"answers": ["nowhere"]}, "does not stand in its text"),
    ],
)
def test_rows_from_which_nothing_can_be_learned_are_refused(models, task, change, sentence):
    result, out = tune(models, task, lines(rows_with(task, change)))
    assert result.exit_code == DATA_REFUSED
    assert sentence in result.output
    assert not (out / "model.safetensors").exists()


@pytest.mark.parametrize("task", ROWS)
def test_the_good_rows_are_learned_from_and_the_others_kept(models, task):
    """A fourth of the rows is empty, and one is a line of 40 MB."""
    rows = [*rows_with(task, emptied(task), every=4), {**ROWS[task][1], next(iter(ROWS[task][1])): HUGE}]
    result, out = tune(models, task, lines(rows))
    assert result.exit_code == 0, result.output
    assert (out / "model.safetensors").exists()
    kept = [json.loads(line) for line in (out / "bimo" / "refused.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(kept) == len(ROWS[task]) // 4 + 1
    assert any("16,777,216 characters" in json.dumps(one) for one in kept)


def test_labels_that_have_one_text_each_cannot_be_tested(models):
    rows = [{**row, "label": f"label {number}"} for number, row in enumerate(ROWS["classify"])]
    result, out = tune(models, "classify", lines(rows))
    assert result.exit_code == DATA_REFUSED
    assert "a label needs two" in result.output
    assert not (out / "model.safetensors").exists()


def test_answers_in_the_wrong_place_are_put_right_and_counted(models):
    change = {"answers": {"text": ["house"], "answer_start": [3]}}
    result, out = tune(models, "answer", lines(rows_with("answer", change, every=4)))
    assert result.exit_code == 0, result.output
    assert "of the answers 5 had a wrong place, which is repaired" in result.output
    assert (out / "model.safetensors").exists()


def test_labels_that_were_not_in_training_count_as_mistakes_and_are_named(models):
    _, out = tune(models, "classify", lines(ROWS["classify"]))
    file = models / "unseen.jsonl"
    file.write_text(lines([*ROWS["classify"], {"text": "a strange thing", "label": "strange"}]), encoding="utf-8")
    result = CliRunner().invoke(app, ["evaluate", str(out), str(file)])
    assert result.exit_code == 0, result.output
    assert "1 labels were not in training, and what has them counts as mistakes: strange" in result.output
