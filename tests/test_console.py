"""What a waiting person sees: lines on stderr, nothing on stdout, a bar only on a terminal."""

from __future__ import annotations

import io
import os
import sys

import pytest

from bimo import console as module
from bimo.console import SILENT, Console, clock
from bimo.runtime import set_language


@pytest.fixture(autouse=True)
def _english():
    set_language("en")
    yield
    set_language(None)


def everything(console: Console) -> None:
    console.say("Read", "3 files")
    console.show("a sample")
    console.warn("look here")
    with console.progress("Training", 10) as update:
        update(5, "half")


def test_lines_go_to_stderr_with_their_labels_in_a_column(capsys):
    everything(Console())
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == ["Read      3 files", "          a sample", "Note      look here"]


def test_work_goes_on_where_nobody_looks_on_any_more(monkeypatch):
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w", buffering=1) as closed:
        monkeypatch.setattr(sys, "stderr", closed)
        everything(Console())
        monkeypatch.undo()
        os.dup2(os.open(os.devnull, os.O_WRONLY), closed.fileno())


def test_quiet_shows_warnings_alone_and_silent_nothing(capsys):
    everything(Console(quiet=True))
    assert capsys.readouterr().err == "Note      look here\n"
    everything(Console(silent=True))
    everything(SILENT)
    assert capsys.readouterr().err == ""


def test_a_chinese_label_fills_the_same_column(capsys, monkeypatch):
    monkeypatch.setattr(module, "t", lambda template: {"Read": "读取", "Note": "注意"}[template])
    Console().say("Read", "x")
    assert capsys.readouterr().err == "读取      x\n"


def test_without_a_terminal_progress_is_a_line_now_and_then(capsys, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    with Console().progress("Training", 200) as update:
        for step in range(200):
            now[0] += 1
            update(step + 1, f"loss {step}")
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == int(200 // module.PLAIN_SECONDS)
    assert lines[0] == "Training    8 %  loss 14"


def test_progress_over_nothing_takes_updates(capsys):
    with Console().progress("Training", 0) as update:
        update(1, "x")
    assert capsys.readouterr().err == ""


def test_an_error_passes_through_progress():
    with pytest.raises(KeyError), Console().progress("Training", 3):
        raise KeyError


class Terminal(io.StringIO):
    """Standard error as a terminal."""

    def isatty(self) -> bool:
        return True


def test_on_a_terminal_lines_stand_above_the_bar_as_they_are(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setitem(os.environ, "TERM", "xterm")
    monkeypatch.setitem(os.environ, "COLUMNS", "100")
    console = Console()
    with console.progress("Training", 2) as update:
        update(1, "[bold]1.79[/bold] bits/byte")
        console.say("Validate", "[red]not markup[/red] :smile:")
    console.say("Done", "after the bar")
    text = terminal.getvalue()
    assert "Validate  [red]not markup[/red] :smile:" in text
    assert text.endswith("Done      after the bar\n")
    assert "Training" in text


def test_text_beside_the_bar_is_not_markup(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setitem(os.environ, "TERM", "xterm")
    monkeypatch.setitem(os.environ, "COLUMNS", "120")
    with Console().progress("Read", 1) as update:
        update(0.5, "notes [draft]/[/] [b]a.txt")
    assert "notes [draft]/[/] [b]a.txt" in terminal.getvalue()


def test_bars_may_stand_one_in_the_other(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setitem(os.environ, "TERM", "xterm")
    console = Console()
    with console.progress("Training", 1) as outer:
        with console.progress("Evaluate", 1) as inner:
            inner(0.5, "inside")
        outer(0.5, "outside")
        console.say("Read", "still above")
    assert "still above" in terminal.getvalue()


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0.4, "0:00"), (59.6, "1:00"), (119.7, "2:00"), (125, "2:05"), (3725, "62:05")]
)
def test_time_is_shown_in_minutes_and_whole_seconds(seconds, shown):
    assert clock(seconds) == shown
