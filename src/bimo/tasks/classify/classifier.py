"""A classifier in use, whatever it is made of: texts in, labels with confidence out.

N texts, K labels.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from bimo.files import read_settings
from bimo.runtime import USAGE, UserError, pick_device
from bimo.tasks.classify.attribution import WordWeight, word_weights
from bimo.tasks.classify.linear import MODEL_TYPE, VECTORS_TYPE, load_linear
from bimo.tasks.classify.measures import chosen_labels, confidence_of
from bimo.text.clean import normalize
from bimo.text.labelled import read_labelled
from bimo.weights.recurrent_classifier import MODEL_TYPE as RECURRENT_TYPE

__all__ = ["Classifier", "Verdict", "classify", "explain", "holds_classifier", "open_classifier", "verdicts"]

AT_ONCE = 1000


class Classifier(Protocol):
    """What each engine offers. `several`: a text may have more labels than one, or none."""

    @property
    def labels(self) -> tuple[str, ...]:
        """In the order of the columns of `chances`."""

    @property
    def several(self) -> bool:
        """Whether labels exclude each other."""

    def chances(self, texts: Sequence[str], seconds: Sequence[str] = ()) -> np.ndarray:
        """How likely each label is, [N, K]."""

    def decisive(self, text: str, label: int) -> list[tuple[int, int, float]]:
        """(begins, ends, weight) of what in a text counts for a label."""


@dataclass(frozen=True, slots=True, eq=False)
class Verdict:
    """The labels of a text, likeliest first; none where the classifier is not sure enough, or none fits. `confidence`
    is 0 for a blank text alone.

    `known` are all labels, `found` [K] how likely each is.
    """

    labels: tuple[str, ...]
    confidence: float
    known: tuple[str, ...]
    found: np.ndarray

    @property
    def chances(self) -> dict[str, float]:
        """How likely each label is, likeliest first."""
        return {self.known[k]: float(self.found[k]) for k in np.argsort(-self.found, kind="stable")}

    def facts(self) -> dict[str, Any]:
        """As JSON."""
        return {"labels": list(self.labels), "confidence": self.confidence, "chances": self.chances}


def holds_classifier(path: Path) -> bool:
    """Whether a folder holds one that has labels of its own."""
    settings = read_settings(path / "config.json") if (path / "config.json").is_file() else {}
    return settings.get("model_type") in (MODEL_TYPE, VECTORS_TYPE, RECURRENT_TYPE) or (
        settings.get("model_type") == "bert" and settings.get("architectures") == ["BertForSequenceClassification"]
    )


def open_classifier(
    path: Path, *, labels: Sequence[str] = (), examples: Path | None = None, device: str = "auto"
) -> Classifier:
    """What a folder or file holds, ready to classify; a language model needs labels, or examples that have them.

    Raises UserError when it is no classifier and no labels are named.
    """
    named = path.is_dir() and (path / "config.json").is_file()
    settings = read_settings(path / "config.json") if named else {}
    if settings.get("model_type") == MODEL_TYPE:
        _refuse_labels(path, labels, examples)
        return load_linear(path)
    if settings.get("model_type") == VECTORS_TYPE:
        from bimo.tasks.classify.vectors import load_vectors_classifier

        _refuse_labels(path, labels, examples)
        return load_vectors_classifier(path, device=pick_device(device))
    if settings.get("model_type") in ("bert", RECURRENT_TYPE):
        from bimo.tasks.classify.neural import load_neural_classifier

        _refuse_labels(path, labels, examples)
        return load_neural_classifier(path, device=pick_device(device))
    from bimo.generate.engine import load
    from bimo.tasks.classify.decoder import DecoderClassifier, few_examples

    shown = read_labelled(examples) if examples is not None else None
    names = tuple(labels) or tuple(shown.labels if shown is not None else ())
    if len(names) < 2 and path.exists():
        raise UserError(
            "{path} has not learned any labels. Name them for a language model (--labels a,b, or --examples FILE), or "
            "make a classifier: bimo tune FILE --task classify --out MODEL.",
            code=USAGE,
            path=path,
        )
    fitting = [one for one in shown.examples if {*one.labels} <= {*names}] if shown is not None else []
    if shown is not None and not fitting:
        raise UserError(
            "None of the texts of {path} has one of the labels {labels}. They have: {known}.",
            code=USAGE,
            path=examples,
            labels=", ".join(names),
            known=", ".join(shown.labels[:10]),
        )
    return DecoderClassifier(load(path, device=device), names, few_examples(fitting) if fitting else ())


def _refuse_labels(path: Path, labels: Sequence[str], examples: Path | None) -> None:
    if labels or examples is not None:
        raise UserError(
            "{path} has labels of its own; --labels and --examples are for language models.", code=USAGE, path=path
        )


def as_learned(text: str) -> str:
    """A text in the form that those have which it learned from, and is measured on: see read_labelled."""
    return normalize(text).strip()


def verdicts(
    classifier: Classifier, texts: Iterable[tuple[str, str]], *, abstain: float = 0.0, at_once: int = AT_ONCE
) -> Iterator[Verdict]:
    """Of each (text, second text or ""), in order, so many computed at a time; without labels where confidence is below
    `abstain`, which it is for a blank text, of which nothing is known."""
    texts = iter(texts)
    unknown = Verdict((), 0.0, classifier.labels, np.zeros(len(classifier.labels)))
    while block := list(islice(texts, at_once)):
        block = [(as_learned(text), as_learned(second)) for text, second in block]
        found = _of_texts(classifier, [pair for pair in block if pair[0]], abstain)
        yield from (next(found) if text else unknown for text, _ in block)


def _of_texts(classifier: Classifier, texts: Sequence[tuple[str, str]], abstain: float) -> Iterator[Verdict]:
    if not texts:
        return
    found = classifier.chances([text for text, _ in texts], [second for _, second in texts])
    chosen = chosen_labels(found, several=classifier.several)
    sure = confidence_of(found, several=classifier.several)
    for row, confidence in enumerate(sure.tolist()):
        places = np.flatnonzero(chosen[row]) if confidence >= abstain else ()
        names = tuple(classifier.labels[k] for k in sorted(places, key=lambda k: -found[row, k]))
        yield Verdict(names, confidence, classifier.labels, found[row])


def explain(classifier: Classifier, text: str) -> list[WordWeight]:
    """What each word of a text counts for the label that is the likeliest."""
    text = as_learned(text)
    label = int(classifier.chances([text])[0].argmax())
    lowered = text.lower()
    # An n-gram's place is that in small letters, which in a few scripts are more than the large ones.
    shown = text if len(lowered) == len(text) else lowered
    return word_weights(shown, classifier.decisive(shown, label))


def classify(
    model: str | Path,
    texts: Sequence[str],
    *,
    seconds: Sequence[str] = (),
    labels: Sequence[str] = (),
    examples: str | Path | None = None,
    abstain: float = 0.0,
    device: str = "auto",
) -> list[Verdict]:
    """The labels of texts by the model in a folder; `labels` or `examples` let a language model do it untrained."""
    path = None if examples is None else Path(examples)
    classifier = open_classifier(Path(model), labels=labels, examples=path, device=device)
    return list(verdicts(classifier, zip(texts, seconds or [""] * len(texts), strict=True), abstain=abstain))
