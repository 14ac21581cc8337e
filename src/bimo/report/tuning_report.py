"""The report of a tuning on conversations or preferences: before and after, how it learned, what it says now."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bimo.files import read_json, read_metrics
from bimo.report.charts import Point, line_chart
from bimo.report.examples import beginning
from bimo.report.facts import Facts, count, duration, learning_curves, number, pair, part, percent, size
from bimo.report.page import Node, Section, bar, element, fact, figure, key_figures, table, write_page
from bimo.runtime import t

__all__ = ["write_tuning_report"]

LEAST_ANSWERS = 5
"""Fewer can all become likelier by chance."""

SAMPLE_LIMIT = 1200
"""Characters shown of a text."""


def write_tuning_report(folder: Path) -> Path:
    """Write `bimo/report.html` from the facts in the folder of a tuning."""
    facts: Facts = read_json(folder / "bimo" / "tune.json")
    events = [*read_metrics(folder / "bimo" / "metrics.jsonl")]
    prefers = facts["task"] == "prefer"
    general = part(facts, "general")
    change = general["after"] / general["before"] - 1 if general else None
    figures = key_figures(
        [
            (t("Pairs told right"), number(facts, "accuracy", "share"), percent),
            (t("Held-out loss"), number(facts, "held_out", "after", "loss"), "{:.3f}".format),
            (t("KL divergence, nats a token"), number(facts, "divergence"), "{:.4f}".format),
            (t("Change on general text"), change, "{:+.1%}".format),
            (t("Trained parameters"), number(facts, "trained_parameters"), count),
            (t("Training time"), number(facts, "seconds"), duration),
        ]
    )
    sections = [
        _before_and_after(facts),
        _told_right(facts) if prefers else None,
        _learning(facts, events),
        _samples(facts),
        _making(facts),
    ]
    return write_page(folder / "bimo" / "report.html", folder.resolve().name, _headline(facts), figures, sections)


def _headline(facts: Facts) -> str:
    loss = {when: facts["held_out"][when]["loss"] for when in ("before", "after")}
    if facts["task"] == "prefer":
        low, high = facts["accuracy"]["interval"]
        share = facts["accuracy"]["share"]
        if low > 0.5:
            return t("It tells {share:.0%} of the pairs that it never saw right.", share=share)
        return t(
            "It tells {share:.0%} of the pairs that it never saw right, which may be chance: {low:.0%} to {high:.0%}.",
            share=share,
            low=low,
            high=high,
        )
    if loss["after"] < loss["before"]:
        gained = part(facts, "answers")
        low, _ = pair(gained, "gain_interval") or (0.0, 0.0)
        if low > 0 and (number(gained, "answers") or 0) >= LEAST_ANSWERS:
            return t("It predicts answers that it never saw better: loss {after:.3f}, before {before:.3f}.", **loss)
        return t(
            "It predicts answers that it never saw a little better, which may be chance: loss {after:.3f}, before "
            "{before:.3f}.",
            **loss,
        )
    return t(
        "It has learned nothing that holds for answers it never saw: loss {after:.3f}, before {before:.3f}.", **loss
    )


def _before_and_after(facts: Facts) -> Section:
    before, after = facts["held_out"]["before"], facts["held_out"]["after"]
    general = part(facts, "general")
    rows: list[Sequence[Node] | None] = [
        _row(t("Held-out loss"), before["loss"], after["loss"], "{:.3f}"),
        _row(t("Bits per byte of answers"), before.get("bits_per_byte"), after.get("bits_per_byte"), "{:.3f}"),
        _row(t("Pairs told right"), before.get("accuracy"), after.get("accuracy"), "{:.1%}"),
        _row(t("Reward of chosen answers"), before.get("chosen_reward"), after.get("chosen_reward"), "{:+.3f}"),
        _row(t("Reward of rejected answers"), before.get("rejected_reward"), after.get("rejected_reward"), "{:+.3f}"),
        _row(
            t("Chosen answer likelier token by token"),
            number(facts, "likelier", "before"),
            number(facts, "likelier", "after"),
            "{:.1%}",
        ),
        _row(t("Bits per byte of general text"), general.get("before"), general.get("after"), "{:.3f}"),
    ]
    notes = [
        t("Held out: {held_out:,}; trained on: {train:,}.", **(facts.get("conversations") or facts["pairs"])),
        *(_wins(name, found) for name, found in _answers(facts)),
        t("The rows held out also chose the step that was kept, which flatters what is measured on them a little."),
        t("General text: {name}.", name=general["name"])
        if general
        else t("What was forgotten was not measured: there is no general text. Give some with --general FILE."),
    ]
    if number(facts, "divergence") is not None:
        notes.append(
            t(
                "KL divergence from the model as it was: {nats:.4f} nats a token, exact, along the chosen answers that "
                "are held out",
                nats=facts["divergence"],
            )
        )
    content = [table(["", t("Before"), t("After")], rows), *(element("p", note, class_="note") for note in notes)]
    return "before", t("Before and after"), content


def _row(name: str, before: float | None, after: float | None, form: str) -> list[Node] | None:
    return None if before is None or after is None else [name, form.format(before), form.format(after)]


def _answers(facts: Facts) -> list[tuple[str, Facts]]:
    names = {"answers": t("Answers"), "chosen": t("Chosen answers"), "rejected": t("Rejected answers")}
    return [(name, facts[key]) for key, name in names.items() if key in facts]


def _wins(name: str, found: Facts) -> str:
    return t(
        "{name}: {wins:,} of {answers:,} became likelier, {losses:,} less likely; {gain:+.3f} nats a token on average "
        "({low:+.3f} to {high:+.3f} in 95 % of resamples).",
        name=name,
        low=found["gain_interval"][0],
        high=found["gain_interval"][1],
        **found,
    )


def _told_right(facts: Facts) -> Section:
    """Beside the simplest rules."""
    accuracy = facts["accuracy"]
    rows: list[tuple[str, float, list[float] | None]] = [
        (t("This model"), accuracy["share"], pair(accuracy, "interval")),
        (t("The longer answer"), accuracy["longer"], None),
        (t("The shorter answer"), 1 - accuracy["longer"], None),
        (t("The likelier answer before tuning"), facts["likelier"]["before"], None),
        (t("Chance"), 0.5, None),
    ]
    lines = [
        [name, f"{share:.1%}", bar(share, 1.0, class_="own" if mark else "", interval=mark)]
        for name, share, mark in rows
    ]
    return (
        "right",
        t("Which answer is the better one"),
        [table([t("Rule"), t("Pairs told right"), ""], lines, class_="bars")],
    )


def _learning(facts: Facts, events: list[Facts]) -> Section | None:
    curves = learning_curves({"metrics": events}, "loss")
    lines: dict[str, list[Point]] = {
        kind: [(event["step"], event["loss"]) for event in curves[kind]] for kind in ("step", "validation")
    }
    lines["validation"].insert(0, (0, facts["held_out"]["before"]["loss"]))
    if not lines["step"]:
        return None
    first, last = facts["held_out"]["before"]["loss"], facts["held_out"]["after"]["loss"]
    drawing = line_chart(
        lines,
        mark=(facts["weights_of_step"], last),
        x_label=t("steps"),
        y_label=t("loss"),
        say_x="{:g}".format,
        whole=True,
        alternative=t("Loss over steps: on held-out text from {first:.3f} to {last:.3f}.", first=first, last=last),
    )
    legend = [
        ("stroke step", t("steps of training")),
        ("stroke validation", t("text it never saw")),
        ("ring", t("what was kept")),
    ]
    return "learning", t("How it learned"), [figure(drawing, legend=legend)]


def _samples(facts: Facts) -> Section | None:
    """What was asked, and what it said before and says now, side by side."""
    content: list[Node] = []
    for sample in facts["samples"]:
        content.append(element("h3", beginning(sample["messages"][-1]["content"], SAMPLE_LIMIT), dir="auto"))
        texts = [
            (t("before"), sample["before"]),
            (t("after"), sample["after"]),
            (t("as in the file"), sample["reference"]),
            (t("as rejected in the file"), sample.get("rejected")),
        ]
        rows = [
            [name, element("div", beginning(text, SAMPLE_LIMIT), dir="auto")]
            for name, text in texts
            if text is not None
        ]
        content.append(table([], rows, class_="facts"))
    return ("samples", t("What it says"), content) if content else None


def _making(facts: Facts) -> Section:
    counts: dict[str, Any] = facts.get("conversations") or facts["pairs"]
    forms = t("; ").join(facts["forms"])
    content = [
        table(
            [],
            [
                [t("Model"), facts["model"]],
                [t("Form of the file"), forms],
                fact(t("Rows trained on"), counts["train"], count),
                fact(t("Rows held out"), counts["held_out"], count),
                fact(t("Rows cut to the context"), counts["cut"], count),
                fact(t("Rows refused"), counts["refused"], count),
                fact(t("Beta"), number(facts, "beta"), "{:g}".format),
                fact(t("Learning rate"), number(facts, "learning_rate"), "{:g}".format),
                fact(t("Steps"), number(facts, "steps"), count),
                fact(t("Weights of step"), number(facts, "weights_of_step"), count),
                fact(t("Memory"), number(facts, "peak_memory_bytes"), size),
            ],
            class_="facts",
        )
    ]
    settings = [[element("code", key), element("code", str(value))] for key, value in facts["settings"].items()]
    content.append(table([t("Setting"), t("Value")], settings))
    return "making", t("How it was made"), content
