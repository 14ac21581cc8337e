"""What training time buys: the loss that Bimo, nanoGPT and transformers' GPT-2 reach, and when.

    python benchmarks/loss_against_time.py shakespeare --nanogpt PATH
    python benchmarks/loss_against_time.py tune --nanogpt PATH --muon-rates 0.01 0.02 0.04 --steps 200 300
    python benchmarks/loss_against_time.py passages --nanogpt PATH --source TEXTS --work FOLDER --minutes 10

`shakespeare`: nanoGPT's README command for a computer without a GPU, run by its own train.py on its own characters and
split, and a model of ours of the same size on the same. How long did ours take to a loss that is not above the final
one of nanoGPT? Evaluation is left out of both times. Losses are means over the whole validation split in windows of 64,
beside nanoGPT's own estimate from 240 random ones. Our settings are RECIPE, chosen with `tune`, which trains on 90 % of
the training part and looks at the rest of it: the validation split is looked at once, at the end.

`passages`: bits per byte on the documents that `bimo run` holds out, after the same number of minutes of training.
nanoGPT and GPT-2 get a byte-level BPE of GPT-2's size trained on the same documents. What a contestant has reached is
kept in the folder `--work`, so that a run that was interrupted goes on with the next contestant.
"""

from __future__ import annotations

import argparse
import itertools
import os
from pathlib import Path
from typing import Any

import shakespeare
import torch
from passages import GPT2_RATES, NANOGPT_SETTINGS, measure_passages
from record import Comparison, Curves, conclude, short, text_table
from turns import contestants, interleave

from bimo.machine import measure_machine

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data" / "lm"


def compare_shakespeare(chosen: argparse.Namespace, machine: dict[str, Any]) -> None:
    """Ours and nanoGPT in pairs, each pair with another seed for ours."""
    data = shakespeare.nanogpt_data(chosen.nanogpt, chosen.text, chosen.work / "shakespeare_char")
    length = chosen.iterations
    shorter = [f"--max_iters={length}", f"--lr_decay_iters={length}", f"--eval_interval={length}"] if length else []
    everyone = {
        "bimo": (shakespeare.train_ours, data, chosen.work, shakespeare.RECIPE),
        "nanoGPT": (shakespeare.train_nanogpt, chosen.nanogpt, data, chosen.work, shorter),
    }
    with contestants(everyone, threads=chosen.threads) as started:
        results = interleave(started, list(range(chosen.rounds)), what="shakespeare_char")

    def figures(name: str) -> dict[str, list[float]]:
        return {who: [turn[name] for turn in turns] for who, turns in results.items()}

    reached = sum(a["loss"] <= b["loss"] for a, b in zip(results["bimo"], results["nanoGPT"], strict=True))
    size = "4 layers, width 128, context 64"
    conclude(
        "loss_against_time shakespeare_char",
        settings={
            "recipe": shakespeare.RECIPE,
            "nanoGPT": shakespeare.NANOGPT_COMMAND,
            "rounds": chosen.rounds,
            **({"iterations of nanoGPT": length} if length else {}),
        },
        machine=machine,
        packages=("torch",),
        versions={"nanoGPT": shakespeare.nanogpt.version(chosen.nanogpt)},
        comparisons=[
            Comparison(f"Training time to the end, {size}", "seconds", figures("seconds"), less_is_better=True),
            Comparison(
                "Final validation loss, whole split", "nats per character", figures("loss"), less_is_better=True
            ),
            Comparison(
                "The same, as nanoGPT estimates it", "nats per character", figures("estimate"), less_is_better=True
            ),
            Comparison("From start to end of the process", "seconds", figures("wall"), less_is_better=True),
        ],
        curves=[
            Curves(
                "Validation loss against seconds of training; ours was looked at at its end alone",
                "seconds",
                "nats per character",
                {
                    "bimo": [(turn["seconds"], turn["loss"]) for turn in results["bimo"][:1]],
                    "nanoGPT": results["nanoGPT"][0]["curve"],
                },
            )
        ],
        facts={"Ours ended at or below the loss of nanoGPT": f"in {reached} of {chosen.rounds} pairs"},
        keep=not chosen.dry,
    )


