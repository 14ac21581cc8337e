"""A training in its folder: whose folder it is, what stands in it afterwards, what survives the end of a process."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from stories import stories, write_stories

from bimo import machine as machine_file
from bimo.config import read_toml
from bimo.console import Console
from bimo.files import digest_file, read_json
from bimo.machine import Machine, kept_machine
from bimo.models.config import ModelConfig, load_presets
from bimo.models.encoder import EncoderConfig
from bimo.models.families import FAMILIES, choose_family
from bimo.models.scoring import Score
from bimo.prepare import PrepareConfig, prepare
from bimo.report.facts import read_facts
from bimo.report.judgement import verdict
from bimo.run import run as run_all
from bimo.run import run_from_mapping, train_settings
from bimo.runtime import DATA_REFUSED, USAGE, UserError, set_language
from bimo.stages import Stages
from bimo.tokens.batches import Batches
from bimo.tokens.shards import TokenShards
from bimo.tokens.tokenizer import load_tokenizer
from bimo.train import loop, objectives, pretrain
from bimo.train.health import LEAST_PROGRESS, MOST_WORSE
from bimo.train.losses import next_token_loss
from bimo.train.metrics import read_metrics
from bimo.train.objectives import NextToken, tokenizer_of
from bimo.train.pretrain import check_output, is_finished, train
from bimo.train.settings import TrainConfig
from bimo.weights.huggingface import load_model
from bimo.weights.layouts import require_storable

SETTINGS = TrainConfig(steps=12, batch=2, validations=4, dtype="float32", device="cpu")


@pytest.fixture(autouse=True)
def _usual(monkeypatch):
    """English, and no time spent on measuring the machine."""
    set_language("en")
    rates = {"float32": 1e11, "bfloat16": 1e11}
    machine = Machine("imaginary", cores=2, threads=2, memory_bytes=8 * 10**9, device="cpu", matrix_flops=rates)
    monkeypatch.setattr(machine_file, "measure_machine", lambda device, seconds: machine)
    yield
    set_language(None)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pretrain")
    prepare([write_stories(folder / "a.txt", 60)], out=folder / "data")
    return folder / "data"


def shape_for(data: Path, **fields: int) -> ModelConfig:
    vocabulary = read_json(data / "manifest.json")["stages"]["tokenizer"]["facts"]["vocabulary"]
    usual = {"layers": 1, "width": 16, "heads": 2, "kv_heads": 1, "head_width": 8, "hidden": 24, "context": 16}
    return ModelConfig(**{"vocabulary": vocabulary, **usual, **fields})


def encoder_for(data: Path) -> EncoderConfig:
    vocabulary = tokenizer_of(data, "encoder").vocabulary
    return EncoderConfig(vocabulary=vocabulary, layers=1, width=16, heads=2, hidden=24, context=16)


def run(data: Path, out: Path, settings: TrainConfig = SETTINGS, **changes: Any) -> dict[str, Any]:
    return train(data, out=out, model=changes.pop("model", None) or shape_for(data), settings=settings, **changes)


class Killed(BaseException):
    """Stands for the end of the process."""


def never(*given: Any, **choices: Any) -> Any:
    """An objective where nothing is left to train."""
    pytest.fail("a finished training was done again")


def run_until(data: Path, out: Path, step: int, settings: TrainConfig = SETTINGS) -> None:
    """Train and die in the middle of a step."""
    objective, calls = objectives.next_token_loss, iter(range(step))

    def dying(model: Any, windows: Any, **choices: Any) -> Any:
        if next(calls, None) is None:
            raise Killed
        return objective(model, windows, **choices)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(objectives, "next_token_loss", dying)
        with pytest.raises(Killed):
            run(data, out, settings)


def events(out: Path) -> list[dict[str, Any]]:
    """All events without what depends on the clock."""
    timed = ("seconds", "tokens_per_second")
    found = read_metrics(out / "bimo" / "metrics.jsonl")
    return [{name: value for name, value in event.items() if name not in timed} for event in found]


def steps_of(out: Path, kind: str) -> list[int]:
    return [event["step"] for event in events(out) if event["event"] == kind]


def strictly(path: Path) -> Any:
    """JSON without NaN and Infinity, which other readers refuse."""

    def refuse(name: str) -> None:
        raise AssertionError(f"{path} holds {name}")

    return json.loads(path.read_text(encoding="utf-8"), parse_constant=refuse)


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """A training that nobody disturbed."""
    out = tmp_path_factory.mktemp("whole") / "model"
    with pytest.MonkeyPatch.context() as patch:
        rates = {"float32": 1e11, "bfloat16": 1e11}
        machine = Machine("imaginary", cores=2, threads=2, memory_bytes=8 * 10**9, device="cpu", matrix_flops=rates)
        patch.setattr(machine_file, "measure_machine", lambda device, seconds: machine)
        run(data, out, sampler=lambda model, tokenizer: "样 sample")
    return out


def test_a_training_leaves_a_whole_model_folder(whole, data):
    names = {path.name for path in whole.iterdir()}
    assert names == {
        "README.md",
        "bimo",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    home = {path.name for path in (whole / "bimo").iterdir()} - {".lock"}
    assert home == {"machine.json", "manifest.json", "metrics.jsonl", "report.html", "run.toml", "training.json"}
    assert is_finished(whole)
    facts = strictly(whole / "bimo" / "training.json")
    assert facts["steps"] == 12
    assert facts["tokens"] == 12 * 2 * 16
    assert facts["parameters"] == shape_for(data).parameters
    assert 0 < facts["validation_bits_per_byte"] < 8
    assert facts["skipped_steps"] == facts["roll_backs"] == facts["resumed"] == 0


def test_the_gap_to_training_text_is_one_of_clean_text(data, tmp_path):
    """Not of the losses of steps, which are made harder by dropout, noise and smoothing."""
    harder = replace(SETTINGS, dropout=0.3, noise=0.3)
    facts = run(data, tmp_path / "out", harder)
    model = load_model(tmp_path / "out")
    shards, validation = TokenShards(data / "tokens", "train"), TokenShards(data / "tokens", "validation")
    batches = Batches(shards, batch=harder.batch, context=model.config.context, seed=harder.seed)
    with torch.no_grad():
        found = [next_token_loss(model, batches.at(step)) for step in range(facts["steps"])]
    nats = sum(loss.item() * count for loss, count in found) / sum(count for _, count in found)
    objective = NextToken(validation, load_tokenizer(tmp_path / "out"), context=model.config.context, noise=0.0)
    assert facts["training_bits_per_byte"] == pytest.approx(objective.facts(nats)["bits_per_byte"], rel=1e-3)


def test_training_goes_on_with_a_model_that_exists(whole, data, tmp_path):
    still = replace(SETTINGS, steps=1, muon_rate=0.0, adam_rate=0.0, weight_decay=0.0, start=str(whole))
    run(data, tmp_path / "still", still)
    first, before = load_file(whole / "model.safetensors"), load_file(tmp_path / "still" / "model.safetensors")
    assert all(torch.equal(first[name], before[name]) for name in first)
    on = run(data, tmp_path / "on", replace(SETTINGS, start=str(whole), window=8, seed=1))
    assert on["tokens"] == 12 * 2 * 8
    assert on["validation_bits_per_byte"] < read_json(whole / "bimo" / "training.json")["validation_bits_per_byte"]
    manifest = strictly(tmp_path / "on" / "bimo" / "manifest.json")
    assert manifest["inputs"]["start_tokens"] == manifest["inputs"]["tokens"]
    assert manifest["key"] != strictly(whole / "bimo" / "manifest.json")["key"]


def test_a_model_that_may_have_learned_what_is_held_out_is_named(whole, tmp_path, capsys):
    settings = PrepareConfig(tokenizer=str(whole / "tokenizer.json"))
    prepare([write_stories(tmp_path / "b.txt", 70)], out=tmp_path / "other", settings=settings)
    train(
        tmp_path / "other",
        out=tmp_path / "on",
        model=load_model(whole).config,
        settings=replace(SETTINGS, steps=1, start=str(whole)),
        console=Console(),
    )
    assert f"{whole} learned from other data, which may hold these held-out texts." in capsys.readouterr().err
    further = replace(SETTINGS, steps=1, start=str(tmp_path / "on"))
    train(tmp_path / "other", out=tmp_path / "further", model=load_model(whole).config, settings=further)
    inputs = strictly(tmp_path / "further" / "bimo" / "manifest.json")["inputs"]
    assert (inputs["start_tokens"], inputs["tokens"] != "") == ("", True)
    evaluated = {**read_facts(tmp_path / "on"), "evaluation": {"bits_per_byte": 2.0}}
    sentence = "The model that it went on from learned from other data, which may hold these held-out texts."
    assert sentence in verdict(evaluated)
    assert sentence not in verdict({**read_facts(whole), "evaluation": {"bits_per_byte": 2.0}})


def test_any_language_model_is_gone_on_with(data, tmp_path):
    lstm = choose_family("lstm").shape(vocabulary=shape_for(data).vocabulary, context=16, layers=1, width=16)
    run(data, tmp_path / "lstm", replace(SETTINGS, steps=2), model=lstm)
    found = [
        train_settings(
            data,
            tmp_path / "on",
            minutes=0.01,
            family="decoder",
            preset="",
            start=str(tmp_path / "lstm"),
            seed=0,
            device="cpu",
            config=None,
            changes=[],
        )
        for _ in range(2)
    ]
    assert found[0] == found[1]
    assert found[0].model == lstm


def test_a_run_file_does_not_train_on_half_prepared_data(tmp_path):
    (tmp_path / "data").mkdir()
    Stages(tmp_path / "data").begin()
    with pytest.raises(UserError, match="not completely"):
        train_settings(
            tmp_path / "data",
            tmp_path / "model",
            minutes=1,
            family="decoder",
            preset="",
            start="",
            seed=0,
            device="cpu",
            config=tmp_path / "run.toml",
            changes=[],
        )


def test_a_model_that_goes_on_need_not_leave_its_loss_behind(whole, data, tmp_path, monkeypatch):
    asked = []

    def trainer(*given, **choices):
        asked.append(choices["least_progress"])
        return loop.Trainer(*given, **choices)

    monkeypatch.setattr(pretrain, "Trainer", trainer)
    run(data, tmp_path / "on", replace(SETTINGS, steps=1, start=str(whole)))
    run(data, tmp_path / "new", replace(SETTINGS, steps=1))
    assert asked == [MOST_WORSE, LEAST_PROGRESS]


@pytest.mark.parametrize(
    "strange",
    [
        {"positions": "sinusoidal"},
        {"positions": "learned"},
        {"norm": "layer"},
        {"feed_forward": "relu"},
        {"biases": "qkv"},
        {"norm_after": True},
    ],
)
def test_a_shape_that_no_folder_holds_is_refused_before_training(strange, data, tmp_path):
    with pytest.raises(UserError, match="No folder that Bimo writes can hold a model of this shape"):
        run(data, tmp_path / "model", model=shape_for(data, **strange))
    assert not (tmp_path / "model" / "bimo" / "manifest.json").exists()


@pytest.mark.parametrize("family", FAMILIES)
def test_every_size_can_be_held_by_a_folder(family):
    kind = choose_family(family)
    for fields in load_presets(family).values():
        require_storable(kind.shape(vocabulary=1000, context=64, **fields))


def test_what_comes_after_the_end_is_made_up_for(whole, data, tmp_path):
    shutil.copytree(whole, tmp_path / "model")
    (tmp_path / "model" / "bimo" / "checkpoints" / "step-00000012").mkdir(parents=True)
    (tmp_path / "model" / "README.md").unlink()
    (tmp_path / "model" / "bimo" / "report.html").unlink()
    facts = run(data, tmp_path / "model")
    assert facts == read_json(whole / "bimo" / "training.json")
    assert (tmp_path / "model" / "README.md").is_file()
    assert (tmp_path / "model" / "bimo" / "report.html").is_file()
    assert not (tmp_path / "model" / "bimo" / "checkpoints").exists()


def test_the_machine_is_measured_once_for_a_training(tmp_path, monkeypatch):
    first = kept_machine(tmp_path / "machine.json", torch.device("cpu"))
    monkeypatch.setattr(machine_file, "measure_machine", never)
    assert kept_machine(tmp_path / "machine.json", torch.device("cpu")) == first


def test_no_training_has_more_than_all_of_a_machine_that_was_busy_when_it_was_measured(data, tmp_path, monkeypatch):
    idle = machine_file.measure_machine(torch.device("cpu"), seconds=0)
    busy = replace(idle, matrix_flops={"float32": 1.0, "bfloat16": 1.0})
    monkeypatch.setattr(machine_file, "measure_machine", lambda device, seconds: busy)
    assert run(data, tmp_path / "model")["share_of_peak"] == 1


def test_a_file_with_its_tokenizer_inside_is_no_start_for_a_text(tmp_path):
    (tmp_path / "x.gguf").write_bytes(b"GGUF")
    with pytest.raises(UserError, match=r"export .* --to hf"):
        run_all([write_stories(tmp_path / "a.txt", 60)], out=tmp_path / "model", start=tmp_path / "x.gguf")


def test_going_on_asks_for_the_same_shape_and_tokenizer(whole, data, tmp_path):
    onward = replace(SETTINGS, start=str(whole))
    with pytest.raises(UserError, match="of another shape than the settings describe"):
        run(data, tmp_path / "a", onward, model=shape_for(data, layers=2))
    with pytest.raises(UserError, match=r"train\.window \(17\) is more than the model reads \(16\)"):
        run(data, tmp_path / "b", replace(onward, window=17))
    prepare([write_stories(tmp_path / "b.txt", 60)], out=tmp_path / "other", settings=PrepareConfig(vocabulary=300))
    with pytest.raises(UserError, match="another tokenizer than that of"):
        run(tmp_path / "other", tmp_path / "c", onward)


def test_the_manifest_names_every_input_and_output_by_digest(whole, data):
    manifest = strictly(whole / "bimo" / "manifest.json")
    assert set(manifest["outputs"]) == {path.name for path in whole.iterdir() if path.is_file()} - {"README.md"}
    assert {name: digest_file(whole / name) for name in manifest["outputs"]} == manifest["outputs"]
    assert (
        manifest["inputs"]["tokenizer"] == digest_file(data / "tokenizer.json") == manifest["outputs"]["tokenizer.json"]
    )
    assert Path(manifest["data"]) == data.resolve()
    assert manifest["versions"]["torch"] == torch.__version__


def test_the_run_file_trains_the_same_model_again(whole, data, tmp_path):
    settings = run_from_mapping(read_toml(whole / "bimo" / "run.toml"))
    assert (settings.model, settings.train) == (shape_for(data), SETTINGS)
    run(data, tmp_path / "again", settings.train, model=settings.model)
    assert digest_file(tmp_path / "again" / "model.safetensors") == digest_file(whole / "model.safetensors")


def test_metrics_have_every_step_validation_and_sample(whole):
    assert steps_of(whole, "step") == list(range(1, 13))
    assert steps_of(whole, "validation") == [3, 6, 9, 12]
    assert steps_of(whole, "sample") == [3, 6, 9, 12]
    assert {event["text"] for event in events(whole) if event["event"] == "sample"} == {"样 sample"}
    losses = [event["loss"] for event in events(whole) if event["event"] == "step"]
    assert losses[-1] < losses[0]


def test_a_finished_training_is_not_done_again(whole, data, monkeypatch):
    before = {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in whole.rglob("*") if path.is_file()}
    monkeypatch.setattr(objectives, "next_token_loss", never)
    assert run(data, whole) == read_json(whole / "bimo" / "training.json")
    assert {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in before} == before


@pytest.mark.parametrize("death", [1, 5, 6, 9, 11])
def test_a_killed_training_ends_as_if_nothing_had_happened(whole, data, tmp_path, death):
    out = tmp_path / "model"
    for _ in range(2):
        run_until(data, out, death if not out.exists() else 2)
    assert not is_finished(out)
    run(data, out, sampler=lambda model, tokenizer: "样 sample")
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        assert digest_file(out / name) == digest_file(whole / name)
    assert strictly(out / "bimo" / "training.json")["resumed"] >= 1


def test_metrics_of_a_resumed_run_have_no_step_twice(whole, data, tmp_path):
    out = tmp_path / "model"
    for death in (5, 4, 3):
        run_until(data, out, death)
    run(data, out)
    assert steps_of(out, "step") == list(range(1, 13))
    assert steps_of(out, "validation") == [3, 6, 9, 12]
    kinds = ("step", "validation")
    assert [event for event in events(out) if event["event"] in kinds] == [
        event for event in events(whole) if event["event"] in kinds
    ]


def test_a_damaged_newest_checkpoint_costs_one_interval(whole, data, tmp_path):
    out = tmp_path / "model"
    run_until(data, out, 11)
    newest = max((out / "bimo" / "checkpoints").glob("step-????????"))
    (newest / "weights.safetensors").write_bytes(b"damaged")
    run(data, out)
    resumed = [event for event in events(out) if event["event"] == "resumed"]
    assert resumed == [{"event": "resumed", "step": 6}]
    assert steps_of(out, "step") == list(range(1, 13))
    assert digest_file(out / "model.safetensors") == digest_file(whole / "model.safetensors")


def test_without_a_whole_checkpoint_it_starts_again_cleanly(whole, data, tmp_path):
    out = tmp_path / "model"
    run_until(data, out, 8)
    for checkpoint in (out / "bimo" / "checkpoints").iterdir():
        (checkpoint / "state.json").write_text("{")
    run(data, out)
    assert steps_of(out, "step") == list(range(1, 13))
    assert digest_file(out / "model.safetensors") == digest_file(whole / "model.safetensors")


def test_a_training_killed_while_it_wrote_the_model_is_finished_by_the_next_call(whole, data, tmp_path, monkeypatch):
    out = tmp_path / "model"

    def die(*arguments: Any, **options: Any) -> None:
        raise Killed

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pretrain, "save_model", die)
        with pytest.raises(Killed):
            run(data, out)
    monkeypatch.setattr(objectives.NextToken, "loss", never)
    run(data, out)
    assert digest_file(out / "model.safetensors") == digest_file(whole / "model.safetensors")


def test_bfloat16_is_resumed_bit_for_bit_as_well(data, tmp_path):
    settings = replace(SETTINGS, dtype="bfloat16")
    run(data, tmp_path / "whole", settings)
    run_until(data, tmp_path / "killed", 7, settings)
    run(data, tmp_path / "killed", settings)
    digests = {digest_file(tmp_path / name / "model.safetensors") for name in ("whole", "killed")}
    assert len(digests) == 1


@pytest.mark.parametrize(
    "change",
    [{"steps": 13}, {"batch": 3}, {"seed": 1}, {"adam_rate": 0.01}, {"minutes": 1.0}],
    ids=lambda change: next(iter(change)),
)
def test_a_folder_of_another_training_is_refused_and_left_alone(whole, data, change):
    before = digest_file(whole / "bimo" / "manifest.json")
    with pytest.raises(UserError, match="holds a training with other text or settings") as caught:
        run(data, whole, replace(SETTINGS, **change))
    assert caught.value.code == USAGE
    assert digest_file(whole / "bimo" / "manifest.json") == before
    assert is_finished(whole)


def test_another_shape_or_text_is_another_training(whole, data, tmp_path):
    with pytest.raises(UserError, match="other text or settings"):
        run(data, whole, model=shape_for(data, hidden=32))
    prepare([write_stories(tmp_path / "b.txt", 60, seed=4)], out=tmp_path / "data")
    with pytest.raises(UserError, match="other text or settings"):
        run(tmp_path / "data", whole, model=shape_for(data))


def test_a_folder_that_holds_other_things_is_refused(data, tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter1.tex").write_text("precious")
    with pytest.raises(UserError, match="is taken: it holds files that are not a model"):
        run(data, tmp_path / "thesis")
    assert [path.name for path in (tmp_path / "thesis").iterdir()] == ["chapter1.tex"]
    with pytest.raises(UserError, match="is a file"):
        run(data, tmp_path / "thesis" / "chapter1.tex")
    (tmp_path / "empty").mkdir()
    check_output(tmp_path / "empty")
    check_output(tmp_path / "nothing")


def test_a_vocabulary_smaller_than_the_tokenizer_is_refused(data, tmp_path):
    with pytest.raises(UserError, match="vocabulary"):
        run(data, tmp_path / "model", model=shape_for(data, vocabulary=100))


def test_data_that_are_none_are_refused(tmp_path):
    (tmp_path / "data").mkdir()
    shape = ModelConfig(vocabulary=300, layers=1, width=16, heads=2, kv_heads=1, head_width=8, hidden=24, context=16)
    with pytest.raises(UserError):
        run(tmp_path / "data", tmp_path / "model", model=shape)


def test_text_that_is_too_short_for_the_context_is_refused(data, tmp_path):
    with pytest.raises(UserError, match=r"too few for a context of 8192.*model\.context") as caught:
        run(data, tmp_path / "model", model=shape_for(data, context=8192))
    assert caught.value.code == DATA_REFUSED


def test_text_without_a_held_out_part_is_refused(tmp_path):
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": " ".join(stories(60).split())[:7_900]}))
    prepare([tmp_path / "a.jsonl"], out=tmp_path / "data", settings=PrepareConfig(vocabulary=270))
    for model in (shape_for(tmp_path / "data"), encoder_for(tmp_path / "data")):
        with pytest.raises(UserError, match="holds no document to test with") as caught:
            run(tmp_path / "data", tmp_path / "model", model=model)
        assert caught.value.code == DATA_REFUSED


def test_settings_without_effect_are_refused(data, tmp_path):
    for change in ({"noise": 0.1}, {"smoothing": 0.1}):
        with pytest.raises(UserError, match=f"train.{next(iter(change))} has no place in .* encoder"):
            run(data, tmp_path / "model", replace(SETTINGS, **change), model=encoder_for(data))


def test_where_a_start_lies_is_no_part_of_a_training(whole, data, tmp_path):
    shutil.copytree(whole, tmp_path / "start")
    onward = replace(SETTINGS, start=str(tmp_path / "start"))
    first = run(data, tmp_path / "model", onward)
    shutil.move(tmp_path / "start", tmp_path / "moved")
    assert run(data, tmp_path / "model", replace(onward, start=str(tmp_path / "moved"))) == first


@pytest.mark.parametrize(
    "change",
    [
        {"steps": 0},
        {"batch": 0},
        {"batch": -1},
        {"dtype": "float16"},
        {"adam_rate": -1.0},
        {"muon_rate": math.nan},
        {"minutes": -1.0},
        {"minutes": math.nan},
        {"minutes": math.inf},
        {"clip": 0.0},
        {"dropout": 1.0},
        {"dropout": -0.1},
        {"noise": 1.5},
        {"noise": math.nan},
        {"warmup": -0.1},
        {"warmup": 1.5},
        {"decay": 2.0},
        {"weight_decay": math.inf},
        {"validations": -1},
        {"seed": 2**70},
        {"seed": -1},
    ],
    ids=str,
)
def test_settings_that_cannot_work_are_refused_at_the_door(change):
    with pytest.raises(UserError) as caught:
        replace(SETTINGS, **change)
    assert caught.value.code == USAGE
    assert next(iter(change)) in str(caught.value)


def test_a_validation_that_gets_worse_ends_the_run_with_the_best_weights(data, tmp_path, monkeypatch):
    values = iter([3.0, 2.0, 2.5, 2.6, 2.7, 9.0])
    seen = []
    monkeypatch.setattr(objectives, "rolling_scores", lambda model, documents, **options: [Score(next(values) * 1000)])

    def sampler(model: Any, tokenizer: Any) -> str:
        seen.append({name: weight.detach().clone() for name, weight in model.named_parameters()})
        return "sample"

    out = tmp_path / "model"
    run(data, out, replace(SETTINGS, steps=60, validations=20), sampler=sampler)
    assert steps_of(out, "validation") == [3, 6, 9, 12, 15]
    assert steps_of(out, "stopped") == [15]
    weights = load_file(out / "model.safetensors")
    assert torch.equal(weights["model.embed_tokens.weight"], seen[1]["embedding.weight"])
    assert not torch.equal(weights["model.embed_tokens.weight"], seen[4]["embedding.weight"])
    facts = strictly(out / "bimo" / "training.json")
    best = min(event["bits_per_byte"] for event in events(out) if event["event"] == "validation")
    assert facts["validation_bits_per_byte"] == best
    assert (facts["steps"], facts["weights_of_step"]) == (15, 6)
    assert facts["tokens_per_second"] == pytest.approx(facts["tokens"] / facts["seconds"])
    assert facts["tokens"] == 15 * SETTINGS.batch * shape_for(data).context


def test_the_weights_that_validated_best_are_kept(data, tmp_path, monkeypatch):
    values = iter([3.0, 2.0, 2.01, 2.02])
    seen = []
    monkeypatch.setattr(objectives, "rolling_scores", lambda model, documents, **options: [Score(next(values) * 1000)])

    def sampler(model: Any, tokenizer: Any) -> str:
        seen.append(model.embedding.weight.detach().clone())
        return "sample"

    out = tmp_path / "model"
    facts = run(data, out, replace(SETTINGS, steps=12, validations=4), sampler=sampler)
    assert (facts["steps"], facts["weights_of_step"]) == (12, 6)
    weights = load_file(out / "model.safetensors")["model.embed_tokens.weight"]
    assert torch.equal(weights, seen[1])
    assert not torch.equal(weights, seen[3])


def sick_at(bad: set[int]) -> Any:
    objective, calls = objectives.next_token_loss, [0]

    def sick(model: Any, windows: Any, **choices: Any) -> Any:
        loss, counted = objective(model, windows, **choices)
        calls[0] += 1
        return (loss * math.nan if calls[0] in bad else loss), counted

    return sick


@pytest.mark.parametrize("bad", [{1}, {6}, {12}, {3, 4}], ids=str)
def test_a_bad_step_anywhere_leaves_a_whole_model_and_valid_facts(data, tmp_path, monkeypatch, bad):
    monkeypatch.setattr(objectives, "next_token_loss", sick_at(bad))
    out = tmp_path / "model"
    facts = run(data, out)
    assert facts["skipped_steps"] == len(bad)
    assert strictly(out / "bimo" / "training.json") == facts
    assert 12 in steps_of(out, "validation")
    for line in (out / "bimo" / "metrics.jsonl").read_text().split("\n"):
        assert "NaN" not in line
        assert "Infinity" not in line
    assert all(torch.isfinite(weight).all() for weight in load_file(out / "model.safetensors").values())


def test_a_single_step_with_a_bad_number_still_gives_valid_facts(data, tmp_path, monkeypatch):
    monkeypatch.setattr(objectives, "next_token_loss", sick_at({1}))
    run(data, tmp_path / "model", replace(SETTINGS, steps=1))
    strictly(tmp_path / "model" / "bimo" / "training.json")


def count_time(patch: pytest.MonkeyPatch, seconds: Callable[[float], float]) -> list[float]:
    """A clock, in its only entry, on which each step takes what `seconds` says of the time that it begins at."""
    now, step_of = [0.0], loop.Trainer._step

    def step(trainer: loop.Trainer) -> Any:
        now[0] += seconds(now[0])
        return step_of(trainer)

    patch.setattr(loop, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    patch.setattr(loop.Trainer, "_step", step)
    return now


@pytest.mark.parametrize("planned", [1, 20, 60, 500])
def test_the_end_moves_to_where_the_time_is_up(data, tmp_path, monkeypatch, planned):
    """On a clock on which every step takes a tenth of a second, six seconds are sixty steps."""
    count_time(monkeypatch, lambda now: 0.1)
    out = tmp_path / "model"
    facts = run(data, out, replace(SETTINGS, steps=planned, minutes=0.1))
    assert 54 <= facts["steps"] <= 66
    assert bool(steps_of(out, "moved end")) == (planned != 60)
    assert steps_of(out, "validation")[-1] == facts["steps"]


def test_a_slower_machine_moves_the_end_again(data, tmp_path, monkeypatch):
    count_time(monkeypatch, lambda now: 0.1 if now < 3 else 0.2)
    facts = run(data, tmp_path / "model", replace(SETTINGS, steps=60, minutes=0.1))
    assert facts["seconds"] == pytest.approx(6, rel=0.15)
    assert facts["steps"] < 55


def test_a_few_long_steps_end_in_time_as_well(data, tmp_path, monkeypatch):
    """Of 30 seconds each, two make a minute."""
    count_time(monkeypatch, lambda now: 30)
    facts = run(data, tmp_path / "model", replace(SETTINGS, steps=60, minutes=1))
    assert (facts["steps"], facts["seconds"]) == (2, 60)


def test_without_minutes_the_steps_are_done_whatever_they_take(data, tmp_path, monkeypatch):
    count_time(monkeypatch, lambda now: 1000)
    assert run(data, tmp_path / "model")["steps"] == 12


@pytest.mark.parametrize(("cost", "expected"), [(0, [0, 3, 6, 9, 12, 14]), (10, [0, 3, 11, 14])])
def test_saving_happens_by_the_clock_between_validations(data, tmp_path, monkeypatch, cost, expected):
    """A step takes 25 seconds; where saving takes ten, 200 have to go by before the next."""
    now, saved, save = count_time(monkeypatch, lambda now: 25), [], loop.save_checkpoint

    def note(folder: Path, *arguments: Any, step: int) -> Path:
        saved.append(step)
        now[0] += cost
        return save(folder, *arguments, step=step)

    monkeypatch.setattr(loop, "save_checkpoint", note)
    run(data, tmp_path / "model", replace(SETTINGS, steps=14, validations=1))
    assert saved == expected


def test_a_run_that_speaks_chinese_trains_the_same_model(whole, data, tmp_path):
    set_language("zh")
    run(data, tmp_path / "model")
    assert digest_file(tmp_path / "model" / "model.safetensors") == digest_file(whole / "model.safetensors")
