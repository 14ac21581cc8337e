"""Commands that make models: one thin command per verb. Results go to stdout, everything else to stderr."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

from bimo.cli.app import show, verb
from bimo.cli.options import (
    Allow,
    Chinese,
    ControlColumns,
    Device,
    Family,
    Json,
    KeepBest,
    Lang,
    Minutes,
    Out,
    Preset,
    Quiet,
    Redact,
    Reference,
    Seed,
    Source,
    Sources,
    Start,
    Strict,
    Target,
    TextColumn,
    TokenizerPath,
    Vocabulary,
)
from bimo.console import Console
from bimo.runtime import USAGE, UserError, t


def _prepare_settings(
    *,
    lang: str,
    chinese: str,
    allow: str,
    redact: str,
    reference: list[Path] | None,
    keep_best: float,
    strict: bool,
    text_column: str,
    control: list[str] | None,
    tokenizer: str,
    vocabulary: int,
    seed: int,
) -> Any:
    from bimo.prepare import PrepareConfig
    from bimo.text.options import TextOptions

    options = TextOptions(
        allow=_names(allow),
        languages=_names(lang) or None,
        chinese=chinese,
        redact=redact,
        reference=tuple(map(str, reference or ())),
        keep_best=keep_best,
        strict=strict,
        text_column=text_column or None,
        controls=tuple(dict.fromkeys(control or ())),
        seed=seed,
    )
    return PrepareConfig(text=options, tokenizer=tokenizer, vocabulary=vocabulary)


def _names(listed: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in listed.split(",") if name.strip())


@verb(t("Text to model in one go: prepare, plan, train, evaluate, report. Run again to continue."))
def run(
    sources: Sources,
    out: Out,
    minutes: Minutes = 10.0,
    family: Family = "decoder",
    preset: Preset = "",
    start: Start = "",
    lang: Lang = "",
    chinese: Chinese = "",
    allow: Allow = "",
    redact: Redact = "mask",
    reference: Reference = None,
    keep_best: KeepBest = 1.0,
    strict: Strict = False,
    text_column: TextColumn = "",
    control: ControlColumns = None,
    tokenizer: TokenizerPath = "",
    vocabulary: Vocabulary = 0,
    vectors: Annotated[
        str, typer.Option("--vectors", help=t("Vectors of words from which the model's embedding starts."))
    ] = "",
    seed: Seed = 0,
    device: Device = "auto",
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    from bimo.run import run as run_all

    settings = _prepare_settings(
        lang=lang,
        chinese=chinese,
        allow=allow,
        redact=redact,
        reference=reference,
        keep_best=keep_best,
        strict=strict,
        text_column=text_column,
        control=control,
        tokenizer=tokenizer,
        vocabulary=vocabulary,
        seed=seed,
    )
    facts = run_all(
        [*sources],
        out=out,
        minutes=minutes,
        family=family,
        preset=preset,
        seed=seed,
        device=device,
        settings=settings,
        start=start,
        vectors=vectors,
        console=Console(quiet=quiet),
    )
    show(facts, as_json=json)


@verb(t("The same on text that is already on this machine, in about three minutes."))
def demo(
    out: Annotated[
        Path | None, typer.Option("--out", help=t("The folder to write; demo-model, or sentiment-model."))
    ] = None,
    task: Annotated[str, typer.Option("--task", help=t("What to show: generate, or sentiment."))] = "generate",
    minutes: Annotated[float | None, typer.Option("--minutes", help=t("Of training, to generate: 2."))] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    from bimo.demo import DEMO_MINUTES, demo_sentiment, sentiment_lines
    from bimo.demo import demo as run_demo

    if task not in ("generate", "sentiment"):
        sentence = "--task must be one of {tasks}, but is {task!r}."
        raise UserError(sentence, code=USAGE, tasks="generate, sentiment", task=task)
    if task == "sentiment":
        if minutes is not None:
            raise UserError("--minutes has no place beside --task sentiment, which takes seconds.", code=USAGE)
        found = demo_sentiment(out=out or Path("sentiment-model"), console=Console(quiet=quiet))
        show(found, as_json=json, lines=lambda: sentiment_lines(found))
        return
    facts = run_demo(
        out=out or Path("demo-model"),
        minutes=DEMO_MINUTES if minutes is None else minutes,
        console=Console(quiet=quiet),
    )
    samples = [sample["text"].strip() for sample in facts["samples"]]
    show(facts, as_json=json, lines=lambda: [f"\n--- {number}\n{text}" for number, text in enumerate(samples, 1)])


@verb(t("Before spending the time: size, speed, memory and expected quality of a training."))
def plan(
    source: Annotated[Path, typer.Argument(readable=False, help=t("Prepared data, or a file or folder of text."))],
    minutes: Minutes = 10.0,
    family: Family = "decoder",
    preset: Preset = "",
    seed: Seed = 0,
    device: Device = "auto",
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    from bimo.plan import check_choices
    from bimo.plan import plan as make_plan
    from bimo.prepare import prepare as prepare_data
    from bimo.report.planned import plan_lines
    from bimo.stages import is_prepared

    console = Console(quiet=quiet)
    check_choices(minutes=minutes, family=family, preset=preset, device=device, seed=seed)
    with tempfile.TemporaryDirectory() as temporary:
        data = source
        if not is_prepared(source):
            data = Path(temporary) / "data"
            prepare_data([source], out=data, console=console)
        chosen = make_plan(
            data, minutes=minutes, family=family, preset=preset, seed=seed, device=device, console=console
        )
    show(chosen.facts, as_json=json, lines=lambda: plan_lines(chosen.facts))


@verb(t("Text to data: documents, what was set aside and why, tokenizer, packed tokens."))
def prepare(
    sources: Sources,
    out: Out,
    lang: Lang = "",
    chinese: Chinese = "",
    allow: Allow = "",
    redact: Redact = "mask",
    reference: Reference = None,
    keep_best: KeepBest = 1.0,
    strict: Strict = False,
    text_column: TextColumn = "",
    control: ControlColumns = None,
    tokenizer: TokenizerPath = "",
    vocabulary: Vocabulary = 0,
    executor: Annotated[
        str, typer.Option("--executor", help=t("Clean on datatrove's executors: local, slurm:partition=..., ray."))
    ] = "",
    licence: Annotated[str, typer.Option("--licence", help=t("The licence of the text, for the data sheet."))] = "",
    seed: Seed = 0,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    from bimo.prepare import prepare as prepare_data

    settings = _prepare_settings(
        lang=lang,
        chinese=chinese,
        allow=allow,
        redact=redact,
        reference=reference,
        keep_best=keep_best,
        strict=strict,
        text_column=text_column,
        control=control,
        tokenizer=tokenizer,
        vocabulary=vocabulary,
        seed=seed,
    )
    facts = prepare_data(
        [*sources], out=out, settings=settings, executor=executor, licence=licence, console=Console(quiet=quiet)
    )
    show(facts, as_json=json)


@verb(t("Train a model on prepared data. Run again to continue what was interrupted."))
def train(
    data: Annotated[Path, typer.Argument(readable=False, help=t("Prepared data; for seq2seq a file of pairs."))],
    out: Out,
    minutes: Annotated[float | None, typer.Option("--minutes", help=t("How long training may take; 10."))] = None,
    family: Annotated[
        str, typer.Option("--family", help=t("What kind of model: decoder, lstm, mlp, encoder or seq2seq."))
    ] = "decoder",
    preset: Preset = "",
    start: Start = "",
    config: Annotated[Path | None, typer.Option("--config", help=t("A run file instead of a plan."))] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help=t("Change one setting: train.batch=8."))] = None,
    source: Source = "",
    target: Target = "",
    both: Annotated[bool, typer.Option("--both", help=t("Pairs: one model learns both directions."))] = False,
    to_column: Annotated[
        str,
        typer.Option("--to-column", help=t("Pairs: the column that names the language to translate each row into.")),
    ] = "",
    chinese: Chinese = "",
    seed: Seed = 0,
    device: Device = "auto",
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    from bimo.models.families import PAIRED
    from bimo.plan import check_choices
    from bimo.run import choose_sampler, train_settings
    from bimo.train.pretrain import train as train_model
    from bimo.translation import train_translator

    console = Console(quiet=quiet)
    planned = minutes is not None or family not in ("decoder", PAIRED) or preset or start or seed or device != "auto"
    if config is not None and planned:
        raise UserError(
            "A run file holds all settings, so --minutes, --family, --preset, --from, --seed and --device have no "
            "place beside --config. Change one with --set, such as --set train.minutes=5.",
            code=USAGE,
        )
    minutes = 10.0 if minutes is None else minutes
    if family == PAIRED:
        check_choices(minutes=minutes, family=family, preset=preset, device=device, seed=seed, start=start, pairs=True)
        facts = train_translator(
            data,
            out=out,
            source=source,
            target=target,
            chinese=chinese,
            both=both,
            to_column=to_column,
            minutes=minutes,
            preset=preset,
            seed=seed,
            device=device,
            config=config,
            changes=set_,
            console=console,
        )
        return show(facts, as_json=json)
    if source or target or chinese or both or to_column:
        raise UserError(
            "--source, --target, --both, --to-column and --chinese are for pairs: add --family {family}.",
            code=USAGE,
            family=PAIRED,
        )
    settings = train_settings(
        data,
        out,
        minutes=minutes,
        family=family,
        preset=preset,
        start=start,
        seed=seed,
        device=device,
        config=config,
        changes=set_ or [],
        console=console,
    )
    sampler = choose_sampler(settings.model, data)
    facts = train_model(data, out=out, model=settings.model, settings=settings.train, sampler=sampler, console=console)
    return show(facts, as_json=json)
