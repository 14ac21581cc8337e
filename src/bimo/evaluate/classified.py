"""How well a classifier does on a file of texts with labels, perhaps beside another one on the same texts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bimo.console import SILENT, Console, keep_if_writable
from bimo.files import write_json
from bimo.intervals import paired_bootstrap
from bimo.runtime import DATA_REFUSED, USAGE, UserError, t
from bimo.tasks.classify.classifier import Classifier, open_classifier
from bimo.tasks.classify.measures import accuracies, chosen_labels, macro_f1s, measure, truth_matrix
from bimo.tasks.classify.report import figures_line, mistakes_in, weakest_labels, write_report
from bimo.text.labelled import Labelled, read_labelled

__all__ = ["classified_lines", "evaluate_classifier"]

MISTAKES_SHOWN = 5
TEXTS_AT_ONCE = 2000
MEASURES = {"accuracy": accuracies, "macro_f1": macro_f1s}


def evaluate_classifier(
    model: Path,
    source: Path,
    *,
    against: Path | None = None,
    columns: Mapping[str, str] | None = None,
    console: Console = SILENT,
) -> dict[str, Any]:
    """Measure a classifier on a file, every row of it; returns facts, kept as `bimo/classification.json` with a page
    beside it. `against` is another classifier: the facts then say by how much they differ.

    Labels that the classifier never saw count as mistakes. Raises UserError when it knows none of them.
    """
    classifier = open_classifier(model)
    found = read_labelled(source, columns=columns, once=False, several=classifier.several)
    console.say("Read", found.describe())
    for line in found.refused_lines():
        console.warn(line)
    unseen = [label for label in found.labels if label not in classifier.labels]
    if len(unseen) == len(found.labels):
        raise UserError(
            "{path} has none of the labels that {model} knows ({known}). It has: {labels}. Name the column that holds "
            "them: --column label=...",
            code=DATA_REFUSED,
            path=source,
            model=model,
            known=", ".join(classifier.labels[:10]),
            labels=", ".join(found.labels[:10]),
        )
    if unseen:
        sentence = "{count:,} labels were not in training, and what has them counts as mistakes: {labels}"
        console.warn(t(sentence, count=len(unseen), labels=", ".join(unseen[:10])))
    labels, several = [*classifier.labels, *unseen], classifier.several
    truth = truth_matrix([one.labels for one in found.examples], labels)
    chances = _chances(classifier, found.examples, len(labels), console)
    facts: dict[str, Any] = {
        "task": "classify",
        "model": str(model),
        "source": str(source),
        "several": several,
        "held_out": measure(chances, truth, labels, several=several),
        "mistakes": mistakes_in(chances, found.examples, labels, several=several),
        "set_aside": found.refused_lines(),
        "unseen_labels": unseen,
    }
    if against is not None:
        facts["against"] = _difference(chances, truth, labels, against, found.examples, classifier, console)
    return {**facts, "kept": keep_if_writable(model, console, lambda: _keep(model, facts))}


def _keep(model: Path, facts: dict[str, Any]) -> None:
    write_json(model / "bimo" / "classification.json", facts)
    write_report(model / "bimo" / "classification.html", facts, name=model.resolve().name)


def _chances(classifier: Classifier, examples: list[Labelled], labels: int, console: Console) -> np.ndarray:
    """[N, K], zeros for labels that the classifier does not know."""
    found = np.zeros((len(examples), labels))
    with console.progress("Evaluate", len(examples)) as update:
        for start in range(0, len(examples), TEXTS_AT_ONCE):
            block = examples[start : start + TEXTS_AT_ONCE]
            chances = classifier.chances([one.text for one in block], [one.second for one in block])
            found[start : start + len(block), : chances.shape[1]] = chances
            update(start + len(block), "")
    return found


def _difference(
    chances: np.ndarray,
    truth: np.ndarray,
    labels: list[str],
    against: Path,
    examples: list[Labelled],
    classifier: Classifier,
    console: Console,
) -> dict[str, Any]:
    """By how much the classifier is better than the other, with intervals and p-values on the same texts."""
    other = open_classifier(against)
    if set(other.labels) != set(classifier.labels) or other.several != classifier.several:
        raise UserError(
            "{other} and the classifier beside it do not have the same labels, so they cannot be compared.",
            code=USAGE,
            other=against,
        )
    theirs = _chances(other, examples, len(labels), console)
    theirs[:, : len(other.labels)] = theirs[:, [other.labels.index(label) for label in classifier.labels]]
    mine, its = (chosen_labels(one, several=classifier.several) for one in (chances, theirs))
    facts: dict[str, Any] = {"model": str(against)}
    for name, of in MEASURES.items():
        low, high, p = _difference_of(of, mine, its, truth)
        reached = {who: float(of(chosen, truth)[0]) for who, chosen in (("ours", mine), ("theirs", its))}
        facts[name] = {**reached, "interval": [low, high], "p": p}
    return facts


def _difference_of(
    of: Callable[..., np.ndarray], mine: np.ndarray, its: np.ndarray, truth: np.ndarray
) -> tuple[float, float, float]:
    """How sure the difference of a measure of two sets of chosen labels [N, K] is: as `paired_bootstrap`."""
    return paired_bootstrap(
        lambda drawn: of(mine, truth, drawn),
        lambda drawn: of(its, truth, drawn),
        len(truth),
        differing=int((mine != its).any(axis=1).sum()),
    )


def classified_lines(facts: Mapping[str, Any]) -> list[str]:
    """An evaluation as lines for people."""
    figures = facts["held_out"]
    lines = [figures_line(figures)]
    lines += [
        t(
            "{label}: precision {precision:.3f}, recall {recall:.3f}, F1 {f1:.3f} ({texts:,} texts)",
            label=label,
            **own,
        )
        for label, own in weakest_labels(figures)[:MISTAKES_SHOWN]
    ]
    if "against" in facts:
        for name, title in (("accuracy", t("accuracy")), ("macro_f1", "macro-F1")):
            one = facts["against"][name]
            lines.append(
                t(
                    "Against {model}, {title}: {ours:.3f} and {theirs:.3f}; difference from {low:+.3f} to {high:+.3f} "
                    "in 95 % of resamples, p = {p:.3f}",
                    model=facts["against"]["model"],
                    title=title,
                    ours=one["ours"],
                    theirs=one["theirs"],
                    low=one["interval"][0],
                    high=one["interval"][1],
                    p=one["p"],
                )
            )
    if facts["mistakes"]:
        lines.append(t("Surest mistakes; often it is the file that is wrong:"))
    none = t("none")
    lines += [
        t(
            "  in the file {label}, given {given} ({confidence:.0%}): {text}",
            label=", ".join(one["labels"]) or none,
            given=", ".join(one["given"]) or none,
            confidence=one["confidence"],
            text=one["text"][:100].replace("\n", " "),
        )
        for one in facts["mistakes"][:MISTAKES_SHOWN]
    ]
    if facts["kept"]:
        lines.append(t("More in {path}", path=Path(facts["model"]) / "bimo" / "classification.html"))
    return lines
