"""Stop words: those that hold a sentence together and say little of what it is about.

They are left out where the subject of a text is asked for: counts of words, the windows of word vectors, the search
for passages. A language model needs every one of them, and so does a classifier, whose labels may hang on "not", "but"
and "I": no text that these learn from ever loses a word to this list.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from importlib import resources

__all__ = ["LANGUAGES", "stop_words"]

LANGUAGES = ("en", "zh")
"""Those with a list, in `assets/stop_words.*.txt`: words between blanks, lines that begin with # are comments."""


def stop_words(*, add: Iterable[str] = (), remove: Iterable[str] = ()) -> frozenset[str]:
    """The words of all lists, small letters only, with some more or less."""
    return (_listed() | {word.lower() for word in add}) - {word.lower() for word in remove}


@functools.cache
def _listed() -> frozenset[str]:
    assets = resources.files("bimo") / "assets"
    texts = [(assets / f"stop_words.{language}.txt").read_text(encoding="utf-8") for language in LANGUAGES]
    lines = [line for text in texts for line in text.splitlines() if not line.startswith("#")]
    return frozenset(word for line in lines for word in line.split())
