"""How time and memory of `bimo prepare` grow with the text: 1, 2, 4 and 8 times as much, and what a terabyte takes.

    python benchmarks/prepare_memory.py

The text is that of benchmarks/prepare.py, varied, so that what is added is new. Memory is that of all processes.
Several machines share out the cleaning alone; comparing, writing and packing are then done by one of them.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from peak import measure_command
from pipelines import write_source
from prepare import TEXT, TRAINING_DOCUMENTS, mixed_documents, read_texts
from record import Comparison, conclude

from bimo.machine import measure_machine
from bimo.tokens.tokenizer import train_tokenizer

TIMES = (1, 2, 4, 8)
MACHINES, TERABYTE = 100, 1e12
TELLING = """
import os, pathlib, time
import bimo.text.collect as collect
find_repeats = collect.find_repeats
def tell_and_find(*arguments):
    pathlib.Path(os.environ["CLEANED_AT"]).write_text(str(time.time()))
    return find_repeats(*arguments)
collect.find_repeats = tell_and_find
from bimo.cli import main
main()
"""
"""`bimo`, but that it writes down when all batches are cleaned: then they are compared with each other."""


def measure_parts(command: Sequence[str], folder: Path) -> tuple[float, float, float]:
    """(seconds until all is cleaned, seconds of the rest, MB at most) of `bimo` with these arguments."""
    told = folder / "cleaned-at"
    began = time.time()
    seconds, peak = measure_command([sys.executable, "-c", TELLING, *command], {**os.environ, "CLEANED_AT": str(told)})
    shared = float(told.read_text()) - began
    return shared, seconds - shared, peak


def main() -> None:
    """Measure, print, and keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path, default=TEXT, help="a folder of text to make the mixture of")
    parser.add_argument("--megabytes", type=float, default=25.0, help="the smallest size")
    parser.add_argument("--dry", action="store_true", help="keep nothing in results.jsonl")
    chosen = parser.parse_args()
    machine = measure_machine(torch.device("cpu"), seconds=1.0).facts()
    documents = mixed_documents(read_texts(chosen.text), round(TIMES[-1] * chosen.megabytes * 1e6))
    memory, rates, facts = {}, {}, {}
    shared = rest = megabytes = 0.0
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        train_tokenizer(documents[:TRAINING_DOCUMENTS], vocabulary=16384).save(folder)
        for times in TIMES:
            source = folder / f"source-{times}"
            megabytes = write_source(source, documents[: len(documents) * times // TIMES[-1]])
            command = ["prepare", str(source), "--out", str(folder / f"out-{times}"), "--quiet"]
            shared, rest, peak = measure_parts([*command, "--tokenizer", str(folder)], folder)
            name = f"{times} x, {megabytes:.0f} MB"
            memory[name], rates[name] = [peak], [megabytes / (shared + rest)]
            print(f"{name}: {shared:.1f} s until all is cleaned, {rest:.1f} s for the rest, {peak:.0f} MB", flush=True)
    first, last = next(iter(memory.values()))[0], list(memory.values())[-1][0]
    facts["8 times the text"] = f"{last / first:.2f} times the memory"
    hours = TERABYTE / 1e6 / megabytes / 3600
    facts["a terabyte, by the times of the largest"] = (
        f"{hours * shared:.1f} hours for what machines like this one share out, {hours * rest:.1f} hours for the rest"
    )
    facts[f"a terabyte on {MACHINES} machines"] = f"{hours * (shared / MACHINES + rest):.1f} hours"
    conclude(
        "prepare_memory",
        settings={"megabytes": chosen.megabytes, "processes": os.cpu_count()},
        machine=machine,
        packages=("pyarrow", "loky", "rensa"),
        comparisons=[
            Comparison("Peak memory of all processes, by size of the text", "MB", memory, less_is_better=True),
            Comparison("Raw files to packed tokens, by size of the text", "MB/s", rates),
        ],
        facts=facts,
        keep=not chosen.dry,
    )


if __name__ == "__main__":
    main()
