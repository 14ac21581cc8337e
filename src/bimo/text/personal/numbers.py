"""Numbers that belong to one person: by their standard where that has a check, by the words before them where not.

Every rule takes a line of the shadow of a text and yields (start, end).
"""

from __future__ import annotations

import re

from bimo.text.personal.checks import (
    is_bank_card,
    is_credit_code,
    is_date,
    is_iban,
    is_id_number,
    is_recent,
    luhn_digit,
)
from bimo.text.personal.cues import (
    CLOSED,
    FREE,
    GAP,
    NEAR,
    NUMERALS,
    SPOKEN,
    THINGS,
    THINGS_IN_ENGLISH,
    Spans,
    announced,
    bare,
    said,
)

__all__ = [
    "PLATE_BEGINS",
    "find_account_ids",
    "find_bank_cards",
    "find_birth_dates",
    "find_credit_codes",
    "find_emails",
    "find_ibans",
    "find_id_numbers",
    "find_passports",
    "find_plates",
    "find_ssns",
]

_ID = re.compile(rf"{FREE}[1-8](?:{GAP}\d){{16}}{GAP}[\dXx]{CLOSED}")
_ID_SHORT = re.compile(rf"{FREE}[1-8]\d{{7}}(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])\d{{3}}{CLOSED}")
"""As they were given out until 1999."""
_ID_SPOKEN = re.compile(rf"(?<!{SPOKEN}){SPOKEN}{{17}}(?:{SPOKEN}|[Xx])(?!{SPOKEN})")
_ID_CUE = re.compile(r"身份证|身份号码|证件号|identity|\bID\b", re.IGNORECASE)


def find_id_numbers(text: str) -> Spans:
    """Resident identity numbers: valid ones anywhere, mistyped ones after words that announce them."""
    for found in _ID.finditer(text):
        number = bare(found[0])
        if is_id_number(number) or (said(_ID_CUE, text, found.start()) and number[6:8] in ("19", "20")):
            yield found.span()
    for found in _ID_SHORT.finditer(text):
        if said(_ID_CUE, text, found.start()):
            yield found.span()
    for found in _ID_SPOKEN.finditer(text):
        if is_id_number(found[0].translate(NUMERALS)):
            yield found.span()


_CREDIT = re.compile(rf"{FREE}[1-9ANY][1-9A-G](?:{GAP}\d){{6}}(?:{GAP}[0-9A-Z]){{10}}{CLOSED}")
_CREDIT_CUE = re.compile(r"代码|税号|识别号|执照|credit code|\btax|uscc|regist", re.IGNORECASE)
_NO_OWNER = announced(THINGS, THINGS_IN_ENGLISH)


def find_credit_codes(text: str) -> Spans:
    """Unified social credit codes. One in 31 rows of digits ends as one does, so these must be announced or in one."""
    for found in _CREDIT.finditer(text):
        code = bare(found[0])
        if not is_credit_code(code):
            continue
        one = found[0].isdigit() and not said(_NO_OWNER, text, found.start())
        if one or not code.isdigit() or said(_CREDIT_CUE, text, found.start()):
            yield found.span()


_CARD = re.compile(rf"{FREE}[2-9]\d{{2}}(?:{GAP}\d){{9,16}}{CLOSED}")
_CARD_CUE = re.compile(r"卡|账号|帐号|户|转账|汇款|支付|\bcard|visa|mastercard|amex|credit|debit|pay", re.IGNORECASE)
_IN_ONE = re.compile(rf"{FREE}\d{{13,19}}{CLOSED}")
_PRINTED = re.compile(r"\d+|(?:\d{4}[ -]{1,2}){3,4}\d{1,4}|\d{4}[ -]\d{6}[ -]\d{4,5}")
"""As cards are printed."""


def find_bank_cards(text: str) -> Spans:
    """Cards of a known issuer with Luhn's digit, alone or in a row; not what is announced as something else."""
    place = 0
    while found := _CARD.search(text, place):
        named = said(_CARD_CUE, text, found.start())
        end = _card_end(found, named) if named or not said(_NO_OWNER, text, found.start()) else None
        if end is not None:
            yield found.start(), end
            place = end
        else:
            in_one = _IN_ONE.search(text, found.start() + 1, found.end())
            place = in_one.start() if in_one else found.end()


