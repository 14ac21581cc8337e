"""What `bimo plan` promises and what comes of it: time, peak memory, and bits per byte of documents held out.

    python benchmarks/plan.py TEXTS [TEXTS ...] --minutes 1 10 --work FOLDER
    python benchmarks/plan.py TEXTS [TEXTS ...] --minutes 10 --presets drop line stroke --work FOLDER --dry
    python benchmarks/plan.py --fit --work FOLDER

Each text, a file or a folder, goes through `bimo run` once for each time, alone on the machine, with the size that the
plan chooses or with each of `--presets`: what size and reading are worth apart from each other shows only where they
were not chosen together. What came of it is kept in `--work`, so that an interrupted benchmark goes on with the next
run. Time is that of training; memory is that of all processes of the command, what cleaning, counting and evaluation
take included.

`--fit` chooses the weights of `bimo.models.scaling` by least squares of relative errors over all runs in `--work`, and
says how far off each run is by weights fitted to the runs on other texts: an expectation is worth what it says of a
text that it has not seen.
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peak import BIMO, measure_command
from record import Comparison, conclude, text_table

from bimo.files import read_json, write_json
from bimo.machine import measure_machine
from bimo.models.scaling import order_gain, terms

MEASURES = {"seconds": "seconds", "memory": "MB", "bits": "bits per byte"}


def main() -> None:
    """Measure, print, and keep; or fit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("texts", type=Path, nargs="*")
    parser.add_argument("--minutes", type=float, nargs="+", default=[1.0, 10.0])
    parser.add_argument("--presets", nargs="+", default=[""], help="sizes, instead of the one that the plan chooses")
    parser.add_argument("--work", type=Path, required=True, help="a folder for the runs")
    parser.add_argument("--fit", action="store_true", help="choose the weights of the expectation instead")
    parser.add_argument("--dry", action="store_true", help="keep nothing in results.jsonl")
    chosen = parser.parse_args()
    if chosen.fit:
        print(fit([read_json(path) for path in sorted(chosen.work.glob("*.json"))]))
        return
    machine = measure_machine(torch.device("cpu"), seconds=1.0).facts()
    chosen.work.mkdir(parents=True, exist_ok=True)
    wanted = itertools.product(chosen.texts, chosen.minutes, chosen.presets)
    runs = [run(text, minutes, preset, chosen.work) for text, minutes, preset in wanted]
    conclude(
        "plan",
        settings={"texts": [text.stem for text in chosen.texts], "minutes": chosen.minutes, "presets": chosen.presets},
        machine=machine,
        packages=("torch",),
        comparisons=[
            Comparison(
                f"{name}, reached and planned",
                unit,
                {side: [run[side][name] for run in runs] for side in ("reached", "planned")},
                less_is_better=True,
            )
            for name, unit in MEASURES.items()
        ],
        facts={run["name"]: sentence(run) for run in runs} | {"bits per byte within the range": in_range(runs)},
        keep=not chosen.dry,
    )


def run(text: Path, minutes: float, preset: str, work: Path) -> dict[str, Any]:
    """What was planned and what was reached; from the work folder if it is there."""
    stem = "-".join(filter(None, (text.stem, f"{minutes:g}", preset)))
    kept = work / f"{stem}.json"
    if not kept.exists():
        out = work / stem
        command = [*BIMO, "run", str(text), "--out", str(out), "--minutes", f"{minutes:g}", "--quiet"]
        command += ["--preset", preset] if preset else []
        _, memory = measure_command(command)
        plan, training, evaluation = (read_json(out / "bimo" / f"{n}.json") for n in ("plan", "training", "evaluation"))
        kneser_ney = evaluation["baselines"]["kneser_ney"]
        write_json(
            kept,
            {
                "name": ", ".join(filter(None, (text.stem, f"{minutes:g} min", preset))),
                "text": text.stem,
                "parameters": plan["parameters"],
                "tokens": training["tokens"],
                "unique": plan["tokens"] / plan["epochs"],
                "after_a_megabyte": list(kneser_ney["after_a_megabyte"].values()),
                "kneser_ney": kneser_ney["bits_per_byte"],
                "range": plan["bits_per_byte"],
                "planned": {
                    "seconds": plan["seconds"],
                    "memory": plan["memory_bytes"] / 1e6,
                    "bits": sum(plan["bits_per_byte"]) / 2,
                },
                "reached": {"seconds": training["seconds"], "memory": memory, "bits": evaluation["bits_per_byte"]},
            },
        )
    return read_json(kept)


def sentence(run: dict[str, Any]) -> str:
    """A run in a line."""
    planned, reached = run["planned"], run["reached"]
    low, high = run["range"]
    return (
        f"{run['parameters'] / 1e6:.1f} M parameters, {run['tokens'] / run['unique']:.1f} readings; "
        f"{reached['seconds']:.1f} of {planned['seconds']:.0f} s; "
        f"{reached['memory']:.0f} of {planned['memory']:.0f} MB; "
        f"{low:.2f} to {high:.2f} bits per byte expected, {reached['bits']:.3f} reached, Kneser-Ney "
        f"{run['kneser_ney']:.3f}"
    )


def in_range(runs: list[dict[str, Any]]) -> str:
    """How many runs ended where they were expected to."""
    inside = sum(run["range"][0] <= run["reached"]["bits"] <= run["range"][1] for run in runs)
    return f"{inside} of {len(runs)}"


def fit(runs: list[dict[str, Any]]) -> str:
    """The weights, and each run's relative error by them and by those fitted without its text."""
    features = np.array([terms(run["parameters"], tokens=run["tokens"], unique=run["unique"]) for run in runs])
    ratios = np.array([run["reached"]["bits"] / min(run["after_a_megabyte"]) for run in runs])
    left = np.array([1 - order_gain(run["after_a_megabyte"]) for run in runs])
    texts = np.array([run["text"] for run in runs])

    def fitted(chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
        """Relative errors of all runs, and the weights and orders that make those of the chosen ones least."""
        found = []
        for orders in np.linspace(0, 6, 61):
            scaled = features * (left**orders / ratios)[:, None]
            weights = np.linalg.lstsq(scaled[chosen], np.ones(chosen.sum()), rcond=None)[0]
            found.append((scaled @ weights - 1, weights, orders))
        return min(found, key=lambda one: float(np.square(one[0][chosen]).sum()))

    seen, weights, orders = fitted(np.full(len(runs), True))
    rows = [["", "reached", "error", "error, fitted without this text"]]
    for place, run in enumerate(runs):
        unseen, *_ = fitted(texts != texts[place])
        rows.append([run["name"], f"{run['reached']['bits']:.3f}", f"{seen[place]:+.1%}", f"{unseen[place]:+.1%}"])
    return f"{text_table(rows)}\n\nweights: {', '.join(f'{weight:.3f}' for weight in weights)}; orders: {orders:.1f}"


if __name__ == "__main__":
    main()
