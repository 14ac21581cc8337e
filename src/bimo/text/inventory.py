"""What a result depends on in its sources: how much text they hold, and a digest of their names and contents."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence

from bimo.files import digest_file
from bimo.text.readers import ENDINGS
from bimo.text.sources import SourceFile

__all__ = ["estimate_bytes", "file_digests", "source_digest"]

_TIMES_PACKED = 3


def estimate_bytes(files: Sequence[SourceFile]) -> int:
    """How many bytes of text the files hold, roughly: packed ones count three times, films beside them not at all."""
    return sum(
        file.size * (_TIMES_PACKED if file.packed else 1) for file in files if file.chosen or file.ending in ENDINGS
    )


def file_digests(files: Iterable[SourceFile]) -> dict[str, str]:
    """SHA-256 of each file by its name; `closed` for one that cannot be read now."""
    digests = {}
    for file in files:
        try:
            digests[file.name] = digest_file(file.path)
        except OSError:
            # Reading sets it aside with the reason; once it opens, the content is another.
            digests[file.name] = "closed"
    return digests


def source_digest(files: Iterable[SourceFile], digests: Mapping[str, str]) -> str:
    """A digest of names and contents, by `file_digests`: the same folder gives the same one wherever it lies."""
    digest = hashlib.sha256()
    for file in sorted(files, key=lambda file: file.name):
        # Of such an ending only files that were named are read.
        named = "named" if file.chosen and file.ending not in ENDINGS else ""
        digest.update(f"{file.name}\0{digests[file.name]}{named}\n".encode())
    return digest.hexdigest()
