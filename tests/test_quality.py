"""Keeping what is most like a reference: the score against one counted by hand, the share, the way through prepare."""

from __future__ import annotations

import json
import math
import random
import tracemalloc
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from stories import stories

from bimo.runtime import USAGE, UserError
from bimo.text import TextOptions, collect, read_rejected, read_stored
from bimo.text.collect import collect_documents
from bimo.text.documents import Document
from bimo.text.quality import Reference, worst_allowed
from bimo.text.repeats import NEW, UNLIKE, Repeats


def bits_by_hand(corpus: list[str], text: str) -> float:
    """The same model in dictionaries, a character at a time."""
    counts, contexts = Counter(), Counter()
    for one in corpus:
        padded = "\0\0" + one
        for place in range(2, len(padded)):
            for order in range(3):
                before = padded[place - order : place]
                counts[order, before, padded[place]] += 1
                contexts[order, before] += 1
    padded, total = "\0\0" + text, 0.0
    for place in range(2, len(padded)):
        chance = 1e-6
        for order, weight in enumerate((0.1, 0.3, 0.6)):
            before = padded[place - order : place]
            if contexts[order, before]:
                chance += weight * counts[order, before, padded[place]] / contexts[order, before]
        total -= math.log2(chance)
    return total / len(text)


@pytest.mark.parametrize("text", ["The old fox", "孩子在花园", "zzz", "T", "The", "狐狸 fox 狐狸"])
def test_tables_agree_with_counting(text: str):
    corpus = [stories(3), stories(3, chinese=True), "", "x"]
    assert Reference(corpus).bits(text) == pytest.approx(bits_by_hand(corpus, text), rel=1e-6)


def test_a_text_of_the_kind_is_likelier_than_its_letters_mixed():
    for chinese in (False, True):
        reference = Reference([stories(200, chinese=chinese)])
        text = stories(3, seed=9, chinese=chinese)
        mixed = "".join(random.Random(0).sample(text, len(text)))
        assert reference.bits(text) + 2 < reference.bits(mixed)
    assert reference.bits("") == 0


def test_the_share_is_of_each_language():
    scores = {"zh": [5.0, 1, 4, 2, 3], "en": [10.0], "ja": []}
    assert worst_allowed(scores, 0.4) == {"zh": 2, "en": 10}
    assert worst_allowed(scores, 1) == {"zh": 5, "en": 10}
    assert worst_allowed(scores, 0.01) == {"zh": 1, "en": 10}


@pytest.mark.parametrize("workers", [1, 2])
def test_the_best_of_each_language_are_kept(tmp_path: Path, workers: int):
    draw = random.Random(0)
    good = [stories(1, seed=seed, chinese=chinese) for seed in range(40) for chinese in (False, True)]
    bad = ["".join(draw.sample(text, len(text))).replace("\n", " ") for text in good[:20]]
    (tmp_path / "in").mkdir()
    for number, text in enumerate(good + bad):
        (tmp_path / "in" / f"{number:03}.txt").write_text(text, encoding="utf-8")
    (tmp_path / "good.txt").write_text(stories(300, seed=99) + stories(300, seed=98, chinese=True), encoding="utf-8")
    options = TextOptions(reference=(str(tmp_path / "good.txt"),), keep_best=0.8)
    facts = collect_documents([tmp_path / "in"], tmp_path / "out", options, workers=workers)
    unlike = [row for row in read_rejected(tmp_path / "out" / "rejected") if row.reason == "unlike"]
    assert {int(row.source[:3]) for row in unlike} == set(range(80, 100))
    assert facts["rejected"]["unlike"] == 20
    kept = [row for part in ("train", "validation") for row in read_stored(tmp_path / "out" / "documents", part)]
    assert Counter(row.language for row in kept) == {"zh": 40, "en": 40}


def test_a_repeated_paragraph_stays_where_its_first_text_does_not(tmp_path: Path):
    header = "This letter comes from the archive of the old school near the green river."
    texts = [stories(1, seed=seed) for seed in range(20)]
    texts[0] = "".join(random.Random(0).sample(texts[0], len(texts[0]))).replace("\n", " ")
    rows = (json.dumps({"text": f"{header}\n{text}"}) for text in texts)
    (tmp_path / "in.jsonl").write_text("\n".join(rows))
    (tmp_path / "good.txt").write_text(stories(300, seed=99))
    options = TextOptions(reference=(str(tmp_path / "good.txt"),), keep_best=0.95)
    collect_documents([tmp_path / "in.jsonl"], tmp_path / "out", options)
    assert [row.line for row in read_rejected(tmp_path / "out" / "rejected") if row.reason == "unlike"] == [1]
    kept = [row for part in ("train", "validation") for row in read_stored(tmp_path / "out" / "documents", part)]
    assert [row.line for row in kept if header in row.text] == [2]


def test_scores_take_a_few_bytes_a_document(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    rows, count = 500, 20

    class Lengths:
        characters = 1

        def __init__(self, texts):
            pass

        def bits(self, text: str) -> float:
            return float(len(text))

    class Batches:
        def pieces(self, number: int) -> list[Document]:
            return [Document("x" * (row % 100), "a", row, "en") for row in range(rows)]

        def column(self, number: int, name: str) -> list[str]:
            return ["en"] * rows

    monkeypatch.setattr(collect, "Reference", Lengths)
    (tmp_path / "good.txt").write_text("x")
    repeats = Repeats()
    repeats.states = [np.full(rows, NEW, np.uint8) for _ in range(count)]
    options = TextOptions(reference=(str(tmp_path),), keep_best=0.25)
    tracemalloc.start()
    try:
        scores = collect._compare_with_reference(Batches(), count, repeats, options)
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 20 * rows * count
    assert [(states == UNLIKE).sum() for states in repeats.states] == [0.75 * rows] * count
    assert scores[3][42] == 42


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"keep_best": 0.5}, "--keep-best"),
        ({"keep_best": 0.0, "reference": ("x",)}, "--keep-best"),
        ({"keep_best": 1.5, "reference": ("x",)}, "--keep-best"),
    ],
)
def test_a_share_that_cannot_be_is_refused(tmp_path: Path, options: dict, said: str):
    (tmp_path / "in.txt").write_text(stories(3))
    with pytest.raises(UserError, match=said) as error:
        collect_documents([tmp_path / "in.txt"], tmp_path / "out", TextOptions(**options))
    assert error.value.code == USAGE


def test_a_reference_without_text_is_refused(tmp_path: Path):
    (tmp_path / "in.txt").write_text(stories(3))
    (tmp_path / "empty.txt").write_text("")
    options = TextOptions(reference=(str(tmp_path / "empty.txt"),), keep_best=0.5)
    with pytest.raises(UserError, match=r"no text in the reference .*empty\.txt"):
        collect_documents([tmp_path / "in.txt"], tmp_path / "out", options)
