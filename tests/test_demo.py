"""The text of the demo is what this Python says of itself, wherever it is installed."""

from __future__ import annotations

import sysconfig

from bimo import demo


def test_a_python_below_a_folder_called_test_has_its_library(tmp_path, monkeypatch):
    stdlib = tmp_path / "test" / "lib"
    prose = "This module reads what it is given, line by line, and says what it found. " * 5
    for place in ("reading", "tests/looking"):
        path = stdlib / f"{place}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f'"""{place} {prose}"""', encoding="utf-8")
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(stdlib))
    texts = list(demo._python_texts())
    assert any(text.startswith("reading") for text in texts)
    assert not any(text.startswith("tests/looking") for text in texts)
