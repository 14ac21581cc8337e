"""Cleaning on datatrove's executors: this machine, Ray or Slurm, over a folder that all of them can see.

Files are shared out, a task for each stretch of them, whatever the number of machines: the result is the same as that
of `text/workers.py`. Tasks need nothing of each other and leave whole batches behind, so that a job that was stopped
goes on where it was.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import shutil
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bimo.files import read_json, replacing, write_json
from bimo.runtime import INTERRUPTED, USAGE, UserError, language, set_language
from bimo.text.batch_cleaning import clean_batch
from bimo.text.batch_store import CleanedBatches
from bimo.text.batches import Batch, file_stretches, make_batches
from bimo.text.documents import Rejected
from bimo.text.opening import Reading
from bimo.text.options import TextOptions
from bimo.text.sources import SourceFile
from bimo.text.workers import cores

__all__ = ["EXECUTORS", "Executor", "clean_on_executor"]

EXECUTORS = ("local", "slurm", "ray")
_LOGS = "executor"


@dataclass(frozen=True)
class Executor:
    """One of EXECUTORS with what datatrove's executor of that name is told, such as `workers` or `partition`."""

    kind: str
    settings: Mapping[str, str | int]

    @classmethod
    def parse(cls, text: str) -> Executor:
        """`ray`, `local:workers=4`, `slurm:partition=cpu,time=24:00:00`. Raises UserError for any other."""
        kind, _, listed = text.partition(":")
        pairs = [pair.partition("=") for pair in listed.split(",") if pair]
        if kind not in EXECUTORS or not all(name and value for name, _, value in pairs):
            raise UserError(
                "There is no executor {text!r}. Choose from {known}, with settings of datatrove's after a colon, such "
                "as slurm:partition=cpu,time=24:00:00.",
                code=USAGE,
                text=text,
                known=", ".join(EXECUTORS),
            )
        return cls(kind, {name: int(value) if value.isdecimal() else value for name, _, value in pairs})


def clean_on_executor(
    files: Sequence[SourceFile], cleaned: CleanedBatches, options: TextOptions, reading: Reading, executor: Executor
) -> Iterator[Batch]:
    """Have every batch cleaned by tasks of the executor, and yield them in order; what was met goes to `reading`.

    Raises UserError with code INTERRUPTED when tasks wait in a queue, or have failed: the same call goes on.
    """
    stretches = list(file_stretches(files))
    folder = cleaned.folder.resolve()
    task = CleanStretch(folder, stretches, options, reading.passage_characters, language())
    homes = [task.home(rank) for rank in range(len(stretches))]
    # Slurm's queue has the job as long as its folder is there; another one beside it would do the same work.
    queued = executor.kind == "slurm" and (folder / _LOGS).is_dir()
    if not queued and not all(map(_is_done, homes)):
        _run(executor, task, folder / _LOGS)
    if waiting := sum(not _is_done(home) for home in homes):
        raise UserError(
            "{waiting} of {all} parts of the text wait in Slurm's queue, or have failed. Run the same command again "
            "when the job is done; to submit it anew, delete {logs}.",
            code=INTERRUPTED,
            waiting=waiting,
            all=len(homes),
            logs=cleaned.folder / _LOGS,
        )
    number = 0
    for home in homes:
        facts = read_json(home / "done.json")
        reading.encodings.update(facts["encodings"])
        reading.columns.update(facts["columns"])
        reading.bytes_read += facts["bytes_read"]
        for place, batch in enumerate(facts["batches"]):
            cleaned.adopt(number, home / _name(place))
            yield Batch(number, bytes=batch["bytes"], last=batch["last"])
            number += 1


@dataclass(frozen=True)
class CleanStretch:
    """A step of a datatrove pipeline: task `rank` cleans the stretch of that number into a folder of its own."""

    folder: Path
    stretches: list[list[SourceFile]]
    options: TextOptions
    passage_characters: int
    language: str

    def home(self, rank: int) -> Path:
        """Where task `rank` puts its batches, and `done.json` once it has all."""
        return self.folder / f"task-{rank:05d}"

    def __call__(self, data: Any, rank: int, world_size: int) -> None:
        """What datatrove calls; `data` is what an earlier step would have given."""
        set_language(self.language)
        os.environ["RAYON_NUM_THREADS"] = "1"
        home = self.home(rank)
        refused = deque[Rejected]()
        reading = Reading(refused.append, self.passage_characters, self.options.text_column, self.options.controls)
        batches = []
        for batch in make_batches(self.stretches[rank], reading, refused):
            path = home / _name(batch.number)
            if not path.exists():
                with replacing(path) as part:
                    part.write_bytes(clean_batch(batch, self.options, self.passage_characters))
            batches.append({"bytes": batch.bytes, "last": batch.last})
        facts: dict[str, Any] = {"batches": batches, "bytes_read": reading.bytes_read}
        write_json(home / "done.json", {**facts, "encodings": reading.encodings, "columns": Counter(reading.columns)})


def _name(number: int) -> str:
    return f"{number:07d}.arrow"


def _is_done(home: Path) -> bool:
    return (home / "done.json").is_file()


def _run(executor: Executor, task: CleanStretch, logs: Path) -> None:
    """Returns when all tasks have ended or, with Slurm, when they are in its queue."""
    kinds = _datatrove(executor.kind)
    settings: dict[str, Any] = {**executor.settings, "logging_dir": str(logs), "tasks": len(task.stretches)}
    if executor.kind == "local":
        settings.setdefault("workers", cores())  # datatrove would start all tasks at once
    # Whether a task is done is seen by what it left behind, not by what datatrove remembers of it.
    settings["skip_completed"] = False
    try:
        running = kinds[executor.kind](pipeline=[task], **settings)
    except TypeError as error:
        sentence = "datatrove's executor {kind!r} does not take these settings: {error}."
        raise UserError(sentence, code=USAGE, kind=executor.kind, error=str(error).partition("() ")[2]) from None
    try:
        if executor.kind == "ray":
            _join_ray()
        running.run()
    except Exception as error:  # whatever a task of theirs or ours may raise, wrapped by whoever ran it
        sentence = "Cleaning on the executor {kind!r} failed: {error}. Run the same command again to go on."
        if executor.kind == "slurm":
            shutil.rmtree(logs, ignore_errors=True)  # nothing is in the queue
        line = (str(error).strip() or type(error).__name__).splitlines()[-1]
        raise UserError(sentence, code=INTERRUPTED, kind=executor.kind, error=line) from None


def _datatrove(kind: str) -> dict[str, Any]:
    """Its executors by our names for them."""
    if any(importlib.util.find_spec(name) is None for name in ("datatrove", *(["ray"] if kind == "ray" else []))):
        raise UserError("--executor {kind} needs more packages: pip install 'bimo[cluster]'", kind=kind)
    from datatrove.executor import LocalPipelineExecutor, RayPipelineExecutor, SlurmPipelineExecutor
    from loguru import logger

    logger.disable("datatrove")
    return {"local": LocalPipelineExecutor, "slurm": SlurmPipelineExecutor, "ray": RayPipelineExecutor}


def _join_ray() -> None:
    """The cluster that RAY_ADDRESS names, or one of this machine alone."""
    import ray

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # no word to anybody
    if not ray.is_initialized():
        alone: dict[str, Any] = {} if "RAY_ADDRESS" in os.environ else {"include_dashboard": False}
        ray.init(log_to_driver=False, logging_level=logging.ERROR, **alone)
