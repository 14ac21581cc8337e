"""Characters repaired and in one form, before anything else looks at a text."""

from __future__ import annotations

import re
import unicodedata

__all__ = ["count_damage", "normalize"]

_LINE_ENDS = re.compile("\r\n?|[\x0b\x0c\x1c-\x1e\x85\u2028\u2029]")
# Control characters, soft hyphens, zero-width and direction marks, private use, noncharacters, lone surrogates.
# Tags only belong behind a black flag, which they make that of England, Scotland or Wales (Unicode TS 51): group 1.
_INVISIBLE = re.compile(
    "(\U0001f3f4[\U000e0030-\U000e0039\U000e0061-\U000e007a]{3,6}\U000e007f)|"
    "[\x00-\x08\x0e-\x1f\x7f-\x9f\xad\u061c\u115f\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u206f\ufeff"
    "\ufff0-\ufffb\ud800-\udfff\ue000-\uf8ff\ufdd0-\ufdef\ufffe\uffff\U000e0000-\U000e0fff\U000f0000-\U0010ffff]"
)
# Joiners have a meaning in emoji and in Arabic and Indian scripts, and nowhere else.
_JOINERS = re.compile("(?<![\u0590-\u0fff\ufe0f\u2600-\u27bf\U0001f000-\U0001faff])[\u200c\u200d]")
_BLANKS = re.compile("[\xa0\u2000-\u200a\u202f\u205f]")
_INDENT = re.compile("^[ \t]*\u3000[ \t\u3000]*", re.MULTILINE)
_TRAILING = re.compile("[ \t\u3000]+$", re.MULTILINE)
_BLANK_LINES = re.compile("\n{4,}")
_ODD = re.compile("[^\n\t -~\u00a1-\u00ac\u00ae-\u02ff\u3001-\u3098\u309b-\u33ff\u4e00-\u9fff\uff01-\uff5e‘’“”…—–·]")

# UTF-8 that was read as Western text ("Ã©", "â€œ", "ä½ ") or as GB18030 ("浣犲ソ锛"). What stands for the first of
# three bytes is also a letter that quotes, dots and dashes follow: "Beyoncé’s", "“Café…”".
_LATER = "[\x80-\xbf\u0152\u0153\u0160\u0161\u0178\u017d\u017e\u0192\u02c6\u02dc\u2013-\u203a\u20ac\u2122]"
_WESTERN_DAMAGE = re.compile(f"[ÂÃÎÏÐÑ]{_LATER}|[âãäåæçèéï](?![«»‘’“”‹›…–—]{{2}}){_LATER}{{2}}")
_CHINESE_DAMAGE = "锛銆鐨鏄涓"


def normalize(text: str) -> str:
    """Repaired and in one form: NFC, `\\n` alone, no invisible characters, no trailing blanks, two blank lines at most.

    Full-width punctuation and curly quotes stay as written (so not NFKC). Full-width blanks at the start of a line go:
    they only mark a paragraph, which its line end does already. ASCII indentation stays, code and verse need it.
    """
    text = _repair(text)
    if _ODD.search(text):
        text = _LINE_ENDS.sub("\n", text)
        text = _BLANKS.sub(" ", _JOINERS.sub("", _INVISIBLE.sub(r"\1", text)))
        if "\u3000" in text:
            text = _INDENT.sub("", text)
        if not unicodedata.is_normalized("NFC", text):
            text = unicodedata.normalize("NFC", text)
    if " \n" in text or "\t\n" in text or "\u3000\n" in text:
        text = _TRAILING.sub("", text)
    if "\n\n\n\n" in text:
        text = _BLANK_LINES.sub("\n\n\n", text)
    return text.strip("\n").rstrip()


def count_damage(text: str) -> int:
    """How many places look like UTF-8 that was read as Western text."""
    return 0 if text.isascii() else len(_WESTERN_DAMAGE.findall(text))


def _repair(text: str) -> str:
    """Undo decoding with the wrong encoding, where that is certain; each line by itself."""
    if text.isascii():
        return text
    if _WESTERN_DAMAGE.search(text):
        import ftfy

        text = "\n".join(ftfy.fix_encoding(line) if _WESTERN_DAMAGE.search(line) else line for line in text.split("\n"))
    if any(sign in text for sign in _CHINESE_DAMAGE):
        text = "\n".join(_repair_chinese(line) for line in text.split("\n"))
    return text


def _repair_chinese(line: str) -> str:
    if sum(line.count(sign) for sign in _CHINESE_DAMAGE) < 2:
        return line
    try:
        return line.encode("gb18030").decode("utf-8")
    except UnicodeError:
        return line
