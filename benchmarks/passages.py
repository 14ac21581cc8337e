"""Bits per byte on held-out documents after so many minutes: ours, nanoGPT and transformers' GPT-2.

All train on the same documents and are judged on the same ones by the same function, ends of documents included.
"""

from __future__ import annotations

import argparse
import math
import pickle
import shutil
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from peak import BIMO
from turns import Turns, contestants

from bimo.files import read_json, read_metrics, write_json
from bimo.machine import measure_machine
from bimo.runtime import pick_device
from bimo.tokens.tokenizer import END_OF_TEXT, Tokenizer, load_tokenizer

__all__ = ["GPT2_RATES", "NANOGPT_SETTINGS", "measure_passages"]

NANOGPT_SETTINGS = {
    "README": "--block_size=64 --batch_size=12 --n_layer=4 --n_head=4 --n_embd=128 --dropout=0.0",
    "baby GPT": "--batch_size=12",
}
"""What its README gives for a computer without a GPU; and its small configuration of 6 layers, width 384, context 256,
dropout 0.2, with the batch that the README advises there."""

NANOGPT_ALWAYS = "config/train_shakespeare_char.py --device=cpu --compile=False --eval_iters=20 --log_interval=1"
NANOGPT_TRIALS = (8, 100)
"""Iterations whose speed says how many fit; the second only where the first are over in TRIAL_SECONDS."""

TRIAL_SECONDS = 5
NANOGPT_VALIDATIONS = 10
NANOGPT_MULTIPLE = 64
"""It rounds GPT-2's vocabulary up to a multiple of this, for speed."""

GPT2_RATES = (3e-4, 1e-3, 3e-3)
GPT2_SHAPE = {"layers": 4, "width": 256, "heads": 4, "context": 256}
GPT2_BATCH = 8
GPT2_VOCABULARY = 50_257


