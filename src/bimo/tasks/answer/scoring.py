"""How well answers agree with references: exact match and F1, by SQuAD's rule and by that of CMRC 2018."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence

from bimo.text.language import script_of

__all__ = ["exact_match", "f1", "is_chinese"]

ARTICLES = re.compile(r"\b(a|an|the)\b")
NO_PUNCTUATION = str.maketrans("", "", string.punctuation)

MARKS = frozenset("-:_*^/\\~`+=，。：？！“”；’《》·、「」（）－～『』")
"""What the scorer of CMRC 2018 leaves out. It names …… as well, but looks at single characters, so that one stays."""
HAN = re.compile("[\u4e00-\u9fa5]")
LATIN = re.compile(r"\w+(?:[.,'’]\w+)*|[^\w\s]")


def is_chinese(text: str) -> bool:
    """Whether questions on a text are scored by the rule of CMRC 2018."""
    return script_of(text) == "zh"


def exact_match(answer: str, references: Sequence[str], *, chinese: bool) -> bool:
    """Whether it is one of the references but for case, punctuation and, in English, articles."""
    bare = _without_marks if chinese else _squad_words
    return any(bare(answer) == bare(reference) for reference in references)


def f1(answer: str, references: Sequence[str], *, chinese: bool) -> float:
    """Agreement with the reference that is most like it, from 0 to 1."""
    return max(_agreement(answer, reference, chinese=chinese) for reference in references)


def _agreement(answer: str, reference: str, *, chinese: bool) -> float:
    """English: words in common (Rajpurkar et al. 2016); Chinese: the longest run in common (Cui et al. 2019)."""
    parts = _mixed_parts if chinese else _squad_words
    ours, theirs = parts(answer), parts(reference)
    if not chinese and not (ours and theirs):
        return float(ours == theirs)
    common = _longest_run(ours, theirs) if chinese else (Counter(ours) & Counter(theirs)).total()
    return 2 * common / (len(ours) + len(theirs)) if common else 0.0


def _squad_words(text: str) -> list[str]:
    return ARTICLES.sub(" ", text.lower().translate(NO_PUNCTUATION)).split()


def _without_marks(text: str) -> str:
    return "".join(character for character in text.lower().strip() if character not in MARKS)


def _mixed_parts(text: str) -> list[str]:
    """Characters of Chinese, words of anything else, without marks."""
    spaced = HAN.sub(lambda match: f" {match[0]} ", _without_marks(text))
    return [part for piece in spaced.split() for part in ([piece] if HAN.match(piece) else LATIN.findall(piece))]


def _longest_run(one: list[str], other: list[str]) -> int:
    """Of parts that stand in both, one after the other."""
    longest, lengths = 0, [0] * (len(other) + 1)
    for part in one:
        before = 0
        for place, theirs in enumerate(other, 1):
            lengths[place], before = (before + 1 if part == theirs else 0), lengths[place]
            longest = max(longest, lengths[place])
    return longest
