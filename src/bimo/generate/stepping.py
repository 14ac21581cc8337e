"""One step of many sequences: a few tokens of each, from ids to logits. In torch here, in the CPU kernel in native.py.

R rows (tokens of a step), V vocabulary.
"""

from __future__ import annotations

import itertools
from typing import Protocol

import numpy as np
import torch

from bimo.generate.cache import KeyValueCache
from bimo.generate.native import FORMATS, NativeDecoder
from bimo.kernel import best_instructions
from bimo.models.config import ModelConfig
from bimo.models.lora import is_adapted
from bimo.models.transformer import Decoder
from bimo.weights.gguf import GGUFModel
from bimo.weights.gguf_blocks import StoredMatrix

__all__ = ["Steps", "TorchSteps", "open_steps", "stored_weights"]


class Steps(Protocol):
    """What writing asks of a model."""

    config: ModelConfig
    slots: int
    positions: int

    def reserve(self, slots: int, positions: int) -> None:
        """Make room for `slots` sequences of `positions` tokens; what was remembered is forgotten."""

    def step(self, tokens: np.ndarray, slots: np.ndarray, positions: np.ndarray, wanted: np.ndarray) -> np.ndarray:
        """Read one token a row; all arguments int32. tokens, slots, positions [R] -> logits [len(wanted), V] float32.

        Row i stands at positions[i] of slots[i], whose earlier positions were read before or stand in earlier rows;
        rows of one slot stand together. `wanted` are the rows whose logits come back.
        """

    def copy(self, source: int, target: int, positions: int) -> None:
        """Let slot `target` remember the first `positions` of slot `source`."""


class TorchSteps:
    """Steps as the torch model computes them, on any device: the slow twin of NativeDecoder."""

    def __init__(self, model: Decoder) -> None:
        self.config = model.config
        self.slots = self.positions = 0
        self._model = model
        self._device = next(model.parameters()).device

    def reserve(self, slots: int, positions: int) -> None:
        """Make room for `slots` sequences of `positions` tokens; what was remembered is forgotten."""
        dtype = self._model.compute_dtype
        self._cache = KeyValueCache(self.config, slots=slots, positions=positions, device=self._device, dtype=dtype)
        self.slots, self.positions = slots, positions

    @torch.inference_mode()
    def step(self, tokens: np.ndarray, slots: np.ndarray, positions: np.ndarray, wanted: np.ndarray) -> np.ndarray:
        """As in `Steps`: rows that stand alone in their slot are computed together, others slot by slot."""
        logits = np.empty((len(wanted), self.config.vocabulary), dtype=np.float32)
        runs = [list(run) for _, run in itertools.groupby(range(len(tokens)), key=lambda row: slots[row])]
        single = [run[0] for run in runs if len(run) == 1]
        groups = [[run] for run in runs if len(run) > 1] + ([[[row] for row in single]] if single else [])
        for group in groups:
            ids = torch.from_numpy(np.asarray(tokens)[np.array(group)]).long().to(self._device)
            first = [run[0] for run in group]
            cached = self._cache.rows([int(slots[row]) for row in first], [int(positions[row]) for row in first])
            hidden = self._model.hidden_states(ids, cached).flatten(0, 1)
            place = {row: index for index, row in enumerate(itertools.chain(*group))}
            here = [index for index, row in enumerate(wanted) if int(row) in place]
            if here:
                chosen = hidden[[place[int(wanted[index])] for index in here]]
                logits[here] = self._model.head(chosen).float().cpu().numpy()
        return logits

    def copy(self, source: int, target: int, positions: int) -> None:
        """Let slot `target` remember the first `positions` of slot `source`."""
        self._cache.copy(source, target, positions)


def open_steps(model: Decoder | GGUFModel) -> Steps:
    """The fastest steps that this machine has for a model, with its weights as they are now."""
    instructions = best_instructions() if model.config.runs_in_kernel else None
    threads = torch.get_num_threads()
    if isinstance(model, GGUFModel):
        if instructions is None or any(matrix.format not in FORMATS for matrix in model.weights.values()):
            return TorchSteps(model.decoder())
        return NativeDecoder(model.config, model.weights, threads=threads, instructions=instructions)
    if instructions is None or next(model.parameters()).device.type != "cpu" or is_adapted(model):
        return TorchSteps(model)
    return NativeDecoder(model.config, stored_weights(model), threads=threads, instructions=instructions)


def stored_weights(model: Decoder) -> dict[str, StoredMatrix]:
    """The weights of a model on the CPU as the kernel takes them: float32, sharing the model's memory."""
    matrices = {name: np.atleast_2d(weight.detach().numpy()) for name, weight in model.named_parameters()}
    return {
        name: StoredMatrix(matrix.shape[0], matrix.shape[1], "F32", matrix.view(np.uint8))
        for name, matrix in matrices.items()
    }
