"""What GGUF calls the parts and settings of decoders: Llama's, Qwen2's, Qwen3's and GPT-2's, to read and to write."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from bimo.models.config import ModelConfig, RotaryScaling
from bimo.models.layers import rotary_tables
from bimo.runtime import UserError
from bimo.weights.gguf_blocks import StoredMatrix
from bimo.weights.names import NamePairs, require_buildable

__all__ = [
    "ARCHITECTURES",
    "NAMES",
    "ROTARY_FACTORS",
    "config_from_gguf",
    "config_to_gguf",
    "expected_shapes",
    "rotary_factors",
    "unusual_keys",
]

NAMES = NamePairs(
    (
        ("embedding", "token_embd"),
        ("position_embedding", "position_embd"),
        ("norm", "output_norm"),
        ("head", "output"),
        ("layers.{}.attention_norm", "blk.{}.attn_norm"),
        ("layers.{}.attention.joined", "blk.{}.attn_qkv"),
        ("layers.{}.attention.query", "blk.{}.attn_q"),
        ("layers.{}.attention.key", "blk.{}.attn_k"),
        ("layers.{}.attention.value", "blk.{}.attn_v"),
        ("layers.{}.attention.out", "blk.{}.attn_output"),
        ("layers.{}.attention.query_norm", "blk.{}.attn_q_norm"),
        ("layers.{}.attention.key_norm", "blk.{}.attn_k_norm"),
        ("layers.{}.feed_forward_norm", "blk.{}.ffn_norm"),
        ("layers.{}.feed_forward.gate", "blk.{}.ffn_gate"),
        ("layers.{}.feed_forward.up", "blk.{}.ffn_up"),
        ("layers.{}.feed_forward.down", "blk.{}.ffn_down"),
    )
)
"""Our modules beside GGUF's; `{}` is the number of the layer. GPT-2's queries, keys and values are `joined` there."""

ROTARY_FACTORS = "rope_freqs.weight"
"""By what Llama 3.1 divides its rotary frequencies, where a file has it."""

ARCHITECTURES: dict[str, dict[str, Any]] = {
    "llama": {"qk_norm": False},
    "qwen2": {"qk_norm": False, "biases": "qkv"},
    "qwen3": {},
    "gpt2": {
        "qk_norm": False,
        "positions": "learned",
        "norm": "layer",
        "feed_forward": "gelu_tanh",
        "biases": "all",
    },
}
"""By `general.architecture`: in what its shape differs from ModelConfig's usual one."""

LLAMA_3 = RotaryScaling("llama3", 8.0, original=8192, low=1.0, high=4.0)
"""How published models of Llama 3.1 and later stretch their positions, but for the factor; files hold what follows."""


def config_to_gguf(config: ModelConfig) -> dict[str, Any]:
    """The keys that describe a shape. Raises UserError for one that llama.cpp has no architecture for."""
    architecture = _architecture(config)
    settings: dict[str, Any] = {
        "vocab_size": config.vocabulary,
        "block_count": config.layers,
        "context_length": config.context,
        "embedding_length": config.width,
        "feed_forward_length": config.hidden,
        "attention.head_count": config.heads,
        "attention.head_count_kv": config.kv_heads,
        "attention.key_length": config.head_width,
        "attention.value_length": config.head_width,
        _epsilon(architecture): config.norm_epsilon,
    }
    if config.positions == "rotary":
        settings |= {"rope.dimension_count": config.head_width, "rope.freq_base": config.rope_theta}
        settings |= _scaling_to_gguf(config.rope_scaling)
    return {"general.architecture": architecture} | {f"{architecture}.{key}": entry for key, entry in settings.items()}


def _architecture(config: ModelConfig) -> str:
    biased = {"biases": config.biases} if config.biases in ("attention", "all") else {}
    sizes = ("vocabulary", "layers", "width", "heads", "kv_heads", "head_width", "hidden", "context")
    free = {name: getattr(config, name) for name in (*sizes, "tied", "rope_theta", "norm_epsilon", "rope_scaling")}
    for architecture, fields in ARCHITECTURES.items():
        if ModelConfig(**free, **fields | (biased if architecture == "llama" else {})) == config:
            return architecture
    raise UserError("llama.cpp has no architecture for a model of this shape: {shape}.", shape=config)


def _epsilon(architecture: str) -> str:
    return f"attention.layer_norm_{'' if architecture == 'gpt2' else 'rms_'}epsilon"


