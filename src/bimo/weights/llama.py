"""Llama-, Qwen2- and Qwen3-shaped decoders as Hugging Face has them: names of weights, `config.json`."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from torch import Tensor

from bimo.models.config import ModelConfig, RotaryScaling
from bimo.runtime import UserError
from bimo.weights.names import NamePairs, count, refuse_features, renamed
from bimo.weights.tying import with_tied_head

__all__ = ["NAMES", "config_from_hf", "config_to_hf", "from_hf", "to_hf"]

NAMES = NamePairs(
    (
        ("embedding", "model.embed_tokens"),
        ("norm", "model.norm"),
        ("head", "lm_head"),
        ("layers.{}.attention_norm", "model.layers.{}.input_layernorm"),
        ("layers.{}.attention.query", "model.layers.{}.self_attn.q_proj"),
        ("layers.{}.attention.key", "model.layers.{}.self_attn.k_proj"),
        ("layers.{}.attention.value", "model.layers.{}.self_attn.v_proj"),
        ("layers.{}.attention.out", "model.layers.{}.self_attn.o_proj"),
        ("layers.{}.attention.query_norm", "model.layers.{}.self_attn.q_norm"),
        ("layers.{}.attention.key_norm", "model.layers.{}.self_attn.k_norm"),
        ("layers.{}.feed_forward_norm", "model.layers.{}.post_attention_layernorm"),
        ("layers.{}.feed_forward.gate", "model.layers.{}.mlp.gate_proj"),
        ("layers.{}.feed_forward.up", "model.layers.{}.mlp.up_proj"),
        ("layers.{}.feed_forward.down", "model.layers.{}.mlp.down_proj"),
    )
)
"""Our modules beside Hugging Face's; `{}` is the number of the layer."""

FREQUENCIES = ".rotary_emb.inv_freq"
"""Constants that older folders hold beside the weights."""

CLASSES = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM"}


def to_hf(weights: dict[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    """Our state dict under Hugging Face's names; tensors are shared, not copied."""
    return renamed(weights, NAMES.to_theirs)


def from_hf(weights: dict[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    """Hugging Face's state dict under our names. Raises UserError on a tensor that such a decoder does not have."""
    ours = renamed({n: w for n, w in weights.items() if not n.endswith(FREQUENCIES)}, NAMES.to_ours)
    return with_tied_head(ours) if config.tied else ours


def config_to_hf(config: ModelConfig) -> dict[str, Any]:
    """`config.json`: Qwen3 when queries and keys are normalised, Qwen2 when just they and values have biases."""
    family = "qwen3" if config.qk_norm else "qwen2" if config.biases == "qkv" else "llama"
    rope = _rope_to_hf(config)
    return {
        "architectures": [CLASSES[family]],
        "model_type": family,
        "vocab_size": config.vocabulary,
        "num_hidden_layers": config.layers,
        "hidden_size": config.width,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_width,
        "intermediate_size": config.hidden,
        "max_position_embeddings": config.context,
        "hidden_act": "silu",
        "attention_bias": config.biases in ("attention", "all"),
        "mlp_bias": config.biases == "all",
        "attention_dropout": 0.0,
        "rms_norm_eps": config.norm_epsilon,
        "rope_theta": config.rope_theta,
        "rope_parameters": rope,
        # Version 4 of transformers, and vLLM, look here.
        **({"rope_scaling": rope} if config.rope_scaling is not None else {}),
        "tie_word_embeddings": config.tied,
        "initializer_range": 0.02,
        "use_cache": True,
        "dtype": "float32",
    }


def config_from_hf(settings: dict[str, Any], *, where: Path) -> ModelConfig:
    """The shape that a `config.json` describes. Raises UserError for a feature that is not ours."""
    rope = settings.get("rope_scaling") or settings.get("rope_parameters") or {}
    if not isinstance(rope, dict):
        raise UserError("{where} does not describe a model.", where=where)
    kind = rope.get("rope_type") or rope.get("type") or "default"
    biased = (bool(settings.get("attention_bias")), bool(settings.get("mlp_bias")))
    unusual = {
        "rope_type": kind not in ("default", "dynamic", "linear", "llama3", "yarn"),
        "partial_rotary_factor": (settings | rope).get("partial_rotary_factor") not in (1, None),
        "mlp_bias": biased == (False, True),
        "hidden_act": settings.get("hidden_act", "silu") != "silu",
        "use_sliding_window": bool(settings.get("use_sliding_window")),
    }
    refuse_features(unusual, where=where)
    heads, width = count(settings["num_attention_heads"]), count(settings["hidden_size"])
    context = count(settings["max_position_embeddings"])
    biases = {(False, False): "none", (True, False): "attention", (True, True): "all"}[biased]
    return ModelConfig(
        vocabulary=count(settings["vocab_size"]),
        layers=count(settings["num_hidden_layers"]),
        width=width,
        heads=heads,
        kv_heads=count(settings.get("num_key_value_heads") or heads),
        head_width=count(settings.get("head_dim") or width // heads),
        hidden=count(settings["intermediate_size"]),
        context=context,
        qk_norm=settings["model_type"] == "qwen3",
        tied=bool(settings.get("tie_word_embeddings", False)),
        rope_theta=float(rope.get("rope_theta") or settings.get("rope_theta") or 10_000.0),
        norm_epsilon=float(settings.get("rms_norm_eps", 1e-6)),
        rope_scaling=_rope_from_hf(kind, {"original_max_position_embeddings": context, **rope}),
        biases="qkv" if settings["model_type"] == "qwen2" else biases,
    )


def _rope_from_hf(kind: str, rope: dict[str, Any]) -> RotaryScaling | None:
    """Positions within the context are not stretched by `dynamic`, and others are not read."""
    if kind in ("default", "dynamic"):
        return None
    original = count(rope["original_max_position_embeddings"])
    if kind == "linear":
        return RotaryScaling("linear", float(rope["factor"]))
    if kind == "llama3":
        low, high = float(rope["low_freq_factor"]), float(rope["high_freq_factor"])
        return RotaryScaling("llama3", float(rope["factor"]), original, low, high)
    factor = float(rope["factor"])
    attention = rope.get("attention_factor")
    if attention is None:
        upper, lower = rope.get("mscale"), rope.get("mscale_all_dim")
        attention = _magnitude(factor, upper) / _magnitude(factor, lower) if upper and lower else _magnitude(factor, 1)
    return RotaryScaling(
        "yarn",
        factor,
        original,
        low=float(rope.get("beta_slow") or 1),
        high=float(rope.get("beta_fast") or 32),
        attention=float(attention),
        truncate=bool(rope.get("truncate", True)),
    )


def _magnitude(factor: float, scale: float) -> float:
    """By how much cosines and sines grow (Peng et al. 2023, equation 15)."""
    return 0.1 * scale * math.log(factor) + 1 if factor > 1 else 1.0


def _rope_to_hf(config: ModelConfig) -> dict[str, Any]:
    scaling = config.rope_scaling
    if scaling is None:
        return {"rope_type": "default", "rope_theta": config.rope_theta}
    rope = {"rope_type": scaling.kind, "rope_theta": config.rope_theta, "factor": scaling.factor}
    if scaling.kind != "linear":
        rope["original_max_position_embeddings"] = scaling.original
    if scaling.kind == "llama3":
        rope |= {"low_freq_factor": scaling.low, "high_freq_factor": scaling.high}
    if scaling.kind == "yarn":
        rope |= {"beta_slow": scaling.low, "beta_fast": scaling.high, "attention_factor": scaling.attention}
        rope["truncate"] = scaling.truncate
    return rope
