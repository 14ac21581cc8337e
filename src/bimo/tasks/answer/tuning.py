"""`bimo tune --task answer`: an encoder and questions on texts -> an encoder that points at answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from bimo.config import to_mapping
from bimo.console import Console
from bimo.files import digest_file, write_json
from bimo.models.encoder import with_head
from bimo.models.heads import Head
from bimo.runtime import DATA_REFUSED, UserError, pick_device, t
from bimo.tasks.answer.lessons import answerable_lessons, split_questions, stranger_lessons
from bimo.tasks.answer.measuring import TRIED_WITH, Trial, calibrate, own_thresholds, score, score_lines, try_questions
from bimo.tasks.answer.reading import CALIBRATION_FILE, Calibration, load_reader
from bimo.tasks.answer.retrieval import PassageIndex
from bimo.tasks.folder import claimed, number_format, tell_refused, write_refused
from bimo.tasks.tune import Wish, require_base
from bimo.text.questions import Question, Questions, read_questions
from bimo.tokens.framing import Framing
from bimo.tokens.spans import SpanFraming
from bimo.tokens.tokenizer import load_tokenizer
from bimo.train.pretrain import check_output
from bimo.train.spans import MarkedWindow, SpanBatches, Spans
from bimo.train.tune import TuneConfig, Tuning
from bimo.weights.huggingface import load_encoder, save_encoder
from bimo.weights.names import require_fitting
from bimo.weights.safetensors_files import weight_digests

__all__ = ["tune", "tune_lines"]

RATE, LORA_RATE = 1e-4, 1e-3
"""Of AdamW, for all weights and for an adapter; the second is that of classifiers."""

DROPOUT, CONTEXT = 0.1, 512
VALIDATED = 96
"""Windows that are looked at while it learns; all of what is held out is measured at the end."""

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
    wish.refuse(
        engine=wish.engine,
        column=wish.columns,
        beta=wish.settings.beta,
        general=wish.general,
    )
    check_output(out)
    require_base(path, wish.settings)
    settings = wish.settings.filled(rate=RATE if wish.settings.lora is None else LORA_RATE, context=CONTEXT)
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
    model = with_head(encoder, Head("span"), seed=settings.seed, dropout=DROPOUT)
    model.compute_dtype = number_format(out, device)
    framing = SpanFraming(Framing(tokenizer, context=min(settings.context, encoder.config.context)))
    train, held_out = split_questions(found.kept, seed=settings.seed)
    if not train or not held_out:
        raise UserError(
            "Questions on two texts are needed, some of them to test with, but those in {path} are on one.",
            code=DATA_REFUSED,
            path=found.path,
        )
    texts, unseen = (_searched(questions) for questions in (train, held_out))

    def lessons(questions: list[Question], searched: Searched) -> list[MarkedWindow]:
        strangers = stranger_lessons(questions, *searched, framing, seed=settings.seed)
        return [*answerable_lessons(questions, framing), *strangers]

    learned, tested = lessons(train, texts), lessons(held_out, unseen)
    marked = [one.last - one.first + 1 for one in learned if one.first]
    if not marked:
        raise UserError(
            "No answer in {path} could be found among the tokens of its text.", code=DATA_REFUSED, path=path
        )
    chosen = np.random.default_rng(settings.seed).permutation(len(tested))[:VALIDATED]
    tuning = Tuning(
        model,
        Spans([tested[number] for number in chosen], framing, batch=settings.batch),
        SpanBatches(learned, framing, batch=settings.batch, seed=settings.seed),
        settings,
        home=out / "bimo",
        console=console,
    )
    facts = tuning.run()
    save_encoder(out, model, pad=framing.framing.padding, adapter=tuning.adapter, base=path)
    tokenizer.save(out, context=encoder.config.context)
    longest = int(np.quantile(marked, LENGTHS_COVERED, method="higher"))
    calibration = Calibration(longest=longest)
    context = framing.framing.context
    write_json(out / "bimo" / CALIBRATION_FILE, {**asdict(calibration), "context": context})
    # Where few texts are held out, those that were learned from are all that a question can be tried with.
    tried_with = unseen if len(unseen.texts) > TRIED_WITH else _searched(found.kept)
    trials = try_questions(load_reader(out, device=device), held_out, *tried_with, count=TRIED_WITH)
    calibration = calibrate(trials, longest=longest)
    write_json(out / "bimo" / CALIBRATION_FILE, {**asdict(calibration), "context": context})
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
        "calibration": asdict(calibration),
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
