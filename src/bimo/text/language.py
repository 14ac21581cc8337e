"""Which language a text is in: its script decides for Chinese and mostly for English; a classifier for the rest."""

from __future__ import annotations

import functools
from typing import Any

from bimo.text.measure import HAN, HANGUL, KANA, LATIN, LETTERS, count_kinds

__all__ = ["script_of"]

UNKNOWN = "und"
_HAN_SHARE = 0.2
_KANA_SHARE = 0.2
_HANGUL_SHARE = 0.3
_SURE_ENGLISH_LETTERS = 200
_ENGLISH_WORD_SHARE = 0.12
_SURE = 0.9
_WRITTEN_AS = {"wuu": "zh", "yue": "zh", "lzh": "zh"}
_LOOK_AT = 2000
_ENGLISH_LOOK_AT = 600
_ENGLISH = frozenset(
    (
        *("the", "of", "and", "to", "in", "is", "it", "you", "that", "he", "was", "for", "on", "are", "with", "as"),
        *("his", "they", "at", "be", "this", "have", "from", "or", "had", "by", "not", "but", "what", "all", "were"),
        *("we", "when", "your", "can", "there", "an", "which", "she", "do", "their", "if", "will", "my", "me", "so"),
        *("would", "her", "him", "has", "no", "its"),
    )
)


def script_of(text: str, kinds: list[int] | None = None) -> str:
    """The language of a text: `zh`, `en`, another ISO 639 code, or `und` when it has no letters. Deterministic.

    Chinese from a fifth of Han among the letters on, since one Han character says as much as a Latin word.
    Short Latin text counts as English: nothing can tell from a few words.
    """
    kinds = count_kinds(text) if kinds is None else kinds
    letters = sum(kinds[kind] for kind in LETTERS)
    if letters == 0:
        return UNKNOWN
    if kinds[KANA] >= _KANA_SHARE * (kinds[KANA] + kinds[HAN]) and kinds[KANA] + kinds[HAN] >= _HAN_SHARE * letters:
        return "ja"
    if kinds[HANGUL] >= _HANGUL_SHARE * letters:
        return "ko"
    if kinds[HAN] >= _HAN_SHARE * letters:
        return "zh"
    if 2 * kinds[LATIN] < letters:
        return _classify(text)[0]
    if letters < _SURE_ENGLISH_LETTERS or _reads_as_english(text[:_ENGLISH_LOOK_AT]):
        return "en"
    code, probability = _classify(text)
    return code if probability >= _SURE else "en"


def _reads_as_english(text: str) -> bool:
    words = text.lower().split()
    return sum(map(_ENGLISH.__contains__, words)) >= _ENGLISH_WORD_SHARE * len(words)


def _classify(text: str) -> tuple[str, float]:
    code, probability = _classifier().classify(text[:_LOOK_AT])
    return _WRITTEN_AS.get(str(code), str(code)), float(probability)


@functools.cache
def _classifier() -> Any:
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
