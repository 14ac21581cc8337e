"""Where a translation left something as it was, and which words of a text a translator cannot know."""

from __future__ import annotations

import re
from collections.abc import Iterable

from bimo.text.language import script_of
from bimo.text.segment import segment

__all__ = ["untranslated", "words_in"]

_STRETCH = re.compile(r"[^\W\d_\u4e00-\u9fff]+(?:[ '’-]+[^\W\d_\u4e00-\u9fff]+)+|[\u4e00-\u9fff]{4,}")
"""Two words of letters, or four Han characters: single ones are mostly names."""


def untranslated(source: str, target: str) -> list[str]:
    """Stretches of a translation that are copied from its source; all of it where nothing else was done.

    Between two languages of one script, a stretch that stands in both may well be right and does not count.
    """
    if target and target.split() == source.split() and _STRETCH.search(source):
        return [target]
    copied = [stretch[0] for stretch in _STRETCH.finditer(target) if stretch[0] in source]
    around = _STRETCH.sub(lambda stretch: "" if stretch[0] in source else stretch[0], target)
    return copied if script_of(around) != script_of(source) else []


def words_in(texts: Iterable[str]) -> set[str]:
    """The words of letters in texts, small letters for large ones."""
    return {word.lower() for text in texts for word in segment(text) if word.isalpha()}
