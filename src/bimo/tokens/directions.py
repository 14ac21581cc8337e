"""Which way a model that translates in several directions goes: a token before the source names the language of the
target (Johnson et al. 2017), spelled as OPUS-MT spells it (Tiedemann and Thottingal 2020).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from bimo.runtime import USAGE, UserError
from bimo.text.language import UNKNOWN, script_of
from bimo.text.pairs import Pair, PairColumns
from bimo.tokens.tokenizer import Tokenizer

__all__ = ["Way", "choose_tag", "tag_named", "tags_of", "ways_of"]

_TAG = re.compile(r">>(.+)<<")


class Way(NamedTuple):
    """A direction in which pairs are read: the language `to` that a tag asks for, or "" where the pairs name it or the
    model knows but one; `turned`, from what stands as their target."""

    to: str = ""
    turned: bool = False

    def of(self, pairs: Sequence[Pair]) -> list[Pair]:
        """The pairs in this direction."""
        return [
            Pair(*((pair.target, pair.source) if self.turned else (pair.source, pair.target)), self.to or pair.to)
            for pair in pairs
        ]


def tag_named(language: str) -> str:
    """The special token that asks for a language."""
    return f">>{language}<<"


def tags_of(tokenizer: Tokenizer) -> dict[str, int]:
    """The ids of the languages that a model can be asked for, by their names; none where it goes one way."""
    special = tokenizer.inner.get_added_tokens_decoder()
    found = {number: _TAG.fullmatch(token.content) for number, token in special.items() if token.special}
    return {match[1]: number for number, match in found.items() if match is not None}


def choose_tag(tags: dict[str, int], text: str, to: str = "") -> tuple[int, ...] | None:
    """The tag to put before a text: that of the language `to`; without it, of the one that the text is not in, and None
    where it has no letters, for then it is the same in all.

    Raises UserError when there is no such language, or when the text does not tell.
    """
    if to and to not in tags:
        raise UserError(
            "This model does not translate to {to}. {known}",
            code=USAGE,
            to=to,
            known=_known(list(tags)),
        )
    if not tags:
        return ()
    if to:
        return (tags[to],)
    script = script_of(text)
    if script == UNKNOWN:
        return None
    others = [name for name in tags if name != script]
    if len(others) != 1:
        raise UserError(
            "Say with --to which language to translate to, for “{text}” does not tell. {known}",
            code=USAGE,
            text=text[:60],
            known=_known(list(tags)),
        )
    return (tags[others[0]],)


def ways_of(
    columns: PairColumns, languages: Sequence[str], *, scripts: Sequence[str], by_column: bool, file: str
) -> list[Way]:
    """The directions of a file's pairs that a model knows, which translates into `languages`, or one way if there are
    none. It learned from sources and targets in these `scripts`, as far as that is known, and `by_column` which way
    they go. Raises UserError when neither that nor the file tells.
    """
    if not languages:
        return [Way(turned=len({*scripts}) == 2 and [*columns.languages] == [*scripts][::-1])]
    if columns.to:
        return [Way()]
    source, target = columns.names
    # A file need not name its columns as the one that was learned from: what two texts of one script are is then their
    # place, the language of the targets being the first that was learned.
    if len(languages) == 2 and not by_column and not {source, target} & {*languages}:
        target, source = languages
    ways = [way for way in (Way(target), Way(source, turned=True)) if way.to in languages]
    if not ways:
        raise UserError(
            "{path} does not say into which language its rows are translated: a column has to name {languages}.",
            code=USAGE,
            path=file,
            languages=", ".join(languages),
        )
    return ways


def _known(names: Sequence[str]) -> str:
    return f"--to {'|'.join(names)}" if names else ""
