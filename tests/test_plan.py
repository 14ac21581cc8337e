"""The plan: its numbers fit together, and it refuses what cannot work before any time is spent."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import sys
from dataclasses import asdict, replace

import pytest
import torch
from stories import stories, write_stories

from bimo import baselines
from bimo import machine as machine_file
from bimo.console import Console
from bimo.files import read_json
from bimo.machine import Machine, measure_machine
from bimo.models.config import ModelConfig, load_presets
from bimo.models.scaling import expected_ratio
from bimo.models.transformer import Decoder
from bimo.plan import Plan, plan, stored_plan
from bimo.prepare import PrepareConfig, prepare
from bimo.report.planned import plan_lines, text_reasons
from bimo.run import train_settings
from bimo.runtime import DATA_REFUSED, NO_ROOM, USAGE, UserError, set_language
from bimo.sizes import PROCESS_BYTES
from bimo.tokens.tokenizer import load_tokenizer
from bimo.train.recipe import recipe
from bimo.weights.huggingface import save_model

module = importlib.import_module("bimo.plan")  # bimo.plan itself is the verb

FAST = 200_000.0
"""Tokens a second of the imaginary machine, for a model of a million parameters."""


@pytest.fixture(autouse=True)
def _english():
    set_language("en")
    yield
    set_language(None)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plan")
    prepare([write_stories(folder / "a.txt", 150)], out=folder / "data")
    return folder / "data"


@pytest.fixture
def machine(monkeypatch):
    """An imaginary machine: its speed falls with the parameters. Returns what was timed."""
    timed = []

    def measure(device, seconds=0.5):
        rates = {"float32": 1e11, "bfloat16": 1.2e11}
        return Machine("imaginary", cores=2, threads=2, memory_bytes=8 * 10**9, device="cpu", matrix_flops=rates)

    def speed(shape, batch, dtype, device, seconds=1.5):
        timed.append(shape)
        return FAST * 1e6 / shape.parameters

    monkeypatch.setattr(module, "measure_machine", measure)
    monkeypatch.setattr(module, "_tokens_per_second", speed)
    return timed


def refused(code: int, data, **choices) -> str:
    with pytest.raises(UserError) as caught:
        plan(data, **choices)
    assert caught.value.code == code
    return str(caught.value)


@pytest.mark.parametrize("minutes", [0.05, 1, 10, 600])
def test_the_numbers_of_a_plan_fit_together(data, machine, minutes):
    chosen = plan(data, minutes=minutes)
    facts, settings, shape = chosen.facts, chosen.train, chosen.model
    assert facts["tokens"] <= facts["tokens_per_second"] * 60 * minutes
    assert facts["tokens"] >= 0.8 * facts["tokens_per_second"] * 60 * minutes
    planned = settings.steps * settings.batch * shape.context
    assert settings.steps == 20 or 0.9 * facts["tokens"] < planned <= facts["tokens"]
    assert settings.minutes == minutes
    low, high = facts["bits_per_byte"]
    assert 0 < low < high < 8
    corpus = read_json(data / "manifest.json")["stages"]
    assert facts["epochs"] == pytest.approx(facts["tokens"] / corpus["tokens"]["facts"]["train"]["tokens"])
    assert facts["tokens_per_parameter"] == pytest.approx(facts["tokens"] / shape.parameters)
    assert facts["parameters"] == shape.parameters
    assert shape.vocabulary == corpus["tokenizer"]["facts"]["vocabulary"]
    assert json.loads(json.dumps(facts)) == facts


@pytest.fixture(scope="module")
def small(data, tmp_path_factory):
    """A model to go on with."""
    folder = tmp_path_factory.mktemp("small")
    tokenizer = load_tokenizer(data)
    save_model(folder, Decoder(small_shape(tokenizer.vocabulary)).initialise(0), end=tokenizer.end)
    tokenizer.save(folder)
    return folder


def small_shape(vocabulary):
    return ModelConfig(vocabulary, 1, 16, 2, 1, 8, 24, context=512)


def test_a_model_to_go_on_with_fixes_the_size(data, small, machine):
    usual, onward = plan(data, minutes=1, preset="dust"), plan(data, minutes=1, start=str(small))
    assert onward.model == small_shape(load_tokenizer(data).vocabulary)
    assert (onward.train.start, onward.train.window) == (str(small), usual.model.context)
    assert onward.train.muon_rate < usual.train.muon_rate
    assert onward.facts["bits_per_byte"] is None


@pytest.mark.parametrize("beside", [{"preset": "dust"}, {"family": "lstm"}])
def test_a_model_to_go_on_with_leaves_no_choice_of_size(data, machine, tmp_path, beside):
    assert "have no place beside it" in refused(USAGE, data, minutes=1, start=str(tmp_path), **beside)


def test_more_time_promises_no_worse(data, machine):
    expectations = [plan(data, minutes=minutes).facts["bits_per_byte"][0] for minutes in (0.1, 1, 10, 100)]
    assert expectations == sorted(expectations, reverse=True)


def test_a_larger_batch_still_fits_into_memory(data, machine):
    """Fast machines and long times call for batches beyond the one that was tried for size."""
    chosen = plan(data, minutes=6000)
    assert chosen.facts["memory_bytes"] == PROCESS_BYTES + chosen.model.training_bytes(chosen.train.batch) < 8e9


def test_the_best_of_the_sizes_that_were_timed_is_chosen(data, machine):
    facts = plan(data, minutes=1).facts
    assert len(machine) == len(facts["candidates"]) == module.CANDIDATES
    best = min(facts["candidates"], key=lambda candidate: candidate["bits_per_byte"])
    assert facts["preset"] == best["preset"]
    low, high = facts["bits_per_byte"]
    assert low < best["bits_per_byte"] < high


def test_a_preset_fixes_the_size(data, machine):
    chosen = plan(data, minutes=1, preset="dust", seed=7)
    assert chosen.facts["preset"] == "dust"
    assert chosen.model.width == load_presets()["dust"]["width"]
    assert chosen.train.seed == 7
    assert [shape.width for shape in machine] == [chosen.model.width]


def test_an_unknown_preset_is_refused_with_a_suggestion(data, machine):
    sentence = refused(USAGE, data, preset="durst")
    assert "durst" in sentence
    assert "Did you mean dust?" in sentence or "There are: dust, drop" in sentence
    assert machine == []


@pytest.mark.parametrize("minutes", [0, -1, 1e-9, float("nan"), float("inf"), float("-inf")])
def test_minutes_that_are_none_are_refused(data, machine, minutes):
    assert "--minutes" in refused(USAGE, data, minutes=minutes)
    assert machine == []


def test_an_unknown_device_is_refused(data, machine):
    assert "tpu" in refused(USAGE, data, device="tpu")


def test_what_does_not_fit_into_memory_is_refused(data, machine, monkeypatch):
    measure = module.measure_machine
    small = {"memory_bytes": 4 * 10**9}
    monkeypatch.setattr(module, "measure_machine", lambda device: Machine(**{**vars(measure(device)), **small}))
    assert "shelf needs about" in refused(NO_ROOM, data, preset="shelf")
    chosen = plan(data, minutes=1000)
    assert chosen.model.training_bytes(chosen.train.batch) < 4e9
    small["memory_bytes"] = 10**6
    assert "0.0 GB" in refused(NO_ROOM, data)
    assert machine


def test_a_tiny_text_is_refused_before_anything_is_measured(tmp_path, machine):
    prepare([write_stories(tmp_path / "a.txt", 4)], out=tmp_path / "data")
    sentence = refused(DATA_REFUSED, tmp_path / "data")
    assert "too small to train on" in sentence
    assert machine == []


def test_a_text_without_anything_to_test_with_is_refused(tmp_path, machine):
    """One document alone: all of it is for training."""
    text = " ".join(stories(120).split())[:7_900]
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": text}))
    prepare([tmp_path / "a.jsonl"], out=tmp_path / "data", settings=PrepareConfig(vocabulary=270))
    assert "validation" in refused(DATA_REFUSED, tmp_path / "data")


def test_a_text_that_is_small_for_the_time_is_said_plainly(data, machine):
    facts = plan(data, minutes=100).facts
    assert facts["epochs"] > 20
    assert any("The text is small for this much time" in reason for reason in facts["reasons"])
    assert "The text is small for this much time" in "\n".join(plan_lines(facts))


def test_what_stands_against_learning_by_heart_follows_text_and_time(data, machine, monkeypatch):
    long, short = plan(data, minutes=100), plan(data, minutes=0.5)
    unique = round(long.facts["tokens"] / long.facts["epochs"])
    expected = recipe(long.facts["parameters"], tokens=long.facts["tokens"], unique=unique)
    assert asdict(long.train) | expected == asdict(long.train)
    assert long.train.dropout >= short.train.dropout > 0
    monkeypatch.setattr(sys.modules[__name__], "FAST", 1000.0)
    assert plan(data, minutes=0.05, preset="dust").train.dropout == 0


def test_a_text_that_is_large_for_the_time_is_said_plainly(data, machine, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "FAST", 1000.0)
    facts = plan(data, minutes=0.05).facts
    assert facts["epochs"] < 1
    assert any("The text is large for this much time" in reason for reason in facts["reasons"])


@pytest.mark.parametrize(
    ("minutes", "epochs", "expected"),
    [(0.2, 0.6, "0.4"), (10, 0.98, "10.3"), (10, 0.5, "20"), (0.05, 0.999, "0.1"), (10, 1e-5, "1,000,000")],
)
def test_the_minutes_that_are_enough_are_more_than_those_that_are_not(minutes, epochs, expected):
    (sentence,) = text_reasons({"seconds": 60 * minutes, "epochs": epochs})
    assert f"With {expected} minutes all of it would be." in sentence


def test_a_context_fits_the_text(tmp_path, machine):
    prepare([write_stories(tmp_path / "a.txt", 45)], out=tmp_path / "data")
    chosen = plan(tmp_path / "data", minutes=1)
    tokens = read_json(tmp_path / "data" / "manifest.json")["stages"]["tokens"]["facts"]["train"]["tokens"]
    assert chosen.model.context <= tokens / 40


@pytest.mark.parametrize("place", ["nothing", "folder", "file", "foreign", "unfinished"])
def test_what_is_no_prepared_data_is_refused(data, tmp_path, machine, place):
    target = tmp_path / place
    if place == "file":
        target.write_text("x")
    elif place != "nothing":
        target.mkdir()
    if place == "foreign":
        (target / "manifest.json").write_text('{"name": "my site"}')
    if place == "unfinished":
        manifest = read_json(data / "manifest.json")
        del manifest["stages"]["tokens"]
        (target / "manifest.json").write_text(json.dumps(manifest))
    for ask in (plan, lambda where: stored_plan(where, tmp_path / "plan.json", minutes=1.0)):
        with pytest.raises(UserError) as caught:
            ask(target)
        assert str(target) in str(caught.value)


def test_what_is_fixed_of_a_shape_is_planned_for(data, machine):
    usual = plan(data, minutes=10, preset="dust")
    short = plan(data, minutes=10, preset="dust", fixed={"context": usual.model.context // 4})
    assert [shape.context for shape in machine[-1:]] == [short.model.context]
    assert short.model.context == short.facts["model"]["context"] == usual.model.context // 4
    assert short.train.batch == 4 * usual.train.batch
    assert short.facts["tokens"] == usual.facts["tokens"] == pytest.approx(tokens_planned(short), rel=0.01)
    assert "There is no setting model.lairs. Did you mean model.layers?" in refused(USAGE, data, fixed={"lairs": 2})


@pytest.mark.parametrize(
    ("family", "fixed", "fitting"),
    [
        ("decoder", {"heads": 8}, lambda sizes: 8 % sizes["kv_heads"] == 0),
        ("encoder", {"width": 256}, lambda sizes: 256 % sizes["heads"] == 0),
    ],
)
def test_sizes_that_cannot_be_with_what_is_fixed_are_left_out(data, machine, family, fixed, fitting):
    names = [name for name, sizes in load_presets(family).items() if fitting(sizes)]
    facts = plan(data, minutes=10, family=family, fixed=fixed).facts
    assert 0 < len(names) < len(load_presets(family))
    assert {candidate["preset"] for candidate in facts["candidates"]} <= {*names}
    assert fixed.items() <= facts["model"].items()
    other = next(name for name in load_presets(family) if name not in names)
    assert "must be a multiple of its" in refused(USAGE, data, family=family, preset=other, fixed=fixed)
    assert "must be a multiple of its" in refused(USAGE, data, family=family, fixed={"heads": 11})


def tokens_planned(chosen: Plan) -> int:
    return chosen.train.steps * chosen.train.batch * chosen.model.context


@pytest.fixture
def nothing_spent(monkeypatch):
    """Whoever counts, measures or times fails."""

    def spent(*args, **choices):
        raise AssertionError("time was spent on what cannot be")

    for name in ("measure_baselines", "measure_machine", "_tokens_per_second"):
        monkeypatch.setattr(module, name, spent)


CHOICES = {"minutes": 1.0, "family": "decoder", "preset": "", "start": "", "seed": 0, "device": "auto"}


def refused_settings(data, out, changes: list[str], **choices) -> str:
    """What is said of them; the folder is not even made."""
    with pytest.raises(UserError) as caught:
        train_settings(data, out, config=None, changes=changes, **{**CHOICES, **choices})
    assert not out.exists()
    return str(caught.value)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (["model.context=many"], "The setting model.context must be int"),
        (["model.context=2026-01-01"], "The setting model.context must be int"),
        (["model.context=0"], "The model's context must be at least 1"),
        (["model.context=100000"], "too few for a context of 100000. Add text, or set a shorter model.context."),
        (["model.context=100000", "model.heads=8"], "too few for a context of 100000"),
        (["model.lairs=2"], "There is no setting model.lairs. Did you mean model.layers?"),
        (["model.heads=11"], "The model's heads (11) must be a multiple of its kv_heads"),
        (["model.vocabulary=10"], "The model's vocabulary (10) is smaller than the tokenizer's"),
        (["model.norm=layer"], "No folder that Bimo writes can hold a model of this shape."),
        (["model.family=lstm"], "The setting model.family is lstm, but what is planned is of the family decoder."),
        (["model=3"], "The setting model must be"),
        (["mode.context=64"], "There is no setting mode"),
        (["train.bacth=8"], "There is no setting train.bacth. Did you mean train.batch?"),
        (["train.batch=many"], "The setting train.batch must be int, but is 'many'."),
        (["train.batch=0"], "train.batch must be at least 1"),
        (["train.device=tpu"], "The device tpu is not on this machine"),
        (["train=3"], "The setting train must be"),
    ],
)
@pytest.mark.usefixtures("nothing_spent")
def test_changes_that_cannot_be_are_refused_before_anything_is_counted_or_measured(data, tmp_path, changes, sentence):
    assert sentence in refused_settings(data, tmp_path / "model", changes)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ("model.context=4", "context must be at least 8 to learn from masked words"),
        ("model.context=100000", "too few for a context of"),
        ("model.head.labels=[2026-01-01]", "The setting model.head.labels must be"),
        ("train.noise=0.1", "train.noise has no place in training a model of the family encoder"),
    ],
)
@pytest.mark.usefixtures("nothing_spent")
def test_what_encoders_cannot_learn_from_is_refused_as_early(data, tmp_path, change, sentence):
    assert sentence in refused_settings(data, tmp_path / "model", [change], family="encoder")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ("model.width=32", "is of another shape than the settings describe"),
        ("model.window=8", "There is no setting model.window"),
        ("model.context=2026-01-01", "The setting model.context must be int"),
        ("model.family=lstm", "what is planned is of the family decoder"),
    ],
)
@pytest.mark.usefixtures("nothing_spent")
def test_what_a_model_to_go_on_with_is_not_is_refused_as_early(data, small, tmp_path, change, sentence):
    assert sentence in refused_settings(data, tmp_path / "out", [change], start=str(small))


def test_what_is_planned_anyway_may_be_asked_for(data, small, machine, tmp_path):
    named = train_settings(data, tmp_path / "a", config=None, changes=["model.family=decoder"], **CHOICES)
    assert train_settings(data, tmp_path / "a", config=None, changes=[], **CHOICES) == named
    changes = ["model.family=decoder", "model.width=16"]
    onward = train_settings(data, tmp_path / "b", config=None, changes=changes, **{**CHOICES, "start": str(small)})
    assert onward.model.width == 16


def test_a_fixed_context_that_does_not_fit_into_memory_is_named(data, machine, monkeypatch):
    measure = module.measure_machine
    small = {"memory_bytes": 10**9}
    monkeypatch.setattr(module, "measure_machine", lambda device: Machine(**{**vars(measure(device)), **small}))
    sentence = refused(NO_ROOM, data, fixed={"context": 4_000})
    assert "Training dust with model.context=4000 needs about" in sentence
    assert "A lower setting" in sentence
    assert not machine


def test_a_plan_is_of_the_shape_that_was_asked_for(data, machine, tmp_path):
    choices = {**CHOICES, "preset": "dust"}
    chosen = train_settings(data, tmp_path / "model", config=None, changes=["model.context=32"], **choices)
    kept = read_json(tmp_path / "model" / "bimo" / "plan.json")
    assert chosen.model.context == kept["model"]["context"] == kept["train"]["context"] == 32
    assert chosen.train.steps == kept["train"]["steps"]


def test_a_stored_plan_is_used_again_while_nothing_changed(data, machine, tmp_path):
    path = tmp_path / "bimo" / "plan.json"
    first = stored_plan(data, path, minutes=1)
    count = len(machine)
    again = stored_plan(data, path, minutes=1)
    assert (again.model, again.train) == (first.model, first.train)
    assert len(machine) == count
    for choice in (
        {"minutes": 2},
        {"minutes": 1, "seed": 1},
        {"minutes": 1, "fixed": {"context": 32}},
        {"minutes": 1, "preset": "drop"},
    ):
        stored_plan(data, path, **choice)
        assert len(machine) > count
        count = len(machine)
    assert read_json(path.with_name("machine.json")) == read_json(path)["machine"]
    path.with_name("manifest.json").write_text("{}", encoding="utf-8")
    kept = path.read_bytes()
    with pytest.raises(UserError, match="was planned for other text or with other choices"):
        stored_plan(data, path, minutes=3)
    assert path.read_bytes() == kept
    stored_plan(data, path, minutes=1, preset="drop")


def test_a_plan_does_not_change_under_a_training_that_began_while_it_was_made(data, machine, tmp_path, monkeypatch):
    path = tmp_path / "bimo" / "plan.json"
    planned = module.plan

    def meanwhile(*given, **choices):
        stored = planned(*given, **choices)
        path.parent.mkdir()
        for name in ("plan.json", "manifest.json"):
            path.with_name(name).write_text("{}", encoding="utf-8")
        return stored

    monkeypatch.setattr(module, "plan", meanwhile)
    with pytest.raises(UserError, match="was planned for other text or with other choices"):
        stored_plan(data, path, minutes=1)
    assert path.read_text(encoding="utf-8") == "{}"


def test_of_two_who_plan_at_once_both_have_the_plan_of_the_first(data, machine, tmp_path, monkeypatch):
    path = tmp_path / "bimo" / "plan.json"
    planned, others = module.plan, []

    def measures_while_the_other_one_does(*given, **choices):
        if others:
            return planned(*given, **choices)
        others.append(None)
        others[0] = stored_plan(data, path, minutes=1)
        return planned(*given, **choices | {"minutes": 2})

    monkeypatch.setattr(module, "plan", measures_while_the_other_one_does)
    assert stored_plan(data, path, minutes=1).train == others[0].train


def test_a_stored_plan_holds_wherever_the_model_to_go_on_with_was_moved(data, small, machine, tmp_path):
    path = tmp_path / "bimo" / "plan.json"
    first = stored_plan(data, path, minutes=1, start=str(small))
    count = len(machine)
    moved = shutil.copytree(small, tmp_path / "elsewhere")
    again = stored_plan(data, path, minutes=1, start=str(moved))
    assert len(machine) == count
    assert again.train == replace(first.train, start=str(moved))


def test_text_that_cannot_be_written_beside_is_planned_all_the_same(data, machine, tmp_path, monkeypatch, capsys):
    moved = shutil.copytree(data, tmp_path / "data")
    (moved / "baselines.json").unlink()
    monkeypatch.setattr(baselines, "write_json", lambda *_: os.stat(tmp_path / "closed"))
    assert plan(moved, minutes=1, console=Console()).train.steps
    assert "The figures are not kept, for" in capsys.readouterr().err


def test_expectation_follows_size_text_and_repetition():
    def ratio(parameters: int, tokens: int, unique: int, order_gain: float = 0.0) -> float:
        return expected_ratio(parameters, tokens=tokens, unique=unique, order_gain=order_gain)

    usual = ratio(10**7, 10**7, 10**7)
    assert ratio(10**8, 10**7, 10**7) < usual
    assert ratio(10**7, 10**8, 10**8) < ratio(10**7, 10**8, 10**7) < usual
    assert ratio(10**7, 10**7, 10**7, 0.02) < usual
    assert 0 < ratio(10**9, 10**12, 10**12, 0.5) < ratio(10**8, 10**12, 10**12, 0.5)


NOVELS, STORIES = (1_189_053, 0.0, 2.245), (490_701, 0.073, 1.555)
"""Tokens, what the last order gains, and Kneser-Ney's bits per byte after a megabyte."""


