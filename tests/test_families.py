"""What every family offers besides the decoder: folders, writing with what is remembered, training that resumes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from stories import write_stories

from bimo.doctor.lines import model_lines
from bimo.doctor.model import examine_model
from bimo.files import read_json
from bimo.generate.batching import Batch, Request
from bimo.generate.engine import LanguageModel, load, write_reference
from bimo.generate.sample import Sampling
from bimo.generate.stepping import TorchSteps
from bimo.models import perceptron, recurrent
from bimo.models.config import load_presets
from bimo.models.families import FAMILIES, LanguageModule, StoredShape, build, family_of
from bimo.models.perceptron import PerceptronConfig
from bimo.models.recurrent import RecurrentConfig
from bimo.models.recurrent_classifier import RecurrentClassifierConfig
from bimo.prepare import prepare
from bimo.runtime import UserError
from bimo.tokens.tokenizer import Tokenizer
from bimo.train.losses import next_token_loss
from bimo.train.pretrain import train
from bimo.train.settings import TrainConfig
from bimo.weights.huggingface import load_encoder, load_model, load_reader, save_encoder, save_model

SHAPES: dict[str, StoredShape] = {
    "lstm": RecurrentConfig(vocabulary=97, layers=2, width=24, context=16),
    "lstm, tied": RecurrentConfig(vocabulary=97, layers=1, width=16, context=16, tied=True),
    "mlp": PerceptronConfig(vocabulary=97, layers=2, width=24, embedding_width=12, window=5, context=16),
    "mlp, direct": PerceptronConfig(97, 1, 24, 12, 3, 16, activation="relu", direct=True),
}
GREEDY = Sampling(0.0)
SAMPLINGS = (GREEDY, Sampling(1.0, top_p=1.0), Sampling(0.9, top_k=30, top_p=0.9, repetition_penalty=1.3))


def random_model(shape: StoredShape) -> Any:
    """Every weight random, none silent."""
    model = build(shape)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator) * 0.4)
    return model.eval()


@pytest.fixture(params=SHAPES)
def model(request: pytest.FixtureRequest) -> LanguageModule:
    return random_model(SHAPES[request.param])


@pytest.mark.parametrize("family", ["decoder", "lstm", "mlp"])
def test_every_preset_is_a_shape_and_they_grow(family: str) -> None:
    shapes = [FAMILIES[family].shape(vocabulary=8000, context=64, **sizes) for sizes in load_presets(family).values()]
    assert [family_of(shape) for shape in shapes] == [family] * len(shapes)
    assert sorted(shape.parameters for shape in shapes) == [shape.parameters for shape in shapes]


BUILD_WITHOUT_MEMORY = """
import sys, torch
from bimo.models.families import FAMILIES, build
from bimo.models.config import load_presets
for name, family in FAMILIES.items():
    sizes = next(iter(load_presets(name).values()))
    with torch.device("meta"):
        model = build(family.shape(vocabulary=97, context=1_000_003, **sizes))
    assert all(buffer.is_meta or buffer.numel() < 1_000_003 for buffer in model.buffers()), name
