"""How good a classifier is, as a line and as a page: figures, labels, what is taken for what, surest mistakes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bimo.report.charts import matrix_chart
from bimo.report.examples import beginning
from bimo.report.page import Section, bar, element, figure, key_figures, table, write_page
from bimo.runtime import t
from bimo.tasks.classify.measures import chosen_labels, confidence_of, truth_matrix
from bimo.text.labelled import Labelled

__all__ = ["figures_line", "mistakes_in", "weakest_labels", "write_report"]

MISTAKES = 20
TEXT_CHARACTERS = 240
MOST_IN_MATRIX = 20
"""Labels; of more, those with the most mistakes are drawn."""


def mistakes_in(
    chances: np.ndarray, examples: Sequence[Labelled], labels: Sequence[str], *, several: bool
) -> list[dict[str, Any]]:
    """The surest of the mistakes that chances [N, K] amount to, surest first."""
    truth = truth_matrix([one.labels for one in examples], labels)
    chosen = chosen_labels(chances, several=several)
    sure = confidence_of(chances, several=several)
    wrong = np.flatnonzero((chosen != truth).any(axis=1))
    surest = wrong[np.argsort(-sure[wrong], kind="stable")][:MISTAKES]
    return [
        {
            "text": beginning(" | ".join(filter(None, (examples[row].text, examples[row].second))), TEXT_CHARACTERS),
            "labels": list(examples[row].labels),
            "given": [label for label, there in zip(labels, chosen[row], strict=True) if there],
            "confidence": float(sure[row]),
        }
        for row in surest
    ]


def figures_line(figures: Mapping[str, Any]) -> str:
    """The figures for people."""
    return t(
        "Accuracy {accuracy:.1%} (95 % interval {low:.1%}-{high:.1%}), macro-F1 {macro:.3f} "
        "({macro_low:.3f}-{macro_high:.3f}), calibration error {error:.3f}, on {texts:,} texts",
        accuracy=figures["accuracy"],
        low=figures["accuracy_interval"][0],
        high=figures["accuracy_interval"][1],
        macro=figures["macro_f1"],
        macro_low=figures["macro_f1_interval"][0],
        macro_high=figures["macro_f1_interval"][1],
        error=figures["calibration_error"],
        texts=figures["texts"],
    )


def weakest_labels(figures: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Those labels that a text has or was given, each with its figures, the weakest first; of others nothing is known,
    and macro-F1 leaves them out, too."""
    met = [(label, own) for label, own in figures["labels"].items() if own["texts"] or own["given"]]
    return sorted(met, key=lambda pair: pair[1]["f1"])


def write_report(path: Path, facts: Mapping[str, Any], *, name: str) -> Path:
    """A page of the figures under `held_out`, the `mistakes`, and what was `set_aside`."""
    figures = facts["held_out"]
    key = key_figures(
        [
            (t("Accuracy"), figures["accuracy"], "{:.1%}".format),
            (t("Macro-F1"), figures["macro_f1"], "{:.3f}".format),
            (t("Calibration error"), figures["calibration_error"], "{:.3f}".format),
            (t("Labels"), len(figures["labels"]), "{:,}".format),
            (t("Texts"), figures["texts"], "{:,}".format),
        ]
    )
    sections = [_labels(figures), _matrix(figures), _mistakes(facts), _beside(facts), _set_aside(facts)]
    return write_page(path, name, figures_line(figures), key, sections)


def _labels(figures: Mapping[str, Any]) -> Section:
    rows = [
        [
            label,
            f"{own['texts']:,}",
            f"{own['precision']:.3f}",
            f"{own['recall']:.3f}",
            f"{own['f1']:.3f}",
            bar(own["f1"], 1.0),
        ]
        for label, own in weakest_labels(figures)
    ]
    head = [t("Label"), t("Texts"), t("Precision"), t("Recall"), "F1", ""]
    intro = element(
        "p",
        t(
            "Of the texts that were given a label, precision is the share that have it; of the texts that have it, "
            "recall is the share that were given it; F1 is their harmonic mean. The weakest label comes first."
        ),
    )
    return "labels", t("Label by label"), [intro, table(head, rows, class_="bars")]


def _matrix(figures: Mapping[str, Any]) -> Section | None:
    if "confusion" not in figures:
        return None
    counts, labels = np.array(figures["confusion"]), list(figures["labels"])
    wrong = counts.sum(axis=0) + counts.sum(axis=1) - 2 * counts.diagonal()
    shown = sorted(np.argsort(-wrong, kind="stable")[:MOST_IN_MATRIX].tolist())
    caption = t(
        "A row is what texts are, a column what they were taken for; the darker, the larger its share of the row."
    )
    if len(shown) < len(labels):
        caption += " " + t("The {count} labels with the most mistakes of {all}.", count=len(shown), all=len(labels))
    drawing = matrix_chart(
        [labels[k] for k in shown],
        counts[np.ix_(shown, shown)].tolist(),
        totals=counts[shown].sum(axis=1).tolist(),
        alternative=t("Confusion matrix: {right:,} of {all:,} on its diagonal", right=counts.trace(), all=counts.sum()),
    )
    return "confusion", t("What is taken for what"), [figure(drawing, caption)]


def _mistakes(facts: Mapping[str, Any]) -> Section | None:
    if not facts["mistakes"]:
        return None
    none = t("none")
    rows = [
        [
            ", ".join(one["labels"]) or none,
            ", ".join(one["given"]) or none,
            f"{one['confidence']:.1%}",
            element("span", one["text"], class_="excerpt"),
        ]
        for one in facts["mistakes"]
    ]
    intro = element(
        "p",
        t(
            "Texts on which the classifier contradicts the file and is surest of itself. Often it is the file that is "
            "wrong: look at these first when you correct labels."
        ),
    )
    return "mistakes", t("Surest mistakes"), [intro, table([t("In the file"), t("Given"), t("Sure"), t("Text")], rows)]


def _beside(facts: Mapping[str, Any]) -> Section | None:
    names = {"linear": t("n-grams, linear"), "majority": t("always the most frequent label")}
    rows = [
        [names[name], f"{figures['accuracy']:.1%}", f"{figures['macro_f1']:.3f}"]
        for name, figures in facts.get("baselines", {}).items()
    ]
    return ("beside", t("Beside it"), [table(["", t("Accuracy"), t("Macro-F1")], rows)]) if rows else None


def _set_aside(facts: Mapping[str, Any]) -> Section | None:
    lines = [element("li", line) for line in facts.get("set_aside", ())]
    return ("aside", t("Rows set aside"), [element("ul", lines)]) if lines else None
