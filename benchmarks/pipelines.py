"""Raw files to packed tokens, end to end: bimo prepare beside datatrove's local pipeline and one of datasets.map.

    python benchmarks/pipelines.py

The same JSON lines, the same tokenizer, two processes on two processors for each. The steps: read, repair (ftfy), mask
e-mail and IP addresses, leave out what is too short or hardly letters, leave out near-duplicates, encode, write ids.
Bimo does more on the way: it finds fourteen more kinds of personal data, equal texts, repeated paragraphs, boilerplate
and languages, and splits off held-out text. datatrove runs its own blocks with their own settings, each language with
its own word tokenizer; the other pipeline has what a notebook would have: ftfy, two expressions, datasketch,
tokenizers. Each is a process of its own with all of its children, in turns; memory is the largest sum of their
proportional sets.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import sys
import tempfile
from pathlib import Path

import torch
from near_duplicates import is_chinese, shingles
from peak import measure_command
from prepare import TEXT, TRAINING_DOCUMENTS, mixed_documents, read_texts
from record import Comparison, conclude

from bimo.machine import measure_machine
from bimo.tokens.tokenizer import train_tokenizer

PROCESSES = 2
FILES = 4
EMAIL = re.compile(r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+")
IP = re.compile(r"\b(?:\d{1,3}\.){3}\d{1,3}\b")


def is_text(text: str) -> bool:
    """The quality rule of both peers: twenty characters, three in ten of them letters."""
    return len(text) >= 20 and sum(map(str.isalpha, text)) >= 0.3 * len(text)


def run_bimo(source: Path, out: Path, tokenizer: Path) -> None:
    """The command that a user would type."""
    from bimo.cli import app

    sys.argv = ["bimo", "prepare", str(source), "--out", str(out), "--tokenizer", str(tokenizer), "--quiet"]
    app(standalone_mode=False)


def run_datatrove(source: Path, out: Path, tokenizer: Path) -> None:
    """Its four stages of de-duplication as in its own example, then its tokenizer, for each language."""
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.dedup import (
        MinhashDedupBuckets,
        MinhashDedupCluster,
        MinhashDedupFilter,
        MinhashDedupSignature,
    )
    from datatrove.pipeline.dedup.minhash import MinhashConfig
    from datatrove.pipeline.filters import LambdaFilter
    from datatrove.pipeline.formatters import FTFYFormatter, PIIFormatter
    from datatrove.pipeline.readers import JsonlReader
    from datatrove.pipeline.tokens import DocumentTokenizer
    from datatrove.pipeline.writers import JsonlWriter

    config = MinhashConfig()

    def go(*steps: object, tasks: int = FILES // 2) -> None:
        logs = str(work / "logs" / str(len(steps)))
        LocalPipelineExecutor(
            [*steps], tasks=tasks, workers=PROCESSES, start_method="spawn", logging_dir=logs, skip_completed=False
        ).run()

    for language in ("zh", "en"):
        work = out / language
        cleaned, signatures, buckets, remove = (
            str(work / name) for name in ("clean", "signatures", "buckets", "remove")
        )
        go(
            JsonlReader(str(source), glob_pattern=f"{language}-*.jsonl"),
            FTFYFormatter(),
            PIIFormatter(),
            LambdaFilter(lambda document: is_text(document.text)),
            JsonlWriter(cleaned, compression=None),
        )
        go(JsonlReader(cleaned), MinhashDedupSignature(signatures, config=config, language=language))
        go(MinhashDedupBuckets(signatures, buckets, config=config), tasks=config.num_buckets)
        go(MinhashDedupCluster(buckets, remove, config=config), tasks=1)
        go(
            JsonlReader(cleaned),
            MinhashDedupFilter(remove),
            DocumentTokenizer(
                str(work / "tokens"),
                str(tokenizer / "tokenizer.json"),
                local_working_dir=str(work / "scratch"),
                eos_token="<|endoftext|>",
                shuffle_documents=False,
            ),
        )


def run_datasets(source: Path, out: Path, tokenizer: Path) -> None:
    """Map, filter, map, filter, map, save."""
    import datasets
    import ftfy
    import numpy as np
    from datasketch import MinHash, MinHashLSH
    from tokenizers import Tokenizer

    datasets.disable_progress_bars()

    def clean(batch: dict) -> dict:
        texts = (ftfy.fix_text(text) for text in batch["text"])
        return {"text": [IP.sub("[IP]", EMAIL.sub("[EMAIL]", text)) for text in texts]}

    def sign(batch: dict) -> dict:
        signatures = []
        for text in batch["text"]:
            signature = MinHash(num_perm=128)
            signature.update_batch([shingle.encode() for shingle in shingles(text)])
            signatures.append(signature.hashvalues)
        return {"signature": signatures}

    def encode(batch: dict) -> dict:
        encoder = Tokenizer.from_file(str(tokenizer / "tokenizer.json"))
        return {"ids": [encoding.ids for encoding in encoder.encode_batch_fast(batch["text"])]}

    data = datasets.load_dataset(
        "json", data_files=sorted(map(str, source.glob("*.jsonl"))), split="train", cache_dir=str(out / "cache")
    )
    data = data.map(clean, batched=True, num_proc=PROCESSES).filter(
        lambda batch: [is_text(text) for text in batch["text"]], batched=True, num_proc=PROCESSES
    )
    signed = data.map(sign, batched=True, num_proc=PROCESSES)
    index, kept, scheme = MinHashLSH(threshold=0.8, num_perm=128), [], MinHash(num_perm=128).scheme
    for place, values in enumerate(signed["signature"]):
        signature = MinHash(num_perm=128, hashvalues=np.array(values, np.uint64), scheme=scheme)
        if not index.query(signature):
            kept.append(place)
            index.insert(place, signature)
    ids = data.select(kept).map(encode, batched=True, num_proc=PROCESSES, remove_columns=["text"])
    ids.save_to_disk(str(out / "tokens"))


RUNNERS = {"bimo": run_bimo, "datatrove": run_datatrove, "datasets.map": run_datasets}


def measure(name: str, source: Path, out: Path, tokenizer: Path) -> tuple[float, float]:
    """(seconds, peak memory in MB) of a contestant."""
    shutil.rmtree(out, ignore_errors=True)
    command = [sys.executable, __file__, "--run", name, str(source), str(out), str(tokenizer)]
    return measure_command(command, {**os.environ, "OMP_NUM_THREADS": str(PROCESSES), "TOKENIZERS_PARALLELISM": "true"})


def write_source(folder: Path, documents: list[str]) -> float:
    """Files of JSON lines, each of one language. Returns megabytes."""
    folder.mkdir()
    for language in ("zh", "en"):
        own = [document for document in documents if is_chinese(document) == (language == "zh")]
        for part in range(FILES // 2):
            lines = (json.dumps({"text": text}, ensure_ascii=False) for text in own[part :: FILES // 2])
            (folder / f"{language}-{part}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return sum(path.stat().st_size for path in folder.iterdir()) / 1e6


def main() -> None:
    """Measure, print, and keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path, default=TEXT, help="a folder of text to make the mixture of")
    parser.add_argument("--megabytes", type=float, default=50.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--without", nargs="+", default=[], help="peers that are not there")
    parser.add_argument("--dry", action="store_true", help="keep nothing in results.jsonl")
    parser.add_argument("--run", nargs=4, metavar=("NAME", "SOURCE", "OUT", "TOKENIZER"), help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.run:
        name, *paths = chosen.run
        # Bimo takes a process for each processor that it may use; the peers are told how many.
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:PROCESSES])
        RUNNERS[name](*map(Path, paths))
        return
    machine = measure_machine(torch.device("cpu"), seconds=1.0).facts()
    documents = mixed_documents(read_texts(chosen.text), round(chosen.megabytes * 1e6))
    names = [name for name in RUNNERS if name not in chosen.without]
    rates: dict[str, list[float]] = {name: [] for name in names}
    memory: dict[str, list[float]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        train_tokenizer(documents[:TRAINING_DOCUMENTS], vocabulary=16384).save(folder)
        megabytes = write_source(folder / "source", documents)
        for number in range(chosen.rounds):
            for name in names:
                seconds, peak = measure(name, folder / "source", folder / f"out-{name}", folder)
                rates[name].append(megabytes / seconds)
                memory[name].append(peak)
                print(f"round {number + 1}: {name} {seconds:.1f} s, {peak:.0f} MB", flush=True)
    conclude(
        "pipelines",
        settings={"megabytes": round(megabytes, 1), "rounds": chosen.rounds, "processes": PROCESSES},
        machine=machine,
        packages=("datatrove", "datasets", "datasketch", "tokenizers", "ftfy"),
        comparisons=[
            Comparison("Raw files to packed tokens", "MB/s", rates),
            Comparison("Peak memory of all processes", "MB", memory, less_is_better=True),
        ],
        facts={"documents": f"{len(documents):,}, {sum(map(is_chinese, documents)):,} of them Chinese"},
        keep=not chosen.dry,
    )


if __name__ == "__main__":
    main()
