"""Stand-ins for personal data: of the same shape, valid where a standard has a check, and the same for the same value.

Which stand-in a value gets follows from a secret key (HMAC-SHA-256, RFC 2104); without it nobody can find the way back,
nor try out values until one fits.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import string
from collections.abc import Callable, Sequence

from bimo.text.personal.checks import credit_digit, iban_digits, id_digit, luhn_digit
from bimo.text.personal.cues import NUMERALS, SPOKEN, bare
from bimo.text.personal.find import Finding
from bimo.text.personal.shadow import Shadow

__all__ = ["pseudonymise"]

_NUMERALS = "一二三四五六七八九"
_SURNAMES = "王李张刘陈杨赵黄周吴徐孙胡朱高林何郭马罗"
_GIVEN = "安宁平明远清文嘉乐思源子涵若云帆景知凡"
_FIRST = ("Alex", "Sam", "Robin", "Jamie", "Taylor", "Morgan", "Casey", "Jordan", "Avery", "Riley", "Quinn", "Drew")
_LAST = ("Ash", "Brook", "Dale", "Field", "Glen", "Heath", "Lake", "Marsh", "North", "Reed", "Stone", "Vale", "Wood")
_ROADS = "春江安康文昌福宁清河东平南山松林云海"
_UNITS = re.compile(
    "省|市|自治区|自治州|区|县|旗|镇|乡|街道|村|庄|屯|路|街|大道|巷|弄|胡同"
    "|号楼|号院|号|单元|座|栋|幢|楼|层|室|户|大厦|广场|花园|小区|公寓|苑|园|里"
)
_ENGLISH_UNITS = re.compile(
    r"(?:street|st|avenue|ave|road|rd|lane|ln|drive|dr|boulevard|blvd|court|ct|square|terrace|way|place|pl|apt|apartment|suite"
    r"|unit|flat|floor|room|box|p\.o|po|nw|ne|sw|se|n|s|e|w)\.?",
    re.IGNORECASE,
)


_TELLING = re.compile(
    r"(^(?:sk-(?:proj-|ant-)?|gh[oprsu]_|github_pat_|glpat-|hf_|LTAI|AKI[AD]|ASIA|xox[abeoprs]-|AIza|[rs]k_(?:live|test)_"
    r"|npm_|pypi-)|-----(?:BEGIN|END)[A-Z ]*-----)"
)


class _Stream:
    """Random choices that follow from a key and a value."""

    def __init__(self, key: bytes, kind: str, value: str) -> None:
        self._key, self._value, self._count = key, f"{kind}:{value}".encode("utf-8", "surrogatepass"), 0

    def below(self, bound: int) -> int:
        """An integer from 0 to bound - 1; the bias of the remainder is below 2^-50."""
        message = self._count.to_bytes(4, "big") + self._value
        self._count += 1
        return int.from_bytes(hmac.new(self._key, message, hashlib.sha256).digest()[:8], "big") % bound

    def choice(self, items: Sequence[str]) -> str:
        return items[self.below(len(items))]

    def like(self, character: str) -> str:
        """Another of the same class: digit, small letter, capital, Chinese numeral; others stay."""
        for alphabet in (string.digits, string.ascii_lowercase, string.ascii_uppercase, _NUMERALS):
            if character in alphabet:
                return self.choice(alphabet)
        return character


_NUMBERS = ("id_number", "bank_card", "credit_code", "iban", "ssn", "passport", "mac", "plate")
"""Kinds in which nothing but digits and letters tells values apart; in an address of a host the dots do."""


def _bare_value(kind: str, value: str) -> str:
    """The same for all ways to write a value."""
    value = value.lower()
    if kind == "phone":
        return _split_phone(value)[1]
    if kind in _NUMBERS:
        return re.sub(r"[\W_]", "", value.translate(NUMERALS))
    if kind == "email":
        return re.sub(r"\s", "", re.sub(r"[\[(]at[\])]", "@", value))
    if kind == "ip":
        return value.replace("[.]", ".")
    if kind == "name" and not value.isascii():
        return value.replace(" ", "")
    return value if kind in ("name", "address") else re.sub(r"[\s.\-]", "", value)


def pseudonymise(text: str, findings: Sequence[Finding], key: bytes) -> str:
    """`text` with a stand-in for each finding. Formats (full-width, dashes, blanks) become the common one."""
    parts, place = [], 0
    for finding in findings:
        value = Shadow(text[finding.start : finding.end]).text
        make = _MAKERS.get(finding.kind, _alike)
        stream = _Stream(key, finding.kind, _bare_value(finding.kind, value))
        parts += [text[place : finding.start], make(value, stream)]
        place = finding.end
    return "".join([*parts, text[place:]])


def _alike(value: str, stream: _Stream) -> str:
    return "".join(stream.like(character) for character in value)


def _split_phone(value: str) -> tuple[int, str]:
    """(how many of its digits lead to China or North America from abroad, its digits as they are dialled at home)."""
    digits = re.sub(r"\D", "", value.translate(NUMERALS))
    out = 2 if digits.startswith("00") else 0
    abroad = out > 0 or value.lstrip("(").startswith("+")
    rest = digits[out:]
    if rest.startswith("86") and (abroad or re.fullmatch(r"861[3-9]\d{9}", rest)):
        home = rest[2:]
        return out + 2, home if home.startswith("0") or re.match("1[3-9]", home) else f"0{home}"
    if rest.startswith("1") and (abroad or re.match(r"1(?:[ .-]+\(?|\()\d{3}\)?[ .-]", value)):
        return out + 1, rest[1:]
    return out, rest


def _phone(value: str, stream: _Stream) -> str:
    """Keeps the first three digits, such as the code of an area; others are no 0 or 1, which begin no number."""
    leading, home = _split_phone(value)
    other = home[:3] + "".join(stream.choice("23456789") for _ in home[3:])
    digits = re.sub(r"\D", "", value.translate(NUMERALS))
    rest = iter(_in_script(value, digits[:leading] + other[leading - len(digits) :]))
    return re.sub(f"[0-9]|{SPOKEN}", lambda _: next(rest), value)


def _in_script(value: str, digits: str) -> str:
    """`digits` in Chinese numerals where `value` has some."""
    if not re.search(SPOKEN, value):
        return digits
    return digits.translate(str.maketrans(string.digits, ("〇" if "〇" in value else "零") + _NUMERALS))


def _plate(value: str, stream: _Stream) -> str:
    """Keeps the province and the office, and the letter of an electric car."""
    return value[:2] + re.sub("[0-9]", lambda found: stream.choice(string.digits), value[2:])


def _account_id(value: str, stream: _Stream) -> str:
    return (stream.choice("123456789") if value[0].isdigit() else stream.like(value[0])) + _alike(value[1:], stream)


def _ssn(value: str, stream: _Stream) -> str:
    return _refill(value, f"{1 + stream.below(665):03}{1 + stream.below(99):02}{1 + stream.below(9999):04}")


def _secret(value: str, stream: _Stream) -> str:
    """Keeps what tells the provider, and the lines around a private key."""
    return "".join(part if _TELLING.fullmatch(part) else _alike(part, stream) for part in _TELLING.split(value))


def _refill(value: str, digits: str) -> str:
    """The characters of `digits` in the places of the letters and digits of `value`."""
    rest = iter(digits)
    return "".join(next(rest) if character.isalnum() else character for character in value)


def _id_number(value: str, stream: _Stream) -> str:
    number = bare(value.translate(NUMERALS))
    if len(number) != 18:
        return _alike(value, stream)
    born = f"{1950 + stream.below(60)}{1 + stream.below(12):02}{1 + stream.below(28):02}"
    body = number[:2] + "".join(stream.choice(string.digits) for _ in range(4)) + born
    body += "".join(stream.choice(string.digits) for _ in range(3))
    return _refill(value, _in_script(value, body + id_digit(body)))


def _credit_code(value: str, stream: _Stream) -> str:
    number = bare(value)
    body = number[:4] + "".join(stream.choice(string.digits) for _ in range(13))
    return _refill(value, body + credit_digit(body))


def _bank_card(value: str, stream: _Stream) -> str:
    number = bare(value)
    body = number[:4] + "".join(stream.choice(string.digits) for _ in range(len(number) - 5))
    return _refill(value, body + luhn_digit(body))


def _iban(value: str, stream: _Stream) -> str:
    number = bare(value).upper()
    body = "".join(stream.like(character) for character in number[4:])
    return _refill(value, number[:2] + iban_digits(number[:2], body) + body)


def _birth_date(value: str, stream: _Stream) -> str:
    """Another day: four places are a year, eight a whole date, others at most 12, so that they can be months."""

    def other(found: re.Match[str]) -> str:
        if len(found[0]) == 4:
            return str(1950 + stream.below(60))
        if len(found[0]) == 8:
            return f"{1950 + stream.below(60)}{1 + stream.below(12):02}{1 + stream.below(28):02}"
        return f"{1 + stream.below(12 if len(found[0]) == 2 else 9):0{len(found[0])}}"

    spoken = re.sub(
        "[一二][零〇一二三四五六七八九]{3}(?=年)", lambda found: "一九" + stream.choice("五六七八九") + "一", value
    )
    spoken = re.sub("[一二三四五六七八九十廿]{1,3}(?=[月日号])", lambda found: stream.choice(_NUMERALS), spoken)
    return re.sub(r"\d+", other, spoken)


def _hexadecimal(value: str, stream: _Stream) -> str:
    return re.sub("[0-9A-Fa-f]", lambda found: stream.choice("0123456789abcdef"), value)


def _ip(value: str, stream: _Stream) -> str:
    if "." in value:
        return re.sub(r"\d+", lambda found: str(1 + stream.below(254)), value)
    return _hexadecimal(value, stream)


def _email(value: str, stream: _Stream) -> str:
    """Nobody's host (RFC 2606), so that no letter sent by mistake reaches anyone."""
    return (
        "".join(stream.choice(string.ascii_lowercase) for _ in re.sub(r"\s?(?:@|[\[(]at).*", "", value))
        + "@example.com"
    )


