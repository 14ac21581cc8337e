"""Word vectors beside gensim's with the same settings on the same lines: analogies, similarities, words a second.

    python benchmarks/word_vectors.py [--rounds 3] [--threads 2] [--dry]

Chinese: the corpora of ../shared/data/lm, judged by CA8. English: reviews, stories, plays, news and the documentation
of Python, judged by question-words, WordSim-353 and SimLex-999. Both are judged by gensim's own functions on
what they wrote in word2vec's text format; only words that are covered count. Each round has another seed.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from record import Comparison, conclude
from turns import Turns, contestants, interleave

from bimo.machine import measure_machine
from bimo.runtime import pick_device

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
CORPORA = {
    "zh": ["lm/zh_classic_novels", "lm/zh_modern_python_docs", "lm/zh_poetry"],
    "en": [
        "lm/tinyshakespeare",
        "lm/tinystories_sample_2mb",
        "mt/python_docs_en_zh",
        "classify/movie_reviews_2k",
        "classify/movie_sentiment_nltk",
        "eval/word_vectors_en/lee_background.cor",
    ],
}
ANALOGIES = {
    "zh": [f"eval/ca8_word_analogy/{name}.txt" for name in ("morphological", "semantic")],
    "en": ["eval/word_vectors_en/questions-words.txt"],
}
PAIRS = {"zh": [], "en": [f"eval/word_vectors_en/{name}" for name in ("wordsim353.tsv", "simlex999.txt")]}
WIDTH, WINDOW, NEGATIVES, EPOCHS, LEAST_COUNT, SAMPLE = 100, 5, 5, 5, 5, 1e-3
KINDS = [(method, parts) for method in ("skip-gram", "cbow") for parts in (False, True)]


def texts(language: str) -> Iterator[str]:
    """The corpus of a language."""
    from bimo.text.collect import read_texts

    for source in CORPORA[language]:
        path = DATA / source
        if path.suffix == ".cor":
            yield path.read_text(encoding="utf-8")
        elif archives := sorted(path.glob("*.zip")):
            for archive in map(zipfile.ZipFile, archives):
                names = [name for name in archive.namelist() if name.endswith(".txt") or "." not in name.split("/")[-1]]
                yield from (archive.read(name).decode("latin-1") for name in names if not name.endswith("/"))
        elif source.startswith("mt/"):
            for text in read_texts([path], unread=print):
                yield from (line.split("\t")[1] for line in text.splitlines() if line.count("\t") > 1)
        else:
            yield from read_texts([path], unread=print)


def corpus_of(language: str, folder: str) -> Any:
    """As `bimo words train` numbers it."""
    from bimo.vectors.corpus import index_texts

    return index_texts(texts(language), Path(folder), least_count=LEAST_COUNT)


def our_worker(turns: Turns, threads: int) -> None:
    """`bimo`; the clock runs while it trains."""
    from bimo.vectors.store import write_vectors
    from bimo.vectors.training import VectorSettings, train_vectors

    for task in turns:
        with tempfile.TemporaryDirectory() as folder:
            corpus = corpus_of(task["language"], folder)
            settings = VectorSettings(
                method=task["method"],
                parts=task["parts"],
                width=WIDTH,
                window=WINDOW,
                negatives=NEGATIVES,
                epochs=EPOCHS,
                least_count=LEAST_COUNT,
                sample=SAMPLE,
                seed=task["seed"],
            )
            start = time.perf_counter()
            vectors = train_vectors(corpus, settings, threads=threads, progress=lambda done, text: None)
            rate = EPOCHS * int(corpus.counts.sum()) / (time.perf_counter() - start)
            write_vectors(vectors, Path(folder, "vectors"), facts={})
            turns.report({"rate": rate, **judge(Path(folder, "vectors", "vectors.txt"), task["language"])})


def gensim_worker(turns: Turns, threads: int) -> None:
    """gensim on the same lines, which it has in memory; its vocabulary is made before the clock runs."""
    from gensim.models import FastText, Word2Vec

    from bimo.vectors.corpus import END
    from bimo.vectors.parts import HAN, LETTERS

    for task in turns:
        with tempfile.TemporaryDirectory() as folder:
            corpus = corpus_of(task["language"], folder)
            lines: list[list[str]] = [[]]
            for number in corpus.ids.tolist():
                if number == END:
                    lines.append([])
                else:
                    lines[-1].append(corpus.words[number])
            settings = {
                "vector_size": WIDTH,
                "window": WINDOW,
                "negative": NEGATIVES,
                "epochs": EPOCHS,
                "min_count": 1,
                "sample": SAMPLE,
                "sg": int(task["method"] == "skip-gram"),
                "workers": threads,
                "seed": task["seed"] + 1,
                "alpha": 0.05 if task["parts"] else 0.025,
                "min_alpha": (0.05 if task["parts"] else 0.025) / 250,
            }
            if task["parts"]:
                shortest, longest = HAN if task["language"] == "zh" else LETTERS
                model = FastText(min_n=shortest, max_n=longest, **settings)
            else:
                model = Word2Vec(**settings)
            model.build_vocab(lines)
            start = time.perf_counter()
            model.train(lines, total_examples=model.corpus_count, epochs=EPOCHS)
            rate = EPOCHS * int(corpus.counts.sum()) / (time.perf_counter() - start)
            model.wv.save_word2vec_format(str(Path(folder, "vectors.txt")))
            turns.report({"rate": rate, **judge(Path(folder, "vectors.txt"), task["language"])})


def judge(path: Path, language: str) -> dict[str, float]:
    """The share of covered analogies that is right, and Spearman's correlation with people over covered pairs."""
    from gensim.models import KeyedVectors

    vectors = KeyedVectors.load_word2vec_format(str(path))
    found: dict[str, float] = {}
    for name in ANALOGIES[language]:
        _, sections = vectors.evaluate_word_analogies(str(DATA / name), restrict_vocab=len(vectors))
        right, wrong = (sum(len(section[key]) for section in sections[:-1]) for key in ("correct", "incorrect"))
        found |= {Path(name).stem: right / (right + wrong), f"{Path(name).stem}, covered": right + wrong}
    for name in PAIRS[language]:
        _, spearman, missing = vectors.evaluate_word_pairs(str(DATA / name), restrict_vocab=len(vectors))
        found |= {Path(name).stem: float(spearman[0]), f"{Path(name).stem}, covered": 100 - missing}
    return found


