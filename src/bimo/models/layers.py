"""The parts of a Transformer.

B batch, T time (positions), S positions seen (cache and new), D width, H heads, G key/value heads, K head width.
"""

from __future__ import annotations

import math
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bimo.models import fused
from bimo.models.config import RotaryScaling

__all__ = [
    "ACTIVATIONS",
    "Cache",
    "Embedding",
    "LayerNorm",
    "Linear",
    "RMSNorm",
    "attend",
    "attend_reference",
    "drop_columns",
    "gated",
    "rms_norm_reference",
    "rotary_tables",
    "rotate",
    "sinusoids",
    "turned_heads",
]

ACTIVATIONS = {
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "relu": F.relu,
    "silu": F.silu,
}
"""Of plain feed-forward blocks, by their names in ModelConfig."""

WRITTEN_OUT_CONTEXT = 512
"""Up to here attention as plain matrix products beats the fused kernel on a CPU in bfloat16 (docs/log.md)."""

MASKED_CONTEXT = 256
"""Up to here the same holds of training where padding is hidden: 20 times for sentences (docs/log.md)."""

CPU = torch.device("cpu")
"""Where tables are computed, whatever the device of a model: to do so without memory torch would load its compiler."""

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
    """A matrix whose fp32 weight, and bias where it has one, are cast to the number format of what comes in.

    `low_rank` is what an adapter adds to it, see `models/lora.py`.
    """

    def __init__(self, inputs: int, outputs: int, *, bias: bool = False) -> None:
        super().__init__(inputs, outputs, bias=bias)
        self.low_rank: nn.Module | None = None

    def forward(self, x: Tensor) -> Tensor:
        """[..., inputs] -> [..., outputs]"""
        out = F.linear(x, self.weight.to(x.dtype), None if self.bias is None else self.bias.to(x.dtype))
        return out if self.low_rank is None else out + self.low_rank(x)


class Embedding(nn.Embedding):
    """A vector for each number, drawn at random where there is memory for it."""

    def reset_parameters(self) -> None:
        """Without memory there is nothing to draw, for which torch would load its compiler, and that takes a second."""
        if not self.weight.is_meta:
            super().reset_parameters()


def drop_columns(x: Tensor, share: float, *, training: bool) -> Tensor:
    """Dropout of whole columns of x [B, T, D]: the same ones at all positions of a window (Gal and Ghahramani 2016).

    A random number for each column and window, not for each value, costs a CPU next to nothing.
    """
    return F.dropout1d(x.mT, share, training).mT


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
        if fused.fusible(x):
            return fused.rms_norm(x, self.weight, self.epsilon)
        return rms_norm_reference(x, self.weight.to(x.dtype), self.epsilon)


class LayerNorm(nn.LayerNorm):
    """Normalisation by mean and variance with a learned scale and shift (Ba et al. 2016), computed in fp32."""

    def forward(self, x: Tensor) -> Tensor:
        """[..., width] -> [..., width]"""
        return super().forward(x.float()).to(x.dtype)


def rotary_tables(
    positions: int, head_width: int, theta: float, scaling: RotaryScaling | None = None
) -> tuple[Tensor, Tensor]:
    """Cosines and sines [positions, head_width] of rotary positions (Su et al. 2021), halves as Llama lays them out."""
    frequencies = theta ** -(torch.arange(0, head_width, 2, dtype=torch.float32, device=CPU) / head_width)
    if scaling is not None:
        frequencies = _stretched(frequencies, theta, scaling)
    angles = torch.outer(torch.arange(positions, dtype=torch.float32, device=CPU), frequencies)
    angles = torch.cat([angles, angles], dim=-1)
    attention = scaling.attention if scaling is not None else 1.0
    return angles.cos() * attention, angles.sin() * attention


