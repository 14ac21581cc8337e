"""How much a model makes of the tags in front of a text: bits per byte of held-out texts with and without them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from bimo.baselines import sample_evenly
from bimo.generate.engine import LanguageModel
from bimo.text.controls import Controls
from bimo.text.documents import Document

__all__ = ["steering_facts"]

MOST_CHARACTERS = 100_000
"""Of held-out text, evenly sampled: each text is read twice."""


def steering_facts(model: LanguageModel, documents: Iterable[Document], controls: Controls) -> dict[str, Any]:
    """Bits per byte of texts after all of their tags, and of the same texts alone. The tags are read, never predicted.

    Texts that do not fit into the context with their tags are left out; the end of a text is not counted here.
    """
    headers = {document.text: controls.header(controls.tags(document)) for document in documents}
    fitting = [
        text
        for text, header in headers.items()
        if len(model.tokenizer.encode(header + text)) < model.model.config.context
    ]
    texts = sample_evenly(fitting, MOST_CHARACTERS)
    bytes_ = sum(len(text.encode()) for text in texts)
    if not bytes_:
        return {}

    def bits(context: dict[str, str]) -> float:
        found = model.loglikelihoods([(context.get(text, ""), text) for text in texts])
        return -sum(one.logarithm for one in found) / bytes_ / math.log(2)

    return {"documents": len(texts), "with_tags": bits(headers), "without_tags": bits({})}
