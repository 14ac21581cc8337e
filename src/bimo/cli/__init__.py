"""The command line of Bimo. `main` is what `bimo` runs."""

from bimo.cli import chat, translating, verbs, words
from bimo.cli.app import app

__all__ = ["app", "chat", "main", "translating", "verbs", "words"]


def main() -> None:
    """The entry point of `bimo`."""
    app()
