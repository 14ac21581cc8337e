"""Which files are read: folders walked in order, links and closed places told, digests of names and contents."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from bimo.runtime import DATA_REFUSED, USAGE, UserError, set_language
from bimo.stages import Stages
from bimo.text.collect import read_texts
from bimo.text.inventory import estimate_bytes, file_digests, source_digest
from bimo.text.sources import find_sources


@pytest.fixture(autouse=True)
def english():
    set_language("en")
    yield
    set_language(None)


def write(path: Path, content: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return path


def test_folders_are_walked_in_order_without_what_is_not_the_users(tmp_path):
    for name in (
        "b.txt",
        "a/z.txt",
        "a/b.txt",
        ".hidden.txt",
        ".git/x.txt",
        "out/old.txt",
        "model/x.txt",
        "data/x.txt",
        "theirs/documents/c.txt",
        "theirs/rejected/d.txt",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        write(tmp_path / name, "x")
    write(tmp_path / "model/config.json", "{}")
    write(tmp_path / "model/model.safetensors", "")
    Stages(tmp_path / "data").begin()
    files = find_sources([tmp_path, tmp_path / "a" / "b.txt"], out=tmp_path / "out")
    assert [file.name for file in files] == [
        "a/b.txt",
        "a/z.txt",
        "b.txt",
        "theirs/documents/c.txt",
        "theirs/rejected/d.txt",
    ]


def test_word_vectors_are_not_the_users_text(tmp_path):
    for name in ("a.txt", "words/vectors.txt", "theirs/vectors.txt"):
        write(tmp_path / name, "tea 0.1 0.2")
    write(tmp_path / "words/manifest.json", '{"kind": "word vectors", "format": 1}')
    write(tmp_path / "theirs/manifest.json", '["word vectors"]')
    assert [file.name for file in find_sources([tmp_path])] == ["a.txt", "theirs/manifest.json", "theirs/vectors.txt"]


def test_links_in_a_circle_end(tmp_path):
    write(tmp_path / "a.txt", "x")
    (tmp_path / "loop").symlink_to(tmp_path)
    assert [file.name for file in find_sources([tmp_path])] == ["a.txt"]


def test_missing_empty_and_closed_sources_say_which(tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"no file or folder .*nowhere") as caught:
        find_sources([tmp_path / "nowhere"])
    assert caught.value.code == USAGE
    write(tmp_path / ".hidden", "x")
    with pytest.raises(UserError, match="no file to read") as caught:
        find_sources([tmp_path])
    assert caught.value.code == DATA_REFUSED

    def closed(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("bimo.text.sources.os.scandir", closed)
    with pytest.raises(UserError, match=r"may not be read .Permission denied."):
        find_sources([tmp_path])


def test_a_closed_folder_inside_is_reported(tmp_path, monkeypatch):
    write(tmp_path / "a.txt", "x")
    (tmp_path / "closed").mkdir()
    real = os.scandir

    def scandir(path):
        if Path(path).name == "closed":
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr("bimo.text.sources.os.scandir", scandir)
    reported = []
    files = find_sources([tmp_path], cannot_open=lambda name, error: reported.append((name, error.strerror)))
    assert [file.name for file in files] == ["a.txt"]
    assert reported == [("closed", "Permission denied")]


def test_the_digest_follows_names_and_contents_alone(tmp_path):
    def digest(place: str) -> str:
        files = find_sources([tmp_path / place])
        return source_digest(files, file_digests(files))

    for place in ("one", "two"):
        (tmp_path / place).mkdir()
        write(tmp_path / place / "a.txt", "same")
    first = digest("one")
    assert digest("two") == first
    write(tmp_path / "two" / "a.txt", "changed")
    assert digest("two") != first
    (tmp_path / "one" / "a.txt").rename(tmp_path / "one" / "b.txt")
    assert digest("one") != first


def test_the_digest_knows_that_a_file_of_an_unknown_ending_is_read_only_when_it_is_named(tmp_path):
    for name in ("a.txt", "b.log"):
        write(tmp_path / name, name)

    def digest(*sources: Path) -> str:
        files = find_sources(sources)
        return source_digest(files, file_digests(files))

    assert digest(tmp_path, tmp_path / "a.txt") == digest(tmp_path)
    assert digest(tmp_path, tmp_path / "b.log") != digest(tmp_path)


def test_only_what_is_read_counts_as_text(tmp_path):
    for name in ("a.txt", "b.txt.gz", "film.mp4"):
        write(tmp_path / name, "x" * 100)
    assert estimate_bytes(find_sources([tmp_path])) == 100 + 300
    assert estimate_bytes(find_sources([tmp_path / "film.mp4"])) == 100


def test_links_that_lead_nowhere_are_reported(tmp_path, monkeypatch):
    write(tmp_path / "a.txt", "x")
    (tmp_path / "self.txt").symlink_to(tmp_path / "self.txt")
    reported = []
    files = find_sources([tmp_path], cannot_open=lambda name, error: reported.append((name, error.errno)))
    assert [file.name for file in files] == ["a.txt"]
    assert reported == [("self.txt", errno.ELOOP)]
    assert list(read_texts([tmp_path], unread=lambda rejected: reported.append(rejected.source))) == ["x"]
    assert reported[-1] == "self.txt"


def test_names_that_begin_like_a_home_are_names(tmp_path, monkeypatch):
    write(tmp_path / "~$a.docx", "x")
    monkeypatch.chdir(tmp_path)
    assert [file.name for file in find_sources([Path("~$a.docx")])] == ["~$a.docx"]


def test_sources_may_lie_on_several_drives(tmp_path, monkeypatch):
    paths = [write(tmp_path / "c" / "a.txt", "x"), write(tmp_path / "d" / "b.txt", "x")]

    def no_common_path(paths):
        raise ValueError("Paths don't have the same drive")

    monkeypatch.setattr("bimo.text.sources.os.path.commonpath", no_common_path)
    assert {file.name for file in find_sources(paths)} == {"a.txt", paths[1].as_posix()}
