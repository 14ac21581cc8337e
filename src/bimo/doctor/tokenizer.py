"""What a tokenizer is, and whether text comes back from it."""

from __future__ import annotations

from typing import Any

from bimo.runtime import t
from bimo.tokens.tokenizer import Tokenizer

__all__ = ["describe_tokenizer", "tokenizer_lines"]

SAMPLES = {
    "Chinese": "会议决定，下周三之前由研发部提交「方案」；後來，臺灣也一樣。",
    "English": "The naïve fox's café cost $3.50 — isn't that a lot?",
    "Code": "def area(r):\n\treturn {'r': 3.14 * r ** 2}  # ≥ 0\n",
    "Emoji": "👍🏽 👩‍💻 🇨🇳 😀",
}
LABELS = ("Chinese", "English", "Code", "Emoji")


def describe_tokenizer(tokenizer: Tokenizer, *, ends: frozenset[int] = frozenset()) -> dict[str, Any]:
    """Its kind, its special tokens, and for text of several kinds whether it comes back and which characters do not."""
    name = tokenizer.inner.id_to_token
    return {
        "kind": type(tokenizer.inner.model).__name__,
        "vocabulary": tokenizer.vocabulary,
        "special": tokenizer.special,
        "begins": [name(id_) for id_ in tokenizer.begin],
        "ends": [name(id_) for id_ in sorted(ends | {tokenizer.end}) if name(id_) is not None],
        "samples": {label: _round_trip(tokenizer, text) for label, text in SAMPLES.items()},
    }


def _round_trip(tokenizer: Tokenizer, text: str) -> dict[str, Any]:
    ids = tokenizer.encode(text)
    back = tokenizer.decode(ids)
    return {
        "same": back == text,
        "lost": "".join(dict.fromkeys(character for character in text if character not in back)),
        "characters_per_token": len(text) / max(1, len(ids)),
    }


def tokenizer_lines(facts: dict[str, Any]) -> list[str]:
    """The same for people."""
    return [
        t(
            "Tokenizer: {kind}, {vocabulary:,} tokens; a text begins with {begins} and ends with {ends}",
            kind=facts["kind"],
            vocabulary=facts["vocabulary"],
            begins=" ".join(map(repr, facts["begins"])) or t("nothing"),
            ends=" ".join(map(repr, facts["ends"])),
        ),
        *(_sample_line(t(label), facts["samples"][label]) for label in LABELS),
    ]


def _sample_line(label: str, sample: dict[str, Any]) -> str:
    rate = sample["characters_per_token"]
    if sample["same"]:
        return t("{label} comes back as it was, {rate:.1f} characters a token", label=label, rate=rate)
    if not sample["lost"]:
        return t("{label} comes back with the same characters, but not as it was", label=label)
    return t("{label} does not come back: {lost} is lost", label=label, lost=repr(sample["lost"]))
