"""A language model as it is tells classes apart by how likely it holds each label to stand below a text.

Without training, after a few examples or none. N texts, K labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from bimo.generate.engine import LanguageModel
from bimo.tasks.classify.attribution import leave_one_out
from bimo.tasks.classify.measures import chances
from bimo.text.labelled import Labelled
from bimo.text.language import script_of
from bimo.text.split import split_position

__all__ = ["DecoderClassifier", "few_examples"]

FRAMES = {"zh": ("文本：{text}\n标签：", "{label}\n\n"), "en": ("Text: {text}\nLabel:", " {label}\n\n")}
NOTHING = {"zh": "无", "en": "N/A"}
"""A text without content: what a model holds for likely below it says nothing of any text (Zhao et al. 2021)."""
LONGEST_TEXT = 1000
"""Characters of a text that are shown."""
MOST_EXAMPLES = 16


@dataclass(frozen=True, eq=False)
class DecoderClassifier:
    """`examples` stand above each text, with their labels."""

    model: LanguageModel
    labels: tuple[str, ...]
    examples: tuple[Labelled, ...] = ()
    several: bool = field(default=False, init=False)

    def chances(self, texts: Sequence[str], seconds: Sequence[str] = ()) -> np.ndarray:
        """How likely each label is, [N, K]."""
        return chances(self.scores(_joined(texts, seconds)), several=False)

    def scores(self, texts: Sequence[str]) -> np.ndarray:
        """[N, K]: the logarithm of how much likelier each label is below the text than below none."""
        script = "zh" if script_of(" ".join(texts)[:LONGEST_TEXT]) == "zh" else "en"
        question, answer = FRAMES[script]
        above = "".join(
            question.format(text=_joined([one.text], [one.second])[0][:LONGEST_TEXT])
            + answer.format(label=one.labels[0])
            for one in self.examples
            if one.labels
        )
        prompts = [above + question.format(text=text[:LONGEST_TEXT]) for text in (NOTHING[script], *texts)]
        answers = [answer.format(label=label).rstrip("\n") for label in self.labels]
        found = self.model.loglikelihoods([(prompt, one) for prompt in prompts for one in answers])
        scores = np.array([one.logarithm for one in found]).reshape(len(prompts), len(answers))
        return scores[1:] - scores[0]

    def decisive(self, text: str, label: int) -> list[tuple[int, int, float]]:
        """(begins, ends, weight) of the first words of a text, each left out in turn."""
        return leave_one_out(self.scores, text, label, several=False)


def few_examples(examples: Sequence[Labelled], *, seed: int = 0) -> tuple[Labelled, ...]:
    """MOST_EXAMPLES or fewer, one of each label by turns, those first that their texts decide."""
    ordered = sorted(examples, key=lambda one: split_position(one.text, seed))
    by_label: dict[tuple[str, ...], list[Labelled]] = {}
    for example in ordered:
        by_label.setdefault(example.labels, []).append(example)
    rounds = max(1, MOST_EXAMPLES // len(by_label))
    chosen = [group[place] for place in range(rounds) for group in by_label.values() if place < len(group)]
    return tuple(chosen[:MOST_EXAMPLES])


def _joined(texts: Sequence[str], seconds: Sequence[str]) -> list[str]:
    return [
        f"{one} | {other}" if other else one for one, other in zip(texts, seconds or [""] * len(texts), strict=True)
    ]
