"""Writes docs/performance.md and its drawings from `results.jsonl`; `tests/test_benchmarks.py` sees that they agree.

python benchmarks/performance_page.py
"""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from record import RESULTS, Comparison, Curves, Record, digest_line, read_records, short
from tasks import TASKS

from bimo.report.charts import line_chart, ticks
from bimo.report.page import Node, element, render

__all__ = ["PAGE", "performance_pages"]

PAGE = RESULTS.parents[1] / "docs" / "performance.md"
DRAWINGS = "performance"

INTRODUCTION = """# Performance

Made from `benchmarks/results.jsonl` by `python benchmarks/performance_page.py`. Each section shows the newest run of
one benchmark. Where a section names rounds, peers run in processes of their own and take turns, with the same threads
and the same data; rates are medians over the rounds, and “ours is better by” is the median of the ratios of each round.
In train every peer is shown with its default and with the best setting that its documentation names; in generate
llama.cpp is shown in four formats; in loss_against_time nanoGPT as its documentation says, on the novels also larger,
and GPT-2 at three rates. Thin lines reach from the lowest round to the highest, and a stroke marks the limit of the
machine. To measure here, with the data sets in `../shared/data`: `make bench NANOGPT=PATH`, `make bench-keras
TEXT=FILE`, and by themselves `benchmarks/batching.py`, `plan.py`, `lora.py` and `loss_against_time.py passages`.
"""

COLOURS = {
    "text": ("fill", "#5d574c", "#b0a898"),
    ".name, .level-name": ("fill", "#1f1c18", "#ece7db"),
    ".grid": ("stroke", "#d8d0bf", "#3d3933"),
    ".axis, .level": ("stroke", "#5d574c", "#b0a898"),
    ".limit": ("stroke", "#1f1c18", "#ece7db"),
    "rect": ("fill", "#a09581", "#857c6d"),
    "rect.own, text.own": ("fill", "#a52a1c", "#f08a78"),
    ".line.own, .mark": ("stroke", "#a52a1c", "#f08a78"),
    "text.hue1": ("fill", "#2f5d84", "#7fadd4"),
    ".line.hue1": ("stroke", "#2f5d84", "#7fadd4"),
    "text.hue2": ("fill", "#3c7a64", "#7cbfa2"),
    ".line.hue2": ("stroke", "#3c7a64", "#7cbfa2"),
    "text.hue3": ("fill", "#b0752f", "#d9a35e"),
    ".line.hue3": ("stroke", "#b0752f", "#d9a35e"),
}
"""The reports' colours, on light and on dark paper: drawings stand alone, without the reports' style sheet."""

HUES = ("own", "hue1", "hue2", "hue3")

SHAPES = """
text { font: 12px system-ui, "Segoe UI", Roboto, Arial, sans-serif; } .own { font-weight: 600; }
.line { fill: none; stroke-width: 2; stroke-linejoin: round; } .level { stroke-dasharray: 5 4; }
.mark { fill: none; stroke-width: 2.5; } .limit { stroke-width: 1.5; } .grid { stroke-width: 0.6; }
"""

WIDTH, ROW, NAMES, END = 720, 26, 150, 70
"""Of a drawing with bars: its width, the height of a row, the room for names on the left, for figures on the right."""


def performance_pages(records: Sequence[Record]) -> dict[str, str]:
    """Every file of the page, by its path beside docs/performance.md, from records in the order in which they came."""
    files: dict[str, str] = {}
    sections = [INTRODUCTION]
    for subject in sorted({record.subject for record in records} - TASKS.keys()):
        runs = [record for record in records if record.subject == subject]
        text, drawings = _section(runs[-1], runs[:-1])
        sections.append(text)
        files |= drawings
    if not records:
        sections.append("Nothing has been measured yet.\n")
    return {PAGE.name: "\n".join(sections), **files}


def _section(newest: Record, earlier: list[Record]) -> tuple[str, dict[str, str]]:
    stem = re.sub(r"\W+", "-", newest.subject.lower()).strip("-")
    drawings: dict[str, str] = {}
    lines = [f"## {newest.subject}", "", *_conditions(newest), ""]
    for comparison in newest.comparisons:
        path = f"{DRAWINGS}/{stem}-{len(drawings) + 1}.svg"
        drawings[path] = _bars(comparison)
        lines += [f"### {comparison.title}", "", f"![{comparison.title}]({path})", "", *_table(comparison.rows()), ""]
    for curves in newest.curves:
        path = f"{DRAWINGS}/{stem}-{len(drawings) + 1}.svg"
        drawings[path] = _lines(curves)
        lines += [f"### {curves.title}", "", f"![{curves.title}]({path})", ""]
    lines += [f"- {name}: {value}" for name, value in newest.facts.items()]
    if earlier:
        lines += ["", "Earlier runs:", "", *_table(_history(newest, earlier))]
    return "\n".join(lines).rstrip() + "\n", drawings


def _conditions(record: Record) -> list[str]:
    versions = ", ".join(f"{name} {version}" for name, version in record.versions.items())
    settings = ", ".join(f"{name} {_setting(value)}" for name, value in record.settings.items())
    return [
        f"{record.date[:10]}, commit {record.commit}. {digest_line(record.machine)}.",
        f"{versions}.",
        f"{settings}.",
    ]


