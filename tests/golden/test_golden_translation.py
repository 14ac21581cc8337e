"""What twenty steps on pairs came to, and what was then translated, when the file beside this was last agreed on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import reversing

from bimo.generate.beam import Beams, search
from bimo.models.seq2seq import EncoderDecoder
from bimo.tokens.pairs import PairBatch
from bimo.train.losses import translation_loss
from bimo.train.optim import build_optimizers

GOLDEN = Path(__file__).with_name("translation.json")
TOLERANCE = 2e-3
"""Of a loss. Muon rounds to bfloat16, and processors round in different orders."""


@pytest.fixture(scope="module")
def measured() -> dict[str, list]:
    model = EncoderDecoder(reversing.SHAPE).initialise(0)
    optimizers = build_optimizers(model, muon_rate=0.02, adam_rate=0.01, weight_decay=0.1)
    losses = []
    for step in range(20):
        texts = reversing.sources(64, seed=step)
        pairs = PairBatch(reversing.filled(texts), reversing.filled([reversing.answer(text) for text in texts]))
        loss, _ = translation_loss(model, pairs, smoothing=0.1)
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        losses.append(loss.item())
    random = EncoderDecoder(reversing.SHAPE).initialise(3).eval()
    beams = search(random, reversing.sources(3, seed=9), end=reversing.END, beams=Beams(2, max_tokens=8))
    return {"losses": losses, "beams": [[beam.ids for beam in found] for found in beams]}


@pytest.fixture(scope="module")
def golden(measured: dict[str, list], request: pytest.FixtureRequest) -> dict[str, list]:
    if request.config.getoption("--update-golden"):
        GOLDEN.write_text(json.dumps(measured, indent=1) + "\n")
    return json.loads(GOLDEN.read_text())


def test_the_loss_curve_is_the_agreed_one(measured: dict[str, list], golden: dict[str, list]) -> None:
    assert measured["losses"] == pytest.approx(golden["losses"], rel=TOLERANCE)
    assert measured["losses"][0] == pytest.approx(golden["losses"][0], rel=1e-6)
    assert measured["losses"][-1] < measured["losses"][0]


def test_the_first_beams_are_the_agreed_ones(measured: dict[str, list], golden: dict[str, list]) -> None:
    assert measured["beams"] == golden["beams"]
