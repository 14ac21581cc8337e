"""Hugging Face folders: `config.json`, `model.safetensors` (in one piece or several) or an adapter, and company."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from bimo.files import read_json, read_settings, replacing, write_json
from bimo.models.config import ModelConfig
from bimo.models.encoder import Encoder, EncoderConfig
from bimo.models.families import LanguageModule, Model, StoredShape, build, family_of
from bimo.models.lora import Adapter
from bimo.models.recurrent_classifier import RecurrentClassifier
from bimo.models.seq2seq import EncoderDecoder
from bimo.runtime import USAGE, UserError
from bimo.weights import bert, marian
from bimo.weights.adapters import adapted_weights, base_of, load_adapter, save_adapter
from bimo.weights.finite import require_finite
from bimo.weights.layouts import from_hf, model_config_from_hf, model_config_to_hf, settings_of, to_hf
from bimo.weights.safetensors_files import holds_adapter, read_weights, weight_files

__all__ = [
    "end_ids",
    "family_in",
    "head_in",
    "load_encoder",
    "load_model",
    "load_reader",
    "load_translator",
    "read_model",
    "save_encoder",
    "save_model",
    "save_translator",
    "shape_in",
]


def save_model(folder: Path, model: LanguageModule, *, end: int, begin: int | None = None) -> None:
    """Write `config.json`, `generation_config.json` and `model.safetensors` (fp32), each all or nothing."""
    config = model_config_to_hf(model.config, end=end, begin=begin)
    write_json(folder / "config.json", config)
    generation = {name: config[name] for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    write_json(
        folder / "generation_config.json",
        {**generation, "do_sample": True, "temperature": 0.8, "top_p": 0.95, "top_k": 0},
    )
    _write_weights(folder, model)


def save_encoder(
    folder: Path,
    model: Encoder | RecurrentClassifier,
    *,
    pad: int,
    adapter: Adapter | None = None,
    base: Path | None = None,
) -> None:
    """Write `config.json` and `model.safetensors` (fp32), each all or nothing; `pad` is the id of the padding token.

    Where an adapter has learned beside a model in the folder `base`, it is written in place of `model.safetensors`.
    """
    write_json(folder / "config.json", {**settings_of(model.config), "pad_token_id": pad})
    _write_learned(folder, model, adapter, base)


def _write_learned(folder: Path, model: Model, adapter: Adapter | None, base: Path | None) -> None:
    if adapter is None or base is None:
        _write_weights(folder, model)
    else:
        save_adapter(folder, adapter, model.config, base=_seen_from(folder, base))


def _seen_from(folder: Path, base: Path) -> str:
    """The way to a base that stays right when both folders move together, and tells nobody where they were."""
    try:
        return Path(os.path.relpath(base.resolve(), folder.resolve())).as_posix()
    except ValueError:  # on another drive
        return str(base.resolve())


def save_translator(
    folder: Path, model: EncoderDecoder, *, end: int, adapter: Adapter | None = None, base: Path | None = None
) -> None:
    """As `save_encoder`; the generation config lets others search as generate.beam does."""
    config = {**marian.config_to_hf(model.config), "eos_token_id": end, "bos_token_id": None}
    write_json(folder / "config.json", config)
    write_json(folder / "generation_config.json", {**marian.generation_to_hf(model.config), "eos_token_id": end})
    _write_learned(folder, model, adapter, base)


def _write_weights(folder: Path, model: Model) -> None:
    weights = {name: weight.detach().float().cpu().contiguous() for name, weight in model.named_parameters()}
    with replacing(folder / "model.safetensors") as part:
        save_file(to_hf(weights, model.config), part, metadata={"format": "pt"})


def load_model(
    folder: Path, *, device: torch.device | None = None, compute_dtype: torch.dtype = torch.float32
) -> LanguageModule:
    """The language model that a folder holds. Raises UserError when there is none."""
    model = _load(folder, device, compute_dtype)
    if isinstance(model, Encoder):
        raise UserError(
            "{folder} holds an encoder: it reads text from both sides, and cannot write any.", code=USAGE, folder=folder
        )
    if isinstance(model, EncoderDecoder):
        raise UserError(
            "{folder} holds an encoder-decoder, which translates: bimo translate {folder}.", code=USAGE, folder=folder
        )
    if isinstance(model, RecurrentClassifier):
        raise UserError("{folder} holds a classifier: bimo classify {folder} TEXT.", code=USAGE, folder=folder)
    return model


def load_encoder(
    folder: Path, *, device: torch.device | None = None, compute_dtype: torch.dtype = torch.float32
) -> Encoder:
    """The encoder that a folder holds, with its head. Raises UserError when there is none."""
    return _require_encoder(_load(folder, device, compute_dtype), folder)


def load_reader(folder: Path, *, device: torch.device | None = None) -> Encoder | RecurrentClassifier:
    """The encoder or the recurrent classifier that a folder holds. Raises UserError when there is neither."""
    model = _load(folder, device, torch.float32)
    return model if isinstance(model, RecurrentClassifier) else _require_encoder(model, folder)


def _require_encoder(model: Model, folder: Path) -> Encoder:
    if isinstance(model, RecurrentClassifier):
        raise UserError("{folder} holds a classifier: bimo classify {folder} TEXT.", code=USAGE, folder=folder)
    if not isinstance(model, Encoder):
        raise UserError("{folder} holds no encoder but a model that writes.", code=USAGE, folder=folder)
    return model


def shape_in(folder: Path) -> StoredShape | None:
    """What a folder's `config.json` describes, without a look at its weights; None where there is no such file."""
    path = folder / "config.json"
    return model_config_from_hf(read_settings(path), where=path) if path.is_file() else None


