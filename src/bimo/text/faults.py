"""What is not text that people wrote to be read: one small mild rule per reason."""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Callable, Collection
from typing import Any

from bimo.runtime import t
from bimo.text.clean import count_damage
from bimo.text.measure import DIGIT, HAN, LATIN, LETTERS, SPACE, count_kinds

__all__ = ["FAULTS", "find_fault"]

_LEAST_LETTERS = 2
_LEAST_DAMAGED, _DAMAGED_SHARE = 3, 0.03
_REPETITION_BYTES = 400
_REPETITION_RATIO = 0.07
_LINKS, _LINK_SHARE = 3, 0.6
_MACHINE_SHARE, _MOST_SPACES = 0.7, 0.1
_IDENTIFIERS, _IDENTIFIER_SHARE = 10, 0.8
_TAGS, _TAG_SHARE = 5, 0.3
"""Of 113,000 real texts and examples of code, the greatest shares are 0.45 and 0.19."""

_SYMBOLS_FROM = 40
_LETTER_SHARE, _HAN_SHARE = 0.4, 0.3
"""A word of letters takes many, one of Han two: of real texts one in two thousand has less than 0.71 and 0.63."""

_LINK = re.compile(r"(?:https?://|www\.)[^\s<>\"'）】，。]+")
_RUN = re.compile(r"([^\w\s])(?:\s*\1)+")
_LONG_TOKEN = re.compile(r"[A-Za-z0-9+/=_-]{32,}")
_TOKEN_GAP = re.compile(r"""[\s,;|"'，；、()\[\]{}<>]+""")
_IDENTIFIER = re.compile(r"(?=[^\d\s]*\d)[\w+/=.:#@-]{6,}", re.ASCII)
# Tags by their names, for programs and formulas have such signs as well; also those that the ends of the text cut.
_TAG_NAMES = (
    "html|head|body|title|meta|link|script|style|div|span|p|a|br|hr|img|ul|ol|li|dl|dt|dd|table|thead|tbody|tr|td|th|"
    "h[1-6]|b|i|u|em|strong|small|font|center|form|input|button|select|option|label|textarea|iframe|nav|header|footer|"
    "main|section|article|aside|figure|figcaption|svg|path|picture|source|video|noscript|blockquote"
)
_TAG = re.compile(
    rf"<(script|style)\b[^<>]*>.{{0,5000}}?</\1>|</?(?:{_TAG_NAMES})\s*/?>|<(?:{_TAG_NAMES})\s[^<>]*=[^<>]*(?:>|\Z)|"
    r"""<!doctype[^<>]*>|\A[^<>]*["'/]\s*>""",
    re.IGNORECASE | re.DOTALL,
)

Kinds = list[int]


def find_fault(text: str, kinds: Kinds | None = None, allow: Collection[str] = ()) -> tuple[str, str] | None:
    """(reason, detail) when `text` is not something that people wrote to be read, else None.

    `kinds` are its counts from count_kinds, `allow` the reasons of FAULTS whose rules are off. Rules are mild: verse,
    dialogue, code, contents and chat lines pass.
    """
    kinds = count_kinds(text) if kinds is None else kinds
    for reason, rule in _RULES.items():
        detail = "" if reason in allow else rule(text, kinds)
        if detail:
            return reason, detail
    return None


def _letters(kinds: Kinds) -> int:
    return sum(kinds[kind] for kind in LETTERS)


def _too_short(text: str, kinds: Kinds) -> str:
    letters = _letters(kinds)
    return t("{letters} letters", letters=letters) if letters < _LEAST_LETTERS else ""


def _mojibake(text: str, kinds: Kinds) -> str:
    damaged = text.count("\ufffd") + 3 * text.count("锟斤拷") + 2 * count_damage(text)
    enough = max(_LEAST_DAMAGED, _DAMAGED_SHARE * len(text))
    return t("{count} damaged characters", count=damaged) if damaged >= enough else ""


def _repetition(text: str, kinds: Kinds) -> str:
    """Text that packs to almost nothing. Of real prose and verse, refrains and all, the least was 0.3 of its size.

    One limit does for both languages: one text in twenty packs to less than 0.469 in Chinese, 0.474 in English.
    """
    data = text.encode()
    if len(data) < _REPETITION_BYTES:
        return ""
    ratio = len(_compressor().compress(data)) / len(data)
    return t("packs to {ratio:.1%} of its size", ratio=ratio) if ratio < _REPETITION_RATIO else ""


@functools.cache
def _compressor() -> Any:
    import zstandard

    return zstandard.ZstdCompressor(level=1)


def _links(text: str, kinds: Kinds) -> str:
    if text.count("://") + text.count("www.") < _LINKS:
        return ""
    links = _LINK.findall(text)
    share = sum(map(len, links)) / max(1, len(text) - kinds[SPACE])
    return t("{share:.0%} of it are links", share=share) if len(links) >= _LINKS and share > _LINK_SHARE else ""


def _machine(text: str, kinds: Kinds) -> str:
    if 2 * (kinds[LATIN] + kinds[DIGIT]) < len(text) or kinds[SPACE] > _MOST_SPACES * len(text):
        return ""
    size = sum(len(token) for token in _LONG_TOKEN.findall(text) if _looks_random(token))
    share = size / max(1, len(text) - kinds[SPACE])
    return t("{share:.0%} of it are strings such as hashes or base64", share=share) if share > _MACHINE_SHARE else ""


def _looks_random(token: str) -> bool:
    """Digits between letters, or capitals between small letters, all along."""
    changes = sum(a.isdigit() != b.isdigit() or (a.islower() and b.isupper()) for a, b in itertools.pairwise(token))
    return changes >= len(token) / 10


def _identifiers(text: str, kinds: Kinds) -> str:
    """A list of numbers, names with numbers, short hashes and the like, without a sentence around it."""
    if 10 * kinds[DIGIT] < len(text) or kinds[HAN] > kinds[DIGIT]:
        return ""
    found = [token for token in _TOKEN_GAP.split(text) if _IDENTIFIER.fullmatch(token)]
    share = sum(map(len, found)) / max(1, len(_TOKEN_GAP.sub("", text)))
    few = len(found) < _IDENTIFIERS or share <= _IDENTIFIER_SHARE
    return "" if few else t("{share:.0%} of it are identifiers and numbers", share=share)


def _markup(text: str, kinds: Kinds) -> str:
    if text.count("<") < _TAGS:
        return ""
    tags = [match[0] for match in _TAG.finditer(text)]
    share = sum(len("".join(tag.split())) for tag in tags) / max(1, len(text) - kinds[SPACE])
    return t("{share:.0%} of it are tags", share=share) if len(tags) >= _TAGS and share > _TAG_SHARE else ""


def _symbols(text: str, kinds: Kinds) -> str:
    letters = _letters(kinds)
    wanted, least = letters + kinds[DIGIT], _HAN_SHARE if 2 * kinds[HAN] > letters else _LETTER_SHARE
    if wanted >= least * (len(text) - kinds[SPACE]):
        return ""
    # Dot leaders of a table of contents and rules of a table count as one sign each.
    size = len("".join(_RUN.sub(r"\1", text).split()))
    share = wanted / max(1, size)
    return t("{share:.0%} letters", share=share) if size >= _SYMBOLS_FROM and share < least else ""


_RULES: dict[str, Callable[[str, Kinds], str]] = {
    "too_short": _too_short,
    "mojibake": _mojibake,
    "repetition": _repetition,
    "links": _links,
    "machine": _machine,
    "identifiers": _identifiers,
    "markup": _markup,
    "symbols": _symbols,
}
FAULTS = tuple(_RULES)
