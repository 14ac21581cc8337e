"""`bimo evaluate`: how well a model predicts text that it never saw, beside simple methods, and how much it copies."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from bimo.baselines import MOST_VALIDATION_CHARACTERS, measure_baselines, sample_evenly
from bimo.console import SILENT, Console
from bimo.evaluate.copying import copying_facts
from bimo.evaluate.masked import blank_line, evaluate_masked, masked_line
from bimo.evaluate.steering import steering_facts
from bimo.files import digest_file, digest_json, read_json, write_json
from bimo.generate.engine import LanguageModel, load
from bimo.generate.sample import Sampling, require_numbers
from bimo.intervals import bootstrap
from bimo.models.scoring import Score
from bimo.report.model_report import write_card, write_report
from bimo.runtime import DATA_REFUSED, UserError, t
from bimo.stages import Stages
from bimo.text.collect import read_texts
from bimo.text.controls import Controls, read_controls
from bimo.text.store import read_stored
from bimo.weights.huggingface import family_in

__all__ = ["evaluate", "evaluation_lines", "predict_texts"]

VERSION = 2
"""Goes up when the same model and text would give other figures."""

FREE_SAMPLES = 200
SAMPLE_TOKENS = 200
SAMPLES_AT_ONCE = 50
SHOWN_SAMPLES = 3

FREE = Sampling(temperature=1.0, top_p=1.0)
"""What the model itself says, not cut to its likeliest words: the fair setting for counting copies."""

MOST_TRAINING_CHARACTERS = 20_000_000
"""Of training text, evenly sampled, that is searched for copies; the facts say how much it was."""


def evaluate(model: str | Path, source: str | Path, *, console: Console = SILENT) -> dict[str, Any]:
    """Measure a model on prepared data (its held-out part) or on any files of text. Returns facts as JSON.

    On prepared data baselines and copying are measured too; of a folder everything is kept as `bimo/evaluation.json`,
    and the report and the card of a model of ours are written anew.
    """
    model, source = Path(model), Path(source)
    if family_in(model) == "encoder":
        return evaluate_masked(model, source, console=console)
    if not (source / "manifest.json").exists():
        return predict_texts(load(model), _read_texts(source, console), console=console)
    stages = Stages(source)
    weights = digest_file(model / "model.safetensors") if (model / "model.safetensors").exists() else ""
    key = digest_json({"version": VERSION, "weights": weights, "documents": stages.key("documents")})
    stored = model / "bimo" / "evaluation.json"
    if stored.exists() and (facts := read_json(stored)).get("key") == key:
        _write_pages(model)
        return facts
    language_model = load(model)
    documents = [*read_stored(source / "documents", "validation")]
    texts = [document.text for document in documents]
    controls = read_controls(source)
    facts = {
        "key": key,
        **predict_texts(language_model, sample_evenly(texts, MOST_VALIDATION_CHARACTERS), console=console),
        "baselines": measure_baselines(source, key=stages.key("documents"), console=console),
        **_free_writing(language_model, source, texts, controls, console),
    }
    if controls is not None:
        facts["steering"] = steering_facts(language_model, documents, controls)
    if model.is_dir():
        write_json(stored, facts)
        _write_pages(model)
    return facts


def _write_pages(model: Path) -> None:
    """Report and model card anew, in today's language; a model that is not ours keeps its own README."""
    if (model / "bimo" / "manifest.json").exists():
        write_card(model)
        write_report(model)


def _read_texts(source: Path, console: Console) -> list[str]:
    """Whatever text stands in a file or folder, as it is."""
    texts = list(read_texts([source], unread=lambda rejected: console.warn(str(rejected))))
    if not texts:
        raise UserError("{source} holds no text to evaluate on.", code=DATA_REFUSED, source=source)
    return texts


