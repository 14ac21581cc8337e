"""Seconds and peak memory of a command with all of its children."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence

__all__ = ["BIMO", "measure_command"]

BIMO = (sys.executable, "-c", "from bimo.cli import main; main()")
"""The command, of the very environment that measures."""

_EVERY_SECONDS = 0.2


def measure_command(command: Sequence[str], environment: Mapping[str, str] | None = None) -> tuple[float, float]:
    """(seconds, MB): memory is the largest sum of the proportional sets (PSS) of all processes, looked at five times
    a second, so that what processes share counts once. Raises RuntimeError with its last words when it fails.
    """
    import psutil

    peak, ended = 0, threading.Event()
    before = time.perf_counter()
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)

    def watch() -> None:
        nonlocal peak
        root = psutil.Process(process.pid)
        while not ended.wait(_EVERY_SECONDS):
            total = 0
            try:
                family = [root, *root.children(recursive=True)]
            except psutil.Error:
                return
            for member in family:
                try:
                    total += member.memory_full_info().pss
                except psutil.Error:
                    continue  # it has ended meanwhile
            peak = max(peak, total)

    watcher = threading.Thread(target=watch)
    watcher.start()
    _, errors = process.communicate()
    seconds = time.perf_counter() - before
    ended.set()
    watcher.join()
    if process.returncode:
        raise RuntimeError(f"{' '.join(command[:4])} failed:\n{errors[-3000:]}")
    return seconds, peak / 1e6
