"""What every command shares: errors as sentences with exit codes, results as JSON or lines."""

from __future__ import annotations

import errno
import functools
import io
import json
import os
import shlex
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from typing import Any, cast

import typer

from bimo.runtime import DATA_REFUSED, FAILED, INTERRUPTED, NO_ROOM, USAGE, UserError, choose_waiting, is_text, t

__all__ = ["app", "asked_lines", "piped_lines", "require_some", "show", "verb"]

app = typer.Typer(
    name="bimo",
    help=t("From your own text, Chinese or English, to a language model that you can read, trust and ship."),
    rich_markup_mode=None,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Verb = Callable[..., None]


def verb(help_: str, *, of: typer.Typer = app) -> Callable[[Verb], Verb]:
    """Register a command whose errors reach the user as a sentence and an exit code, never as a traceback."""

    def register(function: Verb) -> Verb:
        @of.command(help=help_)
        @functools.wraps(function)
        def guarded(*arguments: Any, **options: Any) -> None:
            try:
                choose_waiting()
                _require_text(options)
                if isinstance(sys.stdout, io.TextIOWrapper):
                    sys.stdout.reconfigure(errors="backslashreplace")  # not every terminal has every character
                function(*arguments, **options)
                sys.stdout.flush()  # what cannot be printed shows here, not when Python ends
            except (Exception, KeyboardInterrupt) as error:
                sentence, code = explain(error)
                _drop_output()
                if sentence:
                    print(f"bimo: {sentence}", file=sys.stderr)
                raise typer.Exit(code) from None

        return guarded

    return register


def _require_text(options: dict[str, Any]) -> None:
    """Raises UserError for what was given with bytes that are no text; paths may have any."""
    for name, value in options.items():
        for one in value if isinstance(value, list) else [value]:
            if isinstance(one, str) and not is_text(one):
                sentence = "What was given as {name} holds bytes that are no text in UTF-8."
                raise UserError(sentence, code=USAGE, name=name.strip("_").replace("_", "-"))


def _drop_output() -> None:
    """What is left to print goes nowhere if it cannot be printed: Python would try again when it ends, and complain."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def explain(error: BaseException) -> tuple[str, int]:
    """What to tell the user of an error, and the exit code."""
    again = shlex.join(["bimo", *sys.argv[1:]])
    if isinstance(error, UserError):
        if error.code == INTERRUPTED:
            return f"{error} {t('Continue with: {command}', command=again)}", INTERRUPTED
        return str(error), error.code
    if isinstance(error, KeyboardInterrupt):
        return t("Interrupted. What is finished is kept. Continue with: {command}", command=again), INTERRUPTED
    if isinstance(error, BrokenPipeError):
        return "", 0
    text = f"{type(error).__name__}: {error}"
    if getattr(error, "errno", None) == errno.ENOSPC or "No space left" in text or "disk is full" in text:
        sentence = "The disk is full. What was finished before is whole. Free some room, then: {command}"
        return t(sentence, command=again), NO_ROOM
    if isinstance(error, MemoryError) or "can't allocate memory" in text or "out of memory" in text:
        return t("There is not enough memory. Choose a smaller --preset, or close other programs."), NO_ROOM
    if isinstance(error, OSError) and error.filename is not None:
        return t("{path} cannot be used: {reason}.", path=error.filename, reason=error.strerror), FAILED
    with tempfile.NamedTemporaryFile("w", prefix="bimo-", suffix=".txt", delete=False, encoding="utf-8") as file:
        file.write("".join(traceback.format_exception(error)))
    sentence = "This is an error in Bimo itself ({error}). Please report it with the file {path}."
    return t(sentence, error=text[:200], path=file.name), FAILED


def show(facts: Any, *, as_json: bool, lines: Callable[[], list[str]] = list) -> None:
    """Print a result: all of it as JSON, or the lines meant for people."""
    if as_json:
        print(json.dumps(facts, ensure_ascii=False, indent=1))
    else:
        for line in lines():
            print(line)


def piped_lines() -> Iterator[str]:
    """The lines of the input, as soon as they come, in any encoding that texts may have.

    Raises UserError at bytes that are no text in it.
    """
    from bimo.text.encodings import SAMPLE_BYTES, utf8_as_it_comes

    stream = cast(io.BufferedReader, sys.stdin.buffer)
    pieces: list[bytes] = []
    number = 1
    for block in utf8_as_it_comes(iter(lambda: stream.read1(SAMPLE_BYTES), b"")):
        first, *others = block.split(b"\n")
        pieces.append(first)
        for piece in others:
            yield _as_text(b"".join(pieces), number)
            pieces, number = [piece], number + 1
    if any(pieces):
        yield _as_text(b"".join(pieces), number)


def _as_text(line: bytes, number: int) -> str:
    try:
        return line.decode("utf-8").rstrip("\r")
    except UnicodeDecodeError:
        sentence = "Line {number:,} of the input holds bytes that are no text."
        raise UserError(sentence, code=DATA_REFUSED, number=number) from None


def require_some(text: str | None) -> None:
    """Raises UserError for a text that was given and is empty: it does not ask for what would be piped in."""
    if text is not None and not text.strip():
        raise UserError("The text that was given is empty.", code=USAGE)


def asked_lines(sign: str, *, quiet: bool) -> Iterator[str]:
    """What is typed or piped in, line by line, without empty ones; on a terminal a sign asks for each.

    Raises UserError at bytes that are no text.
    """
    asking = sys.stdin.isatty() and not quiet
    lines = piped_lines()
    while True:
        if asking:
            print(sign, end="", file=sys.stderr, flush=True)
        line = next(lines, None)
        if line is None:
            if asking:
                print(file=sys.stderr)
            return
        if line.strip():
            yield line
