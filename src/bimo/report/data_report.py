"""What went into a model: the text, what was kept out and why, and the tokenizer; as a page of its own or a part."""

from __future__ import annotations

import math
from itertools import zip_longest
from pathlib import Path
from typing import Any

from bimo.report.charts import column_chart
from bimo.report.examples import EXCERPT_LIMIT, excerpts, reason_name, sample
from bimo.report.facts import (
    Facts,
    count,
    join_sentences,
    language_name,
    number,
    part,
    read_data_facts,
    rounded,
    size,
)
from bimo.report.funnel import funnel
from bimo.report.page import (
    Node,
    Section,
    bar,
    element,
    fact,
    figure,
    key_figures,
    or_dash,
    shorten,
    strip,
    table,
    write_page,
)
from bimo.report.vocabulary import vocabulary
from bimo.runtime import t
from bimo.text.documents import ALLOWABLE
from bimo.text.personal import KINDS, describe_kind

__all__ = ["personal", "rejected", "repeated", "sources", "tokenizer", "write_data_report"]

_PERSONAL = {
    "report": "This was found and left as it stands, as was asked for. It is masked here alone.",
    "mask": "Each of these was replaced by a mark of its kind before anything else saw the text.",
    "pseudonymise": "Each of these was replaced by a stand-in of the same shape, the same one for the same value.",
    "drop": "Texts with any of these were set aside, with marks in place of what was found.",
}


def write_data_report(data_folder: Path) -> Path:
    """Write `report.html` in a folder of prepared data: what went in, what was kept out, the tokenizer."""
    facts = read_data_facts(data_folder)
    documents, tokens = facts["documents"], facts["tokens"]
    figures = key_figures(
        [
            (t("Documents"), number(documents, "train", "documents"), count),
            (t("Characters"), number(documents, "train", "characters"), rounded),
            (t("Kept out"), _total(documents.get("rejected")), count),
            (t("Tokens"), number(tokens, "train", "tokens"), rounded),
            (t("Vocabulary"), number(facts, "tokenizer", "vocabulary"), count),
        ]
    )
    sections = [
        sources(facts),
        vocabulary(facts),
        rejected(facts),
        repeated(facts),
        personal(facts),
        sample(facts),
        tokenizer(facts),
    ]
    return write_page(data_folder / "report.html", facts["name"], _headline(documents), figures, sections)


def _headline(documents: Facts) -> str:
    train, kept_back = part(documents, "train"), part(documents, "validation")
    if number(train, "documents") is None:
        return t("No text has been prepared here yet.")
    sentences = [
        t(
            "{documents} documents with {characters} characters are ready to learn from.",
            documents=count(train["documents"]),
            characters=rounded(number(train, "characters") or 0),
        )
    ]
    if number(kept_back, "documents"):
        sentences.append(
            t(
                "{documents} more are never shown to the model: they will test it.",
                documents=count(kept_back["documents"]),
            )
        )
    return join_sentences(sentences)


def sources(facts: Facts) -> Section | None:
    """Files, languages, encodings, lengths and characters of the text."""
    documents, tokens = part(facts, "documents"), part(facts, "tokens")
    if not documents:
        return None
    columns = [
        (t("Documents"), "documents", count),
        (t("Characters"), "characters", rounded),
        (t("Size"), "bytes", size),
    ]
    portions = [
        (t("To learn from"), part(documents, "train"), number(tokens, "train", "tokens")),
        (t("Never shown, to test with"), part(documents, "validation"), number(tokens, "validation", "tokens")),
    ]
    rows = [
        [name, *(or_dash(number(portion, key), say) for _, key, say in columns), or_dash(held, rounded)]
        for name, portion, held in portions
        if portion
    ]
    content = [
        table(
            [],
            [
                fact(t("Files read"), number(documents, "files"), count),
                fact(t("Files that could not be read"), number(documents, "files_unreadable"), count),
                fact(t("Size of the files"), number(documents, "bytes_read"), size),
                fact(
                    t("Documents brought into the other Chinese script"),
                    number(documents, "converted_documents"),
                    count,
                )
                if number(documents, "converted_documents")
                else None,
                [t("Left out for their language"), _left_out(part(documents, "languages_left_out"))]
                if part(documents, "languages_left_out")
                else None,
            ],
            class_="facts",
        ),
        table(["", *(heading for heading, _, _ in columns), t("Tokens")], rows),
        *_languages(part(documents, "languages")),
        *_encodings(part(documents, "encodings")),
        *_lengths(part(documents, "length_histogram")),
        *_characters(documents),
    ]
    return "sources", t("What went in"), content


