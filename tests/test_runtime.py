"""Errors as sentences in two languages, and the choice of device."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import tomllib
from importlib import resources

import pytest

from bimo import runtime
from bimo.runtime import FAILED, USAGE, UserError, language, pick_device, seed_everything, seeded, set_language, t

CHINESE = tomllib.loads((resources.files("bimo.assets") / "messages.zh.toml").read_text(encoding="utf-8"))
VARIABLES = ("BIMO_LANGUAGE", "LC_ALL", "LC_MESSAGES", "LANG")


@pytest.fixture(autouse=True)
def _language_of_the_environment(monkeypatch):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    set_language(None)
    yield
    set_language(None)


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"LANG": "zh_CN.UTF-8"}, "zh"),
        ({"LANG": "zh_TW"}, "zh"),
        ({"LANG": "en_US.UTF-8"}, "en"),
        ({"LANG": "de_DE.UTF-8"}, "en"),
        ({"LANG": "C"}, "en"),
        ({"LANG": "zh_CN.UTF-8", "LC_ALL": "en_GB.UTF-8"}, "en"),
        ({"LANG": "en_US.UTF-8", "LC_MESSAGES": "zh_CN"}, "zh"),
        ({"LC_ALL": "zh_CN", "BIMO_LANGUAGE": "en"}, "en"),
        ({"LC_ALL": "C", "BIMO_LANGUAGE": "ZH"}, "zh"),
    ],
)
def test_language_follows_the_environment(monkeypatch, environment, expected):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert language() == expected


def test_a_set_language_beats_the_environment(monkeypatch):
    monkeypatch.setenv("BIMO_LANGUAGE", "zh")
    set_language("en")
    assert language() == "en"
    set_language("zh")
    monkeypatch.setenv("BIMO_LANGUAGE", "en")
    assert language() == "zh"


def test_a_sentence_is_said_in_the_language_of_the_user(monkeypatch):
    monkeypatch.setattr(runtime, "_chinese", lambda: {"{n:,} files in {folder}": "{folder} 中有 {n:,} 个文件"})
    values = {"n": 1204, "folder": "x"}
    set_language("en")
    assert t("{n:,} files in {folder}", **values) == "1,204 files in x"
    set_language("zh")
    assert t("{n:,} files in {folder}", **values) == "x 中有 1,204 个文件"
    assert str(UserError("{n:,} files in {folder}", **values)) == "x 中有 1,204 个文件"


def test_the_catalogue_is_chinese():
    assert CHINESE
    # Names such as Kneser-Ney stay as they are; sentences do not.
    assert [key for key, value in CHINESE.items() if value == key and " " in value] == []


def test_a_sentence_without_chinese_is_said_in_english():
    set_language("zh")
    assert t("nobody translated {what}", what="this") == "nobody translated this"


def test_values_may_hold_braces_and_signs():
    assert t("nobody translated {what}", what="{a} %s {0}") == "nobody translated {a} %s {0}"


def test_an_error_carries_its_exit_code():
    assert UserError("a").code == FAILED
    assert UserError("a", code=USAGE).code == USAGE


def test_devices_that_are_not_there_are_refused(monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert pick_device("auto").type == "cpu"
    assert pick_device("cpu").type == "cpu"
    for wanted in ("cuda", "cuda:3", "mps", "tpu", "cpu:x", ""):
        with pytest.raises(UserError, match=r"not on this machine\. It has: cpu") as caught:
            pick_device(wanted)
        assert caught.value.code == USAGE
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    chosen: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    assert pick_device("cuda:0") == torch.device("cuda:0")
    assert chosen == [torch.device("cuda:0")]  # whose random state is kept
    with pytest.raises(UserError, match="It has: cuda, cuda:0, cpu"):
        pick_device("cuda:1")


def test_a_seed_starts_torch_from_the_same_place():
    import torch

    seed_everything(5)
    first = torch.rand(4)
    seed_everything(5)
    assert torch.equal(torch.rand(4), first)


def test_a_seed_for_a_while_leaves_what_comes_after_as_it_was():
    import torch

    seed_everything(5)
    expected = torch.rand(4), torch.rand(4)
    seed_everything(5)
    first = torch.rand(4)
    with seeded(0):
        torch.rand(9)
    assert torch.equal(torch.stack((first, torch.rand(4))), torch.stack(expected))


@pytest.mark.parametrize(("after", "expected"), [((60, 200), "0"), ((10, 200), None), ((0, 0), None)])
def test_threads_sleep_where_others_work(monkeypatch, after, expected):
    monkeypatch.setattr(os, "environ", {})
    ticks = iter([(0, 0 if after == (0, 0) else 100), after])
    monkeypatch.setattr(runtime, "_busy_ticks", lambda: next(ticks))
    runtime.choose_waiting(seconds=0.0)
    assert os.environ.get("GOMP_SPINCOUNT") == expected


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc hands large blocks back at once")
def test_what_was_freed_is_not_asked_for_again() -> None:
    """A block of 16,384 pages, freed and taken again: without the setting each page is mapped anew."""
    script = (
        "import resource, sys, numpy as np\n"
        "from bimo.runtime import keep_freed_memory\n"
        "if sys.argv[1] == 'keep': keep_freed_memory()\n"
        "np.ones(2**23)\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "for _ in range(5): np.ones(2**23)\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)\n"
    )
    # numpy asks for huge pages by itself, which would hide what is counted.
    environment = {**os.environ, "NUMPY_MADVISE_HUGEPAGE": "0"}
    faults = {
        how: int(subprocess.run([sys.executable, "-c", script, how], env=environment, capture_output=True).stdout)
        for how in ("keep", "usual")
    }
    assert faults["keep"] < 5_000
    assert faults["usual"] > 50_000
