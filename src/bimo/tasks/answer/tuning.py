"""`bimo tune --task answer`: an encoder and questions on texts -> an encoder that points at answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from bimo.config import to_mapping
from bimo.console import Console
from bimo.files import digest_file, write_json
from bimo.models.encoder import with_head, with_kinds
from bimo.models.heads import Head
from bimo.runtime import DATA_REFUSED, UserError, pick_device, t
from bimo.tasks.answer.lessons import answerable_lessons, split_questions, stranger_lessons, validation_windows
from bimo.tasks.answer.measuring import TRIED_WITH, Trial, calibrate, own_thresholds, score, score_lines, try_questions
from bimo.tasks.answer.reading import ReaderConfig, load_reader, read_config
from bimo.tasks.answer.retrieval import PassageIndex
from bimo.tasks.folder import claimed, number_format, tell_refused, write_refused
from bimo.tasks.tune import Wish, require_base
from bimo.text.questions import Question, Questions, read_questions
from bimo.tokens.framing import Framing
from bimo.tokens.spans import KINDS, SpanFraming
from bimo.tokens.tokenizer import load_tokenizer
from bimo.train.pretrain import check_output
from bimo.train.spans import SpanBatches, Spans
from bimo.train.tune import TuneConfig, Tuning
from bimo.weights.huggingface import load_encoder, save_encoder
from bimo.weights.names import require_fitting
from bimo.weights.safetensors_files import weight_digests

__all__ = ["tune", "tune_lines"]

RATE_BY_AREA = 18.0
"""Learning rate of AdamW times the squared width of the model: 5e-4 for one of 192, 1.2e-4 for one of 384."""

LORA_RATE = 1e-3
"""Of an adapter; that of classifiers."""

DROPOUT = 0.1

CONTEXT = 128
"""Tokens of a window: several times as many windows a minute as of 384 or 512, and answers rarely need more
(docs/log.md)."""

VALIDATED, MOST_WINDOWS = 96, 1024
"""Questions, and windows of them, that are looked at while it learns; all that is held out is measured at the end."""

LENGTHS_COVERED = 0.99
"""Of the answers that are learned: a single long one would let every answer be as long."""

SAMPLES = 5


class Searched(NamedTuple):
    """Texts, and what finds those of them that fit a question."""

    texts: list[str]
    found_by: PassageIndex


def tune(wish: Wish) -> dict[str, Any]:
    """Let an encoder learn to answer; returns the facts of `bimo/tune.json`."""
    path, out = wish.require_model(), wish.out
    wish.refuse(engine=wish.engine, column=wish.columns, beta=wish.settings.beta, general=wish.general)
    check_output(out)
    settings = wish.settings
    require_base(path, settings)
    found = read_questions(wish.file)
    wish.console.say("Read", found.describe())
    tell_refused(found.refused, wish.console)
    digests = weight_digests(path)
    with claimed(out, {"model": digests, "file": digest_file(wish.file), "settings": to_mapping(settings)}) as finished:
        if finished is not None:
            wish.console.say("Tuning", t("was finished before; nothing to do"))
            return finished
        write_refused(out, found.refused)
        facts = _tune(path, found, settings, out, pick_device(wish.device), wish.console)
        write_json(out / "bimo" / "tune.json", facts)
    return facts


def _tune(
    path: Path, found: Questions, settings: TuneConfig, out: Path, device: torch.device, console: Console
) -> dict[str, Any]:
    """Teach, write what was learned, and measure what was written."""
    encoder, tokenizer = load_encoder(path, device=device), load_tokenizer(path)
    require_fitting(path, tokens=tokenizer.vocabulary, vocabulary=encoder.config.vocabulary)
    rate = RATE_BY_AREA / encoder.config.width**2 if settings.lora is None else LORA_RATE
    settings = settings.filled(rate=rate, context=CONTEXT)
    # An adapter leaves the kinds of tokens as they are.
    matching = settings.lora is None or read_config(path).matching
    if matching and encoder.config.segments < KINDS:
        encoder = with_kinds(encoder, KINDS, seed=settings.seed)
    model = with_head(encoder, Head("span"), seed=settings.seed, dropout=DROPOUT)
    model.compute_dtype = number_format(out, device)
    context = min(settings.context, encoder.config.context)
    framing = SpanFraming(Framing(tokenizer, context=context), matching=matching)
    train, held_out = split_questions(found.kept, seed=settings.seed)
    if not train or not held_out:
        raise UserError(
            "Questions on two texts are needed, some of them to test with, but those in {path} are on one.",
            code=DATA_REFUSED,
            path=found.path,
        )
    texts, unseen = (_searched(questions) for questions in (train, held_out))
    strangers = stranger_lessons(train, *texts, framing, seed=settings.seed)
    learned = [*answerable_lessons(train, framing, seed=settings.seed), *strangers]
    marked = [one.last - one.first + 1 for one in learned if one.first]
    if not marked:
        raise UserError(
            "No answer in {path} could be found among the tokens of its text.", code=DATA_REFUSED, path=found.path
        )
    watched = validation_windows(held_out, framing, seed=settings.seed, count=VALIDATED, most=MOST_WINDOWS)
    tuning = Tuning(
        model,
        Spans(watched, framing, batch=settings.batch),
        SpanBatches(learned, framing, batch=settings.batch, seed=settings.seed),
        settings,
        home=out / "bimo",
        console=console,
    )
    facts = tuning.run()
    save_encoder(out, model, pad=framing.framing.padding, adapter=tuning.adapter, base=path)
    tokenizer.save(out, context=encoder.config.context)
    longest = int(np.quantile(marked, LENGTHS_COVERED, method="higher"))
    config = ReaderConfig(longest, context, matching)
    config.save(out)
    # Where few texts are held out, those that were learned from are all that a question can be tried with.
    tried_with = unseen if len(unseen.texts) > TRIED_WITH else _searched(found.kept)
    trials = try_questions(load_reader(out, device=device), held_out, *tried_with, count=TRIED_WITH)
    config = replace(config, calibration=calibrate(trials))
    config.save(out)
    return {
        "task": "answer",
        "model": str(path),
        "settings": to_mapping(settings),
        **facts,
        "questions": {
            "train": len(train),
            "held_out": len(held_out),
            "windows": len(learned),
            "refused": len(found.refused),
            "repaired": found.repaired,
            "unplaced": found.unplaced,
        },
        "scores": score(trials, own_thresholds(trials)),
        "reader": asdict(config),
        "samples": [_sample(trial) for trial in trials if trial.own is not None][:SAMPLES],
    }


def _searched(questions: Sequence[Question]) -> Searched:
    texts = sorted({question.context for question in questions})
    return Searched(texts, PassageIndex(texts))


def _sample(trial: Trial) -> dict[str, str]:
    assert trial.own is not None
    return {
        "question": trial.question.question,
        "reference": trial.question.references[0],
        "answer": trial.own.text,
    }


def tune_lines(facts: dict[str, Any]) -> list[str]:
    """What a person wants to know of a tuning."""
    lines = score_lines(facts["scores"])
    lines.append(
        t(
            "Trained: {parameters:,} parameters, {epochs:.1f} epochs in {minutes:.1f} min, at most {memory:,.0f} MB of "
            "memory",
            parameters=facts["trained_parameters"],
            epochs=facts["epochs"],
            minutes=facts["seconds"] / 60,
            memory=facts["peak_memory_bytes"] / 1e6,
        )
    )
    for sample in facts["samples"]:
        lines += ["", f"> {sample['question']}", f"{t('answer')}: {sample['answer']}"]
        lines += [f"{t('reference')}: {sample['reference']}"]
    return lines
