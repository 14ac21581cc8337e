"""Judging a model on conversations and on preferences: against sums by hand, and the model that was taught them."""

from __future__ import annotations

import gzip
import json
import math
import shutil

import numpy as np
import pytest
import torch

from bimo.console import Console
from bimo.evaluate import dialogue
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
    headed = write_rows(tmp_path / "headed.jsonl", ["header", {"version": 1}, {"prompt": "q", "response": "a"}])
    assert talk_in(headed).__name__ == "evaluate_conversations"
    packed = tmp_path / "packed.jsonl.gz"
    packed.write_bytes(gzip.compress(talks.read_bytes()))
    assert talk_in(packed).__name__ == "evaluate_conversations"
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
    assert facts["bits_per_byte_interval"] is None
    assert "too few texts to say how sure" in evaluation_lines(facts)[0]


def test_long_answers_are_cut_for_people_alone(models, talks, monkeypatch):
    monkeypatch.setattr(dialogue, "MOST_CHARACTERS", 3)
    facts = evaluate(models[0], talks)
    assert facts["samples"][0]["reference"] == "Here."
    assert "in the file: Her…" in evaluation_lines(facts)


def test_preferences_are_told_by_likelihood_and_by_what_was_gained(models, duels):
    facts = evaluate(models[0], duels, against=models[1])
    by_token, gained, longer = ([], []), [], []
    for asked, *answers in DUELS:
        talks = [[("user", asked), ("assistant", answer)] for answer in answers]
        nats = np.array([[answer_nats(folder, talk) for talk in talks] for folder in models])
        lengths = [sum(load(models[0]).chat.last_lesson(messages(talk)).counted) for talk in talks]
        for own, each in zip(by_token, nats, strict=True):
            own.append(each[0] / lengths[0] < each[1] / lengths[1])
        longer.append(0.5 if lengths[0] == lengths[1] else lengths[0] > lengths[1])
        gained.append(nats[1][0] - nats[0][0] > nats[1][1] - nats[0][1])
    assert facts["likelier"] == pytest.approx(np.mean(by_token[0]))
    assert facts["against"]["likelier"] == pytest.approx(np.mean(by_token[1]))
    assert facts["against"]["reward_accuracy"] == pytest.approx(np.mean(gained))
    assert facts["longer"] == pytest.approx(np.mean(longer))
    low, high = facts["against"]["difference_interval"]
    assert low <= facts["likelier"] - facts["against"]["likelier"] <= high
    assert f"{facts['likelier']:.1%} of 3 pairs" in evaluation_lines(facts)[0]
    assert f"{facts['against']['reward_accuracy']:.1%} (" in evaluation_lines(facts)[2]


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


ONLY_THE_LAST = (
    "{% for m in messages %}{% if loop.last or m.role != 'assistant' %}{{ m.content + eos_token }}{% endif %}"
    "{% if loop.last and add_generation_prompt %}{{ '' }}{% endif %}{% endfor %}"
)
"""Earlier answers are left out, so that each is a lesson of its own; without a message nothing is asked for."""


def with_template(folder, tmp_path, template):
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    (copy / "chat_template.jinja").write_text(template)
    return copy


def test_answers_that_are_laid_out_one_by_one_are_summed(models, talks, tmp_path):
    folder = with_template(models[0], tmp_path, ONLY_THE_LAST)
    assert [len(load(folder).chat.lessons(messages(talk))) for talk in TALKS] == [1, 2, 1]
    facts = evaluate(folder, talks)
    nats = sum(answer_nats(folder, talk) for talk in TALKS)
    assert facts["bits_per_byte"] == pytest.approx(nats / facts["answer_bytes"] / math.log(2), rel=1e-5)


def test_a_conversation_may_begin_with_an_answer(models, tmp_path):
    """There is nothing to show an answer to, but the answers are measured; and whoever asks for one gets it."""
    folder = with_template(models[0], tmp_path, ONLY_THE_LAST)
    talk = [("assistant", "Hi."), *TALKS[0]]
    facts = evaluate(folder, write_rows(tmp_path / "a.jsonl", [{"messages": messages(talk)}]))
    assert (facts["conversations"], facts["samples"]) == (1, [])
    assert isinstance("".join(load(folder).reply([], max_tokens=3)), str)


def test_answers_that_templates_change_are_not_compared(models, talks, tmp_path):
    """Bytes are those that the model was asked for, not those of the file."""
    folder = with_template(models[0], tmp_path, "{% for m in messages %}{{ m.content[-3:] + eos_token }}{% endfor %}")
    assert evaluate(folder, talks)["answer_bytes"] < evaluate(models[0], talks)["answer_bytes"]
    nothing = with_template(folder, tmp_path / "nothing", "{% for m in messages %}{{ eos_token }}{% endfor %}")
    with pytest.raises(UserError, match="an answer is left out by the chat template"):
        evaluate(nothing, talks)
    with pytest.raises(UserError, match="the chat templates of the two models change its answers differently"):
        evaluate(folder, talks, against=models[0])


def test_a_file_that_was_learned_from_is_told(models, talks, tmp_path):
    said = []
    console = Console(quiet=True)
    console.warn = said.append
    tune(models[0], talks, out=tmp_path / "adapter", settings=TuneConfig(lora=LoRAConfig(), epochs=1))
    evaluate(models[0], talks, console=console)
    assert said == []
    evaluate(models[0], talks, adapter=tmp_path / "adapter", console=console)
    assert said == [f"{tmp_path / 'adapter'} learned from this very file, so it knows the answers."]


def test_conversations_that_do_not_fit_are_left_out(models, tmp_path):
    talks = [TALKS[0], [("user", "word " * 400), ("assistant", "yes")]]
    facts = evaluate(models[0], write_rows(tmp_path / "a.jsonl", [{"messages": messages(talk)} for talk in talks]))
    assert (facts["conversations"], facts["left_out"]) == (1, 1)
    with pytest.raises(UserError, match="because: it is longer than the 128 tokens that a model reads") as raised:
        evaluate(models[0], write_rows(tmp_path / "b.jsonl", [{"messages": messages(talks[1])}]))
    assert raised.value.code == DATA_REFUSED


def test_an_adapter_has_no_place_in_a_classifier(tmp_path):
    rows = [{"text": f"{word} {number}", "label": word} for word in ("good", "bad") for number in range(10)]
    path = write_rows(tmp_path / "rows.jsonl", rows)
    tune(None, path, out=tmp_path / "model", task="classify", engine="linear")
    with pytest.raises(UserError, match="--adapter") as raised:
        evaluate(tmp_path / "model", path, adapter=tmp_path)
    assert raised.value.code == USAGE
