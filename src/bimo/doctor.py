"""`bimo doctor`: what this machine can do, what is missing, and how to get it."""

from __future__ import annotations

import importlib.metadata
import platform
import shutil
from pathlib import Path
from typing import Any

import bimo
from bimo.machine import measure_machine
from bimo.models.config import load_presets
from bimo.runtime import pick_device, t

__all__ = ["doctor", "doctor_lines"]

REQUIRED = ("torch", "numpy", "tokenizers", "safetensors", "rjieba", "pyarrow", "ftfy", "trafilatura", "pypdf")
OPTIONAL = {"transformers": "to load model folders elsewhere and to compare: pip install transformers"}


def doctor(folder: str | Path = ".") -> dict[str, Any]:
    """Facts about this machine, its disk at `folder`, and the packages; measures for about a second."""
    machine = measure_machine(pick_device())
    return {
        "bimo": bimo.__version__,
        "python": platform.python_version(),
        "system": platform.platform(),
        "machine": machine.facts(),
        "disk_free_bytes": shutil.disk_usage(folder).free,
        "packages": {name: _version(name) for name in (*REQUIRED, *OPTIONAL)},
        "presets": list(load_presets()),
    }


def doctor_lines(facts: dict[str, Any]) -> list[str]:
    """The facts as lines for people: what is here, then what to do."""
    machine = facts["machine"]
    rates = machine["matrix_flops"]
    lines = [
        t("Bimo {bimo}, Python {python}, {system}", **facts),
        t(
            "{processor}: {cores} cores, {threads} threads in use, {memory:.1f} GB memory; computes on {device}",
            memory=machine["memory_bytes"] / 1e9,
            **{name: machine[name] for name in ("processor", "cores", "threads", "device")},
        ),
        t(
            "Matrix products: {fp32:,.0f} GFLOP/s in float32, {bf16:,.0f} in bfloat16; training computes in {dtype}",
            fp32=rates["float32"] / 1e9,
            bf16=rates["bfloat16"] / 1e9,
            dtype=machine["dtype"],
        ),
        t("Disk: {free:.1f} GB free here", free=facts["disk_free_bytes"] / 1e9),
        t(
            "Packages: {packages}",
            packages=", ".join(f"{name} {version}" for name, version in facts["packages"].items() if version),
        ),
    ]
    missing = [name for name, version in facts["packages"].items() if version is None]
    lines += [
        t("Missing: {name}, {remedy}", name=name, remedy=t(OPTIONAL[name])) for name in missing if name in OPTIONAL
    ]
    broken = [name for name in missing if name in REQUIRED]
    if broken:
        lines.append(t("Missing and needed: {names}. Install again: pip install bimo", names=", ".join(broken)))
    return lines


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
