"""`bimo embed` and `bimo similar`: vectors of texts, and what is like what."""

from __future__ import annotations

import json as json_format
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from bimo.cli.app import piped_lines, require_some, show, verb
from bimo.cli.options import Device, Json, ModelPath, Quiet, Seed
from bimo.console import Console
from bimo.runtime import DATA_REFUSED, USAGE, UserError, require_least, t

Lines = Annotated[Path | None, typer.Option("--in", readable=False, help=t("A file of texts, one a line."))]


@verb(t("Vectors of texts, one a line of the input: JSON lines, or a .npy file of float32."))
def embed(
    model: ModelPath,
    text: Annotated[
        str | None, typer.Argument(help=t("One text; without it, the lines of --in or of the input."))
    ] = None,
    lines: Lines = None,
    out: Annotated[
        Path | None, typer.Option("--out", help=t("A .npy file to write, a row a line of the input."))
    ] = None,
    device: Device = "auto",
    quiet: Quiet = False,
) -> None:
    from bimo.tasks.embed.embedder import open_embedder
    from bimo.tasks.embed.examples import read_lines
    from bimo.tasks.embed.rows import write_rows

    require_some(text)
    if text is not None and lines is not None:
        raise UserError("Give a text or --in, not both.", code=USAGE)
    if out is not None and out.suffix.lower() != ".npy":
        raise UserError("--out must end in .npy, but is {path}.", code=USAGE, path=out)
    given = read_lines(lines) if lines is not None else piped_lines()
    texts: Iterable[str] = given if text is None else [text]
    embedder, console = open_embedder(model, device=device), Console(quiet=quiet)
    found = embedder.stream(texts)
    if out is not None:
        count = write_rows(out, (vectors for _, vectors in found), width=embedder.width)
        console.say(
            "Done", t("{count:,} vectors of {width} numbers in {path}", count=count, width=embedder.width, path=out)
        )
        return
    for some, vectors in found:
        for one, vector in zip(some, vectors, strict=True):
            row = {"text": one, "vector": [float(f"{number:.7g}") for number in vector.tolist()]}
            print(json_format.dumps(row, ensure_ascii=False))


@verb(t("What is like what: two texts, a query among the lines of a file, pairs in it, or groups."))
def similar(
    model: ModelPath,
    texts: Annotated[list[str] | None, typer.Argument(help=t("Two texts; with --in, one to look for."))] = None,
    lines: Lines = None,
    best: Annotated[int, typer.Option("--best", help=t("How many texts or pairs to show."))] = 5,
    pairs: Annotated[bool, typer.Option("--pairs", help=t("The pairs of lines that are most alike."))] = False,
    clusters: Annotated[
        int | None, typer.Option("--clusters", help=t("Put the lines into so many groups; 0 finds out how many."))
    ] = None,
    seed: Seed = 0,
    device: Device = "auto",
    json: Json = False,
) -> None:
    from bimo.tasks.embed import similar as find
    from bimo.tasks.embed.embedder import open_embedder
    from bimo.tasks.embed.examples import read_lines

    require_least({"best": (best, 1), "seed": (seed, 0)})
    given = texts or []
    asked = sum((lines is not None and bool(given), pairs, clusters is not None))
    if lines is None and (len(given) != 2 or asked):
        raise UserError("Give two texts, or a file of texts with --in.", code=USAGE)
    if lines is not None and (len(given) > 1 or asked != 1):
        raise UserError("With --in give one text to look for, or --pairs, or --clusters.", code=USAGE)
    embedder = open_embedder(model, device=device)
    if lines is None:
        one, other = find.units(embedder.embed(given))
        cosine = float(one @ other)
        show({"cosine": cosine}, as_json=json, lines=lambda: [f"{cosine:.4f}"])
        return
    known = [line for line in read_lines(lines) if line.strip()]
    if not known:
        raise UserError("{path} holds no text.", code=DATA_REFUSED, path=lines)
    vectors = find.units(embedder.embed(known))
    if clusters is not None:
        made = find.groups(vectors, known, count=clusters, seed=seed)
        show(
            {
                "groups": [
                    {"texts": len(g.places), "nearest": g.nearest, "lines": [known[i] for i in g.places]} for g in made
                ]
            },
            as_json=json,
            lines=lambda: [f"{len(group.places)}\t{' | '.join(group.nearest)}" for group in made],
        )
        return
    if pairs:
        near = [(c, known[i], known[j]) for i, j, c in find.near_pairs(vectors, best=best)]
        show(
            {"pairs": [{"cosine": c, "first": i, "second": j} for c, i, j in near]},
            as_json=json,
            lines=lambda: [f"{c:.4f}\t{i}\t{j}" for c, i, j in near],
        )
        return
    query = find.units(embedder.embed(given))[0]
    matches = find.nearest(query, vectors, known, best=best)
    show(
        {"matches": [{"cosine": match.cosine, "text": match.text} for match in matches]},
        as_json=json,
        lines=lambda: [f"{match.cosine:.4f}\t{match.text}" for match in matches],
    )
