"""Signs that a training is not learning, each of which ends in a sentence rather than in a useless model."""

from __future__ import annotations

import math
from typing import Any

from bimo.runtime import UserError, t

__all__ = ["LEAST_PROGRESS", "MOST_WORSE", "Health"]

FIRST_STEPS = 10
"""Their mean loss is the first one: batches of short texts, or easy ones, differ too much from each other."""

FIRST_LOOK_STEPS = 100
"""By this step any healthy run has left its first loss behind."""

LEAST_PROGRESS = 0.02
"""The share of its first loss that a model which starts from nothing must have lost by then."""

MOST_WORSE = -0.5
"""The same of a model that goes on: it has little to gain, but its loss must not grow by half either."""

LEAST_COUNTED = 1.0
"""Nats that shares are taken of at least: the losses of a model that is nearly always right differ many times over."""

BAD_STEPS_BEFORE_ROLL_BACK = 3
ROLL_BACKS_BEFORE_STOP = 3
WORSE_VALIDATIONS_BEFORE_STOP = 3
WORSE_BY = 0.02
"""Validation counts as worse when it stands this share above the best so far."""


class Health:
    """Watches losses and gradients of one run. Its `state` goes into checkpoints."""

    def __init__(self) -> None:
        self.skipped = self.roll_backs = self.bad_in_a_row = self.worse_in_a_row = 0
        self.first_loss = self.recent_loss = math.nan
        self.first_steps = 0
        self.best_validation = math.inf
        self.best_step = 0

    @property
    def state(self) -> dict[str, Any]:
        """Everything it knows, as JSON."""
        return dict(vars(self))

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a stored `state`."""
        vars(self).update(state)

    def check_targets(self, counted: int) -> None:
        """Raises UserError when no target of a batch carries loss."""
        if counted == 0:
            raise UserError(
                "A batch has no target that counts: every label is masked, so nothing could be learned. "
                "Check that the answers of your examples are not empty or cut off by the context."
            )

    def accepts(self, loss: float, gradient_norm: float) -> bool:
        """Whether a step may be taken: its loss and gradient are finite numbers."""
        if math.isfinite(loss) and math.isfinite(gradient_norm):
            self.bad_in_a_row = 0
            self.recent_loss = loss if math.isnan(self.recent_loss) else 0.95 * self.recent_loss + 0.05 * loss
            if self.first_steps < FIRST_STEPS:
                self.first_steps += 1
                before = 0.0 if math.isnan(self.first_loss) else self.first_loss
                self.first_loss = before + (loss - before) / self.first_steps
            return True
        self.skipped += 1
        self.bad_in_a_row += 1
        return False

    @property
    def must_roll_back(self) -> bool:
        """Three bad steps in a row: the weights themselves are no good any more."""
        return self.bad_in_a_row >= BAD_STEPS_BEFORE_ROLL_BACK

    def note_roll_back(self, *, remedy: str) -> None:
        """Count one. Raises UserError, with what may help, when rolling back has not helped."""
        self.bad_in_a_row = 0
        self.roll_backs += 1
        if self.roll_backs > ROLL_BACKS_BEFORE_STOP:
            raise UserError(
                "The loss became infinite again and again, {times} times after going back to a good checkpoint with "
                "half the learning rate. {remedy}",
                times=ROLL_BACKS_BEFORE_STOP,
                remedy=remedy,
            )

    def check_progress(self, step: int, targets_seen: int, *, least: float, remedy: str) -> None:
        """Raises UserError when by FIRST_LOOK_STEPS the loss has not fallen by the share `least` of the first one."""
        wanted = self.first_loss - least * max(self.first_loss, LEAST_COUNTED)
        if step == FIRST_LOOK_STEPS and self.recent_loss > wanted:
            raise UserError(
                "The model is not learning: its loss was {first:.3f} and is {recent:.3f} after {step} steps and "
                "{targets:,} targets. Check the text. {remedy}",
                first=self.first_loss,
                recent=self.recent_loss,
                step=step,
                targets=targets_seen,
                remedy=remedy,
            )

    def diverges(self, step: int, measured: float) -> str | None:
        """Take in a validation, of which less is better; a sentence when it has been getting worse for too long."""
        if measured < self.best_validation:
            self.best_validation, self.best_step = measured, step
        worse = not measured <= (1 + WORSE_BY) * self.best_validation  # so that NaN is worse
        self.worse_in_a_row = self.worse_in_a_row + 1 if worse else 0
        if self.worse_in_a_row < WORSE_VALIDATIONS_BEFORE_STOP:
            return None
        return t(
            "Stopped early: on text it has not seen the model has been getting worse since step {step} ({best:.3f}, "
            "now {now:.3f}). It learns the training text by heart; the weights of that step are kept. More text or a "
            "smaller model helps.",
            step=self.best_step,
            best=self.best_validation,
            now=measured,
        )
