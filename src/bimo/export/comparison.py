"""Whether what was written is what was trained: the same ids, the same template, the same predictions.

V vocabulary. Predictions are compared as natural logarithms of probabilities, of which every engine can say some.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch

from bimo.console import SILENT, Console
from bimo.export.source import Source
from bimo.generate.batching import Request
from bimo.generate.sample import Sampling
from bimo.models.families import Model
from bimo.runtime import UserError, t
from bimo.tokens.template import ChatTemplate
from bimo.weights.gguf_blocks import StoredMatrix

__all__ = [
    "CHATS",
    "Engine",
    "OurEngine",
    "compare",
    "differing_weights",
    "other_ids",
    "other_model",
    "other_predictions",
    "other_tensors",
    "render",
]

NEW_TOKENS = 64
LIKELIEST = 1000
"""Of each prediction so many tokens are compared: of those never chosen, logits differ by much and mean little."""

GREEDY = Sampling(temperature=0.0)

CHATS: tuple[list[dict[str, str]], ...] = (
    [{"role": "user", "content": "你好，笔墨！"}],
    [{"role": "system", "content": "Answer briefly."}, {"role": "user", "content": " What is  ink?\n"}],
    [
        {"role": "user", "content": "一加一"},
        {"role": "assistant", "content": "二"},
        {"role": "user", "content": "and {{ 2 }} <b>'\"</b>?"},
    ],
)
"""Conversations that a template is tried on."""


class Engine(Protocol):
    """What a comparison asks of whoever has opened a model."""

    name: str

    def tokens(self, text: str) -> list[int]:
        """The ids of a prompt, with what the engine puts in front by itself."""

    def special(self) -> dict[str, int]:
        """Ids of special tokens by their roles (`eos_token`), of those that the engine knows of."""

    def chat(self, messages: list[dict[str, str]]) -> str | None:
        """A conversation as text that asks for an answer; None where there is no template, or it refuses."""

    def chat_tokens(self, text: str) -> list[int]:
        """The ids of a conversation that a template wrote: its special tokens are meant so, nothing is in front."""

    def predict(self, ids: list[int]) -> np.ndarray:
        """ids -> log-probabilities of the next token, float32 [V]; NaN for tokens of which nothing is said."""

    def write(self, prompts: list[list[int]], count: int) -> list[list[int]]:
        """The likeliest token `count` times after each prompt, past any end."""

    def close(self) -> None:
        """Give the memory back."""


class OurEngine:
    """Our own: the slow twin of every other, in torch and float32 but for writing, which the kernel may do."""

    def __init__(self, source: Source, name: str = "bimo") -> None:
        self.name = name
        self._source = source
        self._model = source.language_model()

    def tokens(self, text: str) -> list[int]:
        """As in Engine."""
        return [*self._source.tokenizer.begin, *self._source.tokenizer.encode(text)]

    def special(self) -> dict[str, int]:
        """As in Engine."""
        return self._source.special

    def chat(self, messages: list[dict[str, str]]) -> str | None:
        """As in Engine."""
        return render(self._source, messages)

    def chat_tokens(self, text: str) -> list[int]:
        """As in Engine."""
        inner = self._source.tokenizer.inner
        inner.encode_special_tokens = False
        ids = inner.encode(text, add_special_tokens=False).ids
        inner.encode_special_tokens = True  # as everything else wants it
        return ids

    @torch.inference_mode()
    def predict(self, ids: list[int]) -> np.ndarray:
        """As in Engine."""
        return self._model.model(torch.tensor([ids]))[0, -1].float().log_softmax(-1).numpy()

    def write(self, prompts: list[list[int]], count: int) -> list[list[int]]:
        """As in Engine."""
        return self._model.answers([Request(ids, count, GREEDY) for ids in prompts])

    def close(self) -> None:
        """As in Engine."""
        del self._model


def render(source: Source, messages: list[dict[str, str]]) -> str | None:
    """A conversation by the model's template, within bounds, as transformers renders it; None where that cannot be."""
    if source.template is None:
        return None
    try:
        return ChatTemplate(source.template).render(messages, answer=True, **source.tokenizer.special)
    except UserError:
        return None


def differing_weights(written: Source, expected: Mapping[str, StoredMatrix]) -> list[str]:
    """Names of tensors that are not bit for bit what was to be written, read by our own reader."""
    names = sorted(written.weights.keys() ^ expected.keys())
    for name in sorted(written.weights.keys() & expected.keys()):
        if not np.array_equal(written.weights[name].dequantised(), expected[name].dequantised()):
            names.append(name)
    return names


def other_model(expected: Model, written: Model) -> list[str]:
    """In words, what about a model that was opened again is not as it was to be written, to the bit."""
    if written.config != expected.config:
        return [t("the shape is {found}", found=written.config)]
    weights = dict(written.named_parameters())
    return other_tensors(
        [name for name, weight in expected.named_parameters() if not torch.equal(weight, weights[name])]
    )


def other_tensors(names: list[str]) -> list[str]:
    """In words, that these tensors are not what they should be."""
    if not names:
        return []
    return [t("{count} tensors hold other numbers, first {name}", count=len(names), name=names[0])]


