"""The command line of Bimo. `main` is what `bimo` runs."""

from bimo.cli import translating, verbs, words
from bimo.cli.app import app

__all__ = ["app", "main", "translating", "verbs", "words"]


def main() -> None:
    """The entry point of `bimo`."""
    app()