def _card_end(found: re.Match[str], named: bool) -> int | None:
    """Where a card ends that begins here: with the last group that fits, or with the row if no issuer is known here.

    In a row of numbers that says nothing of cards only what is printed like one counts.
    """
    for group in reversed([*re.finditer(r"\d+", found[0])]):
        piece = found[0][: group.end()]
        if is_bank_card(bare(piece)) and (named or piece == found[0] or _PRINTED.fullmatch(piece)):
            return found.start() + group.end()
    number = bare(found[0])
    return found.end() if named and luhn_digit(number[:-1]) == number[-1] else None


_SSN = re.compile(r"(?<![0-9A-Za-z-])(?!000|666|9)\d{3}[ -]?(?!00)\d{2}[ -]?(?!0000)\d{4}(?![0-9A-Za-z-])")
_SSN_DASHED = re.compile(r"\d{3}-\d{2}-\d{4}")
_SSN_CUE = re.compile(r"\bSSN|social security|社会安全|社保号", re.IGNORECASE)


def find_ssns(text: str) -> Spans:
    """US Social Security numbers in ranges that are given out: with dashes anywhere, else after their name."""
    for found in _SSN.finditer(text):
        if _SSN_DASHED.fullmatch(found[0]) or said(_SSN_CUE, text, found.start(), 2 * NEAR):
            yield found.span()


_IBAN = re.compile(rf"{FREE}[A-Za-z]{{2}} ?\d{{2}}(?=[ -]{{0,2}}[0-9A-Za-z]{{4}})")
_IBAN_CUE = re.compile("iban", re.IGNORECASE)
_SEPARATED = re.compile("[ -]{1,2}(?=[0-9A-Za-z])")


def find_ibans(text: str) -> Spans:
    """ISO 13616, in one or in groups."""
    for found in _IBAN.finditer(text):
        number, place = bare(found[0]), found.end()
        if " " in found[0] and not said(_IBAN_CUE, text, found.start()):
            continue  # at 20 minutes past ...
        while place < len(text) and len(number) < 34:
            if separated := _SEPARATED.match(text, place):
                place = separated.end()
            if not (text[place].isascii() and text[place].isalnum()):
                break
            number += text[place]
            place += 1
            ends = place == len(text) or not (text[place].isascii() and text[place].isalnum())
            if ends and is_iban(number):
                yield found.start(), place
                break


_LETTER = "A-Za-z0-9\u00c0-\u024f"
_EMAIL = re.compile(
    rf"(?:(?<![{_LETTER}])[{_LETTER}][{_LETTER}._%+'-]{{0,63}}|(?<![{_LETTER}._-])[\u4e00-\u9fff]{{2,3}})"
    rf"(?: ?@ ?| ?[\[(]at[\])] ?)(?:(?:[{_LETTER}-]{{1,63}}|[\u4e00-\u9fff]{{1,63}})\.){{1,5}}"
    r"(?:[A-Za-z]{2,24}|中国)(?![A-Za-z0-9])"
)

_EXAMPLE = re.compile(r"(?:@ ?|\.)example\.(?:com|net|org)$", re.IGNORECASE)


def find_emails(text: str) -> Spans:
    """RFC 5322 as far as people use it; not the hosts that RFC 2606 keeps for examples."""
    if "@" in text or "(at)" in text or "[at]" in text:
        for found in _EMAIL.finditer(text):
            if not _EXAMPLE.search(found[0]):
                yield found.span()


_PASSPORT = re.compile(rf"{FREE}(?:[A-Z][A-Z]?\d{{7,8}}|\d{{9}}){CLOSED}")
_PASSPORT_CUE = re.compile(r"护照|passport", re.IGNORECASE)


def find_passports(text: str) -> Spans:
    """Letters and digits after the word: alone they could be anything."""
    for found in _PASSPORT.finditer(text):
        if said(_PASSPORT_CUE, text, found.start()):
            yield found.span()


PLATE_BEGINS = "[京津冀晋蒙辽吉黑沪苏浙皖闽赣鲁豫鄂湘粤桂琼渝川贵云藏陕甘青宁新][A-HJ-NP-Z] ?[·•. ]?"
_PLATE = re.compile(
    rf"{PLATE_BEGINS}"
    r"(?:[A-HJ-NP-Z]\d{5}|\d{5}[A-HJ-NP-Z]|[A-HJ-NP-Z0-9]{2,4}\d[A-HJ-NP-Z0-9学警港澳挂]?)(?![0-9A-Za-z])"
)


