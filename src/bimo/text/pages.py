"""Web pages and printed pages -> documents."""

from __future__ import annotations

import codecs
import io
import logging
import re
from collections.abc import Iterator

from bimo.runtime import t
from bimo.text.documents import Document
from bimo.text.encodings import find_encoding_of_all
from bimo.text.opening import OpenFile

__all__ = ["read_html", "read_pdf"]

_CHARSET = re.compile(rb"""<meta[^>]{0,200}?charset\s*=\s*["']?\s*([\w-]+)""", re.IGNORECASE)
_SUPPOSED = ("ascii", "iso8859-1", "cp1252")
"""Encodings that programs name without having looked, as Python calls them."""


def read_html(source: OpenFile) -> Iterator[Document]:
    """The main text of a web page as one document; the encoding it names counts where its bytes do not decide."""
    data = source.whole()
    if not data:
        return
    encoding = find_encoding_of_all(data, otherwise=None)
    if encoding not in ("utf-8", "utf-8-sig", "utf-16", "utf-32"):
        encoding = _named_encoding(data, told=encoding is not None) or encoding
    try:
        html = data.decode(encoding or "utf-8", "replace")
    except LookupError:
        html = data.decode("utf-8", "replace")
    source.reading.encodings[encoding or "utf-8"] += 1
    try:
        text = _main_text(html)
    except Exception as error:  # a broken page makes the library raise nearly anything
        source.refuse(0, "unreadable", t("broken HTML: {error}", error=error))
        return
    if text:
        yield from source.documents(text, 1)
    else:
        source.refuse(0, "no_text", t("no text on this page"))


def _named_encoding(data: bytes, *, told: bool) -> str | None:
    """The encoding that a page not in UTF-8 names; None where it names none, or what nobody looked at.

    Programs put in UTF-8 or a Western encoding by themselves: the one is proved wrong, the other less than what the
    bytes have `told`. A name of another East Asian encoding was chosen, and bytes can hardly tell it.
    """
    found = _CHARSET.search(data[:4096])
    named = found[1].decode().lower() if found is not None else ""
    try:
        codec = codecs.lookup(named).name
    except LookupError:
        return None
    if codec.startswith("utf") or (told and codec in _SUPPOSED):
        return None
    return "gb18030" if codec in ("gb2312", "gbk") else named


def _main_text(html: str) -> str:
    """The text of a page without navigation; of pages too small to tell the two apart, all of it."""
    import trafilatura

    logging.getLogger("trafilatura").setLevel(logging.CRITICAL)
    return trafilatura.extract(html, favor_recall=True, include_comments=False) or trafilatura.html2txt(html) or ""


def read_pdf(source: OpenFile) -> Iterator[Document]:
    """The text of a PDF, page by page where that was asked for, else in passages; their lines are pages."""
    import pypdf
    from pypdf.errors import DependencyError

    data = source.whole()
    if not data:
        return
    logging.getLogger("pypdf").setLevel(logging.CRITICAL)
    try:
        reader = pypdf.PdfReader(io.BytesIO(data))
        if reader.is_encrypted and not reader.decrypt(""):
            source.refuse(0, "encrypted", t("locked with a password"))
            return
        pages = [_unwrap(page.extract_text()) for page in reader.pages]
    except DependencyError:
        source.refuse(0, "encrypted", t("locked with a password"))
        return
    except Exception as error:  # a broken PDF makes the library raise nearly anything
        source.refuse(0, "unreadable", t("broken PDF: {error}", error=error))
        return
    if not any(page.strip() for page in pages):
        detail = t("no text on {pages} pages; pictures of text need character recognition first", pages=len(pages))
        source.refuse(0, "no_text", detail)
        return
    if source.reading.by_page:
        for number, page in enumerate(pages, 1):
            if page.strip():
                yield from source.documents(page, number)
        return
    lines = ((number, line) for number, page in enumerate(pages, 1) for line in [*page.split("\n"), ""])
    yield from source.passages(lines, source.reading.passage_characters)


_ENDS = tuple("。！？!?.…；;:：”’」』")


def _unwrap(page: str) -> str:
    """Put together the lines of a printed paragraph: a full line without an end goes on in the next one."""
    lines = [line.strip() for line in page.split("\n")]
    full = 0.8 * max(map(len, lines))
    text = before = ""
    for line in lines:
        if not line or len(before) < max(1, full) or before.endswith(_ENDS):
            text += "\n" + line
        elif before.endswith("-") and line[0].islower():
            text = text[:-1] + line
        else:
            text += ("" if max(before[-1], line[0]) > "\u2e7f" else " ") + line
        before = line
    return text.strip("\n")
