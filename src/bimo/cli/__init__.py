"""The command line of Bimo. `main` is what `bimo` runs."""

# Help lists commands in the order of these imports: what makes models, then what uses them.
from bimo.cli import making, refining, talking, classifying, translating, using, words  # noqa: I001
from bimo.cli.app import app

__all__ = ["app", "classifying", "main", "making", "refining", "talking", "translating", "using", "words"]


def main() -> None:
    """The entry point of `bimo`."""
    app()
