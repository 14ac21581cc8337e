"""Encoding speed on mixed text: Bimo, tokenizers, tiktoken and rustbpe; and how fast raw text becomes packed tokens.

    python benchmarks/prepare.py

The text is made of that in `--text`: as it stands, then again and again with its lines in another order and some of
their characters exchanged, so that no cache knows all words. One vocabulary is trained on a part of it. tiktoken gets
the same tokens with their ids as ranks; rustbpe can be given no vocabulary, so it learns one of the same size from the
same part. Every contestant in a process of its own, which takes turns with the others, first on one processor, then on
two. Ids are compared with those of tokenizers, which is the reference.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from record import Comparison, conclude
from turns import Turns, contestants, interleave

from bimo.machine import measure_machine
from bimo.prepare import PrepareConfig, prepare
from bimo.text.store import read_stored
from bimo.tokens.tokenizer import (
    QWEN2_PATTERN,
    Tokenizer,
    choose_vocabulary,
    in_batches,
    load_tokenizer,
    train_tokenizer,
)

TEXT = Path(__file__).resolve().parents[2] / "shared" / "data" / "lm"
DOCUMENT_CHARACTERS = 2000
TRAINING_DOCUMENTS = 4000
EXCHANGED = {True: 0.02, False: 0.1}
"""Of the characters of a repeated line, by whether it is ASCII: a stretch of Chinese between two commas counts as one
word, and in text that is really new hardly any comes again."""

Encode = Callable[[list[str]], Any]
"""Ids as the library likes to give them: a sequence for each text, or all of them and where each text ends."""


def read_texts(folder: Path) -> list[str]:
    """Every file under a folder as text, unpacked where it is packed."""
    opened = {
        path: (gzip.open if path.suffix == ".gz" else open) for path in sorted(folder.rglob("*")) if path.is_file()
    }
    texts = []
    for path, opener in opened.items():
        with opener(path, "rt", encoding="utf-8", errors="replace") as file:
            texts.append(file.read())
    if not any(texts):
        raise SystemExit(f"There is no text in {folder}. Name a folder with --text.")
    return texts


def mixed_documents(texts: list[str], size: int) -> list[str]:
    """Documents of some DOCUMENT_CHARACTERS that hold `size` UTF-8 bytes together, in mixed order."""
    random_ = random.Random(0)
    documents, total = [], 0
    for document in _cut(_repeated([line for text in texts for line in text.splitlines(keepends=True)], random_)):
        documents.append(document)
        total += len(document.encode())
        if total >= size:
            break
    random_.shuffle(documents)
    return documents


def _repeated(lines: list[str], random_: random.Random) -> Iterator[str]:
    """The lines, then for ever the lines in blocks of another order, varied."""
    yield from lines
    # What is put in comes from lines of the same kind, so that varied Chinese is still Chinese.
    letters = {kind: "".join(line for line in lines if line.isascii() == kind)[:200_000] for kind in (True, False)}
    blocks = [lines[start : start + 50] for start in range(0, len(lines), 50)]
    while True:
        random_.shuffle(blocks)
        for line in (line for block in blocks for line in block):
            characters = list(line)
            for _ in range(round(EXCHANGED[line.isascii()] * len(line) + random_.random() - 0.5)):
                characters[random_.randrange(len(characters))] = random_.choice(letters[line.isascii()])
            yield "".join(characters)


def _cut(lines: Iterator[str]) -> Iterator[str]:
    document: list[str] = []
    size = 0
    for line in lines:
        document.append(line)
        size += len(line)
        if size >= DOCUMENT_CHARACTERS:
            yield "".join(document)
            document, size = [], 0


def build_ours(folder: Path) -> Encode:
    """As `bimo prepare` encodes."""
    return load_tokenizer(folder).encode_flat


def build_tokenizers(folder: Path) -> Encode:
    """The library itself, its fast way without offsets, on the same file."""
    import tokenizers

    inner = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    inner.encode_special_tokens = True
    return lambda texts: [encoding.ids for encoding in inner.encode_batch_fast(texts, add_special_tokens=False)]


def build_tiktoken(folder: Path, threads: int, *, to_numpy: bool) -> Encode:
    """The same vocabulary: a token's id is its rank, since ids were given in the order of the merges.

    Lists of ids by its function for batches, or arrays by its function for one text, in so many threads.
    """
    import tiktoken
    from tokenizers.pre_tokenizers import ByteLevel

    ours = load_tokenizer(folder)
    bytes_ = {character: byte for byte, character in _byte_characters(ByteLevel)}
    ranks = {
        bytes(bytes_[character] for character in token): id_
        for token, id_ in ours.inner.get_vocab(with_added_tokens=False).items()
        if id_ != ours.end
    }
    encoding = tiktoken.Encoding("bimo", pat_str=QWEN2_PATTERN, mergeable_ranks=ranks, special_tokens={})
    if not to_numpy:
        return lambda texts: encoding.encode_ordinary_batch(texts, num_threads=threads)
    pool = ThreadPoolExecutor(threads)
    return lambda texts: list(pool.map(lambda text: encoding.encode_to_numpy(text, disallowed_special=()), texts))


def _byte_characters(byte_level: Any) -> Iterator[tuple[int, str]]:
    """Each byte with the character that stands for it in a byte-level vocabulary (that of GPT-2)."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    pairs = [(byte, chr(byte)) for byte in printable] + [(byte, chr(256 + n)) for n, byte in enumerate(others)]
    assert {character for _, character in pairs} == set(byte_level.alphabet())
    return iter(pairs)


