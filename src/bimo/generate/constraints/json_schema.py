"""JSON schemas as expressions: every text of the expression is JSON that the schema accepts, on one line.

Not every accepted JSON is such a text: properties come in the order of the schema and no others beside them, between
parts there is at most one blank, what has no schema of its own nests twice, and a schema that refers to itself does
so to a bounded depth.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from bimo.generate.constraints.expressions import (
    NOTHING,
    Choice,
    Expression,
    InOrder,
    Repeat,
    Sequence,
    choice,
    literal,
    sequence,
)
from bimo.generate.constraints.json_numbers import LARGEST, MOST_DIGITS, decimals_of, integers, numbers
from bimo.generate.constraints.json_strings import strings
from bimo.generate.constraints.json_types import (
    ALONE,
    OF_TYPE,
    Schema,
    require_apart,
    types_of,
    types_of_value,
    values_of,
    wrong,
)
from bimo.generate.constraints.places import too_large
from bimo.generate.constraints.regex import parse_within
from bimo.runtime import DATA_REFUSED, UserError, t

__all__ = ["parse_schema"]

ANNOTATIONS = {
    *("title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly"),
    *("$schema", "$id", "$comment", "$defs", "definitions"),
}
"""That say nothing of what is valid."""

MOST_VALUES = 5_000
"""Schemas that are read, one that is referred to each time anew."""
NESTED = 2
"""How deep what has no schema nests."""
MOST_DECIMALS = 20

COMMA, COLON = (Sequence((literal(sign), Repeat(literal(" "), 0, 1))) for sign in ",:")


def parse_schema(schema: Any, *, turns: int = 0) -> Expression:
    """The JSON that a schema accepts, inside of itself so often. Raises UserError naming what it cannot keep to."""
    return _Reader(schema, turns).value(schema, "#", ())


@dataclass
class _Reader:
    """Reads the parts of one document; `root` is the whole, which references point into."""

    root: Any
    turns: int
    values: int = 0

    def value(self, schema: Any, where: str, inside: tuple[str, ...]) -> Expression:
        """The JSON of one schema at a place of the document, `inside` of the references that led there."""
        self.values += 1
        if self.values > MOST_VALUES:
            raise too_large()
        if schema is True or schema == {}:
            return _anything(NESTED)
        if schema is False:
            return NOTHING
        if not isinstance(schema, dict):
            raise wrong(where, t("it is neither an object nor true or false"))
        types = types_of(schema, where)
        known = ANNOTATIONS.union(("type", "enum", "const"), ALONE, *OF_TYPE.values())
        for keyword in schema:
            if keyword not in known:
                raise _refused(keyword, where)
        alone = [keyword for keyword in ALONE if keyword in schema]
        if alone:
            for keyword in schema:
                if keyword != alone[0] and keyword not in ANNOTATIONS:
                    raise _refused(keyword, where, beside=alone[0])
            return self._combined(alone[0], schema[alone[0]], where, inside)
        if "enum" in schema or "const" in schema:
            return self._listed(schema, types, where)
        return choice(self._typed(type_, schema, where, inside) for type_ in types)

    def _combined(self, keyword: str, said: Any, where: str, inside: tuple[str, ...]) -> Expression:
        if keyword == "$ref":
            if inside.count(str(said)) > self.turns:
                return NOTHING
            return self.value(self.target(said, where), str(said), (*inside, str(said)))
        if not isinstance(said, list) or not said:
            raise wrong(where, t("{keyword} is no list", keyword=keyword))
        if keyword == "allOf" and len(said) > 1:
            raise _refused(keyword, where)
        parts = [self.value(part, f"{where}/{keyword}/{place}", inside) for place, part in enumerate(said)]
        if keyword == "oneOf":
            require_apart(said, where, self.target)
        return choice(parts)

    def target(self, reference: Any, where: str) -> Any:
        """What a reference points to, within the document."""
        found = self.root
        if not isinstance(reference, str) or not reference.startswith("#"):
            raise wrong(where, t("$ref points out of the schema: {reference!r:.80}", reference=reference))
        for step in filter(None, reference[1:].split("/")):
            name = step.replace("~1", "/").replace("~0", "~")
            if isinstance(found, list) and name.isdigit() and int(name) < len(found):
                found = found[int(name)]
            elif isinstance(found, dict) and name in found:
                found = found[name]
            else:
                raise wrong(where, t("$ref points to nothing: {reference!r:.80}", reference=reference))
        return found

    def _listed(self, schema: Schema, types: list[str], where: str) -> Expression:
        """`enum` and `const`: their values as they stand, but those of another type."""
        values = values_of(schema, where)
        for keyword in schema.keys() - ANNOTATIONS - {"enum", "const", "type"}:
            raise _refused(keyword, where, beside="enum" if "enum" in schema else "const")
        fitting = [value for value in values if "type" not in schema or set(types_of_value(value)) & set(types)]
        return choice(literal(json.dumps(value, ensure_ascii=False)) for value in fitting)

    def _typed(self, type_: str, schema: Schema, where: str, inside: tuple[str, ...]) -> Expression:
        if type_ in ("boolean", "null"):
            return Choice((literal("true"), literal("false"))) if type_ == "boolean" else literal("null")
        make: Callable[[], Expression] = {
            "string": lambda: _string(schema, where),
            "integer": lambda: _number(schema, where, whole=True),
            "number": lambda: _number(schema, where, whole=False),
            "array": lambda: self._array(schema, where, inside),
            "object": lambda: self._object(schema, where, inside),
        }[type_]
        return make()

    def _array(self, schema: Schema, where: str, inside: tuple[str, ...]) -> Expression:
        least, most = _count(schema, "minItems", where, 0) or 0, _count(schema, "maxItems", where, None)
        item = self.value(schema["items"], f"{where}/items", inside) if "items" in schema else _anything(NESTED - 1)
        if item == NOTHING:
            most = 0
        if most is not None and most < least:
            return NOTHING
        return sequence(literal("["), Repeat(item, least, most, COMMA) if most != 0 else literal(""), literal("]"))

    def _object(self, schema: Schema, where: str, inside: tuple[str, ...]) -> Expression:
        properties, required = schema.get("properties", {}), schema.get("required", [])
        if not isinstance(properties, dict):
            raise wrong(where, t("{keyword} is no object", keyword="properties"))
        if not isinstance(required, list) or not all(isinstance(name, str) for name in required):
            raise wrong(where, t("{keyword} is no list", keyword="required"))
        others = schema.get("additionalProperties", True)
        if not properties and not required:
            member = sequence(strings(), COLON, self._other(others, where, inside))
            members = literal("") if member == NOTHING else Repeat(member, between=COMMA)
            return sequence(literal("{"), members, literal("}"))
        parts, needed = [], []
        for name in dict.fromkeys([*properties, *required]):
            if name in properties:
                value = self.value(properties[name], f"{where}/properties/{name}", inside)
            else:
                value = self._other(others, where, inside)
            if value == NOTHING and name not in required:
                continue
            if value == NOTHING:
                return NOTHING
            parts.append(sequence(literal(json.dumps(name, ensure_ascii=False)), COLON, value))
            needed.append(name in required)
        return sequence(literal("{"), InOrder(tuple(parts), tuple(needed), COMMA), literal("}"))

    def _other(self, others: Any, where: str, inside: tuple[str, ...]) -> Expression:
        if others is True:
            return _anything(NESTED - 1)
        return self.value(others, f"{where}/additionalProperties", inside)


def _string(schema: Schema, where: str) -> Expression:
    least, most = _count(schema, "minLength", where, 0) or 0, _count(schema, "maxLength", where, None)
    if most is not None and most < least:
        return NOTHING
    if "pattern" not in schema:
        return strings(least, most)
    if not isinstance(schema["pattern"], str):
        raise wrong(where, t("{keyword} is no text", keyword="pattern"))
    try:
        holding = parse_within(schema["pattern"])
    except UserError as error:
        raise wrong(where, str(error).rstrip(".")) from None
    return strings(least, most, holding=holding)


def _number(schema: Schema, where: str, *, whole: bool) -> Expression:
    least, most = _bound(schema, "minimum", where), _bound(schema, "maximum", where)
    below, above = _bound(schema, "exclusiveMinimum", where), _bound(schema, "exclusiveMaximum", where)
    open_below = below is not None and (least is None or below >= least)
    open_above = above is not None and (most is None or above <= most)
    least, most = below if open_below else least, above if open_above else most
    if not whole:
        return numbers(least, most, open_below=open_below, open_above=open_above)
    if least is not None and open_below and least == least.to_integral_value():
        least += 1
    if most is not None and open_above and most == most.to_integral_value():
        most -= 1
    return integers(least, most)


def _bound(schema: Schema, keyword: str, where: str) -> Decimal | None:
    said = schema.get(keyword)
    if said is None:
        return None
    if type(said) not in (int, float):
        raise wrong(where, t("{keyword} is no number", keyword=keyword))
    bound = Decimal(str(said))
    if not bound.is_finite() or decimals_of(bound) > MOST_DECIMALS:
        raise wrong(
            where, t("{keyword} has more than {most} digits behind the point", keyword=keyword, most=MOST_DECIMALS)
        )
    from_below = keyword in ("minimum", "exclusiveMinimum")
    if bound > LARGEST if from_below else bound < -LARGEST:
        raise wrong(
            where, t("{keyword} has more than the {most} digits that are written", keyword=keyword, most=MOST_DIGITS)
        )
    return bound


def _count(schema: Schema, keyword: str, where: str, usual: int | None) -> int | None:
    said = schema.get(keyword, usual)
    if said is not None and (type(said) is not int or said < 0):
        raise wrong(where, t("{keyword} is no count", keyword=keyword))
    return said


@functools.cache
def _anything(depth: int) -> Expression:
    """Any JSON that nests at most so deep."""
    string = strings()
    number = numbers(None, None, open_below=False, open_above=False)
    plain = [string, number, literal("true"), literal("false"), literal("null")]
    if depth == 0:
        return choice(plain)
    inner = _anything(depth - 1)
    items = Repeat(inner, between=COMMA)
    members = Repeat(sequence(string, COLON, inner), between=COMMA)
    return choice(
        [
            *plain,
            sequence(literal("["), items, literal("]")),
            sequence(literal("{"), members, literal("}")),
        ]
    )


def _refused(keyword: str, where: str, *, beside: str = "") -> UserError:
    if beside:
        return UserError(
            "The JSON schema has {keyword} beside {beside} at {where}, which Bimo cannot keep to together.",
            code=DATA_REFUSED,
            keyword=keyword,
            beside=beside,
            where=where,
        )
    known = sorted({"type", "enum", "const", *ALONE}.union(*OF_TYPE.values()))
    return UserError(
        "The JSON schema has {keyword} at {where}, which Bimo cannot keep to. It can: {known}.",
        code=DATA_REFUSED,
        keyword=keyword,
        where=where,
        known=", ".join(known),
    )
