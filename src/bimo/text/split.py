"""Train or validation: decided by the content of a text alone, so that no duplicate is on both sides."""

from __future__ import annotations

import hashlib

from bimo.text.dedup import text_digest

__all__ = ["is_validation", "split_position", "validation_share"]

_MOST = 0.1
_LEAST_FOR_SMALL = 0.05
_ENOUGH_BYTES = 100_000
_MOST_BYTES = 5_000_000


def validation_share(total_bytes: int) -> float:
    """Which share of the text to keep for validation: 0.1 up to 1 MB, 0.05 from 2 to 100 MB, at most 5 MB beyond.

    100 kB are what bits per byte need to be steady within about a percent; more than 5 MB only cost time.
    """
    total_bytes = max(1, total_bytes)
    share = min(_MOST, max(_LEAST_FOR_SMALL, _ENOUGH_BYTES / total_bytes))
    return min(share, _MOST_BYTES / total_bytes)


def split_position(text: str, seed: int) -> float:
    """Where a text lies in [0, 1), evenly spread, whatever its white space."""
    drawn = hashlib.blake2b(text_digest(text), digest_size=8, key=b"split %d" % seed).digest()
    return int.from_bytes(drawn, "big") / 2**64


def is_validation(text: str, share: float, seed: int) -> bool:
    """Whether a text belongs to validation: its position lies below `share`."""
    return split_position(text, seed) < share
