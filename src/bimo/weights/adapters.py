"""Adapters as PEFT keeps them: `adapter_config.json` and `adapter_model.safetensors`, under Hugging Face's names."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from bimo.files import read_json, read_settings, replacing, write_json
from bimo.models.encoder import EncoderConfig
from bimo.models.families import StoredShape, build
from bimo.models.layers import Linear
from bimo.models.lora import OF_THE_TASK, Adapter, LoRAConfig, changes, merge_adapter
from bimo.models.seq2seq import Seq2SeqConfig
from bimo.models.transformer import Decoder
from bimo.report.facts import part
from bimo.runtime import UserError
from bimo.weights import bert, gpt2, llama, marian
from bimo.weights.gguf import GGUFModel
from bimo.weights.gguf_blocks import StoredMatrix
from bimo.weights.layouts import names_of
from bimo.weights.names import NamePairs, renamed
from bimo.weights.safetensors_files import ADAPTER_SETTINGS, ADAPTER_WEIGHTS, read_weights

__all__ = [
    "adapted_weights",
    "adapter_config",
    "adapter_to_peft",
    "base_of",
    "load_adapter",
    "merged",
    "merged_weights",
    "require_same_base",
    "require_usable",
    "save_adapter",
]

CONFIG, WEIGHTS = ADAPTER_SETTINGS, ADAPTER_WEIGHTS
PREFIX = "base_model.model."
PARTS = {"lora_A": 0, "lora_B": 1}
NAME = re.compile(r"[\w.]+")
QKV = ("query", "key", "value")
SMALL, LARGE = 1e-9, 1e9
"""Nobody's ranks and alphas are outside."""

WHOLE = ("classifier", "score", "qa_outputs", "pooler")
"""Modules of a task that an adapter may hold whole, as PEFT calls them; `score` is one it names beside `classifier`."""

TASKS = {"none": "FEATURE_EXTRACTION", "classes": "SEQ_CLS", "tokens": "TOKEN_CLS", "span": "QUESTION_ANS"}
"""PEFT's types of tasks by our kinds of heads."""

HARMLESS: dict[str, tuple[Any, ...]] = {
    "init_lora_weights": (True, False, "gaussian", "eva", "orthogonal", "mica"),  # others change the base's weights
    "use_dora": (False,),
    "use_qalora": (False,),
    "lora_bias": (False,),
    "bias": ("none",),
    "layer_replication": ([],),
    "target_parameters": ([],),
    "trainable_token_indices": ([],),
    "alora_invocation_tokens": ([],),
}
"""Settings of PEFT that change what is computed, and the values with which they do not; null is one for each."""


def save_adapter(folder: Path, adapter: Adapter, shape: StoredShape, *, base: str) -> None:
    """Write both files, each all or nothing; `shape` and `base` say what the adapter belongs to."""
    tensors = adapter_to_peft(adapter, shape)
    rank, alpha = adapter.config.rank, adapter.config.alpha
    downs = {name.removesuffix(".lora_A.weight"): tensor for name, tensor in tensors.items() if ".lora_A." in name}
    other = {name.removeprefix(PREFIX): len(down) for name, down in downs.items() if len(down) != rank}
    settings = {
        "peft_type": "LORA",
        "task_type": _task_type(shape),
        "base_model_name_or_path": base,
        "r": rank,
        "lora_alpha": _plain(alpha),
        "rank_pattern": other,
        "alpha_pattern": {name: _plain(alpha * its_rank / rank) for name, its_rank in other.items()},
        "lora_dropout": 0.0,
        "target_modules": _shortest_ends({name.removeprefix(PREFIX) for name in downs}, shape),
        **_saved_whole(adapter, shape),
        "bias": "none",
        "fan_in_fan_out": _is_joined(shape),  # the matrices of GPT-2 are transposed as well
        "use_rslora": False,
        "use_dora": False,
        "inference_mode": True,
    }
    with replacing(folder / WEIGHTS) as part:
        save_file(tensors, part, metadata={"format": "pt"})
    write_json(folder / CONFIG, settings)


def require_same_base(folder: Path, base: Path) -> None:
    """Raises UserError where a training of ours has given a base other weights than an adapter was learned on.

    The notes of both are compared: the weights themselves would have to be read once more for it.
    """
    notes = [path / "bimo" / name for path, name in ((folder, "tune.json"), (base, "manifest.json"))]
    tuned, trained = (read_json(path) if path.is_file() else {} for path in notes)
    learned_on, held = part(tuned, "base", "before"), part(trained, "outputs")
    if any(held.get(name, digest) != digest for name, digest in learned_on.items()):
        raise UserError(
            "The adapter in {folder} was learned on other weights than {base} has now. Tune it again, or give the "
            "model that it was learned on.",
            folder=folder,
            base=base,
        )