def find_plates(text: str) -> Spans:
    """GA 36: province, office, five places, or six where the car is electric."""
    for found in _PLATE.finditer(text):
        if 5 <= len(bare(found[0])) - 1 <= 6 or found[0][-1] in "学警港澳挂":
            yield found.span()


_ACCOUNT = re.compile(
    r"(?=[加微薇扣企wq])(?:加(?:我|下|一下)?的?(?P<added>))?(?:微信|薇信|扣扣|企鹅|(?<![A-Za-z])(?:weixin|wechat|QQ)(?=id|[^A-Za-z]))"
    r"(?P<label> ?id(?![a-z])|账号|帐号|号码|号|同号)?[ :]{0,2}(?P<verb>是|为|换成|加|改成)?"
    r"[ :]{0,2}[\"“]?"
    r"(?P<id>[A-Za-z][A-Za-z0-9_-]{5,19}|[1-9]\d{4,10})(?![0-9A-Za-z_-])",
    re.IGNORECASE,
)
_NO_WORD = re.compile("[0-9_]")
_HAN = re.compile("[\u4e00-\u9fff]")


def find_account_ids(text: str) -> Spans:
    """WeChat and QQ, after their names; what has letters alone may be any word, so more must announce it."""
    for found in _ACCOUNT.finditer(text):
        announced = found["label"] or found["added"] is not None or ":" in text[found.start() : found.start("id")]
        says = found["verb"] and not _HAN.match(text, found.end())  # 微信是Tencent的产品 goes on
        if announced or says or _NO_WORD.search(found["id"]):
            yield found.span("id")


_MONTH = (
    r"(?:Jan(?:uary)?|Feb(?:ruary)?|Mar(?:ch)?|Apr(?:il)?|May|June?|July?|Aug(?:ust)?|Sept?(?:ember)?|Oct(?:ober)?"
    r"|Nov(?:ember)?|Dec(?:ember)?)\.?"
)
_SPOKEN_DAY = "[一二三四五六七八九十廿]{1,3}"
_DATE = re.compile(
    rf"(?<!\d)(?:(?P<y>(?:1[89]|20)\d\d) ?[-/.年] ?(?P<m>\d{{1,2}}) ?[-/.月] ?(?P<d>\d{{1,2}})日?"
    rf"|\d{{1,2}}[-/.]\d{{1,2}}[-/.](?P<y2>(?:1[89]|20)\d\d)"
    rf"|{_MONTH} \d{{1,2}}(?:st|nd|rd|th)?,? (?P<y3>(?:1[89]|20)\d\d)"
    rf"|\d{{1,2}}(?:st|nd|rd|th)? {_MONTH},? (?P<y4>(?:1[89]|20)\d\d)"
    rf"|(?P<y5>[一二]{SPOKEN}{{3}})年{_SPOKEN_DAY}月{_SPOKEN_DAY}[日号]"
    r"|(?P<y6>(?:19|20)\d\d)(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01]))(?!\d)",
    re.IGNORECASE,
)
_BORN = ("生", "dob", "birth", "born")
"""One of them is in all that may stand before or after; to look for these is cheaper than to look for dates."""
_BORN_BEFORE = re.compile(r"出生|生日|生于|\bDOB\b|birth|\bborn\b", re.IGNORECASE)
_BORN_AFTER = re.compile(r" ?(?:出生|诞生|生人|生[,。;) ])")


def find_birth_dates(text: str) -> Spans:
    """Dates that are said to be of a birth, of somebody who may be alive."""
    lower = text.lower()
    if not any(cue in lower for cue in _BORN):
        return
    for found in _DATE.finditer(text):
        if not said(_BORN_BEFORE, text, found.start()) and not _BORN_AFTER.match(text, found.end()):
            continue
        year = next(value for name, value in found.groupdict().items() if name.startswith("y") and value)
        if not is_recent(int(year.translate(NUMERALS))):
            continue
        if found["y"] and not is_date(int(found["y"]), int(found["m"]), int(found["d"])):
            continue
        yield found.span()