def tune(chosen: argparse.Namespace) -> None:
    """Every combination of settings, trained on 90 % of the training part; its loss on the other 10 %, best first."""
    data = shakespeare.nanogpt_data(chosen.nanogpt, chosen.text, chosen.work / "shakespeare_char")
    grid = {
        "steps": chosen.steps,
        "batch": chosen.batches,
        "muon_rate": chosen.muon_rates,
        "adam_rate": chosen.adam_rates,
    }
    rows = []
    for values in itertools.product(*grid.values()):
        settings = {**shakespeare.RECIPE, **dict(zip(grid, values, strict=True))}
        with contestants(
            {"bimo": (shakespeare.train_ours, data, chosen.work, settings, 0.1)}, threads=chosen.threads
        ) as ours:
            found = [ours[0].take_turn(seed) for seed in range(chosen.rounds)]
        losses = [result["own_loss"] for result in found]
        mean = sum(losses) / len(losses)
        rows.append(
            (mean, [*map(str, values), f"{found[0]['seconds']:.1f}", f"{mean:.4f}", f"{max(losses) - min(losses):.4f}"])
        )
        print(" ".join(rows[-1][1]), flush=True)
    print(text_table([[*grid, "seconds", "loss", "spread"], *(row for _, row in sorted(rows))]))


def compare_passages(chosen: argparse.Namespace, machine: dict[str, Any]) -> None:
    """Every contestant in turn, ours first, each for the same time."""
    results = measure_passages(chosen)
    title = f"{chosen.source.stem}: bits per byte of held-out documents after {chosen.minutes:g} minutes"
    rounds = {name: [result["bits_per_byte"]] for name, result in results.items()}
    rounds["Kneser-Ney"] = [results["bimo"]["kneser_ney"]]
    facts = {
        name: ", ".join(f"{key} {short(value)}" for key, value in result["facts"].items())
        for name, result in results.items()
    }
    conclude(
        f"loss_against_time {chosen.source.stem}, {chosen.minutes:g} minutes",
        settings={
            "minutes": chosen.minutes,
            "nanoGPT": {name: text for name, text in NANOGPT_SETTINGS.items() if f"nanoGPT {name}" in results},
            "GPT-2 rates": [rate for rate in GPT2_RATES if f"GPT-2 {rate:g}" in results],
        },
        machine=machine,
        packages=("torch", "transformers", "accelerate", "tokenizers"),
        versions={"nanoGPT": shakespeare.nanogpt.version(chosen.nanogpt)},
        comparisons=[Comparison(title, "bits per byte", rounds, less_is_better=True)],
        curves=[
            Curves(
                f"{chosen.source.stem}: bits per byte of held-out text against minutes of training",
                "minutes",
                "bits per byte",
                {name: result["curve"] for name, result in results.items() if result["curve"]},
                {"Kneser-Ney": rounds["Kneser-Ney"][0]},
            )
        ],
        facts=facts,
        keep=not chosen.dry,
    )


def main() -> None:
    """Measure, print, and keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--nanogpt", type=Path, required=True, help="a checkout of nanoGPT")
    common.add_argument("--work", type=Path, required=True, help="a folder for data and models")
    common.add_argument("--threads", type=int, default=os.cpu_count())
    common.add_argument("--dry", action="store_true", help="keep nothing in results.jsonl")
    parts = parser.add_subparsers(dest="part", required=True)
    one = parts.add_parser("shakespeare", parents=[common])
    other = parts.add_parser("tune", parents=[common])
    for part in (one, other):
        part.add_argument("--text", type=Path, default=SHARED / "tinyshakespeare" / "input.txt")
    one.add_argument("--rounds", type=int, default=5)
    one.add_argument("--iterations", type=int, help="of nanoGPT, instead of the 2,000 of its README, to try this file")
    other.add_argument("--rounds", type=int, default=2, help="seeds")
    other.add_argument("--steps", type=int, nargs="+", default=[shakespeare.RECIPE["steps"]])
    other.add_argument("--batches", type=int, nargs="+", default=[shakespeare.RECIPE["batch"]])
    other.add_argument("--muon-rates", type=float, nargs="+", default=[shakespeare.RECIPE["muon_rate"]])
    other.add_argument("--adam-rates", type=float, nargs="+", default=[shakespeare.RECIPE["adam_rate"]])
    last = parts.add_parser("passages", parents=[common])
    last.add_argument("--source", type=Path, required=True, help="a file or folder of text")
    last.add_argument("--minutes", type=float, default=10.0)
    last.add_argument("--only", nargs="+", help="contestants; else all")
    chosen = parser.parse_args()
    chosen.work.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(chosen.threads)
    machine = measure_machine(torch.device("cpu"), seconds=1.0).facts()
    if chosen.part == "tune":
        tune(chosen)
    elif chosen.part == "shakespeare":
        compare_shakespeare(chosen, machine)
    else:
        compare_passages(chosen, machine)


if __name__ == "__main__":
    main()
