"""`bimo words`: words of a text, Chinese or English."""

from __future__ import annotations

import functools
import io
import json
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from bimo.cli.app import app, show, verb
from bimo.cli.options import Json, Out, Quiet, Seed, Words
from bimo.console import Console
from bimo.runtime import require_least, t

StopWords = Annotated[
    Path | None, typer.Option("--stop-words", readable=False, help=t("A file of more stop words, one a line."))
]
TextSources = Annotated[
    list[Path],
    typer.Argument(metavar="SOURCE...", readable=False, help=t("Prepared data, or files and folders of text.")),
]
Keep = Annotated[list[str] | None, typer.Option("--keep", help=t("A word that is no stop word."))]
Vectors = Annotated[
    Path, typer.Argument(readable=False, help=t("Vectors of words: a folder, or a text file of word2vec or fastText."))
]
Most = Annotated[int, typer.Option("--most", help=t("How many words to show."))]

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
    from bimo.text.encodings import SAMPLE_BYTES, lines_as_they_come
    from bimo.text.segment import WordList, segment_lines

    kept = WordList.read(word_list) if word_list else None
    # Bytes that are no text come out as they went in.
    with os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8", errors="surrogateescape", newline="") as out:
        inputs: list[Path] | list[int] = files or [sys.stdin.fileno()]
        for file in inputs:
            with io.FileIO(file, closefd=bool(files)) as raw:
                blocks = iter(functools.partial(raw.read, SAMPLE_BYTES), b"")
                lines = lines_as_they_come(blocks, "stdin" if isinstance(file, int) else file)
                for found in segment_lines(lines, words=kept, sentences=sentences):
                    out.write(_one_line(found, separator, as_json=json))


@verb(t("Count words: the commonest but for stop words, and which words here seem to be stop words too."), of=words)
def count(
    sources: TextSources,
    most: Annotated[int, typer.Option("--most", help=t("How many words to show."))] = 50,
    word_list: Words = None,
    without: StopWords = None,
    keep: Keep = None,
    every: Annotated[bool, typer.Option("--all", help=t("Leave no stop word out."))] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    from bimo.text.encodings import read_word_list
    from bimo.text.segment import WordList
    from bimo.words.counts import count_lines, count_words

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


@verb(t("Learn vectors of words: words that are used alike come to lie near each other."), of=words)
def train(
    sources: TextSources,
    out: Out,
    method: Annotated[str, typer.Option("--method", help=t("skip-gram or cbow."))] = "skip-gram",
    width: Annotated[int, typer.Option("--width", help=t("Numbers of a vector."))] = 100,
    window: Annotated[int, typer.Option("--window", help=t("How many words to each side count as near."))] = 5,
    epochs: Annotated[int, typer.Option("--epochs", help=t("How often the text is read."))] = 5,
    least_count: Annotated[int, typer.Option("--least-count", help=t("Leave out words that are rarer."))] = 5,
    parts: Annotated[bool, typer.Option("--parts/--no-parts", help=t("Learn from parts of words, too."))] = True,
    word_list: Words = None,
    without: StopWords = None,
    keep: Keep = None,
    every: Annotated[bool, typer.Option("--all", help=t("Leave no stop word out."))] = False,
    threads: Annotated[int, typer.Option("--threads", help=t("0 takes all; 1 repeats to the bit."))] = 0,
    seed: Seed = 0,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    from bimo.text.encodings import read_word_list
    from bimo.text.segment import WordList
    from bimo.vectors.training import VectorSettings
    from bimo.words.vectors import train_words

    facts = train_words(
        sources,
        out=out,
        settings=VectorSettings(
            method=method,
            width=width,
            window=window,
            epochs=epochs,
            least_count=least_count,
            parts=parts,
            seed=seed,
        ),
        words=WordList.read(word_list) if word_list else None,
        without=read_word_list(without) if without else (),
        keep=keep or (),
        every=every,
        threads=threads,
        console=Console(quiet=quiet),
    )
    show(facts, as_json=json)


@verb(t("The words that are used most like a word."), of=words)
def near(
    vectors: Vectors, word: Annotated[str, typer.Argument(help=t("A word."))], most: Most = 10, json: Json = False
) -> None:
    from bimo.vectors.store import read_vectors

    _show_found(read_vectors(vectors).near(word, _at_least_one(most)), as_json=json)


@verb(t("What is to the third word as the second is to the first?"), of=words)
def analogy(
    vectors: Vectors,
    first: Annotated[str, typer.Argument(help=t("A word."))],
    second: Annotated[str, typer.Argument(help=t("What belongs to it."))],
    third: Annotated[str, typer.Argument(help=t("The word for which that is looked for."))],
    most: Most = 5,
    json: Json = False,
) -> None:
    from bimo.vectors.store import read_vectors

    _show_found(read_vectors(vectors).analogy(first, second, third, _at_least_one(most)), as_json=json)


@verb(t("How alike two texts are, from -1 to 1, by the vectors of their words."), of=words)
def similar(
    vectors: Vectors,
    text: Annotated[str, typer.Argument(help=t("A text."))],
    other: Annotated[str, typer.Argument(help=t("Another text."))],
    json: Json = False,
) -> None:
    from bimo.vectors.store import read_vectors

    cosine = read_vectors(vectors).similarity(text, other)
    show({"similarity": cosine}, as_json=json, lines=lambda: [f"{cosine:.3f}"])


@verb(t("Draw a map of words: those that are used alike stand together."), of=words)
def plot(
    vectors: Vectors,
    chosen: Annotated[
        list[str] | None, typer.Argument(metavar="WORD...", help=t("Words to show; none shows the commonest."))
    ] = None,
    out: Annotated[Path, typer.Option("--out", help=t("A .svg or .png to write."))] = Path("words.svg"),
    most: Annotated[int, typer.Option("--most", help=t("How many words to show."))] = 200,
    seed: Seed = 0,
) -> None:
    from bimo.vectors.map import draw_map
    from bimo.vectors.store import read_vectors

    found = read_vectors(vectors)
    names = chosen or found.words[: _at_least_one(most)]
    labels = draw_map(names, found.vectors_of(names), out, seed=seed)
    print(t("{out}: {words} words, {labels} with a label", out=out, words=len(names), labels=labels))


def _at_least_one(most: int) -> int:
    require_least({"most": (most, 1)})
    return most


def _show_found(found: list[tuple[str, float]], *, as_json: bool) -> None:
    show(
        [{"word": word, "cosine": round(cosine, 4)} for word, cosine in found],
        as_json=as_json,
        lines=lambda: [f"{cosine:.3f}  {word}" for word, cosine in found],
    )


def _one_line(words: list[str], separator: str, *, as_json: bool) -> str:
    return (json.dumps(words, ensure_ascii=False) if as_json else separator.join(words)) + "\n"
