"""What each id of a tokenizer adds to a text, in bytes: for whoever decides which ids may come next."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from bimo.runtime import UserError
from bimo.tokens.tokenizer import Tokenizer

__all__ = ["Spelling", "spelling_of"]

BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")
STEPS_OF_PIECES = {"Replace", "ByteFallback", "Fuse", "Strip", "Metaspace"}
"""Of decoders that join pieces in which a sign stands for the blank, as SentencePiece's do."""


@dataclass(frozen=True)
class Spelling:
    """Of each id the bytes that it adds to a text; empty for control tokens, which add nothing.

    With `drops_blank` a text does not begin with the blank of its first piece.
    """

    pieces: list[bytes]
    drops_blank: bool = False


def spelling_of(tokenizer: Tokenizer) -> Spelling:
    """Read off how the tokenizer decodes. Raises UserError where single ids do not say what they add to a text."""
    inner = tokenizer.inner
    decoder = json.loads(inner.to_str())["decoder"] or {}
    steps = decoder.get("decoders", [decoder])
    kinds = [step.get("type") for step in steps]
    spelled: _Bytes | _Pieces
    if kinds == ["ByteLevel"]:
        spelled = _Bytes()
    elif "ByteFallback" in kinds and STEPS_OF_PIECES.issuperset(kinds):
        spelled = _Pieces(steps)
    else:
        raise UserError(
            "A text of a given form cannot be written with this model: its tokenizer does not decode token by token "
            "into bytes."
        )
    pieces = [b""] * tokenizer.vocabulary
    for token, id_ in inner.get_vocab(with_added_tokens=False).items():
        pieces[id_] = spelled(token)
    for id_, added in inner.get_added_tokens_decoder().items():
        pieces[id_] = b"" if added.special else added.content.encode()
    return Spelling(pieces, drops_blank=spelled.drops_blank)


class _Bytes:
    """Tokens whose every character stands for a byte, as GPT-2 has them."""

    drops_blank = False

    def __init__(self) -> None:
        printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
        others = [byte for byte in range(256) if byte not in printable]
        self._byte = {chr(byte): byte for byte in printable}
        self._byte |= {chr(256 + place): byte for place, byte in enumerate(others)}

    def __call__(self, token: str) -> bytes:
        # A token with a character that stands for no byte is decoded as it is.
        known = all(character in self._byte for character in token)
        return bytes(map(self._byte.__getitem__, token)) if known else token.encode()


class _Pieces:
    """Tokens that are text with a sign for the blank, or a byte in hexadecimal, as SentencePiece has them."""

    def __init__(self, steps: list[dict[str, Any]]) -> None:
        self._signs: list[tuple[str, str]] = []
        self.drops_blank = False
        for step in steps:
            if step["type"] == "Replace":
                self._signs.append((step["pattern"]["String"], step["content"]))
            elif step["type"] == "Metaspace":
                self._signs.append((step["replacement"], " "))
                self.drops_blank = step.get("prepend_scheme") != "never"
            elif step["type"] == "Strip":
                self.drops_blank = step["content"] == " " and step["start"] > 0

    def __call__(self, token: str) -> bytes:
        byte = BYTE_TOKEN.fullmatch(token)
        if byte:
            return bytes([int(byte[1], 16)])
        for sign, content in self._signs:
            token = token.replace(sign, content)
        return token.encode()
