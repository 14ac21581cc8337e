"""Training speed: tokens a second of Bimo, of nanoGPT's loop and of transformers' GPT-2 with its Trainer.

    python benchmarks/train.py --nanogpt PATH

Same layers, width, heads, parameters, context, batch and threads; every contestant in a process of its own, which takes
turns with the others. Shares are model FLOPs (PaLM, Chowdhery et al. 2022, appendix B) of the bfloat16 matrix rate that
was measured on this machine in the same run. Ours is the training step of `bimo train`: Muon and AdamW, clipping,
checks of loss and gradient. nanoGPT's and Trainer's defaults compute in float32 on a CPU; `bf16` are their best
settings (autocast to bfloat16, fused AdamW), `compiled` is torch.compile on top.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from record import Comparison, conclude
from turns import Bursts, Turns, contestants, interleave

from bimo.models.config import ModelConfig

SHAPES = {
    "10M": ModelConfig(
        vocabulary=2048, layers=6, width=384, heads=6, kv_heads=6, head_width=64, hidden=1024, context=256
    ),
    "30M": ModelConfig(
        vocabulary=8192, layers=8, width=512, heads=8, kv_heads=8, head_width=64, hidden=1376, context=512
    ),
}
"""`hidden` makes up for the plain blocks of GPT-2, so that all have as many weights."""

TOKENS_PER_STEP = 16_384
"""The batch of nanoGPT's own small configuration."""

TOKENS = 2_000_000
DATA_SEED = 0


def write_tokens(folder: Path, vocabulary: int) -> Path:
    """Random ids that are as unevenly common as words are: for ours packed, for the others a file of uint16."""
    from bimo.tokens.shards import TokenWriter

    # The last id is kept for the end of a document, which here comes once.
    ids = np.random.default_rng(DATA_SEED).zipf(1.2, size=TOKENS) % (vocabulary - 1)
    with TokenWriter(folder, "train", vocabulary=vocabulary, end=vocabulary - 1) as writer:
        writer.write([ids.tolist()])
    file = folder / "train.u16"
    ids.astype(np.uint16).tofile(file)
    return file


def train_ours(turns: Turns, folder: Path, shape: ModelConfig, batch: int) -> None:
    """A worker: the loop of `bimo train`, with the settings that it has by default, waiting between bursts."""
    import torch

    from bimo.machine import measure_machine
    from bimo.models.transformer import Decoder
    from bimo.tokens.batches import Batches
    from bimo.tokens.shards import TokenShards
    from bimo.train.loop import StepFacts, Trainer
    from bimo.train.losses import next_token_loss
    from bimo.train.optim import build_optimizers
    from bimo.train.settings import TrainConfig

    settings = TrainConfig(steps=1_000_000, batch=batch)
    dtype = getattr(torch, measure_machine(torch.device("cpu"), seconds=0.2).dtype)
    model = Decoder(shape, compute_dtype=dtype).initialise(settings.seed)
    bursts = Bursts(turns)

    def wait_between_bursts(trainer: Trainer, facts: StepFacts | None) -> None:
        if not bursts.go_on():
            trainer.progress.steps = trainer.progress.step

    trainer = Trainer(
        model,
        build_optimizers(
            model,
            muon_rate=settings.muon_rate,
            adam_rate=settings.adam_rate,
            weight_decay=settings.weight_decay,
        ),
        Batches(TokenShards(folder, "train"), batch=batch, context=shape.context, seed=settings.seed),
        objective=next_token_loss,
        folder=folder / "checkpoints",
        steps=settings.steps,
        # A share of the million steps that are planned: the loss must have fallen when the trainer looks for that.
        warmup=1e-5,
        decay=settings.decay,
        clip=settings.clip,
        on_step=[wait_between_bursts],
        on_event=lambda event: None,
    )
    trainer.run()