def _stretched(frequencies: Tensor, theta: float, scaling: RotaryScaling) -> Tensor:
    """Rotary frequencies [K / 2], the lower ones divided by the factor of `scaling`; linear divides all of them."""
    slowed = frequencies / scaling.factor
    if scaling.kind == "linear":
        return slowed
    if scaling.kind == "llama3":
        # How often each turns within the original context decides; in between, the two are mixed.
        turns = scaling.original * frequencies / (2 * math.pi)
        kept = ((turns - scaling.low) / (scaling.high - scaling.low)).clamp(0, 1)
    else:
        kept = 1 - _yarn_ramp(len(frequencies), theta, scaling)
    return frequencies * kept + slowed * (1 - kept)


def _yarn_ramp(pairs: int, theta: float, scaling: RotaryScaling) -> Tensor:
    """0 for the pairs that turn `high` times or more in the original context, 1 for `low` or fewer [pairs].

    Peng et al. 2023, equation 13, in the numbers of pairs as all implementations have it.
    """
    first, last = (
        pairs * math.log(scaling.original / (turns * 2 * math.pi)) / math.log(theta)
        for turns in (scaling.high, scaling.low)
    )
    if scaling.truncate:
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, 2 * pairs - 1)
    return ((torch.arange(pairs, dtype=torch.float32, device=CPU) - first) / max(last - first, 0.001)).clamp(0, 1)


def sinusoids(positions: int, width: int) -> Tensor:
    """Sines, then cosines, of positions [positions, width] (Vaswani et al. 2017, section 3.5) in halves as Marian's."""
    pairs = torch.arange(width, dtype=torch.float64, device=CPU) // 2
    angles = torch.outer(torch.arange(positions, dtype=torch.float64, device=CPU), 10_000.0 ** -(2 * pairs / width))
    return torch.cat([angles[:, 0::2].sin(), angles[:, 1::2].cos()], dim=1).float()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn the pairs (i, i + K/2) of x [B, H, T, K] by the angle of their position; cos, sin [..., T, K]."""
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-second, first], dim=-1) * sin


def turned_heads(x: Tensor, norm: RMSNorm | None, cos: Tensor, sin: Tensor) -> Tensor:
    """Heads of x [B, T, H, K], normalised if there is a norm, then turned; cos, sin [..., T, K] -> [B, H, T, K]."""
    if cos.ndim == 2 and fused.fusible(x):
        weight, epsilon = (norm.weight, norm.epsilon) if norm is not None else (None, 0.0)
        return fused.turned_heads(x, weight, cos, sin, epsilon)
    if norm is not None:
        x = norm(x)
    return rotate(x.transpose(1, 2), cos.to(x.dtype), sin.to(x.dtype))


def gated(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) * up (Shazeer 2020)."""
    return fused.gated(gate, up) if fused.fusible(gate) else F.silu(gate) * up


