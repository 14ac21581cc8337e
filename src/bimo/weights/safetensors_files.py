"""Weights in safetensors files, in one piece or several: checked by our own code before another parser sees them.

A file is the length of its header (u64, little-endian), the header (JSON: name -> dtype, shape, place in the data) and
the data. Nothing that a header says is believed before it was compared with the size of the file.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from bimo.files import digest_file, parse_json, read_json
from bimo.runtime import UserError, t

__all__ = [
    "ADAPTER_SETTINGS",
    "ADAPTER_WEIGHTS",
    "StoredTensor",
    "holds_adapter",
    "read_header",
    "read_weights",
    "read_weights_of_one",
    "weight_digests",
    "weight_files",
]

SIZES = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2", "F8_E8M0"), 1),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 2),
    **dict.fromkeys(("U32", "I32", "F32"), 4),
    **dict.fromkeys(("U64", "I64", "F64", "C64"), 8),
}
"""Bytes of a number by its dtype."""

LARGEST_HEADER = 16 << 20
MOST_TENSORS = 1 << 16
MOST_DIMENSIONS = 8
LONGEST_NAME = 256
"""Characters of a tensor's name."""

WHOLE_WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
ADAPTER_SETTINGS, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PICKLED = ("*.bin", "*.pt", "*.pth", "*.pkl", "*.ckpt", "*.pickle")
"""Reading such a file runs whatever program stands in it."""


