"""The fused output matrix and cross-entropy: value and gradients as the plain one, at any size and number format."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bimo.models.config import ModelConfig
from bimo.models.transformer import Decoder
from bimo.train import losses
from bimo.train.losses import IGNORED, linear_cross_entropy, linear_cross_entropy_reference, next_token_loss, with_noise


def problem(
    rows: int,
    *,
    width: int = 12,
    vocabulary: int = 30,
    ignored: float = 0.0,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """hidden, weight and targets, of which the share `ignored` carries no loss."""
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(rows, width, generator=generator).to(dtype).requires_grad_()
    weight = torch.randn(vocabulary, width, generator=generator).mul_(0.5).requires_grad_()
    targets = torch.randint(vocabulary, (rows,), generator=generator)
    targets[torch.rand(rows, generator=generator) < ignored] = IGNORED
    return hidden, weight, targets


def values(
    function: Callable,
    hidden: torch.Tensor,
    weight: torch.Tensor,
    targets: torch.Tensor,
    bias: torch.Tensor | None = None,
    **options: float,
) -> list[torch.Tensor]:
    """Loss and gradients; the loss is scaled by 3, as when several are added."""
    loss = function(hidden, weight, targets, bias=bias, **options)
    moving = (hidden, weight) if bias is None else (hidden, weight, bias)
    return [loss.detach(), *torch.autograd.grad(3 * loss, moving)]


@pytest.mark.parametrize("ignored", [0.0, 0.4, 0.97])
@pytest.mark.parametrize("rows", [1, 7, losses.ROWS, losses.ROWS + 1, 2 * losses.ROWS + 300])
def test_it_is_the_plain_one_in_float32(rows: int, ignored: float) -> None:
    hidden, weight, targets = problem(rows, ignored=ignored)
    targets[0] = 3
    fast = values(linear_cross_entropy, hidden, weight, targets)
    slow = values(linear_cross_entropy_reference, hidden, weight, targets)
    assert fast[0].dtype == torch.float32
    for ours, theirs in zip(fast, slow, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-7, rtol=2e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("ignored", [0.0, 0.4, 1.0])
def test_a_bias_is_the_plain_one_in_both_formats(dtype: torch.dtype, ignored: float) -> None:
    hidden, weight, targets = problem(losses.ROWS + 70, ignored=ignored, dtype=dtype)
    bias = torch.randn(30, generator=torch.Generator().manual_seed(1)).requires_grad_()
    fast = values(linear_cross_entropy, hidden, weight, targets, bias)
    exact = hidden.detach().float().requires_grad_()
    slow = values(linear_cross_entropy_reference, exact, weight, targets, bias)
    tolerance = 2e-5 if dtype == torch.float32 else 0.02
    for ours, theirs in zip(fast, slow, strict=True):
        theirs = theirs.nan_to_num()  # the mean of no losses
        assert (ours.float() - theirs).norm() <= tolerance * max(1e-3, float(theirs.norm()))


@given(
    st.integers(1, 40), st.integers(1, 9), st.integers(1, 20), st.floats(0, 1), st.integers(1, 9), st.integers(0, 99)
)
@settings(max_examples=40)
def test_it_is_the_plain_one_at_any_size(
    rows: int, width: int, vocabulary: int, ignored: float, at_once: int, seed: int
) -> None:
    hidden, weight, targets = problem(rows, width=width, vocabulary=vocabulary, ignored=ignored, seed=seed)
    targets[-1] = 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(losses, "ROWS", at_once)
        fast = values(linear_cross_entropy, hidden, weight, targets)
    for ours, theirs in zip(fast, values(linear_cross_entropy_reference, hidden, weight, targets), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("ignored", [0.0, 0.5])
def test_bfloat16_is_near(ignored: float) -> None:
    hidden, weight, targets = problem(1500, width=64, vocabulary=400, ignored=ignored, dtype=torch.bfloat16)
    fast = values(linear_cross_entropy, hidden, weight, targets)
    exact = values(linear_cross_entropy_reference, hidden.detach().float().requires_grad_(), weight, targets)
    assert [each.dtype for each in fast] == [torch.float32, torch.bfloat16, torch.float32]
    assert abs(fast[0] / exact[0] - 1) < 2e-3
    for ours, theirs in zip(fast[1:], exact[1:], strict=True):
        assert (ours.float() - theirs).norm() / theirs.norm() < 0.02


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
@pytest.mark.parametrize("rows", [3, losses.ROWS + 70])
def test_smoothing_and_bias_are_the_plain_ones(rows: int, smoothing: float, bias: bool) -> None:
    hidden, weight, targets = problem(rows, ignored=0.3)
    targets[0] = 4
    shift = torch.linspace(-2, 2, 30).requires_grad_() if bias else None
    fast = values(linear_cross_entropy, hidden, weight, targets, shift, smoothing=smoothing)
    slow = values(linear_cross_entropy_reference, hidden, weight, targets, shift, smoothing=smoothing)
    for ours, theirs in zip(fast, slow, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=2e-5)


@pytest.mark.parametrize("rows", [1, 5])
def test_no_target_that_counts_is_no_loss_and_no_gradient(rows: int) -> None:
    hidden, weight, targets = problem(rows, ignored=1.0)
    assert (targets == IGNORED).all()
    loss, toward_hidden, toward_weight = values(linear_cross_entropy, hidden, weight, targets)
    assert loss == 0
    assert not toward_hidden.any()
    assert not toward_weight.any()


def test_what_is_ignored_changes_nothing() -> None:
    hidden, weight, targets = problem(20)
    kept = linear_cross_entropy(hidden[:13], weight, targets[:13])
    targets[13:] = IGNORED
    torch.testing.assert_close(linear_cross_entropy(hidden, weight, targets), kept)
    # Not even where the model is certain of something else than token 0, whose place an ignored target takes.
    sure = torch.tensor([[0.0], [1000.0]], requires_grad=True)
    weight = torch.tensor([[0.0], [1.0]], requires_grad=True)
    loss, *gradients = values(linear_cross_entropy, sure, weight, torch.tensor([1, IGNORED]))
    assert loss.item() == pytest.approx(math.log(2))
    assert all(gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_sure_and_wrong_prediction_costs_much_but_not_everything(dtype: torch.dtype) -> None:
    """One surprise must not turn the loss of a step into infinity, which would discard the step."""
    hidden = torch.tensor([[200.0], [0.0]], dtype=dtype, requires_grad=True)
    weight = torch.tensor([[0.0], [1.0]], requires_grad=True)
    targets = torch.tensor([0, 1])
    loss, *gradients = values(linear_cross_entropy, hidden, weight, targets)
    exact, *wanted = values(linear_cross_entropy_reference, hidden, weight, targets)
    assert 80 / 2 < loss <= exact + 0.01
    for ours, theirs in zip(gradients, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-3, rtol=0.01)


def test_next_tokens_are_the_targets(make_model: Callable[..., Decoder]) -> None:
    model = make_model()
    windows = torch.randint(97, (3, 12)).numpy()
    loss, counted = next_token_loss(model, windows)
    log_p = model(torch.from_numpy(windows)).log_softmax(-1)
    by_hand = [-log_p[row, t, windows[row, t + 1]].item() for row in range(3) for t in range(11)]
    assert counted == 33
    assert loss.item() == pytest.approx(sum(by_hand) / 33, rel=1e-5)


@pytest.mark.parametrize("tied", [True, False])
def test_gradients_of_a_whole_model_are_those_of_the_plain_loss(make_model: Callable[..., Decoder], tied: bool) -> None:
    model = make_model(tied=tied).train()
    windows = torch.randint(97, (2, 9), generator=torch.Generator().manual_seed(1))
    next_token_loss(model, windows.numpy())[0].backward()
    ours = {name: weight.grad.clone() for name, weight in model.named_parameters()}
    model.zero_grad()
    torch.nn.functional.cross_entropy(model(windows[:, :-1]).flatten(0, 1), windows[:, 1:].flatten()).backward()
    for name, weight in model.named_parameters():
        torch.testing.assert_close(ours[name], weight.grad, atol=1e-6, rtol=1e-3)


def test_noise_exchanges_the_share_that_was_asked_for_by_tokens_of_the_batch() -> None:
    torch.manual_seed(0)
    ids = torch.randint(1000, 2000, (40, 250))
    noisy = with_noise(ids, 0.1)
    assert float((noisy != ids).float().mean()) == pytest.approx(0.1, abs=0.01)
    assert set(noisy.unique().tolist()) <= set(ids.unique().tolist())
    assert torch.equal(with_noise(ids, 0.0), ids)


def test_noise_touches_what_is_read_and_not_what_is_predicted() -> None:
    """A model that knows nothing but the last token: its loss under noise is that of noisy inputs and clean targets."""
    shape = ModelConfig(vocabulary=20, layers=1, width=8, heads=1, kv_heads=1, head_width=8, hidden=8, context=16)
    model = Decoder(shape).initialise(0)
    windows = torch.randint(20, (4, 17), generator=torch.Generator().manual_seed(1))
    torch.manual_seed(5)
    loss, counted = next_token_loss(model, windows.numpy(), noise=0.5)
    torch.manual_seed(5)
    logits = model(with_noise(windows[:, :-1], 0.5))
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten())
    assert counted == 64
    torch.testing.assert_close(loss, expected, atol=1e-6, rtol=1e-6)
    assert not torch.equal(loss, next_token_loss(model, windows.numpy())[0])


def test_a_head_that_stays_costs_no_gradient_and_changes_none() -> None:
    generator = torch.Generator().manual_seed(0)
    hidden, weight = torch.randn(9, 8, generator=generator), torch.randn(11, 8, generator=generator)
    targets = torch.randint(11, (9,), generator=generator)
    gradients = []
    for learns in (True, False):
        part, head = hidden.clone().requires_grad_(), weight.clone().requires_grad_(learns)
        linear_cross_entropy(part, head, targets).backward()
        gradients.append(part.grad)
        assert (head.grad is not None) == learns
    assert torch.equal(*gradients)
