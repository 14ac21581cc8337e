"""The decoder: token ids -> hidden states -> logits.

B batch, T time (positions), D width, H heads, G key/value heads, K head width, V vocabulary.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bimo.models.config import GATED, ModelConfig
from bimo.models.layers import (
    ACTIVATIONS,
    Cache,
    Embedding,
    LayerNorm,
    Linear,
    RMSNorm,
    attend,
    drop_columns,
    gated,
    rotary_tables,
    turned_heads,
)

__all__ = ["Attention", "Decoder", "FeedForward", "Layer", "Turn", "initialise", "norm"]

Turn = tuple[Tensor, Tensor]
"""Cosines and sines [..., T, K] by which queries and keys are turned."""


def norm(config: ModelConfig) -> nn.Module:
    """The normalisation of a shape, [..., D] -> [..., D]."""
    kind = LayerNorm if config.norm == "layer" else RMSNorm
    return kind(config.width, config.norm_epsilon)


class Attention(nn.Module):
    """Grouped-query self-attention, with rotary positions and normalised queries and keys where the shape has them."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        K = config.head_width
        qkv, out = config.biases != "none", config.biases in ("attention", "all")
        self.query = Linear(config.width, config.heads * K, bias=qkv)
        self.key = Linear(config.width, config.kv_heads * K, bias=qkv)
        self.value = Linear(config.width, config.kv_heads * K, bias=qkv)
        self.out = Linear(config.heads * K, config.width, bias=out)
        self.query_norm = RMSNorm(K, config.norm_epsilon) if config.qk_norm else None
        self.key_norm = RMSNorm(K, config.norm_epsilon) if config.qk_norm else None

    def forward(
        self,
        x: Tensor,
        *,
        turn: Turn | None = None,
        cache: Cache | None = None,
        layer: int = 0,
        allowed: Tensor | None = None,
        memory: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """[B, T, D] -> [B, T, D]; `allowed` [B, 1, T or 1, S] says what may be seen, where the cache does not.

        With a `memory`, keys and values [B, G, S, K] of something else, x looks at that rather than at itself.
        """
        B, T, _ = x.shape
        q = self._heads(self.query(x), self.query_norm, turn)
        k, v = memory if memory is not None else self.keys_and_values(x, turn)
        if cache is not None:
            k, v = cache.update(layer, k, v)
            allowed = cache.allowed(T)
        return self.out(attend(q, k, v, allowed, causal=self.config.causal).reshape(B, T, -1))

    def keys_and_values(self, x: Tensor, turn: Turn | None = None) -> tuple[Tensor, Tensor]:
        """[B, S, D] -> what may be looked at: two of [B, G, S, K]."""
        v = self.value(x).view(*x.shape[:2], -1, self.config.head_width).transpose(1, 2)
        return self._heads(self.key(x), self.key_norm, turn), v

    def _heads(self, x: Tensor, norm: RMSNorm | None, turn: Turn | None) -> Tensor:
        """[B, T, H * K] -> [B, H, T, K]"""
        x = x.view(*x.shape[:2], -1, self.config.head_width)
        if turn is not None:
            return turned_heads(x, norm, *turn)
        return (norm(x) if norm is not None else x).transpose(1, 2)


class FeedForward(nn.Module):
    """SwiGLU (Shazeer 2020): down(silu(gate(x)) * up(x)). Or the plain block: down(activation(up(x)))."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        bias = config.biases == "all"
        self.gate = Linear(config.width, config.hidden, bias=bias) if config.feed_forward == GATED else None
        self.up = Linear(config.width, config.hidden, bias=bias)
        self.down = Linear(config.hidden, config.width, bias=bias)
        self.activation = ACTIVATIONS.get(config.feed_forward)

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, D] -> [B, T, D]"""
        if self.activation is None:
            assert self.gate is not None
            return self.down(gated(self.gate(x), self.up(x)))
        return self.down(self.activation(self.up(x)))


class Layer(nn.Module):
    """Attention, then feed-forward, each added to what came in but for the share `dropout` of it in training."""

    def __init__(self, config: ModelConfig, dropout: float) -> None:
        super().__init__()
        self.attention_norm = norm(config)
        self.attention = Attention(config)
        self.feed_forward_norm = norm(config)
        self.feed_forward = FeedForward(config)
        self.norm_after = config.norm_after
        self.dropout = dropout

    def forward(
        self,
        x: Tensor,
        *,
        turn: Turn | None = None,
        cache: Cache | None = None,
        layer: int = 0,
        allowed: Tensor | None = None,
    ) -> Tensor:
        """[B, T, D] -> [B, T, D]; arguments as those of Attention."""
        given = {"turn": turn, "cache": cache, "layer": layer, "allowed": allowed}
        if self.norm_after:
            x = self.attention_norm(x + self._drop(self.attention(x, **given)))
            return self.feed_forward_norm(x + self._drop(self.feed_forward(x)))
        x = x + self._drop(self.attention(self.attention_norm(x), **given))
        return x + self._drop(self.feed_forward(self.feed_forward_norm(x)))

    def _drop(self, x: Tensor) -> Tensor:
        return drop_columns(x, self.dropout, training=self.training)


def initialise(model: nn.Module, *, width: int, seed: int) -> None:
    """Start from random weights; what writes to the residual stream starts at zero, so that layers begin silent."""
    generator = torch.Generator().manual_seed(seed)
    for name, weight in model.named_parameters():
        if name.endswith("bias"):
            nn.init.zeros_(weight)
        elif weight.ndim < 2:
            nn.init.ones_(weight)
        elif name.endswith(("attention.out.weight", "feed_forward.down.weight")):
            nn.init.zeros_(weight)
        elif "layers." not in name:
            nn.init.normal_(weight, std=0.02, generator=generator)
        else:
            nn.init.normal_(weight, std=width**-0.5, generator=generator)


class Decoder(nn.Module):
    """A language model: Llama-, Qwen- or GPT-2-shaped. Weights stay fp32; `compute_dtype` is that of the products.

    `dropout` is the share of the columns that layers leave out while training; it is no part of the shape.
    """

    cos: Tensor
    sin: Tensor

    def __init__(
        self, config: ModelConfig, *, compute_dtype: torch.dtype = torch.float32, dropout: float = 0.0
    ) -> None:
        super().__init__()
        assert config.causal
        assert not config.norm_after
        self.config = config
        self.compute_dtype = compute_dtype
        self.embedding = Embedding(config.vocabulary, config.width)
        self.position_embedding = Embedding(config.context, config.width) if config.positions == "learned" else None
        self.layers = nn.ModuleList(Layer(config, dropout) for _ in range(config.layers))
        self.norm = norm(config)
        self.head = Linear(config.width, config.vocabulary)
        if config.tied:
            self.head.weight = self.embedding.weight
        cos, sin = rotary_tables(
            config.context if config.positions == "rotary" and not self.embedding.weight.is_meta else 0,
            config.head_width,
            config.rope_theta,
            config.rope_scaling,
        )
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)

    def initialise(self, seed: int) -> Decoder:
        """Start from random weights."""
        initialise(self, width=self.config.width, seed=seed)
        return self

    def hidden_states(self, ids: Tensor, cache: Cache | None = None) -> Tensor:
        """ids [B, T] -> what the head multiplies [B, T, D]. With a cache, ids go on from its rows."""
        x = F.embedding(ids, self.embedding.weight)
        T = ids.shape[1]
        turn = None
        if self.position_embedding is not None:
            x = x + self.position_embedding.weight[slice(T) if cache is None else cache.positions(T)]
        elif cache is None:
            turn = (self.cos[:T], self.sin[:T])
        else:
            places = cache.positions(T)[:, None]
            turn = (self.cos[places], self.sin[places])
        x = x.to(self.compute_dtype)
        for index, layer in enumerate(self.layers):
            x = layer(x, turn=turn, cache=cache, layer=index)
        return self.norm(x)

    def forward(self, ids: Tensor, cache: Cache | None = None) -> Tensor:
        """ids [B, T] -> logits [B, T, V] for the token after each position."""
        return self.head(self.hidden_states(ids, cache))