def build_rustbpe(documents: list[str], vocabulary: int) -> Encode:
    """A vocabulary of its own, of the same size from the same text."""
    import rustbpe

    tokenizer = rustbpe.Tokenizer()
    tokenizer.train_from_iterator(iter(documents), vocabulary, pattern=QWEN2_PATTERN)
    return tokenizer.batch_encode


def encode(turns: Turns, name: str, folder: Path, documents: list[str], vocabulary: int, threads: int) -> None:
    """A worker: the task says which documents to encode."""
    builders: dict[str, Callable[[], Encode]] = {
        "bimo": lambda: build_ours(folder),
        "tokenizers": lambda: build_tokenizers(folder),
        "tiktoken": lambda: build_tiktoken(folder, threads, to_numpy=False),
        "tiktoken to numpy": lambda: build_tiktoken(folder, threads, to_numpy=True),
        "rustbpe": lambda: build_rustbpe(documents[:TRAINING_DOCUMENTS], vocabulary),
    }
    encoder = builders[name]()
    for task in turns:
        part = documents[task]
        before = time.perf_counter()
        result = encoder(part)
        seconds = time.perf_counter() - before
        bytes_ = sum(len(document.encode()) for document in part)
        turns.report({"rate": bytes_ / 1e6 / seconds, "digests": _digests(result)})


def _digests(result: Any) -> list[str]:
    """One for the ids of each document."""
    documents = np.split(result[0], result[1][:-1]) if isinstance(result, tuple) else result
    return [hashlib.blake2b(np.asarray(ids, np.uint32).tobytes(), digest_size=8).hexdigest() for ids in documents]


def compare(
    names: list[str], documents: list[str], tokenizer: Tokenizer, folder: Path, threads: int, chosen: argparse.Namespace
) -> tuple[Comparison, dict[str, str]]:
    """All encoders on so many threads; and how many of the documents each encodes as tokenizers does."""
    everyone = {name: (encode, name, folder, documents, tokenizer.vocabulary, threads) for name in names}
    warm_up = len(documents) // 50
    # Each round has its own part: encoders remember what they have met.
    parts = [slice(warm_up + number, None, chosen.rounds) for number in range(chosen.rounds)]
    with contestants(everyone, threads=threads) as started:
        interleave(started, [slice(warm_up)], what="warm-up")
        results = interleave(started, parts, what=_count_threads(threads))
    rates = {name: [turn["rate"] for turn in turns] for name, turns in results.items()}
    digests = {name: [digest for turn in turns for digest in turn["digests"]] for name, turns in results.items()}
    facts = {
        f"{name}: documents with the ids of tokenizers, {_count_threads(threads)}": (
            f"{sum(map(str.__eq__, found, digests['tokenizers'])):,} of {len(found):,}"
        )
        for name, found in digests.items()
        if name not in ("tokenizers", "rustbpe")
    }
    return Comparison(f"Encoding, {_count_threads(threads)}", "MB/s", rates), facts


