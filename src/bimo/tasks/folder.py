"""The folder of a tuning: whose it is, what went into it, and the rows of the file that were set aside."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

import bimo
from bimo.console import Console
from bimo.files import digest_json, locked, read_json, replacing, write_json
from bimo.machine import kept_machine
from bimo.runtime import USAGE, UserError, t
from bimo.text.documents import Rejected
from bimo.train.pretrain import check_output

__all__ = ["claimed", "keep_refused", "learned_from", "number_format", "tell_refused", "write_refused"]

REFUSALS_SHOWN = 3

UNMADE = (".lock", "manifest.json", "refused.jsonl", "metrics.jsonl", "machine.json")
"""What stands in a folder although nothing was learned yet, such as after a setting that was refused."""


@contextmanager
def claimed(out: Path, inputs: Mapping[str, Any]) -> Iterator[dict[str, Any] | None]:
    """Hold a folder for the tuning that has these inputs and settings; gives its facts if it is finished already.

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


def learned_from(folder: Path, digest: str) -> bool:
    """Whether what stands in a folder was tuned on the file of this digest."""
    manifest = folder / "bimo" / "manifest.json"
    return manifest.is_file() and read_json(manifest).get("inputs", {}).get("file") == digest


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
