"""Numbers that belong to one person: by their standard where that has a check, by the words before them where not.

Every rule takes a line of the shadow of a text and yields (start, end).
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator

from bimo.text.personal.checks import (
    is_bank_card,
    is_credit_code,
    is_date,
    is_iban,
    is_id_number,
    is_recent,
    luhn_digit,
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
    "find_ips",
    "find_macs",
    "find_passports",
    "find_phones",
    "find_plates",
    "find_ssns",
]

Spans = Iterator[tuple[int, int]]

_NEAR = 24
"""So many characters before a number say what it is."""

_FREE = r"(?<![0-9A-Za-z])"
_CLOSED = r"(?![0-9A-Za-z])"
_GAP = r"[ .\-]{0,2}"
_NUMERALS = str.maketrans("零〇一二三四五六七八九幺两壹贰叁肆伍陆柒捌玖", "0012345678912123456789")
_SPOKEN = "[零〇一二三四五六七八九幺]"


def _before(line: str, start: int, size: int = _NEAR) -> str:
    """What stands before a place."""
    return line[max(0, start - size) : start]


def _said(cue: re.Pattern[str], line: str, start: int, size: int = _NEAR) -> bool:
    """Whether a cue stands before a place; it sees whether a word begins before these characters."""
    return cue.search(line, max(0, start - size), start) is not None


def _bare(piece: str) -> str:
    return re.sub(r"[^0-9A-Za-z]", "", piece)


_ID = re.compile(rf"{_FREE}[1-8](?:{_GAP}\d){{16}}{_GAP}[\dXx]{_CLOSED}")
_ID_SHORT = re.compile(rf"{_FREE}[1-8]\d{{7}}(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])\d{{3}}{_CLOSED}")
"""As they were given out until 1999."""
_ID_SPOKEN = re.compile(rf"(?<!{_SPOKEN}){_SPOKEN}{{17}}(?:{_SPOKEN}|[Xx])(?!{_SPOKEN})")
_ID_CUE = re.compile(r"身份证|身份号码|证件号|identity|\bID\b", re.IGNORECASE)


def find_id_numbers(text: str) -> Spans:
    """Resident identity numbers: valid ones anywhere, mistyped ones after words that announce them."""
    for found in _ID.finditer(text):
        number = _bare(found[0])
        if is_id_number(number) or (_ID_CUE.search(_before(text, found.start())) and number[6:8] in ("19", "20")):
            yield found.span()
    for found in _ID_SHORT.finditer(text):
        if _ID_CUE.search(_before(text, found.start())):
            yield found.span()
    for found in _ID_SPOKEN.finditer(text):
        if is_id_number(found[0].translate(_NUMERALS)):
            yield found.span()


_CREDIT = re.compile(rf"{_FREE}[1-9ANY][1-9A-G](?:{_GAP}\d){{6}}(?:{_GAP}[0-9A-Z]){{10}}{_CLOSED}")


def find_credit_codes(text: str) -> Spans:
    """Unified social credit codes."""
    for found in _CREDIT.finditer(text):
        if is_credit_code(_bare(found[0])):
            yield found.span()


_CARD = re.compile(rf"{_FREE}[2-9]\d{{2}}(?:{_GAP}\d){{9,16}}{_CLOSED}")
_CARD_CUE = re.compile(r"卡|账号|帐号|户|转账|汇款|支付|\bcard|visa|mastercard|amex|credit|debit|pay", re.IGNORECASE)
_THINGS = "订单|单号|流水|编号|序列|条码|条形码|批次|专利"
_THINGS_IN_ENGLISH = "ISBN|EAN|GTIN|UPC|IMEI|order|invoice|tracking|serial|barcode|batch|timestamp|unix"


def _announced(chinese: str, english: str) -> re.Pattern[str]:
    """One of these words in the same clause as what follows; the Latin ones whole, since Jean is no EAN."""
    latin = rf"(?<![A-Za-z])(?:{english})s?(?-i:(?![a-z]))"
    return re.compile(rf"(?:{chinese}|{latin})[^,;。!?\n]*$", re.IGNORECASE)


_NO_CARD = _announced(_THINGS, _THINGS_IN_ENGLISH)


def find_bank_cards(text: str) -> Spans:
    """Cards of a known issuer with Luhn's digit; not what is announced as something else."""
    for found in _CARD.finditer(text):
        before = _before(text, found.start())
        number, announced = _bare(found[0]), _CARD_CUE.search(before)
        if is_bank_card(number) and (announced or not _NO_CARD.search(before)):
            yield found.span()
        elif announced and luhn_digit(number[:-1]) == number[-1]:
            yield found.span()  # of an issuer that is not known here


