"""The training loop. One for every model and objective: what differs is passed in."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from bimo.runtime import INTERRUPTED, UserError, keep_freed_memory
from bimo.train.checkpoint import keep_only, load_newest, save_checkpoint
from bimo.train.health import LEAST_PROGRESS, Health

__all__ = [
    "Hook",
    "Objective",
    "Progress",
    "Saving",
    "StepFacts",
    "StepSource",
    "Trainer",
    "is_due",
    "keep_to_time",
    "momentum_at",
    "rate_at",
]

MOMENTUM_RISE = 0.1
MOMENTUM_WARMUP = 300
"""Steps, whatever the length of the run."""


SAVE_SECONDS = 60.0
SAVE_SHARE = 0.05
"""Of the time: what saving may take where it takes long."""

LOOK_SHARE = 0.03
"""Of the time: before it is over, speed says little; and looks at the clock are not farther apart, if steps allow."""


class StepSource(Protocol):
    """Where batches come from: a function of the step alone."""

    def at(self, step: int) -> Any:
        """The batch of a step."""


Objective = Callable[[Any, Any], tuple[Tensor, int]]
"""(model, batch) -> the mean loss in nats over the targets that count, and how many those are."""


@dataclass
class Progress:
    """Where a run stands; goes into checkpoints. `steps` is the planned end, `seconds` the time spent training."""

    steps: int
    step: int = 0
    targets: int = 0
    seconds: float = 0.0
    rate_scale: float = 1.0
    resumed: int = 0


@dataclass(frozen=True)
class StepFacts:
    """What a step came to: mean loss in nats, norm of the gradient before clipping, factor on the learning rates."""

    loss: float
    gradient_norm: float
    rate: float


Hook = Callable[["Trainer", StepFacts | None], None]
"""Sees every finished step, and the last one even if it was skipped: then there are no facts."""


class Saving:
    """A hook that saves every SAVE_SECONDS, less often where saving takes more than SAVE_SHARE, and when asked to."""

    def __init__(self) -> None:
        self._last = self._took = 0.0

    def now(self) -> None:
        """Save when this step is over."""
        self._last = -math.inf

    def __call__(self, trainer: Trainer, facts: StepFacts | None) -> None:
        """See Hook."""
        if trainer.progress.seconds - self._last >= max(SAVE_SECONDS, self._took / SAVE_SHARE):
            before = time.perf_counter()
            trainer.save()
            self._took, self._last = time.perf_counter() - before, trainer.progress.seconds


def is_due(progress: Progress, times: int) -> bool:
    """Whether a step is the last, or one of `times` that are spread evenly over the run."""
    parts = (int((progress.step - back) / progress.steps * times) for back in (0, 1))
    return progress.step == progress.steps or next(parts) != next(parts)


def keep_to_time(minutes: float, note: Callable[[dict[str, Any]], None], *, most: int | None = None) -> list[Hook]:
    """Nothing for 0 minutes, else a hook that moves the planned end, up to `most`, as the machine's speed shows."""
    limit = 60 * minutes
    if not limit:
        return []

    def move_end(trainer: Trainer, facts: StepFacts | None) -> None:
        progress = trainer.progress
        # The first steps, and most of those that are short, say little; the last one is where a plan ends too early.
        early = progress.seconds < LOOK_SHARE * limit
        between = progress.step % 10 and 10 * progress.seconds / progress.step < LOOK_SHARE * limit
        if (early or between) and progress.step < progress.steps:
            return
        steps = max(progress.step, round(progress.step * limit / progress.seconds))
        steps = steps if most is None else min(steps, most)
        if abs(steps - progress.steps) > 0.01 * progress.steps:
            note({"event": "moved end", "step": progress.step, "from": progress.steps, "to": steps})
            progress.steps = steps

    return [move_end]


def rate_at(step: int, steps: int, *, warmup: float, decay: float) -> float:
    """Factor on the learning rates: up over the share `warmup` of all steps, level, down to zero over `decay`."""
    if step < warmup * steps:
        return (step + 1) / (warmup * steps + 1)
    return min(1.0, (steps - step) / max(1.0, decay * steps))


def momentum_at(step: int, last: float) -> float:
    """Momentum of Muon: up to `last` over MOMENTUM_WARMUP steps. While the loss falls fast, old gradients mislead."""
    return max(0.0, last - MOMENTUM_RISE * max(0.0, 1 - step / MOMENTUM_WARMUP))


