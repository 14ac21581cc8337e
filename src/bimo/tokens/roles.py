"""Which tokens of a tokenizer end a text, begin or pad it: read from what lies beside it, and marked as special."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken

from bimo.files import read_settings
from bimo.tokens.wordpiece import usual_roles

__all__ = ["END_OF_TEXT", "ROLES", "as_control_tokens", "settings_beside", "tokens_by_role"]

END_OF_TEXT = "<|endoftext|>"
"""Stands between documents, so it both begins and ends each."""

ROLES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
"""Of special tokens, as `tokenizer_config.json` names them."""


def as_control_tokens(inner: tokenizers.Tokenizer, tokens: Iterable[str]) -> list[AddedToken]:
    """As special tokens, those of a tokenizer's own that have a role and that it does not itself call special."""
    added = {token.content: token for token in inner.get_added_tokens_decoder().values()}
    found = []
    for content in dict.fromkeys(tokens):
        known = added.get(content, AddedToken(content, normalized=False))
        if len(content) > 1 and inner.token_to_id(content) is not None and not (content in added and known.special):
            sides = {"lstrip": known.lstrip, "rstrip": known.rstrip, "single_word": known.single_word}
            found.append(AddedToken(content, **sides, normalized=known.normalized, special=True))
    return found


def settings_beside(file: Path) -> dict[str, Any]:
    """What stands beside a tokenizer; as in transformers, the older file counts above the newer until that has all."""
    found: dict[str, Any] = {}
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        path = file.with_name(name)
        if path.is_file() and "added_tokens_decoder" not in found:
            found |= read_settings(path)
    return found


def tokens_by_role(inner: tokenizers.Tokenizer, settings: dict[str, Any]) -> dict[str, str] | None:
    """Tokens by their roles, as settings name them or as BERT and GPT-2 have them where they do not.

    None where a tokenizer stands alone, or is of our making.
    """
    named = {role: settings[role] for role in ROLES if settings.get(role)}
    tokens = {role: token["content"] if isinstance(token, dict) else token for role, token in named.items()}
    ours = dict.fromkeys(("bos_token", "eos_token", "pad_token"), END_OF_TEXT)
    if tokens == ours and settings.get("add_bos_token"):
        return None
    tokens = usual_roles(inner) | tokens
    if settings and not tokens:
        return dict.fromkeys(("bos_token", "eos_token"), END_OF_TEXT)
    return tokens or None
