"""The parts of a Transformer.

B batch, T time (positions), S positions seen (cache and new), D width, H heads, G key/value heads, K head width.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["Cache", "Linear", "RMSNorm", "attend", "attend_reference", "rms_norm_reference", "rotary_tables", "rotate"]

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


class _NormalisedRows(torch.autograd.Function):
    """`rms_norm_reference` with its gradient written out: torch's own backward takes eight times as long on a CPU."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        mean_square = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32).square_().div_(x.shape[-1])
        unit = x * mean_square.add_(epsilon).rsqrt_().to(x.dtype)
        ctx.save_for_backward(unit, mean_square.to(x.dtype), weight)
        return unit * weight

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        unit, scale, weight = ctx.saved_tensors
        gradient = gradients[0]
        toward_weight = (gradient * unit).flatten(0, -2).sum(dim=0)
        gradient = gradient * weight
        along = (gradient * unit).mean(dim=-1, keepdim=True)
        return gradient.addcmul_(unit, along, value=-1).mul_(scale), toward_weight, None


def rms_norm_reference(x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """x / sqrt(mean(x^2) + epsilon) * weight over the last dimension (Zhang and Sennrich 2019, eq. 4)."""
    return F.rms_norm(x, (x.shape[-1],), weight, epsilon)


class RMSNorm(nn.Module):
    """Root mean square normalisation with a learned scale."""

    def __init__(self, width: int, epsilon: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.epsilon = epsilon

    def forward(self, x: Tensor) -> Tensor:
        """[..., width] -> [..., width]"""
        weight = self.weight.to(x.dtype)
        if torch.is_grad_enabled() and x.device.type == "cpu":
            return _NormalisedRows.apply(x, weight, self.epsilon)
        return rms_norm_reference(x, weight, self.epsilon)


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
    # Products of matrices that do not lie in one piece are slow on a CPU: the copies pay for themselves.
    scores = (q * q.shape[-1] ** -0.5).contiguous() @ k.contiguous().mT + hidden
    return scores.softmax(dim=-1) @ v.contiguous()
