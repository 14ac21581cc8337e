"""What a model remembers of positions that were read already, for sequences that come and go.

B batch, G key/value heads, T new positions, S positions seen (cache and new), K head width, D width of a layer.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

from bimo.models.config import ModelConfig
from bimo.models.families import LanguageModule
from bimo.models.perceptron import NOTHING, Perceptron
from bimo.models.recurrent import Recurrent, RecurrentConfig, State

__all__ = ["Cache", "CachedIds", "CachedRows", "CachedStates", "IdCache", "KeyValueCache", "StateCache", "open_cache"]


class Cache(Protocol):
    """What a model remembers, in a number of slots."""

    def rows(self, slots: list[int], starts: list[int]) -> Any:
        """What a batch sees whose row i stands at starts[i] of slots[i], as the model wants to see it."""

    def copy(self, source: int, target: int, positions: int) -> None:
        """Let slot `target` remember the first `positions` of slot `source`."""


def open_cache(model: LanguageModule, *, slots: int, positions: int, device: torch.device) -> Cache:
    """Room for `slots` sequences of `positions` tokens each, of what such a model remembers."""
    if isinstance(model, Recurrent):
        return StateCache(model.config, slots=slots, positions=positions, device=device)
    if isinstance(model, Perceptron):
        return IdCache(slots=slots, positions=positions, device=device)
    return KeyValueCache(model.config, slots=slots, positions=positions, device=device, dtype=model.compute_dtype)


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


class StateCache:
    """The states of every layer after each position, so that any of them can be gone on from."""

    def __init__(self, config: RecurrentConfig, *, slots: int, positions: int, device: torch.device) -> None:
        # Place 0 is the empty state that stands before the first position.
        shape = (config.layers, 2, slots, positions + 1, config.width)
        self.states = torch.zeros(shape, device=device)

    def rows(self, slots: list[int], starts: list[int]) -> CachedStates:
        """What a batch sees whose row i stands at starts[i] of slots[i]."""
        return CachedStates(self.states, slots, starts)

    def copy(self, source: int, target: int, positions: int) -> None:
        """Let slot `target` remember the first `positions` of slot `source`."""
        self.states[:, :, target, : positions + 1] = self.states[:, :, source, : positions + 1]


class CachedStates:
    """The states as one batch sees them (models.recurrent.StateCache)."""

    def __init__(self, states: Tensor, slots: list[int], starts: list[int]) -> None:
        self._states = states
        self._slots = torch.tensor(slots, device=states.device)
        self._starts = torch.tensor(starts, device=states.device)

    def state(self, layer: int) -> State:
        """The state of a layer [B, D] before the new positions."""
        said, cells = self._states[layer]
        return said[self._slots, self._starts], cells[self._slots, self._starts]

    def keep(self, layer: int, said: Tensor, cells: Tensor) -> None:
        """Keep the states [B, T, D] of a layer after each new position."""
        places = self._starts[:, None] + torch.arange(1, said.shape[1] + 1, device=said.device)
        for kept, new in zip(self._states[layer], (said, cells), strict=True):
            kept[self._slots[:, None], places] = new.to(kept.dtype)


class IdCache:
    """The ids themselves, for models that look at the last few of them."""

    def __init__(self, *, slots: int, positions: int, device: torch.device) -> None:
        self.ids = torch.zeros(slots, positions, dtype=torch.long, device=device)

    def rows(self, slots: list[int], starts: list[int]) -> CachedIds:
        """What a batch sees whose row i stands at starts[i] of slots[i]."""
        return CachedIds(self.ids, slots, starts)

    def copy(self, source: int, target: int, positions: int) -> None:
        """Let slot `target` remember the first `positions` of slot `source`."""
        self.ids[target, :positions] = self.ids[source, :positions]


class CachedIds:
    """The ids as one batch sees them (models.perceptron.WindowCache)."""

    def __init__(self, ids: Tensor, slots: list[int], starts: list[int]) -> None:
        self._ids = ids
        self._slots = torch.tensor(slots, device=ids.device)[:, None]
        self._starts = torch.tensor(starts, device=ids.device)[:, None]

    def join(self, ids: Tensor, count: int) -> Tensor:
        """Keep ids [B, T]; returns them behind the `count` before them [B, count + T], NOTHING where there is none."""
        self._ids[self._slots, self._starts + torch.arange(ids.shape[1], device=ids.device)] = ids
        places = self._starts + torch.arange(-count, ids.shape[1], device=ids.device)
        return self._ids[self._slots, places.clamp(min=0)].where(places >= 0, NOTHING)
