"""Optimizers: Muon for the matrices inside the layers, AdamW for everything else."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from bimo.models.encoder import Encoder

__all__ = ["Muon", "build_optimizers", "orthogonalise"]

POLYNOMIALS = (
    (8.013236, -22.925757, 16.599415),
    (3.600580, -2.641875, 0.510505),
    (2.634950, -1.919007, 0.430649),
    (1.956172, -1.337508, 0.383853),
)
"""Coefficients of x, x³ and x⁵, step by step: the polynomial that brings the interval of singular values nearest to 1.

The first interval is 0.01 to 1; 1 % is spared for rounding (Amsel et al. 2025, "The Polar Express", theorem 3.1). Five
times the same one (Jordan et al. 2024) costs a quarter more and learned no better at width 192 (docs/log.md).
"""

PLACE_RATE = 0.1
"""An encoder's places start in order, and each is met but a few times a step: noise would undo it (docs/log.md)."""


def _iteration_dtype(device: torch.device) -> torch.dtype:
    """bfloat16, but float32 on processors without products of bfloat16, which there take up to 100 times as long."""
    multiplies = device.type != "cpu" or torch.backends.cpu.get_cpu_capability().startswith("AVX512")
    return torch.bfloat16 if multiplies else torch.float32


def orthogonalise(matrices: Tensor) -> Tensor:
    """The nearest (semi-)orthogonal matrices, roughly: [N, rows, columns] -> the same.

    Singular values from a hundredth of the Frobenius norm on come to 0.98-1.02, and to within 0.05 where the
    Newton-Schulz iteration is computed in bfloat16.
    """
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = (matrices.mT if tall else matrices).to(_iteration_dtype(matrices.device)).contiguous()
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for a, b, c in POLYNOMIALS:
        gram = x @ x.mT
        polynomial = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        x = torch.baddbmm(x, polynomial, x, beta=a)
    return x.mT if tall else x


class Muon(torch.optim.Optimizer):
    """Momentum, made orthogonal (Jordan et al. 2024). Weights of equal shape are stepped together."""

    def __init__(
        self, parameters: Iterable[nn.Parameter], *, lr: float, momentum: float = 0.95, weight_decay: float = 0.0
    ) -> None:
        super().__init__(list(parameters), {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One update from the gradients that stand in the weights."""
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[nn.Parameter]] = {}
            for weight in group["params"]:
                by_shape.setdefault(weight.shape, []).append(weight)
            for shape, weights in by_shape.items():
                self._step_together(group, shape, weights)

    def _step_together(self, group: dict, shape: torch.Size, weights: list[nn.Parameter]) -> None:
        momentum = group["momentum"]
        directions = []
        for weight in weights:
            assert weight.grad is not None
            state = self.state[weight]
            if "momentum" not in state:
                state["momentum"] = torch.zeros_like(weight)
            state["momentum"].lerp_(weight.grad, 1 - momentum)
            directions.append(weight.grad.lerp(state["momentum"], momentum))
        updates = orthogonalise(torch.stack(directions))
        # Tall matrices move further, so that the change of the output has the same size whatever the shape.
        rate = group["lr"] * max(1.0, shape[0] / shape[1]) ** 0.5
        for weight, update in zip(weights, updates, strict=True):
            weight.mul_(1 - group["lr"] * group["weight_decay"])
            weight.add_(update.to(weight.dtype), alpha=-rate)


def build_optimizers(
    model: nn.Module, *, muon_rate: float, adam_rate: float, weight_decay: float
) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the layers, unless its rate is zero; AdamW for all else. Those matrices decay.

    The places of an encoder have PLACE_RATE of the rate of AdamW.
    """
    inner: list[nn.Parameter] = []
    outer: list[nn.Parameter] = []
    places: list[nn.Parameter] = []
    for name, weight in model.named_parameters():
        if isinstance(model, Encoder) and name == "position_embedding.weight":
            places.append(weight)
        else:
            (inner if weight.ndim == 2 and "layers." in name else outer).append(weight)
    fused = all(weight.device.type in ("cpu", "cuda") for weight in outer)
    by_adam = [{"params": outer, "weight_decay": 0.0}]
    if places:
        by_adam.append({"params": places, "weight_decay": 0.0, "lr": PLACE_RATE * adam_rate})
    if inner and not muon_rate:
        by_adam.append({"params": inner, "weight_decay": weight_decay})
    adam = torch.optim.AdamW(by_adam, lr=adam_rate, betas=(0.9, 0.95), fused=fused)
    return [Muon(inner, lr=muon_rate, weight_decay=weight_decay), adam] if inner and muon_rate else [adam]
