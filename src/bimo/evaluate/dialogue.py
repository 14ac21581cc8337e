"""How likely a model holds the answers of conversations, and which of two answers; perhaps beside another model."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bimo.console import SILENT, Console
from bimo.generate.engine import LanguageModel
from bimo.intervals import bootstrap, paired_bootstrap
from bimo.runtime import DATA_REFUSED, UserError, t
from bimo.tasks.chat.before_after import replies
from bimo.tasks.folder import tell_refused
from bimo.text.conversations import Conversation, is_conversation, read_conversations
from bimo.text.preferences import Preference, is_preference, read_preferences
from bimo.text.readers import holds_json, json_values
from bimo.tokens.chat import Lesson
from bimo.train.lessons import log_likelihoods
from bimo.train.preferences import told_right

__all__ = ["conversation_lines", "evaluate_conversations", "evaluate_preferences", "preference_lines", "talk_in"]

SHOWN = 3

Evaluate = Callable[..., dict[str, Any]]


def talk_in(path: Path) -> Evaluate | None:
    """What measures a model on such a file, judged by its first row; None where that holds nothing of the kind."""
    if not path.is_file() or not holds_json(path):
        return None
    _, first = next(json_values(path, lambda rejected: None), (0, None))
    if is_preference(first):
        return evaluate_preferences
    return evaluate_conversations if is_conversation(first) else None


def evaluate_conversations(
    model: LanguageModel,
    source: Path,
    *,
    against: LanguageModel | None = None,
    console: Console = SILENT,
) -> dict[str, Any]:
    """Bits per byte of what the assistant says in each conversation of a file, with a 95 % interval; facts as JSON.

    `against` is another model on the same conversations: `wins` counts those whose answers the first one holds likelier
    by the byte, which models with other tokenizers can be compared by. Conversations that do not fit into the context
    of both are left out, and counted.
    """
    found = read_conversations(source)
    console.say("Read", found.describe())
    tell_refused(found.refused, console)
    models = [model, *([against] if against else [])]
    fitting, lessons = _fitting(models, found.kept, _lessons, source, console)
    bytes_ = np.array([_answer_bytes(conversation) for conversation in fitting])
    nats = [-_summed(one, own, console) for one, own in zip(models, lessons, strict=True)]

    def bits(losses: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
        return lambda drawn: losses[drawn].sum(axis=1) / bytes_[drawn].sum(axis=1) / math.log(2)

    prompts = [_prompt(conversation) for conversation in fitting[:SHOWN]]
    written = [replies(one, prompts) for one in models]
    tokens = sum(sum(lesson.counted[1:]) for own in lessons[0] for lesson in own)
    facts: dict[str, Any] = {
        "task": "conversations",
        "conversations": len(fitting),
        "too_long": len(found.kept) - len(fitting),
        "refused": len(found.refused),
        "answer_bytes": int(bytes_.sum()),
        "answer_tokens": tokens,
        "bits_per_byte": _figure(bits(nats[0]), len(fitting)),
        "bits_per_byte_interval": [*bootstrap(bits(nats[0]), len(fitting))],
        "nats_per_token": float(nats[0].sum() / tokens),
        "samples": [
            {"messages": prompt, "reference": conversation.messages[len(prompt)]["content"], "replies": [*said]}
            for prompt, conversation, said in zip(prompts, fitting, zip(*written, strict=True), strict=False)
        ],
    }
    if against is not None:
        low, high, p = paired_bootstrap(bits(nats[0]), bits(nats[1]), len(fitting))
        facts["against"] = {
            "bits_per_byte": _figure(bits(nats[1]), len(fitting)),
            "difference_interval": [low, high],
            "p": p,
            "wins": int((nats[0] < nats[1]).sum()),
            "losses": int((nats[0] > nats[1]).sum()),
        }
    return facts


def evaluate_preferences(
    model: LanguageModel,
    source: Path,
    *,
    against: LanguageModel | None = None,
    console: Console = SILENT,
) -> dict[str, Any]:
    """In which share of pairs the chosen answer is likelier than the rejected one, by the token; facts as JSON.

    `against` is the model that the first was tuned from: the reward of an answer is then what its likelihood has
    gained over it (Rafailov et al. 2023), and `told_right` the share of pairs whose chosen answer has the higher one.
    """
    found = read_preferences(source)
    console.say("Read", found.describe())
    tell_refused(found.refused, console)
    models = [model, *([against] if against else [])]
    fitting, lessons = _fitting(models, found.kept, _both, source, console)
    sums = [_both_summed(one, own, console) for one, own in zip(models, lessons, strict=True)]
    lengths = np.array([[sum(lesson.counted[1:]) for lesson in pair] for pair in lessons[0]])
    facts: dict[str, Any] = {
        "task": "preferences",
        "pairs": len(fitting),
        "too_long": len(found.kept) - len(fitting),
        "refused": len(found.refused),
        "likelier": _share(told_right(sums[0] / lengths)),
        "longer": float(told_right(lengths).mean()),
    }
    if against is not None:
        facts["against"] = {"told_right": _share(told_right(sums[0] - sums[1]))}
    return facts


def _fitting(
    models: Sequence[LanguageModel],
    rows: Sequence[Any],
    lay_out: Callable[[LanguageModel, Any], list[Lesson]],
    source: Path,
    console: Console,
) -> tuple[list[Any], list[list[list[Lesson]]]]:
    """The rows that every model can read as a whole, and their lessons, model by model."""
    for one in models:
        one.chat.require_usable()
    kept: list[Any] = []
    lessons: list[list[list[Lesson]]] = [[] for _ in models]
    reason = ""
    for row in rows:
        try:
            laid_out = [lay_out(one, row) for one in models]
        except UserError as error:
            reason = str(error)
            continue
        longest = [max(len(lesson.ids) for lesson in own) - 1 for own in laid_out]
        if any(length > one.config.context for one, length in zip(models, longest, strict=True)):
            continue
        kept.append(row)
        for mine, own in zip(lessons, laid_out, strict=True):
            mine.append(own)
    if not kept:
        reason = reason or t("none fits into {tokens:,} tokens", tokens=min(one.config.context for one in models))
        raise UserError("Nothing in {path} can be measured: {reason}.", code=DATA_REFUSED, path=source, reason=reason)
    if len(kept) < len(rows):
        console.warn(
            t(
                "{left:,} of {rows:,} are longer than the context, or cannot be laid out, and are left out",
                left=len(rows) - len(kept),
                rows=len(rows),
            )
        )
    return kept, lessons


def _lessons(model: LanguageModel, conversation: Conversation) -> list[Lesson]:
    return model.chat.lessons(conversation.messages)


def _both(model: LanguageModel, preference: Preference) -> list[Lesson]:
    answers = ({"role": "assistant", "content": text} for text in (preference.chosen, preference.rejected))
    return [model.chat.last_lesson([*preference.messages, answer]) for answer in answers]


def _summed(model: LanguageModel, rows: Sequence[Sequence[Lesson]], console: Console) -> np.ndarray:
    """The natural logarithm of the probability of all answers of each row: [N]."""
    lessons = [*itertools.chain(*rows)]
    with console.progress("Evaluate", len(lessons)) as update:
        found = log_likelihoods(model.model, lessons, update=lambda done: update(done, ""))
    starts = np.cumsum([0, *(len(row) for row in rows[:-1])])
    return np.add.reduceat(found, starts)


def _both_summed(model: LanguageModel, pairs: Sequence[Sequence[Lesson]], console: Console) -> np.ndarray:
    """The same for both answers of each pair: [N, 2], chosen ones first."""
    return np.stack([_summed(model, [[pair[side]] for pair in pairs], console) for side in (0, 1)], axis=1)


def _figure(statistic: Callable[[np.ndarray], np.ndarray], examples: int) -> float:
    return float(statistic(np.arange(examples)[None])[0])


def _share(right: np.ndarray) -> dict[str, Any]:
    """Of right [N], with its 95 % interval."""
    interval = bootstrap(lambda drawn: right[drawn].mean(axis=1), len(right))
    return {"share": float(right.mean()), "interval": [*interval]}


def _prompt(conversation: Conversation) -> list[dict[str, str]]:
    """The messages up to the first answer."""
    return [*itertools.takewhile(lambda message: message["role"] != "assistant", conversation.messages)]


def _answer_bytes(conversation: Conversation) -> int:
    return sum(len(one["content"].encode()) for one in conversation.messages if one["role"] == "assistant")


def conversation_lines(facts: dict[str, Any]) -> list[str]:
    """An evaluation on conversations for people."""
    low, high = facts["bits_per_byte_interval"]
    lines = [
        t(
            "{bits:.4f} bits per byte of the answers ({low:.3f}-{high:.3f} in 95 % of resamples), {nats:.3f} nats a "
            "token, in {conversations:,} conversations",
            bits=facts["bits_per_byte"],
            low=low,
            high=high,
            nats=facts["nats_per_token"],
            conversations=facts["conversations"],
        )
    ]
    if "against" in facts:
        low, high = facts["against"]["difference_interval"]
        lines.append(
            t(
                "the other model {theirs:.4f}; difference from {low:+.4f} to {high:+.4f} in 95 % of resamples, "
                "p {p:.3f}; answers likelier in {wins:,} conversations, less likely in {losses:,}",
                theirs=facts["against"]["bits_per_byte"],
                low=low,
                high=high,
                p=facts["against"]["p"],
                wins=facts["against"]["wins"],
                losses=facts["against"]["losses"],
            )
        )
    for sample in facts["samples"]:
        lines += ["", f"> {sample['messages'][-1]['content']}" if sample["messages"] else ">"]
        lines += [reply.strip() for reply in sample["replies"]]
    return lines


def preference_lines(facts: dict[str, Any]) -> list[str]:
    """An evaluation on preferences for people."""
    low, high = facts["likelier"]["interval"]
    lines = [
        t(
            "The chosen answer is likelier by the token in {share:.1%} of {pairs:,} pairs ({low:.1%}-{high:.1%} in "
            "95 % of resamples); it is the longer one in {longer:.1%}",
            share=facts["likelier"]["share"],
            pairs=facts["pairs"],
            low=low,
            high=high,
            longer=facts["longer"],
        )
    ]
    if "against" in facts:
        told = facts["against"]["told_right"]
        low, high = told["interval"]
        lines.append(
            t(
                "Told right by what was gained over the other model: {share:.1%} ({low:.1%}-{high:.1%})",
                share=told["share"],
                low=low,
                high=high,
            )
        )
    return lines
