"""The loop and what guards it: interrupted equals uninterrupted, bad numbers are survived, hopeless runs end."""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from bimo.files import digest_file, read_metrics
from bimo.models.config import ModelConfig
from bimo.models.transformer import Decoder
from bimo.runtime import INTERRUPTED, UserError, set_language
from bimo.train.checkpoint import keep_only, load_newest, save_checkpoint
from bimo.train.health import FIRST_LOOK_STEPS, FIRST_STEPS, LEAST_PROGRESS, Health
from bimo.train.loop import Hook, Trainer, momentum_at, rate_at
from bimo.train.losses import next_token_loss
from bimo.train.metrics import Metrics
from bimo.train.optim import build_optimizers

SHAPE = ModelConfig(vocabulary=31, layers=2, width=16, heads=2, kv_heads=1, head_width=8, hidden=24, context=8)


@pytest.fixture(autouse=True)
def _english():
    set_language("en")
    yield
    set_language(None)


class Windows:
    """Batches that depend on the step alone."""

    def at(self, step: int) -> np.ndarray:
        return np.random.default_rng(step).integers(0, SHAPE.vocabulary, size=(2, SHAPE.context + 1))


def noisy_loss(model: Decoder, windows: np.ndarray) -> tuple[torch.Tensor, int]:
    """The usual loss with exchanged tokens: they come from torch's random numbers, which must be resumed as well."""
    return next_token_loss(model, windows, noise=0.2)


class Killed(Exception):
    """Stands for the end of the process."""


def save_every(steps: int) -> Hook:
    def save(trainer: Trainer, facts: Any) -> None:
        if trainer.progress.step % steps == 0:
            trainer.save()

    return save


def die_at(step: int) -> Hook:
    def die(trainer: Trainer, facts: Any) -> None:
        if trainer.progress.step == step:
            raise Killed

    return die


def make_trainer(folder: Path, *, steps: int = 12, seed: int = 0, **changes: Any) -> Trainer:
    torch.manual_seed(seed)
    model = Decoder(SHAPE, dropout=0.1).initialise(seed)
    optimizers = build_optimizers(model, muon_rate=0.02, adam_rate=0.01, weight_decay=0.1)
    usual = {"objective": noisy_loss, "on_step": [save_every(3)], "on_event": lambda event: None}
    settings = {"warmup": 0.2, "decay": 0.5, "clip": 1.0, **usual, **changes}
    return Trainer(model, optimizers, Windows(), folder=folder, steps=steps, **settings)


def everything(trainer: Trainer) -> dict[str, torch.Tensor]:
    """All numbers of a training, by name."""
    numbers = {name: weight.detach().clone() for name, weight in trainer.model.named_parameters()}
    for index, optimizer in enumerate(trainer.optimizers):
        for weight, entries in optimizer.state_dict()["state"].items():
            numbers |= {f"{index}/{weight}/{name}": torch.as_tensor(value).clone() for name, value in entries.items()}
    return {**numbers, "random": torch.get_rng_state()}


def assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    trainer = make_trainer(tmp_path_factory.mktemp("uninterrupted"))
    trainer.run()
    return everything(trainer)


@pytest.mark.parametrize("deaths", [[1], [3], [4], [8], [11], [12], [2, 5, 5, 7, 10]], ids=str)
def test_resumed_equals_uninterrupted_bit_for_bit(tmp_path, uninterrupted, deaths):
    for death in deaths:
        trainer = make_trainer(tmp_path, on_step=[save_every(3), die_at(death)])
        with pytest.raises(Killed):
            trainer.run()
    # Another seed: whatever is not restored would show.
    trainer = make_trainer(tmp_path, seed=9)
    trainer.run()
    assert_same(everything(trainer), uninterrupted)
    assert trainer.progress.step == 12
    assert trainer.progress.targets == 12 * 2 * SHAPE.context
    assert 1 <= trainer.progress.resumed <= len(deaths)


def test_another_seed_gives_other_weights(tmp_path, uninterrupted):
    trainer = make_trainer(tmp_path, seed=9)
    trainer.run()
    assert not torch.equal(everything(trainer)["embedding.weight"], uninterrupted["embedding.weight"])


def test_a_finished_run_does_nothing_more(tmp_path, uninterrupted):
    make_trainer(tmp_path).run()
    again = make_trainer(tmp_path, seed=9, objective=None)
    again.run()
    assert_same(everything(again), uninterrupted)


