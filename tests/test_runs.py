"""The list of models: each found once, the best first, half-finished and strange ones without harm."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bimo.config import write_toml
from bimo.console import cells
from bimo.runs import list_runs, run_facts, run_lines
from bimo.runtime import UserError, set_language


@pytest.fixture(autouse=True)
def _english():
    set_language("en")
    yield
    set_language(None)


def make_run(folder: Path, **files: Any) -> Path:
    home = folder / "bimo"
    home.mkdir(parents=True)
    for name, value in {"manifest": {"created": "2026-01-02T03:04:05+00:00"}, **files}.items():
        (home / f"{name}.json").write_text(json.dumps(value))
    return folder


def training(bits: float) -> dict[str, Any]:
    return {"parameters": 1_234_567, "tokens": 9_000_000, "seconds": 90.0, "validation_bits_per_byte": bits}


def evaluation(bits: float) -> dict[str, Any]:
    baselines = {"kneser_ney": {"bits_per_byte": 2.0}, "xz": 2.5}
    return {"bits_per_byte": bits, "baselines": baselines, "copying": {"share_of_windows_copied": 0.004}}


def test_models_are_found_three_folders_below_once_and_best_first(tmp_path):
    make_run(tmp_path, training=training(1.9))
    make_run(tmp_path / "a", training=training(1.7), evaluation=evaluation(1.8))
    make_run(tmp_path / "b" / "c" / "d", training=training(1.5))
    make_run(tmp_path / "too" / "deep" / "to" / "find", training=training(1.0))
    make_run(tmp_path / "begun")
    found = [Path(run["model"]).relative_to(tmp_path).as_posix() for run in list_runs([tmp_path, tmp_path / "a"])]
    assert found == ["b/c/d", "a", ".", "begun"]


def test_the_facts_of_a_finished_model(tmp_path):
    facts = run_facts(make_run(tmp_path / "m", training=training(1.9), evaluation=evaluation(1.8)))
    assert facts == {
        "model": str(tmp_path / "m"),
        "created": "2026-01-02T03:04:05+00:00",
        "state": "done",
        "parameters": 1_234_567,
        "tokens": 9_000_000,
        "minutes": 1.5,
        "bits_per_byte": 1.8,
        "kneser_ney": 2.0,
        "xz": 2.5,
        "copied": 0.004,
    }


def test_a_translator_has_no_figure_beside_those_of_texts_by_themselves(tmp_path):
    translator = make_run(tmp_path / "t", training=training(0.9))
    write_toml(translator / "bimo" / "run.toml", {"model": {"family": "seq2seq"}})
    text = make_run(tmp_path / "m", training=training(1.9))
    assert [run["bits_per_byte"] for run in list_runs([tmp_path])] == [1.9, None]
    assert list_runs([tmp_path])[0]["model"] == str(text)


def test_what_was_not_done_yet_is_none(tmp_path):
    trained = run_facts(make_run(tmp_path / "trained", training=training(1.9)))
    assert (trained["state"], trained["bits_per_byte"], trained["copied"]) == ("trained", 1.9, None)
    begun = run_facts(make_run(tmp_path / "begun", plan={"parameters": 5}))
    assert (begun["state"], begun["bits_per_byte"], begun["parameters"]) == ("unfinished", None, 5)


def test_nothing_is_called_copied_where_nothing_could_be_measured(tmp_path):
    """As earlier evaluations kept it."""
    short = evaluation(1.8) | {"copying": {"windows": 0, "share_of_windows_copied": 0.0}}
    assert run_facts(make_run(tmp_path / "m", training=training(1.9), evaluation=short))["copied"] is None


def test_a_table_has_a_line_for_each_model(tmp_path):
    make_run(tmp_path / "m", training=training(1.9), evaluation=evaluation(1.8))
    make_run(tmp_path / "begun")
    header, first, second = run_lines(list_runs([tmp_path]))
    assert header.split()[:2] == ["bits/byte", "Kneser-Ney"]
    assert first.split()[:7] == ["1.800", "2.000", "0.4%", "1,234,567", "9,000,000", "1.5", "done"]
    assert second.split()[:7] == ["-", "-", "-", "-", "-", "-", "unfinished"]
    assert first.index(str(tmp_path)) == second.index(str(tmp_path)) == header.index("model")


def test_columns_stand_below_each_other_in_chinese(tmp_path, monkeypatch):
    from bimo import runs

    words = {"bits/byte": "比特/字节", "model": "模型", "done": "完成", "unfinished": "未完成"}
    monkeypatch.setattr(runs, "t", lambda template, **values: words.get(template, template).format(**values))
    make_run(tmp_path / "m", training=training(1.9), evaluation=evaluation(1.8))
    make_run(tmp_path / "begun")

    header, first, second = run_lines(list_runs([tmp_path]))
    place = str(tmp_path)
    starts = {cells(header[: header.rindex("模型")]), cells(first[: first.index(place)])}
    assert starts == {cells(second[: second.index(place)])}


def test_an_empty_place_says_what_to_do(tmp_path):
    assert list_runs([tmp_path]) == []
    assert "bimo run SOURCE --out MODEL" in run_lines([])[0]


def test_a_place_that_is_not_there_is_named(tmp_path):
    with pytest.raises(UserError, match=r"There is no folder .*nowhere"):
        list_runs([tmp_path / "nowhere"])
    with pytest.raises(UserError, match="holds no run of Bimo"):
        run_facts(tmp_path)


@pytest.mark.parametrize("manifest", ['{"name": "a web page"}', "{", "5", '["created"]'])
def test_a_manifest_of_something_else_is_not_a_run(tmp_path, manifest):
    (tmp_path / "site" / "bimo").mkdir(parents=True)
    (tmp_path / "site" / "bimo" / "manifest.json").write_text(manifest)
    make_run(tmp_path / "m", training=training(1.9))
    assert [Path(run["model"]).name for run in list_runs([tmp_path])] == ["m"]


@pytest.mark.parametrize("name", ["manifest", "training", "evaluation"])
def test_a_damaged_file_is_named(tmp_path, name):
    folder = make_run(tmp_path / "m", training=training(1.9))
    (folder / "bimo" / f"{name}.json").write_text("{")
    with pytest.raises(UserError, match=rf"{name}\.json is not valid JSON"):
        list_runs([tmp_path])
