"""Which sizes of a model can be trained: on this text, from this start, with what is fixed, in this memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from bimo.config import from_mapping, to_mapping
from bimo.machine import Machine
from bimo.models.config import load_presets
from bimo.models.families import LanguageShape, choose_family, family_of
from bimo.runtime import DATA_REFUSED, NO_ROOM, UserError, t
from bimo.stages import Stages
from bimo.tokens.tokenizer import load_tokenizer
from bimo.train.objectives import require_windows, tokenizer_of
from bimo.train.pretrain import require_trainable
from bimo.train.restart import open_start, require_shape

__all__ = ["PROCESS_BYTES", "affordable", "fits", "packed_text", "possible_sizes", "shape_of_start"]

LEAST_TOKENS = 2_000
"""Below this a model learns nothing but the text itself."""

TOKENS_PER_STEP = 2_048

PROCESS_BYTES = 900_000_000
"""What a process takes besides the training step: libraries, the text in counting baselines, logits in validation."""


def packed_text(data: Path) -> dict[str, int]:
    """How many tokens and bytes of prepared data there are to learn from. Raises UserError when those are too few."""
    packed = Stages(data).known("tokens")["train"]
    if packed["tokens"] < LEAST_TOKENS:
        raise UserError(
            "The text is too small to train on: {tokens:,} tokens after cleaning, where at least {least:,} are "
            "needed (some {kilobytes} kB) and a hundred times that is a modest start. Add more text.",
            code=DATA_REFUSED,
            tokens=packed["tokens"],
            least=LEAST_TOKENS,
            kilobytes=LEAST_TOKENS * 4 // 1000,
        )
    return packed


def shape_of_start(start: Path, data: Path, fixed: Mapping[str, Any]) -> LanguageShape:
    """The shape of a model to go on with. Raises UserError when something else of it is fixed."""
    opened = open_start(start, load_tokenizer(data))
    full = opened.source.config
    kind = choose_family(family_of(full)).shape
    require_shape(opened, from_mapping(kind, {**to_mapping(full), **fixed}, where="model."))
    return full


def possible_sizes(
    data: Path, tokens: int, family: str, preset: str, fixed: Mapping[str, Any], full: LanguageShape | None
) -> dict[str, LanguageShape]:
    """The shapes to choose from by name, of a context that suits the text; `full` is that of a model to go on with.

    Sizes that cannot be with what is fixed are none of them. Raises UserError where none is left.
    """
    kind = choose_family(family if full is None else family_of(full))
    context = kind.context
    while context > 32 and tokens < 40 * context:
        context //= 2
    if full is not None:
        return {t("the model itself"): replace(full, context=min(context, full.context))}
    vocabulary = tokenizer_of(data, family).vocabulary
    usual = {"vocabulary": vocabulary, "context": context}
    sizes: dict[str, LanguageShape] = {}
    misfits: list[UserError] = []
    for name, fields in load_presets(family).items():
        if preset in ("", name):
            try:
                shape = from_mapping(kind.shape, {**usual, **fields, **fixed}, where="model.")
                require_trainable(shape, vocabulary=vocabulary)
                sizes[name] = shape
            except UserError as misfit:
                misfits.append(misfit)
    if not sizes:
        raise misfits[0]
    for shape in sizes.values():
        require_windows(shape, tokens=tokens)
    return sizes


def affordable(
    machine: Machine, sizes: dict[str, LanguageShape], fixed: Mapping[str, Any]
) -> list[tuple[str, LanguageShape, int]]:
    """Name, shape and batch of the sizes that fit into memory."""
    shapes = [(name, shape, max(1, TOKENS_PER_STEP // shape.context)) for name, shape in sizes.items()]
    fitting = [entry for entry in shapes if fits(entry[1], entry[2], machine)]
    if not fitting:
        name, shape, batch = shapes[0]
        facts: dict[str, Any] = {
            "preset": name,
            "needed": (PROCESS_BYTES + shape.training_bytes(batch)) / 1e9,
            "memory": machine.memory_bytes / 1e9,
        }
        if fixed:
            raise UserError(
                "Training {preset} with {fixed} needs about {needed:,.1f} GB, but this machine has {memory:,.1f} GB. "
                "A lower setting, a smaller --preset, where there is one, or a machine with more memory helps.",
                code=NO_ROOM,
                fixed=", ".join(f"model.{field}={value}" for field, value in fixed.items()),
                **facts,
            )
        raise UserError(
            "Training {preset} needs about {needed:,.1f} GB, but this machine has {memory:,.1f} GB. A smaller "
            "--preset, where there is one, or a machine with more memory helps.",
            code=NO_ROOM,
            **facts,
        )
    return fitting


def fits(shape: LanguageShape, batch: int, machine: Machine) -> bool:
    """Whether training a shape in batches of so many windows leaves a tenth of the memory free."""
    return PROCESS_BYTES + shape.training_bytes(batch) < 0.9 * machine.memory_bytes
