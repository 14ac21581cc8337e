"""Texts of the data as they stand, short, to judge by eye: examples of a reason, and a few drawn by chance."""

from __future__ import annotations

from bimo.report.facts import Facts, part
from bimo.report.page import Node, Section, element, shorten
from bimo.runtime import t
from bimo.text.documents import REASONS, describe_reason

__all__ = ["EXCERPT_LIMIT", "excerpts", "reason_name", "sample"]

EXCERPT_LIMIT = 300
"""Characters shown of a text."""


def sample(facts: Facts) -> Section | None:
    """A few documents of each side, drawn by chance, to be judged by eye."""
    found = part(facts, "documents", "sample")
    kept, rejected = found.get("kept"), found.get("rejected")
    if not kept:
        return None
    told = [{**example, "detail": reason_name(str(example.get("reason", "")))} for example in rejected or []]
    content: list[Node] = [element("h3", t("Kept")), excerpts(kept, most=len(kept))]
    content += [element("h3", t("Set aside")), excerpts(told, most=len(told))] if told else []
    return "sample", t("Drawn by chance"), content


def excerpts(examples: list[Facts], most: int = 3) -> list[Node]:
    excerpts = []
    for example in examples[:most]:
        place = ":".join(str(example[key]) for key in ("source", "line") if example.get(key) is not None)
        detail = example.get("detail")
        label = " · ".join(str(piece) for piece in (place, detail) if piece not in (None, ""))
        text = shorten(example.get("text") or "", EXCERPT_LIMIT)
        excerpts.append(element("div", element("small", label), text, class_="excerpt", dir="auto"))
    return excerpts


def reason_name(code: str) -> str:
    """A reason in words; a code that a newer Bimo wrote stays as it is."""
    return describe_reason(code) if code in REASONS else code
