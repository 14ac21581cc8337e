"""Postal addresses down to a door, Chinese and English: found at the door, then followed to both ends."""

from __future__ import annotations

import re
from collections.abc import Iterator

__all__ = ["find_addresses"]

_HAN = "[\u4e00-\u9fff]"
_NUMBER = (
    "(?:(?=[A-Za-z-]{0,11}[0-9]|[A-Za-z](?![A-Za-z-]))[0-9A-Za-z]{1,6}(?:-[0-9A-Za-z]{1,5})?"
    "|[一二三四五六七八九十百千零〇两]{1,7})"
)
"""Not of letters alone, but for one: A号, SOHO3号, and no QQ号."""
_WAY = "路|街|大道|巷|弄|胡同|村|庄|屯|镇|乡|组|坊|里|道|园|苑|城|区|湾|社|寨|店"
_DOOR = re.compile(
    rf"(?P<way>(?:{_WAY})[东西南北]?(?:(?:[一二三四五六七八九十]|\d{{1,2}})组|[东西南北中]街)?) ?"
    rf"(?P<number>{_NUMBER}) ?号(?!线|码|院士|选手|公路|文件|令)(?:楼|院)?"
)
_DOUBTFUL = frozenset("店社里道组园城区镇乡坊")
"""After these a number up to 31 is a day as well, and a round one a count: 新店18号开业, 店里一百号客人."""
_DAY = re.compile("0?[1-9]|[12][0-9]|3[01]|[二三]?十[一二三四五六七八九]?|[一二三四五六七八九]")
_ROUND = re.compile("[一二三四五六七八九两百千]{1,4}[十百千]")
_PEOPLED = frozenset("村庄屯湾寨")
_COUNTED = re.compile("汽油|柴油(?!机)|员工|个(?!体|人)|人(?![民人才力寿保社事大行])")
"""Behind 号 these say that it counts or names something else: 三百号人, but 人民医院."""
_PROVINCES = (
    "北京|上海|天津|重庆|河北|山西|辽宁|吉林|黑龙江|江苏|浙江|安徽|福建|江西|山东|河南|湖北|湖南|广东|海南|四川|贵州|云南|陕西"
    "|甘肃|青海|台湾|内蒙古|广西|西藏|宁夏|新疆|香港|澳门"
)
_LABELS = (
    "地址|住址|住在|家住|现住|居住在|坐落|位于|寄到|寄往|送到|送至|发到|搬到|搬至|放在|放到|就在|地点|住(?![宅户房院])"
)
_LEAD = re.compile(f"^.*(?:{_LABELS})(?:了|是|为|于)?")
_LABELLED = re.compile(f"(?:{_LABELS}|[Aa]ddress|ADDRESS)(?:是|为)? ?: ?$")
_ROOM_WORD = "(?:室|房(?!价))(?![0-9一二两三]?[厅卫])"
"""3室2厅 is a size."""
_REST = re.compile(
    rf"(?:{_HAN}{{2,8}}(?:大厦|广场|花园|小区|公寓|苑|城|园|家园|中心|宿舍|天地|里))?"
    rf"(?P<room>[ ,]?(?:{_NUMBER} ?(?:号楼|号院|单元|座|栋|幢|楼|层|户|号|{_ROOM_WORD})|{_NUMBER}(?=[,。;\s]|$)))*"
)
_PLAIN = "(?:[A-Za-z]?-?[0-9]{1,4}[A-Za-z]?|[A-Za-z])"
_HOUSE = "(?:号楼|栋|幢|座)"
_HOMES = "区苑园城里村庄院湾坊社寓楼厦"
_FLOOR = rf"[ -]?(?:{_NUMBER} ?[层楼][ -]?)?"
_ROOM = rf"[A-Za-z]?\d{{1,4}} ?{_ROOM_WORD}"
_END = r"(?=[,。;、)\s]|$)(?!\s?[年元米平户人])"
_FLAT = re.compile(
    rf"(?<![0-9A-Za-z.一二三四五六七八九十百千零〇-])(?:"
    rf"{_NUMBER} ?{_HOUSE}[ ,-]?{_NUMBER} ?(?:单元|座){_FLOOR}(?:{_ROOM}|\d{{3,4}}{_END})"
    rf"|(?<!第){_NUMBER} ?单元{_FLOOR}(?=[A-Za-z]?\d{{3}}){_ROOM}(?![内外])"
    rf"|{_PLAIN} ?{_HOUSE}{_FLOOR}(?=[A-Za-z]?\d{{3}}){_ROOM}"
    rf"|(?:{_PLAIN} ?(?:号楼|栋|幢)|[A-Za-z] ?座)(?:[ -]?{_NUMBER} ?[层楼][ -]?|-|(?P<apart> ))?"
    rf"[A-Za-z]?\d{{3,4}}{_END}"
    rf"|(?<![共有计]){_PLAIN} ?{_HOUSE}[ ,-]?\d{{1,3}} ?(?P<entrance>单元)"
    rf"|(?<=[{_HOMES}])(?P<one>\d{{1,3}} ?(?:栋|幢|单元)|(?=[A-Za-z]?\d{{3}}){_ROOM}){_END})"
)
"""House, entrance, room: two of them are enough, `one` is not. What is counted is none: 3栋26层, 7座, 3室2厅.

A house with what may be a year or a price `apart`, or with no more than its `entrance`, needs to be known as a home.
"""
_HOUSE_OR_ROOM = re.compile("(?:栋|幢|座|室|房|单(?=元)|号(?=楼))(?<=[0-9A-Za-z一二三四五六七八九十百千零〇两 ].)")
"""In all that _FLAT finds, and looked for in a tenth of the time."""
_NAMED = re.compile(f"(?:{_PROVINCES})(?:省|市|自治区|{_HAN}{{2,4}}[市区县州])")
_TOWN_NAMED = re.compile(f"{_HAN}{{2,4}}市{_HAN}{{1,4}}[区县镇乡]")
_UNIT = re.compile(f"{_HAN}{{2,3}}(?:市|区|县|镇|乡)")

