"""The folder of a tuning: whose it is, what went into it, and the rows of the file that were set aside."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

import bimo
from bimo.console import Console
from bimo.files import digest_json, locked, read_json, replacing, write_json
from bimo.generate.translator import facts_of_pairs
from bimo.machine import kept_machine
from bimo.runtime import USAGE, UserError, t
from bimo.stages import is_prepared
from bimo.text.documents import Rejected
from bimo.text.inventory import file_digests
from bimo.text.sources import find_sources
from bimo.train.pretrain import check_output

__all__ = ["claimed", "keep_refused", "learned_from", "number_format", "tell_refused", "write_refused"]

REFUSALS_SHOWN = 3

UNMADE = (".lock", "manifest.json", "refused.jsonl", "metrics.jsonl", "machine.json")
"""What stands in a folder although nothing was learned yet, such as after a setting that was refused."""


@contextmanager
def claimed(out: Path, inputs: Mapping[str, Any]) -> Iterator[dict[str, Any] | None]:
    """Hold a folder for the tuning that has these inputs and settings; gives its facts if it is finished already.

    A tuning that is finished, now or before, leaves without its checkpoints.

    Raises UserError when anything else was made there.
    """
    check_output(out)
    with locked(out / "bimo"):
        home, key = out / "bimo", digest_json(dict(inputs))
        if (home / "manifest.json").exists() and read_json(home / "manifest.json").get("key") != key:
            _require_unmade(out)
            finished = None
        else:
            finished = read_json(home / "tune.json") if (home / "tune.json").exists() else None
        if finished is None:
            write_json(home / "manifest.json", {"bimo": bimo.__version__, "key": key, "inputs": dict(inputs)})
        yield finished
        if (home / "tune.json").exists():
            shutil.rmtree(home / "checkpoints", ignore_errors=True)


def _require_unmade(out: Path) -> None:
    made = [path for path in out.rglob("*") if path.is_file() and path not in {out / "bimo" / name for name in UNMADE}]
    if made:
        raise UserError(
            "{out} holds something made from another model, file or settings. Choose another folder with --out, or "
            "delete that one.",
            code=USAGE,
            out=out,
        )


def number_format(out: Path, device: torch.device) -> torch.dtype:
    """What a tuning computes in, as this machine showed itself when it began."""
    return getattr(torch, kept_machine(out / "bimo" / "machine.json", device).dtype)


def learned_from(folder: Path, source: Path) -> bool:
    """Whether what stands in a folder was tuned on this very file, on these files of a folder, or on its pairs."""
    manifest = folder / "bimo" / "manifest.json"
    inputs = read_json(manifest).get("inputs", {}) if manifest.is_file() else {}
    learned = inputs.get("file") or facts_of_pairs(folder).get("sha256")
    if learned is None or is_prepared(source):
        return False
    digests = file_digests(find_sources([source]))
    return learned in (digest_json(digests), *digests.values())


def tell_refused(refused: Sequence[Rejected], console: Console, *, kept: bool = True) -> None:
    """Warn of the first rows that were set aside, and how many more there are; whether all are `kept` in a file."""
    for rejected in refused[:REFUSALS_SHOWN]:
        console.warn(str(rejected))
    if len(refused) > REFUSALS_SHOWN:
        left = len(refused) - REFUSALS_SHOWN
        console.warn(
            t("{left:,} more rows are set aside; all stand in bimo/refused.jsonl", left=left)
            if kept
            else t("{left:,} more rows are set aside", left=left)
        )


def write_refused(out: Path, refused: Sequence[Rejected]) -> None:
    """All of them into `bimo/refused.jsonl`."""
    keep_refused(out / "bimo" / "refused.jsonl", refused)


def keep_refused(path: Path, refused: Sequence[Rejected]) -> None:
    """All of them into a file, a row a line."""
    with replacing(path) as part:
        lines = (json.dumps({"row": r.line, "reason": r.detail, "text": r.text}, ensure_ascii=False) for r in refused)
        part.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
