"""Random regular expressions and JSON schemas, always the same ones, for test and benchmark of constrained writing."""

from __future__ import annotations

import json
import random
import re
import string
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

__all__ = ["Form", "forms"]

CLASSES = ("[a-z]", "[A-Z0-9_]", "[^,;]", r"\d", r"\w", r"\s", r"\D", ".", "[一-龥]", "[αβγ-ω]", r"[\w.-]", r"[^\W\d]")
LITERALS = ("a", "bc", " ", "，", "语言", r"\.", r"\(", "é", "=", r"\n", "😀", r"\u4e2d", "0")
COUNTS = ("*", "+", "?", "{3}", "{2,}", "{1,4}", "{,3}", "*?", "{0,2}")
TAME_COUNTS = ("?", "{2}")
"""Of what repeats or branches itself: Python's `re`, which judges, would try exponentially many ways through it."""
UNBOUNDED, VARIABLE = re.compile(r"(?<!\\)[*+]|,\}"), re.compile(r"(?<![\\(])[*+?]|\{\d*,")
WORDS = ("name", "age", "标题", "tags", "x-y", 'quo"te', "a b", "日期", "nested")
PATTERNS = ("^[a-z]+$", "^[A-Z]{2}\\d{3}$", "^[一-龥]{1,4}$", "[0-9]", "^(ab|c)*$", "x.y")


@dataclass(frozen=True)
class Form:
    """A regular expression or a schema. `is_kept` says whether a text has the form, by the reference of each."""

    kind: str
    said: Any

    def is_kept(self, text: str) -> bool:
        """By Python's `re`, or by `json` and `jsonschema`."""
        if self.kind == "regex":
            return re.fullmatch(self.said, text) is not None
        import jsonschema

        return jsonschema.Draft202012Validator(self.said).is_valid(json.loads(text))


def forms(count: int, *, seed: int = 0) -> Iterator[Form]:
    """So many forms, regular expressions and schemas by turns."""
    draw = random.Random(seed)
    for number in range(count):
        yield Form("schema", _schema(draw)) if number % 2 else Form("regex", _tame_regex(draw))


def _tame_regex(draw: random.Random) -> str:
    """A random expression that Python's `re` judges in a moment, whatever the text."""
    while True:
        pattern = _regex(draw)
        if len(UNBOUNDED.findall(pattern)) <= 3 and len(VARIABLE.findall(pattern)) <= 8:
            return pattern


def _regex(draw: random.Random, depth: int = 2) -> str:
    parts = []
    for _ in range(draw.randint(1, 4)):
        kind = draw.random()
        if depth and kind < 0.3:
            inner = "|".join(_regex(draw, depth - 1) for _ in range(draw.randint(1, 3)))
            part = f"{draw.choice(('(', '(?:'))}{inner})"
        elif kind < 0.65:
            part = draw.choice(CLASSES)
        else:
            part = draw.choice(LITERALS)
            part = part if len(part) == 1 or part[0] == "\\" else f"(?:{part})"
        wild = part[0] == "(" and re.search(r"[*+?{|]", part.removeprefix("(?:"))
        parts.append(part + (draw.choice(TAME_COUNTS if wild else COUNTS) if draw.random() < 0.4 else ""))
    whole = "".join(parts)
    return f"^{whole}$" if depth == 2 and draw.random() < 0.2 and "|" not in whole else whole


def _schema(draw: random.Random) -> Any:
    if draw.random() < 0.15:
        node = {
            "type": "object",
            "properties": {"value": _value(draw, 1), "children": {"type": "array", "items": {"$ref": "#/$defs/node"}}},
            "required": ["children"] if draw.random() < 0.5 else [],
        }
        return {"$defs": {"node": node}, "anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]}
    return _value(draw, 3)


def _value(draw: random.Random, depth: int) -> Any:
    makers = [_string, _number, _listed, lambda _: {"type": draw.choice(("boolean", "null"))}]
    if depth:
        makers += [lambda draw: _object(draw, depth), lambda draw: _array(draw, depth)] * 3
        makers += [lambda draw: {"anyOf": [_value(draw, depth - 1) for _ in range(draw.randint(1, 3))]}]
        makers += [lambda draw: {"oneOf": [{"type": "string"}, _number(draw), {"const": None}]}, lambda draw: {}]
    return draw.choice(makers)(draw)


def _string(draw: random.Random) -> Any:
    schema: dict[str, Any] = {"type": "string"}
    kind = draw.random()
    if kind < 0.2:
        schema["pattern"] = draw.choice(PATTERNS)
    elif kind < 0.6:
        schema["minLength"] = draw.randint(0, 4)
        schema["maxLength"] = schema["minLength"] + draw.randint(0, 8)
    elif kind < 0.7:
        return {"type": ["string", "null"], "minLength": 1, "description": "one or nothing"}
    return schema


def _number(draw: random.Random) -> Any:
    schema: dict[str, Any] = {"type": draw.choice(("integer", "number"))}
    least = draw.choice((draw.randint(-2000, 2000), draw.randint(-5, 5), round(draw.uniform(-3, 3), 2)))
    if draw.random() < 0.5:
        schema[draw.choice(("minimum", "exclusiveMinimum"))] = least
    if draw.random() < 0.5:
        schema[draw.choice(("maximum", "exclusiveMaximum"))] = least + draw.choice((2, 10, 1500))
    return schema


def _listed(draw: random.Random) -> Any:
    values = [draw.choice((None, True, draw.randint(-9, 99), 2.5, "红", 'a"b', [1, "二"], {"k": []})) for _ in range(3)]
    return {"enum": values} if draw.random() < 0.7 else {"const": values[0]}


def _array(draw: random.Random, depth: int) -> Any:
    schema: dict[str, Any] = {"type": "array", "items": _value(draw, depth - 1)}
    if draw.random() < 0.5:
        schema["minItems"] = draw.randint(0, 2)
        schema["maxItems"] = schema["minItems"] + draw.randint(0, 3)
    return schema


def _object(draw: random.Random, depth: int) -> Any:
    if draw.random() < 0.15:
        return {"type": "object", "additionalProperties": _value(draw, depth - 1)}
    names = [*draw.sample(WORDS, draw.randint(1, 4)), draw.choice(string.ascii_letters)]
    schema: dict[str, Any] = {
        "type": "object",
        "properties": {name: _value(draw, depth - 1) for name in dict.fromkeys(names)},
        "required": [name for name in dict.fromkeys(names) if draw.random() < 0.5],
    }
    if draw.random() < 0.5:
        schema["additionalProperties"] = False
    return schema
