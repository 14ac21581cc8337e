"""A stage counts as done only for the very same inputs, and only while its files stand whole."""

from __future__ import annotations

import pytest

from bimo.files import read_json
from bimo.runtime import UserError
from bimo.stages import Stages


@pytest.fixture
def folder(tmp_path):
    """A folder in which the stage `read` was done with key `k`."""
    (tmp_path / "documents").mkdir()
    (tmp_path / "documents" / "a.parquet").write_bytes(b"12345")
    (tmp_path / "b.json").write_bytes(b"{}")
    stages = Stages(tmp_path)
    stages.record("read", "k", {"files": 3}, [tmp_path / "documents" / "a.parquet", tmp_path / "b.json"])
    return tmp_path


def test_a_stage_that_was_done_is_found_again_by_another_process(folder):
    assert Stages(folder).facts("read", "k") == {"files": 3}
    assert Stages(folder).key("read") == "k"


def test_another_key_or_another_stage_is_not_done(folder):
    assert Stages(folder).facts("read", "other") is None
    assert Stages(folder).facts("write", "k") is None


@pytest.mark.parametrize("name", ["documents/a.parquet", "b.json"])
def test_a_stage_whose_file_is_missing_or_damaged_is_not_done(folder, name):
    path = folder / name
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    assert Stages(folder).facts("read", "k") is None
    path.write_bytes(content)
    assert Stages(folder).facts("read", "k") is not None
    path.unlink()
    assert Stages(folder).facts("read", "k") is None
    path.mkdir()
    assert Stages(folder).facts("read", "k") is None


def test_recording_a_stage_again_replaces_it_and_leaves_the_others(folder):
    stages = Stages(folder)
    stages.record("write", "w", {"n": 1}, [])
    stages.record("read", "k2", {"files": 4}, [folder / "b.json"])
    again = Stages(folder)
    assert again.facts("read", "k") is None
    assert again.facts("read", "k2") == {"files": 4}
    assert again.facts("write", "w") == {"n": 1}


def test_what_is_done_anew_for_another_key_and_what_followed_from_it_is_not_done_meanwhile(folder):
    Stages(folder).record("write", "w", {"n": 1}, [])
    with Stages(folder).anew("read", "k"):  # the same again, since a file was damaged
        assert Stages(folder).known("write") == {"n": 1}
    with Stages(folder).anew("write", "w2"):
        assert Stages(folder).known("read") == {"files": 3}
        with pytest.raises(UserError, match="not completely"):
            Stages(folder).key("write")


def test_what_was_refused_leaves_all_stages_done(folder):
    def refuse() -> None:
        with Stages(folder).anew("read", "k2"):
            raise UserError("no")

    with pytest.raises(UserError):
        refuse()
    assert Stages(folder).facts("read", "k") == {"files": 3}


def test_a_folder_may_be_moved(folder, tmp_path_factory):
    moved = tmp_path_factory.mktemp("elsewhere") / "data"
    folder.rename(moved)
    assert Stages(moved).facts("read", "k") == {"files": 3}


def test_the_manifest_is_plain_json_with_the_version(folder):
    manifest = read_json(folder / "manifest.json")
    assert manifest["stages"]["read"]["outputs"] == {"documents/a.parquet": 5, "b.json": 2}
    assert manifest["bimo"]


@pytest.mark.parametrize("manifest", ['{"name": "a web extension"}', "[]", '"x"', '{"stages": [1]}', "3"])
def test_a_manifest_that_is_not_ours_is_refused_with_a_sentence(tmp_path, manifest):
    (tmp_path / "manifest.json").write_text(manifest)
    with pytest.raises(UserError, match=r"manifest\.json"):
        Stages(tmp_path)


def test_a_stage_that_was_never_done_is_a_sentence(folder):
    for ask in (Stages(folder).key, Stages(folder).known):
        with pytest.raises(UserError, match="bimo prepare"):
            ask("tokens")
    assert Stages(folder).known("read") == {"files": 3}
