"""Encoders as ONNX, and whether onnxruntime computes with them what we do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from bimo.generate.beam import padded
from bimo.models.encoder import Encoder
from bimo.runtime import t
from bimo.tokens.tokenizer import load_tokenizer
from bimo.weights.huggingface import load_encoder
from bimo.weights.onnx import open_onnx, write_onnx

__all__ = ["compare_onnx", "write_encoder"]

TOLERANCE = 1e-3
"""By how much a number of the head may differ: both compute in float32, in another order."""


def write_encoder(path: Path, folder: Path) -> None:
    """The encoder in a model folder, with its head, as one file."""
    write_onnx(path, load_encoder(folder))


def compare_onnx(folder: Path, path: Path, texts: list[str]) -> tuple[dict[str, Any], list[str]]:
    """(What was compared, in words what differs): what the head says of texts of several lengths side by side."""
    model, tokenizer = load_encoder(folder), load_tokenizer(folder)
    context = model.config.context
    inner = context - len(tokenizer.begin) - 1
    rows = [[*tokenizer.begin, *ids[:inner], tokenizer.end] for ids in tokenizer.encode_batch(texts)]
    ids, real = padded(rows, pad=tokenizer.special_id("pad_token"))
    found = open_onnx(path)(ids.numpy(), real=real.numpy())
    expected = _outputs(model, ids, real)
    largest = max((_difference(expected[name], found[name], real.numpy()) for name in expected), default=0.0)
    facts = {"engine": "onnxruntime", "prompts": len(texts), "tolerance": TOLERANCE, "largest_difference": largest}
    if largest <= TOLERANCE:
        return facts, []
    return facts, [
        t("predictions differ by {largest:.2g}, where {tolerance:.2g} is allowed", largest=largest, tolerance=TOLERANCE)
    ]


@torch.inference_mode()
def _outputs(model: Encoder, ids: torch.Tensor, real: torch.Tensor) -> dict[str, np.ndarray]:
    """What the file's outputs of the same names should be."""
    hidden = model.hidden_states(ids, real=real)
    kind = model.config.head.kind
    if kind == "none":
        pooled = {} if model.pooler is None else {"pooler_output": model.pooler(hidden).numpy()}
        return {"last_hidden_state": hidden.numpy(), **pooled}
    said = model(ids, real=real).numpy()
    return {"start_logits": said[..., 0], "end_logits": said[..., 1]} if kind == "span" else {"logits": said}


def _difference(expected: np.ndarray, found: np.ndarray, real: np.ndarray) -> float:
    """The largest one where there is no padding; NaN for another shape."""
    if expected.shape != found.shape:
        return float("nan")
    apart = np.abs(expected - found)
    return float((apart[real] if apart.shape[:2] == real.shape else apart).max())
