"""What texts are made of: kinds of characters, lengths, common characters; counted in arrays, never one by one."""

from __future__ import annotations

import functools
import itertools
import unicodedata
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from bimo.text.documents import Document

__all__ = ["HAN", "HANGUL", "KANA", "LATIN", "LETTERS", "Measures", "Sizes", "count_kinds", "kinds_of"]

OTHER, SPACE, HAN, LATIN, KANA, HANGUL, LETTER, DIGIT, PUNCTUATION = range(9)
LETTERS = (HAN, LATIN, KANA, HANGUL, LETTER)
_EDGES = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000)
_POINTS = 0x110000
_PENDING_CHARACTERS = 1 << 20
_COMMON = 40

_LATIN = (range(0x41, 0x5B), range(0x61, 0x7B), range(0xC0, 0x250), range(0x1E00, 0x1F00), range(0xFF21, 0xFF5B))
_KANA = (range(0x3041, 0x3097), range(0x30A1, 0x30FB), range(0x31F0, 0x3200), range(0xFF66, 0xFF9E))
_HANGUL = (range(0x1100, 0x1200), range(0x3131, 0x318F), range(0xAC00, 0xD7A4))
_HAN = (range(0x3400, 0x4DC0), range(0x4E00, 0xA000), range(0xF900, 0xFB00), range(0x3005, 0x3008, 2))
_LOOKED_UP = (range(0x3400), range(0xA000, 0xAC00), range(0xF900, 0x12000), range(0x1D400, 0x1D800))
_BY_CATEGORY = {"L": LETTER, "M": LETTER, "N": DIGIT, "P": PUNCTUATION, "Z": SPACE}


@functools.cache
def kinds_of() -> np.ndarray:
    """[0x110000]: the kind of every code point."""
    kinds = np.zeros(_POINTS, np.uint8)
    for point in itertools.chain(*_LOOKED_UP):
        kinds[point] = _BY_CATEGORY.get(unicodedata.category(chr(point))[0], OTHER)
    for kind, ranges in ((LATIN, _LATIN), (KANA, _KANA), (HANGUL, _HANGUL), (HAN, _HAN)):
        for points in ranges:
            kinds[points.start : points.stop : points.step] = kind
    kinds[0x20000:0x40000] = HAN
    kinds[[0x09, 0x0A, 0x0D]] = SPACE
    kinds[[0xD7, 0xF7, *range(0xFF3B, 0xFF41)]] = OTHER
    return kinds


def _code_points(text: str) -> np.ndarray:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)


def count_kinds(text: str) -> list[int]:
    """How many characters of each kind are in `text`; the kinds, OTHER to PUNCTUATION, are the places in the list."""
    return np.bincount(kinds_of()[_code_points(text)], minlength=9).tolist()


@dataclass
class Sizes:
    """How many documents, characters, and bytes in UTF-8."""

    documents: int = 0
    characters: int = 0
    bytes: int = 0

    def add(self, document: Document) -> None:
        """Count one document."""
        self.documents += 1
        self.characters += len(document.text)
        self.bytes += len(document.text) if document.text.isascii() else len(document.text.encode())


class Measures:
    """Counts over all kept documents, in memory that does not grow with them."""

    def __init__(self) -> None:
        self._languages: dict[str, Sizes] = {}
        self._lengths = np.zeros(len(_EDGES), np.int64)
        self._points = np.zeros(_POINTS, np.int64)
        self._pending: list[np.ndarray] = []
        self._pending_characters = 0

    def add(self, document: Document) -> None:
        """Count one document."""
        points = _code_points(document.text)
        if document.language not in self._languages:
            self._languages[document.language] = Sizes()
        self._languages[document.language].add(document)
        self._lengths[max(0, int(np.searchsorted(_EDGES, len(points), side="right")) - 1)] += 1
        self._pending.append(points)
        self._pending_characters += len(points)
        if self._pending_characters >= _PENDING_CHARACTERS:
            self._count_pending()

    def _count_pending(self) -> None:
        if self._pending:
            self._points += np.bincount(np.concatenate(self._pending), minlength=_POINTS)
            self._pending, self._pending_characters = [], 0

    def facts(self) -> dict[str, Any]:
        """Languages, length histogram, kinds of characters and the commonest letters, ready for JSON."""
        self._count_pending()
        kinds = np.bincount(kinds_of(), weights=self._points, minlength=9).astype(int).tolist()
        letters = np.where(np.isin(kinds_of(), LETTERS), self._points, 0)
        order = np.argsort(-letters, kind="stable")[:_COMMON]
        return {
            "languages": {name: asdict(sizes) for name, sizes in sorted(self._languages.items())},
            "length_histogram": {"edges": list(_EDGES), "counts": self._lengths.tolist()},
            "character_kinds": {
                "han": kinds[HAN],
                "latin": kinds[LATIN],
                "digit": kinds[DIGIT],
                "punctuation": kinds[PUNCTUATION],
                "space": kinds[SPACE],
                "other": kinds[OTHER] + kinds[KANA] + kinds[HANGUL] + kinds[LETTER],
            },
            "common_characters": [[chr(point), int(letters[point])] for point in order if letters[point]],
        }