# Cues may stand right before a number: Tel13812345678. What may come first is looked at first, since most places fail.
_MOBILE = re.compile(
    rf"(?=[+(018])(?:(?<![0-9A-Za-z.])|(?<=[Tt]el)|(?<=TEL)|(?<=hone)|(?<=obile))"
    rf"(?:(?:\+|00)86{_GAP}|\(?(?:\+|00)?86\){_GAP})?1{_GAP}[3-9](?:[ .()\-]{{0,2}}\d){{9}}(?![0-9A-Za-z])"
)
_MOBILE_GROUPS = ((3, 4, 4), (3, 8), (7, 4), (3, 3, 5), (4, 4, 3), (1,) * 11)
_MOBILE_SPOKEN = re.compile(rf"(?<!{_SPOKEN})[一幺][三四五六七八九]{_SPOKEN}{{9}}(?!{_SPOKEN})")
_LANDLINE = re.compile(
    r"(?=[+(0])(?<![0-9A-Za-z.-])(?:(?:\+|00)86[ -]?)?\(?0(?:10|2\d|[3-9]\d{2})(\)[ -]?|[ -]{1,2}|)"
    r"[2-8]\d{2,3}[ -]?\d{4}(?:(?:-|转| ext\.? ?)\d{1,5})?(?![0-9A-Za-z])"
)
_AMERICAN = re.compile(
    r"(?=[+(0-9])(?<![0-9A-Za-z.-])(?<!\d )(?:(?:\+|00)?1[ .-]{0,2})?"
    r"(?:\((?P<area>[2-9]\d{2})\) {0,2}|(?P<bare>[2-9]\d{2})[ .-]{1,2})[2-9]\d{2}[ .-]{1,2}\d{4}"
    r"(?: ?(?:x|ext\.?) ?\d{1,5})?(?![0-9A-Za-z]|[.-]\d)"
)
_INTERNATIONAL = re.compile(r"(?<![0-9A-Za-z])\+[1-9]\d{0,2}(?:[ .()-]{0,2}\d){7,12}(?![0-9A-Za-z])")
_PLAIN = re.compile(r"(?<![0-9A-Za-z.-])(?:[2-9]\d{9}|861[3-9]\d{9})(?![0-9A-Za-z])")
_LOCAL = re.compile(
    r"(?=[电座固传tcpf])(?:电话|座机|固话|传真|(?<![A-Za-z])(?:tel|(?:tele|cell)?phone|fax))"
    r"(?:号码?)?(?:是|为)?[ :.]{0,3}"
    r"(?P<number>[2-8]\d{2,3}[ -]?\d{4}(?:(?:-|转| ext\.? ?)\d{1,5})?)(?![0-9A-Za-z]|[.,-]\d)",
    re.IGNORECASE,
)
_ANY_SHAPE = re.compile(
    r"(?=[+(0-9])(?<![0-9A-Za-z.,$-])(?:\+|00)?\(?\d{2,5}\)?(?:[ ./-]{1,2}\d{2,5}){1,4}"
    r"(?: ?x\d{1,5})?(?![0-9A-Za-z]|[.,]\d)"
)
_YEARS_OR_DAY = re.compile(
    r"(?:(?:1[89]|20)\d\d[ ./-]{1,2}){1,4}(?:1[89]|20)\d\d|(?:1[89]|20)\d\d([ ./-])\d{1,2}\1\d{1,2}"
    r"|\d{1,2}([ ./-])\d{1,2}\2(?:1[89]|20)\d\d"
)
_CALLS = r"(?<![A-Za-z])(?:(?:tele|cell)?phone|call|tel(?![a-z])|fax|mobile|cell"
_CALL_NOW = re.compile(
    rf"(?:电话|手机|座机|致电|拨打|{_CALLS}))[^\d\n]{{0,16}}$"
    r"|\b(?:call|ring|(?:reach|text) (?:me|us|him|her|them))\b[^\d\n]{0,20}$",
    re.IGNORECASE,
)
_CALL = re.compile(
    rf"电话|座机|固话|固定|手机|致电|拨打|联系|打(?!印|包|开)|传真|号码|{_CALLS}|ring(?![a-z])"
    r"|(?:my|his|her|our|your|their|contact) number)",
    re.IGNORECASE,
)
_NO_CALL = _announced(f"{_THINGS}|型号|版本", f"{_THINGS_IN_ENGLISH}|doi|part")
_FREE_OF_CHARGE = ("400", "800", "888", "877", "866", "855", "844", "833")


