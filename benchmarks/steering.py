"""Whether tags steer: the share of poems that have the form, the genre and the length that was asked for.

    sh recipes/poetry/poetry.sh FOLDER_OF_JSON poetry 5
    python benchmarks/steering.py poetry/model

A hundred poems for each value of each tag, and as many without any tag, sampled freely (no regular expression). The
form is read off the lines as the recipe does it, so one wrong line spoils a poem; `lines` counts line by line. A poem
counts as 诗 when three quarters of its lines are of five, or of seven, characters, else as 词.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from record import conclude

from bimo.generate.engine import LanguageModel, load
from bimo.generate.sample import Sampling
from bimo.machine import measure_machine
from bimo.text.controls import Controls, read_controls

sys.path.append(str(Path(__file__).resolve().parents[1] / "recipes" / "poetry"))
from tag_forms import PAUSES, form_of

TOKENS = 160
FREE = Sampling(temperature=0.9, top_p=0.95)


def main() -> None:
    """Write with each value of each tag and count."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--samples", type=int, default=100)
    parser.add_argument("--dry", action="store_true", help="keep nothing in results.jsonl")
    chosen = parser.parse_args()
    controls = read_controls(chosen.model / "bimo")
    if controls is None:
        raise SystemExit(f"{chosen.model} has learned no tags: train it with recipes/poetry/poetry.sh")
    model = load(chosen.model)
    # The rest of what such a model writes without being asked, so its own header is taken off.
    unasked = [controls.without_header(text) for text in write(model, "", chosen.samples)]
    found: dict[str, str] = {}
    for name in (*controls.values, "length"):
        for value in controls.values.get(name, dict.fromkeys(("short", "medium", "long"))):
            asked = write(model, controls.header({name: value}), chosen.samples)
            shares = [share(texts, name, value, controls) for texts in (asked, unasked)]
            found[f"{name}={value}"] = f"{shares[0]:.0%} where it was asked for, {shares[1]:.0%} where nothing was"
            if name == "form" and value != "杂言":
                lines = [share_of_lines(texts, 5 if value.startswith("五") else 7) for texts in (asked, unasked)]
                found[f"{name}={value}"] += f"; lines {lines[0]:.0%} and {lines[1]:.0%}"
            print(f"{name}={value}: {asked[0]!r}", file=sys.stderr)
    conclude(
        "steering",
        settings={"model": chosen.model.name, "samples": chosen.samples, "tokens": TOKENS},
        machine=measure_machine(torch.device("cpu")).facts(),
        packages=("torch",),
        comparisons=[],
        facts=found,
        keep=not chosen.dry,
    )


def write(model: LanguageModel, header: str, count: int) -> list[str]:
    """So many texts behind a header."""
    return model.samples(header, count=count, max_tokens=TOKENS, sampling=FREE)


def share_of_lines(texts: list[str], length: int) -> float:
    """Of the lines of all texts, those of so many characters."""
    lines = [line for text in texts for line in PAUSES.split(text) if line]
    return sum(len(line) == length for line in lines) / max(1, len(lines))


def genre_of(text: str) -> str:
    """诗 or 词, by how alike the lines are."""
    return "诗" if max(share_of_lines([text], length) for length in (5, 7)) >= 0.75 else "词"


def share(texts: list[str], name: str, value: str, controls: Controls) -> float:
    """Of texts that have a value of a tag, as far as can be told from the text alone."""

    def found(text: str) -> str:
        if name == "length":
            return ("short", "medium", "long")[(len(text) > controls.short) + (len(text) > controls.medium)]
        return form_of(text) if name == "form" else genre_of(text)

    return sum(found(text.strip()) == value for text in texts) / len(texts)


if __name__ == "__main__":
    main()
