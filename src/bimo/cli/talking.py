"""The commands for models that answer: `bimo tune` and `bimo chat`."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from bimo.cli.app import is_text, require_least, show, verb
from bimo.cli.options import (
    AdapterFolder,
    Device,
    Json,
    MaxTokens,
    MinP,
    ModelPath,
    Out,
    Quiet,
    RepetitionPenalty,
    Seed,
    Stop,
    Temperature,
    TopK,
    TopP,
)
from bimo.console import Console
from bimo.runtime import USAGE, UserError, t


@verb(t("Tune a model on conversations: an adapter beside it, or all of its weights. Run again to continue."))
def tune(
    model: ModelPath,
    file: Annotated[
        Path, typer.Argument(readable=False, help=t("JSON or JSON Lines: messages, alpaca, ShareGPT, or pairs."))
    ],
    out: Out,
    task: Annotated[str, typer.Option("--task", help=t("What to learn: chat."))] = "chat",
    lora: Annotated[bool, typer.Option("--lora", help=t("Leave the model as it is and learn an adapter."))] = False,
    rank: Annotated[int, typer.Option("--rank", help=t("How wide the adapter is."))] = 8,
    alpha: Annotated[float, typer.Option("--alpha", help=t("The adapter counts alpha / rank times."))] = 16.0,
    target: Annotated[
        list[str] | None, typer.Option("--target", help=t("Matrices to adapt, such as query; none takes all."))
    ] = None,
    epochs: Annotated[float, typer.Option("--epochs", help=t("How often each conversation is read."))] = 2.0,
    minutes: Annotated[
        float, typer.Option("--minutes", help=t("End earlier, after so long; 0: when the epochs are over."))
    ] = 0.0,
    rate: Annotated[float, typer.Option("--rate", help=t("Learning rate; 0 takes the usual one."))] = 0.0,
    batch: Annotated[int, typer.Option("--batch", help=t("Conversations a step."))] = 8,
    context: Annotated[int, typer.Option("--context", help=t("Longer conversations are cut after so many tokens."))] = (
        1024
    ),
    seed: Seed = 0,
    device: Device = "auto",
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    from bimo.models.lora import LoRAConfig
    from bimo.train.tune import TuneConfig
    from bimo.tune import tune as tune_model
    from bimo.tune import tune_lines

    settings = TuneConfig(
        lora=LoRAConfig(rank=rank, alpha=alpha, targets=tuple(target or ())) if lora else None,
        epochs=epochs,
        minutes=minutes,
        rate=rate,
        batch=batch,
        context=context,
        seed=seed,
    )
    facts = tune_model(model, file, out=out, task=task, settings=settings, device=device, console=Console(quiet=quiet))
    show(facts, as_json=json, lines=lambda: tune_lines(facts))


@verb(t("Talk with a model: each line of the input is a message, until it ends."))
def chat(
    model: ModelPath,
    adapter: AdapterFolder = None,
    system: Annotated[str, typer.Option("--system", help=t("What the model is told before the first message."))] = "",
    save: Annotated[
        Path | None, typer.Option("--save", help=t("Keep the conversation in this file, and go on with what it holds."))
    ] = None,
    max_tokens: MaxTokens = 400,
    temperature: Temperature = 0.3,
    top_k: TopK = 0,
    top_p: TopP = 0.95,
    min_p: MinP = 0.0,
    repetition_penalty: RepetitionPenalty = 1.0,
    stop: Stop = None,
    seed: Seed = 0,
    device: Device = "auto",
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    from bimo.chat import Conversation, read_messages
    from bimo.generate.engine import load
    from bimo.generate.sample import Sampling

    require_least({"max-tokens": (max_tokens, 1), "seed": (seed, 0)})
    sampling = Sampling(temperature, top_k, top_p, min_p, repetition_penalty)
    console = Console(quiet=quiet)
    messages = read_messages(save) if save is not None and save.is_file() else []
    if messages:
        console.say("Chat", t("goes on after {count:,} messages", count=len(messages)))
    if system:
        told = messages[1:] if messages and messages[0]["role"] == "system" else messages
        messages = [{"role": "system", "content": _text(system)}, *told]
    language_model = load(model, device=device, adapter=adapter)
    language_model.chat.require_usable()  # before anybody has typed anything
    conversation = Conversation(language_model, messages, max_tokens, sampling, seed, tuple(stop or ()), save)
    for line in _lines(quiet=quiet):
        for piece in conversation.ask(_text(line)):
            if not json:
                print(piece, end="", flush=True)
        if not json:
            print(flush=True)
    show({"messages": conversation.messages}, as_json=json)


def _lines(*, quiet: bool) -> Iterator[str]:
    """What is typed or piped in, line by line; a sign on the terminal asks for each."""
    asking = sys.stdin.isatty() and not quiet
    while True:
        if asking:
            print("> ", end="", file=sys.stderr, flush=True)
        line = sys.stdin.readline()
        if not line:
            return
        if line.strip():
            yield line.rstrip("\r\n")


def _text(line: str) -> str:
    if not is_text(line):
        raise UserError("The message holds bytes that are no text in UTF-8.", code=USAGE)
    return line
