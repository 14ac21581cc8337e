"""How much of the text is left after each step of preparation."""

from __future__ import annotations

from bimo.report.facts import Facts, count, number, part, size
from bimo.report.page import Node, bar, element, table
from bimo.runtime import t
from bimo.text.documents import UNREAD_REASONS

__all__ = ["funnel"]


def funnel(documents: Facts) -> list[Node]:
    """Pieces and size after reading, after the rules, without equal texts, and without nearly equal ones."""
    pieces, sizes = part(documents, "rejected"), part(documents, "rejected_bytes")
    kept = [part(documents, "train"), part(documents, "validation")]
    if not sizes or not any(kept):
        return []
    repeats = ("duplicate", "near_duplicate")
    rules = [reason for reason in pieces if reason not in (*UNREAD_REASONS, *repeats)]
    steps = ((t("Read"), rules), (t("After the rules"), repeats[:1]), (t("Without equal texts"), repeats[1:]))
    documents_left, bytes_left = (sum(number(side, what) or 0 for side in kept) for what in ("documents", "bytes"))
    rows = [(t("Kept"), documents_left, bytes_left)]
    for name, reasons in reversed(steps):
        documents_left += sum(number(pieces, reason) or 0 for reason in reasons)
        bytes_left += sum(number(sizes, reason) or 0 for reason in reasons)
        rows.append((name, documents_left, bytes_left))
    rows.reverse()
    cells = [[name, count(pieces_), size(bytes_), bar(bytes_, rows[0][2])] for name, pieces_, bytes_ in rows]
    return [
        element("h3", t("What is left after each step")),
        table([t("Step"), t("Documents"), t("Size"), ""], cells, class_="bars"),
    ]
