"""Feed-forward networks: the language model over a window of tokens, and the plain multi-layer perceptron.

B batch, T time (positions), N tokens of a window, I width of the embedding, D width of hidden layers, V vocabulary.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bimo.models.config import require_choice, require_counts
from bimo.models.layers import Embedding, Linear, drop_columns

__all__ = ["NOTHING", "MultiLayerPerceptron", "Perceptron", "PerceptronConfig", "WindowCache"]

REACH = 16_384
"""So many ids writing keeps at most. Only the last window of them is ever looked at."""

NOTHING = -1
"""Stands in a window before the text begins; its embedding is zero."""

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"tanh": torch.tanh, "relu": F.relu}


@dataclass(frozen=True)
class PerceptronConfig:
    """The shape of a feed-forward language model (Bengio et al. 2003).

    The next token is predicted from the embeddings, `embedding_width` each, of the last `window` tokens, side by side,
    through `layers` hidden layers of `width`. `activation` is tanh, as theirs was, or relu; `direct` lets the softmax
    see the embeddings as well as the last hidden layer. `context` is how many tokens are read at a time, for which it
    does not matter. Raises UserError when a number cannot be.
    """

    vocabulary: int
    layers: int
    width: int
    embedding_width: int
    window: int
    context: int
    activation: str = "tanh"
    direct: bool = False

    def __post_init__(self) -> None:
        require_counts(self, "vocabulary", "layers", "width", "embedding_width", "window", "context")
        require_choice("activation", self.activation, ACTIVATIONS)

    @property
    def reach(self) -> int:
        """Positions up to which one text is written on."""
        return max(REACH, 2 * self.window, self.context)

    @property
    def runs_in_kernel(self) -> bool:
        """Whether the CPU kernel for decoding computes this shape."""
        return False

    @property
    def window_width(self) -> int:
        """Of the embeddings of a window side by side."""
        return self.window * self.embedding_width

    @property
    def head_inputs(self) -> int:
        """Width of what the softmax sees."""
        return self.width + (self.window_width if self.direct else 0)

    @property
    def matrix_parameters(self) -> int:
        """Weights of the matrices of the hidden layers."""
        return self.width * (self.window_width + (self.layers - 1) * self.width)

    @property
    def parameters(self) -> int:
        """All weights."""
        words = self.vocabulary * (self.embedding_width + self.head_inputs + 1)
        return self.matrix_parameters + self.layers * self.width + words

    @property
    def flops_per_token(self) -> int:
        """Forward and backward: six for each weight that multiplies, so of the head but not of the look-up."""
        return 6 * (self.matrix_parameters + self.vocabulary * self.head_inputs)

    def training_bytes(self, batch: int) -> int:
        """Memory of one training step in bytes: weights, gradients and optimizer state, and what backward needs."""
        per_token = 4 * (3 * self.window_width + 3 * self.layers * self.width + 2 * self.head_inputs)
        return 16 * self.parameters + batch * self.context * (per_token + 8 * self.vocabulary)


class WindowCache(Protocol):
    """What a perceptron asks of a store of ids."""

    def join(self, ids: Tensor, count: int) -> Tensor:
        """Keep ids [B, T]; returns them behind the `count` before them [B, count + T], NOTHING where there is none."""


class Perceptron(nn.Module):
    """Embeddings of a window, hidden layers, softmax. Weights stay fp32; `compute_dtype` is that of the products.

    With the embeddings e of a window side by side, `direct` or not: h = tanh(H e + d), y = U h + b or U [h, e] + b
    (Bengio et al. 2003, equation 1, whose W and U stand side by side in the head).
    """

    def __init__(
        self, config: PerceptronConfig, *, compute_dtype: torch.dtype = torch.float32, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.config = config
        self.compute_dtype, self.dropout = compute_dtype, dropout
        self.embedding = Embedding(config.vocabulary, config.embedding_width)
        inputs = [config.window_width, *[config.width] * (config.layers - 1)]
        self.layers = nn.ModuleList(Linear(width, config.width, bias=True) for width in inputs)
        self.head = Linear(config.head_inputs, config.vocabulary, bias=True)
        self.activation = ACTIVATIONS[config.activation]

    def initialise(self, seed: int) -> Perceptron:
        """Start from random weights; those of hidden layers as Glorot and Bengio (2010) have them."""
        generator = torch.Generator().manual_seed(seed)
        for name, weight in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(weight)
            elif name.startswith("layers."):
                nn.init.xavier_uniform_(weight, generator=generator)
            else:
                nn.init.normal_(weight, std=0.05, generator=generator)
        return self

    def hidden_states(self, ids: Tensor, cache: WindowCache | None = None) -> Tensor:
        """ids [B, T] -> what the head multiplies [B, T, D]. With a cache, ids go on from its own."""
        before = self.config.window - 1
        joined = F.pad(ids, (before, 0), value=NOTHING) if cache is None else cache.join(ids, before)
        embedded = F.embedding(joined.clamp(min=0), self.embedding.weight) * (joined != NOTHING)[..., None]
        # [B, T, I, N] -> [B, T, N * I], the oldest token first.
        windows = embedded.to(self.compute_dtype).unfold(1, self.config.window, 1).mT.flatten(2)
        h = windows
        for layer in self.layers:
            h = drop_columns(self.activation(layer(h)), self.dropout, training=self.training)
        return torch.cat([h, windows], dim=-1) if self.config.direct else h

    def forward(self, ids: Tensor, cache: WindowCache | None = None) -> Tensor:
        """ids [B, T] -> logits [B, T, V] for the token after each position."""
        return self.head(self.hidden_states(ids, cache))


class MultiLayerPerceptron(nn.Module):
    """Layers of widths such as [3, 2, 1] (Rumelhart et al. 1986), a ReLU behind each but the last."""

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            Linear(inputs, outputs, bias=True) for inputs, outputs in itertools.pairwise(widths)
        )

    def forward(self, x: Tensor) -> Tensor:
        """[..., widths[0]] -> [..., widths[-1]]"""
        for number, layer in enumerate(self.layers):
            x = layer(F.relu(x) if number else x)
        return x
