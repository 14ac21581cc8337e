"""The story of the README through the real command line, in a new folder: every verb, every stream, every exit code."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import shlex
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from command import ENTRY, ENVIRONMENT, Done, bimo, start, warm_bimo
from conftest import RUN
from stories import write_stories

from bimo.config import read_toml
from bimo.files import digest_file, read_json, read_metrics
from bimo.kernel import best_instructions

VERBS = (
    *("run", "demo", "doctor", "plan", "prepare", "train", "evaluate", "generate", "export", "runs", "words"),
    *("tune", "chat"),
)


def stamps(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def ends_well(done: Done) -> Done:
    assert done.code == 0, done.err
    assert "Traceback" not in done.err
    return done


def pure_json(done: Done) -> Any:
    """The result on stdout, which must be JSON and nothing else."""

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    return json.loads(ends_well(done).out, parse_constant=refuse)


def chinese(text: str) -> bool:
    return re.search("[\u4e00-\u9fff]", text) is not None


def test_run_makes_a_model_a_report_and_a_card(story):
    folder, done = story
    ends_well(done)
    assert done.out == ""
    labels = [line.split()[0] for line in done.err.splitlines() if line and not line.startswith(" ")]
    order = ["Read", "Cleaned", "Tokenizer", "Tokens", "Plan", "Validate", "Done", "Look", "Try"]
    assert [label for label in dict.fromkeys(labels) if label in order] == order
    model = folder / "model"
    for name in (
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "README.md",
        "bimo/report.html",
        "bimo/evaluation.json",
        "bimo/plan.json",
        "bimo/run.toml",
        "bimo/data/rejected",
    ):
        assert (model / name).exists(), name
    assert not (model / "bimo" / "checkpoints").exists()
    assert [path for path in model.rglob("*") if path.suffix in (".bimo-part", ".bimo-old", ".pkl", ".pt")] == []


def test_run_says_what_to_type_next_and_that_works(story):
    folder, done = story
    line = next(line for line in done.err.splitlines() if line.startswith("Try"))
    command = line.removeprefix("Try").strip()
    verb, *arguments = shlex.split(command)
    assert verb == "bimo"
    assert ends_well(warm_bimo(*arguments, "--max-tokens", "5", cwd=folder)).out.strip()


def test_a_second_run_finds_everything_done(home):
    before = {name: value for name, value in stamps(home / "model").items() if name.endswith((".safetensors", ".bin"))}
    done = ends_well(warm_bimo("run", "notes", "--out", "model", *RUN, cwd=home))
    assert "was finished before" in done.err
    after = stamps(home / "model")
    assert {name: after[name] for name in before} == before


def test_run_prints_its_facts_as_json(home):
    done = warm_bimo("run", "notes", "--out", "model", *RUN, "--json", "--quiet", cwd=home)
    assert done.err == ""
    assert pure_json(done) == read_json(home / "model" / "bimo" / "evaluation.json")


def test_the_facts_are_plausible(home):
    facts = read_json(home / "model" / "bimo" / "evaluation.json")
    assert 0 < facts["bits_per_byte"] < facts["baselines"]["unigram"]
    training = read_json(home / "model" / "bimo" / "training.json")
    assert 0.5 * 3 < training["seconds"] < 3 * 3
    assert training["validation_bits_per_byte"] == pytest.approx(facts["bits_per_byte"], rel=0.1)
    steps = [event["step"] for event in read_metrics(home / "model/bimo/metrics.jsonl") if event["event"] == "step"]
    assert steps == sorted(set(steps))


@pytest.mark.slow
def test_out_inside_the_source_is_stable(tmp_path):
    """What the run itself writes below its source must not become text of the next call."""
    write_stories(tmp_path / "notes" / "a.txt", 60)
    first = ends_well(warm_bimo("run", ".", "--out", "model", *RUN, "--json", "--quiet", cwd=tmp_path / "notes"))
    data = tmp_path / "notes" / "model" / "bimo" / "data"
    assert read_json(data / "manifest.json")["stages"]["documents"]["facts"]["files"] == 1
    before = stamps(data / "documents")
    again = ends_well(warm_bimo("run", ".", "--out", "model", *RUN, "--json", "--quiet", cwd=tmp_path / "notes"))
    assert again.out == first.out
    assert stamps(data / "documents") == before


@pytest.fixture(scope="module")
def steps(home):
    """The same by single verbs: data, then a model by a run file."""
    prepared = warm_bimo("prepare", "notes", "--out", "data", "--vocabulary", "400", "--json", cwd=home)
    plan = warm_bimo("plan", "data", "--minutes", "0.05", "--preset", "dust", "--json", cwd=home)
    (home / "run.toml").write_text(
        "[model]\nlayers = 1\nwidth = 32\nheads = 2\nkv_heads = 1\nhead_width = 16\nhidden = 64\ncontext = 32\n"
        '[train]\nsteps = 30\nbatch = 4\ndtype = "float32"\nvalidations = 3\n'
    )
    command = ("train", "data", "--out", "small", "--config", "run.toml", "--set", "train.batch=2", "--json")
    return prepared, plan, warm_bimo(*command, cwd=home)


def test_prepare_makes_data(steps, home):
    facts = pure_json(steps[0])
    assert facts["tokenizer"]["vocabulary"] == 400
    assert set(facts["documents"]["languages"]) == {"en", "zh"}
    assert facts["documents"]["files"] == 2
    assert "Read" in steps[0].err
    quiet = ends_well(warm_bimo("prepare", "notes", "--out", "data", "--vocabulary", "400", "--quiet", cwd=home))
    assert (quiet.out, quiet.err) == ("", "")


def test_prepare_keeps_the_languages_that_are_asked_for(home):
    done = warm_bimo("prepare", "notes", "--out", "only-zh", "--lang", "zh", "--json", "--quiet", cwd=home)
    facts = pure_json(done)["documents"]
    assert set(facts["languages"]) == {"zh"}
    both = warm_bimo("prepare", "notes", "--out", "both", "--lang", " zh, en", "--json", "--quiet", cwd=home)
    languages = pure_json(both)["documents"]["languages"]
    assert set(languages) == {"en", "zh"}
    assert facts["rejected"] == {"language": languages["en"]["documents"]}


def test_plan_says_what_it_would_do_and_writes_nothing(steps, home):
    facts = pure_json(steps[1])
    assert facts["preset"] == "dust"
    assert facts["minutes"] == 0.05
    before = set(home.rglob("*"))
    done = ends_well(
        warm_bimo("plan", "notes/english.txt", "--minutes", "0.05", "--preset", "dust", "--quiet", cwd=home)
    )
    assert done.err == ""
    assert [line.split()[0] for line in done.out.splitlines()[:5]] == ["Model", "Training", "Text", "Needs", "Expect"]
    assert set(home.rglob("*")) == before


def test_train_follows_the_run_file_and_the_settings_on_top(steps, home):
    facts = pure_json(steps[2])
    assert facts["steps"] == 30
    assert facts["tokens"] == 30 * 2 * 32
    stored = read_toml(home / "small" / "bimo" / "run.toml")
    assert stored["train"]["batch"] == 2
    assert stored["model"]["vocabulary"] == 400
    assert "Validate" in steps[2].err


def test_train_again_from_its_stored_run_file(steps, home):
    command = ("train", "data", "--out", "again", "--config", "small/bimo/run.toml", "--quiet")
    assert ends_well(warm_bimo(*command, cwd=home)).err == ""
    assert digest_file(home / "again/model.safetensors") == digest_file(home / "small/model.safetensors")


@pytest.mark.slow
def test_train_plans_when_there_is_no_run_file(steps, home):
    done = warm_bimo("train", "data", "--out", "planned", "--minutes", "0.02", "--preset", "dust", "--json", cwd=home)
    assert pure_json(done)["parameters"] == read_json(home / "planned/bimo/plan.json")["parameters"]
    assert "Plan" in done.err


def test_train_takes_no_run_file_and_a_plan_at_once(steps, home):
    """What a run file would silently override must not be accepted beside it."""
    for option in (("--minutes", "3"), ("--preset", "drop"), ("--seed", "5")):
        done = warm_bimo("train", "data", "--out", "both-ways", "--config", "run.toml", *option, cwd=home)
        assert done.code == 2, option
        assert option[0] in done.err
    assert not (home / "both-ways").exists()


def test_evaluate_on_data_and_on_a_plain_file(steps, home):
    on_data = pure_json(warm_bimo("evaluate", "small", "data", "--json", "--quiet", cwd=home))
    assert set(on_data) >= {"bits_per_byte", "baselines", "copying", "samples"}
    on_file = pure_json(warm_bimo("evaluate", "small", "notes/english.txt", "--json", "--quiet", cwd=home))
    assert on_file["validation"]["bytes"] > 10_000
    lines = ends_well(warm_bimo("evaluate", "small", "data", cwd=home)).out.splitlines()
    assert re.fullmatch(r"\d\.\d{4} bits per byte .*", lines[0])
    assert len(lines) == 4


def generate(home: Path, *arguments: str) -> Done:
    return warm_bimo("generate", "model", *arguments, cwd=home)


def test_generate_streams_the_prompt_and_what_follows(home):
    done = ends_well(generate(home, "The quiet", "--max-tokens", "30"))
    assert done.err == ""
    assert done.out.startswith("The quiet")
    assert len(done.out) > len("The quiet\n")
    assert done.out.endswith("\n")
    assert "\ufffd" not in generate(home, "安静的", "--max-tokens", "60", "--temperature", "0").out


def test_generate_without_a_prompt_begins_a_document(home):
    assert ends_well(generate(home, "--max-tokens", "20")).out.strip()


def test_generate_is_the_same_for_the_same_seed(home):
    usual = ("The", "--max-tokens", "40", "--temperature", "1.5", "--top-p", "1")
    first, again, other = (generate(home, *usual, "--seed", seed).out for seed in ("5", "5", "6"))
    assert first == again != other


def test_generate_takes_the_likeliest_at_temperature_nothing(home):
    usual = ("The", "--max-tokens", "20", "--temperature", "0")
    likeliest = generate(home, *usual, "--seed", "1").out
    assert generate(home, *usual, "--seed", "2").out == likeliest
    for narrow in (("--top-k", "1"), ("--min-p", "0.999999"), ("--top-p", "0.000001")):
        assert generate(home, "The", "--max-tokens", "20", *narrow, "--temperature", "2").out == likeliest


def test_generate_several_samples(home):
    usual = ("The", "--max-tokens", "12", "--seed", "7", "--samples", "3")
    facts = pure_json(generate(home, *usual, "--json"))
    assert facts["prompt"] == "The"
    assert len(facts["texts"]) == 3
    streamed = ends_well(generate(home, *usual)).out
    assert streamed == "\n\n".join("The" + text for text in facts["texts"]) + "\n"
    third = pure_json(generate(home, "The", "--max-tokens", "12", "--seed", "9", "--json"))
    assert third["texts"][0] == facts["texts"][2]


def test_generate_ends_before_a_stop_string(home):
    usual = ("The", "--max-tokens", "60", "--seed", "1", "--json")
    whole = pure_json(generate(home, *usual))["texts"][0]
    stop = whole[10:13]
    assert pure_json(generate(home, *usual, "--stop", stop))["texts"] == [whole[: whole.index(stop)]]
    two = pure_json(generate(home, *usual, "--stop", "never there", "--stop", stop))["texts"]
    assert two == [whole[: whole.index(stop)]]


def test_generate_takes_every_option(home):
    options = {
        "--max-tokens": "8",
        "--temperature": "0.9",
        "--top-k": "20",
        "--top-p": "0.9",
        "--min-p": "0.01",
        "--repetition-penalty": "1.2",
        "--stop": "zzz",
        "--samples": "1",
        "--seed": "3",
        "--device": "cpu",
    }
    arguments = [part for option in options.items() for part in option]
    assert pure_json(generate(home, "狐狸", *arguments, "--json", "--quiet"))["prompt"] == "狐狸"


@pytest.mark.slow
def test_generate_survives_a_reader_that_goes_away(home):
    line = f'{ENTRY[0]} -c "{ENTRY[2]}" generate model The --max-tokens 200 --samples 20 | head -c 20'
    done = subprocess.run(
        ["bash", "-c", line], cwd=home, env=ENVIRONMENT, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0
    assert done.stderr == ""
    assert done.stdout.startswith("The")


def test_words_are_cut_line_by_line_from_anywhere(tmp_path):
    (tmp_path / "words.txt").write_text("卡拉OK\n", encoding="utf-8")
    (tmp_path / "text.txt").write_text("去卡拉OK唱歌。好！\n\nfine \N{SNOWMAN}\n", encoding="utf-8")
    given = (tmp_path / "text.txt").read_bytes() + b"bad \xff byte"
    command = [*ENTRY, "words", "segment"]
    done = subprocess.run(command, input=given, cwd=tmp_path, env=ENVIRONMENT, capture_output=True, check=True)
    assert done.stdout == "去 卡拉 OK 唱歌 。 好 ！\n\nfine ☃\n".encode() + b"bad \xff byte\n"
    options = ["--words", "words.txt", "--sentences", "--json"]
    lines = ends_well(bimo("words", "segment", "text.txt", *options, cwd=tmp_path)).out.splitlines()
    assert [json.loads(line) for line in lines[:2]] == [["去", "卡拉OK", "唱歌", "。"], ["好", "！"]]
    piped = ends_well(bimo("words", "segment", "text.txt", "--separator", "/", cwd=tmp_path)).out
    assert piped.startswith("去/卡拉/OK/唱歌/。/好/！\n\n")
    for encoding in ("gb18030", "utf-8-sig", "utf-16"):
        (tmp_path / "text.txt").write_text("我们学习语言。\n" * 9, encoding=encoding)
        assert ends_well(bimo("words", "segment", "text.txt", cwd=tmp_path)).out == "我们 学习 语言 。\n" * 9
    (tmp_path / "picture.png").write_bytes(bytes(range(256)) * 9)
    refused = bimo("words", "segment", "picture.png", cwd=tmp_path)
    assert refused.code == 3
    assert "picture.png is not a text file" in refused.err
    missing = bimo("words", "segment", "nowhere.txt", cwd=tmp_path)
    assert missing.code == 1
    assert "nowhere.txt cannot be used" in missing.err


def test_runs_lists_and_compares(steps, home):
    facts = pure_json(warm_bimo("runs", "--json", cwd=home))
    assert {run["model"] for run in facts} >= {"model", "small"}
    bits = [run["bits_per_byte"] or math.inf for run in facts]
    assert bits == sorted(bits)
    lines = ends_well(warm_bimo("runs", "small", "model", cwd=home)).out.splitlines()
    assert len(lines) == 3
    assert lines[0].split()[-1] == "model"


def test_doctor_knows_the_machine(home):
    facts = pure_json(warm_bimo("doctor", "--json", cwd=home))
    assert facts["machine"]["memory_bytes"] > 10**8
    assert facts["machine"]["matrix_flops"]["float32"] > 10**8
    assert facts["machine"]["dtype"] in ("float32", "bfloat16")
    assert facts["packages"]["torch"]
    assert next(iter(facts["presets"])) == "dust"
    rates = [preset["training_tokens_per_second"] for preset in facts["presets"].values()]
    assert rates == sorted(rates, reverse=True)
    assert (facts["kernel"] is None) is (best_instructions() is None)
    assert facts["kernel_trains"] <= (facts["kernel"] is not None)
    lines = ends_well(warm_bimo("doctor", cwd=home)).out
    assert "GFLOP/s" in lines
    assert ("in the kernel, too" in lines) is facts["kernel_trains"]
    assert f"in the kernel with {facts['kernel']}" in lines or "Writing: in torch" in lines


@pytest.mark.slow
def test_demo_runs_on_what_every_python_has(tmp_path):
    done = ends_well(bimo("demo", "--minutes", "0.1", cwd=tmp_path))
    assert [line for line in done.out.splitlines() if line.startswith("--- ")] == ["--- 1", "--- 2", "--- 3"]
    assert "bimo generate demo-model" in done.err
    facts = read_json(tmp_path / "demo-model" / "bimo" / "data" / "manifest.json")["stages"]["documents"]["facts"]
    assert facts["train"]["bytes"] > 10**6
    again = pure_json(bimo("demo", "--minutes", "0.1", "--json", cwd=tmp_path))
    assert again == read_json(tmp_path / "demo-model" / "bimo" / "evaluation.json")


def test_messages_are_chinese_where_the_locale_is(home):
    for environment in ({"BIMO_LANGUAGE": "zh"}, {"BIMO_LANGUAGE": "", "LANG": "zh_CN.UTF-8"}):
        assert chinese(ends_well(warm_bimo("runs", cwd=home, **environment)).out.splitlines()[0])
        refused = warm_bimo("prepare", "nowhere", "--out", "x", cwd=home, **environment)
        assert refused.code == 2
        assert chinese(refused.err)
    done = ends_well(warm_bimo("run", "notes", "--out", "model", *RUN, cwd=home, BIMO_LANGUAGE="zh"))
    assert all(chinese(line) or "bimo" in line for line in done.err.splitlines()), done.err


def test_help_is_chinese_as_well(home):
    done = ends_well(bimo("run", "--help", cwd=home, BIMO_LANGUAGE="zh"))
    assert chinese(done.out)


def test_an_export_is_what_was_trained_or_is_refused(story, tmp_path):
    folder, _ = story
    command = ("export", folder / "model", "--to", "gguf", "--out", tmp_path / "model.gguf")
    done = ends_well(warm_bimo(*command, "--weights", "int8", cwd=tmp_path))
    assert "model.gguf: Q8_0" in done.out
    assert re.search(r"bits per byte in float32, \d+\.\d{4} as written", done.out)
    facts = pure_json(warm_bimo(*command, "--check", "--json", cwd=tmp_path))
    assert facts["comparison"]["equal_ids"] == facts["comparison"]["prompts"] > 0
    raw = bytearray((tmp_path / "model.gguf").read_bytes())
    raw[-100] ^= 1
    (tmp_path / "model.gguf").write_bytes(raw)
    done = warm_bimo(*command, "--check", cwd=tmp_path)
    assert done.code == 1
    assert re.search(r"is not .* as Q8_0: 1 tensors hold other numbers, first norm\.", done.err)
    assert "Traceback" not in done.err


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself(home, verb):
    done = ends_well(warm_bimo(verb, "--help", cwd=home))
    assert f"Usage: bimo {verb}" in done.out
    assert done.err == ""
    assert "--" in done.out


def test_help_names_every_verb_in_the_order_of_the_work(home):
    done = ends_well(bimo("--help", cwd=home))
    places = [re.search(rf"^\s+{verb}\s", done.out, re.MULTILINE) for verb in ("prepare", "train", "evaluate")]
    assert None not in places
    assert all(re.search(rf"^\s+{verb}\s", done.out, re.MULTILINE) for verb in VERBS)
    nothing = warm_bimo(cwd=home)
    assert nothing.code == 2
    assert "Usage: bimo" in nothing.out + nothing.err


def test_help_loads_none_of_the_heavy_libraries(home):
    code = (
        "import sys\nsys.argv = ['bimo', '--help']\n"
        "from bimo.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "print(sorted({'torch', 'numpy', 'pyarrow', 'tokenizers', 'rich'} & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([ENTRY[0], "-c", code], env=ENVIRONMENT, capture_output=True, text=True, check=True)
    assert done.stderr == "[]\n"


def interrupt(process: subprocess.Popen[str], number: int, metrics: Path, *, step: int = 3) -> Done:
    """Send a signal once the training has done some steps."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        if any(event["step"] >= step for event in read_metrics(metrics)):
            break
        time.sleep(0.01)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    return Done(process.returncode, out, err)


