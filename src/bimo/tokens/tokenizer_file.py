"""A `tokenizer.json` from anyone, checked by our own code before the library that reads it sees it.

What it may do to a text is bounded by what its steps say. Where that cannot be told, because of a compiled table or an
unusual expression, it is first tried in a process of its own.
"""

from __future__ import annotations

import base64
import binascii
import itertools
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bimo.files import parse_json
from bimo.runtime import UserError, t
from bimo.tokens.patterns import is_explosive, is_tame
from bimo.tokens.trial import fault_of_trial

__all__ = ["LONGEST_TOKEN", "MOST_ADDED", "require_harmless"]

LONGEST_TOKEN = 1024
"""Characters: what an id can come to when it is decoded."""
MOST_ADDED = 1 << 14
MOST_STEPS = 32
LONGEST_FRAME = 16
"""Tokens that are put around a text."""
MOST_GROWTH = 64
"""By which all steps of one kind together may lengthen a text."""
LONGEST_IMAGE = 256
"""Bytes that a compiled table puts in the place of a character."""

PARTS = {
    "normalizer": "normalizers",
    "pre_tokenizer": "pretokenizers",
    "post_processor": "processors",
    "decoder": "decoders",
}
"""The parts of a tokenizer, and what each calls the steps of a sequence."""

PLAIN_STEPS = {
    "normalizer": {
        *("NFC", "NFD", "NFKC", "NFKD", "Lowercase", "Strip", "StripAccents", "BertNormalizer", "ByteLevel"),
        *("Prepend", "Replace"),
    },
    "pre_tokenizer": {
        *("ByteLevel", "BertPreTokenizer", "Digits", "Metaspace", "Punctuation", "Split", "Whitespace"),
        "WhitespaceSplit",
    },
    "post_processor": {"ByteLevel", "TemplateProcessing", "BertProcessing", "RobertaProcessing"},
    "decoder": {"ByteLevel", "ByteFallback", "Fuse", "Metaspace", "Replace", "Strip", "WordPiece"},
}
"""Whose work is known and bounded, so that nothing has to be tried."""

GROWTH = {"ByteLevel": 4, "BertNormalizer": 3}
"""By which a step can lengthen a text each time anew: bytes become characters, blanks are put around them."""


def require_harmless(raw: bytes, *, where: Path) -> None:
    """Raises UserError unless a `tokenizer.json` is whole and takes bounded time and memory, whatever the text."""
    try:
        settings = parse_json(raw, where=where)
        if not isinstance(settings, dict) or not isinstance(settings.get("model"), dict):
            raise _Fault(t("it has no model"))
        tokens = _require_vocabulary(settings["model"], settings.get("added_tokens"))
        steps = {part: [*_steps(settings.get(part), part)] for part in PARTS}
        for part, found in steps.items():
            _require_bounded(part, found)
        _require_frames(steps["post_processor"], tokens)
        if not _is_plain(settings["model"], steps):
            fault = fault_of_trial(raw, characters=_repeated(steps))
            if fault is not None:
                raise _Fault(fault)
    except _Fault as fault:
        raise UserError("{file} is not a tokenizer that can be read: {error}.", file=where, error=fault) from None


class _Fault(Exception):
    """What is wrong, in the user's language."""


def _require_vocabulary(model: dict[str, Any], added: Any) -> int:
    """How many tokens there are, whose ids must be 0, 1, 2 ... as the library will give them out."""
    listed = model.get("vocab")
    if isinstance(listed, list):  # of pairs (token, score); the id is the place
        if not all(isinstance(pair, list) and len(pair) == 2 and isinstance(pair[0], str) for pair in listed):
            raise _Fault(t("its vocabulary is no list of tokens"))
        ids = {pair[0]: number for number, pair in enumerate(listed)}
    elif isinstance(listed, dict):
        ids = listed
    else:
        raise _Fault(t("it has no vocabulary"))
    if not all(type(id_) is int for id_ in ids.values()) or sorted(ids.values()) != [*range(len(ids))]:
        raise _Fault(t("the ids of its tokens are not the numbers from 0 to {last}", last=len(ids) - 1))
    _require_short(ids)
    if model.get("merges") is not None:
        _require_merges(model["merges"], ids, model.get("continuing_subword_prefix"))
    return _require_added(added, ids)


def _require_short(tokens: dict[str, int]) -> None:
    if max(map(len, tokens), default=0) > LONGEST_TOKEN:
        raise _Fault(t("a token in it is longer than {most} characters", most=LONGEST_TOKEN))


def _require_merges(merges: Any, ids: dict[str, int], prefix: Any) -> None:
    if not isinstance(merges, list):
        raise _Fault(t("its merges are no list"))
    pairs = [merge.split(" ") if isinstance(merge, str) else merge for merge in merges]
    if not all(isinstance(pair, list) and [*map(type, pair)] == [str, str] for pair in pairs):
        raise _Fault(t("a merge in it is not of two of its tokens"))
    whole = map("".join, pairs) if not prefix else ()  # with a prefix the result is another: the library looks
    if not ids.keys() >= {*itertools.chain.from_iterable(pairs), *whole}:
        raise _Fault(t("a merge in it is not of two of its tokens"))


def _require_added(added: Any, ids: dict[str, int]) -> int:
    """The number of tokens with those that were added. The library numbers these itself, whatever a file says."""
    tokens = added or []
    if not isinstance(tokens, list) or len(tokens) > MOST_ADDED:
        raise _Fault(t("it adds more tokens than any does"))
    new: dict[str, int] = {}
    for token in tokens:
        content = token.get("content") if isinstance(token, dict) else None
        if not isinstance(content, str) or not content:
            raise _Fault(t("an added token in it is none"))
        id_ = ids[content] if content in ids else new.setdefault(content, len(ids) + len(new))
        if token.get("id") != id_:
            raise _Fault(
                t("the added token {token} cannot have the id {id}", token=_shown(content), id=token.get("id"))
            )
    _require_short(new)
    return len(ids) + len(new)


