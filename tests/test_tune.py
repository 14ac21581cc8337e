"""Tuning on conversations: answers alone count, the base stays, a run that was stopped ends as if it had not been."""

from __future__ import annotations

import json
import re
import shutil
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch

from bimo.cli import talking
from bimo.export.source import open_source
from bimo.files import digest_file, read_json, write_json
from bimo.generate.engine import load
from bimo.generate.sample import Sampling
from bimo.models.lora import LoRAConfig
from bimo.report.tuning_report import write_tuning_report
from bimo.runtime import DATA_REFUSED, INTERRUPTED, UserError
from bimo.tasks.chat.conversation import Conversation, read_messages
from bimo.tasks.chat.tuning import _split
from bimo.tasks.tune import tune, tune_lines
from bimo.text.conversations import read_conversations
from bimo.tokens.chat import PLAIN, ChatFormat, Lesson
from bimo.train import tune as train_tune
from bimo.train.lessons import MOST_TOKENS, Answers, LessonBatches
from bimo.train.losses import IGNORED, answer_loss
from bimo.train.tune import TuneConfig
from bimo.weights.adapters import load_adapter
from bimo.weights.huggingface import load_model, save_model
from bimo.weights.opening import open_model

pytestmark = pytest.mark.usefixtures("one_number_format")

LORA = TuneConfig(lora=LoRAConfig(rank=4, alpha=8.0), epochs=3, batch=4, rate=0.03, validations=1)
FULL = replace(LORA, lora=None, rate=0.005)
GREEDY = Sampling(temperature=0.0)


