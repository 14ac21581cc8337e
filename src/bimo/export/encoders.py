"""Encoders as ONNX and as BERT's folders, and whether onnxruntime and transformers compute with them what we do.

B texts, T tokens.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bimo.export.comparison import other_ids, other_model, other_predictions, other_tensors
from bimo.export.hf import load_there
from bimo.generate.beam import padded
from bimo.models.encoder import Encoder
from bimo.runtime import t
from bimo.tasks.answer.reading import READER_FILE
from bimo.tokens.framing import Framing
from bimo.tokens.tokenizer import Tokenizer, load_tokenizer
from bimo.weights.bert import CLASSES
from bimo.weights.huggingface import load_encoder, save_encoder
from bimo.weights.names import require_fitting
from bimo.weights.onnx import onnx_weights, open_onnx, write_onnx
from bimo.weights.sentence_transformers import SentenceLayout, holds_layout, read_layout, write_layout

__all__ = ["compare_bert", "compare_onnx", "write_encoder", "write_encoder_as_onnx"]

TOLERANCE = 1e-3
"""By how much a number of the head may differ: both compute in float32, in another order."""

POOLED = "pooler_output"

Outputs = dict[str, np.ndarray]
"""By the names that ONNX files and transformers have for them."""


def write_encoder_as_onnx(path: Path, folder: Path) -> None:
    """The encoder in a model folder, with its head, as one file."""
    write_onnx(path, load_encoder(folder))


def write_encoder(path: Path, folder: Path) -> None:
    """The encoder in a model folder, with its head and its tokenizer, as a folder of BERT's; how it makes vectors of
    sentences, or when it holds an answer for right, comes along."""
    model, tokenizer = load_encoder(folder), load_tokenizer(folder)
    save_encoder(path, model, pad=tokenizer.special_id("pad_token"))
    tokenizer.save(path, context=model.config.context)
    if holds_layout(folder):
        write_layout(path, _layout(folder, model), width=model.config.width)
    if (reader := folder / "bimo" / READER_FILE).is_file():
        (path / "bimo").mkdir()
        shutil.copyfile(reader, path / "bimo" / READER_FILE)


def _layout(folder: Path, model: Encoder) -> SentenceLayout:
    """How vectors of sentences are made, after how many tokens they are cut written out."""
    layout = read_layout(folder)
    return replace(layout, context=layout.context or model.config.context)


def compare_onnx(folder: Path, path: Path, texts: list[str]) -> tuple[dict[str, Any], list[str]]:
    """(What was compared, in words what differs): all tensors, and what the head says of texts of several lengths.

    The texts alone would not do: most ids, and places that no text reaches, are in none of them.
    """
    run, written = open_onnx(path), onnx_weights(path)
    facts, faults = _compared(
        folder,
        texts,
        "onnxruntime",
        lambda ids, real, segments: run(ids.numpy(), real=real.numpy(), segments=segments.numpy()),
    )
    expected = {name: weight.detach().numpy() for name, weight in load_encoder(folder).named_parameters()}
    names = sorted(written.keys() ^ expected.keys())
    names += [name for name, each in written.items() if name in expected and not np.array_equal(each, expected[name])]
    return facts, other_tensors(names) + faults


def compare_bert(folder: Path, path: Path, texts: list[str]) -> tuple[dict[str, Any], list[str]]:
    """As compare_onnx, with the ids of the texts; by our own reader alone where transformers is not installed."""
    model, tokenizer = load_encoder(folder), load_tokenizer(folder)
    written, again = load_encoder(path), load_tokenizer(path)
    faults = other_model(model, written)
    if _layout(folder, model) != _layout(path, written):
        faults.append(t("vectors of sentences are made in another way"))
    same = [_framed(tokenizer, text) == _framed(again, text) for text in texts]
    try:
        engine, theirs, their_tokenizer = load_there(path, CLASSES[model.config.head.kind])
    except ImportError:
        facts, more = _compared(folder, texts, "bimo", lambda *inputs: _outputs(written, *inputs))
    else:
        facts, more = _compared(folder, texts, engine, lambda *inputs: _asked(theirs, *inputs))
        if not _same_pair(tokenizer, their_tokenizer, texts[0], texts[-1]):
            faults.append(t("a second text is told from the first in another way"))
        same = [
            equal and _framed(tokenizer, text) == their_tokenizer(text).input_ids
            for equal, text in zip(same, texts, strict=True)
        ]
    return facts | {"equal_ids": sum(same)}, faults + more + other_ids(texts, same)


def _same_pair(tokenizer: Tokenizer, theirs: Any, first: str, second: str) -> bool:
    """Whether two texts become the same ids, and the same kinds of tokens, by what a model of transformers is given."""
    framing = Framing(tokenizer, context=sys.maxsize)
    ours, found = framing.batch(framing.pairs([first], [second])), theirs(first, second)
    expected = ours.ids[0].tolist(), ours.segments[0].tolist()
    return (found["input_ids"], found.get("token_type_ids")) == expected


def _compared(
    folder: Path, texts: list[str], engine: str, run: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], Outputs]
) -> tuple[dict[str, Any], list[str]]:
    """The model in a folder beside what `run` makes of ids, of where they are no padding, and of their kinds: [B, T].

    The kinds change from token to token, as far as the model has several.
    """
    model, tokenizer = load_encoder(folder), load_tokenizer(folder)
    require_fitting(folder, tokens=tokenizer.vocabulary, vocabulary=model.config.vocabulary)
    inner = model.config.context - len(tokenizer.begin) - 1
    # All of them at once are a text as long as the model reads, beside which the others are padded.
    found = tokenizer.encode_batch([*texts, "\n".join(texts)])
    rows = [[*tokenizer.begin, *ids[:inner], tokenizer.end] for ids in found]
    ids, real = padded(rows, pad=tokenizer.special_id("pad_token"))
    segments = (torch.arange(ids.shape[1]) % model.config.segments).expand_as(ids)
    expected, written = _outputs(model, ids, real, segments), run(ids, real, segments)
    by_token = model.config.head.kind != "classes"
    largest = float(
        np.max(
            [
                _difference(numbers, written.get(name), real.numpy() if by_token and name != POOLED else None)
                for name, numbers in expected.items()
            ]
        )
    )
    facts = {"engine": engine, "prompts": len(texts), "tolerance": TOLERANCE, "largest_difference": largest}
    return facts, other_predictions(largest, TOLERANCE)


def _framed(tokenizer: Tokenizer, text: str) -> list[int]:
    return [*tokenizer.begin, *tokenizer.encode(text), tokenizer.end]


@torch.inference_mode()
def _outputs(model: Encoder, ids: torch.Tensor, real: torch.Tensor, segments: torch.Tensor) -> Outputs:
    """What the outputs should be."""
    hidden = model.hidden_states(ids, real=real, segments=segments)
    kind = model.config.head.kind
    if kind == "none":
        pooled = {} if model.pooler is None else {POOLED: model.pooler(hidden).numpy()}
        return {"last_hidden_state": hidden.numpy(), **pooled}
    said = model(ids, real=real, segments=segments).numpy()
    return {"start_logits": said[..., 0], "end_logits": said[..., 1]} if kind == "span" else {"logits": said}


@torch.inference_mode()
def _asked(model: Any, ids: torch.Tensor, real: torch.Tensor, segments: torch.Tensor) -> Outputs:
    """What a model of transformers says."""
    said = model(input_ids=ids, attention_mask=real.long(), token_type_ids=segments)
    return {name: numbers.numpy() for name, numbers in said.items() if isinstance(numbers, torch.Tensor)}


def _difference(expected: np.ndarray, found: np.ndarray | None, real: np.ndarray | None) -> float:
    """The largest one, of tokens where they are `real`; NaN for another shape, for nothing, and where either is NaN."""
    if found is None or expected.shape != found.shape:
        return float("nan")
    apart = np.abs(expected - found)
    return float((apart if real is None else apart[real]).max())
