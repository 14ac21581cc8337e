"""A tokenizer of unknown form is tried in a process of its own, which may take little memory and little time.

Whoever imports this module is the one who tries; run as a program it is the process in which the tokenizer is tried.
A file of a hundred bytes can make the library ask for gigabytes and take the whole process down with it.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys

__all__ = ["fault_of_trial"]

MOST_BYTES = 2 << 30
"""Of memory, the interpreter and its libraries included."""
SECONDS = 1
SECONDS_PER_BYTE = 1 / (8 << 20)
"""Of processor time, so that a vocabulary of a quarter of a million tokens can be read."""
PATIENCE_SECONDS = 60
"""However busy the machine is."""
MOST_GROWTH = 64
"""Tokens, or characters that come back, for each byte of a text."""

SAMPLE = "The quick brown fox, 12345.67 + (x_1)!\n\n\t笔墨 を 漢字。 naïve Straße 😀👍🏽 \u0301\ufdfa\x00 "
RUN = 2000
RUNS = "aA0 \n.'_-中é▁"
"""Characters of which long runs are tried: what a pattern repeats, and then does not find, costs most."""


def fault_of_trial(raw: bytes, *, characters: str = "") -> str | None:
    """What happens to a `tokenizer.json` that is used on a few texts, runs of `characters` among them. None if all is
    well."""
    from bimo.runtime import t

    seconds = SECONDS + int(len(raw) * SECONDS_PER_BYTE)
    quiet = {"RUST_BACKTRACE": "0", "TOKENIZERS_PARALLELISM": "false", "PYTHONUTF8": "1"}
    try:
        done = subprocess.run(
            [sys.executable, "-P", __file__, str(seconds), characters.encode("unicode_escape").decode()],
            input=raw,
            capture_output=True,
            env={**os.environ, **quiet},
            timeout=PATIENCE_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return t("it takes too long on a short text")
    if done.returncode == 0:
        return None
    report = done.stdout.decode("utf-8", "replace").strip()
    if report == "grows":
        return t("it makes a long text of a short one")
    if report:
        return report[:200].rstrip(".")
    if b"memory allocation" in done.stderr or b"MemoryError" in done.stderr:
        return t("it takes too much memory on a short text")
    return t("it takes too long on a short text")


def _texts(characters: str) -> list[str]:
    everything = "".join(map(chr, [*range(1, 0xD800), *range(0xE000, 0x10000)]))
    lines = [everything[start : start + 512] for start in range(0, len(everything), 512)]
    return ["", SAMPLE * 8, *(character * RUN + "\x01" for character in dict.fromkeys(RUNS + characters)), *lines]


def _limit(seconds: int) -> None:
    with contextlib.suppress(ImportError):  # Windows has no such limits; there the time alone counts
        import resource

        for kind, most in (("RLIMIT_AS", MOST_BYTES), ("RLIMIT_CPU", seconds), ("RLIMIT_CORE", 0), ("RLIMIT_FSIZE", 0)):
            number = getattr(resource, kind)
            hard = resource.getrlimit(number)[1]
            with contextlib.suppress(ValueError, OSError):  # macOS has no limit of memory that could be set
                resource.setrlimit(number, (most if hard == resource.RLIM_INFINITY else min(most, hard), hard))


def _try(raw: str, characters: str) -> None:
    import tokenizers

    inner = tokenizers.Tokenizer.from_str(raw)
    inner.no_padding()
    inner.no_truncation()
    for text in _texts(characters):
        ids = inner.encode(text).ids
        back = inner.decode(ids, skip_special_tokens=False)
        if max(len(ids), len(back)) > MOST_GROWTH * (len(text.encode()) + 16):
            print("grows")
            sys.exit(1)


def _main() -> None:
    seconds, characters = sys.argv[1:]
    raw = sys.stdin.buffer.read().decode("utf-8")
    _limit(int(seconds))
    try:
        _try(raw, characters.encode().decode("unicode_escape"))
    except BaseException as error:  # the library's panics are no Exception
        if isinstance(error, MemoryError | SystemExit):
            raise
        print(str(error) or type(error).__name__)
        sys.exit(1)


if __name__ == "__main__":
    _main()
