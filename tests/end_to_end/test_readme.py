"""Every block of commands in the README and on the page of tasks runs as it stands, in a new folder."""

from __future__ import annotations

import itertools
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from command import ENTRY, ENVIRONMENT
from stories import write_pairs, write_stories

ROOT = Path(__file__).resolve().parents[2]
READMES = ("README.md", "README.zh.md")
TASKS = ("docs/tasks.md", "docs/tasks.zh.md")
"""Builds on what the README has made."""

NOT_RUN = {
    "make ": "builds an environment of its own; the runner of the linters and tests does that",
    "pip ": "installs from a package index, which tests do not reach",
    "python3 -m venv": "makes the environment in which the tests run already",
    "git clone": "needs the network",
}
"""How lines begin that this test leaves out, and why."""


def blocks(readme: str, language: str) -> list[str]:
    """The blocks of one language."""
    text = (ROOT / readme).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def shortened(script: str) -> str:
    """The same with seconds of training instead of minutes, and without the lines of NOT_RUN."""
    lines = [line for line in script.splitlines() if not line.strip().startswith(tuple(NOT_RUN))]
    script = re.sub(r"(--minutes[ =])[\d.]+", r"\g<1>0.05", "\n".join(lines))
    script = re.sub(r"\bminutes=[\d.]+", "minutes=0.05", script)
    return re.sub(
        r"^bimo (run|demo)\b(?!.*--(?:preset|from))(.*)$", r"bimo \1 --preset dust\2", script, flags=re.MULTILINE
    )


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> tuple[Path, dict[str, str]]:
    """A new folder with a home that has notes, and a PATH on which `bimo` is found."""
    folder = tmp_path_factory.mktemp("readme")
    write_stories(folder / "home" / "notes" / "english.txt", 80)
    write_stories(folder / "home" / "notes" / "中文.txt", 60, chinese=True)
    write_pairs(folder / "home" / "pairs.tsv")
    (folder / "bin").mkdir()
    shim = folder / "bin" / "bimo"
    shim.write_text(f'#!/bin/sh\nexec {shlex.join(ENTRY)} "$@"\n')
    shim.chmod(0o755)
    path = f"{folder / 'bin'}:{ENVIRONMENT['PATH']}"
    return folder, {**ENVIRONMENT, "HOME": str(folder / "home"), "PATH": path}


def run(command: list[str], cwd: Path, environment: dict[str, str]) -> None:
    done = subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, encoding="utf-8", timeout=240, check=False
    )
    assert done.returncode == 0, f"{command[-1]}\n{done.stdout}\n{done.stderr}"
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_every_command_of_the_pages_runs(place):
    folder, environment = place
    (folder / "work").mkdir()
    scripts = [*blocks(READMES[0], "bash"), *blocks(TASKS[0], "bash")]
    assert len(scripts) > 12
    for script in scripts:
        run(["bash", "-euo", "pipefail", "-c", shortened(script)], folder / "work", environment)


@pytest.mark.slow
def test_the_python_of_the_readme_runs(place):
    """On a model of its own, since the size by name cannot be given in the same words."""
    folder, environment = place
    (folder / "python").mkdir()
    scripts = blocks("README.md", "python")
    # What makes the model comes first, whatever the order of the page.
    for script in sorted(scripts, key=lambda script: "bimo.run" not in script):
        run([sys.executable, "-c", shortened(script)], folder / "python", environment)


def test_both_languages_have_the_same_blocks():
    for pages, language in itertools.product((READMES, TASKS), ("bash", "python", "sh")):
        english, chinese = ([without_remarks(block) for block in blocks(name, language)] for name in pages)
        assert english == chinese, language


def without_remarks(block: str) -> str:
    """The commands alone: what stands behind # is in the language of the page, and so are prompts in quotes."""
    lines = [re.sub(r"\s+#.*$", "", line) for line in block.splitlines()]
    return re.sub(r'"[^"]*"', '"…"', "\n".join(lines))


def test_no_line_is_left_out_but_those_with_a_reason():
    text = "\n".join(block for name in READMES + TASKS for block in blocks(name, "bash"))
    left_out = [line for line in text.splitlines() if line.strip().startswith(tuple(NOT_RUN))]
    assert len(left_out) <= 6
    commands = [line for line in text.splitlines() if line.startswith("bimo ")]
    assert {command.split()[1] for command in commands} >= {"run", "generate", "prepare", "plan", "train", "evaluate"}


def test_the_options_that_the_readme_shows_are_options(place):
    """The part of the above that needs no training."""
    folder, environment = place
    text = "\n".join(block for name in READMES + TASKS for block in blocks(name, "bash"))
    wanted: dict[str, set[str]] = {}
    for line in text.splitlines():
        words = line.split()
        if words[:1] == ["bimo"]:
            verb = " ".join(words[1:3]) if words[1] == "words" else words[1]
            wanted.setdefault(verb, set()).update(word.split("=")[0] for word in words if word.startswith("--"))
    for verb, options in wanted.items():
        command = [folder / "bin" / "bimo", *verb.split(), "--help"]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        assert [option for option in options if f"{option} " not in done.stdout] == [], verb
