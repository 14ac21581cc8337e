"""`bimo answer`: questions in, answers from documents out."""

from __future__ import annotations

import json as json_format
from pathlib import Path
from typing import Annotated

import typer

from bimo.cli.app import asked_lines, require_some, show, verb
from bimo.cli.options import Device, Json, Quiet
from bimo.console import Console
from bimo.runtime import USAGE, UserError, require_least, t


@verb(t("Answer questions from documents, each with the passage that says so, or that it is not in them."))
def answer(
    model: Annotated[Path, typer.Argument(readable=False, help=t("An encoder that bimo tune --task answer taught."))],
    question: Annotated[
        str | None, typer.Argument(help=t("Without one, each line of the input is a question."))
    ] = None,
    documents: Annotated[
        list[Path] | None,
        typer.Option("--from", readable=False, help=t("A file or folder to answer from; may be given several times.")),
    ] = None,
    vectors: Annotated[
        Path | None,
        typer.Option("--vectors", readable=False, help=t("An encoder of sentences that helps to find passages.")),
    ] = None,
    writer: Annotated[
        Path | None,
        typer.Option("--writer", readable=False, help=t("A language model that writes an answer from the passages.")),
    ] = None,
    passages: Annotated[int, typer.Option("--passages", help=t("How many passages are read."))] = 5,
    device: Device = "auto",
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    from bimo.tasks.answer.answering import answer as find_answers
    from bimo.tasks.answer.answering import answer_lines

    require_least({"passages": (passages, 1)})
    if not documents:
        raise UserError("bimo answer needs documents to answer from: name a file or a folder with --from.", code=USAGE)
    require_some(question)
    asked = (line.strip() for line in asked_lines("? ", quiet=quiet)) if question is None else [question]
    found = find_answers(
        model,
        asked,
        documents=documents,
        vectors=vectors,
        writer=writer,
        passages=passages,
        device=device,
        console=Console(quiet=quiet),
    )
    if question is not None:
        (facts,) = found
        show(facts, as_json=json, lines=lambda: answer_lines(facts))
        return
    # Whoever types or pipes gets each answer when it is found.
    for number, facts in enumerate(found):
        if json:
            print(json_format.dumps(facts, ensure_ascii=False), flush=True)
            continue
        if number:
            print()
        for line in answer_lines(facts):
            print(line, flush=True)
