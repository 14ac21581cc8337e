"""Questions with answers to choose from, decided by what a model holds likeliest.

Each form is versioned: the same model and file give the same figure for the same version. Prompts are laid out as
lm-evaluation-harness does for the tasks that it has (docs/decisions.md).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bimo.console import SILENT, Console
from bimo.generate.engine import LanguageModel
from bimo.generate.sample import require_numbers
from bimo.intervals import paired_mean_difference, share_interval
from bimo.runtime import DATA_REFUSED, UserError, t
from bimo.text.documents import Rejected
from bimo.text.opening import Reading
from bimo.text.rejections import place_in
from bimo.text.rows import read_rows
from bimo.text.sources import SourceFile

__all__ = [
    "FORMS",
    "Form",
    "Question",
    "choice_lines",
    "evaluate_choices",
    "form_in",
    "other_share_line",
    "read_questions",
]

FIRST_ROWS = 100
"""Of a file that tell its form."""

TOGETHER = 256
"""Questions that are scored together."""

CONNECTORS = {"cause": "因为", "effect": "所以"}
LETTERS = "ABCDEFGHIJ"


@dataclass(frozen=True)
class Question:
    """What stands before the answers, the answers to choose from, and which of them is right."""

    context: str
    answers: tuple[str, ...]
    right: int


@dataclass(frozen=True)
class Form:
    """A shape of rows: its name, the columns that tell it, and how a row is read."""

    name: str
    version: int
    columns: tuple[str, ...]
    read: Callable[[dict[str, Any]], Question]


def _minimal_pair(row: dict[str, Any]) -> Question:
    return Question("", tuple(f" {_text(row[name])}" for name in ("sentence_good", "sentence_bad")), 0)


def _causal_choice(row: dict[str, Any]) -> Question:
    context = f"{row['premise'].strip()[:-1]} {CONNECTORS[row['question']]}"
    answers = (row[f"choice{number}"] for number in (1, 2))
    return Question(context, tuple(f" {text[:1].lower()}{text[1:]}" for text in answers), int(row["label"]))


def _multiple_choice(row: dict[str, Any]) -> Question:
    answers, right = row["choices"], row["answer"]
    if not isinstance(answers, list) or len(answers) < 2:
        raise ValueError
    if any(text is None or isinstance(text, list | dict) for text in answers):
        raise TypeError
    if isinstance(right, str):
        texts = [str(text).strip() for text in answers]
        named = right.strip()
        # An answer may be a letter itself, as blood groups are.
        right = texts.index(named) if named in texts else [*LETTERS].index(named.upper())
    return Question(_text(row["question"]), tuple(f" {text}" for text in answers), int(right))


def _text(value: Any) -> str:
    """A text as it is; raises TypeError for anything else."""
    if not isinstance(value, str):
        raise TypeError
    return value


FORMS = (
    Form("minimal pairs", 2, ("sentence_good", "sentence_bad"), _minimal_pair),
    Form("causal choice", 2, ("premise", "choice1", "choice2", "question", "label"), _causal_choice),
    Form("multiple choice", 3, ("question", "choices", "answer"), _multiple_choice),
)
"""BLiMP (Warstadt et al. 2020), XCOPA in Chinese (Ponti et al. 2020), and questions with a list of choices."""


def form_in(path: Path) -> Form | None:
    """The form of the rows of a table; None where they are of no known one."""
    if not path.is_file():
        return None
    first = [row for _, row in itertools.islice(_rows(path, lambda rejected: None), FIRST_ROWS)]
    return next((form for form in FORMS if any(set(form.columns) <= row.keys() for row in first)), None)


def _rows(path: Path, refuse: Callable[[Rejected], None]) -> Iterator[tuple[int, dict[str, Any]]]:
    named = {column for form in FORMS for column in form.columns}
    return read_rows(SourceFile(path, path.name, path.stat().st_size, chosen=True), Reading(refuse, named=named))


def read_questions(path: Path, form: Form, *, console: Console = SILENT) -> list[Question]:
    """All questions of a file. Rows that are none are told and left out; raises UserError when no row is one."""
    found = []
    for number, row in _rows(path, lambda rejected: console.warn(str(rejected))):
        try:
            question = form.read(row)
            if not 0 <= question.right < len(question.answers):
                raise ValueError
        except (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError):
            console.warn(
                t("{where} is no question of the form “{form}”", where=place_in(path.name, number), form=form.name)
            )
            continue
        found.append(question)
    if not found:
        raise UserError("{path} holds no question of the form “{form}”.", code=DATA_REFUSED, path=path, form=form.name)
    return found


def evaluate_choices(
    model: LanguageModel,
    path: Path,
    form: Form,
    *,
    against: LanguageModel | None = None,
    console: Console = SILENT,
) -> dict[str, Any]:
    """How often the right answer is the likeliest, as a whole and for each character, with 95 % intervals. One of
    several that are as likely counts for its share.

    `against` is another model, compared on the same questions.
    """
    questions = read_questions(path, form, console=console)
    right = _right(model, questions, console)
    cut = sum(_is_cut(model, question) for question in questions)
    if cut:
        sentence = "{count:,} of {questions:,} questions are longer than the model reads: their beginning is left out"
        console.warn(t(sentence, count=cut, questions=len(questions)))
    facts: dict[str, Any] = {
        "task": "choices",
        "form": form.name,
        "version": form.version,
        "questions": len(questions),
        "cut": cut,
        "accuracy": float(right[0].mean()),
        "accuracy_interval": share_interval(right[0]),
        "accuracy_by_length": float(right[1].mean()),
        "accuracy_by_length_interval": share_interval(right[1]),
        "chance": float(np.mean([1 / len(question.answers) for question in questions])),
    }
    if against is not None:
        theirs = _right(against, questions, console)
        low, high, p = paired_mean_difference(right[0], theirs[0])
        facts["against"] = {"accuracy": float(theirs[0].mean()), "difference_interval": [low, high], "p": p}
    return facts


def _right(model: LanguageModel, questions: list[Question], console: Console) -> np.ndarray:
    """Whether the right answer is the likeliest as a whole, and for each character: [2, N], shares where it is one of
    several. Raises UserError when a likelihood is no number."""
    right = np.zeros((2, len(questions)))
    with console.progress("Evaluate", len(questions)) as update:
        for start in range(0, len(questions), TOGETHER):
            group = questions[start : start + TOGETHER]
            pairs = [(question.context, answer) for question in group for answer in question.answers]
            found = iter(model.loglikelihoods(pairs))
            for number, question in enumerate(group, start):
                scores = np.array([each.logarithm for each in itertools.islice(found, len(question.answers))])
                require_numbers(scores)
                lengths = np.array([max(1, len(answer) - 1) for answer in question.answers])
                right[:, number] = [_credit(each, question.right) for each in (scores, scores / lengths)]
            update(start + len(group), "")
    return right


def _is_cut(model: LanguageModel, question: Question) -> bool:
    """Whether some answer does not fit behind the whole question."""
    longest = max(question.answers, key=len)
    return len(model.tokenizer.encode(question.context + longest)) > model.config.context


def _credit(scores: np.ndarray, right: int) -> float:
    """1 where the answer `right` alone has the best of the scores [K], its share where several have it."""
    best = scores == scores.max()
    return float(best[right] / best.sum())


def choice_lines(facts: dict[str, Any]) -> list[str]:
    """The figures for people."""
    low, high = facts["accuracy_interval"]
    lines = [
        t(
            "{form} (version {version}), {questions:,} questions: {accuracy:.1%} right (95 % interval "
            "{low:.1%}-{high:.1%}), {by_length:.1%} by the likelihood of a character; {chance:.1%} by chance",
            form=facts["form"],
            version=facts["version"],
            questions=facts["questions"],
            accuracy=facts["accuracy"],
            low=low,
            high=high,
            by_length=facts["accuracy_by_length"],
            chance=facts["chance"],
        )
    ]
    if "against" in facts:
        lines.append(other_share_line(facts["against"]["accuracy"], facts["against"]))
    return lines


def other_share_line(share: float, against: dict[str, Any]) -> str:
    """The share that another model reached, and how sure the difference is, for people."""
    low, high = against["difference_interval"]
    return t(
        "The other model: {share:.1%}; difference from {low:+.1%} to {high:+.1%} in 95 % of resamples, p {p:.3f}",
        share=share,
        low=low,
        high=high,
        p=against["p"],
    )
