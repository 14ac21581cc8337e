"""How well a reader answers questions that it was not taught with, and what its margins therefore mean."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bimo.intervals import mean_interval, share_interval
from bimo.runtime import t
from bimo.tasks.answer.lessons import others
from bimo.tasks.answer.reading import Calibration, Reader, Reading
from bimo.tasks.answer.retrieval import PassageIndex, terms
from bimo.tasks.answer.scoring import exact_match, f1, is_chinese
from bimo.text.questions import Question
from bimo.text.segment import split_sentences
from bimo.text.split import split_position

__all__ = [
    "TRIED_WITH",
    "Attempt",
    "Trial",
    "baseline_answer",
    "calibrate",
    "own_thresholds",
    "score",
    "score_lines",
    "try_questions",
]

TRIED_WITH = 4
"""Other texts that a question is tried with."""

RIGHT = 0.5
"""An answer with at least this F1 is right as far as confidence is concerned."""

LEAST_REFUSED = 0.85
"""Of the questions that the texts do not answer."""


@dataclass(frozen=True)
class Attempt:
    """What was answered to a question, and how that agrees with the references."""

    text: str
    margin: float
    exact: bool
    f1: float


@dataclass(frozen=True)
class Trial:
    """A question answered from its own text, from those that search finds, and from those of them that are others.

    `own` is None for a question that its text does not answer.
    """

    question: Question
    own: Attempt | None
    found: Attempt
    wrong: Attempt


def try_questions(
    reader: Reader, questions: Sequence[Question], texts: Sequence[str], index: PassageIndex, *, count: int
) -> list[Trial]:
    """Each question with its own text and with the `count` others that fit it best."""
    read: list[tuple[Question, str, int]] = []
    for number, question in enumerate(questions):
        near = [texts[place] for place in others(question, texts, index, count)]
        read += [(question, text, number) for text in [question.context, *near]]
    readings = reader.read([question.question for question, _, _ in read], [text for _, text, _ in read])
    of_each: list[list[tuple[str, Reading]]] = [[] for _ in questions]
    for (_, text, number), reading in zip(read, readings, strict=True):
        of_each[number].append((text, reading))
    return [_trial(question, pairs) for question, pairs in zip(questions, of_each, strict=True)]


def _trial(question: Question, pairs: list[tuple[str, Reading]]) -> Trial:
    own, *rest = [attempt(question, text[reading.start : reading.end], reading.margin) for text, reading in pairs]
    best = max((own, *rest), key=lambda one: one.margin)
    wrong = max(rest, key=lambda one: one.margin, default=Attempt("", -np.inf, False, 0.0))
    if not question.answers:
        return Trial(question, None, best, best)
    return Trial(question, own, best, wrong)


def attempt(question: Question, text: str, margin: float) -> Attempt:
    """What an answer is worth."""
    if not question.references:
        return Attempt(text, margin, False, 0.0)
    chinese = is_chinese(question.context)
    references = question.references
    return Attempt(text, margin, exact_match(text, references, chinese=chinese), f1(text, references, chinese=chinese))


def calibrate(trials: Sequence[Trial]) -> Calibration:
    """What margins mean: the chance that an answer is right by logistic regression, and from where on it is given.

    The threshold is the one with the best mean of F1 where the texts hold the answer and of the share refused where
    they do not, among those that refuse LEAST_REFUSED of the latter.
    """
    found = [trial.found for trial in trials if trial.own is not None]
    wrong = [trial.wrong for trial in trials if np.isfinite(trial.wrong.margin)]
    margins = np.array([one.margin for one in [*found, *wrong]], dtype=np.float64)
    right = np.array([*(one.f1 >= RIGHT for one in found), *(False for _ in wrong)], dtype=np.float64)
    slope, intercept = _logistic(margins, right)
    return Calibration(slope, intercept, _threshold(found, wrong))


def _threshold(found: Sequence[Attempt], wrong: Sequence[Attempt]) -> float:
    """See `calibrate`. It lies half-way between two margins, or beyond all of them."""
    order = sorted(found, key=lambda one: one.margin)
    margins = np.unique([one.margin for one in [*found, *wrong]])
    candidates = np.concatenate([[margins[0] - 1.0], (margins[1:] + margins[:-1]) / 2, [margins[-1] + 1.0]])
    refused = np.searchsorted(np.sort([one.margin for one in wrong]), candidates) / max(1, len(wrong))
    refused = refused if wrong else np.ones(len(candidates))
    below = np.concatenate([[0.0], np.cumsum([one.f1 for one in order])])
    given = (below[-1] - below[np.searchsorted([one.margin for one in order], candidates)]) / max(1, len(found))
    return float(candidates[np.argmax(np.where(refused >= LEAST_REFUSED, refused + given, -1.0))])


def _logistic(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """(slope, intercept) of the likeliest 1 / (1 + exp(-(slope x + intercept))), by Newton's steps.

    Targets are drawn in a little, as Platt 1999 does, so that it exists where the two kinds are apart.
    """
    ones = y.sum()
    y = np.where(y > 0, (ones + 1) / (ones + 2), 1 / (len(y) - ones + 2))
    mean, spread = x.mean(), x.std() or 1.0
    inputs = np.stack([(x - mean) / spread, np.ones_like(x)], axis=1)
    weights = np.zeros(2)
    for _ in range(50):
        p = 1 / (1 + np.exp(-np.clip(inputs @ weights, -30, 30)))
        curvature = (inputs.T * (p * (1 - p))) @ inputs + 1e-6 * np.eye(2)
        weights += np.linalg.solve(curvature, inputs.T @ (y - p))
    if weights[0] <= 0:
        # A larger margin that says less is chance: then margins say nothing.
        return 0.0, float(np.log(y.mean() / (1 - y.mean())))
    slope = weights[0] / spread
    return float(slope), float(weights[1] - slope * mean)


def own_thresholds(trials: Sequence[Trial]) -> np.ndarray:
    """[N]: for each trial the threshold that the other half of them gives, so that it is judged by none that it helped
    to choose. Questions on one text are in the same half; where there is but one half, its own threshold is all there
    is."""
    texts = sorted({trial.question.context for trial in trials}, key=lambda text: split_position(text, 0))
    place = {text: number for number, text in enumerate(texts)}
    second = np.array([place[trial.question.context] % 2 == 1 for trial in trials], dtype=bool)
    thresholds = np.empty(len(trials))
    for half in (second, ~second):
        others = [trial for trial, inside in zip(trials, half, strict=True) if not inside]
        thresholds[half] = calibrate(others or trials).threshold
    return thresholds


def score(trials: Sequence[Trial], thresholds: np.ndarray) -> dict[str, Any]:
    """Exact match and F1 with their 95 % intervals where an answer is asked for whatever the margin; and of answers
    given from the thresholds [N] on: how many, how good, how many refused where the texts hold none."""
    pairs = list(zip(trials, thresholds.tolist(), strict=True))
    own = [trial.own for trial in trials if trial.own is not None]
    found = [(trial.found, threshold) for trial, threshold in pairs if trial.own is not None]
    wrong = [(trial.wrong, threshold) for trial, threshold in pairs if np.isfinite(trial.wrong.margin)]
    facts: dict[str, Any] = {"questions": len(own), "unanswerable": len(wrong)}
    if own:
        for name, interval in (("exact", share_interval), ("f1", mean_interval)):
            values = np.array([getattr(one, name) for one in own], dtype=float)
            facts[name], facts[f"{name}_interval"] = float(values.mean()), interval(values)
        given = [one for one, threshold in found if one.margin >= threshold]
        facts["answered"] = len(given) / len(found)
        facts["f1_of_answers"] = float(np.mean([one.f1 for one in given])) if given else 0.0
        facts["baseline_f1"] = float(
            np.mean(
                [
                    attempt(trial.question, baseline_answer(trial.question.question, trial.question.context), 0.0).f1
                    for trial in trials
                    if trial.own is not None
                ]
            )
        )
    if wrong:
        facts["refused"] = float(np.mean([one.margin < threshold for one, threshold in wrong]))
    return facts


def score_lines(scores: dict[str, Any]) -> list[str]:
    """What `score` found, for people."""
    lines = []
    if "f1" in scores:
        lines.append(
            t(
                "Questions on texts not seen: exact match {exact:.1%}, F1 {f1:.1%} ({low:.1%} to {high:.1%}); "
                "the sentence with most words of the question: F1 {baseline:.1%}",
                exact=scores["exact"],
                f1=scores["f1"],
                low=scores["f1_interval"][0],
                high=scores["f1_interval"][1],
                baseline=scores["baseline_f1"],
            )
        )
    if {"refused", "answered"} <= scores.keys():
        lines.append(
            t(
                "Where the texts hold no answer, {refused:.1%} is refused; where they do, {answered:.1%} is answered, "
                "with an F1 of {f1:.1%}",
                refused=scores["refused"],
                answered=scores["answered"],
                f1=scores["f1_of_answers"],
            )
        )
    elif "refused" in scores:
        lines.append(t("Where the texts hold no answer, {refused:.1%} is refused", refused=scores["refused"]))
    return lines


def baseline_answer(question: str, text: str) -> str:
    """Without a model: the sentence that has most terms of the question, after Rajpurkar et al. 2016, section 5.1."""
    asked = set(terms(question))
    return max(split_sentences(text), key=lambda sentence: len(asked & set(terms(sentence))), default="").strip()
