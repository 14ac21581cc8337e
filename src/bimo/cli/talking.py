"""`bimo chat`: lines in, answers out."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer

from bimo.cli.app import asked_lines, show, verb
from bimo.cli.options import (
    AdapterFolder,
    Device,
    Json,
    MaxTokens,
    MinP,
    ModelPath,
    Quiet,
    RepetitionPenalty,
    Seed,
    Stop,
    Temperature,
    TopK,
    TopP,
)
from bimo.console import Console
from bimo.runtime import require_least, t


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
    from bimo.generate.engine import load
    from bimo.generate.sample import Sampling
    from bimo.tasks.chat.conversation import Conversation, read_messages

    require_least({"max-tokens": (max_tokens, 1), "seed": (seed, 0)})
    sampling = Sampling(temperature, top_k, top_p, min_p, repetition_penalty)
    console = Console(quiet=quiet)
    messages = read_messages(save) if save is not None and save.is_file() else []
    if messages:
        console.say("Chat", t("goes on after {count:,} messages", count=len(messages)))
    if system:
        told = messages[1:] if messages and messages[0]["role"] == "system" else messages
        messages = [{"role": "system", "content": system}, *told]
    language_model = load(model, device=device, adapter=adapter)
    conversation = Conversation(language_model, messages, max_tokens, sampling, seed, tuple(stop or ()), save)
    # Before anybody has typed anything it is known that an answer can be given, and kept.
    language_model.chat.require_answering([message for message in messages[:1] if message["role"] == "system"])
    conversation.save()
    for line in asked_lines("> ", quiet=quiet):
        forgotten, interrupted = conversation.forgotten, False
        with _listening() as asked_to_stop, contextlib.closing(conversation.ask(line)) as pieces:
            for piece in pieces:
                if not json:
                    print(piece, end="", flush=True)
                if asked_to_stop.is_set():
                    interrupted = True
                    break
        if not json:
            print(flush=True)
        if conversation.forgotten > forgotten:
            console.warn(
                t("its context is full: it no longer reads the first {n:,} messages", n=conversation.forgotten)
            )
        if conversation.unread:
            console.warn(
                t("this message is too long: the first {count:,} tokens are not read", count=conversation.unread)
            )
        if interrupted and not sys.stdin.isatty():
            raise KeyboardInterrupt
    show({"messages": conversation.messages}, as_json=json)


@contextlib.contextmanager
def _listening() -> Iterator[threading.Event]:
    """Meanwhile the first Ctrl-C is a wish to end the answer, so that it stays whole; a second one acts at once."""
    asked = threading.Event()
    before = signal.getsignal(signal.SIGINT)

    def ask(number: int, frame: FrameType | None) -> None:
        asked.set()
        signal.signal(number, before)

    signal.signal(signal.SIGINT, ask)
    try:
        yield asked
    finally:
        signal.signal(signal.SIGINT, before)
