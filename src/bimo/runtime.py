"""What every part stands on: errors as sentences, the language of messages, device, number format, threads, seed."""

from __future__ import annotations

import ctypes
import functools
import locale
import os
import platform
import re
import time
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

__all__ = [
    "DATA_REFUSED",
    "FAILED",
    "INTERRUPTED",
    "NO_ROOM",
    "USAGE",
    "UserError",
    "choose_waiting",
    "is_text",
    "keep_freed_memory",
    "language",
    "pick_device",
    "random_sources",
    "require_least",
    "return_freed_memory",
    "seed_everything",
    "seeded",
    "set_language",
    "t",
    "whole_text",
]

FAILED, USAGE, DATA_REFUSED, NO_ROOM, INTERRUPTED = 1, 2, 3, 4, 5
"""Exit codes: failed; wrong usage; the data was refused; not enough memory, disk or time; interrupted and resumable."""

_HALF = re.compile("[\ud800-\udfff]")
"""Half a character (a lone surrogate): what Python makes of bytes, and JSON of escapes, that are no text."""

BUSY_SHARE = 0.3
"""Of all processors: above this the machine is busy with something else."""

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -3, -4
"""Parameters of mallopt in glibc's malloc.h."""

LARGE_PIECE = 256 * 1024
"""Bytes."""

_language: str | None = None


def set_language(code: str | None) -> None:
    """Choose the language of messages: `en`, `zh`, or None for what the environment says."""
    global _language
    _language = code


def language() -> str:
    """The language of messages, `en` or `zh`: as set, else `BIMO_LANGUAGE`, else the locale."""
    if _language is not None:
        return _language
    wanted = os.environ.get("BIMO_LANGUAGE") or os.environ.get("LC_ALL") or os.environ.get("LC_MESSAGES")
    wanted = wanted or os.environ.get("LANG") or locale.getlocale()[0] or ""
    return "zh" if wanted.lower().startswith(("zh", "chinese")) else "en"


@functools.cache
def _chinese() -> dict[str, str]:
    return tomllib.loads((resources.files("bimo.assets") / "messages.zh.toml").read_text(encoding="utf-8"))


def t(template: str, /, **values: Any) -> str:
    """Say `template` in the user's language, then fill in the values: `t("{n:,} files", n=1204)` -> `1,204 files`.

    The English sentence is its own key in `assets/messages.zh.toml`; a test finds the keys that have no Chinese.
    """
    if language() == "zh":
        template = _chinese().get(template, template)
    return template.format(**values)


class UserError(Exception):
    """Something that the user can mend. The sentence says what happened, where, and what to do.

    `UserError("{folder} holds no text. Name another folder.", code=DATA_REFUSED, folder=path)`
    """

    def __init__(self, template: str, /, *, code: int = FAILED, **values: Any) -> None:
        super().__init__(t(template, **values))
        self.code = code


def require_least(options: dict[str, tuple[int, int]]) -> None:
    """Raises UserError when an option's number is below its least value: {"seed": (seed, 0)}."""
    for option, (value, least) in options.items():
        if value < least:
            sentence = "--{option} must be at least {least}, but is {value}."
            raise UserError(sentence, code=USAGE, option=option, least=least, value=value)


def choose_waiting(*, seconds: float = 0.1) -> None:
    """Before torch is loaded: on a machine that is busy already, let its threads sleep while they wait for each other.

    libgomp's threads wait awake, 1.6 times as fast on an idle machine; but where another process takes a core from one
    of them, the others wait for it in vain, and a step takes two to five times as long (docs/log.md).
    """
    before = _busy_ticks()
    time.sleep(seconds)
    ticks, total = (after - earlier for after, earlier in zip(_busy_ticks(), before, strict=True))
    if total and ticks / total > BUSY_SHARE:
        os.environ.setdefault("GOMP_SPINCOUNT", "0")


def keep_freed_memory() -> None:
    """From now on, let what this process frees stay with it, where the C library is glibc; elsewhere nothing changes.

    A training step frees and asks for the same large tensors again and again. By itself glibc hands each back to the
    system, which must empty every page anew: with 30 M parameters that was a third of the step (docs/log.md).
    """
    if platform.libc_ver()[0] != "glibc":
        return
    library = ctypes.CDLL(None)
    library.mallopt(M_MMAP_MAX, 0)
    library.mallopt(M_TRIM_THRESHOLD, -1)


def return_freed_memory() -> None:
    """From now on, let large pieces that this process frees go back to the system, where the C library is glibc.

    By itself glibc raises the size from which it does so to that of the largest piece it has seen, and batches of text
    that pass from thread to thread then leave holes in its heap: memory grew with the text (docs/log.md).
    """
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, LARGE_PIECE)


def _busy_ticks() -> tuple[int, int]:
    """Clock ticks that all processors have worked, and all ticks; zeros where the system does not say."""
    try:
        with open("/proc/stat", encoding="ascii") as file:
            user, nice, system, idle, waiting, *_ = map(int, file.readline().split()[1:])
    except (OSError, ValueError):
        return 0, 0
    busy = user + nice + system
    return busy, busy + idle + waiting


def is_text(text: str) -> bool:
    """Whether every character is a whole one."""
    return _HALF.search(text) is None


def whole_text(text: str) -> str:
    """The text without half characters, which no file can be written with."""
    return _HALF.sub("", text)


def pick_device(wanted: str = "auto") -> torch.device:
    """`auto` takes CUDA, then Apple's MPS, then the CPU; a card that is named becomes the current one.

    Raises UserError when the wanted device is not there.
    """
    import torch

    cards = range(torch.cuda.device_count()) if torch.cuda.is_available() else ()
    there = ["cuda", *(f"cuda:{card}" for card in cards)] if cards else []
    there += ["mps", "cpu"] if torch.backends.mps.is_available() else ["cpu"]
    if wanted != "auto" and wanted not in there:
        sentence = "The device {wanted} is not on this machine. It has: {there}."
        raise UserError(sentence, code=USAGE, wanted=wanted, there=", ".join(there))
    device = torch.device(there[0] if wanted == "auto" else wanted)
    if device.index is not None:
        torch.cuda.set_device(device)  # whose random state is kept in checkpoints, and on which "cuda" lies
    return device


def seed_everything(seed: int) -> None:
    """Start every random source of torch from `seed`; ours take their generators as arguments."""
    import torch

    torch.manual_seed(seed)


def random_sources() -> dict[str, Any]:
    """The modules of torch that random numbers may be drawn from here, by device; each gets and sets its state."""
    import torch

    found: dict[str, Any] = {"cpu": torch}
    if torch.cuda.is_available():
        found["cuda"] = torch.cuda
    if torch.backends.mps.is_available():
        found["mps"] = torch.mps
    return found


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Start every random source of torch from `seed`, and let it go on afterwards as if nothing had been drawn."""
    before = {source: source.get_rng_state() for source in random_sources().values()}
    seed_everything(seed)
    try:
        yield
    finally:
        for source, state in before.items():
            source.set_rng_state(state)
