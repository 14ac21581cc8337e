"""What simple methods reach on the same text, in bits per byte: the yardstick beside every language model.

Single characters, Kneser-Ney over characters, and xz that has read the training text. All of them predict the same
validation documents from the same sample of training documents.
"""

from __future__ import annotations

import lzma
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from bimo.console import SILENT, Console, keep_if_writable
from bimo.files import read_json, write_json
from bimo.models.ngram import KneserNey
from bimo.runtime import DATA_REFUSED, UserError, t
from bimo.text.store import read_stored

__all__ = ["kneser_ney_bits", "measure_baselines", "sample_evenly", "spread_bytes", "xz_bits"]

MOST_CHARACTERS = 8_000_000
"""Of training text. Kneser-Ney takes 1.2 GB and 10 seconds of one core for that, xz up to 2 seconds a MB."""

MOST_VALIDATION_CHARACTERS = 1_000_000
MEGABYTE = 1_000_000
HIGHEST_ORDER = 6
METHOD = 2
"""Goes up whenever the same text would give other figures, so that stored ones are not mistaken for them."""

Array = np.ndarray


def measure_baselines(data: Path, *, key: str, console: Console = SILENT) -> dict[str, Any]:
    """Bits per byte of the simple methods on the validation documents in `data`; kept there as baselines.json.

    `key` names the state of the documents (their digest): stored figures are used again while it stays the same.
    """
    stored = data / "baselines.json"
    if stored.exists():
        known = read_json(stored)
        if known.get("key") == key and known.get("method") == METHOD:
            return known["facts"]
    train = _sample(data, "train", MOST_CHARACTERS)
    valid = _sample(data, "validation", MOST_VALIDATION_CHARACTERS)
    train_bytes, valid_bytes = (sum(len(text.encode()) for text in texts) for texts in (train, valid))
    with console.progress("Baselines", 2) as update:
        update(0, t("counting character n-grams"))
        by_order = {order: bits / valid_bytes for order, bits in kneser_ney_bits(train, valid).items()}
        after_a_megabyte = by_order
        if train_bytes > MEGABYTE:
            bits_after = kneser_ney_bits(spread_bytes(train, MEGABYTE), valid)
            after_a_megabyte = {order: bits / valid_bytes for order, bits in bits_after.items()}
        update(1, t("compressing with xz"))
        xz = xz_bits(train, valid) / valid_bytes
    best = min(by_order, key=by_order.__getitem__)
    facts = {
        "unigram": by_order[1],
        "kneser_ney": {
            "best_order": best,
            "bits_per_byte": by_order[best],
            "by_order": {str(order): value for order, value in by_order.items()},
            # Of a megabyte of the same text at most: how hard it is, however much there is of it.
            "after_a_megabyte": {str(order): value for order, value in after_a_megabyte.items()},
        },
        "xz": xz,
        "train_bytes_used": train_bytes,
        "validation_bytes_used": valid_bytes,
    }
    kept = {"key": key, "method": METHOD, "facts": facts}
    keep_if_writable(data, console, lambda: write_json(stored, kept))
    return facts


def kneser_ney_bits(train: list[str], valid: list[str], *, highest_order: int = HIGHEST_ORDER) -> dict[int, float]:
    """Bits that a character model of each order needs for the validation texts and their ends.

    A character that training never showed is an escape, which the model gives a probability, and then its UTF-8 bytes
    at 8 bits each: the code words of all characters together have less than the escape's probability.
    """
    known = np.unique(_code_points(train))
    model = KneserNey.fit(_encode(train, known), order=highest_order, vocabulary=len(known) + 1)
    points = _code_points(valid)
    escaped_bytes = sum(len(chr(point).encode()) for point in points[~np.isin(points, known)])
    return {order: bits + 8 * escaped_bytes for order, bits in model.bits_by_order(_encode(valid, known)).items()}


def xz_bits(train: list[str], valid: list[str]) -> float:
    """Bits by which xz output grows when the validation texts follow the training texts, all within one window."""
    before, after = (b"".join(text.encode() + b"\n" for text in texts) for texts in (train, valid))
    return 8.0 * (_xz_size(before + after) - _xz_size(before))


def sample_evenly(texts: Iterable[str], most_characters: int) -> list[str]:
    """Every n-th text, with the n that is needed; in one pass, `most_characters` and one text in memory."""
    kept: list[str] = []
    step, size = 1, 0
    for place, text in enumerate(texts):
        if place % step:
            continue
        kept.append(text)
        size += len(text)
        while size > most_characters and len(kept) > 1:
            kept, step = kept[::2], step * 2
            size = sum(map(len, kept))
    return [text[:most_characters] for text in kept]


def spread_bytes(texts: list[str], most: int) -> list[str]:
    """Every n-th text until there are `most` bytes of UTF-8, where the last one is cut.

    Not `sample_evenly`, which may keep half as much: counting would end at another figure.
    """
    step = max(1, sum(len(text.encode()) for text in texts) // most)
    kept: list[str] = []
    for text in texts[::step]:
        part = text.encode()[:most].decode(errors="ignore")
        if not part:
            break
        kept.append(part)
        most -= len(text.encode())
        if most <= 0:
            break
    return kept


def _sample(data: Path, part: str, most_characters: int) -> list[str]:
    texts = (document.text for document in read_stored(data / "documents", part))
    kept = [text for text in sample_evenly(texts, most_characters) if text]
    if not kept:
        raise UserError(
            "The {part} documents in {folder} hold no text, so there is nothing to compare with. Prepare more text.",
            code=DATA_REFUSED,
            part=part,
            folder=data / "documents",
        )
    return kept


def _encode(texts: list[str], known: Array) -> list[Array]:
    """Each text as ranks among the known code points; all others share the rank behind them."""
    points = _code_points(texts)
    ranks = np.minimum(np.searchsorted(known, points), len(known) - 1)
    ranks[known[ranks] != points] = len(known)
    return np.split(ranks, np.cumsum([len(text) for text in texts])[:-1])


def _code_points(texts: list[str]) -> Array:
    return np.frombuffer("".join(texts).encode("utf-32-le"), np.uint32)


def _xz_size(content: bytes) -> int:
    window = max(len(content), 4096)  # the least that xz takes; its memory is about 11 times this
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME, "dict_size": window}]
    return len(lzma.compress(content, format=lzma.FORMAT_RAW, filters=filters))
