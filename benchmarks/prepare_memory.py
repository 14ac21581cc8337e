"""How time and memory of `bimo prepare` grow with the text: 1, 2, 4 and 8 times as much, and what a terabyte takes.

    python benchmarks/prepare_memory.py

The text is that of benchmarks/prepare.py, varied, so that what is added is new. Memory is that of all processes.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path

import torch
from peak import BIMO, measure_command
from pipelines import write_source
from prepare import TEXT, TRAINING_DOCUMENTS, mixed_documents, read_texts
from record import Comparison, conclude

from bimo.machine import measure_machine
from bimo.tokens.tokenizer import train_tokenizer

TIMES = (1, 2, 4, 8)
MACHINES, TERABYTE = 100, 1e12


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
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        train_tokenizer(documents[:TRAINING_DOCUMENTS], vocabulary=16384).save(folder)
        for times in TIMES:
            source = folder / f"source-{times}"
            megabytes = write_source(source, documents[: len(documents) * times // TIMES[-1]])
            command = [*BIMO, "prepare", str(source), "--out", str(folder / f"out-{times}"), "--quiet"]
            seconds, peak = measure_command([*command, "--tokenizer", str(folder)])
            name = f"{times} x, {megabytes:.0f} MB"
            memory[name], rates[name] = [peak], [megabytes / seconds]
            print(f"{name}: {seconds:.1f} s, {peak:.0f} MB", flush=True)
    first, last = next(iter(memory.values()))[0], list(memory.values())[-1][0]
    facts["8 times the text"] = f"{last / first:.2f} times the memory"
    rate = list(rates.values())[-1][0]
    hours = TERABYTE / MACHINES / 1e6 / rate / 3600
    facts[f"a terabyte on {MACHINES} machines like this one, by the rate of the largest"] = f"{hours:.1f} hours"
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
