"""What a JSON schema says of types and values, and whether two schemas can accept the same."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from bimo.runtime import DATA_REFUSED, UserError, t

__all__ = ["ALONE", "OF_TYPE", "Schema", "require_apart", "types_of", "types_of_value", "values_of", "wrong"]

Schema = dict[str, Any]

Find = Callable[[Any, str], Any]
"""(reference, where it stands) -> what it points to."""

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


def types_of(schema: Schema, where: str) -> list[str]:
    """As `type` has them; without it those of which a keyword speaks, or else all."""
    named = schema.get("type")
    if named is None:
        spoken = [type_ for type_, keywords in OF_TYPE.items() if keywords & schema.keys()]
        return [type_ for type_ in spoken or OF_TYPE if type_ != "integer"]
    types = named if isinstance(named, list) else [named]
    for type_ in types:
        if not isinstance(type_, str) or type_ not in OF_TYPE:
            raise wrong(where, t("its type {type!r:.40} is none of JSON", type=type_))
    # An integer is a number: once is enough.
    return [type_ for type_ in types if not (type_ == "integer" and "number" in types)]


def values_of(schema: Schema, where: str) -> list[Any]:
    """What `enum` and `const` list, together."""
    values = schema.get("enum", [schema.get("const")])
    if not isinstance(values, list):
        raise wrong(where, t("{keyword} is no list", keyword="enum"))
    if "enum" in schema and "const" in schema:
        values = [value for value in values if json.dumps(value) == json.dumps(schema["const"])]
    return values


def types_of_value(value: Any) -> list[str]:
    """The types that a value has, as a schema names them."""
    if value is None or isinstance(value, bool):
        return ["null" if value is None else "boolean"]
    if isinstance(value, int) or (isinstance(value, float) and value.is_integer()):
        return ["integer", "number"]
    return [{float: "number", str: "string", list: "array", dict: "object"}[type(value)]]


def require_apart(schemas: list[Any], where: str, find: Find) -> None:
    """Raises UserError unless no JSON can be accepted by two of the schemas, as `oneOf` wants it."""
    for place, schema in enumerate(schemas):
        for other in schemas[:place]:
            if not _apart(schema, other, where, find):
                raise UserError(
                    "The schema has alternatives under oneOf at {where} that the same JSON may satisfy. Use anyOf, "
                    "or give each a type or a required constant of its own.",
                    code=DATA_REFUSED,
                    where=where,
                )


def _apart(one: Any, other: Any, where: str, find: Find) -> bool:
    one, other = (_resolved(schema, where, find) for schema in (one, other))
    if not isinstance(one, dict) or not isinstance(other, dict):
        return False
    if any(keyword in schema for keyword in ALONE for schema in (one, other)):
        return False
    types = [_possible_types(schema, where) for schema in (one, other)]
    if not types[0] & types[1]:
        return True
    if all("enum" in schema or "const" in schema for schema in (one, other)):
        mine, theirs = ([json.dumps(value) for value in values_of(schema, where)] for schema in (one, other))
        return not set(mine) & set(theirs) and "number" not in types[0] & types[1]
    if types[0] != {"object"} or types[1] != {"object"}:
        return False
    lists = [set(schema.get("required", ())) & schema.get("properties", {}).keys() for schema in (one, other)]
    return any(_apart(one["properties"][name], other["properties"][name], where, find) for name in lists[0] & lists[1])


def _resolved(schema: Any, where: str, find: Find) -> Any:
    seen: set[str] = set()
    while isinstance(schema, dict) and "$ref" in schema and str(schema["$ref"]) not in seen:
        seen.add(str(schema["$ref"]))
        schema = find(schema["$ref"], where)
    return schema


def _possible_types(schema: Schema, where: str) -> set[str]:
    """Of the JSON that a schema may accept; integers count as numbers."""
    if "enum" in schema or "const" in schema:
        return {type_ for value in values_of(schema, where) for type_ in types_of_value(value)} - {"integer"}
    if "type" not in schema:
        return {*OF_TYPE} - {"integer"}
    return {"number" if type_ == "integer" else type_ for type_ in types_of(schema, where)}


def wrong(where: str, fault: str) -> UserError:
    """The error of a schema that is none."""
    return UserError(
        "The JSON schema cannot be used: at {where}, {fault}.", code=DATA_REFUSED, where=where, fault=fault
    )
