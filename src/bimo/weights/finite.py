"""Weights that are no numbers, NaN or infinite, found before anything is computed with them: one look at each."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bimo.runtime import UserError
from bimo.weights.gguf_blocks import FORMATS, StoredMatrix

__all__ = ["require_finite", "require_finite_blocks"]

NUMBERS_AT_ONCE = 1 << 20

FLOATS = {
    "F32": ("<u4", 0x7F800000, (0,)),
    "BF16": ("<u2", 0x7F80, (0,)),
    **dict.fromkeys(("F16", "Q4_0", "Q5_0", "Q8_0"), ("<u2", 0x7C00, (0,))),
    **dict.fromkeys(("Q4_1", "Q5_1", "Q4_K", "Q5_K"), ("<u2", 0x7C00, (0, 2))),
    "Q6_K": ("<u2", 0x7C00, (208,)),
}
"""Of GGUF's formats: how floats are seen as integers, the bits that are all set in one that is no number, and at which
bytes of a block they stand. All else in a block is a bounded integer."""


def require_finite(weights: dict[str, Tensor], *, where: Path) -> None:
    """Raises UserError at the first tensor that holds NaN or an infinity."""
    for name, weight in weights.items():
        # A sum is finite only if all that went into it was; the other way round, large numbers may overflow.
        if not weight.sum(dtype=torch.float32).isfinite():
            parts = weight.flatten().split(NUMBERS_AT_ONCE)
            _require((bool(part.isfinite().all()) for part in parts), name, where)


def require_finite_blocks(weights: dict[str, StoredMatrix], *, where: Path) -> None:
    """The same for tensors of a GGUF file, as they lie in it."""
    for name, matrix in weights.items():
        kind, infinite, starts = FLOATS[matrix.format]
        width = np.dtype(kind).itemsize
        blocks = np.ascontiguousarray(matrix.data).view(kind).reshape(-1, FORMATS[matrix.format].size // width)
        for start in starts:
            bits = blocks[:, start // width]
            parts = (bits[first : first + NUMBERS_AT_ONCE] for first in range(0, len(bits), NUMBERS_AT_ONCE))
            _require((bool((part & infinite != infinite).all()) for part in parts), name, where)


def _require(parts: Iterable[bool], name: str, where: Path) -> None:
    if not all(parts):
        raise UserError(
            "{where} holds numbers that are none (NaN or infinite), first in {name}. It was damaged in training or on "
            "the way: take an earlier or another copy.",
            where=where,
            name=name,
        )
