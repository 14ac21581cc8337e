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
    for source in map(Path, sources):
        if is_prepared(source):
            for part in ("train", "validation"):
                yield from (document.text for document in read_stored(source / "documents", part))
        else:
            yield from read_texts([source], unread=lambda rejected: console.warn(str(rejected)))
