"""`bimo tune`: a model and a file of conversations -> an adapter, or a model that was tuned whole."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

import bimo
from bimo.config import to_mapping
from bimo.console import SILENT, Console
from bimo.files import digest_file, digest_json, locked, read_json, replacing, write_json
from bimo.generate.engine import LanguageModel, load
from bimo.generate.sample import Sampling
from bimo.machine import measure_machine
from bimo.runtime import DATA_REFUSED, USAGE, UserError, pick_device, t
from bimo.text.conversations import Conversation, Conversations, read_conversations
from bimo.text.documents import Rejected, describe_reason
from bimo.tokens.chat import ChatFormat, Lesson, Message
from bimo.train.pretrain import check_output
from bimo.train.tune import TuneConfig, Tuning
from bimo.weights.adapters import adapter_to_peft, save_adapter
from bimo.weights.chat_templates import TEMPLATE_FILE
from bimo.weights.huggingface import save_model
from bimo.weights.opening import OpenedModel, open_model

__all__ = ["TASKS", "tune", "tune_lines"]

TASKS = ("chat",)

MOST_HELD_OUT = 100
HELD_OUT_SHARE = 0.1
SAMPLES = 3
SAMPLE_TOKENS = 80
GREEDY = Sampling(temperature=0.0)
REFUSALS_SHOWN = 3

UNMADE = (".lock", "manifest.json", "refused.jsonl", "metrics.jsonl")
"""What stands in a folder although nothing was learned yet, such as after a setting that was refused."""


def tune(
    model: str | Path,
    file: str | Path,
    *,
    out: str | Path,
    task: str = "chat",
    settings: TuneConfig | None = None,
    device: str = "auto",
    console: Console = SILENT,
) -> dict[str, Any]:
    """Let a model learn from conversations; returns the facts of `bimo/tune.json`.

    The same call goes on where an earlier one stopped. Raises UserError when model, file or folder will not do.
    """
    path, file, out, settings = Path(model), Path(file), Path(out), settings or TuneConfig()
    if task not in TASKS:
        raise UserError(
            "--task must be one of {tasks}, but is {task!r}.", code=USAGE, tasks=", ".join(TASKS), task=task
        )
    check_output(out)
    where = pick_device(device)
    opened = open_model(path, device=where)
    if out.exists() and path.exists() and out.resolve() == path.resolve():
        raise UserError("The model {path} is not overwritten. Choose another folder with --out.", code=USAGE, path=path)
    found = read_conversations(file)
    console.say("Read", found.describe())
    lessons = _split(found, opened, settings)
    _tell_refused(found, console)
    with locked(out / "bimo"):
        digests = opened.digests()
        inputs = {"model": digests, "file": digest_file(file), "template": lessons.format.template.source}
        key = digest_json({**inputs, "settings": to_mapping(settings)})
        if _claimed(out, key):
            console.say("Tuning", t("was finished before; nothing to do"))
            return read_json(out / "bimo" / "tune.json")
        write_json(out / "bimo" / "manifest.json", {"bimo": bimo.__version__, "key": key, "inputs": inputs})
        _write_refused(out / "bimo" / "refused.jsonl", found.refused)
        facts = _tune(opened, lessons, settings, out, where, console)
        facts |= {"conversations": {**lessons.counts, "refused": len(found.refused)}, "forms": dict(found.forms)}
        facts["base"] = {"before": digests, "after": opened.digests()}
        write_json(out / "bimo" / "tune.json", facts)
    shutil.rmtree(out / "bimo" / "checkpoints", ignore_errors=True)
    return facts


def _claimed(out: Path, key: str) -> bool:
    """Whether this very tuning is finished in `out`. Raises UserError when anything else was made there."""
    home = out / "bimo"
    if (home / "manifest.json").exists() and read_json(home / "manifest.json").get("key") != key:
        made = [path for path in out.rglob("*") if path.is_file() and path not in {home / name for name in UNMADE}]
        if made:
            raise UserError(
                "{out} holds something made from another model, file or settings. Choose another folder with --out, or "
                "delete that one.",
                code=USAGE,
                out=out,
            )
        return False
    return (home / "tune.json").exists()


@dataclass
class _Lessons:
    """What is tuned on, and what is held out to test with."""

    format: ChatFormat
    train: list[Lesson] = field(default_factory=list)
    held_out: list[Lesson] = field(default_factory=list)
    examples: list[Conversation] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=lambda: {"train": 0, "held_out": 0, "cut": 0})


def _split(found: Conversations, opened: OpenedModel, settings: TuneConfig) -> _Lessons:
    """Which conversations are held out depends on what they say and on the seed alone."""
    lessons = _Lessons(opened.chat())
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
    held_out = min(MOST_HELD_OUT, max(1, round(HELD_OUT_SHARE * len(usable))))
    for number, key in enumerate(sorted(usable)):
        conversation, kept = usable[key]
        (lessons.held_out if number < held_out else lessons.train).extend(kept)
        lessons.counts["held_out" if number < held_out else "train"] += 1
        if number < min(held_out, SAMPLES):
            lessons.examples.append(conversation)
    return lessons


def _tell_refused(found: Conversations, console: Console) -> None:
    for rejected in found.refused[:REFUSALS_SHOWN]:
        console.warn(str(rejected))
    if len(found.refused) > REFUSALS_SHOWN:
        left = len(found.refused) - REFUSALS_SHOWN
        console.warn(t("{left:,} more rows are set aside; all stand in bimo/refused.jsonl", left=left))


def _write_refused(path: Path, refused: list[Rejected]) -> None:
    with replacing(path) as part:
        lines = (json.dumps({"row": r.line, "reason": r.detail, "text": r.text}, ensure_ascii=False) for r in refused)
        part.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def _tune(
    opened: OpenedModel, lessons: _Lessons, settings: TuneConfig, out: Path, device: torch.device, console: Console
) -> dict[str, Any]:
    """Tune, write what was learned, and let the model speak before and after."""
    model = opened.decoder(device=device)
    model.compute_dtype = getattr(torch, measure_machine(device, seconds=0.2).dtype)
    format_, examples = lessons.format, [_prompt(conversation) for conversation in lessons.examples]
    before = _replies(LanguageModel(opened.source, opened.tokenizer, ends=opened.ends, chat=opened.chat), examples)
    tuning = Tuning(
        model,
        lessons.train,
        lessons.held_out,
        settings,
        answer_bytes=sum(_answer_bytes(lesson, opened) for lesson in lessons.held_out),
        home=out / "bimo",
        console=console,
    )
    if tuning.adapter is not None:
        adapter_to_peft(tuning.adapter, tuning.model.config)  # while it has cost nothing: can it be written at all?
    facts = tuning.run()
    with replacing(out / TEMPLATE_FILE) as part:
        part.write_text(format_.template.source, encoding="utf-8", newline="")
    if tuning.adapter is not None:
        save_adapter(out, tuning.adapter, tuning.model.config, base=str(opened.path))
        tuned = load(opened.path, adapter=out)
    else:
        tokenizer = opened.tokenizer
        end = tokenizer.end if format_.closing is None else format_.closing
        save_model(out, tuning.model, end=end, begin=tokenizer.begin[0] if tokenizer.begin else None)
        tokenizer.save(out, context=tuning.model.config.context)
        tuned = load(out)
    after = _replies(tuned, examples)
    samples = [
        {"messages": prompt, "reference": reference, "before": one, "after": other}
        for (prompt, reference), one, other in zip(examples, before, after, strict=True)
    ]
    return {"task": "chat", "model": str(opened.path), "settings": to_mapping(settings), **facts, "samples": samples}


def _prompt(conversation: Conversation) -> tuple[list[Message], str]:
    """The messages up to the first answer, and that answer."""
    messages = [*conversation.messages]
    place = next(number for number, message in enumerate(messages) if message["role"] == "assistant")
    return messages[:place], messages[place]["content"]


def _replies(model: LanguageModel, examples: list[tuple[list[Message], str]]) -> list[str]:
    return ["".join(model.reply(prompt, max_tokens=SAMPLE_TOKENS, sampling=GREEDY)) for prompt, _ in examples]


def _answer_bytes(lesson: Lesson, opened: OpenedModel) -> int:
    answer = [id for id, counted in zip(lesson.ids, lesson.counted, strict=True) if counted]
    return len(opened.tokenizer.decode(answer).encode())


def tune_lines(facts: dict[str, Any]) -> list[str]:
    """What a person wants to know of a tuning."""
    loss, bits = facts["held_out_loss"], facts["held_out_bits_per_byte"]
    lines = [
        t(
            "Held-out loss: {before:.3f} before, {after:.3f} after; bits per byte of answers: {low:.3f}, {high:.3f}",
            before=loss["before"],
            after=loss["after"],
            low=bits["before"],
            high=bits["after"],
        ),
        t(
            "Trained: {trained:,} of {parameters:,} parameters, {epochs:.1f} epochs in {minutes:.1f} min, "
            "{rate:,.0f} answer tokens/s, at most {memory:,.0f} MB of memory",
            trained=facts["trained_parameters"],
            parameters=facts["parameters"],
            epochs=facts["epochs"],
            minutes=facts["seconds"] / 60,
            rate=facts["targets_per_second"],
            memory=facts["peak_memory_bytes"] / 1e6,
        ),
        t("The base model's files are unchanged.")
        if facts["base"]["before"] == facts["base"]["after"]
        else t("The base model's files have changed meanwhile."),
    ]
    for sample in facts["samples"]:
        lines += ["", f"> {sample['messages'][-1]['content']}"]
        lines += [f"{t('before')}: {sample['before'].strip()}", f"{t('after')}: {sample['after'].strip()}"]
    return lines
