"""`bimo demo`: the main job on text that is on every machine with Python."""

from __future__ import annotations

import ast
import json
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bimo.console import SILENT, Console
from bimo.files import locked, replacing
from bimo.run import run
from bimo.train.pretrain import check_output

__all__ = ["demo", "write_demo_source"]

DEMO_MINUTES = 2.0

SHORTEST_DOCSTRING = 300
"""Characters. Shorter ones name arguments rather than tell anything."""


def demo(*, out: str | Path, minutes: float = DEMO_MINUTES, console: Console = SILENT) -> dict[str, Any]:
    """Run on Python's own language reference and the docstrings of its library. Returns the facts of the evaluation."""
    out = Path(out)
    check_output(out)
    with locked(out / "bimo"):
        source = write_demo_source(out / "bimo" / "source")
    return run([source], out=out, minutes=minutes, console=console)


def write_demo_source(folder: Path) -> Path:
    """Write the demo's text as one JSON Lines file, if it is not there yet. Returns the file."""
    path = folder / "python.jsonl"
    if not path.exists():
        with replacing(path) as part, part.open("w", encoding="utf-8") as file:
            for text in _python_texts():
                file.write(json.dumps({"text": text}, ensure_ascii=False) + "\n")
    return path


def _python_texts() -> Iterator[str]:
    from pydoc_data import topics

    yield from (topics.topics[name] for name in sorted(topics.topics))
    for path in sorted(Path(sysconfig.get_path("stdlib")).rglob("*.py")):
        if "site-packages" not in path.parts and "test" not in path.parts:
            yield from _docstrings(path)


def _docstrings(path: Path) -> Iterator[str]:
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (SyntaxError, ValueError, OSError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node) or ""
            if len(text) >= SHORTEST_DOCSTRING:
                yield text
