"""The decoder: token ids -> hidden states -> logits.

B batch, T time (positions), D width, H heads, G key/value heads, K head width, V vocabulary.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bimo.models.config import ModelConfig
from bimo.models.layers import Cache, Linear, RMSNorm, attend, drop_columns, gated, rotary_tables, turned_heads

__all__ = ["Decoder"]


class Attention(nn.Module):
    """Grouped-query self-attention with rotary positions and, as in Qwen3, normalised queries and keys."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        K = config.head_width
        self.query = Linear(config.width, config.heads * K)
        self.key = Linear(config.width, config.kv_heads * K)
        self.value = Linear(config.width, config.kv_heads * K)
        self.out = Linear(config.heads * K, config.width)
        self.query_norm = RMSNorm(K, config.norm_epsilon) if config.qk_norm else None
        self.key_norm = RMSNorm(K, config.norm_epsilon) if config.qk_norm else None

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, cache: Cache | None, layer: int) -> Tensor:
        """[B, T, D] -> [B, T, D]; cos, sin [..., T, K] of the positions of x."""
        B, T, _ = x.shape
        K = self.config.head_width
        q = turned_heads(self.query(x).view(B, T, -1, K), self.query_norm, cos, sin)
        k = turned_heads(self.key(x).view(B, T, -1, K), self.key_norm, cos, sin)
        v = self.value(x).view(B, T, -1, K).transpose(1, 2)
        allowed = None
        if cache is not None:
            k, v = cache.update(layer, k, v)
            allowed = cache.allowed(T)
        return self.out(attend(q, k, v, allowed).reshape(B, T, -1))


class FeedForward(nn.Module):
    """SwiGLU (Shazeer 2020): down(silu(gate(x)) * up(x))."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.gate = Linear(config.width, config.hidden)
        self.up = Linear(config.width, config.hidden)
        self.down = Linear(config.hidden, config.width)

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, D] -> [B, T, D]"""
        return self.down(gated(self.gate(x), self.up(x)))


class Layer(nn.Module):
    """Attention, then feed-forward, each added to what came in but for the share `dropout` of it in training."""

    def __init__(self, config: ModelConfig, dropout: float) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(config.width, config.norm_epsilon)
        self.attention = Attention(config)
        self.feed_forward_norm = RMSNorm(config.width, config.norm_epsilon)
        self.feed_forward = FeedForward(config)
        self.dropout = dropout

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, cache: Cache | None, layer: int) -> Tensor:
        """[B, T, D] -> [B, T, D]"""
        attended = self.attention(self.attention_norm(x), cos, sin, cache, layer)
        x = x + drop_columns(attended, self.dropout, training=self.training)
        return x + drop_columns(self.feed_forward(self.feed_forward_norm(x)), self.dropout, training=self.training)


class Decoder(nn.Module):
    """A Llama- or Qwen3-shaped language model. Weights stay fp32; `compute_dtype` is what the products run in.

    `dropout` is the share of the columns that layers leave out while training; it is no part of the shape.
    """

    cos: Tensor
    sin: Tensor

    def __init__(
        self, config: ModelConfig, *, compute_dtype: torch.dtype = torch.float32, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.config = config
        self.compute_dtype = compute_dtype
        self.embedding = nn.Embedding(config.vocabulary, config.width)
        self.layers = nn.ModuleList(Layer(config, dropout) for _ in range(config.layers))
        self.norm = RMSNorm(config.width, config.norm_epsilon)
        self.head = Linear(config.width, config.vocabulary)
        if config.tied:
            self.head.weight = self.embedding.weight
        cos, sin = rotary_tables(config.context, config.head_width, config.rope_theta)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)

    def initialise(self, seed: int) -> Decoder:
        """Start from random weights; what writes to the residual stream starts at zero, so that layers begin silent."""
        generator = torch.Generator().manual_seed(seed)
        for name, weight in self.named_parameters():
            if weight.ndim < 2:
                nn.init.ones_(weight)
            elif name.endswith(("attention.out.weight", "feed_forward.down.weight")):
                nn.init.zeros_(weight)
            elif name in ("embedding.weight", "head.weight"):
                nn.init.normal_(weight, std=0.02, generator=generator)
            else:
                nn.init.normal_(weight, std=self.config.width**-0.5, generator=generator)
        return self

    def hidden_states(self, ids: Tensor, cache: Cache | None = None) -> Tensor:
        """ids [B, T] -> what the head multiplies [B, T, D]. With a cache, ids go on from its rows."""
        x = F.embedding(ids, self.embedding.weight).to(self.compute_dtype)
        if cache is None:
            cos, sin = self.cos[: ids.shape[1]], self.sin[: ids.shape[1]]
        else:
            positions = cache.positions(ids.shape[1])[:, None]
            cos, sin = self.cos[positions], self.sin[positions]
        for index, layer in enumerate(self.layers):
            x = layer(x, cos, sin, cache, index)
        return self.norm(x)

    def forward(self, ids: Tensor, cache: Cache | None = None) -> Tensor:
        """ids [B, T] -> logits [B, T, V] for the token after each position."""
        return self.head(self.hidden_states(ids, cache))
