"""What is exported: a decoder's weights, its tokenizer and chat template, from a folder or a GGUF file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bimo.files import read_settings
from bimo.generate.engine import LanguageModel
from bimo.models.config import ModelConfig
from bimo.runtime import UserError
from bimo.tokens.tokenizer import Tokenizer
from bimo.weights.adapters import load_adapter, merged_weights, require_same_base
from bimo.weights.chat_templates import TEMPLATE_KEY, folder_chat_format, folder_template
from bimo.weights.gguf import GGUFModel
from bimo.weights.gguf_blocks import StoredMatrix
from bimo.weights.gguf_tokenizer import ROLES
from bimo.weights.opening import open_gguf, open_model
from bimo.weights.quantize import stored_weights

__all__ = ["Source", "open_source", "source_of_gguf"]


@dataclass(frozen=True, eq=False)
class Source:
    """A decoder with all that goes with it; weights under our names, in whatever format they were stored.

    `template` is the Jinja template of a chat; `generation` is what `generation_config.json` says; `ends` are the ids
    that end an answer.
    """

    name: str
    config: ModelConfig
    weights: Mapping[str, StoredMatrix]
    tokenizer: Tokenizer
    template: str | None
    generation: dict[str, Any]
    ends: frozenset[int]

    def with_weights(self, weights: Mapping[str, StoredMatrix]) -> Source:
        """The same with its weights as a format rounds them."""
        return replace(self, weights=weights)

    def language_model(self) -> LanguageModel:
        """Ready to write and to be measured, in float32 whatever the weights are stored in."""
        return LanguageModel(GGUFModel(self.config, dict(self.weights), {}).decoder(), self.tokenizer)

    @property
    def special(self) -> dict[str, int]:
        """Ids of special tokens by their roles (`eos_token`)."""
        found = {role: self.tokenizer.inner.token_to_id(token) for role, token in self.tokenizer.special.items()}
        return {role: number for role, number in found.items() if number is not None}


def open_source(path: Path, *, adapter: Path | None = None) -> Source:
    """A model folder or a GGUF file, with the adapter in a folder added to it for good.

    Raises UserError when it is none that Bimo reads, or the adapter is of another model.
    """
    source = source_of_gguf(path) if path.suffix == ".gguf" else _open_folder(path)
    if adapter is None:
        return source
    require_same_base(adapter, path)
    return _with_adapter(source, adapter)


def _with_adapter(source: Source, folder: Path) -> Source:
    """Weights, and the template that the adapter learned with, where it has one, with the token that closes it."""
    weights = merged_weights(source.weights, load_adapter(folder, source.config))
    changed = replace(source, name=f"{source.name}+{folder.resolve().name}", weights=weights)
    template = folder_template(folder)
    if template is None:
        return changed
    try:
        closing = folder_chat_format(folder, source.tokenizer).closing
    except UserError:  # of a template that others may well lay conversations out with
        closing = None
    ends = source.ends if closing is None else source.ends | {closing}
    return replace(changed, template=template, ends=ends)


def _open_folder(path: Path) -> Source:
    model = open_model(path)
    decoder = model.decoder()
    generation = path / "generation_config.json"
    return Source(
        path.resolve().name,
        decoder.config,
        stored_weights(decoder),
        model.tokenizer,
        folder_template(path),
        read_settings(generation) if generation.is_file() else {},
        model.ends | {model.tokenizer.end},
    )


def source_of_gguf(path: Path) -> Source:
    """A GGUF file, whatever its name. Raises UserError when it is none that Bimo reads."""
    opened, stored = open_gguf(path)
    template = stored.metadata.get(TEMPLATE_KEY)
    ids = {role: stored.metadata[key] for role, key in ROLES.items() if key in stored.metadata and role != "unk_token"}
    return Source(
        path.stem,
        stored.config,
        stored.weights,
        opened.tokenizer,
        template if isinstance(template, str) else None,
        {f"{role}_id": number for role, number in ids.items()},
        opened.ends | {opened.tokenizer.end},
    )
