"""A language model that writes an answer from passages, and names those that it is from."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bimo.generate.engine import LanguageModel, load
from bimo.generate.sample import Sampling
from bimo.runtime import UserError
from bimo.tasks.answer.passages import Passage
from bimo.tasks.answer.scoring import is_chinese
from bimo.tokens.chat import Message

__all__ = ["cited_in", "load_writer", "written_answer"]

MOST_TOKENS = 160
GREEDY = Sampling(temperature=0.0)
CITED = re.compile(r"[\[【](\d{1,2})[\]】]")

TASK_EN = "Answer the question from the numbered passages only. Name the passage after each statement, like [1]."
TASK_ZH = "只根据下面编号的段落回答问题。每句话后面注明段落的编号，例如 [1]。"


def load_writer(path: Path, *, device: str = "auto") -> Any:
    """What writes an answer to a question from passages. Raises UserError when the model cannot be talked with."""
    model = load(path, device=device)
    model.chat.require_usable()
    return lambda question, passages: written_answer(model, question, passages)


def written_answer(model: LanguageModel, question: str, passages: Sequence[Passage]) -> dict[str, Any]:
    """`text`, and the passages that are `cited` in it, of which as many are shown to the model as it can read."""
    shown = list(passages)
    while len(model.chat.prompt(messages := _messages(question, shown))) > model.config.context - MOST_TOKENS:
        if not shown:
            raise UserError("The model that is to write reads too few tokens for a question and an answer.")
        shown.pop()
    text = "".join(model.reply(messages, max_tokens=MOST_TOKENS, sampling=GREEDY)).strip()
    return {
        "text": text,
        "shown": len(shown),
        "cited": [{"number": number, **shown[number - 1]._asdict()} for number in cited_in(text, len(shown))],
    }


def _messages(question: str, passages: Sequence[Passage]) -> list[Message]:
    numbered = "\n\n".join(f"[{number}] {passage.text}" for number, passage in enumerate(passages, 1))
    task = TASK_ZH if is_chinese(question) else TASK_EN
    return [{"role": "user", "content": f"{task}\n\n{numbered}\n\n{question}"}]


def cited_in(text: str, count: int) -> list[int]:
    """The numbers that a text names of `count` passages, each once, in order."""
    numbers = (int(match[1]) for match in CITED.finditer(text))
    return sorted({number for number in numbers if 1 <= number <= count})
