"""Keys and values of positions that were read already, for sequences that come and go.

B batch, G key/value heads, T new positions, S positions seen (cache and new), K head width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bimo.models.config import ModelConfig

__all__ = ["CachedRows", "KeyValueCache"]


class KeyValueCache:
    """Room for `slots` sequences of `positions` tokens each, wherever each of them stands."""

    def __init__(
        self, config: ModelConfig, *, slots: int, positions: int, device: torch.device, dtype: torch.dtype
    ) -> None:
        shape = (config.layers, slots, config.kv_heads, positions, config.head_width)
        self.keys = torch.zeros(shape, device=device, dtype=dtype)
        self.values = torch.zeros(shape, device=device, dtype=dtype)

    def rows(self, slots: list[int], starts: list[int]) -> CachedRows:
        """What a batch sees whose row i stands at starts[i] of slots[i]."""
        return CachedRows(self, slots, starts)

    def copy(self, source: int, target: int, positions: int) -> None:
        """Let slot `target` remember the first `positions` of slot `source`."""
        for kept in (self.keys, self.values):
            kept[:, target, :, :positions] = kept[:, source, :, :positions]


class CachedRows:
    """The cache as one batch sees it (models.layers.Cache)."""

    def __init__(self, cache: KeyValueCache, slots: list[int], starts: list[int]) -> None:
        device = cache.keys.device
        self._cache = cache
        self._slots = torch.tensor(slots, device=device)
        self._starts = torch.tensor(starts, device=device)
        self._longest = max(starts)

    def positions(self, count: int) -> Tensor:
        """Where the next `count` tokens of each row stand [B, T]."""
        return self._starts[:, None] + torch.arange(count, device=self._starts.device)

    def update(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Keep k, v [B, G, T, K] of a layer; returns those of all positions [B, G, S, K], beyond a row's end too."""
        places = self.positions(k.shape[2])
        end = self._longest + k.shape[2]
        for kept, new in ((self._cache.keys, k), (self._cache.values, v)):
            kept[layer][self._slots[:, None], :, places] = new.transpose(1, 2).to(kept.dtype)
        keys, values = self._cache.keys[layer, self._slots, :, :end], self._cache.values[layer, self._slots, :, :end]
        return keys.to(k.dtype), values.to(v.dtype)

    def allowed(self, count: int) -> Tensor:
        """Which positions each new token may see [B, 1, T, S]."""
        seen = torch.arange(self._longest + count, device=self._starts.device)
        return (seen <= self.positions(count)[:, :, None])[:, None]
