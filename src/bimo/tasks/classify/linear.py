"""A linear classifier over n-grams: text -> scores, at tens of thousands of texts a second on one core.

F n-grams that it knows, K labels, N texts. In a folder: `config.json` and `model.safetensors`, nothing else.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bimo.files import read_settings, replacing, write_json
from bimo.kernel import LinearModel, load_library
from bimo.runtime import UserError
from bimo.tasks.classify.grams import Characters, characters_of, grams, grams_reference
from bimo.tasks.classify.measures import chances
from bimo.weights.safetensors_files import read_weights, weight_files

__all__ = ["MODEL_TYPE", "VECTORS_TYPE", "LinearClassifier", "joined", "load_linear", "values_of"]

MODEL_TYPE = "bimo_linear"
VECTORS_TYPE = "bimo_vectors"
"""By which `config.json` says what a folder holds."""
FREE_SLOTS = 2
"""The hash table has at least so many slots for each n-gram."""
PAIR_MARK = "\n\u2016\n"
"""Between a text and its second one: no n-gram of two words in a row is of both."""


@dataclass(frozen=True, eq=False)
class LinearClassifier:
    """`features` uint64 [F] are hashes, sorted; `rarity` [F] inverse document frequencies, `weights` [F, K], `biases`
    [K], float32. `several`: a text may have more labels than one, or none.
    """

    labels: tuple[str, ...]
    several: bool
    features: np.ndarray
    rarity: np.ndarray
    weights: np.ndarray
    biases: np.ndarray

    def chances(self, texts: Sequence[str], seconds: Sequence[str] = ()) -> np.ndarray:
        """How likely each label is, [N, K]."""
        return chances(self.scores(joined(texts, seconds)), several=self.several)

    def scores(self, texts: Sequence[str]) -> np.ndarray:
        """[N, K], float32."""
        characters, library = characters_of(texts), load_library()
        if library is None:
            return self.scores_reference(characters)
        codes, cuts, ends = characters
        found = np.empty((len(texts), len(self.labels)), dtype=np.float32)
        model, *_ = self._in_core
        places = (codes.ctypes.data, cuts.ctypes.data, ends.ctypes.data)
        if library.bimo_linear(model, *places, len(texts), found.ctypes.data):
            raise MemoryError
        return found

    def scores_reference(self, characters: Characters) -> np.ndarray:
        """The slow twin of the compiled core."""
        found = [self._parts(text) for text in grams(characters)]
        return np.array([self.biases + values @ self.weights[rows] for rows, values in found], dtype=np.float32)

    def decisive(self, text: str, label: int) -> list[tuple[int, int, float]]:
        """(begins, ends, weight) of the n-grams of a text: what each adds to the score of a label, against the mean of
        all labels. Places are those in `text.lower()`."""
        [met] = grams_reference(characters_of([text]))
        hashes = np.array([gram for gram, _, _ in met], dtype=np.uint64)
        rows, values = self._parts(hashes)
        against = 0 if self.several else self.weights[rows].mean(axis=1)
        worth = values * (self.weights[rows, label] - against)
        by_hash = dict(zip(self.features[rows].tolist(), worth.tolist(), strict=True))
        times = Counter(hashes.tolist())
        return [(begin, end, by_hash[gram] / times[gram]) for gram, begin, end in met if gram in by_hash]

    def _parts(self, hashes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Rows of the n-grams of a text that it knows, and their values."""
        distinct, counts = np.unique(hashes, return_counts=True)
        places = np.searchsorted(self.features, distinct)
        known = places < len(self.features)
        known[known] = self.features[places[known]] == distinct[known]
        rows = places[known]
        return rows, values_of(self.features[rows], counts[known], self.rarity[rows])

    @functools.cached_property
    def _in_core(self) -> tuple[Any, ...]:
        """The structure of the compiled core, and the arrays that it points into."""
        slots = 1 << int(max(1, FREE_SLOTS * len(self.features))).bit_length()
        hashes, rows = np.zeros(slots, dtype=np.uint64), np.full(slots, -1, dtype=np.int32)
        left = np.arange(len(self.features))
        slot = ((self.features >> np.uint64(8)) & np.uint64(slots - 1)).astype(np.int64)
        while len(left):  # whoever comes first has the slot; the others look at the next one
            free = left[rows[slot[left]] < 0]
            rows[slot[free[::-1]]] = free[::-1]
            left = left[rows[slot[left]] != left]
            slot[left] = (slot[left] + 1) & (slots - 1)
        hashes[rows >= 0] = self.features[rows[rows >= 0]]
        kinds = (self.features & np.uint64(1)).astype(np.uint8)
        arrays = hashes, rows, kinds, self.rarity, self.weights, self.biases
        pointers = (array.ctypes.data for array in arrays)
        return LinearModel(*pointers, slots, len(self.features), len(self.labels)), arrays

    def save(self, folder: Path) -> None:
        """Write `config.json` and `model.safetensors`, each all or nothing."""
        from safetensors.numpy import save_file

        settings = {"model_type": MODEL_TYPE, "labels": list(self.labels), "several": self.several}
        write_json(folder / "config.json", settings)
        with replacing(folder / "model.safetensors") as part:
            tensors = {"rarity": self.rarity, "weights": self.weights, "biases": self.biases}
            save_file({"features": self.features.view(np.int64), **tensors}, part)


def values_of(features: np.ndarray, counts: np.ndarray, rarity: np.ndarray) -> np.ndarray:
    """(1 + ln count) * rarity of the n-grams of a text, words and parts each brought to a norm of 1. float32"""
    values = (1 + np.log(counts.astype(np.float32))) * rarity
    words = (features & np.uint64(1)).astype(bool)
    for kind in (words, ~words):
        norm = np.sqrt(np.square(values[kind]).sum())
        values[kind] /= norm if norm > 0 else 1
    return values.astype(np.float32)


def joined(texts: Sequence[str], seconds: Sequence[str]) -> list[str]:
    """Texts, each with its second one behind it where it has one."""
    pairs = zip(texts, seconds, strict=True) if seconds else ((text, "") for text in texts)
    return [one + PAIR_MARK + other if other else one for one, other in pairs]


def load_linear(folder: Path) -> LinearClassifier:
    """What `save` wrote. Raises UserError when it is not whole."""
    path = folder / "config.json"
    settings, weights = read_settings(path), read_weights(weight_files(folder))
    labels = settings.get("labels")
    names = {"features", "rarity", "weights", "biases"}
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels) or weights.keys() != names:
        raise UserError("{where} is not complete: {error}.", where=path, error="labels")
    found = {name: weight.numpy().copy() for name, weight in weights.items()}
    count = len(found["features"]) if found["features"].ndim == 1 else -1
    shapes = {"features": (count,), "rarity": (count,), "weights": (count, len(labels)), "biases": (len(labels),)}
    whole = all(found[name].shape == shape for name, shape in shapes.items())
    types = all(found[name].dtype == (np.int64 if name == "features" else np.float32) for name in names)
    features = found["features"].view(np.uint64) if types and whole else np.zeros(0, np.uint64)
    finite = whole and types and all(np.isfinite(found[name]).all() for name in names - {"features"})
    if not finite or not labels or (np.diff(features.astype(np.float64)) < 0).any():
        sentence = "The weights in {folder} do not fit its config.json, first at {name}."
        raise UserError(sentence, folder=folder, name="features")
    several = bool(settings.get("several"))
    return LinearClassifier(tuple(labels), several, features, found["rarity"], found["weights"], found["biases"])
