"""Poems in JSON, as collections on the web have them, as JSON lines with genre and form beside each text.

    python tag_forms.py FOLDER poems.jsonl

An object is a poem when its `paragraphs` are lines of verse; one that names a tune (`rhythmic`) is a 词, every other a
诗. The form is read off the lines: 五言绝句 is four of five characters.
"""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PAUSES = re.compile(r"[，。！？；：、\s]+")
BRACKETS = re.compile(r"[（(].*?[)）]")
FORMS = {(4, 5): "五言绝句", (4, 7): "七言绝句", (8, 5): "五言律诗", (8, 7): "七言律诗"}
LONGEST = 400
"""Characters. What is longer is prose, or a poem that a small model cannot hold in mind."""


def poems(value: Any) -> Iterator[dict[str, Any]]:
    """Every object inside a JSON value that has lines."""
    if isinstance(value, dict) and isinstance(value.get("paragraphs"), list):
        if all(isinstance(line, str) for line in value["paragraphs"]):
            yield value
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from poems(item)


def form_of(text: str) -> str:
    """The form of a poem by the number and the length of its lines."""
    lines = [line for line in PAUSES.split(text) if line]
    lengths = set(map(len, lines))
    if len(lengths) != 1 or not lengths <= {5, 7}:
        return "杂言"
    length = lengths.pop()
    return FORMS.get((len(lines), length), "五言古诗" if length == 5 else "七言古诗")


def main() -> None:
    """Read all files of a folder, write one."""
    source, target = Path(sys.argv[1]), Path(sys.argv[2])
    counts: Counter[str] = Counter()
    with target.open("w", encoding="utf-8") as file:
        for path in sorted(source.rglob("*.json")):
            try:
                value = json.loads(path.read_text(encoding="utf-8-sig"))
            except ValueError as error:  # no JSON, or no UTF-8
                print(f"{path} is left out: {error}", file=sys.stderr)
                continue
            for poem in poems(value):
                text = BRACKETS.sub("", "\n".join(poem["paragraphs"])).strip()
                if not text or "□" in text or len(text) > LONGEST:
                    continue
                genre = "词" if "rhythmic" in poem else "诗"
                form = form_of(text) if genre == "诗" else "杂言"  # a tune has its own lines, even where all are alike
                counts[f"{genre} {form}"] += 1
                file.write(json.dumps({"text": text, "genre": genre, "form": form}, ensure_ascii=False) + "\n")
    print(", ".join(f"{kind} {count:,}" for kind, count in counts.most_common()), file=sys.stderr)


if __name__ == "__main__":
    main()
