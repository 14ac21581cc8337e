"""Masked words: what an encoder is trained for, and how well it guesses those of text that is held out.

N windows, T ids of each.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from bimo.models.encoder import Encoder
from bimo.models.heads import Words
from bimo.runtime import USAGE, UserError, t
from bimo.tokens.batches import Batches
from bimo.tokens.masking import FRAME, Masked, MaskedBatches, Masking
from bimo.tokens.shards import TokenShards
from bimo.tokens.tokenizer import Tokenizer
from bimo.train.losses import masked_loss

__all__ = ["MaskedWords", "held_out_windows", "masked_measures", "tokens_between"]

VALIDATION_TOKENS = 48_000
"""Validation during training looks at about so many tokens, of which one in seven is guessed."""

WINDOWS_AT_ONCE = 16
LEAST_CONTEXT = 8


def tokens_between(context: int) -> int:
    """How far apart windows of so many ids begin in the text. Raises UserError when those are too short to learn from.

    What frames them is not of the text, and they are read one token longer than they are apart.
    """
    if context < LEAST_CONTEXT:
        raise UserError(
            "The model's {name} must be at least {least} to learn from masked words, but is {value}.",
            code=USAGE,
            name="context",
            least=LEAST_CONTEXT,
            value=context,
        )
    return context - FRAME - 1


class MaskedWords:
    """Guess whole words that are masked, from both sides: the objective of encoders.

    Its loss is no measure of a language model: of a text's words it says nothing but how well single ones are guessed
    where nearly all others are known.
    """

    measure = "masked_loss"

    def __init__(self, validation: TokenShards, tokenizer: Tokenizer, *, context: int) -> None:
        self.between = tokens_between(context)
        self.masking, self.context = Masking(tokenizer), context
        self.windows = held_out_windows(validation, self.masking, context=context, tokens=VALIDATION_TOKENS)

    def batches(self, shards: TokenShards, *, batch: int, seed: int) -> MaskedBatches:
        """Windows [B, T], framed and masked."""
        inner = Batches(shards, batch=batch, context=self.between, seed=seed)
        return MaskedBatches(inner, self.masking, seed=seed)

    def loss(self, model: Encoder, batch: Masked) -> tuple[Tensor, int]:
        """Of what is masked."""
        return masked_loss(model, batch)

    def clean_loss(self, model: Encoder, batch: Masked) -> tuple[Tensor, int]:
        """Of what is masked where it is measured, which is less than where it is learned."""
        return masked_loss(model, self.masking.mask(batch.ids, seed=(0,)))

    def facts(self, loss: float) -> dict[str, float]:
        """The loss as it is, in nats a token."""
        return {"masked_loss": loss}

    def line(self, loss: float) -> str:
        """In nats."""
        return t("{loss:.3f} nats a masked token", loss=loss)

    def validate(self, model: Encoder) -> dict[str, float]:
        """`masked_loss` and `masked_accuracy` on windows that are held out, whose masks are always the same."""
        return masked_measures(model, self.masking, self.windows)

    def verdict(self, measured: float, step: int) -> str:
        """In nats."""
        return t("{loss:.3f} nats a masked token of unseen text after {step:,} steps", loss=measured, step=step)


def held_out_windows(shards: TokenShards, masking: Masking, *, context: int, tokens: int) -> np.ndarray:
    """Framed windows [N, T], spread evenly over a split, that hold about so many tokens."""
    length = min(context - FRAME, len(shards))
    count = max(1, min(tokens // length, len(shards) // length))
    starts = np.linspace(0, len(shards) - length, count).astype(int)
    return masking.framed(np.stack([shards.read(int(start), length) for start in starts]))


@torch.no_grad()
def masked_measures(model: Encoder, masking: Masking, windows: np.ndarray) -> dict[str, float]:
    """How well masked tokens of windows [N, T] are guessed: `loss` and `masked_loss` in nats, `masked_accuracy`."""
    training = model.training
    model.eval()
    nats = right = count = 0.0
    for start in range(0, len(windows), WINDOWS_AT_ONCE):
        batch = masking.mask(windows[start : start + WINDOWS_AT_ONCE], seed=(start,))
        device = model.embedding.weight.device
        chosen = torch.from_numpy(batch.chosen).to(device)
        hidden = model.hidden_states(torch.from_numpy(batch.read).to(device))[chosen]
        assert isinstance(model.head, Words)
        logits = model.head(hidden, model.embedding.weight).float()
        targets = torch.from_numpy(batch.ids).to(device)[chosen]
        nats += float(F.cross_entropy(logits, targets, reduction="sum"))
        right += int((logits.argmax(dim=-1) == targets).sum())
        count += len(targets)
    model.train(training)
    return {"loss": nats / count, "masked_loss": nats / count, "masked_accuracy": right / count}
