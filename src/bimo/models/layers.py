"""The parts of a Transformer.

B batch, T time (positions), S positions seen (cache and new), D width, H heads, G key/value heads, K head width.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = [
    "Cache",
    "Linear",
    "RMSNorm",
    "attend",
    "attend_reference",
    "drop_columns",
    "rms_norm_reference",
    "rotary_tables",
    "rotate",
    "rotate_reference",
]

WRITTEN_OUT_CONTEXT = 512
"""Up to here attention as plain matrix products beats the fused kernel on a CPU in bfloat16 (docs/log.md)."""

QUERIES_AT_ONCE = 128
"""What stands after a block of queries need not be multiplied: at 512 positions that is three eighths of the work."""


class Cache(Protocol):
    """What attention asks of a key/value cache."""

    def positions(self, count: int) -> Tensor:
        """Where the next `count` tokens of each sequence stand [B, T]."""

    def update(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Keep k, v [B, G, T, K] of the new positions; returns those of all positions [B, G, S, K]."""

    def allowed(self, count: int) -> Tensor:
        """Which of the S positions each of `count` new tokens may see [B, 1, T, S]."""


class Linear(nn.Linear):
    """A matrix without bias whose fp32 weight is cast to the number format of what comes in."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[..., inputs] -> [..., outputs]"""
        return F.linear(x, self.weight.to(x.dtype))


def drop_columns(x: Tensor, share: float, *, training: bool) -> Tensor:
    """Dropout of whole columns of x [B, T, D]: the same ones at all positions of a window (Gal and Ghahramani 2016).

    A random number for each column and window, not for each value, costs a CPU next to nothing.
    """
    return F.dropout1d(x.mT, share, training).mT


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


class _Rotated(torch.autograd.Function):
    """`rotate_reference` without its copies; the gradient is the turn back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _turn(x, cos, sin, 1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        return _turn(gradients[0], cos, sin, -1), None, None


def _turn(x: Tensor, cos: Tensor, sin: Tensor, direction: int) -> Tensor:
    half = x.shape[-1] // 2
    turned = x * cos
    turned[..., :half].addcmul_(x[..., half:], sin[..., :half], value=-direction)
    turned[..., half:].addcmul_(x[..., :half], sin[..., :half], value=direction)
    return turned


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn the pairs (i, i + K/2) of x [B, H, T, K] by the angle of their position; cos, sin [..., T, K]."""
    return _Rotated.apply(x, cos, sin)


def rotate_reference(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """The same, as Llama writes it."""
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-second, first], dim=-1) * sin


def attend(q: Tensor, k: Tensor, v: Tensor, allowed: Tensor | None = None) -> Tensor:
    """Attention to what is `allowed` [B, 1, T, S], or to oneself and what came before.

    q [B, H, T, K], k and v [B, G, S, K], where T = S without `allowed` -> [B, H, T, K].
    """
    H = q.shape[1]
    if k.shape[1] != H:
        k = k.repeat_interleave(H // k.shape[1], dim=1)
        v = v.repeat_interleave(H // v.shape[1], dim=1)
    if allowed is not None:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=allowed)
    if q.device.type == "cpu" and k.shape[2] <= WRITTEN_OUT_CONTEXT:
        return _AttentionInBlocks.apply(q, k, v)
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


class _AttentionInBlocks(torch.autograd.Function):
    """`attend_reference` for a block of queries at a time, with its gradient written out.

    Products of matrices that do not lie in one piece are slow on a CPU: the copies pay for themselves.
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        B, H, T, K = q.shape
        q, k, v = (q * K**-0.5).reshape(-1, T, K), k.reshape(-1, T, K), v.reshape(-1, T, K)
        out = torch.empty_like(q)
        hidden = torch.full((QUERIES_AT_ONCE, QUERIES_AT_ONCE), float("-inf"), dtype=q.dtype).triu(1)
        weights = []
        for start, end in _blocks(T):
            scores = q[:, start:end].contiguous() @ k[:, :end].contiguous().mT
            scores[:, :, start:] += hidden[: end - start, : end - start]
            weights.append(scores.softmax(dim=-1))
            out[:, start:end] = weights[-1] @ v[:, :end].contiguous()
        ctx.save_for_backward(q, k, v, *weights)
        return out.view(B, H, T, K)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v, *weights = ctx.saved_tensors
        shape = gradients[0].shape
        T, K = shape[-2:]
        toward_out = gradients[0].reshape(-1, T, K)
        toward_q, toward_k, toward_v = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
        for (start, end), weight in zip(_blocks(T), weights, strict=True):
            part = toward_out[:, start:end].contiguous()
            toward_v[:, :end] += weight.mT @ part
            toward_weight = part @ v[:, :end].contiguous().mT
            # The derivative of softmax: w (dw - sum(w dw)), in one pass.
            toward_scores = torch._softmax_backward_data(toward_weight, weight, -1, weight.dtype)
            toward_q[:, start:end] = toward_scores @ k[:, :end].contiguous()
            toward_k[:, :end] += toward_scores.mT @ q[:, start:end].contiguous()
        return toward_q.mul_(K**-0.5).view(shape), toward_k.view(shape), toward_v.view(shape)


def _blocks(positions: int) -> list[tuple[int, int]]:
    """Start and end of each block of queries."""
    starts = range(0, positions, QUERIES_AT_ONCE)
    return [(start, min(start + QUERIES_AT_ONCE, positions)) for start in starts]


def attend_reference(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Causal attention as it is written (Vaswani et al. 2017, eq. 1); shapes as in `attend`, with G = H, T = S."""
    T = q.shape[2]
    hidden = torch.full((T, T), float("-inf"), dtype=q.dtype, device=q.device).triu(1)
    scores = (q * q.shape[-1] ** -0.5) @ k.mT + hidden
    return scores.softmax(dim=-1) @ v
