"""Elements of a self-contained page. Nodes are plain data; every text is escaped when the page is rendered."""

from __future__ import annotations

import html
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from bimo.files import replacing
from bimo.report.facts import percent
from bimo.runtime import language, t

__all__ = [
    "Node",
    "Section",
    "bar",
    "element",
    "fact",
    "figure",
    "key_figures",
    "or_dash",
    "render",
    "shorten",
    "strip",
    "table",
    "visible",
    "write_page",
]

Node = Any
"""None, text, an element `(name, attributes, children)`, or a list of nodes."""

Section = tuple[str, str, list[Node]]
"""An anchor, a heading, and what stands under it."""

VOID = {"meta", "br"}
HARMLESS = {"\n", "\t", "\u200c", "\u200d"}
"""Controls that stay: layout, and the joiners that emoji and many scripts are written with."""


def element(name: str, /, *children: Node, **attributes: Any) -> Node:
    """`element("th", "Step", scope="col", class_="left")`; an attribute that is None is left out."""
    named = {key.rstrip("_").replace("_", "-"): value for key, value in attributes.items() if value is not None}
    return (name, named, children)


def render(node: Node) -> str:
    """HTML of a node. Control, bidirectional and other invisible characters are written out as marks."""
    if node is None:
        return ""
    if isinstance(node, list):
        return "".join(map(render, node))
    if not isinstance(node, tuple):
        return _render_text(str(node))
    name, attributes, children = node
    written = "".join(f' {key}="{html.escape(visible(str(value)))}"' for key, value in attributes.items())
    if name in VOID:
        return f"<{name}{written}>"
    return f"<{name}{written}>{''.join(map(render, children))}</{name}>"


def _render_text(text: str) -> str:
    marks = (mark if len(mark) == 1 else f'<span class="control">{mark}</span>' for mark in _marks(text))
    return "".join(html.escape(mark) if len(mark) == 1 else mark for mark in marks)


def visible(text: str) -> str:
    """The text with every invisible character written out: U+202E becomes `[U+202E]`, the bell becomes `␇`."""
    return "".join(_marks(text))


def _marks(text: str) -> Iterable[str]:
    for character in text.replace("\r\n", "\n"):
        if character in HARMLESS or unicodedata.category(character) not in {"Cc", "Cf", "Co", "Cs", "Zl", "Zp"}:
            yield character
        elif ord(character) < 32:
            yield chr(0x2400 + ord(character))
        else:
            yield f"[U+{ord(character):04X}]"


def shorten(text: Any, limit: int) -> str:
    """At most `limit` characters, with an ellipsis where text was cut."""
    text = str(text)
    return text if len(text) <= limit else text[:limit].rstrip() + "…"


def table(head: Sequence[Node], rows: Sequence[Sequence[Node] | None], *, class_: str | None = None) -> Node:
    """A table whose first column names its rows; rows that are None are left out, and the table when none remain."""
    kept = [row for row in rows if row is not None]
    if not kept:
        return None
    top = element("thead", element("tr", [element("th", cell, scope="col") for cell in head])) if head else None
    body = [
        element("tr", element("th", row[0], scope="row"), [element("td", cell) for cell in row[1:]]) for row in kept
    ]
    return element("div", element("table", top, element("tbody", body), class_=class_), class_="wide")


def bar(value: float, largest: float, *, class_: str = "", interval: Sequence[float] | None = None) -> Node:
    """A bar for a table cell; the cell beside it says the number, so it is hidden from screen readers."""
    whisker = None
    if interval is not None and largest > 0:
        left, right = (min(100.0, 100 * end / largest) for end in interval)
        whisker = element("i", class_="whisker", style=f"left:{left:.2f}%;width:{max(0.0, right - left):.2f}%")
    width = 100 * value / largest if largest > 0 else 0.0
    filled = element("b", style=f"width:{width:.2f}%")
    return element("span", filled, whisker, class_=f"bar {class_}".strip(), aria_hidden="true")


