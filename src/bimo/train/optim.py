"""Optimizers: Muon for the matrices inside the layers, AdamW for everything else."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

__all__ = ["Muon", "build_optimizers", "orthogonalise"]

# Coefficients of the quintic iteration: Jordan et al. 2024, "Muon: An optimizer for hidden layers in neural networks".
QUINTIC = (3.4445, -4.7750, 2.0315)


def orthogonalise(matrices: Tensor, *, steps: int = 5) -> Tensor:
    """The nearest (semi-)orthogonal matrices, roughly: singular values go to 0.7-1.2. [N, rows, columns] -> the same.

    Newton-Schulz iteration in bfloat16, which it tolerates well.
    """
    a, b, c = QUINTIC
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = (matrices.mT if tall else matrices).bfloat16().contiguous()
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
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
    """Muon for the matrices inside the layers; AdamW for embedding, head and norms."""
    inner: list[nn.Parameter] = []
    outer: list[nn.Parameter] = []
    for name, weight in model.named_parameters():
        (inner if weight.ndim == 2 and "layers." in name else outer).append(weight)
    fused = all(weight.device.type in ("cpu", "cuda") for weight in outer)
    adam = torch.optim.AdamW(outer, lr=adam_rate, betas=(0.9, 0.95), weight_decay=0.0, fused=fused)
    return [Muon(inner, lr=muon_rate, weight_decay=weight_decay), adam] if inner else [adam]
