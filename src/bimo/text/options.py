"""What a person may ask of reading and cleaning."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["TextOptions"]


@dataclass(frozen=True)
class TextOptions:
    """None lets the data decide.

    `allow` turns rules off, by the reasons of ALLOWABLE. `languages` keeps those (`zh`, `en`, other ISO codes) alone.
    `chinese` is the script that Chinese documents are brought into, `simplified` or `traditional`; empty leaves them as
    they are. `redact` is what becomes of personal data and secrets: `report`, `mask`, `pseudonymise` (with a key in the
    environment, BIMO_PSEUDONYM_KEY), or `drop` for whole documents. `strict` stops at the first file or row that cannot
    be read. `text_column` names the column of tables, `controls` those that are
    learned as tags in front of the texts. `keep_best` keeps that share of each language, the texts most
    like those of the files and folders `reference`. `validation_share` is a share of all text, `seed` picks which.
    """

    allow: tuple[str, ...] = ()
    languages: tuple[str, ...] | None = None
    chinese: str = ""
    redact: str = "mask"
    strict: bool = False
    text_column: str | None = None
    controls: tuple[str, ...] = ()
    reference: tuple[str, ...] = ()
    keep_best: float = 1.0
    seed: int = 0
    validation_share: float | None = None
