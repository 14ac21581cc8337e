"""Adapters as PEFT keeps them: `adapter_config.json` and `adapter_model.safetensors`, under Hugging Face's names."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from bimo.files import read_json, replacing, write_json
from bimo.models.config import ModelConfig
from bimo.models.lora import Adapter, LoRAConfig, changes, merge_adapter
from bimo.models.transformer import Decoder
from bimo.runtime import UserError
from bimo.tokens.chat import ChatFormat
from bimo.weights.chat_templates import TEMPLATE_FILE, folder_chat_format
from bimo.weights.gguf import GGUFModel
from bimo.weights.gguf_blocks import StoredMatrix
from bimo.weights.huggingface import names_of
from bimo.weights.names import renamed
from bimo.weights.opening import OpenedModel

__all__ = ["adapter_chat_format", "adapter_to_peft", "load_adapter", "merged", "save_adapter"]

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
PARTS = {"lora_A": 0, "lora_B": 1}

HARMLESS: dict[str, tuple[Any, ...]] = {
    "use_dora": (False,),
    "use_qalora": (False,),
    "lora_bias": (False,),
    "fan_in_fan_out": (False,),
    "bias": ("none",),
    "modules_to_save": ([],),
    "rank_pattern": ({},),
    "alpha_pattern": ({},),
    "layer_replication": ([],),
    "target_parameters": ([],),
    "trainable_token_indices": ([],),
    "alora_invocation_tokens": ([],),
}
"""Settings of PEFT that change what is computed, and the values with which they do not; null is one for each."""


def save_adapter(folder: Path, adapter: Adapter, shape: ModelConfig, *, base: str) -> None:
    """Write both files, each all or nothing; `shape` and `base` say what the adapter belongs to."""
    tensors = adapter_to_peft(adapter, shape)
    settings = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": adapter.config.rank,
        "lora_alpha": _whole(adapter.config.alpha),
        "lora_dropout": 0.0,
        "target_modules": sorted({name.split(".")[-3] for name in tensors}),
        "bias": "none",
        "fan_in_fan_out": False,
        "use_rslora": False,
        "use_dora": False,
        "inference_mode": True,
    }
    with replacing(folder / WEIGHTS) as part:
        save_file(tensors, part, metadata={"format": "pt"})
    write_json(folder / CONFIG, settings)


def _whole(number: float) -> float | int:
    return int(number) if number == int(number) else number


def adapter_to_peft(adapter: Adapter, shape: ModelConfig) -> dict[str, Tensor]:
    """An adapter's matrices under PEFT's names. Raises UserError for one that PEFT has no name for."""
    names = names_of(shape).to_theirs
    tensors: dict[str, Tensor] = {}
    for module, pair in adapter.weights.items():
        for part, place in PARTS.items():
            for name, tensor in renamed({f"{module}.{part}": pair[place]}, names).items():
                tensors[f"{PREFIX}{name}.weight"] = tensor.detach().float().cpu().contiguous()
    return tensors


def load_adapter(folder: Path, shape: ModelConfig) -> Adapter:
    """Read what `save_adapter` or PEFT wrote for a model of such a shape.

    Raises UserError when it is none, or one that computes otherwise.
    """
    if not (folder / CONFIG).is_file() or not (folder / WEIGHTS).is_file():
        raise UserError(
            "{folder} is not an adapter: it needs adapter_config.json and adapter_model.safetensors. "
            "An adapter is made by: bimo tune MODEL FILE --lora --out ADAPTER.",
            folder=folder,
        )
    config = _config(read_json(folder / CONFIG), folder / CONFIG)
    try:
        tensors = load_file(folder / WEIGHTS)
    except (SafetensorError, OSError) as error:
        raise UserError("{path} cannot be read: {error}.", path=folder / WEIGHTS, error=error) from None
    names = names_of(shape).to_ours
    pairs: dict[str, dict[int, Tensor]] = {}
    for name, tensor in tensors.items():
        if tensor.ndim != 2 or not tensor.is_floating_point() or not tensor.isfinite().all():
            raise UserError("The adapter's tensor {name} is no matrix of finite numbers.", name=name)
        for ours in renamed({name.removeprefix(PREFIX).removesuffix(".weight"): tensor}, names):
            module, _, part = ours.rpartition(".")
            if part not in PARTS:
                raise UserError("The adapter holds {name}, which Bimo does not know.", name=name)
            pairs.setdefault(module, {})[PARTS[part]] = tensor.float()
    for module, pair in pairs.items():
        if len(pair) < 2 or pair[0].shape[0] != config.rank or pair[1].shape[1] != config.rank:
            raise UserError("The adapter's matrices for {name} do not go with its rank.", name=module)
    if not pairs:
        raise UserError("The adapter in {folder} holds no weights.", folder=folder)
    targets = tuple(sorted({module.rsplit(".", 1)[-1] for module in pairs}))
    return Adapter(replace(config, targets=targets), {module: (pair[0], pair[1]) for module, pair in pairs.items()})


def _config(settings: Any, where: Path) -> LoRAConfig:
    if not isinstance(settings, dict) or settings.get("peft_type") != "LORA":
        raise UserError("{where} does not describe a LoRA adapter.", where=where)
    unusual = [name for name, values in HARMLESS.items() if settings.get(name) not in (None, *values)]
    if unusual:
        raise UserError(
            "{where} uses {features}, which Bimo does not compute.", where=where, features=", ".join(unusual)
        )
    rank, alpha = settings.get("r"), settings.get("lora_alpha")
    if type(rank) is not int or not isinstance(alpha, int | float) or rank < 1:
        raise UserError("{where} does not describe a LoRA adapter.", where=where)
    # Kalajdzievski 2023 divides by the root of the rank; the same is said with another alpha.
    return LoRAConfig(rank=rank, alpha=alpha * math.sqrt(rank) if settings.get("use_rslora") else alpha)


def merged(source: Decoder | GGUFModel, adapter: Adapter) -> Decoder | GGUFModel:
    """The model with an adapter added to its weights. Of a GGUF file only the matrices it changes become float32."""
    if isinstance(source, Decoder):
        merge_adapter(source, adapter)
        return source
    weights = dict(source.weights)
    shapes = {name.removesuffix(".weight"): (matrix.columns, matrix.rows) for name, matrix in weights.items()}
    for name, change in changes(adapter, shapes):
        matrix = weights[f"{name}.weight"]
        numbers = matrix.dequantised() + change.numpy()
        data = np.ascontiguousarray(numbers, dtype=np.float32).view(np.uint8)
        weights[f"{name}.weight"] = StoredMatrix(matrix.rows, matrix.columns, "F32", data)
    return replace(source, weights=weights)


def adapter_chat_format(folder: Path, base: OpenedModel) -> ChatFormat:
    """How messages were laid out when the adapter learned: with its own template where it has one, else the base's."""
    return folder_chat_format(folder, base.tokenizer) if (folder / TEMPLATE_FILE).is_file() else base.chat()
