"""What this machine is and how fast it multiplies, measured rather than assumed."""

from __future__ import annotations

import os
import platform
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from bimo.files import read_json, write_json

__all__ = ["Machine", "kept_machine", "measure_machine", "memory_bytes", "peak_memory_bytes"]

MATRIX, SMALL_MATRIX = 1024, 256
"""Sides of the square matrices that are multiplied: large enough for full speed, small enough for a blink; and of those
for a number format in which the large ones take longer than there is time, as bfloat16 where the processor has none."""

MEMORY_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
"""Where Linux says what a container may take, in control groups of version 2 and 1."""

GAIN = 1.3
"""bfloat16 must multiply this much faster than float32 before its rounding is worth it."""


@dataclass(frozen=True)
class Machine:
    """Processor, memory and measured rates. `matrix_flops` is floating-point operations a second by number format."""

    processor: str
    cores: int
    threads: int
    memory_bytes: int
    device: str
    matrix_flops: dict[str, float]

    @property
    def dtype(self) -> str:
        """The number format to compute in: bfloat16 where it is measurably faster, else float32."""
        rates = self.matrix_flops
        return "bfloat16" if rates["bfloat16"] > GAIN * rates["float32"] else "float32"

    def facts(self) -> dict[str, Any]:
        """As JSON."""
        return {**asdict(self), "dtype": self.dtype}


def measure_machine(device: torch.device, *, seconds: float = 0.5) -> Machine:
    """Look at the machine and multiply matrices for `seconds` in each number format."""
    rates = {str(dtype).removeprefix("torch."): _matrix_flops(device, dtype, seconds) for dtype in _formats()}
    return Machine(
        processor=_processor_name() if device.type == "cpu" else _accelerator_name(device),
        cores=os.cpu_count() or 1,
        threads=torch.get_num_threads(),
        memory_bytes=memory_bytes(device),
        device=str(device),
        matrix_flops=rates,
    )


def kept_machine(path: Path, device: torch.device) -> Machine:
    """The machine as it was measured when a training began, kept at `path`: measured anew when the training goes on, it
    might choose another number format."""
    if not path.exists():
        write_json(path, measure_machine(device, seconds=0.2).facts())
    return Machine(**{name: value for name, value in read_json(path).items() if name != "dtype"})


def _formats() -> tuple[torch.dtype, ...]:
    return (torch.float32, torch.bfloat16)


def _matrix_flops(device: torch.device, dtype: torch.dtype, seconds: float) -> float:
    small = _best_flops(device, dtype, SMALL_MATRIX, seconds / 4)
    there_is_time = 2 * MATRIX**3 / small < seconds
    return _best_flops(device, dtype, MATRIX, seconds) if there_is_time else small


def _best_flops(device: torch.device, dtype: torch.dtype, side: int, seconds: float) -> float:
    a = torch.randn(side, side, device=device).to(dtype)
    best = float("inf")
    end = time.perf_counter() + seconds
    a @ a
    while best == float("inf") or time.perf_counter() < end:  # once at least, however busy the machine is
        start = time.perf_counter()
        a @ a
        _wait(device)
        best = min(best, time.perf_counter() - start)
    return 2 * side**3 / best


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def _processor_name() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _accelerator_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "Apple GPU"


def memory_bytes(device: torch.device) -> int:
    """What the device has; of the processor's memory what this process may take, where a container limits it."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    if device.type == "mps":
        return int(torch.mps.recommended_max_memory())
    return min([_physical_bytes(), *filter(None, map(_limit, MEMORY_LIMITS))])


def _limit(path: Path) -> int:
    """Bytes, or 0 where there is no limit."""
    try:
        return int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return 0


def _physical_bytes() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return 8 * 2**30


def peak_memory_bytes() -> int:
    """The most memory that this process has held at one time, 0 where the system does not say."""
    try:
        import resource
    except ImportError:
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if platform.system() == "Darwin" else peak * 1024
