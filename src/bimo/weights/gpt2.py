"""GPT-2-shaped decoders as Hugging Face has them: matrices transposed, queries, keys and values in one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bimo.models.config import ModelConfig
from bimo.runtime import UserError
from bimo.weights.names import ACTIVATIONS, NamePairs, count, refuse_features, renamed, their_activation
from bimo.weights.tying import with_tied_head

__all__ = ["NAMES", "config_from_hf", "config_to_hf", "from_hf", "to_hf"]

NAMES = NamePairs(
    (
        ("embedding", "transformer.wte"),
        ("position_embedding", "transformer.wpe"),
        ("norm", "transformer.ln_f"),
        ("head", "lm_head"),
        ("layers.{}.attention_norm", "transformer.h.{}.ln_1"),
        ("layers.{}.attention.joined", "transformer.h.{}.attn.c_attn"),
        ("layers.{}.attention.out", "transformer.h.{}.attn.c_proj"),
        ("layers.{}.feed_forward_norm", "transformer.h.{}.ln_2"),
        ("layers.{}.feed_forward.up", "transformer.h.{}.mlp.c_fc"),
        ("layers.{}.feed_forward.down", "transformer.h.{}.mlp.c_proj"),
    )
)
"""Our modules beside Hugging Face's; queries, keys and values are `joined` there."""

PARTS = ("query", "key", "value")
TRANSPOSED = ("attention.joined.weight", "attention.out.weight", "feed_forward.up.weight", "feed_forward.down.weight")
MASKS = (".attn.bias", ".attn.masked_bias")
"""Constants that older folders hold beside the weights."""


def to_hf(weights: dict[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    """Our state dict under Hugging Face's names and in its layout."""
    joined: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        if ".attention.query." in name:
            parts = [weights[name.replace(".query.", f".{part}.")] for part in PARTS]
            joined[name.replace(".query.", ".joined.")] = torch.cat(parts)
        elif ".attention.key." not in name and ".attention.value." not in name:
            joined[name] = tensor
    turned = {name: tensor.T.contiguous() if name.endswith(TRANSPOSED) else tensor for name, tensor in joined.items()}
    return renamed(turned, NAMES.to_theirs)


def from_hf(weights: dict[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
    """Hugging Face's state dict, with or without a head, under our names and in our layout."""
    if "wte.weight" in weights:
        weights = {f"transformer.{name}": tensor for name, tensor in weights.items()}
    theirs = renamed({n: w for n, w in weights.items() if not n.endswith(MASKS)}, NAMES.to_ours)
    ours: dict[str, Tensor] = {}
    for name, tensor in theirs.items():
        tensor = tensor.T if name.endswith(TRANSPOSED) else tensor
        if ".joined." in name:
            if not tensor.ndim or tensor.shape[0] % 3:
                raise UserError("The weights hold {name} in a shape that no model of this type has.", name=name)
            for part, piece in zip(PARTS, tensor.chunk(3), strict=True):
                ours[name.replace(".joined.", f".{part}.")] = piece
        else:
            ours[name] = tensor
    return with_tied_head(ours) if config.tied else ours


def config_to_hf(config: ModelConfig) -> dict[str, Any]:
    """`config.json` of a GPT-2."""
    return {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "vocab_size": config.vocabulary,
        "n_layer": config.layers,
        "n_embd": config.width,
        "n_head": config.heads,
        "n_inner": config.hidden,
        "n_positions": config.context,
        "activation_function": their_activation(config.feed_forward),
        "layer_norm_epsilon": config.norm_epsilon,
        "tie_word_embeddings": config.tied,
        "initializer_range": 0.02,
        "use_cache": True,
        "dtype": "float32",
    }


def config_from_hf(settings: dict[str, Any], *, where: Path) -> ModelConfig:
    """The shape that a `config.json` describes. Raises UserError for a feature that is not ours."""
    activation = settings.get("activation_function", "gelu_new")
    unusual = {
        "activation_function": activation not in ACTIVATIONS,
        "add_cross_attention": bool(settings.get("add_cross_attention")),
        "scale_attn_weights": not settings.get("scale_attn_weights", True),
        "scale_attn_by_inverse_layer_idx": bool(settings.get("scale_attn_by_inverse_layer_idx")),
    }
    refuse_features(unusual, where=where)
    heads, width = count(settings["n_head"]), count(settings["n_embd"])
    return ModelConfig(
        vocabulary=count(settings["vocab_size"]),
        layers=count(settings["n_layer"]),
        width=width,
        heads=heads,
        kv_heads=heads,
        head_width=width // heads,
        hidden=count(settings.get("n_inner") or 4 * width),
        context=count(settings["n_positions"]),
        qk_norm=False,
        tied=bool(settings.get("tie_word_embeddings", True)),
        norm_epsilon=float(settings.get("layer_norm_epsilon", 1e-5)),
        positions="learned",
        norm="layer",
        feed_forward=ACTIVATIONS[activation],
        biases="all",
    )
