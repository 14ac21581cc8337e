"""What has been done in a folder already: each stage is keyed by the content of its inputs and options."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import bimo
from bimo.files import read_json, write_json
from bimo.runtime import INTERRUPTED, USAGE, UserError

__all__ = ["Stages", "is_prepared"]


def is_prepared(folder: Path) -> bool:
    """Whether it is data that was prepared, or begun to be: of other things there are manifests, too."""
    try:
        _read(folder / "manifest.json")
    except (OSError, UserError):
        return False
    return True


class Stages:
    """The stages recorded in `folder/manifest.json`, each with its key, its facts and the files it wrote.

    Raises UserError when that file is not the manifest of prepared data.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "manifest.json"
        self._stages = _read(self.path) if self.path.exists() else {}

    def begin(self) -> None:
        """Mark the folder as one of ours before anything else is written into it."""
        if not self.path.exists():
            self._write()

    def facts(self, stage: str, key: str) -> dict[str, Any] | None:
        """The facts of a stage if it was done with this very key and its files still stand whole, else None."""
        record = self._stages.get(stage)
        if record is None or record["key"] != key:
            return None
        sizes = {name: _size(self.folder / name) for name in record["outputs"]}
        return record["facts"] if sizes == record["outputs"] else None

    @contextmanager
    def anew(self, stage: str, key: str) -> Iterator[None]:
        """While a stage is done for another key than before, neither it nor what followed from it counts as done.

        Whoever stops the work half-way then finds no old tokens beside a new tokenizer. What was refused (UserError)
        has changed nothing, so all counts as it did.
        """
        before = self._stages
        if stage in before and before[stage]["key"] != key:
            names = [*before]
            self._stages = {name: before[name] for name in names[: names.index(stage)]}
            self._write()
        try:
            yield
        except UserError as error:
            if self._stages is not before and error.code != INTERRUPTED:
                self._stages = before
                self._write()
            raise

    def record(self, stage: str, key: str, facts: dict[str, Any], outputs: list[Path]) -> None:
        """Write down that a stage is done, and what it wrote."""
        sizes = {path.relative_to(self.folder).as_posix(): _size(path) for path in outputs}
        self._stages[stage] = {"key": key, "facts": facts, "outputs": sizes}
        self._write()

    def _write(self) -> None:
        write_json(self.path, {"bimo": bimo.__version__, "stages": self._stages})

    def key(self, stage: str) -> str:
        """The key under which a stage was done. Raises UserError if it never was."""
        return self._done(stage)["key"]

    def known(self, stage: str) -> dict[str, Any]:
        """The facts of a stage, whatever its key. Raises UserError if it was never done."""
        return self._done(stage)["facts"]

    def _done(self, stage: str) -> dict[str, Any]:
        if stage not in self._stages:
            raise UserError(
                "{folder} is not prepared data, or not completely. Make it with: bimo prepare SOURCE --out DATA",
                code=USAGE,
                folder=self.folder,
            )
        return self._stages[stage]


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else -1


def _read(path: Path) -> dict[str, Any]:
    manifest = read_json(path)
    stages = manifest.get("stages") if isinstance(manifest, dict) else None
    if not isinstance(stages, dict):
        raise UserError("{path} is not the manifest of prepared data.", code=USAGE, path=path)
    return stages
