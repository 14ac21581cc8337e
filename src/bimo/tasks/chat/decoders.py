"""The way of a tuning on dialogue, whatever is learned: claim the folder, learn, compare before and after, report."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from bimo.config import to_mapping
from bimo.files import digest_file, digest_json, write_json
from bimo.report.tuning_report import write_tuning_report
from bimo.runtime import t
from bimo.tasks.chat.before_after import General, find_general
from bimo.tasks.folder import claimed, tell_refused, write_refused
from bimo.tasks.tune import Wish
from bimo.text.documents import Rejected
from bimo.text.inventory import file_digests
from bimo.text.sources import find_sources
from bimo.tokens.chat import ChatFormat
from bimo.train.tune import TuneConfig
from bimo.weights.opening import OpenedModel

__all__ = ["Split", "tune_decoder"]

Taught = TypeVar("Taught")
Shown = TypeVar("Shown")
"""What is learned from, and the row of a file that it is made of."""


class _Found(Protocol):
    """What a file held."""

    @property
    def refused(self) -> list[Rejected]:
        """Rows that were set aside."""

    @property
    def forms(self) -> Mapping[str, int]:
        """How often each form of rows was met."""


@dataclass
class Split(Generic[Taught, Shown]):
    """What is tuned on, what is held out to test with, and examples of the latter to show; `counts` are of rows."""

    format: ChatFormat
    train: list[Taught] = field(default_factory=list)
    held_out: list[Taught] = field(default_factory=list)
    examples: list[Shown] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=lambda: {"train": 0, "held_out": 0, "cut": 0})


def tune_decoder(
    wish: Wish,
    opened: OpenedModel,
    settings: TuneConfig,
    found: _Found,
    split: Split[Any, Any],
    *,
    task: str,
    rows: str,
    learn: Callable[[General | None], dict[str, Any]],
) -> dict[str, Any]:
    """Let `learn` tune and measure what `split` holds; returns the facts of `bimo/tune.json`, kept with their page.

    `rows` is what the facts call the rows of the file. Raises UserError when the folder holds something else.
    """
    out: Path = wish.out
    tell_refused(found.refused, wish.console)
    general, digests = find_general(opened, wish.general, wish.console), opened.digests()
    inputs = {"task": task, "model": digests, "file": digest_file(wish.file), "settings": to_mapping(settings)}
    inputs["template"] = split.format.template.source
    if wish.general is not None:
        files = find_sources([wish.general], cannot_open=lambda name, error: None)
        inputs["general"] = digest_json(file_digests(files))
    with claimed(out, inputs) as finished:
        if finished is not None:
            facts = finished
            wish.console.say("Tuning", t("was finished before; nothing to do"))
        else:
            write_refused(out, found.refused)
            facts = {"task": task, "model": str(opened.path), "settings": to_mapping(settings), **learn(general)}
            facts |= {rows: {**split.counts, "refused": len(found.refused)}, "forms": dict(found.forms)}
            facts["base"] = {"before": digests, "after": opened.digests()}
            write_json(out / "bimo" / "tune.json", facts)
        if (out / "bimo" / "checkpoints").exists():  # what comes after the end, unless that was done
            wish.console.say("Look", str(write_tuning_report(out)))
    return facts
