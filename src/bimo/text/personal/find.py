"""All rules over one text: what was found, in order, without overlaps."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from bimo.text.personal import numbers
from bimo.text.personal.addresses import find_addresses
from bimo.text.personal.names import find_names
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
    "ip": numbers.find_ips,
    "mac": numbers.find_macs,
    "birth_date": numbers.find_birth_dates,
    "ssn": numbers.find_ssns,
    "passport": numbers.find_passports,
    "account_id": numbers.find_account_ids,
    "phone": numbers.find_phones,
    "plate": numbers.find_plates,
    "address": find_addresses,
}
"""Each looks at one line, in this order: what an earlier rule has found, a later one does not take again."""

KINDS = ("secret", *_RULES, "name")

_SOME = re.compile("[0-9@号]")
_OTHERWISE = ("微信", "薇信", "扣扣", "企鹅", "QQ", "qq", "wechat", "WeChat", "weixin", "[at]", "(at)", "Box")
_SPOKEN = re.compile("[零〇一二三四五六七八九幺]{9}")
_WORTH_A_LOOK = re.compile(
    r"\d\D{0,3}\d\D{0,3}\d\D{0,3}\d|号|@|\[at\]|\(at\)|微信|薇信|[Qq]{2}|扣扣|企鹅|[Ww]e(?:[Cc]hat|ixin)"
    r"|\d [A-Z][a-z]|P\.?O\.? Box|[零〇一二三四五六七八九幺]{4}|[0-9A-Fa-f]:[0-9A-Fa-f:]|[0-9A-Fa-f]{2}-[0-9A-Fa-f]{2}-"
    r"|[0-9A-Fa-f]{4}\.[0-9A-Fa-f]{4}\."
)


def _lines_worth_a_look(text: str) -> Iterator[tuple[int, str]]:
    """(where it begins, line) of the lines in which the rules for one line may find something.

    Most text has few digits, and to see that takes a fifth of the time of all rules.
    """
    any_line = any(word in text for word in _OTHERWISE) or _SPOKEN.search(text) is not None
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
    taken: list[tuple[int, int, str]] = []
    for start, end in find_secrets(shadow.text):
        _take(taken, start, end, "secret")
    for place, line in _lines_worth_a_look(shadow.text):
        for kind, rule in _RULES.items():
            for start, end in rule(line):
                _take(taken, place + start, place + end, kind)
    taken.sort()
    others = [(start, end) for start, end, _ in taken]
    for start, end in sorted(set(find_names(shadow.text, others)), key=lambda span: (span[0], -span[1])):
        _take(taken, start, end, "name")
    return [Finding(*shadow.place(start, end), kind) for start, end, kind in sorted(taken)]


def _take(taken: list[tuple[int, int, str]], start: int, end: int, kind: str) -> None:
    """Keep what overlaps nothing that was found before."""
    if not any(start < other_end and other < end for other, other_end, _ in taken):
        taken.append((start, end, kind))
