"""The recurrent language model: token ids -> a state that goes from each to the next -> logits.

B batch, T time (positions), I width of what comes in, D width (cells of a layer), V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bimo.models.config import require_counts
from bimo.models.layers import Embedding, Linear, drop_columns

__all__ = [
    "LSTM",
    "Recurrent",
    "RecurrentConfig",
    "State",
    "StateCache",
    "initialise_recurrent",
    "lstm",
    "lstm_reference",
]

REACH = 16_384
"""So many states writing keeps at most; then it begins anew from the later half of its tokens."""

State = tuple[Tensor, Tensor]
"""What a layer said last and its cells, [B, D] each."""


@dataclass(frozen=True)
class RecurrentConfig:
    """The shape of a stack of LSTM layers; the embedding has the `width` of the layers, too.

    `context` is how many tokens it learns from at a time, while what it writes may be longer; `tied` uses the
    embedding as the output matrix. Raises UserError when a number cannot be.
    """

    vocabulary: int
    layers: int
    width: int
    context: int
    tied: bool = False

    def __post_init__(self) -> None:
        require_counts(self, "vocabulary", "layers", "width", "context")

    @property
    def reach(self) -> int:
        """Positions up to which one text is written on with the state carried."""
        return max(REACH, self.context)

    @property
    def runs_in_kernel(self) -> bool:
        """Whether the CPU kernel for decoding computes this shape."""
        return False

    @property
    def matrix_parameters(self) -> int:
        """Weights of the matrices inside the layers."""
        return 8 * self.width * self.width * self.layers

    @property
    def parameters(self) -> int:
        """All weights, counted once where they are shared."""
        words = self.vocabulary * self.width
        head = self.vocabulary + (0 if self.tied else words)
        return self.matrix_parameters + 4 * self.width * self.layers + words + head

    @property
    def flops_per_token(self) -> int:
        """Forward and backward: six for each weight that multiplies, so of the head but not of the look-up."""
        return 6 * (self.matrix_parameters + self.vocabulary * self.width)

    def training_bytes(self, batch: int) -> int:
        """Memory of one training step in bytes: weights, gradients and optimizer state, and what backward needs.

        A layer keeps four gates, cells and what it said, once more while it is gone through backwards; an estimate.
        """
        per_token = 4 * 14 * self.width * self.layers + 8 * self.vocabulary
        return 16 * self.parameters + batch * self.context * per_token


class StateCache(Protocol):
    """What the layers ask of a store of states."""

    def state(self, layer: int) -> State:
        """The state of a layer before the new positions."""

    def keep(self, layer: int, said: Tensor, cells: Tensor) -> None:
        """Keep the states [B, T, D] of a layer after each new position."""


def lstm_reference(
    x: Tensor, input_weight: Tensor, recurrent_weight: Tensor, bias: Tensor, state: State
) -> tuple[Tensor, Tensor]:
    """x [B, T, I] -> what the layer says and its cells, [B, T, D] each, step by step as it is written.

    Hochreiter and Schmidhuber 1997 with the forget gate of Gers et al. 2000; s is the logistic function, and W, U
    [4 D, I], [4 D, D] and b [4 D] hold the rows of the gates in this order:

        i = s(W_i x + U_i h + b_i)        how much of the new is let in
        f = s(W_f x + U_f h + b_f)        how much of the cells is kept
        g = tanh(W_g x + U_g h + b_g)     the new
        o = s(W_o x + U_o h + b_o)        how much of the cells is said
        c = f c + i g
        h = o tanh(c)
    """
    h, c = state
    said, cells = [], []
    for step in F.linear(x, input_weight, bias).unbind(dim=1):
        i, f, g, o = torch.addmm(step, h, recurrent_weight.T).chunk(4, dim=-1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        h = o.sigmoid() * c.tanh()
        said.append(h)
        cells.append(c)
    return torch.stack(said, dim=1), torch.stack(cells, dim=1)


def lstm(x: Tensor, input_weight: Tensor, recurrent_weight: Tensor, bias: Tensor) -> Tensor:
    """What `lstm_reference` says from an empty state on, by torch's kernel, which keeps no cells but the last."""
    zeros = x.new_zeros(1, x.shape[0], recurrent_weight.shape[1])
    # Torch has a second bias, as cuDNN has it; one is enough.
    weights = [input_weight, recurrent_weight, bias, torch.zeros_like(bias)]
    said, _, _ = torch.lstm(x, (zeros, zeros), weights, True, 1, 0.0, True, False, True)
    return said


