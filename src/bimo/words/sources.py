"""Where words come from: prepared data, or any files and folders."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from bimo.console import Console
from bimo.stages import is_prepared
from bimo.text.collect import read_texts
from bimo.text.store import read_stored

__all__ = ["texts_of"]


def texts_of(sources: Sequence[str | Path], console: Console) -> Iterable[str]:
    """Of prepared data all documents; of anything else whatever text stands in it."""
    given = [*dict.fromkeys(map(Path, sources))]
    prepared = [source for source in given if is_prepared(source)]
    for source in prepared:
        for part in ("train", "validation"):
            yield from (document.text for document in read_stored(source / "documents", part))
    # All at once, so that what is named and lies in a folder that is named is read once.
    if others := [source for source in given if source not in prepared]:
        yield from read_texts(others, unread=lambda rejected: console.warn(str(rejected)))
