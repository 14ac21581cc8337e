"""Documents as they were read -> documents as they are kept, a batch at a time; batches need nothing of each other."""

from __future__ import annotations

import json
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any

from bimo.runtime import t, whole_text
from bimo.text.batches import Batch, read_pieces
from bimo.text.boilerplate import drop_boilerplate
from bimo.text.chinese import convert
from bimo.text.clean import normalize
from bimo.text.controls import pack_tags
from bimo.text.dedup import text_digest
from bimo.text.documents import Document, Piece, Rejected
from bimo.text.faults import find_fault
from bimo.text.language import script_of
from bimo.text.measure import count_kinds
from bimo.text.near_duplicates import band_keys
from bimo.text.opening import Reading
from bimo.text.options import TextOptions
from bimo.text.paragraphs import paragraph_hashes
from bimo.text.personal import Redactor, describe_kind

__all__ = ["clean_batch", "clean_documents"]


def clean_documents(
    pieces: Iterable[Piece], options: TextOptions, counts: Counter[str], redactor: Redactor
) -> Iterator[Piece]:
    """Normalised documents with their language, redacted; Rejected for what a rule or `options` keep out."""
    for piece in pieces:
        if isinstance(piece, Rejected):
            yield _redacted(piece, redactor)
            continue
        text, removed = normalize(piece.text), 0
        if "boilerplate" not in options.allow:
            text, removed = drop_boilerplate(text)
        counts["boilerplate_lines"] += removed
        if removed and not text.strip():
            detail = t("{lines} such lines and nothing else", lines=removed)
            yield _redacted(piece.rejected("boilerplate", detail), redactor)
            continue
        kinds = count_kinds(text)
        language = script_of(text, kinds)
        redacted, personal = redactor.redact(text, piece.source, piece.line, language)
        if redacted is not text:
            text, kinds = redacted, count_kinds(redacted)
        if options.chinese and language == "zh":
            converted = convert(text, options.chinese)
            counts["converted_documents"] += converted != text
            text = converted
        tags = _known_tags(piece.tags, piece, redactor) if piece.tags else ""
        document = Document(text, piece.source, piece.line, language, tags)
        fault = find_fault(text, kinds, options.allow)
        if fault is not None:
            yield document.rejected(*fault)
        elif personal and options.redact == "drop":
            yield document.rejected("personal", ", ".join(describe_kind(kind) for kind in personal))
        elif options.languages is not None and language not in options.languages:
            yield document.rejected("language", language)
        else:
            # A few damaged characters in a good text say nothing, and a model should not learn to write them.
            counts["damaged_characters"] += text.count("\ufffd")
            yield replace(document, text=text.replace("\ufffd", ""))


def _known_tags(packed: str, piece: Document, redactor: Redactor) -> str:
    """Tags without those that hold personal data, whatever becomes of such data in texts."""
    tags = json.loads(packed)
    clean = {
        name: value
        for name, value in tags.items()
        if not redactor.redact(value, piece.source, piece.line, script_of(value))[1]
    }
    return pack_tags(clean)


def _redacted(rejected: Rejected, redactor: Redactor) -> Rejected:
    """What is set aside is stored as well, so nothing may stand in it that was to be masked."""
    text, _ = redactor.redact(rejected.text, rejected.source, rejected.line, script_of(rejected.text))
    return Rejected(rejected.source, rejected.line, rejected.reason, rejected.detail, text)


def clean_batch(batch: Batch, options: TextOptions, passage_characters: int) -> bytes:
    """Clean a batch and pack it as an Arrow file: its pieces in order, the kept ones with what repeats are found by.

    What was counted, the first piece that could not be read, and what is wrong with the first table without the column
    that was named, stand as JSON in the metadata of its schema.
    """
    import pyarrow as pa

    refused = deque[Rejected]()
    reading = Reading(refused.append, passage_characters, options.text_column, options.controls)
    counts: Counter[str] = Counter()
    pieces = list(read_pieces(batch.files, reading, refused)) if batch.files else batch.pieces
    refusals = [piece for piece in pieces if isinstance(piece, Rejected)]
    unread = refusals[0] if refusals else None
    redactor = Redactor(options.redact)
    rows = list(clean_documents(pieces, options, counts, redactor))
    facts = {
        "counts": counts,
        "pieces": len(pieces),
        "unread": [unread.source, unread.line, unread.reason, unread.detail] if unread else None,
        "without_column": next((piece.detail for piece in refusals if piece.reason == "no_column"), ""),
        "encodings": reading.encodings,
        "columns": reading.columns,
        "bytes_read": reading.bytes_read,
        "personal": redactor.met.facts(),
    }
    documents = [row for row in rows if isinstance(row, Document)]
    keys = iter(band_keys([one.text for one in documents], [one.language for one in documents]))
    columns: dict[str, list[Any]] = {name: [] for name in _COLUMNS}
    for row in rows:
        kept = isinstance(row, Document)
        values = (
            row.text.encode("utf-8", "replace"),
            row.source,
            row.line,
            row.language if isinstance(row, Document) else "",
            row.tags if isinstance(row, Document) else "",
            "" if isinstance(row, Document) else row.reason,
            "" if isinstance(row, Document) else whole_text(row.detail),
            text_digest(row.text) if kept else b"",
            next(keys).tobytes() if kept else b"",
            paragraph_hashes(row.text).tobytes() if kept else b"",
        )
        for name, value in zip(_COLUMNS, values, strict=True):
            columns[name].append(value)
    kinds = {"string": pa.large_string(), "binary": pa.large_binary(), "int": pa.int64()}
    schema = pa.schema([(name, kinds[kind]) for name, kind in _COLUMNS.items()])
    table = pa.table(columns, schema=schema.with_metadata({"facts": json.dumps(facts)}))
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


_COLUMNS = {
    "text": "string",
    "source": "string",
    "line": "int",
    "language": "string",
    "tags": "string",
    "reason": "string",
    "detail": "string",
    "digest": "binary",
    "keys": "binary",
    "paragraphs": "binary",
}
