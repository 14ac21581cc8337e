"""Imports go down the stairs only (docs/decisions.md), light parts stay light, verbs stay functions."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parents[1] / "src" / "bimo"

STEPS = (
    ("runtime",),
    ("files", "console", "kernel", "intervals", "correlation"),
    ("config", "stages", "machine"),
    ("text",),
    ("tokens", "report", "vectors"),
    ("models",),
    ("weights",),
    ("train", "generate"),
    ("baselines",),
    ("sizes",),
    ("plan",),
    ("tasks",),
    ("evaluate",),
    ("prepare", "doctor", "runs", "words", "export"),
    ("run",),
    ("demo", "translation"),
    ("cli",),
)
"""What stands on a step imports from lower steps and from its own folder, never from its neighbours."""

STEP = {part: number for number, step in enumerate(STEPS) for part in step}

NEVER = {
    "models": {"text", "tokens", "files"},
    "text": {"torch"},
    "tokens": {"torch"},
}
"""What a part must do without although it stands lower: models know ids only, text and tokens need no torch."""

HEAVY = (
    "torch",
    "numpy",
    "pyarrow",
    "transformers",
    "tokenizers",
    "fastokens",
    "safetensors",
    "rjieba",
    "trafilatura",
    "matplotlib",
    "sklearn",
)


def parts() -> dict[str, list[Path]]:
    """The files of each part: a folder, or a file of its own."""
    found: dict[str, list[Path]] = {}
    for path in sorted(SOURCE.rglob("*.py")):
        place = path.relative_to(SOURCE)
        found.setdefault(place.parts[0].removesuffix(".py"), []).append(path)
    return found


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Line and full name of everything that is imported in a file, inside functions and for type checkers too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno} imports by a relative name"
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)


def test_every_part_has_a_step() -> None:
    assert set(parts()) - {"__init__", "__main__", "assets"} == set(STEP)


@pytest.mark.parametrize("part", [part for step in STEPS for part in step])
def test_imports_go_down(part: str) -> None:
    wrong = []
    for path in parts()[part]:
        for line, name in imports(path):
            package, *rest = name.split(".")
            other = rest[0] if package == "bimo" and rest else package
            # `import bimo` itself brings nothing but the version and the names of the verbs.
            ours = package == "bimo" and other in STEP and other != part
            if (ours and STEP[other] >= STEP[part]) or other in NEVER.get(part, ()):
                wrong.append(f"{path.relative_to(SOURCE)}:{line} imports {name}")
    assert not wrong, "\n".join(wrong)


def test_the_package_itself_imports_no_part() -> None:
    for _, name in [*imports(SOURCE / "__init__.py"), *imports(SOURCE / "assets" / "__init__.py")]:
        assert not name.startswith("bimo"), name


def run_python(code: str) -> str:
    """What a fresh interpreter prints."""
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=SOURCE.parent, check=False
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


@pytest.mark.parametrize("module", ["bimo", "bimo.cli", "bimo.console", "bimo.config", "bimo.stages"])
def test_what_must_answer_at_once_is_light(module: str) -> None:
    assert run_python(f"import {module}, sys; print([name for name in {HEAVY!r} if name in sys.modules])") == "[]"


def test_text_and_tokens_run_without_torch() -> None:
    modules = [
        "bimo." + ".".join(path.relative_to(SOURCE).with_suffix("").parts)
        for part in ("text", "tokens")
        for path in parts()[part]
        if path.name != "__init__.py"
    ]
    assert run_python(f"import {', '.join(modules)}, sys; print('torch' in sys.modules)") == "False"


def test_verbs_stay_functions_whatever_was_imported() -> None:
    """Importing bimo.run sets the attribute `run` of the package to a module; the verb must win."""
    code = """
import bimo, types
bimo.run, bimo.load
import bimo.run, bimo.plan, bimo.prepare, bimo.generate.engine, bimo.train.pretrain, bimo.evaluate.suite
import bimo.tasks.tune
import bimo.translation
verbs = [name for name in bimo.__all__ if name != "__version__"]
print([name for name in verbs if not isinstance(getattr(bimo, name), types.FunctionType)])
"""
    assert run_python(code) == "[]"
