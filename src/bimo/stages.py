"""What has been done in a folder already: each stage is keyed by the content of its inputs and options."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import bimo
from bimo.files import read_json, write_json
from bimo.runtime import USAGE, UserError

__all__ = ["Stages"]


class Stages:
    """The stages recorded in `folder/manifest.json`, each with its key, its facts and the files it wrote.

    Raises UserError when that file is not the manifest of prepared data.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.path = folder / "manifest.json"
        self._stages = _read(self.path) if self.path.exists() else {}

    def facts(self, stage: str, key: str) -> dict[str, Any] | None:
        """The facts of a stage if it was done with this very key and its files still stand whole, else None."""
        record = self._stages.get(stage)
        if record is None or record["key"] != key:
            return None
        sizes = {name: _size(self.folder / name) for name in record["outputs"]}
        return record["facts"] if sizes == record["outputs"] else None

    def record(self, stage: str, key: str, facts: dict[str, Any], outputs: list[Path]) -> None:
        """Write down that a stage is done, and what it wrote."""
        sizes = {str(path.relative_to(self.folder)): _size(path) for path in outputs}
        self._stages[stage] = {"key": key, "facts": facts, "outputs": sizes}
        write_json(self.path, {"bimo": bimo.__version__, "stages": self._stages})

    def key(self, stage: str) -> str:
        """The key under which a stage was done. Raises UserError when it was not."""
        if stage not in self._stages:
            raise UserError(
                "The data in {folder} are not complete: “{stage}” is still to be done. Run again: bimo prepare.",
                code=USAGE,
                folder=self.folder,
                stage=stage,
            )
        return self._stages[stage]["key"]


def _read(path: Path) -> dict[str, Any]:
    manifest = read_json(path)
    stages = manifest.get("stages") if isinstance(manifest, dict) else None
    if not isinstance(stages, dict):
        raise UserError(
            "{path} is not the manifest of prepared data. Name another folder, or delete that file if it is damaged.",
            code=USAGE,
            path=path,
        )
    return stages


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else -1
