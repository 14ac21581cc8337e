"""`bimo tune --task prefer`: a model and pairs of answers, one better than the other -> one that tells them apart."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bimo.console import Console
from bimo.intervals import share_interval
from bimo.runtime import DATA_REFUSED, UserError, pick_device, t
from bimo.tasks.chat.before_after import (
    General,
    base_line,
    bits_per_byte,
    general_line,
    looking,
    replies,
    sample_lines,
    save_tuned,
    training_line,
    untuned,
    wins,
)
from bimo.tasks.chat.decoders import Split, tune_decoder
from bimo.tasks.folder import number_format
from bimo.tasks.tune import Wish
from bimo.text.conversations import opening
from bimo.text.documents import Rejected, describe_reason
from bimo.text.preferences import Preference, Preferences, read_preferences
from bimo.text.split import held_out_groups
from bimo.tokens.chat import ChatFormat, Lesson
from bimo.train.preferences import (
    Duel,
    DuelBatches,
    Preferred,
    answer_lengths,
    divergence,
    log_likelihoods_of_both,
    told_right,
)
from bimo.train.pretrain import check_output
from bimo.train.tune import TuneConfig, Tuning
from bimo.weights.adapters import adapter_to_peft
from bimo.weights.opening import OpenedModel, open_model

__all__ = ["both_answers", "tune", "tune_lines"]

MOST_HELD_OUT = 200
HELD_OUT_SHARE = 0.2
"""More than of conversations: a share of pairs that are told right is a coarse figure."""

SAMPLES = 3
BETA = 0.1
"""As in Rafailov et al. 2023, section 6."""

LORA_RATE, FULL_RATE = 2e-4, 1e-4
"""The second for a million parameters. It falls as they grow: with hundreds of millions it is that of the field."""


def tune(wish: Wish) -> dict[str, Any]:
    """Let a model prefer the better one of two answers; returns the facts of `bimo/tune.json`."""
    path, out = wish.require_model(), wish.out
    wish.refuse(engine=wish.engine, column=wish.columns)
    check_output(out)
    where = pick_device(wish.device)
    opened = open_model(path, device=where)
    full = FULL_RATE * min(1.0, 1e6 / opened.source.config.parameters)
    settings = wish.settings.filled(rate=full if wish.settings.lora is None else LORA_RATE, beta=BETA)
    found = read_preferences(wish.file)
    wish.console.say("Read", found.describe())
    duels = _split(found, opened, settings)
    return tune_decoder(
        wish,
        opened,
        settings,
        found,
        duels,
        task="prefer",
        rows="pairs",
        learn=lambda general: _tune(opened, duels, general, settings, out, where, wish.console),
    )


def _split(found: Preferences, opened: OpenedModel, settings: TuneConfig) -> Split[Duel, Preference]:
    """Which questions are held out, each with all of its pairs, depends on what they say and on the seed alone."""
    duels: Split[Duel, Preference] = Split(opened.chat())
    duels.format.require_usable()
    length = min(settings.context, opened.source.config.context) + 1
    usable: dict[str, list[tuple[str, Preference, Duel]]] = {}
    seen = set()
    for preference in found.kept:
        said = (json.dumps(preference.messages, ensure_ascii=False), preference.chosen, preference.rejected)
        if said in seen:
            reason, duel = describe_reason("duplicate"), None
        else:
            reason, duel = _duel(duels, preference, length)
        seen.add(said)
        if duel is None:
            found.refused.append(Rejected(found.path.name, preference.row, "bad_row", reason, said[0][:200]))
            continue
        place = hashlib.sha256(f"{settings.seed}{said[0]}".encode()).hexdigest()
        usable.setdefault(opening(preference.messages), []).append((place, preference, duel))
    if len(usable) == 1:  # all begin alike; then at least no question is on both sides
        alike = [one for group in usable.values() for one in group]
        usable = {}
        for one in alike:
            usable.setdefault(one[0], []).append(one)
    if len(usable) < 2:
        raise UserError(
            "Pairs of answers to two questions are needed, one of them to test with, but {path} has usable ones of "
            "{count}{first}.",
            code=DATA_REFUSED,
            path=found.path,
            count=len(usable),
            first=f" ({found.refused[0]})" if found.refused else "",
        )
    groups = sorted(usable.values(), key=lambda group: min(place for place, *_ in group))
    held = held_out_groups(list(map(len, groups)), share=HELD_OUT_SHARE, most=MOST_HELD_OUT)
    for group, held_out in zip(groups, held, strict=True):
        (duels.held_out if held_out else duels.train).extend(duel for *_, duel in group)
        duels.counts["held_out" if held_out else "train"] += len(group)
        if held_out and len(duels.examples) < SAMPLES:
            duels.examples.append(group[0][1])
    return duels


def both_answers(chat: ChatFormat, preference: Preference) -> tuple[Lesson, Lesson]:
    """What is learned of the chosen answer and of the rejected one. Raises UserError as `ChatFormat.lessons` does."""
    chosen, rejected = (
        chat.last_lesson([*preference.messages, {"role": "assistant", "content": text}])
        for text in (preference.chosen, preference.rejected)
    )
    return chosen, rejected


def _duel(duels: Split[Duel, Preference], preference: Preference, length: int) -> tuple[str, Duel | None]:
    """The reason why it cannot be used, or "" and what can."""
    try:
        whole = both_answers(duels.format, preference)
    except UserError as error:
        return str(error), None
    chosen, rejected = (Lesson(lesson.ids[:length], lesson.counted[:length]) for lesson in whole)
    if not any(chosen.counted[1:]) or not any(rejected.counted[1:]):
        return t("its answers begin after {tokens:,} tokens", tokens=length - 1), None
    if chosen.ids == rejected.ids:
        return t("its answers do not differ within {tokens:,} tokens", tokens=length - 1), None
    duels.counts["cut"] += any(len(lesson.ids) > length for lesson in whole)
    return "", Duel(chosen, rejected)


def _tune(
    opened: OpenedModel,
    duels: Split[Duel, Preference],
    general: General | None,
    settings: TuneConfig,
    out: Path,
    device: torch.device,
    console: Console,
) -> dict[str, Any]:
    """Tune, write what was learned, and look at the model before and after."""
    model = opened.decoder(device=device)
    model.compute_dtype = number_format(out, device)
    prompts = [[*example.messages] for example in duels.examples]
    console.say("Before", looking())
    said = [replies(untuned(opened, device), prompts)]
    held_out = duels.held_out
    lengths = answer_lengths(held_out)
    bits, likely = [bits_per_byte(model, general)], [log_likelihoods_of_both(model, held_out) / lengths]
    batches = DuelBatches(duels.train, batch=settings.batch, seed=settings.seed)
    objective = Preferred(duels.train, held_out, beta=settings.beta, batch=settings.batch)
    tuning = Tuning(model, objective, batches, settings, home=out / "bimo", console=console)
    if tuning.adapter is not None:
        adapter_to_peft(tuning.adapter, model.config)  # while it has cost nothing: can it be written at all?
    with console.progress("Reference", 1.0) as update:
        objective.ask_reference(model, batches, update=lambda done: update(done, ""))
    facts = tuning.run()
    console.say("After", looking())
    gains = objective.gains(model)
    reference = None if tuning.adapter is not None else open_model(opened.path, device=device).decoder(device=device)
    if reference is not None:
        reference.compute_dtype = model.compute_dtype
    facts["divergence"] = divergence(model, reference, [*(duel.chosen for duel in held_out)])
    bits.append(bits_per_byte(model, general))
    likely.append(log_likelihoods_of_both(model, held_out) / lengths)
    said.append(replies(save_tuned(out, tuning, opened, device, duels.format), prompts))
    samples = [
        {"messages": prompt, "reference": example.chosen, "rejected": example.rejected, "before": one, "after": other}
        for prompt, example, one, other in zip(prompts, duels.examples, *said, strict=True)
    ]
    return {
        "beta": settings.beta,
        **facts,
        "accuracy": _accuracy(gains, lengths),
        "chosen": wins(likely[0][:, 0], likely[1][:, 0]),
        "rejected": wins(likely[0][:, 1], likely[1][:, 1]),
        "likelier": {
            "before": float(told_right(likely[0]).mean()),
            "after": float(told_right(likely[1]).mean()),
        },
        "general": general and {"name": general.name, "before": bits[0], "after": bits[1]},
        "samples": samples,
    }


def _accuracy(gains: np.ndarray, lengths: np.ndarray) -> dict[str, Any]:
    """The share of held-out pairs that are told right, with its 95 % interval; beside it that of the longer answer."""
    right = told_right(gains)
    return {
        "share": float(right.mean()),
        "interval": share_interval(right),
        "pairs": len(right),
        "longer": float(told_right(lengths).mean()),
    }


def tune_lines(facts: dict[str, Any]) -> list[str]:
    """What a person wants to know of a tuning."""
    accuracy, after = facts["accuracy"], facts["held_out"]["after"]
    low, high = accuracy["interval"]
    return [
        t(
            "Held-out pairs told right: {share:.1%} of {pairs:,} (95 % interval {low:.1%}-{high:.1%}); 50 % is "
            "chance, and {longer:.1%} have the longer answer chosen",
            **accuracy,
            low=low,
            high=high,
        ),
        t(
            "Held-out loss: {before:.3f} before, {after:.3f} after; reward of chosen answers {chosen:+.3f}, of "
            "rejected ones {rejected:+.3f} (beta {beta:g})",
            before=facts["held_out"]["before"]["loss"],
            after=after["loss"],
            chosen=after["chosen_reward"],
            rejected=after["rejected_reward"],
            beta=facts["beta"],
        ),
        t(
            "Likelier, token by token: the chosen answer in {before:.1%} of the pairs before, in {after:.1%} after",
            **facts["likelier"],
        ),
        t(
            "Of {answers:,} held-out pairs the chosen answer became likelier in {chosen:,}, the rejected one in "
            "{rejected:,}",
            answers=facts["chosen"]["answers"],
            chosen=facts["chosen"]["wins"],
            rejected=facts["rejected"]["wins"],
        ),
        t(
            "KL divergence from the model as it was: {nats:.4f} nats a token, exact, along the chosen answers that "
            "are held out",
            nats=facts["divergence"],
        ),
        general_line(facts),
        training_line(facts, t("{rate:,.1f} pairs/s", rate=facts["targets_per_second"])),
        base_line(facts),
        *sample_lines(facts),
    ]
