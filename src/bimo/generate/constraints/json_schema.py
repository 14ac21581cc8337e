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
from bimo.generate.constraints.json_numbers import decimals_of, integers, numbers
from bimo.generate.constraints.json_strings import strings
from bimo.generate.constraints.places import too_large
from bimo.generate.constraints.regex import parse_within
from bimo.runtime import DATA_REFUSED, UserError, t

__all__ = ["parse_schema"]

Schema = dict[str, Any]

ANNOTATIONS = {
    *("title", "description", "default", "examples", "deprecated", "readOnly", "writeOnly"),
    *("$schema", "$id", "$comment", "$defs", "definitions"),
}
"""That say nothing of what is valid."""

OF_TYPE = {
    "string": {"minLength", "maxLength", "pattern"},
    "integer": {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"},
    "number": {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"},
    "boolean": set(),
    "null": set(),
    "array": {"items", "minItems", "maxItems"},
    "object": {"properties", "required", "additionalProperties"},
}
"""Keywords by the type that they speak of."""

ALONE = ("$ref", "anyOf", "oneOf", "allOf")
"""Keywords beside which only annotations are understood."""

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
            raise _wrong(where, t("it is neither an object nor true or false"))
        types = self._types(schema, where)
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

    def _types(self, schema: Schema, where: str) -> list[str]:
        """As `type` has them; without it those of which a keyword speaks, or else all."""
        named = schema.get("type")
        if named is None:
            spoken = [type_ for type_, keywords in OF_TYPE.items() if keywords & schema.keys()]
            return [type_ for type_ in spoken or OF_TYPE if type_ != "integer"]
        types = named if isinstance(named, list) else [named]
        for type_ in types:
            if type_ not in OF_TYPE:
                raise _wrong(where, t("its type {type!r:.40} is none of JSON", type=type_))
        # An integer is a number: once is enough.
        return [type_ for type_ in types if not (type_ == "integer" and "number" in types)]

    def _combined(self, keyword: str, said: Any, where: str, inside: tuple[str, ...]) -> Expression:
        if keyword == "$ref":
            if inside.count(str(said)) > self.turns:
                return NOTHING
            return self.value(self.target(said, where), str(said), (*inside, str(said)))
        if not isinstance(said, list) or not said:
            raise _wrong(where, t("{keyword} is no list", keyword=keyword))
        if keyword == "allOf" and len(said) > 1:
            raise _refused(keyword, where)
        if keyword == "oneOf":
            self._require_apart(said, where)
        return choice(self.value(part, f"{where}/{keyword}/{place}", inside) for place, part in enumerate(said))

    def target(self, reference: Any, where: str) -> Any:
        """What a reference points to, within the document."""
        found = self.root
        if not isinstance(reference, str) or not reference.startswith("#"):
            raise _wrong(where, t("$ref points out of the schema: {reference!r:.80}", reference=reference))
        for step in filter(None, reference[1:].split("/")):
            name = step.replace("~1", "/").replace("~0", "~")
            if isinstance(found, list) and name.isdigit() and int(name) < len(found):
                found = found[int(name)]
            elif isinstance(found, dict) and name in found:
                found = found[name]
            else:
                raise _wrong(where, t("$ref points to nothing: {reference!r:.80}", reference=reference))
        return found

    def _listed(self, schema: Schema, types: list[str], where: str) -> Expression:
        """`enum` and `const`: their values as they stand, but those of another type."""
        values = _values(schema, where)
        for keyword in schema.keys() - ANNOTATIONS - {"enum", "const", "type"}:
            raise _refused(keyword, where, beside="enum" if "enum" in schema else "const")
        fitting = [value for value in values if "type" not in schema or set(_types_of(value)) & set(types)]
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
            raise _wrong(where, t("{keyword} is no object", keyword="properties"))
        if not isinstance(required, list) or not all(isinstance(name, str) for name in required):
            raise _wrong(where, t("{keyword} is no list", keyword="required"))
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

    def _require_apart(self, schemas: list[Any], where: str) -> None:
        """Raises UserError unless no JSON can be accepted by two of the schemas, as `oneOf` wants it."""
        for place, schema in enumerate(schemas):
            for other in schemas[:place]:
                if not self._apart(schema, other, where):
                    raise UserError(
                        "The schema has alternatives under oneOf at {where} that the same JSON may satisfy. Use anyOf, "
                        "or give each a type or a required constant of its own.",
                        code=DATA_REFUSED,
                        where=where,
                    )

    def _apart(self, one: Any, other: Any, where: str) -> bool:
        one, other = (self._resolved(schema, where) for schema in (one, other))
        if not isinstance(one, dict) or not isinstance(other, dict):
            return False
        if any(keyword in schema for keyword in ALONE for schema in (one, other)):
            return False
        types = [self._possible_types(schema, where) for schema in (one, other)]
        if not types[0] & types[1]:
            return True
        if all("enum" in schema or "const" in schema for schema in (one, other)):
            mine, theirs = ([json.dumps(value) for value in _values(schema, where)] for schema in (one, other))
            return not set(mine) & set(theirs) and "number" not in types[0] & types[1]
        if types[0] != {"object"} or types[1] != {"object"}:
            return False
        lists = [set(schema.get("required", ())) & schema.get("properties", {}).keys() for schema in (one, other)]
        return any(
            self._apart(one["properties"][name], other["properties"][name], where) for name in lists[0] & lists[1]
        )

    def _resolved(self, schema: Any, where: str) -> Any:
        seen: set[str] = set()
        while isinstance(schema, dict) and "$ref" in schema and str(schema["$ref"]) not in seen:
            seen.add(str(schema["$ref"]))
            schema = self.target(schema["$ref"], where)
        return schema

    def _possible_types(self, schema: Schema, where: str) -> set[str]:
        """Of the JSON that a schema may accept; integers count as numbers."""
        if "enum" in schema or "const" in schema:
            return {type_ for value in _values(schema, where) for type_ in _types_of(value)} - {"integer"}
        if "type" not in schema:
            return {*OF_TYPE} - {"integer"}
        return {"number" if type_ == "integer" else type_ for type_ in self._types(schema, where)}


def _values(schema: Schema, where: str) -> list[Any]:
    """What `enum` and `const` list, together."""
    values = schema.get("enum", [schema.get("const")])
    if not isinstance(values, list):
        raise _wrong(where, t("{keyword} is no list", keyword="enum"))
    if "enum" in schema and "const" in schema:
        values = [value for value in values if json.dumps(value) == json.dumps(schema["const"])]
    return values


def _types_of(value: Any) -> list[str]:
    """The types that a value has, as a schema names them."""
    if value is None or isinstance(value, bool):
        return ["null" if value is None else "boolean"]
    if isinstance(value, int) or (isinstance(value, float) and value.is_integer()):
        return ["integer", "number"]
    return [{float: "number", str: "string", list: "array", dict: "object"}[type(value)]]


def _string(schema: Schema, where: str) -> Expression:
    least, most = _count(schema, "minLength", where, 0) or 0, _count(schema, "maxLength", where, None)
    if most is not None and most < least:
        return NOTHING
    if "pattern" not in schema:
        return strings(least, most)
    if not isinstance(schema["pattern"], str):
        raise _wrong(where, t("{keyword} is no text", keyword="pattern"))
    return strings(least, most, holding=parse_within(schema["pattern"]))


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
        raise _wrong(where, t("{keyword} is no number", keyword=keyword))
    bound = Decimal(str(said))
    if not bound.is_finite() or decimals_of(bound) > MOST_DECIMALS:
        raise _wrong(
            where, t("{keyword} has more than {most} digits behind the point", keyword=keyword, most=MOST_DECIMALS)
        )
    return bound


def _count(schema: Schema, keyword: str, where: str, usual: int | None) -> int | None:
    said = schema.get(keyword, usual)
    if said is not None and (type(said) is not int or said < 0):
        raise _wrong(where, t("{keyword} is no count", keyword=keyword))
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


def _wrong(where: str, fault: str) -> UserError:
    return UserError(
        "The JSON schema cannot be used: at {where}, {fault}.", code=DATA_REFUSED, where=where, fault=fault
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
