"""The story that the end-to-end tests share: notes in two languages, and the model that `bimo run` made of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from command import Done, bimo
from stories import write_stories

RUN = ("--minutes", "0.05", "--preset", "dust")


@pytest.fixture(scope="session")
def story(tmp_path_factory) -> tuple[Path, Done]:
    """A folder with `notes` and `model`, and what `bimo run notes --out model` printed."""
    folder = tmp_path_factory.mktemp("story")
    write_stories(folder / "notes" / "english.txt", 120)
    write_stories(folder / "notes" / "inner" / "中文.md", 80, chinese=True)
    return folder, bimo("run", "notes", "--out", "model", *RUN, cwd=folder)


@pytest.fixture(scope="session")
def home(story) -> Path:
    """The folder of the story, in which the run went well."""
    folder, done = story
    assert done.code == 0, done.err
    return folder
