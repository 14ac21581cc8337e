"""What a run left on disk, read with any part of it missing, and its numbers as people write them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from bimo.config import read_toml
from bimo.files import read_json, read_metrics
from bimo.runtime import UserError, language, t
from bimo.text.controls import CONTROLS_FILE

__all__ = [
    "baseline_rows",
    "count",
    "duration",
    "is_encoder",
    "is_run",
    "join_sentences",
    "language_name",
    "learned_alone",
    "learning_curves",
    "model_shape",
    "number",
    "pair",
    "parameters",
    "part",
    "passes",
    "percent",
    "read_data_facts",
    "read_facts",
    "rounded",
    "size",
    "training_inputs",
]

Facts = dict[str, Any]


def read_facts(model_folder: Path) -> Facts:
    """All facts about a model folder, by subject; a file that is not there gives an empty subject."""
    inside = model_folder / "bimo"
    facts: Facts = {name: _read(inside / f"{name}.json") for name in ("manifest", "plan", "training", "evaluation")}
    facts["run"] = read_toml(inside / "run.toml") if (inside / "run.toml").is_file() else facts["plan"]
    facts["machine"] = _read(inside / "machine.json") or part(facts["plan"], "machine")
    facts["controls"] = _read(inside / CONTROLS_FILE)
    facts["config"] = _read(model_folder / "config.json")
    facts["metrics"] = [*read_metrics(inside / "metrics.jsonl")]
    facts["name"] = model_folder.resolve().name
    data = facts["manifest"].get("data")
    if isinstance(data, str):
        facts |= _stages(model_folder / data)
    return facts


def is_run(model_folder: Path) -> bool:
    """Whether a training of ours made the folder; other things may have a `bimo/manifest.json`, a tuning does.

    Raises UserError where the manifest is damaged and what stands beside it is ours.
    """
    manifest = model_folder / "bimo" / "manifest.json"
    try:
        found = read_json(manifest) if manifest.is_file() else None
    except UserError:
        if any(manifest.with_name(name).is_file() for name in ("run.toml", "training.json")):
            raise
        return False
    return isinstance(found, dict) and "created" in found


def read_data_facts(data_folder: Path) -> Facts:
    """The facts about prepared data alone: `documents`, `tokenizer`, `tokens`."""
    return {"name": data_folder.resolve().name, **_stages(data_folder)}


def _stages(data_folder: Path) -> Facts:
    manifest = _read(data_folder / "manifest.json")
    return {name: part(manifest, "stages", name, "facts") for name in ("documents", "tokenizer", "tokens")}


def _read(path: Path) -> Facts:
    value = read_json(path) if path.is_file() else None
    return value if isinstance(value, dict) else {}


def part(facts: Any, *keys: str) -> Facts:
    """The dict at the end of a path of keys; empty when it is not there."""
    for key in keys:
        facts = facts.get(key) if isinstance(facts, dict) else None
    return facts if isinstance(facts, dict) else {}


def number(facts: Any, *keys: str) -> float | None:
    """The finite number at the end of a path of keys, or None."""
    value = part(facts, *keys[:-1]).get(keys[-1])
    real = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return value if real else None


def parameters(facts: Facts) -> float | None:
    """How many the model has, or is planned to have."""
    return number(facts, "training", "parameters") or number(facts, "plan", "parameters")


def passes(facts: Facts) -> float | None:
    """How often the training text was read, or is planned to be."""
    read = number(facts, "training", "tokens")
    text = number(facts, "tokens", "train", "tokens") or number(facts, "tokens", "tokens", "train", "target_tokens")
    return read / text if read and text else number(facts, "plan", "epochs")


def count(value: float) -> str:
    """`1204` -> `1,204`"""
    return f"{value:,.0f}"


def rounded(value: float) -> str:
    """`12400000` -> `12.4 million`, in Chinese `1,240 万`: three digits, in the units that each language counts in."""
    units = [(1e8, " 亿"), (1e4, " 万")] if language() == "zh" else [(1e9, " billion"), (1e6, " million")]
    for unit, name in units:
        if value >= unit:
            return _three_digits(value / unit) + name
    return count(value)


def size(value: float) -> str:
    """Bytes -> `38.2 MB` (a megabyte is a million bytes)."""
    for unit, name in [(1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")]:
        if value >= unit:
            return f"{_three_digits(value / unit)} {name}"
    return t("{n} bytes", n=count(value))


def _three_digits(value: float) -> str:
    return count(value) if value >= 100 else f"{value:.3g}"


def duration(seconds: float) -> str:
    """`576` -> `9 min 36 s`"""
    whole = round(seconds)
    if whole >= 3600:
        return t("{hours} h {minutes} min", hours=whole // 3600, minutes=whole % 3600 // 60)
    if whole >= 60:
        return t("{minutes} min {seconds} s", minutes=whole // 60, seconds=whole % 60)
    return t("{seconds:.1f} s", seconds=seconds) if seconds < 10 else t("{seconds:.0f} s", seconds=seconds)


def percent(share: float) -> str:
    """`0.004` -> `0.4 %`"""
    if 0 < share < 0.001:
        return t("under 0.1 %")
    return t("{value} %", value=f"{100 * share:.1f}" if 0 < share < 0.1 else f"{100 * share:.0f}")


def join_sentences(sentences: list[str]) -> str:
    """Sentences as one paragraph: with a space between them in English, without one in Chinese."""
    return ("" if language() == "zh" else " ").join(sentences)


def language_name(code: str) -> str:
    """`zh` -> `Chinese`; a code without a name here stays as it is."""
    names = {
        "zh": t("Chinese"),
        "en": t("English"),
        "ja": t("Japanese"),
        "ko": t("Korean"),
        "de": t("German"),
        "fr": t("French"),
        "es": t("Spanish"),
        "ru": t("Russian"),
        "und": t("not recognised"),
    }
    return names.get(code, code)


def baseline_rows(evaluation: Facts) -> list[tuple[str, str, float]]:
    """(key, name, bits per byte) of each baseline that was measured."""
    baselines = part(evaluation, "baselines")
    order = number(baselines, "kneser_ney", "best_order")
    kneser_ney = "Kneser-Ney" if order is None else t("Kneser-Ney, order {order:.0f}", order=order)
    rows = [
        ("xz", "xz", number(baselines, "xz")),
        ("kneser_ney", kneser_ney, number(baselines, "kneser_ney", "bits_per_byte")),
        ("unigram", t("Unigram"), number(baselines, "unigram")),
    ]
    return [(key, name, bits) for key, name, bits in rows if bits is not None]


def pair(facts: Facts, key: str) -> list[float] | None:
    """The two ends of a range, when both are numbers."""
    ends = facts.get(key)
    real = isinstance(ends, list) and len(ends) == 2 and all(isinstance(end, int | float) for end in ends)
    return ends if real else None


def training_inputs(model_folder: Path) -> Facts:
    """Digests of what a training of ours learned from: its `tokens`, and the `start_tokens` of a model it went on from.

    None of every other model.
    """
    return part(read_json(model_folder / "bimo" / "manifest.json"), "inputs") if is_run(model_folder) else {}


def learned_alone(inputs: Facts) -> str:
    """The digest of the tokens, "" where they are not all that a model has learned from, or nobody knows."""
    tokens = str(inputs.get("tokens", ""))
    return tokens if inputs.get("start_tokens", tokens) == tokens else ""


def is_encoder(facts: Facts) -> bool:
    """Whether the model guesses hidden words rather than the next one."""
    return part(facts, "config").get("model_type") == "bert"


def learning_curves(facts: Facts, measure: str = "bits_per_byte") -> dict[str, list[Facts]]:
    """Events by kind: `step` and `validation` have a finite `measure`; what a run did again counts once."""
    undone = ("step", "validation", "sample", "skipped", "rolled back", "stopped")
    curves: dict[str, list[Facts]] = {name: [] for name in (*undone, "resumed")}
    for event in facts.get("metrics") or []:
        kind, step = event.get("event"), number(event, "step")
        if kind == "resumed" and step is not None:
            for name in undone:
                curves[name] = _until(curves[name], step)
        if kind == "rolled back" and (back := number(event, "to")) is not None:
            for name in ("step", "validation", "sample"):
                curves[name] = _until(curves[name], back)
        if kind in ("step", "validation") and number(event, measure) is None:
            continue
        if kind in curves:
            curves[kind].append(event)
    return curves


def _until(events: list[Facts], step: float) -> list[Facts]:
    return [event for event in events if (number(event, "step") or 0) <= step]


def model_shape(model: Facts) -> list[list[str]]:
    """(name, value) rows of a model's shape."""
    names = {
        "layers": t("Layers"),
        "width": t("Width"),
        "heads": t("Attention heads"),
        "kv_heads": t("Key and value heads"),
        "head_width": t("Width of a head"),
        "hidden": t("Width of the feed-forward layer"),
        "embedding_width": t("Width of the embedding"),
        "window": t("Window in tokens"),
        "context": t("Context in tokens"),
        "vocabulary": t("Vocabulary"),
    }
    rows = [[name, count(value)] for key, name in names.items() if (value := number(model, key)) is not None]
    if isinstance(model.get("tied"), bool):
        rows.append([t("Input and output embedding"), t("shared") if model["tied"] else t("separate")])
    return rows