def _scaling_to_gguf(scaling: RotaryScaling | None) -> dict[str, Any]:
    if scaling is None or scaling.kind == "llama3":  # which is said by the tensor ROTARY_FACTORS
        return {}
    keys: dict[str, Any] = {"rope.scaling.type": scaling.kind, "rope.scaling.factor": scaling.factor}
    if scaling.kind == "yarn":
        if _yarn(scaling.factor, scaling.original, scaling.low, scaling.high) != scaling:
            raise UserError("No key of GGUF says how this model stretches its positions: {scaling}.", scaling=scaling)
        keys["rope.scaling.original_context_length"] = scaling.original
        keys |= {"rope.scaling.yarn_beta_slow": scaling.low, "rope.scaling.yarn_beta_fast": scaling.high}
    return keys


def _yarn(factor: float, original: int, low: float, high: float) -> RotaryScaling:
    """As llama.cpp computes it: what cosines and sines are multiplied by follows from the factor."""
    return RotaryScaling("yarn", factor, original, low, high, attention=0.1 * math.log(factor) + 1)


def rotary_factors(config: ModelConfig) -> np.ndarray | None:
    """By what each frequency is divided, float32 [K / 2], where a file needs a tensor to say it."""
    if config.rope_scaling is None or config.rope_scaling.kind != "llama3":
        return None
    return _factors(config.head_width, config.rope_theta, config.rope_scaling)