def find_phones(text: str) -> Spans:
    """Mobiles and landlines of China, numbers of North America, and others with + and their country."""
    for found in _MOBILE.finditer(text):
        start = found.start()
        groups = tuple(len(group) for group in re.findall(r"\d+", re.sub(r"^\W*(?:00)?86\D", "", found[0])))
        if (
            max(groups) < 11
            and groups not in _MOBILE_GROUPS
            and not (len(groups) == 2 and _said(_CALL_NOW, text, start))
        ):
            continue  # a version, or a row of numbers
        if _said(_CALL, text, start) or not _said(_NO_CALL, text, start):
            yield found.span()
    for found in _MOBILE_SPOKEN.finditer(text):
        yield found.span()
    for found in _LANDLINE.finditer(text):
        if found[1] or _said(_CALL, text, found.start()):
            yield found.span()
    for found in _AMERICAN.finditer(text):
        if (found["area"] or found["bare"]) in _FREE_OF_CHARGE:
            continue
        if _said(_CALL, text, found.start()) or (_is_american(found) and not _said(_NO_CALL, text, found.start())):
            yield found.span()
    for found in _INTERNATIONAL.finditer(text) if "+" in text else ():
        yield found.span()
    for found in _ANY_SHAPE.finditer(text):
        if _YEARS_OR_DAY.fullmatch(found[0]) or not 7 <= len(_bare(found[0])) <= 13:
            continue
        if _said(_CALL_NOW, text, found.start()):
            yield found.span()
    for found in _PLAIN.finditer(text):
        if _said(_CALL, text, found.start(), 14) and not _said(_NO_CALL, text, found.start()):
            yield found.span()
    for found in _LOCAL.finditer(text):
        if not _YEARS_OR_DAY.fullmatch(found["number"]):
            yield found.span("number")


def _is_american(found: re.Match[str]) -> bool:
    """Whether what looks like a number of North America is none of 256 512 1024, 256-512-1024 or 300.400-1000."""
    if found["area"] or found[0].startswith(("+", "00")):
        return True
    area, first, office, second, last = re.findall(r"\d+|\D+", found.string[found.start("bare") : found.end()])[:5]
    row = not (first + second).strip() or ("." in first) != ("." in second)
    return not row and not 4 * int(area) == 2 * int(office) == int(last)


_SSN = re.compile(r"(?<![0-9A-Za-z-])(?!000|666|9)\d{3}[ -]?(?!00)\d{2}[ -]?(?!0000)\d{4}(?![0-9A-Za-z-])")
_SSN_DASHED = re.compile(r"\d{3}-\d{2}-\d{4}")
_SSN_CUE = re.compile(r"\bSSN|social security|社会安全|社保号", re.IGNORECASE)


def find_ssns(text: str) -> Spans:
    """US Social Security numbers in ranges that are given out: with dashes anywhere, else after their name."""
    for found in _SSN.finditer(text):
        if _SSN_DASHED.fullmatch(found[0]) or _SSN_CUE.search(_before(text, found.start(), 2 * _NEAR)):
            yield found.span()


_IBAN = re.compile(rf"{_FREE}[A-Za-z]{{2}} ?\d{{2}}(?=[ -]{{0,2}}[0-9A-Za-z]{{4}})")
_SEPARATED = re.compile("[ -]{1,2}(?=[0-9A-Za-z])")


def find_ibans(text: str) -> Spans:
    """ISO 13616, in one or in groups."""
    for found in _IBAN.finditer(text):
        number, place = _bare(found[0]), found.end()
        if " " in found[0] and "iban" not in _before(text, found.start()).lower():
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


_OCTET = r"(?:25[0-5]|2[0-4]\d|1?\d?\d)"
_QUAD = rf"{_OCTET}(?:(?:\.|\[\.\]){_OCTET}){{3}}"
_IPV4 = re.compile(
    rf"(?<![0-9A-Za-z._-])(?<![A-Za-z]/)(?P<first>{_QUAD})(?:-(?P<last>{_QUAD}))?(?![0-9A-Za-z]|[.-]\d|\.[a-z])"
)
_NETWORK = re.compile(r"/(?:[12]?\d|3[01])(?!\d)")
_IPV6 = re.compile(
    r"(?:(?<![0-9A-Za-z:.])|(?<=IP:)|(?<=ip:)|(?<=ess:)|(?<=址:))(?=[0-9A-Fa-f]|::)"
    r"(?:[0-9A-Fa-f]{0,4}:){2,7}[0-9A-Fa-f]{0,4}(?![0-9A-Za-z:])"
)
_VERSION = re.compile(
    r"(?:版本|内核|固件|version|firmware|release|build|kernel|升级)[^,。;]{0,12}$|\bv$", re.IGNORECASE
)
_VERSION_AFTER = re.compile(" ?版")
_SECTION = re.compile(r"(?:第|§|章节|条款|\b(?:sub)?sections?|\bclauses?|\bchapters?) ?$", re.IGNORECASE)
_SECTION_AFTER = re.compile(" ?(?:小节|节|章|条|款)")
_HEADING_BEFORE, _HEADING_AFTER = re.compile(r"[\s#*>-]*"), re.compile(r"\.?\s+(?:[A-Z][a-z]|[\u4e00-\u9fff])")
_MOST_SECTIONS = 30
"""In no heading has a part of its number so many; few addresses of hosts have four parts that are less."""
_NOBODY = ("127.0.0.1", "0.0.0.0")
_LEAST_HEXADECIMAL = 6


