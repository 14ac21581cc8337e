"""What an encoder learns to answer from: questions with their texts, and with texts that do not hold the answer."""

from __future__ import annotations

import hashlib
import itertools
from collections import Counter
from collections.abc import Sequence

import numpy as np

from bimo.tasks.answer.retrieval import PassageIndex
from bimo.text.questions import Question
from bimo.text.split import held_out_groups
from bimo.tokens.spans import SpanFraming
from bimo.train.spans import MarkedWindow

__all__ = ["all_windows", "answerable_lessons", "others", "split_questions", "stranger_lessons", "validation_windows"]

MOST_HELD_OUT = 150
HELD_OUT_SHARE = 0.1

STRANGERS = 3
"""Of the texts that fit a question best but do not answer it, so many are taken by turns, and one by chance."""


def split_questions(questions: Sequence[Question], *, seed: int) -> tuple[list[Question], list[Question]]:
    """(To learn from, held out). No text is in both; which are held out depends on the texts and the seed alone."""
    asked = Counter(question.context for question in questions)
    texts = sorted(asked, key=lambda text: _number(text, seed))
    chosen = held_out_groups([asked[text] for text in texts], share=HELD_OUT_SHARE, most=MOST_HELD_OUT)
    held = {*itertools.compress(texts, chosen)}
    parts: tuple[list[Question], list[Question]] = ([], [])
    for question in questions:
        parts[question.context in held].append(question)
    return parts


def _number(text: str, seed: int) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}{text}".encode()).digest()[:8], "big")


def all_windows(questions: Sequence[Question], framing: SpanFraming) -> list[MarkedWindow]:
    """Windows of questions with their own texts, marked where the first answer stands in them."""
    windows = framing.windows([one.question for one in questions], [one.context for one in questions])
    found = []
    for window in windows:
        answers = questions[window.pair].answers
        places = window.places_of(answers[0].start, answers[0].end) if answers else None
        found.append(MarkedWindow(window, *(places or (0, 0))))
    return found


def answerable_lessons(questions: Sequence[Question], framing: SpanFraming, *, seed: int) -> list[MarkedWindow]:
    """Of `all_windows` those that hold the answer, and of the others of a question one by chance: with all of them
    long texts would teach little but refusing."""
    windows = all_windows(questions, framing)
    chance = np.random.default_rng(seed).random(len(windows))
    refusing: dict[int, int] = {}
    for number, one in enumerate(windows):
        best = refusing.get(one.window.pair)
        if not one.last and (best is None or chance[number] > chance[best]):
            refusing[one.window.pair] = number
    chosen = set(refusing.values())
    return [one for number, one in enumerate(windows) if one.last or number in chosen]


def validation_windows(
    questions: Sequence[Question], framing: SpanFraming, *, seed: int, count: int, most: int
) -> list[MarkedWindow]:
    """All windows of about `count` questions by chance, fewer where they have more than `most`; if others are there, of
    none whose answer is too long to stand in one, which would count as if it had no answer."""
    chosen = np.random.default_rng(seed).permutation(len(questions))
    windows = all_windows([questions[number] for number in chosen[:count]], framing)
    found: list[MarkedWindow] = []
    for number, of_question in itertools.groupby(windows, key=lambda one: one.window.pair):
        together = list(of_question)
        if any(one.last for one in together) or not questions[chosen[number]].answers:
            found += together
        if len(found) >= most:
            break
    return found or windows


def others(question: Question, texts: Sequence[str], index: PassageIndex, count: int) -> list[int]:
    """The numbers of the texts that fit a question best without being its own or holding one of its answers.

    None fit a question without an answer: whether they hold one is not known.
    """
    if not question.references:
        return []
    found = index.search(question.question, count + 8)
    fitting = [number for number in found if not _answers(question, texts[number])]
    return fitting[:count]


def _answers(question: Question, text: str) -> bool:
    plain = text.casefold()
    return text == question.context or any(one.strip().casefold() in plain for one in question.references)


def stranger_lessons(
    questions: Sequence[Question], texts: Sequence[str], index: PassageIndex, framing: SpanFraming, *, seed: int
) -> list[MarkedWindow]:
    """One window each of every other question with another text, which holds no answer."""
    paired = []
    for question in questions:
        chance, half = divmod(_number(question.question, seed), 2)
        if half or not question.references:
            continue
        near = others(question, texts, index, STRANGERS)
        chosen = [*near, chance % len(texts)][chance % (len(near) + 1)]
        if not _answers(question, texts[chosen]):
            paired.append((question.question, texts[chosen]))
    if not paired:
        return []
    windows = framing.windows(*map(list, zip(*paired, strict=True)))
    first = {window.pair: window for window in reversed(windows)}
    return [MarkedWindow(window, 0, 0) for window in first.values()]
