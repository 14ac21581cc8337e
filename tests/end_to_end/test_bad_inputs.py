"""What people get wrong, and what happens to them: one clear sentence, the right exit code, nothing lost."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from command import ENTRY, ENVIRONMENT, Done, bimo, sentence_of, warm_bimo
from stories import stories, write_stories

FAILED, USAGE, DATA_REFUSED, NO_ROOM = 1, 2, 3, 4
QUICK = ("--minutes", "0.05", "--preset", "dust")


@pytest.fixture
def here(tmp_path) -> Path:
    """A folder with good notes in it."""
    write_stories(tmp_path / "notes" / "a.txt", 40)
    return tmp_path


def contents(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def refused(code: int, *arguments: str | Path, cwd: Path, **options: object) -> str:
    """The sentence of a call that must be refused, and must leave every file that was there as it was."""
    before = contents(cwd)
    done = warm_bimo(*arguments, cwd=cwd, **options)
    assert done.code == code, (done.code, done.err)
    after = contents(cwd)
    assert {name: after.get(name) for name in before} == before
    return sentence_of(done)


def test_an_empty_folder(here):
    (here / "empty").mkdir()
    (here / "empty" / ".hidden").write_text("not counted")
    for verb in (("run", "empty", "--out", "m"), ("prepare", "empty", "--out", "d"), ("plan", "empty")):
        assert "no file to read in empty" in refused(DATA_REFUSED, *verb, cwd=here)
    assert not (here / "m").exists()
    assert not (here / "d").exists()


def test_a_folder_without_readable_text(here):
    folder = here / "photos"
    folder.mkdir()
    (folder / "a.jpg").write_bytes(b"\xff\xd8\xff\xe0" + os.urandom(5000))
    (folder / "b.bin").write_bytes(os.urandom(5000))
    (folder / "c.txt").write_bytes(b"\x00\x01\x02\x03" * 1000)
    sentence = refused(DATA_REFUSED, "run", "photos", "--out", "m", *QUICK, cwd=here)
    assert "No text is left of 3 files" in sentence
    assert "a.jpg" in sentence


def test_the_advice_names_options_that_exist(here):
    """What a sentence tells people to type must be something that can be typed."""
    (here / "photos").mkdir()
    (here / "photos" / "a.txt").write_text("!!!!!!! ????? ------\n")
    sentence = refused(DATA_REFUSED, "prepare", "photos", "--out", "d", cwd=here)
    options = warm_bimo("prepare", "--help", cwd=here).out
    assert [name for name in re.findall(r"--[a-z-]+", sentence) if f"{name} " not in options] == []


def test_a_corpus_of_ten_lines(here):
    (here / "ten.txt").write_text("\n".join(f"This is line number {number} of ten." for number in range(10)))
    for verb in (("run", "ten.txt", "--out", "m"), ("plan", "ten.txt")):
        assert "too small to train on" in refused(DATA_REFUSED, *verb, *QUICK, cwd=here)
    assert not (here / "m" / "model.safetensors").exists()


def test_a_refused_corpus_can_be_mended_in_place(here):
    (here / "ten.txt").write_text("\n".join(f"This is line number {number} of ten." for number in range(10)))
    refused(DATA_REFUSED, "run", "ten.txt", "--out", "m", *QUICK, cwd=here)
    write_stories(here / "ten.txt", 3)
    assert warm_bimo("run", "ten.txt", "--out", "m", *QUICK, cwd=here).code == DATA_REFUSED
    write_stories(here / "ten.txt", 40)
    done = warm_bimo("prepare", "ten.txt", "--out", "m/bimo/data", "--quiet", cwd=here)
    assert done.code == 0, done.err


@pytest.mark.parametrize(
    "verb", [("run", "--out", "m"), ("prepare", "--out", "d"), ("plan",)], ids=lambda verb: verb[0]
)
def test_a_missing_file(here, verb):
    name, *rest = verb
    assert "no file or folder" in refused(USAGE, name, "notes/nowhere.txt", *rest, cwd=here)
    assert not (here / "m").exists()


def test_missing_things_of_the_other_verbs(here):
    assert "nowhere" in refused(FAILED, "generate", "nowhere", cwd=here)
    assert "nowhere" in refused(FAILED, "evaluate", "nowhere", "notes", cwd=here)
    assert "nowhere is not prepared data" in refused(USAGE, "train", "nowhere", "--out", "m", cwd=here)
    assert "no folder nowhere" in refused(USAGE, "runs", "nowhere", cwd=here)
    assert not (here / "m" / "bimo" / "plan.json").exists()


def test_a_folder_without_permission_to_read(here):
    (here / "notes").chmod(0o000)
    try:
        done = warm_bimo("run", "notes", "--out", "m", *QUICK, cwd=here, powerless=True)
    finally:
        (here / "notes").chmod(0o755)
    assert done.code == DATA_REFUSED
    assert "may not be read (Permission denied)" in sentence_of(done)
    assert not (here / "m").exists()


def test_a_closed_file_or_folder_among_others_is_reported_and_left_out(here):
    write_stories(here / "notes" / "closed" / "b.txt", 5, seed=2)
    write_stories(here / "notes" / "c.txt", 5, seed=3).chmod(0o000)
    (here / "notes" / "closed").chmod(0o000)
    try:
        done = warm_bimo("prepare", "notes", "--out", "d", "--json", cwd=here, powerless=True)
        strict = warm_bimo("prepare", "notes", "--out", "s", "--strict", cwd=here, powerless=True)
    finally:
        (here / "notes" / "closed").chmod(0o755)
    assert done.code == 0, done.err
    facts = json.loads(done.out)["documents"]
    assert facts["rejected"] == {"unreadable": 2}
    assert {example["source"] for example in facts["rejected_examples"]} == {"closed", "c.txt"}
    assert strict.code == DATA_REFUSED
    assert "closed" in sentence_of(strict)


@pytest.mark.parametrize("verb", ["prepare", "run"])
def test_a_folder_without_permission_to_write(here, verb):
    (here / "locked").mkdir(mode=0o555)
    done = warm_bimo(verb, "notes", "--out", "locked/out", cwd=here, powerless=True)
    assert done.code == FAILED
    assert re.search(r"locked\S* cannot be used: Permission denied\.", sentence_of(done))


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
def test_a_model_that_may_not_be_read(here, model, name):
    shutil.copytree(model, here / "m")
    (here / "m" / name).chmod(0o000)
    done = warm_bimo("generate", "m", cwd=here, powerless=True)
    assert done.code == FAILED
    assert name in sentence_of(done)


def test_a_result_that_may_not_be_overwritten(here, data):
    """Prepared data on a shared disk that others may only read."""
    shutil.copytree(data, here / "d")
    (here / "run.toml").write_text(RUN_FILE)
    before = contents(here / "d")
    for path in [here / "d", *(here / "d").rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    trained = warm_bimo("train", "d", "--out", "m", "--config", "run.toml", "--quiet", cwd=here, powerless=True)
    prepared = warm_bimo("prepare", "notes", "--out", "d", cwd=here, powerless=True)
    for path in [here / "d", *(here / "d").rglob("*")]:
        path.chmod(0o755)
    assert trained.code == 0, trained.err
    assert prepared.code == FAILED
    assert "cannot be used: Permission denied" in sentence_of(prepared)
    assert contents(here / "d") == before


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    """A disk of one megabyte. Skips where it cannot be made."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", place]
    if not shutil.which("mount") or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("a small disk can only be mounted by root")
    yield place
    subprocess.run(["umount", "--lazy", place], check=True)