class LSTM(nn.Module):
    """One layer in one direction."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.input = nn.Parameter(torch.empty(4 * width, inputs))
        self.recurrent = nn.Parameter(torch.empty(4 * width, width))
        self.bias = nn.Parameter(torch.empty(4 * width))

    def forward(self, x: Tensor, *, cache: StateCache | None = None, layer: int = 0) -> Tensor:
        """[B, T, I] -> [B, T, D]"""
        input_weight, recurrent_weight, bias = (w.to(x.dtype) for w in (self.input, self.recurrent, self.bias))
        if cache is None:
            return lstm(x, input_weight, recurrent_weight, bias)
        h, c = cache.state(layer)
        said, cells = lstm_reference(x, input_weight, recurrent_weight, bias, (h.to(x.dtype), c.to(x.dtype)))
        cache.keep(layer, said, cells)
        return said


class Recurrent(nn.Module):
    """Embedding, LSTM layers, softmax. Weights stay fp32; `compute_dtype` is that of the products.

    `dropout` is the share of the columns that are left out between layers, not from step to step (Zaremba et al. 2014);
    it is no part of the shape.
    """

    def __init__(
        self, config: RecurrentConfig, *, compute_dtype: torch.dtype = torch.float32, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.config = config
        self.compute_dtype, self.dropout = compute_dtype, dropout
        D = config.width
        self.embedding = Embedding(config.vocabulary, D)
        self.layers = nn.ModuleList(LSTM(D, D) for _ in range(config.layers))
        self.head = Linear(D, config.vocabulary, bias=True)
        if config.tied:
            self.head.weight = self.embedding.weight

    def initialise(self, seed: int) -> Recurrent:
        """Start from random weights, see `initialise_recurrent`."""
        initialise_recurrent(self, seed=seed, embedding_size=0.05 if self.config.tied else 1.0)
        return self

    def hidden_states(self, ids: Tensor, cache: StateCache | None = None) -> Tensor:
        """ids [B, T] -> [B, T, D]. With a cache, ids go on from its states."""
        x = F.embedding(ids, self.embedding.weight).to(self.compute_dtype)
        x = self._drop(x)
        for index, layer in enumerate(self.layers):
            x = self._drop(layer(x, cache=cache, layer=index))
        return x

    def forward(self, ids: Tensor, cache: StateCache | None = None) -> Tensor:
        """ids [B, T] -> logits [B, T, V] for the token after each position."""
        return self.head(self.hidden_states(ids, cache))

    def _drop(self, x: Tensor) -> Tensor:
        return drop_columns(x, self.dropout, training=self.training)


def initialise_recurrent(model: nn.Module, *, seed: int, embedding_size: float) -> None:
    """Start from random weights: recurrent ones orthogonal (Saxe et al. 2013), those of inputs as Glorot has them.

    The bias of the forget gates is one (Jozefowicz et al. 2015), so that errors reach far back from the beginning.
    An embedding that is no output matrix as well may be large, and is learned sooner (docs/log.md).
    """
    generator = torch.Generator().manual_seed(seed)
    for name, weight in model.named_parameters():
        if name.endswith("bias"):
            nn.init.zeros_(weight)
        elif name.endswith("recurrent"):
            nn.init.orthogonal_(weight, generator=generator)
        elif name == "embedding.weight":
            nn.init.normal_(weight, std=embedding_size, generator=generator)
        else:
            nn.init.xavier_uniform_(weight, generator=generator)
    for layer in model.modules():
        if isinstance(layer, LSTM):
            nn.init.ones_(layer.bias.detach().chunk(4)[1])
