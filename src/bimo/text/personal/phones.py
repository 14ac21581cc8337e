"""Telephone numbers of China and North America, and of others with + and their country.

The rule takes a line of the shadow of a text and yields (start, end).
"""

from __future__ import annotations

import re

from bimo.text.personal.cues import GAP, SPOKEN, THINGS, THINGS_IN_ENGLISH, Spans, announced, bare, said

__all__ = ["find_phones"]

_POINT = r"(?<=[A-Za-z\u4e00-\u9fff]\.)"
"""The point of a word that is cut short, and no decimal point: Tel.13812345678."""
_FREE = rf"(?:(?<![0-9A-Za-z.-])|{_POINT})"

# Cues may stand right before a number: Tel13812345678. What may come first is looked at first, since most places fail.
_MOBILE = re.compile(
    rf"(?=[+(018])(?:(?<![0-9A-Za-z.])|{_POINT}|(?<=[Tt]el)|(?<=TEL)|(?<=hone)|(?<=obile))"
    rf"(?:(?:\+|00)86{GAP}|\(?(?:\+|00)?86\){GAP})?1{GAP}[3-9](?:[ .()\-]{{0,2}}\d){{9}}(?![0-9A-Za-z])"
)
_MOBILE_GROUPS = ((3, 4, 4), (3, 8), (7, 4), (3, 3, 5), (4, 4, 3), (1,) * 11)
_GOES_ON = re.compile(r"(?<=\d) \d(?!\d)")
_MOBILE_SPOKEN = re.compile(rf"(?<!{SPOKEN})[一幺][三四五六七八九]{SPOKEN}{{9}}(?!{SPOKEN})")
_LANDLINE = re.compile(
    rf"(?=[+(0]){_FREE}(?:(?:\+|00)86[ -]?)?\(?0(?:10|2\d|[3-9]\d{{2}})(\)[ -]?|[ -]{{1,2}}|)"
    r"[2-8]\d{2,3}[ -]?\d{4}(?:(?:-|转| ext\.? ?)\d{1,5})?(?![0-9A-Za-z])"
)
_AMERICAN = re.compile(
    rf"(?=[+(0-9]){_FREE}(?<!\d )(?:(?:\+|00)?1[ .-]{{0,2}})?"
    r"(?:\((?P<area>[2-9]\d{2})\) {0,2}|(?P<bare>[2-9]\d{2})[ .-]{1,2})[2-9]\d{2}[ .-]{1,2}\d{4}"
    r"(?: ?(?:x|ext\.?) ?\d{1,5})?(?![0-9A-Za-z]|[.-]\d)"
)
_INTERNATIONAL = re.compile(r"(?<![0-9A-Za-z])\+[1-9]\d{0,2}(?:[ .()-]{0,2}\d){7,12}(?![0-9A-Za-z])")
_PLAIN = re.compile(rf"(?=[2-9]){_FREE}(?:[2-9]\d{{9}}|861[3-9]\d{{9}})(?![0-9A-Za-z])")
_LOCAL = re.compile(
    r"(?=[电座固传tcpf])(?:电话|座机|固话|传真|(?<![A-Za-z])(?:tel|(?:tele|cell)?phone|fax))"
    r"(?:号码?)?(?:是|为)?[ :.]{0,3}"
    r"(?P<number>[2-8]\d{2,3}[ -]?\d{4}(?:(?:-|转| ext\.? ?)\d{1,5})?)(?![0-9A-Za-z]|[.,-]\d)",
    re.IGNORECASE,
)
_ANY_SHAPE = re.compile(
    rf"(?=[+(0-9]){_FREE}(?<![,$])(?:\+|00)?\(?\d{{2,5}}\)?(?:[ ./-]{{1,2}}\d{{2,5}}){{1,4}}"
    r"(?: ?x\d{1,5})?(?![0-9A-Za-z]|[.,]\d)"
)
_YEARS_OR_DAY = re.compile(
    r"(?:(?:(?:1[89]|20)\d\d[ ./-]{1,2}){1,4}(?:1[89]|20)\d\d|(?:1[89]|20)\d\d([ ./-])\d{1,2}\1\d{1,2}"
    r"|\d{1,2}([ ./-])\d{1,2}\2(?:1[89]|20)\d\d)(?!\d)"
)
"""An hour may follow: 2023-10-15 14:30."""
_CALLS = r"(?<![A-Za-z])(?:(?:tele|cell)?phone|call|tel(?![a-z])|fax|mobile|cell"
_CALL_NOW = re.compile(
    rf"(?:电话|手机|座机|致电|拨打|{_CALLS}))[^\d\n]{{0,16}}$"
    r"|\b(?:call|ring|(?:reach|text) (?:me|us|him|her|them))\b[^\d\n]{0,20}$",
    re.IGNORECASE,
)
_AMOUNT = re.compile(
    r"(?:(?:价格?|费用?|分辨率|像素|电池)(?:[在为是约]|分别|大约)+|话费"
    r"|(?<![A-Za-z])(?:costs|prices?(?: (?:of|at|is|are|about))+|between)) ?$",
    re.IGNORECASE,
)
_UNIT = re.compile(
    r" ?(?:万?(?:元(?![旦宵月])|[美欧日]元|块|英镑|港币|人民币|毫安|像素|分辨率)|万[台部]|之间|左右|不等|%"
    r"|(?:dollars?|euros?|pounds?|yuan|USD|EUR|GBP|RMB|CNY|HKD|mAh|pixels?|px)(?![A-Za-z]))",
    re.IGNORECASE,
)
"""Right before and right behind a number these say that it counts something: 手机2000-3000元, but 电话555-2368元旦休息.

A range by itself has the shape of a telephone: 2345-6789.
"""
_CALL = re.compile(
    rf"电话|座机|固话|固定|手机|致电|拨打|联系|打(?!印|包|开)|传真|号码|{_CALLS}|ring(?![a-z])"
    r"|(?:my|his|her|our|your|their|contact) number)",
    re.IGNORECASE,
)
_NO_CALL = announced(f"{THINGS}|型号|版本", f"{THINGS_IN_ENGLISH}|doi|part")
_FREE_OF_CHARGE = ("400", "800", "888", "877", "866", "855", "844", "833")


