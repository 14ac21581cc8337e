"""GGUF files of Llama- and Qwen3-shaped decoders: one file with numbers, description and tokenizer.

A file may come from anyone: nothing it says about lengths, counts and places is believed before it was compared with
the size of the file. The layout is that of docs/gguf.md in ggml, versions 2 and 3, little-endian.
"""

from __future__ import annotations

import itertools
import math
import mmap
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bimo.models.config import ModelConfig
from bimo.models.transformer import Decoder
from bimo.runtime import UserError, t
from bimo.weights.finite import require_finite_blocks
from bimo.weights.gguf_blocks import FORMATS, OTHER_FORMATS, StoredMatrix
from bimo.weights.names import require_buildable

__all__ = ["NAMES", "GGUFModel", "read_gguf"]

NAMES = (
    ("embedding.weight", "token_embd.weight"),
    ("norm.weight", "output_norm.weight"),
    ("head.weight", "output.weight"),
    ("layers.{}.attention_norm.weight", "blk.{}.attn_norm.weight"),
    ("layers.{}.attention.query.weight", "blk.{}.attn_q.weight"),
    ("layers.{}.attention.key.weight", "blk.{}.attn_k.weight"),
    ("layers.{}.attention.value.weight", "blk.{}.attn_v.weight"),
    ("layers.{}.attention.out.weight", "blk.{}.attn_output.weight"),
    ("layers.{}.attention.query_norm.weight", "blk.{}.attn_q_norm.weight"),
    ("layers.{}.attention.key_norm.weight", "blk.{}.attn_k_norm.weight"),
    ("layers.{}.feed_forward_norm.weight", "blk.{}.ffn_norm.weight"),
    ("layers.{}.feed_forward.gate.weight", "blk.{}.ffn_gate.weight"),
    ("layers.{}.feed_forward.up.weight", "blk.{}.ffn_up.weight"),
    ("layers.{}.feed_forward.down.weight", "blk.{}.ffn_down.weight"),
)
"""Our names beside GGUF's; `{}` is the number of the layer."""

ENDS = ("tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id")
ROTARY_FACTORS = "rope_freqs.weight"
LAYER = re.compile(r"(?<=^blk\.)[0-9]+")

MAGIC = b"GGUF"
NUMBERS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 10: "<Q", 11: "<q", 12: "<d"}
"""Kinds of values that are numbers, as struct and numpy write them."""
FLOAT32, TRUTH, TEXT, ARRAY = 6, 7, 8, 9
UINT32, UINT64 = NUMBERS[4], NUMBERS[10]

LARGEST_DESCRIPTION = 64 << 20
"""Bytes before the numbers. A vocabulary of a quarter of a million tokens with its merges takes some 16 MB."""
MOST_ENTRIES = 1 << 16
"""Keys or tensors in a file."""
MOST_ELEMENTS = 1 << 22
"""Elements of all arrays together."""
LONGEST_NAME = 256
"""Characters of a key or a tensor's name."""


@dataclass(frozen=True, eq=False)
class GGUFModel:
    """A file's decoder under our names, rows in our order; what its keys say stands in `metadata`."""

    config: ModelConfig
    weights: dict[str, StoredMatrix]
    metadata: dict[str, Any]

    @property
    def ends(self) -> frozenset[int]:
        """The ids that end an answer, as far as the file names any."""
        return frozenset(end for key in ENDS if type(end := self.metadata.get(key)) is int)

    def decoder(self, *, device: torch.device | None = None, compute_dtype: torch.dtype = torch.float32) -> Decoder:
        """The same in torch, the weights widened to fp32."""
        model = Decoder(self.config, compute_dtype=compute_dtype)
        with torch.no_grad():
            for name, weight in model.named_parameters():
                weight.copy_(torch.from_numpy(self.weights[name].dequantised()).view(weight.shape))
        return model.to(device or "cpu").eval()


