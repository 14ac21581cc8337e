"""Near-duplicates: how many of 500 planted copies are found, and documents a second beside datasketch and datatrove.

    python benchmarks/near_duplicates.py

Real Chinese and English documents, and copies of 500 of them: 1, 5 or 10 % of the characters exchanged, sentences in
another order, or another header. What is true is decided by a slow twin here: the Jaccard similarity of token n-grams
as strings. A copy counts for recall when it is at least 0.8 like its original; a pair that was found counts for
precision when the text that was left out is at least 0.8 like another one of its group. Every contestant is a process
of its own on one processor, takes turns, and goes all the way from texts to groups.
"""

from __future__ import annotations

import argparse
import functools
import random
import re
import shutil
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from prepare import TEXT, read_texts
from record import Comparison, conclude
from turns import Turns, contestants, interleave

from bimo.machine import measure_machine
from bimo.text.language import script_of

SIMILAR = 0.8
PLANTED = 500
CORPORA = ("tinystories_sample_2mb", "tinyshakespeare", "zh_classic_novels", "zh_modern_python_docs")
DOCUMENT_CHARACTERS = 900
TOKEN = re.compile(r"[\u3041-\u3096\u30a1-\u30fa\u3400-\u4dbf\u4e00-\u9fff]|[^\W_\u3041-\u30fa\u3400-\u9fff]+")
SENTENCE = re.compile(r"[^。！？.!?]+[。！？.!?]*")

Groups = list[int]
"""For each document the first one of its group."""


@functools.lru_cache(None)
def is_chinese(text: str) -> bool:
    """By the script rule, which says what the n-grams are made of."""
    return script_of(text) == "zh"


def documents_of(folder: Path) -> list[str]:
    """Documents of the corpora, each once, in mixed order."""
    found = {}
    for text in (text for name in CORPORA for text in read_texts(folder / name)):
        parts = text.split("<|endoftext|>") if "<|endoftext|>" in text else _cut(text)
        found.update({part.strip(): None for part in parts if len(part) > 200})
    documents = list(found)
    random.Random(1).shuffle(documents)
    return documents


def _cut(text: str) -> list[str]:
    parts, start = [], 0
    while start < len(text):
        end = text.find("\n", start + DOCUMENT_CHARACTERS)
        end = len(text) if end < 0 else end
        parts.append(text[start:end])
        start = end + 1
    return parts


