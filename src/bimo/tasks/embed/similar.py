"""What vectors of texts are for: search, pairs that say nearly the same, groups. All of it exact.

N texts, D width, K groups.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bimo.runtime import USAGE, UserError
from bimo.tasks.embed.embedder import open_embedder

__all__ = ["Group", "Match", "groups", "near_pairs", "near_pairs_reference", "similar", "units"]

COSINES_AT_ONCE = 1 << 24
"""Of pairs that are looked at together: 64 MB."""

ROUNDS, STARTS = 50, 8
DRAWN = 4
"""Texts among which each next middle is chosen."""
MOST_GROUPS = 20
"""That are tried where their number is to be found."""

SHOWN = 3


@dataclass(frozen=True)
class Match:
    """A text, its place among those searched, and its cosine."""

    place: int
    text: str
    cosine: float


@dataclass(frozen=True)
class Group:
    """Places of the texts of a group, those nearest to its middle first, which describe it best."""

    places: list[int]
    nearest: list[str]


def similar(model: str | Path, query: str, texts: Sequence[str], *, best: int = 5, device: str = "auto") -> list[Match]:
    """The texts that are most like the query, the best first. For many queries open the model once."""
    embedder = open_embedder(model, device=device)
    vectors = units(embedder.embed([query, *texts]))
    return nearest(vectors[0], vectors[1:], texts, best=best)


def nearest(query: np.ndarray, vectors: np.ndarray, texts: Sequence[str], *, best: int) -> list[Match]:
    """The texts whose vectors of length 1 [N, D] have the largest cosines with that of the query [D]."""
    cosines = vectors @ query
    order = np.argsort(-cosines, kind="stable")[:best]
    return [Match(int(place), texts[place], float(cosines[place])) for place in order]


def units(vectors: np.ndarray) -> np.ndarray:
    """[N, D], each of the length 1."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def near_pairs(vectors: np.ndarray, *, best: int) -> list[tuple[int, int, float]]:
    """Two places and their cosine, of the `best` pairs that are most alike among vectors of length 1 [N, D]."""
    kept: list[tuple[float, int, int]] = []
    rows_at_once = max(1, COSINES_AT_ONCE // max(1, len(vectors)))
    for start in range(0, len(vectors), rows_at_once):
        cosines = vectors[start : start + rows_at_once] @ vectors[start:].T
        cosines[np.tril_indices(len(cosines), m=cosines.shape[1])] = -np.inf  # each pair once
        flat = cosines.ravel()
        found = np.flatnonzero(flat > (kept[-1][0] if len(kept) == best else -2.0))
        if len(found) > best:
            found = found[np.argpartition(-flat[found], best - 1)[:best]]
        rows, columns = np.divmod(found, cosines.shape[1])
        kept += [(float(flat[i]), int(r) + start, int(c) + start) for i, r, c in zip(found, rows, columns, strict=True)]
        kept = sorted(kept, key=lambda pair: (-pair[0], *pair[1:]))[:best]
    return [(one, other, cosine) for cosine, one, other in kept]


def near_pairs_reference(vectors: np.ndarray, *, best: int) -> list[tuple[int, int, float]]:
    """`near_pairs`, one pair after another."""
    pairs = [(i, j, float(vectors[i] @ vectors[j])) for i in range(len(vectors)) for j in range(i + 1, len(vectors))]
    return sorted(pairs, key=lambda pair: (-pair[2], *pair[:2]))[:best]


def groups(vectors: np.ndarray, texts: Sequence[str], *, count: int = 0, seed: int = 0) -> list[Group]:
    """Texts by likeness of their vectors of length 1 [N, D], the largest group first.

    `count` 0 takes the number of groups that stand apart best. Raises UserError for more groups than texts.
    """
    if count > len(vectors) or count < 0 or not len(vectors):
        raise UserError(
            "{texts:,} texts cannot be put into {count:,} groups.", code=USAGE, texts=len(vectors), count=count
        )
    if count:
        centres, members = cluster(vectors, count, seed=seed)
    else:
        counts = range(2, min(MOST_GROUPS, len(vectors) - 1) + 1)
        tried = [cluster(vectors, number, seed=seed) for number in counts]
        if not tried:
            return [Group([*range(len(texts))], list(texts))]
        centres, members = max(tried, key=lambda found: apart(vectors, *found))
    made = []
    for number, centre in enumerate(centres):
        places = np.flatnonzero(members == number)
        order = places[np.argsort(-(vectors[places] @ centre), kind="stable")]
        made.append(Group(order.tolist(), [texts[place] for place in order[:SHOWN]]))
    return sorted(made, key=lambda group: (-len(group.places), group.places))


def cluster(vectors: np.ndarray, count: int, *, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Middles [K, D] of length 1 and the group of each text [N]: spherical k-means (Dhillon and Modha 2001).

    Begun as k-means++ does (Arthur and Vassilvitskii 2007); of STARTS tries the one with the largest cosines counts.
    """
    random = np.random.default_rng(seed)
    tries = [_settle(vectors, _seeds(vectors, count, random)) for _ in range(STARTS)]
    return max(tries, key=lambda found: float((vectors * found[0][found[1]]).sum()))


def _seeds(vectors: np.ndarray, count: int, random: np.random.Generator) -> np.ndarray:
    """Texts far from each other [K, D]: each the best of a few that are drawn the likelier the farther they are."""
    chosen = [int(random.integers(len(vectors)))]
    distance = np.maximum(1 - vectors @ vectors[chosen[0]], 0.0)
    while len(chosen) < count:
        # Where all that is left lies on a chosen one, any other will do.
        weights = (distance if distance.sum() > 1e-6 else np.ones(len(vectors))).astype(float)
        weights[chosen] = 0.0
        drawn = random.choice(len(vectors), size=DRAWN, p=weights / weights.sum())
        left = np.minimum(distance[:, None], np.maximum(1 - vectors @ vectors[drawn].T, 0.0))
        best = int(left.sum(axis=0).argmin())
        chosen.append(int(drawn[best]))
        distance = left[:, best]
    return vectors[chosen]


def _settle(vectors: np.ndarray, centres: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Move middles until no text changes its group; a group that lost all its texts takes the one that fits worst."""
    members = np.full(len(vectors), -1)
    for _ in range(ROUNDS):
        cosines = vectors @ centres.T
        now = cosines.argmax(axis=1)
        sizes = np.bincount(now, minlength=len(centres))
        for empty in np.flatnonzero(sizes == 0):
            movable = np.where(sizes[now] > 1, cosines[np.arange(len(now)), now], np.inf)
            place = int(movable.argmin())
            sizes[now[place]] -= 1
            now[place] = empty
            sizes[empty] = 1
        if np.array_equal(now, members):
            break
        members = now
        sums = np.zeros_like(centres)
        np.add.at(sums, members, vectors)
        centres = units(sums)
    return centres, members


def apart(vectors: np.ndarray, centres: np.ndarray, members: np.ndarray) -> float:
    """How much nearer texts are to their own middle than to the next, from -1 to 1: the simplified silhouette.

    Hruschka et al. 2004; distances are 1 less the cosine.
    """
    distances = 1 - vectors @ centres.T
    rows = np.arange(len(vectors))
    own = distances[rows, members]
    distances[rows, members] = np.inf
    other = distances.min(axis=1)
    return float(((other - own) / np.maximum(np.maximum(own, other), 1e-12)).mean())