def find_ips(text: str) -> Spans:
    """Addresses of both versions; not version numbers, and not those that every machine has."""
    for found in _IPV4.finditer(text) if text.count(".") >= 3 else ():
        versioned = _VERSION.search(_before(text, found.start())) or _VERSION_AFTER.match(text, found.end())
        network = _NETWORK.match(text, found.end()) and not text.endswith("://", 0, found.start())
        if versioned or network or _is_section(found):
            continue
        for part in ("first", "last"):
            if found[part] and not found[part].startswith("255.255.") and found[part] not in _NOBODY:
                yield found.span(part)
    for found in _IPV6.finditer(text) if text.count(":") >= 2 else ():
        try:
            ipaddress.IPv6Address(found[0])
        except ValueError:
            continue
        if len(_bare(found[0])) >= _LEAST_HEXADECIMAL and text[found.end() : found.end() + 1] != "/":
            yield found.span()


def _is_section(found: re.Match[str]) -> bool:
    """第4.1.2.3节, or the heading 3.2.1.4 Overview; what begins with 10 is of a private network."""
    text, start, end = found.string, found.start(), found.end()
    if _SECTION_AFTER.match(text, end) or _SECTION.search(_before(text, start)):
        return True
    heading = _HEADING_AFTER.match(text, end) and _HEADING_BEFORE.fullmatch(text, 0, start)
    parts = [int(part) for part in re.findall(r"\d+", found["first"])]
    return heading is not None and max(parts) < _MOST_SECTIONS and parts[0] != 10


_MAC = re.compile(
    r"(?:(?<![0-9A-Za-z:-])|(?<=MAC:)|(?<=mac:)|(?<=ddr:)|(?<=ess:)|(?<=址:))"
    r"[0-9A-Fa-f]{2}([:-])(?:[0-9A-Fa-f]{2}\1){4}[0-9A-Fa-f]{2}(?![0-9A-Za-z:-])"
    r"|(?<![0-9A-Za-z.])[0-9A-Fa-f]{4}\.[0-9A-Fa-f]{4}\.[0-9A-Fa-f]{4}(?![0-9A-Za-z]|\.\d)"
)


def find_macs(text: str) -> Spans:
    """IEEE 802 addresses in pairs, or in three groups of four."""
    if max(text.count(":"), text.count("-")) < 5 and text.count(".") < 2:
        return
    for found in _MAC.finditer(text):
        if found[1] or re.search("[A-Fa-f]", found[0]):
            yield found.span()


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


_PASSPORT = re.compile(rf"{_FREE}(?:[A-Z][A-Z]?\d{{7,8}}|\d{{9}}){_CLOSED}")
_PASSPORT_CUE = re.compile(r"护照|passport", re.IGNORECASE)


def find_passports(text: str) -> Spans:
    """Letters and digits after the word: alone they could be anything."""
    for found in _PASSPORT.finditer(text):
        if _PASSPORT_CUE.search(_before(text, found.start())):
            yield found.span()


PLATE_BEGINS = "[京津冀晋蒙辽吉黑沪苏浙皖闽赣鲁豫鄂湘粤桂琼渝川贵云藏陕甘青宁新][A-HJ-NP-Z] ?[·•. ]?"
_PLATE = re.compile(
    rf"{PLATE_BEGINS}"
    r"(?:[A-HJ-NP-Z]\d{5}|\d{5}[A-HJ-NP-Z]|[A-HJ-NP-Z0-9]{2,4}\d[A-HJ-NP-Z0-9学警港澳挂]?)(?![0-9A-Za-z])"
)


def find_plates(text: str) -> Spans:
    """GA 36: province, office, five places, or six where the car is electric."""
    for found in _PLATE.finditer(text):
        if 5 <= len(_bare(found[0])) - 1 <= 6 or found[0][-1] in "学警港澳挂":
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
    rf"|(?P<y5>[一二]{_SPOKEN}{{3}})年{_SPOKEN_DAY}月{_SPOKEN_DAY}[日号]"
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
        if not _BORN_BEFORE.search(_before(text, found.start())) and not _BORN_AFTER.match(text, found.end()):
            continue
        year = next(value for name, value in found.groupdict().items() if name.startswith("y") and value)
        if not is_recent(int(year.translate(_NUMERALS))):
            continue
        if found["y"] and not is_date(int(found["y"]), int(found["m"]), int(found["d"])):
            continue
        yield found.span()
