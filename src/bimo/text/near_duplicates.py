"""Near-duplicates: MinHash and locality-sensitive hashing propose pairs, their Jaccard similarity decides.

Broder 1997 for the signatures; Leskovec, Rajaraman and Ullman, Mining of Massive Datasets, 3.4, for the bands. Two
texts of similarity s agree in one of BANDS bands of ROWS values with probability 1 - (1 - s^ROWS)^BANDS: 0.998 at 0.8.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from bimo.text.shingles import CHARACTERS_IN_SHINGLE, WORDS_IN_SHINGLE, jaccard, shingles

__all__ = ["BANDS", "SIMILAR", "band_keys", "find_clusters", "shingle_set", "sketched_jaccard"]

BANDS, ROWS = 21, 6
SIMILAR = 0.8
"""From this Jaccard similarity of their shingles on, two texts count as one."""

_SEED = 20261124
_KEYS_AT_ONCE = 1 << 24
_REMEMBERED = 1 << 20
_SKETCH, _SKETCHES_HELD = 128, 1 << 15
"""Shingles in a sketch, those with the smallest hashes; and how many sketches are kept, 1 KiB each."""
_PERHAPS_SIMILAR = 0.6
"""Of two sketches: texts of similarity 0.8 look like less than this once in ten million pairs."""
_UNSPACED_LANGUAGES = ("zh", "ja")


def _tokens_in_shingle(language: str) -> int:
    return CHARACTERS_IN_SHINGLE if language in _UNSPACED_LANGUAGES else WORDS_IN_SHINGLE


def shingle_set(text: str, language: str) -> np.ndarray:
    """The shingles of a text, sorted and each once."""
    return np.unique(shingles([text], tokens=_tokens_in_shingle(language))[0])


def band_keys(texts: Sequence[str], languages: Sequence[str]) -> np.ndarray:
    """[N, BANDS] uint64: texts that share a key in any band may be near-duplicates. 0: nothing to compare by."""
    from rensa import RMinHash

    keys = np.zeros((len(texts), BANDS), np.uint64)
    sizes = np.array([_tokens_in_shingle(language) for language in languages], np.int64)
    for size in np.unique(sizes):
        rows = np.flatnonzero(sizes == size)
        hashes, offsets = shingles([texts[row] for row in rows.tolist()], tokens=int(size))
        counts = np.diff(offsets)
        if not counts.any():
            continue
        digests = RMinHash.digest_matrix_from_flat_token_hashes(hashes, offsets.astype(np.uint64), BANDS * ROWS, _SEED)
        signatures = np.array(digests.to_rows(), np.uint32)
        keys[rows[counts > 0]] = _fold(signatures)[counts > 0]
    return keys


def _fold(signatures: np.ndarray) -> np.ndarray:
    """[N, BANDS * ROWS] uint32 -> [N, BANDS] uint64 (FNV-1a over the values of a band), never 0."""
    bands = signatures.reshape(-1, BANDS, ROWS).astype(np.uint64)
    keys = np.full(bands.shape[:2], 0xCBF29CE484222325, np.uint64)
    for row in range(ROWS):
        keys = (keys ^ bands[:, :, row]) * np.uint64(0x100000001B3)
    return keys | np.uint64(1)


def find_clusters(keys: np.ndarray, shingles_of: Callable[[int], np.ndarray]) -> np.ndarray:
    """[N] int64: for each text the first text of its cluster, itself when it is alone.

    `keys` [N, BANDS], best a memory map: one band at a time is looked at, in parts that fit in memory. `shingles_of`
    gives shingle_set of a text by its row. Clusters are the connected components of the pairs that were found similar.
    Texts of one mould (forms, notices, logs) agree in many bands: their sketches tell most of them apart.
    """

    @functools.lru_cache(_SKETCHES_HELD)
    def sketch(row: int) -> np.ndarray:
        return shingles_of(row)[:_SKETCH].copy()  # a mere view would keep all of the set

    first = np.arange(len(keys), dtype=np.int64)
    unlike: set[tuple[int, int]] = set()
    for band in range(keys.shape[1]):
        for pairs in _pairs(keys, band):
            for one, other in pairs.tolist():
                roots = _root(first, one), _root(first, other)
                if roots[0] == roots[1] or (one, other) in unlike:
                    continue
                perhaps = sketched_jaccard(sketch(one), sketch(other)) >= _PERHAPS_SIMILAR
                if perhaps and jaccard(shingles_of(one), shingles_of(other)) >= SIMILAR:
                    first[max(roots)] = min(roots)
                elif len(unlike) < _REMEMBERED:
                    unlike.add((one, other))
    while not np.array_equal(first, first[first]):
        first = first[first]
    return first


def sketched_jaccard(ours: np.ndarray, theirs: np.ndarray) -> float:
    """An estimate of `jaccard` from the first _SKETCH values of both: up to the last one of either, both are whole.

    Cohen and Kaplan 2007, bottom-k sketches.
    """
    last = min((one[-1] for one in (ours, theirs) if len(one) == _SKETCH), default=None)
    if last is not None:
        ours, theirs = (one[: np.searchsorted(one, last, side="right")] for one in (ours, theirs))
    return jaccard(ours, theirs)


def _root(first: np.ndarray, row: int) -> int:
    while first[row] != row:
        first[row] = first[first[row]]
        row = first[row]
    return int(row)


def _pairs(keys: np.ndarray, band: int) -> Iterator[np.ndarray]:
    """[P, 2]: each text with the first and with the last one before it that has the same key; sorted by place."""
    parts = max(1, -(-len(keys) // _KEYS_AT_ONCE))
    for part in range(parts):
        own = np.asarray(keys[:, band])
        rows = np.flatnonzero((own % np.uint64(parts) == part) & (own != 0))
        order = rows[np.argsort(own[rows], kind="stable")]
        if len(order) < 2:
            continue
        same = own[order[1:]] == own[order[:-1]]
        begins = np.concatenate([[True], ~same])
        leader = order[np.maximum.accumulate(np.where(begins, np.arange(len(order)), 0))]
        again = ~begins
        with_first = np.stack([leader[again], order[again]], axis=1)
        with_last = np.stack([order[:-1][same], order[again]], axis=1)
        yield np.unique(np.concatenate([with_first, with_last]), axis=0)
