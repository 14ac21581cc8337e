"""Output matrices beside the embeddings that they are said to be: what `tie_word_embeddings` of a config is worth."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from bimo.runtime import UserError

__all__ = ["require_copies", "with_tied_head"]


def with_tied_head(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """A tied decoder's weights under our names without a head, unless that is another matrix than the embedding.

    Where there is no embedding the head is it, as in transformers.
    """
    weights = dict(weights)
    head = weights.get("head.weight")
    if head is not None and _are_equal(weights.setdefault("embedding.weight", head), head):
        del weights["head.weight"]
    return weights


def require_copies(weights: dict[str, Tensor], original: str, copies: Iterable[str]) -> None:
    """Raises UserError when one of the tensors that are said to be the original is there and is another."""
    for name in copies:
        if name in weights and original in weights and not _are_equal(weights[original], weights[name]):
            raise UserError(
                "The weights hold {name} with other numbers than {original}, and Bimo computes models of this type "
                "with one tensor for both.",
                name=name,
                original=original,
            )


def _are_equal(first: Tensor, second: Tensor) -> bool:
    return first.shape == second.shape and torch.equal(first, second.to(first.dtype))
