"""Conversations from the files that people have: `messages`, alpaca, ShareGPT, pairs and plain turns, each by its keys.

A row that is no conversation is refused with its number and the reason; nothing is left out in silence.
"""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from bimo.runtime import DATA_REFUSED, UserError, is_text, t
from bimo.text.documents import Rejected
from bimo.text.json_values import json_values

__all__ = [
    "LISTS",
    "ROLES",
    "ROLE_KEYS",
    "Conversation",
    "Conversations",
    "NoConversation",
    "conversation_in",
    "is_conversation",
    "listed",
    "message",
    "opening",
    "question",
    "read_conversations",
    "read_talk",
    "turns",
    "unlisted_turns",
    "whole",
]

ROLES = {
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("user", "human", "prompter"), "user"),
    **dict.fromkeys(("assistant", "gpt", "bot", "model", "chatgpt", "bing", "bard"), "assistant"),
    **dict.fromkeys(("tool", "function", "observation"), "tool"),
}
"""What files call those who speak, and what templates call them."""

PAIRS = (("prompt", "response"), ("prompt", "completion"), ("question", "answer"), ("query", "response"))
"""Keys of a question and its answer."""

Read = TypeVar("Read")

LISTS = ("messages", "conversations")
"""Keys of which each holds a list of turns."""

ROLE_KEYS, CONTENT_KEYS = ("role", "from", "speaker"), ("content", "value", "message", "text")


class NoConversation(Exception):
    """Why a row is refused, as a sentence."""


@dataclass(frozen=True)
class Conversation:
    """Messages with `role` (system, user, assistant or tool) and `content`; `row` counts rows of the file from 1."""

    row: int
    messages: tuple[dict[str, str], ...]

    @property
    def first_exchange(self) -> tuple[list[dict[str, str]], str]:
        """The messages before the first answer, and that answer."""
        place = next(number for number, message in enumerate(self.messages) if message["role"] == "assistant")
        return [*self.messages[:place]], self.messages[place]["content"]


def opening(messages: Sequence[dict[str, str]]) -> str:
    """What a conversation begins with, whatever the system says: other answers to it, and its own beginnings, belong on
    the same side of a split."""
    before = list(itertools.takewhile(lambda one: one["role"] != "assistant", messages))
    asked = [one["content"] for one in before if one["role"] != "system"]
    answered = [one["content"] for one in messages[len(before) :][:1]]
    return json.dumps(asked or answered, ensure_ascii=False)


@dataclass(frozen=True)
class Conversations:
    """What a file holds. `forms` counts the shapes that were met, `refused` are rows that are no conversation."""

    path: Path
    kept: list[Conversation] = field(default_factory=list)
    refused: list[Rejected] = field(default_factory=list)
    forms: Counter[str] = field(default_factory=Counter)

    def describe(self) -> str:
        """Such as `999 conversations in the form of alpaca`."""
        forms = t(", ").join(self.forms)
        return t("{count:,} conversations in the form of {forms}", count=len(self.kept), forms=forms)


def read_conversations(path: Path) -> Conversations:
    """All conversations of a JSON or JSON Lines file, packed or not. Raises UserError when it holds none."""
    found = Conversations(path)
    for row, form, messages in read_talk(path, conversation_in, found.refused):
        found.forms[form] += 1
        found.kept.append(Conversation(row, messages))
    if not found.kept:
        first = f" ({found.refused[0]})" if found.refused else ""
        raise UserError(
            "There is no conversation in {path}{first}. A row is an object with messages, with instruction and output, "
            "with conversations, or with prompt and response.",
            code=DATA_REFUSED,
            path=path,
            first=first,
        )
    return found


def read_talk(
    path: Path, read: Callable[[Any], tuple[str, Read]], refused: list[Rejected]
) -> Iterator[tuple[int, str, Read]]:
    """(row, form, what `read` makes of it) of a JSON or JSON Lines file; rows that are refused go to `refused`.

    Raises UserError when there is no such file.
    """
    for row, value in json_values(path, refused.append):
        try:
            yield row, *read(value)
        except NoConversation as reason:
            refused.append(Rejected(path.name, row, "bad_row", str(reason), str(value)[:200]))


