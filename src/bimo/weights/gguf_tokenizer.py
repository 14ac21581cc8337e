"""The tokenizer inside a GGUF file's metadata: byte-level BPE, cut into words as llama.cpp cuts them, or pieces."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers, processors

from bimo.runtime import UserError, t
from bimo.tokens.tokenizer import END_OF_TEXT, QWEN2_PATTERN, Tokenizer
from bimo.tokens.tokenizer_file import LONGEST_TOKEN, MOST_ADDED
from bimo.weights.gguf_pieces import (
    BEFORE,
    BYTES,
    MOST_CHARACTERS,
    are_scores,
    begins_with_blank,
    piece_scores,
    piece_tokenizer,
)

__all__ = ["ALIKE", "BESIDE", "CUTTINGS", "ROLES", "gguf_tokenizer", "tokenizer_to_gguf"]

ORDINARY, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
"""Types of tokens; further ones are treated as ordinary, and merges do not lead to them."""
APART = (UNKNOWN, CONTROL, USER_DEFINED, BYTE)
"""Pieces are not joined to tokens of these types."""

ROLES = {
    "bos_token": "tokenizer.ggml.bos_token_id",
    "eos_token": "tokenizer.ggml.eos_token_id",
    "unk_token": "tokenizer.ggml.unknown_token_id",
    "pad_token": "tokenizer.ggml.padding_token_id",
}
"""What special tokens are for, as Tokenizer and as a file's keys name it."""

BESIDE = ("lstrip", "rstrip", "single_word")
"""Of a token that is added, what no key can say: blanks beside it belong to it, or it stands for itself alone."""

BEGINS = "tokenizer.ggml.add_bos_token"
BLANK_BEFORE = "tokenizer.ggml.add_space_prefix"
PIECES = "llama"
"""What `tokenizer.ggml.model` is for tokenizers of SentencePiece."""

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

ALIKE = {
    **dict.fromkeys(("phi-2", "mpt", "olmo", "exaone4"), "gpt-2"),
    **dict.fromkeys(("starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"), "smollm"),
    **dict.fromkeys(("deepseek-r1-qwen", "stablelm2", "megrez"), "qwen2"),
    **dict.fromkeys(("llama3", "llama-v3", "falcon3", "pixtral"), "llama-bpe"),
}
"""Other names for which llama.cpp has the same patterns."""


def gguf_tokenizer(metadata: dict[str, Any]) -> Tokenizer:
    """The tokenizer that a file's metadata describes. Raises UserError when it is of another kind or damaged.

    Control tokens are matched nowhere in a text, user-defined ones everywhere, as llama.cpp does without
    `parse_special`. A byte for which the file has no token is left out, there and here.
    """
    model = metadata.get("tokenizer.ggml.model")
    name = _cut_as(metadata)
    if model != PIECES and (model != "gpt2" or not isinstance(name, str) or name not in CUTTINGS):
        raise UserError(
            "The tokenizer in the GGUF file is of type {model!r:.40} with the pre-tokenizer {name!r:.40}; "
            "Bimo reads type 'llama', and 'gpt2' with one of: {known}.",
            model=model,
            name=name,
            known=", ".join(CUTTINGS),
        )
    tokens = _texts(metadata, "tokenizer.ggml.tokens")
    if len(set(tokens)) != len(tokens):
        raise _damaged(t("a token stands in it twice"))
    if max(map(len, tokens), default=0) > LONGEST_TOKEN:
        raise _damaged(t("a token in it is longer than {most} characters", most=LONGEST_TOKEN))
    types = metadata.get("tokenizer.ggml.token_type", [ORDINARY] * len(tokens))
    if not isinstance(types, list) or len(types) != len(tokens):
        raise _damaged(t("{key} does not fit the tokens", key="tokenizer.ggml.token_type"))
    inner = _of_pieces(tokens, types, metadata) if model == PIECES else _byte_level(tokens, metadata, CUTTINGS[name])
    special = [
        token for token, kind in zip(tokens, types, strict=True) if kind in (UNKNOWN, CONTROL) or token == END_OF_TEXT
    ]
    added = [token for token, kind in zip(tokens, types, strict=True) if kind == USER_DEFINED and token != END_OF_TEXT]
    if len(special) + len(added) > MOST_ADDED:
        raise _damaged(t("it adds more tokens than any does"))
    inner.add_special_tokens([AddedToken(token, normalized=False) for token in special])
    inner.add_tokens([AddedToken(token, normalized=False) for token in added])
    return _with_roles(inner, tokens, metadata)


