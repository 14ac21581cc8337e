"""nanoGPT as a contestant: its model in its own loop, and its own `train.py` run as its README says.

It comes from a checkout that whoever measures has made; nothing of it is kept here.
"""

from __future__ import annotations

import hashlib
import importlib.util
import re
import shutil
import statistics
import subprocess
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from turns import Bursts, Turns

__all__ = [
    "README_ON_A_CPU",
    "Log",
    "Scored",
    "load_checkpoint",
    "load_model_file",
    "run_training",
    "train_in_bursts",
    "version",
]

README_ON_A_CPU = (
    "config/train_shakespeare_char.py --device=cpu --compile=False --eval_iters=20 --log_interval=1 --block_size=64 "
    "--batch_size=12 --n_layer=4 --n_head=4 --n_embd=128 --max_iters=2000 --lr_decay_iters=2000 --dropout=0.0"
)
"""The command line that its README gives for a computer without a GPU, after `python train.py`."""

FILES = ("train.py", "model.py", "configurator.py", "config")


def version(checkout: Path) -> str:
    """Names the code: a digest of the two files that matter."""
    content = b"".join((checkout / name).read_bytes() for name in ("train.py", "model.py"))
    return f"sha256 {hashlib.sha256(content).hexdigest()[:12]}"


def load_model_file(checkout: Path) -> ModuleType:
    """Its model.py as a module."""
    spec = importlib.util.spec_from_file_location("nanogpt_model", checkout / "model.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its dataclass looks itself up there
    spec.loader.exec_module(module)
    return module


def train_in_bursts(
    turns: Turns, checkout: Path, tokens: Path, shape: dict[str, int], batch: int, setting: str
) -> None:
    """A worker: the steps of its train.py on random batches of `tokens`, a file of uint16 ids.

    `default` is what that loop does on a CPU: eager, float32, plain AdamW (its autocast and fused AdamW are for CUDA
    alone). `bf16` gives it autocast to bfloat16 and the fused AdamW all the same; `compiled` compiles that.
    """
    file = load_model_file(checkout)
    torch.manual_seed(1337)
    model = file.GPT(file.GPTConfig(**shape, dropout=0.0, bias=False))
    fused_on = "cpu" if setting == "default" else "cuda"
    optimizer = model.configure_optimizers(0.1, 6e-4, (0.9, 0.95), fused_on)
    autocast = nullcontext() if setting == "default" else torch.autocast("cpu", dtype=torch.bfloat16)
    called = torch.compile(model) if setting == "compiled" else model
    model.train()
    bursts = Bursts(turns)
    while True:
        x, y = random_batch(tokens, batch, shape["block_size"])
        with autocast:
            _, loss = called(x, y)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        loss.item()
        if not bursts.go_on():
            return


def random_batch(tokens: Path, batch: int, context: int) -> tuple[Tensor, Tensor]:
    """Windows from anywhere in a file of uint16 ids: inputs and targets [batch, context]."""
    data = np.memmap(tokens, dtype=np.uint16, mode="r")
    starts = torch.randint(len(data) - context, (batch,)).tolist()
    windows = torch.from_numpy(np.stack([data[start : start + context + 1] for start in starts]).astype(np.int64))
    return windows[:, :-1].contiguous(), windows[:, 1:].contiguous()


@dataclass(frozen=True)
class Log:
    """What a run of its train.py said: seconds of each iteration, and (iteration, validation loss in nats)."""

    iteration_seconds: list[float]
    validations: list[tuple[int, float]]

    def seconds_until(self, iteration: int) -> float:
        """Spent on training before an iteration; one that was measured together with a validation counts as usual."""
        usual = statistics.median(self.iteration_seconds)
        validated = {step for step, _ in self.validations}
        return sum(usual if i in validated else s for i, s in enumerate(self.iteration_seconds[:iteration]))

    @property
    def curve(self) -> list[tuple[float, float]]:
        """(seconds of training, validation loss) of each validation."""
        return [(self.seconds_until(step), loss) for step, loss in self.validations]

    @classmethod
    def read(cls, text: str) -> Log:
        """From what it prints."""
        seconds = [float(found) / 1000 for found in re.findall(r"^iter \d+: .*?time ([\d.]+)ms", text, re.MULTILINE)]
        losses = re.findall(r"^step (\d+): .*?val loss ([\d.]+)", text, re.MULTILINE)
        return cls(seconds, [(int(step), float(loss)) for step, loss in losses])


def run_training(checkout: Path, work: Path, arguments: Sequence[str], *, data: Path) -> Log:
    """Run a copy of its train.py in the new folder `work` on the data folder `data`, and read what it says.

    The model that validated best is then in `work/out/ckpt.pt`. Raises RuntimeError when it fails.
    """
    work.mkdir(parents=True)
    for name in FILES:
        copy = shutil.copytree if (checkout / name).is_dir() else shutil.copy
        copy(checkout / name, work / name)
    shutil.copytree(data, work / "data" / data.name)
    command = [sys.executable, "-u", "train.py", *arguments, f"--dataset={data.name}", "--out_dir=out"]
    with (work / "log.txt").open("w") as log:
        finished = subprocess.run(command, cwd=work, stdout=log, stderr=subprocess.STDOUT)
    text = (work / "log.txt").read_text()
    if finished.returncode:
        raise RuntimeError(f"nanoGPT failed:\n{text[-2000:]}")
    return Log.read(text)


def load_checkpoint(checkout: Path, checkpoint: Path) -> nn.Module:
    """The model of a checkpoint in float32, with as much of ours as it takes to be scored.

    nanoGPT saves no other way than torch's; of that, `weights_only` lets tensors and plain values in and no code.
    """
    stored: dict[str, Any] = torch.load(checkpoint, map_location="cpu", weights_only=True)
    file = load_model_file(checkout)
    model = file.GPT(file.GPTConfig(**stored["model_args"]))
    model.load_state_dict(stored["model"])
    return Scored(model)


class Scored(nn.Module):
    """What `rolling_scores` asks of a model. Hidden states cannot be had from it, so its logits go through no head."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self.head = nn.Identity()
        self.config = SimpleNamespace(context=model.config.block_size, vocabulary=model.config.vocab_size)

    def hidden_states(self, ids: Tensor, cache: None = None) -> Tensor:
        """ids [B, T] -> logits [B, T, V]; of all positions only where it is given targets."""
        logits, _ = self.model(ids, ids)
        return logits
