"""Feed-forward networks: Bengio's equation by hand, a window that forgets, and the worked example in docs/."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from bimo.models.perceptron import MultiLayerPerceptron, Perceptron, PerceptronConfig
from bimo.runtime import UserError

DOCS = Path(__file__).resolve().parents[1] / "docs"


def random_model(**fields: Any) -> Perceptron:
    """Every weight random, none silent."""
    usual = {"vocabulary": 97, "layers": 2, "width": 24, "embedding_width": 10, "window": 4, "context": 32}
    model = Perceptron(PerceptronConfig(**{**usual, **fields}))
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator) * 0.3)
    return model.eval()


@pytest.mark.parametrize("activation", ["tanh", "relu"])
@pytest.mark.parametrize("direct", [False, True])
def test_it_is_the_equation_of_bengio(direct: bool, activation: str) -> None:
    """y = b + W x + U tanh(d + H x), x the embeddings of the window, one position at a time; before the text: zeros."""
    model = random_model(layers=1, direct=direct, activation=activation)
    ids = torch.randint(97, (3, 9), generator=torch.Generator().manual_seed(0))
    logits = model(ids)
    H, d, b = model.layers[0].weight, model.layers[0].bias, model.head.bias
    U, W = model.head.weight[:, :24], model.head.weight[:, 24:]
    for row in range(3):
        for t in range(9):
            window = [model.embedding.weight[ids[row, s]] if s >= 0 else torch.zeros(10) for s in range(t - 3, t + 1)]
            x = torch.cat(window)
            y = b + U @ getattr(torch, activation)(d + H @ x) + (W @ x if direct else 0)
            torch.testing.assert_close(logits[row, t], y, atol=1e-5, rtol=1e-5)


def test_it_sees_its_window_and_nothing_else() -> None:
    model = random_model()
    ids = torch.randint(97, (1, 12), generator=torch.Generator().manual_seed(0))
    logits = model(ids)
    for changed in range(12):
        other = ids.clone()
        other[0, changed] = (ids[0, changed] + 1) % 97
        differs = (model(other) != logits).any(dim=-1)[0].tolist()
        assert differs == [changed <= t < changed + 4 for t in range(12)]


@pytest.mark.parametrize("fields", [{}, {"direct": True}, {"layers": 1}, {"window": 1, "layers": 3}])
def test_the_formula_counts_every_weight(fields: dict[str, Any]) -> None:
    model = random_model(**fields)
    assert sum(weight.numel() for weight in model.parameters()) == model.config.parameters
    again = [Perceptron(model.config).initialise(3) for _ in range(2)]
    assert all(torch.equal(a, b) for a, b in zip(*(m.parameters() for m in again), strict=True))


def test_dropout_leaves_out_columns_in_training_alone() -> None:
    shape = PerceptronConfig(vocabulary=30, layers=1, width=16, embedding_width=8, window=2, context=8)
    plain, dropping = (Perceptron(shape, dropout=share).initialise(0) for share in (0.0, 0.5))
    ids = torch.randint(30, (2, 8), generator=torch.Generator().manual_seed(0))
    assert torch.equal(plain.eval()(ids), dropping.eval()(ids))
    torch.manual_seed(0)
    left_out = dropping.train().hidden_states(ids) == 0
    assert left_out.any()
    assert (left_out.all(dim=1) == left_out.any(dim=1)).all()


def test_what_cannot_be_is_refused() -> None:
    usual = {"vocabulary": 9, "layers": 1, "width": 8, "embedding_width": 4, "window": 2, "context": 4}
    for name in usual:
        with pytest.raises(UserError, match=f"The model's {name} must be at least 1"):
            PerceptronConfig(**{**usual, name: 0})
    with pytest.raises(UserError, match="activation must be one of tanh, relu, but is 'sign'"):
        PerceptronConfig(**usual, activation="sign")


def test_the_plain_one_is_that_of_torch() -> None:
    model = MultiLayerPerceptron([5, 7, 4, 2])
    first, second, third = model.layers
    theirs = torch.nn.Sequential(first, torch.nn.ReLU(), second, torch.nn.ReLU(), third)
    x = torch.randn(6, 5)
    torch.testing.assert_close(model(x), theirs(x))


def test_it_learns_what_no_single_layer_can() -> None:
    """Exclusive or (Minsky and Papert 1969)."""
    torch.manual_seed(0)
    x = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    y = torch.tensor([[0.0], [1.0], [1.0], [0.0]])
    model = MultiLayerPerceptron([2, 8, 1])
    optimizer = torch.optim.Adam(model.parameters(), lr=0.05)
    for _ in range(200):
        optimizer.zero_grad()
        loss = (model(x) - y).square().mean()
        loss.backward()
        optimizer.step()
    assert loss < 0.01


def test_worked_example_is_what_the_code_computes(tmp_path: Path) -> None:
    copy = tmp_path / "generate_perceptron.py"
    copy.write_text((DOCS / "generate_perceptron.py").read_text(encoding="utf-8"), encoding="utf-8")
    subprocess.run([sys.executable, str(copy)], check=True)
    made = (tmp_path / "perceptron.md").read_text(encoding="utf-8")
    assert made == (DOCS / "perceptron.md").read_text(encoding="utf-8"), "run: python docs/generate_perceptron.py"
