"""What Hugging Face calls the settings and the weights of each family: our shapes and state dicts as theirs, and back.

A family's names stand in a module of its own, each with the same four functions.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from bimo.models.config import ModelConfig
from bimo.models.encoder import EncoderConfig
from bimo.models.families import LanguageShape, StoredShape
from bimo.models.perceptron import PerceptronConfig
from bimo.models.recurrent import RecurrentConfig
from bimo.models.recurrent_classifier import RecurrentClassifierConfig
from bimo.models.seq2seq import Seq2SeqConfig
from bimo.runtime import USAGE, UserError
from bimo.weights import bert, gpt2, llama, marian, perceptron, recurrent, recurrent_classifier
from bimo.weights.names import NamePairs, refuse_features, require_buildable

__all__ = [
    "from_hf",
    "model_config_from_hf",
    "model_config_to_hf",
    "names_of",
    "require_storable",
    "settings_of",
    "to_hf",
]


class Layout(Protocol):
    """What the module of a family offers."""

    def config_from_hf(self, settings: dict[str, Any], *, where: Path) -> Any:
        """The shape that a `config.json` describes."""

    def config_to_hf(self, config: Any) -> dict[str, Any]:
        """The `config.json` of a shape."""

    def from_hf(self, weights: dict[str, Tensor], config: Any) -> dict[str, Tensor]:
        """Their state dict as ours."""

    def to_hf(self, weights: dict[str, Tensor], config: Any) -> dict[str, Tensor]:
        """Our state dict as theirs."""


LAYOUTS: dict[str, Layout] = {
    "bert": bert,
    "gpt2": gpt2,
    "llama": llama,
    "marian": marian,
    "qwen2": llama,
    "qwen3": llama,
    "bimo_lstm": recurrent,
    recurrent_classifier.MODEL_TYPE: recurrent_classifier,
    "bimo_mlp": perceptron,
}
"""By `model_type`."""


def _layout_of(config: StoredShape) -> Layout:
    if isinstance(config, RecurrentConfig):
        return recurrent
    if isinstance(config, RecurrentClassifierConfig):
        return recurrent_classifier
    if isinstance(config, PerceptronConfig):
        return perceptron
    if isinstance(config, EncoderConfig):
        return bert
    if isinstance(config, Seq2SeqConfig):
        return marian
    return gpt2 if config.positions == "learned" else llama


def _stacks(config: StoredShape) -> tuple[LanguageShape | RecurrentClassifierConfig, ...]:
    """Its stacks of layers."""
    if isinstance(config, Seq2SeqConfig):
        return config.encoder, config.decoder
    return (config.stack if isinstance(config, EncoderConfig) else config,)


def names_of(config: StoredShape) -> NamePairs:
    """Our modules beside Hugging Face's, for a Transformer. Raises UserError for another family."""
    if isinstance(config, EncoderConfig):
        return bert.names_of(config)
    if isinstance(config, Seq2SeqConfig):
        return marian.NAMES
    if isinstance(config, ModelConfig):
        return gpt2.NAMES if _layout_of(config) is gpt2 else llama.NAMES
    raise UserError("Transformers alone take adapters.", code=USAGE)


def to_hf(weights: dict[str, Tensor], config: StoredShape) -> dict[str, Tensor]:
    """Our state dict as Hugging Face has it."""
    return _layout_of(config).to_hf(weights, config)


def from_hf(weights: dict[str, Tensor], config: StoredShape) -> dict[str, Tensor]:
    """Hugging Face's state dict as ours. Raises UserError on a tensor that such a model does not have."""
    return _layout_of(config).from_hf(weights, config)


def settings_of(config: StoredShape) -> dict[str, Any]:
    """`config.json` of a shape, without the ids that are a tokenizer's."""
    return _layout_of(config).config_to_hf(config)


def model_config_to_hf(config: StoredShape, *, end: int, begin: int | None = None) -> dict[str, Any]:
    """`config.json`; `end` is the id of the end token, `begin` of the one that begins a text if that is another."""
    ids = {"bos_token_id": end if begin is None else begin, "eos_token_id": end, "pad_token_id": end}
    return {**settings_of(config), **ids}


def model_config_from_hf(settings: Any, *, where: Path) -> StoredShape:
    """The shape that a `config.json` describes. Raises UserError for a family or feature that is not ours."""
    if not isinstance(settings, dict):
        raise UserError("{where} does not describe a model.", where=where)
    family = settings.get("model_type")
    if not isinstance(family, str) or family not in LAYOUTS:
        raise UserError(
            "{where} is a model of type {family!r:.40}; Bimo reads models of type {known}.",
            where=where,
            family=family,
            known=", ".join(LAYOUTS),
        )
    refuse_features({"quantization_config": bool(settings.get("quantization_config"))}, where=where)
    try:
        config = LAYOUTS[family].config_from_hf(settings, where=where)
    except (KeyError, TypeError, ValueError, ArithmeticError) as error:
        raise UserError("{where} is not complete: {error}.", where=where, error=str(error)[:200]) from None
    for stack in _stacks(config):
        require_buildable(stack, where=where)
    return config


def require_storable(config: StoredShape) -> None:
    """Raises UserError for a shape that no `config.json` of ours says again: after hours of training it is too late."""
    try:
        again = _layout_of(config).config_from_hf(settings_of(config), where=Path("config.json"))
    except (UserError, AssertionError, LookupError, StopIteration, TypeError, ValueError):
        again = None
    if again != config:
        raise UserError(
            "No folder that Bimo writes can hold a model of this shape. Of the settings under model. change sizes "
            "alone, or leave the family as it is.",
            code=USAGE,
        )
