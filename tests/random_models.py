"""Random weights and usual shapes for tests that compare numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors.torch import load_file, save_file

Model = TypeVar("Model", bound=torch.nn.Module)

THEIR_SHAPE: dict[str, Any] = {
    "vocab_size": 131,
    "hidden_size": 72,
    "intermediate_size": 100,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 128,
    "rope_parameters": {"rope_type": "default", "rope_theta": 50_000.0},
    "rms_norm_eps": 1e-5,
}
"""As transformers names it. head_dim is nowhere hidden_size / num_attention_heads = 12, and heads share keys."""

GPT2_FIELDS: dict[str, Any] = {
    "kv_heads": 4,
    "head_width": 6,
    "qk_norm": False,
    "positions": "learned",
    "norm": "layer",
    "feed_forward": "gelu_tanh",
    "biases": "all",
}
"""What makes a GPT-2 of the small decoder that the fixture `make_model` makes."""


def randomised(model: Model, *, size: float = 0.3, seed: int = 0) -> Model:
    """The model with every weight random and none silent: matrices of this size, biases around 0, norms around 1."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            noise = torch.randn(weight.shape, generator=generator)
            centre = 0 if weight.ndim == 2 or name.endswith("bias") else 1
            weight.copy_(centre + noise * (size if weight.ndim == 2 else 0.2))
    return model.eval()


def split_weights(folder: Path) -> None:
    """Put the weights of a model folder into two files and an index, as large models come."""
    whole = folder / "model.safetensors"
    weights = load_file(whole)
    places = {name: f"model-{1 + number % 2:05d}-of-00002.safetensors" for number, name in enumerate(sorted(weights))}
    for place in set(places.values()):
        save_file({name: weights[name] for name in weights if places[name] == place}, folder / place)
    index = {"metadata": {}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    whole.unlink()
