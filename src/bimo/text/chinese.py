"""Traditional and simplified Chinese, one made from the other by OpenCC's tables of words and characters."""

from __future__ import annotations

import functools
from collections.abc import Callable

from bimo.runtime import USAGE, UserError

__all__ = ["SCRIPTS", "check_script", "convert"]

SCRIPTS = {"simplified": "t2s", "traditional": "s2t"}


def check_script(script: str) -> None:
    """Raises UserError unless `script` is `simplified`, `traditional` or empty."""
    if script and script not in SCRIPTS:
        raise UserError("--chinese must be simplified or traditional, but is {script!r}.", code=USAGE, script=script)


def convert(text: str, script: str) -> str:
    """Chinese `text` in the other script; words whose characters differ by context are looked up as words."""
    return _converter(script)(text)


@functools.cache
def _converter(script: str) -> Callable[[str], str]:
    import opencc

    convert: Callable[[str], str] = opencc.OpenCC(SCRIPTS[script]).convert
    return convert
