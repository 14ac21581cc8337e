"""Conversations in the forms that people have, row by row; what is none is refused with its number and the reason."""

from __future__ import annotations

import gzip
import json

import pytest

from bimo.runtime import UserError
from bimo.text.conversations import read_conversations

PAIR = [{"role": "user", "content": "你好"}, {"role": "assistant", "content": "Hello!"}]

FORMS = {
    "messages": {"messages": PAIR},
    "messages, turn by turn": {"messages": [{"message": "你好"}, {"message": "Hello!"}]},
    "messages, as texts": {"messages": ["你好", "Hello!"]},
    "messages, spelled in JSON": {"messages": json.dumps(PAIR)},
    "ShareGPT": {"conversations": [{"from": "human", "value": "你好"}, {"from": "gpt", "value": "Hello!"}]},
    "alpaca": {"instruction": "你好", "input": "", "output": "Hello!"},
    "prompt/response": {"prompt": "你好", "response": "Hello!"},
    "question/answer": {"question": "你好", "answer": "Hello!"},
}


def write(path, rows):
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.mark.parametrize("name", FORMS)
def test_every_form_means_the_same(name, tmp_path):
    found = read_conversations(write(tmp_path / "a.jsonl", [FORMS[name]]))
    assert [list(conversation.messages) for conversation in found.kept] == [PAIR]
    assert list(found.forms) == [name.split(",")[0]]
    assert found.describe() == f"1 conversations in the form of {name.split(',')[0]}"


@pytest.mark.parametrize(
    ("asked", "answer"), [("instruction", "output"), ("query", "response"), ("prompt", "response")]
)
def test_rows_with_input_system_and_history(asked, answer, tmp_path):
    row = {asked: "Add", "input": "1 2", answer: "3", "system": "You add.", "history": [["Hi", "Ho"]]}
    (conversation,) = read_conversations(write(tmp_path / "a.jsonl", [row])).kept
    assert [(message["role"], message["content"]) for message in conversation.messages] == [
        ("system", "You add."),
        ("user", "Hi"),
        ("assistant", "Ho"),
        ("user", "Add\n1 2"),
        ("assistant", "3"),
    ]


def test_sharegpt_with_system_and_tools(tmp_path):
    turns = [("system", "s"), ("human", "u"), ("function_call", "f"), ("observation", "o"), ("gpt", "a")]
    row = {"conversations": [{"from": who, "value": what} for who, what in turns if who != "function_call"]}
    (conversation,) = read_conversations(write(tmp_path / "a.jsonl", [row])).kept
    assert [message["role"] for message in conversation.messages] == ["system", "user", "tool", "assistant"]


def test_a_list_in_json_packed(tmp_path):
    path = tmp_path / "a.json.gz"
    path.write_bytes(gzip.compress(json.dumps(list(FORMS.values()), indent=1).encode("utf-16")))
    found = read_conversations(path)
    assert len(found.kept) == len(FORMS)
    assert [conversation.row for conversation in found.kept] == list(range(1, len(FORMS) + 1))
    assert found.forms["messages"] == 4


BROKEN = (
    ("it is not an object", [1]),
    ("it has none of the keys that hold conversations", {"text": "x"}),
    ("no answer of the assistant is in it", {"messages": PAIR[:1]}),
    ("message 2 is an empty answer", {"messages": [PAIR[0], {"role": "assistant", "content": " "}]}),
    ("message 1 is of 'narrator'", {"messages": [{"role": "narrator", "content": "x"}, PAIR[1]]}),
    ("message 2 has no text", {"messages": [PAIR[0], {"role": "assistant", "content": None}]}),
    ("message 1 is not an object", {"messages": [3]}),
    ("message 2 holds half a character", {"messages": [PAIR[0], {"role": "assistant", "content": "\ud800"}]}),
    ("its history is not made of pairs", {"instruction": "x", "output": "y", "history": [["a"]]}),
    ("the text of assistant is no text", {"prompt": "x", "response": ["y"]}),
    ("the text of user is no text", {"instruction": ["a"], "output": "b"}),
    ("the text of user is no text", {"instruction": "x", "output": "y", "history": [[1, "a"]]}),
    ("its messages are a text and no list", {"messages": "你好吗？我很好"}),
    ("its conversations are a text and no list", {"conversations": '["cut'}),
)


@pytest.mark.parametrize(("reason", "row"), BROKEN)
def test_rows_that_are_none_are_refused_with_their_number(reason, row, tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in (FORMS["alpaca"], row, FORMS["alpaca"])))
    found = read_conversations(path)
    assert [conversation.row for conversation in found.kept] == [1, 3]
    assert [str(rejected) for rejected in found.refused] == [f"a.jsonl:2 {reason}"]


def test_an_instruction_that_is_a_list_is_refused_and_the_rows_below_it_are_read(tmp_path):
    rows = [{"instruction": ["a"], "output": "b"}, FORMS["alpaca"]]
    found = read_conversations(write(tmp_path / "a.jsonl", rows))
    assert [conversation.row for conversation in found.kept] == [2]
    assert [str(rejected) for rejected in found.refused] == ["a.jsonl:1 the text of user is no text"]


def test_a_row_that_is_no_json_does_not_hide_the_others(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(FORMS["alpaca"]) + '\n{"prompt": \n' + json.dumps(FORMS["alpaca"]) + "\n")
    found = read_conversations(path)
    assert (len(found.kept), [rejected.line for rejected in found.refused]) == (2, [2])


def test_a_file_without_any_says_why(tmp_path):
    with pytest.raises(UserError, match=r"There is no conversation in .*a.jsonl:1 it has none of the keys"):
        read_conversations(write(tmp_path / "a.jsonl", [{"text": "x"}]))
    with pytest.raises(UserError, match="There is no conversation"):
        read_conversations(write(tmp_path / "b.json", []))
    with pytest.raises(UserError, match="There is no file"):
        read_conversations(tmp_path / "c.jsonl")
    (tmp_path / "d.csv").write_text("a,b\n")
    with pytest.raises(UserError, match=r"is neither JSON nor JSON Lines: Bimo reads such files from .jsonl"):
        read_conversations(tmp_path / "d.csv")


@pytest.mark.parametrize(
    ("name", "rows", "form"),
    [
        ("instruct/llamafactory_demo/alpaca_zh_demo.json", 1000, "alpaca"),
        ("instruct/llamafactory_demo/alpaca_en_demo.json", 999, "alpaca"),
        ("instruct/llms_from_scratch/instruction-data.json", 1100, "alpaca"),
        ("dialogue/kdconv/film_test.json", 150, "messages"),
    ],
)
def test_real_files(name, rows, form, shared_data):
    found = read_conversations(shared_data / name)
    assert (len(found.kept), dict(found.forms), found.refused) == (rows, {form: rows}, [])