def attend(q: Tensor, k: Tensor, v: Tensor, allowed: Tensor | None = None, *, causal: bool = True) -> Tensor:
    """Attention to what is `allowed` [B, 1, T or 1, S]; else to oneself and what came before, if `causal`, or to all.

    q [B, H, T, K], k and v [B, G, S, K], where T = S if causal without `allowed` -> [B, T, H, K].
    """
    H = q.shape[1]
    if k.shape[1] != H:
        k = k.repeat_interleave(H // k.shape[1], dim=1)
        v = v.repeat_interleave(H // v.shape[1], dim=1)
    slow = q.requires_grad and q.dtype == torch.bfloat16 and q.device.type == "cpu" and k.shape[2] <= MASKED_CONTEXT
    if allowed is not None and slow:
        return _attend_to_allowed(q, k, v, allowed)
    if allowed is not None:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=allowed).transpose(1, 2)
    if q.device.type == "cpu" and q.shape[2] == k.shape[2] <= WRITTEN_OUT_CONTEXT:
        return _AttentionInBlocks.apply(q, k, v, causal)
    return F.scaled_dot_product_attention(q, k, v, is_causal=causal).transpose(1, 2)


def _attend_to_allowed(q: Tensor, k: Tensor, v: Tensor, allowed: Tensor) -> Tensor:
    """`attend` for training on short texts, whose gradient torch's fused kernel is slow to find."""
    q, k, v = (x.contiguous() for x in (q, k, v))
    scores = (q * q.shape[-1] ** -0.5) @ k.mT.contiguous()
    return (scores.masked_fill(~allowed, float("-inf")).softmax(dim=-1) @ v).transpose(1, 2)


class _AttentionInBlocks(torch.autograd.Function):
    """`attend_reference` for a block of queries at a time, with its gradient written out.

    A CPU is slow to multiply with the transpose of matrices that lie apart: a copy pays for itself.
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, causal: bool) -> Tensor:
        B, H, T, K = q.shape
        q, k, v = (x.reshape(-1, T, K) for x in (q, k, v))
        out = q.new_empty(B, T, H, K)
        weights = []
        for start, end, seen in _blocks(T, causal):
            scores = q[:, start:end].contiguous() @ k[:, :seen].contiguous().mT
            weights.append(_softmax(scores, start if causal else None, K**-0.5))
            out[:, start:end] = (weights[-1] @ v[:, :seen]).view(B, H, -1, K).transpose(1, 2)
        ctx.causal = causal
        ctx.save_for_backward(q, k, v, *weights)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        q, k, v, *weights = ctx.saved_tensors
        B, T, H, K = gradients[0].shape
        toward_q, toward_k, toward_v = torch.empty_like(q), torch.zeros_like(k), torch.zeros_like(v)
        for (start, end, seen), weight in zip(_blocks(T, ctx.causal), weights, strict=True):
            part = gradients[0][:, start:end].transpose(1, 2).reshape(-1, end - start, K)
            toward_v[:, :seen] += weight.mT @ part
            toward_scores = _softmax_backward(weight, part @ v[:, :seen].contiguous().mT, K**-0.5)
            toward_q[:, start:end] = toward_scores @ k[:, :seen]
            toward_k[:, :seen] += toward_scores.mT @ q[:, start:end].contiguous()
        shape = (B, H, T, K)
        return toward_q.view(shape), toward_k.view(shape), toward_v.view(shape), None


def _softmax(scores: Tensor, start: int | None, scale: float) -> Tensor:
    """Weights from scores [N, T, S], in whose place they may stand.

    The queries stand from position `start` on and see what came before; without it they see all.
    """
    S = scores.shape[2]
    if fused.fusible(scores):
        # A row that sees all is the last one of a causal matrix.
        rows, first = (scores.view(-1, 1, S), S - 1) if start is None else (scores, start)
        fused.causal_softmax_(rows, start=first, scale=scale)
        return scores
    scores = scores.mul_(scale)
    if start is not None:
        hidden = torch.ones(scores.shape[1:], dtype=torch.bool, device=scores.device).triu(start + 1)
        scores = scores.masked_fill_(hidden, float("-inf"))
    return scores.softmax(dim=-1)


def _softmax_backward(weights: Tensor, gradient: Tensor, scale: float) -> Tensor:
    """The gradient of scores from that of their weights [N, T, S], in whose place it may stand."""
    if fused.fusible(weights):
        fused.softmax_backward_(weights, gradient, scale=scale)
        return gradient
    # The derivative of softmax: w (dw - sum(w dw)), in one pass.
    return torch._softmax_backward_data(gradient, weights, -1, weights.dtype).mul_(scale)


def _blocks(positions: int, causal: bool) -> list[tuple[int, int, int]]:
    """Start and end of each block of queries, and how many positions it sees."""
    starts = range(0, positions, QUERIES_AT_ONCE)
    ends = [min(start + QUERIES_AT_ONCE, positions) for start in starts]
    return [(start, end, end if causal else positions) for start, end in zip(starts, ends, strict=True)]


def attend_reference(q: Tensor, k: Tensor, v: Tensor, *, causal: bool = True) -> Tensor:
    """Attention as it is written (Vaswani et al. 2017, eq. 1); shapes as in `attend`, with G = H, T = S."""
    scores = (q * q.shape[-1] ** -0.5) @ k.mT
    if causal:
        scores = scores + torch.full(scores.shape[-2:], float("-inf"), dtype=q.dtype, device=q.device).triu(1)
    return (scores.softmax(dim=-1) @ v).transpose(1, 2)