def main() -> None:
    """Train in turns, judge, keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dry", action="store_true", help="keep no record")
    chosen = parser.parse_args()
    tasks = [
        {"language": language, "method": method, "parts": parts} for language in CORPORA for method, parts in KINDS
    ]
    workers = {"bimo": (our_worker, chosen.threads), "gensim": (gensim_worker, chosen.threads)}
    comparisons, facts = [], {}
    with contestants(workers, threads=chosen.threads) as both:
        for task in tasks:
            title = f"{task['language']}, {task['method']}{', parts of words' if task['parts'] else ''}"
            rounds = interleave(both, [{**task, "seed": seed} for seed in range(chosen.rounds)], what=title)
            rates = {name: [each["rate"] for each in results] for name, results in rounds.items()}
            comparisons.append(Comparison(f"Words read in training: {title}", "words/s", rates))
            facts[title] = {
                name: {
                    measure: spread([each[measure] for each in results]) for measure in results[0] if measure != "rate"
                }
                for name, results in rounds.items()
            }
    conclude(
        "word_vectors",
        settings={
            "threads": chosen.threads,
            "width": WIDTH,
            "window": WINDOW,
            "negatives": NEGATIVES,
            "epochs": EPOCHS,
            "least_count": LEAST_COUNT,
            "sample": SAMPLE,
        },
        machine=measure_machine(pick_device("cpu")).facts(),
        packages=("gensim", "numpy"),
        comparisons=comparisons,
        facts=facts,
        keep=not chosen.dry,
    )


def spread(values: list[float]) -> str:
    """`0.312 ± 0.004`: mean and deviation over the rounds; a number alone where all are the same."""
    if len(set(values)) == 1:
        return f"{values[0]:.4g}"
    return f"{statistics.mean(values):.3f} ± {statistics.stdev(values):.3f}"


if __name__ == "__main__":
    main()