@pytest.mark.parametrize(
    ("text", "parameters", "tokens", "reached"),
    [
        (NOVELS, 725_856, 1_595_392, 2.004),
        (NOVELS, 1_377_664, 989_184, 2.044),
        (NOVELS, 3_001_024, 520_192, 2.135),
        (NOVELS, 1_377_664, 3_360_768, 1.879),
        (NOVELS, 3_001_024, 1_716_224, 1.917),
        (STORIES, 1_246_592, 3_151_872, 1.045),
        (STORIES, 2_804_416, 1_390_592, 1.080),
        (STORIES, 2_804_416, 5_744_640, 0.981),
        (STORIES, 5_607_424, 2_500_608, 1.050),
        ((1_501_890, 0.005, 2.025), 750_432, 1_683_456, 1.753),
        ((4_813_701, 0.0008, 2.475), 3_492_544, 13_451_264, 1.708),
    ],
)
def test_expectation_is_what_runs_reached(
    text: tuple[int, float, float], parameters: int, tokens: int, reached: float
) -> None:
    """Runs of docs/log.md, of sizes that suited their time and of others."""
    unique, gain, kneser_ney = text
    ratio = expected_ratio(parameters, tokens=tokens, unique=unique, order_gain=gain)
    assert ratio * kneser_ney == pytest.approx(reached, rel=0.06)


