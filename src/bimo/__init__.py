"""Bimo (笔墨): from your own text, Chinese or English, to a language model that you can read, trust and ship."""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

_VERBS = {
    "evaluate": "bimo.evaluate.suite",
    "generate": "bimo.generate.engine",
    "load": "bimo.generate.engine",
    "plan": "bimo.plan",
    "prepare": "bimo.prepare",
    "run": "bimo.run",
    "train": "bimo.train.pretrain",
}

__all__ = ["__version__", "evaluate", "generate", "load", "plan", "prepare", "run", "train"]


def __getattr__(name: str) -> Any:
    """Import a verb when it is first used, so that `import bimo` costs nothing."""
    if name in _VERBS:
        return getattr(importlib.import_module(_VERBS[name]), name)
    raise AttributeError(f"module 'bimo' has no attribute {name!r}")
