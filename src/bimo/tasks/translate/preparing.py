"""A file of pairs, split and packed as a model that translates learns from them, in a folder that says so."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from bimo.console import SILENT, Console
from bimo.files import digest_file, digest_json, replacing, replacing_folder, require_room
from bimo.generate.translator import WORDS, Translator
from bimo.runtime import DATA_REFUSED, UserError, t
from bimo.stages import Stages
from bimo.tasks.folder import keep_refused
from bimo.text.pairs import (
    SPLITS,
    Pair,
    PairColumns,
    PairFile,
    describe_aside,
    describe_pairs,
    read_pairs,
    split_pairs,
)
from bimo.text.untranslated import words_in
from bimo.tokens.directions import Way, tag_named, tags_of
from bimo.tokens.pairs import pack_pairs
from bimo.tokens.tokenizer import Tokenizer, choose_vocabulary, train_tokenizer, with_padding

__all__ = ["TOKENS_PER_STEP", "prepare_pairs", "read_split"]

VERSION = 4
"""Goes into every key. Raise it when the same input would now give another result."""

TOKENS_PER_STEP = 2_048
"""Of training on pairs, padding included, of the longer side."""

LEAST_PAIRS = 100
CONTEXTS = (32, 64, 128, 256)
TOO_LONG = 0.005
"""The share of pairs that may be longer than the context."""


def prepare_pairs(
    pairs: Path,
    *,
    out: Path,
    source: str = "",
    target: str = "",
    to_column: str = "",
    chinese: str = "",
    both: bool = False,
    seed: int = 0,
    known: Translator | None = None,
    console: Console = SILENT,
) -> dict[str, Any]:
    """Read, split, tokenize and pack a file of pairs into `out`, unless that was done. Returns the facts.

    `out` gets `pairs/{train,validation,test}.tsv`, the rows set aside, a tokenizer for both languages, its words, and
    `tokens/`. Pairs for a model that is `known` go in the directions that it knows, as its tokenizer reads them.
    """
    require_room(out, 6 * pairs.stat().st_size)
    stages = Stages(out)
    stages.begin()
    columns: dict[str, Any] = {"source": source, "target": target, **({"to": to_column} if to_column else {})}
    choices = {**columns, "chinese": chinese, "both": both, "seed": seed}
    file = digest_file(pairs)
    read_by = {"tokenizer": known.tokenizer.inner.to_str(), "context": known.model.config.context} if known else {}
    key = digest_json({"version": VERSION, "file": file, **choices, **read_by})
    facts = stages.facts("tokens", key)
    if facts is None:
        with stages.anew("tokens", key):
            found, ways = _read(pairs, columns, chinese, both, known)
            facts = {**_store(found, out, ways, seed=seed), **_pack(out, ways, known)}
            facts |= {"to": ways[0].to, "by_column": bool(found.columns.to) or (known is not None and known.by_column)}
        facts |= {"chinese": chinese, "sha256": file}
        files = [
            out / "refused.jsonl",
            *(out / "pairs").glob("*.tsv"),
            *(out / "tokens").glob("*.bin"),
            out / "tokenizer.json",
            out / WORDS,
        ]
        stages.record("tokens", key, facts, sorted(files))
    _say_pairs(facts, console)
    return facts


def _read(
    path: Path, columns: dict[str, Any], chinese: str, both: bool, known: Translator | None
) -> tuple[PairFile, list[Way]]:
    """The pairs of a file, and the directions in which they are learned."""
    if known is None:
        found = read_pairs(path, **columns, chinese=chinese)
        source, target = found.columns.names
        return found, [Way(target), Way(source, turned=True)] if both else [Way()]
    found = known.read_pairs(path, **columns, chinese=chinese)
    ways = known.ways(found)
    if len(ways) == 1 and ways[0].turned:
        return found.turned(), [Way(ways[0].to)]
    return found, ways


def _store(found: PairFile, out: Path, ways: Sequence[Way], *, seed: int) -> dict[str, Any]:
    """Write the pairs of each split."""
    if len(found.pairs) < LEAST_PAIRS:
        raise UserError(
            "{path} has {pairs:,} pairs, where at least {least} are needed to learn anything from.",
            code=DATA_REFUSED,
            path=found.name,
            pairs=len(found.pairs),
            least=LEAST_PAIRS,
        )
    keep_refused(out / "refused.jsonl", found.refused)
    splits = split_pairs(found.pairs, seed=seed, alike=len(ways) > 1)
    for name, pairs in splits.items():
        with replacing(out / "pairs" / f"{name}.tsv") as part:
            part.write_text("".join(map(_line, pairs)), encoding="utf-8")
    return {
        "file": found.name,
        "rows": found.rows,
        "columns": asdict(found.columns),
        "aside": dict(found.aside),
        "first_unread": found.first_unread,
        "pairs": {name: len(pairs) for name, pairs in splits.items()},
    }


def _line(pair: Pair) -> str:
    return "\t".join(filter(None, (pair.source, pair.target, pair.to))) + "\n"


def read_split(data: Path, split: str) -> list[Pair]:
    """The stored pairs of a split."""
    lines = (data / "pairs" / f"{split}.tsv").read_text(encoding="utf-8").split("\n")
    return [Pair(*line.split("\t")) for line in lines if line]


def _pack(out: Path, ways: Sequence[Way], known: Translator | None) -> dict[str, Any]:
    """Pack train and validation in every direction, by the known tokenizer or else a new one of all languages."""
    stored = {split: read_split(out, split) for split in SPLITS}
    directed = {split: [pair for way in ways for pair in way.of(pairs)] for split, pairs in stored.items()}
    texts = [text for pair in stored["train"] for text in (pair.source, pair.target)]
    words: frozenset[str] = frozenset(words_in(texts))
    if known is None:
        languages = [*dict.fromkeys(pair.to for pairs in directed.values() for pair in pairs if pair.to)]
        vocabulary = choose_vocabulary(sum(len(text.encode()) for text in texts))
        tokenizer = with_padding(train_tokenizer(texts, vocabulary=vocabulary), before=[*map(tag_named, languages)])
        context = _context(texts, tokenizer)
    else:
        tokenizer, context = known.tokenizer, known.model.config.context
        # Where nobody knows what a model has met before, no word can be called new to it.
        words = words | known.words if known.words else frozenset()
    tags = tags_of(tokenizer)
    tokenizer.save(out)
    with replacing(out / WORDS) as part:
        part.write_text("".join(f"{word}\n" for word in sorted(words)), encoding="utf-8")
    packed = {}
    with replacing_folder(out / "tokens") as part:
        for split in SPLITS[:2]:
            packed[split] = pack_pairs(part, split, directed[split], tokenizer, longest=context, tags=tags)
    return {"vocabulary": tokenizer.vocabulary, "context": context, "languages": [*tags], "tokens": packed}


def _context(texts: list[str], tokenizer: Tokenizer) -> int:
    """The least of CONTEXTS beyond which hardly a pair is; `texts` are sources and targets by turns."""
    _, ends = tokenizer.encode_flat(texts)
    lengths = np.diff(ends, prepend=0).reshape(-1, 2).max(axis=1) + 1 + bool(tags_of(tokenizer))
    return next((size for size in CONTEXTS if (lengths > size).mean() <= TOO_LONG), CONTEXTS[-1])


def _say_pairs(facts: dict[str, Any], console: Console) -> None:
    console.say("Read", describe_pairs(facts["file"], facts["rows"], PairColumns(**facts["columns"])))
    aside = ", ".join(f"{describe_aside(reason)} {count:,}" for reason, count in facts["aside"].items())
    too_long = sum(split["too_long"] for split in facts["tokens"].values())
    text = t(
        "{train:,} pairs to learn from, {validation:,} to watch the learning, {test:,} for the end; none crosses",
        **facts["pairs"],
    )
    console.say("Pairs", text)
    if facts["languages"]:
        console.show(t("learned by language: --to {languages}", languages="|".join(facts["languages"])))
    if aside:
        console.show(t("set aside: {reasons}; all stand in {path}", reasons=aside, path="bimo/data/refused.jsonl"))
    if facts["first_unread"]:
        console.warn(t("the first row that could not be read: {where}", where=facts["first_unread"]))
    if too_long:
        console.show(t("left out as longer than {context} tokens: {pairs:,}", context=facts["context"], pairs=too_long))
