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
from bimo.generate.translator import LEARNED, WORDS, read_learned
from bimo.machine import kept_machine
from bimo.report.facts import number, part
from bimo.runtime import USAGE, UserError, t
from bimo.stages import is_prepared
from bimo.text.documents import Rejected
from bimo.text.inventory import file_digests
from bimo.text.sources import find_sources
from bimo.tokens.framing import Framed
from bimo.train.pretrain import check_output

__all__ = [
    "claimed",
    "keep_refused",
    "learned_from",
    "number_format",
    "own_data",
    "tell_cut",
    "tell_refused",
    "write_refused",
]

REFUSALS_SHOWN = 3

MOST_TUNINGS = 8
"""One upon the other, before it is given up to look for what the first model was made from."""

UNMADE = (".lock", "manifest.json", "request.json", "refused.jsonl", "metrics.jsonl", "machine.json", LEARNED, WORDS)
"""What stands in a folder although nothing was learned yet, such as after a setting that was refused; so may whatever
was prepared to learn from in `bimo/data`, which knows by itself what it was prepared for."""


@contextmanager
def claimed(out: Path, inputs: Mapping[str, Any]) -> Iterator[dict[str, Any] | None]:
    """Hold a folder for the tuning that has these inputs and settings; gives its facts if it is finished already.

    A tuning that is finished, now or before, leaves without its checkpoints.

    Raises UserError when anything else was made there.
    """
    check_output(out)
    with locked(out / "bimo"):
        home, key = out / "bimo", digest_json(dict(inputs))
        manifest = home / "manifest.json"
        if not manifest.exists() or read_json(manifest).get("key") != key:
            _require_unmade(out)
            finished = None
        else:
            finished = read_json(home / "tune.json") if (home / "tune.json").exists() else None
        if finished is None:
            write_json(manifest, {"bimo": bimo.__version__, "key": key, "inputs": dict(inputs)})
        yield finished
        if (home / "tune.json").exists():
            shutil.rmtree(home / "checkpoints", ignore_errors=True)


def _require_unmade(out: Path) -> None:
    unmade, prepared = {out / "bimo" / name for name in UNMADE}, out / "bimo" / "data"
    made = [
        path for path in out.rglob("*") if path.is_file() and path not in unmade and not path.is_relative_to(prepared)
    ]
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


def own_data(model: Path) -> Path | None:
    """The prepared data that a model was made from, or the one that it was tuned from; None if they are gone."""
    return next((data for each in _lineage(model) if (data := _data(each)).is_dir()), None)


def _lineage(model: Path) -> Iterator[Path]:
    """A model, what it was tuned from, what that was tuned from, and so on."""
    for _ in range(MOST_TUNINGS):
        yield model
        base = _read(model / "bimo" / "tune.json").get("model")
        if not base:
            return
        model = Path(str(base))


def _data(model: Path) -> Path:
    """Where the data that a model was made from are, or would be."""
    return model / str(_read(model / "bimo" / "manifest.json").get("data") or "bimo/data")


def _read(path: Path) -> dict[str, Any]:
    """A JSON object; empty for anything else, for others may have a file of that name."""
    try:
        value = read_json(path) if path.is_file() else None
    except UserError:
        return {}
    return value if isinstance(value, dict) else {}


def learned_from(folder: Path, source: Path) -> bool:
    """Whether what stands in a folder, or what it was tuned from, learned from this very file, from these files of a
    folder, or from one of them.
    """
    if is_prepared(source):
        return False
    learned: set[str] = set()
    for model in _lineage(folder):
        inputs = part(_read(model / "bimo" / "manifest.json"), "inputs")
        learned |= {str(inputs.get("file")), str(read_learned(model).get("sha256")), *_read_for(model)}
    if learned == {str(None)}:
        return False
    digests = file_digests(find_sources([source], cannot_open=lambda name, error: None))
    return not learned.isdisjoint({digest_json(digests), *digests.values()})


def _read_for(model: Path) -> set[str]:
    """SHA-256 of the files that a model's data were prepared from, where their data sheet is still there."""
    sources = _read(_data(model) / "data_sheet.json").get("sources")
    files = [file for file in sources if isinstance(file, dict)] if isinstance(sources, list) else []
    # Empty files are all the same one.
    return {str(file.get("sha256")) for file in files if number(file, "bytes")} - {"closed"}


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


def tell_cut(framed: Sequence[Framed], context: int, console: Console) -> None:
    """Warn where texts are longer than what is read of them."""
    if count := sum(one.cut for one in framed):
        sentence = "{count:,} of {texts:,} texts are longer than {context} tokens: only their beginning is read"
        console.warn(t(sentence, count=count, texts=len(framed), context=context))


def write_refused(out: Path, refused: Sequence[Rejected]) -> None:
    """All of them into `bimo/refused.jsonl`."""
    keep_refused(out / "bimo" / "refused.jsonl", refused)


def keep_refused(path: Path, refused: Sequence[Rejected]) -> None:
    """All of them into a file, a row a line."""
    with replacing(path) as part:
        rows = ({"file": r.source, "row": r.line, "reason": r.detail, "text": r.text} for r in refused)
        part.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
