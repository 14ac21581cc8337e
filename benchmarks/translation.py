"""Translation: BLEU and chrF of Bimo beside a MarianMT of the same shape, trained by transformers for the same minutes.

    python benchmarks/translation.py PAIRS --source en --target zh --minutes 10 [--chinese simplified]
    python benchmarks/translation.py --three ../shared/data/mt --minutes 10 --chinese simplified

The second learns three directions in one model: Tatoeba's sentences from English to Chinese and back, and classical to
modern Chinese. Same pairs, tokenizer, shape and search; each is trained by itself on the machine. MarianMT is trained
by Seq2SeqTrainer, in bfloat16 where that is faster, with sentences of like length together, label smoothing and a
learning rate that rises in a tenth of the time and falls to zero in a line; of several --rates the one counts that does
best on the validation pairs. The test pairs are looked at once, at the end.
"""

from __future__ import annotations

import argparse
import importlib
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gpt2 import UntilTimeIsUp
from record import Comparison, conclude
from torch.utils.data import Dataset
from transformers import MarianConfig, MarianMTModel, Seq2SeqTrainer, Seq2SeqTrainingArguments

from bimo.console import Console
from bimo.evaluate.suite import evaluate
from bimo.files import read_json
from bimo.machine import measure_machine
from bimo.text.pairs import read_pairs
from bimo.tokens.pairs import PairBatches, PairTokens
from bimo.train.losses import translation_loss
from bimo.translation import train_translator
from bimo.weights.huggingface import load_translator

FOREVER = 1_000_000
SENTENCES = 64
"""A step: about as many tokens as ours takes."""

WARMUP = 0.1
"""Of the time: layers that are normalised behind, as MarianMT's are, learn nothing without it (Xiong et al. 2020)."""

IGNORED = -100


def three_directions(data: Path, out: Path) -> Path:
    """Write one table of pairs that says into which language each goes."""
    tatoeba = read_pairs(data / "tatoeba_cmn_eng" / "cmn.txt.gz", source="en", target="zh").pairs
    classical = read_pairs(data / "classical_modern_zh" / "classical_modern.tsv").pairs
    rows = [(pair.source, pair.target, "zh") for pair in tatoeba]
    rows += [(pair.target, pair.source, "en") for pair in tatoeba]
    rows += [(pair.source, pair.target, "modern") for pair in classical]
    lines = ["\t".join(row) for row in [("source", "target", "language"), *rows]]
    out.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return out


class Pairs(Dataset):
    """Packed pairs by number, without padding."""

    def __init__(self, pairs: PairTokens) -> None:
        self._pairs = pairs
        self.lengths = pairs.lengths.max(axis=1).tolist()

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, number: int) -> dict[str, Any]:
        source, target = self._pairs.batch([number], pad=-1)
        return {"input_ids": source[0], "labels": target[0], "length": self.lengths[number]}


def collate(rows: list[dict[str, Any]], pad: int) -> dict[str, torch.Tensor]:
    """Filled up to the longest; padding of targets carries no loss."""
    filled = {}
    for name, filler in (("input_ids", pad), ("labels", IGNORED)):
        longest = max(len(row[name]) for row in rows)
        table = np.full((len(rows), longest), filler, dtype=np.int64)
        for line, row in zip(table, rows, strict=True):
            line[: len(row[name])] = row[name]
        filled[name] = torch.from_numpy(table)
    before = torch.nn.functional.pad(filled["labels"][:, :-1], (1, 0), value=pad)
    before = before.masked_fill(before == IGNORED, pad)
    return {**filled, "attention_mask": (filled["input_ids"] != pad).long(), "decoder_input_ids": before}


def train_marian(ours: Path, out: Path, *, minutes: float, rate: float, dtype: str) -> dict[str, float]:
    """A MarianMT from random weights, of the shape and on the pairs of a model of ours; writes a folder."""
    settings = read_json(ours / "config.json")
    torch.manual_seed(0)
    model = MarianMTModel(MarianConfig(**{name: value for name, value in settings.items() if name != "dtype"}))
    pad, timer = settings["pad_token_id"], UntilTimeIsUp(60 * minutes, warmup=WARMUP)
    with tempfile.TemporaryDirectory() as folder:
        arguments = Seq2SeqTrainingArguments(
            output_dir=folder,
            use_cpu=True,
            bf16=dtype == "bfloat16",
            report_to=[],
            save_strategy="no",
            disable_tqdm=True,
            max_steps=FOREVER,
            per_device_train_batch_size=SENTENCES,
            learning_rate=rate,
            lr_scheduler_type="constant",
            label_smoothing_factor=0.1,
            train_sampling_strategy="group_by_length",
            length_column_name="length",
            remove_unused_columns=False,
        )
        rows = Pairs(PairTokens(ours / "bimo" / "data" / "tokens", "train"))
        trainer = Seq2SeqTrainer(
            model=model,
            args=arguments,
            train_dataset=rows,
            data_collator=lambda batch: collate(batch, pad),
            callbacks=[timer],
        )
        steps = trainer.train().global_step
    model.save_pretrained(out)
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json"):
        (out / name).write_bytes((ours / name).read_bytes())
    return {"rate": rate, "steps": steps, "seconds": timer.spent, "pairs_read": steps * SENTENCES}


