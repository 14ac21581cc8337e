"""`bimo tune --task classify`: texts with labels -> a classifier, with what it reached on texts held out."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from bimo.config import to_mapping
from bimo.files import digest_json, write_json
from bimo.machine import measure_machine, peak_memory_bytes
from bimo.models.lora import adapter_of
from bimo.runtime import DATA_REFUSED, USAGE, UserError, pick_device, t
from bimo.tasks.classify.linear_training import Trained, train_linear
from bimo.tasks.classify.measures import measure, truth_matrix
from bimo.tasks.classify.report import figures_line, mistakes_in, write_report
from bimo.tasks.folder import claimed, write_refused
from bimo.tasks.tune import Wish, require_base
from bimo.text.inventory import file_digests
from bimo.text.labelled import Labelled, LabelledFile, read_labelled, split_labelled
from bimo.text.sources import find_sources
from bimo.train.pretrain import check_output
from bimo.train.tune import TuneConfig
from bimo.weights.huggingface import family_in, save_encoder, shape_in
from bimo.weights.safetensors_files import weight_digests

__all__ = ["tune", "tune_lines"]

ENGINES = ("linear", "vectors", "encoder", "lstm", "decoder")
FROM_NOTHING = ("linear", "lstm")
CHARACTERS_PER_TOKEN = 3
FLOPS_SHARE = 0.4
"""Of what the machine multiplies at best."""


def tune(wish: Wish) -> dict[str, Any]:
    """Learn to classify; returns the facts of `bimo/tune.json`. Raises UserError when file or model will not do."""
    wish.refuse(beta=wish.settings.beta, general=wish.general)
    check_output(wish.out)
    found = read_labelled(wish.file, columns=wish.columns)
    wish.console.say("Read", found.describe())
    for line in found.refused_lines():
        wish.console.warn(line)
    _require_labels(found)
    engine, reason = _choose_engine(wish, found)
    if engine != "encoder":
        _require_unset(wish.settings, engine)
    require_base(wish.model, wish.settings)
    wish.console.say("Plan", t("engine {engine}: {reason}", engine=engine, reason=reason))
    files = file_digests(find_sources([wish.file]))
    model = {} if wish.model is None else weight_digests(wish.model)
    settings = to_mapping(wish.settings)
    inputs = {"task": "classify", "engine": engine, "model": model, "file": digest_json(files)}
    with claimed(wish.out, {**inputs, "columns": dict(wish.columns), "settings": settings}) as finished:
        if finished is not None:
            wish.console.say("Tuning", t("was finished before; nothing to do"))
            return finished
        write_refused(wish.out, found.refused)
        begun = time.perf_counter()
        made = {"linear": _linear, "vectors": _vectors, "encoder": _encoder, "lstm": _recurrent}[engine](wish, found)
        facts = {
            "task": "classify",
            "engine": engine,
            "reason": reason,
            "model": None if wish.model is None else str(wish.model),
            "settings": settings,
            "labels": found.labels,
            "several": found.several,
            "examples": {"kept": len(found.examples), "refused": len(found.refused)},
            "set_aside": found.refused_lines(),
            **made,
            "seconds": time.perf_counter() - begun,
            "peak_memory_bytes": peak_memory_bytes(),
        }
        write_report(wish.out / "bimo" / "report.html", facts, name=wish.out.resolve().name)
        write_json(wish.out / "bimo" / "tune.json", facts)
    return facts


def _require_labels(found: LabelledFile) -> None:
    if len(found.labels) < 2 and not found.several:
        raise UserError(
            "All {texts:,} texts of {path} have the label {label}, so there is nothing to tell apart. Add texts with "
            "another label, or name the column that holds the labels: --column label=...",
            code=DATA_REFUSED,
            texts=len(found.examples),
            path=found.path,
            label=found.labels[0],
        )
    if len(found.examples) < 4 or not found.labels:
        raise UserError(
            "{path} holds {texts} texts with labels; four are needed at least, some of them to test with.",
            code=DATA_REFUSED,
            path=found.path,
            texts=len(found.examples),
        )


def _choose_engine(wish: Wish, found: LabelledFile) -> tuple[str, str]:
    """What to learn with, and why."""
    if wish.engine and wish.engine not in ENGINES:
        sentence = "--engine must be one of {engines}, but is {engine!r}."
        raise UserError(sentence, code=USAGE, engines=", ".join(ENGINES), engine=wish.engine)
    if wish.engine == "decoder":
        raise UserError(
            "A language model needs no tuning to classify: bimo classify MODEL --labels a,b TEXT, with --examples FILE "
            "to show it some.",
            code=USAGE,
        )
    if wish.engine in FROM_NOTHING and wish.model is not None:
        raise UserError("The engine {engine} begins with nothing: leave the model out.", code=USAGE, engine=wish.engine)
    family = "" if wish.model is None else family_in(wish.model)
    if wish.model is not None and family != "encoder":
        raise UserError(
            "{model} is no encoder, and only those are tuned to classify. Without a model: bimo tune FILE --task "
            "classify; with a language model as it is: bimo classify MODEL --labels a,b TEXT.",
            code=USAGE,
            model=wish.model,
        )
    if wish.engine == "vectors" and wish.model is None:
        raise UserError("The engine vectors needs an encoder: bimo tune MODEL FILE --task classify.", code=USAGE)
    if wish.engine:
        return wish.engine, t("as was asked for")
    if wish.settings.lora is not None:
        return "encoder", t("an adapter learns beside an encoder")
    if wish.model is None:
        return "linear", t("no model to start from was named, and n-grams learn the most from texts alone")
    return "vectors", t(
        "n-grams and the vectors of the model together, which needs it to read each text but once; --engine encoder "
        "tunes it, in about {minutes:.0f} min",
        minutes=_encoder_minutes(wish, found),
    )


def _require_unset(settings: TuneConfig, engine: str) -> None:
    """Raises UserError for what says how to tune an encoder, which the other engines do not do."""
    for option in ("lora",) if engine == "lstm" else ("epochs", "minutes", "rate", "batch", "context", "lora"):
        if getattr(settings, option):
            raise UserError(
                "--{option} is about tuning an encoder; the engine {engine} has no use for it. Leave it out, or choose "
                "--engine encoder.",
                code=USAGE,
                option=option,
                engine=engine,
            )


def _encoder_minutes(wish: Wish, found: LabelledFile) -> float:
    """About how long tuning takes here."""
    from bimo.tasks.classify.neural_tuning import usual

    assert wish.model is not None
    settings, shape = usual(wish.settings, from_nothing=False), shape_in(wish.model)
    assert shape is not None
    most = min(settings.context, shape.context)
    tokens = sum(min(most, 2 + len(one.text + one.second) / CHARACTERS_PER_TOKEN) for one in found.examples)
    flops = 6 * (shape.parameters - shape.vocabulary * shape.width) * tokens * settings.epochs
    rates = measure_machine(pick_device(wish.device), seconds=0.1).matrix_flops
    return flops / (FLOPS_SHARE * max(rates.values())) / 60


def _linear(wish: Wish, found: LabelledFile) -> dict[str, Any]:
    trained = _train(wish, found, found.examples)
    trained.classifier.save(wish.out)
    return _facts(trained, found)


def _vectors(wish: Wish, found: LabelledFile) -> dict[str, Any]:
    from bimo.tasks.classify.vectors import VectorsClassifier, open_vectors, text_vectors

    assert wish.model is not None
    model, framing = open_vectors(wish.model, device=pick_device(wish.device))
    texts = [one.text for one in found.examples]
    vectors = text_vectors(model, framing, texts, _seconds(found.examples), console=wish.console)
    trained = _train(wish, found, found.examples, vectors)
    VectorsClassifier(trained.classifier, trained.weights, model, framing).save(wish.out)
    return _facts(trained, found)


def _train(wish: Wish, found: LabelledFile, examples: Sequence[Labelled], vectors: np.ndarray | None = None) -> Trained:
    return train_linear(
        examples,
        found.labels,
        several=found.several,
        seed=wish.settings.seed,
        console=wish.console,
        vectors=vectors,
    )


def _facts(trained: Trained, found: LabelledFile) -> dict[str, Any]:
    held_out = [found.examples[place] for place in trained.places]
    truth = truth_matrix([one.labels for one in found.examples], found.labels)
    baselines = {"majority": _majority(truth, truth[trained.places], found)}
    return {"choice": trained.facts, **_judged(trained.held_out, held_out, found), "baselines": baselines}


def _encoder(wish: Wish, found: LabelledFile) -> dict[str, Any]:
    from bimo.tasks.classify.neural_tuning import begin, open_start

    start = wish.model
    if start is None:
        return _neural(wish, found, begin)
    return _neural(wish, found, lambda examples, labels, **given: open_start(start, labels, **given))


def _recurrent(wish: Wish, found: LabelledFile) -> dict[str, Any]:
    from bimo.tasks.classify.neural_tuning import begin_recurrent

    return _neural(wish, found, begin_recurrent)


def _neural(wish: Wish, found: LabelledFile, begin: Callable[..., Any]) -> dict[str, Any]:
    """Tuned on most of the texts; what was held out chooses when to stop and how sure to be, and is the measure."""
    from bimo.tasks.classify.neural_tuning import tune_neural, usual

    settings = usual(wish.settings, from_nothing=wish.model is None)
    train, held_out = split_labelled(found.examples, seed=settings.seed)
    if not held_out:
        raise UserError(
            "{path} has one text of each label, so none can be held out to test with. Add more.",
            code=DATA_REFUSED,
            path=found.path,
        )
    linear = _train(wish, found, train).classifier.chances([one.text for one in held_out], _seconds(held_out))
    start = begin(train, found.labels, several=found.several, context=settings.context, seed=settings.seed)
    start.model.to(pick_device(wish.device))
    truths = [truth_matrix([one.labels for one in side], found.labels) for side in (train, held_out)]
    facts, chances = tune_neural(
        start, train, held_out, (truths[0], truths[1]), settings=settings, home=wish.out / "bimo", console=wish.console
    )
    tokenizer = start.framing.tokenizer
    adapter = None if settings.lora is None else adapter_of(start.model, settings.lora)
    pad = tokenizer.special_id("pad_token")
    save_encoder(wish.out, start.model, pad=pad, adapter=adapter, base=wish.model)
    tokenizer.save(wish.out, context=start.framing.context)
    baselines = {
        "linear": _short(measure(linear, truths[1], found.labels, several=found.several)),
        "majority": _majority(truths[0], truths[1], found),
    }
    tuned = {"tuning": {**facts, "train": len(train), "held_out": len(held_out)}}
    return {**tuned, **_judged(chances, held_out, found), "baselines": baselines}


def _seconds(examples: Sequence[Labelled]) -> list[str]:
    return [one.second for one in examples]


def _judged(chances: np.ndarray, held_out: Sequence[Labelled], found: LabelledFile) -> dict[str, Any]:
    truth = truth_matrix([one.labels for one in held_out], found.labels)
    figures = measure(chances, truth, found.labels, several=found.several)
    mistakes = mistakes_in(chances, held_out, found.labels, several=found.several)
    return {"held_out": figures, "mistakes": mistakes}


def _majority(train: np.ndarray, held_out: np.ndarray, found: LabelledFile) -> dict[str, float]:
    """What saying always the same reaches."""
    shares = np.tile(train.mean(axis=0), (len(held_out), 1))
    return _short(measure(shares, held_out, found.labels, several=found.several))


def _short(figures: Mapping[str, Any]) -> dict[str, float]:
    return {name: figures[name] for name in ("accuracy", "macro_f1", "calibration_error")}


def tune_lines(facts: dict[str, Any]) -> list[str]:
    """What a person wants to know of a tuning."""
    names = {"linear": t("n-grams, linear"), "majority": t("always the most frequent label")}
    lines = [t("Held out: {figures}", figures=figures_line(facts["held_out"]))]
    lines += [
        t(
            "Beside it, {name}: accuracy {accuracy:.1%}, macro-F1 {macro:.3f}",
            name=names[name],
            accuracy=figures["accuracy"],
            macro=figures["macro_f1"],
        )
        for name, figures in facts["baselines"].items()
    ]
    linear = facts["baselines"].get("linear")
    if linear and linear["macro_f1"] > facts["held_out"]["macro_f1"]:
        lines.append(t("Here n-grams alone do better, and much faster: --engine linear, without a model."))
    lines.append(
        t(
            "{seconds:.1f} s, at most {memory:,.0f} MB of memory",
            seconds=facts["seconds"],
            memory=facts["peak_memory_bytes"] / 1e6,
        )
    )
    return lines