def test_a_disk_that_is_seen_to_be_too_small(here, small_disk):
    text = stories(2000)
    (here / "big.txt").write_text(text)
    done = warm_bimo("run", "big.txt", "--out", "disk/m", *QUICK, cwd=here)
    assert done.code == NO_ROOM
    sentence = sentence_of(done)
    assert "MB free" in sentence
    assert "Free some room" in sentence
    assert (here / "big.txt").read_text() == text


def test_a_disk_that_fills_up_on_the_way(here, small_disk):
    """Packed text takes more room than it seems to: the disk is full in the middle of the work."""
    (here / "packed.txt.gz").write_bytes(gzip.compress(incompressible(700_000)))
    (small_disk / "ballast").write_bytes(bytes(200_000))
    done = warm_bimo("prepare", "packed.txt.gz", "--out", "disk/d", cwd=here)
    assert done.code == NO_ROOM, done.err
    sentence_of(done)
    assert list((small_disk / "d").rglob("*.parquet")) == []


def incompressible(characters: int) -> bytes:
    """Words that nobody used before, so that no packing helps."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    data = os.urandom(characters)
    words = "".join(letters[byte % 26] if byte > 40 else " " for byte in data)
    lines = [words[start : start + 400] for start in range(0, characters, 400)]
    return "\n\n".join(lines).encode()


@pytest.mark.parametrize("verb", ["prepare", "run"])
def test_a_full_disk(here, verb):
    """The same where no disk can be mounted: every file that is to be put in place meets a full disk."""
    done = warm_bimo(verb, "notes", "--out", "out", cwd=here, full_disk=True)
    assert done.code == NO_ROOM
    sentence = sentence_of(done)
    assert sentence.startswith("The disk is full. What was finished before is whole.")
    assert f"bimo {verb} notes --out out" in sentence
    assert [path for path in (here / "out").rglob("*") if path.suffix == ".bimo-part"] == []
    after = warm_bimo("prepare", "notes", "--out", "out" if verb == "prepare" else "out/bimo/data", "--quiet", cwd=here)
    assert after.code == 0, after.err


def test_an_unknown_option_or_verb_suggests_the_right_one(here):
    for arguments, suggestion in (
        (("run", "notes", "--out", "m", "--minuts", "3"), "--minutes"),
        (("generate", "m", "--temprature", "1"), "--temperature"),
        (("prepair", "notes", "--out", "d"), "prepare"),
    ):
        done = warm_bimo(*arguments, cwd=here)
        assert done.code == USAGE
        assert suggestion in done.err
        assert "Traceback" not in done.err
    assert set(contents(here)) == {"notes/a.txt"}


@pytest.mark.parametrize(
    "arguments",
    [("run", "notes"), ("run",), ("prepare", "notes"), ("train", "--out", "m"), ("generate",), ("evaluate", "m")],
    ids=" ".join,
)
def test_something_that_is_missing_on_the_command_line_is_named(here, arguments):
    done = warm_bimo(*arguments, cwd=here)
    assert done.code == USAGE
    assert "Missing" in done.err


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Prepared data."""
    folder = tmp_path_factory.mktemp("bad")
    write_stories(folder / "notes" / "a.txt", 60)
    done = warm_bimo("prepare", "notes", "--out", "data", "--quiet", cwd=folder)
    assert done.code == 0, done.err
    return folder / "data"


