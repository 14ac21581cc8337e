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
    "secret": find_secrets,
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
"""In this order: what an earlier rule has found, a later one does not take again."""

KINDS = (*_RULES, "name")

_ANY = re.compile(r"[0-9@]|[零〇一二三四五六七八九幺]{9}|微信|薇信|QQ|扣扣|号", re.IGNORECASE)
"""Without any of these only a secret or a name can be in a text."""


def find_personal(text: str) -> list[Finding]:
    """Personal data and secrets in a text, in order. Sources of the rules: the standards named beside each.

    Rules for numbers rest on check digits and on the words before them, addresses on the units they are made of, names
    on labels, forms of address and what stands beside them.
    """
    shadow = Shadow(text)
    taken: list[tuple[int, int, str]] = []
    for kind, rule in _RULES.items() if _ANY.search(shadow.text) else [("secret", find_secrets)]:
        for start, end in rule(shadow.text):
            if not any(start < other_end and other < end for other, other_end, _ in taken):
                taken.append((start, end, kind))
    taken.sort()
    others = [(start, end) for start, end, _ in taken]
    for start, end in sorted(set(find_names(shadow.text, others)), key=lambda span: (span[0], -span[1])):
        if not any(start < other_end and other < end for other, other_end, _ in taken):
            taken.append((start, end, "name"))
    return [Finding(*shadow.place(start, end), kind) for start, end, kind in sorted(taken)]
