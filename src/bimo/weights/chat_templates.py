"""Where a model keeps its chat template: a file of its own, the tokenizer's settings, or a GGUF file's keys."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bimo.files import read_json
from bimo.tokens.chat import ChatFormat, own_template
from bimo.tokens.template import LONGEST_TEMPLATE
from bimo.tokens.tokenizer import Tokenizer
from bimo.weights.gguf_tokenizer import ROLES

__all__ = ["TEMPLATE_FILE", "TEMPLATE_KEY", "folder_chat_format", "gguf_chat_format"]

TEMPLATE_FILE = "chat_template.jinja"
TEMPLATE_KEY = "tokenizer.chat_template"
"""Where a template stands: in a folder a file, in a GGUF file a key."""


def folder_chat_format(folder: Path, tokenizer: Tokenizer) -> ChatFormat:
    """The format of the model in a folder; our own where it has none. Raises UserError for one that cannot be used."""
    path = folder / "tokenizer_config.json"
    settings = read_json(path) if path.is_file() else {}
    template = _folder_template(folder, settings if isinstance(settings, dict) else {})
    return ChatFormat(tokenizer, template or own_template(tokenizer))


def _folder_template(folder: Path, settings: dict[str, Any]) -> str | None:
    path = folder / TEMPLATE_FILE
    if path.is_file():
        with path.open(encoding="utf-8", errors="replace", newline="") as file:
            return file.read(LONGEST_TEMPLATE + 1)
    template = settings.get("chat_template")
    if isinstance(template, list):  # several by name, of which one is for plain conversations
        byname = {entry.get("name"): entry.get("template") for entry in template if isinstance(entry, dict)}
        template = byname.get("default")
    return template if isinstance(template, str) else None


def gguf_chat_format(metadata: dict[str, Any], tokenizer: Tokenizer) -> ChatFormat:
    """The format that a GGUF file describes; our own where it describes none."""
    template = metadata.get(TEMPLATE_KEY)
    numbers = {name: metadata.get(key) for name, key in ROLES.items()}
    tokens = {name: tokenizer.inner.id_to_token(number) for name, number in numbers.items() if type(number) is int}
    names = {name: token for name, token in tokens.items() if token is not None}
    return ChatFormat(tokenizer, template if isinstance(template, str) else own_template(tokenizer), names=names)
