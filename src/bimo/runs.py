"""`bimo runs`: the models below a folder, and two or more of them side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bimo.config import read_toml
from bimo.console import cells, pad
from bimo.files import read_json
from bimo.models.families import PAIRED
from bimo.report.facts import is_run
from bimo.report.judgement import copied_share
from bimo.runtime import USAGE, UserError, t

__all__ = ["list_runs", "run_facts", "run_lines"]

DEPTH = 3

TITLES = ("bits/byte", "Kneser-Ney", "copied", "parameters", "tokens", "minutes", "state", "model")


def list_runs(places: list[Path]) -> list[dict[str, Any]]:
    """The facts of each model named, or of every model of ours at most three folders below; best first."""
    found = {model for place in places for model in _models_below(place)}
    runs = [run_facts(model) for model in sorted(found)]
    return sorted(runs, key=lambda run: run["bits_per_byte"] or float("inf"))


def _models_below(place: Path) -> list[Path]:
    if not place.is_dir():
        raise UserError("There is no folder {folder}.", code=USAGE, folder=place)
    patterns = ["/".join(["*"] * depth + ["bimo", "manifest.json"]) for depth in range(DEPTH + 1)]
    return [path.parent.parent for pattern in patterns for path in place.glob(pattern) if is_run(path.parent.parent)]


def run_facts(model: str | Path) -> dict[str, Any]:
    """What is known of one model folder; what was not done yet is None."""
    folder = Path(model)
    home = folder / "bimo"
    if not is_run(folder):
        raise UserError("{folder} holds no run of Bimo.", code=USAGE, folder=folder)
    manifest, plan, training, evaluation = (
        read_json(path) if path.exists() else {}
        for path in (home / f"{name}.json" for name in ("manifest", "plan", "training", "evaluation"))
    )
    baselines = evaluation.get("baselines", {})
    # Of a target whose source is given: no figure to stand beside those of texts by themselves.
    given = read_toml(home / "run.toml") if (home / "run.toml").is_file() else {}
    translates = given.get("model", {}).get("family") == PAIRED
    bits = evaluation.get("bits_per_byte") or training.get("validation_bits_per_byte")
    return {
        "model": str(folder),
        "created": manifest["created"],
        "state": "done" if evaluation else "trained" if training else "unfinished",
        "parameters": training.get("parameters") or plan.get("parameters"),
        "tokens": training.get("tokens"),
        "minutes": training["seconds"] / 60 if training else None,
        "bits_per_byte": None if translates else bits,
        "kneser_ney": baselines.get("kneser_ney", {}).get("bits_per_byte"),
        "xz": baselines.get("xz"),
        "copied": copied_share(evaluation.get("copying", {})),
    }


def run_lines(runs: list[dict[str, Any]]) -> list[str]:
    """A table for people, one model a line."""
    if not runs:
        return [t("There is no model here. Make one with: bimo run SOURCE --out MODEL")]
    header = [t(title) for title in TITLES]
    rows = [
        [
            _number(run["bits_per_byte"], "{:.3f}"),
            _number(run["kneser_ney"], "{:.3f}"),
            _number(run["copied"], "{:.1%}"),
            _number(run["parameters"], "{:,}"),
            _number(run["tokens"], "{:,}"),
            _number(run["minutes"], "{:.1f}"),
            t(run["state"]),
            run["model"],
        ]
        for run in runs
    ]
    table = [header, *rows]
    widths = [max(cells(row[column]) for row in table) for column in range(len(TITLES))]
    return ["  ".join(map(pad, row, widths)).rstrip() for row in table]


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)
