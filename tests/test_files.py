"""Files are whole or absent whatever happens while they are written; a folder in use is locked, by the living only."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections import namedtuple
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from bimo import files
from bimo.files import (
    digest_file,
    digest_json,
    locked,
    read_json,
    replacing,
    replacing_folder,
    require_room,
    write_json,
)
from bimo.runtime import NO_ROOM, UserError

HOLD = """
import sys, time
from pathlib import Path
from bimo.files import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""
TRY = """
import sys
from pathlib import Path
from bimo.files import locked
from bimo.runtime import UserError
try:
    with locked(Path(sys.argv[1])):
        print("got it")
except UserError as error:
    print(error)
"""
WRITE_FOREVER = """
import sys
from pathlib import Path
from bimo.files import replacing
number = 0
while True:
    number += 1
    with replacing(Path(sys.argv[1])) as part:
        part.write_text(str(number) * 50_000)
"""
# The package as it is imported here, wherever a test changes to.
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(files.__file__).parents[1])}


def fill(replacement: AbstractContextManager[Path], name: str, error: BaseException) -> None:
    """Write a part, then fail."""
    with replacement as part:
        (part / name if name else part).write_text("ne")
        raise error


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.mark.skipif(os.name != "posix", reason="permissions are POSIX's")
def test_files_are_for_whom_the_umask_says(tmp_path):
    before = os.umask(0o027)
    try:
        with replacing(tmp_path / "file") as part:
            part.write_text("x")
            part.chmod(0o600)
        with replacing_folder(tmp_path / "folder") as part:
            (part / "inner").mkdir()
            (part / "inner" / "file").write_text("x")
            (part / "inner" / "file").chmod(0o600)
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o640
    assert (tmp_path / "folder" / "inner" / "file").stat().st_mode & 0o777 == 0o640


def test_replacing_puts_the_new_file_in_place(tmp_path):
    path = tmp_path / "deep" / "a.txt"
    for text in ("old", "new"):
        with replacing(path) as part:
            part.write_text(text)
        assert path.read_text() == text
    assert names(path.parent) == {"a.txt"}


def test_replacing_leaves_the_old_file_when_the_writer_fails(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError, match="half"):
        fill(replacing(path), "", RuntimeError("half way"))
    assert path.read_text() == "old"
    assert names(tmp_path) == {"a.txt"}


