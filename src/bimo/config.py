"""Settings: dataclass <-> TOML <-> `--set a.b=value`. An unknown key is an error that suggests the right one."""

from __future__ import annotations

import dataclasses
import difflib
import tomllib
import types
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from bimo.runtime import USAGE, UserError

__all__ = [
    "SCHEMA_VERSION",
    "apply_settings",
    "check_mapping",
    "from_mapping",
    "read_toml",
    "require_ranges",
    "to_mapping",
    "write_toml",
]

SCHEMA_VERSION = 1

Config = TypeVar("Config")


def require_ranges(
    settings: Any, fits: Mapping[str, bool], say_range: Callable[[str], str], *, where: str = ""
) -> None:
    """Raises UserError for the first field of `settings` that does not fit; `say_range` says what it must be.

    `where` stands before its name, such as "train.".
    """
    for name, fitting in fits.items():
        if not fitting:
            raise UserError(
                "{name} must be {range}, but is {value}.",
                code=USAGE,
                name=f"{where}{name}",
                range=say_range(name),
                value=getattr(settings, name),
            )


def to_mapping(config: Any) -> dict[str, Any]:
    """A nested dict of what is set; None is left out, since TOML has no such value."""
    items = ((field.name, getattr(config, field.name)) for field in dataclasses.fields(config))
    return {
        name: to_mapping(value)
        if dataclasses.is_dataclass(value)
        else list(value)
        if isinstance(value, tuple)
        else value
        for name, value in items
        if value is not None
    }


def from_mapping(kind: type[Config], mapping: dict[str, Any], *, where: str = "") -> Config:
    """Build the dataclass `kind`; `where` is the path of keys so far. Raises UserError on unknown keys, wrong types."""
    values = check_mapping(kind, mapping, where=where)
    try:
        return kind(**values)
    except TypeError as error:
        raise UserError("The settings are not complete: {error}.", code=USAGE, error=error) from None


def check_mapping(kind: type[Any], mapping: Mapping[str, Any], *, where: str = "") -> dict[str, Any]:
    """Values for fields of the dataclass `kind`, perhaps not for all. Raises UserError as `from_mapping` does."""
    hints = typing.get_type_hints(kind)
    values: dict[str, Any] = {}
    for key, value in mapping.items():
        if key not in hints:
            raise _unknown_key(where + key, [where + name for name in hints])
        values[key] = _convert(hints[key], value, where + key)
    return values


def _convert(hint: Any, value: Any, key: str) -> Any:
    choices = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    for choice in choices:
        if dataclasses.is_dataclass(choice) and isinstance(value, dict):
            return from_mapping(typing.cast(type, choice), value, where=key + ".")
        if typing.get_origin(choice) is tuple and isinstance(value, list | tuple):
            kind = typing.get_args(choice)[0]
            if all(type(one) is kind for one in value):
                return tuple(value)
        if choice is float and isinstance(value, int) and not isinstance(value, bool):
            return float(value)
        if isinstance(choice, type) and type(value) is choice:
            return value
    names = " or ".join(getattr(choice, "__name__", str(choice)) for choice in choices if choice is not type(None))
    raise UserError(
        "The setting {key} must be {names}, but is {value!r}.", code=USAGE, key=key, names=names, value=value
    )


def _unknown_key(key: str, known: list[str]) -> UserError:
    close = difflib.get_close_matches(key, known, n=1)
    if close:
        return UserError("There is no setting {key}. Did you mean {close}?", code=USAGE, key=key, close=close[0])
    return UserError("There is no setting {key}. There are: {known}.", code=USAGE, key=key, known=", ".join(known))


def apply_settings(mapping: dict[str, Any], settings: list[str]) -> dict[str, Any]:
    """A copy of `mapping` with each `a.b=value` put in; values are read as TOML, else taken as text."""
    result = _copy(mapping)
    for setting in settings:
        key, equals, text = setting.partition("=")
        *path, last = key.strip().split(".")
        if not equals or not all([*path, last]):
            raise UserError("--set takes key=value, but got {setting!r}.", code=USAGE, setting=setting)
        inner = result
        for depth, part in enumerate(path, 1):
            inner = inner.setdefault(part, {})
            if not isinstance(inner, dict):
                group = ".".join(path[:depth])
                raise UserError("The setting {key} is not a group of settings.", code=USAGE, key=group)
        inner[last] = _parse_value(text.strip())
    return result


def _copy(value: Any) -> Any:
    return {key: _copy(inner) for key, inner in value.items()} if isinstance(value, dict) else value


def _parse_value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def read_toml(path: Path) -> dict[str, Any]:
    """The settings in a run file. Raises UserError when it cannot be read or was written for another schema."""
    try:
        mapping = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise UserError("There is no run file {path}.", code=USAGE, path=path) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError("{path} is not valid TOML: {error}.", code=USAGE, path=path, error=error) from None
    version = mapping.pop("schema_version", SCHEMA_VERSION)
    if version != SCHEMA_VERSION:
        raise UserError(
            "{path} has schema_version {version}, but this Bimo reads {known}. Write the file again with this version.",
            code=USAGE,
            path=path,
            version=version,
            known=SCHEMA_VERSION,
        )
    return mapping


def write_toml(path: Path, mapping: dict[str, Any]) -> None:
    """Write settings as a run file that `--config` reads again."""
    import tomli_w

    from bimo.files import replacing

    with replacing(path) as part:
        part.write_text(tomli_w.dumps({"schema_version": SCHEMA_VERSION, **mapping}), encoding="utf-8")