def workers(shape: ModelConfig, batch: int, folder: Path, chosen: argparse.Namespace) -> dict[str, tuple[Any, ...]]:
    """What each contestant runs, ours first."""
    import gpt2
    import nanogpt

    tokens = write_tokens(folder, shape.vocabulary)
    sizes = {
        "vocab_size": shape.vocabulary,
        "n_layer": shape.layers,
        "n_embd": shape.width,
        "n_head": shape.heads,
        "block_size": shape.context,
    }
    theirs = gpt2.Shape(shape.vocabulary, shape.layers, shape.width, shape.heads, shape.context)
    settings = ("default", "bf16", *(("compiled",) if chosen.compile else ()))
    return {
        "bimo": (train_ours, folder, shape, batch),
        **{f"nanoGPT {s}": (nanogpt.train_in_bursts, chosen.nanogpt, tokens, sizes, batch, s) for s in settings},
        **{f"Trainer {s}": (gpt2.train_in_bursts, tokens, theirs, batch, s) for s in gpt2.SETTINGS},
    }


def gpt2_flops_per_token(shape: ModelConfig) -> int:
    """Of a GPT-2 of these sizes, counted as in PaLM, appendix B."""
    matrices = shape.layers * 12 * shape.width**2 + shape.vocabulary * shape.width
    return 6 * matrices + 12 * shape.layers * shape.width * shape.context


def batch_of(shape: ModelConfig, chosen: argparse.Namespace) -> int:
    """Windows a step."""
    return chosen.batch or TOKENS_PER_STEP // shape.context


def measure(name: str, chosen: argparse.Namespace) -> dict[str, list[float]]:
    """Tokens a second of all contestants on one of SHAPES, in each round."""
    shape = SHAPES[name]
    batch = batch_of(shape, chosen)
    with (
        tempfile.TemporaryDirectory() as folder,
        contestants(workers(shape, batch, Path(folder), chosen), threads=chosen.threads) as everyone,
    ):
        task = {"seconds": chosen.seconds, "steps": chosen.steps}
        results = interleave(everyone, [task] * chosen.rounds, what=name)
    return {
        name: [batch * shape.context * burst["steps"] / burst["seconds"] for burst in bursts]
        for name, bursts in results.items()
    }


def compare(name: str, rates: dict[str, list[float]], peak: float, chosen: argparse.Namespace) -> Comparison:
    """The rates beside what the bfloat16 matrix rate `peak` in FLOP/s would allow."""
    shape = SHAPES[name]
    theirs = peak / gpt2_flops_per_token(shape)
    return Comparison(
        title=f"{name}: {shape.parameters / 1e6:.1f} M parameters, {shape.vocabulary:,} tokens, context "
        f"{shape.context}, batch {batch_of(shape, chosen)}",
        unit="tokens/s",
        rounds=rates,
        limit="bf16 matrix peak",
        limits={
            name: [theirs if place else peak / shape.flops_per_token] * len(values)
            for place, (name, values) in enumerate(rates.items())
        },
    )


def main() -> None:
    """Measure, print, and keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nanogpt", type=Path, required=True, help="a checkout of nanoGPT")
    parser.add_argument("--models", nargs="+", choices=SHAPES, default=list(SHAPES), help="which sizes")
    parser.add_argument("--compile", action="store_true", help="also nanoGPT compiled")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.0, help="of a burst, at least")
    parser.add_argument("--steps", type=int, default=1, help="of a burst, at least, after one that is not counted")
    parser.add_argument("--batch", type=int, help="windows a step, instead of the usual number")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--dry", action="store_true", help="keep nothing in results.jsonl")
    chosen = parser.parse_args()
    import nanogpt
    import torch

    from bimo.machine import measure_machine

    torch.set_num_threads(chosen.threads)
    before = measure_machine(torch.device("cpu"), seconds=2.0).facts()
    rates = {name: measure(name, chosen) for name in chosen.models}
    machine = measure_machine(torch.device("cpu"), seconds=2.0).facts()
    for name, rate in machine["matrix_flops"].items():
        machine["matrix_flops"][name] = max(rate, before["matrix_flops"][name])
    peak = machine["matrix_flops"]["bfloat16"]
    conclude(
        "train",
        settings={name: getattr(chosen, name) for name in ("rounds", "seconds", "steps", "threads")},
        machine=machine,
        packages=("torch", "transformers", "accelerate"),
        versions={"nanoGPT": nanogpt.version(chosen.nanogpt)},
        comparisons=[compare(name, rates[name], peak, chosen) for name in rates],
        keep=not chosen.dry,
    )


if __name__ == "__main__":
    main()
