"""The report of a run as one page: what came out, how it learned, what went in. Made from the facts on disk alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from bimo.report.card import write_card
from bimo.report.charts import line_chart
from bimo.report.data_report import personal, rejected, repeated, sources, tokenizer, write_data_report
from bimo.report.examples import beginning, blank_rows, masked_sample
from bimo.report.facts import (
    Facts,
    baseline_rows,
    count,
    duration,
    is_encoder,
    join_sentences,
    learning_curves,
    number,
    pair,
    parameters,
    part,
    percent,
    read_facts,
    rounded,
    size,
)
from bimo.report.judgement import compare, copied_share, copying_reading, doubt, learning_reading, verdict
from bimo.report.making import glossary, making, plan
from bimo.report.page import Node, Section, bar, element, fact, figure, key_figures, table, write_page
from bimo.runtime import t
from bimo.text.controls import LENGTH, LENGTHS

__all__ = ["write_card", "write_data_report", "write_report"]

SAMPLE_LIMIT, GLIMPSE_LIMIT = 1500, 220
"""Characters shown of a sample at the end, and of one on the way there."""

VALUE_LIMIT = 20
"""Values shown of a tag, the most frequent ones."""


def write_report(model_folder: Path) -> Path:
    """Write `bimo/report.html` from the facts in a model folder; what was not measured is left out."""
    facts = read_facts(model_folder)
    curves = learning_curves(facts)
    evaluation, training = facts["evaluation"], facts["training"]
    figures = key_figures(
        [
            (t("Bits per byte on unseen text"), number(evaluation, "bits_per_byte"), "{:.2f}".format),
            (t("Hidden tokens guessed"), number(evaluation, "masked_accuracy"), percent),
            (t("Copied word for word"), copied_share(part(evaluation, "copying")), percent),
            (t("Parameters"), parameters(facts), rounded),
            (t("Tokens learned from"), number(training, "tokens"), rounded),
            (t("Training time"), number(training, "seconds"), duration),
        ]
    )
    sections = [
        blanks(evaluation) if is_encoder(facts) else samples(facts, curves),
        learning(facts, curves),
        comparison(evaluation),
        steering(facts),
        copying(part(evaluation, "copying")),
        plan(facts),
        sources(facts),
        rejected(facts),
        repeated(facts),
        personal(facts),
        tokenizer(facts),
        making(facts),
        glossary(),
    ]
    headline = join_sentences(verdict(facts))
    return write_page(model_folder / "bimo" / "report.html", facts["name"], headline, figures, sections)


def samples(facts: Facts, curves: dict[str, list[Facts]]) -> Section | None:
    """What the model writes now, and how its writing changed on the way."""
    seen = curves["sample"]
    final = part(facts, "evaluation").get("samples") or seen[-1:]
    if not final:
        return None
    content: list[Node] = [_quote(sample) for sample in final[:6] if isinstance(sample, dict)]
    prompt = seen[0].get("prompt") if seen else None
    same = [sample for sample in seen if sample.get("prompt") == prompt]
    if len(same) > 1:
        chosen = sorted({round(index * (len(same) - 1) / min(5, len(same) - 1)) for index in range(min(6, len(same)))})
        steps = [element("li", _moment(same[index], curves["validation"]), _glimpse(same[index])) for index in chosen]
        content += [element("h3", t("How its writing changed")), element("ol", steps, class_="timeline")]
    return "samples", t("What it writes"), content


def blanks(evaluation: Facts) -> Section | None:
    """Words that were hidden from an encoder, and what it took them for."""
    rows: list[list[Node]] = [list(row) for row in blank_rows(evaluation)]
    if not rows:
        return None
    return "blanks", t("What it guesses"), [table([t("Text, the hidden word in brackets"), t("Guesses")], rows)]


def _quote(sample: Facts) -> Node:
    prompt, text = masked_sample(sample, SAMPLE_LIMIT)
    return element("blockquote", element("b", prompt), text, dir="auto")


def _glimpse(sample: Facts) -> Node:
    prompt, text = masked_sample(sample, GLIMPSE_LIMIT)
    return element("p", element("b", prompt), text, dir="auto")


def _moment(sample: Facts, checks: list[Facts]) -> Node:
    """At which step a sample was written, and the last check up to then."""
    step = number(sample, "step") or 0
    label = t("step {step}", step=count(step))
    before = [check["bits_per_byte"] for check in checks if (number(check, "step") or 0) <= step]
    bits = t("{bits:.2f} bits per byte", bits=before[-1]) if before else None
    return element("div", label, element("br"), element("small", bits) if bits else None)


def learning(facts: Facts, curves: dict[str, list[Facts]]) -> Section | None:
    """Learning curves over tokens and time, and what they say."""
    best = min(curves["validation"], key=lambda check: check["bits_per_byte"], default=None)
    names = {"kneser_ney": "Kneser-Ney", "xz": "xz", "unigram": t("Unigram")}
    levels = [(names[key], bits) for key, _, bits in baseline_rows(facts["evaluation"])]
    longest = max((number(step, "seconds") or 0 for step in curves["step"] + curves["validation"]), default=0)
    unit, unit_name = (
        (3600, t("hours")) if longest >= 7200 else (60, t("minutes")) if longest >= 180 else (1, t("seconds"))
    )
    axes: list[tuple[str, float, str, Callable[[float], str], int]] = [
        ("tokens", 1, t("tokens read in training"), rounded, 340),
        ("seconds", unit, unit_name, "{:g}".format, 240),
    ]
    charts = []
    for key, divisor, label, say, height in axes:
        lines = {
            kind: [
                (event[key] / divisor, event["bits_per_byte"])
                for event in curves[kind]
                if number(event, key) is not None
            ]
            for kind in ("step", "validation")
        }
        ends = lines["validation"] or lines["step"]
        if len(ends) < 2:
            continue
        mark = (best[key] / divisor, best["bits_per_byte"]) if best and number(best, key) is not None else None
        spoken = t(
            "Learning curve over {axis}: from {first:.2f} to {last:.2f} bits per byte, lowest {best:.2f}.",
            axis=label,
            first=ends[0][1],
            last=ends[-1][1],
            best=min(bits for _, bits in ends),
        )
        drawing = line_chart(
            lines,
            levels=levels,
            mark=mark,
            x_label=label,
            y_label=t("bits per byte"),
            say_x=say,
            alternative=spoken,
            height=height,
        )
        legend = [("stroke step", t("steps of training"))] if lines["step"] else []
        legend += [("stroke validation", t("text it never saw"))] if lines["validation"] else []
        legend += [("ring", t("best check"))] if mark else []
        legend += [("stroke level", t("simple methods"))] if levels else []
        charts.append(figure(drawing, legend=legend))
    reading = element("p", join_sentences(learning_reading(curves, facts["training"]))) if charts else None
    incidents = _incidents(facts, curves)
    return ("learning", t("How it learned"), [reading, *charts, *incidents]) if charts or incidents else None


def _incidents(facts: Facts, curves: dict[str, list[Facts]]) -> list[Node]:
    resumed = number(facts, "training", "resumed") or len(curves["resumed"])
    skipped = number(facts, "training", "skipped_steps") or len(curves["skipped"])
    rolled_back = number(facts, "training", "roll_backs") or len(curves["rolled back"])
    steps, kept = (number(facts, "training", name) for name in ("steps", "weights_of_step"))
    sentences = [
        t("Interruptions after which the run went on: {n}.", n=count(resumed)) if resumed else None,
        t("Steps that the health check skipped: {n}.", n=count(skipped)) if skipped else None,
        t("Times that training went back to a checkpoint: {n}.", n=count(rolled_back)) if rolled_back else None,
        *(str(event.get("reason") or "") for event in curves["stopped"]),
        t("The weights are those of step {step}, which did best on unseen text.", step=count(kept))
        if kept is not None and kept != steps
        else None,
    ]
    return [element("p", sentence, class_="note") for sentence in sentences if sentence]


def comparison(evaluation: Facts) -> Section | None:
    """The model beside simple methods, with the uncertainty of the measurement."""
    bits = number(evaluation, "bits_per_byte")
    if bits is None:
        return None
    interval = pair(evaluation, "bits_per_byte_interval")
    rows = [("model", t("This model"), bits), *baseline_rows(evaluation)]
    largest = max([value for _, _, value in rows] + (interval or []))
    lines: list[list[Node]] = []
    for key, name, value in sorted(rows, key=lambda row: row[2]):
        own = key == "model"
        difference = "" if own else compare(bits, value, interval=interval)
        drawn = bar(value, largest, class_="own" if own else "", interval=interval if own else None)
        lines.append([element("span", name, class_="own" if own else None), f"{value:.3f}", difference, drawn])
    baselines, validation = part(evaluation, "baselines"), part(evaluation, "validation")
    used = number(baselines, "train_bytes_used")
    notes = [t("Shorter bars are better."), *doubt(evaluation)]
    if interval:
        notes.append(
            t(
                "The mark on the bar is where the number lies with 95 % certainty: {low:.3f} to {high:.3f}.",
                low=interval[0],
                high=interval[1],
            )
        )
    if used is not None:
        notes.append(t("The simple methods learned from {size} of the same training text.", size=size(used)))
    tested_bytes, all_bytes = number(baselines, "validation_bytes_used"), number(validation, "bytes")
    if tested_bytes and all_bytes and abs(tested_bytes / all_bytes - 1) > 0.01:
        notes.append(t("They were tested on {size} of the same unseen text.", size=size(tested_bytes)))
    orders = [
        [order, f"{value:.3f}"]
        for order, value in part(baselines, "kneser_ney", "by_order").items()
        if isinstance(value, float | int)
    ]
    tested = " · ".join(
        template
        for template in (
            t("{n} documents", n=count(validation["documents"])) if number(validation, "documents") else "",
            t("{n} characters", n=count(validation["characters"])) if number(validation, "characters") else "",
            size(validation["bytes"]) if number(validation, "bytes") else "",
        )
        if template
    )
    content = [
        table([t("Method"), t("Bits per byte"), t("This model is"), ""], lines, class_="bars"),
        element("p", join_sentences(notes), class_="note"),
        table(
            [],
            [
                [t("Tested on"), tested] if tested else None,
                fact(t("Bits per character"), number(evaluation, "bits_per_character"), "{:.3f}".format),
                fact(t("Perplexity of a token"), number(evaluation, "perplexity"), "{:,.2f}".format),
                fact(t("Tokens foreseen"), number(evaluation, "accuracy"), percent),
                fact(t("Context in tokens"), number(evaluation, "context"), count),
                fact(t("Stride in tokens"), number(evaluation, "stride"), count),
            ],
            class_="facts",
        ),
        element(
            "details", element("summary", t("Kneser-Ney by order")), table([t("Order"), t("Bits per byte")], orders)
        )
        if orders
        else None,
    ]
    return "comparison", t("How good that is"), content


def steering(facts: Facts) -> Section | None:
    """What the model makes of the tags in front of a text, and which it can be asked for."""
    found = part(facts, "evaluation", "steering")
    after, alone = number(found, "with_tags"), number(found, "without_tags")
    if not after or not alone:
        return None
    if after < alone:
        reading = t(
            "After its tags a text takes {share} fewer bits: it follows them.", share=percent(1 - after / alone)
        )
    else:
        reading = t("After its tags a text takes no fewer bits than without them: it does not follow them.")
    content = [
        element("p", reading),
        table(
            ["", t("Bits per byte"), ""],
            [
                [name, f"{bits:.3f}", bar(bits, max(after, alone))]
                for name, bits in ((t("After all tags of a text"), after), (t("Without them"), alone))
            ],
            class_="bars",
        ),
        table([t("Tag"), t("Values and how many texts have them")], _tag_rows(part(facts, "controls", "values"))),
        element("p", t("bimo generate MODEL --set TAG=VALUE asks for one."), class_="note"),
    ]
    return "steering", t("How it follows tags"), content


def _tag_rows(values: Facts) -> list[list[Node]]:
    rows: list[list[Node]] = []
    for name in values:
        counts = part(values, name)
        shown = [f"{value} ({count(texts)})" for value, texts in [*counts.items()][:VALUE_LIMIT]]
        rows.append([name, ", ".join(shown) + (", …" if len(counts) > VALUE_LIMIT else "")])
    return rows and [*rows, [LENGTH, ", ".join(LENGTHS)]]


def copying(facts: Facts) -> Section | None:
    """How much of what it writes stands in the training text, in words and numbers."""
    reading = copying_reading(facts)
    if not reading:
        return None
    window, windows = number(facts, "window"), number(facts, "windows")
    examples = [
        str(example.get("text", "")) if isinstance(example, dict) else str(example)
        for example in facts.get("longest_examples") or []
    ]
    copied = number(facts, "windows_copied")
    content: list[Node] = [
        element("p", join_sentences(reading)),
        table(
            [],
            [
                fact(t("Samples looked at"), number(facts, "samples"), count),
                fact(t("Window in characters"), window, count),
                fact(t("Windows looked at"), windows, count),
                fact(t("Windows copied"), copied, count),
                fact(t("Longest copied run in characters"), number(facts, "longest_run"), count),
                fact(t("Longest run of unseen text by people"), number(facts, "reference_longest_run"), count),
                fact(t("Usual longest run of a sample (median)"), number(facts, "median_longest_run"), "{:g}".format),
            ],
            class_="facts",
        ),
    ]
    if examples:
        content.append(element("h3", t("Longest copied passages")))
        content += [element("blockquote", beginning(text, GLIMPSE_LIMIT), dir="auto") for text in examples[:3]]
    return "copying", t("What it learned by heart"), content
