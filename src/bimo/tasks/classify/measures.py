"""How good a classifier is: accuracy, precision, recall and F1 of each label, how honest its confidence is.

N texts, K labels, R resamples. Truth is [N, K] of bool: one true label in each row, or any number where there may be
several.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from bimo.intervals import bootstrap, share_interval

__all__ = [
    "accuracies",
    "calibration_error",
    "chances",
    "chosen_labels",
    "confidence_of",
    "confusion",
    "f1_scores",
    "fitted_temperature",
    "log_loss",
    "macro_f1s",
    "measure",
    "truth_matrix",
]

BINS = 15
"""Of confidence, equally wide (Guo et al. 2017)."""
TEMPERATURES = np.exp(np.linspace(np.log(0.05), np.log(50), 200))
LEAST_CHANCE = 1e-12


def chances(scores: np.ndarray, *, several: bool) -> np.ndarray:
    """Softmax of scores [N, K], or where there may be several labels the sigmoid of each; float64."""
    scores = scores.astype(np.float64)
    if several:
        return 1 / (1 + np.exp(-np.clip(scores, -500, 500)))
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def truth_matrix(labels: Sequence[Sequence[str]], names: Sequence[str]) -> np.ndarray:
    """Labels of texts as bool [N, K]; a label that is not among the names has no column."""
    place = {name: number for number, name in enumerate(names)}
    truth = np.zeros((len(labels), len(names)), dtype=bool)
    for row, own in enumerate(labels):
        truth[row, [place[label] for label in own if label in place]] = True
    return truth


def chosen_labels(found: np.ndarray, *, several: bool) -> np.ndarray:
    """bool [N, K] of what chances [N, K] amount to: the likeliest, or all that are likelier than not."""
    if several:
        return found > 0.5
    chosen = np.zeros(found.shape, dtype=bool)
    chosen[np.arange(len(found)), found.argmax(axis=1)] = True
    return chosen


def confidence_of(found: np.ndarray, *, several: bool) -> np.ndarray:
    """[N]: the chance of the likeliest label; where there may be several, that of the least certain decision."""
    return np.maximum(found, 1 - found).min(axis=1) if several else found.max(axis=1)


def f1_scores(chosen: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """[N, K] each -> precision, recall, F1 [3, K]; 0 where nothing was chosen or is true."""
    hits, chosen_count, true_count = (chosen & truth).sum(axis=0), chosen.sum(axis=0), truth.sum(axis=0)
    return np.stack(
        [
            hits / np.maximum(1, chosen_count),
            hits / np.maximum(1, true_count),
            2 * hits / np.maximum(1, chosen_count + true_count),
        ]
    )


def accuracies(chosen: np.ndarray, truth: np.ndarray, drawn: np.ndarray | None = None) -> np.ndarray:
    """[R] of resamples drawn [R, N], or [1] of all texts; a text counts when all of its labels are right."""
    return (chosen == truth).all(axis=1)[_all_of(truth) if drawn is None else drawn].mean(axis=1)


def macro_f1s(chosen: np.ndarray, truth: np.ndarray, drawn: np.ndarray | None = None) -> np.ndarray:
    """As `accuracies`, the mean F1 of the labels that are in truth or were chosen."""
    both, one = (chosen & truth).astype(np.float32), chosen.astype(np.float32) + truth
    macros = []
    for rows in _all_of(truth) if drawn is None else drawn:
        weights = np.bincount(rows, minlength=len(truth)).astype(np.float32)
        hits, either = weights @ both, weights @ one
        there = either > 0
        macros.append((2 * hits[there] / either[there]).mean() if there.any() else 0.0)
    return np.array(macros)


def _all_of(truth: np.ndarray) -> np.ndarray:
    return np.arange(len(truth))[None]


def confusion(chosen: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """int [K, K]: how often a text of the label of a row was given that of a column. Of one label a text alone."""
    table = np.zeros((truth.shape[1],) * 2, dtype=np.int64)
    known = truth.any(axis=1)
    np.add.at(table, (truth[known].argmax(axis=1), chosen[known].argmax(axis=1)), 1)
    return table


def calibration_error(found: np.ndarray, truth: np.ndarray, *, several: bool) -> float:
    """How far confidence lies from the share that is right, on average: ECE over BINS."""
    if several:
        sure, right = np.maximum(found, 1 - found).ravel(), ((found > 0.5) == truth).ravel()
    else:
        sure, right = found.max(axis=1), truth[np.arange(len(found)), found.argmax(axis=1)]
    places = np.minimum(BINS - 1, (sure * BINS).astype(int))
    gaps = np.abs(np.bincount(places, sure, BINS) - np.bincount(places, right.astype(float), BINS))
    return float(gaps.sum() / max(1, len(sure)))


def log_loss(found: np.ndarray, truth: np.ndarray, *, several: bool) -> float:
    """Nats a text (or, where there may be several, a decision) of chances [N, K]."""
    found = np.clip(found, LEAST_CHANCE, 1)
    if several:
        return float(-np.log(np.where(truth, found, np.clip(1 - found, LEAST_CHANCE, 1))).mean())
    return float(-np.log(found[truth]).mean())


def fitted_temperature(scores: np.ndarray, truth: np.ndarray, *, several: bool) -> float:
    """The factor on scores [N, K] whose chances say best what is true (Guo et al. 2017, their 1 / T).

    One more text than there are is taken to be wrong, so that few that are right do not make it sure beyond doubt.
    """
    doubt = 1 / (len(truth) + 2)

    def loss(factor: float) -> float:
        found = chances(factor * scores, several=several)
        wrong = log_loss(found, ~truth, several=True) if several else -np.log(np.clip(found, LEAST_CHANCE, 1)).mean()
        return (1 - doubt) * log_loss(found, truth, several=several) + doubt * float(wrong)

    return float(min(TEMPERATURES, key=loss))


def measure(found: np.ndarray, truth: np.ndarray, labels: Sequence[str], *, several: bool) -> dict[str, Any]:
    """All figures of chances [N, K], with 95 % intervals."""
    chosen = chosen_labels(found, several=several)
    precision, recall, f1 = f1_scores(chosen, truth)
    facts: dict[str, Any] = {
        "texts": len(truth),
        "accuracy": float(accuracies(chosen, truth)[0]),
        "accuracy_interval": share_interval((chosen == truth).all(axis=1)),
        "macro_f1": float(macro_f1s(chosen, truth)[0]),
        "macro_f1_interval": [*bootstrap(lambda drawn: macro_f1s(chosen, truth, drawn), len(truth))],
        "calibration_error": calibration_error(found, truth, several=several),
        "log_loss": log_loss(found, truth, several=several) if several or truth.any(axis=1).all() else None,
        "labels": {
            label: {
                "texts": int(truth[:, k].sum()),
                "given": int(chosen[:, k].sum()),
                "precision": float(precision[k]),
                "recall": float(recall[k]),
                "f1": float(f1[k]),
            }
            for k, label in enumerate(labels)
        },
    }
    if not several:
        facts["confusion"] = confusion(chosen, truth).tolist()
    return facts
