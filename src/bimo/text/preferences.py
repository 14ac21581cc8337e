"""Preferences from the files that people have: what was asked, the answer that was chosen, and one that was rejected.

The forms are those of LLaMA-Factory, of TRL and of ms-swift, and alpaca's with two answers, each told by its keys.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bimo.runtime import DATA_REFUSED, UserError, t
from bimo.text.conversations import (
    LISTS,
    ROLE_KEYS,
    ROLES,
    NoConversation,
    listed,
    message,
    question,
    read_talk,
    turns,
    unlisted_turns,
    whole,
)
from bimo.text.documents import Rejected

__all__ = ["Preference", "Preferences", "is_preference", "preference_in", "read_preferences"]

Messages = list[dict[str, str]]


@dataclass(frozen=True)
class Preference:
    """`messages` up to where the assistant speaks, and two answers, the better one first; `row` counts from 1."""

    row: int
    messages: tuple[dict[str, str], ...]
    chosen: str
    rejected: str


@dataclass(frozen=True)
class Preferences:
    """What a file holds. `forms` counts the shapes that were met, `refused` are rows that are no preference."""

    path: Path
    kept: list[Preference] = field(default_factory=list)
    refused: list[Rejected] = field(default_factory=list)
    forms: Counter[str] = field(default_factory=Counter)

    def describe(self) -> str:
        """Such as `300 preferences in the form of conversations, chosen, rejected`."""
        forms = t("; ").join(self.forms)
        return t("{count:,} preferences in the form of {forms}", count=len(self.kept), forms=forms)


def read_preferences(path: Path) -> Preferences:
    """All preferences of a JSON or JSON Lines file, packed or not. Raises UserError when it holds none."""
    found = Preferences(path)
    for row, form, (messages, chosen, rejected) in read_talk(path, preference_in, found.refused):
        found.forms[form] += 1
        found.kept.append(Preference(row, tuple(messages), chosen, rejected))
    if not found.kept:
        raise UserError(
            "There is no preference in {path}{first}. A row is an object with chosen and rejected, and with prompt, "
            "conversations, messages or instruction.",
            code=DATA_REFUSED,
            path=path,
            first=f" ({found.refused[0]})" if found.refused else "",
        )
    return found


def preference_in(value: Any) -> tuple[str, tuple[Messages, str, str]]:
    """(name of the form, (messages, chosen, rejected)) of a row. Raises NoConversation with the reason."""
    if not isinstance(value, dict):
        raise NoConversation(t("it is not an object"))
    for keys, read in FORMS:
        if all(key in value for key in keys):
            messages, chosen, rejected = read(value)
            whole([*messages, message("assistant", chosen)])
            whole([*messages, message("assistant", rejected)])
            if messages[-1]["role"] == "assistant":
                raise NoConversation(t("nothing is asked before the answers"))
            if chosen == rejected:
                raise NoConversation(t("both answers are the same"))
            return ", ".join(keys), (messages, chosen, rejected)
    raise NoConversation(t("it has none of the keys that hold preferences"))


def is_preference(value: Any) -> bool:
    """Whether a row has the keys of one."""
    return isinstance(value, dict) and any(all(key in value for key in keys) for keys, _ in FORMS)


def _asked(key: str) -> Callable[[dict[str, Any]], tuple[Messages, str, str]]:
    """Rows whose question stands under `key`, as a text, or as messages."""

    def read(value: dict[str, Any]) -> tuple[Messages, str, str]:
        if isinstance(value[key], list) or _spells_turns(value[key]) or (key in LISTS and listed(value[key])):
            return _joined(turns(value, key), value["chosen"], value["rejected"])
        if key in LISTS and isinstance(value[key], str):
            raise unlisted_turns(key)
        return _joined(question(value, key), value["chosen"], value["rejected"])

    return read


def _joined(messages: Messages, chosen: Any, rejected: Any) -> tuple[Messages, str, str]:
    """Answers are texts, messages, or lists of them, which may begin with the question once more."""
    if not messages:
        raise NoConversation(t("nothing is asked before the answers"))
    ends = []
    for answer in (chosen, rejected):
        said = _said(answer)
        told = sum(one["role"] == "system" for one in messages[:1])
        again = next((part for part in (messages, messages[told:]) if said[: len(part)] == part), [])
        ends.append(_only(said[len(again) :]))
    return messages, ends[0], ends[1]


def _said(answer: Any) -> Messages:
    if isinstance(answer, str) and not _spells_turns(answer):
        return [message("assistant", answer)]
    said = [answer] if isinstance(answer, dict) else listed(answer)
    if said is None:
        raise NoConversation(t("the text of {role} is no text", role="assistant"))
    return turns({"said": said}, "said")


def _spells_turns(value: Any) -> bool:
    """Whether a text is a list of messages, spelled in JSON, that say whose they are; other JSON is a text like any."""
    said = listed(value) if isinstance(value, str) else None
    return bool(said) and all(map(_says_whose, said or ()))


def _says_whose(turn: Any) -> bool:
    speaker = next((turn[key] for key in ROLE_KEYS if key in turn), None) if isinstance(turn, dict) else None
    return isinstance(speaker, str) and speaker.strip().lower() in ROLES


def _only(said: Messages) -> str:
    """The one answer that is left."""
    if len(said) != 1 or said[0]["role"] != "assistant":
        raise NoConversation(t("its answers are not one message of the assistant each"))
    return said[0]["content"]


def _two_conversations(value: dict[str, Any]) -> tuple[Messages, str, str]:
    """Rows that hold the whole conversation twice: what both begin with was asked."""
    chosen, rejected = _said(value["chosen"]), _said(value["rejected"])
    pairs = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(chosen, rejected, strict=False))
    asked = [one for one, _ in pairs]
    if len(asked) == len(chosen) == len(rejected):
        raise NoConversation(t("both answers are the same"))
    return _joined(asked, chosen, rejected)


def _two_last(value: dict[str, Any]) -> tuple[Messages, str, str]:
    """Rows of ms-swift: a conversation, and what could have been answered last."""
    if listed(value["messages"]) is None:
        raise unlisted_turns("messages")
    messages = turns(value, "messages")
    return _joined(messages[:-1], messages[-1:], value["rejected_response"])


FORMS: tuple[tuple[tuple[str, ...], Callable[[dict[str, Any]], tuple[Messages, str, str]]], ...] = (
    *(
        ((key, "chosen", "rejected"), _asked(key))
        for key in ("conversations", "messages", "prompt", "instruction", "question")
    ),
    (("messages", "rejected_response"), _two_last),
    (("chosen", "rejected"), _two_conversations),
)
"""Keys that tell a form, and how it is read; the first whose keys are there counts."""
