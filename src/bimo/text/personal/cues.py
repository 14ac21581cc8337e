"""What stands around numbers and says what they are."""

from __future__ import annotations

import re
from collections.abc import Iterator

__all__ = [
    "CLOSED",
    "FREE",
    "GAP",
    "NEAR",
    "NUMERALS",
    "SPOKEN",
    "THINGS",
    "THINGS_IN_ENGLISH",
    "Spans",
    "announced",
    "bare",
    "said",
]

Spans = Iterator[tuple[int, int]]

NEAR = 24
"""So many characters before a number say what it is."""

FREE = r"(?<![0-9A-Za-z])"
CLOSED = r"(?![0-9A-Za-z])"
GAP = r"[ .\-]{0,2}"
NUMERALS = str.maketrans("零〇一二三四五六七八九幺两壹贰叁肆伍陆柒捌玖", "0012345678912123456789")
SPOKEN = "[零〇一二三四五六七八九幺]"


def said(cue: re.Pattern[str], line: str, start: int, size: int = NEAR) -> bool:
    """Whether a cue stands before a place; it sees whether a word begins before these characters."""
    return cue.search(line, max(0, start - size), start) is not None


def bare(piece: str) -> str:
    """Its letters and digits."""
    return re.sub(r"[^0-9A-Za-z]", "", piece)


THINGS = "订单|单号|流水|编号|序列|条码|条形码|批次|专利"
THINGS_IN_ENGLISH = "ISBN|EAN|GTIN|UPC|IMEI|order|invoice|tracking|serial|barcode|batch|timestamp|unix"


def announced(chinese: str, english: str) -> re.Pattern[str]:
    """One of these words in the same clause as what follows; the Latin ones whole, since Jean is no EAN."""
    latin = rf"(?<![A-Za-z])(?:{english})s?(?-i:(?![a-z]))"
    return re.compile(rf"(?:{chinese}|{latin})[^,;。!?\n]*$", re.IGNORECASE)