print("torch._dynamo" in sys.modules)
"""


def test_to_look_at_a_shape_takes_no_compiler() -> None:
    """Every folder that is loaded is looked at so, and torch's compiler would take a second more each time."""
    done = subprocess.run([sys.executable, "-c", BUILD_WITHOUT_MEMORY], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize("family", ["decoder", "lstm", "mlp"])
def test_a_language_model_costs_more_than_its_matrices(family: str) -> None:
    for sizes in load_presets(family).values():
        shape = FAMILIES[family].shape(vocabulary=8000, context=64, **sizes)
        assert shape.training_bytes(8) > 16 * shape.parameters
        assert shape.flops_per_token > 6 * shape.matrix_parameters


def complete_in_company(model: LanguageModule, requests: list[Request], *, positions: int) -> list[list[int]]:
    """Through four slots, coming at random moments."""
    steps = TorchSteps(model)
    steps.reserve(4, positions)
    random = np.random.default_rng(8)
    batch, answers, waiting = Batch(steps), {}, list(requests)
    while waiting or batch.busy:
        for _ in range(int(random.integers(0, 3))):
            if waiting:
                answers[batch.add(waiting.pop(0))] = []
        for written in batch.step():
            answers[written.ticket].append(written.token)
    return list(answers.values())


def test_company_changes_nothing(model: LanguageModule) -> None:
    """Twenty requests, many of them beginning alike, and longer than the context: each gets what it gets alone."""
    random = np.random.default_rng(1)
    known = random.integers(0, 97, 30).tolist()
    requests = [
        Request(
            [*known[: int(random.integers(0, 30))], *random.integers(0, 97, int(random.integers(1, 9))).tolist()],
            int(random.integers(1, 40)),
            SAMPLINGS[number % len(SAMPLINGS)],
            seed=number,
            ends=frozenset([int(random.integers(97))]),
        )
        for number in range(20)
    ]
    assert complete_in_company(model, requests, positions=128) == [write_reference(model, r) for r in requests]


def test_at_the_end_of_its_reach_it_begins_anew_from_half_of_it(
    model: LanguageModule, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (recurrent, perceptron):
        monkeypatch.setattr(module, "REACH", 20)
    requests = [Request([1, 2, 3], 50, GREEDY), Request(list(range(30)), 30, SAMPLINGS[1])]
    assert model.config.reach == 20
    assert complete_in_company(model, requests, positions=20) == [write_reference(model, r) for r in requests]


def test_a_state_is_carried_beyond_the_context(tiny_tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    """All that was written is read as one; begun anew from half a context it would have gone on otherwise."""
    shape = RecurrentConfig(vocabulary=tiny_tokenizer.vocabulary, layers=1, width=32, context=8)
    language_model = LanguageModel(random_model(shape), tiny_tokenizer)
    prompt = tiny_tokenizer.encode("The brush")
    (greedy,) = language_model.answers([Request(prompt, 60, GREEDY)])
    with torch.inference_mode():
        logits = language_model.model(torch.tensor([[*prompt, *greedy]]))[0, len(prompt) - 1 : -1]
    assert greedy == logits.argmax(dim=-1).tolist()
    free = Request(prompt, 60, Sampling(1.0, top_p=1.0))
    (carried,) = language_model.answers([free])
    monkeypatch.setattr(recurrent, "REACH", 8)
    begun_anew = write_reference(language_model.model, free)
    assert begun_anew[: 9 - len(prompt)] == carried[: 9 - len(prompt)]
    assert begun_anew != carried


def test_a_folder_gives_back_what_was_saved(model: LanguageModule, tmp_path: Path) -> None:
    save_model(tmp_path, model, end=3)
    again = load_model(tmp_path)
    assert again.config == model.config
    assert (
        read_json(tmp_path / "config.json")["model_type"]
        == {
            "lstm": "bimo_lstm",
            "mlp": "bimo_mlp",
        }[family_of(model.config)]
    )
    ids = torch.randint(97, (2, 16), generator=torch.Generator().manual_seed(0))
    assert torch.equal(again(ids), model(ids))


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda config: config.pop("width"), "is not complete"),
        (lambda config: config.update(width="24"), "is not complete"),
        (lambda config: config.update(layers=0), "layers must be at least 1"),
        (lambda config: config.update(width=25), "do not fit its config.json"),
        (lambda config: config.update(layers=10**9), "describes 1,000,000,000 layers"),
        (lambda config: config.update(vocab_size=10**9), "do not fit its config.json"),
    ],
)
@pytest.mark.parametrize("name", ["lstm", "mlp"])
def test_a_folder_that_lies_is_refused(
    name: str, spoil: Callable[[dict[str, Any]], None], sentence: str, tmp_path: Path
) -> None:
    save_model(tmp_path, random_model(SHAPES[name]), end=3)
    config = read_json(tmp_path / "config.json")
    spoil(config)
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=sentence):
        load_model(tmp_path)


