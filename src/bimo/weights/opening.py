"""A model as people have it, a Hugging Face folder or a GGUF file, with all that belongs to it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from bimo.files import digest_file
from bimo.models.families import LanguageModule
from bimo.models.transformer import Decoder
from bimo.runtime import UserError
from bimo.tokens.chat import ChatFormat
from bimo.tokens.tokenizer import Tokenizer, load_tokenizer
from bimo.weights.chat_templates import folder_chat_format, folder_template, gguf_chat_format
from bimo.weights.gguf import GGUFModel, read_gguf
from bimo.weights.gguf_tokenizer import gguf_tokenizer
from bimo.weights.huggingface import end_ids, load_model
from bimo.weights.names import require_fitting
from bimo.weights.safetensors_files import weight_digests

__all__ = ["OpenedModel", "adapter_chat_format", "open_gguf", "open_model", "stored_digests"]


@dataclass(frozen=True, eq=False)
class OpenedModel:
    """`ends` are the ids that its files say end an answer.

    `chat` finds how messages are laid out, and raises UserError when the model's template cannot be used.
    """

    path: Path
    source: LanguageModule | GGUFModel
    tokenizer: Tokenizer
    ends: frozenset[int]
    chat: Callable[[], ChatFormat]

    @property
    def tunable(self) -> Decoder | GGUFModel:
        """The model, if it is one that learns to converse and takes --adapter. Raises UserError for another family."""
        if isinstance(self.source, Decoder | GGUFModel):
            return self.source
        raise UserError(
            "{path} is no Transformer decoder, and only those learn to converse and take --adapter.", path=self.path
        )

    def decoder(self, *, device: torch.device | None = None) -> Decoder:
        """In torch, all weights as numbers in float32. Raises UserError as `tunable` does."""
        return self.tunable.decoder(device=device) if isinstance(self.tunable, GGUFModel) else self.tunable

    def digests(self) -> dict[str, str]:
        """SHA-256 of the files that hold its weights, by their names."""
        return stored_digests(self.path)


def open_model(path: Path, *, device: torch.device | None = None) -> OpenedModel:
    """Open a folder or a file. Raises UserError when it is none that Bimo reads, or when its parts do not fit."""
    if path.suffix == ".gguf":
        return open_gguf(path)[0]
    if path.is_dir():
        model, tokenizer = load_model(path, device=device), load_tokenizer(path)
        find_chat = functools.partial(folder_chat_format, path, tokenizer)
        return _fitting(OpenedModel(path, model, tokenizer, end_ids(path), find_chat))
    raise UserError("There is no model folder {folder}.", folder=path)


def open_gguf(path: Path) -> tuple[OpenedModel, GGUFModel]:
    """A GGUF file, whatever its name, and what is stored in it. Raises UserError as `open_model` does."""
    stored = read_gguf(path)
    tokenizer = gguf_tokenizer(stored.metadata)
    find_chat = functools.partial(gguf_chat_format, stored.metadata, tokenizer)
    return _fitting(OpenedModel(path, stored, tokenizer, stored.ends, find_chat)), stored


def _fitting(opened: OpenedModel) -> OpenedModel:
    """Raises UserError where the tokenizer has ids that the model does not know."""
    vocabulary = opened.source.config.vocabulary
    require_fitting(opened.path, tokens=opened.tokenizer.vocabulary, vocabulary=vocabulary)
    # Models that were cut down still name the end that their teacher had.
    return replace(opened, ends=frozenset(end for end in opened.ends if 0 <= end < vocabulary))


def stored_digests(path: Path) -> dict[str, str]:
    """SHA-256 of the files that hold a model's weights, by their names, without opening it.

    Raises UserError where there is no model.
    """
    if path.is_dir():
        return weight_digests(path)
    if not path.is_file():
        raise UserError("There is no model folder {folder}.", folder=path)
    return {path.name: digest_file(path)}


def adapter_chat_format(folder: Path, base: OpenedModel) -> ChatFormat:
    """How messages were laid out when the adapter learned: with its own template where it has one, else the base's."""
    return folder_chat_format(folder, base.tokenizer) if folder_template(folder) is not None else base.chat()