def damage(path: Path, how: str) -> None:
    content = path.read_bytes()
    if how == "delete":
        path.unlink()
    elif how == "cut":
        path.write_bytes(content[: len(content) // 2])
    elif how == "empty":
        path.write_bytes(b"")
    else:
        middle = len(content) * 3 // 4
        path.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])


@pytest.mark.parametrize("how", ["delete", "cut", "empty", "flip"])
@pytest.mark.parametrize("name", ["weights.safetensors", "optimizer.safetensors", "state.json"])
def test_a_damaged_checkpoint_falls_back_to_the_one_before(tmp_path, name, how):
    trainer = make_trainer(tmp_path, steps=3, on_step=[])
    trainer.run()
    for step in (3, 4):
        trainer.progress.step = step
        save_checkpoint(tmp_path, trainer.model, trainer.optimizers, {"step": step}, step=step)
    damage(tmp_path / "step-00000004" / name, how)
    assert load_newest(tmp_path, trainer.model, trainer.optimizers) == {"step": 3}


def test_a_run_goes_on_from_an_older_checkpoint_when_the_newest_is_damaged(tmp_path, uninterrupted):
    """The last two good ones are kept: one damaged file must not cost the whole training."""
    with pytest.raises(Killed):
        make_trainer(tmp_path, on_step=[save_every(3), die_at(10)]).run()
    damage(tmp_path / "step-00000009" / "weights.safetensors", "cut")
    trainer = make_trainer(tmp_path, seed=9)
    started = []
    trainer.on_event = started.append
    trainer.run()
    assert started == [{"event": "resumed", "step": 6}]
    assert_same(everything(trainer), uninterrupted)


def test_nothing_is_loaded_from_a_folder_without_checkpoints(tmp_path):
    trainer = make_trainer(tmp_path / "none")
    before = everything(trainer)
    assert not trainer.restore()
    assert_same(everything(trainer), before)
    (tmp_path / "none" / "step-00000001").mkdir(parents=True)
    assert not trainer.restore()


def test_a_checkpoint_holds_plain_files_and_their_digests(tmp_path):
    trainer = make_trainer(tmp_path, steps=2)
    trainer.run()
    trainer.save()
    folder = tmp_path / "step-00000002"
    assert {path.name for path in folder.iterdir()} == {"weights.safetensors", "optimizer.safetensors", "state.json"}
    record = json.loads((folder / "state.json").read_text())
    assert record["sha256"] == {
        name: digest_file(folder / name) for name in ("weights.safetensors", "optimizer.safetensors")
    }
    assert record["state"]["progress"]["step"] == record["step"] == 2


def test_a_restore_of_a_certain_step(tmp_path):
    trainer = make_trainer(tmp_path, steps=6, on_step=[])
    trainer.run()
    at_six = everything(trainer)
    save_checkpoint(tmp_path, trainer.model, trainer.optimizers, {"n": 6}, step=6)
    with torch.no_grad():
        trainer.model.embedding.weight.zero_()
    save_checkpoint(tmp_path, trainer.model, trainer.optimizers, {"n": 7}, step=7)
    assert load_newest(tmp_path, trainer.model, trainer.optimizers, step=6) == {"n": 6}
    assert torch.equal(trainer.model.embedding.weight, at_six["embedding.weight"])
    assert load_newest(tmp_path, trainer.model, trainer.optimizers, step=5) is None


def test_only_the_wanted_checkpoints_and_no_leftovers_are_kept(tmp_path):
    left = ("step-00000004.bimo-part", "step-00000003.bimo-old")
    for name in ("step-00000001", "step-00000002", "step-00000003", *left, "mine"):
        (tmp_path / name).mkdir()
    keep_only(tmp_path, {2, 3})
    assert {path.name for path in tmp_path.iterdir()} == {"step-00000002", "step-00000003", "mine"}


def test_a_full_disk_leaves_the_last_checkpoint_whole(tmp_path, monkeypatch):
    from bimo.train import checkpoint

    trainer = make_trainer(tmp_path, steps=3)
    trainer.run()
    before = everything(trainer)

    def full(*arguments: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full)
    trainer.progress.step = 5
    with pytest.raises(OSError, match="No space"):
        trainer.save()
    fresh = make_trainer(tmp_path, seed=9)
    assert fresh.restore()
    assert_same(everything(fresh), before)
    assert [path.name for path in tmp_path.glob("*.bimo-part")] == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_run_after_the_step_with_all_saved(tmp_path, uninterrupted, number):
    handlers = {}

    def send(trainer: Trainer, facts: Any) -> None:
        if trainer.progress.step == 5:
            os.kill(os.getpid(), number)
            handlers.update({each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)})

    before = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)}
    with pytest.raises(UserError, match="Interrupted at step 5; all is saved") as caught:
        make_trainer(tmp_path, on_step=[send]).run()
    assert caught.value.code == INTERRUPTED
    # A second one acts at once; afterwards everything is as it was.
    assert set(handlers.values()) == {signal.SIG_DFL}
    assert {each: signal.getsignal(each) for each in before} == before
    trainer = make_trainer(tmp_path, seed=9)
    trainer.run()
    assert_same(everything(trainer), uninterrupted)


