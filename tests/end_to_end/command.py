"""Calling `bimo` as a person does: a process of its own, its exit code, what it printed on either stream.

`start` and `bimo` begin from nothing. `warm_bimo` forks a process that has loaded the heavy libraries already, which
spares two seconds a call; from `main()` on it is the same. `inner_bimo` runs the command in this very process.
"""

from __future__ import annotations

import contextlib
import io
import multiprocessing
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import bimo as package

__all__ = ["ENTRY", "ENVIRONMENT", "Done", "bimo", "inner_bimo", "sentence_of", "start", "warm_bimo"]

ENTRY = [sys.executable, "-c", "from bimo.cli import main; main()"]

# A shell that runs the tests in the background has SIGINT ignored in all that they start.
LISTENING = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "

ENVIRONMENT = {
    **{
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("LC_", "LANG", "BIMO_", "PYTHONUNBUFFERED")) or name == "BIMO_KERNEL"
    },
    "PYTHONPATH": str(Path(package.__file__).parents[1]),
    "PYTHONUTF8": "1",
    "BIMO_LANGUAGE": "en",
    "OMP_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "COLUMNS": "100",
}

HEAVY = [
    "bimo.run",
    "bimo.doctor.machine",
    "bimo.doctor.model",
    "bimo.runs",
    "bimo.tasks.tune",
    "bimo.tasks.chat.tuning",
    "bimo.tasks.chat.conversation",
    "bimo.evaluate.suite",
    "rich.progress",
    "torch._dynamo",  # which torch itself imports when a model is laid out
    "torch._refs",
    "typer",
    "pyarrow.parquet",
    "ftfy",
    "rjieba",
    "zstandard",
    "charset_normalizer",
]

TIMEOUT = 240


@dataclass(frozen=True)
class Done:
    """What a call came to."""

    code: int | None
    out: str
    err: str


def start(*arguments: str | Path, cwd: Path, **environment: str) -> subprocess.Popen[str]:
    """Begin `bimo ARGUMENTS` in the folder `cwd`."""
    return subprocess.Popen(
        [*ENTRY[:-1], LISTENING + ENTRY[-1], *map(str, arguments)],
        cwd=cwd,
        env={**ENVIRONMENT, **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        errors="replace",
    )


def bimo(*arguments: str | Path, cwd: Path, **environment: str) -> Done:
    """Run `bimo ARGUMENTS` to its end."""
    with start(*arguments, cwd=cwd, **environment) as process:
        try:
            out, err = process.communicate(timeout=TIMEOUT)
        except BaseException:
            process.kill()
            raise
    return Done(process.returncode, out, err)


def warm_bimo(
    *arguments: str | Path,
    cwd: Path,
    given: bytes = b"",
    powerless: bool = False,
    full_disk: bool = False,
    more_memory: int | None = None,
    **environment: str,
) -> Done:
    """The same in a process that has loaded the libraries, `given` being what it finds on its input.

    `powerless` takes from root what lifts it above permissions; `full_disk` lets no file be put in place;
    `more_memory` is how many bytes the process may take beyond what it has when it begins, on Linux.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(HEAVY)
    with tempfile.TemporaryFile() as source, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        source.write(given)
        source.seek(0)
        settings = {**ENVIRONMENT, **environment}
        handles = [multiprocessing.reduction.DupFd(file.fileno()) for file in (source, out, err)]
        process = context.Process(
            target=_child, args=([*map(str, arguments)], str(cwd), settings, handles, powerless, full_disk, more_memory)
        )
        process.start()
        process.join(TIMEOUT)
        code = process.exitcode
        if code is None:
            process.kill()
            process.join()
        texts = []
        for file in (out, err):
            file.seek(0)
            texts.append(file.read().decode("utf-8", "replace"))
    return Done(code, *texts)


def inner_bimo(*arguments: str | Path, cwd: Path, more_memory: int) -> Done:
    """The same command in this process, which may take `more_memory` bytes beyond what it has now, on Linux."""
    from bimo.cli import main

    out, err = io.StringIO(), io.StringIO()
    with (
        contextlib.chdir(cwd),
        mock.patch.object(sys, "argv", ["bimo", *map(str, arguments)]),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        _less_memory(more_memory),
    ):
        try:
            main()
        except SystemExit as error:
            code = error.code
    assert isinstance(code, int)
    return Done(code, out.getvalue(), err.getvalue())


@contextlib.contextmanager
def _less_memory(more_bytes: int) -> Iterator[None]:
    if sys.platform != "linux":
        yield
        return
    import resource

    before = resource.getrlimit(resource.RLIMIT_AS)
    _limit_memory(more_bytes)
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def _child(
    arguments: list[str],
    cwd: str,
    environment: dict[str, str],
    handles: list[Any],
    powerless: bool,
    full_disk: bool,
    more_memory: int | None,
) -> None:
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    for target, handle in enumerate(handles):
        os.dup2(handle.detach(), target)
    sys.stdin = io.TextIOWrapper(io.BufferedReader(io.FileIO(0, closefd=False)), encoding="utf-8")
    sys.argv = ["bimo", *arguments]
    from bimo.cli import main

    if full_disk:
        _fill_disk()
    if powerless and os.getuid() == 0:
        _give_up_powers()
    if more_memory is not None and sys.platform == "linux":
        _limit_memory(more_memory)
    main()


def _limit_memory(more_bytes: int) -> None:
    import resource

    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    limit = pages * resource.getpagesize() + more_bytes
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.getrlimit(resource.RLIMIT_AS)[1]))


def _give_up_powers() -> None:
    """Clear the capabilities of this process: permissions then bind root like everybody else (capset(2), version 3)."""
    import ctypes

    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    nothing = (ctypes.c_uint32 * 6)()
    if ctypes.CDLL(None, use_errno=True).capset(header, nothing) != 0:
        raise OSError(ctypes.get_errno(), "capset")


def _fill_disk() -> None:
    import errno

    from bimo import files

    def full(path: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    files._sync = full


def sentence_of(done: Done) -> str:
    """What a refused call says: one line on stderr that begins with its name; no traceback, nothing on stdout."""
    assert "Traceback" not in done.err, done.err
    assert "an error in Bimo itself" not in done.err, done.err
    assert done.out == "", done.out
    lines = [line for line in done.err.splitlines() if line.startswith("bimo: ")]
    assert len(lines) == 1, done.err
    # A sentence may end with the command to type, which has no full stop.
    assert re.search(r"[.!?。]$|: bimo [^:]+$", lines[0]), lines[0]
    return lines[0].removeprefix("bimo: ")
