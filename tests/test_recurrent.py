"""The recurrent model: equations, torch's kernel and nn.LSTM say the same; states are gone on from; both directions."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bimo.models.recurrent import Recurrent, RecurrentConfig, lstm, lstm_reference
from bimo.models.recurrent_classifier import RecurrentClassifier, RecurrentClassifierConfig, reversed_within
from bimo.runtime import UserError


def randomised(model: Any) -> Any:
    """Every weight random, none silent."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for weight in model.initialise(1).parameters():
            weight.add_(torch.randn(weight.shape, generator=generator), alpha=0.3)
    return model.eval()


def random_model(**fields: Any) -> Recurrent:
    return randomised(
        Recurrent(RecurrentConfig(**{"vocabulary": 97, "layers": 2, "width": 24, "context": 32, **fields}))
    )


def random_classifier(**fields: Any) -> RecurrentClassifier:
    sizes = {"vocabulary": 97, "layers": 2, "width": 24, "context": 32, "labels": ("a", "b", "c"), **fields}
    return randomised(RecurrentClassifier(RecurrentClassifierConfig(**sizes)))


@given(st.integers(1, 6), st.integers(1, 12), st.integers(1, 9), st.integers(1, 9), st.integers(0, 99))
@settings(max_examples=30)
def test_the_kernel_computes_the_equations(B: int, T: int, inputs: int, width: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    shapes = [(B, T, inputs), (4 * width, inputs), (4 * width, width), (4 * width,)]
    given = [torch.randn(shape, generator=generator).requires_grad_() for shape in shapes]
    empty = (torch.zeros(B, width), torch.zeros(B, width))
    fast, slow = lstm(*given), lstm_reference(*given, empty)[0]
    torch.testing.assert_close(fast, slow, atol=1e-6, rtol=1e-5)
    toward = torch.randn(B, T, width, generator=generator)
    pairs = zip(torch.autograd.grad(fast, given, toward), torch.autograd.grad(slow, given, toward), strict=True)
    for ours, theirs in pairs:
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


def test_it_is_the_lstm_of_torch() -> None:
    model = random_model(layers=3)
    theirs = torch.nn.LSTM(24, 24, num_layers=3, batch_first=True)
    copy_into(theirs, model.layers, "")
    ids = torch.randint(97, (5, 11), generator=torch.Generator().manual_seed(0))
    expected, _ = theirs(model.embedding(ids))
    torch.testing.assert_close(model.hidden_states(ids), expected, atol=1e-6, rtol=1e-5)


@torch.no_grad()
def copy_into(theirs: torch.nn.LSTM, layers: torch.nn.ModuleList, direction: str) -> None:
    """The weights of our layers as torch names them, whose second bias is left at nothing."""
    names = {"input": "weight_ih_l{}{}", "recurrent": "weight_hh_l{}{}", "bias": "bias_ih_l{}{}"}
    for number, layer in enumerate(layers):
        for ours, name in names.items():
            theirs.get_parameter(name.format(number, direction)).copy_(layer.get_parameter(ours))
        theirs.get_parameter(f"bias_hh_l{number}{direction}").zero_()


@pytest.mark.parametrize("layers", [1, 3])
def test_the_classifier_is_the_lstm_of_torch_in_both_directions_the_largest_of_each_column_and_a_matrix(
    layers: int,
) -> None:
    model = random_classifier(layers=layers)
    theirs = torch.nn.LSTM(24, 24, num_layers=layers, batch_first=True, bidirectional=True)
    copy_into(theirs, model.layers, "")
    copy_into(theirs, model.backward_layers, "_reverse")
    ids = torch.randint(97, (5, 11), generator=torch.Generator().manual_seed(0))
    hidden, _ = theirs(model.embedding(ids))
    torch.testing.assert_close(model.hidden_states(ids), hidden, atol=1e-6, rtol=1e-5)
    expected = hidden.max(dim=1).values @ model.head.weight.T + model.head.bias
    torch.testing.assert_close(model(ids), expected, atol=1e-5, rtol=1e-5)


def test_what_comes_later_changes_nothing() -> None:
    model = random_model()
    ids = torch.randint(97, (2, 20), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(model(ids[:, :13]), model(ids)[:, :13], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("fields", [{}, {"tied": True}, {"layers": 1}])
def test_the_formula_counts_every_weight(fields: dict[str, Any]) -> None:
    model = random_model(**fields)
    assert sum(weight.numel() for weight in model.parameters()) == model.config.parameters


def test_forget_gates_are_open_at_the_beginning() -> None:
    model = Recurrent(RecurrentConfig(vocabulary=9, layers=2, width=8, context=4)).initialise(0)
    for layer in model.layers:
        i, f, g, o = layer.bias.chunk(4)
        assert (f == 1).all()
        assert not torch.cat([i, g, o]).any()
        torch.testing.assert_close(layer.recurrent.T @ layer.recurrent, torch.eye(8), atol=1e-5, rtol=0)
    again = Recurrent(model.config).initialise(0)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))


@pytest.mark.parametrize("layers", [1, 3])
def test_the_formula_counts_every_weight_of_a_classifier(layers: int) -> None:
    model = random_classifier(layers=layers)
    assert sum(weight.numel() for weight in model.parameters()) == model.config.parameters


def test_padding_does_not_reach_the_text_from_behind() -> None:
    model = random_classifier()
    ids = torch.randint(97, (3, 9), generator=torch.Generator().manual_seed(0))
    lengths = torch.tensor([9, 4, 1])
    together = model(ids, real=torch.arange(9) < lengths[:, None])
    for row, length in enumerate(lengths.tolist()):
        alone = model(ids[row : row + 1, :length])
        torch.testing.assert_close(together[row : row + 1], alone, atol=1e-6, rtol=1e-5)


@given(st.integers(1, 4), st.integers(1, 8), st.data())
@settings(max_examples=30)
def test_reversing_twice_is_nothing(B: int, T: int, data: st.DataObject) -> None:
    lengths = torch.tensor(data.draw(st.lists(st.integers(1, T), min_size=B, max_size=B)))
    x = torch.randn(B, T, 3)
    once = reversed_within(x, lengths)
    for row, length in enumerate(lengths.tolist()):
        assert torch.equal(once[row, :length], x[row, :length].flip(0))
    assert torch.equal(reversed_within(once, lengths), x)


def test_a_classifier_without_labels_is_none() -> None:
    with pytest.raises(UserError, match="A classifier needs labels"):
        random_classifier(labels=())


def test_dropout_is_for_training_alone() -> None:
    shape = RecurrentConfig(vocabulary=30, layers=2, width=16, context=8)
    plain, dropping = (Recurrent(shape, dropout=share).initialise(0) for share in (0.0, 0.5))
    ids = torch.randint(30, (2, 8), generator=torch.Generator().manual_seed(0))
    assert torch.equal(plain.eval().hidden_states(ids), dropping.eval().hidden_states(ids))
    torch.manual_seed(0)
    said = dropping.train().hidden_states(ids)
    assert 0.2 < float((said == 0).float().mean()) < 0.8
    # Whole columns: what is left out is left out at all positions.
    assert ((said == 0).all(dim=1) == (said == 0).any(dim=1)).all()


def test_bfloat16_is_near() -> None:
    model = random_model(width=64)
    ids = torch.randint(97, (4, 32), generator=torch.Generator().manual_seed(0))
    exact = model.hidden_states(ids)
    model.compute_dtype = torch.bfloat16
    near = model.hidden_states(ids)
    assert near.dtype == torch.bfloat16
    assert (near.float() - exact).norm() / exact.norm() < 0.05


@pytest.mark.parametrize("name", ["vocabulary", "layers", "width", "context"])
def test_no_size_is_zero(name: str) -> None:
    for build in (random_model, random_classifier):
        with pytest.raises(UserError, match=f"The model's {name} must be at least 1, but is 0"):
            build(**{name: 0})
