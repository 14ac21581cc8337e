"""Low-rank adaptation (Hu et al. 2021): the weights of a model stay as they are, and beside some of its matrices learns
a product of two thin ones. What an encoder has for its task alone, head and pooler, learns as well.

R rank of an adapter, I inputs and O outputs of a matrix.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bimo.models.encoder import Encoder
from bimo.models.layers import Linear
from bimo.runtime import USAGE, UserError

__all__ = [
    "Adapter",
    "LoRAConfig",
    "LowRank",
    "adapter_of",
    "adapter_off",
    "attach_adapter",
    "changes",
    "detach_adapter",
    "is_adapted",
    "merge_adapter",
    "new_adapter",
]

LAYER = re.compile(r"layers\.\d+\.")
OF_THE_TASK = ("head.", "pooler.")


@dataclass(frozen=True)
class LoRAConfig:
    """The product counts `alpha / rank` times. `targets` are names of matrices such as `query`; none takes all.

    Embedding and head are never among them. Raises UserError when the numbers do not fit.
    """

    rank: int = 8
    alpha: float = 16.0
    targets: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.rank < 1 or not 0 < self.alpha < math.inf:
            raise UserError(
                "An adapter's rank must be at least 1 and its alpha above 0, but they are {rank} and {alpha}.",
                code=USAGE,
                rank=self.rank,
                alpha=self.alpha,
            )

    @property
    def scale(self) -> float:
        """How many times the product counts."""
        return self.alpha / self.rank


@dataclass(frozen=True, eq=False)
class Adapter:
    """By the name of each adapted matrix, such as `layers.0.attention.query`: down [R, I] and up [O, R].

    `whole` holds weights of the task that are in no base, such as `head.weight`, by their names.
    """

    config: LoRAConfig
    weights: dict[str, tuple[Tensor, Tensor]]
    whole: dict[str, Tensor] = dataclasses.field(default_factory=dict)

    @property
    def parameters(self) -> int:
        """All numbers in it."""
        thin = sum(down.numel() + up.numel() for down, up in self.weights.values())
        return thin + sum(weight.numel() for weight in self.whole.values())


class LowRank(nn.Module):
    """What an adapter adds to a matrix."""

    def __init__(self, down: Tensor, up: Tensor, scale: float) -> None:
        super().__init__()
        self.down, self.up, self.scale = nn.Parameter(down), nn.Parameter(up), scale

    def forward(self, x: Tensor) -> Tensor:
        """[..., I] -> [..., O]"""
        thin = F.linear(x, self.down.to(x.dtype))
        return F.linear(self.scale * thin, self.up.to(x.dtype))


def _matrices(model: nn.Module) -> Iterator[tuple[str, Linear]]:
    """The matrices inside the layers. What is not inside, embedding and head, works on the vocabulary."""
    for name, module in model.named_modules():
        if isinstance(module, Linear) and LAYER.search(name):
            yield name, module


def _of_the_task(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """The weights of an encoder that belong to its task: those of a head that gives numbers, and of the pooler."""
    if isinstance(model, Encoder) and model.config.head.outputs:
        yield from ((name, weight) for name, weight in model.named_parameters() if name.startswith(OF_THE_TASK))


def new_adapter(model: nn.Module, config: LoRAConfig, *, seed: int) -> Adapter:
    """An adapter that does nothing yet: `down` is random, `up` is zero. Raises UserError for an unknown target."""
    found = dict(_matrices(model))
    known = list(dict.fromkeys(name.rsplit(".", 1)[-1] for name in found))
    if not known:
        raise UserError("A model of this family has no matrices for an adapter: tune it without --lora.", code=USAGE)
    unknown = [target for target in config.targets if target not in known]
    if unknown:
        raise UserError(
            "There is no matrix {name} to adapt. This model has: {known}.",
            code=USAGE,
            name=", ".join(unknown),
            known=", ".join(known),
        )
    config = dataclasses.replace(config, targets=tuple(sorted(config.targets or known)))
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, matrix in found.items():
        if name.rsplit(".", 1)[-1] in config.targets:
            bound = matrix.in_features**-0.5
            down = torch.empty(config.rank, matrix.in_features).uniform_(-bound, bound, generator=generator)
            weights[name] = (down, torch.zeros(matrix.out_features, config.rank))
    return Adapter(config, weights, {name: weight.data for name, weight in _of_the_task(model)})


def attach_adapter(model: nn.Module, adapter: Adapter) -> None:
    """Let `model` compute with an adapter instead of the one it may have; only the adapter is trainable from now on.

    What it has whole becomes the model's own, and stays when it is detached. Nothing else is copied, so that changing
    adapters takes no time. Raises UserError when it does not fit.
    """
    detach_adapter(model)
    matrices = dict(_matrices(model))
    shapes = {name: (matrix.in_features, matrix.out_features) for name, matrix in matrices.items()}
    _require_fit(shapes, adapter)
    _take_whole(model, adapter)
    for name, weight in model.named_parameters():
        weight.requires_grad_(name in adapter.whole)
    for name, (down, up) in adapter.weights.items():
        device = matrices[name].weight.device
        matrices[name].low_rank = LowRank(down.to(device), up.to(device), adapter.config.scale)


def _take_whole(model: nn.Module, adapter: Adapter) -> None:
    own = dict(_of_the_task(model))
    for name, weight in adapter.whole.items():
        if name not in own or own[name].shape != weight.shape:
            raise UserError("The adapter was made for another model: its {name} does not fit this one.", name=name)
        own[name].data.copy_(weight)


def _require_fit(shapes: Mapping[str, tuple[int, int]], adapter: Adapter) -> None:
    """`shapes` holds inputs and outputs of each matrix by its name."""
    for name, (down, up) in adapter.weights.items():
        if name not in shapes or (down.shape[1], up.shape[0]) != shapes[name]:
            raise UserError("The adapter was made for another model: its {name} does not fit this one.", name=name)


def detach_adapter(model: nn.Module) -> None:
    """Let `model` compute as it did before any adapter, its own weights trainable again."""
    for _, matrix in _matrices(model):
        matrix.low_rank = None
    for weight in model.parameters():
        weight.requires_grad_(True)


def is_adapted(model: nn.Module) -> bool:
    """Whether an adapter is attached."""
    return any(matrix.low_rank is not None for _, matrix in _matrices(model))


@contextmanager
def adapter_off(model: nn.Module) -> Iterator[None]:
    """Meanwhile `model` computes without the adapter that is attached; nothing is copied."""
    parts = [(matrix, matrix.low_rank) for _, matrix in _matrices(model)]
    for matrix, _ in parts:
        matrix.low_rank = None
    try:
        yield
    finally:
        for matrix, part in parts:
            matrix.low_rank = part


def adapter_of(model: nn.Module, config: LoRAConfig) -> Adapter:
    """What `model` has learned beside its weights: the tensors themselves, not copies."""
    attached = {name: matrix.low_rank for name, matrix in _matrices(model) if isinstance(matrix.low_rank, LowRank)}
    pairs = {name: (part.down.data, part.up.data) for name, part in attached.items()}
    return Adapter(config, pairs, {name: weight.data for name, weight in _of_the_task(model)})


def changes(adapter: Adapter, shapes: Mapping[str, tuple[int, int]]) -> Iterator[tuple[str, Tensor]]:
    """What the adapter adds to the weight [O, I] of each matrix. Raises UserError when it does not fit `shapes`."""
    _require_fit(shapes, adapter)
    for name, (down, up) in adapter.weights.items():
        yield name, adapter.config.scale * (up.float() @ down.float())


@torch.no_grad()
def merge_adapter(model: nn.Module, adapter: Adapter) -> None:
    """Add an adapter to the weights for good, where none is attached: the same results without any more work."""
    _take_whole(model, adapter)
    matrices = dict(_matrices(model))
    shapes = {name: (matrix.in_features, matrix.out_features) for name, matrix in matrices.items()}
    for name, change in changes(adapter, shapes):
        matrices[name].weight += change.to(matrices[name].weight)