_LONGEST = 48
_SURELY_PART, _WITHOUT_LEAD, _WITHOUT_ALL = 8, 12, 4
"""Of the Han before a door, how many belong to it: all when so few; else look at so many for a unit; else so many."""

_STREET = "Street|St|Avenue|Ave|Road|Rd|Lane|Ln|Boulevard|Blvd|Highway|Hwy|Parkway|Pkwy|Ct|Sq|Ter|Pl"
_NOUN = "Drive|Dr|Court|Square|Terrace|Way|Place|Circle|Close|Crescent|Row|Alley|Loop|Trail"
"""Names of streets end with these, and many other names: The 1973 Supreme Court decision, S&P 500 Futures Close."""
_COMPASS = r"(?: (?:NW|NE|SW|SE|N|S|E|W)\b)"
_APARTMENT = r"(?:,? (?:Apt|Apartment|Suite|Ste|Unit|Flat|Floor|Room|#)\.? ?[0-9A-Za-z-]{1,6})"
_TOWN = r"(?:,? [A-Z][a-zA-Z.'-]+(?: [A-Z][a-zA-Z.'-]+){0,2})"
_CODE = r"(?:,? [A-Z]{2} \d{5}(?:-\d{4})?|,? [A-Z]{1,2}\d[A-Z\d]? \d[A-Z]{2})"
_NAMES = r"(?:[A-Z][A-Za-z.'-]+ ){1,4}"
_ENGLISH = re.compile(
    rf"(?<![0-9A-Za-z.$#-])(?P<number>\d{{1,5}})[A-Z]? (?:[NSEW]\.? )?(?:"
    rf"{_NAMES}(?:(?P<street>{_STREET})|{_NOUN})\b\.?(?P<compass>{_COMPASS})?(?P<room>{_APARTMENT})?"
    rf"(?:{_TOWN}{{0,2}}(?P<code>{_CODE})|(?P<town>{_TOWN})(?=[,.\n]|$))?"
    rf"|(?P<coded>(?:[A-Z][A-Za-z.'-]+ ?){{1,4}}{_APARTMENT}?,?{_TOWN}{{1,2}}{_CODE}))"
    rf"|\bP\.?O\.? Box \d{{1,6}}(?:{_TOWN}{{1,2}}{_CODE})?"
)
_YEAR = re.compile("(?:1[89]|20)[0-9]{2}")
_AT = re.compile(
    r"(?:\b(?:at|address(?: is| to)?|(?:lives?|lived|living|moved?|moving|delivered|shipped|sent) (?:in|to|on)"
    r"|(?:ship(?:ped)?|sen[dt]|mail(?:ed)?|deliver(?:ed)?)\b[^\d\n]{0,10}\bto)"
    rf"|(?:{_LABELS})(?:是|为)?)[ :]{{0,8}}(?:\d{{1,5}}[ ,/]{{1,2}})?$",
    re.IGNORECASE,
)
_LONGEST_LABEL = 24
_NO_LETTERS = re.compile(r"[\W\d_]*")


