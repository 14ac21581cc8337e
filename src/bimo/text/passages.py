"""Long texts -> passages, cut where their content says so: the same chapter met twice gives the same passages."""

from __future__ import annotations

import itertools
import re
import zlib
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from bimo.text.segment import split_sentences

__all__ = ["LONGEST_TARGET", "end_of_part", "passage_characters", "split_passages"]

SHORTEST_TARGET = 300
LONGEST_TARGET = 4000
_WANTED_PASSAGES = 400
# Where no word, address, number or group of its digits goes on behind a place.
_GAP = re.compile(r"(?!(?<=[\w.%+@:/=-])[\w.%+@:/=-]|(?<=\d )\d|(?<=\d) \d)", re.ASCII)
_BYTES_PER_CHARACTER = 3  # of Han in UTF-8; English then gives three times as many passages, which does no harm


class _Piece(NamedTuple):
    line: int
    text: str
    rate: float
    """A number drawn from the content, over its length: below 2 / target the passage ends after this piece."""


def passage_characters(total_bytes: int) -> int:
    """How long passages should be: a small corpus still gives some 400 of them, so that a split can be fair."""
    wanted = total_bytes // _BYTES_PER_CHARACTER // _WANTED_PASSAGES
    return max(SHORTEST_TARGET, min(LONGEST_TARGET, wanted))


def split_passages(lines: Iterable[tuple[int, str]], target_characters: int) -> Iterator[tuple[int, str]]:
    """(number, line) without line ends -> (number of its first line, passage) of some `target_characters`.

    A text of up to twice the target stays whole. A longer one is cut at the ends of paragraphs, once half the
    target is reached: at each with a chance that grows with the paragraph's length and is decided by its hash, so
    a cut depends on nothing but the text around it. No passage is longer than twice the target: where the hashes
    name no cut up to there, the boundary that came nearest to one is taken.
    """
    lines = iter(lines)
    first: list[tuple[int, str]] = []
    size = 0
    while size <= 2 * target_characters:
        pair = next(lines, None)
        if pair is None:
            yield from _join([_Piece(number, line + "\n", 0.0) for number, line in first])
            return
        first.append(pair)
        size += len(pair[1]) + 1
    waiting: list[_Piece] = []
    size = 0
    for piece in _pieces(itertools.chain(first, lines), target_characters):
        waiting.append(piece)
        size += len(piece.text)
        while size > 2 * target_characters:
            cut = _find_cut(waiting, target_characters)
            yield from _join(waiting[:cut])
            size -= sum(len(piece.text) for piece in waiting[:cut])
            waiting = waiting[cut:]
    while waiting:
        cut = _find_cut(waiting, target_characters, at_end=True)
        yield from _join(waiting[:cut])
        waiting = waiting[cut:]


def _find_cut(pieces: list[_Piece], target: int, *, at_end: bool = False) -> int:
    """How many pieces the next passage takes."""
    size, best, lowest = 0, len(pieces), float("inf")
    for count, piece in enumerate(pieces, 1):
        size += len(piece.text)
        if size > 2 * target:
            break
        if 2 * size >= target and piece.rate < lowest:
            best, lowest = count, piece.rate
            if piece.rate < 2 / target:
                return count
    return len(pieces) if at_end else best


def _join(pieces: list[_Piece]) -> Iterator[tuple[int, str]]:
    pieces = list(itertools.dropwhile(lambda piece: piece.text.isspace(), pieces))
    if pieces:
        yield pieces[0].line, "".join(piece.text for piece in pieces).strip("\n")


def _pieces(lines: Iterable[tuple[int, str]], target: int) -> Iterator[_Piece]:
    """Where a cut may fall: after each block up to a blank line; inside a block longer than the target, after lines."""
    block: list[tuple[int, str]] = []
    size, by_line = 0, False
    for number, line in lines:
        blank = not line or line.isspace()
        if by_line and len(line) <= target:
            yield _piece(number, line + "\n")
            by_line = not blank
            continue
        if not blank or len(line) <= target:
            block.append((number, line))
            size += len(line) + 1
        if size > target:
            for pair in block:
                yield from _sentences(*pair, target)
            block, size, by_line = [], 0, not blank
        elif blank and block:
            yield _whole(block)
            block, size = [], 0
    if block:
        yield _whole(block)


def _whole(block: list[tuple[int, str]]) -> _Piece:
    return _piece(block[0][0], "".join(line + "\n" for _, line in block))


def _sentences(number: int, line: str, target: int) -> Iterator[_Piece]:
    if len(line) <= target:
        yield _piece(number, line + "\n")
        return
    for sentence in split_sentences(line):
        start = 0
        while start < len(sentence):
            end = end_of_part(sentence, start, target)
            yield _piece(number, sentence[start:end])
            start = end
    yield _Piece(number, "\n", float("inf"))


def end_of_part(sentence: str, start: int, target: int) -> int:
    """Where to cut a sentence that is too long: not within a word or number, half of which nobody recognises."""
    last = start + target
    if last >= len(sentence):
        return len(sentence)
    return next((end for end in range(last, start + target // 2, -1) if _GAP.match(sentence, end)), last)


def _piece(line: int, text: str) -> _Piece:
    content = text.strip()
    if not content:
        return _Piece(line, text, float("inf"))
    return _Piece(line, text, zlib.crc32(content.encode("utf-8", "surrogatepass")) / 2**32 / len(text))
