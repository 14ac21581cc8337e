"""The model card: what it says, what it keeps to itself, and that its code runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from run_facts import PLAN, TOKENS, TRAINING, card_of, report_of, write_facts

from bimo.config import write_toml
from bimo.runtime import set_language


@pytest.fixture(autouse=True)
def _english():
    set_language("en")
    yield
    set_language(None)


def test_card_front_matter_and_code(tmp_path):
    yaml = pytest.importorskip("yaml")
    card = card_of(write_facts(tmp_path / "my notes"))
    front = yaml.safe_load(card.split("---\n")[1])
    assert front == {
        "language": ["zh", "en"],
        "tags": ["bimo", "text-generation"],
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
    }
    assert "bimo generate 'my notes' '会议决定'" in card
    python = card.split("```python\n")[1].split("```")[0]
    compile(python, "card", "exec")
    assert 'from_pretrained("my notes")' in python
    for figure in ("12.4 million", "1.762", "1.741–1.785", "2.148", "0.4 %", "9,321", "Xeon 8370C", "20240607"):
        assert figure in card
    assert "旧稿" not in card


def test_card_of_a_type_of_our_own_does_not_promise_transformers(tmp_path):
    yaml = pytest.importorskip("yaml")
    folder = write_facts(tmp_path / "notes")
    (folder / "config.json").write_text('{"model_type": "bimo_lstm"}', encoding="utf-8")
    card = card_of(folder)
    assert yaml.safe_load(card.split("---\n")[1])["library_name"] == "bimo"
    assert "transformers" not in card
    python = card.split("```python\n")[1].split("```")[0]
    compile(python, "card", "exec")
    assert 'bimo.load("notes")' in python


def write_run(folder: Path, *, train: dict[str, Any] | None = None, **changed: Any) -> Path:
    """A model folder whose training had other settings than the plan."""
    write_facts(folder, **changed)
    model = {"family": "decoder", **PLAN["model"], "layers": 2, "context": 96}
    write_toml(
        folder / "bimo" / "run.toml", {"model": model, "train": {"steps": 5, "dtype": "float32", **(train or {})}}
    )
    return folder


@pytest.mark.parametrize("plan", [PLAN, None], ids=["planned", "not planned"])
def test_sizes_and_settings_are_those_of_the_model_not_of_the_plan(tmp_path, plan):
    done = TRAINING | {"parameters": 7_654_321, "tokens": 4 * TOKENS["train"]["tokens"]}
    folder = write_run(tmp_path / "model", plan=plan, training=done)
    card, report = card_of(folder), report_of(folder)
    for said in ("7.65 million parameters", "| Layers | 2 |", "| Passes over the text | 4.00 |", "most 96 tokens"):
        assert said in card
    for said in ("7.65 million", "float32", "<td>96</td>"):
        assert said in report
    for planned in ("12.4 million", "12,400,000", "0.51", "learning_rate"):
        assert planned not in card + report


def test_a_model_that_goes_on_names_its_start(tmp_path):
    card = card_of(write_run(tmp_path / "model", train={"start": "/home/someone/models/SmolLM2"}))
    assert "further trained with Bimo from SmolLM2" in card
    assert "licence of SmolLM2" in card
    assert "from scratch" not in card
    assert "not taught" not in card
    assert "someone" not in card


def translator_card(folder: Path, **tokens: Any) -> str:
    columns = {"source": "classic", "target": "modern", "languages": ["zh", "zh"]}
    write_facts(folder, tokens={"columns": columns, "languages": [], **tokens}, documents=None)
    (folder / "config.json").write_text(json.dumps({"model_type": "marian"}))
    return card_of(folder)


def test_the_card_of_a_translator_names_where_it_goes(tmp_path):
    several = translator_card(tmp_path / "several", languages=["zh", "en", "loud one"])
    assert "translates into Chinese and English and loud one," in several
    assert "bimo translate several --to zh < lines.txt" in several
    assert 'tokenizer([">>zh<<..."]' in several
    assert several.split("---")[1].count('- "') == 2
    alike = translator_card(tmp_path / "alike")
    assert "(classic → modern)" in alike
    assert "bimo translate alike < lines.txt" in alike
    assert 'tokenizer(["..."]' in alike
    columns = {"source": "a", "target": "b", "languages": ["zh", "en"]}
    assert "(Chinese → English)" in translator_card(tmp_path / "one", columns=columns)


def test_the_card_of_an_encoder_holds_no_text_of_the_corpus(tmp_path):
    blank = {"before": "会议", "word": "决定", "after": "提交。", "guesses": [["通知", 0.5]]}
    folder = write_facts(tmp_path / "model", evaluation={"masked_accuracy": 0.4, "blanks": [blank]})
    (folder / "config.json").write_text(json.dumps({"model_type": "bert"}))
    assert "会议[决定]提交。" in report_of(folder)
    assert "决定" not in card_of(folder)
