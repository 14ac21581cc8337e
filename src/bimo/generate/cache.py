"""Keys and values of positions that were read already. B batch, G key/value heads, T new positions, K head width."""

from __future__ import annotations

import torch
from torch import Tensor

from bimo.models.config import ModelConfig

__all__ = ["KeyValueCache"]


class KeyValueCache:
    """Room for `config.context` positions of a batch; all rows stand at the same position."""

    def __init__(self, config: ModelConfig, *, batch: int, device: torch.device, dtype: torch.dtype) -> None:
        shape = (config.layers, batch, config.kv_heads, config.context, config.head_width)
        self.keys = torch.empty(shape, device=device, dtype=dtype)
        self.values = torch.empty(shape, device=device, dtype=dtype)
        self.capacity = config.context
        self._last_layer = config.layers - 1
        self._seen = 0

    @property
    def seen(self) -> int:
        """How many positions are kept."""
        return self._seen

    def update(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Keep k, v [B, G, T, K] of a layer; returns those of all positions so far. The last layer moves on."""
        end = self._seen + k.shape[2]
        self.keys[layer, :, :, self._seen : end] = k
        self.values[layer, :, :, self._seen : end] = v
        if layer == self._last_layer:
            self._seen = end
        return self.keys[layer, :, :, :end], self.values[layer, :, :, :end]

    def clear(self) -> None:
        """Forget everything."""
        self._seen = 0
