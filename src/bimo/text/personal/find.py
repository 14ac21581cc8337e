"""All rules over one text: what was found, in order, without overlaps."""

from __future__ import annotations

import bisect
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from bimo.text.personal import numbers
from bimo.text.personal.addresses import find_addresses
from bimo.text.personal.hosts import find_ips, find_macs
from bimo.text.personal.names import find_names
from bimo.text.personal.phones import find_phones
from bimo.text.personal.secrets import find_secrets
from bimo.text.personal.shadow import Shadow

__all__ = ["KINDS", "Finding", "find_personal"]


@dataclass(frozen=True, slots=True)
class Finding:
    """text[start:end] is of this kind, one of KINDS."""

    start: int
    end: int
    kind: str


_Rule = Callable[[str], Iterator[tuple[int, int]]]

_RULES: dict[str, _Rule] = {
    "email": numbers.find_emails,
    "iban": numbers.find_ibans,
    "id_number": numbers.find_id_numbers,
    "credit_code": numbers.find_credit_codes,
    "bank_card": numbers.find_bank_cards,
    "ip": find_ips,
    "mac": find_macs,
    "birth_date": numbers.find_birth_dates,
    "ssn": numbers.find_ssns,
    "passport": numbers.find_passports,
    "account_id": numbers.find_account_ids,
    "phone": find_phones,
    "plate": numbers.find_plates,
    "address": find_addresses,
}
"""Each looks at one line, in this order: what an earlier rule has found, a later one does not take again."""

KINDS = ("secret", *_RULES, "name")

_SOME = re.compile("[0-9@号]")
_WORDS = ("微信", "薇信", "扣扣", "企鹅", "qq", "wechat", "weixin", "[at]", "(at)", "box")
_ANY_WORD = "|".join(
    # A search that ignores capitals takes several times as long.
    re.sub("[a-z]", lambda letter: f"[{letter[0].upper()}{letter[0]}]", re.escape(word))
    for word in _WORDS
)
_SPOKEN = re.compile("[零〇一二三四五六七八九幺]{3}(?:年|[零〇一二三四五六七八九幺]{6})")
_HEXADECIMAL = re.compile(r":(?::[A-Fa-f]|[A-Fa-f]{1,4}:)|-[A-Fa-f]{2}-|\.[A-Fa-f]{4}\.")
"""After these words, in capitals or not, and in these shapes personal data may have no digit."""

_WORTH_A_LOOK = re.compile(
    r"\d\D{0,3}\d\D{0,3}\d\D{0,3}\d|号|@|[栋幢座室]|单元|\d ?房|\d[A-Z]? [A-Z]"
    r"|[零〇一二三四五六七八九幺]{4}|[零〇一二三四五六七八九]{3}年"
    r"|[0-9A-Fa-f]:[0-9A-Fa-f:]|[0-9A-Fa-f]{2}-[0-9A-Fa-f]{2}-|[0-9A-Fa-f]{4}\.[0-9A-Fa-f]{4}\."
    rf"|{numbers.PLATE_BEGINS}[A-HJ-NP-Z0-9]{{2}}"
    rf"|{_ANY_WORD}"
)


def _lines_worth_a_look(text: str) -> Iterator[tuple[int, str]]:
    """(where it begins, line) of the lines in which the rules for one line may find something.

    Most text has few digits, and to see that takes a fifth of the time of all rules.
    """
    lower = text.lower()
    any_line = any(word in lower for word in _WORDS) or _HEXADECIMAL.search(text) is not None
    any_line = any_line or (not text.isascii() and _SPOKEN.search(text) is not None)
    place = 0
    for line in text.split("\n"):
        if (any_line or _SOME.search(line)) and _WORTH_A_LOOK.search(line):
            yield place, line
        place += len(line) + 1


def find_personal(text: str) -> list[Finding]:
    """Personal data and secrets in a text, in order. Sources of the rules: the standards named beside each.

    Rules for numbers rest on check digits and on the words before them, addresses on the units they are made of, names
    on labels, forms of address and what stands beside them.
    """
    shadow = Shadow(text)
    secrets: list[tuple[int, int, str]] = []
    for start, end in find_secrets(shadow.text):
        _take(secrets, start, end, "secret")
    taken = [*secrets]
    for place, line in _lines_worth_a_look(shadow.text):
        own = [secret for secret in secrets if place < secret[1] and secret[0] < place + len(line)]
        before = len(own)
        for kind, rule in _RULES.items():
            for start, end in rule(line):
                _take(own, place + start, place + end, kind)
        taken += own[before:]
    taken.sort()
    starts, last = [start for start, _, _ in taken], 0
    names = []
    others = [(start, end) for start, end, _ in taken]
    for start, end in sorted(set(find_names(shadow.text, others)), key=lambda span: (span[0], -span[1])):
        index = bisect.bisect_left(starts, end)
        if start >= last and not (index and others[index - 1][1] > start):
            names.append((start, end, "name"))
            last = end
    return [Finding(*shadow.place(start, end), kind) for start, end, kind in sorted([*taken, *names])]


def _take(taken: list[tuple[int, int, str]], start: int, end: int, kind: str) -> None:
    """Keep what overlaps nothing that was found before."""
    if not any(start < other_end and other < end for other, other_end, _ in taken):
        taken.append((start, end, kind))
