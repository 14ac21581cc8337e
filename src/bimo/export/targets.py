"""For which engines models are written, by family, and what each format may lose."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bimo.export.comparison import Engine
from bimo.export.encoders import compare_bert, compare_onnx, write_encoder, write_encoder_as_onnx
from bimo.export.gguf import open_with_llama_cpp, round_gguf, write_gguf_file
from bimo.export.hf import open_hf, round_hf, write_hf
from bimo.export.source import Source, open_source, source_of_gguf
from bimo.export.translators import compare_ctranslate2, compare_marian, write_ctranslate2, write_translator
from bimo.runtime import USAGE, UserError
from bimo.weights.gguf_blocks import StoredMatrix

__all__ = [
    "FORMATS",
    "OTHER_TARGETS",
    "TARGETS",
    "Format",
    "OtherTarget",
    "Target",
    "choose_format",
    "require_target",
    "targets_of",
]


@dataclass(frozen=True)
class Format:
    """By how much what a format holds may differ from what was trained.

    `loss` is the share by which bits per byte may rise through rounding. `predictions` is by how much an engine's
    log-probabilities may differ from those of the rounded weights in float32: what it rounds while it computes.
    """

    name: str
    loss: float
    predictions: float


FORMATS = {
    "f32": Format("F32", 0.0001, 1e-3),
    "f16": Format("F16", 0.001, 0.05),
    "bf16": Format("BF16", 0.005, 0.4),
    "q8_0": Format("Q8_0", 0.005, 1.5),
    "q4_1": Format("Q4_1", 0.1, 1.5),
}
"""By the name that --weights gives; docs/formats.md has the reasons for the numbers."""

OTHER_NAMES = {"int8": "q8_0", "int4": "q4_1"}


@dataclass(frozen=True)
class Target:
    """How models are written for a kind of engine, and opened again. The first of `formats` is the usual one.

    `reopen` is our own reader, for an engine whose files we read; `in_float32` says that the engine computes in
    float32 whatever the format.
    """

    formats: tuple[str, ...]
    folder: bool
    round: Callable[[Source, str], Mapping[str, StoredMatrix]]
    write: Callable[[Path, Source, str], None]
    open: Callable[[Path], Engine]
    reopen: Callable[[Path], Source] | None = None
    in_float32: bool = False


TARGETS = {
    "hf": Target(("f32", "f16", "bf16"), True, round_hf, write_hf, open_hf, open_source, in_float32=True),
    "gguf": Target(
        ("f16", "f32", "bf16", "q8_0", "q4_1"), False, round_gguf, write_gguf_file, open_with_llama_cpp, source_of_gguf
    ),
}


@dataclass(frozen=True)
class OtherTarget:
    """How a model that is no decoder is written for an engine, float32 as it is, and compared there.

    `write` takes where, then the model's folder; `compare` the model's folder, what was written and texts, and returns
    what it compared and, in words, what differs.
    """

    folder: bool
    write: Callable[[Path, Path], None]
    compare: Callable[[Path, Path, list[str]], tuple[dict[str, Any], list[str]]]


OTHER_TARGETS = {
    ("seq2seq", "hf"): OtherTarget(True, write_translator, compare_marian),
    ("seq2seq", "ctranslate2"): OtherTarget(True, write_ctranslate2, compare_ctranslate2),
    ("encoder", "hf"): OtherTarget(True, write_encoder, compare_bert),
    ("encoder", "onnx"): OtherTarget(False, write_encoder_as_onnx, compare_onnx),
}
"""By family and name."""


def targets_of(family: str) -> list[str]:
    """What models of a family can become."""
    return [*TARGETS] if family == "decoder" else [name for each, name in OTHER_TARGETS if each == family]


def require_target(name: str, family: str) -> None:
    """Raises UserError when there is no such target, or none for models of this family."""
    every = dict.fromkeys([*TARGETS, *(other for _, other in OTHER_TARGETS)])
    if name not in every:
        raise UserError("--to must be one of {known}, but is {name}.", code=USAGE, known=", ".join(every), name=name)
    known = targets_of(family)
    if not known:
        raise UserError(
            "A model of the family {family} is not exported: no other engine computes it.", code=USAGE, family=family
        )
    if name not in known:
        raise UserError(
            "A model of the family {family} cannot become {name}. What it can become: {known}.",
            code=USAGE,
            family=family,
            name=name,
            known=", ".join(known),
        )


def choose_format(wanted: str, to: str, target: Target) -> Format:
    """The format that --weights names. Raises UserError when the target has no such."""
    name = OTHER_NAMES.get(wanted.lower(), wanted.lower())
    if name not in target.formats:
        raise UserError(
            "For {to} the weights can be {known}, but not {name}.",
            code=USAGE,
            to=to,
            known=", ".join(target.formats),
            name=wanted,
        )
    return FORMATS[name]
