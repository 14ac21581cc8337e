"""The compiled core (`native/`) where it is built: what it can do here, and its functions.

`bimo.h` says what each function does. Every one has a slow twin in torch, which runs where the core is not.
"""

from __future__ import annotations

import ctypes
import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

from bimo.runtime import UserError

__all__ = [
    "COUNTS",
    "INSTRUCTIONS",
    "Automaton",
    "LinearModel",
    "Shape",
    "TokenWalk",
    "VectorsInTraining",
    "best_instructions",
    "load_library",
    "read_bandwidth",
    "training_function",
]

LIBRARY = Path(__file__).with_name("libbimo.so")
INTERFACE = 1
"""Of the library, as in native/bimo.h: one built from other sources would compute something else in silence."""

INSTRUCTIONS = ("plain", "avx2", "avx512")
"""Instruction sets by their number in bimo.h, best last."""

COUNTS = ("vocabulary", "layers", "width", "heads", "kv_heads", "head_width", "hidden", "qk_norm")

NUMBERS = {"float32": 0, "bfloat16": 2}
"""Number formats of training by their number in bimo.h."""

POINTER, INT, LONG, FLOAT = ctypes.c_void_p, ctypes.c_int, ctypes.c_int64, ctypes.c_float

TRAINING: dict[str, tuple[Any, ...]] = {
    "norm": (LONG, INT, FLOAT, *[POINTER] * 3),
    "norm_backward": (LONG, INT, FLOAT, *[POINTER] * 5),
    "turned_heads": (LONG, INT, INT, INT, FLOAT, *[POINTER] * 5),
    "turned_heads_backward": (LONG, INT, INT, INT, FLOAT, *[POINTER] * 7),
    "gated": (LONG, *[POINTER] * 3),
    "gated_backward": (LONG, *[POINTER] * 5),
    "causal_softmax": (LONG, INT, INT, INT, FLOAT, POINTER),
    "softmax_backward": (LONG, INT, FLOAT, *[POINTER] * 2),
    "cross_entropy": (LONG, INT, *[POINTER] * 3),
}
"""What the operations of training take after the number of threads, in the order of bimo.h."""


class Shape(ctypes.Structure):
    """bimo_shape"""

    _fields_: ClassVar = [*((name, ctypes.c_int32) for name in COUNTS), ("norm_epsilon", FLOAT)]


class VectorsInTraining(ctypes.Structure):
    """bimo_vectors"""

    _fields_: ClassVar = [
        *((name, POINTER) for name in ("inputs", "outputs", "part_offsets", "parts", "keep", "alias_keep", "alias")),
        *((name, LONG) for name in ("done", "total")),
        ("seed", ctypes.c_uint64),
        *((name, ctypes.c_int32) for name in ("words", "stride", "window", "negatives", "cbow")),
        *((name, FLOAT) for name in ("first_rate", "last_rate")),
    ]


class Automaton(ctypes.Structure):
    """bimo_automaton"""

    _fields_: ClassVar = [(name, POINTER) for name in ("offsets", "characters", "next", "shorter", "length")]


class TokenWalk(ctypes.Structure):
    """bimo_token_walk"""

    _fields_: ClassVar = [
        *((name, POINTER) for name in ("bytes", "depths", "behind", "tokens", "ids", "states", "allowed", "after")),
        *((name, ctypes.c_int32) for name in ("nodes", "node", "found")),
    ]


class LinearModel(ctypes.Structure):
    """bimo_linear_model"""

    _fields_: ClassVar = [
        *((name, POINTER) for name in ("hashes", "rows", "kinds", "rarity", "weights", "biases")),
        ("slots", LONG),
        *((name, ctypes.c_int32) for name in ("features", "classes")),
    ]


