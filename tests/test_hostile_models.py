"""Models that are broken or mean harm are refused at once with a sentence; nothing of them is run."""

from __future__ import annotations

import contextlib
import dataclasses
import pickle
import re
import shutil
import struct
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import tokenizers
from changing import change
from hostile_models import CANARY, CASES, PROGRAM, Bomb
from hypothesis import given, settings
from hypothesis import strategies as st

from bimo.doctor.model import examine_model
from bimo.generate.engine import load
from bimo.models.transformer import Decoder
from bimo.runtime import FAILED, USAGE, UserError
from bimo.tokens.tokenizer import END_OF_TEXT, Tokenizer
from bimo.weights.huggingface import save_model

sys.path.append(str(Path(__file__).parent / "end_to_end"))
from command import Done, inner_bimo, sentence_of, warm_bimo

MEMORY = 1 << 30
"""Bytes that a command may take beyond its libraries."""
SECONDS = 2
"""Of processor time, in which a model is to be refused once the libraries are there."""

ALONE = [
    "weights that were cut short",
    "weights that never end (a link to a device)",
    "pickled weights alone",
    "a billion layers",
    "a program of the model's own (auto_map)",
    "an expression that takes for ever",
    "a table that asks for eight gigabytes",
    "a prefix that the library stumbles over",
    "a template that goes round for ever",
    "a GGUF file of 2^64 keys",
    "a pickled adapter",
]
"""Of each kind of file one, and those that could bring the process down: a command of their own is run on them."""


@pytest.fixture(scope="module")
def sound(
    tmp_path_factory: pytest.TempPathFactory, make_model: Callable[..., Decoder], tiny_tokenizer: Tokenizer
) -> Path:
    """A model folder with nothing wrong."""
    folder = tmp_path_factory.mktemp("sound")
    save_model(folder, make_model(vocabulary=tiny_tokenizer.vocabulary), end=tiny_tokenizer.end)
    tiny_tokenizer.save(folder)
    return folder


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory, make_model: Callable[..., Decoder]) -> Path:
    """A sound folder with few bytes, so that changes meet all of them."""
    folder = tmp_path_factory.mktemp("small")
    tokens = {character: number for number, character in enumerate("abcdefgh")} | {"ab": 8, END_OF_TEXT: 9}
    inner = tokenizers.Tokenizer(tokenizers.models.BPE(tokens, [("a", "b")]))
    inner.pre_tokenizer = tokenizers.pre_tokenizers.Split(tokenizers.Regex(r"\s+|\w+"), "isolated")
    inner.add_special_tokens([END_OF_TEXT])
    tokenizer = Tokenizer(inner)
    shape = {"layers": 1, "width": 4, "heads": 2, "kv_heads": 1, "head_width": 2, "hidden": 4, "context": 8}
    save_model(folder, make_model(vocabulary=tokenizer.vocabulary, **shape), end=tokenizer.end)
    tokenizer.save(folder)
    return folder


def spoiled(name: str, sound: Path, folder: Path) -> Path:
    """What the case is about, made in a new folder from the sound model."""
    shutil.copytree(sound, folder)
    return CASES[name].spoil(folder) or folder


def test_a_sound_model_is_usable(sound: Path) -> None:
    facts = examine_model(sound)
    assert facts["problems"] == []
    assert "".join(load(sound).generate("我们", max_tokens=3))


@pytest.mark.parametrize("name", CASES)
def test_hostile_models_are_refused_in_time(name: str, sound: Path, tmp_path: Path) -> None:
    path = spoiled(name, sound, tmp_path / "model")
    start = time.process_time()
    facts = examine_model(path)
    assert time.process_time() - start < SECONDS
    assert not facts["usable"]
    assert any(re.search(CASES[name].sentence, problem) for problem in facts["problems"]), facts["problems"]
    assert all(len(problem) < len(str(path)) + 500 for problem in facts["problems"])
    if not CASES[name].writes:
        start = time.process_time()
        with pytest.raises(UserError):
            load(path)
        assert time.process_time() - start < SECONDS


@pytest.mark.parametrize("name", CASES)
def test_the_command_that_would_use_it_says_so(name: str, sound: Path, tmp_path: Path) -> None:
    command = command_on(name, sound, tmp_path)
    says_so(name, inner_bimo(*command, cwd=tmp_path, more_memory=MEMORY), tmp_path)


@pytest.mark.parametrize("name", ALONE)
def test_a_process_of_its_own_ends_in_the_same_way(name: str, sound: Path, tmp_path: Path) -> None:
    command = command_on(name, sound, tmp_path)
    says_so(name, warm_bimo(*command, cwd=tmp_path, more_memory=MEMORY), tmp_path)


def command_on(name: str, sound: Path, folder: Path) -> tuple[str | Path, ...]:
    """What would use the case, made in the folder."""
    path = spoiled(name, sound, folder / "model").relative_to(folder)
    return ("doctor", path) if CASES[name].writes else ("generate", path, "a")


def says_so(name: str, done: Done, folder: Path) -> None:
    """It failed with the sentence, and nothing was run."""
    assert done.code in (FAILED, USAGE), (done.out, done.err)
    if CASES[name].writes:
        assert re.search(f"^Problem: .*{CASES[name].sentence}", done.out, re.MULTILINE), done.out
    sentence = sentence_of(dataclasses.replace(done, out=""))
    assert CASES[name].writes or done.out == "", sentence
    assert not [*folder.rglob(CANARY)]


def test_pickles_and_programs_would_have_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The canaries sing: what the cases hold does make a file where somebody runs it."""
    monkeypatch.chdir(tmp_path)
    pickle.loads(pickle.dumps(Bomb()))  # noqa: S301, our own
    Path(CANARY).unlink()
    exec(PROGRAM)
    Path(CANARY).unlink()


# ------------------------------------------------------------------------------------------------ changed at random


WORDS = [struct.pack("<Q", number) for number in (0, 1, 7, 2**31, 2**32, 2**63 - 1, 2**63, 2**64 - 1)]
PIECES = [
    b"-1",
    b"0",
    b"1e999",
    b"null",
    b"true",
    b'""',
    b"[]",
    b"{}",
    b'"',
    b"}",
    b"99999999999999999999",
    b"\xff",
    b"\\u0000",
]
PATCHES = st.one_of(st.binary(min_size=1, max_size=6), st.sampled_from([*WORDS, *PIECES]))


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json"])
@settings(max_examples=60)
@given(data=st.data())
def test_changed_files_are_refused_or_sound(
    name: str, data: st.DataObject, small: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Whatever becomes of a file: a model that writes, or a UserError, and nothing else."""
    folder = tmp_path_factory.getbasetemp() / "changed"
    shutil.copytree(small, folder, dirs_exist_ok=True)
    changed = bytearray((folder / name).read_bytes())
    described = min(len(changed) - 1, 3000)
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.one_of(st.integers(0, described), st.integers(0, len(changed))))
        change(changed, place, PATCHES, data)
    (folder / name).unlink()  # what is mapped of the old one stays as it was
    (folder / name).write_bytes(changed)
    with contextlib.suppress(UserError):
        "".join(load(folder).generate("a", max_tokens=1))
    examine_model(folder)


def test_the_page_lists_every_case() -> None:
    page = (Path(__file__).parents[1] / "docs" / "untrusted_models.md").read_text(encoding="utf-8")
    assert [name for name in CASES if name not in " ".join(page.split())] == []
