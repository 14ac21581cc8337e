"""Objectives. N positions, D width, V vocabulary."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from bimo.models.encoder import Encoder
from bimo.models.families import LanguageModule
from bimo.models.fused import cross_entropy_, fusible
from bimo.models.heads import Words
from bimo.models.seq2seq import EncoderDecoder
from bimo.tokens.masking import Masked
from bimo.tokens.pairs import PairBatch

__all__ = [
    "IGNORED",
    "answer_loss",
    "linear_cross_entropy",
    "linear_cross_entropy_reference",
    "masked_loss",
    "next_token_loss",
    "token_losses",
    "token_losses_reference",
    "translation_loss",
    "with_noise",
]

IGNORED = -100
"""A target that carries no loss, as torch's cross_entropy has it."""

ROWS = 512
"""Positions whose logits stand in memory at one time; measured best around the size of the last-level cache."""


class _LinearCrossEntropy(torch.autograd.Function):
    """The output matrix and the softmax in one, chunk by chunk, gradients made on the way."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, bias: Tensor | None) -> Tensor:
        cast = weight.to(hidden.dtype)
        added = None if bias is None else bias.to(hidden.dtype)
        count = int((targets != IGNORED).sum())
        hidden_gradient = torch.empty_like(hidden)
        weight_gradient = torch.zeros_like(weight) if ctx.needs_input_grad[1] else None
        bias_gradient = None if bias is None else torch.zeros_like(bias)
        total = 0.0
        for start in range(0, hidden.shape[0], ROWS):
            part = slice(start, start + ROWS)
            logits = F.linear(hidden[part], cast, added)
            losses, gradient = _cross_entropy(logits, targets[part])
            total += float(losses.sum())
            hidden_gradient[part] = gradient @ cast
            if weight_gradient is not None:
                weight_gradient += gradient.mT @ hidden[part]
            if bias_gradient is not None:
                bias_gradient += gradient.sum(dim=0, dtype=bias_gradient.dtype)
        divisor = max(1, count)
        found = (hidden_gradient, weight_gradient, bias_gradient)
        ctx.save_for_backward(*(None if gradient is None else gradient.div_(divisor) for gradient in found))
        return torch.tensor(total / divisor, device=hidden.device)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, bias = (
            None if found is None else found * gradients[0].to(found.dtype) for found in ctx.saved_tensors
        )
        return hidden, weight, None, bias


def _cross_entropy(logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Losses [N] in nats, and the gradient of their sum by the logits [N, V], in whose place it may stand."""
    if fusible(logits):
        return cross_entropy_(logits, targets), logits
    dtype, logits = logits.dtype, logits.float()
    losses = F.cross_entropy(logits, targets, ignore_index=IGNORED, reduction="none")
    gradient = logits.softmax(dim=-1)
    gradient.scatter_add_(1, targets.clamp(min=0)[:, None], -torch.ones_like(losses)[:, None])
    return losses, gradient.mul_((targets != IGNORED)[:, None]).to(dtype)


def linear_cross_entropy(
    hidden: Tensor, weight: Tensor, targets: Tensor, bias: Tensor | None = None, *, smoothing: float = 0.0
) -> Tensor:
    """Mean cross-entropy in nats of targets [N] under logits hidden [N, D] @ weight [V, D] transposed, plus bias [V].

    The N x V logits never stand whole. Targets equal to IGNORED carry no loss. `smoothing` is the share of each target
    that is spread over all of V (Szegedy et al. 2016, section 7).
    """
    loss = _LinearCrossEntropy.apply(hidden, weight, targets, bias)
    if not smoothing:
        return loss
    # What a share of the targets costs when it goes from its logit to the mean of all, which needs no other logits.
    counted = targets != IGNORED
    hidden, targets = hidden[counted].float(), targets[counted]
    moved = (hidden * weight[targets]).sum(dim=1) - hidden @ weight.mean(dim=0)
    if bias is not None:
        moved = moved + bias[targets] - bias.mean()
    return loss + smoothing * moved.sum() / max(1, len(targets))


def linear_cross_entropy_reference(
    hidden: Tensor, weight: Tensor, targets: Tensor, bias: Tensor | None = None, *, smoothing: float = 0.0
) -> Tensor:
    """The same, as it is written."""
    bias = None if bias is None else bias.to(hidden.dtype)
    logits = F.linear(hidden, weight.to(hidden.dtype), bias).float()
    return F.cross_entropy(logits, targets, ignore_index=IGNORED, label_smoothing=smoothing)


