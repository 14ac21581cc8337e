"""Weights in another number format: for files, and for writing with fewer bytes to read a token.

int8 is Q8_0, int4 is Q4_1: groups of 32 columns, each with its own scale (docs/decisions.md).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from bimo.models.transformer import Decoder
from bimo.weights.gguf_blocks import FORMATS, StoredMatrix, quantise

__all__ = ["WRITTEN_FORMATS", "format_of", "in_format", "quantised", "stored_weights"]

FOUR_BITS = "Q4_1"
WRITTEN_FORMATS = tuple(name for name, block in FORMATS.items() if block.encode is not None)


def stored_weights(model: Decoder) -> dict[str, StoredMatrix]:
    """The weights of a model on the CPU under our names: float32, sharing the model's memory."""
    matrices = {name: np.atleast_2d(weight.detach().numpy()) for name, weight in model.named_parameters()}
    return {
        name: StoredMatrix(matrix.shape[0], matrix.shape[1], "F32", matrix.view(np.uint8))
        for name, matrix in matrices.items()
    }


def format_of(name: str, matrix: StoredMatrix, wanted: str) -> str:
    """What a tensor is stored in: vectors as F32, rows that are no whole number of blocks as F16, others as wanted.

    What is added to the embedding for a position is a vector, too. With four bits a weight, what ids are looked up in
    and what gives the logits has eight: docs/decisions.md.
    """
    if matrix.rows == 1 or name == "position_embedding.weight":
        return "F32"
    if matrix.columns % FORMATS[wanted].columns:
        return "F16"
    return "Q8_0" if wanted == FOUR_BITS and name in ("embedding.weight", "head.weight") else wanted


def in_format(name: str, matrix: StoredMatrix, wanted: str) -> StoredMatrix:
    """The same tensor in the format that `format_of` gives for it; one that has it already stays as it is."""
    form = format_of(name, matrix, wanted)
    if form == matrix.format:
        return matrix
    return StoredMatrix(matrix.rows, matrix.columns, form, quantise(matrix.dequantised(), form))


def quantised(weights: Mapping[str, StoredMatrix], wanted: str) -> dict[str, StoredMatrix]:
    """All weights of a decoder in a format, one of WRITTEN_FORMATS, as `generate/native.py` takes them."""
    return {name: in_format(name, matrix, wanted) for name, matrix in weights.items()}
