"""Exact duplicates: one digest per text, in a temporary database on disk, so that memory stays the same."""

from __future__ import annotations

import functools
import hashlib
import sqlite3
from pathlib import Path
from types import TracebackType

__all__ = ["SeenTexts", "text_digest"]

_CACHE_KILOBYTES = 64 * 1024
_DIGEST_BYTES = 16


@functools.lru_cache(maxsize=2)  # the split asks for the digest that de-duplication asked for
def text_digest(text: str) -> bytes:
    """16 bytes that depend on the characters of `text` but not on its white space.

    White space is left out rather than squeezed, because Chinese that was wrapped at another width is the same text.
    """
    bare = "".join(text.split())
    return hashlib.blake2b(bare.encode("utf-8", "surrogatepass"), digest_size=_DIGEST_BYTES).digest()


class SeenTexts:
    """Remembers which texts there were. `with SeenTexts(folder) as seen: new = seen.add(text_digest(text))`"""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / ".seen.sqlite3"
        self._path.unlink(missing_ok=True)  # of a run that was killed
        self._table = sqlite3.connect(self._path, isolation_level=None)
        # Nothing here outlives the run, so there is nothing to protect from a power cut.
        self._table.execute("PRAGMA journal_mode = OFF")
        self._table.execute("PRAGMA synchronous = OFF")
        self._table.execute(f"PRAGMA cache_size = -{_CACHE_KILOBYTES}")
        self._table.execute("CREATE TABLE seen (digest BLOB PRIMARY KEY) WITHOUT ROWID")
        self._table.execute("BEGIN")

    def __enter__(self) -> SeenTexts:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._table.close()
        self._path.unlink(missing_ok=True)

    def add(self, digest: bytes) -> bool:
        """True if the text of this digest is new."""
        return self._table.execute("INSERT OR IGNORE INTO seen VALUES (?)", (digest,)).rowcount == 1
