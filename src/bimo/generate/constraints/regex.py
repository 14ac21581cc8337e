"""Regular expressions, in Python's spelling and sense, as expressions over characters."""

from __future__ import annotations

import functools
import re
import sys
import warnings
from dataclasses import dataclass

from bimo.generate.constraints.expressions import (
    ANYTHING,
    EMPTY,
    Characters,
    Expression,
    Repeat,
    choice,
    complement,
    literal,
    sequence,
    union,
)
from bimo.runtime import USAGE, UserError, is_text, t

__all__ = ["parse_whole", "parse_within"]

Ranges = tuple[tuple[int, int], ...]

NEWLINE: Ranges = ((10, 10),)
ENDS_OF_LINES: Ranges = ((10, 10), (13, 13), (0x2028, 0x2029))
BEYOND_ASCII: Ranges = ((0x80, sys.maxunicode),)
CONTROLS = {"n": "\n", "t": "\t", "r": "\r", "f": "\f", "v": "\v", "a": "\a"}
HEXADECIMAL = {"x": 2, "u": 4, "U": 8}
COUNT = re.compile(r"\{([0-9]*),([0-9]*)\}|\{([0-9]+)\}")
LOOKING = ("?=", "?!", "?<=", "?<!")
DEEPEST = 100


def parse_whole(pattern: str) -> Expression:
    """The texts that `re.fullmatch` accepts. Raises UserError for what is no such expression, or asks for context."""
    return choice(expression for _, expression, _ in _alternatives(pattern))


def parse_within(pattern: str) -> Expression:
    r"""The texts in which the pattern is found, as Python reads it and as ECMA-262, which JSON Schema means, does.

    So \d and \w are of ASCII, and `.` is no end of a line of any kind.
    """
    anywhere = Repeat(ANYTHING)
    return choice(
        sequence(EMPTY if begins else anywhere, expression, EMPTY if ends else anywhere)
        for begins, expression, ends in _alternatives(pattern, portable=True)
    )


