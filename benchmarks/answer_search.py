"""Search for the passage that answers, beside bm25s, on ../shared/data/qa: by words, and with vectors.

    python benchmarks/answer_search.py [--vectors MINILM] [--dry]

Documents are all texts of a set, every question asks for its own. bm25s is asked with its own tokenizer, and with the
words that jieba's dictionary cuts.
"""

from __future__ import annotations

import argparse
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from record import Comparison, conclude

from bimo.machine import measure_machine
from bimo.runtime import pick_device
from bimo.text.questions import Question, read_questions

DATA = Path(__file__).resolve().parents[2] / "shared" / "data" / "qa"
SETS = {
    "CMRC 2018": ("cmrc2018/cmrc2018_dev.json.gz", "cmrc2018/cmrc2018_trial.json"),
    "XQuAD zh": ("xquad_en_zh/xquad.zh.json",),
    "XQuAD en": ("xquad_en_zh/xquad.en.json",),
}


def questions_of(names: Sequence[str]) -> list[Question]:
    """All questions of some files."""
    return [question for name in names for question in read_questions(DATA / name).kept]


def share_found(ranks: np.ndarray) -> dict[str, float]:
    """Recall at 1 and at 5, and the mean reciprocal rank, in percent."""
    return {
        "recall@1": 100 * float(np.mean(ranks == 1)),
        "recall@5": 100 * float(np.mean(ranks <= 5)),
        "MRR": 100 * float(np.mean(1 / ranks)),
    }


def ranks_of(scores: Callable[[str], np.ndarray], questions: Sequence[Question], texts: Sequence[str]) -> np.ndarray:
    """The rank of each question's own text; of those that score the same the first comes first."""
    place = {text: number for number, text in enumerate(texts)}
    ranks = []
    for question in questions:
        found, own = scores(question.question), place[question.context]
        ranks.append(1 + int((found > found[own]).sum()) + int((found[:own] == found[own]).sum()))
    return np.array(ranks)


def bm25s_scores(texts: Sequence[str], cut: Callable[[str], list[str]] | None) -> Callable[[str], np.ndarray]:
    """bm25s with its own tokenizer, or with the words that `cut` gives."""
    import bm25s

    if cut is None:
        cut = _own_words
    words: dict[str, int] = {}
    corpus = [[words.setdefault(word, len(words)) for word in cut(text)] for text in texts]
    model = bm25s.BM25()
    model.index((corpus, words), show_progress=False)

    def scores(question: str) -> np.ndarray:
        known = [words[word] for word in cut(question) if word in words]
        return model.get_scores_from_ids(np.array(known)) if known else np.zeros(len(texts))

    return scores


def _own_words(text: str) -> list[str]:
    """As bm25s.tokenize cuts by default; tests of bm25s itself fix this."""
    import bm25s

    tokens = bm25s.tokenize([text], return_ids=False, show_progress=False)
    return list(tokens[0])


def segmented(text: str) -> list[str]:
    """What a person would do first: words by jieba's dictionary, without blanks and marks."""
    import rjieba

    return [word.lower() for word in rjieba.cut(text) if re.search(r"\w", word)]


def main() -> None:
    """Ours beside bm25s, set by set."""
    from bimo.tasks.answer.retrieval import PassageIndex
    from bimo.tasks.embed.embedder import open_embedder

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vectors", type=Path, help="a folder of sentence vectors, for English")
    parser.add_argument("--dry", action="store_true", help="keep no record")
    chosen = parser.parse_args()
    comparisons, facts = [], {}
    for name, files in SETS.items():
        questions = questions_of(files)
        texts = list(dict.fromkeys(question.context for question in questions))
        embed = open_embedder(chosen.vectors).embed if chosen.vectors is not None and name.endswith("en") else None
        start = time.perf_counter()
        index = PassageIndex(texts)
        indexed, start = time.perf_counter() - start, time.perf_counter()
        found = {"bimo": share_found(ranks_of(index.scores, questions, texts))}
        searched = time.perf_counter() - start
        if embed is not None:
            fused = PassageIndex(texts, embed=embed)
            found = {"bimo, vectors": share_found(ranks_of(fused.scores, questions, texts)), **found}
        found["bm25s"] = share_found(ranks_of(bm25s_scores(texts, None), questions, texts))
        found["bm25s, jieba"] = share_found(ranks_of(bm25s_scores(texts, segmented), questions, texts))
        facts[name] = {
            "texts": len(texts),
            "questions": len(questions),
            "index seconds": indexed,
            "questions a second": len(questions) / searched,
        }
        comparisons += [
            Comparison(f"{name}: {measure}", "%", {who: [values[measure]] for who, values in found.items()})
            for measure in ("recall@1", "recall@5", "MRR")
        ]
    machine, packages = measure_machine(pick_device("cpu")).facts(), ("bm25s", "rjieba", "numpy")
    conclude(
        "answer_search",
        settings={"vectors": chosen.vectors is not None},
        machine=machine,
        packages=packages,
        comparisons=comparisons,
        facts=facts,
        keep=not chosen.dry,
    )


if __name__ == "__main__":
    main()
