"""N-grams of texts as hashes of 64 bits: words, two words in a row, and the parts that words are made of.

Letters are taken from their words, with an edge on both sides; Han from whole runs of them, in which words are those of
`text/segment.py`; any other mark is a word. The compiled core does the same as `grams_reference` (native/grams.h).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, pairwise
from typing import NamedTuple

import numpy as np

from bimo.kernel import load_library
from bimo.text.segment import mark_words

__all__ = ["Characters", "characters_of", "grams", "grams_reference"]

LONGEST_HAN, SHORTEST_LETTERS, LONGEST_LETTERS = 4, 2, 5
EDGE = ord(" ")
BETWEEN, CUT = "\x1e", "\x1f"
TO_BLANK = str.maketrans({BETWEEN: " ", CUT: " "})

HANS = ((0x3005, 0x3007), (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x3FFFF))
LETTERS = (
    *((0x30, 0x39), (0x61, 0x7A), (0xAA, 0xAA), (0xB5, 0xB5), (0xBA, 0xBA), (0xC0, 0xD6), (0xD8, 0xF6)),
    *((0xF8, 0x1FFF), (0x2C00, 0x2DFF), (0x3040, 0x31FF), (0xA000, 0xD7FF), (0xFB00, 0xFDFF), (0xFE70, 0xFEFC)),
    *((0xFF10, 0xFF19), (0xFF41, 0xFF5A), (0xFF66, 0xFFDC), (0x10000, 0x1EFFF)),
)
BLANKS = ((0, 0x20), (0x7F, 0xA0), (0x2000, 0x200F), (0x2028, 0x202F), (0x205F, 0x205F), (0x3000, 0x3000))
"""Code points, first and last of each range, in small letters."""

MASK = (1 << 64) - 1


class Characters(NamedTuple):
    """Small letters of texts one after the other as code points, uint32 [C]; `cuts` [C] is 1 where a Chinese word
    begins; `ends` int64 is where each text ends."""

    codes: np.ndarray
    cuts: np.ndarray
    ends: np.ndarray


def characters_of(texts: Sequence[str]) -> Characters:
    """Texts as the hashes below want them. All are segmented in one call, since calls cost more than segmenting."""
    joined = BETWEEN.join([text.lower().translate(TO_BLANK) for text in texts] + [""])
    marked = joined if joined.isascii() else mark_words(joined, CUT)
    codes = np.frombuffer(marked.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    marks = np.flatnonzero(codes == ord(CUT))
    codes = codes[codes != ord(CUT)] if len(marks) else codes
    cuts = np.zeros(len(codes) + 1, dtype=np.uint8)
    cuts[marks - np.arange(len(marks))] = 1
    return Characters(codes, cuts[:-1].copy(), np.flatnonzero(codes == ord(BETWEEN)) + 1)


def grams(characters: Characters) -> list[np.ndarray]:
    """The hashes of each text, uint64, in the order in which they are met."""
    library = load_library()
    if library is None:
        return [np.array([gram for gram, _, _ in text], dtype=np.uint64) for text in grams_reference(characters)]
    longest = int(np.diff(characters.ends, prepend=0).max(initial=0))
    room = np.empty(library.bimo_most_grams(longest), dtype=np.uint64)
    found, start = [], 0
    for end in characters.ends.tolist():
        codes, cuts = characters.codes[start:end], characters.cuts[start:end]
        count = library.bimo_grams(codes.ctypes.data, cuts.ctypes.data, end - start, room.ctypes.data)
        found.append(room[:count].copy())
        start = end
    return found


def grams_reference(characters: Characters) -> Iterator[list[tuple[int, int, int]]]:
    """Of each text (hash, where in the text it begins, and ends): the slow twin, and what tells places."""
    start = 0
    for end in characters.ends.tolist():
        yield list(_grams_of(characters.codes[start:end].tolist(), characters.cuts[start:end].tolist()))
        start = end


def _grams_of(codes: list[int], cuts: list[int]) -> Iterator[tuple[int, int, int]]:
    before: tuple[int, int] | None = None
    at = 0
    while at < len(codes):
        kind, end = _kind(codes[at]), at + 1
        while kind in ("letter", "han") and end < len(codes) and _kind(codes[end]) == kind:
            end += 1
        places = [at, *(i for i in range(at + 1, end) if kind == "han" and cuts[i]), end]
        for first, last in pairwise(places) if kind != "blank" else ():
            yield _hash(codes[first:last], words=True), first, last
            if before is not None:
                yield _hash(chain(codes[slice(*before)], (EDGE,), codes[first:last]), words=True), before[0], last
            before = first, last
        if kind == "letter":
            inside = [EDGE, *codes[at:end], EDGE]
            for start in range(len(inside)):
                for length in range(SHORTEST_LETTERS, min(LONGEST_LETTERS, len(inside) - start) + 1):
                    gram = _hash(inside[start : start + length], words=False)
                    yield gram, max(at, at + start - 1), min(end, at + start - 1 + length)
        if kind == "han":
            for start in range(at, end):
                for length in range(1, min(LONGEST_HAN, end - start) + 1):
                    yield _hash(codes[start : start + length], words=False), start, start + length
        at = end


def _kind(code: int) -> str:
    for kind, ranges in (("han", HANS), ("letter", LETTERS), ("blank", BLANKS)):
        if any(first <= code <= last for first, last in ranges):
            return kind
    return "mark"


def _hash(codes: Iterable[int], *, words: bool) -> int:
    """FNV-1a over whole characters, then the finaliser of MurmurHash3; the lowest bit says what it is of."""
    z = 0xCBF29CE484222325
    for code in codes:
        z = ((z ^ code) * 0x100000001B3) & MASK
    z = ((z ^ (z >> 33)) * 0xFF51AFD7ED558CCD) & MASK
    z = ((z ^ (z >> 33)) * 0xC4CEB9FE1A85EC53) & MASK
    return ((z ^ (z >> 33)) & ~1) | words
