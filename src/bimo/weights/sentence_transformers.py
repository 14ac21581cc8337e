"""What makes sentence vectors of an encoder, as sentence-transformers keeps it: `modules.json` and company.

Of its modules Bimo computes Transformer, Pooling and Normalize, in this order.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bimo.files import read_json, read_settings, write_json
from bimo.models.pooling import POOLINGS
from bimo.runtime import UserError
from bimo.weights.names import refuse_features

__all__ = ["SentenceLayout", "holds_layout", "read_layout", "write_layout"]

MODULES = "modules.json"
POOLING, NORMALIZE = "1_Pooling", "2_Normalize"
PREFIX = "sentence_transformers.models."

OLD_NAMES = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_lasttoken": "lasttoken",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
}
"""Of ways of pooling, a switch each, which all versions of the library read."""


@dataclass(frozen=True)
class SentenceLayout:
    """How a folder makes vectors: `pooling` is one of POOLINGS, texts are cut after `context` tokens, 0 at the model's
    own limit; `lower` makes letters small before anything else."""

    pooling: str = "mean"
    normalize: bool = False
    context: int = 0
    lower: bool = False


def holds_layout(folder: Path) -> bool:
    """Whether sentence-transformers, or Bimo in its form, wrote there how vectors are made."""
    return (folder / MODULES).is_file()


def read_layout(folder: Path) -> SentenceLayout:
    """The layout of a folder; where it says nothing, the mean of all tokens. Raises UserError for what is not ours."""
    if not holds_layout(folder):
        return SentenceLayout()
    where = folder / MODULES
    modules = read_json(where)
    try:
        kinds = {module["type"].rpartition(".")[2]: module["path"] for module in modules}
    except (TypeError, KeyError, AttributeError):
        raise _unreadable(where) from None
    if list(kinds) not in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]) or kinds["Transformer"]:
        raise UserError(
            "{path} makes vectors by {modules}; Bimo computes Transformer, Pooling and Normalize, in one folder.",
            path=where,
            modules=", ".join(kinds) or "-",
        )
    if kinds["Pooling"] != POOLING:
        raise _unreadable(where)
    own = _settings(folder / "sentence_bert_config.json")
    whole = _settings(folder / "config_sentence_transformers.json")
    refuse_features({"default_prompt_name": bool(whole.get("default_prompt_name"))}, where=where)
    length = own.get("max_seq_length") or _settings(folder / "tokenizer_config.json").get("model_max_length")
    return SentenceLayout(
        pooling=_pooling(folder / POOLING / "config.json"),
        normalize="Normalize" in kinds,
        # Tokenizers without a limit have one of 10 ** 30.
        context=length if type(length) is int and 0 < length < 1 << 31 else 0,
        lower=bool(own.get("do_lower_case")),
    )


def _settings(path: Path) -> dict[str, Any]:
    return read_settings(path) if path.is_file() else {}


def _pooling(where: Path) -> str:
    settings = _settings(where)
    named = settings.get("pooling_mode")
    modes = [ours for theirs, ours in OLD_NAMES.items() if settings.get(theirs)] if named is None else named
    modes = [modes] if isinstance(modes, str) else modes
    if not isinstance(modes, list) or len(modes) != 1 or modes[0] not in POOLINGS:
        raise UserError(
            "{path} pools by {modes}; Bimo by one of {known}.", path=where, modes=modes, known=", ".join(POOLINGS)
        )
    return modes[0]


def _unreadable(where: Path) -> UserError:
    return UserError("{path} does not describe how vectors are made of texts.", path=where)


def write_layout(folder: Path, layout: SentenceLayout, *, width: int) -> None:
    """Beside an encoder of this width, so that sentence-transformers makes the same vectors of it."""
    parts = [("Transformer", ""), ("Pooling", POOLING), *([("Normalize", NORMALIZE)] if layout.normalize else [])]
    write_json(folder / "sentence_bert_config.json", {"max_seq_length": layout.context, "do_lower_case": layout.lower})
    modes = {theirs: ours == layout.pooling for theirs, ours in OLD_NAMES.items()}
    write_json(folder / POOLING / "config.json", {"word_embedding_dimension": width, **modes})
    if layout.normalize:
        write_json(folder / NORMALIZE / "config.json", {})  # an empty folder would not survive every way of copying
    write_json(folder / "config_sentence_transformers.json", {"similarity_fn_name": "cosine"})
    write_json(
        folder / MODULES,
        [
            {"idx": number, "name": str(number), "path": path, "type": PREFIX + name}
            for number, (name, path) in enumerate(parts)
        ],
    )