def _steps(component: Any, part: str, depth: int = 0) -> Iterator[dict[str, Any]]:
    """The steps of a component, those inside of sequences too."""
    if component is None:
        return
    if not isinstance(component, dict) or not isinstance(component.get("type"), str) or depth > MOST_STEPS:
        raise _Fault(t("its {part} is none", part=part))
    if component["type"] == "Sequence":
        inner = component.get(PARTS[part])
        if not isinstance(inner, list) or len(inner) > MOST_STEPS:
            raise _Fault(t("its {part} is none", part=part))
        for step in inner:
            yield from _steps(step, part, depth + 1)
    else:
        yield component


def _require_bounded(part: str, steps: list[dict[str, Any]]) -> None:
    """Raises _Fault when the steps together could lengthen a text out of all proportion, or take time without end."""
    growth = 1.0
    for step in steps:
        regex = _pattern(step)[1]
        if regex is not None and is_explosive(regex):
            raise _Fault(t("the expression {pattern} in it repeats what repeats already", pattern=_shown(regex)))
        growth *= _growth(step)
    if growth > MOST_GROWTH or len(steps) > MOST_STEPS:
        raise _Fault(t("its {part} makes a long text of a short one", part=part))


def _growth(step: dict[str, Any]) -> float:
    """How many times as long a text can be after a step."""
    if step["type"] == "Precompiled":
        _require_table(step.get("precompiled_charsmap"))
    if step["type"] == "Prepend":
        return 1 + len(str(step.get("prepend", "")))
    if step["type"] != "Replace":
        return GROWTH.get(step["type"], 1)
    content, (text, regex) = len(str(step.get("content", ""))), _pattern(step)
    if text:
        return max(1, math.ceil(content / len(text)))
    if regex is None and text is None:
        raise _Fault(t("its {part} is none", part="Replace"))
    return 1 + content


def _pattern(step: dict[str, Any]) -> tuple[str | None, str | None]:
    """The text or the regular expression that a step looks for."""
    pattern = step.get("pattern")
    if isinstance(pattern, str):
        return pattern, None
    text, regex = (pattern.get("String"), pattern.get("Regex")) if isinstance(pattern, dict) else (None, None)
    return text if isinstance(text, str) else None, regex if isinstance(regex, str) else None


def _require_table(encoded: Any) -> None:
    """SentencePiece's compiled table: the bytes of a trie (u32), the trie, then texts that each end with a zero."""
    try:
        table = base64.b64decode(encoded, validate=True) if isinstance(encoded, str) else b""
    except (binascii.Error, ValueError):
        table = b""
    size = int.from_bytes(table[:4], "little")
    if not 4 <= size <= len(table) - 4 or size % 4:
        raise _Fault(t("its compiled table of characters is damaged"))
    if max(map(len, table[4 + size :].split(b"\0"))) > LONGEST_IMAGE:
        raise _Fault(t("its {part} makes a long text of a short one", part="normalizer"))


def _require_frames(steps: list[dict[str, Any]], tokens: int) -> None:
    """Raises _Fault when what is put around a text is long, or has ids that are none."""
    for step in steps:
        pieces = [step.get("single") or [], step.get("pair") or []]
        special = step.get("special_tokens") or {}
        if not isinstance(special, dict) or any(not isinstance(p, list) or len(p) > LONGEST_FRAME for p in pieces):
            raise _Fault(t("its {part} is none", part="post_processor"))
        lists = [token.get("ids") if isinstance(token, dict) else None for token in special.values()]
        pairs = [step[name][1:] for name in ("sep", "cls") if isinstance(step.get(name), list)]
        for ids in [*lists, *pairs]:
            if not isinstance(ids, list) or len(ids) > LONGEST_FRAME:
                raise _Fault(t("its {part} is none", part="post_processor"))
            if not all(type(id_) is int and 0 <= id_ < tokens for id_ in ids):
                raise _Fault(t("it puts tokens around a text that it does not have"))


def _is_plain(model: dict[str, Any], steps: dict[str, list[dict[str, Any]]]) -> bool:
    """Whether a tokenizer is of the form of those that we make, or of GPT-2's, Qwen2's, Llama's or BERT's."""
    kind = model.get("type")
    if kind == "BPE":
        plain = not model.get("continuing_subword_prefix") and not model.get("end_of_word_suffix")
    else:
        longest = model.get("max_input_chars_per_word", 0)
        plain = kind in ("WordPiece", "WordLevel") and type(longest) is int and longest <= LONGEST_TOKEN
    for part, found in steps.items():
        for step in found:
            text, regex = _pattern(step)
            searched = step["type"] in ("Split", "Replace")
            tame = bool(text) if regex is None else step["type"] == "Split" and is_tame(regex)
            plain &= step["type"] in PLAIN_STEPS[part] and (tame or not searched)
    return plain


def _repeated(steps: dict[str, list[dict[str, Any]]]) -> str:
    """The characters that stand in expressions, of which long runs are worth trying."""
    found = "".join(_pattern(step)[1] or "" for part in steps.values() for step in part)
    return "".join(dict.fromkeys(character for character in found if character.isprintable()))[:64]


def _shown(text: str) -> str:
    return repr(text[:40]) if text.isprintable() else ascii(text[:40])