RUN_FILE = """
[model]
layers = 1
width = 16
heads = 2
kv_heads = 1
head_width = 8
hidden = 32
context = 16
[train]
steps = 4
batch = 2
dtype = "float32"
"""


@pytest.fixture(scope="module")
def model(data) -> Path:
    """A model that was trained for an instant."""
    (data.parent / "run.toml").write_text(RUN_FILE)
    done = warm_bimo("train", "data", "--out", "model", "--config", "run.toml", "--quiet", cwd=data.parent)
    assert done.code == 0, done.err
    return data.parent / "model"


@pytest.mark.parametrize(
    ("text", "settings", "expected"),
    [
        (RUN_FILE.replace("steps", "stepz"), [], "There is no setting train.stepz. Did you mean train.steps?"),
        (RUN_FILE.replace("[train]", "[trian]"), [], "There is no setting trian. Did you mean train?"),
        (RUN_FILE, ["train.bathc=3"], "There is no setting train.bathc. Did you mean train.batch?"),
        (RUN_FILE, ["batch=3"], "There is no setting batch."),
        (RUN_FILE, ["train.batch=many"], "The setting train.batch must be int, but is 'many'."),
        (RUN_FILE, ["train.batch"], "--set takes key=value"),
        (RUN_FILE, ["train.batch.size=3"], "train.batch is not a group of settings."),
        (RUN_FILE, ["train=3"], "The setting train must be"),
        (RUN_FILE, ["model.kv_heads=0"], "kv_heads must be at least 1"),
        (RUN_FILE, ["model.heads=3", "model.kv_heads=2"], "must be a multiple of its kv_heads"),
        (RUN_FILE, ["model.head_width=7"], "must be even"),
        (RUN_FILE, ["train.dtype=float16"], "auto, float32 or bfloat16"),
        (RUN_FILE, ["train.device=tpu"], "The device tpu is not on this machine"),
        (RUN_FILE, ["train.adam_rate=-1.0"], "adam_rate"),
        (RUN_FILE, ["train.minutes=nan"], "minutes"),
        (RUN_FILE, ["model.vocabulary=10"], "vocabulary"),
        (RUN_FILE, ["model.context=100000"], "model.context"),
        ("model = 3\n[train]\nsteps = 4\n", [], "model"),
        ("[train]\nsteps = 4\n", [], "not complete"),
        (RUN_FILE + "steps = 5\n", [], "is not valid TOML"),
        ("\x00\x01", [], "is not valid TOML"),
        ("schema_version = 7\n" + RUN_FILE, [], "schema_version 7"),
    ],
)
def test_a_run_file_or_setting_that_is_wrong(data, tmp_path, text, settings, expected):
    (tmp_path / "run.toml").write_text(text)
    changes = [part for setting in settings for part in ("--set", setting)]
    done = warm_bimo("train", data, "--out", "m", "--config", "run.toml", *changes, cwd=tmp_path)
    assert expected in sentence_of(done)
    assert done.code in (FAILED, USAGE, DATA_REFUSED)
    assert not (tmp_path / "m" / "model.safetensors").exists()


