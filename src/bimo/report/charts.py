"""Line and column charts as SVG nodes, coloured by the page's style sheet and lettered in the reader's own fonts."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

from bimo.report.facts import rounded
from bimo.report.page import Node, element, shorten

__all__ = ["Point", "column_chart", "line_chart", "matrix_chart", "thin", "ticks"]

Point = tuple[float, float]

WIDTHS = {"broad": 720, "narrow": 360}
"""Each chart is drawn for a desk and for a phone, so that its letters keep their size; the style sheet shows one."""

LEFT, RIGHT, TOP, BOTTOM = 50, 14, 26, 40


def ticks(low: float, high: float, wanted: int = 5) -> list[float]:
    """Round numbers between low and high, about `wanted` of them."""
    if not high > low:
        return [low]
    rough = (high - low) / wanted
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(index * step, 12) for index in range(first, math.floor(high / step + 1e-9) + 1)]


def thin(points: Sequence[Point], most: int) -> list[Point]:
    """At most `most` points: the means of neighbours, which also smooths."""
    if len(points) <= most:
        return list(points)
    edges = [len(points) * index // most for index in range(most + 1)]
    groups = [points[start:end] for start, end in pairwise(edges)]
    return [(sum(x for x, _ in group) / len(group), sum(y for _, y in group) / len(group)) for group in groups]


def line_chart(
    lines: Mapping[str, Sequence[Point]],
    *,
    levels: Sequence[tuple[str, float]] = (),
    mark: Point | None = None,
    x_label: str,
    y_label: str,
    say_x: Callable[[float], str],
    say_y: Callable[[float], str] = "{:.4g}".format,
    whole: bool = False,
    alternative: str,
    height: int = 320,
) -> list[Node]:
    """Lines over a common x, by style-sheet class; `levels` are named dashed heights, `mark` is one point to ring.

    The high start of a loss curve is cut off where it would flatten the part that matters; `whole` shows all of any.
    """
    drawn = {name: thin(points, 200) for name, points in lines.items() if points}
    everything = [point for points in drawn.values() for point in points]
    if not everything:
        return []
    right = max(x for x, _ in everything)
    settled = [y for x, y in everything if whole or x >= 0.15 * right] or [y for _, y in everything]
    near = [value for _, value in levels if value <= 1.6 * min(settled)]
    low, high = min([*settled, *near]), max([*settled, *near])
    margin = 0.08 * (high - low) or 0.1 * abs(high) or 1.0
    low, high = low - margin, high + margin
    shown = [(name, value) for name, value in levels if low <= value <= high]

    def draw(width: int) -> Node:
        def x_of(x: float) -> float:
            return LEFT + (width - LEFT - RIGHT) * (x / right if right > 0 else 0.0)

        def y_of(y: float) -> float:
            return TOP + (height - TOP - BOTTOM) * (high - y) / (high - low)

        frame = _frame(width, height, x_label, y_label)
        for value in ticks(low, high, 6):
            frame.append(element("line", class_="grid", x1=LEFT, x2=width - RIGHT, **_both("y", y_of(value))))
            frame.append(_text(say_y(value), LEFT - 8, y_of(value) + 4, "end"))
        for value in ticks(0, right, 6 if width > 500 else 4):
            anchor = "end" if x_of(value) > width - RIGHT - 20 else "middle"
            frame.append(_text(say_x(value), x_of(value), height - BOTTOM + 16, anchor))
        inner = [
            element("polyline", class_=f"line {name}", points=_path([(x_of(x), y_of(y)) for x, y in points]))
            for name, points in drawn.items()
        ]
        above = -math.inf
        for name, value in sorted(shown, key=lambda level: -level[1]):
            y = y_of(value)
            above = max(y - 5, above + 15)
            inner.append(element("line", class_="level", x1=LEFT, x2=width - RIGHT, **_both("y", y)))
            inner.append(_text(f"{name} {value:.2f}", width - RIGHT - 2, above, "end", class_="level-name"))
        if mark is not None:
            inner.append(element("circle", class_="mark", cx=_short(x_of(mark[0])), cy=_short(y_of(mark[1])), r=5))
        # An inner svg cuts off what lies outside the frame, without ids that two charts on a page would share.
        box = (LEFT, TOP - 6, width - LEFT - RIGHT + 6, height - TOP - BOTTOM + 12)
        cut = dict(zip(("x", "y", "width", "height"), box, strict=True))
        clipped = element("svg", inner, **cut, viewBox=" ".join(map(str, box)))
        return element("svg", frame, clipped, viewBox=f"0 0 {width} {height}", role="img", aria_label=alternative)

    return _both_widths(draw)


def column_chart(
    columns: Sequence[tuple[str, float]],
    *,
    titles: Sequence[str],
    x_label: str,
    y_label: str,
    alternative: str,
    height: int = 220,
) -> list[Node]:
    """Named columns side by side, such as a histogram; `titles` are their full names, shown under the pointer."""
    largest = max((value for _, value in columns), default=0)
    if largest <= 0:
        return []

    def draw(width: int) -> Node:
        step = (width - LEFT - RIGHT) / len(columns)
        shapes = _frame(width, height, x_label, y_label)
        # Every name on a desk; on a phone only as many as have room.
        every = max(1, math.ceil(max(len(name) for name, _ in columns) * 7.5 / step))
        for value in filter(float.is_integer, ticks(0, largest, 4)):  # half a document is none
            y = TOP + (height - TOP - BOTTOM) * (1 - value / largest)
            shapes.append(element("line", class_="grid", x1=LEFT, x2=width - RIGHT, **_both("y", y)))
            shapes.append(_text(rounded(value), LEFT - 8, y + 4, "end"))
        for index, (name, value) in enumerate(columns):
            tall = (height - TOP - BOTTOM) * value / largest
            x, y = LEFT + step * index, height - BOTTOM - tall
            box = {"x": x + 0.1 * step, "y": y, "width": 0.8 * step, "height": tall}
            title = element("title", f"{titles[index]}: {value:,.0f}")
            shapes.append(element("rect", title, class_="column", **{key: _short(side) for key, side in box.items()}))
            if index % every == 0:
                shapes.append(_text(name, x + step / 2, height - BOTTOM + 16, "middle"))
        return element("svg", shapes, viewBox=f"0 0 {width} {height}", role="img", aria_label=alternative)

    return _both_widths(draw)


def matrix_chart(
    names: Sequence[str], counts: Sequence[Sequence[int]], *, totals: Sequence[int], alternative: str
) -> list[Node]:
    """Counts by row and column of the same names; the darker, the larger the share of its row's total, which may count
    columns that are not shown."""
    if not names:
        return []

    def draw(width: int) -> Node:
        left = min(width // 3, 12 + 8 * max(len(name) for name in names))
        side = min(56.0, (width - left - RIGHT) / len(names))
        top = min(width // 4, 12 + 7 * max(len(name) for name in names))
        letters = max(3, left // 8)
        shapes: list[Node] = []
        for row, name in enumerate(names):
            y, x = top + side * row, left + side * row
            shapes.append(_text(shorten(name, letters), left - 6, y + side / 2 + 4, "end"))
            turn = f"rotate(-75 {_short(x + side / 2)} {top - 6})"
            label = _text(shorten(name, max(3, top // 7)), x + side / 2, top - 6, "start")
            shapes.append(element("g", label, transform=turn))
            for column, value in enumerate(counts[row]):
                share = value / totals[row] if totals[row] else 0.0
                title = element("title", f"{name} → {names[column]}: {value:,}")
                x = left + side * column
                box = {"x": _short(x), "y": _short(y), "width": _short(side - 1), "height": _short(side - 1)}
                shade = {"fill_opacity": f"{share:.3f}"}
                shapes.append(element("rect", title, class_="cell" if row == column else "cell wrong", **box, **shade))
                if value and side >= 22:
                    class_ = "cell-name dark" if share > 0.6 else "cell-name"
                    shapes.append(_text(f"{value}", x + side / 2, y + side / 2 + 4, "middle", class_=class_))
        size = f"0 0 {width} {_short(top + side * len(names) + 8)}"
        return element("svg", shapes, viewBox=size, role="img", aria_label=alternative)

    return _both_widths(draw)


def _both_widths(draw: Callable[[int], Node]) -> list[Node]:
    return [element("div", draw(width), class_=f"chart {name}") for name, width in WIDTHS.items()]


def _frame(width: int, height: int, x_label: str, y_label: str) -> list[Node]:
    base = height - BOTTOM
    return [
        element("line", class_="axis", x1=LEFT, x2=width - RIGHT, **_both("y", base)),
        _text(y_label, 2, 12, "start", class_="axis-name"),
        _text(x_label, width - RIGHT, height - 6, "end", class_="axis-name"),
    ]


def _text(text: str, x: float, y: float, anchor: str, *, class_: str | None = None) -> Node:
    return element("text", text, x=_short(x), y=_short(y), text_anchor=anchor, class_=class_)


def _both(axis: str, value: float) -> dict[str, str]:
    return {f"{axis}1": _short(value), f"{axis}2": _short(value)}


def _path(points: Sequence[Point]) -> str:
    return " ".join(f"{_short(x)},{_short(y)}" for x, y in points)


def _short(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")
