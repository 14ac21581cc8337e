"""The whole way from files to stored documents: read, clean, drop repeats, split, store; all of it counted."""

from __future__ import annotations

import itertools
import math
import time
from array import array
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from bimo.console import Update, clock
from bimo.files import replacing_folder
from bimo.runtime import DATA_REFUSED, USAGE, UserError, return_freed_memory, t
from bimo.text.batch_store import CleanedBatches
from bimo.text.batches import BATCH_CHARACTERS, Batch, make_batches
from bimo.text.chinese import check_script
from bimo.text.clean import normalize
from bimo.text.cluster import Executor, clean_on_executor
from bimo.text.controls import check_names
from bimo.text.documents import ALLOWABLE, Document, Piece, Rejected
from bimo.text.inventory import estimate_bytes
from bimo.text.measure import Measures
from bimo.text.opening import Reading
from bimo.text.options import TextOptions
from bimo.text.passages import passage_characters
from bimo.text.personal import PersonalCounts, excerpt, masked, redaction_key
from bimo.text.quality import Reference, worst_allowed
from bimo.text.readers import read_file
from bimo.text.rejections import Rejections, unread_error
from bimo.text.repeats import NEW, SAME, UNLIKE, Repeats, find_repeats, keep_elsewhere
from bimo.text.sampling import Sample
from bimo.text.sources import SourceFile, find_sources
from bimo.text.split import SplitWriter, validation_share
from bimo.text.store import DocumentWriter, read_stored
from bimo.text.vocabulary import SAMPLE_CHARACTERS, measure_words
from bimo.text.workers import clean_in_processes, clean_one_by_one, cores

__all__ = ["collect_documents", "read_texts"]

_CLEANED, _COMPARED = 0.8, 0.85
"""Where the progress stands after the first and after the second of the three steps."""

_EXAMPLES = 10
_SAMPLE = 5
_EXAMPLE_CHARACTERS = 160


def _no_progress(done: float, text: str) -> None:
    pass


def read_texts(
    sources: Sequence[Path], *, unread: Callable[[Rejected], None], passage: int | None = None
) -> Iterator[str]:
    """Whatever text stands in files and folders, as it is, in passages; `unread` gets what cannot be read.

    A `passage` has about so many characters, by default as many as suit how much text there is.
    """
    files = find_sources(sources, cannot_open=lambda name, error: unread(Rejected.unopened(name, error)))
    reading = Reading(unread, passage or passage_characters(estimate_bytes(files)), None)
    return (document.text for file in files for document in read_file(file, reading) if document.text.strip())