def test_a_run_file_that_is_missing(data, tmp_path):
    sentence = refused(USAGE, "train", data, "--out", "m", "--config", "nowhere.toml", cwd=tmp_path)
    assert "no run file nowhere.toml" in sentence


def test_a_corrupted_manifest_or_plan_of_a_run_is_named(data, model, tmp_path):
    shutil.copytree(model, tmp_path / "m")
    (tmp_path / "m" / "bimo" / "manifest.json").write_text('{"key": ')
    (tmp_path / "run.toml").write_text(RUN_FILE)
    sentence = refused(FAILED, "train", data, "--out", "m", "--config", "run.toml", cwd=tmp_path)
    assert "manifest.json is not valid JSON" in sentence


@pytest.mark.parametrize("broken", ["nothing", "file", "cut", "garbage", "config", "shape", "tokenizer", "family"])
def test_a_model_folder_that_is_none(model, tmp_path, broken):
    folder = tmp_path / "m"
    if broken == "nothing":
        folder.mkdir()
    elif broken == "file":
        folder.write_text("x")
    else:
        shutil.copytree(model, folder)
    if broken == "cut":
        weights = (folder / "model.safetensors").read_bytes()
        (folder / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    if broken == "garbage":
        (folder / "model.safetensors").write_bytes(b"\xff" * 5000)
    if broken == "config":
        (folder / "config.json").write_text("[1, 2")
    if broken in ("shape", "family"):
        config = json.loads((folder / "config.json").read_text())
        config |= {"hidden_size": 24} if broken == "shape" else {"model_type": "mamba"}
        (folder / "config.json").write_text(json.dumps(config))
    if broken == "tokenizer":
        (folder / "tokenizer.json").write_text('{"version": "1.0"}')
    assert str(folder.name) in refused(FAILED, "generate", "m", "The", cwd=tmp_path)


@pytest.mark.parametrize("content", ["[]", "3", '"x"', "{}", "null"])
def test_a_config_that_is_json_but_no_config(model, tmp_path, content):
    shutil.copytree(model, tmp_path / "m")
    (tmp_path / "m" / "config.json").write_text(content)
    assert "config.json" in refused(FAILED, "generate", "m", cwd=tmp_path)


@pytest.mark.parametrize("verb", ["prepare", "run", "train", "demo"])
def test_an_output_folder_that_is_taken(here, data, verb):
    (here / "thesis").mkdir()
    (here / "thesis" / "chapter.tex").write_text("precious")
    source = {"prepare": ["notes"], "run": ["notes"], "train": [data], "demo": []}[verb]
    done = warm_bimo(verb, *source, "--out", "thesis", cwd=here)
    assert done.code in (FAILED, USAGE)
    assert "is taken" in sentence_of(done)
    assert contents(here / "thesis").keys() == {"chapter.tex"}
    done = warm_bimo(verb, *source, "--out", "thesis/chapter.tex", cwd=here)
    assert done.code in (FAILED, USAGE)
    sentence_of(done)
    assert (here / "thesis" / "chapter.tex").read_text() == "precious"


def test_a_run_on_the_folder_of_another_run(data, model, tmp_path):
    (tmp_path / "run.toml").write_text(RUN_FILE)
    before = contents(model)
    changed = ("--config", "run.toml", "--set", "train.steps=5")
    done = warm_bimo("train", data, "--out", model, *changed, cwd=tmp_path)
    assert done.code == USAGE
    assert "holds a training with other text or settings" in sentence_of(done)
    assert contents(model) == before


def test_a_second_run_while_the_first_lives(here, data):
    (here / "run.toml").write_text(RUN_FILE)
    hold = (
        "import sys\nfrom pathlib import Path\nfrom bimo.files import locked\n"
        "with locked(Path('m/bimo')), locked(Path('d')): print('held', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", hold]
    environment = {"cwd": here, "env": ENVIRONMENT}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, **environment) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "held\n"
        for arguments in (
            ("run", "notes", "--out", "m", *QUICK),
            ("train", data, "--out", "m", "--config", "run.toml"),
            ("prepare", "notes", "--out", "d"),
        ):
            done = warm_bimo(*arguments, cwd=here)
            assert done.code == FAILED
            assert "Another bimo process is working in" in sentence_of(done)
        first.kill()
    assert warm_bimo("prepare", "notes", "--out", "d", "--quiet", cwd=here).code == 0


