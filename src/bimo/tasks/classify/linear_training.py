"""Learns a linear classifier over n-grams: which of them, how much each counts, and how sure it may be of itself.

The weights are those of support vector machines, one a label, on values that are large where an n-gram says much about
the labels (in the spirit of Wang and Manning 2012). F n-grams, K labels, N texts.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from bimo.console import Console
from bimo.runtime import DATA_REFUSED, UserError
from bimo.tasks.classify.grams import characters_of, grams
from bimo.tasks.classify.linear import LinearClassifier, joined, values_of
from bimo.tasks.classify.measures import (
    chances,
    chosen_labels,
    fitted_temperature,
    log_loss,
    macro_f1s,
    truth_matrix,
)
from bimo.text.labelled import Labelled, fold_numbers

__all__ = ["Trained", "train_linear"]

FOLDS, ENOUGH_HELD_OUT = 5, 3000
"""What to choose is tried on one part of so many after the other, until so many texts were held out: of a thousand, two
ways of choosing that differ by half a point are told apart by chance."""
TINY = 300
"""With fewer texts than this n-grams count that were met once."""
MOST_WEIGHTS = 50_000_000
TEXTS_AT_ONCE = 5000
STEP = 3.0
LEAST_COST, MOST_COST = 0.03, 30.0
SHARES = (1.0, 2.0, 4.0)
"""How much vectors of length 1 count beside n-grams, whose two kinds have a norm of 1 each."""
CLEARLY = 0.005
"""So much more macro-F1 on what is held out than what usually does best."""
UNEVEN = 2.0
"""From this ratio between the most frequent label and the mean on, giving all labels the same weight is tried."""


@dataclass(frozen=True)
class _Choice:
    """`cost` is C of the machine, `power` how much what an n-gram says of the labels counts, `even` whether each label
    weighs the same, `share` how much vectors count beside n-grams."""

    cost: float = 1.0
    power: float = 0.5
    even: bool = False
    share: float = 1.0


@dataclass(frozen=True)
class _Table:
    """Values of n-grams [N, F], sparse, with D columns of vectors behind them where there are any; the n-grams, and
    their inverse document frequencies [F]."""

    values: Any
    features: np.ndarray
    rarity: np.ndarray


class Trained(NamedTuple):
    """A classifier of n-grams, weights [D, K] of vectors where there were any, and what was chosen.

    `held_out` are chances [N, K] of the examples at `places`, by classifiers that did not learn from them.
    """

    classifier: LinearClassifier
    weights: np.ndarray
    facts: dict[str, Any]
    places: np.ndarray
    held_out: np.ndarray


def train_linear(
    examples: Sequence[Labelled],
    labels: Sequence[str],
    *,
    several: bool,
    seed: int,
    console: Console,
    vectors: np.ndarray | None = None,
) -> Trained:
    """Learn from all examples; what was to be chosen is tried on parts that are held out. Raises UserError for too few
    texts. `vectors` [N, D] of the texts are learned from as well."""
    truth = truth_matrix([example.labels for example in examples], labels)
    whole = joined([one.text for one in examples], [one.second for one in examples])
    counted = [_counted(part) for part in _parts(whole)]
    hashes, counts = ([one for part in counted for one in part[place]] for place in (0, 1))
    parts = [
        (_table(hashes, counts, ~out, vectors, labels=len(labels)), ~out, out)
        for out in _held_out_parts(examples, truth, several=several, seed=seed)
    ]
    if not parts:
        raise UserError(
            "There are too few texts to hold some of each label out: a label needs two, one of them to test with. "
            "Add texts.",
            code=DATA_REFUSED,
        )

    found: dict[_Choice, tuple[float, float, np.ndarray]] = {}

    def judged(choice: _Choice) -> tuple[float, float]:
        """(macro-F1, minus loss) on what is held out."""
        if choice not in found:
            scores = np.concatenate(
                [_scores(table, truth, kept, out, choice, several=several) for table, kept, out in parts]
            )
            found[choice] = *_judge(scores, held_out, several=several), scores
            progress(len(found), "")
        return found[choice][:2]

    held_out = np.concatenate([truth[out] for _, _, out in parts])
    with console.progress("Tuning", 8.0) as progress:
        best = _search(judged, truth, vectors is not None)
        scores = found[best][2]
        factor = fitted_temperature(scores, held_out, several=several)
        table = _table(hashes, counts, np.ones(len(examples), dtype=bool), vectors, labels=len(labels))
        weights, biases = _fit(table, np.arange(len(examples)), truth, best, several=several)
    classifier = LinearClassifier(
        tuple(labels),
        several,
        table.features,
        table.rarity,
        np.ascontiguousarray(weights[: len(table.features)] * factor, dtype=np.float32),
        np.ascontiguousarray(biases * factor, dtype=np.float32),
    )
    facts = {
        "choice": {
            "cost": best.cost,
            "power": best.power,
            "even": best.even,
            "share": best.share,
            "temperature": factor,
        },
        "tried": len(found),
        "features": len(table.features),
    }
    places = np.concatenate([np.flatnonzero(out) for _, _, out in parts])
    of_vectors = np.ascontiguousarray(weights[len(table.features) :] * factor, dtype=np.float32)
    return Trained(classifier, of_vectors, facts, places, chances(factor * scores, several=several))


def _search(judged: Any, truth: np.ndarray, vectors: bool) -> _Choice:
    """Uphill from the usual: with or without what n-grams say, then the cost, then the weight of labels."""
    best, plain = _Choice(), _Choice(power=0.0)
    if judged(plain)[0] > judged(best)[0] + CLEARLY:
        best = plain
    if vectors:
        best = max((replace(best, share=share) for share in SHARES), key=judged)
    for factor in (STEP, 1 / STEP):
        moved = False
        while LEAST_COST <= best.cost * factor <= MOST_COST:
            other = replace(best, cost=best.cost * factor)
            if judged(other) <= judged(best):
                break
            best, moved = other, True
        if moved:
            break
    sizes = truth.sum(axis=0)
    if sizes.max() > UNEVEN * sizes.mean() or (len(sizes) == 2 and sizes.max() > UNEVEN * sizes.min()):
        best = max((best, replace(best, even=True)), key=judged)
    return best


def _judge(scores: np.ndarray, truth: np.ndarray, *, several: bool) -> tuple[float, float]:
    likely = chances(fitted_temperature(scores, truth, several=several) * scores, several=several)
    macro = macro_f1s(chosen_labels(likely, several=several), truth)
    return float(macro[0]), -log_loss(likely, truth, several=several)


def _scores(
    table: _Table, truth: np.ndarray, kept: np.ndarray, out: np.ndarray, choice: _Choice, *, several: bool
) -> np.ndarray:
    weights, biases = _fit(table, np.flatnonzero(kept), truth, choice, several=several)
    return table.values[np.flatnonzero(out)] @ weights + biases


def _fit(
    table: _Table, rows: np.ndarray, truth: np.ndarray, choice: _Choice, *, several: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Weights [F + D, K] and biases [K], learned from some rows."""
    import scipy.sparse

    values, truth, known = table.values[rows], truth[rows], len(table.features)
    scale = np.full(values.shape[1], choice.share)
    scale[:known] = _telling(values[:, :known], truth) ** choice.power if choice.power else 1
    scaled = (values @ scipy.sparse.diags(scale)).tocsr()
    if truth.shape[1] == 2 and not several:
        weights, bias = _machine(scaled, truth[:, 1], choice)
        weights, biases = np.stack([-weights, weights], axis=1) / 2, np.array([-bias, bias]) / 2
    else:
        columns = [_machine(scaled, truth[:, k], choice) for k in range(truth.shape[1])]
        weights, biases = np.stack([column for column, _ in columns], axis=1), np.array([bias for _, bias in columns])
    return weights * scale[:, None], biases


