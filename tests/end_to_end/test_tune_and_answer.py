"""`bimo tune --task answer` and `bimo answer` as a person calls them, on a small random encoder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command import Done, sentence_of, warm_bimo

from bimo.models.encoder import Encoder, EncoderConfig
from bimo.runtime import DATA_REFUSED, USAGE
from bimo.tokens.masking import with_mask_token
from bimo.weights.huggingface import save_encoder

TUNE = ("--task", "answer", "--epochs", "12", "--rate", "0.003")
ROOMS = ("厨房", "花园", "书房", "地下室")


@pytest.fixture(scope="module")
def taught(tmp_path_factory, tiny_tokenizer) -> tuple[Path, Done]:
    """A folder with `encoder`, `questions.json`, `documents` and the model `taught`, and what tuning printed."""
    folder = tmp_path_factory.mktemp("answers")
    tokenizer = with_mask_token(tiny_tokenizer)
    config = EncoderConfig(tokenizer.vocabulary, 2, 48, 4, 96, 64)
    save_encoder(folder / "encoder", Encoder(config).initialise(0), pad=tokenizer.special_id("pad_token"))
    tokenizer.save(folder / "encoder")
    rows = []
    for number in range(48):
        room = ROOMS[number % len(ROOMS)]
        text = f"第{number}号会议在{room}举行。"
        rows.append({"question": f"第{number}号会议在哪里？", "context": text, "answers": [room]})
    rows.append({"question": "谁？", "context": "没有人。", "answers": ["张三"]})
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (folder / "questions.jsonl").write_text(lines, encoding="utf-8")
    (folder / "documents").mkdir()
    (folder / "documents" / "notes.txt").write_text("\n第7号会议在花园举行。\n", encoding="utf-8")
    (folder / "documents" / "other.txt").write_text("Dogs sleep.\n", encoding="utf-8")
    return folder, warm_bimo("tune", "encoder", "questions.jsonl", "--out", "taught", *TUNE, cwd=folder)


def test_tune_says_what_was_set_aside_and_how_well_it_answers(taught):
    folder, done = taught
    assert done.code == 0, done.err
    assert "48 questions on 48 texts in the form of question/context/answers" in done.err
    assert "questions.jsonl:49 its answer '张三' does not stand in its text" in done.err
    assert "Questions on texts not seen: exact match " in done.out
    assert "Where the texts hold no answer, " in done.out
    assert (folder / "taught" / "bimo" / "refused.jsonl").read_text(encoding="utf-8").count("\n") == 1
    assert json.loads((folder / "taught" / "bimo" / "answering.json").read_text())["context"] == 64


def test_answers_have_their_source_and_lines_are_questions(taught):
    folder, _ = taught
    ask = ("answer", "taught", "--from", "documents", "--passages", "1")
    one = warm_bimo(*ask, "第7号会议在哪里？", "--json", cwd=folder)
    assert one.code == 0, one.err
    facts = json.loads(one.out)
    assert facts["nearest"]["text"] == "花园"
    assert facts["nearest"]["passage"] == {"source": "notes.txt", "line": 2, "text": "第7号会议在花园举行。"}
    assert 0 < facts["confidence"] < 1
    asked = "第7号会议在哪里？\n\nelephants\n".encode()
    many = warm_bimo(*ask, cwd=folder, given=b"\xef\xbb\xbf" + asked)
    assert many.code == 0, many.err
    assert "notes.txt:2, confidence" in many.out
    assert many.out.endswith("\n\nThis is not in the documents: nothing in them has to do with it.\n")
    assert "2 passages of 2 files" in many.err
    streamed = warm_bimo(*ask, "--json", cwd=folder, given=asked)
    first, second = map(json.loads, streamed.out.splitlines())
    assert first == facts
    assert (second["question"], second["answer"], second["nearest"]["passage"]) == ("elephants", None, None)


def test_what_will_not_do_is_refused_in_one_sentence(taught):
    folder, _ = taught
    (folder / "empty").mkdir(exist_ok=True)
    (folder / "empty" / "blank.txt").write_text("\n")
    (folder / "list.json").write_text("[]")
    for arguments, code, sentence in (
        (("answer", "taught", "Who?"), USAGE, "name a file or a folder with --from"),
        (("answer", "taught", "", "--from", "documents"), USAGE, "The text that was given is empty."),
        (("embed", "encoder", " "), USAGE, "The text that was given is empty."),
        (("translate", "encoder", ""), USAGE, "The text that was given is empty."),
        (("classify", "encoder", ""), USAGE, "The text that was given is empty."),
        (("classify", "encoder", "--column", "text=body"), USAGE, "has no place without it"),
        (("demo", "--task", "sentiment", "--minutes", "3"), USAGE, "--minutes has no place beside --task sentiment"),
        (("words", "train", "documents", "--out", "."), USAGE, "is no name for what is to be written"),
        (("answer", "encoder", "Who?", "--from", "documents"), USAGE, "was not taught to answer"),
        (("answer", "taught", "Who?", "--from", "empty"), DATA_REFUSED, "There is no text in empty"),
        (("answer", "taught", "Who?", "--from", "nowhere"), USAGE, "There is no file or folder"),
        (("answer", "taught", "Who?", "--from", "documents", "--passages", "0"), USAGE, "must be at least 1"),
        (("tune", "encoder", "list.json", "--out", "no", *TUNE), DATA_REFUSED, "There is no question in list.json"),
        (("tune", "questions.jsonl", "--out", "no", *TUNE), USAGE, "This task tunes a model that exists"),
    ):
        done = warm_bimo(*arguments, cwd=folder)
        assert done.code == code, done.err
        assert sentence in sentence_of(done)
