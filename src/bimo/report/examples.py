"""Texts to judge by eye, short and masked: examples of a reason, a few drawn by chance, and what a model wrote."""

from __future__ import annotations

from bimo.report.facts import Facts, part, percent
from bimo.report.page import Node, Section, element, shorten
from bimo.runtime import t
from bimo.text.documents import REASONS, describe_reason
from bimo.text.personal import excerpt_around, masked

__all__ = ["EXCERPT_LIMIT", "beginning", "blank_rows", "excerpts", "masked_sample", "reason_name", "sample"]

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


def beginning(text: str, limit: int) -> str:
    """At most `limit` characters of a text, masked, with an ellipsis where it was cut."""
    return shorten(masked(text), limit)


def masked_sample(sample: Facts, limit: int) -> tuple[str, str]:
    """(Prompt, at most `limit` characters of what was written after it); no prompt where a mark reaches into it."""
    prompt = str(sample.get("prompt") or "")
    whole = prompt + str(sample.get("text") or "").removeprefix(prompt)
    shown = masked(whole)
    prompt = prompt if shown.startswith(prompt) else ""
    return prompt, shorten(shown.removeprefix(prompt), limit)


def blank_rows(evaluation: Facts) -> list[tuple[str, str]]:
    """(Text around a hidden word in brackets, the guesses) of each blank that was shown to an encoder."""
    rows = []
    for blank in evaluation.get("blanks") or []:
        if not isinstance(blank, dict):
            continue
        before, word, after = excerpt_around(blank["before"], blank["word"], blank["after"])
        guesses = ", ".join(f"{guess} {percent(share)}" for guess, share in blank["guesses"])
        # What is guessed of a telephone number tells of it.
        rows.append((f"{before}[{word}]{after}", guesses if word == blank["word"] else "–"))
    return rows
