"""Preferences: the forms of files, the loss of DPO against its formula, and a model that learns what is better."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from bimo.files import read_json
from bimo.models.lora import LoRAConfig, adapter_off, attach_adapter, new_adapter
from bimo.runtime import DATA_REFUSED, INTERRUPTED, USAGE, UserError
from bimo.tasks.tune import tune, tune_lines
from bimo.text.conversations import NoConversation
from bimo.text.preferences import preference_in, read_preferences
from bimo.tokens.chat import Lesson
from bimo.train import preferences
from bimo.train import tune as train_tune
from bimo.train.lessons import answer_likelihoods, filled, likelihoods_per_token
from bimo.train.losses import IGNORED, token_losses, token_losses_reference
from bimo.train.preferences import (
    Duel,
    DuelBatches,
    Preferred,
    divergence,
    preference_loss,
    preference_loss_reference,
    told_right,
)
from bimo.train.tune import TuneConfig
from bimo.weights.huggingface import save_model

pytestmark = pytest.mark.usefixtures("one_number_format")

ASKED = [{"role": "user", "content": "q"}]
A, B = ({"role": "assistant", "content": text} for text in "ab")

FORMS = {
    "prompt": {"prompt": "q", "chosen": "a", "rejected": "b"},
    "prompt as messages": {"prompt": ASKED, "chosen": [A], "rejected": [B]},
    "prompt and whole conversations": {"prompt": "q", "chosen": [*ASKED, A], "rejected": [*ASKED, B]},
    "two conversations": {"chosen": [*ASKED, A], "rejected": [*ASKED, B]},
    "LLaMA-Factory": {
        "conversations": [{"from": "human", "value": "q"}],
        "chosen": {"from": "gpt", "value": "a"},
        "rejected": {"from": "gpt", "value": "b"},
    },
    "alpaca": {"instruction": "q", "input": "", "output": "a", "chosen": "a", "rejected": "b"},
    "question": {"question": "q", "chosen": "a", "rejected": "b"},
    "ms-swift": {"messages": [*ASKED, A], "rejected_response": "b"},
    "all spelled in JSON": {"messages": json.dumps(ASKED), "chosen": json.dumps([A]), "rejected": json.dumps([B])},
    "prompt spelled in JSON": {"prompt": json.dumps(ASKED), "chosen": json.dumps([*ASKED, A]), "rejected": "b"},
    "ms-swift, spelled in JSON": {"messages": json.dumps([*ASKED, A]), "rejected_response": "b"},
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_means_the_same(form):
    assert preference_in(FORMS[form])[1] == (ASKED, "a", "b")


def test_system_input_and_history_are_part_of_the_question():
    row = {"instruction": "i", "input": "x", "system": "s", "history": [["h", "r"]], "chosen": "a", "rejected": "b"}
    messages, _, _ = preference_in(row)[1]
    assert [message["content"] for message in messages] == ["s", "h", "r", "i\nx"]
    told = {"prompt": "q", "system": "s", "chosen": [*ASKED, A], "rejected": [*ASKED, B]}
    assert [message["role"] for message in preference_in(told)[1][0]] == ["system", "user"]


def test_json_is_an_answer_like_any():
    for answer in ('[{"from": "Ann", "to": "Bob"}]', "[1, 2]", '[{"role": ["user"]}]'):
        assert preference_in({"prompt": answer, "chosen": answer, "rejected": "b"})[1][1] == answer


BROKEN = [
    ("it is not an object", [1]),
    ("it has none of the keys that hold preferences", {"prompt": "q", "chosen": "a"}),
    ("both answers are the same", {"prompt": "q", "chosen": "a", "rejected": "a"}),
    ("both answers are the same", {"chosen": [*ASKED, A], "rejected": [*ASKED, A]}),
    ("nothing is asked before the answers", {"chosen": "a", "rejected": "b"}),
    ("its messages are a text and no list", {"messages": "x", "rejected_response": "b"}),
    ("nothing is asked before the answers", {"prompt": [*ASKED, A], "chosen": "a", "rejected": "b"}),
    ("message 2 is an empty answer", {"prompt": "q", "chosen": " ", "rejected": "b"}),
    ("the text of user is no text", {"prompt": 1, "chosen": "a", "rejected": "b"}),
    ("the text of user is no text", {"instruction": "q", "input": 5, "chosen": "a", "rejected": "b"}),
    ("the text of assistant is no text", {"prompt": "q", "chosen": None, "rejected": "b"}),
    ("not one message of the assistant", {"prompt": "q", "chosen": [A, *ASKED], "rejected": "b"}),
    ("message 2 holds half a character", {"prompt": "q", "chosen": "\ud800", "rejected": "b"}),
]


@pytest.mark.parametrize(("reason", "row"), BROKEN)
def test_what_is_no_preference_is_refused_with_the_reason(reason, row):
    with pytest.raises(NoConversation, match=reason):
        preference_in(row)


def test_files_as_they_are(shared_data):
    found = read_preferences(shared_data / "instruct" / "llamafactory_demo" / "dpo_zh_demo.json")
    assert found.describe() == "300 preferences in the form of conversations, chosen, rejected"
    assert not found.refused
    found = read_preferences(shared_data / "instruct" / "llms_from_scratch" / "instruction-data-with-preference.json")
    assert (len(found.kept), len(found.refused)) == (1094, 6)
    assert {rejected.detail for rejected in found.refused} == {"both answers are the same"}


def test_the_loss_is_that_of_the_formula():
    """TRL computes -logsigmoid(beta * ((chosen - rejected) - (reference chosen - reference rejected)))."""
    ours, reference = [-10.0, -3.0, -12.0, -2.5], [-11.0, -3.5, -11.5, -2.0]
    # The first pair: 0.1 * ((-10 + 12) - (-11 + 11.5)) = 0.15, so log(1 + exp(-0.15)) = 0.620957.
    # The second: 0.1 * ((-3 + 2.5) - (-3.5 + 2)) = 0.1, so log(1 + exp(-0.1)) = 0.644397.
    loss = preference_loss(torch.tensor(ours), torch.tensor(reference), beta=0.1).item()
    assert loss == pytest.approx((0.620957 + 0.644397) / 2, abs=1e-6)
    pairs = [(ours[i], ours[i + 2], reference[i], reference[i + 2]) for i in (0, 1)]
    slow = [preference_loss_reference(*pair, beta=0.1) for pair in pairs]
    assert loss == pytest.approx(sum(slow) / 2, rel=1e-6)


@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_losses_of_tokens_agree_with_their_twin(with_bias, dtype):
    """Each token counts by its own weight, over several chunks of rows."""
    torch.manual_seed(0)
    targets, counts = torch.randint(31, (1100,)), torch.randn(1100)
    found = []
    for function in (token_losses, token_losses_reference):
        torch.manual_seed(1)
        hidden = torch.randn(1100, 16).to(dtype).requires_grad_()
        weight = torch.randn(31, 16, requires_grad=True)
        bias = torch.randn(31, requires_grad=True) if with_bias else None
        losses = function(hidden, weight, targets, bias)
        (losses * counts).sum().backward()
        gradients = [hidden.grad, weight.grad, *([bias.grad] if bias is not None else [])]
        found.append([losses.detach(), *gradients])
    tolerance = {"rtol": 1e-4, "atol": 1e-4} if dtype == torch.float32 else {"rtol": 0.05, "atol": 0.6}
    for fast, slow in zip(*found, strict=True):
        torch.testing.assert_close(fast.float(), slow.float(), **tolerance)


def lesson(*ids, answer):
    return Lesson(list(ids), [False] * (len(ids) - answer) + [True] * answer)


DUELS = [
    Duel(lesson(1, 2, 3, 4, 5, answer=3), lesson(1, 2, 6, answer=1)),
    Duel(lesson(7, 8, 9, answer=1), lesson(7, 8, 10, 11, 12, 13, answer=4)),
    Duel(lesson(1, 5, answer=1), lesson(1, 6, answer=1)),
]


def test_likelihoods_are_sums_over_answers_alone(make_model):
    """The slow twin reads one lesson at a time and takes every logit."""
    model = make_model()
    lessons = [duel.chosen for duel in DUELS]
    slow = []
    for one in lessons:
        chances = model(torch.tensor([one.ids[:-1]]))[0].log_softmax(dim=-1)
        places = [place for place in range(1, len(one.ids)) if one.counted[place]]
        slow.append(sum(chances[place - 1, one.ids[place]].item() for place in places))
    assert answer_likelihoods(model, *filled(lessons)).tolist() == pytest.approx(slow, rel=1e-5)
    lengths = np.array([3, 1, 1])
    assert likelihoods_per_token(model, lessons) == pytest.approx(np.array(slow) / lengths, rel=1e-5)


def test_every_pair_comes_once_an_epoch_chosen_answers_first():
    batches = DuelBatches(DUELS * 5, batch=4, seed=3)
    pairs = np.concatenate([batches.at(step).pairs for step in range(batches.steps_per_epoch)])
    assert sorted(pairs) == list(range(15))
    batch = DuelBatches(DUELS, batch=3, seed=0).at(0)
    for place, number in enumerate(batch.pairs):
        for row, side in ((place, DUELS[number].chosen), (3 + place, DUELS[number].rejected)):
            assert (batch.targets[row] != IGNORED).sum() == sum(side.counted)
            assert batch.ids[row, : len(side.ids) - 1].tolist() == side.ids[:-1]


def test_a_batch_that_is_read_in_parts_has_the_same_loss_and_gradient(make_model, monkeypatch):
    found = []
    for most in (2048, 10):
        monkeypatch.setattr(preferences, "MOST_TOKENS", most)
        model = make_model()
        objective = Preferred(DUELS, DUELS, beta=0.3, batch=3)
        with torch.no_grad():
            objective._reference.of(model, DuelBatches(DUELS, batch=3, seed=0).at(0))
            for weight in model.parameters():
                weight.add_(0.01)
        loss, _ = objective.loss(model, DuelBatches(DUELS, batch=3, seed=0).at(0))
        loss.backward()
        found.append([loss.detach(), *(weight.grad for weight in model.parameters())])
    for whole, parts in zip(*found, strict=True):
        torch.testing.assert_close(parts, whole, rtol=1e-4, atol=1e-6)


def test_the_reference_is_the_model_without_its_adapter(make_model):
    """The same loss and gradient as with a second copy of the model."""
    torch.manual_seed(0)
    model, copy = make_model(), make_model()
    attach_adapter(model, new_adapter(model, LoRAConfig(rank=2), seed=1))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith("low_rank.up"):
                weight.normal_(std=0.5)
    batches = DuelBatches(DUELS, batch=3, seed=0)
    objective = Preferred(DUELS, DUELS, beta=0.3, batch=2)
    loss, counted = objective.loss(model, batches.at(0))
    batch = batches.at(0)
    wanted = preference_loss(
        answer_likelihoods(model, batch.ids, batch.targets),
        answer_likelihoods(copy, batch.ids, batch.targets).detach(),
        beta=0.3,
    )
    assert counted == 3
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-5)
    assert abs(wanted.item() - math.log(2)) > 0.01
    found = objective.validate(model)
    assert found["loss"] == pytest.approx(wanted.item(), rel=1e-4)
    assert found["margin"] == pytest.approx(found["chosen_reward"] - found["rejected_reward"], abs=1e-5)
    lessons = [duel.chosen for duel in DUELS]
    assert divergence(model, None, lessons) == pytest.approx(divergence(model, copy, lessons), rel=1e-5)
    with adapter_off(model):
        torch.testing.assert_close(model(torch.tensor([[1, 2]])), copy(torch.tensor([[1, 2]])))


def test_divergence_is_that_of_the_formula(make_model):
    model, other = make_model(seed=0), make_model(seed=1)
    one = lesson(1, 2, 3, 4, answer=2)
    p, q = (each(torch.tensor([one.ids[:-1]]))[0, 1:].softmax(dim=-1) for each in (model, other))
    wanted = (p * (p / q).log()).sum(dim=-1).mean().item()
    assert divergence(model, other, [one]) == pytest.approx(wanted, rel=1e-4)
    assert divergence(model, model, [one]) == pytest.approx(0, abs=1e-6)


def test_undecided_pairs_are_right_by_half():
    assert told_right(np.array([[1, 0], [0, 1], [2, 2]])).tolist() == [1, 0, 0.5]


LORA = TuneConfig(lora=LoRAConfig(rank=4, alpha=8.0), epochs=3, batch=4, rate=0.01, validations=1)
FULL = replace(LORA, lora=None, rate=0.002)


@pytest.fixture(scope="module")
def place(tmp_path_factory, make_model, tiny_tokenizer):
    """A folder with a small `model` and `pairs.jsonl`: forty pairs of which one kind of answer is always the better."""
    home = tmp_path_factory.mktemp("preferring")
    save_model(home / "model", make_model(vocabulary=tiny_tokenizer.vocabulary, context=64), end=tiny_tokenizer.end)
    tiny_tokenizer.save(home / "model")
    rows = [{"prompt": f"say {n}", "chosen": f"it is {n}", "rejected": f"no {n} at all"} for n in range(40)]
    (home / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (home / "general.txt").write_text("The weather report says that it will rain tomorrow.\n" * 4)
    return home


@pytest.fixture(scope="module")
def preferred(place):
    """The facts of a tuning with an adapter."""
    return tune(
        place / "model",
        place / "pairs.jsonl",
        out=place / "adapter",
        task="prefer",
        settings=LORA,
        general=place / "general.txt",
    )


def test_a_model_learns_which_answer_is_better(place, preferred):
    facts = preferred
    assert facts["held_out"]["before"]["loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert facts["held_out"]["before"]["accuracy"] == 0.5
    assert facts["held_out"]["after"]["loss"] < 0.4
    assert facts["accuracy"]["share"] == facts["held_out"]["after"]["accuracy"] > 0.8
    assert facts["accuracy"]["longer"] == 0
    assert facts["pairs"] == {"train": 32, "held_out": 8, "cut": 0, "refused": 0}
    assert facts["divergence"] > 0
    assert facts["general"]["name"] == "general.txt"
    assert facts["general"]["before"] != facts["general"]["after"]
    assert facts["base"]["before"] == facts["base"]["after"]
    assert facts == read_json(place / "adapter" / "bimo" / "tune.json")
    assert "50 % is chance, and 0.0% have the longer answer chosen" in tune_lines(facts)[0]
    page = (place / "adapter" / "bimo" / "report.html").read_text()
    assert all(word in page for word in ("Before and after", "Pairs told right", "say ", "<svg"))


def test_all_weights_learn_against_what_they_were(place):
    facts = tune(place / "model", place / "pairs.jsonl", out=place / "whole", task="prefer", settings=FULL)
    assert facts["held_out"]["before"]["loss"] == pytest.approx(math.log(2), abs=1e-6)
    assert facts["held_out"]["after"]["loss"] < 0.4
    assert facts["trained_parameters"] == facts["parameters"]
    assert facts["divergence"] > 0
    assert facts["general"] is None
    assert any("--general FILE" in line for line in tune_lines(facts))


@pytest.mark.parametrize("settings", [LORA, FULL])
def test_an_interrupted_tuning_ends_with_the_same_numbers(place, tmp_path, monkeypatch, settings):
    def stop(self, trainer, step_facts):
        if trainer.progress.step == 5:
            trainer._stop_asked.set()

    arguments = (place / "model", place / "pairs.jsonl")
    options = {"task": "prefer", "settings": replace(settings, epochs=1)}
    whole = tune(*arguments, out=tmp_path / "whole", **options)
    with monkeypatch.context() as patch:
        patch.setattr(train_tune.Tuning, "_log", stop)
        with pytest.raises(UserError) as caught:
            tune(*arguments, out=tmp_path / "parts", **options)
    assert caught.value.code == INTERRUPTED
    parts = tune(*arguments, out=tmp_path / "parts", **options)
    assert parts["resumed"] == 1
    assert parts["held_out"] == whole["held_out"]
    assert parts["divergence"] == whole["divergence"]


def test_a_question_is_never_on_both_sides(place, tmp_path):
    rows = [{"prompt": f"say {n % 5}", "chosen": f"it is {n}", "rejected": f"no {n} at all"} for n in range(20)]
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in [*rows, rows[0]]))
    facts = tune(place / "model", path, out=tmp_path / "out", task="prefer", settings=replace(LORA, epochs=0.2))
    assert facts["pairs"] == {"train": 16, "held_out": 4, "cut": 0, "refused": 1}
    refused = json.loads((tmp_path / "out" / "bimo" / "refused.jsonl").read_text())
    assert (refused["row"], refused["reason"]) == (21, "the same text was there before")


def test_what_will_not_do_is_refused_with_a_sentence(place, tmp_path):
    def refusal(rows, **options):
        path = tmp_path / "pairs.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        with pytest.raises(UserError) as caught:
            tune(place / "model", path, out=tmp_path / "out", **{"task": "prefer", "settings": LORA, **options})
        return str(caught.value), caught.value.code

    pair = {"prompt": "q", "chosen": "a", "rejected": "b"}
    sentence, code = refusal([pair])
    assert "has usable ones of 1" in sentence
    assert code == DATA_REFUSED
    sentence, code = refusal([{**pair, "prompt": "word " * 400}, {**pair, "prompt": "talk " * 400}])
    assert "its answers begin after 64 tokens" in sentence
    same = {"prompt": "q", "chosen": "word " * 99 + "a", "rejected": "word " * 99 + "b"}
    assert "its answers do not differ within 64 tokens" in refusal([same])[0]
    assert "There is no preference in" in refusal([{"prompt": "q"}])[0]
    sentence, code = refusal([pair], engine="linear")
    assert (sentence, code) == ("--engine has no place in this task.", USAGE)
    chat = [{"prompt": f"{n}", "response": "x"} for n in range(3)]
    assert refusal(chat, task="chat", settings=replace(LORA, beta=0.1))[0] == "--beta has no place in this task."
    with pytest.raises(UserError, match="beta must be"):
        TuneConfig(beta=-1)
