"""Going on with a model that exists: its shape, its weights, and whether a text was prepared with its tokenizer."""

from __future__ import annotations

from pathlib import Path

import torch

from bimo.models.families import LanguageModule, Shape
from bimo.runtime import USAGE, UserError
from bimo.tokens.tokenizer import Tokenizer
from bimo.weights.gguf import GGUFModel
from bimo.weights.opening import OpenedModel, open_model

__all__ = ["open_start", "require_shape", "take_weights", "tokenizer_file"]


def open_start(path: Path, tokenizer: Tokenizer) -> OpenedModel:
    """The language model to go on with. Raises UserError when the text's tokenizer is another than its own."""
    opened = open_model(path)
    if opened.tokenizer.inner.get_vocab() != tokenizer.inner.get_vocab():
        raise UserError(
            "The text was prepared with another tokenizer than that of {path}. Prepare it again: "
            "bimo prepare SOURCE --out DATA --tokenizer {file}.",
            code=USAGE,
            path=path,
            file=tokenizer_file(path),
        )
    return opened


def tokenizer_file(path: Path) -> Path:
    """Where the tokenizer of a model folder stands. Raises UserError for a GGUF file, which has it inside."""
    if path.is_file():
        raise UserError(
            "{path} has its tokenizer inside. Write it as a folder first, and go on with that: "
            "bimo export {path} --to hf --out FOLDER.",
            code=USAGE,
            path=path,
        )
    return path / "tokenizer.json"


def require_shape(opened: OpenedModel, shape: Shape) -> None:
    """Raises UserError when a model to go on with is of another shape than that."""
    if opened.source.config != shape:
        raise UserError(
            "{path} is of another shape than the settings describe. Leave the sizes to it.",
            code=USAGE,
            path=opened.path,
        )


@torch.no_grad()
def take_weights(model: LanguageModule, opened: OpenedModel, shape: Shape) -> None:
    """Copy the weights of a model of the same shape into `model`."""
    require_shape(opened, shape)
    source = opened.source.decoder() if isinstance(opened.source, GGUFModel) else opened.source
    weights = dict(source.named_parameters())
    for name, weight in model.named_parameters():
        weight.copy_(weights[name])
