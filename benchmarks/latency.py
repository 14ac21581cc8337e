"""How soon Bimo answers: `bimo --help`, and the first piece of text from `bimo generate`, as a person would type it.

    python benchmarks/latency.py demo-model

Prints the median of five runs each, then a JSON line.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

BIMO = str(Path(sys.executable).with_name("bimo"))
RUNS = 5


def help_seconds() -> float:
    """Seconds until `bimo --help` has ended."""
    before = time.perf_counter()
    subprocess.run([BIMO, "--help"], check=True, capture_output=True)
    return time.perf_counter() - before


def first_text_seconds(model: str) -> float:
    """Seconds until the first byte that the model itself wrote stands on stdout (no prompt is echoed)."""
    before = time.perf_counter()
    with subprocess.Popen([BIMO, "generate", model, "--max-tokens", "20"], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        first = process.stdout.read(1)
        seconds = time.perf_counter() - before
        process.stdout.read()
    if process.returncode or not first:
        raise SystemExit(f"bimo generate {model} wrote no text and ended with {process.returncode}.")
    return seconds


def main() -> None:
    figures = {
        "help_seconds": statistics.median(help_seconds() for _ in range(RUNS)),
        "first_text_seconds": statistics.median(first_text_seconds(sys.argv[1]) for _ in range(RUNS)),
    }
    for name, value in figures.items():
        print(f"{name:20s} {value:.3f}")
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