def test_a_run_outside_the_main_thread_works(tmp_path, uninterrupted):
    trainer = make_trainer(tmp_path)
    thread = threading.Thread(target=trainer.run)
    thread.start()
    thread.join()
    assert trainer.progress.step == 12
    assert_same(everything(trainer), uninterrupted)


class Sick:
    """An objective whose loss or gradient is no number at some of its calls."""

    def __init__(self, calls: set[int] | None, kind: str = "loss") -> None:
        self.calls, self.kind, self.count = calls, kind, 0

    def __call__(self, model: Decoder, windows: np.ndarray) -> tuple[torch.Tensor, int]:
        loss, counted = next_token_loss(model, windows)
        self.count += 1
        if self.calls is None or self.count in self.calls:
            if self.kind == "loss":
                loss = loss * math.nan
            else:
                # The root of zero has a value but no finite slope.
                loss = loss + (model.embedding.weight.sum() * 0).sqrt()
        return loss, counted


@pytest.mark.parametrize("kind", ["loss", "gradient"])
def test_a_step_without_finite_numbers_is_skipped_and_counted(tmp_path, kind):
    events, seen = [], []
    hooks = [lambda trainer, facts: seen.append((trainer.progress.step, facts.loss, facts.gradient_norm))]
    trainer = make_trainer(tmp_path, objective=Sick({4, 5, 9}, kind), on_step=hooks, on_event=events.append)
    trainer.run()
    assert [step for step, _, _ in seen] == [1, 2, 3, 6, 7, 8, 10, 11, 12]
    assert all(math.isfinite(loss) and math.isfinite(norm) for _, loss, norm in seen)
    assert [event["step"] for event in events if event["event"] == "skipped"] == [4, 5, 9]
    assert trainer.health.skipped == 3
    assert trainer.health.roll_backs == 0
    assert trainer.progress.targets == 9 * 2 * SHAPE.context
    assert all(torch.isfinite(weight).all() for weight in trainer.model.parameters())
    json.dumps(events, allow_nan=False)


def test_a_skipped_step_leaves_no_trace_in_the_weights(tmp_path):
    trainer = make_trainer(tmp_path, steps=5, objective=Sick({5}), on_step=[])
    trainer.run()
    shorter = make_trainer(tmp_path / "other", steps=5, objective=Sick({5}), on_step=[die_at(4)])
    with pytest.raises(Killed):
        shorter.run()
    # It did draw random numbers, as any step.
    one, other = ({**everything(each), "random": torch.zeros(1)} for each in (trainer, shorter))
    assert_same(one, other)


def test_three_bad_steps_in_a_row_go_back_with_half_the_rate(tmp_path):
    events, rates = [], []
    hooks = [save_every(3), lambda trainer, facts: rates.append((trainer.progress.step, facts.rate))]
    trainer = make_trainer(
        tmp_path, objective=Sick({8, 9, 10}), on_step=hooks, on_event=events.append, warmup=0.0, decay=0.01
    )
    trainer.run()
    assert events[-1] == {"event": "rolled back", "step": 10, "to": 6, "rate_scale": 0.5}
    assert [step for step, _ in rates] == [1, 2, 3, 4, 5, 6, 7, 7, 8, 9, 10, 11, 12]
    assert {rate for _, rate in rates[:7]} == {1.0}
    assert {rate for _, rate in rates[7:]} == {0.5}
    assert (trainer.health.skipped, trainer.health.roll_backs) == (3, 1)
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.01)


def test_a_second_roll_back_halves_the_rate_again(tmp_path):
    events = []
    trainer = make_trainer(tmp_path, objective=Sick({2, 3, 4, 6, 7, 8}), on_step=[], on_event=events.append)
    trainer.run()
    scales = [event["rate_scale"] for event in events if event["event"] == "rolled back"]
    assert scales == [0.5, 0.25]


