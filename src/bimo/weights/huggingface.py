"""Hugging Face folders of Llama- and Qwen3-shaped decoders: `config.json`, `model.safetensors` and company."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from bimo.files import read_json, replacing, write_json
from bimo.models.config import ModelConfig
from bimo.models.transformer import Decoder
from bimo.runtime import UserError

__all__ = ["from_hf", "load_model", "model_config_from_hf", "model_config_to_hf", "save_model", "to_hf"]

NAMES = (
    ("embedding.weight", "model.embed_tokens.weight"),
    ("norm.weight", "model.norm.weight"),
    ("head.weight", "lm_head.weight"),
    ("layers.{}.attention_norm.weight", "model.layers.{}.input_layernorm.weight"),
    ("layers.{}.attention.query.weight", "model.layers.{}.self_attn.q_proj.weight"),
    ("layers.{}.attention.key.weight", "model.layers.{}.self_attn.k_proj.weight"),
    ("layers.{}.attention.value.weight", "model.layers.{}.self_attn.v_proj.weight"),
    ("layers.{}.attention.out.weight", "model.layers.{}.self_attn.o_proj.weight"),
    ("layers.{}.attention.query_norm.weight", "model.layers.{}.self_attn.q_norm.weight"),
    ("layers.{}.attention.key_norm.weight", "model.layers.{}.self_attn.k_norm.weight"),
    ("layers.{}.feed_forward_norm.weight", "model.layers.{}.post_attention_layernorm.weight"),
    ("layers.{}.feed_forward.gate.weight", "model.layers.{}.mlp.gate_proj.weight"),
    ("layers.{}.feed_forward.up.weight", "model.layers.{}.mlp.up_proj.weight"),
    ("layers.{}.feed_forward.down.weight", "model.layers.{}.mlp.down_proj.weight"),
)
"""Our names beside Hugging Face's; `{}` is the number of the layer."""

LAYER = re.compile(r"(?<=layers\.)\d+")