def _plain(number: float) -> float | int:
    return int(number) if number == int(number) else number


def _task_type(shape: StoredShape) -> str | None:
    if isinstance(shape, EncoderConfig):
        return TASKS.get(shape.head.kind)
    return "SEQ_2_SEQ_LM" if isinstance(shape, Seq2SeqConfig) else "CAUSAL_LM"


def _shortest_ends(modules: set[str], shape: StoredShape) -> list[str]:
    """Of these modules' names the ends by which PEFT finds them and no others: short where that is enough."""
    with torch.device("meta"):
        linear = [name for name, module in build(shape).named_modules() if isinstance(module, Linear)]
    matrices = [name for name in linear if "layers." in name or name.startswith(OF_THE_TASK)]
    joined = {re.sub(r"attention\.(query|key|value)$", "attention.joined", name) for name in matrices}
    names = {f"{name}.weight": "" for name in (joined if _is_joined(shape) else matrices)}
    others = {name.removesuffix(".weight") for name in renamed(names, names_of(shape).to_theirs)} - modules
    for parts in range(1, 1 + max(name.count(".") for name in modules)):
        ends = {".".join(name.split(".")[-parts:]) for name in modules}
        if not any(f".{other}".endswith(f".{end}") for other in others for end in ends):
            return sorted(ends)
    return sorted(modules)


def _saved_whole(adapter: Adapter, shape: StoredShape) -> dict[str, list[str]]:
    """PEFT's setting for the modules that are kept whole, where there are any."""
    theirs = renamed(adapter.whole, names_of(shape).to_theirs)
    modules = sorted({part for name in theirs for part in name.split(".") if part in WHOLE})
    return {"modules_to_save": modules} if modules else {}


def _is_joined(shape: StoredShape) -> bool:
    """Whether Hugging Face has queries, keys and values of such a shape in one matrix."""
    return any(name.endswith("attention.joined") for name in names_of(shape).to_theirs)


def adapter_to_peft(adapter: Adapter, shape: StoredShape) -> dict[str, Tensor]:
    """An adapter's matrices under PEFT's names. Raises UserError for one that PEFT has no name for."""
    weights = _joined(adapter.weights) if _is_joined(shape) else adapter.weights
    tensors: dict[str, Tensor] = {}
    for module, pair in weights.items():
        for side, place in PARTS.items():
            for name, tensor in renamed({f"{module}.{side}": pair[place]}, names_of(shape).to_theirs).items():
                tensors[f"{PREFIX}{name}.weight"] = tensor
    tensors |= {f"{PREFIX}{name}": weight for name, weight in renamed(adapter.whole, names_of(shape).to_theirs).items()}
    return {name: tensor.detach().float().cpu().contiguous() for name, tensor in tensors.items()}


def _joined(weights: dict[str, tuple[Tensor, Tensor]]) -> dict[str, tuple[Tensor, Tensor]]:
    """Adapters of queries, keys and values as one of the sum of their ranks: each works on its own rows."""
    joined: dict[str, tuple[Tensor, Tensor]] = {}
    for name, pair in weights.items():
        attention, _, part = name.rpartition(".")
        if part not in QKV:
            joined[name] = pair
        elif f"{attention}.joined" not in joined:
            parts = [(place, weights.get(f"{attention}.{other}")) for place, other in enumerate(QKV)]
            there = [(place, *found) for place, found in parts if found is not None]
            ups = torch.block_diag(*(up for _, _, up in there))
            rows = len(pair[1])
            up = ups.new_zeros(len(QKV) * rows, ups.shape[1])
            for number, (place, _, _) in enumerate(there):
                up[place * rows : (place + 1) * rows] = ups[number * rows : (number + 1) * rows]
            joined[f"{attention}.joined"] = torch.cat([down for _, down, _ in there]), up
    return joined


def load_adapter(folder: Path, shape: StoredShape) -> Adapter:
    """Read what `save_adapter` or PEFT wrote for a model of such a shape.

    Raises UserError when it is none, or one that computes otherwise.
    """
    config, pairs, saved = _read(folder)
    weights: dict[str, tuple[Tensor, Tensor]] = {}
    for module, (down, up) in pairs.items():
        for name in renamed({f"{module}.weight": down}, names_of(shape).to_ours):
            weights |= _split(name.removesuffix(".weight"), down, up)
    whole = renamed(saved, names_of(shape).to_ours)
    for name, theirs in zip(whole, saved, strict=True):
        if not name.startswith(OF_THE_TASK):
            raise UserError("The adapter holds {name}, which Bimo does not know.", name=theirs)
    targets = tuple(sorted({module.rsplit(".", 1)[-1] for module in weights}))
    return Adapter(replace(config, targets=targets), weights, whole)