def _left_out(languages: Facts) -> str:
    return ", ".join(f"{language_name(code)} {count(documents)}" for code, documents in _descending(languages))


def _languages(languages: Facts) -> list[Node]:
    named = {language_name(code): inner for code, inner in languages.items() if isinstance(inner, dict)}
    band = strip([(name, number(inner, "characters") or 0) for name, inner in named.items()], label=t("Languages"))
    rows = [
        [
            name,
            or_dash(number(inner, "documents"), count),
            or_dash(number(inner, "characters"), count),
            or_dash(number(inner, "bytes"), size),
        ]
        for name, inner in named.items()
    ]
    head = [t("Language"), t("Documents"), t("Characters"), t("Size")]
    return [element("h3", t("Languages")), band, table(head, rows)] if rows else []


def _encodings(encodings: Facts) -> list[Node]:
    rows = _descending(encodings)
    if not rows:
        return []
    largest = rows[0][1]
    lines = [[element("code", name), count(files), bar(files, largest)] for name, files in rows]
    return [element("h3", t("Encodings")), table([t("Encoding"), t("Files"), ""], lines, class_="bars")]


def _lengths(histogram: Facts) -> list[Node]:
    edges, counts = histogram.get("edges"), histogram.get("counts")
    if not isinstance(edges, list) or not isinstance(counts, list) or not any(counts):
        return []
    ranges = [_range(low, high) for low, high in zip_longest(edges, edges[1:])]
    columns = list(zip(edges, ranges, counts, strict=False))
    filled = [index for index, value in enumerate(counts) if value]
    columns = columns[filled[0] : filled[-1] + 1]
    common = max(columns, key=lambda column: column[2])[1]
    spoken = t("The most frequent length is {range} characters.", range=common)
    chart = column_chart(
        [(rounded(low), value) for low, _, value in columns],
        titles=[name for _, name, _ in columns],
        x_label=t("characters in a document, from"),
        y_label=t("documents"),
        alternative=spoken,
    )
    return [element("h3", t("Length of the documents")), figure(chart), element("p", spoken, class_="note")]


def _range(low: float, high: float | None) -> str:
    if high is None:
        return t("{low} or more", low=rounded(low))
    return f"{rounded(low)}–{rounded(high - 1)}" if high - low > 1 else rounded(low)


def _characters(documents: Facts) -> list[Node]:
    names = {
        "han": t("Chinese characters"),
        "latin": t("Latin letters"),
        "digit": t("digits"),
        "punctuation": t("punctuation"),
        "space": t("spaces"),
        "other": t("other"),
    }
    kinds = [(names.get(kind, kind), value) for kind, value in _descending(part(documents, "character_kinds"))]
    band = strip(kinds, label=t("Kinds of characters"))
    pairs = [pair for pair in documents.get("common_characters") or [] if isinstance(pair, list) and len(pair) == 2]
    top = max((value for _, value in pairs), default=0)
    common = [
        element(
            "li",
            show_spaces(character),
            element("small", rounded(value)),
            style=f"font-size:{0.95 + 1.35 * math.sqrt(value / top):.2f}rem",
        )
        for character, value in pairs[:40]
        if value > 0
    ]
    content: list[Node] = [element("h3", t("Kinds of characters")), band] if band else []
    if common:
        content += [element("h3", t("Most frequent characters")), element("ol", common, class_="characters")]
    return content


def rejected(facts: Facts) -> Section | None:
    """What was kept out: how many for which reason, and examples to judge the reason by."""
    reasons = _descending(part(facts, "documents", "rejected"))
    if not reasons:
        return None
    largest = reasons[0][1]
    rows = [[reason_name(reason), count(value), bar(value, largest)] for reason, value in reasons]
    examples: dict[str, list[Facts]] = {}
    for example in part(facts, "documents").get("rejected_examples") or []:
        if isinstance(example, dict):
            examples.setdefault(str(example.get("reason", "")), []).append(example)
    folded = [
        element(
            "details",
            element("summary", t("Examples: {reason}", reason=reason_name(reason))),
            excerpts(found),
            element("p", t("To keep such texts:"), " ", element("code", f"--allow {reason}"), class_="note")
            if reason in ALLOWABLE
            else "",
        )
        for reason, found in examples.items()
    ]
    total = t(
        "{n} pieces of text were set aside. They are kept with their reasons beside the data.",
        n=count(_total(dict(reasons)) or 0),
    )
    content = [
        element("p", total),
        *funnel(part(facts, "documents")),
        table([t("Reason"), t("Pieces"), ""], rows, class_="bars"),
        *folded,
    ]
    return "rejected", t("What was kept out"), content


