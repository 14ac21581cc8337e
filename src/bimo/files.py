"""Files that are always whole: written beside and renamed, checked by digest, locked while in use."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from bimo.runtime import NO_ROOM, UserError, t

__all__ = [
    "LARGEST_JSON",
    "OLD",
    "PART",
    "digest_file",
    "digest_json",
    "locked",
    "parse_json",
    "read_json",
    "read_metrics",
    "read_settings",
    "replacing",
    "replacing_folder",
    "require_room",
    "write_json",
]

LARGEST_JSON = 64 << 20
"""Bytes. The tokenizers of a quarter of a million tokens take some 35 MB."""
MOST_JSON_VALUES = 1 << 22
"""So many values, or the memory that they take once they are read is out of proportion to the file."""

FOREIGN_CODE = ("auto_map", "custom_pipelines")
"""Entries of settings that ask for a program which came with the model."""

PART, OLD = ".bimo-part", ".bimo-old"
"""Endings of what is being written, and of what it is about to replace: names that nobody else gives."""

_WINDOWS = os.name == "nt"


def digest_file(path: Path) -> str:
    """SHA-256 of the bytes of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_json(value: Any) -> str:
    """SHA-256 of a JSON value, whatever the order of its keys."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "backslashreplace")).hexdigest()


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a path to write to; on success it is synced and renamed to `path`, on failure removed.

    A reader sees the old file or the new one, never a part, even after a power cut.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + PART)
    try:
        part.touch()
        mode = part.stat().st_mode
        yield part
        part.chmod(mode)  # some libraries write for the owner alone, whatever the user's umask says
        _sync(part)
        os.replace(part, path)
        _sync(path.parent)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """Yields an empty folder to fill; on success its files are synced and it takes the place of `path`.

    Between taking the old folder away and putting the new one in its place there is an instant with neither;
    whoever reads such folders must treat a missing one as work still to do. Who dies in it leaves the old one aside,
    and the next who comes puts it back first.
    """
    part, old = path.with_name(path.name + PART), path.with_name(path.name + OLD)
    if old.exists() and not path.exists():
        os.replace(old, path)
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    mode = part.stat().st_mode & 0o666  # as in `replacing`
    try:
        yield part
        for file in part.rglob("*"):
            if file.is_file():
                file.chmod(mode)
            _sync(file)
        shutil.rmtree(old, ignore_errors=True)
        if path.exists():
            os.replace(path, old)
        os.replace(part, path)
        _sync(path.parent)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _sync(path: Path) -> None:
    if _WINDOWS and path.is_dir():
        return  # no folder can be opened there
    handle = os.open(path, os.O_RDWR if _WINDOWS else os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_json(path: Path, value: Any) -> None:
    """Write a JSON value, readable by people, all or nothing."""
    with replacing(path) as part:
        # A half character, as in paths of other encodings, becomes its escape, which is JSON as well.
        text = json.dumps(value, indent=1, ensure_ascii=False) + "\n"
        part.write_text(text, encoding="utf-8", errors="backslashreplace")


def read_json(path: Path) -> Any:
    """The JSON value in a file, which may come from anyone. Raises UserError when it is none, or one that lies."""
    with path.open("rb") as file:
        return parse_json(file.read(LARGEST_JSON + 1), where=path)


def read_metrics(path: Path) -> Iterator[dict[str, Any]]:
    """The events in a `metrics.jsonl`. A last line that a dying process left unfinished is passed over."""
    if not path.is_file():
        return
    # Not splitlines: the text of a sample may hold U+2028 and other characters that it takes for the end of a line.
    for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if isinstance(event, dict):
            yield event


def parse_json(raw: bytes, *, where: Path) -> Any:
    """The value that UTF-8 JSON stands for. Raises UserError with the place when it is none, ambiguous or too large."""

    def without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            double = Counter(name for name, _ in pairs).most_common(1)[0][0]
            raise _damaged(where, t("{name} stands in it twice", name=ascii(double)[:80]))
        return found

    if len(raw) > LARGEST_JSON or sum(map(raw.count, (b",", b"[", b"{"))) > MOST_JSON_VALUES:
        raise _damaged(where, t("it is larger than any description of a model or of data is"))
    try:
        return json.loads(raw.decode("utf-8"), object_pairs_hook=without_doubles)
    except RecursionError:
        raise _damaged(where, t("it is nested without end")) from None
    except ValueError as error:
        raise UserError("{path} is not valid JSON: {error}.", path=where, error=str(error)[:200]) from None


def read_settings(path: Path) -> dict[str, Any]:
    """What a `config.json` or `tokenizer_config.json` holds. Raises UserError where it asks for a program."""
    settings = read_json(path)
    if not isinstance(settings, dict):
        raise _damaged(path, t("it is no JSON object"))
    asked = [name for name in FOREIGN_CODE if settings.get(name)]
    if asked:
        raise UserError(
            "{path} asks for a program that came with the model ({names}), and Bimo runs no such program. Where the "
            "model is of a type that Bimo knows, take the entry out.",
            path=path,
            names=", ".join(asked),
        )
    return settings


def _damaged(path: Path, fault: str) -> UserError:
    return UserError("{path} is damaged: {fault}.", path=path, fault=fault)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold `folder` for this process, again and again if need be; however it dies, the system lets go."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder.resolve() / ".lock", is_singleton=True)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise UserError(
            "Another bimo process is working in {folder}. Wait for it to end, or choose another folder with --out.",
            folder=folder,
        ) from None
    try:
        yield
    finally:
        lock.release()


def require_room(folder: Path, needed_bytes: int) -> None:
    """Raises UserError when the disk that holds `folder` has less room than `needed_bytes`."""
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if free < needed_bytes:
        raise UserError(
            "The disk of {folder} has {free:,.0f} MB free, but {needed:,.0f} MB are needed. "
            "Free some room, or choose another place with --out.",
            code=NO_ROOM,
            folder=folder,
            free=free / 1e6,
            needed=needed_bytes / 1e6,
        )
