"""`bimo tune`: a file of examples in, a model that has learned a task out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bimo.cli.app import show, verb
from bimo.cli.options import Device, Json, Out, Quiet, Seed
from bimo.console import Console
from bimo.runtime import USAGE, UserError, t


@verb(t("Learn a task from a file of examples. Run again to continue what was interrupted."))
def tune(
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="[MODEL] FILE", readable=False, help=t("What to start from, where a task wants it; and examples.")
        ),
    ],
    out: Out,
    task: Annotated[
        str, typer.Option("--task", help=t("What to learn: answer, chat, classify, embed, prefer or translate."))
    ] = "chat",
    engine: Annotated[str, typer.Option("--engine", help=t("How, where there are several ways."))] = "",
    column: Annotated[
        list[str] | None, typer.Option("--column", help=t("What a column is called in the file: label=stars."))
    ] = None,
    lora: Annotated[bool, typer.Option("--lora", help=t("Leave the model as it is and learn an adapter."))] = False,
    rank: Annotated[int | None, typer.Option("--rank", help=t("How wide the adapter is; 8."))] = None,
    alpha: Annotated[
        float | None, typer.Option("--alpha", help=t("The adapter counts alpha / rank times; 16."))
    ] = None,
    target: Annotated[
        list[str] | None, typer.Option("--target", help=t("Matrices to adapt, such as query; none takes all."))
    ] = None,
    epochs: Annotated[
        float, typer.Option("--epochs", help=t("How often each example is read; 0 takes the usual number."))
    ] = 0.0,
    minutes: Annotated[
        float, typer.Option("--minutes", help=t("End earlier, after so long; 0: when the epochs are over."))
    ] = 0.0,
    rate: Annotated[float, typer.Option("--rate", help=t("Learning rate; 0 takes the usual one."))] = 0.0,
    batch: Annotated[
        int, typer.Option("--batch", help=t("At most so many examples a step; 0 takes the usual number."))
    ] = 0,
    context: Annotated[
        int,
        typer.Option("--context", help=t("Longer ones are cut after so many tokens; 0 takes the usual number.")),
    ] = 0,
    beta: Annotated[
        float, typer.Option("--beta", help=t("prefer: how much to stay near what the model was; 0 takes the usual."))
    ] = 0.0,
    general: Annotated[
        Path | None,
        typer.Option("--general", readable=False, help=t("Any text, to show what was forgotten: chat and prefer.")),
    ] = None,
    seed: Seed = 0,
    device: Device = "auto",
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    from bimo.models.lora import LoRAConfig
    from bimo.tasks.tune import tune as tune_model
    from bimo.tasks.tune import tune_lines
    from bimo.train.tune import TuneConfig

    if len(paths) > 2:
        sentence = "bimo tune takes a model and a file, but got {count} paths."
        raise UserError(sentence, code=USAGE, count=len(paths))
    if not lora and (rank is not None or alpha is not None or target):
        raise UserError("--rank, --alpha and --target are about an adapter: add --lora.", code=USAGE)
    model = paths[0] if len(paths) == 2 else None
    usual = LoRAConfig()
    adapter = LoRAConfig(
        usual.rank if rank is None else rank, usual.alpha if alpha is None else alpha, tuple(target or ())
    )
    settings = TuneConfig(
        lora=adapter if lora else None,
        epochs=epochs,
        minutes=minutes,
        rate=rate,
        batch=batch,
        context=context,
        beta=beta,
        seed=seed,
    )
    facts = tune_model(
        model,
        paths[-1],
        out=out,
        task=task,
        settings=settings,
        engine=engine,
        columns=columns_of(column or []),
        general=general,
        device=device,
        console=Console(quiet=quiet),
    )
    show(facts, as_json=json, lines=lambda: tune_lines(facts))


def columns_of(given: list[str]) -> dict[str, str]:
    """What `--column label=stars` says."""
    pairs = [one.partition("=") for one in given]
    wrong = next((one for one, (what, _, name) in zip(given, pairs, strict=True) if not what or not name), None)
    if wrong is not None:
        sentence = "--column must be like label=stars, but is {given!r}."
        raise UserError(sentence, code=USAGE, given=wrong)
    return {what: name for what, _, name in pairs}