LONG = ("--config", "run.toml", "--set", "train.steps=4000", "--set", "train.batch=32")


def test_an_interrupted_training_says_how_to_continue(steps, home, tmp_path):
    out = tmp_path / "model"
    process = start("train", "data", "--out", out, *LONG, cwd=home)
    done = interrupt(process, signal.SIGINT, out / "bimo" / "metrics.jsonl")
    assert done.code == 5
    assert "Traceback" not in done.err
    assert re.search(r"bimo: Interrupted at step \d+; all is saved\. Continue with: bimo train data --out", done.err)
    checkpoints = [path.name for path in (out / "bimo" / "checkpoints").iterdir()]
    step = int(re.search(r"at step (\d+)", done.err)[1])
    assert f"step-{step:08d}" in checkpoints
    command = done.err.split("Continue with: ")[1].split()
    assert command[:2] == ["bimo", "train"]
    process = start(*command[1:], cwd=home)
    done = interrupt(process, signal.SIGTERM, out / "bimo" / "metrics.jsonl", step=step + 1)
    assert done.code == 5
    assert f"goes on from step {step:,}" in done.err


@pytest.mark.slow
def test_a_second_signal_leaves_at_once(steps, home, tmp_path):
    """Each step is so large that the first signal is still waiting for its end."""
    out = tmp_path / "model"
    process = start("train", "data", "--out", out, *LONG, "--set", "train.batch=4096", cwd=home)
    deadline = time.monotonic() + 60
    while not (out / "bimo" / "checkpoints").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.5)
    # Python hears the first one between two operations, and two that come before that are one to it.
    while process.poll() is None and time.monotonic() < deadline:
        process.send_signal(signal.SIGINT)
        time.sleep(0.05)
    process.communicate(timeout=5)
    assert process.returncode == -signal.SIGINT


@pytest.mark.slow
def test_an_interruption_before_the_training_is_no_accident_either(home, tmp_path):
    write_stories(tmp_path / "big.txt", 30_000)
    process = start("prepare", tmp_path / "big.txt", "--out", tmp_path / "data", cwd=home)
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("data/*")) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 5, err
    assert "Traceback" not in err
    assert "Continue with: bimo prepare" in err


@pytest.mark.slow
def test_output_that_cannot_be_written_is_an_error_with_a_sentence(home):
    if not Path("/dev/full").exists():
        pytest.skip("there is no /dev/full on this system")
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [*ENTRY, "generate", "model", "The", "--max-tokens", "5"],
            cwd=home,
            env=ENVIRONMENT,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=120,
            check=False,
        )
    assert done.returncode == 4
    assert "The disk is full" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_installed_command_is_the_same_entry(home):
    from importlib.metadata import entry_points

    found = [entry for entry in entry_points(group="console_scripts") if entry.name == "bimo"]
    if not found:
        pytest.skip("bimo is not installed here, only on the path")
    assert found[0].value == "bimo.cli:main"
    assert os.path.basename(ENTRY[0]).startswith("python")
