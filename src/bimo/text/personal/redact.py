"""What becomes of personal data: nothing, a mark of its kind, a stand-in, or the whole text is left out."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

from bimo.runtime import USAGE, UserError, t
from bimo.text.personal.find import Finding, find_personal
from bimo.text.personal.pseudonyms import pseudonymise

__all__ = [
    "PersonalCounts",
    "Redactor",
    "describe_kind",
    "excerpt",
    "excerpt_around",
    "mask",
    "masked",
    "redaction_key",
]

_MODES = ("report", "mask", "pseudonymise", "drop")

_KEY_VARIABLE = "BIMO_PSEUDONYM_KEY"

_SAMPLES = 3
_AROUND = 24
_MOST_SOURCES = 10_000
_LONGEST_VALUE = 8_000
"""A key may be as long as this: so much is searched where the beginning of a text is shown."""
_HAN = re.compile("[\u4e00-\u9fff]")

_MARKS = {
    "secret": ("密钥", "SECRET"),
    "email": ("邮箱", "EMAIL"),
    "iban": ("国际账号", "IBAN"),
    "credit_code": ("信用代码", "CREDIT CODE"),
    "id_number": ("身份证号", "ID NUMBER"),
    "bank_card": ("银行卡号", "CARD NUMBER"),
    "ip": ("IP地址", "IP ADDRESS"),
    "mac": ("MAC地址", "MAC ADDRESS"),
    "birth_date": ("出生日期", "DATE OF BIRTH"),
    "ssn": ("社会安全号", "SSN"),
    "passport": ("护照号", "PASSPORT"),
    "account_id": ("账号", "ACCOUNT"),
    "phone": ("电话", "PHONE"),
    "plate": ("车牌号", "PLATE"),
    "address": ("地址", "ADDRESS"),
    "name": ("姓名", "NAME"),
}


_NAMES = {
    "secret": "keys and passwords",
    "email": "e-mail addresses",
    "iban": "international account numbers",
    "credit_code": "social credit codes",
    "id_number": "identity numbers",
    "bank_card": "bank cards",
    "ip": "IP addresses",
    "mac": "MAC addresses",
    "birth_date": "dates of birth",
    "ssn": "social security numbers",
    "passport": "passports",
    "account_id": "WeChat and QQ accounts",
    "phone": "telephone numbers",
    "plate": "number plates",
    "address": "postal addresses",
    "name": "names of people",
}


def describe_kind(kind: str) -> str:
    """A kind in words, in the user's language."""
    return t(_NAMES[kind])


def mask(text: str, findings: Sequence[Finding], language: str = "en") -> str:
    """`text` with the kind of each finding in brackets in its place, in Chinese where the text is: 电话是[电话]."""
    parts, place = [], 0
    for finding in findings:
        mark = _MARKS[finding.kind][language != "zh"]
        parts += [text[place : finding.start], f"[{mark}]"]
        place = finding.end
    return "".join([*parts, text[place:]])


def masked(text: str) -> str:
    """A whole text as it may be shown; marks may make it longer."""
    return mask(text, find_personal(text), _language(text))


def excerpt(text: str, characters: int) -> str:
    """The beginning of a text as it may be shown: masked, whatever the mode."""
    return masked(text[: characters + _LONGEST_VALUE])[:characters]


def excerpt_around(before: str, word: str, after: str) -> tuple[str, str, str]:
    """A word and the text on both sides of it as they may be shown: masked, the word with all that it is a part of."""
    text = before + word + after
    findings = find_personal(text)
    start, end = len(before), len(before) + len(word)
    own = [finding for finding in findings if finding.start < end and start < finding.end]
    if own:
        start, end = min(start, own[0].start), max(end, own[-1].end)

    def shown(first: int, last: int) -> str:
        inside = [
            Finding(one.start - first, one.end - first, one.kind)
            for one in findings
            if first <= one.start and one.end <= last
        ]
        return mask(text[first:last], inside, _language(text))

    return shown(0, start), shown(start, end), shown(end, len(text))


def _language(text: str) -> str:
    return "zh" if _HAN.search(text) else "en"


def redaction_key(mode: str) -> bytes:
    """The key of pseudonyms from the environment; empty in other modes. Raises UserError when it is missing."""
    if mode not in _MODES:
        raise UserError(
            "--redact must be one of {modes}, but is {mode!r}.", code=USAGE, modes=", ".join(_MODES), mode=mode
        )
    key = os.environ.get(_KEY_VARIABLE, "")
    if mode == "pseudonymise" and not key:
        raise UserError(
            "Pseudonyms need a secret key, so that nobody else can make the same ones. Put one into {variable}, and "
            "keep it where the data is not.",
            code=USAGE,
            variable=_KEY_VARIABLE,
        )
    return key.encode() if mode == "pseudonymise" else b""


class PersonalCounts:
    """What was met, by kind and by source, with a few samples in which it is masked. The values go nowhere."""

    def __init__(self) -> None:
        self.kinds: Counter[str] = Counter()
        self.sources: Counter[str] = Counter()
        self.samples: dict[str, list[dict[str, Any]]] = {}

    def add(self, facts: dict[str, Any]) -> None:
        """Count what another one has counted. Of very many sources those with little are forgotten."""
        self.kinds.update(facts["counts"])
        self.sources.update(facts["sources"])
        if len(self.sources) > _MOST_SOURCES:
            self.sources = Counter(dict(self.sources.most_common(_MOST_SOURCES // 2)))
        for kind, found in facts["samples"].items():
            self.samples[kind] = (self.samples.get(kind, []) + found)[:_SAMPLES]

    def facts(self, sources: int | None = None) -> dict[str, Any]:
        """Ready for JSON: `counts` by kind, `sources` (so many, or all), `samples` by kind."""
        return {
            "counts": dict(self.kinds.most_common()),
            "sources": dict(self.sources.most_common(sources)),
            "samples": self.samples,
        }


class Redactor:
    """Treats texts in a mode of TextOptions.redact, and counts in `met` what was in them."""

    def __init__(self, mode: str) -> None:
        self.mode, self._key = mode, redaction_key(mode)
        self.met = PersonalCounts()

    def redact(self, text: str, source: str, line: int, language: str) -> tuple[str, list[str]]:
        """(text as it may be kept, kinds that were found in it). In mode `drop` the text is masked as well."""
        findings = find_personal(text)
        if not findings:
            return text, []
        self.met.sources[source] += len(findings)
        for number, finding in enumerate(findings):
            self.met.kinds[finding.kind] += 1
            samples = self.met.samples.setdefault(finding.kind, [])
            if len(samples) < _SAMPLES:
                samples.append({"source": source, "line": line, "text": _sample(text, findings, number, language)})
        kinds = sorted({finding.kind for finding in findings})
        if self.mode == "report":
            return text, kinds
        if self.mode == "pseudonymise":
            return pseudonymise(text, findings, self._key), kinds
        return mask(text, findings, language), kinds


def _sample(text: str, findings: Sequence[Finding], number: int, language: str) -> str:
    """A finding masked, with a little of what is around it, masked as well."""
    finding = findings[number]
    before = mask(text[: finding.start], findings[:number], language)
    after = text[finding.end :]
    rest = [Finding(one.start - finding.end, one.end - finding.end, one.kind) for one in findings[number + 1 :]]
    mark = mask(text[finding.start : finding.end], [Finding(0, finding.end - finding.start, finding.kind)], language)
    return " ".join((before[-_AROUND:] + mark + mask(after, rest, language)[:_AROUND]).split())