def family_in(folder: Path) -> str:
    """The family, as --family names it, of the model that a folder's `config.json` describes; "" if it is none."""
    shape = shape_in(folder)
    return "" if shape is None else family_of(shape)


def head_in(folder: Path) -> str:
    """What stands on the encoder that a folder describes, as models.heads calls it; "" if it holds none."""
    shape = shape_in(folder)
    return shape.head.kind if isinstance(shape, EncoderConfig) else ""


def load_translator(
    folder: Path, *, device: torch.device | None = None, compute_dtype: torch.dtype = torch.float32
) -> EncoderDecoder:
    """The encoder-decoder that a folder holds. Raises UserError when there is none."""
    model = _load(folder, device, compute_dtype)
    if not isinstance(model, EncoderDecoder):
        raise UserError(
            "{folder} holds no model that translates. One is made by: bimo train PAIRS --out MODEL --family seq2seq.",
            code=USAGE,
            folder=folder,
        )
    return model


def _load(folder: Path, device: torch.device | None, compute_dtype: torch.dtype) -> Model:
    """Build the model that a folder describes, with its weights. Raises UserError when the folder holds none."""
    config, weights = read_model(folder)
    model = build(config, compute_dtype=compute_dtype)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.copy_(weights[name])
    return model.to(device or "cpu").eval()


def read_model(folder: Path) -> tuple[StoredShape, dict[str, Tensor]]:
    """The shape that a folder describes, and the weights under our names, mapped and checked against each other.

    Where an adapter lies in place of weights, they are those of its base with what it changes. Nothing of the size that
    `config.json` asks for is built before. Raises UserError.
    """
    adapted = holds_adapter(folder)
    files = [] if adapted else weight_files(folder)
    if not (folder / "config.json").is_file() or not (files or adapted):
        raise UserError(
            "{folder} is not a model folder: it needs config.json and model.safetensors. "
            "A model is made by: bimo run SOURCE --out MODEL.",
            folder=folder,
        )
    config = model_config_from_hf(read_settings(folder / "config.json"), where=folder / "config.json")
    weights = _adapted(folder, config) if adapted else from_hf(read_weights(files), config)
    if isinstance(config, EncoderConfig) and config.head.kind == "none":
        config = bert.with_pooler_as_found(config, weights)
    if isinstance(config, ModelConfig) and config.tied and "head.weight" in weights:
        config = replace(config, tied=False)  # as in transformers, the weights count above what is said of them
    foreign = [name for name, weight in weights.items() if not weight.is_floating_point() or weight.itemsize < 2]
    if foreign:
        raise UserError(
            "The weights in {folder} are of number formats that Bimo does not compute with, first {name}.",
            folder=folder,
            name=foreign[0],
        )
    found = sum(weight.numel() for weight in weights.values())
    if found != config.parameters:
        raise UserError(
            "The weights in {folder} do not fit its config.json: {found:,} numbers, where it describes {expected:,}.",
            folder=folder,
            found=found,
            expected=config.parameters,
        )
    with torch.device("meta"):
        model = build(config)
    expected = {name: weight.shape for name, weight in model.named_parameters()}
    if {name: weight.shape for name, weight in weights.items()} != expected:
        wrong = sorted(name for name in expected.keys() | weights.keys() if _shape(weights, name) != expected.get(name))
        raise UserError(
            "The weights in {folder} do not fit its config.json, first at {name}.", folder=folder, name=wrong[0]
        )
    require_finite(weights, where=folder)
    return config, weights


def _adapted(folder: Path, config: StoredShape) -> dict[str, Tensor]:
    """The weights of an adapter's base with what the adapter in `folder` changes."""
    base = base_of(folder)
    if holds_adapter(base):
        raise UserError("{base}, on which {folder} is built, holds no weights of its own.", base=base, folder=folder)
    shape, weights = read_model(base)
    if isinstance(shape, EncoderConfig) and isinstance(config, EncoderConfig):
        shape = replace(shape, head=config.head)
    if type(shape) is not type(config) or (isinstance(shape, EncoderConfig) and shape != config):
        raise UserError("The adapter in {folder} was made for another model than {base}.", folder=folder, base=base)
    return adapted_weights(weights, load_adapter(folder, config), config)


def end_ids(folder: Path) -> frozenset[int]:
    """The ids that end an answer, as `generation_config.json` and `config.json` name them; one, several or none."""
    found: set[int] = set()
    for name in ("generation_config.json", "config.json"):
        settings = read_json(folder / name) if (folder / name).is_file() else {}
        ends = settings.get("eos_token_id") if isinstance(settings, dict) else None
        found |= {end for end in (ends if isinstance(ends, list) else [ends]) if type(end) is int}
    return frozenset(found)


def _shape(weights: dict[str, Tensor], name: str) -> torch.Size | None:
    return weights[name].shape if name in weights else None
