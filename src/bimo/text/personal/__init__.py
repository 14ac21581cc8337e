"""Personal data and secrets: found by their standards and their context, and reported, masked, replaced or dropped."""

from bimo.text.personal.find import KINDS, Finding, find_personal
from bimo.text.personal.pseudonyms import pseudonymise
from bimo.text.personal.redact import (
    PersonalCounts,
    Redactor,
    describe_kind,
    excerpt,
    excerpt_around,
    mask,
    masked,
    redaction_key,
)

__all__ = [
    "KINDS",
    "Finding",
    "PersonalCounts",
    "Redactor",
    "describe_kind",
    "excerpt",
    "excerpt_around",
    "find_personal",
    "mask",
    "masked",
    "pseudonymise",
    "redaction_key",
]
