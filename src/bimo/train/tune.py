"""Supervised tuning: a model that exists learns from lessons, all of it or an adapter beside it, resumable as ever."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bimo.config import require_ranges
from bimo.console import Console
from bimo.machine import peak_memory_bytes
from bimo.models.lora import Adapter, LoRAConfig, adapter_of, attach_adapter, new_adapter
from bimo.models.transformer import Decoder
from bimo.runtime import seed_everything, t
from bimo.tokens.chat import Lesson
from bimo.train.lessons import LessonBatches
from bimo.train.loop import Saving, StepFacts, Trainer, is_due, keep_to_time
from bimo.train.losses import answer_loss
from bimo.train.metrics import Metrics

__all__ = ["TuneConfig", "Tuning", "held_out_loss"]

LORA_RATE, FULL_RATE = 1e-3, 5e-5
"""Learning rates of AdamW. The first lowered the held-out loss of a real model (docs/log.md); the second is untried."""

WARMUP, DECAY, CLIP = 0.05, 0.9, 1.0
MOST_WORSE = -0.5
"""A model that can speak already has little to gain, but its loss must not grow by half either."""


RANGES = {
    "epochs": "above 0",
    "minutes": "0 or more",
    "rate": "0 or more",
    "batch": "at least 1",
    "context": "at least 2",
    "validations": "0 or more",
    "seed": "0 or more, below 2^63",
}


@dataclass(frozen=True)
class TuneConfig:
    """How to tune. `lora` None changes all weights; `rate` 0 takes the usual one; `batch` counts conversations.

    `minutes` ends it earlier than `epochs` would; 0 does not. Raises UserError when a number is out of range.
    """

    lora: LoRAConfig | None = None
    epochs: float = 2.0
    minutes: float = 0.0
    rate: float = 0.0
    batch: int = 8
    context: int = 1024
    validations: int = 4
    seed: int = 0

    def __post_init__(self) -> None:
        fits = {
            "epochs": 0 < self.epochs < math.inf,
            "minutes": 0 <= self.minutes < math.inf,
            "rate": 0 <= self.rate < math.inf,
            "batch": self.batch >= 1,
            "context": self.context >= 2,
            "validations": self.validations >= 0,
            "seed": 0 <= self.seed < 2**63,
        }
        require_ranges(self, fits, lambda name: t(RANGES[name]))


@torch.no_grad()
def held_out_loss(model: Decoder, lessons: list[Lesson], *, batch: int) -> float:
    """Mean cross-entropy in nats of all tokens that count, each once."""
    training = model.training
    model.eval()
    losses = [answer_loss(model, part) for part in LessonBatches(lessons, batch=batch, seed=0)]
    model.train(training)
    return sum(loss.item() * counted for loss, counted in losses) / sum(counted for _, counted in losses)


class Tuning:
    """One tuning in one folder `home`: what the hooks of the loop share. `answer_bytes` are those of `held_out`."""

    def __init__(
        self,
        model: Decoder,
        lessons: list[Lesson],
        held_out: list[Lesson],
        settings: TuneConfig,
        *,
        answer_bytes: int,
        home: Path,
        console: Console,
    ) -> None:
        self.model, self.held_out, self.settings, self.console = model, held_out, settings, console
        self.home, self.answer_bytes = home, answer_bytes
        self.batches = LessonBatches(lessons, batch=settings.batch, seed=settings.seed)
        self.metrics, self._saving = Metrics(home / "metrics.jsonl"), Saving()
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
        rate = settings.rate or (FULL_RATE if self.lora is None else LORA_RATE)
        steps = max(1, round(settings.epochs * self.batches.steps_per_epoch))
        before = self._loss()
        self._say_loss(before, 0)
        trainer = Trainer(
            self.model,
            [torch.optim.AdamW(trained, lr=rate, betas=(0.9, 0.99), weight_decay=0.0)],
            self.batches,
            objective=answer_loss,
            folder=self.home / "checkpoints",
            steps=steps,
            warmup=WARMUP,
            decay=DECAY,
            clip=CLIP,
            on_step=[
                self._log,
                *keep_to_time(settings.minutes, self.metrics.write, most=steps),
                self._validate,
                self._saving,
            ],
            on_event=self._note,
            least_progress=MOST_WORSE,
        )
        with self.console.progress("Tuning", 1.0) as self._update:
            trainer.run()
        kept = trainer.take_best()
        self.model.eval()
        progress, after = trainer.progress, self._loss()
        return {
            "held_out_loss": {"before": before, "after": after},
            "held_out_bits_per_byte": {"before": self._bits(before), "after": self._bits(after)},
            "trained_parameters": sum(weight.numel() for weight in trained),
            "parameters": self.model.config.parameters,
            "learning_rate": rate,
            "steps": progress.step,
            "weights_of_step": kept,
            "epochs": progress.step / self.batches.steps_per_epoch,
            "targets": progress.targets,
            "seconds": progress.seconds,
            "targets_per_second": progress.targets / progress.seconds,
            "peak_memory_bytes": peak_memory_bytes(),
            "resumed": progress.resumed,
        }

    def _loss(self) -> float:
        return held_out_loss(self.model, self.held_out, batch=self.settings.batch)

    def _bits(self, loss: float) -> float:
        """Bits per byte of what the assistant says in conversations that are not tuned on."""
        return loss * sum(sum(lesson.counted) for lesson in self.held_out) / math.log(2) / self.answer_bytes

    def _say_loss(self, loss: float, step: int) -> None:
        text = t("held-out loss {loss:.3f} after {step:,} steps", loss=loss, step=step)
        self.console.say("Validate", text)

    def _log(self, trainer: Trainer, facts: StepFacts | None) -> None:
        if facts is None:
            return
        progress = trainer.progress
        event = {"event": "step", "step": progress.step, "tokens": progress.targets, "loss": facts.loss}
        seconds = {"seconds": round(progress.seconds, 3), "gradient_norm": facts.gradient_norm}
        self.metrics.write({**event, **seconds})
        left = progress.seconds * (progress.steps / progress.step - 1)
        line = t(
            "loss {loss:.3f}, {rate:,.0f} answer tokens/s, {minutes:.0f}:{seconds:02.0f} left",
            loss=trainer.health.recent_loss,
            rate=progress.targets / progress.seconds,
            minutes=left // 60,
            seconds=left % 60,
        )
        self._update(progress.step / progress.steps, line)

    def _validate(self, trainer: Trainer, facts: StepFacts | None) -> None:
        progress = trainer.progress
        if not is_due(progress, self.settings.validations):
            return
        loss = self._loss()
        where = {"step": progress.step, "seconds": round(progress.seconds, 3)}
        self.metrics.write({"event": "validation", **where, "loss": loss, "bits_per_byte": self._bits(loss)})
        self._say_loss(loss, progress.step)
        sentence = trainer.health.diverges(progress.step, self._bits(loss))
        if sentence is not None:
            self.console.warn(sentence)
            self.metrics.write({"event": "stopped", "step": progress.step, "reason": sentence})
            trainer.stop_early()
        self._saving.now()

    def _note(self, event: dict[str, Any]) -> None:
        if event["event"] in ("started", "resumed"):
            self.metrics.forget_after(event["step"] if event["event"] == "resumed" else -1)
        if event["event"] == "resumed":
            self.console.say("Tuning", t("goes on from step {step:,}", step=event["step"]))
        elif event["event"] != "started":
            self.console.warn(t("step {step}: the loss was not a number; {event}", **event))
        self.metrics.write(event)
