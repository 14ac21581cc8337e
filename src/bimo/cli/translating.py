"""`bimo translate`: lines in, lines out."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from bimo.cli.app import piped_lines, require_some, show, verb
from bimo.cli.options import Device, Json, Quiet
from bimo.console import Console
from bimo.runtime import USAGE, UserError, t


@verb(t("Translate a text, or every line of what is piped in."))
def translate(
    model: Annotated[Path, typer.Argument(readable=False, help=t("A folder with a translation model."))],
    text: Annotated[str | None, typer.Argument(help=t("What to translate; nothing reads lines from stdin."))] = None,
    to: Annotated[
        str, typer.Option("--to", help=t("The language to translate to, where the model knows several."))
    ] = "",
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
    from bimo.generate.translator import AHEAD, careful_lines, load

    search = Beams(beams, length_penalty, max_tokens)
    if not 1 <= best <= beams:
        sentence = "--best must lie between 1 and --beams, which is {beams}, but is {best}."
        raise UserError(sentence, code=USAGE, beams=beams, best=best)
    require_some(text)
    translator = load(model, device=device)
    lines = piped_lines() if text is None else [line.rstrip("\r") for line in text.removesuffix("\n").split("\n")]
    facts, cut, unfinished = [], 0, 0
    unknown: dict[str, None] = {}
    left: list[str] = []
    # Whoever types wants an answer after each line.
    for found in translator.translate(lines, search, to=to, ahead=1 if sys.stdin.isatty() else AHEAD):
        cut, unfinished = cut + found.cut, unfinished + found.unfinished
        unknown |= dict.fromkeys(found.unknown)
        left += found.untranslated
        texts = [found.text, *found.others][:best]
        if json:
            careful = {name: getattr(found, name) for name in ("cut", "unfinished", "unknown", "untranslated")}
            facts.append({"texts": texts, "score": found.score, **careful})
        else:
            print("\n".join(texts), flush=True)
    if json:
        show(facts, as_json=True)
    console = Console(quiet=quiet)
    for line in careful_lines(left, [*unknown], cut=cut, unfinished=unfinished):
        console.warn(line)
