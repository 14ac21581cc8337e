"""What this machine can do, what is missing, and how to get it."""

from __future__ import annotations

import platform
import shutil
from pathlib import Path
from typing import Any

import torch

import bimo
from bimo.doctor.packages import needed_packages, version_of
from bimo.kernel import best_instructions, read_bandwidth, training_function
from bimo.machine import Machine, measure_machine
from bimo.models.config import ModelConfig, load_presets
from bimo.plan import USUAL_SHARE_OF_PEAK
from bimo.runtime import pick_device, t

__all__ = ["examine_machine", "machine_lines"]

USUAL_VOCABULARY, USUAL_CONTEXT = 8192, 256
USUAL_SHARE_OF_BANDWIDTH = 0.7
"""Of the rate at which memory is read, what writing one token after the other reaches (docs/performance.md)."""

OPTIONAL = {"transformers": "to load model folders elsewhere and to compare: pip install transformers"}


def examine_machine(folder: str | Path = ".") -> dict[str, Any]:
    """Facts about this machine, its disk at `folder`, and the packages; measures for about a second."""
    machine = measure_machine(pick_device())
    bandwidth = read_bandwidth(torch.get_num_threads())
    return {
        "bimo": bimo.__version__,
        "python": platform.python_version(),
        "system": platform.platform(),
        "machine": machine.facts(),
        "disk_free_bytes": shutil.disk_usage(folder).free,
        "packages": {name: version_of(name) for name in (*needed_packages(), *OPTIONAL)},
        "kernel": best_instructions(),
        "kernel_trains": training_function("norm", machine.dtype) is not None,
        "read_bytes_per_second": bandwidth,
        "presets": {name: _expected_rates(fields, machine, bandwidth) for name, fields in load_presets().items()},
    }


def _expected_rates(fields: dict[str, Any], machine: Machine, bandwidth: float | None) -> dict[str, float | None]:
    """Tokens a second that a size can be expected to train and to write at, within a factor of two."""
    shape = ModelConfig(vocabulary=USUAL_VOCABULARY, context=USUAL_CONTEXT, **fields)
    flops = machine.matrix_flops[machine.dtype]
    weights = 4 * (shape.matrix_parameters + shape.vocabulary * shape.width)
    return {
        "parameters": shape.parameters,
        "training_tokens_per_second": USUAL_SHARE_OF_PEAK * flops / shape.flops_per_token,
        "writing_tokens_per_second": USUAL_SHARE_OF_BANDWIDTH * bandwidth / weights if bandwidth else None,
    }


def machine_lines(facts: dict[str, Any]) -> list[str]:
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
        _writing_line(facts),
        t("Training: between matrix products in the kernel, too")
        if facts["kernel_trains"]
        else t("Training: in torch alone, which is slower; the kernel takes part where GCC has built it."),
        t("Disk: {free:.1f} GB free here", free=facts["disk_free_bytes"] / 1e9),
        t(
            "Packages: {packages}",
            packages=", ".join(f"{name} {version}" for name, version in facts["packages"].items() if version),
        ),
    ]
    lines += [
        t("Missing: {name}, {remedy}", name=name, remedy=t(OPTIONAL[name]))
        for name in OPTIONAL
        if facts["packages"][name] is None
    ]
    lines += [
        t(
            "“{name}”, {parameters:.1f} M parameters: trains at about {training:,.0f} tokens/s, writes at {writing}",
            name=name,
            parameters=rates["parameters"] / 1e6,
            training=rates["training_tokens_per_second"],
            writing=f"{rates['writing_tokens_per_second']:,.0f}" if rates["writing_tokens_per_second"] else "?",
        )
        for name, rates in facts["presets"].items()
    ]
    return lines


def _writing_line(facts: dict[str, Any]) -> str:
    if facts["kernel"] is None:
        return t(
            "Writing: in torch, for the kernel is not built, or BIMO_KERNEL is torch. It is built by a C++ compiler."
        )
    return t(
        "Writing: in the kernel with {kernel}; memory is read at {bandwidth:.0f} GB/s",
        kernel=facts["kernel"],
        bandwidth=facts["read_bytes_per_second"] / 1e9,
    )
