"""An LSTM of the same shape on the same windows in the same order: Bimo's beside that of Keras on TensorFlow.

    python benchmarks/keras_lstm.py tinyshakespeare.txt --keras OTHER/bin/python

Characters are the tokens, Adam with the same settings updates both, nothing is dropped or clipped. Contestants take
turns, an epoch each; loss is that on the last tenth of the text. The first epoch compiles: its speed does not count.
Keras stands in an environment of its own. `bimo` computes in float32 as Keras does and starts as Keras does, with a
small embedding; `bimo, bfloat16` is what `bimo train` does where that is faster, starts as that does, and takes part
there alone. Keras' Adam squares the gradients of an embedding before those of equal tokens are added up, so that its
rows move too far; `keras, one-hot` is the same model with the embedding as a product, whose gradients are added first.
--variants lets Keras try XLA and mixed precision, neither of which made it faster.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from keras_worker import ADAM, character_windows, epoch
from record import Comparison, Curves, conclude
from turns import Turns, contestants, interleave

from bimo.machine import measure_machine
from bimo.models.recurrent import Recurrent, RecurrentConfig
from bimo.runtime import keep_freed_memory, pick_device
from bimo.train.losses import next_token_loss

KERAS_EMBEDDING = 0.05
"""Keras draws an embedding evenly from minus to plus this."""


def bimo_worker(turns: Turns, text: str, shape: dict[str, int], batch: int, rate: float, dtype: str) -> None:
    """Our model and our loss; a task is {"seed", "epoch"}, and epoch 0 begins with a new model."""
    keep_freed_memory()
    train, test, vocabulary = character_windows(text, shape["context"])
    config = RecurrentConfig(vocabulary=vocabulary, **shape)
    for task in turns:
        if task["epoch"] == 0:
            model = Recurrent(config, compute_dtype=getattr(torch, dtype)).initialise(task["seed"])
            if dtype == "float32":
                torch.nn.init.uniform_(model.embedding.weight, -KERAS_EMBEDDING, KERAS_EMBEDDING)
            betas = (ADAM["beta_1"], ADAM["beta_2"])
            adam = torch.optim.Adam(model.parameters(), lr=rate, betas=betas, eps=ADAM["epsilon"], fused=True)
        windows = epoch(train, batch, task["seed"], task["epoch"])
        start = time.perf_counter()
        for first in range(0, len(windows), batch):
            loss, _ = next_token_loss(model, windows[first : first + batch])
            loss.backward()
            adam.step()
            adam.zero_grad(set_to_none=True)
        seconds = time.perf_counter() - start
        with torch.no_grad():
            losses = [next_token_loss(model, test[i : i + batch])[0].item() for i in range(0, len(test), batch)]
            counts = [len(test[i : i + batch]) for i in range(0, len(test), batch)]
        turns.report(
            {
                "tokens_per_second": windows.shape[0] * shape["context"] / seconds,
                "loss": float(np.average(losses, weights=counts)),
                "parameters": sum(weight.numel() for weight in model.parameters()),
            }
        )


def keras_worker(turns: Turns, python: str, text: Path, settings: dict[str, Any]) -> None:
    """Hands tasks on to `keras_worker.py` in its own environment."""
    command = [python, str(Path(__file__).with_name("keras_worker.py")), str(text), json.dumps(settings)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for task in turns:
            print(json.dumps(task), file=process.stdin, flush=True)
            line = process.stdout.readline()
            if not line:
                raise RuntimeError("Keras has died; what it said stands above")
            turns.report(json.loads(line))
        process.stdin.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", type=Path, help="a file of text")
    parser.add_argument("--keras", required=True, help="the Python of an environment with tensorflow")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--layers", type=int, default=1)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--context", type=int, default=64)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rate", type=float, default=0.003)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--variants", action="store_true", help="Keras compiled by XLA and in mixed precision as well")
    parser.add_argument("--dry", action="store_true", help="keep nothing in results.jsonl")
    asked = parser.parse_args()
    text = asked.text.read_text(encoding="utf-8")
    shape = {"layers": asked.layers, "width": asked.width, "context": asked.context}
    peer = {**shape, "batch": asked.batch, "rate": asked.rate, "threads": asked.threads}
    plain = {**peer, "xla": False, "one_hot": False, "dtype": "float32"}
    ours = (text, shape, asked.batch, asked.rate)
    workers: dict[str, tuple[Any, ...]] = {
        "bimo": (bimo_worker, *ours, "float32"),
        "keras": (keras_worker, asked.keras, asked.text, plain),
        "keras, one-hot": (keras_worker, asked.keras, asked.text, {**plain, "one_hot": True}),
    }
    machine = measure_machine(pick_device("cpu"))
    if machine.dtype == "bfloat16":
        workers["bimo, bfloat16"] = (bimo_worker, *ours, "bfloat16")
    if asked.variants:
        workers |= {
            "keras, XLA": (keras_worker, asked.keras, asked.text, {**plain, "xla": True}),
            "keras, bfloat16": (
                keras_worker,
                asked.keras,
                asked.text,
                {**plain, "dtype": "mixed_bfloat16"},
            ),
        }
    tasks = [{"seed": seed, "epoch": number} for seed in range(asked.seeds) for number in range(asked.epochs)]
    with contestants(workers, threads=asked.threads) as all_of_them:
        results = interleave(all_of_them, tasks)
    report(asked, shape, tasks, results, machine.facts())


def report(
    asked: argparse.Namespace,
    shape: dict[str, int],
    tasks: list[dict[str, int]],
    results: dict[str, list[Any]],
    machine: dict[str, Any],
) -> None:
    """Speed of all epochs but the first ones, loss of the last ones."""
    speeds, losses = ({name: [] for name in results} for _ in range(2))
    for name, found in results.items():
        for task, result in zip(tasks, found, strict=True):
            if task["epoch"] or asked.epochs == 1:
                speeds[name].append(result["tokens_per_second"])
            if task["epoch"] == asked.epochs - 1:
                losses[name].append(result["loss"])
    (parameters,) = {result["parameters"] for found in results.values() for result in found}
    curves = {
        name: [(number + 1, found[number]["loss"]) for number in range(asked.epochs)] for name, found in results.items()
    }
    spread = {
        name: f"{statistics.fmean(x):.4f} ± {statistics.stdev(x) if len(x) > 1 else 0:.4f}"
        for name, x in losses.items()
    }
    conclude(
        "keras_lstm",
        settings={
            "text": asked.text.name,
            **shape,
            "batch": asked.batch,
            "rate": asked.rate,
            "epochs": asked.epochs,
            "seeds": asked.seeds,
            "threads": asked.threads,
        },
        machine=machine,
        packages=["torch"],
        versions=results["keras"][0]["versions"],
        comparisons=[
            Comparison("training", "tokens/s", speeds),
            Comparison("loss on the last tenth after the last epoch", "nats a character", losses, less_is_better=True),
        ],
        curves=[Curves("loss of the first seed", "epochs", "nats a character", curves)] if asked.epochs > 1 else [],
        facts={"parameters": parameters, "loss": spread},
        keep=not asked.dry,
    )


if __name__ == "__main__":
    main()
