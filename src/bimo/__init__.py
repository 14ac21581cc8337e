"""Bimo (笔墨): from your own text, Chinese or English, to a language model that you can read, trust and ship."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any

__version__ = "0.1.0"

_VERBS = {
    "answer": "bimo.tasks.answer.answering",
    "classify": "bimo.tasks.classify.classifier",
    "embed": "bimo.tasks.embed.embedder",
    "evaluate": "bimo.evaluate.suite",
    "export": "bimo.export.verb",
    "generate": "bimo.generate.engine",
    "load": "bimo.generate.engine",
    "plan": "bimo.plan",
    "prepare": "bimo.prepare",
    "run": "bimo.run",
    "similar": "bimo.tasks.embed.similar",
    "train": "bimo.train.pretrain",
    "tune": "bimo.tasks.tune",
    "train_translator": "bimo.translation",
    "translate": "bimo.generate.translator",
}

__all__ = [
    "__version__",
    "answer",
    "classify",
    "embed",
    "evaluate",
    "export",
    "generate",
    "load",
    "plan",
    "prepare",
    "run",
    "similar",
    "train",
    "train_translator",
    "translate",
    "tune",
]


def __getattr__(name: str) -> Any:
    """Import a verb when it is first used, so that `import bimo` costs nothing."""
    if name in _VERBS:
        return getattr(importlib.import_module(_VERBS[name]), name)
    raise AttributeError(f"module 'bimo' has no attribute {name!r}")


class _Package(ModuleType):
    """Importing the module `bimo.plan` would hide the verb `bimo.plan`; here the verb wins."""

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _VERBS and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
