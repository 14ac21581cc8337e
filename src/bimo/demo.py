"""`bimo demo`: the main job on text that is on every machine with Python, or a classifier on sentences of our own."""

from __future__ import annotations

import ast
import contextlib
import itertools
import json
import shlex
import sysconfig
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

from bimo.console import SILENT, Console
from bimo.evaluate.suite import evaluate
from bimo.files import locked, replacing
from bimo.run import another_model, run
from bimo.runtime import t
from bimo.tasks.classify.classifier import classify
from bimo.tasks.classify.report import figures_line
from bimo.tasks.tune import tune
from bimo.train.pretrain import check_output

__all__ = ["demo", "demo_sentiment", "sentiment_lines", "write_demo_source"]

DEMO_MINUTES = 2.0

SENTENCES = ("sentiment.tsv", "sentiment_test.tsv")
"""To learn from: clauses put together to sentences; to test with: sentences of their own. All written for Bimo."""

SHORTEST_TEXT = 200
"""Characters. Shorter docstrings name arguments rather than tell anything."""

PROSE_SHARE = 0.9
"""A paragraph of which this share is letters and blanks is prose, not code, grammar or a table."""


def demo(*, out: str | Path, minutes: float = DEMO_MINUTES, console: Console = SILENT) -> dict[str, Any]:
    """Run on Python's own language reference and the docstrings of its library. Returns the facts of the evaluation."""
    out = Path(out)
    check_output(out)
    with locked(out / "bimo"):
        if (out / "bimo" / "manifest.json").exists() and not (out / "bimo" / "source").exists():
            raise another_model(out)
        source = write_demo_source(out / "bimo" / "source")
    return run([source], out=out, minutes=minutes, console=console)


TRIED = (
    "What a lovely little place, we enjoyed it a lot.",
    "Never again: cold food and rude staff.",
    "这家店真不错，很喜欢",
    "质量太差，用了一天就坏了",
)


def demo_sentiment(*, out: str | Path, console: Console = SILENT) -> dict[str, Any]:
    """Learn from short sentences in two languages whether they praise or blame, and judge others that were written
    apart from them. Returns the facts of the evaluation, with a few texts that were tried."""
    out = Path(out)
    with contextlib.ExitStack() as stack:
        assets = resources.files("bimo.assets")
        train, test = (stack.enter_context(resources.as_file(assets / name)) for name in SENTENCES)
        tune(None, train, out=out, task="classify", console=console)
        facts = evaluate(out, test, console=console)
    tried = [{"text": text, **verdict.facts()} for text, verdict in zip(TRIED, classify(out, TRIED), strict=True)]
    return {**facts, "tried": tried}


def sentiment_lines(facts: dict[str, Any]) -> list[str]:
    """What came of it, and what to do next."""
    lines = [t("On {texts} sentences written apart from those it learned from:", texts=facts["held_out"]["texts"])]
    lines.append(figures_line(facts["held_out"]))
    lines += [f"  {one['labels'][0]} {one['confidence']:.0%}  {one['text']}" for one in facts["tried"]]
    lines.append(t("Try: bimo classify {model} TEXT --why", model=shlex.quote(facts["model"])))
    lines.append(
        t("It knows short everyday sentences. For texts of your own: bimo tune FILE --task classify --out MODEL")
    )
    return lines


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

    stdlib = Path(sysconfig.get_path("stdlib"))
    files = sorted(stdlib.rglob("*.py"))
    library = (path for path in files if not {"site-packages", "test", "tests"} & {*path.relative_to(stdlib).parts})
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
