"""A language model that writes an answer from passages; each of its sentences is traced to the passage that says so."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bimo.generate.engine import LanguageModel, load
from bimo.generate.sample import Sampling
from bimo.runtime import UserError
from bimo.tasks.answer.passages import Passage
from bimo.tasks.answer.retrieval import telling_words
from bimo.tasks.answer.scoring import is_chinese
from bimo.text.segment import split_sentences
from bimo.tokens.chat import Message

__all__ = ["load_writer", "source_of", "written_answer"]

MOST_TOKENS = 120
GREEDY = Sampling(temperature=0.0)
_MARK = r"\s*[\[【](\d{1,2}(?:\s*[,，、]\s*\d{1,2})*)[\]】]"
CITED, CITED_BEHIND = re.compile(_MARK), re.compile(rf"([.!?。！？])((?:{_MARK})+)")

NUMBER = re.compile(r"\d{1,3}(?:,\d{3})+(?!\d)(?:\.\d+)?|\d+(?:[.:：]\d+)*")
"""With commas between thousands, or with points or colons, as shares, times and versions have them."""

LEAST_SHARED = 0.6
"""Of the words of a sentence, so many must stand in a passage that it is traced to, and all of its numbers."""

TASKS = {
    False: "Passages:\n{passages}\n\nAnswer briefly and cite the passage number in brackets.\n{question}",
    True: "段落：\n{passages}\n\n请简短回答，并用方括号注明段落编号。\n{question}",
}


def load_writer(path: Path, *, device: str = "auto") -> Callable[[str, Sequence[Passage]], dict[str, Any]]:
    """What writes an answer to a question from passages. Raises UserError when the model cannot be talked with."""
    model = load(path, device=device)
    model.chat.require_answering()
    return lambda question, passages: written_answer(model, question, passages)


def written_answer(model: LanguageModel, question: str, passages: Sequence[Passage]) -> dict[str, Any]:
    """`text`; its `sentences`, each with the number of the passage it is from or null; and the passages `cited`.

    As many passages are shown to the model as it can read, the first in any case. Raises UserError when it cannot.
    """
    shown = list(passages)
    while len(model.chat.prompt(messages := _messages(question, shown))) > model.config.context - MOST_TOKENS:
        if len(shown) <= 1:
            raise UserError(
                "The model that is to write reads at most {context:,} tokens, too few for a question, a passage and an "
                "answer. Name one that reads more with --writer, or leave it out.",
                context=model.config.context,
            )
        shown.pop()
    text = "".join(model.reply(messages, max_tokens=MOST_TOKENS, sampling=GREEDY)).strip()
    # A mark behind the full stop belongs to the sentence before it.
    joined = CITED_BEHIND.sub(lambda match: match[2] + match[1], text)
    sentences = [sentence.strip() for sentence in split_sentences(joined) if sentence.strip()]
    sources = [source_of(sentence, shown) for sentence in sentences]
    return {
        "text": text,
        "sentences": [
            {"text": CITED.sub("", sentence), "passage": source}
            for sentence, source in zip(sentences, sources, strict=True)
        ],
        "cited": [
            {"number": number, **shown[number - 1]._asdict()} for number in sorted({one for one in sources if one})
        ],
    }


def _messages(question: str, passages: Sequence[Passage]) -> list[Message]:
    numbered = "\n".join(f"[{number}] {passage.text}" for number, passage in enumerate(passages, 1))
    return [{"role": "user", "content": TASKS[is_chinese(question)].format(passages=numbered, question=question)}]


def source_of(sentence: str, passages: Sequence[Passage]) -> int | None:
    """The number, from 1, of the passage that a sentence is from: the one it names, else the one with most of its
    words, but LEAST_SHARED of them. None where there is none, for then nothing says that the documents say so."""
    bare = CITED.sub("", sentence)
    said, numbers = set(telling_words(bare)), numbers_in(bare)
    shares = [
        len(said & set(telling_words(passage.text))) / max(1, len(said)) if numbers <= numbers_in(passage.text) else 0.0
        for passage in passages
    ]
    named = [int(number) for marks in CITED.findall(sentence) for number in re.findall(r"\d+", marks)]
    candidates = [number for number in named if 1 <= number <= len(passages)] or range(1, len(passages) + 1)
    best = max(candidates, key=lambda number: shares[number - 1], default=None)
    return best if best is not None and shares[best - 1] >= LEAST_SHARED else None


def numbers_in(text: str) -> set[str]:
    """The numbers of a text in one form: without commas between thousands, and in ASCII."""
    return {unicodedata.normalize("NFKC", number).replace(",", "") for number in NUMBER.findall(text)}
