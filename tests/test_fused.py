"""What the compiled core does between the products of a training step, against the short way in torch."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from unittest import mock

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from writing import ways_here

from bimo.models import fused
from bimo.models.layers import rms_norm_reference, rotary_tables, rotate

WAYS = [way for way in ways_here() if way != "torch"]
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2**-7}
"""Of the largest number: what float32 sums lose, and twice what one rounding to bfloat16 does."""

Function = Callable[..., torch.Tensor]


def random_tensor(random: np.random.Generator, *shape: int) -> torch.Tensor:
    size = 10 ** random.uniform(-2, 1)
    return torch.from_numpy(random.normal(0, size, shape).astype(np.float32))


def check_close(ours: torch.Tensor, theirs: torch.Tensor, tolerance: float) -> None:
    assert ours.shape == theirs.shape
    ours, theirs = ours.detach().float(), theirs.detach()
    assert (ours - theirs).abs().max() <= tolerance * max(1e-3, float(theirs.abs().max()))


def check_function(
    fast: Function, slow: Function, tensors: Sequence[torch.Tensor | None], moving: int, dtype: torch.dtype
) -> None:
    """Value and gradients of two functions. The first `moving` tensors come in `dtype`; the slow one gets float32."""
    given = [
        None if x is None else (x.to(dtype) if place < moving else x).requires_grad_(x.is_floating_point())
        for place, x in enumerate(tensors)
    ]
    exact = [None if x is None else x.detach().float().requires_grad_() for x in given]
    ours, theirs = fast(*given), slow(*exact)
    assert ours.dtype == dtype
    check_close(ours, theirs, TOLERANCE[dtype])
    toward = torch.randn(theirs.shape).to(dtype)
    wanted = [place for place, x in enumerate(given) if x is not None]
    gradients = zip(
        torch.autograd.grad(ours, [given[place] for place in wanted], toward),
        torch.autograd.grad(theirs, [exact[place] for place in wanted], toward.float()),
        strict=True,
    )
    for mine, other in gradients:
        check_close(mine, other, TOLERANCE[dtype])


def check_heads(random: np.random.Generator, dtype: torch.dtype) -> None:
    B, T, H = (int(n) for n in random.integers(1, 6, 3))
    K = 2 * int(random.integers(1, 40))
    cos, sin = rotary_tables(T, K, 100.0)
    weight = random_tensor(random, K) if random.random() < 0.7 else None

    def slow(x: torch.Tensor, weight: torch.Tensor | None) -> torch.Tensor:
        x = x if weight is None else rms_norm_reference(x, weight, 1e-6)
        return rotate(x.transpose(1, 2), cos, sin)

    def fast(x: torch.Tensor, weight: torch.Tensor | None) -> torch.Tensor:
        return fused.turned_heads(x, weight, cos, sin, 1e-6)

    check_function(fast, slow, [random_tensor(random, B, T, H, K), weight], 1, dtype)


def check_softmax(random: np.random.Generator, dtype: torch.dtype) -> None:
    N, T, start = (int(n) for n in random.integers(1, 40, 3))
    scale = float(random.uniform(0.1, 2))
    scores, gradient = (random_tensor(random, N, T, start + T).to(dtype) for _ in range(2))
    hidden = torch.ones(T, start + T, dtype=torch.bool).triu(start + 1)
    exact = scores.float().requires_grad_()
    weights = (exact * scale).masked_fill(hidden, float("-inf")).softmax(dim=-1)
    fused.causal_softmax_(scores, start=start, scale=scale)
    check_close(scores, weights, TOLERANCE[dtype])
    assert not scores.masked_select(hidden).any()
    (expected,) = torch.autograd.grad(weights, exact, gradient.float())
    exchanged = gradient.clone()
    fused.softmax_backward_(weights.detach().to(dtype), exchanged, scale=scale)
    # Where weights cancel out, what is left of them is as small as their rounding.
    size = scale * float(gradient.abs().max())
    assert (exchanged.float() - expected).abs().max() <= TOLERANCE[dtype] * size


def check_cross_entropy(random: np.random.Generator, dtype: torch.dtype) -> None:
    N, V = (int(n) for n in random.integers(1, 70, 2))
    # Up to where a probability is too small for a number, and its logarithm is not.
    logits = (random_tensor(random, N, V) * float(random.choice([1, 30]))).to(dtype)
    targets = torch.from_numpy(random.integers(0, V, N))
    targets[torch.rand(N) < 0.3] = -100
    exact = logits.float().requires_grad_()
    losses = F.cross_entropy(exact, targets, reduction="none")
    (expected,) = torch.autograd.grad(losses.sum(), exact)
    torch.testing.assert_close(fused.cross_entropy_(logits, targets), losses.detach(), rtol=1e-5, atol=1e-5)
    check_close(logits, expected, TOLERANCE[dtype])


def check_operations(ways: Iterable[str], seeds: Iterable[int]) -> None:
    """Every operation on random shapes and sizes, with each instruction set, in both number formats."""
    slow_norm = partial(rms_norm_reference, epsilon=1e-6)
    for way in ways:
        with mock.patch.dict(os.environ, {"BIMO_KERNEL": way}):
            for seed in seeds:
                random = np.random.default_rng(seed)
                torch.manual_seed(seed)
                for dtype in TOLERANCE:
                    rows, width = int(random.integers(1, 30)), int(random.integers(1, 200))
                    x, gate, up = (random_tensor(random, 2, rows, width) for _ in range(3))
                    norm = [x, random_tensor(random, width)]
                    check_function(partial(fused.rms_norm, epsilon=1e-6), slow_norm, norm, 1, dtype)
                    check_function(fused.gated, lambda a, b: F.silu(a) * b, [gate, up], 2, dtype)
                    check_heads(random, dtype)
                    check_softmax(random, dtype)
                    check_cross_entropy(random, dtype)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("threads", [1, 3])
def test_operations_agree_with_torch(way: str, threads: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        check_operations([way], range(30))
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("way", WAYS)
def test_bad_numbers_are_passed_on(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step whose numbers are not finite is skipped: nothing on the way may hide them."""
    monkeypatch.setenv("BIMO_KERNEL", way)
    for bad in (float("nan"), float("inf")):
        for dtype in TOLERANCE:
            x = torch.randn(2, 3, 2, 4).to(dtype)
            x[0, 0, 0, 0] = bad
            cos, sin = rotary_tables(3, 4, 100.0)
            assert not fused.rms_norm(x, torch.ones(4), 1e-6)[0, 0, 0].isfinite().all()
            assert not fused.turned_heads(x, torch.ones(4), cos, sin, 1e-6)[0, 0, 0].isfinite().all()
            assert not fused.gated(x, x)[0, 0, 0, 0].isfinite()
            logits = x.view(-1, 4).clone()
            assert not fused.cross_entropy_(logits, torch.zeros(12, dtype=torch.long))[0].isfinite()
            scores = x.view(-1, 2, 4)[:, :, :2].contiguous()
            fused.causal_softmax_(scores, start=0, scale=1.0)
            assert bad == float("inf") or not scores[0, 0].isfinite().all()


def test_what_the_core_cannot_do_is_left_to_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BIMO_KERNEL", "torch")
    assert not fused.fusible(torch.zeros(1))
    monkeypatch.delenv("BIMO_KERNEL")
    if WAYS:
        assert fused.fusible(torch.zeros(1))
    assert not fused.fusible(torch.zeros(1, dtype=torch.float64))
    assert not fused.fusible(torch.zeros(1, device="meta"))
