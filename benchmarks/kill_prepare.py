"""Kill `bimo prepare` at random instants, let it go on, and compare all that it wrote with an undisturbed run's.

    python benchmarks/kill_prepare.py ../shared/data/lm --times 10

Prints a line for each kill, with the batches that were there already, and exits with 1 when a digest differs. Every
second kill takes the processes of the pool with it; the others leave them without a parent.
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
from pathlib import Path

from bimo.files import digest_file

ENTRY = [sys.executable, "-c", "from bimo.cli import main; main()"]


def start(source: Path, out: Path) -> subprocess.Popen[bytes]:
    """A preparation in a group of processes of its own."""
    command = [*ENTRY, "prepare", str(source), "--out", str(out), "--quiet"]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)


def finish(source: Path, out: Path) -> float:
    """Seconds until a preparation has ended well."""
    before = time.perf_counter()
    if start(source, out).wait() != 0:
        raise SystemExit("bimo prepare failed")
    return time.perf_counter() - before


def digests(out: Path) -> dict[str, str]:
    """Of every file, by its name."""
    files = (path for path in sorted(out.rglob("*")) if path.is_file() and path.name != ".lock")
    return {str(path.relative_to(out)): digest_file(path) for path in files}


def kill_once(source: Path, out: Path, after_seconds: float, *, all_of_it: bool) -> int:
    """Kill a preparation so long after its start. Returns how many cleaned batches it leaves."""
    process = start(source, out)
    time.sleep(after_seconds)
    if all_of_it:
        os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()
    process.wait()
    return len(list((out / ".cleaning").glob("batch-*.arrow")))


def main() -> None:
    """Measure, print, and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="files of some MB, so that there are several batches")
    parser.add_argument("--times", type=int, default=10, help="how many kills")
    parser.add_argument("--seed", type=int, default=0, help="of the instants")
    chosen = parser.parse_args()
    draw, same = random.Random(chosen.seed), True
    with tempfile.TemporaryDirectory() as temporary:
        whole = Path(temporary) / "whole" / "data"  # the report says the name of its folder
        seconds = finish(chosen.source, whole)
        expected = digests(whole)
        print(f"undisturbed: {seconds:.1f} s, {len(expected)} files", flush=True)
        for number in range(chosen.times):
            out, instant = Path(temporary) / f"killed-{number}" / "data", draw.uniform(0.1, seconds)
            left = kill_once(chosen.source, out, instant, all_of_it=number % 2 == 0)
            rest = finish(chosen.source, out)
            found = digests(out)
            differing = sorted(name for name in expected | found if expected.get(name) != found.get(name))
            same = same and not differing
            verdict = f"differs in {', '.join(differing)}" if differing else "the same"
            print(
                f"kill {number + 1:2}: after {instant:.2f} s, {left} batches there; {rest:.1f} s more: {verdict}",
                flush=True,
            )
    print(json.dumps({"kill_prepare": chosen.times, "seconds": round(seconds, 1), "same": same}))
    sys.exit(0 if same else 1)


if __name__ == "__main__":
    main()
