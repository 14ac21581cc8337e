"""How a model was made: what was planned and what happened, machine, settings, digests; and the words of the report."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bimo.report.facts import (
    Facts,
    count,
    duration,
    model_shape,
    number,
    pair,
    parameters,
    part,
    passes,
    percent,
    rounded,
    size,
)
from bimo.report.page import Node, Section, element, fact, table
from bimo.report.planned import plan_reasons
from bimo.runtime import t

__all__ = ["glossary", "making", "plan"]


def plan(facts: Facts) -> Section | None:
    """What was expected of this machine, and what happened."""
    planned, done = facts["plan"], facts["training"]
    if not planned:
        return None
    minutes = number(planned, "minutes")
    seconds = number(planned, "seconds") or (60 * minutes if minutes else None)
    bits = number(facts["evaluation"], "bits_per_byte")
    pairs = [
        (t("Time"), seconds, number(done, "seconds"), duration),
        (t("Steps"), number(planned, "train", "steps"), number(done, "steps"), count),
        (t("Tokens"), number(planned, "tokens"), number(done, "tokens"), rounded),
        (t("Tokens a second"), number(planned, "tokens_per_second"), number(done, "tokens_per_second"), count),
        (t("Memory"), number(planned, "memory_bytes"), number(done, "peak_memory_bytes"), size),
    ]
    missing = t("not measured")
    rows: list[list[Node]] = [
        [
            name,
            missing if a is None else say(a),
            missing if b is None else say(b),
            _difference(b / a - 1) if a and b is not None else "",
        ]
        for name, a, b, say in pairs
        if a is not None or b is not None
    ]
    expected = pair(planned, "bits_per_byte")
    if expected:
        low, high = expected
        word = (
            ""
            if bits is None
            else t("better than planned")
            if bits < low
            else t("worse than planned")
            if bits > high
            else t("as planned")
        )
        rows.append([t("Bits per byte"), f"{low:.2f}–{high:.2f}", missing if bits is None else f"{bits:.2f}", word])
    weights, tokens = parameters(facts), number(done, "tokens") or number(planned, "tokens")
    extra = table(
        [],
        [
            fact(t("Parameters"), weights, count),
            fact(t("Passes over the text"), passes(facts), "{:.2f}".format),
            fact(t("Tokens for each parameter"), tokens / weights if tokens and weights else None, "{:.2f}".format),
            fact(t("Room on disk"), number(planned, "disk_bytes"), size),
            fact(t("Share of what the processor can do"), number(done, "share_of_peak"), percent),
        ],
        class_="facts",
    )
    # Those that stand there were said in the language of that day.
    said = plan_reasons(planned) if "candidates" in planned else planned.get("reasons") or []
    reasons = [element("li", str(reason)) for reason in said]
    content = [
        table(["", t("Planned"), t("Happened"), t("Difference")], rows),
        extra,
        [element("h3", t("Why this size")), element("ul", reasons)] if reasons else None,
    ]
    return "plan", t("Plan and outcome"), content


def _difference(share: float) -> str:
    return t("equal") if abs(share) < 0.005 else ("+" if share > 0 else "−") + percent(abs(share))


def making(facts: Facts) -> Section | None:
    """Machine, shape, settings, versions and digests: what it takes to make the same model again."""
    machine, settings, manifest = facts["machine"], part(facts, "run", "train"), facts["manifest"]
    versions = part(manifest, "versions")
    computed = settings.get("dtype", "auto")
    speeds = {dtype: number(machine, "matrix_flops", dtype) for dtype in part(machine, "matrix_flops")}
    groups: dict[str, Sequence[Sequence[Node] | None]] = {
        t("Machine"): [
            _named(t("Processor"), machine.get("processor")),
            fact(t("Cores"), number(machine, "cores"), count),
            fact(t("Threads"), number(machine, "threads"), count),
            fact(t("Memory"), number(machine, "memory_bytes"), size),
            *(fact(t("Products in {dtype}", dtype=dtype), flops, _speed) for dtype, flops in speeds.items()),
            _named(t("Number format"), machine.get("dtype") if computed == "auto" else computed),
        ],
        t("Shape of the model"): model_shape(part(facts, "run", "model")),
        t("Origin"): [
            _named(t("Made on"), str(manifest["created"]).replace("T", " ") if "created" in manifest else None),
            _named(t("Seed"), manifest.get("seed")),
            _named("Bimo", manifest.get("bimo")),
            *(_named({"python": "Python"}.get(name, name), version) for name, version in versions.items()),
        ],
    }
    tables = [(title, table([], rows, class_="facts")) for title, rows in groups.items()]
    shown = [element("div", element("h3", title), facts_table) for title, facts_table in tables if facts_table]
    content = [element("div", shown, class_="groups")] if shown else []
    chosen = [[element("code", key), element("code", str(value))] for key, value in settings.items()]
    if chosen:
        content.append(_folded(t("Settings of the training"), table([t("Setting"), t("Value")], chosen)))
    outputs = [
        [element("code", name), element("span", str(value), class_="digest")]
        for name, value in part(manifest, "outputs").items()
    ]
    if outputs:
        content.append(_folded(t("Files and their SHA-256 digests"), table([t("File"), t("Digest")], outputs)))
    return ("making", t("How it was made"), content) if content else None


def _folded(title: str, content: Node) -> Node:
    return element("details", element("summary", title), content)


def _speed(flops: float) -> str:
    return f"{flops / 1e9:,.0f} GFLOP/s"


def _named(name: str, value: Any) -> list[Node] | None:
    return None if value is None else [name, str(value)]


def glossary() -> Section:
    """The words of this page that not everyone knows."""
    words = [
        (
            t("Bit per byte"),
            t(
                "How many yes-or-no questions the model needs, on average, to guess the next "
                "byte of a text that it never saw. A letter of English is one byte, a Chinese "
                "character three. A text file without any model takes 8; the better the "
                "prediction, the lower the number. It does not depend on the tokenizer, so "
                "different models can be compared by it."
            ),
        ),
        (
            t("Text it never saw"),
            t(
                "Documents set aside before training and used only to test. Duplicates of them "
                "are removed from the training text, so that a good number cannot come from "
                "memory."
            ),
        ),
        (
            "Kneser-Ney",
            t(
                "The best classic method that only counts which characters follow which. A model "
                "that does not beat it has learned no more than counting can."
            ),
        ),
        ("xz", t("A strong general compression program. It is a yardstick that knows nothing about language.")),
        (t("Unigram"), t("Knows only how often each character occurs, nothing of what stands before it.")),
        (
            t("Token"),
            t("The piece of text that the model reads and writes at once: a word, a part of one, or a character."),
        ),
        (t("Parameter"), t("One of the numbers that the model adjusts while it learns.")),
        (
            t("Perplexity"),
            t(
                "Among how many equally likely tokens the model hesitates, on average. It can be "
                "compared only between models with the same tokenizer."
            ),
        ),
    ]
    entries = [[element("dt", word), element("dd", meaning)] for word, meaning in words]
    return "glossary", t("Words on this page"), [element("dl", entries, class_="glossary")]