def find_addresses(text: str) -> Iterator[tuple[int, int]]:
    """Yields (start, end)."""
    for door in _DOOR.finditer(text) if "号" in text else ():
        leading, sure = _leading(text, door.start())
        rest = _REST.match(text, door.end())
        end = rest.end() if rest else door.end()
        sure = sure or bool(rest and rest["room"]) or door[0][-1] != "号"
        if sure or _is_door(door):
            yield door.start() - len(leading), end
    for flat in _FLAT.finditer(text) if _HOUSE_OR_ROOM.search(text) else ():
        leading, sure = _leading(text, flat.start())
        doubt = flat.lastgroup
        if sure or not doubt or (doubt != "one" and leading.endswith((*_HOMES,))):
            yield flat.start() - len(leading), flat.end()
    for found in _ENGLISH.finditer(text):
        if _is_english(found):
            yield found.span()


def _is_door(door: re.Match[str]) -> bool:
    """Whether a number behind what is no street is neither a day nor a count: 新店18号开业, 全村百十号人."""
    day, round_ = _DAY.fullmatch(door["number"]), _ROUND.fullmatch(door["number"])
    counted = _COUNTED.match(door.string, door.end())
    if door["way"] in _DOUBTFUL:
        return not (day or round_ or counted)
    return not (door["way"] in _PEOPLED and round_ and counted)


def _is_english(found: re.Match[str]) -> bool:
    """Whether what is like an address names more than a street, is a whole line, is said to be one, or can be no other.

    Two of three make it one: no year, an ending of streets alone, a town. In 2012 Google Drive, Dropbox grew.
    """
    text, number = found.string, found["number"]
    if not number or any(found[part] for part in ("compass", "room", "code", "coded")):
        return True
    if _AT.search(text, max(0, found.start() - _LONGEST_LABEL), found.start()):
        return True
    town = (found["town"] or "").startswith(",")
    if (not _YEAR.fullmatch(number)) + bool(found["street"]) + town > 1:
        return True
    return bool(_NO_LETTERS.fullmatch(text, 0, found.start()) and _NO_LETTERS.fullmatch(text, found.end()))


def _leading(text: str, place: int) -> tuple[str, bool]:
    """What stands before a place of the way to a door, and whether a label or a named place says that it is one.

    It begins at the largest place that is named.
    """
    text = text[max(0, place - 2 * _LONGEST) : place]
    piece = re.split("[^\u4e00-\u9fff]", text[-_LONGEST:])[-1]
    labelled = _LABELLED.search(text[: len(text) - len(piece)]) is not None
    lead = _LEAD.match(piece)
    piece = piece[lead.end() :] if lead else piece
    named = _NAMED.search(piece)
    if named:
        return piece[named.start() :], True
    if labelled or lead:
        return piece, True
    sure = _TOWN_NAMED.search(piece) is not None
    if len(piece) <= _SURELY_PART:
        return piece, sure
    units = _UNIT.search(piece[-_WITHOUT_LEAD:])
    return piece[-_WITHOUT_LEAD:][units.start() :] if units else piece[-_WITHOUT_ALL:], sure
