"""The packages that every part stands on, looked up without importing any: the missing one may be torch."""

from __future__ import annotations

import importlib.metadata
import re

from bimo.runtime import UserError

__all__ = ["needed_packages", "require_packages", "version_of"]


def needed_packages() -> list[str]:
    """What Bimo cannot do without, as it was installed; nothing where it runs from its source alone."""
    try:
        asked = importlib.metadata.requires("bimo") or []
    except importlib.metadata.PackageNotFoundError:
        return []
    return [re.split(r"[^\w.-]", requirement)[0] for requirement in asked if ";" not in requirement]


def require_packages() -> None:
    """Raises UserError when any of them is missing."""
    missing = [name for name in needed_packages() if version_of(name) is None]
    if missing:
        raise UserError("Missing and needed: {names}. Install again: pip install bimo", names=", ".join(missing))


def version_of(package: str) -> str | None:
    """None where it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
