"""The encoder: token ids -> hidden states that know what stands on both sides -> what its head says of them.

B batch, T time (positions), D width, V vocabulary, N numbers that a head gives.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bimo.models.config import ModelConfig, require_counts
from bimo.models.heads import Head, Pooler, Words, build_head
from bimo.models.layers import Embedding, sinusoids
from bimo.models.transformer import Attention, Layer, initialise, norm
from bimo.runtime import USAGE, UserError

__all__ = ["Encoder", "EncoderConfig", "with_head", "with_kinds"]

PLACE_SIZE = 0.1
"""Of the sines from which places start: several times as large as the numbers of words, so that layers that know
nothing yet can tell one place from the next (docs/log.md)."""

GUESSED = 0.4
"""The share of tokens that training guesses, as bimo.tokens.masking has it."""

BESIDE = (-1, 1)
"""How many places on the first heads of every layer begin to look; one head at least is free to look anywhere."""

BESIDE_PAIRS, BESIDE_GAIN = 8, 2.5
"""Of the fastest sines so many tell a head where it is, and so much louder than words."""


@dataclass(frozen=True)
class EncoderConfig:
    """The shape of a BERT (Devlin et al. 2019): sizes, and the head on its layers.

    `hidden` is the inner width of the feed-forward block, `segments` how many kinds of tokens there are (first and
    second text). Raises UserError when the numbers do not fit together.
    """

    vocabulary: int
    layers: int
    width: int
    heads: int
    hidden: int
    context: int
    segments: int = 2
    feed_forward: str = "gelu"
    norm_epsilon: float = 1e-12
    head: Head = field(default_factory=Head)

    def __post_init__(self) -> None:
        _ = self.stack
        require_counts(self, "segments")
        if self.width % self.heads:
            raise UserError(
                "The model's width ({width}) must be a multiple of its heads ({heads}).",
                code=USAGE,
                width=self.width,
                heads=self.heads,
            )

    @property
    def stack(self) -> ModelConfig:
        """The layers in the words of the Transformer."""
        return ModelConfig(
            vocabulary=self.vocabulary,
            layers=self.layers,
            width=self.width,
            heads=self.heads,
            kv_heads=self.heads,
            head_width=max(1, self.width // max(1, self.heads)),
            hidden=self.hidden,
            context=self.context,
            qk_norm=False,
            norm_epsilon=self.norm_epsilon,
            causal=False,
            positions="learned",
            norm="layer",
            norm_after=True,
            embedding_norm=True,
            feed_forward=self.feed_forward,
            biases="all",
            segments=self.segments,
        )

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of the classes of its head, if it has any."""
        return self.head.labels

    @property
    def several(self) -> bool:
        """Whether a text may have more classes than one, or none."""
        return self.head.several

    @property
    def parameters(self) -> int:
        """All weights, counted once where they are shared."""
        return self.stack.parameters + self.head.parameters(vocabulary=self.vocabulary, width=self.width)

    @property
    def flops_per_token(self) -> int:
        """Forward and backward of a training in which a share of the tokens is guessed; else as ModelConfig counts."""
        words = self.vocabulary * self.width
        return self.stack.flops_per_token - 6 * words + round(6 * (words + self.width**2) * GUESSED)

    def training_bytes(self, batch: int) -> int:
        """Memory of one training step in bytes, as ModelConfig estimates it."""
        return self.stack.training_bytes(batch)


