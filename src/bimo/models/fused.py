"""What stands between the matrix products of a training step, by the compiled core: one pass over memory for each.

Each function says which short twin in torch it equals. `fusible` says whether a tensor can go this way.

N rows, D width, B batch, T positions, H heads, K head width, S positions seen, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from bimo.kernel import training_function

__all__ = [
    "causal_softmax_",
    "cross_entropy_",
    "fusible",
    "gated",
    "rms_norm",
    "softmax_backward_",
    "turned_heads",
]


def fusible(x: Tensor) -> bool:
    """Whether the core is there for x: for its number format, on a CPU."""
    return x.device.type == "cpu" and training_function("norm", _numbers(x)) is not None


def rms_norm(x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """`rms_norm_reference`: x [..., D], weight [D] in float32 -> [..., D]."""
    return _Norm.apply(x, weight, epsilon)


def turned_heads(x: Tensor, weight: Tensor | None, cosines: Tensor, sines: Tensor, epsilon: float) -> Tensor:
    """`rotate_reference` after `rms_norm_reference`, if there is a weight [K].

    x [B, T, H, K]; cosines, sines [T, K] in float32 -> [B, H, T, K].
    """
    assert cosines.shape == sines.shape == (x.shape[1], x.shape[3])  # the kernel reads so many, whatever there is
    return _TurnedHeads.apply(x, weight, cosines, sines, epsilon)


def gated(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) * up, all of one shape."""
    return _Gated.apply(gate, up)


def causal_softmax_(scores: Tensor, *, start: int, scale: float) -> None:
    """Scores [N, T, S] become weights: softmax of the scaled scores up to S = start + T's own, and zero after it."""
    N, T, S = scores.shape
    _call("causal_softmax", scores, N, T, S, start, scale, scores)


def softmax_backward_(weights: Tensor, gradient: Tensor, *, scale: float) -> None:
    """The gradient of weights [N, T, S] becomes that of the scores before they were scaled."""
    N, T, S = weights.shape
    _call("softmax_backward", weights, N * T, S, scale, weights, gradient)


def cross_entropy_(logits: Tensor, targets: Tensor) -> Tensor:
    """Logits [N, V] become the gradient of their summed loss; returns the losses [N] in nats.

    targets [N] int64; a negative one carries no loss.
    """
    N, V = logits.shape
    losses = torch.empty(N)
    _call("cross_entropy", logits, N, V, targets, logits, losses)
    return losses


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        x = x.contiguous()
        ctx.save_for_backward(x, weight)
        ctx.epsilon = epsilon
        out = torch.empty_like(x)
        D = x.shape[-1]
        _call("norm", x, x.numel() // D, D, epsilon, x, weight, out)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        x, weight = ctx.saved_tensors
        D = x.shape[-1]
        toward_x, toward_weight = torch.empty_like(x), _for_each_thread(weight)
        gradient = gradients[0].contiguous()
        _call("norm_backward", x, x.numel() // D, D, ctx.epsilon, x, weight, gradient, toward_x, toward_weight)
        return toward_x, toward_weight.sum(dim=0), None


class _TurnedHeads(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor | None, cosines: Tensor, sines: Tensor, epsilon: float) -> Tensor:
        B, T, H, K = x.shape
        x = x.contiguous()
        ctx.save_for_backward(x, weight, cosines, sines)
        ctx.epsilon = epsilon
        out = x.new_empty(B, H, T, K)
        _call("turned_heads", x, B, T, H, K, epsilon, x, weight, cosines, sines, out)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor | None, None, None, None]:
        x, weight, cosines, sines = ctx.saved_tensors
        toward_x = torch.empty_like(x)
        toward_weight = None if weight is None else _for_each_thread(weight)
        tensors = (x, weight, cosines, sines, gradients[0].contiguous(), toward_x, toward_weight)
        _call("turned_heads_backward", x, *x.shape, ctx.epsilon, *tensors)
        return toward_x, None if toward_weight is None else toward_weight.sum(dim=0), None, None, None


class _Gated(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        gate, up = gate.contiguous(), up.contiguous()
        ctx.save_for_backward(gate, up)
        out = torch.empty_like(gate)
        _call("gated", gate, gate.numel(), gate, up, out)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor]:
        gate, up = ctx.saved_tensors
        toward_gate, toward_up = torch.empty_like(gate), torch.empty_like(up)
        tensors = (gate, up, gradients[0].contiguous(), toward_gate, toward_up)
        _call("gated_backward", gate, gate.numel(), *tensors)
        return toward_gate, toward_up


def _numbers(x: Tensor) -> str:
    return str(x.dtype).removeprefix("torch.")


def _for_each_thread(weight: Tensor) -> Tensor:
    return torch.zeros(torch.get_num_threads(), *weight.shape)


def _call(operation: str, x: Tensor, *arguments: Any) -> None:
    """Run an operation on numbers as those of x; tensors are given by their addresses."""
    function: Callable[..., None] | None = training_function(operation, _numbers(x))
    assert function is not None, "fusible() says whether the core is there"
    for argument in arguments:
        assert not isinstance(argument, Tensor) or argument.is_contiguous(), operation
    addresses = (argument.data_ptr() if isinstance(argument, Tensor) else argument for argument in arguments)
    function(torch.get_num_threads(), *addresses)