def test_a_plan_for_people_has_every_figure(data, machine):
    lines = "\n".join(plan_lines(plan(data, minutes=1).facts))
    for word in ("Model", "Training", "Text", "Needs", "Expect", "Kneser-Ney"):
        assert word in lines


def test_a_real_measurement_is_plausible(monkeypatch):
    import torch

    shape = ModelConfig(vocabulary=64, layers=1, width=16, heads=2, kv_heads=2, head_width=8, hidden=32, context=16)
    rate = module._tokens_per_second(shape, 2, "float32", torch.device("cpu"), seconds=0.05)
    assert 1 < rate < 1e8


def test_a_container_has_what_it_may_take(tmp_path, monkeypatch):
    (tmp_path / "limited").write_text("4000000000\n")
    (tmp_path / "unlimited").write_text("max\n")
    cpu = torch.device("cpu")
    monkeypatch.setattr(machine_file, "MEMORY_LIMITS", (tmp_path / "unlimited", tmp_path / "none"))
    whole = machine_file.memory_bytes(cpu)
    monkeypatch.setattr(machine_file, "MEMORY_LIMITS", (tmp_path / "unlimited", tmp_path / "limited"))
    assert machine_file.memory_bytes(cpu) == min(whole, 4_000_000_000)


def test_a_number_format_that_the_processor_lacks_takes_no_longer_than_others(monkeypatch) -> None:
    """A large product of bfloat16 takes seconds where it is put together from float32."""
    sides = []

    def flops(device: torch.device, dtype: torch.dtype, side: int, seconds: float) -> float:
        sides.append((dtype, side))
        return 1e9 if dtype == torch.bfloat16 else 1e11

    monkeypatch.setattr(machine_file, "_best_flops", flops)
    assert measure_machine(torch.device("cpu")).matrix_flops == {"float32": 1e11, "bfloat16": 1e9}
    assert sides == [(torch.float32, 256), (torch.float32, 1024), (torch.bfloat16, 256)]


def test_a_machine_too_busy_to_be_measured_in_time_is_measured_once() -> None:
    rates = measure_machine(torch.device("cpu"), seconds=0.0).matrix_flops
    assert all(0 < rate < float("inf") for rate in rates.values())
