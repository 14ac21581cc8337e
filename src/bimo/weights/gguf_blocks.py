"""GGUF's number formats: a row is a run of equal blocks, each some columns with their scales.

N blocks; f16 and integers are little-endian. The layouts are those of ggml (docs/gguf.md and ggml-common.h there).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from bimo.runtime import UserError

__all__ = ["FORMATS", "OTHER_FORMATS", "BlockFormat", "StoredMatrix", "dequantise", "quantise"]

COLUMNS_AT_ONCE = 1 << 20
"""Numbers that are widened in one go: what lies between bytes and result stays small."""


@dataclass(frozen=True)
class BlockFormat:
    """`number` is the format's number in a file; a block of `size` bytes holds `columns` numbers."""

    number: int
    columns: int
    size: int
    decode: Callable[[np.ndarray], np.ndarray]
    """uint8 [N, size] -> float32 [N, columns]"""
    encode: Callable[[np.ndarray], np.ndarray] | None = None
    """float32 [N, columns] -> uint8 [N, size]; None where Bimo only reads."""


@dataclass(frozen=True, eq=False)
class StoredMatrix:
    """A tensor as it lies in a file; vectors are one row. `format` is a key of FORMATS.

    `data` is uint8 [rows, bytes a row], a view of the mapped file except where rows had to change places.
    """

    rows: int
    columns: int
    format: str
    data: np.ndarray

    def dequantised(self) -> np.ndarray:
        """The numbers themselves, float32 [rows, columns], as a new array."""
        return dequantise(self.data, self.format)


