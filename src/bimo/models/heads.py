"""What an encoder has on its layers: hidden states -> words, classes or places.

B batch, T time (positions), D width, V vocabulary, N numbers that a head gives.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bimo.models.config import ModelConfig, require_choice
from bimo.models.layers import ACTIVATIONS, LayerNorm, Linear
from bimo.runtime import USAGE, UserError

__all__ = ["HEADS", "Head", "Pooler", "Words", "build_head"]

HEADS = ("none", "words", "classes", "tokens", "span")


@dataclass(frozen=True)
class Head:
    """What stands on the layers, and the names of classes, where there are any.

    `kind`: none; words, guesses of what is masked; classes, of the text; tokens, classes of each token; span, where an
    answer begins and ends. `pooler`: the first token goes through one more matrix, as classes need it. `several`: a
    text may have more classes than one, or none.
    """

    kind: str = "words"
    labels: tuple[str, ...] = ()
    pooler: bool = False
    several: bool = False

    def __post_init__(self) -> None:
        require_choice("head.kind", self.kind, HEADS)
        if (self.kind in ("classes", "tokens")) != bool(self.labels) or (self.kind == "classes" and not self.pooler):
            raise UserError(
                "A head of {kind} and {labels} labels, pooler {pooler}, is none: classes and tokens need labels, "
                "classes need the pooler as well.",
                code=USAGE,
                kind=self.kind,
                labels=len(self.labels),
                pooler=str(self.pooler).lower(),
            )

    @property
    def outputs(self) -> int:
        """How many numbers it gives for a token or a text, where they are not words."""
        return 2 if self.kind == "span" else len(self.labels)

    def parameters(self, *, vocabulary: int, width: int) -> int:
        """Its weights, without the embedding that guesses of words share."""
        words = (width + 1) * width + 2 * width + vocabulary if self.kind == "words" else 0
        return words + (width + 1) * (width * self.pooler + self.outputs)


class Pooler(nn.Module):
    """What the first token says of the whole text: tanh(dense(x))."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.dense = Linear(width, width, bias=True)

    def forward(self, hidden: Tensor) -> Tensor:
        """[B, T, D] -> [B, D]"""
        return torch.tanh(self.dense(hidden[:, 0]))


class Words(nn.Module):
    """Guesses of words that were masked: norm(activation(dense(x))), then the embedding, and a bias for each word."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.dense = Linear(config.width, config.width, bias=True)
        self.activation = ACTIVATIONS[config.feed_forward]
        self.norm = LayerNorm(config.width, config.norm_epsilon)
        self.bias = nn.Parameter(torch.zeros(config.vocabulary))

    def transform(self, hidden: Tensor) -> Tensor:
        """What the embedding multiplies: [..., D] -> [..., D]"""
        return self.norm(self.activation(self.dense(hidden)))

    def forward(self, hidden: Tensor, embedding: Tensor) -> Tensor:
        """hidden [..., D], embedding [V, D] -> logits [..., V]"""
        x = self.transform(hidden)
        return F.linear(x, embedding.to(x.dtype), self.bias.to(x.dtype))


def build_head(head: Head, config: ModelConfig) -> Words | Linear | None:
    """Guesses of words, a matrix [N, D] with biases, or None where there is nothing."""
    if head.kind == "words":
        return Words(config)
    return Linear(config.width, head.outputs, bias=True) if head.outputs else None
