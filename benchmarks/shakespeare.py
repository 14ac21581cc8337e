"""shakespeare_char: nanoGPT as its README says, and ours of the same size on the same characters and split."""

from __future__ import annotations

import math
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import nanogpt
import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from turns import Turns

__all__ = ["NANOGPT_COMMAND", "RECIPE", "nanogpt_data", "train_nanogpt", "train_ours"]

NANOGPT_COMMAND = nanogpt.README_ON_A_CPU
CONTEXT, BATCH = 64, 12
"""Of nanoGPT's command; its validation loss is a mean over 20 batches of such windows."""

ESTIMATE_BATCHES = 20

SHAPE: dict[str, Any] = {
    "layers": 4,
    "width": 128,
    "heads": 4,
    "kv_heads": 4,
    "head_width": 32,
    "hidden": 344,
    "context": CONTEXT,
}
"""As many weights as nanoGPT's four plain blocks of width 128."""

RECIPE: dict[str, Any] = {
    "steps": 180,
    "batch": 24,
    "muon_rate": 0.02,
    "adam_rate": 0.03,
    "weight_decay": 0.1,
    "warmup": 0.02,
    "decay": 0.6,
}
"""Settings of `TrainConfig`, chosen with `loss_against_time.py tune`."""

OWN_SHARE = 0.01
"""Of the training part, at its end: not trained on, and looked at when the training has ended."""


def nanogpt_data(checkout: Path, text: Path, folder: Path) -> Path:
    """Its data folder, made by its own prepare.py from a copy of the text. Returns `folder`."""
    if not (folder / "val.bin").exists():
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(checkout / "data" / "shakespeare_char" / "prepare.py", folder / "prepare.py")
        shutil.copy(text, folder / "input.txt")
        (folder / "input.txt").chmod(0o644)
        subprocess.run([sys.executable, "prepare.py"], cwd=folder, check=True, stdout=subprocess.DEVNULL)
    return folder


def train_nanogpt(turns: Turns, checkout: Path, data: Path, work: Path, changes: list[str]) -> None:
    """A worker: its README's command line, with `changes` behind it."""
    for _ in turns:
        with tempfile.TemporaryDirectory(dir=work) as folder:
            before = time.perf_counter()
            log = nanogpt.run_training(checkout, Path(folder) / "run", [*NANOGPT_COMMAND.split(), *changes], data=data)
            wall = time.perf_counter() - before
            model = nanogpt.load_checkpoint(checkout, Path(folder) / "run" / "out" / "ckpt.pt")
            last, estimate = log.validations[-1]
            losses = {"loss": loss_of_split(model, data / "val.bin"), "estimate": estimate}
            turns.report({**losses, "seconds": log.seconds_until(last), "wall": wall, "curve": log.curve})


def train_ours(turns: Turns, data: Path, work: Path, recipe: dict[str, Any], own_share: float = OWN_SHARE) -> None:
    """A worker: `bimo train` on the same characters. The task is the seed."""
    from bimo.generate.engine import load
    from bimo.models.config import ModelConfig
    from bimo.train.pretrain import train
    from bimo.train.settings import TrainConfig

    for seed in turns:
        with tempfile.TemporaryDirectory(dir=work) as folder:
            home = Path(folder)
            vocabulary = pack_characters(data, home / "data", own_share)
            settings = TrainConfig(**recipe, seed=seed, validations=0)
            before = time.perf_counter()
            facts = train(
                home / "data", out=home / "model", model=ModelConfig(vocabulary=vocabulary, **SHAPE), settings=settings
            )
            wall = time.perf_counter() - before
            model = load(home / "model", device="cpu").model
            result = {
                "seconds": facts["seconds"],
                "wall": wall,
                "own_loss": facts["validation_bits_per_byte"] * math.log(2),
            }
            if own_share == OWN_SHARE:
                result["loss"] = loss_of_split(model, data / "val.bin")
                result["estimate"] = loss_as_estimated(model, data / "val.bin")
            turns.report(result)


def pack_characters(data: Path, folder: Path, own_share: float) -> int:
    """A data folder of ours: the training part but for its end, with the characters as tokens. Returns how many."""
    import tokenizers

    from bimo.tokens.shards import TokenWriter
    from bimo.tokens.tokenizer import END_OF_TEXT, Tokenizer

    characters = sorted(set((data / "input.txt").read_text()))
    names = [{" ": "Ġ", "\n": "Ċ"}.get(character, character) for character in characters]
    inner = tokenizers.Tokenizer(tokenizers.models.BPE({name: id_ for id_, name in enumerate(names)}, []))
    inner.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    inner.decoder = tokenizers.decoders.ByteLevel()
    inner.add_special_tokens([END_OF_TEXT])
    tokenizer = Tokenizer(inner)
    ids = np.fromfile(data / "train.bin", np.uint16).tolist()
    own = len(ids) - round(own_share * len(ids))
    for split, part in (("train", ids[:own]), ("validation", ids[own:])):
        with TokenWriter(folder / "tokens", split, vocabulary=tokenizer.vocabulary, end=tokenizer.end) as writer:
            writer.write([part])
    tokenizer.save(folder)
    return tokenizer.vocabulary


@torch.no_grad()
def loss_of_split(model: nn.Module, tokens: Path) -> float:
    """Mean cross-entropy in nats over a whole file of ids, in windows as long as nanoGPT's, one after another."""
    ids = torch.from_numpy(np.fromfile(tokens, np.uint16).astype(np.int64))
    windows = (len(ids) - 1) // CONTEXT
    x, y = (ids[shift : shift + windows * CONTEXT].view(windows, CONTEXT) for shift in (0, 1))
    model.eval()
    losses = [_mean_loss(model, *batch) * len(batch[0]) for batch in zip(x.split(64), y.split(64), strict=True)]
    return sum(losses) / windows


@torch.no_grad()
def loss_as_estimated(model: nn.Module, tokens: Path) -> float:
    """As nanoGPT estimates it: the mean over random batches."""
    torch.manual_seed(0)
    model.eval()
    batches = (nanogpt.random_batch(tokens, BATCH, CONTEXT) for _ in range(ESTIMATE_BATCHES))
    return sum(_mean_loss(model, x, y) for x, y in batches) / ESTIMATE_BATCHES


def _mean_loss(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> float:
    return float(F.cross_entropy(model(x).float().flatten(0, 1), y.flatten()))