def _byte_level(tokens: list[str], metadata: dict[str, Any], cutting: Cutting) -> tokenizers.Tokenizer:
    pairs = (merge.partition(" ") for merge in _texts(metadata, "tokenizer.ggml.merges"))
    merges = [(first, second) for first, _, second in pairs]
    ids = {token: number for number, token in enumerate(tokens)}
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
    return inner


def _of_pieces(tokens: list[str], types: list[Any], metadata: dict[str, Any]) -> tokenizers.Tokenizer:
    scores: Any = metadata.get("tokenizer.ggml.scores")
    if not are_scores(scores, len(tokens)):
        raise _damaged(t("{key} does not fit the tokens", key="tokenizer.ggml.scores"))
    if sum(map(len, tokens)) > MOST_CHARACTERS:
        raise _damaged(t("its tokens have more characters than {most:,}", most=MOST_CHARACTERS))
    unknown = next((token for token, kind in zip(tokens, types, strict=True) if kind == UNKNOWN), None)
    return piece_tokenizer(
        tokens,
        scores,
        merged=[kind not in APART for kind in types],
        unknown=unknown,
        blank_before=metadata.get(BLANK_BEFORE) is not False,
    )


def _cut_as(metadata: dict[str, Any]) -> Any:
    """The key of CUTTINGS that a file asks for, or what else stands there."""
    name = metadata.get("tokenizer.ggml.pre", "default")
    return ALIKE.get(name, name) if isinstance(name, str) else name


def _with_roles(inner: tokenizers.Tokenizer, tokens: list[str], metadata: dict[str, Any]) -> Tokenizer:
    """With its special tokens and what it puts before a text; where no key says either, as one of ours."""
    numbers = {role: metadata[key] for role, key in ROLES.items() if key in metadata}
    for role, number in numbers.items():
        if type(number) is not int or not 0 <= number < len(tokens):
            raise _damaged(t("{key} does not fit the tokens", key=ROLES[role]))
    special = {role: tokens[number] for role, number in numbers.items()}
    if "eos_token" not in special:
        return Tokenizer(inner)
    # Where the key is missing, llama.cpp begins the texts of Llama alone.
    usual = metadata.get("tokenizer.ggml.model") == PIECES or _cut_as(metadata) == "llama-bpe"
    begins = metadata.get(BEGINS, usual)
    if begins is True and (begin := special.get("bos_token")):
        inner.post_processor = processors.TemplateProcessing(
            single=f"{begin} $A", pair=f"{begin} $A {begin} $B", special_tokens=[(begin, numbers["bos_token"])]
        )
    return Tokenizer(inner, special)


def tokenizer_to_gguf(tokenizer: Tokenizer, *, vocabulary: int) -> dict[str, Any]:
    """The keys that describe a tokenizer; ids up to `vocabulary` that it does not have are filled with unused tokens.

    Raises UserError when it is neither a byte-level BPE that cuts words as one of CUTTINGS does nor pieces that scores
    can join, or when it has tokens that take what stands beside them along.
    """
    settings = json.loads(tokenizer.inner.to_str())
    model, blank = settings["model"], begins_with_blank(settings)
    cutting = _cutting(settings) if model["type"] == "BPE" else None
    name = next((name for name, known in CUTTINGS.items() if known == cutting), None)
    if name is None and blank is None:
        raise UserError(
            "A GGUF file cannot hold this tokenizer: it is neither SentencePiece's BPE with a token for every byte, "
            "nor a byte-level BPE that cuts text like one of: {known}.",
            known=", ".join(CUTTINGS),
        )
    _require_found_alone(settings)
    tokens = [f"[UNUSED{number}]" for number in range(vocabulary)]
    types = [UNUSED] * vocabulary
    for token, number in model["vocab"].items():
        tokens[number], types[number] = token, ORDINARY
    for added in settings["added_tokens"]:
        tokens[added["id"]], types[added["id"]] = added["content"], CONTROL if added["special"] else USER_DEFINED
    special = {role: tokenizer.inner.token_to_id(token) for role, token in tokenizer.special.items()}
    if tokenizer.begin:
        special["bos_token"] = tokenizer.begin[0]
    return {
        **(_merges_to_gguf(model, tokens, types, name) if name else _pieces_to_gguf(model, tokens, types, bool(blank))),
        **{ROLES[role]: number for role, number in special.items() if role in ROLES and number is not None},
        BEGINS: bool(tokenizer.begin),
    }