def test_strict_stops_at_a_bad_row_with_its_place(here):
    rows = [json.dumps({"text": f"Row number {number} tells of the sea."}) for number in range(6)]
    rows[3] = '{"text": "cut off'
    (here / "notes" / "rows.jsonl").write_text("\n".join(rows))
    sentence = refused(DATA_REFUSED, "prepare", "notes", "--out", "d", "--strict", cwd=here)
    assert "rows.jsonl:4 cannot be read" in sentence
    done = warm_bimo("prepare", "notes", "--out", "d", "--json", cwd=here)
    assert done.code == 0, done.err
    assert json.loads(done.out)["documents"]["rejected"] == {"bad_row": 1}


@pytest.mark.parametrize("minutes", ["0", "-1", "nan", "inf"])
def test_minutes_that_are_none_are_refused_before_the_text_is_read(here, minutes):
    for verb in (("run", "notes", "--out", "m"), ("plan", "notes")):
        assert "--minutes" in refused(USAGE, *verb, f"--minutes={minutes}", cwd=here)
    assert not (here / "m" / "bimo" / "data").exists()


def test_minutes_that_are_no_number(here):
    done = warm_bimo("run", "notes", "--out", "m", "--minutes", "ten", cwd=here)
    assert done.code == USAGE
    assert "--minutes" in done.err
    assert not (here / "m").exists()


@pytest.mark.parametrize("option", [("--preset", "durst"), ("--device", "tpu"), ("--seed", "-1")], ids=lambda o: o[0])
def test_other_choices_are_checked_before_the_text_is_read(here, option):
    done = warm_bimo("run", "notes", "--out", "m", "--minutes", "0.05", *option, cwd=here)
    assert done.code in (FAILED, USAGE)
    assert option[1] in sentence_of(done)
    assert not (here / "m" / "bimo" / "data").exists()


@pytest.mark.parametrize(
    "option",
    [
        "--temperature=-1",
        "--temperature=nan",
        "--top-p=0",
        "--top-p=1.5",
        "--min-p=1",
        "--top-k=-1",
        "--repetition-penalty=0",
        "--repetition-penalty=inf",
        "--max-tokens=0",
        "--samples=0",
        "--samples=-2",
        "--seed=-1",
        "--device=tpu",
    ],
)
def test_sampling_values_that_cannot_be(model, option):
    name, _, value = option.partition("=")
    done = warm_bimo("generate", "model", "The", option, cwd=model.parent)
    assert done.code in (FAILED, USAGE)
    assert value in done.err
    assert name.strip("-").replace("-", "_") in done.err.replace("-", "_")
    assert "Traceback" not in done.err
    assert "an error in Bimo itself" not in done.err
    assert done.out == ""


def test_a_stop_string_that_is_empty_does_not_silence_the_model(model):
    done = warm_bimo("generate", "model", "The", "--stop", "", "--max-tokens", "20", cwd=model.parent)
    assert done.code == USAGE or (done.code == 0 and len(done.out) > len("The\n"))


def test_a_prompt_that_is_not_text(model):
    """Bytes that a shell passes on although they are no character."""
    command = [*map(os.fsencode, ENTRY), b"generate", b"model", b"caf\xe9", b"--max-tokens", b"4"]
    done = subprocess.run(command, cwd=model.parent, env=ENVIRONMENT, capture_output=True, timeout=120, check=False)
    assert b"Traceback" not in done.stderr
    assert b"an error in Bimo itself" not in done.stderr
    assert done.returncode in (0, USAGE)


@pytest.mark.parametrize("content", [None, "", "{}", "not json", '{"model": {"type": "BPE"}}'], ids=repr)
def test_a_tokenizer_file_that_is_none(here, content):
    if content is not None:
        (here / "mine.json").write_text(content)
    arguments = ("prepare", "notes", "--out", "d", "--tokenizer", "mine.json")
    assert "mine.json" in refused(FAILED, *arguments, cwd=here)


