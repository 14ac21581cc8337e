"""The words of a text as a section of a report: the commonest, and the two laws that texts of people follow."""

from __future__ import annotations

import math
from typing import Any

from bimo.report.charts import Point, line_chart
from bimo.report.facts import Facts, count, number, part, rounded
from bimo.report.page import Node, Section, bar, element, figure, table
from bimo.runtime import t

__all__ = ["vocabulary"]


def vocabulary(facts: Facts) -> Section | None:
    """Common words and pairs without stop words, and how the number and the frequency of words go."""
    found = part(facts, "documents", "words")
    if not number(found, "words") or number(found, "distinct") is None:
        return None
    said = t(
        "{words} words were counted, {distinct} of them different: all of a small text, of a large one documents all "
        "over it.",
        words=count(found["words"]),
        distinct=count(found["distinct"]),
    )
    content: list[Node] = [
        element("p", said),
        element("h3", t("Most frequent words, without stop words")),
        _bars(found.get("common"), t("Word")),
        element("h3", t("Most frequent pairs of words")),
        _bars(found.get("pairs"), t("Pair")),
    ]
    growth, ranks = _points(found.get("growth")), _points(found.get("ranks"))
    heaps, zipf = number(found, "heaps"), number(found, "zipf")
    if heaps is not None and len(growth) > 2:
        spoken = t(
            "The number of different words grows with the power {power:.2f} of the text (Heaps): near 0.5 for a narrow "
            "subject, near 0.8 for many.",
            power=heaps,
        )
        content += [
            element("h3", t("How the vocabulary grows")),
            figure(_chart(growth, t("words read"), t("different words"), spoken)),
            element("p", spoken, class_="note"),
        ]
    if zipf is not None and len(ranks) > 2:
        spoken = t(
            "A word's frequency falls with the power {power:.2f} of its rank (Zipf): about -1 in what people write. A "
            "step or a bend tells of text that machines made, or of many copies.",
            power=zipf,
        )
        content += [
            element("h3", t("Frequency by rank")),
            figure(_chart(ranks, t("rank of a word"), t("occurrences"), spoken)),
            element("p", spoken, class_="note"),
        ]
    return "vocabulary", t("What its words are"), content


def _bars(pairs: Any, heading: str) -> Node:
    rows = [(str(name), float(value)) for name, value in pairs or []]
    largest = max((value for _, value in rows), default=0)
    cells = [[element("span", name, dir="auto"), count(value), bar(value, largest)] for name, value in rows]
    return table([heading, t("Occurrences"), ""], cells, class_="bars")


def _points(pairs: Any) -> list[Point]:
    return [(math.log10(x), math.log10(y)) for x, y in pairs or [] if x > 0 and y > 0]


def _chart(points: list[Point], x_label: str, y_label: str, spoken: str) -> list[Node]:
    return line_chart(
        {"validation": points},
        x_label=x_label,
        y_label=y_label,
        say_x=lambda power: rounded(10**power),
        say_y=lambda power: rounded(10**power),
        whole=True,
        alternative=spoken,
        height=260,
    )
