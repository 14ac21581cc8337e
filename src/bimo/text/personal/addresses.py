"""Postal addresses down to a door, Chinese and English: found at the door, then followed to both ends."""

from __future__ import annotations

import re
from collections.abc import Iterator

__all__ = ["find_addresses"]

_HAN = "[\u4e00-\u9fff]"
_NUMBER = "(?:[0-9A-Za-z]{1,6}(?:-[0-9A-Za-z]{1,5})?|[一二三四五六七八九十百千零〇两]{1,7})"
_WAY = "路|街|大道|巷|弄|胡同|村|庄|屯|镇|乡|组|坊|里|道|园|苑|城|区|湾|社|寨|店"
_DOOR = re.compile(
    rf"(?P<way>(?:{_WAY})[东西南北]?(?:(?:[一二三四五六七八九十]|\d{{1,2}})组|[东西南北中]街)?) ?"
    rf"(?P<number>{_NUMBER}) ?号(?!线|码|院士|选手|公路|文件|令)(?:楼|院)?"
)
_DOUBTFUL = frozenset("店社里道组园城区镇乡坊")
"""After these a number up to 31 is a day as well: 新店18号开业."""
_DAY = re.compile("0?[1-9]|[12][0-9]|3[01]|[二三]?十[一二三四五六七八九]?|[一二三四五六七八九]")
_PROVINCES = (
    "北京|上海|天津|重庆|河北|山西|辽宁|吉林|黑龙江|江苏|浙江|安徽|福建|江西|山东|河南|湖北|湖南|广东|海南|四川|贵州|云南|陕西"
    "|甘肃|青海|台湾|内蒙古|广西|西藏|宁夏|新疆|香港|澳门"
)
_LABELS = "地址|住址|住在|家住|现住|居住在|坐落|位于|寄到|寄往|送到|送至|发到|搬到|搬至|放在|放到|就在|地点|住"
_LEAD = re.compile(f"^.*(?:{_LABELS})(?:了|是|为|于)?")
_LABELLED = re.compile(f"(?:{_LABELS}|[Aa]ddress|ADDRESS)(?:是|为)? ?: ?$")
_REST = re.compile(
    rf"(?:{_HAN}{{2,8}}(?:大厦|广场|花园|小区|公寓|苑|城|园|家园|中心|宿舍|天地|里))?"
    rf"(?:[ ,]?(?:{_NUMBER} ?(?:号楼|号院|单元|座|栋|幢|楼|层|室|户|号)|{_NUMBER}(?=[,。;\s]|$)))*"
)
_NAMED = re.compile(f"(?:{_PROVINCES})(?:省|市|自治区|{_HAN}{{2,4}}[市区县州])")
_TOWN_NAMED = re.compile(f"{_HAN}{{2,4}}市{_HAN}{{1,4}}[区县镇乡]")
_UNIT = re.compile(f"{_HAN}{{2,3}}(?:市|区|县|镇|乡)")

_LONGEST = 48
_SURELY_PART, _WITHOUT_LEAD, _WITHOUT_ALL = 8, 12, 4
"""Of the Han before a door, how many belong to it: all when so few; else look at so many for a unit; else so many."""

_SUFFIX = (
    r"(?:Street|St|Avenue|Ave|Road|Rd|Lane|Ln|Drive|Dr|Boulevard|Blvd|Court|Ct|Square|Sq|Terrace|Ter|Way|Place|Pl|Circle"
    r"|Highway|Hwy|Parkway|Pkwy|Close|Crescent|Row|Alley|Loop|Trail)"
)
_ROOM = r"(?:,? (?:Apt|Apartment|Suite|Ste|Unit|Flat|Floor|Room|#)\.? ?[0-9A-Za-z-]{1,6})?"
_TOWN = r"(?:,? [A-Z][a-zA-Z.'-]+(?: [A-Z][a-zA-Z.'-]+){0,2})"
_CODE = r"(?:,? [A-Z]{2} \d{5}(?:-\d{4})?|,? [A-Z]{1,2}\d[A-Z\d]? \d[A-Z]{2})"
_NAMES = r"(?:[A-Z][A-Za-z.'-]+ ){1,4}"
_ENGLISH = re.compile(
    rf"(?<![0-9A-Za-z.$#-])\d{{1,5}}[A-Z]? (?:[NSEW]\.? )?(?:"
    rf"{_NAMES}{_SUFFIX}\b\.?(?: (?:NW|NE|SW|SE|N|S|E|W)\b)?{_ROOM}(?:{_TOWN}{{0,2}}{_CODE}|{_TOWN}(?=[,.\n]|$))?"
    rf"|(?:[A-Z][A-Za-z.'-]+ ?){{1,4}}{_ROOM},?{_TOWN}{{1,2}}{_CODE})"
    rf"|\bP\.?O\.? Box \d{{1,6}}(?:{_TOWN}{{1,2}}{_CODE})?"
)


def find_addresses(text: str) -> Iterator[tuple[int, int]]:
    """Yields (start, end)."""
    for door in _DOOR.finditer(text) if "号" in text else ():
        leading, sure = _leading(text[max(0, door.start() - 2 * _LONGEST) : door.start()])
        rest = _REST.match(text, door.end())
        end = rest.end() if rest else door.end()
        surely_a_door = sure or end > door.end() or door[0][-1] != "号" or door["way"] not in _DOUBTFUL
        if surely_a_door or not _DAY.fullmatch(door["number"]):
            yield door.start() - len(leading), end
    for found in _ENGLISH.finditer(text):
        yield found.span()


def _leading(text: str) -> tuple[str, bool]:
    """What stands at the end of `text` of the way to a door, and whether a label or a named place says that it is one.

    It begins at the largest place that is named.
    """
    piece = re.split("[^\u4e00-\u9fff]", text[-_LONGEST:])[-1]
    sure = _LABELLED.search(text[: len(text) - len(piece)]) is not None
    lead = _LEAD.match(piece)
    piece = piece[lead.end() :] if lead else piece
    named = _NAMED.search(piece)
    if named:
        return piece[named.start() :], True
    sure = sure or lead is not None or _TOWN_NAMED.search(piece) is not None
    if lead or len(piece) <= _SURELY_PART:
        return piece, sure
    units = _UNIT.search(piece[-_WITHOUT_LEAD:])
    return piece[-_WITHOUT_LEAD:][units.start() :] if units else piece[-_WITHOUT_ALL:], sure
