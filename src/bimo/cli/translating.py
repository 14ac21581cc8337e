"""`bimo translate`: lines in, lines out."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from bimo.cli.app import show, verb
from bimo.cli.options import Device, Json, Quiet
from bimo.console import Console
from bimo.runtime import USAGE, UserError, t


@verb(t("Translate a text, or every line of what is piped in."))
def translate(
    model: Annotated[Path, typer.Argument(readable=False, help=t("A folder with a translation model."))],
    text: Annotated[str, typer.Argument(help=t("What to translate; nothing reads lines from stdin."))] = "",
    beams: Annotated[int, typer.Option("--beams", help=t("How many translations are pursued at a time."))] = 4,
    length_penalty: Annotated[
        float, typer.Option("--length-penalty", help=t("0 likes short ones, 1 goes by the mean of a token."))
    ] = 1.0,
    best: Annotated[int, typer.Option("--best", help=t("How many translations of each line to show."))] = 1,
    max_tokens: Annotated[int, typer.Option("--max-tokens", help=t("At most so many tokens."))] = 256,
    device: Device = "auto",
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    from bimo.generate.beam import Beams
    from bimo.generate.translator import AHEAD, load

    search = Beams(beams, length_penalty, max_tokens)
    if not 1 <= best <= beams:
        sentence = "--best must lie between 1 and --beams, which is {beams}, but is {best}."
        raise UserError(sentence, code=USAGE, beams=beams, best=best)
    translator = load(model, device=device)
    lines = text.splitlines() if text else _lines()
    facts, cut = [], 0
    # Whoever types wants an answer after each line.
    for found in translator.translate(lines, search, ahead=1 if sys.stdin.isatty() else AHEAD):
        cut += found.cut
        texts = [found.text, *found.others][:best]
        if json:
            facts.append({"texts": texts, "score": found.score, "cut": found.cut})
        else:
            print("\n".join(texts), flush=True)
    if json:
        show(facts, as_json=True)
    if cut:
        limit = translator.model.config.context - 1
        note = t(
            "Texts longer than the {limit} tokens that this model reads, and cut there: {cut:,}.", limit=limit, cut=cut
        )
        Console(quiet=quiet).warn(note)


def _lines() -> Iterator[str]:
    """What is piped in; bytes that are no text become U+FFFD."""
    return (line.decode("utf-8", "replace").rstrip("\r\n") for line in sys.stdin.buffer)
