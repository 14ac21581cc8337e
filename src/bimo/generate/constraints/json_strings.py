"""Strings in JSON: any characters between quotation marks, those escaped that must be."""

from __future__ import annotations

import functools

from bimo.generate.constraints.expressions import (
    ANYTHING,
    Both,
    Characters,
    Choice,
    Expression,
    Repeat,
    Sequence,
    choice,
    complement,
    literal,
    sequence,
    union,
)

__all__ = ["strings"]

QUOTE = literal('"')
ESCAPED = {'"': '\\"', "\\": "\\\\", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t"}
MUST_ESCAPE = ((0, 31), (34, 34), (92, 92))
HEX = Characters(((48, 57), (65, 70), (97, 102)))
# Four digits of hexadecimal that are no surrogate: those begin with d8 to df.
HEX_CHARACTER = Choice(
    (
        Sequence((Characters(((48, 57), (65, 67), (69, 70), (97, 99), (101, 102))), HEX, HEX, HEX)),
        Sequence((Characters(((68, 68), (100, 100))), Characters(((48, 55),)), HEX, HEX)),
    )
)
CHARACTER = Choice(
    (
        Characters(complement(MUST_ESCAPE)),
        Sequence(
            (literal("\\"), Choice((*(literal(x) for x in '"\\/bfnrt'), Sequence((literal("u"), HEX_CHARACTER)))))
        ),
    )
)
"""One character of a string, in any of its spellings."""


def strings(least: int = 0, most: int | None = None, *, holding: Expression | None = None) -> Expression:
    """Strings of `least` to `most` characters, all of each as `holding` has it where it is given."""
    if holding is None:
        return sequence(QUOTE, Repeat(CHARACTER, least, most), QUOTE)
    content = spelled(holding)
    if least or most is not None:
        content = Both(content, Repeat(spelled(ANYTHING), least, most))
    return sequence(QUOTE, content, QUOTE)


@functools.cache
def spelled(expression: Expression) -> Expression:
    """The same expression with each character as it stands in a string of JSON, in one spelling."""
    match expression:
        case Characters(ranges):
            plain = complement(union(complement(ranges), MUST_ESCAPE))
            codes = [code for first, last in ranges for code in range(first, min(last, 92) + 1)]
            escaped = [chr(code) for code in codes if any(low <= code <= high for low, high in MUST_ESCAPE)]
            spellings = [literal(ESCAPED.get(character, f"\\u{ord(character):04x}")) for character in escaped]
            return choice([*([Characters(plain)] if plain else []), *spellings])
        case Sequence(parts):
            return sequence(*map(spelled, parts))
        case Choice(parts):
            return choice(map(spelled, parts))
        case Repeat(part, least, most, None):
            return Repeat(spelled(part), least, most)
    raise AssertionError("regular expressions are made of nothing else")