def to_hf(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Our state dict under Hugging Face's names; tensors are shared, not copied."""
    return _renamed(weights, dict(NAMES))


def from_hf(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Hugging Face's state dict under our names. Raises UserError on a tensor that such a decoder does not have."""
    return _renamed(weights, {theirs: ours for ours, theirs in NAMES})


def _renamed(weights: dict[str, Tensor], names: dict[str, str]) -> dict[str, Tensor]:
    renamed = {}
    for name, tensor in weights.items():
        number = LAYER.search(name)
        pattern = LAYER.sub("{}", name)
        if pattern not in names:
            raise UserError("The weights hold {name}, which a Llama- or Qwen3-shaped decoder does not have.", name=name)
        renamed[names[pattern].format(number[0] if number else "")] = tensor
    return renamed


def model_config_to_hf(config: ModelConfig, *, end: int) -> dict[str, Any]:
    """`config.json`: Qwen3 when queries and keys are normalised, else Llama; `end` is the id of the end token."""
    return {
        "architectures": ["Qwen3ForCausalLM" if config.qk_norm else "LlamaForCausalLM"],
        "model_type": "qwen3" if config.qk_norm else "llama",
        "vocab_size": config.vocabulary,
        "num_hidden_layers": config.layers,
        "hidden_size": config.width,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_width,
        "intermediate_size": config.hidden,
        "max_position_embeddings": config.context,
        "hidden_act": "silu",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "rms_norm_eps": config.norm_epsilon,
        "rope_theta": config.rope_theta,
        "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_theta},
        "tie_word_embeddings": config.tied,
        "initializer_range": 0.02,
        "use_cache": True,
        "bos_token_id": end,
        "eos_token_id": end,
        "pad_token_id": end,
        "dtype": "float32",
    }


def model_config_from_hf(settings: Any, *, where: Path) -> ModelConfig:
    """The shape that a `config.json` describes. Raises UserError for a family or feature that is not ours."""
    if not isinstance(settings, dict):
        raise UserError("{where} does not describe a model.", where=where)
    family = settings.get("model_type")
    if family not in ("qwen3", "llama"):
        raise UserError(
            "{where} is a model of type {family!r}; Bimo reads decoders of type 'llama' and 'qwen3'.",
            where=where,
            family=family,
        )
    rope = settings.get("rope_parameters") or settings.get("rope_scaling") or {}
    if not isinstance(rope, dict):
        raise UserError("{where} does not describe a model.", where=where)
    unusual = {
        "rope_type": (rope.get("rope_type") or rope.get("type") or "default") != "default",
        "partial_rotary_factor": (settings | rope).get("partial_rotary_factor") not in (1, None),
        "attention_bias": bool(settings.get("attention_bias")),
        "mlp_bias": bool(settings.get("mlp_bias")),
        "hidden_act": settings.get("hidden_act", "silu") != "silu",
        "use_sliding_window": bool(settings.get("use_sliding_window")),
    }
    if any(unusual.values()):
        raise UserError(
            "{where} uses {features}, which Bimo does not compute.",
            where=where,
            features=", ".join(name for name, used in unusual.items() if used),
        )
    try:
        return ModelConfig(
            vocabulary=_count(settings["vocab_size"]),
            layers=_count(settings["num_hidden_layers"]),
            width=_count(settings["hidden_size"]),
            heads=_count(settings["num_attention_heads"]),
            kv_heads=_count(settings.get("num_key_value_heads") or settings["num_attention_heads"]),
            head_width=_count(settings.get("head_dim") or settings["hidden_size"] // settings["num_attention_heads"]),
            hidden=_count(settings["intermediate_size"]),
            context=_count(settings["max_position_embeddings"]),
            qk_norm=family == "qwen3",
            tied=bool(settings.get("tie_word_embeddings", False)),
            rope_theta=float(settings.get("rope_theta") or rope.get("rope_theta") or 10_000.0),
            norm_epsilon=float(settings.get("rms_norm_eps", 1e-6)),
        )
    except (KeyError, TypeError, ValueError, ArithmeticError) as error:
        raise UserError("{where} is not complete: {error}.", where=where, error=error) from None


def _count(value: Any) -> int:
    if type(value) is not int:
        raise TypeError(f"{value!r} is not a whole number")
    return value


def save_model(folder: Path, model: Decoder, *, end: int) -> None:
    """Write `config.json`, `generation_config.json` and `model.safetensors` (fp32), each all or nothing."""
    weights = {name: weight.detach().float().cpu().contiguous() for name, weight in model.named_parameters()}
    write_json(folder / "config.json", model_config_to_hf(model.config, end=end))
    generation = {"bos_token_id": end, "eos_token_id": end, "pad_token_id": end, "do_sample": True}
    write_json(folder / "generation_config.json", {**generation, "temperature": 0.8, "top_p": 0.95, "top_k": 0})
    with replacing(folder / "model.safetensors") as part:
        save_file(to_hf(weights), part, metadata={"format": "pt"})


def load_model(
    folder: Path, *, device: torch.device | None = None, compute_dtype: torch.dtype = torch.float32
) -> Decoder:
    """Build the decoder that a folder describes, with its weights. Raises UserError when the folder holds none."""
    if not (folder / "config.json").is_file() or not (folder / "model.safetensors").is_file():
        raise UserError(
            "{folder} is not a model folder: it needs config.json and model.safetensors. "
            "A model is made by: bimo run SOURCE --out MODEL.",
            folder=folder,
        )
    config = model_config_from_hf(read_json(folder / "config.json"), where=folder / "config.json")
    try:
        weights = from_hf(load_file(folder / "model.safetensors"))
    except (SafetensorError, OSError) as error:
        raise UserError("{folder}/model.safetensors cannot be read: {error}.", folder=folder, error=error) from None
    if config.tied:
        weights.pop("head.weight", None)
    found = sum(weight.numel() for weight in weights.values())
    if found != config.parameters:
        # Before anything of the size that config.json asks for is built.
        raise UserError(
            "The weights in {folder} do not fit its config.json: {found:,} numbers, where it describes {expected:,}.",
            folder=folder,
            found=found,
            expected=config.parameters,
        )
    model = Decoder(config, compute_dtype=compute_dtype)
    expected = {name: weight.shape for name, weight in model.named_parameters()}
    if {name: weight.shape for name, weight in weights.items()} != expected:
        wrong = sorted(name for name in expected.keys() | weights.keys() if _shape(weights, name) != expected.get(name))
        raise UserError(
            "The weights in {folder} do not fit its config.json, first at {name}.", folder=folder, name=wrong[0]
        )
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.copy_(weights[name])
    return model.to(device or "cpu").eval()


def _shape(weights: dict[str, Tensor], name: str) -> torch.Size | None:
    return weights[name].shape if name in weights else None
