"""What Bimo can do with a model, and for whom it can write it: what its verbs accept, without running them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bimo.models.config import ModelConfig
from bimo.models.encoder import EncoderConfig
from bimo.models.families import StoredShape, family_of
from bimo.runtime import UserError
from bimo.tokens.tokenizer import Tokenizer
from bimo.weights.gguf_shapes import config_to_gguf
from bimo.weights.gguf_tokenizer import tokenizer_to_gguf
from bimo.weights.layouts import require_storable

__all__ = ["EXPORTS", "abilities", "exports"]

LANGUAGE = ("generate", "chat", "evaluate")
VECTORS = ("embed", "similar")
UNTRAINED = "classify --labels"
"""Language models tell apart what they are told the names of."""

ABILITIES = {
    "decoder": (*LANGUAGE, *VECTORS, UNTRAINED, "tune"),
    "lstm": (*LANGUAGE, *VECTORS, UNTRAINED),
    "mlp": (*LANGUAGE, *VECTORS, UNTRAINED),
    "seq2seq": ("translate", "evaluate", "tune"),
    "classifier": ("classify", "evaluate"),
}
"""By family."""
OF_HEADS = {
    "none": ("evaluate",),
    "words": ("evaluate",),
    "classes": ("classify", "evaluate"),
    "tokens": (),
    "span": ("answer", "evaluate"),
}
"""What an encoder can do by its head; whatever that is, it makes vectors and can be tuned to another."""

EXPORTS = {"decoder": ("hf", "gguf"), "seq2seq": ("hf", "ctranslate2"), "encoder": ("hf", "onnx")}
"""What `bimo export` makes of a model, by its family; other engines compute no other."""


def abilities(config: StoredShape) -> list[str]:
    """Verbs of `bimo` that accept a model of a shape; `exports` says what becomes of another one."""
    if isinstance(config, EncoderConfig):
        return [*OF_HEADS[config.head.kind], *VECTORS, "tune"]
    return [*ABILITIES[family_of(config)]]


def exports(config: StoredShape, tokenizer: Tokenizer) -> list[str]:
    """For whom a model can be written: of a decoder not every shape and not every tokenizer."""
    known = EXPORTS.get(family_of(config), ())
    if not isinstance(config, ModelConfig):
        return [*known]
    found = {"hf": _works(require_storable, config), "gguf": _works(config_to_gguf, config)}
    found["gguf"] = found["gguf"] and _works(tokenizer_to_gguf, tokenizer, vocabulary=config.vocabulary)
    return [name for name in known if found[name]]


def _works(describe: Callable[..., Any], *given: Any, **named: Any) -> bool:
    try:
        describe(*given, **named)
    except UserError:
        return False
    return True