def repeated(facts: Facts) -> Section | None:
    """What stood there more than once without being equal: near-duplicates, and paragraphs of many documents."""
    near, paragraphs = part(facts, "documents", "near_duplicates"), part(facts, "documents", "repeated_paragraphs")
    content: list[Node] = []
    if number(near, "clusters"):
        content.append(
            element(
                "p",
                t("{n} groups of texts are nearly the same; of each the longest is kept.", n=count(near["clusters"])),
            )
        )
        for example in near.get("examples") or []:
            kept = {"source": example.get("kept"), "detail": t("kept"), "text": example.get("text")}
            other = {"source": example.get("other"), "detail": t("set aside"), "text": example.get("other_text")}
            others = max(0, (number(example, "documents") or 0) - 1)
            summary = t("Texts like {place}: {n}", n=count(others), place=str(kept["source"]))
            content.append(element("details", element("summary", summary), excerpts([kept, other])))
    if number(paragraphs, "removed"):
        removed = t(
            "{n} paragraphs of many documents, such as headers and licences, were left out of all but the first.",
            n=count(paragraphs["removed"]),
        )
        rows = [
            [element("span", shorten(str(text), EXCERPT_LIMIT), dir="auto"), count(times)]
            for text, times in paragraphs.get("examples") or []
        ]
        content += [element("p", removed), table([t("Paragraph"), t("Left out")], rows)]
    return ("repeated", t("What was said twice"), content) if content else None


def personal(facts: Facts) -> Section | None:
    """Personal data and secrets by kind and by source, with samples in which they are masked."""
    found = part(facts, "documents", "personal")
    rows = _descending(part(found, "counts"))
    if not rows:
        return None
    known = {kind: describe_kind(kind) if kind in KINDS else kind for kind, _ in rows}
    largest = rows[0][1]
    lines = [[known[kind], count(value), bar(value, largest)] for kind, value in rows]
    mode = str(found.get("mode"))
    content: list[Node] = [element("p", t(_PERSONAL[mode]))] if mode in _PERSONAL else []
    content.append(table([t("Kind"), t("Found"), ""], lines, class_="bars"))
    for kind, samples in part(found, "samples").items():
        summary = t("Examples: {reason}", reason=known.get(kind, kind))
        content.append(element("details", element("summary", summary), excerpts(samples)))
    sources = _descending(part(found, "sources"))
    named = [[element("code", name), count(value)] for name, value in sources]
    content += [element("h3", t("Where most of it stood")), table([t("Source"), t("Found")], named)] if named else []
    return "personal", t("Personal data and secrets"), content


def tokenizer(facts: Facts) -> Section | None:
    """How the text is cut into tokens."""
    found = part(facts, "tokenizer")
    if not found:
        return None
    source = found.get("source")
    origin = t("trained on this text") if source == "trained" else source
    per_token = [
        fact(
            t("Characters a token, {language}", language=language_name(code)),
            number({"x": value}, "x"),
            "{:.2f}".format,
        )
        for code, value in part(found, "characters_per_token").items()
    ]
    content: list[Node] = [
        table(
            [],
            [
                fact(t("Vocabulary"), number(found, "vocabulary"), count),
                *per_token,
                fact(t("Bytes a token"), number(found, "bytes_per_token"), "{:.2f}".format),
                [t("Origin"), str(origin)] if origin else None,
            ],
            class_="facts",
        )
    ]
    sample = found.get("sample") or []
    sentences = [sample] if sample and isinstance(sample[0], str) else sample
    if sentences:
        content += [element("h3", t("A sentence in tokens")), *(_chips(tokens) for tokens in sentences)]
    if found.get("longest_tokens"):
        content += [element("h3", t("Longest tokens")), _chips(found["longest_tokens"][:40])]
    return "tokenizer", t("How it cuts text into tokens"), content


def _chips(tokens: list[Any]) -> Node:
    return element("ul", [element("li", show_spaces(str(token)), dir="auto") for token in tokens], class_="tokens")


def show_spaces(text: str) -> str:
    """Space, line end and tab as signs, for single characters and tokens."""
    return text.replace(" ", "␣").replace("\n", "⏎").replace("\t", "⇥")


def _descending(counts: Facts) -> list[tuple[str, float]]:
    found = ((name, number(counts, name) or 0) for name in counts)
    return sorted((row for row in found if row[1] > 0), key=lambda row: -row[1])


def _total(counts: Any) -> float | None:
    return sum(number(counts, name) or 0 for name in counts) if isinstance(counts, dict) else None
