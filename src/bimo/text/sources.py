"""Which files there are to read: folders walked in a fixed order, without what is not the user's text."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bimo.files import digest_file
from bimo.runtime import DATA_REFUSED, USAGE, UserError

__all__ = ["PACKED", "SourceFile", "estimate_bytes", "file_digests", "find_sources", "source_digest"]

PACKED = (".gz", ".zst")
_TIMES_PACKED = 3


@dataclass(frozen=True, slots=True)
class SourceFile:
    """A file to read. `name` is what reports call it; `chosen` when the user named it rather than its folder."""

    path: Path
    name: str
    size: int
    chosen: bool = False

    @property
    def packed(self) -> str:
        """`.gz` or `.zst`, or nothing."""
        outer = self.path.suffix.lower()
        return outer if outer in PACKED else ""

    @property
    def ending(self) -> str:
        """What says the format: `.html` of `page.html` and of `page.html.gz`."""
        return Path(self.path.stem).suffix.lower() if self.packed else self.path.suffix.lower()


def find_sources(
    sources: Sequence[Path], *, out: Path | None = None, cannot_open: Callable[[str, OSError], None] | None = None
) -> list[SourceFile]:
    """All files of the files and folders in `sources`, sorted by name, each once.

    Names are relative to the folder given, or to the one that holds all sources. Not read, since they are not
    the user's text: hidden files and folders, `out`, model folders, prepared data. Folders inside a source that
    may not be opened go to `cannot_open`. Raises UserError for a source that is missing, closed or has no file.
    """
    given = [Path(os.path.abspath(source.expanduser())) for source in sources]
    _check(given)
    root = Path(os.path.commonpath(given))
    root = root if root.is_dir() else root.parent
    avoid = Path(os.path.abspath(out)) if out is not None else None
    found: dict[Path, SourceFile] = {}
    for source in given:
        chosen = source.is_file()
        for path in [source] if chosen else _walk(source, avoid, set(), root, cannot_open):
            if path not in found:
                found[path] = SourceFile(path, _name(path, root), path.stat().st_size, chosen)
    if not found:
        raise UserError(
            "There is no file to read in {folder}. Hidden files do not count. Name a folder or file that holds text.",
            code=DATA_REFUSED,
            folder=", ".join(map(str, sources)),
        )
    return sorted(found.values(), key=lambda file: file.name)


def _name(path: Path, root: Path) -> str:
    """The name in reports; file names may hold bytes that are no text."""
    return path.relative_to(root).as_posix().encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _check(given: list[Path]) -> None:
    if not given:
        raise UserError("No source was named. Name a file or a folder that holds text.", code=USAGE)
    for source in given:
        if not source.exists():
            raise UserError("There is no file or folder {path}. Check how it is written.", code=USAGE, path=source)
        try:
            if source.is_dir():
                os.scandir(source).close()
            else:
                source.open("rb").close()
        except OSError as error:
            raise UserError(
                "{path} may not be read ({error}). Change its permissions, or name another source.",
                code=DATA_REFUSED,
                path=source,
                error=error.strerror,
            ) from None


def _walk(
    folder: Path,
    avoid: Path | None,
    seen: set[Path],
    root: Path,
    cannot_open: Callable[[str, OSError], None] | None,
) -> Iterator[Path]:
    """Files below `folder`; links are followed, once."""
    real = folder.resolve()
    if folder == avoid or real in seen:
        return
    seen.add(real)
    try:
        with os.scandir(folder) as listing:
            entries = sorted((entry for entry in listing if not entry.name.startswith(".")), key=lambda e: e.name)
    except OSError as error:
        if cannot_open is None:
            raise
        cannot_open(_name(folder, root), error)
        return
    if len(seen) > 1 and _is_ours({entry.name for entry in entries}, folder):
        return
    for entry in entries:
        path = folder / entry.name
        if entry.is_dir():
            yield from _walk(path, avoid, seen, root, cannot_open)
        elif entry.is_file():
            yield path


def _is_ours(names: set[str], folder: Path) -> bool:
    """Whether a folder holds a model, or data that an earlier run prepared."""
    begun = "bimo" in names and any((folder / "bimo" / name).is_file() for name in ("manifest.json", "request.json"))
    model = "config.json" in names and bool(names & {"model.safetensors", "tokenizer.json", "pytorch_model.bin"})
    prepared = {"documents", "rejected"} <= names
    return model or prepared or begun


def estimate_bytes(files: Sequence[SourceFile]) -> int:
    """How many bytes of text the files hold, roughly: packed ones count three times."""
    return sum(file.size * (_TIMES_PACKED if file.packed else 1) for file in files)


def file_digests(files: Iterable[SourceFile]) -> dict[str, str]:
    """SHA-256 of each file by its name; `closed` for one that cannot be read now."""
    digests = {}
    for file in files:
        try:
            digests[file.name] = digest_file(file.path)
        except OSError:
            # Reading sets it aside with the reason; once it opens, the content is another.
            digests[file.name] = "closed"
    return digests


def source_digest(digests: Mapping[str, str]) -> str:
    """A digest of the names and contents of `file_digests`: the same folder gives the same one wherever it lies."""
    digest = hashlib.sha256()
    for name, content in sorted(digests.items()):
        digest.update(f"{name}\0{content}\n".encode())
    return digest.hexdigest()
