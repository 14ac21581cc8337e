"""`bimo classify`: texts in, labels out."""

from __future__ import annotations

import json as json_format
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from bimo.cli.app import piped_lines, require_some, show, verb
from bimo.cli.options import Device, Json, Quiet
from bimo.console import Console
from bimo.runtime import USAGE, UserError, t

SHOWN_CHANCES = 3
SHOWN_WORDS = 10


@verb(t("Give texts their labels: one text, every line of what is piped in, or every row of a file."))
def classify(
    model: Annotated[Path, typer.Argument(readable=False, help=t("A classifier, or a language model with --labels."))],
    text: Annotated[str | None, typer.Argument(help=t("What to classify; nothing reads lines from stdin."))] = None,
    second: Annotated[str, typer.Option("--second", help=t("The second text, where labels are about two."))] = "",
    file: Annotated[
        Path | None, typer.Option("--file", readable=False, help=t("A table: its rows come out with their labels."))
    ] = None,
    column: Annotated[
        list[str] | None, typer.Option("--column", help=t("What a column is called in the file: text=body."))
    ] = None,
    labels: Annotated[
        str, typer.Option("--labels", help=t("For a language model: the labels, such as good,bad."))
    ] = "",
    examples: Annotated[
        Path | None,
        typer.Option("--examples", readable=False, help=t("For a language model: texts with labels to show it first.")),
    ] = None,
    abstain: Annotated[float, typer.Option("--abstain", help=t("Below this confidence give no label."))] = 0.0,
    why: Annotated[bool, typer.Option("--why", help=t("Say which words of the text decided."))] = False,
    device: Device = "auto",
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    from bimo.tasks.classify.classifier import explain, open_classifier, verdicts
    from bimo.tasks.classify.tables import verdict_cells

    require_some(text)
    _require_fitting(text=text, file=file, column=column, why=why, abstain=abstain, second=second, json=json)
    named = tuple(filter(None, (label.strip() for label in labels.replace("，", ",").split(","))))
    classifier = open_classifier(model, labels=named, examples=examples, device=device)
    console = Console(quiet=quiet)
    if file is not None:
        _classify_file(classifier, file, column or [], abstain, console)
        return
    if text is not None:
        (verdict,) = verdicts(classifier, [(text, second)], abstain=abstain)
        words = explain(classifier, text) if why else []
        facts = {**verdict.facts(), **({"why": [word._asdict() for word in words]} if why else {})}
        show(facts, as_json=json, lines=lambda: [*_lines(verdict), *_word_lines(words)])
        return
    # Whoever types wants an answer after each line.
    at_once = 1 if sys.stdin.isatty() else 1000
    for verdict in verdicts(classifier, ((line, "") for line in piped_lines()), abstain=abstain, at_once=at_once):
        line = "\t".join(verdict_cells(verdict))
        print(json_format.dumps(verdict.facts(), ensure_ascii=False) if json else line, flush=at_once == 1)


def _require_fitting(
    *,
    text: str | None,
    file: Path | None,
    column: list[str] | None,
    why: bool,
    abstain: float,
    second: str,
    json: bool,
) -> None:
    if text is not None and file is not None:
        raise UserError("Either a text or --file is classified, not both.", code=USAGE)
    if column and file is None:
        raise UserError("--column says what columns of --file are called, and has no place without it.", code=USAGE)
    if json and file is not None:
        raise UserError("A table comes out as a table, so --json has no place beside --file.", code=USAGE)
    if (why or second) and text is None:
        raise UserError("--why and --second go with one text: bimo classify MODEL TEXT.", code=USAGE)
    if why and second:
        raise UserError("--why explains one text, not two.", code=USAGE)
    if not 0 <= abstain <= 1:
        raise UserError("--abstain must lie between 0 and 1, but is {abstain}.", code=USAGE, abstain=abstain)


def _classify_file(classifier: Any, file: Path, column: list[str], abstain: float, console: Console) -> None:
    from bimo.cli.refining import columns_of
    from bimo.tasks.classify.tables import classify_table
    from bimo.text.documents import Rejected

    refused: list[Rejected] = []
    count = classify_table(
        classifier,
        file,
        sys.stdout,
        columns=columns_of(column),
        abstain=abstain,
        refuse=refused.append,
        said=lambda sentence: console.say("Read", sentence),
    )
    console.say("Done", t("{rows:,} rows", rows=count))
    if refused:
        sentence = "{count:,} rows could not be read and are not in the result; the first: {first}"
        console.warn(t(sentence, count=len(refused), first=refused[0]))


def _lines(verdict: Any) -> list[str]:
    likely = ", ".join(f"{label} {chance:.1%}" for label, chance in list(verdict.chances.items())[:SHOWN_CHANCES])
    named = ", ".join(verdict.labels) or t("no label")
    return [t("{label}  (likeliest: {likely})", label=named, likely=likely)]


def _word_lines(words: Any) -> list[str]:
    """The words that count most, for or against."""
    most = sorted(words, key=lambda one: -abs(one.weight))[:SHOWN_WORDS]
    return [f"{one.weight:+8.3f}  {one.word}" for one in most if one.weight]
