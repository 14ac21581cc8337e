"""Decoders as GGUF files of version 3, written one tensor after the other.

The layout is that of docs/gguf.md in ggml; names and the order of rows are those that `gguf.py` reads.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from bimo.files import replacing
from bimo.models.config import ModelConfig
from bimo.weights.gguf import ARRAY, FLOAT32, MAGIC, NUMBERS, PARTS, TEXT, TRUTH, turned_heads_of
from bimo.weights.gguf_blocks import FORMATS, StoredMatrix
from bimo.weights.gguf_shapes import NAMES, ROTARY_FACTORS, config_to_gguf, rotary_factors
from bimo.weights.names import renamed
from bimo.weights.quantize import format_of, in_format

__all__ = ["write_gguf"]

ALIGNMENT = 32
UINT32, INT32 = 4, 5

FILE_TYPES = {"F32": 0, "F16": 1, "Q4_1": 3, "Q8_0": 7, "BF16": 32}
"""How llama.h numbers files by the format of most of their tensors."""


def write_gguf(
    path: Path, config: ModelConfig, weights: Mapping[str, StoredMatrix], *, form: str, metadata: dict[str, Any]
) -> None:
    """Write a decoder, matrices in the format `form` as `format_of` says, all or nothing.

    `weights` are under our names; `metadata` are further keys, such as those of the tokenizer.
    Raises UserError when llama.cpp has no architecture for its shape, or a number does not fit the format.
    """
    keys = {
        **config_to_gguf(config),
        "general.type": "model",
        "general.file_type": FILE_TYPES[form],
        "general.quantization_version": 2,
        "general.alignment": ALIGNMENT,
        **metadata,
    }
    if (factors := rotary_factors(config)) is not None:
        weights = {**weights, ROTARY_FACTORS: StoredMatrix(1, len(factors), "F32", factors[None].view(np.uint8))}
    parts = _parts(weights, joined=keys["general.architecture"] == "gpt2")
    names = renamed({name: name for name in parts if name != ROTARY_FACTORS}, NAMES.to_theirs)
    theirs = {ours: name for name, ours in names.items()}
    with replacing(path) as part, part.open("wb") as file:
        file.write(MAGIC + struct.pack("<IQQ", 3, len(parts), len(keys)))
        for key, entry in keys.items():
            file.write(_text(key) + _value(entry))
        place = 0
        for name, pieces in parts.items():
            first = weights[pieces[0]]
            block = FORMATS[format_of(pieces[0], first, form)]
            rows, columns = sum(weights[piece].rows for piece in pieces), first.columns
            if first.rows == 1:
                rows, columns = 1, sum(weights[piece].columns for piece in pieces)
            sizes = [columns] if first.rows == 1 else [columns, rows]
            shape = struct.pack(f"<I{len(sizes)}Q", len(sizes), *sizes)
            file.write(_text(theirs.get(name, name)) + shape + struct.pack("<IQ", block.number, place))
            place += _aligned(rows * (columns // block.columns * block.size))
        _align(file)
        for pieces in parts.values():
            for piece in pieces:
                stored = in_format(piece, weights[piece], form)
                heads = turned_heads_of(piece, config)
                if heads and keys["general.architecture"] == "llama":
                    stored = _in_pairs(stored, heads)
                file.write(np.ascontiguousarray(stored.data).data)
            _align(file)


def _parts(weights: Mapping[str, StoredMatrix], *, joined: bool) -> dict[str, list[str]]:
    """Names of tensors in the file, still ours, and of what each is made: GPT-2's queries, keys and values are one."""
    parts: dict[str, list[str]] = {}
    for name in weights:
        module = next((module for module in PARTS if joined and f".attention.{module}." in name), None)
        parts.setdefault(name if module is None else name.replace(f".{module}.", ".joined."), []).append(name)
    return parts


def _in_pairs(matrix: StoredMatrix, heads: int) -> StoredMatrix:
    """Rows (i, i + K/2) of a head, which `rotate` turns together, to where llama.cpp has them: (2 i, 2 i + 1).

    Of a bias, which is float32, the numbers.
    """
    count = matrix.columns if matrix.rows == 1 else matrix.rows
    order = np.arange(count).reshape(heads, 2, -1).swapaxes(1, 2).ravel()
    return replace(matrix, data=matrix.data.reshape(count, -1)[order])


def _text(value: str) -> bytes:
    raw = value.encode()
    return struct.pack("<Q", len(raw)) + raw


def _value(value: Any) -> bytes:
    """A value with its kind before it: whole numbers as uint32, in lists as int32, others as float32."""
    if isinstance(value, list):
        if all(isinstance(entry, str) for entry in value):
            return struct.pack("<IIQ", ARRAY, TEXT, len(value)) + b"".join(map(_text, value))
        kind, dtype = (FLOAT32, "<f4") if isinstance(value[0], float) else (INT32, "<i4")
        return struct.pack("<IIQ", ARRAY, kind, len(value)) + np.array(value, dtype=dtype).tobytes()
    if isinstance(value, str):
        return struct.pack("<I", TEXT) + _text(value)
    if isinstance(value, bool):
        return struct.pack("<I?", TRUTH, value)
    kind = FLOAT32 if isinstance(value, float) else UINT32
    return struct.pack("<I", kind) + struct.pack(NUMBERS[kind], value)


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def _align(file: BinaryIO) -> None:
    file.write(bytes(-file.tell() % ALIGNMENT))