def read_gguf(path: Path) -> GGUFModel:
    """Describe a file and map its numbers into memory. Raises UserError when it is none that Bimo can compute with."""
    description = _Description(path, _mapped(path))
    tensors, keys = description.read_counts()
    metadata = description.read_metadata(keys)
    architecture = metadata.get("general.architecture")
    if not isinstance(architecture, str):
        raise _unusable(path, "general.architecture")
    if architecture not in ("llama", "qwen3"):
        raise UserError(
            "{where} is a model of type {family!r}; Bimo reads decoders of type 'llama' and 'qwen3'.",
            where=path,
            family=architecture[:LONGEST_NAME],
        )
    if metadata.get("split.count", 1) not in (0, 1):
        raise UserError(
            "{path} is one of several files that make up a model. Join them first: llama-gguf-split --merge.",
            path=path,
        )
    stored = description.read_tensors(tensors, metadata.get("general.alignment", 32))
    factors = stored.pop(ROTARY_FACTORS, None)
    weights = dict(_our_names(stored))
    config = _config(metadata, architecture, weights, path)
    unusual = _unusual(metadata, architecture, config)
    # Llama 3.1 divides its rotary frequencies by these.
    if factors is not None and (factors.data.size > 4 * config.head_width or (factors.dequantised() != 1).any()):
        unusual.append(ROTARY_FACTORS)
    if unusual:
        raise UserError(
            "{where} uses {features}, which Bimo does not compute.", where=path, features=", ".join(unusual)
        )
    _require_shapes(config, weights, path)
    require_finite_blocks(weights, where=path)
    if architecture == "llama":
        for name, heads in (("query", config.heads), ("key", config.kv_heads)):
            for layer in range(config.layers):
                full_name = f"layers.{layer}.attention.{name}.weight"
                weights[full_name] = _in_halves(weights[full_name], heads)
    return GGUFModel(config, weights, metadata)


def _mapped(path: Path) -> mmap.mmap:
    try:
        if not path.is_file():
            raise FileNotFoundError(2, t("there is no such file"))
        with path.open("rb") as file:
            if file.read(len(MAGIC)) != MAGIC:
                raise UserError("{path} is not a GGUF file.", path=path)
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        raise UserError("{path} cannot be used: {reason}.", path=path, reason=error.strerror) from None