def _alternatives(pattern: str, *, portable: bool = False) -> list[tuple[bool, Expression, bool]]:
    """(Whether it says that the text begins here, an alternative, whether it says that the text ends).

    Raises UserError for what is no expression; `portable` as in `_Parser`.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what may mean something else in later versions
            re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise UserError(
            "{pattern!r:.80} is no regular expression: {error}.", code=USAGE, pattern=pattern, error=str(error)[:200]
        ) from None
    return _Parser(pattern, portable).top()


@dataclass
class _Parser:
    """Reads a pattern that Python has accepted already, from left to right.

    What is `portable` is only what Python and ECMA-262 both take for a class of characters.
    """

    pattern: str
    portable: bool
    place: int = 0
    depth: int = 0

    def top(self) -> list[tuple[bool, Expression, bool]]:
        found = []
        while True:
            begins = self._take("^") or self._take(r"\A")
            expression = self._sequence()
            ends = self._take("$") or self._take(r"\Z")
            found.append((begins, expression, ends))
            if not self._take("|"):
                break
        if self.place < len(self.pattern):
            raise self._refusal("$" if found[-1][2] else self.pattern[self.place])
        return found

    def _take(self, text: str) -> bool:
        there = self.pattern.startswith(text, self.place)
        self.place += len(text) if there else 0
        return there

    def _next(self) -> str:
        self.place += 1
        return self.pattern[self.place - 1]

    def _refusal(self, part: str) -> UserError:
        return UserError(
            "The regular expression {pattern!r:.80} holds {part}, which cannot be kept to while writing. Use "
            "characters, classes such as [a-z] and \\d, groups, | and counts; ^ and $ at its ends alone.",
            code=USAGE,
            pattern=self.pattern,
            part=part,
        )

    def _sequence(self) -> Expression:
        parts = []
        while self.place < len(self.pattern):
            if self.pattern[self.place] in "|)$" or self.pattern.startswith(r"\Z", self.place):
                break
            parts.append(self._counted(self._atom()))
        return sequence(*parts)

    def _counted(self, part: Expression) -> Expression:
        sign = self.pattern[self.place : self.place + 1]
        count = COUNT.match(self.pattern, self.place)
        if sign and sign in "*+?":
            self.place += 1
            bounds: tuple[int, int | None] = {"*": (0, None), "+": (1, None), "?": (0, 1)}[sign]
        elif count:
            self.place = count.end()
            least, most, exactly = count.groups()
            if exactly:
                bounds = (int(exactly), int(exactly))
            else:
                bounds = (int(least or 0), int(most) if most else None)
        else:
            return part
        if self._take("+"):
            raise self._refusal(t("a count that gives nothing back (+ behind a count)"))
        self._take("?")  # which match is found first makes no difference to what the whole may be
        return Repeat(part, *bounds)

    def _atom(self) -> Expression:
        character = self._next()
        if character == "(":
            return self._group()
        if character == "[":
            return Characters(self._class())
        if character == ".":
            return Characters(complement(ENDS_OF_LINES if self.portable else NEWLINE))
        if character == "^":
            raise self._refusal("^")
        if character == "\\":
            return self._escape()
        return literal(character)

    def _group(self) -> Expression:
        name = re.compile(r"\?P<\w+>|\?:").match(self.pattern, self.place)
        if name:
            self.place = name.end()
        elif self.pattern.startswith(LOOKING, self.place):
            raise self._refusal(t("a look ahead or behind"))
        elif self.pattern.startswith("?", self.place):
            raise self._refusal(f"(?{self.pattern[self.place + 1 : self.place + 2]}")
        self.depth += 1
        if self.depth > DEEPEST:
            raise self._refusal(t("groups in more than {most} groups", most=DEEPEST))
        parts = [self._sequence()]
        while self._take("|"):
            parts.append(self._sequence())
        if not self._take(")"):
            raise self._refusal(self.pattern[self.place])
        self.depth -= 1
        return choice(parts)

    def _escape(self) -> Expression:
        letter = self._next()
        if letter in "wWdDsS":
            return Characters(self._named(letter, within=False))
        if letter in "bBAZz":  # the last is Python's since 3.14
            raise self._refusal("\\" + letter)
        octal = re.compile(r"0|[1-3][0-7]{2}").match(self.pattern, self.place - 1)
        if letter.isdigit() and not octal:
            raise self._refusal(t("a reference to a group"))
        start = self.place
        code = self._code_point(letter)
        if not is_text(chr(code)):
            raise self._refusal("\\" + self.pattern[start - 1 : self.place])
        return Characters(((code, code),))

    def _code_point(self, letter: str) -> int:
        """Of the character that an escape stands for, its backslash and first letter read already."""
        if letter in HEXADECIMAL:
            digits = self.pattern[self.place : self.place + HEXADECIMAL[letter]]
            self.place += len(digits)
            return int(digits, 16)
        if letter in "01234567":
            octal = re.compile(r"[0-7]{1,3}").match(self.pattern, self.place - 1)
            assert octal is not None
            self.place = octal.end()
            return int(octal[0], 8)
        if letter == "N":
            raise self._refusal("\\N")
        return ord(CONTROLS.get(letter, letter))

    def _class(self) -> Ranges:
        """The characters of a class, its [ read already."""
        negated = self._take("^")
        ranges: list[Ranges] = []
        first = True
        while first or self.pattern[self.place] != "]":
            first = False
            low = self._member(negated)
            if isinstance(low, tuple):
                ranges.append(low)
                continue
            high = low
            if self.pattern[self.place] == "-" and self.pattern[self.place + 1] != "]":
                self.place += 1
                member = self._member(negated)
                assert isinstance(member, int), "Python refuses a range that ends in a class"
                high = member
            ranges.append(((low, high),))
        self.place += 1
        found = union(*ranges)
        # Twice, so that surrogates, which are no characters, are in neither.
        return complement(found) if negated else complement(complement(found))

    def _member(self, negated: bool) -> int | Ranges:
        character = self._next()
        if character != "\\":
            return ord(character)
        letter = self._next()
        if letter in "wWdDsS":
            return self._named(letter, within=negated)
        return 8 if letter == "b" else self._code_point(letter)

    def _named(self, letter: str, *, within: bool) -> Ranges:
        r"""A class such as \w; `within` a negated one, where the wider of two readings is what both leave out."""
        found = _category(letter)
        if not self.portable or letter in "sS":
            return found
        if within:
            return union(found, BEYOND_ASCII) if letter.isupper() else found
        return found if letter.isupper() else complement(union(complement(found), BEYOND_ASCII))


@functools.cache
def _category(letter: str) -> Ranges:
    r"""What \w, \d or \s match, or their opposites: Python itself is asked, character by character."""
    if letter.isupper():
        return complement(_category(letter.lower()))
    every = "".join(map(chr, range(sys.maxunicode + 1)))
    return union(tuple((run.start(), run.end() - 1) for run in re.finditer(rf"\{letter}+", every)))
