"""Peak memory of `bimo prepare` on a corpus and on ten copies of it joined into one file per source file.

    python benchmarks/prepare_memory.py ../shared/data/lm/zh_classic_novels

Prints a row a size, then a JSON line. Duplicates are found and set aside, as they would be for a user.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ENTRY = "from bimo.cli import main; main()"


def peak_megabytes(source: Path, out: Path) -> tuple[float, float, dict]:
    """(peak resident memory in MB, seconds, facts) of one `bimo prepare` in a process of its own."""
    before = time.perf_counter()
    arguments = [sys.executable, "-c", ENTRY, "prepare", str(source), "--out", str(out), "--json", "--quiet"]
    facts = json.loads(subprocess.run(arguments, check=True, capture_output=True).stdout)
    seconds = time.perf_counter() - before
    # The maximum over all children so far: sizes are measured in growing order, so each is its own.
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024, seconds, facts


def main() -> None:
    source = Path(sys.argv[1])
    rows = []
    with tempfile.TemporaryDirectory() as temporary:
        for times in (1, 10):
            folder = Path(temporary) / f"{times}x"
            folder.mkdir()
            for file in sorted(source.iterdir()):
                (folder / file.name).write_bytes(file.read_bytes() * times)
            memory, seconds, facts = peak_megabytes(folder, Path(temporary) / f"data-{times}")
            megabytes = facts["documents"]["bytes_read"] / 1e6
            rows.append({"times": times, "peak_mb": memory, "seconds": seconds, "read_mb": megabytes})
            print(f"{times:3d}x  {megabytes:7.1f} MB read  {memory:7.0f} MB peak  {seconds:6.1f} s")
    print(json.dumps({"rows": rows, "ratio": rows[1]["peak_mb"] / rows[0]["peak_mb"]}))


if __name__ == "__main__":
    main()
