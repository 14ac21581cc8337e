"""`bimo words count`: what a text is about, by the words in it, and which of them say nothing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bimo.console import SILENT, Console, cells, pad
from bimo.runtime import DATA_REFUSED, UserError, require_least, t
from bimo.text.counting import WordCounts, WordFacts
from bimo.text.segment import WordList
from bimo.text.stop_words import stop_words
from bimo.words.sources import texts_of

__all__ = ["count_lines", "count_words"]

TITLES = ("count", "documents", "evenness", "word")


def count_words(
    sources: Sequence[str | Path],
    *,
    most: int = 50,
    words: WordList | None = None,
    without: Iterable[str] = (),
    keep: Iterable[str] = (),
    every: bool = False,
    console: Console = SILENT,
) -> dict[str, Any]:
    """The commonest words of prepared data, files or folders, and the stop words that it seems to have of its own.

    `without` are stop words on top of the lists, `keep` are no stop words; `every` leaves none out. Facts as JSON.
    Raises UserError when there is no text.
    """
    require_least({"most": (most, 1)})
    counts = WordCounts(words)
    for text in texts_of(sources, console):
        counts.add(text)
    if not counts.total:
        raise UserError("There is no word in {sources}.", code=DATA_REFUSED, sources=", ".join(map(str, sources)))
    known = stop_words(add=without, remove=keep)
    return {
        "documents": counts.documents,
        "words": counts.total,
        "distinct": counts.distinct,
        "common": [asdict(facts) for facts in counts.most_common(most, without=frozenset() if every else known)],
        "proposed_stop_words": [asdict(facts) for facts in counts.proposed_stop_words(known=known)],
    }


def count_lines(facts: dict[str, Any]) -> list[str]:
    """For people: the size, the commonest words, and the proposed stop words with their evidence."""
    sizes = {name: facts[name] for name in ("words", "distinct", "documents")}
    summary = t("{words:,} words, {distinct:,} of them different, in {documents:,} documents", **sizes)
    lines = [summary, "", *_table(facts["common"])]
    if facts["proposed_stop_words"]:
        lines += ["", t("Perhaps stop words of this text: in many documents, and everywhere alike")]
        lines += _table(facts["proposed_stop_words"])
    return lines


def _table(found: list[dict[str, Any]]) -> list[str]:
    rows = [[t(title) for title in TITLES]]
    rows += [
        [f"{facts.count:,}", f"{facts.documents:.0%}", f"{facts.evenness:.2f}", facts.word]
        for facts in (WordFacts(**each) for each in found)
    ]
    widths = [max(cells(row[column]) for row in rows) for column in range(len(TITLES))]
    return ["  ".join(map(pad, row, widths)).rstrip() for row in rows]