def measure_passages(chosen: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """What each contestant reached; those that have a file in `chosen.work` are not run again."""
    from bimo.prepare import prepare

    data = chosen.work / "data"
    prepare([chosen.source], out=data)
    seconds = 60 * chosen.minutes
    peers = chosen.work / "gpt2-size-bpe"
    everyone: dict[str, tuple[Any, ...]] = {"bimo": (run_ours, chosen.source, chosen.work, chosen.minutes)}
    for name, setting in NANOGPT_SETTINGS.items():
        everyone[f"nanoGPT {name}"] = (
            run_nanogpt,
            chosen.nanogpt,
            peers,
            chosen.work / f"nanogpt {name}",
            setting,
            seconds,
        )
    for rate in GPT2_RATES:
        everyone[f"GPT-2 {rate:g}"] = (run_gpt2, peers, rate, seconds)
    if not (peers / "bytes.json").exists():
        pack_for_peers(data, peers)
    results = {}
    for name, worker in everyone.items():
        kept = chosen.work / f"{name}.json"
        if not kept.exists() and (not chosen.only or name in chosen.only):
            print(f"{name} begins, {time.strftime('%H:%M')}", flush=True)
            with contestants({name: worker}, threads=chosen.threads) as (contestant,):
                write_json(kept, contestant.take_turn(str(data)))
        if kept.exists():
            results[name] = read_json(kept)
    return results


def run_ours(turns: Turns, source: Path, work: Path, minutes: float) -> None:
    """A worker: `bimo run`. The task, as for all, is the folder of prepared data, whose split must be the same."""
    for data in turns:
        out = work / "bimo"
        # A process of its own: those that clean text may not be children of a contestant.
        subprocess.run([*BIMO, "run", source, "--out", out, "--minutes", f"{minutes:g}", "--quiet"], check=True)
        facts = read_json(out / "bimo" / "evaluation.json")
        assert [len(text) for text in held_out(Path(data))] == [len(text) for text in held_out(out / "bimo" / "data")]
        training = read_json(out / "bimo" / "training.json")
        events = [event for event in read_metrics(out / "bimo" / "metrics.jsonl") if event["event"] == "validation"]
        turns.report(
            {
                "bits_per_byte": facts["bits_per_byte"],
                "kneser_ney": facts["baselines"]["kneser_ney"]["bits_per_byte"],
                "curve": [(event["seconds"] / 60, event["bits_per_byte"]) for event in events],
                "facts": {name: training[name] for name in ("seconds", "steps", "tokens", "parameters")},
            }
        )


def run_nanogpt(turns: Turns, checkout: Path, peers: Path, work: Path, setting: str, seconds: float) -> None:
    """A worker: its train.py, with as many iterations as fit. The weights that validated best are kept, as by ours."""
    import nanogpt

    common = [*NANOGPT_ALWAYS.split(), *setting.split()]
    for data in turns:
        shutil.rmtree(work, ignore_errors=True)
        for count in NANOGPT_TRIALS:
            trial = [*common, f"--max_iters={count}", "--eval_interval=1000", "--eval_iters=1"]
            spent = nanogpt.run_training(checkout, work / f"trial {count}", trial, data=peers).seconds_until(count)
            if spent > TRIAL_SECONDS:
                break
        iterations = max(NANOGPT_VALIDATIONS, round(seconds / spent * count))
        length = [f"--max_iters={iterations}", f"--lr_decay_iters={iterations}"]
        every = f"--eval_interval={iterations // NANOGPT_VALIDATIONS}"
        log = nanogpt.run_training(checkout, work / "run", [*common, *length, every], data=peers)
        model = nanogpt.load_checkpoint(checkout, work / "run" / "out" / "ckpt.pt")
        to_bits = 1 / math.log(2) / read_json(peers / "bytes.json")["bytes_per_token"]
        turns.report(
            {
                "bits_per_byte": judge(model, peers, Path(data)),
                "curve": [(at / 60, loss * to_bits) for at, loss in log.curve[1:]],
                "facts": {
                    "seconds": log.seconds_until(iterations),
                    "steps": iterations,
                    "parameters": sum(weight.numel() for weight in model.parameters()),
                },
            }
        )


def run_gpt2(turns: Turns, peers: Path, rate: float, seconds: float) -> None:
    """A worker: Trainer at one learning rate, in bfloat16 where that is faster."""
    import gpt2

    setting = "bf16" if measure_machine(pick_device("cpu")).dtype == "bfloat16" else "default"
    for data in turns:
        shape = gpt2.Shape(vocabulary=load_tokenizer(peers).vocabulary, **GPT2_SHAPE)
        tokens = peers / "train.bin"
        model, facts = gpt2.train_for_seconds(
            tokens, shape, seconds=seconds, rate=rate, batch=GPT2_BATCH, setting=setting
        )
        facts["parameters"] = sum(weight.numel() for weight in model.parameters())
        turns.report({"bits_per_byte": judge(model, peers, Path(data)), "curve": [], "facts": facts})


def held_out(data: Path) -> list[str]:
    """The documents that are judged, chosen as `bimo evaluate` chooses them."""
    from bimo.baselines import MOST_VALIDATION_CHARACTERS, sample_evenly

    return sample_evenly(_texts(data, "validation"), MOST_VALIDATION_CHARACTERS)


def judge(model: Any, peers: Path, data: Path) -> float:
    """Bits per byte of the held-out documents, ends included, with half a context before each token as for ours."""
    from bimo.models.scoring import rolling_scores

    texts, tokenizer = held_out(data), load_tokenizer(peers)
    documents = [[tokenizer.end, *ids, tokenizer.end] for ids in tokenizer.encode_batch(texts)]
    context = model.config.context
    nats = sum(score.nats for score in rolling_scores(model, documents, context=context, stride=context // 2))
    return nats / math.log(2) / sum(len(text.encode()) for text in texts)


def pack_for_peers(data: Path, folder: Path) -> None:
    """A byte-level BPE of GPT-2's size, as far as the text has so many pairs, and both splits as uint16 ids."""
    import tokenizers

    inner = tokenizers.Tokenizer(tokenizers.models.BPE())
    inner.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=GPT2_VOCABULARY,
        min_frequency=2,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    inner.train_from_iterator(_texts(data, "train"), trainer)
    tokenizer = Tokenizer(inner)
    tokenizer.save(folder)
    for split, name in (("train", "train.bin"), ("validation", "val.bin")):
        texts = list(_texts(data, split))
        documents = tokenizer.encode_batch(texts)
        ids = np.concatenate([[tokenizer.end], *([*document, tokenizer.end] for document in documents)])
        ids.astype(np.uint16).tofile(folder / name)
    # Without this file nanoGPT takes GPT-2's vocabulary, however small that of the text is, and it reads no other form.
    # Nothing of ours reads it.
    padded = math.ceil(tokenizer.vocabulary / NANOGPT_MULTIPLE) * NANOGPT_MULTIPLE
    (folder / "meta.pkl").write_bytes(pickle.dumps({"vocab_size": padded}))
    bytes_ = sum(len(text.encode()) for text in texts)
    write_json(folder / "bytes.json", {"vocabulary": tokenizer.vocabulary, "bytes_per_token": bytes_ / (len(ids) - 1)})


def _texts(data: Path, split: str) -> Iterable[str]:
    from bimo.text.store import read_stored

    return (document.text for document in read_stored(data / "documents", split))
