"""Messages -> ids, as a model's own template lays them out, and which of these ids an answer is made of.

Nothing that a message says becomes a control token: what stands between control tokens is encoded as plain text.
"""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bimo.runtime import UserError
from bimo.tokens.template import ChatTemplate
from bimo.tokens.tokenizer import Tokenizer

__all__ = ["ROLES", "ChatFormat", "Lesson", "Message", "own_template"]

Message = dict[str, str]
"""`role`, one of ROLES, and `content`."""

ROLES = ("system", "user", "assistant", "tool")

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
PLAIN = (
    "{{ eos_token }}{% for message in messages %}{{ message['role'] + '\\n' + message['content'] + eos_token }}"
    "{% endfor %}{% if add_generation_prompt %}{{ 'assistant\\n' }}{% endif %}"
)
"""For tokenizers with no control token but the end of a text: it stands between messages as between documents."""

LONGEST_SOUGHT, MOST_SOUGHT = 64, 64
"""Characters and number of the texts that a template may look for in messages: with more it would cost time."""

NOWHERE = r"(?!)"
"""An expression that matches no text, for tokenizers without control tokens."""

PRIVATE_USE = range(0xF0000, 0xFFFFE)


def own_template(tokenizer: Tokenizer) -> str:
    """The template for a model that came without one: it needs no token that the tokenizer does not have."""
    controls = {token.content for token in tokenizer.inner.get_added_tokens_decoder().values() if token.special}
    return CHATML if {"<|im_start|>", "<|im_end|>"} <= controls else PLAIN


@dataclass(frozen=True)
class Lesson:
    """Ids to read, and for each whether it belongs to an answer, so that its loss counts."""

    ids: list[int]
    counted: list[bool]

    @property
    def answer(self) -> list[int]:
        """The ids that count."""
        return [id for id, counted in zip(self.ids, self.counted, strict=True) if counted]


@dataclass(frozen=True)
class _Control:
    id: int
    eats_left: bool
    eats_right: bool


QUESTION_AND_ANSWER: tuple[Message, ...] = ({"role": "user", "content": "a"}, {"role": "assistant", "content": "b"})
"""The shortest conversation."""


