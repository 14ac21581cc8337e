"""Records of benchmarks, the turns that contestants take, and the page that is made of results."""

from __future__ import annotations

import ast
import importlib
import math
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from bimo.models.scoring import rolling_scores

ROOT = Path(__file__).resolve().parents[1]
MODULES = ("record", "turns", "nanogpt", "gpt2", "performance_page", "tasks")


@pytest.fixture
def benchmark(monkeypatch):
    """Imports a file of `benchmarks/`, as if it were run from there."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    yield importlib.import_module
    for name in MODULES:
        sys.modules.pop(name, None)


def example(record, *, peers=("peer",), **changes):
    """A record with one of everything."""
    comparison = record.Comparison(
        title="A model",
        unit="tokens/s",
        rounds={"bimo": [30.0, 44.0, 36.0], **{name: [10.0, 11.0, 18.0] for name in peers}},
        limit="peak",
        limits={"bimo": [50.0, 80.0, 80.0]},
    )
    curves = record.Curves(
        "Loss", "seconds", "nats", {"bimo": [(1.0, 2.0)], "peer": [(1.0, 3.0), (2.0, 2.5)]}, {"n": 2.2}
    )
    machine = {"processor": "One <fast> processor", "cores": 2, "threads": 2, "matrix_flops": {"float32": 2e11}}
    values = {
        "subject": "train",
        "settings": {"rounds": 3, "recipe": {"batch": 8}},
        "comparisons": [comparison],
        "curves": [curves],
        "facts": {"equal": "3 of 3"},
        "machine": machine,
        "versions": {"bimo": "0.1"},
        "commit": "abc1234",
        "date": "2026-01-02T03:04:05+00:00",
    }
    return record.Record(**{**values, **changes})


def test_records_come_back_as_they_were(benchmark, tmp_path):
    record = benchmark("record")
    path = tmp_path / "results.jsonl"
    assert record.read_records(path) == []
    written = [example(record), example(record, subject="generate", comparisons=[], curves=[])]
    for one in written:
        record.append(path, one)
    assert record.read_records(path) == written
    assert len(path.read_text(encoding="utf-8").splitlines()) == 2


def test_a_ratio_is_the_median_of_the_ratios_of_each_round(benchmark):
    record = benchmark("record")
    (comparison,) = example(record).comparisons
    assert comparison.advantage("peer") == 3.0  # of 3, 4 and 2; the ratio of the medians is 36 / 11
    assert comparison.share("bimo") == 0.55  # of the rounds; that of the medians would be 0.45
    assert comparison.share("peer") is None
    seconds = record.Comparison("", "seconds", {"bimo": [2.0], "peer": [8.0]}, less_is_better=True)
    assert seconds.advantage("peer") == 4.0
    assert math.isnan(record.Comparison("", "%", {"bimo": [2.0], "peer": [0.0]}).advantage("peer"))
    assert comparison.rows()[2] == ["peer", "11", "10 - 18", "3.00", ""]


def test_page_shows_the_newest_run_and_what_ours_reached_before(benchmark):
    record, page = benchmark("record"), benchmark("performance_page")
    slower = record.Comparison("A model", "tokens/s", {"bimo": [12.5], "peer": [1.0]})
    old = example(record, comparisons=[slower], date="2025-12-31T00:00:00+00:00", commit="0ld")
    files = page.performance_pages([old, example(record)])
    text = files.pop("performance.md")
    assert "| bimo | 36 | 30 - 44 |  | 55% |" in text
    assert "| peer | 11 | 10 - 18 | 3.00 |  |" in text
    assert "| 2025-12-31, 0ld, One <fast> processor | 12.5 tokens/s |" in text
    assert "- equal: 3 of 3" in text
    assert sorted(files) == ["performance/train-1.svg", "performance/train-2.svg"]
    for name, drawing in files.items():
        assert f"({name})" in text
        assert ElementTree.fromstring(drawing).tag == "{http://www.w3.org/2000/svg}svg"
    assert files == {
        name: drawing for name, drawing in page.performance_pages([example(record)]).items() if name in files
    }


def test_page_is_what_the_results_say(benchmark):
    record, page = benchmark("record"), benchmark("performance_page")
    files = page.performance_pages(record.read_records(record.RESULTS))
    docs = page.PAGE.parent
    there = {page.PAGE.name, *(path.relative_to(docs).as_posix() for path in docs.glob("performance/*"))}
    assert there == set(files), "run: python benchmarks/performance_page.py"
    for name, text in files.items():
        assert (docs / name).read_text(encoding="utf-8") == text, "run: python benchmarks/performance_page.py"


def test_page_of_tasks_shows_runs_until_later_ones_have_measured_all_of_them(benchmark):
    record, page = benchmark("record"), benchmark("tasks")
    runs = [
        example(
            record, subject="translation", peers=peers, settings={"file": file}, date=date, facts={"signature": file}
        )
        for file, peers, date in (
            ("c.tsv", ("peer",), "2026-01-01"),
            ("b.tsv", ("peer", "another"), "2026-01-02"),
            ("a.tsv", ("peer",), "2026-01-03"),
        )
    ]
    text = page.results_page([*runs, example(record, subject="train")])
    assert text.count("## Translation") == 1
    assert "2026-01-01" not in text
    assert text.index("file b.tsv") < text.index("file a.tsv")
    assert "|  | bimo | peer |" in text
    assert "| A model, tokens/s | 36 | 11 |" in text
    assert "- signature: a.tsv" in text
    assert not {name for name in benchmark("performance_page").performance_pages(runs) if name.endswith("svg")}


def test_page_of_tasks_is_what_the_results_say(benchmark):
    record, page = benchmark("record"), benchmark("tasks")
    made = page.results_page(record.read_records(record.RESULTS))
    assert page.PAGE.read_text(encoding="utf-8") == made, "run: python benchmarks/tasks.py"


class ListedTurns:
    """Turns whose tasks are a list."""

    def __init__(self, *tasks):
        self.tasks, self.results = [*tasks], []

    def wait(self):
        return self.tasks.pop(0) if self.tasks else None

    def report(self, result):
        self.results.append(result)


def test_bursts_are_as_long_as_asked_and_end_the_loop(benchmark):
    turns = ListedTurns({"seconds": 0, "steps": 3}, {"seconds": 0, "steps": 1})
    bursts = benchmark("turns").Bursts(turns)
    steps = 1
    while bursts.go_on():
        steps += 1
    assert steps == 6  # one more for each burst, which is not counted
    assert [result["steps"] for result in turns.results] == [3, 1]


def double(turns, offset):
    """A worker."""
    for task in turns:
        turns.report(2 * task + offset)


def fail(turns):
    """A worker that does not last."""
    for task in turns:
        raise ValueError(f"cannot {task}")


def test_contestants_take_turns_in_their_own_processes(benchmark):
    turns = benchmark("turns")
    with turns.contestants({"a": (double, 0), "b": (double, 1)}, threads=1) as everyone:
        assert turns.interleave(everyone, [1, 2]) == {"a": [2, 4], "b": [3, 5]}
    with turns.contestants({"c": (fail,)}, threads=1) as (contestant,), pytest.raises(RuntimeError, match="cannot 7"):
        contestant.take_turn(7)


def test_nanogpt_time_leaves_evaluation_out(benchmark):
    log = benchmark("nanogpt").Log.read(
        "step 0: train loss 4.2, val loss 4.1000\niter 0: loss 4.2, time 9000.00ms, mfu -100.00%\n"
        "iter 1: loss 4.0, time 40.00ms, mfu -100.00%\nstep 2: train loss 3.9, val loss 3.8000\n"
        "iter 2: loss 3.9, time 7000.00ms, mfu 0.1%\niter 3: loss 3.7, time 40.00ms, mfu 0.1%\n"
        "iter 4: loss 3.7, time 40.00ms, mfu 0.1%\n"
    )
    assert log.validations == [(0, 4.1), (2, 3.8)]
    assert log.curve == [(0, 4.1), (pytest.approx(0.08), 3.8)]
    assert log.seconds_until(4) == pytest.approx(0.16)


def own_nats(logits: torch.Tensor, ids: torch.Tensor) -> float:
    """Of ids [1, T] but the first, with logits [1, T, V]."""
    return F.cross_entropy(logits[0, :-1].float(), ids[0, 1:], reduction="sum").item()


def test_gpt2_is_scored_as_it_computes_itself(benchmark) -> None:
    gpt2 = benchmark("gpt2")
    model = gpt2.Shape(vocabulary=40, layers=2, width=32, heads=2, context=16).build().eval()
    ids = torch.arange(12)[None] * 7 % 40
    (score,) = rolling_scores(gpt2.Scored(model), ids.tolist(), context=16, stride=8)
    assert score.nats == pytest.approx(own_nats(model(input_ids=ids).logits, ids), rel=1e-5)


class OnlyLastUnlessGivenTargets(nn.Module):
    """nanoGPT's model from outside."""

    def __init__(self) -> None:
        super().__init__()
        self.config = SimpleNamespace(block_size=16, vocab_size=40)
        self.table = nn.Embedding(40, 40)

    def forward(self, ids: torch.Tensor, targets: torch.Tensor | None = None) -> tuple[torch.Tensor, None]:
        logits = self.table(ids)
        return (logits if targets is not None else logits[:, -1:]), None


def test_nanogpt_is_scored_as_it_computes_itself(benchmark) -> None:
    model = OnlyLastUnlessGivenTargets()
    ids = torch.arange(12)[None] * 7 % 40
    (score,) = rolling_scores(benchmark("nanogpt").Scored(model), ids.tolist(), context=16, stride=8)
    assert score.nats == pytest.approx(own_nats(model(ids, ids)[0], ids), rel=1e-5)


def test_benchmarks_import_what_there_is() -> None:
    """They are not run by the suite, so that a name that is gone would be noticed only after a training."""
    for path in sorted((ROOT / "benchmarks").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "bimo":
                module = importlib.import_module(str(node.module))
                for name in node.names:
                    assert hasattr(module, name.name), f"{path.name} imports {name.name} from {node.module}"
