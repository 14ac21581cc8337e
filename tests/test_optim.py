"""Muon: the same steps as torch's own and as the formula, near-orthogonal updates, every weight in the right group."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import nn

from bimo.models.encoder import Encoder, EncoderConfig
from bimo.models.transformer import Decoder
from bimo.train import optim
from bimo.train.optim import POLYNOMIALS, Muon, build_optimizers, orthogonalise

SHAPES = [(16, 16), (16, 16), (24, 8), (8, 24), (1, 5), (16, 16)]


def weights(seed: int = 0) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(seed)
    return [nn.Parameter(torch.randn(shape, generator=generator)) for shape in SHAPES]


def give_gradients(parameters: list[nn.Parameter], step: int) -> None:
    generator = torch.Generator().manual_seed(1000 + step)
    for weight in parameters:
        weight.grad = torch.randn(weight.shape, generator=generator) * 10.0**-step


def orthogonalise_reference(matrix: torch.Tensor) -> torch.Tensor:
    """The iteration as it is written, in float64."""
    x = matrix.double() / matrix.double().norm()
    for a, b, c in POLYNOMIALS:
        x = a * x + b * (x @ x.T) @ x + c * (x @ x.T) @ (x @ x.T) @ x
    return x


def with_singular_values(rows: int, columns: int, values: torch.Tensor) -> torch.Tensor:
    generator = torch.Generator().manual_seed(rows)
    u = torch.linalg.qr(torch.randn(rows, len(values), generator=generator)).Q
    v = torch.linalg.qr(torch.randn(columns, len(values), generator=generator)).Q
    return u @ values.diag() @ v.T


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e4])
@pytest.mark.parametrize(("rows", "columns"), [(32, 32), (48, 16), (16, 48), (64, 256), (1, 9), (9, 1)])
def test_singular_values_come_near_one(rows: int, columns: int, scale: float) -> None:
    # Down to a hundredth of the whole, the iteration lifts every direction.
    values = torch.logspace(-2, 0, min(rows, columns))
    values = torch.maximum(values, 0.012 * values.norm())
    matrix = scale * with_singular_values(rows, columns, values)
    found = torch.linalg.svdvals(orthogonalise(matrix[None])[0].float())
    assert 0.95 < found.min() <= found.max() < 1.05


@pytest.mark.parametrize(
    ("capability", "dtype"), [("AVX2", torch.float32), ("DEFAULT", torch.float32), ("AVX512", torch.bfloat16)]
)
def test_the_iteration_is_in_a_format_that_the_processor_multiplies(
    capability: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    assert orthogonalise(torch.eye(4)[None]).dtype is dtype


def test_every_direction_from_the_least_on_is_lifted() -> None:
    values = torch.logspace(-2, 0, 200, dtype=torch.float64)
    for a, b, c in POLYNOMIALS:
        values = a * values + b * values**3 + c * values**5
    assert 0.98 < values.min() < values.max() < 1.02


@pytest.mark.parametrize(("rows", "columns"), [(20, 20), (30, 10), (10, 30)])
def test_orthogonalising_is_the_iteration_and_keeps_the_directions(rows: int, columns: int) -> None:
    matrices = torch.stack(
        [with_singular_values(rows, columns, torch.linspace(1, 0.2, min(rows, columns))) * s for s in (1, 50, -1)]
    )
    result = orthogonalise(matrices)
    assert result.shape == matrices.shape
    for matrix, ours in zip(matrices, result.double(), strict=True):
        expected = orthogonalise_reference(matrix)
        assert (ours - expected).norm() / expected.norm() < 0.04
        u, _, v = torch.linalg.svd(matrix.double(), full_matrices=False)
        along = torch.einsum("ij,ik,jk->k", ours, u, v.T)
        assert along.min() > 0.5


def test_a_gradient_of_zero_moves_nothing_but_decays() -> None:
    assert not orthogonalise(torch.zeros(1, 4, 6)).any()
    weight = nn.Parameter(torch.ones(4, 6))
    weight.grad = torch.zeros(4, 6)
    Muon([weight], lr=0.5, weight_decay=0.1).step()
    torch.testing.assert_close(weight.data, torch.full((4, 6), 0.95))


@pytest.mark.parametrize("weight_decay", [0.0, 0.3])
def test_steps_are_those_of_torchs_muon(weight_decay: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """With its polynomial, which is the published one."""
    monkeypatch.setattr(optim, "POLYNOMIALS", ((3.4445, -4.7750, 2.0315),) * 5)
    ours, theirs = weights(), weights()
    optimizers = (
        Muon(ours, lr=0.02, momentum=0.9, weight_decay=weight_decay),
        torch.optim.Muon(theirs, lr=0.02, momentum=0.9, weight_decay=weight_decay, adjust_lr_fn="original"),
    )
    start = [weight.detach().clone() for weight in ours]
    for step in range(4):
        for parameters, optimizer in zip((ours, theirs), optimizers, strict=True):
            give_gradients(parameters, step)
            optimizer.step()
    for before, mine, other in zip(start, ours, theirs, strict=True):
        moved = (other - before).norm()
        assert moved > 0.02
        # bfloat16 rounds in another order when matrices are multiplied together.
        assert (mine - other).norm() / moved < 0.02


def test_steps_are_those_of_the_formula() -> None:
    ours = weights()
    expected = [weight.detach().double() for weight in ours]
    averages = [torch.zeros_like(weight) for weight in expected]
    optimizer = Muon(ours, lr=0.1, momentum=0.8, weight_decay=0.2)
    for step in range(3):
        give_gradients(ours, step)
        for index, weight in enumerate(ours):
            gradient = weight.grad.double()
            averages[index] = 0.8 * averages[index] + 0.2 * gradient
            update = orthogonalise_reference(0.2 * gradient + 0.8 * averages[index])
            rate = 0.1 * math.sqrt(max(1, weight.shape[0] / weight.shape[1]))
            expected[index] = (1 - 0.1 * 0.2) * expected[index] - rate * update
        optimizer.step()
    for mine, wanted, before in zip(ours, expected, weights(), strict=True):
        assert (mine - wanted).norm() / (wanted - before).norm() < 0.03


def test_stepping_together_is_stepping_alone() -> None:
    together, alone = weights(), weights()
    give_gradients(together, 0)
    give_gradients(alone, 0)
    Muon(together, lr=0.1).step()
    for weight in alone:
        Muon([weight], lr=0.1).step()
    for a, b in zip(together, alone, strict=True):
        torch.testing.assert_close(a.data, b.data, atol=2e-3, rtol=1e-2)


def test_a_restored_state_goes_on_alike() -> None:
    straight, stopped = weights(), weights()
    first, second = Muon(straight, lr=0.1), Muon(stopped, lr=0.1)
    for step in range(2):
        give_gradients(straight, step)
        first.step()
        give_gradients(stopped, step)
        second.step()
        state = second.state_dict()
        second = Muon(stopped, lr=0.1)
        second.load_state_dict(state)
    assert all(torch.equal(a, b) for a, b in zip(straight, stopped, strict=True))


@pytest.mark.parametrize("tied", [True, False])
def test_every_weight_is_in_one_group(make_model: Callable[..., Decoder], tied: bool) -> None:
    model = make_model(tied=tied)
    muon, adam = build_optimizers(model, muon_rate=0.02, adam_rate=0.003, weight_decay=0.1)
    names = {id(weight): name for name, weight in model.named_parameters()}
    inner, outer = ([names[id(w)] for group in o.param_groups for w in group["params"]] for o in (muon, adam))
    assert sorted(inner + outer) == sorted(names.values())
    kinds = ("query", "key", "value", "out", "gate", "up", "down")
    assert len(inner) == 2 * len(kinds)
    assert {name.split(".")[-2] for name in inner} == set(kinds)
    assert ("head.weight" in outer) is not tied
    assert {(group["lr"], group["weight_decay"]) for group in muon.param_groups} == {(0.02, 0.1)}
    assert {(group["lr"], group["weight_decay"], group["betas"]) for group in adam.param_groups} == {
        (0.003, 0.0, (0.9, 0.95))
    }


def test_the_places_of_an_encoder_move_slowly() -> None:
    model = Encoder(EncoderConfig(vocabulary=97, layers=1, width=24, heads=3, hidden=40, context=32))
    for muon_rate in (0.02, 0.0):
        *_, adam = build_optimizers(model, muon_rate=muon_rate, adam_rate=0.003, weight_decay=0.1)
        (slow,) = [group for group in adam.param_groups if group["lr"] == pytest.approx(0.0003)]
        assert [id(weight) for weight in slow["params"]] == [id(model.position_embedding.weight)]
        assert {group["lr"] for group in adam.param_groups if group is not slow} == {0.003}


def test_without_a_rate_of_muon_adam_has_all(make_model: Callable[..., Decoder]) -> None:
    model = make_model()
    (adam,) = build_optimizers(model, muon_rate=0.0, adam_rate=0.003, weight_decay=0.1)
    assert isinstance(adam, torch.optim.AdamW)
    assert {id(w) for group in adam.param_groups for w in group["params"]} == {id(w) for w in model.parameters()}
    decaying = {id(w) for group in adam.param_groups if group["weight_decay"] == 0.1 for w in group["params"]}
    muon, _ = build_optimizers(model, muon_rate=0.02, adam_rate=0.003, weight_decay=0.1)
    assert decaying == {id(w) for group in muon.param_groups for w in group["params"]}


def test_muon_solves_a_small_problem() -> None:
    torch.manual_seed(0)
    layer, wanted = nn.Linear(10, 6, bias=False), torch.randn(6, 10)
    optimizer = Muon(layer.parameters(), lr=0.1, momentum=0.9)
    x = torch.randn(64, 10)
    losses = []
    for step in range(150):
        optimizer.param_groups[0]["lr"] = 0.1 * (1 - step / 150)
        loss = (layer(x) - x @ wanted.T).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 1e-3 * losses[0]
