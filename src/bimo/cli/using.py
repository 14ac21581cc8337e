"""Commands that look at models and use them: one thin command per verb."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bimo.cli.app import show, verb
from bimo.cli.options import (
    AdapterFolder,
    Choices,
    Controls,
    Device,
    Json,
    JsonSchema,
    MaxTokens,
    MinP,
    ModelPath,
    Quiet,
    Regex,
    RepetitionPenalty,
    Seed,
    Stop,
    Temperature,
    TopK,
    TopP,
)
from bimo.console import Console
from bimo.runtime import USAGE, UserError, require_least, t

if TYPE_CHECKING:
    from bimo.generate.constraints import Automaton


@verb(t("What this machine can do and what is missing; or what a model is and what is wrong with it."))
def doctor(
    model: Annotated[
        Path | None,
        typer.Argument(readable=False, help=t("A model folder, a GGUF or safetensors file, or an adapter folder.")),
    ] = None,
    json: Json = False,
) -> None:
    from bimo.doctor.packages import require_packages

    require_packages()
    if model is None:
        from bimo.doctor.machine import examine_machine, machine_lines

        facts = examine_machine()
        show(facts, as_json=json, lines=lambda: machine_lines(facts))
        return
    from bimo.doctor.lines import model_lines
    from bimo.doctor.model import examine_model

    facts = examine_model(model)
    show(facts, as_json=json, lines=lambda: model_lines(facts))
    if not facts["usable"]:
        raise UserError("{path} cannot be used as it is: the problems are named above.", path=model)


@verb(t("How good a model is at what it is for, on examples that it never saw."))
def evaluate(
    model: ModelPath,
    source: Annotated[Path, typer.Argument(readable=False, help=t("Prepared data, text, or a file of examples."))],
    against: Annotated[
        Path | None, typer.Option("--against", readable=False, help=t("Another model, compared on the same examples."))
    ] = None,
    adapter: AdapterFolder = None,
    column: Annotated[
        list[str] | None, typer.Option("--column", help=t("What a column is called in the file: label=stars."))
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    from bimo.cli.refining import columns_of
    from bimo.evaluate.suite import evaluate as measure
    from bimo.evaluate.suite import evaluation_lines

    columns, console = columns_of(column or []), Console(quiet=quiet)
    facts = measure(model, source, against=against, adapter=adapter, columns=columns, console=console)
    show(facts, as_json=json, lines=lambda: evaluation_lines(facts))


@verb(t("Let a model write what follows a prompt."))
def generate(
    model: ModelPath,
    prompt: Annotated[str, typer.Argument(help=t("Where to begin; nothing begins a new document."))] = "",
    adapter: AdapterFolder = None,
    max_tokens: MaxTokens = 200,
    temperature: Temperature = 0.8,
    top_k: TopK = 0,
    top_p: TopP = 0.95,
    min_p: MinP = 0.0,
    repetition_penalty: RepetitionPenalty = 1.0,
    stop: Stop = None,
    regex: Regex = None,
    json_schema: JsonSchema = None,
    choice: Choices = None,
    set_: Controls = None,
    samples: Annotated[int, typer.Option("--samples", help=t("How many texts."))] = 1,
    seed: Seed = 0,
    device: Device = "auto",
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    from bimo.generate.engine import load
    from bimo.generate.sample import Sampling

    require_least({"max-tokens": (max_tokens, 1), "samples": (samples, 1), "seed": (seed, 0)})
    sampling = Sampling(temperature, top_k, top_p, min_p, repetition_penalty)
    constraint = _constraint(regex, json_schema, choice, stop)
    header = _header(model, set_ or [])
    language_model = load(model, device=device, adapter=adapter)
    if unread := language_model.unread_tokens(header + prompt):
        Console(quiet=quiet).warn(t("the prompt is too long: its first {count:,} tokens are not read", count=unread))
    texts = []
    for number in range(samples):
        pieces = language_model.generate(
            header + prompt,
            max_tokens=max_tokens,
            sampling=sampling,
            seed=seed + number,
            stop=tuple(stop or ()),
            constraint=constraint,
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


def _header(model: Path, pairs: list[str]) -> str:
    """The tags that `--set` names, as they stand before a text."""
    from bimo.text.controls import read_controls

    if not pairs:
        return ""
    controls = read_controls(model / "bimo")
    if controls is None:
        raise UserError(
            "{model} has learned no tags: prepare its text with --control COLUMN to use --set.", code=USAGE, model=model
        )
    chosen = dict[str, str]()
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals:
            raise UserError("--set {pair} has no value: write it as NAME=VALUE.", code=USAGE, pair=pair)
        if name in chosen:
            raise UserError("--set names {name} twice.", code=USAGE, name=name)
        chosen[name] = value
    return controls.header(chosen)


def _constraint(
    regex: str | None, schema: Path | None, choices: list[str] | None, stop: list[str] | None
) -> Automaton | None:
    """The form that the options ask for, if any."""
    from bimo.files import read_json
    from bimo.generate import constraints

    asked = {"--regex": regex is not None, "--json-schema": schema is not None, "--choice": bool(choices)}
    named = [option for option, there in {**asked, "--stop": bool(stop)}.items() if there]
    if any(asked.values()) and len(named) > 1:
        raise UserError("{first} and {second} cannot be kept to together.", code=USAGE, first=named[0], second=named[1])
    if regex is not None:
        return constraints.regex(regex)
    if schema is not None:
        return constraints.json_schema(read_json(schema))
    return constraints.choices(choices) if choices else None


@verb(t("A model for other engines, opened there and compared with the trained one; kept when it is the same."))
def export(
    model: Annotated[Path, typer.Argument(readable=False, help=t("A model folder, or a GGUF file."))],
    to: Annotated[
        str, typer.Option("--to", help=t("hf; for decoders also gguf, for translation ctranslate2, for encoders onnx."))
    ],
    out: Annotated[Path, typer.Option("--out", help=t("The folder or file to write."))],
    weights: Annotated[
        str, typer.Option("--weights", help=t("f32, f16, bf16; for gguf also int8 (q8_0) and int4 (q4_1)."))
    ] = "",
    adapter: AdapterFolder = None,
    data: Annotated[
        Path | None, typer.Option("--data", readable=False, help=t("Prepared data whose held-out text is compared on."))
    ] = None,
    check: Annotated[bool, typer.Option("--check", help=t("Write nothing: compare what stands at --out."))] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    from bimo.export.lines import export_lines
    from bimo.export.verb import export as write_and_compare

    facts = write_and_compare(
        model,
        to=to,
        out=out,
        weights=weights,
        adapter=adapter,
        data=data,
        check=check,
        console=Console(quiet=quiet),
    )
    show(facts, as_json=json, lines=lambda: export_lines(facts))


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