def conversation_in(value: Any) -> tuple[str, tuple[dict[str, str], ...]]:
    """(name of the form, messages) of a row. Raises NoConversation with the reason."""
    if not isinstance(value, dict):
        raise NoConversation(t("it is not an object"))
    for form, keys, read in FORMS:
        if _has(value, keys):
            return form, whole(read(value))
    unlisted = next((key for key in LISTS if isinstance(value.get(key), str)), None)
    if unlisted is not None:
        raise unlisted_turns(unlisted)
    raise NoConversation(t("it has none of the keys that hold conversations"))


def unlisted_turns(key: str) -> NoConversation:
    """What to raise where a text stands under a key that holds turns."""
    return NoConversation(t("its {key} are a text and no list", key=key))


def is_conversation(value: Any) -> bool:
    """Whether a row has the keys of one."""
    return isinstance(value, dict) and any(_has(value, keys) for _, keys, _ in FORMS)


def _has(value: dict[str, Any], keys: Sequence[str]) -> bool:
    return all(
        listed(value.get(key)) is not None if key in LISTS else isinstance(value.get(key), str | list) for key in keys
    )


def listed(value: Any) -> list[Any] | None:
    """A list, also one that is spelled in JSON, as rows have it that came out of a table; else None."""
    if isinstance(value, str) and value.lstrip().startswith("["):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return None
    return value if isinstance(value, list) else None


def whole(messages: list[dict[str, str]]) -> tuple[dict[str, str], ...]:
    """The same, if it is a conversation with answers. Raises NoConversation."""
    if not any(one["role"] == "assistant" for one in messages):
        raise NoConversation(t("no answer of the assistant is in it"))
    for number, one in enumerate(messages, 1):
        if one["role"] == "assistant" and not one["content"].strip():
            raise NoConversation(t("message {number} is an empty answer", number=number))
        if not is_text(one["content"]):
            raise NoConversation(t("message {number} holds half a character", number=number))
    return tuple(messages)


def turns(value: dict[str, Any], key: str) -> list[dict[str, str]]:
    """A list of objects, or of texts, that say who speaks, or else speak by turns."""
    messages = [message("system", value["system"])] if value.get("system") else []
    for number, turn in enumerate(listed(value[key]) or [], 1):
        if isinstance(turn, str):
            turn = {"content": turn}
        if not isinstance(turn, dict):
            raise NoConversation(t("message {number} is not an object", number=number))
        speaker = next((turn[name] for name in ROLE_KEYS if name in turn), ("user", "assistant")[(number - 1) % 2])
        role = ROLES.get(speaker.strip().lower()) if isinstance(speaker, str) else None
        if role is None:
            raise NoConversation(t("message {number} is of {role!r:.40}", number=number, role=speaker))
        content = next((turn[name] for name in CONTENT_KEYS if isinstance(turn.get(name), str)), None)
        if content is None:
            raise NoConversation(t("message {number} has no text", number=number))
        messages.append({"role": role, "content": content})
    return messages


def question(value: dict[str, Any], key: str = "instruction") -> list[dict[str, str]]:
    """What is asked in a row of alpaca's (Taori et al. 2023), with `system` and `history` as later files have them."""
    messages = [message("system", value["system"])] if value.get("system") else []
    history = value.get("history") or []
    if not isinstance(history, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in history):
        raise NoConversation(t("its history is not made of pairs"))
    for asked, answer in history:
        messages += [message("user", asked), message("assistant", answer)]
    parts = [message("user", text)["content"] for text in (value[key], value.get("input") or "")]
    return [*messages, message("user", "\n".join(filter(None, parts)))]


def message(role: str, content: Any) -> dict[str, str]:
    """Raises NoConversation when `content` is no text."""
    if not isinstance(content, str):
        raise NoConversation(t("the text of {role} is no text", role=role))
    return {"role": role, "content": content}


def _pair(asked: str, answer: str) -> Callable[[dict[str, Any]], list[dict[str, str]]]:
    return lambda value: [*question(value, asked), message("assistant", value[answer])]


FORMS: tuple[tuple[str, tuple[str, ...], Callable[[dict[str, Any]], list[dict[str, str]]]], ...] = (
    ("messages", ("messages",), lambda value: turns(value, "messages")),
    ("ShareGPT", ("conversations",), lambda value: turns(value, "conversations")),
    ("alpaca", ("instruction", "output"), lambda value: [*question(value), message("assistant", value["output"])]),
    *((f"{asked}/{answer}", (asked, answer), _pair(asked, answer)) for asked, answer in PAIRS),
)
"""Name, keys that tell it, and how it is read; the first whose keys are there counts."""