def _machine(values: Any, truth: np.ndarray, choice: _Choice) -> tuple[np.ndarray, float]:
    """One label against the rest."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.svm import LinearSVC

    if truth.all() or not truth.any():
        return np.zeros(values.shape[1]), 1.0 if truth.all() else -1.0
    machine = LinearSVC(C=choice.cost, tol=1e-3, class_weight="balanced" if choice.even else None, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # what counts is the held-out part
        machine.fit(values, truth)
    return machine.coef_[0], float(machine.intercept_[0])


def _telling(values: Any, truth: np.ndarray) -> np.ndarray:
    """[F]: by how much, at most, the texts of a label have an n-gram more or less often than the others; logarithm."""
    present = (values > 0).astype(np.float64)
    total = np.asarray(present.sum(axis=0)).ravel()
    most = np.zeros(values.shape[1])
    for k in range(truth.shape[1]):
        inside = np.asarray(present[np.flatnonzero(truth[:, k])].sum(axis=0)).ravel()
        size = truth[:, k].sum()
        ratio = (inside + 1) / (size + 1) / ((total - inside + 1) / (len(truth) - size + 1))
        most = np.maximum(most, np.abs(np.log(ratio)))
    return most


def _held_out_parts(
    examples: Sequence[Labelled], truth: np.ndarray, *, several: bool, seed: int
) -> Iterator[np.ndarray]:
    """Which examples are held out, bool [N], each time that a choice is tried: first some of each label.

    Parts are filled from the last one on, and may be empty where many examples share a text. The last one is tried
    when the others were: it has the only texts of labels, from which nothing would be learned.
    """
    folds = fold_numbers(examples, FOLDS, seed=seed)
    tried = 0
    for number in (*reversed(range(FOLDS - 1)), FOLDS - 1):
        out = folds == number
        if tried < ENOUGH_HELD_OUT and out.any() and _learnable(truth[~out], several=several):
            tried += int(out.sum())
            yield out


def _parts(texts: Sequence[str]) -> list[Sequence[str]]:
    return [texts[start : start + TEXTS_AT_ONCE] for start in range(0, len(texts), TEXTS_AT_ONCE)]


def _counted(texts: Sequence[str]) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Of each text its distinct n-grams, sorted, and how often each is met."""
    found = [np.unique(text, return_counts=True) for text in grams(characters_of(texts))]
    return [hashes for hashes, _ in found], [counts for _, counts in found]