def test_data_that_were_damaged_by_hand(data, tmp_path):
    (tmp_path / "run.toml").write_text(RUN_FILE)
    for number, name in enumerate(("tokens/train-00000.bin", "tokens/validation-00000.bin", "tokenizer.json")):
        broken = tmp_path / f"data{number}"
        shutil.copytree(data, broken)
        path = broken / name
        path.write_bytes(path.read_bytes()[:-100])
        done = warm_bimo("train", broken, "--out", f"m{number}", "--config", "run.toml", cwd=tmp_path)
        assert done.code == FAILED
        assert name.split("/")[-1] in sentence_of(done)


def test_data_that_are_not_complete(data, tmp_path):
    """Somebody stopped `prepare` on its way."""
    shutil.copytree(data, tmp_path / "data")
    manifest = json.loads((tmp_path / "data" / "manifest.json").read_text())
    del manifest["stages"]["tokens"]
    (tmp_path / "data" / "manifest.json").write_text(json.dumps(manifest))
    for verb in (("plan", "data"), ("train", "data", "--out", "m")):
        assert "data" in refused(USAGE, *verb, *QUICK, cwd=tmp_path)


def test_a_folder_of_text_with_a_manifest_of_something_else(here):
    """A saved web page brings its own manifest.json; that does not make its folder prepared data."""
    (here / "notes" / "manifest.json").write_text('{"name": "a page", "icons": []}')
    done = warm_bimo("plan", "notes", *QUICK, cwd=here)
    assert done.code in (0, USAGE), done.err
    assert "an error in Bimo itself" not in done.err


@pytest.mark.parametrize(
    ("out", "reason"),
    [
        ("notes/a.txt/model", "Not a directory"),
        ("/dev/null/model", "Not a directory"),
        ("/proc/model", "No such file|0 MB free"),
        ("x" * 300, "File name too long"),
    ],
    ids=["below a file", "below a device", "in proc", "too long a name"],
)
@pytest.mark.parametrize("verb", ["prepare", "run"])
def test_places_that_cannot_be_written(here, out, reason, verb):
    if out.startswith("/proc") and not Path("/proc/self").exists():
        pytest.skip("this system has no /proc")
    before = contents(here)
    done = warm_bimo(verb, "notes", "--out", out, cwd=here)
    assert done.code in (FAILED, NO_ROOM)
    assert re.search(reason, sentence_of(done))
    assert contents(here) == before


def test_a_metrics_file_on_a_full_device(data, tmp_path):
    """The disk fills up while the training writes down how it goes."""
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    (tmp_path / "run.toml").write_text(RUN_FILE)
    (tmp_path / "m" / "bimo").mkdir(parents=True)
    (tmp_path / "m" / "bimo" / "metrics.jsonl").symlink_to("/dev/full")
    done = warm_bimo("train", data, "--out", "m", "--config", "run.toml", cwd=tmp_path)
    assert done.code == NO_ROOM
    assert "The disk is full" in done.err
    (tmp_path / "m" / "bimo" / "metrics.jsonl").unlink()
    after = warm_bimo("train", data, "--out", "m", "--config", "run.toml", "--quiet", cwd=tmp_path)
    assert after.code == 0, after.err


def test_an_error_of_our_own_is_one_sentence_and_a_file(here, monkeypatch):
    """Whatever we did not think of: no traceback on the screen, but one to send in."""
    code = (
        "import sys\nsys.argv = ['bimo', 'runs']\nimport bimo.runs\n"
        "def broken(places): raise ZeroDivisionError('by zero')\nbimo.runs.list_runs = broken\n"
        "from bimo.cli import main\nmain()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=here,
        env={**ENVIRONMENT, "TMPDIR": str(here)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == FAILED
    assert "Traceback" not in done.stderr
    report = re.search(r"report it with the file (\S+)\.$", done.stderr.strip())
    assert report is not None
    assert "ZeroDivisionError: by zero" in Path(report[1]).read_text()


def test_the_cold_command_refuses_in_the_same_words(here):
    """The forked process of the other tests is no other program."""
    arguments = ("prepare", "nowhere", "--out", "d")
    cold: Done = bimo(*arguments, cwd=here)
    assert cold == warm_bimo(*arguments, cwd=here)
