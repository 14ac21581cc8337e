"""transformers' GPT-2 with its Trainer as a contestant."""

from __future__ import annotations

import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainerCallback, TrainingArguments
from turns import Bursts, Turns

__all__ = ["Scored", "Shape", "train_for_seconds", "train_in_bursts"]

FOREVER = 1_000_000
SETTINGS: dict[str, dict[str, Any]] = {"default": {}, "bf16": {"bf16": True}}
"""Of TrainingArguments, on top of `use_cpu`: as they are, and what its documentation advises for CPUs."""


@dataclass(frozen=True)
class Shape:
    """What is common to all GPT-2s here: no dropout, so that every contestant does the same work."""

    vocabulary: int
    layers: int
    width: int
    heads: int
    context: int

    def build(self) -> GPT2LMHeadModel:
        """A new model, from seed 0."""
        torch.manual_seed(0)
        config = GPT2Config(
            vocab_size=self.vocabulary,
            n_layer=self.layers,
            n_embd=self.width,
            n_head=self.heads,
            n_positions=self.context,
            bos_token_id=0,
            eos_token_id=0,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
        )
        return GPT2LMHeadModel(config)


class Windows(Dataset):
    """Windows of `context` ids that follow one another in a file of uint16 ids."""

    def __init__(self, tokens: Path, context: int) -> None:
        ids = np.fromfile(tokens, dtype=np.uint16).astype(np.int64)
        self._rows = torch.from_numpy(ids[: len(ids) // context * context].reshape(-1, context))

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"input_ids": self._rows[index], "labels": self._rows[index]}


class Scored(nn.Module):
    """What `rolling_scores` asks of a model, from transformers' GPT-2."""

    def __init__(self, model: GPT2LMHeadModel) -> None:
        super().__init__()
        self.model = model
        self.head = model.lm_head
        self.config = SimpleNamespace(context=model.config.n_positions, vocabulary=model.config.vocab_size)

    def hidden_states(self, ids: Tensor, cache: None = None) -> Tensor:
        """ids [B, T] -> what the head multiplies [B, T, D]. It reads every window from its beginning."""
        return self.model.transformer(input_ids=ids).last_hidden_state


class StopBetweenBursts(TrainerCallback):
    """Waits for the next turn after each burst."""

    def __init__(self, bursts: Bursts) -> None:
        self._bursts = bursts

    def on_step_end(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        control.should_training_stop = not self._bursts.go_on()


class UntilTimeIsUp(TrainerCallback):
    """Ends the training after so many seconds; until then the learning rate falls to zero in a line, as by default.

    `warmup` is the share of the time in which it rises first. By time, not by steps: how many there will be is not
    known, and a guess from the first seconds is a third off.
    """

    def __init__(self, seconds: float, *, warmup: float = 0.0) -> None:
        self._limit, self._warmup = seconds, warmup
        self.spent = 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        self._start = time.perf_counter()

    def on_step_begin(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        for group in rest["optimizer"].param_groups:
            share = self.spent / self._limit
            rising = share / self._warmup if self._warmup else 1.0
            group["lr"] = args.learning_rate * min(rising, max(0.0, 1 - share))

    def on_step_end(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        self.spent = time.perf_counter() - self._start
        control.should_training_stop = control.should_training_stop or self.spent >= self._limit


def trainer(
    model: GPT2LMHeadModel, windows: Windows, folder: Path, callback: TrainerCallback, **settings: Any
) -> Trainer:
    """Trainer as it comes, on the CPU, silent and without checkpoints."""
    arguments = TrainingArguments(
        output_dir=str(folder), use_cpu=True, report_to=[], save_strategy="no", disable_tqdm=True, **settings
    )
    return Trainer(model=model, args=arguments, train_dataset=windows, callbacks=[callback])


def train_in_bursts(turns: Turns, tokens: Path, shape: Shape, batch: int, setting: str) -> None:
    """A worker: Trainer's own loop, which waits between bursts. `setting` is one of SETTINGS."""
    settings = {"per_device_train_batch_size": batch, "max_steps": FOREVER, **SETTINGS[setting]}
    with tempfile.TemporaryDirectory() as folder:
        windows = Windows(tokens, shape.context)
        trainer(shape.build(), windows, Path(folder), StopBetweenBursts(Bursts(turns)), **settings).train()


def train_for_seconds(
    tokens: Path, shape: Shape, *, seconds: float, rate: float, batch: int, setting: str
) -> tuple[Scored, dict[str, float]]:
    """Train for `seconds`, the learning rate falling to zero by then. Returns the model and the facts."""
    windows, timer, model = Windows(tokens, shape.context), UntilTimeIsUp(seconds), shape.build()
    settings = {"per_device_train_batch_size": batch, "learning_rate": rate, "lr_scheduler_type": "constant"}
    with tempfile.TemporaryDirectory() as folder:
        done = trainer(model, windows, Path(folder), timer, max_steps=FOREVER, **settings, **SETTINGS[setting]).train()
    steps = done.global_step
    return Scored(model), {"seconds": timer.spent, "steps": steps, "tokens": steps * batch * shape.context}
