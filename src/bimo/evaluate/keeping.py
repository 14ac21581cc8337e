"""Evaluations on prepared data are kept with the model, and told on its pages where they are about what made it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from bimo.console import Console, keep_if_writable
from bimo.files import digest_file, read_json, write_json
from bimo.report.facts import is_run, training_inputs
from bimo.report.model_report import write_card, write_report
from bimo.runtime import t
from bimo.tokens.shards import TokenShards
from bimo.weights.safetensors_files import weight_digests

__all__ = ["learned_from_data", "measure_once", "model_digests"]

DESCRIBED = ("config.json", "tokenizer.json", "tokenizer_config.json", "vocab.txt")


def measure_once(
    model: Path, data: Path, *, key: str, measure: Callable[[], dict[str, Any]], console: Console
) -> dict[str, Any]:
    """The facts that stand in `bimo/evaluation.json` under this key, or else new ones, which a folder keeps there.

    Of a run of ours report and card are then written anew, in today's language; on other data than it learned from
    nothing is kept, for what those pages say of text that it saw and never saw would not hold.
    """
    if is_run(model) and not learned_from_data(model, data):
        sentence = "{model} learned from other data, which may hold these held-out texts: its report stays as it is."
        console.warn(t(sentence, model=model))
        return {"key": key, **measure()}
    stored = model / "bimo" / "evaluation.json"
    facts = read_json(stored) if stored.is_file() else {}
    if facts.get("key") != key:
        facts = {"key": key, **measure()}
        if model.is_dir():
            keep_if_writable(model, console, lambda: write_json(stored, facts))
    if is_run(model):
        keep_if_writable(model, console, lambda: _write_pages(model))
    return facts


def _write_pages(run: Path) -> None:
    write_card(run)
    write_report(run)


def model_digests(folder: Path) -> dict[str, str]:
    """SHA-256 of all that says what a model in a folder computes of a text."""
    described = (folder / name for name in DESCRIBED if (folder / name).is_file())
    return {**weight_digests(folder), **{path.name: digest_file(path) for path in described}}


def learned_from_data(run: Path, data: Path) -> bool:
    """Whether a run of ours learned from the other part of these data."""
    return training_inputs(run).get("tokens") == TokenShards(data / "tokens", "train").fingerprint