def _require_found_alone(settings: dict[str, Any]) -> None:
    """Raises UserError when a token that was added is found, or not, by what stands beside it in a text."""
    normalizer = settings["normalizer"] or {}
    prepends = BEFORE in normalizer.get("normalizers", [normalizer])
    for added in settings["added_tokens"]:
        flags = [flag for flag in BESIDE if added[flag]]
        # What is put before a text is then put before the token, too, and it is found after a blank alone.
        flags += ["normalized"] * (prepends and added["normalized"] and not added["special"])
        if flags:
            raise UserError(
                "A GGUF file cannot hold this tokenizer: its token {token!r} is found by what is beside it ({flags}).",
                token=added["content"],
                flags=", ".join(flags),
            )


def _merges_to_gguf(model: dict[str, Any], tokens: list[str], types: list[int], name: str) -> dict[str, Any]:
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": name,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.merges": [" ".join(pair) for pair in model["merges"]],
    }


def _pieces_to_gguf(model: dict[str, Any], tokens: list[str], types: list[int], blank: bool) -> dict[str, Any]:
    kinds = {**dict.fromkeys(BYTES, BYTE), model["unk_token"]: UNKNOWN}
    types = [kinds.get(token, kind) for token, kind in zip(tokens, types, strict=True)]
    of_kind = dict(zip(tokens, types, strict=True))
    # User-defined ones are cut out of a text before pieces are joined.
    joined = [token for token, kind in of_kind.items() if kind != USER_DEFINED]
    apart = {token for token in joined if of_kind[token] in APART}
    scores = piece_scores(model, joined, apart=apart)
    return {
        "tokenizer.ggml.model": PIECES,
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.scores": [scores.get(token, 0.0) for token in tokens],
        BLANK_BEFORE: blank,
    }


def _cutting(settings: dict[str, Any]) -> Cutting | None:
    """How a `tokenizer.json` cuts text into words, if it does so by patterns and then into bytes.

    Qwen's tokenizers also compose characters (NFC), which no key can say: text that is not composed gets other ids.
    """
    steps = settings["pre_tokenizer"] or {}
    steps = steps.get("pretokenizers", [steps])
    last = steps[-1]
    if last.get("type") != "ByteLevel" or last["add_prefix_space"]:
        return None
    patterns = [_pattern(step) for step in steps[:-1]] + [GPT2_PATTERN] * last["use_regex"]
    normalizer = (settings["normalizer"] or {}).get("type", "NFC")
    plain = not any(
        settings["model"].get(key) for key in ("continuing_subword_prefix", "end_of_word_suffix", "dropout")
    )
    if None in patterns or normalizer != "NFC" or not plain:
        return None
    return Cutting(tuple(filter(None, patterns)), whole_words=settings["model"]["ignore_merges"])


def _pattern(step: dict[str, Any]) -> str | None:
    if step["type"] == "Digits" and step["individual_digits"]:
        return r"\p{N}"
    if step["type"] == "Split" and step["behavior"] == "Isolated" and not step["invert"]:
        return step["pattern"].get("Regex")
    return None


def _texts(metadata: dict[str, Any], key: str) -> list[str]:
    values = metadata.get(key)
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise _damaged(t("{key} is missing", key=key))
    return values


def _damaged(fault: str) -> UserError:
    return UserError("The tokenizer in the GGUF file cannot be used: {fault}.", fault=fault)