def test_bad_numbers_again_and_again_end_the_run(tmp_path):
    events = []
    trainer = make_trainer(tmp_path, steps=100, objective=Sick(None), on_step=[], on_event=events.append)
    with pytest.raises(UserError, match="again and again, 3 times"):
        trainer.run()
    assert [event["event"] for event in events].count("rolled back") == 3
    assert trainer.health.skipped == 12


def test_a_run_resumed_after_a_roll_back_keeps_its_rate_and_its_counts(tmp_path):
    hooks = [save_every(3), die_at(11)]
    with pytest.raises(Killed):
        make_trainer(tmp_path, objective=Sick({8, 9, 10}), on_step=hooks).run()
    trainer = make_trainer(tmp_path, objective=next_token_loss)
    trainer.run()
    assert trainer.progress.rate_scale == 0.5
    assert (trainer.health.skipped, trainer.health.roll_backs) == (3, 1)


def test_labels_that_are_all_masked_end_the_run(tmp_path):
    trainer = make_trainer(tmp_path, objective=lambda model, windows: (model.embedding.weight.sum(), 0))
    with pytest.raises(UserError, match="every label is masked"):
        trainer.run()


def test_a_loss_that_does_not_move_ends_the_run(tmp_path):
    class Frozen(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(3))

    def constant(model: Frozen, batch: Any) -> tuple[torch.Tensor, int]:
        return model.weight.sum() * 0 + 3, 5

    model = Frozen()
    settings = {"objective": constant, "folder": tmp_path, "warmup": 0.1, "decay": 0.5, "clip": 1.0}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    trainer = Trainer(model, [optimizer], Windows(), steps=200, on_step=[], on_event=lambda event: None, **settings)
    with pytest.raises(UserError, match=r"its loss was 3\.000 and is 3\.000 after 100 steps and 500 targets"):
        trainer.run()
    assert trainer.progress.step == FIRST_LOOK_STEPS


def test_a_run_that_learns_is_left_alone():
    health = Health()
    for step in range(1, 300):
        assert health.accepts(3.0 - 0.002 * step, 1.0)
        health.check_progress(step, step, least=LEAST_PROGRESS, remedy="")


def test_a_model_that_can_speak_already_may_stand_still_but_not_get_much_worse():
    for last, stops in ((3.0, False), (4.0, False), (5.0, True)):
        health = Health()
        for step in range(FIRST_LOOK_STEPS):
            health.accepts(3.0 if step < FIRST_STEPS else last, 1.0)
        if stops:
            with pytest.raises(UserError, match=r"is not learning: its loss was 3\.000.* Rest\."):
                health.check_progress(FIRST_LOOK_STEPS, 1, least=-0.5, remedy="Rest.")
        else:
            health.check_progress(FIRST_LOOK_STEPS, 1, least=-0.5, remedy="Rest.")


def test_one_easy_batch_at_the_beginning_is_no_measure():
    health = Health()
    for step in range(FIRST_LOOK_STEPS):
        health.accepts(0.03 if step == 0 else 0.06, 1.0)
    assert health.first_loss == pytest.approx(0.057)
    health.check_progress(FIRST_LOOK_STEPS, 1, least=-0.5, remedy="")


def test_small_losses_may_be_a_multiple_of_each_other():
    for last, stops in ((0.3, False), (0.6, True)):
        health = Health()
        for step in range(FIRST_LOOK_STEPS):
            health.accepts(0.02 if step < FIRST_STEPS else last, 1.0)
        with pytest.raises(UserError) if stops else contextlib.nullcontext():
            health.check_progress(FIRST_LOOK_STEPS, 1, least=-0.5, remedy="")


def test_validation_that_gets_worse_three_times_running_ends_the_run():
    health = Health()
    values = [2.0, 1.8, 1.9, 1.85, 1.81, 1.9, 1.9]
    assert [health.diverges(step, value) is None for step, value in enumerate(values, 1)] == [True] * 7
    sentence = health.diverges(8, 1.95)
    assert sentence is not None
    assert "since step 2 (1.800, now 1.950)" in sentence
    assert (health.best_step, health.best_validation) == (2, 1.8)


def test_validation_that_is_no_number_counts_as_worse():
    health = Health()
    assert health.diverges(1, 2.0) is None
    assert health.diverges(2, math.nan) is None
    assert health.diverges(3, math.inf) is None
    assert health.diverges(4, math.nan) is not None
    assert (health.best_step, health.best_validation) == (1, 2.0)


def test_health_goes_through_json():
    health = Health()
    health.accepts(3.0, 1.0)
    health.diverges(4, 1.5)
    restored = Health()
    restored.restore(json.loads(json.dumps(health.state)))
    assert restored.state == health.state
    untouched = Health()
    untouched.restore(json.loads(json.dumps(Health().state)))
    assert untouched.best_validation == math.inf
    assert math.isnan(untouched.first_loss)


