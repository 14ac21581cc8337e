"""The CPU kernel (`native/`) where it is built: steps of many sequences at once, with weights as their file has them.

R rows (tokens of a step), V vocabulary. Its slow twin is `generate/stepping.py`, which computes the same in torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from bimo.kernel import COUNTS, INSTRUCTIONS, Shape, load_library
from bimo.models.config import ModelConfig
from bimo.models.layers import rotary_tables
from bimo.runtime import NO_ROOM, UserError
from bimo.weights.gguf_blocks import StoredMatrix

__all__ = ["FORMATS", "NativeDecoder"]

FORMATS = ("F32", "F16", "BF16", "Q4_0", "Q4_1", "Q8_0", "Q4_K", "Q6_K")
"""Formats that the kernel takes, by their number in bimo.h."""

NO_MEMORY = 1
MATRICES = (
    "layers.{}.attention.query.weight",
    "layers.{}.attention.key.weight",
    "layers.{}.attention.value.weight",
    "layers.{}.attention.out.weight",
    "layers.{}.feed_forward.gate.weight",
    "layers.{}.feed_forward.up.weight",
    "layers.{}.feed_forward.down.weight",
    "embedding.weight",
    "head.weight",
)
VECTORS = (
    "layers.{}.attention_norm.weight",
    "layers.{}.feed_forward_norm.weight",
    "layers.{}.attention.query_norm.weight",
    "layers.{}.attention.key_norm.weight",
    "layers.{}.attention.query.bias",
    "layers.{}.attention.key.bias",
    "layers.{}.attention.value.bias",
    "norm.weight",
)


class NativeDecoder:
    """A decoder in the kernel's memory, on `threads` threads. Call `reserve` before the first `step`.

    Weights stay in the format they come in (FORMATS); what they multiply is rounded to bytes, a scale for every 32,
    where they are quantised. Keys and values are remembered in float32 beside float32 weights, else in float16.
    Raises UserError when there is not the memory.
    """

    def __init__(
        self, config: ModelConfig, weights: Mapping[str, StoredMatrix], *, threads: int, instructions: str
    ) -> None:
        library = load_library()
        assert library is not None, "best_instructions() says whether there is a kernel"
        self.config = config
        self.slots = self.positions = 0
        self._native = library
        self._cache_bits = 32 if all(matrix.format == "F32" for matrix in weights.values()) else 16
        shape = Shape(*(getattr(config, name) for name in (*COUNTS, "norm_epsilon")))
        self._decoder = library.bimo_new(shape, threads, INSTRUCTIONS.index(instructions))
        if not self._decoder:
            raise _no_memory()
        for which, pattern in enumerate(MATRICES):
            for layer, matrix in _of_layers(pattern, config, weights):
                self._set_matrix(which, layer, matrix)
        for which, pattern in enumerate(VECTORS):
            for layer, vector in _of_layers(pattern, config, weights):
                self._set_vector(which, layer, vector)

    def _set_matrix(self, which: int, layer: int, matrix: StoredMatrix) -> None:
        data = np.ascontiguousarray(matrix.data)
        _check(
            self._native.bimo_set_matrix(
                self._decoder, which, layer, FORMATS.index(matrix.format), data.ctypes.data, matrix.rows, matrix.columns
            )
        )

    def _set_vector(self, which: int, layer: int, vector: StoredMatrix) -> None:
        data = np.ascontiguousarray(vector.dequantised())
        _check(self._native.bimo_set_vector(self._decoder, which, layer, data.ctypes.data, data.size))

    def reserve(self, slots: int, positions: int) -> None:
        """Make room for `slots` sequences of `positions` tokens; what was remembered is forgotten."""
        self.slots = self.positions = 0
        half = self.config.head_width // 2
        config = self.config
        tables = rotary_tables(positions, config.head_width, config.rope_theta, config.rope_scaling)
        cosines, sines = (np.ascontiguousarray(table[:, :half].numpy(), dtype=np.float32) for table in tables)
        _check(
            self._native.bimo_reserve(
                self._decoder, slots, positions, self._cache_bits, cosines.ctypes.data, sines.ctypes.data
            )
        )
        self.slots, self.positions = slots, positions

    def step(self, tokens: np.ndarray, slots: np.ndarray, positions: np.ndarray, wanted: np.ndarray) -> np.ndarray:
        """Read one token a row; all arguments int32. tokens, slots, positions [R] -> logits [len(wanted), V] float32.

        Row i stands at positions[i] of slots[i], whose earlier positions were read before or stand in earlier rows.
        `wanted` are the rows whose logits come back.
        """
        logits = np.empty((len(wanted), self.config.vocabulary), dtype=np.float32)
        tokens, slots, positions, wanted = (
            np.ascontiguousarray(numbers, dtype=np.int32) for numbers in (tokens, slots, positions, wanted)
        )
        assert len(tokens) == len(slots) == len(positions)
        _check(
            self._native.bimo_step(
                self._decoder,
                len(tokens),
                tokens.ctypes.data,
                slots.ctypes.data,
                positions.ctypes.data,
                len(wanted),
                wanted.ctypes.data,
                logits.ctypes.data,
            )
        )
        return logits

    def copy(self, source: int, target: int, positions: int) -> None:
        """Let slot `target` remember the first `positions` of slot `source`."""
        _check(self._native.bimo_copy(self._decoder, source, target, positions))

    @property
    def matrix_bytes(self) -> int:
        """What one token alone has to read, in bytes."""
        return self._native.bimo_matrix_bytes(self._decoder)

    def close(self) -> None:
        """Give the memory back."""
        if self._decoder:
            self._native.bimo_free(self._decoder)
            self._decoder = None

    def __del__(self) -> None:
        if hasattr(self, "_decoder"):
            self.close()


def _of_layers(
    pattern: str, config: ModelConfig, weights: Mapping[str, StoredMatrix]
) -> Iterator[tuple[int, StoredMatrix]]:
    """The tensors of one kind with their layers. Normalised queries, and a head of its own, are not in every model."""
    names = (pattern.format(layer) for layer in range(config.layers if "{}" in pattern else 1))
    return ((layer, weights[name]) for layer, name in enumerate(names) if name in weights)


def _no_memory() -> UserError:
    return UserError("There is not enough memory to write with this model.", code=NO_ROOM)


def _check(code: int) -> None:
    if code == NO_MEMORY:
        raise _no_memory()
    assert code == 0, f"the kernel refused what it was given ({code})"