def other_ids(prompts: list[str], same: list[bool]) -> list[str]:
    """In words, of which prompts the ids are not the same."""
    if all(same):
        return []
    prompt = prompts[same.index(False)]
    return [
        t(
            "{count} of {prompts} prompts get other ids, first “{prompt}”",
            count=same.count(False),
            prompts=len(same),
            prompt=prompt,
        )
    ]


def other_predictions(largest: float, tolerance: float) -> list[str]:
    """In words, that the largest difference is too large; one that is no number is."""
    if largest <= tolerance:
        return []
    sentence = "predictions differ by {largest:.2g}, where {tolerance:.2g} is allowed"
    return [t(sentence, largest=largest, tolerance=tolerance)]


@dataclass
class _Findings:
    """What was compared, as it will be kept, and in words what differs."""

    facts: dict[str, Any]
    faults: list[str]

    def equal(self, name: str, same: bool, fault: Callable[[], str]) -> None:
        self.facts[name] = same
        if not same:
            self.faults.append(fault())


def compare(
    trained: Engine, written: Engine, prompts: list[str], *, tolerance: float, context: int, console: Console = SILENT
) -> tuple[dict[str, Any], list[str]]:
    """(What was compared, with numbers; in words what differs by more than it may, empty when nothing does).

    `tolerance` is by how much log-probabilities may differ. Greedy tokens may part where the trained model holds the
    two to be as good as each other: nearer than half of that, since likely tokens differ by less than unlikely ones.
    """
    found = _Findings({"engine": written.name, "prompts": len(prompts), "tolerance": tolerance}, [])
    _compare_text(trained, written, prompts, found)
    ids = [ids[: max(1, context - NEW_TOKENS)] for prompt in prompts if (ids := trained.tokens(prompt))]
    count = min(NEW_TOKENS, context - 1)
    differences = []
    with console.progress("Comparing", len(ids) + 2) as update:
        for done, prompt in enumerate(ids, 1):
            differences.append(_largest_difference(trained.predict(prompt), written.predict(prompt)))
            update(done, "")
        ours = trained.write(ids, count)
        update(len(ids) + 1, "")
        theirs = written.write(ids, count)
    largest = float(np.max(differences))
    found.facts["largest_difference"] = largest
    found.faults += other_predictions(largest, tolerance)
    _compare_greedy(trained, ids, ours, theirs, found)
    return found.facts, found.faults


def _compare_text(trained: Engine, written: Engine, prompts: list[str], found: _Findings) -> None:
    same = [trained.tokens(prompt) == written.tokens(prompt) for prompt in prompts]
    found.facts["equal_ids"] = sum(same)
    found.faults += other_ids(prompts, same)
    expected, special = trained.special(), written.special()
    found.facts["special"] = special
    # An engine may have an id of its own for a token that the model does not have.
    found.equal(
        "equal_special",
        all(special[name] == number for name, number in expected.items() if name in special),
        lambda: t("special tokens are {found}, where {expected} are expected", found=special, expected=expected),
    )
    chats = [(trained.chat(messages), written.chat(messages)) for messages in CHATS]
    found.facts["chats"] = sum(ours is not None for ours, _ in chats)
    found.equal(
        "equal_chats", all(ours == theirs for ours, theirs in chats), lambda: t("the chat template gives other text")
    )
    texts = [ours for ours, _ in chats if ours is not None]
    found.equal(
        "equal_chat_ids",
        all(trained.chat_tokens(text) == written.chat_tokens(text) for text in texts),
        lambda: t("conversations get other ids"),
    )


def _largest_difference(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Over the tokens that they hold to be likeliest; NaN where either says what is no number. theirs may be padded."""
    theirs = theirs[: len(ours)]
    said = np.flatnonzero(~np.isnan(theirs))
    likeliest = said[np.argsort(-theirs[said])[:LIKELIEST]]
    return float(np.abs(ours[likeliest] - theirs[likeliest]).max()) if len(likeliest) else float("nan")


def _compare_greedy(
    trained: Engine, prompts: list[list[int]], ours: list[list[int]], theirs: list[list[int]], found: _Findings
) -> None:
    """Where two writings part for the first time, the trained model must hold both tokens to be nearly as good."""
    gaps = []
    for prompt, mine, other in zip(prompts, ours, theirs, strict=True):
        place = next(
            (i for i, (a, b) in enumerate(zip(mine, other, strict=False)) if a != b), min(len(mine), len(other))
        )
        if place < len(mine):
            scores = trained.predict(prompt + mine[:place])
            gap = float(scores[mine[place]] - scores[other[place]]) if place < len(other) else float("inf")
            gaps.append({"place": place, "gap": gap})
    found.facts |= {"new_tokens": len(ours[0]), "equal_greedy": len(prompts) - len(gaps), "partings": gaps}
    widest = max((parting["gap"] for parting in gaps), default=0.0)
    if widest > found.facts["tolerance"] / 2:
        found.faults.append(
            t(
                "of {prompts} prompts {count} go on with other tokens, up to {gap:.2g} less likely by their logarithm",
                prompts=len(prompts),
                count=len(gaps),
                gap=widest,
            )
        )
