"""`bimo words`: words of a text, Chinese or English."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from bimo.cli.app import app, show, verb
from bimo.cli.options import Json, Quiet, Words
from bimo.console import Console
from bimo.runtime import t

words = typer.Typer(help=t("Words of a text, Chinese or English."), rich_markup_mode=None, no_args_is_help=True)
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
