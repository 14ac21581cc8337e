"""A model that translates learns from more pairs: whole or beside itself, in the directions that it knows."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import stories
import torch

from bimo import machine as machine_file
from bimo import translation
from bimo.evaluate.suite import evaluate
from bimo.export.translators import write_translator
from bimo.files import read_json
from bimo.generate.translator import load
from bimo.machine import Machine
from bimo.models.lora import LoRAConfig
from bimo.runtime import UserError
from bimo.tasks.folder import learned_from
from bimo.tasks.translate.preparing import read_split
from bimo.tasks.tune import tune, tune_lines
from bimo.train.tune import TuneConfig
from bimo.translation import train_translator
from bimo.weights.safetensors_files import weight_digests

ROWS = stories.pairs()
SMALL = ["model.layers=1", "model.decoder_layers=1", "model.width=32", "model.heads=2", "model.hidden=32"]
CHANGES = [*SMALL, "train.minutes=0", "train.steps=24", "train.validations=1", "train.dtype=float32", "train.batch=4"]
SETTINGS = TuneConfig(epochs=4, rate=0.003, validations=1)


@pytest.fixture(scope="module", autouse=True)
def _unmeasured():
    machine = Machine(
        "imaginary",
        cores=2,
        threads=2,
        memory_bytes=8 * 10**9,
        device="cpu",
        matrix_flops={"float32": 1e11, "bfloat16": 1e11},
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(translation, "MEASURE_SECONDS", 0)
        for module in (translation, machine_file):
            patch.setattr(module, "measure_machine", lambda *given, **choices: machine)
        yield


def trained(folder: Path, rows: str, **choices) -> Path:
    (folder / "rows.tsv").write_text(rows, encoding="utf-8")
    train_translator(folder / "rows.tsv", out=folder / "model", minutes=0.01, preset="dust", changes=CHANGES, **choices)
    return folder / "model"


def lines(*columns: str) -> str:
    """The stories in a table with these columns."""
    rows = [dict(zip(("en", "zh"), row, strict=True)) for row in ROWS]
    return "\t".join(columns) + "\n" + "".join("\t".join(row[name] for name in columns) + "\n" for row in rows)


@pytest.fixture(scope="module")
def start(tmp_path_factory) -> Path:
    """From English to Chinese, after a few steps."""
    return trained(tmp_path_factory.mktemp("start"), lines("en", "zh"))


@pytest.fixture(scope="module")
def both(tmp_path_factory) -> Path:
    """Both ways, after a few steps."""
    return trained(tmp_path_factory.mktemp("both"), lines("en", "zh"), both=True)


@pytest.fixture(scope="module")
def more(tmp_path_factory) -> Path:
    """More pairs, with words that the first had not, the other way round."""
    path = tmp_path_factory.mktemp("more") / "more.tsv"
    path.write_text(lines("zh", "en").replace("red", "zorblax"), encoding="utf-8")
    return path


def test_it_learns_more_pairs_the_way_it_goes(start, more, tmp_path):
    before = weight_digests(start)
    facts = tune(start, more, out=tmp_path / "tuned", task="translate", settings=SETTINGS)
    assert facts["held_out"]["after"]["bits_per_byte"] < 0.9 * facts["held_out"]["before"]["bits_per_byte"]
    assert facts == json.loads(json.dumps(read_json(tmp_path / "tuned" / "bimo" / "tune.json")))
    assert tune(start, more, out=tmp_path / "tuned", task="translate", settings=SETTINGS) == facts
    assert weight_digests(start) == before
    assert "bits per byte before" in tune_lines(facts)[0]
    assert any("zorblax" in pair.source for pair in read_split(tmp_path / "tuned" / "bimo" / "data", "train"))
    tuned = load(tmp_path / "tuned")
    assert {"zorblax", "red"} <= tuned.words
    for sample in facts["samples"]:
        for name, translator in (("before", load(start)), ("after", tuned)):
            assert next(translator.translate([sample["source"]])).text == sample[name]


def test_transformers_reads_it(start, more, tmp_path):
    transformers = pytest.importorskip("transformers")
    tune(start, more, out=tmp_path / "tuned", task="translate", settings=replace(SETTINGS, epochs=0.2))
    theirs = transformers.MarianMTModel.from_pretrained(tmp_path / "tuned").eval()
    ours = load(tmp_path / "tuned")
    source = torch.tensor([[*ours.tokenizer.encode(ROWS[0][0]), ours.tokenizer.end]])
    target = torch.tensor([[ours.model.config.pad, *ours.tokenizer.encode(ROWS[0][1])]])
    with torch.no_grad():
        found = theirs(input_ids=source, decoder_input_ids=target).logits
        hidden = ours.model.hidden_states(source, source != ours.model.config.pad, target)
    torch.testing.assert_close(ours.model.head(hidden), found, atol=1e-4, rtol=1e-4)


def test_an_adapter_learns_beside_it(start, more, tmp_path):
    before = weight_digests(start)
    lora = replace(SETTINGS, lora=LoRAConfig(rank=16), rate=0.02)
    facts = tune(start, more, out=tmp_path / "adapter", task="translate", settings=lora)
    assert weight_digests(start) == before
    assert [*(tmp_path / "adapter").glob("*.safetensors")] == [tmp_path / "adapter" / "adapter_model.safetensors"]
    assert facts["held_out"]["after"]["loss"] < facts["held_out"]["before"]["loss"]
    adapted, plain = load(tmp_path / "adapter"), load(start)
    changed = (
        adapted.model.encoder_layers[0].attention.query.weight - plain.model.encoder_layers[0].attention.query.weight
    )
    assert changed.abs().max() > 1e-4
    assert torch.equal(adapted.model.embedding.weight, plain.model.embedding.weight)
    with pytest.raises(UserError, match="is an adapter itself"):
        tune(tmp_path / "adapter", more, out=tmp_path / "again", task="translate", settings=lora)


def test_a_model_of_both_ways_learns_both(both, more, tmp_path):
    pytest.importorskip("sacrebleu")
    facts = tune(both, more, out=tmp_path / "tuned", task="translate", settings=replace(SETTINGS, epochs=1))
    packed = read_json(tmp_path / "tuned" / "bimo" / "data" / "manifest.json")["stages"]["tokens"]["facts"]
    assert packed["tokens"]["train"]["pairs"] == 2 * facts["pairs"]["train"]
    assert packed["languages"] == ["zh", "en"]
    held_out = tmp_path / "tuned" / "bimo" / "data" / "pairs" / "test.tsv"
    found = evaluate(tmp_path / "tuned", held_out)
    assert [way["to"] for way in found["directions"]] == ["en", "zh"]
    assert [way["pairs"] for way in found["directions"]] == [facts["pairs"]["test"]] * 2


def test_a_column_says_where_pairs_go(both, tmp_path):
    rows = [("one", "two", "language"), *((en, zh, "zh") for en, zh in ROWS), *((zh, en, "en") for en, zh in ROWS)]
    (tmp_path / "rows.tsv").write_text("".join("\t".join(row) + "\n" for row in rows), encoding="utf-8")
    choices = {"task": "translate", "settings": replace(SETTINGS, epochs=0.1)}
    facts = tune(both, tmp_path / "rows.tsv", out=tmp_path / "tuned", columns={"to": "language"}, **choices)
    assert sum(facts["pairs"].values()) == 2 * len(ROWS)
    strange = (tmp_path / "rows.tsv").read_text(encoding="utf-8").replace("\ten\n", "\tfr\n")
    (tmp_path / "strange.tsv").write_text(strange, encoding="utf-8")
    with pytest.raises(UserError, match=r"does not name languages that the model translates into. It knows: zh, en"):
        tune(both, tmp_path / "strange.tsv", out=tmp_path / "no", columns={"to": "language"}, **choices)


def test_a_model_of_one_way_takes_no_column_of_languages(start, tmp_path):
    rows = [("one", "two", "language"), *((en, zh, "zh") for en, zh in ROWS)]
    (tmp_path / "rows.tsv").write_text("".join("\t".join(row) + "\n" for row in rows), encoding="utf-8")
    choices = {"task": "translate", "settings": replace(SETTINGS, epochs=0.1), "out": tmp_path / "out"}
    with pytest.raises(UserError, match=r"Column language of rows\.tsv does not name languages.* It knows: nothing"):
        tune(start, tmp_path / "rows.tsv", columns={"to": "language"}, **choices)
    tune(start, tmp_path / "rows.tsv", **choices)


def test_a_language_that_comes_late_is_told(both, tmp_path):
    """Which column names languages is seen by the first rows alone."""
    rows = [("one", "two", "language"), *((f"Line {n}", f"第 {n} 行", "zh") for n in range(2100)), ("a b", "c d", "fr")]
    (tmp_path / "rows.tsv").write_text("".join("\t".join(row) + "\n" for row in rows), encoding="utf-8")
    with pytest.raises(UserError, match="does not name languages that the model translates into"):
        tune(both, tmp_path / "rows.tsv", out=tmp_path / "out", task="translate", columns={"to": "language"})


def test_a_column_of_the_language_of_sources_says_nothing(both, tmp_path):
    """Where the model learned both ways without a column, none that happens to hold its languages is taken for one."""
    rows = [("en", "zh", "language"), *((en, zh, "en") for en, zh in ROWS)]
    (tmp_path / "rows.tsv").write_text("".join("\t".join(row) + "\n" for row in rows), encoding="utf-8")
    facts = tune(
        both, tmp_path / "rows.tsv", out=tmp_path / "out", task="translate", settings=replace(SETTINGS, epochs=0.1)
    )
    assert facts["examples"] == 2 * facts["pairs"]["train"]


def test_a_model_that_went_by_a_column_still_does(tmp_path):
    """After pairs that needed none; its one way is learned from a table that stands the other way round."""
    pytest.importorskip("sacrebleu")
    rows = [("one", "two", "language"), *((en, zh, "zh") for en, zh in ROWS)]
    table = "".join("\t".join(row) + "\n" for row in rows)
    base = trained(tmp_path, table, to_column="language")
    (tmp_path / "more.tsv").write_text(lines("zh", "en"), encoding="utf-8")
    facts = tune(
        base, tmp_path / "more.tsv", out=tmp_path / "out", task="translate", settings=replace(SETTINGS, epochs=0.1)
    )
    assert {(sample["source"], sample["reference"]) for sample in facts["samples"]} <= {*ROWS}
    assert load(tmp_path / "out").by_column
    (tmp_path / "few.tsv").write_text("".join("\t".join(row) + "\n" for row in rows[:40]), encoding="utf-8")
    (way,) = evaluate(tmp_path / "out", tmp_path / "few.tsv", against=base)["directions"]
    assert (way["to"], way["pairs"]) == ("zh", 39)


def test_who_tuned_learned_from_the_file_of_its_base_as_well(start, more, tmp_path):
    tune(start, more, out=tmp_path / "out", task="translate", settings=replace(SETTINGS, epochs=0.1))
    assert learned_from(tmp_path / "out", more)
    assert learned_from(tmp_path / "out", start.parent / "rows.tsv")
    assert not learned_from(start, more)


def test_pairs_longer_than_the_model_reads_are_left_out(start, tmp_path):
    long = "\n".join(f"{n} {'very ' * 300}long\t第 {n} 行" for n in range(400))
    (tmp_path / "long.tsv").write_text(f"en\tzh\n{long}\n", encoding="utf-8")
    choices = {"task": "translate", "settings": replace(SETTINGS, epochs=0.1), "out": tmp_path / "out"}
    with pytest.raises(UserError, match="There is no pair for train: all are longer than a model would read"):
        tune(start, tmp_path / "long.tsv", **choices)
    (tmp_path / "both.tsv").write_text(f"{lines('en', 'zh')}{long}\n", encoding="utf-8")
    facts = tune(start, tmp_path / "both.tsv", **choices)
    assert 0 < facts["examples"] < facts["pairs"]["train"]


def test_a_folder_that_does_not_say_what_it_learned_is_tuned_too(start, tmp_path):
    shutil.copytree(start, tmp_path / "theirs", ignore=shutil.ignore_patterns("bimo"))
    (tmp_path / "rows.tsv").write_text(lines("en", "zh"), encoding="utf-8")
    choices = {"task": "translate", "settings": replace(SETTINGS, epochs=0.1)}
    tune(tmp_path / "theirs", tmp_path / "rows.tsv", out=tmp_path / "out", **choices)
    assert load(tmp_path / "out").words == frozenset()


def test_what_a_translator_knows_of_its_pairs_is_exported_with_it(start, both, more, tmp_path):
    """So that what is tuned on it goes the same way."""
    for name, model in (("one", start), ("two", both)):
        write_translator(tmp_path / name, model)
        ours, theirs = load(model), load(tmp_path / name)
        assert (theirs.learned, theirs.words) == (ours.learned, ours.words)
        assert ours.words
    choices = {"task": "translate", "settings": replace(SETTINGS, epochs=0.1)}
    tune(tmp_path / "one", more, out=tmp_path / "tuned", **choices)
    assert all(pair.source.isascii() for pair in read_split(tmp_path / "tuned" / "bimo" / "data", "train"))


@pytest.mark.parametrize(
    "stored",
    [
        "[]",
        '{"columns": {"languages": 3}}',
        '{"columns": {"languages": [[]]}}',
        '{"chinese": 1}',
        '{"chinese": "Simplified"}',
    ],
)
def test_a_damaged_note_of_what_was_learned_is_named(start, tmp_path, stored):
    shutil.copytree(start, tmp_path / "broken", ignore=shutil.ignore_patterns("data"))
    (tmp_path / "broken" / "bimo" / "translating.json").write_text(stored, encoding="utf-8")
    with pytest.raises(UserError, match="is damaged"):
        load(tmp_path / "broken")


def test_chinese_is_brought_into_the_script_of_the_model(tmp_path):
    base = trained(tmp_path, lines("en", "zh"), chinese="traditional")
    (tmp_path / "more.tsv").write_text(lines("en", "zh"), encoding="utf-8")
    choices = {"task": "translate", "settings": replace(SETTINGS, epochs=0.1)}
    tune(base, tmp_path / "more.tsv", out=tmp_path / "out", **choices)
    learned = "".join(pair.target for pair in read_split(tmp_path / "out" / "bimo" / "data", "train"))
    assert "書" in learned
    assert "书" not in learned
    assert load(tmp_path / "out").chinese == "traditional"


def test_what_has_no_place_is_refused(start, more, tmp_path):
    def refused(sentence, model=start, file=more, settings=SETTINGS, **choices):
        with pytest.raises(UserError, match=sentence):
            tune(model, file, out=tmp_path / "out", task="translate", settings=settings, **choices)

    refused("--context has no place", settings=replace(SETTINGS, context=64))
    refused("--engine has no place", engine="linear")
    refused("--column knows source, target, to, but not label", columns={"label": "en"})
    refused("tunes a model that exists", model=None)
    (tmp_path / "few.tsv").write_text("a b\tc d\ne f\tg h\n", encoding="utf-8")
    refused("has 2 pairs, where at least 100", file=tmp_path / "few.tsv")
    assert not (tmp_path / "out" / "model.safetensors").exists()
    tune(start, more, out=tmp_path / "out", task="translate", settings=replace(SETTINGS, epochs=0.1))
