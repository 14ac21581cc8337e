"""Contestants in processes of their own that take turns, so that thread pools and settings never mix.

A worker is a function whose first argument is its `Turns`:

    def worker(turns):
        model = load()
        for task in turns:
            turns.report(measure(model, task))

    with contestants({"bimo": (worker,), "peer": (other_worker, "setting")}, threads=2) as all_of_them:
        results = interleave(all_of_them, [{"tokens": 256}] * 5)
"""

from __future__ import annotations

import multiprocessing
import os
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any

__all__ = ["Bursts", "Contestant", "Turns", "contestants", "interleave"]

Worker = Callable[..., None]

THREAD_VARIABLES = ("OMP_NUM_THREADS", "RAYON_NUM_THREADS")


class Turns:
    """The worker's end: the tasks as they come, until there are no more."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe

    def __iter__(self) -> Iterator[Any]:
        while (task := self.wait()) is not None:
            yield task

    def wait(self) -> Any:
        """The next task; None when there are no more."""
        try:
            return self._pipe.recv()
        except EOFError:
            return None

    def report(self, result: Any) -> None:
        """Answer the task."""
        self._pipe.send(("result", result))


class Bursts:
    """Cuts somebody's training loop into bursts: `go_on()` after each step, which waits where a burst has ended.

    The task is {"seconds": at least so long, "steps": at least so many}; the result says how many of both it was. The
    first step of a burst is not counted: a process that has waited finds its memory cold.
    """

    def __init__(self, turns: Turns) -> None:
        self._turns = turns
        self._begin()

    def _begin(self) -> bool:
        self._task = self._turns.wait()
        self._steps = -1
        return self._task is not None

    def go_on(self) -> bool:
        """Whether to train on, after a step was made."""
        self._steps += 1
        if self._steps == 0:
            self._start = time.perf_counter()
            return True
        seconds = time.perf_counter() - self._start
        if seconds < self._task["seconds"] or self._steps < self._task["steps"]:
            return True
        self._turns.report({"steps": self._steps, "seconds": seconds})
        return self._begin()


class Contestant:
    """A worker in a process of its own, with as many threads and processors as it is told."""

    def __init__(self, name: str, worker: Worker, *arguments: Any, threads: int) -> None:
        self.name = name
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs, worker, arguments, threads), daemon=True)
        with _environment({name: str(threads) for name in THREAD_VARIABLES}):
            self._process.start()
        theirs.close()

    def take_turn(self, task: Any) -> Any:
        """Let it do a task, and wait. Raises RuntimeError with its traceback when it fails."""
        try:
            self._pipe.send(task)
            kind, result = self._pipe.recv()
        except (EOFError, BrokenPipeError):
            raise RuntimeError(f"{self.name} has died") from None
        if kind == "error":
            raise RuntimeError(f"{self.name} failed:\n{result}")
        return result

    def close(self) -> None:
        """End its process."""
        self._pipe.close()
        self._process.join(timeout=20)
        if self._process.is_alive():
            self._process.kill()


def _serve(pipe: Connection, worker: Worker, arguments: tuple[Any, ...], threads: int) -> None:
    # Whatever a library thinks of the variables, it gets no more processors than it was promised, where that can be.
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    try:
        worker(Turns(pipe), *arguments)
    except Exception:
        pipe.send(("error", traceback.format_exc()))


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """Other environment variables for a while."""
    before = dict(os.environ)
    os.environ.update(values)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextmanager
def contestants(workers: Mapping[str, tuple[Any, ...]], *, threads: int) -> Iterator[list[Contestant]]:
    """Starts a contestant for each name, from `(worker, *arguments)`, and ends them all afterwards."""
    started: list[Contestant] = []
    try:
        for name, (worker, *arguments) in workers.items():
            started.append(Contestant(name, worker, *arguments, threads=threads))
        yield started
    finally:
        for contestant in started:
            contestant.close()


def interleave(contestants: list[Contestant], tasks: Sequence[Any], *, what: str = "") -> dict[str, list[Any]]:
    """The results of each contestant, a round for each task. Rounds begin with another one, lest the order matter."""
    results: dict[str, list[Any]] = {contestant.name: [] for contestant in contestants}
    for number, task in enumerate(tasks):
        first = number % len(contestants)
        before = time.perf_counter()
        for contestant in (*contestants[first:], *contestants[:first]):
            results[contestant.name].append(contestant.take_turn(task))
        print(f"{what} round {number + 1} of {len(tasks)}: {time.perf_counter() - before:.1f} s".strip(), flush=True)
    return results
