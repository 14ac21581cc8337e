"""What a run says and keeps while it goes on: what happened to it, and how it does on text that is held out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from bimo.console import Console
from bimo.runtime import t
from bimo.train.loop import Progress, Saving, StepFacts, Trainer, is_due
from bimo.train.metrics import Metrics
from bimo.train.objectives import Objective

__all__ = ["Following"]


class Following:
    """Follows the run `title`: a hook that validates, so many `times`, one that saves, `saving`, sooner after a
    validation, and a listener to events of the loop.

    `tokens` says how many were read so far; `show` shows, after a validation, what the model can do.
    """

    def __init__(
        self,
        model: nn.Module,
        objective: Objective,
        *,
        title: str,
        times: int,
        metrics: Metrics,
        console: Console,
        tokens: Callable[[Progress], int],
        show: Callable[[Progress], None] | None = None,
    ) -> None:
        self.model, self.objective, self.title, self.times = model, objective, title, times
        self.metrics, self.console, self.tokens, self.show = metrics, console, tokens, show
        self.saving = Saving()

    def validate(self, trainer: Trainer, facts: StepFacts | None) -> None:
        """Now and then, and at the end: how it does on text that is not trained on; ends what only gets worse."""
        progress = trainer.progress
        if not is_due(progress, self.times):
            return
        found = self.objective.validate(self.model)
        where = {"step": progress.step, "tokens": self.tokens(progress), "seconds": round(progress.seconds, 3)}
        self.metrics.write({"event": "validation", **where, **found})
        measured = found[self.objective.measure]
        self.console.say("Validate", self.objective.verdict(measured, progress.step))
        if self.show is not None:
            self.show(progress)
        sentence = trainer.health.diverges(progress.step, measured)
        if sentence is not None:
            self.console.warn(sentence)
            self.metrics.write({"event": "stopped", "step": progress.step, "reason": sentence})
            trainer.stop_early()
        self.saving.now()

    def note(self, event: dict[str, Any]) -> None:
        """Keep an event; what was kept of steps that are made again is forgotten."""
        if event["event"] == "started":
            self.metrics.forget_after(-1)
        elif event["event"] == "resumed":
            self.metrics.forget_after(event["step"])
            self.console.say(self.title, t("goes on from step {step:,}", step=event["step"]))
        else:
            self.console.warn(t("step {step}: the loss was not a number; {event}", **event))
        self.metrics.write(event)
