"""Hidden states of the tokens of a text -> one vector for the text.

B texts, T time (positions), D width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["POOLINGS", "pool", "pool_reference"]

POOLINGS = ("mean", "cls", "max", "lasttoken")
"""Of all tokens, special ones included; the first one's; the largest of each column; the last one's."""


def pool(hidden: Tensor, real: Tensor, *, how: str, normalize: bool) -> Tensor:
    """hidden [B, T, D], real [B, T] (false where there is but padding, on the right) -> [B, D] in fp32.

    `how` is one of POOLINGS; `normalize` brings every vector to the length 1.
    """
    hidden = hidden.float()
    if how == "mean":
        shares = real.to(hidden.dtype) / real.sum(dim=1, keepdim=True)
        pooled = torch.bmm(shares[:, None], hidden)[:, 0]
    elif how == "cls":
        pooled = hidden[:, 0]
    elif how == "max":
        pooled = hidden.masked_fill(~real[..., None], float("-inf")).amax(dim=1)
    else:
        pooled = hidden[torch.arange(len(hidden), device=hidden.device), real.sum(dim=1) - 1]
    return F.normalize(pooled, dim=-1) if normalize else pooled


def pool_reference(hidden: Tensor, *, how: str, normalize: bool) -> Tensor:
    """`pool` for one text without padding: [T, D] -> [D]."""
    pooled = {"mean": hidden.mean(dim=0), "cls": hidden[0], "max": hidden.max(dim=0).values, "lasttoken": hidden[-1]}
    return pooled[how] / pooled[how].norm() if normalize else pooled[how]
