"""Pages that are made from the code agree with it, and every file that a page points to is there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]


def test_commands_page_is_what_the_code_says(tmp_path):
    script = (ROOT / "docs" / "generate_commands.py").read_text(encoding="utf-8")
    copy = tmp_path / "generate_commands.py"
    copy.write_text(script, encoding="utf-8")
    subprocess.run([sys.executable, str(copy)], check=True)
    made = (tmp_path / "commands.md").read_text(encoding="utf-8")
    assert made == (ROOT / "docs" / "commands.md").read_text(encoding="utf-8"), "run: python docs/generate_commands.py"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    links = re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", [ROOT / "docs" / "tour.md", ROOT / "README.md"], ids=lambda page: page.name)
def test_files_named_in_pages_exist(page):
    named = re.findall(r"`((?:src|tests|docs|benchmarks)/[\w/.-]+)`", page.read_text(encoding="utf-8"))
    assert [name for name in named if not (ROOT / name).exists()] == []