def test_replacing_leaves_nothing_when_there_was_nothing(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        fill(replacing(tmp_path / "a.txt"), "", KeyboardInterrupt())
    assert names(tmp_path) == set()


def test_replacing_shows_the_old_file_until_the_end(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with replacing(path) as part:
        part.write_text("new")
        assert path.read_text() == "old"


def test_a_killed_writer_leaves_a_whole_file(tmp_path):
    path = tmp_path / "a.txt"
    for _ in range(3):
        writer = subprocess.Popen([sys.executable, "-c", WRITE_FOREVER, path], env=ENVIRONMENT)
        deadline = time.monotonic() + 20
        while not path.exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.05)
        writer.kill()
        writer.wait()
        text = path.read_text()
        number = text[: len(text) // 50_000]
        assert text == number * 50_000
        path.unlink()


def test_replacing_folder_fills_a_new_folder_and_drops_the_old(tmp_path):
    path = tmp_path / "folder"
    for name in ("one", "two"):
        with replacing_folder(path) as part:
            assert names(part) == set()
            (part / "inner").mkdir()
            (part / "inner" / name).write_text(name)
        assert names(path / "inner") == {name}
    assert names(tmp_path) == {"folder"}


def test_replacing_folder_leaves_the_old_folder_when_the_writer_fails(tmp_path):
    path = tmp_path / "folder"
    path.mkdir()
    (path / "old").write_text("old")
    with pytest.raises(RuntimeError):
        fill(replacing_folder(path), "new", RuntimeError())
    assert names(path) == {"old"}
    assert names(tmp_path) == {"folder"}


def test_replacing_folder_does_not_take_up_what_a_dead_writer_left(tmp_path):
    (tmp_path / "folder.bimo-part").mkdir()
    (tmp_path / "folder.bimo-part" / "stale").write_text("stale")
    with replacing_folder(tmp_path / "folder") as part:
        (part / "new").write_text("new")
    assert names(tmp_path / "folder") == {"new"}


def test_replacing_folder_puts_back_what_a_dead_writer_had_put_aside(tmp_path):
    (tmp_path / "folder.bimo-old").mkdir()
    (tmp_path / "folder.bimo-old" / "only").write_text("only")
    with pytest.raises(RuntimeError):
        fill(replacing_folder(tmp_path / "folder"), "new", RuntimeError())
    assert names(tmp_path / "folder") == {"only"}


def test_neighbours_that_somebody_keeps_are_left_alone(tmp_path):
    kept = {"a.part", "a.old", "b.gguf.part"}
    for name in kept:
        (tmp_path / name).write_text("mine")
    with replacing_folder(tmp_path / "a") as part:
        (part / "new").write_text("new")
    write_json(tmp_path / "b.gguf", 1)
    assert names(tmp_path) == kept | {"a", "b.gguf"}
    assert {(tmp_path / name).read_text() for name in kept} == {"mine"}


def test_write_json_reads_back_and_is_readable(tmp_path):
    value = {"笔": [1, 2.5, None, True], "b": {"c": "墨\u2028"}}
    write_json(tmp_path / "a.json", value)
    assert read_json(tmp_path / "a.json") == value
    assert "笔" in (tmp_path / "a.json").read_text(encoding="utf-8")


def test_half_characters_are_kept_as_json_has_them(tmp_path):
    value = {"path": "notes/\udcc4\udce3"}
    write_json(tmp_path / "a.json", value)
    assert read_json(tmp_path / "a.json") == value
    assert digest_json(value) != digest_json({"path": "notes/\udcc4"})


def test_where_no_folder_can_be_opened_files_are_written_all_the_same(tmp_path, monkeypatch):
    real = os.open

    def windows_open(path, flags, *rest, **options):
        if Path(path).is_dir():
            raise PermissionError(13, "Permission denied")
        assert flags & (os.O_WRONLY | os.O_RDWR)  # or it cannot be synced
        return real(path, flags, *rest, **options)

    monkeypatch.setattr("bimo.files._WINDOWS", True)
    monkeypatch.setattr("bimo.files.os.open", windows_open)
    with replacing_folder(tmp_path / "folder") as part:
        (part / "inner").mkdir()
        write_json(part / "inner" / "a.json", 1)
    assert read_json(tmp_path / "folder" / "inner" / "a.json") == 1


def test_write_json_that_fails_keeps_the_old_value(tmp_path):
    write_json(tmp_path / "a.json", 1)
    with pytest.raises(TypeError):
        write_json(tmp_path / "a.json", object())
    assert read_json(tmp_path / "a.json") == 1
    assert names(tmp_path) == {"a.json"}


@pytest.mark.parametrize("garbage", [b"", b"{", b"\xff\xfe\x00", b'{"a": }', b"nul"])
def test_read_json_names_the_file_that_is_garbage(tmp_path, garbage):
    path = tmp_path / "a.json"
    path.write_bytes(garbage)
    with pytest.raises(UserError, match=r"a\.json is not valid JSON"):
        read_json(path)


def test_digests_depend_on_content_alone(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert digest_file(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert digest_json({"a": 1, "b": [1, 2]}) == digest_json({"b": [1, 2], "a": 1})
    assert digest_json({"a": 1}) != digest_json({"a": "1"})
    assert digest_json([1, 2]) != digest_json([2, 1])


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the folder."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, tmp_path], env=ENVIRONMENT, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def try_in_another_process(folder: Path) -> str:
    command = [sys.executable, "-c", TRY, folder.resolve()]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=30, check=True)
    return done.stdout


def test_a_second_process_is_refused_with_a_sentence(tmp_path):
    with locked(tmp_path):
        assert f"Another bimo process is working in {tmp_path}." in try_in_another_process(tmp_path)
    assert try_in_another_process(tmp_path) == "got it\n"


def test_a_lock_dies_with_its_process(tmp_path, holder):
    with pytest.raises(UserError, match="Another bimo process"), locked(tmp_path):
        pass
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    with locked(tmp_path):
        pass


def test_the_same_process_may_lock_again(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to(tmp_path)
    with locked(tmp_path), locked(tmp_path):
        with locked(Path()), locked(tmp_path / "link"):
            pass
        assert "Another bimo process" in try_in_another_process(tmp_path)
    assert try_in_another_process(tmp_path) == "got it\n"


def test_a_lock_is_let_go_when_the_work_fails(tmp_path):
    with pytest.raises(RuntimeError), locked(tmp_path):
        raise RuntimeError
    assert try_in_another_process(tmp_path) == "got it\n"


def test_a_child_does_not_keep_the_lock(tmp_path):
    with locked(tmp_path):
        child = multiprocessing.get_context("spawn").Process(target=time.sleep, args=(30,))
        child.start()
    try:
        assert try_in_another_process(tmp_path) == "got it\n"
    finally:
        child.kill()
        child.join()


def test_room_is_asked_of_the_disk_that_will_hold_the_folder(tmp_path, monkeypatch):
    asked = []
    usage = namedtuple("usage", "total used free")

    def disk_usage(folder):
        asked.append(folder)
        return usage(10**9, 0, 5 * 10**6)

    monkeypatch.setattr(files.shutil, "disk_usage", disk_usage)
    require_room(tmp_path / "not" / "there", 5 * 10**6)
    assert asked == [tmp_path]
    with pytest.raises(UserError, match="5 MB free, but 6 MB are needed") as caught:
        require_room(tmp_path / "not" / "there", 6 * 10**6)
    assert caught.value.code == NO_ROOM