def find_phones(text: str) -> Spans:
    """Mobiles and landlines of China, numbers of North America, and others with + and their country."""
    for found in _MOBILE.finditer(text):
        start = found.start()
        groups = tuple(len(group) for group in re.findall(r"\d+", re.sub(r"^\W*(?:00)?86\D", "", found[0])))
        if (
            max(groups) < 11
            and groups not in _MOBILE_GROUPS
            and not (len(groups) == 2 and said(_CALL_NOW, text, start))
        ):
            continue  # a version, or a row of numbers
        row = max(groups) == 1 and (_GOES_ON.match(text, found.end()) or _GOES_ON.match(text, start - 1))
        if said(_CALL, text, start) or not (row or said(_NO_CALL, text, start)):
            yield found.span()
    for found in _MOBILE_SPOKEN.finditer(text):
        yield found.span()
    for found in _LANDLINE.finditer(text):
        if found[1] or said(_CALL, text, found.start()):
            yield found.span()
    for found in _AMERICAN.finditer(text):
        if (found["area"] or found["bare"]) in _FREE_OF_CHARGE:
            continue
        if said(_CALL, text, found.start()) or (_is_american(found) and not said(_NO_CALL, text, found.start())):
            yield found.span()
    for found in _INTERNATIONAL.finditer(text) if "+" in text else ():
        yield found.span()
    for found in _ANY_SHAPE.finditer(text):
        if _YEARS_OR_DAY.match(found[0]) or not 7 <= len(bare(found[0])) <= 13:
            continue
        if said(_CALL_NOW, text, found.start()) and not _counts(text, *found.span()):
            yield found.span()
    for found in _PLAIN.finditer(text):
        if said(_CALL, text, found.start(), 14) and not said(_NO_CALL, text, found.start()):
            yield found.span()
    for found in _LOCAL.finditer(text):
        if not _YEARS_OR_DAY.match(found["number"]) and not _counts(text, *found.span("number")):
            yield found.span("number")


def _is_american(found: re.Match[str]) -> bool:
    """Whether what looks like a number of North America is none of 256 512 1024, 256-512-1024 or 300.400-1000."""
    if found["area"] or found[0].startswith(("+", "00")):
        return True
    area, first, office, second, last = re.findall(r"\d+|\D+", found.string[found.start("bare") : found.end()])[:5]
    row = not (first + second).strip() or ("." in first) != ("." in second)
    return not row and not 4 * int(area) == 2 * int(office) == int(last)


def _counts(text: str, start: int, end: int) -> bool:
    """Whether the words beside a number say that it is an amount."""
    return _UNIT.match(text, end) is not None or said(_AMOUNT, text, start)