def dequantise(data: np.ndarray, format_name: str) -> np.ndarray:
    """Rows as they lie in a file, uint8 [rows, bytes a row] -> float32 [rows, columns], a new array."""
    block = FORMATS[format_name]
    rows, columns = data.shape[0], data.shape[1] // block.size * block.columns
    numbers = np.empty((rows, columns), dtype=np.float32)
    step = max(1, COLUMNS_AT_ONCE // max(1, columns))
    with np.errstate(all="ignore"):  # scales may be infinite or no number: so is then the result
        for start in range(0, rows, step):
            blocks = np.ascontiguousarray(data[start : start + step]).reshape(-1, block.size)
            numbers[start : start + step] = block.decode(blocks).reshape(-1, columns)
    return numbers


def quantise(numbers: np.ndarray, format_name: str) -> np.ndarray:
    """float32 [rows, columns] -> rows as they lie in a file, uint8 [rows, bytes a row].

    `columns` is a multiple of the format's. Raises UserError when a number is none, or too large for the format.
    """
    block = FORMATS[format_name]
    assert block.encode is not None, f"{format_name} is only read"
    rows, columns = numbers.shape
    data = np.empty((rows, columns // block.columns * block.size), dtype=np.uint8)
    step = max(1, COLUMNS_AT_ONCE // max(1, columns))
    with np.errstate(over="ignore", invalid="ignore"):  # found out below, in one look at the result
        for start in range(0, rows, step):
            part = np.ascontiguousarray(numbers[start : start + step], dtype=np.float32)
            encoded = block.encode(part.reshape(-1, block.columns))
            if not np.isfinite(part).all() or not np.isfinite(block.decode(encoded)).all():
                raise UserError(
                    "The weights hold numbers that are infinite, no numbers, or too large for {form}.", form=format_name
                )
            data[start : start + step] = encoded.reshape(len(part), -1)
    return data


def _f16(blocks: np.ndarray, start: int) -> np.ndarray:
    """The f16 that begins at byte `start` of each block -> float32 [N, 1]"""
    return np.ascontiguousarray(blocks[:, start : start + 2]).view("<f2").astype(np.float32)


def _nibbles(packed: np.ndarray, run: int) -> np.ndarray:
    """uint8 [N, bytes] -> uint8 [N, 2 * bytes]: of each run of bytes first all low halves, then all high ones."""
    packed = packed.reshape(len(packed), -1, 1, run)
    return np.concatenate([packed & 0x0F, packed >> 4], axis=2).reshape(len(packed), -1)


def _f32(blocks: np.ndarray) -> np.ndarray:
    return blocks.view("<f4")


def _half(blocks: np.ndarray) -> np.ndarray:
    return blocks.view("<f2").astype(np.float32)


def _bf16(blocks: np.ndarray) -> np.ndarray:
    """The upper half of a float32."""
    return (blocks.view("<u2").astype(np.uint32) << 16).view(np.float32)


def _q4_0(blocks: np.ndarray) -> np.ndarray:
    """scale f16, 32 x 4 bits: scale * (q - 8)"""
    return _f16(blocks, 0) * (_nibbles(blocks[:, 2:], 16).astype(np.float32) - 8)


def _q4_1(blocks: np.ndarray) -> np.ndarray:
    """scale f16, least f16, 32 x 4 bits: scale * q + least"""
    return _f16(blocks, 0) * _nibbles(blocks[:, 4:], 16) + _f16(blocks, 2)


def _fifth_bits(packed: np.ndarray) -> np.ndarray:
    """uint8 [N, 4] -> uint8 [N, 32]: bit j of the 32 stands above the four bits of column j."""
    return np.unpackbits(packed, axis=1, bitorder="little") << 4


def _q5_0(blocks: np.ndarray) -> np.ndarray:
    """scale f16, 32 fifth bits, 32 x 4 bits: scale * (q - 16)"""
    q = _nibbles(blocks[:, 6:], 16) | _fifth_bits(blocks[:, 2:6])
    return _f16(blocks, 0) * (q.astype(np.float32) - 16)


def _q5_1(blocks: np.ndarray) -> np.ndarray:
    """scale f16, least f16, 32 fifth bits, 32 x 4 bits: scale * q + least"""
    q = _nibbles(blocks[:, 8:], 16) | _fifth_bits(blocks[:, 4:8])
    return _f16(blocks, 0) * q + _f16(blocks, 2)


def _q8_0(blocks: np.ndarray) -> np.ndarray:
    """scale f16, 32 x int8: scale * q"""
    return _f16(blocks, 0) * blocks[:, 2:].view(np.int8)


def _scales_and_least(packed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """uint8 [N, 12] -> the 6-bit scales and least values of eight groups, uint8 [N, 8] each.

    Those of the first four groups are the low six bits of bytes 0-3 and 4-7; the others have their low four bits in
    bytes 8-11 (scale low, least high) and their upper two in the bits that the first four leave free.
    """
    first, second, third = packed[:, :4], packed[:, 4:8], packed[:, 8:]
    scales = np.concatenate([first & 0x3F, (third & 0x0F) | (first >> 6 << 4)], axis=1)
    least = np.concatenate([second & 0x3F, (third >> 4) | (second >> 6 << 4)], axis=1)
    return scales, least


def _grouped(blocks: np.ndarray, q: np.ndarray) -> np.ndarray:
    """scale f16, scale of least values f16, scales and least values of eight groups of 32: scale * q - least"""
    scales, least = _scales_and_least(blocks[:, 4:16])
    scale = (_f16(blocks, 0) * scales)[:, :, None]
    return (scale * q.reshape(len(q), 8, 32) - (_f16(blocks, 2) * least)[:, :, None]).reshape(len(q), 256)


def _q4_k(blocks: np.ndarray) -> np.ndarray:
    """16 bytes of scales, 256 x 4 bits in runs of 32 bytes."""
    return _grouped(blocks, _nibbles(blocks[:, 16:], 32))


def _q5_k(blocks: np.ndarray) -> np.ndarray:
    """16 bytes of scales, 32 bytes of fifth bits (bit g of byte j for column j of group g), 256 x 4 bits."""
    fifth = blocks[:, None, 16:48] >> np.arange(8, dtype=np.uint8)[:, None] & 1
    return _grouped(blocks, _nibbles(blocks[:, 48:], 32) | (fifth << 4).reshape(-1, 256))


def _q6_k(blocks: np.ndarray) -> np.ndarray:
    """256 x 4 bits in runs of 64 bytes, 256 x 2 upper bits in runs of 32, 16 x int8, scale f16: scales * (q - 32)"""
    upper = blocks[:, 128:192].reshape(-1, 2, 1, 32) >> np.array([[0], [2], [4], [6]], dtype=np.uint8) & 3
    q = _nibbles(blocks[:, :128], 64) | (upper << 4).reshape(-1, 256)
    scale = _f16(blocks, 208) * np.ascontiguousarray(blocks[:, 192:208]).view(np.int8)
    return (scale[:, :, None] * (q.reshape(-1, 16, 16).astype(np.float32) - 32)).reshape(-1, 256)


def _to_f32(numbers: np.ndarray) -> np.ndarray:
    return numbers.astype("<f4").view(np.uint8)


def _to_half(numbers: np.ndarray) -> np.ndarray:
    return numbers.astype("<f2").view(np.uint8)


def _to_bf16(numbers: np.ndarray) -> np.ndarray:
    """The upper half of a float32, rounded to the nearest, in the middle to the even one."""
    bits = numbers.view(np.uint32)
    return ((bits + (0x7FFF + (bits >> 16 & 1))) >> 16).astype("<u2").view(np.uint8)


def _rounded_scale(scale: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A scale as a file has it, and its inverse; where it is 0, so is the inverse."""
    scale = scale.astype(np.float16).astype(np.float32)
    return scale, np.divide(1, scale, out=np.zeros_like(scale), where=scale != 0)


def _to_q8_0(numbers: np.ndarray) -> np.ndarray:
    """The largest becomes 127; each is rounded to the nearest multiple of the scale that is stored."""
    scale, inverse = _rounded_scale(np.abs(numbers).max(axis=1, keepdims=True) / 127)
    q = np.rint(numbers * inverse).clip(-127, 127).astype(np.int8)
    return np.concatenate([scale.astype("<f2").view(np.uint8), q.view(np.uint8)], axis=1)


REFITS = 2
"""How often scale and least value are fitted to what was rounded: further ones bring less than a hundredth."""


def _to_q4_1(numbers: np.ndarray) -> np.ndarray:
    """From least to largest in 15 steps; then scale and least value by least squares for the steps that were taken.

    Each fit is kept in the blocks that it brings closer to the numbers, so that none is further away than the first.
    """
    least, largest = numbers.min(axis=1, keepdims=True), numbers.max(axis=1, keepdims=True)
    best = _q4_1_steps(numbers, (largest - least) / 15, least)
    mean, found = numbers.mean(axis=1, keepdims=True), best
    for _ in range(REFITS):
        q = found[2]
        middle = q.mean(axis=1, keepdims=True)
        spread = ((q - middle) ** 2).sum(axis=1, keepdims=True)
        slope = ((q - middle) * numbers).sum(axis=1, keepdims=True)
        scale = np.divide(slope, spread, out=np.zeros_like(spread), where=spread > 0)
        found = _q4_1_steps(numbers, scale, mean - scale * middle)
        closer = found[3] < best[3]
        best = tuple(np.where(closer, new, old) for new, old in zip(found, best, strict=True))
    scale, least, q, _ = best
    packed = q.astype(np.uint8).reshape(-1, 2, 16)
    parts = [scale.astype("<f2").view(np.uint8), least.astype("<f2").view(np.uint8), packed[:, 0] | packed[:, 1] << 4]
    return np.concatenate(parts, axis=1)


def _q4_1_steps(numbers: np.ndarray, scale: np.ndarray, least: np.ndarray) -> tuple[np.ndarray, ...]:
    """Scale and least value as they are stored, the nearest steps, and the sum of squared distances."""
    scale, inverse = _rounded_scale(scale)
    least = least.astype(np.float16).astype(np.float32)
    q = np.rint((numbers - least) * inverse).clip(0, 15)
    return scale, least, q, ((scale * q + least - numbers) ** 2).sum(axis=1, keepdims=True)


FORMATS = {
    "F32": BlockFormat(0, 1, 4, _f32, _to_f32),
    "F16": BlockFormat(1, 1, 2, _half, _to_half),
    "Q4_0": BlockFormat(2, 32, 18, _q4_0),
    "Q4_1": BlockFormat(3, 32, 20, _q4_1, _to_q4_1),
    "Q5_0": BlockFormat(6, 32, 22, _q5_0),
    "Q5_1": BlockFormat(7, 32, 24, _q5_1),
    "Q8_0": BlockFormat(8, 32, 34, _q8_0, _to_q8_0),
    "Q4_K": BlockFormat(12, 256, 144, _q4_k),
    "Q5_K": BlockFormat(13, 256, 176, _q5_k),
    "Q6_K": BlockFormat(14, 256, 210, _q6_k),
    "BF16": BlockFormat(30, 1, 2, _bf16, _to_bf16),
}
"""What Bimo computes with, by name."""

OTHER_FORMATS = {
    9: "Q8_1",
    10: "Q2_K",
    11: "Q3_K",
    15: "Q8_K",
    16: "IQ2_XXS",
    17: "IQ2_XS",
    18: "IQ3_XXS",
    19: "IQ1_S",
    20: "IQ4_NL",
    21: "IQ3_S",
    22: "IQ2_S",
    23: "IQ4_XS",
    24: "I8",
    25: "I16",
    26: "I32",
    27: "I64",
    28: "F64",
    29: "IQ1_M",
    34: "TQ1_0",
    35: "TQ2_0",
    39: "MXFP4",
    40: "NVFP4",
    41: "Q1_0",
}
"""Names of formats that are met in files and not read, so that the refusal can say them."""
