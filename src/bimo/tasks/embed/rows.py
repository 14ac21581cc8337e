"""A .npy file of vectors, written row by row before it is known how many there are."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

import numpy as np

from bimo.files import replacing

__all__ = ["write_rows"]


def write_rows(path: Path, parts: Iterable[np.ndarray], *, width: int) -> int:
    """Write float32 rows [N, width], given in parts, all or nothing; returns how many there were."""
    rows = 0
    with replacing(path) as part, part.open("wb") as file:
        _write_header(file, 0, width)
        for vectors in parts:
            rows += len(vectors)
            file.write(vectors.astype("<f4").tobytes())
        file.seek(0)
        _write_header(file, rows, width)
    return rows


def _write_header(file: BinaryIO, rows: int, width: int) -> None:
    """As long for any number of rows: numpy leaves room for the first length of a shape to grow."""
    shape = {"descr": "<f4", "fortran_order": False, "shape": (rows, width)}
    np.lib.format.write_array_header_1_0(file, shape)
