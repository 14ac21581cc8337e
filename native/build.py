"""Compiles the CPU kernel: python native/build.py OUT.so [compiler options]. Needs a C++20 compiler."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

NATIVE = Path(__file__).parent
OPTIONS = ["-std=c++20", "-O3", "-fPIC", "-ffp-contract=off", "-fvisibility=hidden", "-pthread"]
# Neither is looked at here, and without them more loops go over several numbers at once.
OPTIONS += ["-fno-math-errno", "-fno-trapping-math"]
AVX2 = ["-mavx2", "-mfma", "-mf16c"]
# Without it GCC moves what one sum needs far from it, and sixteen registers are too few for what is then under way.
IN_ORDER = ["-fno-tree-ter"]
# Ordered for processors that run 512 bits at once; those that do not lose nothing by it.
AVX512 = [*AVX2, "-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mavx512vnni"]
AVX512 += ["-mtune=icelake-server", "-mprefer-vector-width=512"]


def sources() -> dict[str, list[str]]:
    """Every file of the kernel for this processor, with the options that are its own."""
    names = ("matrix", "decoder", "grams", "copying", "tokens", "plain")
    files: dict[str, list[str]] = {f"{name}.cpp": [] for name in names}
    if platform.machine().lower() in ("x86_64", "amd64"):
        files |= {"decoder.cpp": ["-DBIMO_HAS_AVX"], "avx2.cpp": [*AVX2, *IN_ORDER], "avx512.cpp": AVX512}
    return files


def shared_threads(compiler: str) -> list[str]:
    """The option for OpenMP, where it comes with GCC's library: threads that torch has as well, not a second team."""
    probe = "#if defined(__clang__)\n#error other threads\n#endif\n#include <omp.h>\n"
    command = [compiler, "-fopenmp", "-fsyntax-only", "-x", "c++", "-"]
    return ["-fopenmp"] if subprocess.run(command, input=probe, text=True, capture_output=True).returncode == 0 else []


def build(library: Path, options: list[str]) -> None:
    """Compile and link. Raises FileNotFoundError without a compiler, CalledProcessError where it fails."""
    compiler = os.environ.get("CXX") or next(filter(None, map(shutil.which, ("c++", "g++", "clang++"))), None)
    if compiler is None:
        raise FileNotFoundError("no C++ compiler")
    options = [*options, *shared_threads(compiler)]
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(os.cpu_count()) as pool:

        def compile_file(name: str, own: list[str]) -> str:
            made = str(Path(folder, name).with_suffix(".o"))
            command = [compiler, *OPTIONS, *own, *options, "-c", str(NATIVE / name), "-o", made]
            subprocess.run(command, check=True)
            return made

        made = list(pool.map(compile_file, *zip(*sources().items(), strict=True)))
        part = Path(folder, library.name)
        subprocess.run([compiler, "-shared", "-pthread", *options, *made, "-o", str(part)], check=True)
        # Removed before it is replaced: a process that has the old one mapped keeps it.
        library.unlink(missing_ok=True)
        shutil.copy(part, library)


if __name__ == "__main__":
    build(Path(sys.argv[1]), sys.argv[2:])
