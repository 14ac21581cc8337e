"""The command line: one thin command per verb. Results go to stdout, everything else to stderr."""

from __future__ import annotations

import errno
import functools
import json
import os
import shlex
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from bimo.console import Console
from bimo.runtime import FAILED, INTERRUPTED, NO_ROOM, USAGE, UserError, choose_waiting, t

app = typer.Typer(
    name="bimo",
    help=t("From your own text, Chinese or English, to a language model that you can read, trust and ship."),
    rich_markup_mode=None,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Sources = Annotated[
    list[Path], typer.Argument(metavar="SOURCE...", readable=False, help=t("Files and folders of text."))
]
Out = Annotated[Path, typer.Option("--out", help=t("The folder to write."))]
Json = Annotated[bool, typer.Option("--json", help=t("Print the result as JSON."))]
Quiet = Annotated[bool, typer.Option("--quiet", help=t("Nothing but warnings."))]
Minutes = Annotated[float, typer.Option("--minutes", help=t("How long training may take."))]
Preset = Annotated[str, typer.Option("--preset", help=t("A size by name instead of the one that the plan chooses."))]
Seed = Annotated[int, typer.Option("--seed", help=t("Start of all random numbers."))]
Device = Annotated[str, typer.Option("--device", help=t("auto, cpu, cuda or mps."))]
Lang = Annotated[str, typer.Option("--lang", help=t("Keep only documents in these languages, such as zh,en."))]
Strict = Annotated[bool, typer.Option("--strict", help=t("Stop at the first file or row that cannot be read."))]
TextColumn = Annotated[str, typer.Option("--text-column", help=t("The column of tables that holds the text."))]
TokenizerPath = Annotated[str, typer.Option("--tokenizer", help=t("Use this tokenizer.json instead of training one."))]
Vocabulary = Annotated[int, typer.Option("--vocabulary", help=t("Tokens of the tokenizer; 0 chooses by the text."))]
Words = Annotated[Path | None, typer.Option("--words", readable=False, help=t("A file of words to keep whole."))]

words = typer.Typer(help=t("Words of a text, Chinese or English."), rich_markup_mode=None, no_args_is_help=True)

Verb = Callable[..., None]


def verb(help_: str, *, of: typer.Typer = app) -> Callable[[Verb], Verb]:
    """Register a command whose errors reach the user as a sentence and an exit code, never as a traceback."""

    def register(function: Verb) -> Verb:
        @of.command(help=help_)
        @functools.wraps(function)
        def guarded(*arguments: Any, **options: Any) -> None:
            try:
                choose_waiting()
                function(*arguments, **options)
            except (Exception, KeyboardInterrupt) as error:
                sentence, code = explain(error)
                if sentence:
                    print(f"bimo: {sentence}", file=sys.stderr)
                raise typer.Exit(code) from None

        return guarded

    return register


def explain(error: BaseException) -> tuple[str, int]:
    """What to tell the user of an error, and the exit code."""
    again = shlex.join(["bimo", *sys.argv[1:]])
    if isinstance(error, UserError):
        if error.code == INTERRUPTED:
            return f"{error} {t('Continue with: {command}', command=again)}", INTERRUPTED
        return str(error), error.code
    if isinstance(error, KeyboardInterrupt):
        return t("Interrupted. What is finished is kept. Continue with: {command}", command=again), INTERRUPTED
    if isinstance(error, BrokenPipeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return "", 0
    text = f"{type(error).__name__}: {error}"
    if getattr(error, "errno", None) == errno.ENOSPC or "No space left" in text or "disk is full" in text:
        sentence = "The disk is full. What was finished before is whole. Free some room, then: {command}"
        return t(sentence, command=again), NO_ROOM
    if isinstance(error, MemoryError) or "can't allocate memory" in text or "out of memory" in text:
        return t("There is not enough memory. Choose a smaller --preset, or close other programs."), NO_ROOM
    if isinstance(error, OSError) and error.filename is not None:
        return t("{path} cannot be used: {reason}.", path=error.filename, reason=error.strerror), FAILED
    with tempfile.NamedTemporaryFile("w", prefix="bimo-", suffix=".txt", delete=False, encoding="utf-8") as file:
        file.write("".join(traceback.format_exception(error)))
    sentence = "This is an error in Bimo itself ({error}). Please report it with the file {path}."
    return t(sentence, error=text[:200], path=file.name), FAILED


def show(facts: Any, *, as_json: bool, lines: Callable[[], list[str]] = list) -> None:
    """Print a result: all of it as JSON, or the lines meant for people."""
    if as_json:
        print(json.dumps(facts, ensure_ascii=False, indent=1))
    else:
        for line in lines():
            print(line)


def _prepare_settings(lang: str, strict: bool, text_column: str, tokenizer: str, vocabulary: int, seed: int) -> Any:
    from bimo.prepare import PrepareConfig
    from bimo.text.options import TextOptions

    languages = tuple(code.strip() for code in lang.split(",") if code.strip()) or None
    options = TextOptions(languages=languages, strict=strict, text_column=text_column or None, seed=seed)
    return PrepareConfig(text=options, tokenizer=tokenizer, vocabulary=vocabulary)


@verb(t("Text to model in one go: prepare, plan, train, evaluate, report. Run again to continue."))
def run(
    sources: Sources,
    out: Out,
    minutes: Minutes = 10.0,
    preset: Preset = "",
    lang: Lang = "",
    strict: Strict = False,
    text_column: TextColumn = "",
    tokenizer: TokenizerPath = "",
    vocabulary: Vocabulary = 0,
    seed: Seed = 0,
    device: Device = "auto",
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    from bimo.run import run as run_all

    settings = _prepare_settings(lang, strict, text_column, tokenizer, vocabulary, seed)
    facts = run_all(
        [*sources],
        out=out,
        minutes=minutes,
        preset=preset,
        seed=seed,
        device=device,
        settings=settings,
        console=Console(quiet=quiet),
    )
    show(facts, as_json=json)


@verb(t("The same on text that is already on this machine, in about three minutes."))
def demo(
    out: Annotated[Path, typer.Option("--out", help=t("The folder to write."))] = Path("demo-model"),
    minutes: Minutes = 2.0,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    from bimo.demo import demo as run_demo

    facts = run_demo(out=out, minutes=minutes, console=Console(quiet=quiet))
    samples = [sample["text"].strip() for sample in facts["samples"]]
    show(facts, as_json=json, lines=lambda: [f"\n--- {number}\n{text}" for number, text in enumerate(samples, 1)])


@verb(t("What this machine can do, what is missing, and how to get it."))
def doctor(json: Json = False) -> None:
    from bimo.doctor import doctor as examine
    from bimo.doctor import doctor_lines

    facts = examine()
    show(facts, as_json=json, lines=lambda: doctor_lines(facts))


@verb(t("Before spending the time: size, speed, memory and expected quality of a training."))
def plan(
    source: Annotated[Path, typer.Argument(readable=False, help=t("Prepared data, or a file or folder of text."))],
    minutes: Minutes = 10.0,
    preset: Preset = "",
    seed: Seed = 0,
    device: Device = "auto",
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    from bimo.plan import check_choices, plan_lines
    from bimo.plan import plan as make_plan
    from bimo.prepare import prepare as prepare_data

    console = Console(quiet=quiet)
    check_choices(minutes=minutes, preset=preset, device=device, seed=seed)
    with tempfile.TemporaryDirectory() as temporary:
        data = source
        if not (source / "manifest.json").exists():
            data = Path(temporary) / "data"
            prepare_data([source], out=data, console=console)
        chosen = make_plan(data, minutes=minutes, preset=preset, seed=seed, device=device, console=console)
    show(chosen.facts, as_json=json, lines=lambda: plan_lines(chosen.facts))


@verb(t("Text to data: documents, what was set aside and why, tokenizer, packed tokens."))
def prepare(
    sources: Sources,
    out: Out,
    lang: Lang = "",
    strict: Strict = False,
    text_column: TextColumn = "",
    tokenizer: TokenizerPath = "",
    vocabulary: Vocabulary = 0,
    seed: Seed = 0,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    from bimo.prepare import prepare as prepare_data

    settings = _prepare_settings(lang, strict, text_column, tokenizer, vocabulary, seed)
    facts = prepare_data([*sources], out=out, settings=settings, console=Console(quiet=quiet))
    show(facts, as_json=json)


@verb(t("Train a model on prepared data. Run again to continue what was interrupted."))
def train(
    data: Annotated[Path, typer.Argument(readable=False, help=t("Prepared data."))],
    out: Out,
    minutes: Annotated[float | None, typer.Option("--minutes", help=t("How long training may take; 10."))] = None,
    preset: Preset = "",
    config: Annotated[Path | None, typer.Option("--config", help=t("A run file instead of a plan."))] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help=t("Change one setting: train.batch=8."))] = None,
    seed: Seed = 0,
    device: Device = "auto",
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    from bimo.run import sample_text, train_settings
    from bimo.train.pretrain import train as train_model

    console = Console(quiet=quiet)
    if config is not None and (minutes is not None or preset or seed):
        raise UserError(
            "A run file holds all settings, so --minutes, --preset and --seed have no place beside --config. Change "
            "one with --set, such as --set train.minutes=5.",
            code=USAGE,
        )
    minutes = 10.0 if minutes is None else minutes
    settings = train_settings(
        data,
        out,
        minutes=minutes,
        preset=preset,
        seed=seed,
        device=device,
        config=config,
        changes=set_ or [],
        console=console,
    )
    facts = train_model(
        data, out=out, model=settings.model, settings=settings.train, sampler=sample_text, console=console
    )
    show(facts, as_json=json)


@verb(t("Bits per byte of a model on text, beside simple methods, and how much it copies."))
def evaluate(
    model: Annotated[Path, typer.Argument(readable=False, help=t("A model folder."))],
    source: Annotated[Path, typer.Argument(readable=False, help=t("Prepared data, or a file or folder of text."))],
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    from bimo.evaluate.suite import evaluate as measure
    from bimo.evaluate.suite import evaluation_lines

    facts = measure(model, source, console=Console(quiet=quiet))
    show(facts, as_json=json, lines=lambda: evaluation_lines(facts))


@verb(t("Let a model write what follows a prompt."))
def generate(
    model: Annotated[Path, typer.Argument(readable=False, help=t("A model folder, or a GGUF file."))],
    prompt: Annotated[str, typer.Argument(help=t("Where to begin; nothing begins a new document."))] = "",
    max_tokens: Annotated[int, typer.Option("--max-tokens", help=t("At most so many tokens."))] = 200,
    temperature: Annotated[float, typer.Option("--temperature", help=t("0 takes the likeliest token always."))] = 0.8,
    top_k: Annotated[int, typer.Option("--top-k", help=t("Choose among the k likeliest; 0 among all."))] = 0,
    top_p: Annotated[float, typer.Option("--top-p", help=t("Choose among those that reach this sum."))] = 0.95,
    min_p: Annotated[float, typer.Option("--min-p", help=t("Leave out those below this share of the best."))] = 0.0,
    repetition_penalty: Annotated[
        float, typer.Option("--repetition-penalty", help=t("Above 1: avoid what was written already."))
    ] = 1.0,
    stop: Annotated[list[str] | None, typer.Option("--stop", help=t("End before this text."))] = None,
    samples: Annotated[int, typer.Option("--samples", help=t("How many texts."))] = 1,
    seed: Seed = 0,
    device: Device = "auto",
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    from bimo.generate.engine import load
    from bimo.generate.sample import Sampling

    for option, value, least in (("max-tokens", max_tokens, 1), ("samples", samples, 1), ("seed", seed, 0)):
        if value < least:
            sentence = "--{option} must be at least {least}, but is {value}."
            raise UserError(sentence, code=USAGE, option=option, least=least, value=value)
    if not _is_text(prompt):
        raise UserError("The prompt holds bytes that are no text in UTF-8.", code=USAGE)
    sampling = Sampling(temperature, top_k, top_p, min_p, repetition_penalty)
    language_model = load(model, device=device)
    texts = []
    for number in range(samples):
        pieces = language_model.generate(
            prompt, max_tokens=max_tokens, sampling=sampling, seed=seed + number, stop=tuple(stop or ())
        )
        if json:
            texts.append("".join(pieces))
            continue
        print(prompt, end="")
        for piece in pieces:
            print(piece, end="", flush=True)
        print("\n" if number + 1 < samples else "")
    if json:
        show({"prompt": prompt, "texts": texts}, as_json=True)


app.add_typer(words, name="words")


@verb(t("Cut text into words: for each line, its words with something between them."), of=words)
def segment(
    files: Annotated[
        list[Path] | None, typer.Argument(metavar="FILE...", readable=False, help=t("Text files; none reads stdin."))
    ] = None,
    separator: Annotated[str, typer.Option("--separator", help=t("What to put between words."))] = " ",
    word_list: Words = None,
    sentences: Annotated[bool, typer.Option("--sentences", help=t("A line for each sentence."))] = False,
    json: Annotated[bool, typer.Option("--json", help=t("Print each line as a JSON list of words."))] = False,
) -> None:
    from bimo.text.segment import WordList, segment_lines

    kept = WordList.read(word_list) if word_list else None
    # Bytes that are no text come out as they went in.
    with os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8", errors="surrogateescape", newline="") as out:
        inputs: list[Path] | list[int] = files or [sys.stdin.fileno()]
        for file in inputs:
            with open(file, encoding="utf-8", errors="surrogateescape", newline="", closefd=bool(files)) as lines:
                for found in segment_lines(lines, words=kept, sentences=sentences):
                    out.write(_one_line(found, separator, as_json=json))


@verb(t("Count words: the commonest but for stop words, and which words here seem to be stop words too."), of=words)
def count(
    sources: Annotated[
        list[Path],
        typer.Argument(metavar="SOURCE...", readable=False, help=t("Prepared data, or files and folders of text.")),
    ],
    most: Annotated[int, typer.Option("--most", help=t("How many words to show."))] = 50,
    word_list: Words = None,
    without: Annotated[
        Path | None, typer.Option("--stop-words", readable=False, help=t("A file of more stop words, one a line."))
    ] = None,
    keep: Annotated[list[str] | None, typer.Option("--keep", help=t("A word that is no stop word."))] = None,
    every: Annotated[bool, typer.Option("--all", help=t("Leave no stop word out."))] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    from bimo.text.encodings import read_word_list
    from bimo.text.segment import WordList
    from bimo.words import count_lines, count_words

    facts = count_words(
        sources,
        most=most,
        words=WordList.read(word_list) if word_list else None,
        without=read_word_list(without) if without else (),
        keep=keep or (),
        every=every,
        console=Console(quiet=quiet),
    )
    show(facts, as_json=json, lines=lambda: count_lines(facts))


def _one_line(words: list[str], separator: str, *, as_json: bool) -> str:
    return (json.dumps(words, ensure_ascii=False) if as_json else separator.join(words)) + "\n"


def _is_text(argument: str) -> bool:
    """Python hands on what it cannot decode as lone surrogates."""
    return not any("\ud800" <= character <= "\udfff" for character in argument)


@verb(t("The models below a folder; with several names, these side by side."))
def runs(
    models: Annotated[
        list[Path] | None, typer.Argument(readable=False, help=t("A folder to search, or models to compare."))
    ] = None,
    json: Json = False,
) -> None:
    from bimo.runs import list_runs, run_lines

    facts = list_runs(models or [Path()])
    show(facts, as_json=json, lines=lambda: run_lines(facts))


def main() -> None:
    """The entry point of `bimo`."""
    app()
