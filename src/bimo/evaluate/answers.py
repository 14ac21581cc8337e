"""How well a reader answers the questions of a file: from their own texts, and where other texts lead astray."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from bimo.console import SILENT, Console
from bimo.runtime import USAGE, UserError
from bimo.tasks.answer.measuring import TRIED_WITH, score, score_lines, try_questions
from bimo.tasks.answer.reading import load_reader
from bimo.tasks.answer.retrieval import PassageIndex
from bimo.tasks.folder import tell_refused
from bimo.text.questions import read_questions

__all__ = ["answers_lines", "evaluate_answers"]

SHOWN = 5


def evaluate_answers(model: Path, source: Path, *, console: Console = SILENT) -> dict[str, Any]:
    """Ask every question of a file in the shape of SQuAD; returns facts as JSON.

    Exact match and F1 by the rules of SQuAD, or of CMRC 2018 where the text is Chinese; `refused` is the share of
    questions to which nothing is answered from the texts that are most like their own but hold no answer.
    """
    if source.is_dir():
        sentence = "A model that answers is evaluated on a file of questions, but {source} is a folder."
        raise UserError(sentence, code=USAGE, source=source)
    reader, found = load_reader(model), read_questions(source)
    console.say("Read", found.describe())
    tell_refused(found.refused, console, kept=False)
    texts = sorted({question.context for question in found.kept})
    with console.progress("Evaluate", 1.0):
        trials = try_questions(reader, found.kept, texts, PassageIndex(texts), count=TRIED_WITH)
    own = [(trial.question, trial.own) for trial in trials if trial.own is not None]
    worst = sorted(own, key=lambda pair: pair[1].f1)[:SHOWN]
    return {
        "task": "answer",
        "model": str(model),
        "file": str(source),
        "refused_rows": len(found.refused),
        "scores": score(trials, np.full(len(trials), reader.config.calibration.threshold)),
        "mistakes": [
            {"question": question.question, "reference": question.references[0], "answer": attempt.text}
            for question, attempt in worst
            if not attempt.exact
        ],
    }


def answers_lines(facts: dict[str, Any]) -> list[str]:
    """The figures for people, and the worst answers."""
    shown = (f"  {one['question']} {one['answer']} ({one['reference']})" for one in facts["mistakes"])
    return [*score_lines(facts["scores"]), *shown]
