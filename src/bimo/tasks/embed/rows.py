"""A .npy file of vectors, written row by row before it is known how many there are."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from bimo.files import replacing

__all__ = ["write_rows"]

HEADER_BYTES = 128
MAGIC = b"\x93NUMPY\x01\x00"
"""Version 1.0 of the format, as numpy.lib.format describes it."""


def write_rows(path: Path, parts: Iterable[np.ndarray], *, width: int) -> int:
    """Write float32 rows [N, width], given in parts, all or nothing; returns how many there were."""
    rows = 0
    with replacing(path) as part, part.open("wb") as file:
        file.write(bytes(HEADER_BYTES))
        for vectors in parts:
            rows += len(vectors)
            file.write(vectors.astype("<f4").tobytes())
        shape = f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({rows}, {width}), }}"
        room = HEADER_BYTES - len(MAGIC) - 2
        file.seek(0)
        file.write(MAGIC + room.to_bytes(2, "little") + shape.ljust(room - 1).encode() + b"\n")
    return rows
