"""Check digits and ranges of numbers, each from its standard."""

from __future__ import annotations

import datetime
import string
from itertools import chain

__all__ = [
    "credit_digit",
    "iban_digits",
    "id_digit",
    "is_bank_card",
    "is_credit_code",
    "is_date",
    "is_iban",
    "is_id_number",
    "is_recent",
    "luhn_digit",
]

_LETTERS = {letter: value for value, letter in enumerate(string.digits + string.ascii_uppercase)}
_CREDIT_ALPHABET = "0123456789ABCDEFGHJKLMNPQRTUWXY"
_CREDIT_WEIGHTS = [pow(3, place, 31) for place in range(17)]
_ID_WEIGHTS = [pow(2, 17 - place, 11) for place in range(17)]
_PROVINCES = frozenset(
    chain(range(11, 16), range(21, 24), range(31, 38), range(41, 47), range(50, 55), range(61, 66), (71, 81, 82, 83))
)
"""GB/T 2260."""
_LIVES = 120
_IBAN_LENGTHS = {
    **dict.fromkeys(("NO",), 15),
    **dict.fromkeys(("BE",), 16),
    **dict.fromkeys(("DK", "FI", "FO", "GL", "NL", "SD"), 18),
    **dict.fromkeys(("MK", "SI"), 19),
    **dict.fromkeys(("AT", "BA", "EE", "KZ", "LT", "LU", "MN", "XK"), 20),
    **dict.fromkeys(("CH", "HR", "LI", "LV"), 21),
    **dict.fromkeys(("BG", "BH", "CR", "DE", "GB", "GE", "IE", "ME", "RS", "VA"), 22),
    **dict.fromkeys(("AE", "GI", "IL", "IQ", "OM", "SO", "TL"), 23),
    **dict.fromkeys(("AD", "CZ", "ES", "MD", "PK", "RO", "SA", "SE", "SK", "TN", "VG"), 24),
    **dict.fromkeys(("LY", "PT", "ST"), 25),
    **dict.fromkeys(("IS", "TR"), 26),
    **dict.fromkeys(("DJ", "FR", "GR", "IT", "MC", "MR", "SM", "BI"), 27),
    **dict.fromkeys(("AL", "AZ", "BY", "CY", "DO", "GT", "HU", "LB", "PL", "SV", "NI"), 28),
    **dict.fromkeys(("BR", "EG", "PS", "QA", "UA"), 29),
    **dict.fromkeys(("JO", "KW", "MU", "YE"), 30),
    **dict.fromkeys(("MT", "SC"), 31),
    **dict.fromkeys(("LC",), 32),
    **dict.fromkeys(("RU",), 33),
}
"""By country, from the registry of ISO 13616."""


def is_date(year: int, month: int, day: int) -> bool:
    """Whether there was or is such a day."""
    try:
        datetime.date(year, month, day)
    except ValueError:
        return False
    return True


def is_recent(year: int) -> bool:
    """Whether who was born then may be alive."""
    this = datetime.date.today().year
    return this - _LIVES <= year <= this


def id_digit(body: str) -> str:
    """The check character after 17 digits (GB 11643, ISO 7064 MOD 11-2)."""
    total = sum(int(digit) * weight for digit, weight in zip(body, _ID_WEIGHTS, strict=True))
    return "10X98765432"[total % 11]


def is_id_number(number: str) -> bool:
    """GB 11643: 18 places; province, a date of birth that can be, check character by ISO 7064 MOD 11-2."""
    if not number[:17].isdigit() or int(number[:2]) not in _PROVINCES:
        return False
    if not is_date(int(number[6:10]), int(number[10:12]), int(number[12:14])) or not is_recent(int(number[6:10])):
        return False
    return id_digit(number[:17]) == number[17].upper()


def credit_digit(body: str) -> str:
    """The check character after 17 (GB 32100)."""
    values = [_CREDIT_ALPHABET.index(letter) for letter in body]
    return _CREDIT_ALPHABET[-sum(value * weight for value, weight in zip(values, _CREDIT_WEIGHTS, strict=True)) % 31]


def is_credit_code(code: str) -> bool:
    """GB 32100: 18 places of 31 characters: province of the office, 10 being the state's, and check character."""
    if not code[2:8].isdigit() or int(code[2:4]) not in (10, *_PROVINCES):
        return False
    return all(letter in _CREDIT_ALPHABET for letter in code) and credit_digit(code[:17]) == code[17]


def luhn_digit(body: str) -> str:
    """The check digit that follows `body` (ISO/IEC 7812-1, annex B)."""
    doubled = "0246813579"
    total = sum(int(doubled[int(digit)] if place % 2 == 0 else digit) for place, digit in enumerate(reversed(body)))
    return str(-total % 10)


def is_bank_card(number: str) -> bool:
    """An issuer's range with a length that it has, and Luhn's digit."""
    return len(number) in _card_lengths(number) and luhn_digit(number[:-1]) == number[-1]


def _card_lengths(number: str) -> tuple[int, ...]:
    four = int(number[:4])
    if number[0] == "4":
        return (16, 13, 19)
    if 5100 <= four <= 5599 or 2221 <= four <= 2720:
        return (16,)
    if number[:2] in ("34", "37"):
        return (15,)
    if number[:2] == "62":
        return (16, 17, 18, 19)
    if four == 6011 or 6440 <= four <= 6599 or 3528 <= four <= 3589:
        return (16,)
    if 3000 <= four <= 3059 or number[:2] in ("36", "38", "39"):
        return (14,)
    return (19,) if number[:2] in ("60", "68", "69", "94", "95") else ()


def iban_digits(country: str, body: str) -> str:
    """The two check digits between the country and the rest (ISO 13616, ISO 7064 MOD 97-10)."""
    return f"{98 - _as_number(body + country + '00') % 97:02}"


def _as_number(text: str) -> int:
    return int("".join(str(_LETTERS[letter]) for letter in text))


def is_iban(number: str) -> bool:
    """ISO 13616: the length of its country, and the remainder of ISO 7064 MOD 97-10."""
    number = number.upper()
    if _IBAN_LENGTHS.get(number[:2]) != len(number):
        return False
    return _as_number(number[4:] + number[:4]) % 97 == 1