@torch.no_grad()
def validation_loss(folder: Path, data: Path) -> float:
    """Mean cross-entropy in nats of the validation pairs."""
    model, pairs = load_translator(folder), PairTokens(data / "tokens", "validation")
    batches = PairBatches(pairs, tokens=4096, pad=model.config.pad, seed=0)
    found = [translation_loss(model, batches.at(step)) for step in range(batches.steps_per_epoch)]
    return sum(loss.item() * counted for loss, counted in found) / sum(counted for _, counted in found)


def main() -> None:
    """Train, choose, measure once, and keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pairs", type=Path, nargs="?")
    parser.add_argument("--three", type=Path, metavar="MT", help="three directions from the folder of real pairs")
    parser.add_argument("--source", default="")
    parser.add_argument("--target", default="")
    parser.add_argument("--chinese", default="")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--rates", type=float, nargs="+", default=[2.5e-4, 5e-4, 1e-3])
    parser.add_argument("--work", type=Path, help="keep the models here")
    parser.add_argument("--dry", action="store_true", help="keep nothing in results.jsonl")
    chosen = parser.parse_args()
    if (chosen.pairs is None) == (chosen.three is None):
        parser.error("give either a file of pairs or --three")
    importlib.import_module("sacrebleu")  # what would be missed at the end is missed before anything was trained
    machine = measure_machine(torch.device("cpu"))
    with tempfile.TemporaryDirectory() as temporary:
        work = chosen.work or Path(temporary)
        ours, pairs = work / "bimo", chosen.pairs
        columns = {"source": chosen.source, "target": chosen.target, "chinese": chosen.chinese}
        if pairs is None:
            work.mkdir(parents=True, exist_ok=True)
            pairs, columns["to_column"] = three_directions(chosen.three, work / "three.tsv"), "language"
        facts = train_translator(pairs, out=ours, minutes=chosen.minutes, **columns, console=Console())
        tried = {}
        for rate in chosen.rates:
            theirs = work / f"marian-{rate:g}"
            made = train_marian(ours, theirs, minutes=chosen.minutes, rate=rate, dtype=machine.dtype)
            tried[rate] = {
                **made,
                "validation_loss": validation_loss(work / f"marian-{rate:g}", ours / "bimo" / "data"),
            }
            print(tried[rate], flush=True)
        best = min(chosen.rates, key=lambda rate: tried[rate]["validation_loss"])
        test = ours / "bimo" / "data" / "pairs" / "test.tsv"
        measured = evaluate(ours, test, against=work / f"marian-{best:g}")["directions"]
        losses = {"bimo": validation_loss(ours, ours / "bimo" / "data")}
    conclude(
        "translation",
        settings={"file": pairs.name, **columns, "minutes": chosen.minutes},
        machine=machine.facts(),
        packages=("torch", "transformers", "accelerate", "sacrebleu"),
        comparisons=[
            Comparison(
                f"{pairs.name}, {chosen.source}{' ' * bool(chosen.source)}to {way['to'] or chosen.target}: {name} of "
                f"{way['pairs']:,} test pairs",
                name,
                {"bimo": [way[key]], "MarianMT": [way["other"][key]["score"]]},
            )
            for way in measured
            for key, name in (("bleu", "BLEU"), ("chrf", "chrF2"))
        ],
        facts={
            "signatures": [way["signatures"] for way in measured],
            "half intervals": [way["half_intervals"] for way in measured],
            "p of being equal": [{name: other["p"] for name, other in way["other"].items()} for way in measured],
            "parameters": facts["parameters"],
            "seconds": facts["seconds"],
            "validation loss": losses | {f"MarianMT {rate:g}": made["validation_loss"] for rate, made in tried.items()},
            "MarianMT": list(tried.values()),
            "samples": [way["samples"] for way in measured],
        },
        keep=not chosen.dry,
    )


if __name__ == "__main__":
    main()