class Encoder(nn.Module):
    """BERT with one head or none. Weights stay fp32; `compute_dtype` is that of the products.

    `dropout` is the share of the columns that layers leave out while training; it is no part of the shape.
    """

    def __init__(
        self, config: EncoderConfig, *, compute_dtype: torch.dtype = torch.float32, dropout: float = 0.0
    ) -> None:
        super().__init__()
        stack = config.stack
        self.config = config
        self.compute_dtype = compute_dtype
        self.embedding = Embedding(config.vocabulary, config.width)
        self.position_embedding = Embedding(config.context, config.width)
        self.segment_embedding = Embedding(config.segments, config.width)
        self.embedding_norm = norm(stack)
        self.layers = nn.ModuleList(Layer(stack, dropout) for _ in range(config.layers))
        self.pooler = Pooler(config.width) if config.head.pooler else None
        self.head = build_head(config.head, stack)

    def initialise(self, seed: int) -> Encoder:
        """Start from random weights, and from places whose neighbours are easy to find (docs/log.md)."""
        initialise(self, width=self.config.width, seed=seed)
        with torch.no_grad():
            self.position_embedding.weight.copy_(PLACE_SIZE * sinusoids(self.config.context, self.config.width))
        for module in self.modules():
            if isinstance(module, Attention):
                _look_beside(module)
        return self

    def hidden_states(self, ids: Tensor, *, segments: Tensor | None = None, real: Tensor | None = None) -> Tensor:
        """ids [B, T] -> what the head reads [B, T, D].

        segments [B, T] are the kinds of tokens, all 0 without it; `real` [B, T] is false where there is but padding.
        """
        x = F.embedding(ids, self.embedding.weight) + self.position_embedding.weight[: ids.shape[1]]
        kinds = torch.zeros_like(ids[:1]) if segments is None else segments
        x = x + F.embedding(kinds, self.segment_embedding.weight)
        x = self.embedding_norm(x).to(self.compute_dtype)
        allowed = None if real is None or bool(real.all()) else real[:, None, None, :].bool()
        for layer in self.layers:
            x = layer(x, allowed=allowed)
        return x

    def forward(self, ids: Tensor, *, segments: Tensor | None = None, real: Tensor | None = None) -> Tensor:
        """What the head says, arguments as in `hidden_states`; without a head, the hidden states [B, T, D].

        Logits: words [B, T, V]; classes [B, N]; tokens [B, T, N]; span [B, T, 2] of beginning and ending there.
        """
        hidden = self.hidden_states(ids, segments=segments, real=real)
        if isinstance(self.head, Words):
            return self.head(hidden, self.embedding.weight)
        if self.config.head.kind == "classes":
            assert self.pooler is not None
            hidden = self.pooler(hidden)
        return hidden if self.head is None else self.head(hidden)


@torch.no_grad()
def _look_beside(attention: Attention) -> None:
    """Let the first heads begin by looking BESIDE, as heads that have learned do (Trockman and Kolter 2023).

    What asks is turned by the angle of so many places, after which it is most like what stands there.
    """
    width, K = attention.config.width, attention.config.head_width
    pairs = min(BESIDE_PAIRS, K // 2)
    sine = torch.arange(pairs)
    cosine = sine + (width + 1) // 2
    for head, places in zip(range(attention.config.heads - 1), BESIDE, strict=False):
        angles = places * 10_000.0 ** (-2 * sine / width)
        query, key = torch.zeros(2 * pairs, width), torch.zeros(2 * pairs, width)
        query[sine, sine] = query[pairs + sine, cosine] = angles.cos()
        query[sine, cosine], query[pairs + sine, sine] = angles.sin(), -angles.sin()
        key[sine, sine] = key[pairs + sine, cosine] = 1.0
        rows = slice(head * K, head * K + 2 * pairs)
        attention.query.weight[rows], attention.key.weight[rows] = BESIDE_GAIN * query, BESIDE_GAIN * key


def with_head(encoder: Encoder, head: Head, *, seed: int, dropout: float = 0.0) -> Encoder:
    """The same layers under another head, whose weights are random where the encoder has none of such a shape."""
    config = replace(encoder.config, head=head)
    changed = Encoder(config, compute_dtype=encoder.compute_dtype, dropout=dropout).initialise(seed)
    weights = changed.state_dict()
    same = encoder.config.head == head
    for name, weight in encoder.state_dict().items():
        if name in weights and (same or not name.startswith("head.")):
            weights[name] = weight
    changed.load_state_dict(weights)
    return changed.to(encoder.embedding.weight.device)


@torch.no_grad()
def with_kinds(encoder: Encoder, segments: int, *, seed: int) -> Encoder:
    """The same encoder with more kinds of tokens, each the last that it knows and noise as loud as words."""
    changed = Encoder(replace(encoder.config, segments=segments), compute_dtype=encoder.compute_dtype)
    weights = encoder.state_dict()
    words, known = weights["embedding.weight"], weights["segment_embedding.weight"]
    noise = torch.randn(segments - len(known), known.shape[1], generator=torch.Generator().manual_seed(seed))
    new = known[-1:] + words.std() * noise.to(known.device)
    changed.load_state_dict({**weights, "segment_embedding.weight": torch.cat([known, new])})
    return changed.to(words.device)
