"""What a benchmark found: printed as a table, and kept as one JSON line in `results.jsonl` with all that it depends on.

A record holds the figure of every round; medians, ratios and shares are derived whenever they are shown.
"""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import math
import platform
import statistics
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

__all__ = [
    "RESULTS",
    "Comparison",
    "Curves",
    "Record",
    "append",
    "conclude",
    "digest_line",
    "read_records",
    "short",
    "text_table",
]

ROOT = Path(__file__).resolve().parents[1]
RESULTS = Path(__file__).with_name("results.jsonl")


@dataclass(frozen=True)
class Comparison:
    """One quantity, measured in rounds for each contestant; the first of `rounds` is ours.

    `limits` says what each contestant would have reached in each round if it had used all of `limit`, such as the
    memory's bandwidth: what a shared machine gives changes from one round to the next.
    """

    title: str
    unit: str
    rounds: dict[str, list[float]]
    less_is_better: bool = False
    limit: str = ""
    limits: dict[str, list[float]] = field(default_factory=dict)

    def median(self, name: str) -> float:
        """Over the rounds."""
        return statistics.median(self.rounds[name])

    def advantage(self, name: str) -> float:
        """How many times better ours is than `name`: the median of the ratios of the rounds; beside 0 no number."""
        ours = next(iter(self.rounds.values()))
        pairs = [
            (theirs, mine) if self.less_is_better else (mine, theirs)
            for mine, theirs in zip(ours, self.rounds[name], strict=True)
        ]
        return statistics.median(above / below if below else math.nan for above, below in pairs)

    def share(self, name: str) -> float | None:
        """Of the machine's limit, the median of the rounds; None where there is none to compare with."""
        if name not in self.limits:
            return None
        pairs = zip(self.rounds[name], self.limits[name], strict=True)
        return statistics.median(rate / limit for rate, limit in pairs)

    def rows(self) -> list[list[str]]:
        """Head, then a row a contestant: median, lowest to highest, how many times better ours is, share of limit."""
        head = ["", self.unit, "lowest - highest", "ours is better by", *([f"of {self.limit}"] if self.limit else [])]
        lines = [head]
        for place, (name, values) in enumerate(self.rounds.items()):
            spread = f"{short(min(values))} - {short(max(values))}" if len(values) > 1 else "one round"
            line = [name, short(self.median(name)), spread, f"{self.advantage(name):.2f}" if place else ""]
            share = self.share(name)
            lines.append([*line, *([f"{share:.0%}" if share is not None else ""] if self.limit else [])])
        return lines


@dataclass(frozen=True)
class Curves:
    """Lines over a common x, ours first; `levels` are heights to compare with."""

    title: str
    x_unit: str
    y_unit: str
    lines: dict[str, list[tuple[float, float]]]
    levels: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Record:
    """One run of one benchmark. `settings` is what was asked for, `facts` what was found beside the comparisons."""

    subject: str
    settings: dict[str, Any]
    comparisons: list[Comparison]
    curves: list[Curves] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    machine: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    commit: str = ""
    date: str = ""

    def to_json(self) -> str:
        """One line."""
        return json.dumps(_rounded(asdict(self)), ensure_ascii=False)

    @classmethod
    def from_json(cls, line: str) -> Record:
        """What `to_json` wrote."""
        values = json.loads(line)
        curves = [
            Curves(
                **{**curve, "lines": {name: [tuple(point) for point in line] for name, line in curve["lines"].items()}}
            )
            for curve in values.pop("curves")
        ]
        comparisons = [Comparison(**comparison) for comparison in values.pop("comparisons")]
        return cls(**values, comparisons=comparisons, curves=curves)


def conclude(
    subject: str,
    *,
    settings: dict[str, Any],
    machine: dict[str, Any],
    packages: Iterable[str],
    comparisons: Sequence[Comparison],
    curves: Sequence[Curves] = (),
    facts: dict[str, Any] | None = None,
    versions: dict[str, str] | None = None,
    keep: bool = True,
) -> Record:
    """Print what was found, the JSON line last; with `keep` it goes into `results.jsonl` as well.

    `packages` are looked up for their versions; `versions` are those of peers that are no packages.
    """
    record = Record(
        subject=subject,
        settings=settings,
        comparisons=list(comparisons),
        curves=list(curves),
        facts=facts or {},
        machine=machine,
        versions={"python": platform.python_version(), **_package_versions(("bimo", *packages)), **(versions or {})},
        commit=_commit(),
        date=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )
    for comparison in record.comparisons:
        print(f"\n{comparison.title}\n{text_table(comparison.rows())}")
    for name, value in record.facts.items():
        print(f"\n{name}: {value}", end="")
    print(f"\n\n{record.to_json()}")
    if keep:
        append(RESULTS, record)
    return record


def append(path: Path, record: Record) -> None:
    """Add a record to a file of records."""
    with path.open("a", encoding="utf-8") as file:
        file.write(record.to_json() + "\n")


def read_records(path: Path) -> list[Record]:
    """All records of a file, oldest first; none when there is no file."""
    if not path.exists():
        return []
    return [Record.from_json(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def text_table(rows: list[list[str]]) -> str:
    """Rows under a head, in columns as wide as they must be; all but the first are aligned to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(cell.rjust(width) if place else cell.ljust(width) for place, (cell, width) in enumerate(pairs))
        for pairs in (list(zip(row, widths, strict=True)) for row in rows)
    ]
    return "\n".join(line.rstrip() for line in lines)


def digest_line(machine: dict[str, Any]) -> str:
    """A machine in one line."""
    rates = machine.get("matrix_flops", {})
    measured = ", ".join(f"{name} {rate / 1e9:,.0f} GFLOP/s" for name, rate in rates.items())
    if "read_bandwidth" in machine:
        measured += f", reads {machine['read_bandwidth'] / 1e9:.1f} GB/s"
    return f"{machine['processor']}, {machine['cores']} cores, {machine['threads']} threads: {measured}"


def _package_versions(names: Iterable[str]) -> dict[str, str]:
    versions = {}
    for name in names:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "not there"
    return versions


def _commit() -> str:
    """The short digest of the commit, with a plus when the tree holds changes of its own."""
    git = ["git", "-C", str(ROOT)]
    try:
        commit = subprocess.run([*git, "rev-parse", "--short", "HEAD"], check=True, capture_output=True, text=True)
        changed = subprocess.run([*git, "status", "--porcelain", "src"], check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return commit.stdout.strip() + ("+" if changed.stdout else "")


def _rounded(value: Any) -> Any:
    """Six significant digits of every number: more would be noise that makes the file hard to read."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return [_rounded(item) for item in value] if isinstance(value, (list, tuple)) else value


def short(value: float) -> str:
    """Three digits at least, no more than are needed."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}" if abs(value) >= 100 else f"{value:.3g}"
