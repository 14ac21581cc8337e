"""Paragraphs that stand in many documents, such as headers, licences and disclaimers: found by their hashes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import numpy as np

__all__ = ["REPEATED_IN", "drop_paragraphs", "paragraph_hashes"]

REPEATED_IN = 5
"""A paragraph that stands in so many different documents is left in the first of them alone."""

_LEAST_BYTES = 60
"""In UTF-8: twenty Han characters, or some ten English words. What is shorter may well be said twice."""


def _hash(line: str) -> int:
    """Of a line that can be told from others: 0 for short lines and for those with an indent, which code has."""
    length = len(line)
    if 3 * length < _LEAST_BYTES or (length < _LEAST_BYTES and line.isascii()) or line[0].isspace():
        return 0
    data = "".join(line.split()).encode("utf-8", "surrogatepass")
    if len(data) < _LEAST_BYTES:
        return 0
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "little")


def paragraph_hashes(text: str) -> np.ndarray:
    """[P] uint64: the hashes of the long lines of a text, sorted, each once."""
    found = {_hash(line) for line in text.split("\n")} - {0}
    return np.array(sorted(found), np.uint64)


def drop_paragraphs(text: str, unwanted: Callable[[int], bool]) -> tuple[str, list[str]]:
    """`text` without the long lines whose hash is `unwanted`, and these lines."""
    kept: list[str] = []
    dropped: list[str] = []
    for line in text.split("\n"):
        value = _hash(line)
        (dropped if value and unwanted(value) else kept).append(line)
    return "\n".join(kept).strip("\n"), dropped