def collect_documents(
    sources: Sequence[Path],
    out: Path,
    options: TextOptions | None = None,
    *,
    key: str = "",
    workers: int | None = None,
    executor: Executor | None = None,
    progress: Update = _no_progress,
) -> dict[str, Any]:
    """Read `sources` into out/documents/{train,validation}-*.parquet and out/rejected/rejected-*.parquet.

    First every batch is cleaned by itself, by `workers` processes (None: one for each core, or none for little text)
    or by the tasks of an `executor`; then all batches are compared with each other; then what is left of them is
    written in order: the result does not depend on who cleaned what. A run that was interrupted goes on where it was
    when it is called with the same `key`, which must stand for the content of `sources` and for `options`; without a
    key it begins anew.

    Returns facts for JSON: sizes, encodings, languages, rejections with examples, kinds of characters. `progress`
    gets the share done, from 0 to 1, and what to show beside it. Raises UserError when no document is left, when a
    source is missing or closed, and with `strict` at the first file or row that cannot be read; what an earlier run
    wrote then stays as it is.
    """
    options = options or TextOptions()
    if options.validation_share is not None and not 0 < options.validation_share < 1:
        raise UserError(
            "The share for validation must lie between 0 and 1, but is {share}.",
            code=USAGE,
            share=options.validation_share,
        )
    if not 0 < options.keep_best <= 1 or (options.keep_best < 1 and not options.reference):
        sentence = "--keep-best must be above 0 and at most 1, with --reference naming the text to compare with."
        raise UserError(sentence, code=USAGE)
    redaction_key(options.redact)  # before any work
    check_script(options.chinese)
    check_names(options.controls)
    unknown = [reason for reason in options.allow if reason not in ALLOWABLE]
    if unknown:
        raise UserError(
            "--allow cannot turn off {reason!r}. Rules that can be: {known}.",
            code=USAGE,
            reason=unknown[0],
            known=", ".join(ALLOWABLE),
        )
    return_freed_memory()
    closed: list[Rejected] = []

    def cannot_open(name: str, error: OSError) -> None:
        closed.append(Rejected.unopened(name, error))
        if options.strict:
            raise unread_error(name, 0, closed[-1].reason, closed[-1].detail)

    files = find_sources(sources, out=out, cannot_open=cannot_open)
    total = estimate_bytes(files)
    refused = deque[Rejected]()
    reading = Reading(refused.append, passage_characters(total), options.text_column, options.controls)
    share = options.validation_share or validation_share(total)
    if workers is None:
        workers = cores() if total > 2 * BATCH_CHARACTERS else 1
    with CleanedBatches(out / ".cleaning", key) as batches:
        read = make_batches(files, reading, refused)
        if executor is not None:
            cleaned = clean_on_executor(files, batches, options, reading, executor)
        elif workers > 1:
            cleaned = clean_in_processes(read, batches, options, reading.passage_characters, workers)
        else:
            cleaned = clean_one_by_one(read, batches, options, reading.passage_characters)
        personal = PersonalCounts()
        counts, count = _clean(cleaned, batches, files, reading, personal, options.strict, progress)
        progress(_CLEANED, t("comparing"))
        repeats = find_repeats(batches, count, options.allow)
        scores = _compare_with_reference(batches, count, repeats, options)
        keep_elsewhere(batches, count, repeats)
        progress(_COMPARED, t("comparing"))
        with (
            replacing_folder(out / "rejected") as aside,
            replacing_folder(out / "documents") as kept,
            DocumentWriter(aside, "rejected", kind=Rejected) as writer,
            SplitWriter(kept, share, options.seed) as split,
        ):
            rejections, measures, paragraphs = Rejections(writer), Measures(), Counter[str]()
            kept_sample, rejected_sample = Sample(_SAMPLE, options.seed), Sample(_SAMPLE, options.seed)
            for rejected in closed:
                rejections.add(rejected)
            for piece in _kept(batches, count, repeats, scores, paragraphs, progress):
                if isinstance(piece, Rejected):
                    rejections.add(piece)
                    rejected_sample.add(piece)
                else:
                    kept_sample.add(piece)
                    measures.add(piece)
                    split.add(piece)
            split.finish()
            if split.kept == 0:
                raise rejections.nothing_left(len(files))
    every = max(1, math.ceil(split.sizes[False].characters / SAMPLE_CHARACTERS))
    train = itertools.islice(read_stored(out / "documents", "train"), 0, None, every)
    progress(1.0, "")
    return {
        "files": len(files),
        "files_unreadable": rejections.files,
        "bytes_read": reading.bytes_read,
        "passage_characters": reading.passage_characters,
        "validation_share": share,
        "encodings": dict(sorted(reading.encodings.items())),
        "columns": dict(reading.columns.most_common(20)),
        "boilerplate_lines": counts["boilerplate_lines"],
        "damaged_characters": counts["damaged_characters"],
        "converted_documents": counts["converted_documents"],
        "train": asdict(split.sizes[False]),
        "validation": asdict(split.sizes[True]),
        "rejected": dict(rejections.counts.most_common()),
        "rejected_bytes": dict(rejections.bytes.most_common()),
        "rejected_examples": rejections.examples,
        "languages_left_out": dict(rejections.languages.most_common()),
        "near_duplicates": {"clusters": repeats.clusters, "examples": list(repeats.examples.values())},
        "repeated_paragraphs": {
            "removed": paragraphs.total(),
            "examples": [
                [excerpt(line, _EXAMPLE_CHARACTERS), times] for line, times in paragraphs.most_common(_EXAMPLES)
            ],
        },
        "personal": {"mode": options.redact, **personal.facts(_EXAMPLES)},
        # Where personal data stays in the text, it must not stay in its commonest pairs.
        "words": measure_words(
            masked(document.text) if options.redact == "report" else document.text for document in train
        ),
        "sample": {"kept": kept_sample.facts(), "rejected": rejected_sample.facts()},
        **measures.facts(),
    }