def base_of(folder: Path) -> Path:
    """The folder of the model that an adapter belongs to: where its settings say, as seen from the adapter's folder, or
    beside that folder, or as seen from the current one, as PEFT writes it.

    Raises UserError when it is in none of these places.
    """
    named = read_settings(folder / CONFIG).get("base_model_name_or_path")
    here = folder.resolve()
    places = (here / named, here.parent / Path(named).name, Path(named)) if isinstance(named, str) and named else ()
    for place in places:
        if os.path.isfile(place / "config.json"):  # where Path.is_file raises, what may not be read is not there
            return place
    raise UserError(
        "The adapter in {folder} needs its base model {base!r:.200}, which is not there. Put that beside the adapter's "
        "folder, or name its place in {where} as base_model_name_or_path.",
        folder=folder,
        base=named,
        where=folder / CONFIG,
    )


def adapted_weights(weights: Mapping[str, Tensor], adapter: Adapter, shape: StoredShape) -> dict[str, Tensor]:
    """A base's weights under our names as a model of `shape` has them with an adapter: what it changes becomes float32.

    A head of the base gives way where the adapter has one. Raises UserError when the adapter does not fit.
    """
    unused: tuple[str, ...] = ()
    if isinstance(shape, EncoderConfig):
        replaced = shape.head.kind == "none" or any(name.startswith("head.") for name in adapter.whole)
        unused = ("head.",) * replaced + ("pooler.",) * (not shape.head.pooler)
    found = {name: weight for name, weight in weights.items() if not name.startswith(unused)} | adapter.whole
    shapes = {
        name.removesuffix(".weight"): (weight.shape[1], weight.shape[0])
        for name, weight in found.items()
        if weight.ndim == 2
    }
    for name, change in changes(adapter, shapes):
        found[f"{name}.weight"] = found[f"{name}.weight"].float() + change
    return found


def require_usable(folder: Path) -> None:
    """Raises UserError when no model that Bimo reads can take an adapter, as far as the adapter alone tells."""
    _, pairs, _ = _read(folder)
    modules = {f"{name}.weight": name for name in pairs}
    layouts = (llama.NAMES, gpt2.NAMES, marian.NAMES, *bert.BODIES)
    known = next((names for names in layouts if _knows(names, modules)), llama.NAMES)
    for name, theirs in renamed(modules, known.to_ours).items():
        if "layers." not in name and not name.startswith("pooler."):
            raise UserError("The adapter changes {name}, and Bimo changes matrices in layers alone.", name=theirs)
    if known not in (llama.NAMES, gpt2.NAMES) and not (folder / "config.json").is_file():
        raise UserError(
            "The adapter in {folder} belongs to no decoder, so the config.json of the whole model and the tokenizer "
            "must lie beside it.",
            folder=folder,
        )


def _knows(names: NamePairs, modules: dict[str, str]) -> bool:
    try:
        renamed(modules, names.to_ours)
    except UserError:
        return False
    return True


def _read(folder: Path) -> tuple[LoRAConfig, dict[str, tuple[Tensor, Tensor]], dict[str, Tensor]]:
    """What an adapter's files hold under its own names: of modules down [R, I], up [O, R] as the config's scale takes
    it; and weights that are kept whole. Raises UserError as `load_adapter` does."""
    if not (folder / CONFIG).is_file() or not (folder / WEIGHTS).is_file():
        raise UserError(
            "{folder} is not an adapter: it needs adapter_config.json and adapter_model.safetensors. "
            "An adapter is made by: bimo tune MODEL FILE --lora --out ADAPTER.",
            folder=folder,
        )
    settings = read_settings(folder / CONFIG)
    config = adapter_config(settings, folder / CONFIG)
    tensors = read_weights([folder / WEIGHTS])
    pairs: dict[str, dict[int, Tensor]] = {}
    whole: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        module, _, part = name.removeprefix(PREFIX).removesuffix(".weight").rpartition(".")
        is_whole = not {*name.split(".")}.isdisjoint(settings.get("modules_to_save") or ())
        if part not in PARTS and not is_whole:
            raise UserError("The adapter holds {name}, which Bimo does not know.", name=name)
        fits = is_whole or tensor.ndim == 2
        if not fits or not tensor.is_floating_point() or tensor.itemsize < 2 or not tensor.isfinite().all():
            raise UserError("The adapter's tensor {name} is no matrix of finite numbers.", name=name)
        if is_whole:
            whole[name.removeprefix(PREFIX)] = tensor.float()
        else:
            pairs.setdefault(module, {})[PARTS[part]] = tensor.float()
    scaled: dict[str, tuple[Tensor, Tensor]] = {}
    for module, pair in pairs.items():
        rank = _by_pattern(settings.get("rank_pattern"), module, config.rank)
        if len(pair) < 2 or len(pair[0]) != rank or pair[1].shape[1] != rank:
            raise UserError("The adapter's matrices for {name} do not go with its rank.", name=module)
        alpha = _by_pattern(settings.get("alpha_pattern"), module, settings["lora_alpha"])
        # Kalajdzievski 2023 divides by the root of the rank.
        scale = alpha / (math.sqrt(rank) if settings.get("use_rslora") else rank)
        scaled[module] = pair[0], pair[1] * (scale / config.scale)
    if not scaled:
        raise UserError("The adapter in {folder} holds no weights.", folder=folder)
    return config, scaled, whole


