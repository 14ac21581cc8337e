"""A conversation with a model: its messages so far, what is still within reach of the model, and how it is kept."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, field
from pathlib import Path

from bimo.files import read_json, write_json
from bimo.generate.engine import LanguageModel
from bimo.generate.sample import Sampling
from bimo.runtime import DATA_REFUSED, UserError, is_text
from bimo.tokens.chat import ROLES, Message

__all__ = ["Conversation", "read_messages"]


@dataclass
class Conversation:
    """Messages in turn. With `path` every answer is followed by writing all of them there, so that none is lost."""

    model: LanguageModel
    messages: list[Message] = field(default_factory=list)
    max_tokens: int = 200
    sampling: Sampling = field(default_factory=Sampling)
    seed: int = 0
    stop: tuple[str, ...] = ()
    path: Path | None = None
    forgotten: int = 0
    """The messages that had no room any more when the model was last asked."""
    unread: int = 0
    """Tokens at the beginning of what it was asked that had none either."""

    def ask(self, text: str) -> Generator[str, None, None]:
        """Stream the answer to what the user says. Closed early, it keeps what was said until then."""
        said: list[Message] = [*self.messages, {"role": "user", "content": text}]
        pieces: list[str] = []
        reached = self._within_reach(said)
        self.forgotten = len(said) - len(reached)
        self.unread = max(0, len(self.model.chat.prompt(reached)) - self.model.config.reach)
        try:
            for piece in self.model.reply(
                reached,
                max_tokens=self.max_tokens,
                sampling=self.sampling,
                seed=self.seed + len(said),
                stop=self.stop,
            ):
                pieces.append(piece)
                yield piece
        except GeneratorExit:
            self._keep(said, pieces)
            raise
        self._keep(said, pieces)

    def _keep(self, said: list[Message], pieces: list[str]) -> None:
        self.messages = [*said, {"role": "assistant", "content": "".join(pieces)}]
        self.save()

    def save(self) -> None:
        """Write all messages to `path`, if there is one."""
        if self.path is not None:
            write_json(self.path, {"messages": self.messages})

    def _within_reach(self, messages: list[Message]) -> list[Message]:
        """Without the oldest messages, if all together leave no room for an answer; never without what is asked now."""
        context = self.model.config.context
        room = context - min(self.max_tokens, context // 2)
        system = [message for message in messages[:1] if message["role"] == "system"]
        rest = messages[len(system) :]
        while len(rest) > 1 and len(self.model.chat.prompt([*system, *rest])) > room:
            # Whole turns, so that templates which want user and assistant to alternate are content.
            rest = rest[next((place for place in range(1, len(rest)) if rest[place]["role"] == "user"), 1) :]
        return [*system, *rest]


def read_messages(path: Path) -> list[Message]:
    """The messages of a conversation that was kept. Raises UserError when the file holds something else."""
    value = read_json(path)
    messages = value.get("messages") if isinstance(value, dict) else None
    if not isinstance(messages, list) or not all(map(_is_message, messages)):
        raise UserError(
            "{path} is not a conversation that Bimo kept. Name another file with --save.", code=DATA_REFUSED, path=path
        )
    return messages


def _is_message(value: object) -> bool:
    if not isinstance(value, dict) or value.get("role") not in ROLES:
        return False
    content = value.get("content")
    return isinstance(content, str) and is_text(content)