def _count_threads(threads: int) -> str:
    return "1 thread" if threads == 1 else f"{threads} threads"


def prepare_facts(documents: list[str], folder: Path, rounds: int) -> dict[str, str]:
    """MB/s from raw text to packed tokens, with a tokenizer that is there and with one that is trained on the way.

    The share of encoding is the time for encoding all that was kept once more, right after it.
    """
    source = folder / "source"
    source.mkdir()
    for number, start in enumerate(range(0, len(documents), 1000)):
        (source / f"{number}.txt").write_text("\n\n".join(documents[start : start + 1000]), encoding="utf-8")
    megabytes = sum(path.stat().st_size for path in source.iterdir()) / 1e6
    there, trained, shares = [], [], []
    for number in range(rounds):
        trained.append(megabytes / _prepare_seconds(source, folder / f"trained {number}", PrepareConfig()))
        out = folder / f"there {number}"
        seconds = _prepare_seconds(source, out, PrepareConfig(tokenizer=str(folder)))
        there.append(megabytes / seconds)
        texts = [
            document.text for split in ("train", "validation") for document in read_stored(out / "documents", split)
        ]
        encoder = build_ours(out)
        encoder([""])
        before = time.perf_counter()
        for batch in in_batches(texts):
            encoder(batch)
        shares.append((time.perf_counter() - before) / seconds)
    kept = sum(len(text.encode()) for text in texts) / 1e6 / megabytes
    return {
        f"Raw text to packed tokens, {megabytes:.1f} MB of which {kept:.0%} are kept": (
            f"{statistics.median(there):.2f} MB/s, of which encoding takes {statistics.median(shares):.0%}; "
            f"{statistics.median(trained):.2f} MB/s when the tokenizer is trained on the way"
        )
    }


def _prepare_seconds(source: Path, out: Path, settings: PrepareConfig) -> float:
    before = time.perf_counter()
    prepare([source], out=out, settings=settings)
    return time.perf_counter() - before


def main() -> None:
    """Measure, print, and keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path, default=TEXT, help="a folder of text to make the mixture of")
    parser.add_argument("--megabytes", type=float, default=50.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--without", nargs="+", default=[], help="peers that are not there")
    parser.add_argument("--dry", action="store_true", help="keep nothing in results.jsonl")
    chosen = parser.parse_args()
    machine = measure_machine(torch.device("cpu"), seconds=1.0).facts()
    names = [
        name
        for name in ("bimo", "tokenizers", "tiktoken", "tiktoken to numpy", "rustbpe")
        if name not in chosen.without
    ]
    documents = mixed_documents(read_texts(chosen.text), round(chosen.megabytes * 1e6))
    vocabulary = choose_vocabulary(round(chosen.megabytes * 1e6))
    tokenizer = train_tokenizer(documents[:TRAINING_DOCUMENTS], vocabulary=vocabulary)
    comparisons, facts = [], {"vocabulary": tokenizer.vocabulary}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        tokenizer.save(folder)
        for threads in (1, 2):
            comparison, equal = compare(names, documents, tokenizer, folder, threads, chosen)
            comparisons.append(comparison)
            facts.update(equal)
        facts.update(prepare_facts(documents, folder, min(3, chosen.rounds)))
    conclude(
        "prepare",
        settings={"megabytes": chosen.megabytes, "rounds": chosen.rounds, "threads": os.cpu_count()},
        machine=machine,
        packages=("fastokens", "tokenizers", "tiktoken", "rustbpe"),
        comparisons=comparisons,
        facts=facts,
        keep=not chosen.dry,
    )


if __name__ == "__main__":
    main()