def _table(
    hashes: list[np.ndarray], counts: list[np.ndarray], kept: np.ndarray, vectors: np.ndarray | None, *, labels: int
) -> _Table:
    """Of all texts, with the n-grams that the kept ones have twice at least."""
    import scipy.sparse

    rows = np.flatnonzero(kept)
    features, frequencies = np.unique(np.concatenate([hashes[row] for row in rows]), return_counts=True)
    least = 1 if len(rows) < TINY else 2
    while (frequencies >= least).sum() * labels > MOST_WEIGHTS:
        least += 1
    features, frequencies = features[frequencies >= least], frequencies[frequencies >= least]
    rarity = (np.log((1 + len(rows)) / (1 + frequencies)) + 1).astype(np.float32)
    data, columns, ends = [], [], [0]
    for own, times in zip(hashes, counts, strict=True):
        places = np.searchsorted(features, own)
        known = places < len(features)
        known[known] = features[places[known]] == own[known]
        columns.append(places[known])
        data.append(values_of(own[known], times[known], rarity[places[known]]))
        ends.append(ends[-1] + len(columns[-1]))
    matrix = scipy.sparse.csr_matrix(
        (np.concatenate(data), np.concatenate(columns), np.array(ends)), shape=(len(hashes), len(features))
    )
    if vectors is not None:
        matrix = scipy.sparse.hstack([matrix, scipy.sparse.csr_matrix(vectors)], format="csr")
    return _Table(matrix, features, rarity)


def _learnable(truth: np.ndarray, *, several: bool) -> bool:
    return bool((truth.sum(axis=0) > 0).sum() > (0 if several else 1))
