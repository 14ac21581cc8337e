"""How likely a model holds the answers of conversations, and which of two answers; perhaps beside another model."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bimo.console import SILENT, Console
from bimo.evaluate.choices import other_share_line
from bimo.evaluate.prediction import bits_statistic, certainty
from bimo.generate.engine import LanguageModel
from bimo.generate.sample import require_numbers
from bimo.intervals import interval_if_enough, paired_bootstrap, paired_mean_difference, share_interval
from bimo.report.page import shorten
from bimo.runtime import DATA_REFUSED, UserError, t
from bimo.tasks.chat.before_after import replies
from bimo.tasks.chat.preferring import both_answers
from bimo.tasks.folder import tell_refused
from bimo.text.conversations import is_conversation, read_conversations
from bimo.text.json_values import holds_json, json_values
from bimo.text.preferences import is_preference, read_preferences
from bimo.tokens.chat import ChatFormat, Lesson
from bimo.train.lessons import log_likelihoods
from bimo.train.preferences import Duel, answer_lengths, log_likelihoods_of_both, told_right

__all__ = ["conversation_lines", "evaluate_conversations", "evaluate_preferences", "preference_lines", "talk_in"]

SHOWN = 3
MOST_CHARACTERS = 400
"""Of a message that is shown."""

LOOKED_AT = 100
"""First rows of a file, which tell what it holds."""

Evaluate = Callable[..., dict[str, Any]]


def talk_in(path: Path) -> Evaluate | None:
    """What measures a model on such a file; None where its first rows are neither preferences nor conversations."""
    if not path.is_file() or not holds_json(path):
        return None
    for _, row in itertools.islice(json_values(path, lambda rejected: None), LOOKED_AT):
        if is_preference(row):
            return evaluate_preferences
        if is_conversation(row):
            return evaluate_conversations
    return None


def evaluate_conversations(
    model: LanguageModel,
    source: Path,
    *,
    against: LanguageModel | None = None,
    console: Console = SILENT,
) -> dict[str, Any]:
    """Bits per byte of what the assistant says in each conversation of a file, with a 95 % interval where there are
    enough; facts as JSON.

    `against` is another model on the same conversations: `wins` counts those whose answers the first one holds
    likelier. Bytes are those of the answers as the models' templates lay them out. `left_out` counts conversations that
    are longer than a model reads, or that the models do not lay out alike.
    """
    found = read_conversations(source)
    console.say("Read", found.describe())
    tell_refused(found.refused, console, kept=False)
    models = [model, *([against] if against else [])]
    fitting, lessons = _fitting(
        models, found.kept, lambda chat, conversation: chat.lessons(conversation.messages), source, console
    )
    bytes_ = np.array([len(_answer_text(model, own).encode()) for own in lessons[0]])
    nats = [-_summed(one, own, console) for one, own in zip(models, lessons, strict=True)]
    bits = [bits_statistic(own, bytes_) for own in nats]
    everything = np.arange(len(fitting))[None]
    tokens = sum(sum(lesson.counted[1:]) for own in lessons[0] for lesson in own)
    exchanges = [conversation.first_exchange for conversation in fitting]
    shown = [exchange for exchange in exchanges if exchange[0]][:SHOWN]
    written = [replies(one, [prompt for prompt, _ in shown]) for one in models]
    facts: dict[str, Any] = {
        "task": "conversations",
        "conversations": len(fitting),
        "left_out": len(found.kept) - len(fitting),
        "refused": len(found.refused),
        "answer_bytes": int(bytes_.sum()),
        "answer_tokens": tokens,
        "bits_per_byte": float(bits[0](everything)[0]),
        "bits_per_byte_interval": interval_if_enough(bits[0], len(fitting)),
        "nats_per_token": float(nats[0].sum() / tokens),
        "samples": [
            {"messages": prompt, "reference": reference, "replies": [*said]}
            for (prompt, reference), said in zip(shown, zip(*written, strict=True), strict=True)
        ],
    }
    if against is not None:
        differing = int((nats[0] != nats[1]).sum())
        low, high, p = paired_bootstrap(bits[0], bits[1], len(fitting), differing=differing)
        theirs = float(bits[1](everything)[0])
        facts["against"] = {
            "bits_per_byte": theirs,
            "difference": facts["bits_per_byte"] - theirs,
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
    """In which share of pairs a token of the chosen answer is likelier, on average, than one of the rejected answer.

    `against` is another model on the same pairs. Where the first was tuned from it, the reward of an answer is what its
    likelihood has gained (Rafailov et al. 2023), and `reward_accuracy` the share of pairs whose chosen answer has the
    higher one. Ties count one half. Facts as JSON.
    """
    found = read_preferences(source)
    console.say("Read", found.describe())
    tell_refused(found.refused, console, kept=False)
    models = [model, *([against] if against else [])]
    fitting, lessons = _fitting(models, found.kept, both_answers, source, console)
    duels = [[Duel(*pair) for pair in own] for own in lessons]
    sums = [_summed_both(one, own, console) for one, own in zip(models, duels, strict=True)]
    lengths = [answer_lengths(own) for own in duels]
    likelier = [told_right(each / own) for each, own in zip(sums, lengths, strict=True)]
    facts: dict[str, Any] = {
        "task": "preferences",
        "pairs": len(fitting),
        "left_out": len(found.kept) - len(fitting),
        "refused": len(found.refused),
        "likelier": float(likelier[0].mean()),
        "likelier_interval": share_interval(likelier[0]),
        "longer": float(told_right(lengths[0]).mean()),
    }
    if against is not None:
        low, high, p = paired_mean_difference(likelier[0], likelier[1])
        rewarded = told_right(sums[0] - sums[1])
        facts["against"] = {
            "likelier": float(likelier[1].mean()),
            "difference_interval": [low, high],
            "p": p,
            "reward_accuracy": float(rewarded.mean()),
            "reward_accuracy_interval": share_interval(rewarded),
        }
    return facts


def _fitting(
    models: Sequence[LanguageModel],
    rows: Sequence[Any],
    lay_out: Callable[[ChatFormat, Any], Sequence[Lesson]],
    source: Path,
    console: Console,
) -> tuple[list[Any], list[list[Sequence[Lesson]]]]:
    """The rows that every model can read as a whole, and their lessons, model by model."""
    for one in models:
        one.chat.require_usable()
    kept: list[Any] = []
    lessons: list[list[Sequence[Lesson]]] = [[] for _ in models]
    first = ""
    for row in rows:
        try:
            laid_out = [lay_out(one.chat, row) for one in models]
            reason = _unfit(models, laid_out)
        except UserError as error:
            reason = str(error).rstrip(".。")
        if reason:
            first = first or reason
            continue
        kept.append(row)
        for mine, own in zip(lessons, laid_out, strict=True):
            mine.append(own)
    if not kept:
        raise UserError(
            "Nothing in {path} can be measured, the first row because: {reason}.",
            code=DATA_REFUSED,
            path=source,
            reason=first,
        )
    if first:
        left = len(rows) - len(kept)
        sentence = "{left:,} of {rows:,} rows are left out, the first because: {reason}"
        console.warn(t(sentence, left=left, rows=len(rows), reason=first))
    return kept, lessons


def _unfit(models: Sequence[LanguageModel], laid_out: Sequence[Sequence[Lesson]]) -> str:
    """Why a row, as each model lays it out, cannot be measured; "" if it can."""
    for one, own in zip(models, laid_out, strict=True):
        if any(len(lesson.ids) - 1 > one.config.reach for lesson in own):
            return t("it is longer than the {tokens:,} tokens that a model reads", tokens=one.config.reach)
        if not all(any(lesson.counted[1:]) for lesson in own) or not _answer_text(one, own):
            return t("an answer is left out by the chat template")
    texts = {"".join(_answer_text(one, own).split()) for one, own in zip(models, laid_out, strict=True)}
    return t("the chat templates of the two models change its answers differently") if len(texts) > 1 else ""


def _answer_text(model: LanguageModel, lessons: Sequence[Lesson]) -> str:
    return "".join(model.tokenizer.decode(lesson.answer) for lesson in lessons)


def _summed(model: LanguageModel, rows: Sequence[Sequence[Lesson]], console: Console) -> np.ndarray:
    """The natural logarithm of the probability of all answers of each row: [N]."""
    lessons = [*itertools.chain(*rows)]
    with console.progress("Evaluate", len(lessons)) as update:
        found = log_likelihoods(model.model, lessons, update=lambda done: update(done, ""))
    require_numbers(found)
    return np.add.reduceat(found, np.cumsum([0, *(len(row) for row in rows[:-1])]))


def _summed_both(model: LanguageModel, duels: Sequence[Duel], console: Console) -> np.ndarray:
    """The same for both answers of each pair: [N, 2], chosen ones first."""
    with console.progress("Evaluate", 2 * len(duels)) as update:
        found = log_likelihoods_of_both(model.model, duels, update=lambda done: update(done, ""))
    require_numbers(found)
    return found


def conversation_lines(facts: dict[str, Any]) -> list[str]:
    """An evaluation on conversations for people."""
    lines = [
        t(
            "{bits:.4f} bits per byte of the answers ({certainty}), {nats:.3f} nats a token, in {conversations:,} "
            "conversations",
            bits=facts["bits_per_byte"],
            certainty=certainty(facts["bits_per_byte_interval"]),
            nats=facts["nats_per_token"],
            conversations=facts["conversations"],
        )
    ]
    speakers = [t("answered")]
    if "against" in facts:
        low, high = facts["against"]["difference_interval"]
        lines.append(
            t(
                "The other model: {theirs:.4f}; difference from {low:+.4f} to {high:+.4f} in 95 % of resamples, p "
                "{p:.3f}. This model holds the answers of {wins:,} conversations likelier, the other those of "
                "{losses:,}.",
                theirs=facts["against"]["bits_per_byte"],
                low=low,
                high=high,
                p=facts["against"]["p"],
                wins=facts["against"]["wins"],
                losses=facts["against"]["losses"],
            )
        )
        speakers = [t("this model"), t("the other model")]
    for sample in facts["samples"]:
        lines += ["", f"> {_start_of(sample['messages'][-1]['content'])}"]
        said = [(t("in the file"), sample["reference"]), *zip(speakers, sample["replies"], strict=True)]
        lines += [f"{who}: {_start_of(text)}" for who, text in said]
    return lines


def _start_of(text: str) -> str:
    return shorten(text.strip(), MOST_CHARACTERS)


def preference_lines(facts: dict[str, Any]) -> list[str]:
    """An evaluation on preferences for people."""
    low, high = facts["likelier_interval"]
    lines = [
        t(
            "The chosen answer is likelier, token by token, in {share:.1%} of {pairs:,} pairs (95 % interval "
            "{low:.1%}-{high:.1%}); it is the longer one in {longer:.1%}",
            share=facts["likelier"],
            pairs=facts["pairs"],
            low=low,
            high=high,
            longer=facts["longer"],
        )
    ]
    if "against" in facts:
        against = facts["against"]
        lines.append(other_share_line(against["likelier"], against))
        lines.append(
            t(
                "Reward accuracy, if this model was tuned from the other: {share:.1%} ({low:.1%}-{high:.1%})",
                share=against["reward_accuracy"],
                low=against["reward_accuracy_interval"][0],
                high=against["reward_accuracy_interval"][1],
            )
        )
    return lines
