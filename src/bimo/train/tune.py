"""Tuning: a model that exists learns a task, all of it or an adapter beside it, resumable as ever."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import nn

from bimo.config import require_ranges
from bimo.console import Console, clock
from bimo.files import require_room
from bimo.machine import peak_memory_bytes
from bimo.models.lora import Adapter, LoRAConfig, adapter_of, attach_adapter, new_adapter
from bimo.runtime import seed_everything, t
from bimo.train.checkpoint import disk_bytes
from bimo.train.following import Following
from bimo.train.health import MOST_WORSE
from bimo.train.loop import StepFacts, Trainer, keep_to_time
from bimo.train.metrics import Metrics
from bimo.train.objectives import Objective

__all__ = ["EpochBatches", "TuneConfig", "Tuning"]

WARMUP, DECAY, CLIP = 0.05, 0.9, 1.0

RANGES = {
    "epochs": "0 or more",
    "minutes": "0 or more",
    "rate": "0 or more",
    "batch": "0 or more",
    "context": "0, or at least 2",
    "beta": "0 or more",
    "validations": "0 or more",
    "seed": "0 or more, below 2^63",
}


@dataclass(frozen=True)
class TuneConfig:
    """How to tune. `lora` None changes all weights; `batch` counts examples, `context` tokens of each.

    0 takes what is usual for a task. `minutes` ends it earlier than `epochs` would; 0 does not. `beta` is for
    preferences: how much going away from the model as it was counts against what is preferred. Raises UserError when a
    number is out of range.
    """

    lora: LoRAConfig | None = None
    epochs: float = 0.0
    minutes: float = 0.0
    rate: float = 0.0
    batch: int = 0
    context: int = 0
    beta: float = 0.0
    validations: int = 4
    seed: int = 0

    def __post_init__(self) -> None:
        fits = {
            "epochs": 0 <= self.epochs < math.inf,
            "minutes": 0 <= self.minutes < math.inf,
            "rate": 0 <= self.rate < math.inf,
            "batch": self.batch >= 0,
            "context": self.context == 0 or self.context >= 2,
            "beta": 0 <= self.beta < math.inf,
            "validations": self.validations >= 0,
            "seed": 0 <= self.seed < 2**63,
        }
        require_ranges(self, fits, lambda name: t(RANGES[name]))

    def filled(
        self, *, rate: float, epochs: float = 2.0, batch: int = 8, context: int = 1024, beta: float = 0.0
    ) -> TuneConfig:
        """With what is usual for a task wherever 0 stands."""
        return replace(
            self,
            rate=self.rate or rate,
            epochs=self.epochs or epochs,
            batch=self.batch or batch,
            context=self.context or context,
            beta=self.beta or beta,
        )


class EpochBatches(Protocol):
    """Batches as a function of the step, the same number of them in every epoch."""

    @property
    def steps_per_epoch(self) -> int:
        """How many."""

    def at(self, step: int) -> Any:
        """The batch of a step."""


class Tuning:
    """One tuning in one folder `home`: what the hooks of the loop share.

    `objective` knows what is held out; `settings` are filled, see TuneConfig.
    """

    def __init__(
        self,
        model: nn.Module,
        objective: Objective,
        batches: EpochBatches,
        settings: TuneConfig,
        *,
        home: Path,
        console: Console,
    ) -> None:
        self.model, self.objective, self.batches = model, objective, batches
        self.settings, self.home, self.console = settings, home, console
        self.metrics = Metrics(home / "metrics.jsonl")
        self.lora: LoRAConfig | None = None
        if settings.lora is not None:
            adapter = new_adapter(model, settings.lora, seed=settings.seed)
            self.lora = adapter.config
            attach_adapter(model, adapter)

    @property
    def adapter(self) -> Adapter | None:
        """What was learned beside the weights; None where the weights themselves learn."""
        return None if self.lora is None else adapter_of(self.model, self.lora)

    def run(self) -> dict[str, Any]:
        """Tune to the end, or go on from where it stopped, and keep what did best. Returns what happened."""
        settings = self.settings
        seed_everything(settings.seed)
        trained = [weight for weight in self.model.parameters() if weight.requires_grad]
        own = [weight for name, weight in self.model.named_parameters() if ".low_rank." not in name]
        steps = max(1, round(settings.epochs * self.batches.steps_per_epoch))
        require_room(self.home, disk_bytes(sum(weight.numel() for weight in trained)))
        before = self.objective.validate(self.model)
        self.console.say("Validate", self.objective.verdict(before[self.objective.measure], 0))
        following = Following(
            self.model,
            self.objective,
            title="Tuning",
            times=settings.validations,
            metrics=self.metrics,
            console=self.console,
            tokens=lambda progress: progress.targets,
        )
        trainer = Trainer(
            self.model,
            [torch.optim.AdamW(trained, lr=settings.rate, betas=(0.9, 0.99), weight_decay=0.0)],
            self.batches,
            objective=self.objective.loss,
            folder=self.home / "checkpoints",
            steps=steps,
            warmup=WARMUP,
            decay=DECAY,
            clip=CLIP,
            on_step=[
                self._log,
                *keep_to_time(settings.minutes, self.metrics.write, most=steps),
                following.validate,
                following.saving,
            ],
            on_event=following.note,
            least_progress=MOST_WORSE,
            remedy=t("Give a lower --rate."),
        )
        with self.console.progress("Tuning", 1.0) as self._update:
            trainer.run()
        kept = trainer.take_best()
        self.model.eval()
        progress = trainer.progress
        return {
            "held_out": {"before": before, "after": self.objective.validate(self.model)},
            "trained_parameters": sum(weight.numel() for weight in trained),
            "parameters": sum(weight.numel() for weight in own),
            "learning_rate": settings.rate,
            "steps": progress.step,
            "weights_of_step": kept,
            "epochs": progress.step / self.batches.steps_per_epoch,
            "targets": progress.targets,
            "seconds": progress.seconds,
            "targets_per_second": progress.targets / progress.seconds,
            "peak_memory_bytes": peak_memory_bytes(),
            "resumed": progress.resumed,
        }

    def _log(self, trainer: Trainer, facts: StepFacts | None) -> None:
        if facts is None:
            return
        progress = trainer.progress
        event = {"event": "step", "step": progress.step, "tokens": progress.targets, "loss": facts.loss}
        event |= self.objective.facts(facts.loss)
        seconds = {"seconds": round(progress.seconds, 3), "gradient_norm": facts.gradient_norm}
        self.metrics.write({**event, **seconds})
        left = progress.seconds * (progress.steps / progress.step - 1)
        line = t(
            "{loss}, {rate:,.0f} targets/s, {left} left",
            loss=self.objective.line(trainer.health.recent_loss),
            rate=progress.targets / progress.seconds,
            left=clock(left),
        )
        self._update(progress.step / progress.steps, line)
