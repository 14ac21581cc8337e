"""A text as rules read it: full-width forms as ASCII and nothing invisible, with the way back to its own places."""

from __future__ import annotations

import re

import numpy as np

__all__ = ["Shadow"]

_INVISIBLE = re.compile("[\u00ad\u200b-\u200f\u2060-\u2064\ufeff]")
_FORMS = {
    **{point + 0xFEE0: chr(point) for point in range(0x21, 0x7F)},
    **dict.fromkeys(map(ord, "\u3000\u00a0\u2002\u2003\u2009\u202f"), " "),
    **dict.fromkeys(map(ord, "—–‐‑‒−"), "-"),
    ord("＿"): "_",
    ord("。"): "。",
}


class Shadow:
    """`text` is what rules read; `place(i)` is where its character i stands in the original."""

    def __init__(self, original: str) -> None:
        self.text = original
        self._places: np.ndarray | None = None
        if original.isascii():
            return
        if _INVISIBLE.search(original):
            points = np.frombuffer(original.encode("utf-32-le", "surrogatepass"), np.uint32)
            unseen = (points == 0xAD) | ((points >= 0x200B) & (points <= 0x200F)) | (points == 0xFEFF)
            unseen |= (points >= 0x2060) & (points <= 0x2064)
            self._places = np.flatnonzero(~unseen)
            self.text = _INVISIBLE.sub("", original)
        self.text = self.text.translate(_FORMS)

    def place(self, start: int, end: int) -> tuple[int, int]:
        """The span in the original of a span in the shadow."""
        if self._places is None:
            return start, end
        return int(self._places[start]), int(self._places[end - 1]) + 1
