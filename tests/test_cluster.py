"""Cleaning on datatrove's executors: the same bytes as here, whoever does it, and going on after what went wrong."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from messy import write_messy_folder
from stories import write_stories

from bimo.files import digest_file
from bimo.runtime import INTERRUPTED, USAGE, UserError
from bimo.text import TextOptions, batches, cluster
from bimo.text.cluster import Executor
from bimo.text.collect import collect_documents
from bimo.text.sources import find_sources
from bimo.text.workers import cores

pytestmark = pytest.mark.filterwarnings("ignore")  # what Ray and datatrove warn of is theirs

STRETCH_BYTES = 6_000


@pytest.fixture(autouse=True)
def short_stretches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "STRETCH_BYTES", STRETCH_BYTES)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_messy_folder(tmp_path_factory.mktemp("cluster") / "in")
    write_stories(folder / "z" / "stories.txt", 60)
    write_stories(folder / "z" / "again.txt", 60)
    return folder


def collected(source: Path, out: Path, **how: Any) -> tuple[dict[str, Any], dict[str, str]]:
    """The facts, and the digest of every file."""
    facts = collect_documents([source], out, TextOptions(validation_share=0.1), key="key", **how)
    files = sorted(path for path in out.rglob("*") if path.is_file())
    return facts, {path.relative_to(out).as_posix(): digest_file(path) for path in files}


@pytest.fixture(scope="module")
def expected(source: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], dict[str, str]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batches, "STRETCH_BYTES", STRETCH_BYTES)
        return collected(source, tmp_path_factory.mktemp("alone"), workers=1)


@pytest.fixture(scope="module")
def ray_cluster() -> Iterator[None]:
    """Ray on this machine, with what the tests import on the path of its workers."""
    yield
    if "ray" in sys.modules:
        sys.modules["ray"].shutdown()


def test_files_are_shared_out_in_order(source: Path):
    files = find_sources([source])
    stretches = list(batches.file_stretches(files))
    assert [file for stretch in stretches for file in stretch] == files
    assert len(stretches) > 4
    assert all(sum(file.size for file in stretch[:-1]) < STRETCH_BYTES for stretch in stretches)


@pytest.mark.slow
@pytest.mark.parametrize("executor", ["local:workers=1", "local:workers=2", "ray", "ray:workers=2"])
def test_every_executor_gives_the_same_bytes(
    executor: str, source: Path, expected: tuple[dict[str, Any], dict[str, str]], tmp_path: Path, ray_cluster: None
):
    assert collected(source, tmp_path, executor=Executor.parse(executor)) == expected


def test_without_slurm_nothing_is_thought_to_be_in_its_queue(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("PATH", str(tmp_path))
    for _ in range(2):
        with pytest.raises(UserError, match=r"'slurm' failed: .*sbatch"):
            collected(source, tmp_path / "out", executor=Executor.parse("slurm:partition=cpu,time=1:00:00"))


def test_this_machine_works_on_no_more_tasks_than_it_has_cores(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    told: list[dict[str, Any]] = []

    def local(pipeline: Any, **settings: Any) -> None:
        told.append(settings)
        raise TypeError("() enough")

    monkeypatch.setattr(cluster, "_datatrove", lambda kind: {"local": local})
    for text in ("local", "local:workers=7"):
        with pytest.raises(UserError, match="enough"):
            collected(source, tmp_path / "out", executor=Executor.parse(text))
    assert [settings["workers"] for settings in told] == [cores(), 7]


def test_what_failed_is_said_and_gone_on_with(
    source: Path, expected: tuple[dict[str, Any], dict[str, str]], tmp_path: Path
):
    wall = tmp_path / ".cleaning" / "task-00002"
    wall.parent.mkdir()
    (wall.parent / "key").write_text("key")
    wall.write_text("no folder can be made here")
    executor = Executor.parse("local:workers=1")
    with pytest.raises(UserError, match=r"'local' failed: .*task-00002.*go on") as error:
        collected(source, tmp_path, executor=executor)
    assert error.value.code == INTERRUPTED
    finished = {path: path.stat().st_mtime_ns for path in wall.parent.glob("task-00000/*.arrow")}
    assert finished
    wall.unlink()
    batches_of_first = sorted(path.stat().st_ino for path in finished)
    seen: list[int] = []

    def look(done: float, text: str) -> None:
        seen.extend(path.stat().st_ino for path in wall.parent.glob("batch-*.arrow"))

    assert collected(source, tmp_path, executor=executor, progress=look) == expected
    assert set(batches_of_first) <= set(seen), "a finished batch was made anew"


SBATCH = """#!/bin/sh
# What Slurm's own does: keep the script that comes as a file, say a number.
for last; do :; done
cp "$last" "$QUEUE/$(ls "$QUEUE" | wc -l).sh"
echo "Submitted batch job 7"
"""
SRUN = """#!/bin/sh
while [ "$1" != launch_pickled_pipeline ]; do shift; done
exec "$@"
"""


@pytest.mark.slow
def test_slurm_gets_a_job_and_the_same_call_goes_on_when_it_is_done(
    source: Path, expected: tuple[dict[str, Any], dict[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    queue, commands = tmp_path / "queue", tmp_path / "commands"
    queue.mkdir()
    commands.mkdir()
    for name, script in (("sbatch", SBATCH), ("srun", SRUN), ("scontrol", "#!/bin/sh\necho localhost\n")):
        (commands / name).write_text(script)
        (commands / name).chmod(0o755)
    monkeypatch.setenv("QUEUE", str(queue))
    monkeypatch.setenv("PATH", os.pathsep.join([str(commands), str(Path(sys.executable).parent), os.environ["PATH"]]))
    executor = Executor.parse("slurm:partition=cpu,time=1:00:00")
    out = tmp_path / "out"
    for _ in range(2):
        with pytest.raises(UserError, match=r"(\d+) of \1 parts of the text wait in Slurm's queue") as error:
            collected(source, out, executor=executor)
        assert error.value.code == INTERRUPTED
    assert len(list(queue.iterdir())) == 2, "one job, and datatrove's own that sums up; no second one"
    script = queue / "0.sh"
    assert "#SBATCH --partition=cpu" in script.read_text()
    for task in range(len(list(batches.file_stretches(find_sources([source]))))):
        environment = {**os.environ, "SLURM_ARRAY_TASK_ID": str(task), "SLURM_NODELIST": "localhost"}
        subprocess.run(["sh", str(script)], env=environment, check=True, capture_output=True)
    assert collected(source, out, executor=executor) == expected


@pytest.mark.parametrize("text", ["spark", "", "local:workers", "local:=2", "slurm:a="])
def test_executors_that_are_none_are_refused(text: str):
    with pytest.raises(UserError, match="local, slurm, ray") as error:
        Executor.parse(text)
    assert error.value.code == USAGE


def test_settings_that_datatrove_does_not_know_are_refused(source: Path, tmp_path: Path):
    with pytest.raises(UserError, match=r"'local' does not take.*spoons") as error:
        collected(source, tmp_path, executor=Executor.parse("local:spoons=2"))
    assert error.value.code == USAGE
    assert Executor.parse("slurm:partition=cpu,time=24:00:00,tasks_per_job=2").settings == {
        "partition": "cpu",
        "time": "24:00:00",
        "tasks_per_job": 2,
    }