class _TokenLosses(torch.autograd.Function):
    """The loss of each token by itself. How much each will count is known on the way back alone: the gradient of the
    hidden states is made on the way out for a weight of one, that of the matrix, where it learns, on the way back."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor, bias: Tensor | None) -> Tensor:
        cast, added = weight.to(hidden.dtype), None if bias is None else bias.to(hidden.dtype)
        hidden_gradient = torch.empty_like(hidden)
        losses = torch.empty(len(hidden), device=hidden.device)
        for start in range(0, len(hidden), ROWS):
            part = slice(start, start + ROWS)
            losses[part], gradient = _cross_entropy(F.linear(hidden[part], cast, added), targets[part])
            hidden_gradient[part] = gradient @ cast
        ctx.save_for_backward(hidden, weight, targets, bias, hidden_gradient)
        return losses

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, targets, bias, hidden_gradient = ctx.saved_tensors
        counts = gradients[0].to(hidden.dtype)[:, None]
        weight_gradient = torch.zeros_like(weight) if ctx.needs_input_grad[1] else None
        bias_gradient = None if bias is None else torch.zeros_like(bias)
        if weight_gradient is not None or bias_gradient is not None:
            cast, added = weight.to(hidden.dtype), None if bias is None else bias.to(hidden.dtype)
            for start in range(0, len(hidden), ROWS):
                part = slice(start, start + ROWS)
                _, gradient = _cross_entropy(F.linear(hidden[part], cast, added), targets[part])
                gradient = gradient * counts[part]
                if weight_gradient is not None:
                    weight_gradient += gradient.mT @ hidden[part]
                if bias_gradient is not None:
                    bias_gradient += gradient.sum(dim=0, dtype=bias_gradient.dtype)
        return hidden_gradient * counts, weight_gradient, None, bias_gradient


def token_losses(hidden: Tensor, weight: Tensor, targets: Tensor, bias: Tensor | None = None) -> Tensor:
    """Cross-entropy in nats of each of the targets [N] -> [N] in float32; shapes as in `linear_cross_entropy`."""
    return _TokenLosses.apply(hidden, weight, targets, bias)


def token_losses_reference(hidden: Tensor, weight: Tensor, targets: Tensor, bias: Tensor | None = None) -> Tensor:
    """The same, as it is written."""
    bias = None if bias is None else bias.to(hidden.dtype)
    return F.cross_entropy(F.linear(hidden, weight.to(hidden.dtype), bias).float(), targets, reduction="none")


def with_noise(ids: Tensor, share: float) -> Tensor:
    """Exchange a share of ids [B, T] for others of the batch: the unigram noise of Xie et al. 2017.

    It is to a neural model what smoothing is to a counting one: a text read often is not learned by heart so soon.
    """
    others = ids.flatten()[torch.randint(ids.numel(), ids.shape, device=ids.device)]
    return torch.where(torch.rand(ids.shape, device=ids.device) < share, others, ids)


def next_token_loss(
    model: LanguageModule, windows: np.ndarray, *, noise: float = 0.0, smoothing: float = 0.0
) -> tuple[Tensor, int]:
    """Predict each token from those before it: windows [B, T + 1] of ids -> (mean loss in nats, targets counted).

    `noise` is the share of the tokens before it that are exchanged: see `with_noise`; `smoothing` as in
    `linear_cross_entropy`.
    """
    ids = torch.from_numpy(windows).to(model.embedding.weight.device)
    hidden = model.hidden_states(with_noise(ids[:, :-1], noise) if noise else ids[:, :-1])
    targets, head = ids[:, 1:].flatten(), model.head
    loss = linear_cross_entropy(hidden.flatten(0, 1), head.weight, targets, head.bias, smoothing=smoothing)
    return loss, targets.numel()


def masked_loss(model: Encoder, batch: Masked) -> tuple[Tensor, int]:
    """Guess what is masked -> (mean loss in nats, targets counted). Logits are computed for those places alone."""
    device = model.embedding.weight.device
    read, ids = (torch.from_numpy(part).to(device) for part in (batch.read, batch.ids))
    places = torch.from_numpy(np.flatnonzero(batch.chosen)).to(device)
    assert isinstance(model.head, Words)
    hidden = model.hidden_states(read).flatten(0, 1).index_select(0, places)
    targets = ids.flatten()[places]
    loss = linear_cross_entropy(model.head.transform(hidden), model.embedding.weight, targets, model.head.bias)
    return loss, targets.numel()


def answer_loss(model: LanguageModule, batch: tuple[np.ndarray, np.ndarray]) -> tuple[Tensor, int]:
    """Predict what the assistant says: ids and targets [B, T], most of them IGNORED -> (mean loss in nats, counted).

    Logits are computed where they count alone. Rows are filled up on the right, where nothing that counts can see it.
    """
    ids, targets = (torch.from_numpy(part).to(model.embedding.weight.device) for part in batch)
    counting = targets != IGNORED
    hidden = model.hidden_states(ids)[counting]
    head = model.head
    return linear_cross_entropy(hidden, head.weight, targets[counting], head.bias), len(hidden)


def translation_loss(
    model: EncoderDecoder, pairs: PairBatch, *, noise: float = 0.0, smoothing: float = 0.0
) -> tuple[Tensor, int]:
    """Predict each token of a target from the source and the tokens before it -> (mean loss in nats, targets counted).

    `noise` and `smoothing` as in `next_token_loss`. Padding carries no loss, and is none of the tokens to choose from.
    """
    device, pad = model.embedding.weight.device, model.config.pad
    source, target = (torch.from_numpy(side).to(device) for side in pairs)
    before = F.pad(target[:, :-1], (1, 0), value=pad)
    hidden = model.hidden_states(source, source != pad, with_noise(before, noise) if noise else before)
    real = target != pad
    loss = linear_cross_entropy(
        hidden[real], model.head.weight[:pad], target[real], model.head.bias[:pad], smoothing=smoothing
    )
    return loss, int(real.sum())
