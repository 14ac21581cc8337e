"""How well the angles between vectors of texts agree with what people say of their likeness. N pairs, R resamples."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bimo.console import SILENT, Console
from bimo.correlation import pearson, ranks, spearman
from bimo.intervals import bootstrap
from bimo.runtime import DATA_REFUSED, UserError, t
from bimo.tasks.embed.embedder import Embedder, open_embedder
from bimo.tasks.embed.examples import read_examples
from bimo.tasks.folder import tell_refused
from bimo.weights.huggingface import head_in

__all__ = ["evaluate_similarity", "measure_similarity", "measures_similarity", "similarity_lines"]

SHOWN = 3


def measures_similarity(model: Path, source: Path) -> bool:
    """Whether a model is measured by its vectors: an encoder that does no other task, on a file rather than data."""
    return source.is_file() and head_in(model) in ("none", "words")


def evaluate_similarity(
    model: Path, file: Path, *, columns: Mapping[str, str] | None = None, console: Console = SILENT
) -> dict[str, Any]:
    """Measure a model on a file of pairs with scores, of which `columns` says where they stand. Returns facts as JSON.

    Raises UserError when the file holds none.
    """
    examples = read_examples(file, columns, repeats=True)
    if examples.kind != "scored":
        raise UserError(
            "{path} holds {found}. An encoder is evaluated on prepared data (bimo prepare), or, as one that makes "
            "vectors, on pairs with scores: two columns of texts, one of numbers.",
            code=DATA_REFUSED,
            path=file,
            found=examples.describe(),
        )
    console.say("Read", examples.describe())
    tell_refused(examples.refused, console, kept=False)
    firsts, seconds = [pair.source for pair in examples.rows], [pair.target for pair in examples.rows]
    found = measure_similarity(open_embedder(model), firsts, seconds, np.array(examples.scores))
    return {"task": "similarity", "model": str(model), "file": str(file), "refused": len(examples.refused), **found}


def measure_similarity(embedder: Embedder, firsts: list[str], seconds: list[str], scores: np.ndarray) -> dict[str, Any]:
    """Correlations of cosines with scores [N], each with the interval of 95 % of resamples of the pairs."""
    cosines = cosines_of(embedder, firsts, seconds)
    gap = np.abs(ranks(cosines) - ranks(scores))
    worst = [int(place) for place in np.argsort(-gap, kind="stable")[:SHOWN]]
    return {
        "pairs": len(scores),
        "spearman": float(spearman(cosines, scores)),
        "spearman_interval": [*bootstrap(lambda drawn: spearman(cosines[drawn], scores[drawn]), len(scores))],
        "pearson": float(pearson(cosines, scores)),
        "pearson_interval": [*bootstrap(lambda drawn: pearson(cosines[drawn], scores[drawn]), len(scores))],
        "least_agreed": [
            {
                "first": firsts[place],
                "second": seconds[place],
                "score": float(scores[place]),
                "cosine": float(cosines[place]),
            }
            for place in worst
        ],
    }


def cosines_of(embedder: Embedder, firsts: list[str], seconds: list[str]) -> np.ndarray:
    """[N], of each text with its partner; a text that stands in several pairs is read once."""
    places = {text: place for place, text in enumerate(dict.fromkeys([*firsts, *seconds]))}
    vectors = embedder.embed([*places]).astype(np.float64)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    left, right = ([places[text] for text in side] for side in (firsts, seconds))
    return np.einsum("nd,nd->n", vectors[left], vectors[right])


def similarity_lines(facts: dict[str, Any]) -> list[str]:
    """An evaluation for people: the figures, and the pairs of which model and people think most differently."""
    disputed = (t("score {score:g}, cosine {cosine:.2f}: {first} | {second}", **pair) for pair in facts["least_agreed"])
    return [
        t(
            "Spearman {value:.4f} ({low:.3f}-{high:.3f} in 95 % of resamples) on {pairs:,} pairs",
            value=facts["spearman"],
            low=facts["spearman_interval"][0],
            high=facts["spearman_interval"][1],
            pairs=facts["pairs"],
        ),
        t(
            "Pearson {value:.4f} ({low:.3f}-{high:.3f})",
            value=facts["pearson"],
            low=facts["pearson_interval"][0],
            high=facts["pearson_interval"][1],
        ),
        t("Least agreed on:"),
        *disputed,
    ]
