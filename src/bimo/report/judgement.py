"""What the numbers of a run mean in words, the good and the bad."""

from __future__ import annotations

import math

from bimo.intervals import FEWEST
from bimo.report.facts import (
    Facts,
    baseline_rows,
    is_encoder,
    learned_alone,
    learning_curves,
    number,
    pair,
    part,
    percent,
)
from bimo.runtime import t

__all__ = ["compare", "copied_share", "copying_reading", "doubt", "learning_reading", "verdict"]

LEAST_GAIN = 1.5
"""Times the most frequent word alone: below it an encoder has learned hardly anything."""

LEAST_SURE = 0.005
"""The share by which bits per byte must differ."""

WINDOW = 50
"""Characters of a window where an evaluation does not say."""


def verdict(facts: Facts) -> list[str]:
    """The outcome of a run in a few plain sentences, the good and the bad."""
    if is_encoder(facts):
        return _masked_verdict(part(facts, "evaluation")) + _known_before(facts)
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
    sentences += doubt(evaluation) + _known_before(facts)
    if bits >= baselines.get("unigram", math.inf):
        sentences.append(
            t("It has learned hardly anything: knowing only how often each character occurs does as well.")
        )
    elif _gain(bits, baselines.get("kneser_ney", math.inf), interval) < 0:
        sentences.append(
            t("Plain counting still predicts this text better: give it more time or more text before you rely on it.")
        )
    share = copied_share(part(evaluation, "copying"))
    if share is not None:
        sentences.append(
            t("{share} of what it writes is copied word for word from its training text.", share=percent(share))
        )
    return sentences


def doubt(evaluation: Facts) -> list[str]:
    """A sentence where too little was looked at to say how sure bits per byte are."""
    documents = number(evaluation, "validation", "documents")
    if documents is None or documents >= FEWEST:
        return []
    return [t("That was measured on too little text to say how sure it is, so differences may be chance.")]


def _known_before(facts: Facts) -> list[str]:
    """A sentence where the model went on from one that may have learned what is held out here."""
    inputs = part(facts, "manifest", "inputs")
    if learned_alone(inputs) == inputs.get("tokens", ""):
        return []
    return [t("The model that it went on from learned from other data, which may hold these held-out texts.")]


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


def compare(bits: float, other: float, name: str = "", interval: list[float] | None = None) -> str:
    """`18 % better than Kneser-Ney`, or `18 % better`; no difference is claimed inside the interval of uncertainty."""
    gain = _gain(bits, other, interval)
    if not gain:
        return t("about as good as {name}", name=name) if name else t("about equal")
    share = percent(abs(gain))
    if gain > 0:
        return t("{share} better than {name}", share=share, name=name) if name else t("{share} better", share=share)
    return t("{share} worse than {name}", share=share, name=name) if name else t("{share} worse", share=share)


def _gain(bits: float, other: float, interval: list[float] | None) -> float:
    """By which share bits per byte are fewer than others; 0 where that is within LEAST_SURE or the interval."""
    gain = 1 - bits / other if other else 0.0
    uncertain = interval is not None and interval[0] <= other <= interval[1]
    return 0.0 if uncertain or abs(gain) < LEAST_SURE else gain


def learning_reading(curves: dict[str, list[Facts]], training: Facts) -> list[str]:
    """Sentences on the gap between training and unseen text, and on where the curve was heading.

    The gap is one of clean text on both sides: losses of steps are taken with dropout, noise and smoothing.
    """
    checks = curves["validation"]
    if not checks:
        return []
    last, best = checks[-1], min(checks, key=lambda check: check["bits_per_byte"])
    sentences = []
    train, unseen = (number(training, f"{side}_bits_per_byte") for side in ("training", "validation"))
    if train is not None and unseen is not None:
        gap = (unseen - train) / train if train else 0.0
        sentences.append(
            t(
                "At the end it needs {train:.2f} bits per byte on its training text and "
                "{validation:.2f} on text it never saw.",
                train=train,
                validation=unseen,
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
    """Sentences that judge share and length of copies, against real unseen text where that was measured."""
    share, reference = copied_share(copying), number(copying, "reference_share")
    if share is None:
        return []
    natural = max(number(copying, "window") or WINDOW, number(copying, "reference_longest_run") or 0)
    recited = (number(copying, "longest_run") or 0) > 2 * natural  # one passage is few windows among very many
    sentences = [t("{share} of what it writes is copied word for word from its training text.", share=percent(share))]
    if reference is not None:
        sentences.append(
            t(
                "Unseen text by people, measured in the same way, shares {share} with the training text.",
                share=percent(reference),
            )
        )
        usual = share <= max(1.5 * reference, reference + 0.001)
        if usual and not recited:
            sentences.append(t("The model repeats about as much as people do: no sign that it recites."))
        elif usual or share <= reference + 0.1:
            sentences.append(t("The model repeats somewhat more than people do: it has kept some passages."))
        else:
            sentences.append(
                t("The model repeats far more than people do: it recites. Do not publish it if the text is private.")
            )
    elif share < 0.01 and not recited:
        sentences.append(t("That is hardly any."))
    elif share < 0.1:
        sentences.append(t("That is some: it has kept a few passages."))
    else:
        sentences.append(t("That is much: it recites. Do not publish it if the text is private."))
    return sentences
