"""Kill a small training at random instants, go on each time, and compare the final weights with an undisturbed run's.

    python benchmarks/kill_test.py --times 20

Prints a line for each kill and the SHA-256 of both models; exits with 1 when they differ.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from bimo.files import OLD, PART, digest_file
from bimo.train.metrics import read_metrics

ENTRY = [sys.executable, "-c", "from bimo.cli import main; main()"]

RUN_FILE = """
[model]
layers = 2
width = 48
heads = 3
kv_heads = 3
head_width = 16
hidden = 96
context = 64

[train]
steps = {steps}
batch = 8
validations = {validations}
dtype = "float32"
"""
"""A checkpoint follows each validation, so that kills meet the writing of files as well as the arithmetic."""


@dataclass(frozen=True)
class Kill:
    """One kill: how long after the first step of that process, and the last step that stands in the metrics."""

    after_seconds: float
    step: int
    leftovers: tuple[str, ...]


def write_source(path: Path) -> Path:
    """Python's own language reference, part of it."""
    from pydoc_data import topics

    path.write_text("\n\n".join(topics.topics[name] for name in sorted(topics.topics)[:40]), encoding="utf-8")
    return path


def bimo(*arguments: str | Path, wait: bool = True) -> subprocess.Popen[bytes]:
    """Begin `bimo ARGUMENTS`, and with `wait` stay until it ended well."""
    process = subprocess.Popen([*ENTRY, *map(str, arguments), "--quiet"], stdout=subprocess.DEVNULL)
    if wait and process.wait() != 0:
        raise SystemExit(f"bimo {arguments[0]} failed with exit code {process.returncode}")
    return process


def prepare(source: Path, folder: Path, *, steps: int, validations: int) -> tuple[str | Path, ...]:
    """Prepared data and a run file in `folder`. Returns the arguments of `bimo train` without --out."""
    bimo("prepare", source, "--out", folder / "data")
    (folder / "run.toml").write_text(RUN_FILE.format(steps=steps, validations=validations), encoding="utf-8")
    return "train", folder / "data", "--config", folder / "run.toml"


def kill_once(command: tuple[str | Path, ...], out: Path, after_seconds: float) -> Kill | None:
    """Go on with the training and kill it; None when it had come to its end before."""
    metrics = out / "bimo" / "metrics.jsonl"
    before = metrics.stat().st_size if metrics.exists() else -1
    process = bimo(*command, "--out", out, wait=False)
    while process.poll() is None and (not metrics.exists() or metrics.stat().st_size == before):
        time.sleep(0.001)
    time.sleep(after_seconds)
    process.send_signal(signal.SIGKILL)
    if process.wait() != -signal.SIGKILL:
        return None
    steps = [event["step"] for event in read_metrics(metrics) if event["event"] == "step"]
    leftovers = tuple(sorted(path.name for path in out.rglob("*") if path.suffix in (PART, OLD)))
    return Kill(after_seconds, max(steps, default=0), leftovers)


def kill_test(source: Path, folder: Path, *, times: int, steps: int, seed: int, longest: float) -> tuple[str, str]:
    """The digests of the undisturbed model and of the one whose training was killed `times` times."""
    command = prepare(source, folder, steps=steps, validations=steps // 2)
    bimo(*command, "--out", folder / "whole")
    draw = random.Random(seed)
    kills = finished = 0
    out = folder / "killed-0"
    while kills < times:
        kill = kill_once(command, out, draw.uniform(0, longest))
        if kill is None:
            # It reached its end first: compare, and begin another one for the kills that are left.
            finished += 1
            if digest_file(out / "model.safetensors") != digest_file(folder / "whole" / "model.safetensors"):
                break
            out = folder / f"killed-{finished}"
            continue
        kills += 1
        left = f", left behind: {', '.join(kill.leftovers)}" if kill.leftovers else ""
        print(f"kill {kills:2}: {kill.after_seconds:.3f} s after its first line, at step {kill.step}{left}", flush=True)
    bimo(*command, "--out", out)
    return digest_file(folder / "whole" / "model.safetensors"), digest_file(out / "model.safetensors")


def main() -> None:
    """Measure, print, and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=20, help="how many kills")
    parser.add_argument("--steps", type=int, default=200, help="length of the training")
    parser.add_argument("--seed", type=int, default=0, help="of the instants")
    parser.add_argument("--longest", type=float, default=1.0, help="seconds of training before a kill, at most")
    parser.add_argument("--source", type=Path, help="text to train on; else Python's own documentation")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        source = chosen.source or write_source(folder / "python.txt")
        limits = {"times": chosen.times, "steps": chosen.steps, "seed": chosen.seed, "longest": chosen.longest}
        whole, killed = kill_test(source, folder, **limits)
    print(f"undisturbed {whole}\nkilled      {killed}")
    same = whole == killed
    print(
        json.dumps({"kill_test": limits, "threads": os.environ.get("OMP_NUM_THREADS"), "same": same, "sha256": whole})
    )
    sys.exit(0 if same else 1)


if __name__ == "__main__":
    main()