class ChatFormat:
    """How messages are laid out for one model; `names` are special tokens by role, above the tokenizer's."""

    def __init__(self, tokenizer: Tokenizer, source: str, *, names: dict[str, str] | None = None) -> None:
        self.tokenizer = tokenizer
        self.template = ChatTemplate(source)
        self._names = {"eos_token": tokenizer.inner.id_to_token(tokenizer.end), **tokenizer.special, **(names or {})}
        self._controls = {
            token.content: _Control(number, token.lstrip, token.rstrip)
            for number, token in tokenizer.inner.get_added_tokens_decoder().items()
            if token.special
        }
        longest_first = sorted(self._controls, key=len, reverse=True)
        self._control = re.compile(f"({'|'.join(map(re.escape, longest_first)) or NOWHERE})")
        self._seam = _seams(longest_first)
        self._edge = _edges(longest_first)
        sought = (text for text in self.template.constants if len(text) <= LONGEST_SOUGHT and self._edge.search(text))
        longest = sorted(sought, key=lambda text: (-len(text), text))[:MOST_SOUGHT]
        self._sought = re.compile(f"(?=({'|'.join(map(re.escape, longest))}))") if longest else None

    def require_usable(self) -> None:
        """Raises UserError when the template cannot lay out a question and its answer, so that it is said but once."""
        if not any(self.lessons(QUESTION_AND_ANSWER)[0].counted):
            raise UserError("The chat template leaves out what the assistant says, so that nothing can be learned.")

    def require_answering(self, before: Sequence[Message] = ()) -> None:
        """Raises UserError when the template cannot ask for an answer, to a question behind the messages `before` it;
        whether one could be learned does not matter."""
        self.prompt([*before, QUESTION_AND_ANSWER[0]])

    @functools.cached_property
    def closing(self) -> int | None:
        """The control token that ends an answer, which a model is taught to write and stopped at; None where there is
        none, or where it cannot be told, such as of templates that begin an answer with what they leave out later."""
        try:
            answer = self.lessons(QUESTION_AND_ANSWER)[0].answer
        except UserError:
            return None
        return answer[-1] if answer and answer[-1] in self._control_ids else None

    @functools.cached_property
    def _control_ids(self) -> frozenset[int]:
        return frozenset(control.id for control in self._controls.values())

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """The ids after which the assistant's next message is written. Raises UserError."""
        mark = self._unused_character(messages)
        return [id for id, _ in self._encode(self._render(messages, mark, answer=True), mark)]

    def text(self, messages: Sequence[Message], *, answer: bool = False) -> str:
        """What the template makes of messages, to look at."""
        mark = self._unused_character(messages)
        return self._render(messages, mark, answer=answer).replace(mark, "")

    def lessons(self, messages: Sequence[Message]) -> list[Lesson]:
        """What is learned from a conversation: one lesson, or one an answer where earlier ones are laid out anew.

        An answer counts with the token that closes it. Raises UserError when the template does not let it be found.
        """
        mark = self._unused_character(messages)
        places = [place for place, message in enumerate(messages) if message["role"] == "assistant"]
        found = [self._answer(messages[: place + 1], mark) for place in places]
        if found and all(found[-1][0].startswith(text) for text, _ in found):
            return [self._lesson(found[-1][0], mark, [span for _, span in found])]
        return [self._lesson(text, mark, [span]) for text, span in found]

    def last_lesson(self, messages: Sequence[Message]) -> Lesson:
        """What is learned of the last message, an answer, alone. Raises UserError as `lessons` does."""
        mark = self._unused_character(messages)
        text, span = self._answer(messages, mark)
        return self._lesson(text, mark, [span])

    def _answer(self, messages: Sequence[Message], mark: str) -> tuple[str, tuple[int, int]]:
        """The text of messages that end in an answer, and from where to where that one goes in it."""
        before = self._render(messages[:-1], mark, answer=True)
        after = self._render(messages, mark, answer=False)
        if not after.startswith(before):
            raise UserError(
                "The chat template does not begin an answer as it asks for one, so that it cannot be told which "
                "tokens the assistant writes. Tune with another template: put a chat_template.jinja into the "
                "model's folder."
            )
        return after, (len(before), len(after))

    def _lesson(self, text: str, mark: str, spans: list[tuple[int, int]]) -> Lesson:
        tokens = self._encode(text, mark)
        counted = [False] * len(tokens)
        for start, end in spans:
            inside = [place for place, (_, begin) in enumerate(tokens) if start <= begin < end]
            # What a template writes behind the closing token, such as a new line, nobody has to write.
            closing = [place for place in inside if tokens[place][0] in self._control_ids]
            for place in inside:
                counted[place] = not closing or place <= closing[-1]
        return Lesson([id for id, _ in tokens], counted)

    def _render(self, messages: Sequence[Message], mark: str, *, answer: bool) -> str:
        """The text, in which `mark` stands where a message could otherwise take part in spelling a control token."""
        guarded: list[dict[str, Any]] = []
        for message in messages:
            if message["role"] not in ROLES:
                raise UserError("A message is of {role!r:.40}, which is none of {known}.", **_named(message["role"]))
            # Nothing else, which a template might write unguarded.
            guarded.append({"role": message["role"], "content": self._guarded(message["content"], mark)})
        return self.template.render(guarded, answer=answer, **self._names)

    def _guarded(self, content: str, mark: str) -> str:
        """With `mark` wherever a control token would be spelled, or could be once the template has taken out a part.

        What the template itself looks for, such as `</think>`, must stay as it is for it to be found.
        """
        sought: set[int] = set()
        for found in self._sought.finditer(content) if self._sought else ():
            sought.update(range(found.start(1) + 1, found.end(1)))
        places = {found.start() for found in self._seam.finditer(content)}
        places |= {found.start() for found in self._edge.finditer(content)} - sought
        cuts = sorted({0, *places, len(content)})
        parts = [content[start:end] for start, end in itertools.pairwise(cuts)]
        return (mark if 0 in places else "") + mark.join(parts) + (mark if len(content) in places else "")

    def _unused_character(self, messages: Sequence[Message]) -> str:
        used = set(self.template.source).union(*(message["content"] for message in messages))
        return next(character for character in map(chr, PRIVATE_USE) if character not in used)

    def _encode(self, text: str, mark: str) -> list[tuple[int, int]]:
        """(id, where in the text with marks it begins) for each token."""
        found: list[tuple[int, int]] = []
        place = 0
        parts = self._control.split(text)
        for number, part in enumerate(parts):
            if number % 2:
                found.append((self._controls[part].id, place))
            elif part:
                before, after = (
                    self._controls.get(other) for other in (_at(parts, number - 1), _at(parts, number + 1))
                )
                kept = [(index, character) for index, character in enumerate(part) if character != mark]
                plain = "".join(character for _, character in kept)
                end = len(plain.rstrip()) if after is not None and after.eats_left else len(plain)
                start = len(plain) - len(plain.lstrip()) if before is not None and before.eats_right else 0
                pairs = self.tokenizer.plain_ids(plain[start:end], inside=number > 0)
                found += ((id, place + kept[start + first][0]) for id, first in pairs)
            place += len(part)
        return found


def _at(parts: list[str], number: int) -> str:
    return parts[number] if 0 <= number < len(parts) else ""


def _named(role: Any) -> dict[str, Any]:
    return {"role": role, "known": ", ".join(ROLES)}


def _seams(controls: list[str]) -> re.Pattern[str]:
    """Places after the first and before the last character of what could be, or become, part of a control token.

    Looking at two characters is enough to tell what else begins so. Templates may change letters to small or capital.
    """
    first = {(token[0], token[1:2]) for token in controls}
    last = {(token[-2:-1], token[-1]) for token in controls}
    after = (rf"(?<={re.escape(one)})(?={re.escape(two)}|\Z)" for one, two in first)
    before = (rf"(?:(?<={re.escape(one)})|\A)(?={re.escape(two)})" for one, two in last)
    return re.compile("|".join(itertools.chain(sorted(after), sorted(before))) or NOWHERE, re.IGNORECASE)


def _edges(controls: list[str]) -> re.Pattern[str]:
    """All places after a character with which a control token begins, and before one with which one ends."""
    first, last = ("".join(sorted({re.escape(token[place]) for token in controls})) for place in (0, -1))
    return re.compile(f"(?<=[{first}])|(?=[{last}])" if controls else NOWHERE, re.IGNORECASE)