def _split(name: str, down: Tensor, up: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """An adapter of joined queries, keys and values as three; any other as it is."""
    attention, _, last = name.rpartition(".")
    if last != "joined":
        return {name: (down, up)}
    if len(up) % len(QKV):
        raise UserError("The adapter's matrices for {name} do not go with its rank.", name=name)
    return {f"{attention}.{part}": (down.clone(), piece) for part, piece in zip(QKV, up.chunk(3), strict=True)}


def _by_pattern(pattern: Any, module: str, usual: float) -> float:
    """What a pattern says of a module, by its name or the end of it."""
    found = pattern.items() if isinstance(pattern, dict) else ()
    return next((value for key, value in found if module == key or module.endswith(f".{key}")), usual)


def adapter_config(settings: Any, where: Path) -> LoRAConfig:
    """Rank and alpha that PEFT's settings give. Raises UserError when they ask for what Bimo does not compute."""
    if not isinstance(settings, dict) or settings.get("peft_type") != "LORA":
        raise UserError("{where} does not describe a LoRA adapter.", where=where)
    unusual = [name for name, values in HARMLESS.items() if settings.get(name) not in (None, *values)]
    saved = settings.get("modules_to_save") or []
    if not isinstance(saved, list) or not all(name in WHOLE for name in saved):
        unusual.append("modules_to_save")
    if unusual:
        raise UserError(
            "{where} uses {features}, which Bimo does not compute.", where=where, features=", ".join(unusual)
        )
    patterns = [settings.get(name) or {} for name in ("rank_pattern", "alpha_pattern")]
    numbers = [value for pattern in patterns if isinstance(pattern, dict) for value in pattern.values()]
    names = [name for pattern in patterns if isinstance(pattern, dict) for name in pattern]
    alpha: Any = settings.get("lora_alpha")
    rank: Any = settings.get("r")
    if (
        not all(isinstance(pattern, dict) for pattern in patterns)
        or not all(type(value) in (int, float) and SMALL < value < LARGE for value in (*numbers, alpha, rank))
        or not all(NAME.fullmatch(name) for name in names)  # PEFT takes expressions as well
        or type(rank) is not int
    ):
        raise UserError("{where} does not describe a LoRA adapter.", where=where)
    return LoRAConfig(rank=rank, alpha=alpha)


def merged(source: Decoder | GGUFModel, adapter: Adapter) -> Decoder | GGUFModel:
    """The model with an adapter added to its weights. Of a GGUF file only the matrices it changes become float32."""
    if isinstance(source, Decoder):
        merge_adapter(source, adapter)
        return source
    return replace(source, weights=merged_weights(source.weights, adapter))


def merged_weights(weights: Mapping[str, StoredMatrix], adapter: Adapter) -> dict[str, StoredMatrix]:
    """Weights under our names with an adapter added: the matrices it changes become float32, all others stay."""
    weights = dict(weights)
    shapes = {name.removesuffix(".weight"): (matrix.columns, matrix.rows) for name, matrix in weights.items()}
    for name, change in changes(adapter, shapes):
        matrix = weights[f"{name}.weight"]
        numbers = matrix.dequantised() + change.numpy()
        data = np.ascontiguousarray(numbers, dtype=np.float32).view(np.uint8)
        weights[f"{name}.weight"] = StoredMatrix(matrix.rows, matrix.columns, "F32", data)
    return weights
