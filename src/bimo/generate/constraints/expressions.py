"""What a text may look like, as a tree of expressions over characters; `automaton.py` makes bytes of it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from bimo.runtime import is_text

__all__ = [
    "ANYTHING",
    "EMPTY",
    "NOTHING",
    "Both",
    "Characters",
    "Choice",
    "Expression",
    "InOrder",
    "Repeat",
    "Sequence",
    "choice",
    "complement",
    "literal",
    "sequence",
    "union",
]

Ranges = tuple[tuple[int, int], ...]
"""Code points from first to last, in order, apart from each other."""

LAST = 0x10FFFF
SURROGATES = (0xD800, 0xDFFF)
"""Which are no characters, and have no bytes in UTF-8."""


@dataclass(frozen=True)
class Characters:
    """One character of these."""

    ranges: Ranges


@dataclass(frozen=True)
class Sequence:
    """The parts one after another."""

    parts: tuple[Expression, ...]


@dataclass(frozen=True)
class Choice:
    """One of the parts; without any, no text at all."""

    parts: tuple[Expression, ...]


@dataclass(frozen=True)
class Repeat:
    """The part from `least` to `most` times, without end where `most` is None; `between` stands between two of them."""

    part: Expression
    least: int = 0
    most: int | None = None
    between: Expression | None = None


@dataclass(frozen=True)
class InOrder:
    """Parts in their order with `between` between those that are there; those that are not `required` may be absent."""

    parts: tuple[Expression, ...]
    required: tuple[bool, ...]
    between: Expression


@dataclass(frozen=True)
class Both:
    """What either expression allows."""

    first: Expression
    second: Expression


Expression = Characters | Sequence | Choice | Repeat | InOrder | Both

EMPTY = Sequence(())
NOTHING = Choice(())
ANYTHING = Characters(((0, SURROGATES[0] - 1), (SURROGATES[1] + 1, LAST)))


def literal(text: str) -> Expression:
    """This text alone; nothing where it holds half a character, which nobody can write."""
    if not is_text(text):
        return NOTHING
    return Sequence(tuple(Characters(((ord(character), ord(character)),)) for character in text))


def sequence(*parts: Expression) -> Expression:
    """The parts one after another; nothing where one of them is."""
    return NOTHING if NOTHING in parts else Sequence(parts)


def choice(parts: Iterable[Expression]) -> Expression:
    """One of the parts that can be written at all."""
    possible = tuple(part for part in parts if part != NOTHING)
    return possible[0] if len(possible) == 1 else Choice(possible)


def union(*sets: Ranges) -> Ranges:
    """The code points of all sets."""
    merged: list[tuple[int, int]] = []
    for first, last in sorted(pair for ranges in sets for pair in ranges):
        if merged and first <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(last, merged[-1][1]))
        else:
            merged.append((first, last))
    return tuple(merged)


def complement(ranges: Ranges) -> Ranges:
    """All characters that are not in a set."""
    left, start = [], 0
    for first, last in union(ranges, (SURROGATES,)):
        if start < first:
            left.append((start, first - 1))
        start = last + 1
    if start <= LAST:
        left.append((start, LAST))
    return tuple(left)