def strip(parts: Sequence[tuple[str, float]], *, label: str) -> Node:
    """One band divided by shares, largest first, with its legend. `label` is the text alternative's beginning."""
    parts = sorted(((name, value) for name, value in parts if value > 0), key=lambda part: -part[1])
    total = sum(value for _, value in parts)
    if not total:
        return None
    shares = [(name, value / total) for name, value in parts]
    spoken = label + ": " + ", ".join(f"{name} {percent(share)}" for name, share in shares)
    band = [
        element("span", class_=f"hue{index % 6}", style=f"width:{100 * share:.3f}%")
        for index, (_, share) in enumerate(shares)
    ]
    legend = [
        element("li", element("i", class_=f"hue{index % 6}"), f"{name} ", element("small", percent(share)))
        for index, (name, share) in enumerate(shares)
    ]
    return element(
        "figure",
        element("div", band, class_="strip", role="img", aria_label=spoken),
        element("ul", legend, class_="legend"),
    )


def figure(drawing: Node, caption: str | None = None, *, legend: Sequence[tuple[str, str]] = ()) -> Node:
    """A drawing with a caption; `legend` gives (style class, name). None when there is nothing to draw."""
    if not drawing:
        return None
    entries = [element("li", element("i", class_=style), name) for style, name in legend]
    key = element("ul", entries, class_="legend") if entries else None
    return element("figure", drawing, key, element("figcaption", caption) if caption else None)


def or_dash(value: float | None, say: Callable[[float], str]) -> str:
    """The value in words, or a dash where it was not measured."""
    return "–" if value is None else say(value)


def fact(name: str, value: float | None, say: Callable[[float], str]) -> list[Node] | None:
    """A row of a table of facts, or None where the value was not measured."""
    return None if value is None else [name, say(value)]


def key_figures(figures: Sequence[tuple[str, float | None, Callable[[float], str]]]) -> Node:
    """The few numbers at the top of a page; those that were not measured are left out."""
    shown = [
        element("div", element("dt", name), element("dd", say(value)))
        for name, value, say in figures
        if value is not None
    ]
    return element("dl", shown, class_="key") if shown else None


def write_page(path: Path, name: str, headline: str, figures: Node, sections: Sequence[Section | None]) -> Path:
    """Write a whole page: headline, key figures, contents, sections; those that are None are left out."""
    kept = [(anchor, title, content) for section in sections if section for anchor, title, content in [section]]
    contents = [element("li", element("a", title, href=f"#{anchor}")) for anchor, title, _ in kept]
    body = [
        element(
            "header",
            element(
                "div",
                element("span", "笔墨", lang="zh", class_="stamp", aria_hidden="true"),
                element("h1", name),
                class_="top",
            ),
            # A name such as Kneser-Ney keeps together in large type.
            element("p", headline.replace("-", "\u2011"), class_="verdict"),
            figures,
            element("nav", element("ol", contents), aria_label=t("Contents")) if contents else None,
        ),
        element(
            "main",
            [element("section", element("h2", title), content, id=anchor) for anchor, title, content in kept],
        ),
        element("footer", t("Made by Bimo on this machine. This page loads nothing from the network.")),
    ]
    with replacing(path) as part:
        part.write_text(_document(name, body), encoding="utf-8")
    return path


def _document(title: str, body: Node) -> str:
    """A whole page around `body`. Its security policy forbids every load, so it is the same file everywhere."""
    style = (resources.files("bimo.assets") / "report.css").read_text(encoding="utf-8")
    policy = "default-src 'none'; style-src 'unsafe-inline'"
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=policy),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("title", title),
    )
    # The style sheet is ours and holds no `<`; escaping would break its child selectors.
    page = render(element("html", head, element("body", body), lang="zh-Hans" if language() == "zh" else "en"))
    return "<!doctype html>\n" + page.replace("</head>", f"<style>{style}</style></head>", 1) + "\n"
