"""GGUF files for tests, written from the format's description and from nothing in src."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from bimo.models.transformer import Decoder
    from bimo.tokens.tokenizer import Tokenizer

KINDS = {"u32": (4, "<I"), "i32": (5, "<i"), "f32": (6, "<f"), "bool": (7, "<?"), "u64": (10, "<Q")}
F32, F16, Q8_0 = 0, 1, 8

SHAPE = {"width": 32, "hidden": 64, "heads": 4, "kv_heads": 2, "head_width": 16, "context": 48}
"""Of a small decoder whose rows are whole blocks."""

MODELS = [("llama", True), ("llama", False), ("qwen3", True), ("qwen3", False)]
"""Architectures, and whether the embedding is the output matrix as well."""

TENSORS = {
    "embedding": "token_embd",
    "norm": "output_norm",
    "head": "output",
    "attention_norm": "attn_norm",
    "attention.query": "attn_q",
    "attention.key": "attn_k",
    "attention.value": "attn_v",
    "attention.out": "attn_output",
    "attention.query_norm": "attn_q_norm",
    "attention.key_norm": "attn_k_norm",
    "feed_forward_norm": "ffn_norm",
    "feed_forward.gate": "ffn_gate",
    "feed_forward.up": "ffn_up",
    "feed_forward.down": "ffn_down",
}

Tensor = tuple[int, tuple[int, ...], bytes]
"""Number of the format, shape with the columns first, numbers."""


def text(value: str | bytes) -> bytes:
    """A text: its length, its bytes."""
    raw = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(raw)) + raw


def kind_of(value: Any) -> str:
    return {bool: "bool", int: "u32", float: "f32"}[type(value)]


def value(value: Any) -> bytes:
    """A value with its kind before it; numbers of one list are of one kind."""
    if isinstance(value, str | bytes):
        return struct.pack("<I", 8) + text(value)
    if isinstance(value, list) and isinstance(value[0], str):
        return struct.pack("<IIQ", 9, 8, len(value)) + b"".join(map(text, value))
    if isinstance(value, list):
        number, form = KINDS["i32" if type(value[0]) is int else kind_of(value[0])]
        return struct.pack("<IIQ", 9, number, len(value)) + b"".join(struct.pack(form, one) for one in value)
    number, form = KINDS[kind_of(value)]
    return struct.pack("<I", number) + struct.pack(form, value)


def gguf_bytes(metadata: dict[str, Any], tensors: dict[str, Tensor], *, alignment: int = 32, version: int = 3) -> bytes:
    """A whole file; values that are bytes already count as written."""
    file = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(metadata))
    for key, entry in metadata.items():
        file += text(key) + (entry if isinstance(entry, bytes) else value(entry))
    numbers = b""
    for name, (form, shape, raw) in tensors.items():
        file += text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, form, len(numbers))
        numbers += raw + bytes(-len(raw) % alignment)
    return file + bytes(-len(file) % alignment) + numbers


def q8_0(rows: np.ndarray) -> bytes:
    """float32 [rows, columns] in blocks of 32: the largest becomes 127."""
    blocks = rows.reshape(-1, 32)
    scales = (np.abs(blocks).max(axis=1, keepdims=True) / 127).astype(np.float16)
    q = np.rint(blocks / np.maximum(scales.astype(np.float32), 1e-8)).clip(-127, 127).astype(np.int8)
    return np.concatenate([scales.view(np.int8), q], axis=1).tobytes()


def paired_rows(matrix: np.ndarray, heads: int) -> np.ndarray:
    """What llama.cpp's conversion does to queries and keys: rows i and i + K/2 of a head become neighbours."""
    K = len(matrix) // heads
    order = [head * K + half * K // 2 + i for head in range(heads) for i in range(K // 2) for half in (0, 1)]
    return matrix[order]


def model_tensors(model: Decoder, architecture: str, form: int = F32) -> dict[str, Tensor]:
    """The weights of a decoder as a file of that architecture has them; vectors stay float32."""
    config, tensors = model.config, {}
    for full_name, weight in model.named_parameters():
        layer, name = "", full_name.removesuffix(".weight")
        if name.startswith("layers."):
            _, number, name = name.split(".", 2)
            layer = f"blk.{number}."
        matrix = weight.detach().numpy()
        if architecture == "llama" and name in ("attention.query", "attention.key"):
            matrix = paired_rows(matrix, config.heads if name == "attention.query" else config.kv_heads)
        kind = F32 if matrix.ndim == 1 else form
        raw = {F32: matrix.tobytes, F16: matrix.astype("<f2").tobytes, Q8_0: lambda rows=matrix: q8_0(rows)}[kind]()
        tensors[f"{layer}{TENSORS[name]}.weight"] = (kind, matrix.shape[::-1], raw)
    return tensors


def model_metadata(model: Decoder, architecture: str) -> dict[str, Any]:
    """The keys that describe a decoder."""
    config = model.config
    settings = {
        "block_count": config.layers,
        "context_length": config.context,
        "embedding_length": config.width,
        "feed_forward_length": config.hidden,
        "attention.head_count": config.heads,
        "attention.head_count_kv": config.kv_heads,
        "attention.key_length": config.head_width,
        "attention.value_length": config.head_width,
        "attention.layer_norm_rms_epsilon": config.norm_epsilon,
        "rope.freq_base": config.rope_theta,
        "rope.dimension_count": config.head_width,
    }
    return {"general.architecture": architecture} | {f"{architecture}.{key}": entry for key, entry in settings.items()}


def tokenizer_metadata(tokenizer: Tokenizer, pre: str = "qwen2") -> dict[str, Any]:
    """The keys that describe a byte-level BPE with one control token."""
    import json

    inner = json.loads(tokenizer.inner.to_str())["model"]
    tokens = sorted(inner["vocab"], key=inner["vocab"].get)
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [3 if number == tokenizer.end else 1 for number in range(len(tokens))],
        "tokenizer.ggml.merges": [" ".join(pair) for pair in inner["merges"]],
        "tokenizer.ggml.eos_token_id": tokenizer.end,
        "tokenizer.ggml.bos_token_id": tokenizer.end,
    }


def write_model(path: Path, model: Decoder, architecture: str, *, form: int = F32, **metadata: Any) -> Path:
    """A decoder as a file; further keys are given with `__` for a dot, None takes a key away."""
    changes = {key.replace("__", "."): entry for key, entry in metadata.items()}
    keys = {key: entry for key, entry in (model_metadata(model, architecture) | changes).items() if entry is not None}
    path.write_bytes(gguf_bytes(keys, model_tensors(model, architecture, form)))
    return path
