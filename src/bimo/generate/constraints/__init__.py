"""Texts of a given form: a regular expression, a JSON schema or a list of choices, kept to token by token.

    model.generate("Born in ", constraint=regex("[12][0-9]{3}"))

An expression becomes an automaton over bytes, which knows how far it is to where a text may end (`automaton.py`);
joined with the tokens of a model it says at each step which of them may come (`masks.py`).
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from bimo.generate.constraints.automaton import Automaton, compile_expression
from bimo.generate.constraints.expressions import choice, literal
from bimo.generate.constraints.json_schema import parse_schema
from bimo.generate.constraints.places import TooLarge, too_large
from bimo.generate.constraints.regex import parse_whole
from bimo.runtime import USAGE, UserError

__all__ = ["Automaton", "choices", "json_schema", "regex"]

TURNS = 3
"""How often a schema that refers to itself is inside of itself, where there is room."""


def regex(pattern: str) -> Automaton:
    """The texts that `re.fullmatch` accepts. Raises UserError for what is no expression or needs more than it."""
    return compile_expression(parse_whole(pattern))


def json_schema(schema: Any) -> Automaton:
    """JSON that a schema accepts, which is as `json.loads` gives it. Raises UserError naming what it cannot keep to.

    A schema that refers to itself may be inside of itself three times, or as often as there is room for.
    """
    try:
        turns = TURNS if "$ref" in json.dumps(schema) else 0
        while turns:
            try:
                return compile_expression(parse_schema(schema, turns=turns))
            except TooLarge:
                turns -= 1
        return compile_expression(parse_schema(schema))
    except RecursionError:
        raise too_large() from None


def choices(texts: Iterable[str]) -> Automaton:
    """One of these texts. Raises UserError where there is none."""
    listed = [*texts]
    if not any(listed):
        raise UserError("There is nothing to choose from: give at least one text.", code=USAGE)
    return compile_expression(choice(map(literal, listed)))
