"""`bimo words train`: from text to word vectors."""

from __future__ import annotations

import shlex
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bimo.console import SILENT, Console
from bimo.files import read_json
from bimo.runtime import DATA_REFUSED, USAGE, UserError, require_least, t
from bimo.text.segment import WordList
from bimo.text.stop_words import stop_words
from bimo.text.workers import cores
from bimo.vectors.corpus import index_texts
from bimo.vectors.store import FILES, MANIFEST, write_vectors
from bimo.vectors.training import VectorSettings, train_vectors
from bimo.words.sources import texts_of

__all__ = ["train_words"]


def train_words(
    sources: Sequence[str | Path],
    *,
    out: str | Path,
    settings: VectorSettings | None = None,
    words: WordList | None = None,
    without: Iterable[str] = (),
    keep: Iterable[str] = (),
    every: bool = False,
    threads: int = 0,
    console: Console = SILENT,
) -> dict[str, Any]:
    """Learn vectors of the words of prepared data, files or folders, and write them to the folder `out`.

    Stop words and those in `without` are left out, but for those in `keep`, unless `every` is set; `threads` 0 takes
    all there are.
    Returns facts for JSON. Raises UserError when there are not two words, or `out` holds something else.
    """
    out, settings = Path(out), settings or VectorSettings()
    require_least({"threads": (threads, 0)})
    if not out.name:
        raise UserError("{path} is no name for what is to be written. Choose another --out.", code=USAGE, path=out)
    if out.exists() and any(out.iterdir() if out.is_dir() else [out]) and not _is_ours(out):
        raise UserError("{out} holds something else than word vectors. Choose another folder.", code=USAGE, out=out)
    known = frozenset() if every else stop_words(add=without, remove=keep)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".words-") as folder:
        corpus = index_texts(
            texts_of(sources, console), Path(folder), least_count=settings.least_count, words=words, without=known
        )
        if len(corpus.words) < 2:
            raise UserError(
                "No two words occur at least {count} times in {sources}. Lower --least-count, or add text.",
                code=DATA_REFUSED,
                count=settings.least_count,
                sources=", ".join(map(str, sources)),
            )
        total = int(corpus.counts.sum())
        console.say(
            "Read", t("{words:,} words, {distinct:,} of them different", words=total, distinct=len(corpus.words))
        )
        began = time.monotonic()
        with console.progress("Training", settings.epochs * len(corpus.ids)) as update:
            vectors = train_vectors(corpus, settings, threads=min(threads or cores(), cores()), progress=update)
        seconds = time.monotonic() - began
    facts = {
        "words": len(vectors.words),
        "occurrences": total,
        "parts": len(vectors.parts),
        "words_per_second": round(settings.epochs * total / max(seconds, 1e-3)),
        "settings": asdict(settings),
    }
    write_vectors(vectors, out, facts=facts)
    console.say(
        "Done", t("{words:,} vectors at {rate:,} words/s", words=facts["words"], rate=facts["words_per_second"])
    )
    console.say("Look", str(out / "vectors.txt"))
    console.say("Try", shlex.join(["bimo", "words", "near", str(out), vectors.words[0]]))
    return facts


def _is_ours(out: Path) -> bool:
    """Whether a folder holds word vectors and nothing else, for all that is in it will be replaced."""
    try:
        names = {path.name for path in out.iterdir()}
        return names <= {*FILES} and read_json(out / MANIFEST).get("kind") == "word vectors"
    except (OSError, ValueError, AttributeError):
        return False
