"""What a run left on disk, read with any part of it missing, and what the numbers mean in words."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from bimo.files import read_json
from bimo.runtime import language, t
from bimo.text.controls import CONTROLS_FILE

__all__ = [
    "baseline_rows",
    "blank_rows",
    "compare",
    "copied_share",
    "copying_reading",
    "count",
    "duration",
    "is_encoder",
    "join_sentences",
    "language_name",
    "learning_curves",
    "learning_reading",
    "model_shape",
    "number",
    "pair",
    "part",
    "percent",
    "read_data_facts",
    "read_events",
    "read_facts",
    "rounded",
    "size",
    "verdict",
]

Facts = dict[str, Any]

LEAST_GAIN = 1.5
"""Times the most frequent word alone: below it an encoder has learned hardly anything."""


def read_facts(model_folder: Path) -> Facts:
    """All facts about a model folder, by subject; a file that is not there gives an empty subject."""
    inside = model_folder / "bimo"
    facts: Facts = {name: _read(inside / f"{name}.json") for name in ("manifest", "plan", "training", "evaluation")}
    facts["controls"] = _read(inside / CONTROLS_FILE)
    facts["config"] = _read(model_folder / "config.json")
    facts["metrics"] = read_events(inside / "metrics.jsonl")
    facts["name"] = model_folder.resolve().name
    data = facts["manifest"].get("data")
    if isinstance(data, str):
        facts |= _stages(model_folder / data)
    return facts


def read_data_facts(data_folder: Path) -> Facts:
    """The facts about prepared data alone: `documents`, `tokenizer`, `tokens`."""
    return {"name": data_folder.resolve().name, **_stages(data_folder)}


def _stages(data_folder: Path) -> Facts:
    manifest = _read(data_folder / "manifest.json")
    return {name: part(manifest, "stages", name, "facts") for name in ("documents", "tokenizer", "tokens")}


def _read(path: Path) -> Facts:
    value = read_json(path) if path.is_file() else None
    return value if isinstance(value, dict) else {}


def read_events(path: Path) -> list[Facts]:
    """The JSON objects of a log; a line that an interruption cut short is passed over."""
    events = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else []:
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if isinstance(event, dict):
            events.append(event)
    return events


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


def compare(bits: float, other: float, name: str = "", interval: list[float] | None = None) -> str:
    """`18 % better than Kneser-Ney`, or `18 % better`; no difference is claimed inside the interval of uncertainty."""
    difference = (other - bits) / other if other else 0.0
    uncertain = interval is not None and interval[0] <= other <= interval[1]
    if uncertain or abs(difference) < 0.005:
        return t("about as good as {name}", name=name) if name else t("about equal")
    share = percent(abs(difference))
    if difference > 0:
        return t("{share} better than {name}", share=share, name=name) if name else t("{share} better", share=share)
    return t("{share} worse than {name}", share=share, name=name) if name else t("{share} worse", share=share)


def pair(facts: Facts, key: str) -> list[float] | None:
    """The two ends of a range, when both are numbers."""
    ends = facts.get(key)
    real = isinstance(ends, list) and len(ends) == 2 and all(isinstance(end, int | float) for end in ends)
    return ends if real else None


def verdict(facts: Facts) -> list[str]:
    """The outcome of a run in one to three plain sentences, the good and the bad."""
    if is_encoder(facts):
        return _masked_verdict(part(facts, "evaluation"))
    evaluation = part(facts, "evaluation")
    bits = number(evaluation, "bits_per_byte")
    if bits is None:
        checks = learning_curves(facts)["validation"]
        if checks:
            return [
                t(
                    "It has not been evaluated yet. Its last check in training gave {bits:.2f} bits per byte.",
                    bits=checks[-1]["bits_per_byte"],
                )
            ]
        return [t("It has not been evaluated yet, so there is no verdict.")]
    baselines = {key: value for key, _, value in baseline_rows(evaluation)}
    interval = pair(evaluation, "bits_per_byte_interval")
    names = {"kneser_ney": "Kneser-Ney", "xz": "xz"}
    said = [compare(bits, baselines[key], name, interval) for key, name in names.items() if key in baselines]
    if said:
        sentences = [
            t(
                "It predicts text it never saw at {bits:.2f} bits per byte: {comparisons}.",
                bits=bits,
                comparisons=t(", ").join(said),
            )
        ]
    else:
        sentences = [t("It predicts text it never saw at {bits:.2f} bits per byte.", bits=bits)]
    if bits >= baselines.get("unigram", math.inf):
        sentences.append(
            t("It has learned hardly anything: knowing only how often each character occurs does as well.")
        )
    elif (interval[0] if interval else bits) > baselines.get("kneser_ney", math.inf):
        sentences.append(
            t("Plain counting still predicts this text better: give it more time or more text before you rely on it.")
        )
    share = copied_share(part(evaluation, "copying"))
    if share is not None:
        sentences.append(
            t("{share} of what it writes is copied word for word from its training text.", share=percent(share))
        )
    return sentences


def is_encoder(facts: Facts) -> bool:
    """Whether the model guesses hidden words rather than the next one."""
    return part(facts, "config").get("model_type") == "bert"


def _masked_verdict(evaluation: Facts) -> list[str]:
    guessed, by_frequency = number(evaluation, "masked_accuracy"), number(evaluation, "unigram", "masked_accuracy")
    if guessed is None or by_frequency is None:
        return [t("It has not been evaluated yet, so there is no verdict.")]
    sentence = t(
        "It guesses {guessed} of the tokens hidden in text it never saw, where the most frequent one would be right "
        "in {unigram}.",
        guessed=percent(guessed),
        unigram=percent(by_frequency),
    )
    if guessed > LEAST_GAIN * by_frequency:
        return [sentence]
    return [sentence, t("It has learned hardly more than how often each word occurs: give it more time or text.")]


def blank_rows(evaluation: Facts) -> list[tuple[str, str]]:
    """(Text around a hidden word in brackets, the guesses) of each blank that was shown to an encoder."""
    blanks = [blank for blank in evaluation.get("blanks") or [] if isinstance(blank, dict)]
    return [
        (
            f"{blank['before']}[{blank['word']}]{blank['after']}",
            ", ".join(f"{word} {percent(share)}" for word, share in blank["guesses"]),
        )
        for blank in blanks
    ]


def learning_curves(facts: Facts) -> dict[str, list[Facts]]:
    """Events by kind: `step` and `validation` have finite bits_per_byte; what a resumed run did again counts once."""
    curves: dict[str, list[Facts]] = {"step": [], "validation": [], "sample": [], "resumed": [], "skipped": []}
    for event in facts.get("metrics") or []:
        kind, step = event.get("event"), number(event, "step")
        if kind == "resumed" and step is not None:
            for name in ("step", "validation", "sample", "skipped"):
                curves[name] = [old for old in curves[name] if (number(old, "step") or 0) <= step]
        if kind in ("step", "validation") and number(event, "bits_per_byte") is None:
            continue
        if kind in curves:
            curves[kind].append(event)
    return curves


def learning_reading(curves: dict[str, list[Facts]]) -> list[str]:
    """Sentences on the gap between training and unseen text, and on where the curve was heading."""
    checks, steps = curves["validation"], curves["step"]
    if not checks:
        return []
    last, best = checks[-1], min(checks, key=lambda check: check["bits_per_byte"])
    sentences = []
    if steps:
        tail = [step["bits_per_byte"] for step in steps[-max(1, len(steps) // 10) :]]
        train = sum(tail) / len(tail)
        gap = (last["bits_per_byte"] - train) / train if train else 0.0
        sentences.append(
            t(
                "At the end it needs {train:.2f} bits per byte on its training text and "
                "{validation:.2f} on text it never saw.",
                train=train,
                validation=last["bits_per_byte"],
            )
        )
        if gap < 0.05:
            sentences.append(t("The two are close: it has learned the language and not the text by heart."))
        elif gap < 0.2:
            sentences.append(
                t(
                    "The gap of {gap} is noticeable: it begins to know its training text better than the language.",
                    gap=percent(gap),
                )
            )
        else:
            sentences.append(
                t(
                    "The gap of {gap} is wide: it knows its training text much better than new "
                    "text. More text, a smaller model or fewer passes would help.",
                    gap=percent(gap),
                )
            )
    if last["bits_per_byte"] > 1.01 * best["bits_per_byte"]:
        sentences.append(
            t(
                "Its best check was at step {step:.0f} with {bits:.2f} bits per byte; after that "
                "it grew worse on new text.",
                step=number(best, "step") or 0,
                bits=best["bits_per_byte"],
            )
        )
    elif len(checks) >= 4:
        earlier = checks[len(checks) * 3 // 4 - 1]["bits_per_byte"]
        if last["bits_per_byte"] < 0.98 * earlier:
            sentences.append(t("The curve was still falling at the end: more time would make it better."))
        else:
            sentences.append(
                t(
                    "The curve had nearly levelled out: more time alone would bring little, more "
                    "text or a larger model would bring more."
                )
            )
    return sentences


def copied_share(copying: Facts) -> float | None:
    """Share of what it writes that stands in the training text; None when too little was written to tell."""
    return None if number(copying, "windows") == 0 else number(copying, "share_of_windows_copied")


def copying_reading(copying: Facts) -> list[str]:
    """Sentences that judge the share of copied windows, against real unseen text where that was measured."""
    share, reference = copied_share(copying), number(copying, "reference_share")
    if share is None:
        return []
    sentences = [t("{share} of what it writes is copied word for word from its training text.", share=percent(share))]
    if reference is not None:
        sentences.append(
            t(
                "Unseen text by people, measured in the same way, shares {share} with the training text.",
                share=percent(reference),
            )
        )
        if share <= max(1.5 * reference, reference + 0.01):
            sentences.append(t("The model repeats about as much as people do: no sign that it recites."))
        elif share <= reference + 0.1:
            sentences.append(t("The model repeats somewhat more than people do: it has kept some passages."))
        else:
            sentences.append(
                t("The model repeats far more than people do: it recites. Do not publish it if the text is private.")
            )
    elif share < 0.01:
        sentences.append(t("That is hardly any."))
    elif share < 0.1:
        sentences.append(t("That is some: it has kept a few passages."))
    else:
        sentences.append(t("That is much: it recites. Do not publish it if the text is private."))
    return sentences


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