class Trainer:
    """Runs steps until `progress.steps`, surviving bad numbers and interruptions.

    `on_step` hooks see every finished step in turn: logging, validation, samples, saving, deadlines. `remedy` says what
    may help where nothing is learned.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizers: list[torch.optim.Optimizer],
        batches: StepSource,
        *,
        objective: Objective,
        folder: Path,
        steps: int,
        warmup: float,
        decay: float,
        clip: float,
        on_step: list[Hook],
        on_event: Callable[[dict[str, Any]], None],
        least_progress: float = LEAST_PROGRESS,
        remedy: str = "",
    ) -> None:
        self.model, self.optimizers, self.batches, self.objective = model, optimizers, batches, objective
        self.folder, self.warmup, self.decay, self.clip = folder, warmup, decay, clip
        self.on_step, self.on_event, self.least_progress, self.remedy = on_step, on_event, least_progress, remedy
        self.progress = Progress(steps=steps)
        self.health = Health()
        self._base = [[dict(group) for group in optimizer.param_groups] for optimizer in optimizers]
        self._saved: list[int] = []
        self._stop_asked = threading.Event()

    def run(self) -> None:
        """Train to the end. Raises UserError with code INTERRUPTED, all saved, when asked to stop by a signal."""
        keep_freed_memory()
        if self.restore():
            self.progress.resumed += 1
            self.on_event({"event": "resumed", "step": self.progress.step})
        else:
            self.on_event({"event": "started", "step": 0})
            self.save()
        self.model.train()
        with self._listening():
            before = time.perf_counter()
            while self.progress.step < self.progress.steps:
                facts = self._step()
                now = time.perf_counter()
                self.progress.seconds += now - before
                before = now
                if facts is not None or self.progress.step >= self.progress.steps:
                    for hook in self.on_step:
                        hook(self, facts)
                if self._stop_asked.is_set():
                    self.save()
                    raise UserError(
                        "Interrupted at step {step}; all is saved.", code=INTERRUPTED, step=self.progress.step
                    )

    def stop_early(self) -> None:
        """Make this step the last."""
        self.progress.steps = self.progress.step

    def take_best(self) -> int:
        """Put back the weights that validated best, if those are still whole. Returns the step they are from."""
        best = self.health.best_step
        if best and best != self.progress.step and load_newest(self.folder, self.model, self.optimizers, step=best):
            return best
        return self.progress.step

    def save(self) -> None:
        """Write a checkpoint; keep it, the one before, in case this one is damaged, and the one that validated best."""
        state = {"progress": asdict(self.progress), "health": self.health.state}
        save_checkpoint(self.folder, self.model, self.optimizers, state, step=self.progress.step)
        self._saved = [*(step for step in self._saved if step < self.progress.step), self.progress.step][-2:]
        keep_only(self.folder, {*self._saved, self.health.best_step})

    def restore(self) -> bool:
        """Take up the newest whole checkpoint; False if there is none."""
        state = load_newest(self.folder, self.model, self.optimizers)
        if state is None:
            return False
        self.progress = Progress(**state["progress"])
        self.health.restore(state["health"])
        self._saved = [self.progress.step]
        return True

    def _step(self) -> StepFacts | None:
        """One update; None when it was skipped because its numbers were not finite."""
        progress = self.progress
        loss, counted = self.objective(self.model, self.batches.at(progress.step))
        self.health.check_targets(counted)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.clip)
        facts = StepFacts(
            loss=loss.item(),
            gradient_norm=norm.item(),
            rate=progress.rate_scale * rate_at(progress.step, progress.steps, warmup=self.warmup, decay=self.decay),
        )
        progress.step += 1
        if not self.health.accepts(facts.loss, facts.gradient_norm):
            self.on_event({"event": "skipped", "step": progress.step, "loss": str(facts.loss)})
            self._discard_gradients()
            if self.health.must_roll_back:
                self._roll_back()
            return None
        for optimizer, settings in zip(self.optimizers, self._base, strict=True):
            for group, base in zip(optimizer.param_groups, settings, strict=True):
                group["lr"] = base["lr"] * facts.rate
                if "momentum" in group:
                    group["momentum"] = momentum_at(progress.step, base["momentum"])
            optimizer.step()
        self._discard_gradients()
        progress.targets += counted
        self.health.check_progress(progress.step, progress.targets, least=self.least_progress, remedy=self.remedy)
        return facts

    def _discard_gradients(self) -> None:
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)

    def _roll_back(self) -> None:
        """Go back to the last checkpoint with half the learning rate, keeping count of what went wrong."""
        step, seconds, health = self.progress.step, self.progress.seconds, self.health.state
        scale = self.progress.rate_scale / 2
        self.restore()
        self.health.restore(health)
        self.health.note_roll_back(remedy=self.remedy)
        self.progress.seconds, self.progress.rate_scale = seconds, scale
        self.on_event({"event": "rolled back", "step": step, "to": self.progress.step, "rate_scale": scale})

    @contextmanager
    def _listening(self) -> Iterator[None]:
        """Turn the first SIGINT or SIGTERM into a wish to stop after the step; a second one acts at once."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        signals = (signal.SIGINT, signal.SIGTERM)
        previous = {number: signal.getsignal(number) for number in signals}

        def ask(number: int, frame: FrameType | None) -> None:
            self._stop_asked.set()
            for each in signals:
                signal.signal(each, signal.SIG_DFL)

        for number in signals:
            signal.signal(number, ask)
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