def _setting(value: Any) -> str:
    return f"`{json.dumps(value, ensure_ascii=False)}`" if isinstance(value, (dict, list)) else str(value)


def _table(rows: list[list[str]]) -> list[str]:
    head, *body = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    rule = ["---", *["--:"] * (len(head) - 1)]
    return ["| " + " | ".join(row) + " |" for row in (head, rule, *body)]


def _history(newest: Record, earlier: list[Record]) -> list[list[str]]:
    """What ours reached in each earlier run, for the quantities that the newest has."""
    titles = [comparison.title for comparison in newest.comparisons]
    rows = [["date, commit, processor", *titles]]
    for record in reversed(earlier):
        ours = {c.title: f"{short(c.median(next(iter(c.rounds))))} {c.unit}" for c in record.comparisons}
        where = f"{record.date[:10]}, {record.commit}, {record.machine['processor']}"
        rows.append([where, *(ours.get(title, "") for title in titles)])
    return rows


def _bars(comparison: Comparison) -> str:
    """A bar a contestant, with its lowest and highest round, and a stroke at the machine's limit."""
    names = list(comparison.rounds)
    reached = max(max(values) for values in comparison.rounds.values())
    limits = {name: statistics.median(values) for name, values in comparison.limits.items()}
    largest = max([reached, *(limit for limit in limits.values() if limit <= 1.5 * reached)])
    room = WIDTH - NAMES - END
    height = ROW * len(names) + 30

    def x_of(value: float) -> float:
        return NAMES + room * value / largest

    shapes: list[Node] = []
    for value in ticks(0, largest, 5):
        shapes.append(_line("grid", x_of(value), 4, x_of(value), height - 24))
        shapes.append(_text(short(value), x_of(value), height - 8, "middle"))
    shapes.append(_text(comparison.unit, NAMES - 8, height - 8, "end"))
    for place, name in enumerate(names):
        top, middle = 6 + ROW * place, 6 + ROW * (place + 0.5)
        own = "own" if place == 0 else None
        shapes.append(_text(name, NAMES - 8, middle + 4, "end", class_=own or "name"))
        box = {"x": NAMES, "y": top + 4, "width": _number(room * comparison.median(name) / largest), "height": ROW - 8}
        shapes.append(element("rect", class_=own, **box))
        low, high = min(comparison.rounds[name]), max(comparison.rounds[name])
        shapes.append(_line("axis", x_of(low), middle, x_of(high), middle))
        if (limit := limits.get(name, 0)) and limit <= largest:
            shapes.append(_line("limit", x_of(limit), top + 1, x_of(limit), top + ROW - 1))
        shapes.append(_text(short(comparison.median(name)), x_of(high) + 6, middle + 4, "start", class_=own or "name"))
    return _drawing(shapes, 0, height, comparison.title)


def _lines(curves: Curves) -> str:
    """Our own line chart with a legend above it; a line of one point is a mark."""
    drawn = {name: points for name, points in curves.lines.items() if len(points) > 1}
    marks = [points[0] for points in curves.lines.values() if len(points) == 1]
    hues = dict(zip(curves.lines, HUES, strict=False))
    chart = line_chart(
        {hues[name]: points for name, points in drawn.items()},
        levels=list(curves.levels.items()),
        mark=marks[0] if marks else None,
        x_label=curves.x_unit,
        y_label=curves.y_unit,
        say_x=short,
        alternative=curves.title,
    )
    legend: list[Node] = []
    x = 50.0
    for name, hue in hues.items():
        legend.append(_text(name, x, -8, "start", class_=hue))
        x += 8 * len(name) + 20
    _, _, (svg,) = chart[0]
    _, attributes, shapes = svg
    return _drawing([legend, *shapes], -22, int(attributes["viewBox"].split()[-1]) + 22, curves.title)


def _drawing(shapes: Sequence[Node], top: int, height: int, title: str) -> str:
    named = {"xmlns": "http://www.w3.org/2000/svg", "viewBox": f"0 {top} {WIDTH} {height}", "role": "img"}
    light, dark = (
        "".join(f"{where} {{ {colours[0]}: {colours[paper]}; }}\n" for where, colours in COLOURS.items())
        for paper in (1, 2)
    )
    # A style sheet is no text: its quotes must stay as they are.
    style = f"{SHAPES}{light}@media (prefers-color-scheme: dark) {{\n{dark}}}\n"
    head = render(element("title", title)) + f"<style>{style}</style>"
    return render(element("svg", "", list(shapes), **named)).replace(">", ">" + head, 1) + "\n"


def _line(kind: str, *ends: float) -> Node:
    return element("line", class_=kind, **dict(zip(("x1", "y1", "x2", "y2"), map(_number, ends), strict=True)))


def _text(text: str, x: float, y: float, anchor: str, *, class_: str | None = None) -> Node:
    return element("text", text, x=_number(x), y=_number(y), text_anchor=anchor, class_=class_)


def _number(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


def main() -> None:
    """Write the page; drawings that it no longer shows are removed."""
    files = performance_pages(read_records(RESULTS))
    for old in (PAGE.parent / DRAWINGS).glob("*.svg"):
        if f"{DRAWINGS}/{old.name}" not in files:
            old.unlink()
    for name, text in files.items():
        path: Path = PAGE.parent / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