@dataclass(frozen=True)
class StoredTensor:
    """What a header says of a tensor: its dtype, its shape, and where its bytes begin and end in the data."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


def weight_files(folder: Path) -> list[Path]:
    """`model.safetensors`, or the files that an index names; none if there are no weights.

    Raises UserError when the only weights are pickled ones, or when the index points elsewhere.
    """
    whole, index = (folder / name for name in WHOLE_WEIGHTS)
    if whole.is_file():
        return [whole]
    if index.is_file():
        return sorted({folder / name for name in _places(index).values()})
    pickled = sorted(path for pattern in PICKLED for path in folder.glob(pattern))
    if pickled:
        raise UserError(
            "The weights in {folder} are pickled ({name}), and reading a pickle runs whatever program it holds, so "
            "Bimo does not. Where you trust them, convert them elsewhere: load the model with transformers, then "
            "model.save_pretrained(FOLDER, safe_serialization=True).",
            folder=folder,
            name=pickled[0].name,
        )
    return []


def holds_adapter(folder: Path) -> bool:
    """Whether there is an adapter in a folder, be it sound or not; where a whole model lies as well, that counts."""
    return (folder / ADAPTER_SETTINGS).is_file() and not any((folder / name).is_file() for name in WHOLE_WEIGHTS)


def weight_digests(folder: Path) -> dict[str, str]:
    """SHA-256 of the files that hold the weights of a folder, or its adapter, by their names. Raises UserError as
    `weight_files`, and when a file is missing."""
    adapter = [folder / ADAPTER_SETTINGS, folder / ADAPTER_WEIGHTS]
    files = adapter if holds_adapter(folder) else weight_files(folder)
    missing = next((file for file in files if not file.is_file()), None)
    if missing is not None:
        raise UserError("{path} cannot be used: {reason}.", path=missing, reason=t("there is no such file"))
    return {file.name: digest_file(file) for file in files}


def read_weights(files: list[Path]) -> dict[str, Tensor]:
    """All tensors of the files, mapped rather than read. Raises UserError when a file is damaged or missing."""
    headers = {path: read_header(path) for path in files}
    _require_index(headers)
    weights: dict[str, Tensor] = {}
    for path, header in headers.items():
        double = next(iter(header.keys() & weights.keys()), None)
        if double is not None:
            raise _damaged(path, t("{name} stands in another file, too", name=double))
        weights |= _mapped(path, header)
    return weights


def read_weights_of_one(path: Path) -> dict[str, Tensor]:
    """As `read_weights`, the tensors of one file, whatever others it belongs to."""
    return _mapped(path, read_header(path))


def _mapped(path: Path, header: dict[str, StoredTensor]) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in header}
    except (SafetensorError, OSError) as error:
        raise UserError("{path} cannot be read: {error}.", path=path, error=error) from None


def read_header(path: Path) -> dict[str, StoredTensor]:
    """The tensors of a file by their names. Raises UserError when the header does not describe this file exactly."""
    try:
        if not path.is_file():
            raise FileNotFoundError(2, t("there is no such file"))
        size = path.stat().st_size
        with path.open("rb") as file:
            first = file.read(8)
            length = struct.unpack("<Q", first)[0] if len(first) == 8 else 0
            if length < 2 or length > size - 8:
                raise _damaged(path, t("it ends before the header does"))
            if length > LARGEST_HEADER:
                raise _damaged(path, t("its header is larger than any is"))
            raw = file.read(length)
    except OSError as error:
        raise UserError("{path} cannot be used: {reason}.", path=path, reason=error.strerror) from None
    described = parse_json(raw, where=path)
    if not isinstance(described, dict):
        raise _damaged(path, t("its header does not describe tensors"))
    described.pop("__metadata__", None)
    if len(described) > MOST_TENSORS:
        raise _damaged(path, t("its header is larger than any is"))
    tensors = {_shown(path, name): _stored(path, name, entry) for name, entry in described.items()}
    _require_gapless(path, tensors, size - 8 - length)
    return tensors


def _places(index: Path) -> dict[str, str]:
    """In which file of the same folder an index says that each tensor is."""
    described = read_json(index)
    places = described.get("weight_map") if isinstance(described, dict) else None
    names = list(places.values()) if isinstance(places, dict) else []
    if not names or not all(isinstance(name, str) and _is_plain_name(name) for name in names):
        raise UserError("{index} does not say in which files the weights are.", index=index)
    return {**places} if isinstance(places, dict) else {}


def _is_plain_name(name: str) -> bool:
    return name.endswith(".safetensors") and Path(name).name == name and name.isprintable() and "\\" not in name


def _require_index(headers: dict[Path, dict[str, StoredTensor]]) -> None:
    """Raises UserError when the index and the files do not name the same tensors."""
    index = next(iter(headers)).with_name("model.safetensors.index.json")
    if [path.name for path in headers] == ["model.safetensors"] or not index.is_file():
        return
    places = _places(index)
    found = {name: path.name for path, header in headers.items() for name in header}
    wrong = sorted(name for name in places.keys() | found.keys() if places.get(name) != found.get(name))
    if wrong:
        raise UserError(
            "{index} and the files that it names do not hold the same tensors, first at {name}.",
            index=index,
            name=ascii(wrong[0])[:LONGEST_NAME],
        )


def _stored(path: Path, name: str, entry: Any) -> StoredTensor:
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise _damaged(path, t("{name} is not described as tensors are", name=name))
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in SIZES:
        raise _damaged(path, t("{name} is of no known number format", name=name))
    if not _are_counts(shape) or len(shape) > MOST_DIMENSIONS:
        raise _damaged(path, t("{name} has no usable shape", name=name))
    if not _are_counts(offsets) or len(offsets) != 2 or math.prod(shape) * SIZES[dtype] != offsets[1] - offsets[0]:
        raise _damaged(path, t("{name} does not take as many bytes as its shape says", name=name))
    return StoredTensor(dtype, tuple(shape), *offsets)


def _are_counts(values: Any) -> bool:
    return isinstance(values, list) and all(type(value) is int and 0 <= value < 1 << 63 for value in values)


def _require_gapless(path: Path, tensors: dict[str, StoredTensor], size: int) -> None:
    """Raises UserError unless the tensors fill the data from its first byte to its last, each in a place of its own."""
    last = 0
    for name, tensor in _in_order(tensors):
        if tensor.begin < last:
            raise _damaged(path, t("{name} lies on another tensor", name=name))
        if tensor.begin > last:
            raise _damaged(path, t("before {name} there are bytes that belong to no tensor", name=name))
        if tensor.end > size:
            raise _damaged(path, t("{name} reaches beyond its end", name=name))
        last = tensor.end
    if last != size:
        raise _damaged(path, t("behind its tensors there are bytes that belong to none"))


def _in_order(tensors: dict[str, StoredTensor]) -> Iterator[tuple[str, StoredTensor]]:
    yield from sorted(tensors.items(), key=lambda item: (item[1].begin, item[1].end))


def _shown(path: Path, name: str) -> str:
    """What may be shown to a person: not endless, no control characters."""
    if not name or len(name) > LONGEST_NAME or not name.isprintable():
        raise _damaged(path, t("a name in it cannot be shown"))
    return name


def _damaged(path: Path, fault: str) -> UserError:
    return UserError("{path} is damaged: {fault}.", path=path, fault=fault)
