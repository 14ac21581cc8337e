"""What a verb tells the person who waits: stage lines, warnings, one live bar. All of it goes to stderr."""

from __future__ import annotations

import functools
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from bimo.runtime import t

__all__ = ["SILENT", "Console", "Update", "cells", "clock", "keep_if_writable", "pad"]

Update = Callable[[float, str], None]
"""`update(done, text)`: how much of the total is done, and what to show beside the bar."""

PLAIN_SECONDS = 15.0
"""Without a terminal, a progress line is printed at most this often."""


class Console:
    """Stage lines (`Read  1,204 files`), warnings and progress. `quiet` shows nothing but warnings."""

    def __init__(self, *, quiet: bool = False, silent: bool = False) -> None:
        self.quiet = quiet or silent
        self.silent = silent
        self._above: Callable[[str], None] | None = None

    def say(self, label: str, text: str) -> None:
        """One line: a translated label of the stage, then what came of it."""
        if not self.quiet:
            self._print(f"{pad(t(label))} {text}")

    def warn(self, text: str) -> None:
        """One line that asks for attention; shown with --quiet as well."""
        if not self.silent:
            self._print(f"{pad(t('Note'))} {text}")

    def show(self, text: str) -> None:
        """A line without a label, such as a sample of what the model writes."""
        if not self.quiet:
            self._print(f"{' ' * 10}{text}")

    @contextmanager
    def progress(self, label: str, total: float) -> Iterator[Update]:
        """Yields `update(done, text)`: a bar on a terminal, a line now and then elsewhere."""
        if self.quiet or total <= 0:
            yield _ignore
        elif sys.stderr.isatty():
            yield from self._bar(label, total)
        else:
            last = time.monotonic()

            def update(done: float, text: str = "") -> None:
                nonlocal last
                if time.monotonic() - last >= PLAIN_SECONDS:
                    last = time.monotonic()
                    self._print(f"{pad(t(label))} {100 * done / total:3.0f} %  {text}")

            yield update

    def _bar(self, label: str, total: float) -> Iterator[Update]:
        from rich.console import Console as Terminal
        from rich.progress import BarColumn, Progress, TextColumn

        columns = (TextColumn("{task.description}"), BarColumn(bar_width=36), TextColumn("{task.percentage:3.0f} %"))
        text = TextColumn("{task.fields[text]}", markup=False)
        terminal = Terminal(stderr=True, markup=False, emoji=False, highlight=False, soft_wrap=True)
        before = self._above
        with Progress(*columns, text, console=terminal, transient=True) as bar:
            task = bar.add_task(pad(t(label)), total=total, text="")
            self._above = terminal.print
            try:
                yield functools.partial(_move, bar, task)
            finally:
                self._above = before

    def _print(self, line: str) -> None:
        if self._above is not None:
            self._above(line)
            return
        with suppress(BrokenPipeError):  # work goes on where nobody looks on any more
            print(line, file=sys.stderr, flush=True)


def _ignore(done: float, text: str = "") -> None:
    """Shows nothing."""


def _move(bar: Any, task: Any, done: float, text: str = "") -> None:
    bar.update(task, completed=done, text=text)


def clock(seconds: float) -> str:
    """Minutes and whole seconds, as `2:05`."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"


def cells(text: str) -> int:
    """How many columns of a terminal a text takes; a Chinese character takes two."""
    return sum(2 if ord(character) > 0x2E80 else 1 for character in text)


def pad(text: str, width: int = 9) -> str:
    """Fill up to `width` cells."""
    return text + " " * max(0, width - cells(text))


SILENT = Console(silent=True)


def keep_if_writable(folder: Path, console: Console, write: Callable[[], None]) -> bool:
    """Write figures beside what they are of; where that cannot be, they are shown all the same, with a warning."""
    try:
        write()
    except OSError as error:
        sentence = "The figures are not kept, for {path} cannot be written: {reason}."
        console.warn(t(sentence, path=error.filename or folder, reason=error.strerror or type(error).__name__))
        return False
    return True
