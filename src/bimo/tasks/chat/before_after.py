"""What a model lost and gained by a tuning: text in general, answers that are held out, and what it says by itself."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bimo.baselines import sample_evenly
from bimo.console import Console
from bimo.files import replacing
from bimo.generate.engine import LanguageModel, load
from bimo.generate.sample import Sampling
from bimo.intervals import mean_interval
from bimo.models.families import LanguageModule
from bimo.models.scoring import rolling_scores
from bimo.runtime import DATA_REFUSED, UserError, t
from bimo.tasks.folder import own_data
from bimo.text.collect import read_texts
from bimo.text.store import read_stored
from bimo.tokens.chat import ChatFormat, Message
from bimo.train.tune import Tuning
from bimo.weights.adapters import save_adapter
from bimo.weights.chat_templates import TEMPLATE_FILE
from bimo.weights.huggingface import save_model
from bimo.weights.opening import OpenedModel

__all__ = [
    "General",
    "base_line",
    "bits_per_byte",
    "find_general",
    "general_line",
    "looking",
    "replies",
    "sample_lines",
    "save_tuned",
    "training_line",
    "untuned",
    "wins",
]

SAMPLE_TOKENS = 80
GREEDY = Sampling(temperature=0.0)

MOST_CHARACTERS = 30_000
"""Of general text, spread evenly over all there is: enough for two digits, and read twice."""


@dataclass(frozen=True)
class General:
    """Text that has nothing to do with the tuning: documents as ids, an end token before and behind, and their bytes.

    `name` says where it is from.
    """

    name: str
    documents: list[list[int]]
    bytes: int


def find_general(opened: OpenedModel, given: Path | None, console: Console) -> General | None:
    """The text that is given, else what was held out when the model was made, where its data are still there.

    Raises UserError when there is no text in what is given.
    """
    if given is not None:
        texts: Iterable[str] = read_texts([given], unread=lambda rejected: console.warn(str(rejected)))
        name = given.name
    else:
        data = own_data(opened.path)
        if data is None or not list((data / "documents").glob("validation-*.parquet")):
            return None
        texts = (document.text for document in read_stored(data / "documents", "validation"))
        name = t("held-out text of the model's own data")
    kept = sample_evenly(texts, MOST_CHARACTERS)
    if not kept:
        raise UserError("{path} holds no text.", code=DATA_REFUSED, path=given or opened.path)
    tokenizer = opened.tokenizer
    begin = tokenizer.begin or (tokenizer.end,)
    documents = [[*begin, *ids, tokenizer.end] for ids in tokenizer.encode_batch(kept)]
    return General(name, documents, sum(len(text.encode()) for text in kept))


def bits_per_byte(model: LanguageModule, general: General | None) -> float | None:
    """How well general text is predicted; None where there is none."""
    if general is None:
        return None
    context = model.config.context
    scores = rolling_scores(model, general.documents, context=context, stride=max(1, context // 2))
    return sum(score.nats for score in scores) / math.log(2) / general.bytes


def looking() -> str:
    """What the minutes before and after training go into."""
    return t("the held-out examples are read, and samples answered")


def untuned(opened: OpenedModel, device: torch.device) -> LanguageModel:
    """The model as it was; it has a copy of the weights, so nobody keeps it while another is tuned."""
    return LanguageModel(opened.source, opened.tokenizer, device=device, ends=opened.ends, chat=opened.chat)


def replies(model: LanguageModel, prompts: Sequence[Sequence[Message]]) -> list[str]:
    """What the model says to each, always its likeliest token."""
    return ["".join(model.reply(prompt, max_tokens=SAMPLE_TOKENS, sampling=GREEDY)) for prompt in prompts]


def save_tuned(out: Path, tuning: Tuning, opened: OpenedModel, device: torch.device, chat: ChatFormat) -> LanguageModel:
    """Write what was learned, an adapter or a model, with its template; returns what the files say."""
    model: Any = tuning.model
    with replacing(out / TEMPLATE_FILE) as part:
        part.write_text(chat.template.source, encoding="utf-8", newline="")
    if tuning.adapter is not None:
        save_adapter(out, tuning.adapter, model.config, base=str(opened.path))
        return load(opened.path, adapter=out, device=device.type)
    tokenizer = opened.tokenizer
    end = tokenizer.end if chat.closing is None else chat.closing
    save_model(out, model, end=end, begin=tokenizer.begin[0] if tokenizer.begin else None)
    tokenizer.save(out, context=model.config.context)
    return load(out, device=device.type)


def wins(before: np.ndarray, after: np.ndarray) -> dict[str, Any]:
    """Of how many answers the likelihood of a token [N] has grown, and by how much on average, in nats a token."""
    gains = after - before
    return {
        "answers": len(gains),
        "wins": int((gains > 0).sum()),
        "losses": int((gains < 0).sum()),
        "nats_per_token": {"before": float(before.mean()), "after": float(after.mean())},
        "gain": float(gains.mean()),
        "gain_interval": mean_interval(gains),
    }


def general_line(facts: dict[str, Any]) -> str:
    """What was forgotten."""
    general = facts["general"]
    if general is None:
        return t("What was forgotten was not measured: there is no general text. Give some with --general FILE.")
    return t(
        "Bits per byte of general text ({name}): {before:.3f} before, {after:.3f} after ({change:+.1%})",
        name=general["name"],
        before=general["before"],
        after=general["after"],
        change=general["after"] / general["before"] - 1,
    )


def training_line(facts: dict[str, Any], rate: str) -> str:
    """What it took; `rate` says how many targets a second in words."""
    return t(
        "Trained: {trained:,} of {parameters:,} parameters, {epochs:.1f} epochs in {minutes:.1f} min, {rate}, at most "
        "{memory:,.0f} MB of memory",
        trained=facts["trained_parameters"],
        parameters=facts["parameters"],
        epochs=facts["epochs"],
        minutes=facts["seconds"] / 60,
        rate=rate,
        memory=facts["peak_memory_bytes"] / 1e6,
    )


def base_line(facts: dict[str, Any]) -> str:
    """Whether the base is as it was."""
    if facts["base"]["before"] == facts["base"]["after"]:
        return t("The base model's files are unchanged.")
    return t("The base model's files have changed meanwhile.")


def sample_lines(facts: dict[str, Any]) -> list[str]:
    """Samples, one under the other."""
    lines = []
    for sample in facts["samples"]:
        lines += ["", f"> {sample['messages'][-1]['content']}"]
        lines += [f"{t('before')}: {sample['before'].strip()}", f"{t('after')}: {sample['after'].strip()}"]
    return lines
