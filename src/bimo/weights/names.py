"""Our names of weights beside those of others, and the checks that reading their descriptions needs."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from bimo.runtime import UserError

__all__ = ["ACTIVATIONS", "NamePairs", "count", "renamed"]

ACTIVATIONS = {
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu": "gelu",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}
"""Our names by those of Hugging Face, of which the first is the one that is written."""

NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")


@dataclass(frozen=True)
class NamePairs:
    """Our names of modules beside theirs; `{}` is the number of the layer."""

    pairs: tuple[tuple[str, str], ...]

    @property
    def to_theirs(self) -> dict[str, str]:
        """Theirs by ours."""
        return dict(self.pairs)

    @property
    def to_ours(self) -> dict[str, str]:
        """Ours by theirs."""
        return {theirs: ours for ours, theirs in self.pairs}


def renamed(weights: dict[str, Tensor], names: dict[str, str]) -> dict[str, Tensor]:
    """The same tensors; what stands before the last dot (`.weight`, `.bias`) is called by its other name.

    Raises UserError on a name that is not known.
    """
    found = {}
    for name, tensor in weights.items():
        module, _, last = name.rpartition(".")
        number = NUMBER.search(module + ".")
        pattern = NUMBER.sub("{}", module + ".").rstrip(".")
        if pattern not in names:
            raise UserError("The weights hold {name}, which a model of this type does not have.", name=name)
        found[f"{names[pattern].format(number[0] if number else '')}.{last}"] = tensor
    return found


def count(value: Any) -> int:
    """A whole number of a description. Raises TypeError when it is none."""
    if type(value) is not int:
        raise TypeError(f"{value!r} is not a whole number")
    return value
