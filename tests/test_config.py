"""Settings: what is written is read back, and every mistake is named with its place and its remedy."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bimo.config import SCHEMA_VERSION, apply_settings, check_mapping, from_mapping, read_toml, to_mapping, write_toml
from bimo.models.config import ModelConfig
from bimo.prepare import PrepareConfig
from bimo.run import RunConfig
from bimo.runtime import USAGE, UserError
from bimo.text.options import TextOptions
from bimo.train.settings import TrainConfig

SHAPE = ModelConfig(
    vocabulary=512, layers=1, width=16, heads=2, kv_heads=1, head_width=8, hidden=32, context=16, tied=False
)


@dataclass(frozen=True)
class Inner:
    rate: float = 0.5
    names: tuple[str, ...] = ()
    share: float | None = None


@dataclass(frozen=True)
class Outer:
    steps: int
    inner: Inner = field(default_factory=Inner)
    label: str = ""
    loud: bool = False


def refused(mapping, kind=Outer) -> str:
    with pytest.raises(UserError) as caught:
        from_mapping(kind, mapping)
    assert caught.value.code == USAGE
    return str(caught.value)


@given(
    st.builds(
        Outer,
        steps=st.integers(-(2**40), 2**40),
        inner=st.builds(
            Inner,
            rate=st.floats(allow_nan=False),
            names=st.lists(st.text(st.characters(exclude_categories=["Cs"]))).map(tuple),
            share=st.none() | st.floats(allow_nan=False),
        ),
        label=st.text(st.characters(exclude_categories=["Cs"])),
        loud=st.booleans(),
    )
)
def test_any_config_comes_back_from_toml(tmp_path_factory, config):
    path = tmp_path_factory.mktemp("config") / "run.toml"
    write_toml(path, to_mapping(config))
    assert from_mapping(Outer, read_toml(path)) == config


@pytest.mark.parametrize(
    "config",
    [
        RunConfig(model=SHAPE, train=TrainConfig(steps=7, minutes=0.5, dtype="float32")),
        PrepareConfig(text=TextOptions(languages=("zh", "en"), strict=True, text_column="text"), vocabulary=900),
        PrepareConfig(),
    ],
)
def test_our_own_settings_come_back_from_toml(tmp_path, config):
    write_toml(tmp_path / "run.toml", to_mapping(config))
    assert from_mapping(type(config), read_toml(tmp_path / "run.toml")) == config
    assert tomllib.loads((tmp_path / "run.toml").read_text())["schema_version"] == SCHEMA_VERSION


def test_an_unknown_key_is_an_error_that_suggests_the_right_one():
    assert refused({"stepz": 3}) == "There is no setting stepz. Did you mean steps?"
    assert refused({"steps": 3, "inner": {"rat": 1}}) == "There is no setting inner.rat. Did you mean inner.rate?"
    assert "There are: steps, inner, label, loud." in refused({"zzz": 3})
    run = {"model": to_mapping(SHAPE), "train": {"steps": 1, "bacth": 3}}
    assert refused(run, RunConfig) == "There is no setting train.bacth. Did you mean train.batch?"


@pytest.mark.parametrize(
    ("mapping", "sentence"),
    [
        ({"steps": "3"}, "The setting steps must be int, but is '3'."),
        ({"steps": 3.0}, "The setting steps must be int, but is 3.0."),
        ({"steps": True}, "The setting steps must be int, but is True."),
        ({"steps": 1, "loud": 1}, "The setting loud must be bool, but is 1."),
        ({"steps": 1, "label": 1}, "The setting label must be str, but is 1."),
        ({"steps": 1, "inner": 1}, "The setting inner must be Inner, but is 1."),
        ({"steps": 1, "inner": {"rate": True}}, "The setting inner.rate must be float, but is True."),
        ({"steps": 1, "inner": {"share": "x"}}, "The setting inner.share must be float, but is 'x'."),
        ({"steps": 1, "inner": {"names": "ab"}}, "The setting inner.names must be"),
        ({"steps": 1, "inner": {"names": ["a", 1]}}, "The setting inner.names must be"),
    ],
)
def test_a_value_of_the_wrong_type_is_named(mapping, sentence):
    assert refused(mapping).startswith(sentence)


def test_a_whole_number_will_do_for_a_fraction():
    inner = from_mapping(Outer, {"steps": 1, "inner": {"rate": 2}}).inner
    assert inner.rate == 2.0
    assert type(inner.rate) is float


def test_a_missing_value_is_named():
    assert "steps" in refused({"label": "x"})


def test_some_of_the_settings_may_be_checked_alone():
    assert check_mapping(Outer, {"label": "x", "inner": {"rate": 2}}) == {"label": "x", "inner": Inner(2.0)}
    with pytest.raises(UserError, match=r"There is no setting outer\.stepz\. Did you mean outer\.steps\?"):
        check_mapping(Outer, {"stepz": 3}, where="outer.")


def test_settings_are_put_in_without_touching_the_original():
    mapping = {"train": {"batch": 1}}
    changed = apply_settings(
        mapping,
        ["train.batch=8", "train.rate=1e-3", "model.tied=false", 'label="a b"', "name=plain text", " x = [1,2]"],
    )
    assert changed == {
        "train": {"batch": 8, "rate": 1e-3},
        "model": {"tied": False},
        "label": "a b",
        "name": "plain text",
        "x": [1, 2],
    }
    assert mapping == {"train": {"batch": 1}}


def test_the_last_of_equal_settings_counts_and_values_may_hold_an_equals_sign():
    assert apply_settings({}, ["a=1", "a=2", "b=x=y", "c="]) == {"a": 2, "b": "x=y", "c": ""}


@pytest.mark.parametrize("setting", ["train.batch", "=3", "", "train..batch=1", ".batch=1", "train.=1", " =1"])
def test_a_setting_that_is_none_is_refused(setting):
    with pytest.raises(UserError, match="--set takes key=value"):
        apply_settings({}, [setting])


def test_a_value_is_not_a_group():
    with pytest.raises(UserError, match=r"train\.batch is not a group"):
        apply_settings({"train": {"batch": 8}}, ["train.batch.size=1"])


def test_a_run_file_that_is_missing_or_broken_is_named(tmp_path):
    with pytest.raises(UserError, match=r"There is no run file .*missing\.toml"):
        read_toml(tmp_path / "missing.toml")
    for number, garbage in enumerate((b"[train\nsteps = 1", b"\xff\xfe\x00", b"steps = = 1")):
        path = tmp_path / f"{number}.toml"
        path.write_bytes(garbage)
        with pytest.raises(UserError, match=rf"{number}\.toml is not valid TOML") as caught:
            read_toml(path)
        assert caught.value.code == USAGE


def test_a_run_file_saved_by_notepad_is_read(tmp_path):
    (tmp_path / "run.toml").write_bytes(b"\xef\xbb\xbf[train]\r\nsteps = 1\r\n")
    assert read_toml(tmp_path / "run.toml") == {"train": {"steps": 1}}


def test_a_run_file_of_another_schema_is_refused(tmp_path):
    path = tmp_path / "run.toml"
    path.write_text("schema_version = 99\n")
    with pytest.raises(UserError, match="schema_version 99, but this Bimo reads 1"):
        read_toml(path)
    path.write_text("[train]\nsteps = 1\n")
    assert read_toml(path) == {"train": {"steps": 1}}
