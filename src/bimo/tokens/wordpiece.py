"""WordPiece tokenizers, as BERT has them: a list of words and pieces of words, in `vocab.txt`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors

from bimo.files import LARGEST_JSON, read_settings
from bimo.runtime import UserError

__all__ = ["read_wordpiece", "usual_roles"]

ROLES = {
    "unk_token": "[UNK]",
    "sep_token": "[SEP]",
    "pad_token": "[PAD]",
    "cls_token": "[CLS]",
    "mask_token": "[MASK]",
}
"""Special tokens by their roles, where `tokenizer_config.json` does not name others."""


FLAGS = ("special", "normalized", "lstrip", "rstrip", "single_word")
"""Of a token that was added: how it is looked for in a text."""


def read_wordpiece(path: Path, settings: dict[str, Any]) -> tuple[tokenizers.Tokenizer, dict[str, str]]:
    """The tokenizer of a `vocab.txt`, a token a line, and its special tokens by their roles.

    `settings` are those of `tokenizer_config.json`. Raises UserError when a special token is not in the list.
    """
    with path.open("rb") as opened:
        lines = opened.read(LARGEST_JSON).decode("utf-8-sig").split("\n")
    words = {word.removesuffix("\r"): number for number, word in enumerate(lines[: -1 if not lines[-1] else None])}
    special = {role: _content(settings.get(role)) or usual for role, usual in ROLES.items()}
    for token in special.values():
        if token not in words:
            raise UserError("{file} has no token {token}, which a BERT needs.", file=path, token=token)
    inner = tokenizers.Tokenizer(models.WordPiece(words, unk_token=special["unk_token"]))
    inner.normalizer = normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=settings.get("tokenize_chinese_chars", True),
        strip_accents=settings.get("strip_accents"),
        lowercase=settings.get("do_lower_case", True),
    )
    inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    inner.decoder = decoders.WordPiece(prefix="##")
    inner.add_special_tokens([AddedToken(token, special=True) for token in special.values()])
    _add(inner, _added_beside(path, settings), where=path.parent)
    first, last = special["cls_token"], special["sep_token"]
    inner.post_processor = processors.TemplateProcessing(
        single=f"{first} $A {last}",
        pair=f"{first} $A {last} $B:1 {last}:1",
        special_tokens=[(first, words[first]), (last, words[last])],
    )
    return inner, special


def _added_beside(words: Path, settings: dict[str, Any]) -> dict[int, AddedToken]:
    """The tokens that were added to a list of words, by their ids: in the settings, or as older folders have them."""
    file = words.with_name("added_tokens.json")
    older = read_settings(file) if file.is_file() else {}
    newer = settings.get("added_tokens_decoder")
    found = {number: AddedToken(str(token), special=False) for token, number in older.items() if type(number) is int}
    for number, token in newer.items() if isinstance(newer, dict) else ():
        if isinstance(token, dict) and number.isdecimal():
            flags = {name: token[name] for name in FLAGS if isinstance(token.get(name), bool)}
            found[int(number)] = AddedToken(str(token.get("content")), **flags)
    return found


def _add(inner: tokenizers.Tokenizer, added: dict[int, AddedToken], *, where: Path) -> None:
    """Raises UserError where they would get other ids than their own."""
    for number in sorted(added):
        token = added[number]
        if inner.token_to_id(token.content) is None:
            inner.add_tokens([token])
        if inner.token_to_id(token.content) != number:
            sentence = "The token {token} in {folder} has the id {number}, which does not follow those before it."
            raise UserError(sentence, token=token.content, folder=where, number=number)


def usual_roles(inner: tokenizers.Tokenizer) -> dict[str, str]:
    """The special tokens of a BERT that a tokenizer has, by their roles; none where it is no BERT's."""
    if not isinstance(inner.model, models.WordPiece) or inner.token_to_id(ROLES["sep_token"]) is None:
        return {}
    return {role: token for role, token in ROLES.items() if inner.token_to_id(token) is not None}


def _content(token: Any) -> str | None:
    return token["content"] if isinstance(token, dict) else token