def _factors(head_width: int, theta: float, scaling: RotaryScaling) -> np.ndarray:
    """Angles at position 1, before and after; both are less than half a turn, so that they follow from the tables."""
    angles = []
    for each in (None, scaling):
        cos, sin = (table[1, : head_width // 2].numpy() for table in rotary_tables(2, head_width, theta, each))
        angles.append(np.arctan2(sin, cos))
    with np.errstate(all="ignore"):  # a file may ask for frequencies that come to nothing
        return np.divide(*angles).astype(np.float32)


def config_from_gguf(
    metadata: Mapping[str, Any], weights: Mapping[str, StoredMatrix], factors: StoredMatrix | None, *, where: Path
) -> ModelConfig:
    """The shape that the keys describe; the vocabulary is as large as the embedding has rows, under our names.

    `factors` is the tensor ROTARY_FACTORS. Raises UserError when a key is missing or of no use.
    """
    architecture = metadata["general.architecture"]

    def usable(kind: type[int] | type[float], key: str, usual: float | None = None) -> Any:
        value = metadata.get(f"{architecture}.{key}", usual)
        if type(value) is not kind or not 0 < value < math.inf:
            raise UserError("{path} says nothing usable for {key}.", path=where, key=f"{architecture}.{key}")
        return value

    if "embedding.weight" not in weights:
        raise UserError("{path} has no tensor {name}.", path=where, name="token_embd.weight")
    width, heads = usable(int, "embedding_length"), usable(int, "attention.head_count")
    fields = dict(ARCHITECTURES[architecture])
    if architecture == "llama":
        fields["biases"] = _biases(weights)
    config = ModelConfig(
        vocabulary=weights["embedding.weight"].rows,
        layers=usable(int, "block_count"),
        width=width,
        heads=heads,
        kv_heads=usable(int, "attention.head_count_kv", heads),
        head_width=usable(int, "attention.key_length", width // heads),
        hidden=usable(int, "feed_forward_length"),
        context=usable(int, "context_length"),
        tied="head.weight" not in weights,
        rope_theta=usable(float, "rope.freq_base", 10_000.0),
        norm_epsilon=usable(float, _epsilon(architecture)),
        **fields,
    )
    require_buildable(config, where=where)
    kind = metadata.get(f"{architecture}.rope.scaling.type", "none")
    if kind in ("linear", "yarn") and config.positions == "rotary":
        scaling = RotaryScaling("linear", usable(float, "rope.scaling.factor"))
        if kind == "yarn":
            original = usable(int, "rope.scaling.original_context_length", config.context)
            low, high = (
                usable(float, "rope.scaling.yarn_beta_slow", 1.0),
                usable(float, "rope.scaling.yarn_beta_fast", 32.0),
            )
            scaling = _yarn(scaling.factor, original, low, high)
        config = replace(config, rope_scaling=scaling)
        require_buildable(config, where=where)
        return config
    return replace(config, rope_scaling=_llama_3(config, factors))


def _biases(weights: Mapping[str, StoredMatrix]) -> str:
    """Which matrices of a Llama have biases: llama.cpp takes what there is."""
    there = [f"layers.0.{name}.bias" in weights for name in ("attention.query", "attention.out", "feed_forward.down")]
    return {0: "none", 1: "qkv", 2: "attention", 3: "all"}[sum(there)]


def _llama_3(config: ModelConfig, factors: StoredMatrix | None) -> RotaryScaling | None:
    """The scaling that gives these factors, None where there are none or they are ones; others stay unusual."""
    if factors is None or factors.rows * factors.columns != config.head_width // 2:
        return None
    wanted = factors.dequantised().ravel()
    if not np.isfinite(wanted).all() or wanted.max() <= 1:
        return None
    scaling = replace(LLAMA_3, factor=round(float(wanted.max()), 3))
    found = _factors(config.head_width, config.rope_theta, scaling)
    return scaling if np.allclose(found, wanted, rtol=1e-3) else None


def unusual_keys(metadata: Mapping[str, Any], config: ModelConfig, factors: StoredMatrix | None) -> list[str]:
    """Keys and tensors that ask for something that a Decoder does not compute."""
    architecture = metadata["general.architecture"]
    scaling = config.rope_scaling
    scaled = scaling is not None and scaling.kind != "llama3"
    harmless = {
        "rope.scaling.type": ("none", *((scaling.kind,) if scaling is not None and scaled else ())),
        "rope.scaling.factor": (0, 1, *((scaling.factor,) if scaling is not None and scaled else ())),
        "rope.scaling.attn_factor": (0, 1),
        "rope.scaling.yarn_attn_factor": (1,),
        "rope.scaling.yarn_ext_factor": (-1, int(scaling is not None and scaling.kind == "yarn")),
        "rope.scale_linear": (0, 1),
        "rope.dimension_count": (config.head_width,),
        "attention.value_length": (config.head_width,),
        "attention.sliding_window": (0,),
        "attention.causal": (True,),
        "expert_count": (0,),
    }
    keys = {f"{architecture}.{key}": values for key, values in harmless.items()}
    found = [key for key, values in keys.items() if key in metadata and metadata[key] not in values]
    # One factor for each pair; more would not be one row of them.
    if factors is not None and (scaling is None or scaled):
        plain = factors.data.size <= 4 * config.head_width and (factors.dequantised() == 1).all()
        found += [] if plain else [ROTARY_FACTORS]
    return found


def expected_shapes(config: ModelConfig, *, layers: int) -> dict[str, tuple[int, int]]:
    """Rows and columns of every tensor of a decoder under our names, of so many layers; vectors are one row."""
    D, queries, keys = config.width, config.heads * config.head_width, config.kv_heads * config.head_width
    matrices = {
        "attention.query": (queries, D),
        "attention.key": (keys, D),
        "attention.value": (keys, D),
        "attention.out": (D, queries),
        "feed_forward.gate": (config.hidden, D),
        "feed_forward.up": (config.hidden, D),
        "feed_forward.down": (D, config.hidden),
    }
    if config.feed_forward != "swiglu":
        del matrices["feed_forward.gate"]
    biased = {"none": (), "qkv": ("query", "key", "value"), "attention": ("attention",), "all": ("",)}[config.biases]
    layer = {f"{name}.weight": shape for name, shape in matrices.items()}
    layer |= {f"{name}.bias": (1, rows) for name, (rows, _) in matrices.items() if any(part in name for part in biased)}
    layer |= {f"{name}.{kind}": (1, D) for name in ("attention_norm", "feed_forward_norm") for kind in _of_norm(config)}
    if config.qk_norm:
        layer |= dict.fromkeys(("attention.query_norm.weight", "attention.key_norm.weight"), (1, config.head_width))
    expected = {"embedding.weight": (config.vocabulary, D)} | {f"norm.{kind}": (1, D) for kind in _of_norm(config)}
    if not config.tied:
        expected["head.weight"] = (config.vocabulary, D)
    if config.positions == "learned":
        expected["position_embedding.weight"] = (config.context, D)
    for number in range(layers):
        expected |= {f"layers.{number}.{name}": shape for name, shape in layer.items()}
    return expected


def _of_norm(config: ModelConfig) -> tuple[str, ...]:
    return ("weight", "bias") if config.norm == "layer" else ("weight",)