@pytest.fixture(scope="module")
def place(tmp_path_factory, make_model, tiny_tokenizer):
    """A folder with a small `model` and `talk.jsonl`: forty conversations that are all alike."""
    folder = tmp_path_factory.mktemp("tuning")
    model = make_model(vocabulary=tiny_tokenizer.vocabulary, context=64)
    save_model(folder / "model", model, end=tiny_tokenizer.end)
    tiny_tokenizer.save(folder / "model")
    rows = [{"instruction": f"say {number}", "output": f"it is {number}"} for number in range(40)]
    (folder / "talk.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture(scope="module")
def tuned(place):
    """The adapter's folder, and the facts of the tuning."""
    return place / "adapter", tune(place / "model", place / "talk.jsonl", out=place / "adapter", settings=LORA)


def held_out(facts, when, measure="loss"):
    return facts["held_out"][when][measure]


def loss_of(model, lessons, batch=1):
    return Answers(lessons, held_out_bytes=1, batch=batch).validate(model)["loss"]


def lessons_of(lengths):
    return [Lesson(list(range(1, length + 1)), [False, *[True] * (length - 1)]) for length in lengths]


def test_every_lesson_comes_once_an_epoch_in_another_order():
    batches = LessonBatches(lessons_of(range(2, 40)), batch=4, seed=1)
    steps = range(batches.steps_per_epoch)
    epochs = [[batches.at(epoch * len(steps) + step) for step in steps] for epoch in (0, 1)]
    for epoch in epochs:
        lengths = sorted(int((row != IGNORED).sum()) for _, targets in epoch for row in targets)
        assert lengths == list(range(1, 39))
    assert [targets.shape for _, targets in epochs[0]] != [targets.shape for _, targets in epochs[1]]
    again = LessonBatches(lessons_of(range(2, 40)), batch=4, seed=1)
    assert all(np.array_equal(again.at(3)[part], batches.at(3)[part]) for part in (0, 1))


def test_batches_are_bounded_by_tokens():
    batches = LessonBatches(lessons_of([MOST_TOKENS // 3] * 7 + [5] * 9 + [2 * MOST_TOKENS]), batch=8, seed=0)
    sizes = [ids.size for ids, _ in batches]
    assert sum(size > MOST_TOKENS for size in sizes) == 1  # one lesson alone may be longer
    assert max(len(ids) for ids, _ in batches) == 8


def test_targets_are_the_ids_that_count_one_place_on():
    lesson = Lesson([5, 6, 7, 8], [False, False, True, True])
    ids, targets = next(iter(LessonBatches([lesson, Lesson([1, 2], [False, True])], batch=2, seed=0)))
    assert ids.tolist() == [[1, 0, 0], [5, 6, 7]]
    assert targets.tolist() == [[2, IGNORED, IGNORED], [IGNORED, 7, 8]]


def test_the_loss_is_that_of_the_answers_whoever_shares_the_batch(make_model):
    """The slow twin reads one conversation at a time and takes every logit."""
    model = make_model(context=64)
    lessons = lessons_of([5, 9, 17])
    together, counted = answer_loss(model, LessonBatches(lessons, batch=3, seed=0).at(0))
    total = 0.0
    for lesson in lessons:
        logits = model(torch.tensor([lesson.ids[:-1]]))[0]
        total += torch.nn.functional.cross_entropy(logits, torch.tensor(lesson.ids[1:]), reduction="sum").item()
    assert counted == 4 + 8 + 16
    assert together.item() == pytest.approx(total / counted, rel=1e-5)
    assert loss_of(model, lessons, batch=2) == pytest.approx(total / counted, rel=1e-5)


def test_an_adapter_learns_and_the_base_stays(place, tuned):
    folder, facts = tuned
    assert held_out(facts, "after") < 0.7 * held_out(facts, "before")
    assert held_out(facts, "after", "bits_per_byte") < 0.7 * held_out(facts, "before", "bits_per_byte")
    assert facts["base"]["before"] == facts["base"]["after"]
    assert facts["base"]["after"] == {"model.safetensors": digest_file(place / "model" / "model.safetensors")}
    assert facts["conversations"] == {"train": 36, "held_out": 4, "cut": 0, "refused": 0}
    assert facts["forms"] == {"alpaca": 40}
    assert facts == read_json(folder / "bimo" / "tune.json")
    assert (folder / "chat_template.jinja").read_text() == PLAIN
    assert not (folder / "bimo" / "checkpoints").exists()
    adapter = load_adapter(folder, load_model(place / "model").config)
    assert facts["trained_parameters"] == adapter.parameters
    assert facts["answers"]["wins"] == facts["answers"]["answers"] == 4
    assert facts["general"] is None
    page = (folder / "bimo" / "report.html").read_text()
    assert all(word in page for word in ("Before and after", "4 of 4 became likelier", "say ", "<svg"))
    text = "\n".join(tune_lines(facts))
    assert "The base model's files are unchanged." in text
    assert facts["samples"][0]["reference"].startswith("it is")


@pytest.mark.parametrize(
    ("low", "answers", "expected"),
    [(0.1, 9, "never saw better:"), (-0.1, 9, "may be chance"), (0.1, 2, "may be chance")],
)
def test_a_gain_is_claimed_where_it_is_more_than_chance(tuned, tmp_path, low, answers, expected):
    facts = tuned[1]
    own = facts["answers"] | {"answers": answers, "gain_interval": [low, 0.2]}
    write_json(tmp_path / "bimo" / "tune.json", facts | {"answers": own})
    page = write_tuning_report(tmp_path).read_text(encoding="utf-8")
    assert expected in page
    assert "also chose the step" in page


def test_an_adapter_is_not_used_on_a_base_that_was_trained_again(place, tuned, tmp_path):
    base = shutil.copytree(place / "model", tmp_path / "model")
    digest = digest_file(base / "model.safetensors")
    write_json(base / "bimo" / "manifest.json", {"outputs": {"model.safetensors": digest}})
    assert load(base, adapter=tuned[0])
    assert open_source(base, adapter=tuned[0])
    write_json(base / "bimo" / "manifest.json", {"outputs": {"model.safetensors": "other"}})
    for use in (load, open_source):
        with pytest.raises(UserError, match="was learned on other weights than"):
            use(base, adapter=tuned[0])


def test_a_report_says_nothing_of_people(tuned, tmp_path):
    facts = tuned[1]
    said = {"messages": [{"role": "user", "content": "call 13800138000"}], "reference": "write to a.b@qq.com"}
    write_json(tmp_path / "bimo" / "tune.json", facts | {"samples": [facts["samples"][0] | said]})
    page = write_tuning_report(tmp_path).read_text(encoding="utf-8")
    assert "call [PHONE]" in page
    assert "write to [EMAIL]" in page


def test_what_was_learned_is_what_is_loaded(place, tuned, tiny_tokenizer):
    """The loss that the report gives is that of the files."""
    folder, facts = tuned
    model = load(place / "model", adapter=folder)
    chat = ChatFormat(tiny_tokenizer, PLAIN)
    texts = [{"role": "user", "content": "say 77"}, {"role": "assistant", "content": "it is 77"}]
    loss = loss_of(model.model, chat.lessons(texts))
    plain = loss_of(load_model(place / "model"), chat.lessons(texts))
    assert loss < 0.7 * plain
    assert facts["samples"][0]["after"] == "".join(
        model.reply(facts["samples"][0]["messages"], max_tokens=80, sampling=GREEDY)
    )


def test_a_second_call_finds_it_done_and_another_is_refused(place, tuned):
    folder, facts = tuned
    assert tune(place / "model", place / "talk.jsonl", out=folder, settings=LORA) == facts
    with pytest.raises(UserError, match="made from another model, file or settings"):
        tune(place / "model", place / "talk.jsonl", out=folder, settings=replace(LORA, seed=1))


def test_an_interrupted_tuning_ends_with_the_same_numbers(place, tuned, tmp_path, monkeypatch):
    folder, facts = tuned
    out = tmp_path / "adapter"

    def stop(self, trainer, step_facts):
        if trainer.progress.step in (4, 17):
            trainer._stop_asked.set()

    with monkeypatch.context() as patch:
        patch.setattr(train_tune.Tuning, "_log", stop)
        for _ in range(2):
            with pytest.raises(UserError, match="all is saved") as caught:
                tune(place / "model", place / "talk.jsonl", out=out, settings=LORA)
            assert caught.value.code == INTERRUPTED
    again = tune(place / "model", place / "talk.jsonl", out=out, settings=LORA)
    assert again["resumed"] == 2
    assert again["held_out"] == facts["held_out"]
    assert digest_file(out / "adapter_model.safetensors") == digest_file(folder / "adapter_model.safetensors")


def test_all_weights_become_a_model_of_their_own(place):
    out = place / "whole"
    facts = tune(place / "model", place / "talk.jsonl", out=out, settings=FULL)
    assert facts["trained_parameters"] == facts["parameters"]
    assert held_out(facts, "after") < 0.7 * held_out(facts, "before")
    assert facts["base"]["before"] == facts["base"]["after"]
    model = load(out)
    assert model.chat.template.source == PLAIN
    assert (
        "".join(model.reply(facts["samples"][0]["messages"], max_tokens=80, sampling=GREEDY))
        == (facts["samples"][0]["after"])
    )


def test_rows_that_cannot_be_used_are_set_aside_with_their_numbers(place, tmp_path):
    long = {"instruction": "word " * 400, "output": "too far away"}
    rows = [{"prompt": f"{number}", "response": "yes"} for number in range(4)]
    rows[2:2] = [rows[1], {"text": "none"}, long]
    path = tmp_path / "talk.json"
    write_json(path, rows)
    facts = tune(place / "model", path, out=tmp_path / "out", settings=replace(LORA, epochs=1))
    assert facts["conversations"] == {"train": 3, "held_out": 1, "cut": 0, "refused": 3}
    lines = (tmp_path / "out" / "bimo" / "refused.jsonl").read_text().splitlines()
    assert {entry["row"]: entry["reason"] for entry in map(json.loads, lines)} == {
        3: "the same text was there before",
        4: "it has none of the keys that hold conversations",
        5: "its answers begin after 64 tokens",
    }


def test_conversations_that_begin_alike_are_on_one_side(place, tmp_path):
    """Several answers to a question, and a dialogue stored as its growing beginnings."""
    rows = [{"prompt": f"Question {number}?", "response": f"Yes, {turn}."} for number in range(20) for turn in "ab"]
    talk = [{"role": ("user", "assistant")[turn % 2], "content": f"Turn {turn}."} for turn in range(8)]
    rows += [{"messages": talk[:length]} for length in (2, 4, 6, 8)]
    write_json(tmp_path / "talk.json", rows)
    found = read_conversations(tmp_path / "talk.json")
    opened = open_model(place / "model", device=torch.device("cpu"))
    for seed in range(5):
        split = _split(found, opened, replace(LORA, context=64, seed=seed))
        assert split.counts["train"] + split.counts["held_out"] == len(rows)
        sides = [
            {re.search(r"Question \d+|Turn 0", opened.tokenizer.decode(lesson.ids))[0] for lesson in side}
            for side in (split.train, split.held_out)
        ]
        assert not set.intersection(*sides)
    same = [{"prompt": "Hi", "response": f"Ho {number}"} for number in range(10)]
    write_json(tmp_path / "same.json", same)
    split = _split(read_conversations(tmp_path / "same.json"), opened, replace(LORA, context=64))
    assert (split.counts["train"], split.counts["held_out"]) == (9, 1)


def test_what_will_not_do_is_refused_with_a_sentence(place, tmp_path):
    model, file = place / "model", place / "talk.jsonl"
    with pytest.raises(UserError, match="--task must be one of answer, chat"):
        tune(model, file, out=tmp_path / "a", task="dance")
    with pytest.raises(UserError, match="There is no model folder"):
        tune(tmp_path / "none", file, out=tmp_path / "a")
    with pytest.raises(UserError, match="There is no file"):
        tune(model, tmp_path / "none.jsonl", out=tmp_path / "a")
    with pytest.raises(UserError, match="is not overwritten"):
        tune(model, file, out=model)
    one = tmp_path / "one.jsonl"
    one.write_text('{"prompt": "a", "response": "b"}\n')
    with pytest.raises(UserError, match=r"Two conversations are needed, .* but 1 in .* can be used"):
        tune(model, one, out=tmp_path / "a")
    with pytest.raises(UserError, match="no matrix heart to adapt"):
        tune(model, file, out=tmp_path / "a", settings=replace(LORA, lora=LoRAConfig(targets=("heart",))))
    right = replace(LORA, epochs=0.1, lora=LoRAConfig(targets=("query",)))
    assert tune(model, file, out=tmp_path / "a", settings=right)["steps"] == 1


def test_where_nothing_counts_nothing_is_learned_in_silence(place, tmp_path, monkeypatch):
    """At the door, row by row; and in the loop, should a batch without targets ever come to it."""
    arguments = (place / "model", place / "talk.jsonl")
    with pytest.raises(UserError, match="its answers begin after 2 tokens") as caught:
        tune(*arguments, out=tmp_path / "a", settings=replace(LORA, context=2))
    assert caught.value.code == DATA_REFUSED
    for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "mute").mkdir(exist_ok=True)
        (tmp_path / "mute" / name).write_bytes((place / "model" / name).read_bytes())
    mute = "{% for m in messages %}{% if m.role == 'user' %}{{ m.content }}{% endif %}{% endfor %}"
    (tmp_path / "mute" / "chat_template.jinja").write_text(mute)
    with pytest.raises(UserError, match="leaves out what the assistant says"):
        tune(tmp_path / "mute", place / "talk.jsonl", out=tmp_path / "a", settings=LORA)
    read = LessonBatches.at

    def masked(self, step):
        ids, targets = read(self, step)
        return ids, np.full_like(targets, IGNORED)

    monkeypatch.setattr(LessonBatches, "at", masked)
    with pytest.raises(UserError, match="every label is masked"):
        tune(*arguments, out=tmp_path / "a", settings=LORA)


WRONG = [{"epochs": -1}, {"minutes": -1}, {"rate": -1}, {"batch": -1}, {"context": 1}, {"seed": -1}]


@pytest.mark.parametrize("wrong", WRONG)
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(UserError, match=f"{next(iter(wrong))} must be"):
        TuneConfig(**wrong)


def test_a_conversation_goes_on_and_is_kept(place, tuned, tmp_path):
    model = load(place / "model", adapter=tuned[0])
    path = tmp_path / "talk.json"
    first = Conversation(model, max_tokens=12, sampling=GREEDY, path=path)
    answers = ["".join(first.ask(text)) for text in ("say 3", "say 5")]
    kept = read_messages(path)
    assert [message["content"] for message in kept] == ["say 3", answers[0], "say 5", answers[1]]
    halfway = Conversation(model, kept[:2], max_tokens=12, sampling=GREEDY)
    assert "".join(halfway.ask("say 5")) == answers[1]


def test_what_is_beyond_the_context_is_left_out_from_the_oldest_on(place, tuned):
    model = load(place / "model", adapter=tuned[0])
    conversation = Conversation(model, [{"role": "system", "content": "s"}], max_tokens=8, sampling=GREEDY)
    for number in range(9):
        assert "".join(conversation.ask(f"say {number}")) == conversation.messages[-1]["content"]
    reach = conversation._within_reach([*conversation.messages, {"role": "user", "content": "say 9"}])
    assert len(model.chat.prompt(reach)) <= 64 - 8
    assert [reach[0]["role"], reach[1]["role"], reach[-1]["content"]] == ["system", "user", "say 9"]
    assert len(conversation.messages) == 19
    assert conversation.forgotten == 18 - len(reach) > 0
    assert conversation.unread == 0
    "".join(conversation.ask("say it " * 40))
    asked = model.chat.prompt(conversation._within_reach(conversation.messages[:-1]))
    assert conversation.unread == len(asked) - 64 > 0


def test_an_answer_that_is_cut_short_is_kept_as_far_as_it_went(place, tuned, tmp_path):
    path = tmp_path / "talk.json"
    conversation = Conversation(load(place / "model", adapter=tuned[0]), max_tokens=40, sampling=GREEDY, path=path)
    pieces = conversation.ask("say 3")
    said = next(pieces)
    pieces.close()
    assert [message["content"] for message in read_messages(path)] == ["say 3", said]


def test_the_first_wish_to_stop_lets_the_answer_end_and_the_second_acts_at_once():
    # What runs in the background is born with Ctrl-C ignored.
    found = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with talking._listening() as asked:
            signal.raise_signal(signal.SIGINT)
            assert asked.is_set()
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, found)


def test_only_what_was_kept_is_taken_up(tmp_path):
    half = {"role": "user", "content": "\ud800"}
    for value in ([], {"messages": [{"role": "king", "content": "x"}]}, {"messages": "x"}, {"messages": [half]}):
        write_json(tmp_path / "talk.json", value)
        with pytest.raises(UserError, match="is not a conversation that Bimo kept"):
            read_messages(tmp_path / "talk.json")


def test_conversations_that_the_assistant_opens_are_learned_and_not_shown(place, tmp_path):
    """Before its first words there is nothing to answer to."""
    rows = [{"messages": [{"role": "assistant", "content": f"welcome, number {n}"}]} for n in range(30)]
    (tmp_path / "talk.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = replace(LORA, epochs=0.5)
    facts = tune(place / "model", tmp_path / "talk.jsonl", out=tmp_path / "out", settings=settings)
    assert (facts["samples"], facts["conversations"]["held_out"]) == ([], 3)
    assert tune_lines(facts)
    assert (tmp_path / "out" / "bimo" / "report.html").exists()


def test_any_text_may_be_what_is_watched_besides(place, tmp_path):
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").write_text("The king came back.\n" * 9)
    choices = {"settings": replace(LORA, epochs=0.5), "general": tmp_path / "notes"}
    facts = tune(place / "model", place / "talk.jsonl", out=tmp_path / "out", **choices)
    assert facts["general"]["after"] > 0
