"""Chinese words: F1 by the rule of the SIGHAN scorer, beside rjieba as it comes, and characters a second on one core.

    python benchmarks/segmentation.py

A word counts as right when it begins and ends where the gold one does. The sentences are those of the test part of
UD_Chinese-GSDSimp; speed is measured on the Chinese corpora, in turns.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from prepare import TEXT, read_texts
from record import Comparison, conclude
from turns import Turns, contestants, interleave

from bimo.machine import measure_machine

GOLD = Path(__file__).resolve().parents[2] / "shared" / "data" / "segment" / "ud_chinese_gsdsimp"
CORPORA = ("zh_classic_novels", "zh_modern_python_docs")


def read_gold(path: Path) -> list[list[str]]:
    """The words of every sentence of a CoNLL-U file."""
    sentences: list[list[str]] = [[]]
    for line in path.read_text(encoding="utf-8").splitlines():
        fields = line.split("\t")
        if not line:
            sentences.append([])
        elif fields[0].isdigit():
            sentences[-1].append(fields[1])
    return [sentence for sentence in sentences if sentence]


def spans(words: list[str]) -> Iterator[tuple[int, int]]:
    """Where words begin and end, without white space."""
    place = 0
    for word in words:
        bare = "".join(word.split())
        if bare:
            yield place, place + len(bare)
            place += len(bare)


def scores(cut: Callable[[str], list[str]], gold: list[list[str]]) -> tuple[float, float, float]:
    """(precision, recall, F1)."""
    right = found = expected = 0
    for words in gold:
        ours, theirs = set(spans(cut("".join(words)))), set(spans(words))
        right, found, expected = right + len(ours & theirs), found + len(ours), expected + len(theirs)
    precision, recall = right / found, right / expected
    return precision, recall, 2 * precision * recall / (precision + recall)


def build(name: str) -> Callable[[str], list[str]]:
    """A segmenter by its name."""
    if name == "bimo":
        from bimo.text import segment

        return segment
    import rjieba

    return lambda text: list(rjieba.cut(text))


def cut(turns: Turns, name: str, texts: list[str]) -> None:
    """A worker: the task says how many texts; the answer is millions of characters a second."""
    segmenter = build(name)
    for count in turns:
        before = time.perf_counter()
        for text in texts[:count]:
            segmenter(text)
        seconds = time.perf_counter() - before
        turns.report(sum(map(len, texts[:count])) / 1e6 / seconds)


def main() -> None:
    """Measure, print, and keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dry", action="store_true", help="keep nothing in results.jsonl")
    chosen = parser.parse_args()
    machine = measure_machine(torch.device("cpu"), seconds=1.0).facts()
    gold = read_gold(GOLD / "zh_gsdsimp-ud-test.conllu")
    judged = {name: scores(build(name), gold) for name in ("bimo", "rjieba")}
    texts = [
        text[start : start + 5000]
        for corpus in CORPORA
        for text in read_texts(TEXT / corpus)
        for start in range(0, len(text), 5000)
    ]
    with contestants({name: (cut, name, texts) for name in judged}, threads=1) as started:
        interleave(started, [10], what="warm-up")
        rates = interleave(started, [len(texts)] * chosen.rounds, what="all texts")
    conclude(
        "segmentation",
        settings={"rounds": chosen.rounds, "sentences": len(gold)},
        machine=machine,
        packages=("rjieba",),
        comparisons=[Comparison("Chinese cut into words, one processor", "M characters/s", rates)],
        facts={
            f"{name}: precision, recall, F1": ", ".join(f"{value:.4f}" for value in values)
            for name, values in judged.items()
        },
        keep=not chosen.dry,
    )


if __name__ == "__main__":
    main()