def _clean(
    cleaned: Iterable[Batch],
    batches: CleanedBatches,
    files: Sequence[SourceFile],
    reading: Reading,
    personal: PersonalCounts,
    strict: bool,
    progress: Update,
) -> tuple[Counter[str], int]:
    """Have all batches cleaned. Returns what was counted and how many they are.

    What was met on the way goes to `reading` and `personal`. Raises UserError when no table has the column that was
    named, but some are there.
    """
    total = max(1, sum(file.size for file in files))
    counts: Counter[str] = Counter()
    count = done = documents = 0
    without_column = ""
    began = time.monotonic()
    progress(0.0, files[0].name)
    for batch in cleaned:
        facts = batches.facts(batch.number)
        if strict and facts["unread"]:
            raise unread_error(*facts["unread"])
        without_column = without_column or facts["without_column"]
        counts.update(facts["counts"])
        reading.encodings.update(facts["encodings"])
        reading.columns.update(facts["columns"])
        reading.bytes_read += facts["bytes_read"]
        personal.add(facts["personal"])
        count, done, documents = count + 1, done + batch.bytes, documents + facts["pieces"]
        progress(
            _CLEANED * min(1.0, done / total), _rates(batch.last, done, documents, time.monotonic() - began, total)
        )
    if without_column and not reading.columns[reading.text_column or ""]:
        sentence = "No table has the column {wanted}. The first: {detail}"
        raise UserError(sentence, code=DATA_REFUSED, wanted=reading.text_column, detail=without_column)
    return counts, count


def _rates(name: str, done: int, documents: int, seconds: float, total: int) -> str:
    """`notes.txt  12.3 MB/s, 4,567 documents/s, 0:42 left`"""
    seconds = max(seconds, 1e-3)
    return t(
        "{name}  {megabytes:.1f} MB/s, {documents:,.0f} documents/s, {left} left",
        name=name,
        megabytes=done / 1e6 / seconds,
        documents=documents / seconds,
        left=clock(seconds * (total - done) / max(1, done)),
    )


def _compare_with_reference(
    batches: CleanedBatches, count: int, repeats: Repeats, options: TextOptions
) -> list[np.ndarray]:
    """For each batch [rows] the bits a character of its new documents; those less like the reference than what is to
    be kept become UNLIKE. Nothing without a reference.
    """
    if not options.reference:
        return []
    closed: list[Rejected] = []
    reference = Reference(
        normalize(text) for text in read_texts([Path(path) for path in options.reference], unread=closed.append)
    )
    if not reference.characters:
        raise UserError(
            "There is no text in the reference {paths}.", code=DATA_REFUSED, paths=", ".join(options.reference)
        )
    scores: list[np.ndarray] = []
    by_language: dict[str, array[float]] = {}
    for number, states in enumerate(repeats.states[:count]):
        bits = np.zeros(len(states))
        for row, piece in enumerate(batches.pieces(number)):
            if isinstance(piece, Document) and states[row] == NEW:
                bits[row] = reference.bits(piece.text)
                by_language.setdefault(piece.language, array("d")).append(bits[row])
        scores.append(bits)
    worst = worst_allowed(by_language, options.keep_best)
    for number, bits in enumerate(scores):
        allowed = np.array([worst.get(language, math.inf) for language in batches.column(number, "language")])
        repeats.states[number][(repeats.states[number] == NEW) & (bits > allowed)] = UNLIKE
    return scores


def _kept(
    batches: CleanedBatches,
    count: int,
    repeats: Repeats,
    scores: Sequence[np.ndarray],
    paragraphs: Counter[str],
    progress: Update,
) -> Iterator[Piece]:
    """All pieces in order: documents that are kept, without repeated paragraphs, and what is set aside."""
    for number in range(count):
        for row, piece in enumerate(batches.pieces(number)):
            if isinstance(piece, Rejected):
                yield piece
                continue
            state = repeats.states[number][row]
            if state == SAME:
                yield piece.rejected("duplicate", t("the same text was there before"))
            elif state == UNLIKE:
                yield piece.rejected("unlike", t("{bits:.2f} bits a character", bits=scores[number][row]))
            elif state != NEW:
                yield piece.rejected("near_duplicate", t("like {place}", place=repeats.instead_of(number, row)))
            else:
                yield _without_repeated(piece, number, row, repeats, paragraphs)
        progress(_COMPARED + (1 - _COMPARED) * (number + 1) / count, "")


def _without_repeated(document: Document, number: int, row: int, repeats: Repeats, paragraphs: Counter[str]) -> Piece:
    left, dropped = repeats.left_of(document, number, row)
    paragraphs.update(dropped)
    if not left.text.strip():
        return document.rejected("boilerplate", t("{lines} paragraphs that other texts have, too", lines=len(dropped)))
    return left
