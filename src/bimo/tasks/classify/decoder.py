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
        above = {script: self._examples_in(script) for script in FRAMES}
        asked = [self._asked(text[:LONGEST_TEXT], above) for text in texts]
        pairs = [(prompt, one) for prompts, answers in asked for prompt in prompts for one in answers]
        distinct = [*dict.fromkeys(pairs)]
        found = dict(zip(distinct, self.model.loglikelihoods(distinct), strict=True))
        shape = len(texts), 2, len(self.labels)
        below, nothing = np.array([found[pair].logarithm for pair in pairs]).reshape(shape).transpose(1, 0, 2)
        return below - nothing

    def _asked(self, text: str, above: dict[str, list[tuple[str, int]]]) -> tuple[tuple[str, str], list[str]]:
        """(what stands above the answer to a text and to none, answers), with as many examples as fit beside both."""
        script = "zh" if script_of(text) == "zh" else "en"
        question, answer = FRAMES[script]
        answers = [answer.format(label=label).rstrip("\n") for label in self.labels]
        asked, empty = question.format(text=text), question.format(text=NOTHING[script])
        room = self.model.config.context + 1 - len(self.model.tokenizer.begin)
        room -= max(map(self._tokens, (asked, empty))) + max(map(self._tokens, answers))
        shown = ""
        for example, tokens in above[script]:
            room -= tokens
            if room < 0:
                break
            shown += example
        return (shown + asked, shown + empty), answers

    def _examples_in(self, script: str) -> list[tuple[str, int]]:
        """The examples as they stand above a text of a script, and how many tokens each is."""
        question, answer = FRAMES[script]
        shown = [
            question.format(text=_joined([one.text], [one.second])[0][:LONGEST_TEXT])
            + answer.format(label=one.labels[0])
            for one in self.examples
            if one.labels
        ]
        return [(text, self._tokens(text)) for text in shown]

    def _tokens(self, text: str) -> int:
        return len(self.model.tokenizer.encode(text))

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
