"""The command line of Bimo. `main` is what `bimo` runs."""

# Help lists commands in the order of these imports: what makes models, then what uses them.
from bimo.cli import making, refining, relating, replying, sorting, talking, translating, using, words
from bimo.cli.app import app

__all__ = [
    "app",
    "main",
    "making",
    "refining",
    "relating",
    "replying",
    "sorting",
    "talking",
    "translating",
    "using",
    "words",
]


def main() -> None:
    """The entry point of `bimo`."""
    app()
