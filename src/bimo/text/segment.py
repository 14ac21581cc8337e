"""Words: Chinese cut by a dictionary, everything else by its script; nothing is lost or changed."""

from __future__ import annotations

import re
from collections.abc import Iterator

__all__ = ["iter_words", "mark_words", "segment"]

_HAN = "々〇\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_BETWEEN = "\t"  # is no Han, so no run holds it
_HAN_RUN = re.compile(f"[{_HAN}]+")
# A Han run; white space; a word with inner apostrophes or hyphens; a number; or any other single character.
_TOKEN = re.compile(rf"([{_HAN}]+)|\s+|[^\W\d_{_HAN}]+(?:['’-][^\W\d_{_HAN}]+)*|\d+(?:[.,]\d+)*|.", re.DOTALL)


def segment(text: str) -> list[str]:
    """The words, numbers, marks and blanks of a text in order; joined they give the text again."""
    words: list[str] = []
    runs = iter(_cut_runs(_HAN_RUN.findall(text)))
    for match in _TOKEN.finditer(text):
        if match.lastindex:
            words.extend(next(runs).split(_BETWEEN))
        else:
            words.append(match.group())
    return words


def _cut_runs(runs: list[str], between: str = _BETWEEN, longest: int | None = None) -> list[str]:
    """Each Han run with `between` put between its words. One call for all runs, since calls cost more than cutting."""
    import rjieba

    if not runs:
        return []
    words = rjieba.cut("\n".join(runs))
    if longest is not None and max(map(len, words)) > longest:
        words = [word[start : start + longest] for word in words for start in range(0, len(word), longest)]
    return between.join(words).split(f"{between}\n{between}")


def iter_words(text: str) -> Iterator[str]:
    """The words and numbers of a text, without punctuation and blanks."""
    return (word for word in segment(text) if word[0].isalnum())


def mark_words(text: str, mark: str, *, longest: int = 4) -> str:
    """`text` with `mark` between Chinese words and on both sides of each Han run; words of at most `longest` Han.

    For whoever learns merges that may not cross words. Without the marks it is the text again, unless the text held
    some. `mark` may not be a line end.
    """
    gaps = _HAN_RUN.split(text)
    runs = _cut_runs(_HAN_RUN.findall(text), mark, longest)
    return gaps[0] + "".join(f"{mark}{run}{mark}{gap}" for run, gap in zip(runs, gaps[1:], strict=True))
