"""`bimo demo`: the main job on text that is on every machine with Python."""

from __future__ import annotations

import ast
import itertools
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

SHORTEST_TEXT = 200
"""Characters. Shorter docstrings name arguments rather than tell anything."""

PROSE_SHARE = 0.9
"""A paragraph of which this share is letters and blanks is prose, not code, grammar or a table."""


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
    """The prose of the language reference, then that of the library, in a fixed order."""
    from pydoc_data import topics

    files = sorted(Path(sysconfig.get_path("stdlib")).rglob("*.py"))
    library = (path for path in files if not {"site-packages", "test", "tests"} & set(path.parts))
    texts = itertools.chain((topics.topics[name] for name in sorted(topics.topics)), *map(_docstrings, library))
    prose = ("\n\n".join(filter(_is_prose, text.split("\n\n"))) for text in texts)
    yield from (text for text in prose if len(text) >= SHORTEST_TEXT)


def _is_prose(paragraph: str) -> bool:
    plain = sum(character.isalpha() or character.isspace() or character in ",." for character in paragraph)
    return ">>>" not in paragraph and plain >= PROSE_SHARE * len(paragraph)


def _docstrings(path: Path) -> Iterator[str]:
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (SyntaxError, ValueError, OSError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield ast.get_docstring(node) or ""
