"""GGUF files of decoders: one file with numbers, description and tokenizer.

A file may come from anyone: nothing it says about lengths, counts and places is believed before it was compared with
the size of the file. The layout is that of docs/gguf.md in ggml, versions 2 and 3, little-endian.
"""

from __future__ import annotations

import itertools
import math
import mmap
import struct
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
from bimo.weights.gguf_shapes import (
    ARCHITECTURES,
    NAMES,
    ROTARY_FACTORS,
    config_from_gguf,
    expected_shapes,
    unusual_keys,
)
from bimo.weights.names import renamed

__all__ = ["PARTS", "GGUFModel", "read_gguf", "turned_heads_of"]

PARTS = ("query", "key", "value")
END_OF_TURN = "tokenizer.ggml.eot_token_id"
ENDS = ("tokenizer.ggml.eos_token_id", END_OF_TURN)

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
    if architecture not in ARCHITECTURES:
        raise UserError(
            "{where} is a model of type {family!r}; Bimo reads models of type {known}.",
            where=path,
            family=architecture[:LONGEST_NAME],
            known=", ".join(ARCHITECTURES),
        )
    if metadata.get("split.count", 1) not in (0, 1):
        raise UserError(
            "{path} is one of several files that make up a model. Join them first: llama-gguf-split --merge.",
            path=path,
        )
    stored = description.read_tensors(tensors, metadata.get("general.alignment", 32))
    factors = stored.pop(ROTARY_FACTORS, None)
    weights = _apart(renamed(stored, NAMES.to_ours))
    config = config_from_gguf(metadata, weights, factors, where=path)
    if unusual := unusual_keys(metadata, config, factors):
        raise UserError(
            "{where} uses {features}, which Bimo does not compute.", where=path, features=", ".join(unusual)
        )
    _require_shapes(config, weights, path)
    require_finite_blocks(weights, where=path)
    if architecture == "llama":
        for name, matrix in weights.items():
            if heads := turned_heads_of(name, config):
                weights[name] = _in_halves(matrix, heads)
    return GGUFModel(config, weights, metadata)


def turned_heads_of(name: str, config: ModelConfig) -> int:
    """How many heads a tensor of queries or keys, matrix or bias, has for `rotate`; 0 for all other tensors."""
    heads = {"query": config.heads, "key": config.kv_heads}
    return heads.get(name.split(".")[-2], 0) if name.startswith("layers.") else 0


def _apart(weights: dict[str, StoredMatrix]) -> dict[str, StoredMatrix]:
    """Queries, keys and values, which GPT-2 has in one matrix and one bias, as three of each."""
    found = {}
    for name, matrix in weights.items():
        if ".joined." not in name or (matrix.columns if matrix.rows == 1 else matrix.rows) % len(PARTS):
            found[name] = matrix
            continue
        pieces = (
            [_vector(piece) for piece in np.split(matrix.dequantised()[0], len(PARTS))]
            if matrix.rows == 1
            else [replace(matrix, rows=len(data), data=data) for data in np.split(matrix.data, len(PARTS))]
        )
        found |= {name.replace(".joined.", f".{part}."): piece for part, piece in zip(PARTS, pieces, strict=True)}
    return found


def _vector(numbers: np.ndarray) -> StoredMatrix:
    return StoredMatrix(1, len(numbers), "F32", np.ascontiguousarray(numbers)[None].view(np.uint8))


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


def _require_shapes(config: ModelConfig, weights: dict[str, StoredMatrix], path: Path) -> None:
    """Raises UserError when a tensor is missing, too many or of another shape than the config asks for."""
    of_layer = len(expected_shapes(config, layers=1)) - len(expected_shapes(config, layers=0))
    # Whatever number of layers the file says it has: one more than there are tensors for is enough to find a fault.
    expected = expected_shapes(config, layers=min(config.layers, len(weights) // of_layer + 1))
    found = {name: (matrix.rows, matrix.columns) for name, matrix in weights.items()}
    if found != expected:
        wrong = sorted(name for name in expected.keys() | found.keys() if found.get(name) != expected.get(name))
        raise UserError("The weights in {path} do not fit its keys, first at {name}.", path=path, name=wrong[0])


def _unusable(path: Path, key: str) -> UserError:
    return UserError("{path} says nothing usable for {key}.", path=path, key=key)


def _in_halves(matrix: StoredMatrix, heads: int) -> StoredMatrix:
    """Rows (2 i, 2 i + 1) of a head, which llama.cpp turns together, to where `rotate` has them: (i, i + K/2).

    Of a bias, the numbers.
    """
    if matrix.rows == 1:
        return _vector(matrix.dequantised().reshape(heads, -1, 2).swapaxes(1, 2).ravel())
    order = np.arange(matrix.rows).reshape(heads, -1, 2).swapaxes(1, 2).ravel()
    return replace(matrix, data=matrix.data[order])
