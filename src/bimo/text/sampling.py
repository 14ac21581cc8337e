"""A few of many, each as likely as any other, without knowing how many there will be."""

from __future__ import annotations

import random
from typing import Any

from bimo.text.documents import Piece
from bimo.text.personal import excerpt

__all__ = ["Sample"]

_EXCERPT_CHARACTERS = 280


class Sample:
    """`size` of the pieces that were added (Vitter 1985, algorithm R); the same ones for the same seed."""

    def __init__(self, size: int, seed: int) -> None:
        self._size, self._random = size, random.Random(seed)
        self._seen = 0
        self._pieces: list[Piece] = []

    def add(self, piece: Piece) -> None:
        """Let a piece take its chance."""
        self._seen += 1
        if len(self._pieces) < self._size:
            self._pieces.append(piece)
        elif (place := self._random.randrange(self._seen)) < self._size:
            self._pieces[place] = piece

    def facts(self) -> list[dict[str, Any]]:
        """Where each stands and how it begins, personal data masked, for JSON."""
        return [
            {
                "source": piece.source,
                "line": piece.line,
                "reason": getattr(piece, "reason", ""),
                "detail": getattr(piece, "detail", ""),
                "text": excerpt(piece.text, _EXCERPT_CHARACTERS),
            }
            for piece in self._pieces
        ]