def predict_texts(model: LanguageModel, texts: list[str], *, console: Console = SILENT) -> dict[str, Any]:
    """Bits per byte of whole texts, ends included, with a 95 % interval from a bootstrap over the texts.

    `accuracy` is the share of the tokens that the model held for the likeliest.
    """
    bytes_ = np.array([len(text.encode()) for text in texts])
    scores: list[Score] = []
    with console.progress("Evaluate", len(texts)) as update:
        for start in range(0, len(texts), 64):
            scores += model.rolling_scores(texts[start : start + 64])
            update(len(scores), "")
    losses = np.array([score.nats for score in scores])
    require_numbers(losses)
    tokens = sum(len(ids) + 1 for ids in model.tokenizer.encode_batch(texts))

    def bits(drawn: np.ndarray) -> np.ndarray:
        return losses[drawn].sum(axis=1) / bytes_[drawn].sum(axis=1) / math.log(2)

    context = model.model.config.context
    return {
        "bits_per_byte": float(losses.sum() / bytes_.sum() / math.log(2)),
        "bits_per_byte_interval": [*bootstrap(bits, len(texts))],
        "bits_per_character": float(losses.sum() / sum(map(len, texts)) / math.log(2)),
        "perplexity": float(math.exp(losses.sum() / tokens)),
        "accuracy": sum(score.hits for score in scores) / tokens,
        "context": context,
        "stride": context // 2,
        "validation": {
            "documents": len(texts),
            "bytes": int(bytes_.sum()),
            "characters": sum(map(len, texts)),
            "tokens": tokens,
        },
    }


def _free_writing(
    model: LanguageModel, data: Path, held_out: list[str], controls: Controls | None, console: Console
) -> dict[str, Any]:
    """Let the model write without a prompt, and look for what it writes in the text it learned from; tags apart."""
    samples: list[str] = []
    with console.progress("Writing", FREE_SAMPLES) as update:
        while len(samples) < FREE_SAMPLES:
            seed = len(samples)
            samples += model.samples(count=SAMPLES_AT_ONCE, max_tokens=SAMPLE_TOKENS, sampling=FREE, seed=seed)
            update(len(samples), t("to look for copies of the training text"))
    if controls is not None:
        samples = [controls.without_header(sample) for sample in samples]
    texts = (document.text for document in read_stored(data / "documents", "train"))
    searched = sample_evenly(texts, MOST_TRAINING_CHARACTERS)
    copying = copying_facts(samples, searched, reference_texts=held_out)
    shown = model.samples(count=SHOWN_SAMPLES, max_tokens=SAMPLE_TOKENS, seed=1)
    return {
        "copying": {**copying, "characters_searched": sum(map(len, searched))},
        "samples": [{"prompt": "", "text": text} for text in shown],
    }


def evaluation_lines(facts: dict[str, Any]) -> list[str]:
    """An evaluation as lines for people."""
    if "masked_accuracy" in facts:
        return [masked_line(facts), *map(blank_line, facts["blanks"])]
    low, high = facts["bits_per_byte_interval"]
    validation = facts["validation"]
    lines = [
        t(
            "{bits:.4f} bits per byte ({low:.3f}-{high:.3f} in 95 % of resamples), {per_character:.3f} bits per "
            "character, perplexity {perplexity:.2f} a token, {accuracy:.1%} of the tokens foreseen",
            bits=facts["bits_per_byte"],
            low=low,
            high=high,
            per_character=facts["bits_per_character"],
            perplexity=facts["perplexity"],
            accuracy=facts["accuracy"],
        ),
        t("on {documents:,} documents of {bytes:,} bytes, {tokens:,} tokens", **validation),
    ]
    if "baselines" in facts:
        baselines = facts["baselines"]
        lines.append(
            t(
                "Baselines: unigram {unigram:.3f}, Kneser-Ney of order {order} {kneser_ney:.3f}, xz {xz:.3f}",
                unigram=baselines["unigram"],
                order=baselines["kneser_ney"]["best_order"],
                kneser_ney=baselines["kneser_ney"]["bits_per_byte"],
                xz=baselines["xz"],
            )
        )
    if facts.get("steering"):
        lines.append(
            t(
                "Steering: {with_tags:.3f} bits per byte after the tags of a text, {without_tags:.3f} without them, "
                "on {documents:,} documents",
                **facts["steering"],
            )
        )
    if "copying" in facts:
        copying = facts["copying"]
        lines.append(
            t(
                "Copied: {share:.2%} of {windows:,} windows of {window} characters; longest run {longest} characters",
                share=copying["share_of_windows_copied"],
                windows=copying["windows"],
                window=copying["window"],
                longest=copying["longest_run"],
            )
        )
    return lines
