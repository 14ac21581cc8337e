"""A model of ours as lm-evaluation-harness sees models (extra `eval`), so that its tasks give its numbers:

lm_eval.simple_evaluate(HarnessModel("notes-model"), tasks=["lambada_openai"])
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lm_eval.api.instance import Instance
from lm_eval.api.model import LM

from bimo.generate.engine import load
from bimo.generate.sample import Sampling
from bimo.models.scoring import rolling_scores

__all__ = ["HarnessModel"]

MOST_TOKENS = 256
"""Of an answer, where a task does not say."""


class HarnessModel(LM):
    """The model in a folder or GGUF file, through the three methods by which evaluation sees any model."""

    def __init__(self, path: str | Path, *, device: str = "auto") -> None:
        super().__init__()
        self.language_model = load(path, device=device)

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        """Of continuations after contexts; blanks at the end of a context count as part of what continues it."""
        pairs = []
        for context, continuation in (one.args for one in requests):
            kept = context.rstrip()
            pairs.append((kept, context[len(kept) :] + continuation))
        return [(found.logarithm, found.is_greedy) for found in self.language_model.loglikelihoods(pairs)]

    def loglikelihood_rolling(self, requests: list[Instance]) -> list[float]:
        """Of whole texts, each token with as much of the text before it as windows that do not overlap give."""
        model, tokenizer = self.language_model.model, self.language_model.tokenizer
        begin, context = tokenizer.begin or [tokenizer.end], model.config.context
        texts = [[*begin, *ids] for ids in tokenizer.encode_batch([one.args[0] for one in requests])]
        return [-score.nats for score in rolling_scores(model, texts, context=context, stride=context)]

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """What is written after contexts; greedily, unless a task asks for something else."""
        return [self._written(*one.args) for one in requests]

    def _written(self, context: str, settings: dict[str, Any]) -> str:
        until = settings.get("until") or ()
        temperature = settings.get("temperature", 1.0) if settings.get("do_sample") else 0.0
        pieces = self.language_model.generate(
            context,
            max_tokens=settings.get("max_gen_toks", MOST_TOKENS),
            sampling=Sampling(temperature=temperature, top_p=settings.get("top_p", 1.0)),
            stop=(until,) if isinstance(until, str) else tuple(until),
        )
        return "".join(pieces)
