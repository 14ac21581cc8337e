"""What a regular expression that came with a tokenizer may cost, read off its form without ever running it."""

from __future__ import annotations

import re

__all__ = ["is_explosive", "is_tame"]

LONGEST_PATTERN = 4096
MOST_REPEATS = 255
"""In {n,m}. Such a count is written out when the expression is compiled."""
TAME_REPETITIONS = 3
"""Without bound, in one alternative: whatever the text, the time then is a small power of the length of a word. Of what
may be left out there are no more either: each doubles the ways to read a word."""

CLASS = re.compile(r"\[\^?\]?(?:\\.|[^\[\]\\])*\]")
ESCAPE = re.compile(r"\\[pP]\{\^?\w+\}|\\[^\dkg]")
GROUP = re.compile(r"\(\?(?::|i:|=|!)|\((?!\?)")
COUNT = re.compile(r"\{(\d*)(,?)(\d*)\}")


def is_explosive(pattern: str) -> bool:
    """Whether a pattern is of a form that can take exponential time or memory: repetitions of what repeats or branches.

    Long ones count too, and those that call themselves.
    """
    atoms = _atoms(pattern)
    if len(pattern) > LONGEST_PATTERN or re.search(r"\(\?(?:R|&|P>)|\\g", pattern):
        return True
    if any(int(number) > MOST_REPEATS for count in COUNT.finditer(atoms) for number in count.group(1, 3) if number):
        return True
    opened: list[bool] = []
    for place, atom in enumerate(atoms):
        if atom == "(":
            opened.append(False)
        elif atom == ")":
            branches = opened.pop() if opened else False
            repeated = atoms[place + 1 : place + 2] in ("*", "+", "{")
            if branches and repeated:
                return True
            if opened and (branches or repeated):
                opened[-1] = True
        elif atom in "*+{|" and opened:
            opened[-1] = True
    return False


def is_tame(pattern: str) -> bool:
    """Whether a pattern is as plain as those of GPT-2, Qwen2 and Llama 3: no word of a text can hold it up for long."""
    atoms = _atoms(pattern)
    if is_explosive(pattern) or re.search(r"[\\\[\]]|\(\?", atoms) or re.search(r"\)[*+{]", atoms):
        return False
    kinds = r"[*+]|\{\d*,\d*\}", r"(?<![*+}?])\?"
    counts = (len(re.findall(kind, branch)) for kind in kinds for branch in atoms.split("|"))
    return max(counts) <= TAME_REPETITIONS


def _atoms(pattern: str) -> str:
    """The pattern with classes and escapes as single letters and plain groups as brackets; what is unusual stays."""
    return GROUP.sub("(", CLASS.sub("x", ESCAPE.sub("x", pattern)))
