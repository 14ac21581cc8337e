"""The encoder-decoder of "Attention Is All You Need" (Vaswani et al. 2017), shaped as Marian has it.

B sentences, S positions of the source, T positions of the target, R rows of targets (several of one sentence are its
beams), D width, H heads, K head width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bimo.models.config import ModelConfig
from bimo.models.layers import Cache, Embedding, Linear, drop_columns, sinusoids
from bimo.models.transformer import Attention, FeedForward, Layer, norm
from bimo.runtime import USAGE, UserError

__all__ = ["CrossLayer", "EncoderDecoder", "Memory", "Seq2SeqConfig"]

NEVER = -10_000.0
"""The bias of a token that no text has: its probability is 0 in every number format."""


@dataclass(frozen=True)
class Seq2SeqConfig:
    """The shape of an encoder-decoder. Both halves have one width, one embedding, and heads and `hidden` alike.

    `layers` are those of the encoder; `hidden` is the inner width of the feed-forward blocks; `context` the longest
    source and the longest target. The last id fills up batches and stands before each target; no text holds it.
    `scaled`: embeddings are multiplied by the square root of the width. Raises UserError when the numbers do not fit.
    """

    vocabulary: int
    layers: int
    decoder_layers: int
    width: int
    heads: int
    hidden: int
    context: int
    feed_forward: str = "relu"
    scaled: bool = True

    def __post_init__(self) -> None:
        if self.width % max(1, self.heads):
            raise UserError(
                "The model's width ({width}) must be a multiple of its heads ({heads}).",
                code=USAGE,
                width=self.width,
                heads=self.heads,
            )
        _ = self.encoder, self.decoder  # whose sizes are checked as those of every Transformer

    @property
    def pad(self) -> int:
        """What fills up batches and stands before each target."""
        return self.vocabulary - 1

    @property
    def encoder(self) -> ModelConfig:
        """The layers that read the source; all positions see all."""
        return replace(self.decoder, layers=self.layers, causal=False)

    @property
    def decoder(self) -> ModelConfig:
        """The layers that write the target, without what looks at the source."""
        return ModelConfig(
            vocabulary=self.vocabulary,
            layers=self.decoder_layers,
            width=self.width,
            heads=self.heads,
            kv_heads=self.heads,
            head_width=self.width // max(1, self.heads),
            hidden=self.hidden,
            context=self.context,
            qk_norm=False,
            norm_epsilon=1e-5,
            positions="sinusoidal",
            norm="layer",
            norm_after=True,
            feed_forward=self.feed_forward,
            biases="all",
        )

    @property
    def parameters(self) -> int:
        """All weights, counted once where they are shared."""
        crossing = 4 * self.width * (self.width + 1) + 2 * self.width
        words = self.vocabulary * self.width
        layers = self.encoder.parameters + self.decoder.parameters - 2 * words
        return layers + self.decoder_layers * crossing + words + self.vocabulary

    @property
    def flops_per_token(self) -> int:
        """Forward and backward for one token of a target and one of its source: 6 a weight that multiplies.

        Sentences are short, so that the scores of attention are left out.
        """
        crossing = self.decoder_layers * 4 * self.width**2
        matrices = self.encoder.matrix_parameters + self.decoder.matrix_parameters + crossing
        return 6 * (matrices + self.vocabulary * self.width)


Memory = list[tuple[Tensor, Tensor]]
"""Keys and values [B, H, S, K] of the source, for each layer that looks at it."""


class CrossLayer(nn.Module):
    """Attention to the target so far, attention to the source, feed-forward; each is added, then normalised."""

    def __init__(self, config: ModelConfig, dropout: float) -> None:
        super().__init__()
        self.attention = Attention(config)
        self.attention_norm = norm(config)
        self.cross_attention = Attention(replace(config, causal=False))
        self.cross_attention_norm = norm(config)
        self.feed_forward = FeedForward(config)
        self.feed_forward_norm = norm(config)
        self.dropout = dropout

    def forward(
        self, x: Tensor, memory: tuple[Tensor, Tensor], allowed: Tensor, *, cache: Cache | None = None, layer: int = 0
    ) -> Tensor:
        """[R, T, D] -> [R, T, D]; `allowed` [B, 1, 1, S] says which positions of the memory are there.

        R is B or a multiple of it: the beams of a sentence stand together and look at one memory.
        """
        x = self.attention_norm(x + self._drop(self.attention(x, cache=cache, layer=layer)))
        together = x.reshape(allowed.shape[0], -1, x.shape[-1])
        crossed = self.cross_attention(together, memory=memory, allowed=allowed).view(x.shape)
        x = self.cross_attention_norm(x + self._drop(crossed))
        return self.feed_forward_norm(x + self._drop(self.feed_forward(x)))

    def _drop(self, x: Tensor) -> Tensor:
        return drop_columns(x, self.dropout, training=self.training)


class EncoderDecoder(nn.Module):
    """Reads a source, writes a target. Weights stay fp32; `compute_dtype` is that of the products.

    The embedding of the padding is zero and stays so while training, and its bias keeps it from being written: so
    Marian's own engines, which begin a target with zeros and know no padding, compute the same.
    """

    places: Tensor

    def __init__(
        self, config: Seq2SeqConfig, *, compute_dtype: torch.dtype = torch.float32, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.config = config
        self.compute_dtype = compute_dtype
        self.embedding = Embedding(config.vocabulary, config.width)
        self.encoder_layers = nn.ModuleList(Layer(config.encoder, dropout) for _ in range(config.layers))
        self.decoder_layers = nn.ModuleList(CrossLayer(config.decoder, dropout) for _ in range(config.decoder_layers))
        self.head = Linear(config.width, config.vocabulary, bias=True)
        self.head.weight = self.embedding.weight
        places = 0 if self.embedding.weight.is_meta else config.context
        self.register_buffer("places", sinusoids(places, config.width), persistent=False)

    def initialise(self, seed: int) -> EncoderDecoder:
        """Start from random weights; what writes to the residual stream starts at zero, so that layers begin silent."""
        generator = torch.Generator().manual_seed(seed)
        for name, weight in self.named_parameters():
            if name.endswith(("bias", "attention.out.weight", "feed_forward.down.weight")):
                nn.init.zeros_(weight)
            elif weight.ndim < 2:
                nn.init.ones_(weight)
            else:
                # Small words: the layers are silent, and each token would else predict itself.
                std = 0.02 if name == "embedding.weight" else self.config.width**-0.5
                nn.init.normal_(weight, std=std, generator=generator)
        with torch.no_grad():
            self.embedding.weight[self.config.pad] = 0.0
            self.head.bias[self.config.pad] = NEVER
        return self

    def encode(self, source: Tensor, real: Tensor) -> Tensor:
        """source [B, S] of ids, `real` [B, S] where it is no padding -> what the decoder looks at [B, S, D]."""
        x = self._embed(source, self.places[: source.shape[1]])
        for layer in self.encoder_layers:
            x = layer(x, allowed=real[:, None, None])
        return x

    def memory(self, encoded: Tensor) -> Memory:
        """Keys and values of what was encoded [B, S, D], computed once for all of the target."""
        layers = cast(Iterable[CrossLayer], self.decoder_layers)
        return [layer.cross_attention.keys_and_values(encoded) for layer in layers]

    def decode(self, target: Tensor, memory: Memory, real: Tensor, cache: Cache | None = None) -> Tensor:
        """target [R, T], padding first -> what the head multiplies [R, T, D]. With a cache, targets go on from it."""
        T = target.shape[1]
        x = self._embed(target, self.places[slice(T) if cache is None else cache.positions(T)])
        for index, layer in enumerate(self.decoder_layers):
            x = layer(x, memory[index], real[:, None, None], cache=cache, layer=index)
        return x

    def hidden_states(self, source: Tensor, real: Tensor, target: Tensor) -> Tensor:
        """source, real [B, S], target [B, T] -> what the head multiplies [B, T, D]."""
        return self.decode(target, self.memory(self.encode(source, real)), real)

    def forward(self, source: Tensor, real: Tensor, target: Tensor) -> Tensor:
        """source, real [B, S], target [B, T] -> logits [B, T, V] for what follows each position of the target."""
        return self.head(self.hidden_states(source, real, target))

    def _embed(self, ids: Tensor, places: Tensor) -> Tensor:
        x = F.embedding(ids, self.embedding.weight, padding_idx=self.config.pad)
        scale = self.config.width**0.5 if self.config.scaled else 1.0
        return (x * scale + places).to(self.compute_dtype)
