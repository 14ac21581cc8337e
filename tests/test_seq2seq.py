"""The encoder-decoder: what it may see, what padding changes, what its loss is, what training leaves alone."""

from __future__ import annotations

import math

import numpy as np
import pytest
import reversing
import torch
import torch.nn.functional as F
from reversing import END, PAD, SHAPE, answer, filled, half_learned

from bimo.generate.beam import Beams, search
from bimo.models import layers
from bimo.models.seq2seq import EncoderDecoder, Seq2SeqConfig
from bimo.runtime import UserError
from bimo.tokens.pairs import PairBatch
from bimo.train.losses import translation_loss
from bimo.train.optim import build_optimizers


def batch(count: int = 12, *, seed: int = 5) -> PairBatch:
    texts = reversing.sources(count, seed=seed)
    return PairBatch(filled(texts), filled([answer(text) for text in texts]))


def inputs(pairs: PairBatch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    source, target = map(torch.from_numpy, pairs)
    return source, source != PAD, F.pad(target[:, :-1], (1, 0), value=PAD)


def test_counted_parameters_are_those_of_the_formula() -> None:
    for shape in (SHAPE, Seq2SeqConfig(50, layers=1, decoder_layers=3, width=12, heads=3, hidden=20, context=9)):
        assert sum(weight.numel() for weight in EncoderDecoder(shape).parameters()) == shape.parameters


@torch.no_grad()
def test_padding_changes_nothing() -> None:
    model, pairs = half_learned(), batch()
    source, real, target = inputs(pairs)
    together = model(source, real, target)
    for row in range(len(source)):
        length = int(real[row].sum())
        alone = model(source[row : row + 1, :length], real[row : row + 1, :length], target[row : row + 1])
        torch.testing.assert_close(together[row], alone[0], atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_the_target_is_seen_up_to_here_and_the_source_from_both_sides() -> None:
    model, pairs = half_learned(), batch()
    source, real, target = inputs(pairs)
    before = model(source, real, target)
    changed = target.clone()
    changed[:, 3] = 7
    torch.testing.assert_close(model(source, real, changed)[:, :3], before[:, :3])
    assert not torch.allclose(model(source, real, changed)[:, 3:], before[:, 3:])
    other = source.clone()
    other[:, 0] = 7
    assert (model(other, real, target)[:, 0] - before[:, 0]).abs().amax(dim=1).gt(1e-4).any()


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_is_that_of_the_logits_over_all_tokens_but_padding(smoothing: float) -> None:
    model = EncoderDecoder(SHAPE).initialise(3)
    pairs = batch()
    loss, counted = translation_loss(model, pairs, smoothing=smoothing)
    targets = torch.from_numpy(pairs.target)
    logits = model(*inputs(pairs))[..., :PAD].transpose(1, 2)
    expected = F.cross_entropy(logits, targets, ignore_index=PAD, label_smoothing=smoothing)
    assert counted == int((targets != PAD).sum())
    torch.testing.assert_close(loss, expected, atol=1e-5, rtol=1e-5)
    found = torch.autograd.grad(loss, model.parameters())
    for ours, plain in zip(found, torch.autograd.grad(expected, model.parameters()), strict=True):
        torch.testing.assert_close(ours, plain, atol=1e-6, rtol=1e-4)


def test_at_the_start_every_token_is_as_likely() -> None:
    loss, _ = translation_loss(EncoderDecoder(SHAPE).initialise(0), batch(200))
    assert loss.item() == pytest.approx(math.log(PAD), rel=0.1)


def test_training_leaves_padding_at_zero_and_finds_every_weight() -> None:
    model = EncoderDecoder(SHAPE).initialise(0)
    optimizers = build_optimizers(model, muon_rate=0.02, adam_rate=0.01, weight_decay=0.1)
    muon = {id(weight) for group in optimizers[0].param_groups for weight in group["params"]}
    matrices = [w for name, w in model.named_parameters() if "layers" in name and w.ndim == 2]
    assert muon == {id(weight) for weight in matrices}
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    for seed in range(3):
        loss, _ = translation_loss(model, batch(64, seed=seed), smoothing=0.1)
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
    assert all(not torch.equal(weight, before[name]) for name, weight in model.named_parameters())
    assert not model.embedding.weight[PAD].any()
    assert model.head.bias[PAD] == before["head.bias"][PAD]


def test_it_learns_to_read_backwards() -> None:
    texts = reversing.sources(60, seed=777)
    right = {
        steps: sum(
            found[0].ids == answer(text)
            for text, found in zip(texts, search(half_learned(steps), texts, end=END, beams=Beams(2)), strict=True)
        )
        for steps in (60, 200)
    }
    assert right[200] > right[60] + 12


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"heads": 5}, "multiple of its heads"),
        ({"layers": 0}, "layers must be at least 1"),
        ({"heads": 0}, "at least 1"),
    ],
)
def test_shapes_that_cannot_be_are_refused(changes: dict, sentence: str) -> None:
    sizes = {"vocabulary": 9, "layers": 1, "decoder_layers": 1, "width": 8, "heads": 2, "hidden": 8, "context": 8}
    with pytest.raises(UserError, match=sentence):
        Seq2SeqConfig(**{**sizes, **changes})


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 0.05)])
@pytest.mark.parametrize("queries", [1, 6, 9])
def test_attention_written_out_agrees_with_the_fused_one(queries: int, dtype: torch.dtype, tolerance: float) -> None:
    generator = torch.Generator().manual_seed(0)
    given = [torch.randn(3, 2, n, 8, generator=generator).to(dtype).requires_grad_() for n in (queries, 9, 9)]
    allowed = (torch.arange(9) < torch.tensor([[9], [4], [1]]))[:, None, None]
    outward = torch.randn(3, queries, 2, 8, generator=generator).to(dtype)
    found = []
    for way in (
        layers._attend_to_allowed,
        lambda q, k, v, allowed: F.scaled_dot_product_attention(q, k, v, attn_mask=allowed).transpose(1, 2),
    ):
        out = way(*given, allowed)
        found.append([out.detach(), *torch.autograd.grad(out, given, outward)])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, atol=tolerance, rtol=tolerance)


def test_noise_exchanges_tokens_of_the_target_alone() -> None:
    model = half_learned()
    torch.manual_seed(0)
    pairs = batch(100)
    plain, noisy = (translation_loss(model, pairs, noise=share)[0].item() for share in (0.0, 0.5))
    assert noisy > plain
    assert np.array_equal(pairs.target, batch(100).target)
