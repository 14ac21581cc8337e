"""Marian's encoder-decoders as Hugging Face has them: names of weights, `config.json`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bimo.models.layers import sinusoids
from bimo.models.seq2seq import Seq2SeqConfig
from bimo.runtime import UserError
from bimo.weights.names import ACTIVATIONS, NamePairs, count, refuse_features, renamed, their_activation
from bimo.weights.tying import require_copies

__all__ = ["NAMES", "config_from_hf", "config_to_hf", "from_hf", "generation_to_hf", "to_hf"]


def _attention(ours: str, theirs: str) -> tuple[tuple[str, str], ...]:
    """The four matrices of an attention, and the normalisation behind it."""
    parts = (("query", "q_proj"), ("key", "k_proj"), ("value", "v_proj"), ("out", "out_proj"))
    return (*((f"{ours}.{part}", f"{theirs}.{name}") for part, name in parts), (f"{ours}_norm", f"{theirs}_layer_norm"))


def _feed_forward(ours: str, theirs: str) -> tuple[tuple[str, str], ...]:
    return (
        (f"{ours}.feed_forward.up", f"{theirs}.fc1"),
        (f"{ours}.feed_forward.down", f"{theirs}.fc2"),
        (f"{ours}.feed_forward_norm", f"{theirs}.final_layer_norm"),
    )


NAMES = NamePairs(
    (
        ("embedding", "model.shared"),
        *_attention("encoder_layers.{}.attention", "model.encoder.layers.{}.self_attn"),
        *_feed_forward("encoder_layers.{}", "model.encoder.layers.{}"),
        *_attention("decoder_layers.{}.attention", "model.decoder.layers.{}.self_attn"),
        *_attention("decoder_layers.{}.cross_attention", "model.decoder.layers.{}.encoder_attn"),
        *_feed_forward("decoder_layers.{}", "model.decoder.layers.{}"),
    )
)
"""Our modules beside Hugging Face's; the bias of the output stands by itself there."""

BIAS = "final_logits_bias"
PLACES = ("model.encoder.embed_positions.weight", "model.decoder.embed_positions.weight")
"""Sines and cosines, which some folders hold beside the weights."""

EMBEDDING = "model.shared.weight"
SHARED = ("lm_head.weight", "model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight")
"""Other names of the one embedding."""

MOST_POSITIONS = 65_536
"""Their sines and cosines are made anew, so that a file is no measure of them."""


def to_hf(weights: dict[str, Tensor], config: Seq2SeqConfig) -> dict[str, Tensor]:
    """Our state dict under Hugging Face's names; tensors are shared, not copied."""
    plain = {name: tensor for name, tensor in weights.items() if name != "head.bias"}
    return {**renamed(plain, NAMES.to_theirs), BIAS: weights["head.bias"][None]}


def from_hf(weights: dict[str, Tensor], config: Seq2SeqConfig) -> dict[str, Tensor]:
    """Hugging Face's state dict under our names. Raises UserError on a tensor that such a model does not have."""
    weights = dict(weights)
    for name in PLACES:
        places = weights.pop(name, None)
        if places is not None and not _are_sinusoids(places):
            raise UserError("The weights hold {name}, which a model of this type does not have.", name=name)
    copies = [name for name in SHARED if name in weights]
    if copies:
        weights.setdefault(EMBEDDING, weights[copies[0]])
        require_copies(weights, EMBEDDING, copies)
    for name in copies:
        del weights[name]
    if EMBEDDING in weights:
        weights.setdefault(BIAS, torch.zeros(weights[EMBEDDING].shape[:1]))
    bias = {"head.bias": weights.pop(BIAS).flatten()} if BIAS in weights else {}
    return {**renamed(weights, NAMES.to_ours), **bias}


def _are_sinusoids(places: Tensor) -> bool:
    return places.ndim == 2 and torch.allclose(places.float(), sinusoids(*places.shape), atol=1e-3)


def config_to_hf(config: Seq2SeqConfig) -> dict[str, Any]:
    """`config.json` of a MarianMTModel."""
    return {
        "architectures": ["MarianMTModel"],
        "model_type": "marian",
        "is_encoder_decoder": True,
        "vocab_size": config.vocabulary,
        "decoder_vocab_size": config.vocabulary,
        "d_model": config.width,
        "encoder_layers": config.layers,
        "decoder_layers": config.decoder_layers,
        "encoder_attention_heads": config.heads,
        "decoder_attention_heads": config.heads,
        "encoder_ffn_dim": config.hidden,
        "decoder_ffn_dim": config.hidden,
        "max_position_embeddings": config.context,
        "activation_function": their_activation(config.feed_forward),
        "scale_embedding": config.scaled,
        "share_encoder_decoder_embeddings": True,
        "tie_word_embeddings": True,
        "decoder_start_token_id": config.pad,
        "pad_token_id": config.pad,
        "forced_eos_token_id": None,
        "dropout": 0.1,
        "attention_dropout": 0.0,
        "activation_dropout": 0.0,
        "init_std": 0.02,
        "use_cache": True,
        "dtype": "float32",
    }


def generation_to_hf(config: Seq2SeqConfig) -> dict[str, Any]:
    """How `generation_config.json` lets others search: as generate.beam does."""
    return {
        "decoder_start_token_id": config.pad,
        "num_beams": 4,
        "length_penalty": 1.0,
        "early_stopping": True,
        "max_length": config.context,
    }


def config_from_hf(settings: dict[str, Any], *, where: Path) -> Seq2SeqConfig:
    """The shape that a `config.json` describes. Raises UserError for a feature that is not ours."""
    activation = settings.get("activation_function", "gelu")
    vocabulary = count(settings["vocab_size"])
    unusual = {
        "activation_function": activation not in ACTIVATIONS,
        "normalize_before": bool(settings.get("normalize_before")),
        "normalize_embedding": bool(settings.get("normalize_embedding")),
        "add_final_layer_norm": bool(settings.get("add_final_layer_norm")),
        "static_position_embeddings": not settings.get("static_position_embeddings", True),
        "share_encoder_decoder_embeddings": not settings.get("share_encoder_decoder_embeddings", True),
        "tie_word_embeddings": not settings.get("tie_word_embeddings", True),
        "decoder_vocab_size": (settings.get("decoder_vocab_size") or vocabulary) != vocabulary,
        "decoder_attention_heads": settings["decoder_attention_heads"] != settings["encoder_attention_heads"],
        "decoder_ffn_dim": settings["decoder_ffn_dim"] != settings["encoder_ffn_dim"],
        "pad_token_id": settings.get("pad_token_id") != vocabulary - 1,
        "max_position_embeddings": count(settings["max_position_embeddings"]) > MOST_POSITIONS,
        "decoder_start_token_id": settings.get("decoder_start_token_id") != settings.get("pad_token_id"),
    }
    refuse_features(unusual, where=where)
    return Seq2SeqConfig(
        vocabulary=vocabulary,
        layers=count(settings["encoder_layers"]),
        decoder_layers=count(settings["decoder_layers"]),
        width=count(settings["d_model"]),
        heads=count(settings["encoder_attention_heads"]),
        hidden=count(settings["encoder_ffn_dim"]),
        context=count(settings["max_position_embeddings"]),
        feed_forward=ACTIVATIONS[activation],
        scaled=bool(settings.get("scale_embedding", False)),
    )
