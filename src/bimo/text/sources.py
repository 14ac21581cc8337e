"""Which files there are to read: folders walked in a fixed order, without what is not the user's text."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bimo.files import read_json
from bimo.runtime import DATA_REFUSED, USAGE, UserError
from bimo.stages import is_prepared

__all__ = ["PACKED", "SourceFile", "find_sources"]

PACKED = (".gz", ".zst")


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
    the user's text: hidden files and folders, `out`, models, word vectors, prepared data. What may not be opened
    inside a source goes to `cannot_open`. Raises UserError for a source that is missing, closed or has no file.
    """
    # Not Path.expanduser, which raises for names that begin like a user's home: Office's locks, such as ~$a.docx.
    given = [Path(os.path.abspath(os.path.expanduser(source))) for source in sources]
    _check(given)
    root = _root(given)
    avoid = Path(os.path.abspath(out)) if out is not None else None
    found: dict[Path, SourceFile] = {}

    def report(path: Path, error: OSError) -> None:
        if cannot_open is None:
            raise error
        cannot_open(_name(path, root), error)

    for source in sorted(given, key=Path.is_dir):  # files first: what is named beside its folder is named
        chosen = source.is_file()
        for path in [source] if chosen else _walk(source, avoid, set(), report):
            if path not in found:
                found[path] = SourceFile(path, _name(path, root), path.stat().st_size, chosen)
    if not found:
        raise UserError(
            "There is no file to read in {folder}. Hidden files do not count. Name a folder or file that holds text.",
            code=DATA_REFUSED,
            folder=", ".join(map(str, sources)),
        )
    return sorted(found.values(), key=lambda file: file.name)


def _root(given: Sequence[Path]) -> Path:
    try:
        root = Path(os.path.commonpath(given))
    except ValueError:  # they lie on several drives
        root = given[0]
    return root if root.is_dir() else root.parent


def _name(path: Path, root: Path) -> str:
    """The name in reports; file names may hold bytes that are no text, by which alone they may differ."""
    name = (path.relative_to(root) if path.is_relative_to(root) else path).as_posix()
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


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


def _walk(folder: Path, avoid: Path | None, seen: set[Path], report: Callable[[Path, OSError], None]) -> Iterator[Path]:
    """Files below `folder`; links are followed, once."""
    real = folder.resolve()
    if folder == avoid or real in seen:
        return
    seen.add(real)
    try:
        with os.scandir(folder) as listing:
            entries = sorted((entry for entry in listing if not entry.name.startswith(".")), key=lambda e: e.name)
    except OSError as error:
        report(folder, error)
        return
    if len(seen) > 1 and _is_ours({entry.name for entry in entries}, folder):
        return
    for entry in entries:
        path = folder / entry.name
        try:
            inner, file = entry.is_dir(), entry.is_file()
        except OSError as error:  # a link to itself, or into a closed folder
            report(path, error)
            continue
        if inner:
            yield from _walk(path, avoid, seen, report)
        elif file:
            yield path


def _is_ours(names: set[str], folder: Path) -> bool:
    """Whether a folder holds a model, word vectors, or data that an earlier run prepared."""
    begun = "bimo" in names and any((folder / "bimo" / name).is_file() for name in ("manifest.json", "request.json"))
    model = "config.json" in names and bool(names & {"model.safetensors", "tokenizer.json", "pytorch_model.bin"})
    return model or begun or ("manifest.json" in names and (is_prepared(folder) or _holds_vectors(folder)))


def _holds_vectors(folder: Path) -> bool:
    try:
        manifest = read_json(folder / "manifest.json")
    except (OSError, UserError):
        return False
    return isinstance(manifest, dict) and manifest.get("kind") == "word vectors"