def test_a_classifier_is_not_asked_to_write_nor_to_encode(tmp_path: Path, tiny_tokenizer: Tokenizer) -> None:
    shape = RecurrentClassifierConfig(tiny_tokenizer.vocabulary, layers=2, width=8, context=16, labels=("好", "坏"))
    model = random_model(shape)
    save_encoder(tmp_path, model, pad=0)
    tiny_tokenizer.save(tmp_path, context=16)
    again = load_reader(tmp_path)
    assert again.config == shape
    ids = torch.arange(10)[None]
    torch.testing.assert_close(again(ids), model(ids))
    for open_it in (load, load_encoder):
        with pytest.raises(UserError, match="holds a classifier: bimo classify"):
            open_it(tmp_path)
    for labels in (["a", 1], "ab", []):
        config = {**read_json(tmp_path / "config.json"), "labels": labels}
        (tmp_path / "config.json").write_text(json.dumps(config))
        with pytest.raises(UserError, match="labels"):
            load_reader(tmp_path)


def test_the_loss_is_that_of_the_logits(model: LanguageModule) -> None:
    windows = torch.randint(97, (3, 17), generator=torch.Generator().manual_seed(0))
    loss, counted = next_token_loss(model, windows.numpy())
    loss.backward()
    ours = {name: weight.grad.clone() for name, weight in model.named_parameters()}
    model.zero_grad()
    plain = torch.nn.functional.cross_entropy(model(windows[:, :-1]).flatten(0, 1), windows[:, 1:].flatten())
    plain.backward()
    assert counted == 48
    torch.testing.assert_close(loss, plain, atol=1e-5, rtol=1e-5)
    for name, weight in model.named_parameters():
        torch.testing.assert_close(ours[name], weight.grad, atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize("name", ["lstm", "mlp"])
def test_the_doctor_knows_what_it_is_good_for(name: str, tmp_path: Path, tiny_tokenizer: Tokenizer) -> None:
    shape = replace(SHAPES[name], vocabulary=tiny_tokenizer.vocabulary)
    save_model(tmp_path, random_model(shape), end=tiny_tokenizer.end)
    tiny_tokenizer.save(tmp_path, context=16)
    facts = examine_model(tmp_path)
    assert facts["problems"] == []
    assert facts["can"] == ["generate", "chat", "evaluate", "embed", "similar", "classify --labels"]
    assert any(f"{shape.parameters:,} parameters: 2 layers, width 24" in line for line in model_lines(facts))


def test_only_decoders_take_adapters(tmp_path: Path, tiny_tokenizer: Tokenizer) -> None:
    save_model(
        tmp_path, random_model(replace(SHAPES["mlp"], vocabulary=tiny_tokenizer.vocabulary)), end=tiny_tokenizer.end
    )
    tiny_tokenizer.save(tmp_path, context=16)
    with pytest.raises(UserError, match="only those learn to converse"):
        load(tmp_path, adapter=tmp_path)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("families")
    prepare([write_stories(folder / "a.txt", 60)], out=folder / "data")
    return folder / "data"


@pytest.mark.parametrize("name", ["lstm", "mlp"])
def test_training_goes_on_where_it_was_interrupted(name: str, data: Path, tmp_path: Path) -> None:
    """With dropout and noise, whose random numbers must go on, too: the same weights to the bit. Then it writes."""
    shape = replace(
        SHAPES[name], vocabulary=read_json(data / "manifest.json")["stages"]["tokenizer"]["facts"]["vocabulary"]
    )
    settings = TrainConfig(
        steps=12, batch=4, validations=4, dropout=0.1, noise=0.1, dtype="float32", device="cpu", adam_rate=0.01
    )

    def stop(model: LanguageModule, tokenizer: Tokenizer) -> str:
        if not stopped:
            stopped.append(True)
            raise KeyboardInterrupt
        return ""

    stopped = [True]
    facts = train(data, out=tmp_path / "whole", model=shape, settings=settings, sampler=stop)
    stopped.clear()
    with pytest.raises(KeyboardInterrupt):
        train(data, out=tmp_path / "halves", model=shape, settings=settings, sampler=stop)
    again = train(data, out=tmp_path / "halves", model=shape, settings=settings, sampler=stop)
    assert again["resumed"] == 1
    assert again["validation_bits_per_byte"] == facts["validation_bits_per_byte"]
    whole, halves = (load_file(tmp_path / out / "model.safetensors") for out in ("whole", "halves"))
    assert whole.keys() == halves.keys()
    assert all(torch.equal(whole[key], halves[key]) for key in whole)
    assert len("".join(load(tmp_path / "whole").generate(max_tokens=30))) > 0
