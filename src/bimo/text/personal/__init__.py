"""Personal data and secrets: found by their standards and their context, and reported, masked, replaced or dropped."""

from bimo.text.personal.find import KINDS, Finding, find_personal
from bimo.text.personal.pseudonyms import pseudonymise
from bimo.text.personal.redact import (
    KEY_VARIABLE,
    MODES,
    Redactor,
    describe_kind,
    excerpt,
    mask,
    merge_personal,
    redaction_key,
)

__all__ = [
    "KEY_VARIABLE",
    "KINDS",
    "MODES",
    "Finding",
    "Redactor",
    "describe_kind",
    "excerpt",
    "find_personal",
    "mask",
    "merge_personal",
    "pseudonymise",
    "redaction_key",
]