def plant(documents: list[str], chance: random.Random) -> tuple[list[str], dict[int, tuple[int, str]]]:
    """The documents with PLANTED copies among them, and for each copy by place: place of its original, kind."""
    letters = {kind: "".join(d for d in documents[:300] if is_chinese(d) == kind) for kind in (True, False)}

    def exchange(share: float) -> Callable[[str], str]:
        def edit(text: str) -> str:
            characters = list(text)
            for place in chance.sample(range(len(characters)), round(share * len(characters))):
                characters[place] = chance.choice(letters[is_chinese(text)])
            return "".join(characters)

        return edit

    def shuffle(text: str) -> str:
        sentences = SENTENCE.findall(text)
        chance.shuffle(sentences)
        return "".join(sentences)

    def head(text: str) -> str:
        source = letters[is_chinese(text)]
        start = chance.randrange(len(source) - 100)
        return source[start : start + 60].strip() + "\n" + text

    kinds: dict[str, Callable[[str], str]] = {
        "1 % exchanged": exchange(0.01),
        "5 % exchanged": exchange(0.05),
        "10 % exchanged": exchange(0.1),
        "sentences in another order": shuffle,
        "another header": head,
    }
    originals = chance.sample(range(len(documents)), PLANTED)
    mixed: list[tuple[str, int | None, str]] = [(text, None, "") for text in documents]
    mixed += [
        (kinds[kind](documents[place]), place, kind)
        for place, kind in zip(originals, sorted(kinds) * (PLANTED // len(kinds)), strict=True)
    ]
    order = list(range(len(mixed)))
    chance.shuffle(order)
    where = {old: new for new, old in enumerate(order)}
    copies = {
        where[old]: (where[original], kind) for old, (_, original, kind) in enumerate(mixed) if original is not None
    }
    return [mixed[old][0] for old in order], copies


def shingles(text: str) -> set[str]:
    """The n-grams of tokens as strings: five characters of Chinese, three words of other text."""
    tokens, size = TOKEN.findall(text.lower()), 5 if is_chinese(text) else 3
    return {" ".join(tokens[start : start + size]) for start in range(max(1, len(tokens) - size + 1))}


def similarity(one: set[str], other: set[str]) -> float:
    """Jaccard."""
    return len(one & other) / max(1, len(one | other))


def find_ours(documents: list[str], folder: Path) -> Groups:
    """As `bimo prepare` does it, with the keys of a thousand documents at a time."""
    import numpy as np

    from bimo.text.near_duplicates import band_keys, find_clusters, shingle_set

    languages = ["zh" if is_chinese(text) else "en" for text in documents]
    parts = [slice(start, start + 1000) for start in range(0, len(documents), 1000)]
    keys = np.concatenate([band_keys(documents[part], languages[part]) for part in parts])
    return find_clusters(keys, lambda row: shingle_set(documents[row], languages[row])).tolist()


def find_datasketch(documents: list[str], folder: Path) -> Groups:
    """128 permutations, threshold 0.8, the same shingles; each document asks for those before it."""
    from datasketch import MinHash, MinHashLSH

    index = MinHashLSH(threshold=SIMILAR, num_perm=128)
    groups = list(range(len(documents)))
    for place, text in enumerate(documents):
        signature = MinHash(num_perm=128)
        signature.update_batch([shingle.encode() for shingle in shingles(text)])
        for other in index.query(signature):
            _join(groups, place, other)
        index.insert(place, signature)
    return [_root(groups, place) for place in range(len(groups))]


def _root(groups: Groups, place: int) -> int:
    while groups[place] != place:
        place = groups[place]
    return place


def _join(groups: Groups, one: int, other: int) -> None:
    low, high = sorted((_root(groups, one), _root(groups, other)))
    groups[high] = low


def find_datatrove(documents: list[str], folder: Path) -> Groups:
    """Its four stages with its own settings, in this process; each language with its own word tokenizer."""
    from datatrove.data import Document
    from datatrove.pipeline.dedup import (
        MinhashDedupBuckets,
        MinhashDedupCluster,
        MinhashDedupFilter,
        MinhashDedupSignature,
    )
    from datatrove.pipeline.dedup.minhash import MinhashConfig
    from loguru import logger

    logger.remove()
    groups = list(range(len(documents)))
    for language in ("en", "zh"):
        places = [place for place, text in enumerate(documents) if is_chinese(text) == (language == "zh")]
        work = folder / language
        shutil.rmtree(work, ignore_errors=True)
        config = MinhashConfig()
        data = [Document(text=documents[place], id=str(place)) for place in places]
        # The second stage of its own examples: a task for each bucket.
        MinhashDedupSignature(output_folder=str(work / "signatures"), config=config, language=language)(data, 0, 1)
        for bucket in range(config.num_buckets):
            MinhashDedupBuckets(str(work / "signatures"), str(work / "buckets"), config=config).run(
                None, bucket, config.num_buckets
            )
        MinhashDedupCluster(str(work / "buckets"), str(work / "clusters"), config=config, save_cluster_id=True).run()
        filtered = MinhashDedupFilter(str(work / "clusters"), load_cluster_ids=True, exclusion_writer=_Excluded())
        kept = list(filtered.run(iter(data), 0, 1))
        first: dict[Any, int] = {}
        for document in [*kept, *filtered.exclusion_writer.documents]:
            cluster = document.metadata.get("minhash_cluster_id", -1)
            if cluster != -1:
                _join(groups, int(document.id), first.setdefault(cluster, int(document.id)))
    return [_root(groups, place) for place in range(len(groups))]


class _Excluded:
    """What datatrove's filter writes the left out documents to."""

    def __init__(self) -> None:
        self.documents: list[Any] = []

    def __enter__(self) -> _Excluded:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def write(self, document: Any, rank: int) -> None:
        """One that is left out."""
        self.documents.append(document)


FINDERS = {"bimo": find_ours, "datasketch": find_datasketch, "datatrove": find_datatrove}


def find(turns: Turns, name: str, documents: list[str], folder: Path) -> None:
    """A worker: the task says how many documents."""
    for document in documents:
        is_chinese(document)  # whoever cleans has found that out already
    for count in turns:
        before = time.perf_counter()
        groups = FINDERS[name](documents[:count], folder / name)
        turns.report({"rate": count / (time.perf_counter() - before), "groups": groups})


def judge(groups: Groups, documents: list[str], copies: dict[int, tuple[int, str]]) -> dict[str, Any]:
    """Recall over the copies that are similar enough, by kind; precision over what would be left out."""
    sets = [shingles(text) for text in documents]
    found: dict[str, list[bool]] = defaultdict(list)
    for copy, (original, kind) in copies.items():
        if similarity(sets[copy], sets[original]) >= SIMILAR:
            found[kind].append(groups[copy] == groups[original])
    members: dict[int, list[int]] = defaultdict(list)
    for place, first in enumerate(groups):
        members[first].append(place)
    left_out = [(place, members[first]) for place, first in enumerate(groups) if place != first]
    right = [
        any(other != place and similarity(sets[place], sets[other]) >= SIMILAR for other in others)
        for place, others in left_out
    ]
    everything = [hit for hits in found.values() for hit in hits]
    return {
        "recall": f"{sum(everything)} of {len(everything)} ({sum(everything) / len(everything):.3f})",
        "precision": f"{sum(right)} of {len(right)} ({sum(right) / max(1, len(right)):.3f})",
        "by kind": ", ".join(f"{kind} {sum(hits)} of {len(hits)}" for kind, hits in sorted(found.items())),
    }


def main() -> None:
    """Measure, print, and keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path, default=TEXT, help="a folder of text to take documents from")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--without", nargs="+", default=[], help="peers that are not there")
    parser.add_argument("--dry", action="store_true", help="keep nothing in results.jsonl")
    chosen = parser.parse_args()
    machine = measure_machine(torch.device("cpu"), seconds=1.0).facts()
    documents, copies = plant(documents_of(chosen.text), random.Random(2))
    names = [name for name in FINDERS if name not in chosen.without]
    with tempfile.TemporaryDirectory() as temporary:
        everyone = {name: (find, name, documents, Path(temporary)) for name in names}
        with contestants(everyone, threads=1) as started:
            interleave(started, [200], what="warm-up")
            results = interleave(started, [len(documents)] * chosen.rounds, what="all documents")
    judged = {name: judge(turns[-1]["groups"], documents, copies) for name, turns in results.items()}
    chinese = sum(map(is_chinese, documents))
    conclude(
        "near_duplicates",
        settings={"rounds": chosen.rounds, "planted": PLANTED, "similar": SIMILAR},
        machine=machine,
        packages=("rensa", "datasketch", "datatrove"),
        comparisons=[
            Comparison(
                "Near-duplicates found, one processor",
                "documents/s",
                {name: [turn["rate"] for turn in turns] for name, turns in results.items()},
            )
        ],
        facts={
            "documents": f"{len(documents):,}, {chinese:,} of them Chinese, {sum(map(len, documents)):,} characters",
            **{f"{name}: {what}": value for name, one in judged.items() for what, value in one.items()},
        },
        keep=not chosen.dry,
    )


if __name__ == "__main__":
    main()
