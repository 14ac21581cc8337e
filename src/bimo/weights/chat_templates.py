"""Where a model keeps its chat template: a file of its own, the tokenizer's settings, or a GGUF file's keys."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bimo.files import read_json
from bimo.runtime import UserError
from bimo.tokens.chat import ChatFormat, own_template
from bimo.tokens.template import LONGEST_TEMPLATE
from bimo.tokens.tokenizer import Tokenizer
from bimo.weights.gguf_tokenizer import ROLES

__all__ = ["TEMPLATE_FILE", "TEMPLATE_KEY", "folder_chat_format", "folder_template", "gguf_chat_format"]

TEMPLATE_FILE = "chat_template.jinja"
TEMPLATE_KEY = "tokenizer.chat_template"
"""Where a template stands: in a folder a file, in a GGUF file a key."""


def folder_chat_format(folder: Path, tokenizer: Tokenizer) -> ChatFormat:
    """The format of the model in a folder; our own where it has none. Raises UserError for one that cannot be used."""
    return ChatFormat(tokenizer, folder_template(folder) or own_template(tokenizer))


def folder_template(folder: Path) -> str | None:
    """A folder's template: its own file, or one in the settings of the tokenizer, of several that called default."""
    path, settings_path = folder / TEMPLATE_FILE, folder / "tokenizer_config.json"
    if path.is_file():
        with path.open("rb") as file:
            content = file.read(4 * LONGEST_TEMPLATE + 1)
        if len(content) > 4 * LONGEST_TEMPLATE:
            raise UserError("{path} is longer than {most:,} characters.", path=path, most=LONGEST_TEMPLATE)
        try:
            return content.decode("utf-8-sig")
        except UnicodeDecodeError:
            raise UserError("{path} is not UTF-8.", path=path) from None
    settings = read_json(settings_path) if settings_path.is_file() else {}
    template = settings.get("chat_template") if isinstance(settings, dict) else None
    if isinstance(template, list):
        named = (entry for entry in template if isinstance(entry, dict) and entry.get("name") == "default")
        template = next((entry.get("template") for entry in named), None)
    return template if isinstance(template, str) else None


def gguf_chat_format(metadata: dict[str, Any], tokenizer: Tokenizer) -> ChatFormat:
    """The format that a GGUF file describes; our own where it describes none."""
    template = metadata.get(TEMPLATE_KEY)
    numbers = {name: metadata.get(key) for name, key in ROLES.items()}
    tokens = {name: tokenizer.inner.id_to_token(number) for name, number in numbers.items() if type(number) is int}
    names = {name: token for name, token in tokens.items() if token is not None}
    return ChatFormat(tokenizer, template if isinstance(template, str) else own_template(tokenizer), names=names)