def _name(value: str, stream: _Stream) -> str:
    if not value.isascii():
        return stream.choice(_SURNAMES) + "".join(
            stream.choice(_GIVEN) for _ in range(max(1, len(value.replace(" ", "")) - 1))
        )
    full = f"{stream.choice(_FIRST)} {stream.choice(_LAST)}"
    return full.upper() if value.isupper() else full


def _address(value: str, stream: _Stream) -> str:
    """Other names and numbers between the same units."""
    parts = []
    for part in re.split(f"({_UNITS.pattern}|[A-Za-z.']+)", value):
        if _UNITS.fullmatch(part) or _ENGLISH_UNITS.fullmatch(part) or re.fullmatch("[A-Z]{2}", part):
            parts.append(part)
        elif re.fullmatch(r"[A-Za-z.']{2,}", part):
            parts.append(stream.choice(_LAST))
        else:
            parts.append(
                "".join(stream.choice(_ROADS) if "\u4e00" <= each <= "\u9fff" else stream.like(each) for each in part)
            )
    return "".join(parts)


_MAKERS: dict[str, Callable[[str, _Stream], str]] = {
    "id_number": _id_number,
    "credit_code": _credit_code,
    "bank_card": _bank_card,
    "iban": _iban,
    "birth_date": _birth_date,
    "ip": _ip,
    "mac": _hexadecimal,
    "email": _email,
    "name": _name,
    "address": _address,
    "phone": _phone,
    "plate": _plate,
    "account_id": _account_id,
    "ssn": _ssn,
    "secret": _secret,
}
