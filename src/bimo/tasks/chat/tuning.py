"""`bimo tune --task chat`: a model and conversations -> an adapter, or a model that was tuned whole."""

from __future__ import annotations

import hashlib
import itertools
import json
from pathlib import Path
from typing import Any

import torch

from bimo.console import Console
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
from bimo.text.conversations import Conversation, Conversations, opening, read_conversations
from bimo.text.documents import Rejected, describe_reason
from bimo.text.split import held_out_groups
from bimo.tokens.chat import Lesson
from bimo.train.lessons import Answers, LessonBatches, likelihoods_per_token
from bimo.train.pretrain import check_output
from bimo.train.tune import TuneConfig, Tuning
from bimo.weights.adapters import adapter_to_peft
from bimo.weights.opening import OpenedModel, open_model

__all__ = ["tune", "tune_lines"]

LORA_RATE, FULL_RATE = 1e-3, 5e-5
"""Learning rates of AdamW. The first lowered the held-out loss of a real model (docs/log.md); the second is untried."""

MOST_HELD_OUT = 100
HELD_OUT_SHARE = 0.1
SAMPLES = 3


def tune(wish: Wish) -> dict[str, Any]:
    """Let a model learn from conversations; returns the facts of `bimo/tune.json`."""
    path, out = wish.require_model(), wish.out
    wish.refuse(engine=wish.engine, column=wish.columns, beta=wish.settings.beta)
    settings = wish.settings.filled(rate=FULL_RATE if wish.settings.lora is None else LORA_RATE)
    check_output(out)
    where = pick_device(wish.device)
    opened = open_model(path, device=where)
    found = read_conversations(wish.file)
    wish.console.say("Read", found.describe())
    lessons = _split(found, opened, settings)
    return tune_decoder(
        wish,
        opened,
        settings,
        found,
        lessons,
        task="chat",
        rows="conversations",
        learn=lambda general: _tune(opened, lessons, general, settings, out, where, wish.console),
    )


def _split(found: Conversations, opened: OpenedModel, settings: TuneConfig) -> Split[Lesson, Conversation]:
    """Which conversations are held out, with all that begin alike, depends on what they say and on the seed alone."""
    lessons: Split[Lesson, Conversation] = Split(opened.chat())
    lessons.format.require_usable()
    length = min(settings.context, opened.source.config.context) + 1
    usable: dict[str, tuple[Conversation, list[Lesson]]] = {}
    for conversation in found.kept:
        text = json.dumps(conversation.messages, ensure_ascii=False)
        reason, key = "", hashlib.sha256(f"{settings.seed}{text}".encode()).hexdigest()
        try:
            whole = lessons.format.lessons(conversation.messages)
        except UserError as error:
            whole, reason = [], str(error)
        cut = [Lesson(lesson.ids[:length], lesson.counted[:length]) for lesson in whole]
        kept = [lesson for lesson in cut if any(lesson.counted[1:])]
        if key in usable:
            reason = describe_reason("duplicate")
        elif whole and not kept:
            reason = t("its answers begin after {tokens:,} tokens", tokens=length - 1)
        if reason:
            found.refused.append(Rejected(found.path.name, conversation.row, "bad_row", reason, text[:200]))
            continue
        lessons.counts["cut"] += any(len(lesson.ids) > length for lesson in whole)
        usable[key] = conversation, kept
    if len(usable) < 2:
        raise UserError(
            "Two conversations are needed, one of them to test with, but {count} in {path} can be used{first}.",
            code=DATA_REFUSED,
            path=found.path,
            count=len(usable),
            first=f" ({found.refused[0]})" if found.refused else "",
        )
    questions: dict[str, list[str]] = {}
    for key in sorted(usable):
        questions.setdefault(opening(usable[key][0].messages), []).append(key)
    # Where all begin alike, at least no conversation is on both sides.
    groups = list(questions.values()) if len(questions) > 1 else [[key] for key in sorted(usable)]
    held = held_out_groups(list(map(len, groups)), share=HELD_OUT_SHARE, most=MOST_HELD_OUT)
    for keys, held_out in zip(groups, held, strict=True):
        for key in keys:
            (lessons.held_out if held_out else lessons.train).extend(usable[key][1])
        lessons.counts["held_out" if held_out else "train"] += len(keys)
        asked = (usable[key][0] for key in keys if usable[key][0].first_exchange[0])
        if held_out and len(lessons.examples) < SAMPLES:
            lessons.examples.extend(itertools.islice(asked, 1))
    return lessons


def _tune(
    opened: OpenedModel,
    lessons: Split[Lesson, Conversation],
    general: General | None,
    settings: TuneConfig,
    out: Path,
    device: torch.device,
    console: Console,
) -> dict[str, Any]:
    """Tune, write what was learned, and look at the model before and after."""
    model = opened.decoder(device=device)
    model.compute_dtype = number_format(out, device)
    format_, examples = lessons.format, [conversation.first_exchange for conversation in lessons.examples]
    prompts = [prompt for prompt, _ in examples]
    console.say("Before", looking())
    said = [replies(untuned(opened, device), prompts)]
    bits, likely = [bits_per_byte(model, general)], [likelihoods_per_token(model, lessons.held_out)]
    bytes_ = sum(len(opened.tokenizer.decode(lesson.answer).encode()) for lesson in lessons.held_out)
    tuning = Tuning(
        model,
        Answers(lessons.held_out, held_out_bytes=bytes_, batch=settings.batch),
        LessonBatches(lessons.train, batch=settings.batch, seed=settings.seed),
        settings,
        home=out / "bimo",
        console=console,
    )
    if tuning.adapter is not None:
        adapter_to_peft(tuning.adapter, model.config)  # while it has cost nothing: can it be written at all?
    facts = tuning.run()
    console.say("After", looking())
    bits.append(bits_per_byte(model, general))
    likely.append(likelihoods_per_token(model, lessons.held_out))
    said.append(replies(save_tuned(out, tuning, opened, device, format_), prompts))
    samples = [
        {"messages": prompt, "reference": reference, "before": one, "after": other}
        for (prompt, reference), one, other in zip(examples, *said, strict=True)
    ]
    return {
        **facts,
        "answers": wins(*likely),
        "general": general and {"name": general.name, "before": bits[0], "after": bits[1]},
        "samples": samples,
    }


def tune_lines(facts: dict[str, Any]) -> list[str]:
    """What a person wants to know of a tuning."""
    before, after = facts["held_out"]["before"], facts["held_out"]["after"]
    return [
        t(
            "Held-out loss: {before:.3f} before, {after:.3f} after; bits per byte of answers: {low:.3f}, {high:.3f}",
            before=before["loss"],
            after=after["loss"],
            low=before["bits_per_byte"],
            high=after["bits_per_byte"],
        ),
        t(
            "Of {answers:,} held-out conversations, or parts that a template lays out anew, the answers of {wins:,} "
            "became likelier, of {losses:,} less likely",
            **facts["answers"],
        ),
        general_line(facts),
        training_line(facts, t("{rate:,.0f} answer tokens/s", rate=facts["targets_per_second"])),
        base_line(facts),
        *sample_lines(facts),
    ]
