"""`bimo tune`: a file of examples -> a model that has learned a task from them."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bimo.console import SILENT, Console
from bimo.runtime import USAGE, UserError
from bimo.train.tune import TuneConfig
from bimo.weights.safetensors_files import holds_adapter

__all__ = ["TASKS", "Wish", "require_base", "tune", "tune_lines"]

TASKS = {
    "answer": "bimo.tasks.answer.tuning",
    "chat": "bimo.tasks.chat.tuning",
    "classify": "bimo.tasks.classify.tuning",
    "embed": "bimo.tasks.embed.tuning",
    "prefer": "bimo.tasks.chat.preferring",
    "translate": "bimo.tasks.translate.tuning",
}
"""Modules by task. Each has `tune(wish)`, which returns the facts of `bimo/tune.json`, and `tune_lines(facts)`."""


@dataclass(frozen=True)
class Wish:
    """What somebody wants to have tuned. `model` None begins with nothing, where a task can.

    `engine` says how, where there are several ways, "" leaves it to the task; `columns` says what cells of a table are
    called, such as {"label": "stars"}, where their names do not tell; `general` is text that shows what was forgotten.
    """

    model: Path | None
    file: Path
    out: Path
    settings: TuneConfig = field(default_factory=TuneConfig)
    engine: str = ""
    columns: Mapping[str, str] = field(default_factory=dict)
    general: Path | None = None
    device: str = "auto"
    console: Console = SILENT

    def require_model(self) -> Path:
        """Raises UserError when there is none."""
        if self.model is None:
            raise UserError("This task tunes a model that exists: bimo tune MODEL FILE --out OUT.", code=USAGE)
        return self.model

    def refuse(self, **given: Any) -> None:
        """Raises UserError when an option is given that a task has no use for, by the option's name."""
        for option, value in given.items():
            if value:
                raise UserError("--{option} has no place in this task.", code=USAGE, option=option)


def tune(
    model: str | Path | None,
    file: str | Path,
    *,
    out: str | Path,
    task: str = "chat",
    settings: TuneConfig | None = None,
    engine: str = "",
    columns: Mapping[str, str] | None = None,
    general: str | Path | None = None,
    device: str = "auto",
    console: Console = SILENT,
) -> dict[str, Any]:
    """Let a model learn a task, one of TASKS, from a file of examples; returns the facts of `bimo/tune.json`.

    The same call goes on where an earlier one stopped. Raises UserError when model, file or folder will not do.
    """
    if task not in TASKS:
        raise UserError(
            "--task must be one of {tasks}, but is {task!r}.", code=USAGE, tasks=", ".join(TASKS), task=task
        )
    path = None if model is None else Path(model)
    wish = Wish(
        path,
        Path(file),
        Path(out),
        settings or TuneConfig(),
        engine=engine,
        columns=columns or {},
        general=None if general is None else Path(general),
        device=device,
        console=console,
    )
    if path is not None and wish.out.exists() and path.exists() and wish.out.resolve() == path.resolve():
        raise UserError("The model {path} is not overwritten. Choose another folder with --out.", code=USAGE, path=path)
    return importlib.import_module(TASKS[task]).tune(wish)


def require_base(model: Path | None, settings: TuneConfig) -> None:
    """Raises UserError when an adapter is to be learned, and `model` is nothing it could learn beside."""
    if settings.lora is None:
        return
    if model is None:
        raise UserError("An adapter learns beside a model: bimo tune MODEL FILE --lora --out ADAPTER.", code=USAGE)
    if holds_adapter(model):
        raise UserError(
            "{model} is an adapter itself, and no other can learn beside it. Join it with its base first: bimo export "
            "{model} --to hf --out MODEL.",
            code=USAGE,
            model=model,
        )


def tune_lines(facts: dict[str, Any]) -> list[str]:
    """What a person wants to know of a tuning."""
    return importlib.import_module(TASKS[facts["task"]]).tune_lines(facts)
