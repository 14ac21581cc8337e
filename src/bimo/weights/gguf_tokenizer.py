"""The tokenizer inside a GGUF file's metadata: byte-level BPE, cut into words as llama.cpp cuts them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers

from bimo.runtime import UserError, t
from bimo.tokens.tokenizer import END_OF_TEXT, QWEN2_PATTERN, Tokenizer

__all__ = ["gguf_tokenizer"]

ORDINARY, UNKNOWN, CONTROL, USER_DEFINED = 1, 2, 3, 4
"""Types of tokens; further ones are treated as ordinary, and merges do not lead to them."""

# Radford et al. 2019, in the code that was published with GPT-2.
GPT2_PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA3_PATTERN = QWEN2_PATTERN.replace(r"|\p{N}|", r"|\p{N}{1,3}|")


@dataclass(frozen=True)
class Cutting:
    """Patterns that cut a text into words, each inside the pieces of the one before.

    With `whole_words` a word that is itself a token becomes that token, whatever its merges say.
    """

    patterns: tuple[str, ...]
    whole_words: bool = False


CUTTINGS = {
    "gpt-2": Cutting((GPT2_PATTERN,)),
    "smollm": Cutting((r"\p{N}", GPT2_PATTERN)),
    "qwen2": Cutting((QWEN2_PATTERN,)),
    "llama-bpe": Cutting((LLAMA3_PATTERN,), whole_words=True),
    # What llama.cpp does with files older than the key; the patterns are its own.
    "default": Cutting((r"[\p{P}\$\+<=>\^~\|]+", GPT2_PATTERN, r"\p{N}+", r"[0-9][0-9][0-9]")),
}
"""By the name that `tokenizer.ggml.pre` gives."""


def gguf_tokenizer(metadata: dict[str, Any]) -> Tokenizer:
    """The tokenizer that a file's metadata describes. Raises UserError when it is of another kind or damaged.

    Control tokens are matched nowhere in a text, user-defined ones everywhere, as llama.cpp does without
    `parse_special`. A byte for which the file has no token is left out, there and here.
    """
    model = metadata.get("tokenizer.ggml.model")
    name = metadata.get("tokenizer.ggml.pre", "default")
    if model != "gpt2" or not isinstance(name, str) or name not in CUTTINGS:
        raise UserError(
            "The tokenizer in the GGUF file is of type {model!r:.40} with the pre-tokenizer {name!r:.40}; "
            "Bimo reads type 'gpt2' with one of: {known}.",
            model=model,
            name=name,
            known=", ".join(CUTTINGS),
        )
    tokens = _texts(metadata, "tokenizer.ggml.tokens")
    ids = {token: number for number, token in enumerate(tokens)}
    if len(ids) != len(tokens):
        raise _damaged(t("a token stands in it twice"))
    types = metadata.get("tokenizer.ggml.token_type", [ORDINARY] * len(tokens))
    if not isinstance(types, list) or len(types) != len(tokens):
        raise _damaged(t("{key} does not fit the tokens", key="tokenizer.ggml.token_type"))
    pairs = (merge.partition(" ") for merge in _texts(metadata, "tokenizer.ggml.merges"))
    merges = [(first, second) for first, _, second in pairs]
    cutting = CUTTINGS[name]
    try:
        inner = tokenizers.Tokenizer(models.BPE(ids, merges, ignore_merges=cutting.whole_words))
    except Exception:  # the library raises bare Exception
        raise _damaged(t("a merge in it is not of two of its tokens")) from None
    inner.pre_tokenizer = pre_tokenizers.Sequence(
        [
            *(pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in cutting.patterns),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    inner.decoder = decoders.ByteLevel()
    for token, kind in zip(tokens, types, strict=True):
        if kind in (UNKNOWN, CONTROL) or token == END_OF_TEXT:
            inner.add_special_tokens([AddedToken(token, normalized=False)])
        elif kind == USER_DEFINED:
            inner.add_tokens([AddedToken(token, normalized=False)])
    return Tokenizer(inner)


def _texts(metadata: dict[str, Any], key: str) -> list[str]:
    values = metadata.get(key)
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise _damaged(t("{key} is missing", key=key))
    return values


def _damaged(fault: str) -> UserError:
    return UserError("The tokenizer in the GGUF file cannot be used: {fault}.", fault=fault)
