"""Judging a model on conversations and on preferences: against sums by hand, and the model that was taught them."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

from bimo.evaluate.dialogue import talk_in
from bimo.evaluate.suite import evaluate, evaluation_lines
from bimo.generate.engine import load
from bimo.models.lora import LoRAConfig
from bimo.runtime import DATA_REFUSED, USAGE, UserError
from bimo.tasks.tune import tune
from bimo.train.tune import TuneConfig
from bimo.weights.huggingface import save_model

TALKS = [
    [("user", "Where is the dog?"), ("assistant", "Here.")],
    [("user", "今天天气怎么样？"), ("assistant", "很好。"), ("user", "明天呢？"), ("assistant", "会下雨。")],
    [("system", "Be brief."), ("user", "Sing!"), ("assistant", "La, la.")],
]
DUELS = [("Hello", "good day", "go away"), ("你好", "您好", "走开"), ("Thanks", "a pleasure", "whatever")]


def messages(talk):
    return [{"role": role, "content": content} for role, content in talk]


def write_rows(path, rows):
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def talks(tmp_path):
    return write_rows(tmp_path / "talks.jsonl", [{"messages": messages(talk)} for talk in TALKS])


@pytest.fixture
def duels(tmp_path):
    rows = [{"prompt": asked, "chosen": chosen, "rejected": rejected} for asked, chosen, rejected in DUELS]
    return write_rows(tmp_path / "duels.jsonl", rows)


@pytest.fixture(scope="module")
def models(tmp_path_factory, make_model, tiny_tokenizer):
    """Two of the same shape, with other weights."""
    folders = []
    for seed in (1, 2):
        folders.append(tmp_path_factory.mktemp("models") / f"model{seed}")
        model = make_model(vocabulary=tiny_tokenizer.vocabulary, context=128, seed=seed)
        save_model(folders[-1], model, end=tiny_tokenizer.end)
        tiny_tokenizer.save(folders[-1])
    return folders


@torch.no_grad()
def answer_nats(folder, talk):
    """Of all answers and the tokens that close them, one token after the other."""
    loaded = load(folder)
    total = 0.0
    for lesson in loaded.chat.lessons(messages(talk)):
        for place in range(1, len(lesson.ids)):
            if lesson.counted[place]:
                logits = loaded.model(torch.tensor([lesson.ids[:place]]))[0, -1].double()
                total -= float(logits.log_softmax(0)[lesson.ids[place]])
    return total


def test_files_are_told_by_their_first_row(tmp_path, talks, duels):
    assert talk_in(talks).__name__ == "evaluate_conversations"
    assert talk_in(duels).__name__ == "evaluate_preferences"
    assert talk_in(write_rows(tmp_path / "text.jsonl", [{"text": "a"}])) is None
    assert talk_in(write_rows(tmp_path / "empty.jsonl", [])) is None
    assert talk_in(tmp_path) is None


def test_bits_are_those_of_the_answers_alone(models, talks):
    facts = evaluate(models[0], talks, against=models[1])
    bytes_ = [sum(len(text.encode()) for role, text in talk if role == "assistant") for talk in TALKS]
    nats = np.array([[answer_nats(folder, talk) for talk in TALKS] for folder in models])
    mine, theirs = nats.sum(axis=1) / sum(bytes_) / math.log(2)
    assert facts["bits_per_byte"] == pytest.approx(mine, rel=1e-5)
    assert facts["against"]["bits_per_byte"] == pytest.approx(theirs, rel=1e-5)
    assert facts["against"]["wins"] == (nats[0] < nats[1]).sum()
    assert facts["against"]["wins"] + facts["against"]["losses"] == len(TALKS)
    low, high = facts["against"]["difference_interval"]
    assert low <= mine - theirs <= high
    assert [sample["reference"] for sample in facts["samples"]] == ["Here.", "很好。", "La, la."]
    assert all(len(sample["replies"]) == 2 for sample in facts["samples"])
    assert f"{mine:.4f}" in evaluation_lines(facts)[0]


def test_preferences_are_told_by_likelihood_and_by_what_was_gained(models, duels):
    facts = evaluate(models[0], duels, against=models[1])
    by_token, gained = [], []
    for asked, *answers in DUELS:
        talks = [[("user", asked), ("assistant", answer)] for answer in answers]
        nats = np.array([[answer_nats(folder, talk) for talk in talks] for folder in models])
        lengths = [sum(load(models[0]).chat.last_lesson(messages(talk)).counted) for talk in talks]
        by_token.append(nats[0][0] / lengths[0] < nats[0][1] / lengths[1])
        gained.append(nats[1][0] - nats[0][0] > nats[1][1] - nats[0][1])
    assert facts["likelier"]["share"] == pytest.approx(np.mean(by_token))
    assert facts["against"]["told_right"]["share"] == pytest.approx(np.mean(gained))
    assert facts["pairs"] == 3
    assert "3" in evaluation_lines(facts)[0]


def test_what_a_model_was_taught_it_holds_likelier(models, tmp_path):
    """An adapter is measured on its model, beside the model without it."""
    rows = [{"messages": messages([("user", f"Number {n}?"), ("assistant", "Yes indeed.")])} for n in range(20)]
    talks = write_rows(tmp_path / "yes.jsonl", rows)
    settings = TuneConfig(lora=LoRAConfig(), epochs=4, batch=4, rate=1e-2)
    tune(models[0], talks, out=tmp_path / "adapter", task="chat", settings=settings)
    facts = evaluate(models[0], talks, adapter=tmp_path / "adapter", against=models[0])
    assert facts["bits_per_byte"] < facts["against"]["bits_per_byte"]
    assert facts["against"]["wins"] == len(rows)
    assert facts["against"]["p"] <= 0.001


def test_conversations_that_do_not_fit_are_left_out(models, tmp_path):
    talks = [TALKS[0], [("user", "word " * 400), ("assistant", "yes")]]
    facts = evaluate(models[0], write_rows(tmp_path / "a.jsonl", [{"messages": messages(talk)} for talk in talks]))
    assert (facts["conversations"], facts["too_long"]) == (1, 1)
    with pytest.raises(UserError, match="none fits into 128 tokens") as raised:
        evaluate(models[0], write_rows(tmp_path / "b.jsonl", [{"messages": messages(talks[1])}]))
    assert raised.value.code == DATA_REFUSED


def test_an_adapter_has_no_place_in_a_classifier(tmp_path):
    rows = [{"text": f"{word} {number}", "label": word} for word in ("good", "bad") for number in range(10)]
    path = write_rows(tmp_path / "rows.jsonl", rows)
    tune(None, path, out=tmp_path / "model", task="classify", engine="linear")
    with pytest.raises(UserError, match="--adapter") as raised:
        evaluate(tmp_path / "model", path, adapter=tmp_path)
    assert raised.value.code == USAGE
