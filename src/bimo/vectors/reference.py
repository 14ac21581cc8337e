"""The walk of `native/vectors.h` in numpy: short, slow, and the same up to rounding."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator

import numpy as np

from bimo.kernel import VectorsInTraining
from bimo.vectors.corpus import END

__all__ = ["walk"]

_BITS = (1 << 64) - 1


def walk(v: VectorsInTraining, ids: np.ndarray) -> None:
    """Read `ids`, whole lines, once; what `bimo_train_vectors` of bimo.h does with one thread."""
    at = 0
    for line in np.split(ids, np.flatnonzero(ids == END) + 1):
        _read_line(v, line[line != END], v.done + at)
        at += len(line)


def _read_line(v: VectorsInTraining, line: np.ndarray, place: int) -> None:
    keep = _view(v.keep, ctypes.c_uint32, v.words)
    offsets = _view(v.part_offsets, ctypes.c_int64, v.words + 1)
    parts = _view(v.parts, ctypes.c_int32, int(offsets[-1]))
    inputs = _view(v.inputs, ctypes.c_float, (v.words + (parts.max(initial=v.words - 1) - v.words + 1)) * v.stride)
    inputs = inputs.reshape(-1, v.stride)
    outputs = _view(v.outputs, ctypes.c_float, v.words * v.stride).reshape(-1, v.stride)
    bits = _random(v.seed, place)
    rate = np.float32(v.first_rate + (v.last_rate - v.first_rate) * (place / v.total))
    kept = [int(word) for word in line if next(bits) >> 32 <= keep[word]]
    for i, word in enumerate(kept):
        reach = 1 + (next(bits) >> 32) * v.window // 2**32
        around = kept[max(0, i - reach) : i] + kept[i + 1 : i + 1 + reach]
        if not around:
            continue
        read, wanted = (around, [word]) if v.cbow else ([word], around)
        others = [other for target in wanted for other in _negatives(v, bits) if other != target]
        rows = np.concatenate([[each, *parts[offsets[each] : offsets[each + 1]]] for each in read])
        chosen = np.array(wanted + others)
        hidden = inputs[rows].mean(0)
        chances = 1 / (1 + np.exp(-outputs[chosen] @ hidden))
        errors = rate * ((np.arange(len(chosen)) < len(wanted)) - chances).astype(np.float32)
        toward_hidden = np.zeros_like(hidden)
        for output, error in zip(chosen, errors, strict=True):
            toward_hidden += error * outputs[output]
            outputs[output] += error * hidden
        np.add.at(inputs, rows, toward_hidden)


def _negatives(v: VectorsInTraining, bits: Iterator[int]) -> list[int]:
    alias_keep, alias = _view(v.alias_keep, ctypes.c_uint32, v.words), _view(v.alias, ctypes.c_int32, v.words)
    drawn = [next(bits) for _ in range(v.negatives)]
    places = [(each >> 32) * v.words >> 32 for each in drawn]
    lower = [each % 2**32 for each in drawn]
    return [place if low <= alias_keep[place] else int(alias[place]) for place, low in zip(places, lower, strict=True)]


def _random(seed: int, sentence: int) -> Iterator[int]:
    """SplitMix64 (Steele et al. 2014), begun anew for each sentence; its first number is not used."""
    state = (seed + sentence * 0xD1342543DE82EF95 + 0x9E3779B97F4A7C15) & _BITS
    while True:
        state = z = (state + 0x9E3779B97F4A7C15) & _BITS
        z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & _BITS
        z = (z ^ (z >> 27)) * 0x94D049BB133111EB & _BITS
        yield z ^ (z >> 31)


def _view(address: int, kind: type[ctypes._SimpleCData], count: int) -> np.ndarray:
    return np.ctypeslib.as_array((kind * count).from_address(address))
