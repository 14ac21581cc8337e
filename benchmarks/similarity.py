"""Likeness of sentences: MiniLM beside sentence-transformers, and encoders of our own before and after SimCSE.

    python benchmarks/similarity.py ../shared/data --work WORK [--minutes 5] [--test]

On STS-B in English and Chinese. Encoders are pretrained on the texts in `lm/` and on the training sentences, whose
scores nobody sees, and then tuned on those sentences alone. What was made in WORK before is used again. The test part
is read with --test only; all choices were made on the development part.
"""

from __future__ import annotations

import argparse
import csv
import pydoc_data.topics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from packaged import minilm
from record import Comparison, conclude

import bimo
from bimo.console import Console
from bimo.correlation import spearman
from bimo.evaluate.similarity import measure_similarity
from bimo.machine import measure_machine
from bimo.tasks.embed.embedder import Embedder, open_embedder
from bimo.train.tune import TuneConfig

LANGUAGES = {
    "en": ("lm/tinystories_sample_2mb", "lm/tinyshakespeare"),
    "zh": ("lm/zh_classic_novels", "lm/zh_modern_python_docs", "lm/zh_poetry"),
}
ENOUGH_SENTENCES = 2000


def pairs(data: Path, language: str, part: str) -> tuple[list[str], list[str], np.ndarray]:
    """Firsts, seconds and scores."""
    path = data / "similarity" / "stsb_en_zh" / f"stsb-{language}-{part}.csv"
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    return [row[0] for row in rows], [row[1] for row in rows], np.array([float(row[2]) for row in rows])


def rates(ours: Embedder, theirs: Callable[[list[str]], np.ndarray], texts: list[str], rounds: int) -> Comparison:
    """Texts a second of both, by turns; what they make is the same."""
    seconds: dict[str, list[float]] = {"bimo": [], "sentence-transformers": []}
    makers: dict[str, Callable[[list[str]], np.ndarray]] = dict(zip(seconds, (ours.embed, theirs), strict=True))
    made = {name: make(texts) for name, make in makers.items()}
    difference = float(np.abs(made["bimo"] - made["sentence-transformers"]).max())
    assert difference < 1e-5, difference
    for _ in range(rounds):
        for name, make in makers.items():
            before = time.perf_counter()
            make(texts)
            seconds[name].append(len(texts) / (time.perf_counter() - before))
    return Comparison(f"Vectors of {len(texts):,} sentences by MiniLM", "texts/s", seconds)


def corpus(data: Path, work: Path, language: str) -> tuple[list[Path], Path]:
    """Texts to pretrain on, and the file of the training sentences, each once, without scores."""
    firsts, seconds, _ = pairs(data, language, "train")
    sentences = list(dict.fromkeys([*firsts, *seconds]))
    np.random.default_rng(0).shuffle(sentences)
    folder = work / f"text-{language}"
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "sentences.txt"
    file.write_text("\n".join(sentences) + "\n", encoding="utf-8")
    if language == "en":
        (folder / "pydoc.txt").write_text("\n\n".join(pydoc_data.topics.topics.values()), encoding="utf-8")
    return [folder, *(data / name for name in LANGUAGES[language])], file


def simcse(data: Path, work: Path, language: str, chosen: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Spearman of an encoder of our own before and after, by the part of STS-B."""
    sources, sentences = corpus(data, work, language)
    base, tuned = work / f"base-{language}", work / f"tuned-{language}"
    console = Console()
    bimo.run(sources, out=base, minutes=chosen.minutes, family="encoder", preset=chosen.preset, console=console)
    settings = TuneConfig(epochs=chosen.epochs, minutes=chosen.tune_minutes)
    bimo.tune(base, sentences, out=tuned, task="embed", settings=settings, console=console)
    found = {}
    for part in ("dev", "test") if chosen.test else ("dev",):
        before, after = (
            measure_similarity(open_embedder(folder), *pairs(data, language, part)) for folder in (base, tuned)
        )
        found[part] = {
            "before": before["spearman"],
            "after": after["spearman"],
            "after, interval": after["spearman_interval"],
        }
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, and keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="the folder of real data")
    parser.add_argument("--work", type=Path, required=True, help="where encoders are made")
    parser.add_argument("--minutes", type=float, default=5.0, help="of pretraining, for each language")
    parser.add_argument("--preset", default="", help="the size of the encoders; without it the plan chooses")
    parser.add_argument("--epochs", type=float, default=4.0, help="of tuning")
    parser.add_argument("--tune-minutes", type=float, default=5.0)
    parser.add_argument("--rounds", type=int, default=5, help="of speed")
    parser.add_argument("--only", choices=("minilm", *LANGUAGES), help="a part of it")
    parser.add_argument("--test", action="store_true", help="measure on the test part as well")
    parser.add_argument("--dry", action="store_true", help="keep nothing in results.jsonl")
    chosen = parser.parse_args(arguments)
    machine = measure_machine(torch.device("cpu"), seconds=1.0).facts()
    part, facts, comparisons = "test" if chosen.test else "dev", {}, []
    if chosen.only in (None, "minilm"):
        from sentence_transformers import SentenceTransformer

        ours, theirs = open_embedder(minilm()), SentenceTransformer(str(minilm()), device="cpu")

        def encode(texts: list[str]) -> np.ndarray:
            return theirs.encode(texts, batch_size=32, show_progress_bar=False)

        firsts, seconds, scores = pairs(chosen.data, "en", part)
        one, other = encode(firsts), encode(seconds)
        facts[f"MiniLM, Spearman on {part}"] = {
            "bimo": measure_similarity(ours, firsts, seconds, scores)["spearman"],
            "sentence-transformers": float(spearman((one * other).sum(axis=1), scores)),
        }
        comparisons.append(rates(ours, encode, [*firsts, *seconds][:ENOUGH_SENTENCES], chosen.rounds))
    for language in LANGUAGES:
        if chosen.only in (None, language):
            facts[f"SimCSE, Spearman, {language}"] = simcse(chosen.data, chosen.work, language, chosen)
    settings = {
        "minutes": chosen.minutes,
        "preset": chosen.preset,
        "epochs": chosen.epochs,
        "tune_minutes": chosen.tune_minutes,
        "part": part,
        "only": chosen.only or "",
        "threads": machine["threads"],
    }
    conclude(
        "similarity",
        settings=settings,
        machine=machine,
        packages=("torch", "transformers", "sentence-transformers"),
        comparisons=comparisons,
        facts=facts,
        keep=not chosen.dry,
    )


if __name__ == "__main__":
    main()
