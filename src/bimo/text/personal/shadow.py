"""A text as rules read it: full-width forms and all digits as ASCII, simplified Han, nothing invisible; and back."""

from __future__ import annotations

import functools

import numpy as np

from bimo.text.chinese import convert

__all__ = ["Shadow"]

_INVISIBLE = (0xAD, *range(0x200B, 0x2010), *range(0x2060, 0x2065), 0xFEFF)
_HAN = range(0x3400, 0xA000)
_DIGITS = range(0x0660, 0x1FBFA)
"""All that are not ASCII lie here."""
_POINTS = 0x110000


@functools.cache
def _forms() -> np.ndarray:
    """[0x110000] uint32: what every code point is read as; 0 is what nobody sees."""
    forms = np.arange(_POINTS, dtype=np.uint32)
    forms[0xFF01:0xFF5F] = np.arange(0x21, 0x7F)
    for point in filter(str.isdecimal, map(chr, _DIGITS)):
        forms[ord(point)] = ord("0") + int(point)
    for point in "\u3000\u00a0\u2002\u2003\u2009\u202f":
        forms[ord(point)] = ord(" ")
    for point in "—–‐‑‒−":
        forms[ord(point)] = ord("-")
    han = "".join(map(chr, _HAN))
    simplified = convert("\n".join(han), "simplified").split("\n")  # each by itself, so that none depends on another
    forms[_HAN.start : _HAN.stop] = [
        ord(other) if len(other) == 1 else ord(one) for one, other in zip(han, simplified, strict=True)
    ]
    forms[[*_INVISIBLE]] = 0
    return forms


class Shadow:
    """`text` is what rules read; `place(start, end)` is where a span of it stands in the original."""

    def __init__(self, original: str) -> None:
        self.text = original
        self._places: np.ndarray | None = None
        if original.isascii():
            return
        points = _forms()[np.frombuffer(original.encode("utf-32-le", "surrogatepass"), np.uint32)]
        if not points.all():
            self._places = np.flatnonzero(points)
            points = points[self._places]
        self.text = points.tobytes().decode("utf-32-le", "surrogatepass")

    def place(self, start: int, end: int) -> tuple[int, int]:
        """The span in the original of a span in the shadow."""
        if self._places is None:
            return start, end
        return int(self._places[start]), int(self._places[end - 1]) + 1