class _Description:
    """What stands before the numbers, read from front to back."""

    def __init__(self, path: Path, data: mmap.mmap) -> None:
        self.path, self.data = path, data
        self.place = len(MAGIC)
        self.end = min(len(data), LARGEST_DESCRIPTION)
        self.elements = MOST_ELEMENTS

    def fault(self, fault: str) -> UserError:
        return UserError("{path} is damaged: {fault}.", path=self.path, fault=fault)

    def read_number(self, kind: str) -> Any:
        size = struct.calcsize(kind)
        if self.end - self.place < size:
            raise self.fault(t("it ends too early"))
        (value,) = struct.unpack_from(kind, self.data, self.place)
        self.place += size
        return value

    def read_text(self) -> str:
        length = self.read_number(UINT64)
        if length > self.end - self.place:
            raise self.fault(t("it ends too early"))
        self.place += length
        try:
            return self.data[self.place - length : self.place].decode("utf-8")
        except UnicodeDecodeError:
            raise self.fault(t("a text in it is not UTF-8")) from None

    def read_name(self) -> str:
        """What may be shown to a person: not endless, no control characters."""
        name = self.read_text()
        if len(name) > LONGEST_NAME or not name.isprintable():
            raise self.fault(t("a name in it cannot be shown"))
        return name

    def read_count(self, most: int, least_bytes: int) -> int:
        """How many things follow, each of which takes at least so many bytes."""
        count = self.read_number(UINT64)
        if count > most or count * least_bytes > self.end - self.place:
            raise self.fault(t("it announces more than it holds"))
        return count

    def read_counts(self) -> tuple[int, int]:
        """How many tensors and keys there are."""
        version = self.read_number(UINT32)
        if version not in (2, 3):
            raise UserError(
                "{path} is GGUF of version {version}; Bimo reads versions 2 and 3, little-endian.",
                path=self.path,
                version=version,
            )
        return self.read_count(MOST_ENTRIES, 32), self.read_count(MOST_ENTRIES, 13)

    def read_metadata(self, count: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for _ in range(count):
            key = self.read_name()
            if key in found:
                raise self.fault(t("{name} stands in it twice", name=key))
            found[key] = self.read_value(self.read_number(UINT32))
        return found

    def read_value(self, kind: int) -> Any:
        if kind == TEXT:
            return self.read_text()
        if kind == ARRAY:
            return self.read_array(self.read_number(UINT32))
        if kind == TRUTH:
            return self.as_truths([self.read_number("<B")])[0]
        if kind not in NUMBERS:
            raise self.fault(t("a value in it is of an unknown kind"))
        number = self.read_number(NUMBERS[kind])
        # The shortest decimal that means it: 1e-06, not 9.999999974752427e-07.
        return float(str(np.float32(number))) if kind == FLOAT32 else number

    def read_array(self, kind: int) -> list[Any]:
        if kind != TEXT and kind != TRUTH and kind not in NUMBERS:  # arrays of arrays are allowed, but nobody has any
            raise self.fault(t("a value in it is of an unknown kind"))
        form = NUMBERS.get(kind, "<B")
        size = struct.calcsize(UINT64 if kind == TEXT else form)
        count = self.read_count(self.elements, size)
        self.elements -= count
        if kind == TEXT:
            return [self.read_text() for _ in range(count)]
        values = np.frombuffer(self.data, form, count, self.place).tolist()
        self.place += count * size
        return self.as_truths(values) if kind == TRUTH else values

    def as_truths(self, values: list[int]) -> list[bool]:
        if any(value > 1 for value in values):
            raise self.fault(t("a value in it is of an unknown kind"))
        return [value == 1 for value in values]

    def read_tensors(self, count: int, alignment: Any) -> dict[str, StoredMatrix]:
        """Every tensor under its name in the file."""
        if type(alignment) is not int or alignment < 8 or alignment.bit_count() != 1:
            raise self.fault(t("its alignment is no power of two from 8 up"))
        shapes: dict[str, tuple[int, int, str]] = {}
        places: list[tuple[int, int, str]] = []
        for _ in range(count):
            name = self.read_name()
            if name in shapes:
                raise self.fault(t("{name} stands in it twice", name=name))
            shapes[name] = self.read_shape(name)
            rows, columns, form = shapes[name]
            offset = self.read_number(UINT64)
            if offset % alignment:
                raise self.fault(
                    t("{name} does not begin at a multiple of {alignment}", name=name, alignment=alignment)
                )
            places.append((offset, offset + rows * (columns // FORMATS[form].columns * FORMATS[form].size), name))
        start = -(-self.place // alignment) * alignment
        for (_, end, _), (begin, _, name) in itertools.pairwise(sorted(places)):
            if begin < end:
                raise self.fault(t("{name} lies on another tensor", name=name))
        found = {}
        for begin, end, name in places:
            if start + end > len(self.data):
                raise self.fault(t("{name} reaches beyond its end", name=name))
            rows, columns, form = shapes[name]
            data = np.frombuffer(self.data, np.uint8, end - begin, start + begin).reshape(rows, -1)
            found[name] = StoredMatrix(rows, columns, form, data)
        return found

    def read_shape(self, name: str) -> tuple[int, int, str]:
        """Rows, columns and format of a tensor. Products do not overflow: these are Python's integers."""
        dimensions = self.read_number(UINT32)
        sizes = [self.read_number(UINT64) for _ in range(min(dimensions, 5))]
        if not 1 <= dimensions <= 4 or min(sizes) < 1:
            raise self.fault(t("{name} has no usable shape", name=name))
        number = self.read_number(UINT32)
        form = next((form for form, block in FORMATS.items() if block.number == number), None)
        if form is None:
            raise UserError(
                "{path} stores {name} in the format {form}; Bimo reads {known}.",
                path=self.path,
                name=name,
                form=OTHER_FORMATS.get(number, number),
                known=", ".join(FORMATS),
            )
        if sizes[0] % FORMATS[form].columns:
            raise self.fault(t("{name} has no usable shape", name=name))
        return math.prod(sizes[1:]), sizes[0], form


def _our_names(stored: dict[str, StoredMatrix]) -> Iterator[tuple[str, StoredMatrix]]:
    names = {theirs: ours for ours, theirs in NAMES}
    for name, matrix in stored.items():
        number = LAYER.search(name)
        pattern = LAYER.sub("{}", name)
        if pattern not in names:
            raise UserError("The weights hold {name}, which a Llama- or Qwen3-shaped decoder does not have.", name=name)
        yield names[pattern].format(number[0] if number else ""), matrix


def _config(metadata: dict[str, Any], architecture: str, weights: dict[str, StoredMatrix], path: Path) -> ModelConfig:
    """The shape that the keys describe; the vocabulary is as large as the embedding has rows."""

    def usable(kind: type[int] | type[float], key: str, usual: float | None = None) -> Any:
        value = metadata.get(f"{architecture}.{key}", usual)
        if type(value) is not kind or not 0 < value < math.inf:
            raise _unusable(path, f"{architecture}.{key}")
        return value

    if "embedding.weight" not in weights:
        raise UserError("{path} has no tensor {name}.", path=path, name="token_embd.weight")
    width, heads = usable(int, "embedding_length"), usable(int, "attention.head_count")
    config = ModelConfig(
        vocabulary=weights["embedding.weight"].rows,
        layers=usable(int, "block_count"),
        width=width,
        heads=heads,
        kv_heads=usable(int, "attention.head_count_kv", heads),
        head_width=usable(int, "attention.key_length", width // heads),
        hidden=usable(int, "feed_forward_length"),
        context=usable(int, "context_length"),
        qk_norm=architecture == "qwen3",
        tied="head.weight" not in weights,
        rope_theta=usable(float, "rope.freq_base", 10_000.0),
        norm_epsilon=usable(float, "attention.layer_norm_rms_epsilon"),
    )
    require_buildable(config, where=path)
    return config


def _unusual(metadata: dict[str, Any], architecture: str, config: ModelConfig) -> list[str]:
    """Keys that ask for something that a Decoder does not compute; what follows each asks for nothing."""
    harmless = {
        "rope.scaling.type": ("none",),
        "rope.scaling.factor": (0, 1),
        "rope.scale_linear": (0, 1),
        "rope.dimension_count": (config.head_width,),
        "attention.value_length": (config.head_width,),
        "attention.sliding_window": (0,),
        "attention.causal": (True,),
        "expert_count": (0,),
    }
    keys = {f"{architecture}.{key}": values for key, values in harmless.items()}
    return [key for key, values in keys.items() if key in metadata and metadata[key] not in values]


def _require_shapes(config: ModelConfig, weights: dict[str, StoredMatrix], path: Path) -> None:
    """Raises UserError when a tensor is missing, too many or of another shape than the config asks for."""
    queries, keys = config.heads * config.head_width, config.kv_heads * config.head_width
    layer = {
        "attention_norm": (1, config.width),
        "attention.query": (queries, config.width),
        "attention.key": (keys, config.width),
        "attention.value": (keys, config.width),
        "attention.out": (config.width, queries),
        "feed_forward_norm": (1, config.width),
        "feed_forward.gate": (config.hidden, config.width),
        "feed_forward.up": (config.hidden, config.width),
        "feed_forward.down": (config.width, config.hidden),
    }
    if config.qk_norm:
        layer |= {"attention.query_norm": (1, config.head_width), "attention.key_norm": (1, config.head_width)}
    expected = {"embedding.weight": (config.vocabulary, config.width), "norm.weight": (1, config.width)}
    if not config.tied:
        expected["head.weight"] = (config.vocabulary, config.width)
    # Whatever number of layers the file says it has: one more than there are tensors for is enough to find a fault.
    for number in range(min(config.layers, len(weights) // len(layer) + 1)):
        expected |= {f"layers.{number}.{name}.weight": shape for name, shape in layer.items()}
    found = {name: (matrix.rows, matrix.columns) for name, matrix in weights.items()}
    if found != expected:
        wrong = sorted(name for name in expected.keys() | found.keys() if found.get(name) != expected.get(name))
        raise UserError("The weights in {path} do not fit its keys, first at {name}.", path=path, name=wrong[0])


def _unusable(path: Path, key: str) -> UserError:
    return UserError("{path} says nothing usable for {key}.", path=path, key=key)


def _in_halves(matrix: StoredMatrix, heads: int) -> StoredMatrix:
    """Rows (2 i, 2 i + 1) of a head, which llama.cpp turns together, to where `rotate` has them: (i, i + K/2)."""
    order = np.arange(matrix.rows).reshape(heads, -1, 2).swapaxes(1, 2).ravel()
    return replace(matrix, data=matrix.data[order])
