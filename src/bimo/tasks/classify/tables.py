"""Tables classified row by row: what came in goes out, with two more columns, in bounded memory."""

from __future__ import annotations

import csv
import itertools
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TextIO

from bimo.runtime import DATA_REFUSED, UserError, t
from bimo.tasks.classify.classifier import Classifier, Verdict, verdicts
from bimo.text.documents import Rejected
from bimo.text.labelled import choose_labelled_columns
from bimo.text.opening import Reading
from bimo.text.rows import layout_of, read_rows
from bimo.text.sources import find_sources
from bimo.text.tables import ONE_COLUMN, Layout, free_name

__all__ = ["SEPARATOR", "classify_table", "verdict_cells"]

FIRST_ROWS = 1000
SEPARATOR = "|"
"""Between the labels of a text."""
JSON_ENDINGS = (".json", ".jsonl", ".ndjson")


def classify_table(
    classifier: Classifier,
    path: Path,
    out: TextIO,
    *,
    columns: Mapping[str, str],
    abstain: float,
    refuse: Callable[[Rejected], None],
    said: Callable[[str], None],
) -> int:
    """Write the rows of a file with label and confidence: JSON lines for JSON, delimited text as it was written, else
    CSV. Returns how many there are.

    Rows without text keep both cells empty; what cannot be read goes to `refuse`, `said` gets what the columns are.
    """
    files = find_sources([path])
    if len(files) > 1:
        raise UserError("{path} holds several files. Name the one to classify.", code=DATA_REFUSED, path=path)
    rows = (row for _, row in read_rows(files[0], Reading(refuse, named=columns.values())))
    first = list(itertools.islice(rows, FIRST_ROWS))
    if not first:
        raise UserError("{path} holds no row that can be read.", code=DATA_REFUSED, path=path)
    chosen = choose_labelled_columns(first, columns, path=path, label=False)
    said(t("texts in {text}", text="+".join(filter(None, (chosen.text, chosen.second)))))
    layout = layout_of(files[0], named=columns.values())
    names = list(dict.fromkeys((name for row in first for name in row) if layout is None else layout.names))
    label, confidence = (free_name(name, names) for name in ("labels" if classifier.several else "label", "confidence"))
    write = _writer(out, files[0].ending, layout, [*names, label, confidence])
    kept, read = itertools.tee(itertools.chain(first, rows))
    texts = ((_text(row.get(chosen.text)), _text(row.get(chosen.second))) for row in read)
    count = 0
    for row, verdict in zip(kept, verdicts(classifier, texts, abstain=abstain), strict=True):
        named, sure = verdict_cells(verdict)
        # Below the first rows an object may have keys that none of them had.
        write({**row, free_name(label, row): named, free_name(confidence, row): sure})
        count += 1
    return count


def verdict_cells(verdict: Verdict) -> tuple[str, str]:
    """(labels, confidence) as they are written; both empty for what is no text."""
    return SEPARATOR.join(verdict.labels), f"{verdict.confidence:.4f}" if verdict.confidence else ""


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _writer(out: TextIO, ending: str, layout: Layout | None, names: list[str]) -> Callable[[dict[str, Any]], None]:
    if ending in JSON_ENDINGS:

        def write_json_line(row: dict[str, Any]) -> None:
            out.write(json.dumps(row, ensure_ascii=False, default=str) + "\n")

        return write_json_line
    if layout is not None and not layout.quoted:

        def write_plain(row: dict[str, Any]) -> None:
            # No cell that was read so holds a tab, but a label may.
            out.write("\t".join(re.sub(r"[\t\r\n]+", " ", row.get(name, "")) for name in names) + "\n")

        write_plain({name: name for name in names})
        return write_plain
    delimiter = "\t" if ending in (".tsv", ".tab") else ","
    if layout is not None and layout.delimiter != ONE_COLUMN:
        delimiter = layout.delimiter
    table = csv.DictWriter(out, names, delimiter=delimiter, extrasaction="ignore", lineterminator="\n")
    table.writeheader()
    return table.writerow
