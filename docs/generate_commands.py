"""Writes docs/commands.md from the command line itself; `tests/test_docs.py` sees to it that they agree.

python docs/generate_commands.py
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ["BIMO_LANGUAGE"] = "en"

import typer

from bimo.cli import app

PAGE = Path(__file__).with_name("commands.md")


def commands_page() -> str:
    """The page as Markdown."""
    group: Any = typer.main.get_command(app)
    parts = ["# Commands\n\nMade from the code by `python docs/generate_commands.py`.\n"]
    parts += [_command(name, command) for name, command in _commands(group)]
    parts.append(
        "## Exit codes\n\n0 done · 1 failed · 2 wrong usage · 3 the data was refused · 4 not enough memory, disk or "
        "time · 5 interrupted, and the same command continues\n"
    )
    return "\n".join(parts)


def _commands(group: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Names and commands, those of groups after the name of their group."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from _commands(command, f"{prefix}{name} ")
        else:
            yield f"{prefix}{name}", command


def _command(name: str, command: Any) -> str:
    arguments = " ".join(
        _argument(parameter) if parameter.required else f"[{_argument(parameter)}]"
        for parameter in command.params
        if parameter.param_type_name == "argument"
    )
    lines = [f"## bimo {name}\n", f"`bimo {name} {arguments}`\n".replace(" `", "`"), f"{command.help}\n"]
    rows = [_row(parameter) for parameter in command.params if parameter.param_type_name in ("argument", "option")]
    if rows:
        lines += ["| argument or option | default | what it does |", "|---|---|---|", *rows, ""]
    return "\n".join(lines)


def _argument(parameter: Any) -> str:
    return parameter.metavar or parameter.name.upper() + "..." * (parameter.nargs < 0)


def _row(parameter: Any) -> str:
    is_option = parameter.param_type_name == "option"
    name = " / ".join(parameter.opts + parameter.secondary_opts) if is_option else _argument(parameter)
    empty = parameter.required or parameter.default in (None, "", []) or parameter.default is False
    default = "required" if parameter.required else "" if empty else f"`{parameter.default}`"
    return f"| `{name}` | {default} | {parameter.help or ''} |"


if __name__ == "__main__":
    PAGE.write_text(commands_page(), encoding="utf-8")