def test_the_rate_rises_stays_and_falls_to_nearly_nothing():
    rates = [rate_at(step, 100, warmup=0.1, decay=0.5) for step in range(100)]
    assert rates[:10] == sorted(rates[:10])
    assert 0 < rates[0] < 0.1
    assert set(rates[10:51]) == {1.0}
    assert rates[50:] == sorted(rates[50:], reverse=True)
    assert rates[-1] == pytest.approx(0.02)
    assert rates[75] == pytest.approx(0.5)
    assert all(0 < rate <= 1 for rate in rates)


@pytest.mark.parametrize(("steps", "warmup", "decay"), [(1, 0.02, 0.5), (2, 0.0, 0.0), (3, 1.0, 1.0), (20, 0.5, 1.0)])
def test_the_rate_is_never_nothing_nor_more_than_full(steps, warmup, decay):
    assert all(0 < rate_at(step, steps, warmup=warmup, decay=decay) <= 1 for step in range(steps))


def test_momentum_rises_to_its_last_value():
    values = [momentum_at(step, 0.95) for step in range(400)]
    assert values[0] == pytest.approx(0.85)
    assert values == sorted(values)
    assert values[150] == pytest.approx(0.9)
    assert set(values[300:]) == {0.95}
    assert momentum_at(0, 0.05) == 0.0


def test_muon_steps_with_the_momentum_of_its_step(tmp_path):
    seen: list[float] = []
    trainer = make_trainer(
        tmp_path, on_step=[lambda trainer, facts: seen.append(trainer.optimizers[0].param_groups[0]["momentum"])]
    )
    trainer.run()
    assert seen == [momentum_at(step, 0.95) for step in range(1, 13)]


def test_the_end_may_move_while_the_run_goes_on(tmp_path):
    def shorten(trainer: Trainer, facts: Any) -> None:
        if trainer.progress.step == 4:
            trainer.progress.steps = 7

    trainer = make_trainer(tmp_path, on_step=[shorten])
    trainer.run()
    assert trainer.progress.step == 7


def test_after_an_early_stop_the_best_weights_can_be_taken_and_all_steps_count(tmp_path):
    at_best = {}

    def stop(trainer: Trainer, facts: Any) -> None:
        step = trainer.progress.step
        trainer.health.diverges(step, 1.0 if step == 3 else 2.0)
        if step == 6:
            trainer.stop_early()
        trainer.save()
        if step == 3:
            at_best.update(everything(trainer))

    trainer = make_trainer(tmp_path, on_step=[stop])
    trainer.run()
    targets = trainer.progress.targets
    again = make_trainer(tmp_path, seed=9, objective=None)
    again.run()
    for ended in (trainer, again):
        assert (ended.progress.step, ended.progress.steps) == (6, 6)
        assert ended.progress.targets == targets
        assert ended.take_best() == 3
        assert_same(everything(ended), at_best)


STRANGE = "line\u2028separator\u2029 next\x85line \x0b\x0c\x1c\x1d\x1e\r\n 笔墨"


def test_metrics_come_back_whatever_the_samples_hold(tmp_path):
    metrics = Metrics(tmp_path / "bimo" / "metrics.jsonl")
    events = [{"event": "sample", "step": step, "text": STRANGE} for step in range(3)]
    for event in events:
        metrics.write(event)
    assert list(read_metrics(metrics.path)) == events
    metrics.forget_after(1)
    assert list(read_metrics(metrics.path)) == events[:2]


def test_metrics_pass_over_a_line_that_a_dying_process_left(tmp_path):
    metrics = Metrics(tmp_path / "metrics.jsonl")
    metrics.write({"event": "step", "step": 1})
    with metrics.path.open("ab") as file:
        file.write('{"event": "sample", "step": 2, "text": "笔'.encode()[:-1])
    assert list(read_metrics(metrics.path)) == [{"event": "step", "step": 1}]
    metrics.forget_after(2)
    metrics.write({"event": "step", "step": 2})
    assert list(read_metrics(metrics.path)) == [{"event": "step", "step": 1}, {"event": "step", "step": 2}]


def test_metrics_of_a_run_that_has_none(tmp_path):
    assert list(read_metrics(tmp_path / "none.jsonl")) == []
    Metrics(tmp_path / "none.jsonl").forget_after(3)
    assert not (tmp_path / "none.jsonl").exists()
