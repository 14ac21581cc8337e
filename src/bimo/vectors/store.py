"""Word vectors as files: a folder of ours, and the text format of word2vec that gensim and others read."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bimo.files import digest_file, read_json, replacing_folder, write_json
from bimo.runtime import DATA_REFUSED, UserError
from bimo.vectors.word_vectors import WordVectors

__all__ = ["read_vectors", "vectors_digest", "write_vectors"]

FORMAT = 1
TENSORS, NAMES, TEXT, MANIFEST = "vectors.safetensors", "vocabulary.json", "vectors.txt", "manifest.json"
FILES = (TENSORS, NAMES, TEXT, MANIFEST)


def write_vectors(vectors: WordVectors, folder: Path, *, facts: Mapping[str, Any]) -> None:
    """Write vectors.safetensors, vocabulary.json, vectors.txt, and manifest.json with `facts` and the digests."""
    from safetensors.numpy import save_file

    with replacing_folder(folder) as part:
        save_file({"words": vectors.vectors, "parts": vectors.part_vectors}, part / TENSORS)
        write_json(part / NAMES, {"words": vectors.words, "counts": vectors.counts.tolist(), "parts": vectors.parts})
        with (part / TEXT).open("w", encoding="utf-8", newline="\n") as out:
            out.write(f"{len(vectors.words)} {vectors.width}\n")
            for word, vector in zip(vectors.words, vectors.vectors, strict=True):
                # A blank would end the word.
                out.write("_".join(word.split()) + " " + " ".join(f"{number:.6g}" for number in vector) + "\n")
        digests = {name: digest_file(part / name) for name in (TENSORS, NAMES, TEXT)}
        write_json(part / MANIFEST, {"kind": "word vectors", "format": FORMAT, **facts, "files": digests})


def read_vectors(path: Path) -> WordVectors:
    """A folder that `write_vectors` wrote, or a text file of word2vec or fastText. Raises UserError for any other."""
    if not path.exists():
        raise UserError("There are no word vectors at {path}.", code=DATA_REFUSED, path=path)
    try:
        found = _read_folder(path) if path.is_dir() else _read_text(path)
        _check(found)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        sentence = "{path} does not hold word vectors that can be read: {error}"
        raise UserError(sentence, code=DATA_REFUSED, path=path, error=error) from None
    return found


def vectors_digest(vectors: WordVectors) -> str:
    """SHA-256 of the words and the numbers of the vectors, in hex."""
    digest = hashlib.sha256("\n".join((*vectors.words, *vectors.parts)).encode())
    digest.update(vectors.vectors.tobytes())
    digest.update(vectors.part_vectors.tobytes())
    return digest.hexdigest()


def _read_folder(folder: Path) -> WordVectors:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    names = read_json(folder / NAMES)
    try:
        tensors = load_file(folder / TENSORS)
    except SafetensorError as error:
        raise ValueError(str(error)) from None
    return WordVectors(
        words=names["words"],
        counts=np.array(names["counts"], np.int64),
        vectors=tensors["words"],
        parts=names["parts"],
        part_vectors=tensors["parts"],
    )


def _read_text(path: Path) -> WordVectors:
    """Such files have no counts; the order of their words, the commonest first, stands in for them (Zipf's law)."""
    words: list[str] = []
    rows: list[np.ndarray] = []
    with path.open(encoding="utf-8") as lines:
        count, width = map(int, next(lines, "").split())
        for line in lines:
            word, *numbers = line.rstrip().split(" ")
            if len(numbers) != width:
                raise ValueError(f"line {len(words) + 2}: {len(numbers)} numbers, not {width}")
            words.append(word)
            rows.append(np.array(numbers, np.float32))
    if len(words) != count:
        raise ValueError(f"{len(words)} words, not {count}")
    vectors = np.array(rows, np.float32).reshape(count, width)
    return WordVectors(words, 1 + count // np.arange(1, count + 1), vectors, [], np.zeros((0, width), np.float32))


def _check(found: WordVectors) -> None:
    shapes = [(found.vectors, len(found.words)), (found.part_vectors, len(found.parts))]
    if any(array.shape != (length, found.width) for array, length in shapes) or len(found.counts) != len(found.words):
        raise ValueError("names and vectors are not as many")
    if not found.words:
        raise ValueError("no words")
    if not all(isinstance(name, str) and name for name in (*found.words, *found.parts)):
        raise ValueError("a name that is none")
    if any(array.dtype != np.float32 or not np.isfinite(array).all() for array, _ in shapes):
        raise ValueError("a vector with numbers that are none")
