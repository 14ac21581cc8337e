"""`bimo tune` and `bimo chat` as a person calls them, on the model of the story."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command import Done, sentence_of, warm_bimo

from bimo.files import digest_file, read_json

TUNE = ("--lora", "--rank", "2", "--epochs", "1", "--target", "query", "--context", "64")
SHORT = ("--max-tokens", "8", "--temperature", "0")


@pytest.fixture(scope="session")
def tuned(home: Path) -> tuple[Path, Done]:
    """The folder of the story with `talk.jsonl` and `adapter`, and what tuning printed."""
    rows = [{"instruction": f"Where is box {number}?", "output": f"In room {number}."} for number in range(20)]
    (home / "talk.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*rows, {"text": "no talk"}]))
    return home, warm_bimo("tune", "model", "talk.jsonl", "--out", "adapter", *TUNE, cwd=home)


def test_tune_says_what_it_read_and_what_came_of_it(tuned):
    home, done = tuned
    assert done.code == 0, done.err
    assert "Read      20 conversations in the form of alpaca" in done.err
    assert "talk.jsonl:21 it has none of the keys that hold conversations" in done.err
    assert "Held-out loss: " in done.out
    assert "The base model's files are unchanged." in done.out
    assert "Bits per byte of general text (held-out text of the model's own data): " in done.out
    assert (home / "adapter" / "bimo" / "report.html").is_file()
    assert {"adapter_config.json", "adapter_model.safetensors", "chat_template.jinja"} <= {
        path.name for path in (home / "adapter").iterdir()
    }


def test_tune_again_finds_it_done_and_prints_json(tuned):
    home, _ = tuned
    before = digest_file(home / "adapter" / "adapter_model.safetensors")
    done = warm_bimo("tune", "model", "talk.jsonl", "--out", "adapter", *TUNE, "--json", "--quiet", cwd=home)
    assert done.code == 0, done.err
    assert json.loads(done.out) == read_json(home / "adapter" / "bimo" / "tune.json")
    assert digest_file(home / "adapter" / "adapter_model.safetensors") == before


def test_preferences_are_learned_and_told(tuned):
    home, _ = tuned
    rows = [{"prompt": f"Box {n}?", "chosen": f"In room {n}.", "rejected": "No idea."} for n in range(10)]
    (home / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*rows, {"prompt": "x"}]))
    done = warm_bimo("tune", "model", "pairs.jsonl", "--task", "prefer", "--out", "preferred", *TUNE, cwd=home)
    assert done.code == 0, done.err
    assert "Read      10 preferences in the form of prompt, chosen, rejected" in done.err
    assert "pairs.jsonl:11 it has none of the keys that hold preferences" in done.err
    assert "Held-out pairs told right: " in done.out
    assert "KL divergence from the model as it was: " in done.out
    assert "Bits per byte of general text (held-out text of the model's own data): " in done.out
    report = (home / "preferred" / "bimo" / "report.html").read_text()
    assert "Which answer is the better one" in report
    answer = warm_bimo("chat", "model", "--adapter", "preferred", *SHORT, cwd=home, given=b"Box 3?\n")
    assert answer.code == 0, answer.err


def test_generate_writes_with_an_adapter(tuned):
    home, _ = tuned
    done = warm_bimo("generate", "model", "The", "--adapter", "adapter", *SHORT, cwd=home)
    assert (done.code, done.out[:3]) == (0, "The"), done.err


def test_a_chat_answers_each_line_and_goes_on_where_it_was_kept(tuned):
    home, _ = tuned
    talk = ("chat", "model", "--adapter", "adapter", "--save", "kept.json", *SHORT)
    first = warm_bimo(*talk, "--system", "Be brief.", cwd=home, given="Where is box 3?\n\n你好\n".encode())
    assert first.code == 0, first.err
    messages = read_json(home / "kept.json")["messages"]
    roles = ["system", *["user", "assistant"] * 2]
    assert [message["role"] for message in messages] == roles
    assert [message["content"] for message in messages[:4:2]] == ["Be brief.", messages[2]["content"]]
    assert first.out == f"{messages[2]['content']}\n{messages[4]['content']}\n"
    second = warm_bimo(*talk, "--json", cwd=home, given=b"And box 4?\n")
    assert "goes on after 5 messages" in second.err
    assert json.loads(second.out) == read_json(home / "kept.json")
    assert [message["role"] for message in json.loads(second.out)["messages"]] == [*roles, "user", "assistant"]


def test_the_same_seed_says_the_same(tuned):
    home, _ = tuned
    options = ("chat", "model", "--max-tokens", "12", "--temperature", "1")
    outs = [warm_bimo(*options, "--seed", seed, cwd=home, given=b"Hello\n").out for seed in ("3", "3", "4")]
    assert outs[0] == outs[1] != outs[2]


def test_what_will_not_do_is_refused_in_one_sentence(tuned, tmp_path):
    home, _ = tuned
    (home / "junk.json").write_text("{}")
    (home / "loop").mkdir(exist_ok=True)
    for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"):
        (home / "loop" / name).write_bytes((home / "model" / name).read_bytes())
    endless = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
    (home / "loop" / "chat_template.jinja").write_text(endless)
    cases = {
        ("chat", "model", "--adapter", "model"): "is not an adapter",
        ("chat", "model", "--save", "junk.json"): "is not a conversation that Bimo kept",
        ("chat", "model", "--max-tokens", "0"): "--max-tokens must be at least 1",
        ("chat", "none"): "There is no model folder none",
        ("chat", "loop"): "The chat template cannot be used: it does not come to an end",
        ("tune", "loop", "talk.jsonl", "--out", "x"): "The chat template cannot be used: it does not come to an end",
        ("tune", "model", "none.jsonl", "--out", "x"): "There is no file none.jsonl",
        (
            "tune",
            "model",
            "talk.jsonl",
            "--out",
            "adapter",
            "--epochs",
            "2",
        ): "made from another model, file or",
        ("tune", "model", "talk.jsonl", "--out", "x", "--task", "sing"): "--task must be one of answer, chat",
        ("tune", "model", "talk.jsonl", "--out", "x", "--lora", "--rank", "0"): "rank must be at least 1",
        ("tune", "model", "talk.jsonl", "--out", "x", "--rank", "4"): "add --lora",
    }
    for arguments, sentence in cases.items():
        done = warm_bimo(*arguments, cwd=home, given=b"hi\n")
        assert done.code not in (0, None), arguments
        assert sentence in sentence_of(done), arguments
    done = warm_bimo("chat", "model", cwd=home, given=b"\xff\xfe\n")
    assert "Line 1 of the input holds bytes that are no text." in done.err
