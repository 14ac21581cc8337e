"""Writes docs/results.md: how good each task is beside what others use, from the newest runs in `results.jsonl`.

    python benchmarks/tasks.py

The runs come from one benchmark a task: classify.py, similarity.py, answer_search.py, answer.py, translation.py,
preferences.py, constrained.py. `tests/test_benchmarks.py` sees that page and runs agree.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from record import RESULTS, Record, digest_line, read_records, short

__all__ = ["PAGE", "TASKS", "results_page"]

PAGE = RESULTS.parents[1] / "docs" / "results.md"

TASKS = {
    "classify": "Classification",
    "similarity": "Likeness of sentences",
    "answer_search": "Finding the passage that answers",
    "answer": "Pointing at the answer",
    "translation": "Translation",
    "preferences": "Preferring the better answer",
    "constrained": "Writing to a form",
}
"""Subjects of the records, in the order of the page."""

INTRODUCTION = """# Results by task

Made from `benchmarks/results.jsonl` by `python benchmarks/tasks.py`: each section is a run of one benchmark on data
that nothing was trained on; a run goes once a later one has measured all that it did. Settings were chosen on other
parts of the data than those that are shown, with three exceptions: the terms of finding passages were chosen on these
very questions; the checkpoint and the rate of preferences on these very held-out pairs; and likeness also shows the
development part, on which its settings were chosen. The test questions of both languages were put to an earlier version
before, and nothing was chosen by that. Classifiers run side by side, one on each processor, so that their times are a
little long. To measure here, with the data sets in `../shared/data`: `make bench-tasks`, and preferences, which need a
model that converses, by `benchmarks/preferences.py`.
"""


def results_page(records: Sequence[Record]) -> str:
    """The page, from records in the order in which they came."""
    sections = [INTRODUCTION]
    for subject, title in TASKS.items():
        own = [record for record in records if record.subject == subject]
        newest = [
            record
            for place, record in enumerate(own)
            if not any(_measured(record) <= _measured(later) for later in own[place + 1 :])
        ]
        if newest:
            sections += [f"## {title}\n", *map(_section, newest)]
    return "\n".join(sections)


def _measured(record: Record) -> set[tuple[str, str]]:
    """(what, of whom)."""
    return {(comparison.title, name) for comparison in record.comparisons for name in comparison.rounds}


def _section(record: Record) -> str:
    """Conditions, a table with a row a measure and a column a contestant, and what else was found."""
    settings = ", ".join(f"{name} {_said(value)}" for name, value in record.settings.items() if value != "")
    lines = [f"{record.date[:10]}, commit {record.commit}, {settings}. {digest_line(record.machine)}.", ""]
    names = list(dict.fromkeys(name for comparison in record.comparisons for name in comparison.rounds))
    rows = [
        [
            comparison.title + (f", {comparison.unit}" if comparison.unit not in comparison.title else ""),
            *(short(comparison.median(name)) if name in comparison.rounds else "" for name in names),
        ]
        for comparison in record.comparisons
    ]
    table = [["", *names], ["---", *["--:"] * len(names)], *rows]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in table]
    lines += ["", *(f"- {name}: {_said(value)}" for name, value in record.facts.items())]
    return "\n".join(lines).rstrip() + "\n"


def _said(value: object) -> str:
    """Numbers in few digits, names before values."""
    if isinstance(value, dict):
        inner = {name: f"({_said(own)})" if isinstance(own, dict) else _said(own) for name, own in value.items()}
        return ", ".join(f"{str(name).replace('_', ' ')} {said}" for name, said in inner.items())
    if isinstance(value, list):
        return "; ".join(map(_said, value))
    return short(value) if isinstance(value, float) else str(value)


def main() -> None:
    """Write the page."""
    path: Path = PAGE
    path.write_text(results_page(read_records(RESULTS)), encoding="utf-8")


if __name__ == "__main__":
    main()
