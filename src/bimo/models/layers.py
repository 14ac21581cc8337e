"""The parts of a Transformer.

B batch, T time (positions), S positions seen (cache and new), D width, H heads, G key/value heads, K head width.
"""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["Cache", "Linear", "RMSNorm", "attend", "attend_reference", "rotary_tables", "rotate"]

WRITTEN_OUT_CONTEXT = 512
"""Up to here attention as plain matrix products beats the fused kernel on a CPU in bfloat16 (docs/log.md)."""


class Cache(Protocol):
    """What attention asks of a key/value cache."""

    def update(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Keep k, v [B, G, T, K] of the new positions; returns those of all positions [B, G, S, K]."""

    @property
    def seen(self) -> int:
        """How many positions each sequence has in the cache."""


class Linear(nn.Linear):
    """A matrix without bias whose fp32 weight is cast to the number format of what comes in."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[..., inputs] -> [..., outputs]"""
        return F.linear(x, self.weight.to(x.dtype))


class RMSNorm(nn.Module):
    """Root mean square normalisation with a learned scale (Zhang and Sennrich 2019)."""

    def __init__(self, width: int, epsilon: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.epsilon = epsilon

    def forward(self, x: Tensor) -> Tensor:
        """[..., width] -> [..., width]"""
        return F.rms_norm(x, (x.shape[-1],), self.weight.to(x.dtype), self.epsilon)


def rotary_tables(positions: int, head_width: int, theta: float) -> tuple[Tensor, Tensor]:
    """Cosines and sines [positions, head_width] of rotary positions (Su et al. 2021), halves as Llama lays them out."""
    frequencies = theta ** -(torch.arange(0, head_width, 2, dtype=torch.float32) / head_width)
    angles = torch.outer(torch.arange(positions, dtype=torch.float32), frequencies)
    angles = torch.cat([angles, angles], dim=-1)
    return angles.cos(), angles.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn the pairs (i, i + K/2) of x [B, H, T, K] by the angle of their position; cos, sin [T, K]."""
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-second, first], dim=-1) * sin


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Causal attention. q [B, H, T, K], k and v [B, G, S, K], the T queries being the last of S -> [B, H, T, K]."""
    H, T, S = q.shape[1], q.shape[2], k.shape[2]
    if k.shape[1] != H:
        k = k.repeat_interleave(H // k.shape[1], dim=1)
        v = v.repeat_interleave(H // v.shape[1], dim=1)
    if T == 1:
        return F.scaled_dot_product_attention(q, k, v)
    if q.device.type == "cpu" and S <= WRITTEN_OUT_CONTEXT:
        return attend_reference(q, k, v)
    if T == S:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)
    allowed = torch.ones(T, S, dtype=torch.bool, device=q.device).tril(S - T)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=allowed)


def attend_reference(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Causal attention as it is written (Vaswani et al. 2017, eq. 1); shapes as in `attend`, with G = H."""
    T, S = q.shape[2], k.shape[2]
    hidden = torch.full((T, S), float("-inf"), dtype=q.dtype, device=q.device).triu(S - T + 1)
    scores = (q * q.shape[-1] ** -0.5) @ k.mT + hidden
    return scores.softmax(dim=-1) @ v
