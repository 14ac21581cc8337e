"""Checkpoints: everything a run needs to go on as if it had never stopped. safetensors and JSON, nothing else.

A checkpoint is a folder `step-00000123` with `weights.safetensors` (fp32), `optimizer.safetensors` (optimizer and
random states) and `state.json`, which holds the digests of the other two. It is written beside and renamed, so that
the newest folder whose digests are right is whole.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from bimo.files import digest_file, replacing_folder
from bimo.runtime import random_sources

__all__ = ["disk_bytes", "keep_only", "load_newest", "save_checkpoint"]

TENSOR_FILES = ("weights.safetensors", "optimizer.safetensors")


def disk_bytes(trained: int) -> int:
    """The most room on disk that so many trained weights take: in checkpoints, the last two, the best and the next, and
    in what is written of them at the end.

    12 bytes a weight in each: in fp32 itself and two means of its gradients, of which Muon keeps but one. 4 at the end.
    """
    return (4 * 12 + 4) * trained


def save_checkpoint(
    folder: Path, model: nn.Module, optimizers: list[torch.optim.Optimizer], state: dict[str, Any], *, step: int
) -> Path:
    """Write `folder/step-NNNNNNNN`, all or nothing; `state` is any JSON value. Returns the folder written."""
    path = folder / f"step-{step:08d}"
    with replacing_folder(path) as part:
        weights = {name: weight.detach().contiguous() for name, weight in _trained(model)}
        save_file(weights, part / "weights.safetensors")
        save_file(_optimizer_tensors(optimizers), part / "optimizer.safetensors")
        digests = {name: digest_file(part / name) for name in TENSOR_FILES}
        text = json.dumps({"step": step, "state": state, "sha256": digests}, indent=1)
        (part / "state.json").write_text(text, encoding="utf-8")
    return path


def _trained(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """The weights that training changes: beside an adapter, the adapter alone."""
    return ((name, weight) for name, weight in model.named_parameters() if weight.requires_grad)


def _optimizer_tensors(optimizers: list[torch.optim.Optimizer]) -> dict[str, Tensor]:
    tensors = {f"random/{name}": module.get_rng_state() for name, module in random_sources().items()}
    for index, optimizer in enumerate(optimizers):
        for weight, entries in optimizer.state_dict()["state"].items():
            for name, value in entries.items():
                tensors[f"{index}/{weight}/{name}"] = torch.as_tensor(value).detach().cpu().contiguous()
    return tensors


def load_newest(
    folder: Path, model: nn.Module, optimizers: list[torch.optim.Optimizer], *, step: int | None = None
) -> dict[str, Any] | None:
    """Restore the newest whole checkpoint, or that of `step`, in place. Returns its state, or None if there is none."""
    paths = sorted(folder.glob("step-????????"), reverse=True)
    for path in paths if step is None else [folder / f"step-{step:08d}"]:
        record = _read_whole(path)
        if record is None:
            continue
        with torch.no_grad():
            saved = load_file(path / "weights.safetensors")
            for name, weight in _trained(model):
                weight.copy_(saved[name])
        _restore_optimizers(optimizers, load_file(path / "optimizer.safetensors"))
        return record["state"]
    return None


def _read_whole(path: Path) -> dict[str, Any] | None:
    """What stands in state.json if the files beside it are the ones it names, else None."""
    try:
        record = json.loads((path / "state.json").read_text(encoding="utf-8"))
        whole = all(digest_file(path / name) == record["sha256"][name] for name in TENSOR_FILES)
    except (OSError, ValueError, KeyError):
        return None
    return record if whole else None


def _restore_optimizers(optimizers: list[torch.optim.Optimizer], tensors: dict[str, Tensor]) -> None:
    sources = random_sources()
    for name in [name for name in tensors if name.startswith("random/")]:
        state, source = tensors.pop(name), sources.get(name.removeprefix("random/"))
        if source is not None:  # what was drawn on a GPU cannot be drawn on elsewhere
            source.set_rng_state(state)
    for index, optimizer in enumerate(optimizers):
        loaded = optimizer.state_dict()
        states: dict[int, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            owner, weight, name = key.split("/")
            if int(owner) == index:
                states.setdefault(int(weight), {})[name] = value
        optimizer.load_state_dict({**loaded, "state": states})


def keep_only(folder: Path, steps: set[int]) -> None:
    """Delete all checkpoints but those of `steps`, and what broken attempts left behind."""
    wanted = {f"step-{step:08d}" for step in steps}
    for path in folder.glob("step-*"):
        if path.name not in wanted:
            shutil.rmtree(path, ignore_errors=True)
