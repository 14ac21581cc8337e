"""The data sheet of prepared data: what it is made of and what was done to it, for people who must account for it.

After Gebru et al. 2021, "Datasheets for Datasets", the parts that can be measured; JSON, so that a regulator's or a
company's own form can be filled from it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import bimo
from bimo.files import digest_file, write_json
from bimo.report.facts import part, read_data_facts
from bimo.text.sources import SourceFile

__all__ = ["write_data_sheet"]

FORMAT = 1
_COUNTED = ("train", "validation", "languages", "rejected", "languages_left_out", "boilerplate_lines")


def write_data_sheet(
    data_folder: Path,
    files: Sequence[SourceFile],
    digests: Mapping[str, str],
    *,
    licence: str,
    processing: Mapping[str, Any],
) -> Path:
    """Write `data_sheet.json`: sources with sizes and SHA-256 `digests` by name, licence, counts, outputs."""
    facts = read_data_facts(data_folder)
    documents = facts["documents"]
    personal = part(documents, "personal")
    outputs = sorted(
        path for name in ("documents/*.parquet", "tokens/*.bin", "tokenizer.json") for path in data_folder.glob(name)
    )
    path = data_folder / "data_sheet.json"
    write_json(
        path,
        {
            "kind": "data sheet",
            "format": FORMAT,
            "bimo": bimo.__version__,
            "licence": licence,
            "sources": [{"name": file.name, "bytes": file.size, "sha256": digests[file.name]} for file in files],
            "processing": dict(processing),
            "counts": {
                **{name: documents.get(name) for name in _COUNTED},
                "near_duplicate_groups": part(documents, "near_duplicates").get("clusters"),
                "repeated_paragraphs_removed": part(documents, "repeated_paragraphs").get("removed"),
                "tokens": facts["tokens"],
            },
            "personal_data": {"treatment": personal.get("mode"), "found": personal.get("counts")},
            "outputs": [
                {
                    "name": output.relative_to(data_folder).as_posix(),
                    "bytes": output.stat().st_size,
                    "sha256": digest_file(output),
                }
                for output in outputs
            ],
        },
    )
    return path
