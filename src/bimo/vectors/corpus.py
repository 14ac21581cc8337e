"""Texts as one long row of word numbers on disk, and the words behind the numbers."""

from __future__ import annotations

from collections.abc import Iterable, Set
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bimo.text.segment import WordList, is_word, segment

__all__ = ["END", "Corpus", "index_texts"]

END = -1
"""Stands in the row of numbers where a line, and so a sentence for our purpose, ends."""

_DROPPED = -2
_BLOCK = 1 << 20


@dataclass(frozen=True)
class Corpus:
    """Words, the commonest first, with their counts [V], and `ids`: int32, on disk, each line followed by END."""

    words: list[str]
    counts: np.ndarray
    ids: np.ndarray


def index_texts(
    texts: Iterable[str],
    folder: Path,
    *,
    least_count: int,
    words: WordList | None = None,
    without: Set[str] = frozenset(),
) -> Corpus:
    """Number the words of `texts`, small letters only, in files under `folder`; memory holds the vocabulary alone.

    Words that occur less than `least_count` times are left out, and so are those in `without`.
    """
    first, counts = _number_all(texts, folder / "all", words, without)
    kept = [number for number in range(len(first)) if counts[number] >= least_count]
    kept.sort(key=lambda number: (-counts[number], first[number]))
    # One place more than there are words, so that END, the last from behind, stays what it is.
    numbers = np.full(len(first) + 1, _DROPPED, np.int32)
    numbers[kept] = np.arange(len(kept))
    numbers[END] = END
    with (folder / "ids").open("wb") as out:
        for block in _blocks(folder / "all"):
            known = numbers[block]
            known[known != _DROPPED].tofile(out)
    (folder / "all").unlink()
    return Corpus([first[number] for number in kept], counts[kept], _row(folder / "ids"))


def _number_all(
    texts: Iterable[str], path: Path, words: WordList | None, without: Set[str]
) -> tuple[list[str], np.ndarray]:
    """Write every word's number; returns the words by number and how often each occurs."""
    numbers: dict[str, int] = {}
    counts = np.zeros(0, np.int64)
    with path.open("wb") as out:
        found: list[int] = []

        def write() -> None:
            nonlocal counts
            block = np.array(found, np.int32)
            block.tofile(out)
            counts = _added(counts, np.bincount(block[block >= 0], minlength=len(numbers)))
            found.clear()

        for text in texts:
            for word in segment(text, words):
                if is_word(word):
                    if (small := word.lower()) not in without:
                        found.append(numbers.setdefault(small, len(numbers)))
                elif "\n" in word:
                    found.append(END)
            found.append(END)
            if len(found) >= _BLOCK:
                write()
        write()
    return list(numbers), counts


def _added(counts: np.ndarray, more: np.ndarray) -> np.ndarray:
    total = more.astype(np.int64)
    total[: len(counts)] += counts
    return total


def _row(path: Path) -> np.ndarray:
    # An empty file cannot be mapped.
    return np.memmap(path, np.int32, "r") if path.stat().st_size else np.zeros(0, np.int32)


def _blocks(path: Path) -> Iterable[np.ndarray]:
    row = _row(path)
    return (row[start : start + _BLOCK] for start in range(0, len(row), _BLOCK))