@functools.cache
def load_library() -> ctypes.CDLL | None:
    """The core, or None where it was not built, or was built for another machine or from other sources."""
    if not LIBRARY.is_file():
        return None
    try:
        library = ctypes.CDLL(str(LIBRARY))
        if library.bimo_interface() != INTERFACE:
            return None
    except (OSError, AttributeError):  # such as a library of the compiler's that is not on this machine
        return None
    library.bimo_best_instructions.restype = INT
    library.bimo_new.restype = POINTER
    library.bimo_new.argtypes = [ctypes.POINTER(Shape), INT, INT]
    library.bimo_free.argtypes = [POINTER]
    library.bimo_free.restype = None
    library.bimo_set_matrix.argtypes = [POINTER, INT, INT, INT, POINTER, INT, INT]
    library.bimo_set_vector.argtypes = [POINTER, INT, INT, POINTER, INT]
    library.bimo_reserve.argtypes = [POINTER, INT, INT, INT, POINTER, POINTER]
    library.bimo_step.argtypes = [POINTER, INT, POINTER, POINTER, POINTER, INT, POINTER, POINTER]
    library.bimo_copy.argtypes = [POINTER, INT, INT, INT]
    library.bimo_matrix_bytes.argtypes = [POINTER]
    library.bimo_matrix_bytes.restype = LONG
    library.bimo_read_bandwidth.argtypes = [INT]
    library.bimo_read_bandwidth.restype = ctypes.c_double
    library.bimo_train_vectors.argtypes = [ctypes.POINTER(VectorsInTraining), INT, INT, POINTER, LONG]
    library.bimo_most_grams.argtypes = [LONG]
    library.bimo_most_grams.restype = LONG
    library.bimo_grams.argtypes = [POINTER, POINTER, LONG, POINTER]
    library.bimo_grams.restype = LONG
    library.bimo_linear.argtypes = [ctypes.POINTER(LinearModel), POINTER, POINTER, POINTER, LONG, POINTER]
    library.bimo_walk_suffixes.argtypes = [ctypes.POINTER(Automaton), POINTER, LONG, POINTER]
    library.bimo_walk_suffixes.restype = None
    library.bimo_walk_tokens.argtypes = [ctypes.POINTER(TokenWalk), POINTER, POINTER]
    library.bimo_training.argtypes = [INT, INT, INT]
    library.bimo_training.restype = POINTER
    return library


def best_instructions() -> str | None:
    """The instruction set that the core runs with: the best of this processor, or what BIMO_KERNEL names.

    None where the core was not built, or BIMO_KERNEL is `torch`. Raises UserError for one that is not there.
    """
    wanted = os.environ.get("BIMO_KERNEL")
    if wanted == "torch":
        return None
    library = load_library()
    there = INSTRUCTIONS[: library.bimo_best_instructions() + 1] if library else ()
    if not wanted and not there:
        return None
    if wanted and wanted not in there:
        raise UserError(
            "BIMO_KERNEL asks for {wanted}, but here there is: {there}.",
            wanted=wanted,
            there=", ".join((*there, "torch")),
        )
    return wanted or there[-1]


def read_bandwidth(threads: int) -> float | None:
    """Bytes a second that so many threads read from memory together; None without the core."""
    library = load_library()
    return library.bimo_read_bandwidth(threads) if library else None


def training_function(operation: str, numbers: str) -> Callable[..., None] | None:
    """An operation of TRAINING on `numbers`, the name of a torch dtype; None where torch has to do it."""
    instructions = best_instructions()
    return None if instructions is None else _training_function(operation, numbers, instructions)


@functools.cache
def _training_function(operation: str, numbers: str, instructions: str) -> Callable[..., None] | None:
    library = load_library()
    if library is None or numbers not in NUMBERS:
        return None
    place = list(TRAINING).index(operation)
    address = library.bimo_training(INSTRUCTIONS.index(instructions), NUMBERS[numbers], place)
    return ctypes.CFUNCTYPE(None, INT, *TRAINING[operation])(address) if address else None
