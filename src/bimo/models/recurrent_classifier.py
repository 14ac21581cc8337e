"""The recurrent classifier: token ids -> states of layers that read from both ends -> how well each label fits.

B batch, T time (positions), D width (cells of a layer in one direction), K labels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bimo.models.config import require_counts
from bimo.models.layers import Embedding, Linear, drop_columns
from bimo.models.pooling import pool
from bimo.models.recurrent import LSTM, initialise_recurrent
from bimo.runtime import USAGE, UserError

__all__ = ["RecurrentClassifier", "RecurrentClassifierConfig", "reversed_within"]


@dataclass(frozen=True)
class RecurrentClassifierConfig:
    """The shape of a stack of LSTM layers of both directions, and the labels that it tells apart.

    The embedding has the `width` of the layers, too; `context` is how many tokens of a text are read; `several`: a text
    may have more labels than one, or none. Raises UserError when a number cannot be, or without labels.
    """

    vocabulary: int
    layers: int
    width: int
    context: int
    labels: tuple[str, ...]
    several: bool = False

    def __post_init__(self) -> None:
        require_counts(self, "vocabulary", "layers", "width", "context")
        if not self.labels:
            raise UserError("A classifier needs labels.", code=USAGE)

    @property
    def parameters(self) -> int:
        """All weights."""
        D, K = self.width, len(self.labels)
        inputs = D + (self.layers - 1) * 2 * D
        return self.vocabulary * D + 2 * 4 * D * (inputs + self.layers * (D + 1)) + (2 * D + 1) * K


class RecurrentClassifier(nn.Module):
    """Embedding, LSTM layers of both directions (Graves and Schmidhuber 2005), the largest of each column, a matrix.

    Weights stay fp32; `compute_dtype` is that of the products. `dropout` is the share of the columns that are left out
    between layers; it is no part of the shape.
    """

    def __init__(
        self, config: RecurrentClassifierConfig, *, compute_dtype: torch.dtype = torch.float32, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.config = config
        self.compute_dtype, self.dropout = compute_dtype, dropout
        D = config.width
        inputs = [D] + [2 * D] * (config.layers - 1)
        self.embedding = Embedding(config.vocabulary, D)
        self.layers = nn.ModuleList(LSTM(width, D) for width in inputs)
        self.backward_layers = nn.ModuleList(LSTM(width, D) for width in inputs)
        self.head = Linear(2 * D, len(config.labels), bias=True)

    def initialise(self, seed: int) -> RecurrentClassifier:
        """Start from random weights, see `initialise_recurrent`."""
        initialise_recurrent(self, seed=seed, embedding_size=1.0)
        return self

    def hidden_states(self, ids: Tensor, *, real: Tensor | None = None) -> Tensor:
        """ids [B, T] -> [B, T, 2 D]; `real` [B, T] is false where there is but padding, on the right."""
        lengths = None if real is None else real.sum(dim=1)
        x = self._drop(F.embedding(ids, self.embedding.weight).to(self.compute_dtype))
        for forward, backward in zip(self.layers, self.backward_layers, strict=True):
            back = reversed_within(backward(reversed_within(x, lengths)), lengths)
            x = self._drop(torch.cat([forward(x), back], dim=-1))
        return x

    def forward(self, ids: Tensor, *, segments: Tensor | None = None, real: Tensor | None = None) -> Tensor:
        """ids [B, T] -> logits [B, K]. `segments` are the encoder's; here the token between two texts says as much.

        Of each column the largest state of the text is taken (Conneau et al. 2017).
        """
        hidden = self.hidden_states(ids, real=real)
        real = torch.ones_like(ids, dtype=torch.bool) if real is None else real
        return self.head(pool(hidden, real, how="max", normalize=False))

    def _drop(self, x: Tensor) -> Tensor:
        return drop_columns(x, self.dropout, training=self.training)


def reversed_within(x: Tensor, lengths: Tensor | None) -> Tensor:
    """x [B, T, D] with the first lengths[b] positions of each row in reverse order; without lengths all of them."""
    if lengths is None:
        return x.flip(1)
    places = torch.arange(x.shape[1], device=x.device).expand(x.shape[0], -1)
    mirrored = lengths[:, None] - 1 - places
    return x.gather(1, torch.where(mirrored < 0, places, mirrored)[..., None].expand_as(x))
