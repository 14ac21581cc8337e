"""What training and greedy writing came to when this file was last agreed on. A refactoring changes neither.

`pytest tests/golden --update-golden` writes new values; read the difference before you commit it.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from stories import stories
from writing import write

from bimo.generate.sample import Sampling
from bimo.models.config import ModelConfig
from bimo.models.transformer import Decoder
from bimo.tokens.batches import Batches
from bimo.tokens.shards import TokenShards, TokenWriter
from bimo.train.loop import Trainer
from bimo.train.losses import next_token_loss
from bimo.train.optim import build_optimizers

GOLDEN = Path(__file__).with_name("decoder.json")
END = 256
SHAPE = ModelConfig(vocabulary=257, layers=2, width=32, heads=4, kv_heads=2, head_width=8, hidden=64, context=32)
TOLERANCE = 2e-3
"""Of a loss. Muon rounds to bfloat16, and processors round in different orders."""


@pytest.fixture(scope="module")
def measured(tmp_path_factory, make_model):
    """Twenty steps in float32 on the bytes of made-up stories, and what a model with random weights writes."""
    folder = tmp_path_factory.mktemp("golden")
    texts = [*stories(20).strip().split("\n\n"), *stories(10, chinese=True).strip().split("\n\n")]
    with TokenWriter(folder / "tokens", "train", vocabulary=257, end=END) as writer:
        writer.write([list(text.encode()) for text in texts])
    model = Decoder(SHAPE).initialise(0)
    losses: list[float] = []
    norms: list[float] = []
    trainer = Trainer(
        model,
        build_optimizers(model, muon_rate=0.02, adam_rate=0.003, weight_decay=0.1),
        Batches(TokenShards(folder / "tokens", "train"), batch=8, context=32, seed=0),
        objective=next_token_loss,
        folder=folder / "checkpoints",
        steps=20,
        warmup=0.1,
        decay=0.5,
        clip=1.0,
        on_step=[lambda trainer, facts: (losses.append(facts.loss), norms.append(facts.gradient_norm))],
        on_event=lambda event: None,
    )
    trainer.run()
    writer_model = make_model(context=24, seed=3)
    prompts = [[1, 2, 3], [50, 60, 70]]
    greedy = write(writer_model, prompts, max_tokens=40, sampling=Sampling(temperature=0.0), ends=frozenset([0]))
    return {"losses": losses, "gradient_norms": norms, "greedy": greedy}


@pytest.fixture(scope="module")
def golden(measured, request):
    if request.config.getoption("--update-golden"):
        GOLDEN.write_text(json.dumps(measured, indent=1) + "\n")
    return json.loads(GOLDEN.read_text())


def test_the_loss_curve_is_the_agreed_one(measured, golden):
    assert len(measured["losses"]) == 20
    assert measured["losses"] == pytest.approx(golden["losses"], rel=TOLERANCE)


def test_the_first_step_is_the_agreed_one_to_the_last_digits(measured, golden):
    assert measured["losses"][0] == pytest.approx(golden["losses"][0], rel=1e-6)
    assert measured["gradient_norms"][0] == pytest.approx(golden["gradient_norms"][0], rel=1e-4)


def test_the_first_greedy_tokens_are_the_agreed_ones(measured, golden):
    assert measured["greedy"] == golden["greedy"]


def test_something_was_learned(measured):
    assert measured["losses"][-1] < 0.8 * measured["losses"][0]
