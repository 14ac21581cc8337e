"""Files that are always whole: written beside and renamed, checked by digest, locked while in use."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from bimo.runtime import NO_ROOM, UserError

__all__ = [
    "digest_file",
    "digest_json",
    "locked",
    "read_json",
    "replacing",
    "replacing_folder",
    "require_room",
    "write_json",
]


def digest_file(path: Path) -> str:
    """SHA-256 of the bytes of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_json(value: Any) -> str:
    """SHA-256 of a JSON value, whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, ensure_ascii=False).encode()).hexdigest()


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a path to write to; on success it is synced and renamed to `path`, on failure removed.

    A reader sees the old file or the new one, never a part, even after a power cut.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
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
    whoever reads such folders must treat a missing one as work still to do.
    """
    part = path.with_name(path.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    mode = part.stat().st_mode & 0o666  # as in `replacing`
    try:
        yield part
        for file in part.rglob("*"):
            if file.is_file():
                file.chmod(mode)
            _sync(file)
        old = path.with_name(path.name + ".old")
        shutil.rmtree(old, ignore_errors=True)
        if path.exists():
            os.replace(path, old)
        os.replace(part, path)
        _sync(path.parent)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_json(path: Path, value: Any) -> None:
    """Write a JSON value, readable by people, all or nothing."""
    with replacing(path) as part:
        part.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def read_json(path: Path) -> Any:
    """The JSON value in a file. Raises UserError with the place when it is not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError("{path} is not valid JSON: {error}.", path=path, error=error) from None


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
