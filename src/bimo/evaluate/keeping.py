"""Evaluations on prepared data are kept with the model, and told on its pages where they are about what made it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from bimo.console import Console
from bimo.files import read_json, write_json
from bimo.report.facts import is_run
from bimo.report.model_report import write_card, write_report
from bimo.runtime import t
from bimo.tokens.shards import TokenShards

__all__ = ["measure_once"]


def measure_once(
    model: Path, data: Path, *, key: str, measure: Callable[[], dict[str, Any]], console: Console
) -> dict[str, Any]:
    """The facts that stand in `bimo/evaluation.json` under this key, or else new ones, which a folder keeps there.

    Of a run of ours report and card are then written anew, in today's language; on other data than it learned from
    nothing is kept, for what those pages say of text that it saw and never saw would not hold.
    """
    if is_run(model) and not _learned_from(model, data):
        console.warn(t("The model learned from other data than these, so its report and card stay as they are."))
        return {"key": key, **measure()}
    stored = model / "bimo" / "evaluation.json"
    facts = read_json(stored) if stored.is_file() else {}
    if facts.get("key") != key:
        facts = {"key": key, **measure()}
        if model.is_dir():
            write_json(stored, facts)
    if is_run(model):
        write_card(model)
        write_report(model)
    return facts


def _learned_from(run: Path, data: Path) -> bool:
    learned = read_json(run / "bimo" / "manifest.json").get("inputs", {}).get("tokens")
    return learned == TokenShards(data / "tokens", "train").fingerprint
