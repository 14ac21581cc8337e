"""Writing to order through the command line: the recipe of poems, tags that are refused, forms that are kept."""

from __future__ import annotations

import json
import random
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import Result
from command import ENTRY, ENVIRONMENT
from typer.testing import CliRunner

from bimo.cli import app

RECIPE = Path(__file__).resolve().parents[2] / "recipes" / "poetry" / "poetry.sh"
CHARACTERS = "春江花月夜山水云风雨人天日来去归远近高低明清白青红落叶飞鸟声闻思"


def write_poems(folder: Path) -> None:
    """Made-up poems of three forms, in two files of different shape."""
    draw = random.Random(0)

    def lines(count: int, length: int) -> list[str]:
        verses = ["".join(draw.choices(CHARACTERS, k=length)) for _ in range(count)]
        return [f"{first}，{second}。" for first, second in zip(verses[::2], verses[1::2], strict=True)]

    folder.mkdir()
    poems = [{"author": "某", "paragraphs": lines(4, 5)} for _ in range(60)]
    songs = [{"rhythmic": "某", "paragraphs": [*lines(2, 3), *lines(2, 6)]} for _ in range(60)]
    nested = {"title": "集", "content": [{"type": "律", "content": [{"paragraphs": lines(8, 7)} for _ in range(30)]}]}
    for name, value in {"poems": poems, "songs": songs, "nested": nested}.items():
        (folder / f"{name}.json").write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder in which the recipe ran with seconds of training, and what it printed."""
    folder = tmp_path_factory.mktemp("poetry")
    write_poems(folder / "json")
    (folder / "bin").mkdir()
    shim = folder / "bin" / "bimo"
    shim.write_text(f'#!/bin/sh\n[ "$1" = run ] && set -- "$@" --preset dust\nexec {shlex.join(ENTRY)} "$@"\n')
    shim.chmod(0o755)
    environment = {**ENVIRONMENT, "PATH": f"{folder / 'bin'}:{ENVIRONMENT['PATH']}", "PYTHON": sys.executable}
    command = ["sh", str(RECIPE), "json", "out", "0.05"]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stderr
    return folder / "out" / "model", done.stdout


def test_poems_in_files_that_cannot_be_read_are_left_out_and_said(tmp_path: Path) -> None:
    write_poems(tmp_path / "json")
    poem = json.dumps({"paragraphs": ["春江花月夜，山水云风雨。"]}, ensure_ascii=False)
    (tmp_path / "json" / "marked.json").write_text(poem, encoding="utf-8-sig")
    (tmp_path / "json" / "broken.json").write_text(poem[:-3], encoding="utf-8")
    (tmp_path / "json" / "old.json").write_text(poem, encoding="gb18030")
    command = [sys.executable, str(RECIPE.with_name("tag_forms.py")), "json", "poems.jsonl"]
    done = subprocess.run(command, cwd=tmp_path, env=ENVIRONMENT, capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stderr
    assert len((tmp_path / "poems.jsonl").read_text(encoding="utf-8").splitlines()) == 151
    assert re.findall(r"(\w+)\.json is left out", done.stderr) == ["broken", "old"]


def generate(model: Path, *options: str) -> Result:
    """What `bimo generate MODEL` with these options does, in this process."""
    return CliRunner().invoke(app, ["generate", str(model), *options])


def test_the_recipe_writes_poems_of_their_forms(recipe: tuple[Path, str]) -> None:
    five, seven = "[一-龥]{5}", "[一-龥]{7}"
    quatrain = f"{five}，{five}。\n{five}，{five}。\n"
    assert re.fullmatch(f"{quatrain}{quatrain}{seven}，{seven}。\n", recipe[1]), recipe[1]
    assert recipe[1].splitlines()[2].startswith("明月")


def test_the_model_knows_its_tags(recipe: tuple[Path, str]) -> None:
    controls = json.loads((recipe[0] / "bimo" / "controls.json").read_text(encoding="utf-8"))
    assert {*controls["values"]["genre"]} == {"诗", "词"}
    assert {*controls["values"]["form"]} == {"五言绝句", "杂言", "七言律诗"}
    evaluation = json.loads((recipe[0] / "bimo" / "evaluation.json").read_text(encoding="utf-8"))
    assert evaluation["steering"]["documents"] > 0
    options = ["--set", "genre=词", "--set", "length=short", "--max-tokens", "20", "--json"]
    written = generate(recipe[0], *options)
    assert written.exit_code == 0
    assert len(json.loads(written.stdout)["texts"][0]) > 0


@pytest.mark.parametrize(
    ("options", "code", "sentence"),
    [
        (["--set", "genre=诗词"], 2, "has met no genre 诗词. It has met, among others: "),
        (["--set", "gnre=诗"], 2, "knows no control gnre. It knows: genre, form, length."),
        (["--set", "genre"], 2, "write it as NAME=VALUE"),
        (["--regex", "("], 2, "is no regular expression"),
        (["--regex", "a", "--choice", "b"], 2, "--regex and --choice cannot be kept to together"),
        (["--choice", "b", "--stop", "c"], 2, "--choice and --stop cannot be kept to together"),
        (["--json-schema", "absent.json"], 1, "absent.json cannot be used: No such file"),
        (["--regex", "[0-9]{9}", "--max-tokens", "4"], 2, "needs 9 tokens of this model, but max_tokens is 4"),
    ],
)
def test_what_cannot_be_had_is_said(recipe: tuple[Path, str], options: list[str], code: int, sentence: str) -> None:
    done = generate(recipe[0], *options)
    assert (done.exit_code, done.stdout) == (code, "")
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr


def test_schemas_and_choices_from_the_command_line(recipe: tuple[Path, str], tmp_path: Path) -> None:
    schema = tmp_path / "schema.json"
    schema.write_text(json.dumps({"type": "object", "properties": {"题": {"type": "string"}}, "required": ["题"]}))
    done = generate(recipe[0], "--json-schema", str(schema), "--max-tokens", "30", "--json")
    assert [*json.loads(json.loads(done.stdout)["texts"][0])] == ["题"]
    done = generate(recipe[0], "--choice", "春", "--choice", "秋", "--samples", "3", "--json")
    assert {*json.loads(done.stdout)["texts"]} <= {"春", "秋"}
    schema.write_text('{"type": "string", "format": "date"}')
    done = generate(recipe[0], "--json-schema", str(schema))
    assert (done.exit_code, done.stdout) == (3, "")
    assert "has format at #" in done.stderr
