"""Questions on texts from the files people have: SQuAD 1.1 and 2.0, CMRC 2018's own names, and flat rows.

An answer is a piece of its text, given with the place where it begins. Places that do not match are repaired where the
answer stands elsewhere in the text; what cannot be is set aside with the reason.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from bimo.runtime import DATA_REFUSED, UserError, is_text, t
from bimo.text.documents import Rejected
from bimo.text.json_values import json_values

__all__ = ["Question", "Questions", "Span", "find_nearest", "read_questions"]

CONTEXTS, QUESTIONS = ("context", "context_text"), ("question", "query_text")
"""What files call the text and the question: SQuAD, CMRC 2018."""


class Span(NamedTuple):
    """A piece of a text, and the character at which it begins."""

    text: str
    start: int

    @property
    def end(self) -> int:
        """The character behind it."""
        return self.start + len(self.text)


@dataclass(frozen=True)
class Question:
    """A question on a text, and its answers where they stand there; none where the text has no answer.

    `row` counts the questions of the file from 1; `references` are all answers that count as right, as they are given.
    """

    row: int
    question: str
    context: str
    answers: tuple[Span, ...]
    references: tuple[str, ...]


class _NoQuestion(Exception):
    """Why a question is refused, as a sentence."""


@dataclass
class Questions:
    """What a file holds. `refused` are questions set aside, because no answer stands in the text or for other reasons.

    `repaired` counts answers whose place was wrong, `unplaced` those that stand nowhere while another of theirs does.
    """

    path: Path
    kept: list[Question] = field(default_factory=list)
    refused: list[Rejected] = field(default_factory=list)
    repaired: int = 0
    unplaced: int = 0
    forms: Counter[str] = field(default_factory=Counter)

    def describe(self) -> str:
        """Such as `1,002 questions on 256 texts in the form of SQuAD`."""
        return t(
            "{count:,} questions on {texts:,} texts in the form of {forms}; {none:,} without an answer; of the answers "
            "{repaired:,} had a wrong place, which is repaired, and {unplaced:,} do not stand in their text",
            count=len(self.kept),
            texts=len({question.context for question in self.kept}),
            forms=t(", ").join(self.forms),
            none=sum(not question.answers for question in self.kept),
            repaired=self.repaired,
            unplaced=self.unplaced,
        )


def read_questions(path: Path) -> Questions:
    """All questions of a JSON or JSON Lines file, packed or not. Raises UserError when it holds none."""
    found, row = Questions(path), 0
    for _, value in json_values(path, found.refused.append):
        for form, context, asked in _questions_in(value):
            row += 1
            try:
                found.kept.append(_question(row, context, asked, found))
            except _NoQuestion as reason:
                found.refused.append(Rejected(path.name, row, "bad_row", str(reason), str(asked)[:200]))
                continue
            found.forms[form] += 1
    if not found.kept:
        raise UserError(
            "There is no question in {path}{first}. Bimo reads files as SQuAD and CMRC 2018 have them, and rows with "
            "question, context and answers.",
            code=DATA_REFUSED,
            path=path,
            first=f" ({found.refused[0]})" if found.refused else "",
        )
    return found


def _questions_in(value: Any) -> Iterator[tuple[str, Any, Any]]:
    """(form, context, question) of what stands in a value of the file."""
    if not isinstance(value, dict):
        yield "", None, value
        return
    for key in ("data", "paragraphs"):
        if isinstance(value.get(key), list):
            for inner in value[key]:
                yield from _questions_in(inner)
            return
    context = _first(value, CONTEXTS)
    if isinstance(value.get("qas"), list):
        form = "SQuAD" if CONTEXTS[0] in value else "CMRC 2018"
        yield from ((form, context, asked) for asked in value["qas"])
    else:
        yield "question/context/answers", context, value


def _first(value: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    return next((value[name] for name in names if name in value), None)


def _question(row: int, context: Any, asked: Any, found: Questions) -> Question:
    if not isinstance(asked, dict):
        raise _NoQuestion(t("it is not an object"))
    question = _first(asked, QUESTIONS)
    for text, what in ((question, t("question")), (context, t("text"))):
        if not isinstance(text, str) or not text.strip():
            raise _NoQuestion(t("it has no {what}", what=what))
        if not is_text(text):
            raise _NoQuestion(t("its {what} holds half a character", what=what))
    answers_given = asked.get("answers")
    texts = answers_given.get("text") if isinstance(answers_given, dict) else answers_given
    if asked.get("is_impossible") is True or texts == []:
        return Question(row, question, context, (), ())
    given = list(_answers(answers_given))
    if not given:
        raise _NoQuestion(t("it has no answers, and does not say that there is none"))
    placed = [_placed(context, text, start) for text, start in given]
    answers = [span for span in placed if span is not None]
    if not answers:
        raise _NoQuestion(t("its answer {answer!r:.60} does not stand in its text", answer=given[0][0]))
    found.unplaced += len(given) - len(answers)
    found.repaired += sum(
        start is not None and span is not None and not context.startswith(text, start)
        for (text, start), span in zip(given, placed, strict=True)
    )
    references = dict.fromkeys(text for text, _ in given)
    return Question(row, question, context, tuple(dict.fromkeys(answers)), tuple(references))


def _answers(value: Any) -> Iterator[tuple[str, int | None]]:
    """(text, where it begins): SQuAD's list of objects, CMRC's list of texts, or an object of two lists."""
    if isinstance(value, dict):
        texts, starts = value.get("text"), value.get("answer_start")
        if isinstance(texts, list) and isinstance(starts, list) and len(texts) == len(starts):
            value = [{"text": text, "answer_start": start} for text, start in zip(texts, starts, strict=True)]
        else:
            value = [value]
    for one in value if isinstance(value, list) else [value]:
        text, start = (one.get("text"), one.get("answer_start")) if isinstance(one, dict) else (one, None)
        if isinstance(text, str) and text.strip():
            yield text, _whole_number(start)


def _whole_number(value: Any) -> int | None:
    """A number as tables spell it, too: 515.0, or "515"."""
    if isinstance(value, str) and value.strip().isdecimal():
        return int(value)
    whole = isinstance(value, int | float) and not isinstance(value, bool) and value == value // 1
    return int(value) if whole else None


def _placed(context: str, text: str, start: int | None) -> Span | None:
    """The answer without blanks around it, where it stands; None if it stands nowhere."""
    bare = text.strip()
    wanted = None if start is None else start + text.index(bare)
    if wanted is not None and wanted >= 0 and context.startswith(bare, wanted):
        return Span(bare, wanted)
    place = find_nearest(context, bare, wanted or 0)
    return None if place is None else Span(bare, place)


def find_nearest(text: str, piece: str, place: int) -> int | None:
    """Where `piece` stands in a text, nearest to a place, but rather by itself than inside a word; None if nowhere."""
    places = [match.start() for match in re.finditer(f"(?={re.escape(piece)})", text)]
    apart = [found for found in places if not _in_word(text, found) and not _in_word(text, found + len(piece))]
    return min(apart or places, key=lambda found: abs(found - place), default=None)


def _in_word(text: str, place: int) -> bool:
    """Whether a word goes on at a place; of scripts that put no blanks between words that is not known."""
    around = text[max(0, place - 1) : place + 1]
    return len(around) == 2 and all(character.isalnum() and character < "\u2e80" for character in around)
