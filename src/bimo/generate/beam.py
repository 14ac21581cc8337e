"""Beam search: the likeliest targets of a batch of sources, as transformers and CTranslate2 find them.

B sentences, W beams of each, V vocabulary, T tokens written, K head width, S positions of the source.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from bimo.config import require_ranges
from bimo.generate.sample import require_numbers
from bimo.models.seq2seq import EncoderDecoder
from bimo.runtime import t

__all__ = ["BeamCache", "Beams", "Hypothesis", "padded", "search", "search_reference"]

RANGES = {"width": "at least 1", "length_penalty": "from -10 to 10", "max_tokens": "at least 1"}


@dataclass(frozen=True)
class Beams:
    """How to search: `width` beams; what ends scores its log-probability / length ** `length_penalty`.

    The length counts the end token, as in transformers, and in CTranslate2 where that returns it; so 0 is no penalty
    and 1 the mean. (Wu et al. 2016, equation 14, have (5 + length) / 6 in its place.) With `early` a sentence is
    finished when `width` beams have ended; without, when none that goes on could be better if it ended now.
    """

    width: int = 4
    length_penalty: float = 1.0
    max_tokens: int = 256
    early: bool = True

    def __post_init__(self) -> None:
        fits = {
            "width": self.width >= 1,
            "length_penalty": abs(self.length_penalty) <= 10,
            "max_tokens": self.max_tokens >= 1,
        }
        require_ranges(self, fits, lambda name: t(RANGES[name]))


@dataclass(frozen=True)
class Hypothesis:
    """A target, the end token included where it was met, and its score."""

    ids: list[int]
    score: float


class BeamCache:
    """Keys and values of targets that all stand at the same position (models.layers.Cache)."""

    def __init__(self, layers: int, device: torch.device) -> None:
        self._device = device
        self._kept: list[tuple[Tensor, Tensor] | None] = [None] * layers
        self._rows: Tensor | None = None
        self.length = 0

    def positions(self, count: int) -> Tensor:
        """Where the next `count` tokens stand [1, T]."""
        return torch.arange(self.length, self.length + count, device=self._device)[None]

    def update(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Keep k, v [R, H, T, K] of the new positions; returns those of all positions."""
        kept = self._kept[layer]
        if kept is not None and self._rows is not None:
            kept = (kept[0][self._rows], kept[1][self._rows])
        new = (k, v) if kept is None else (torch.cat([kept[0], k], dim=2), torch.cat([kept[1], v], dim=2))
        self._kept[layer] = new
        return new

    def allowed(self, count: int) -> Tensor:
        """One token at a time sees all there is [1, 1, 1, T]."""
        assert count == 1
        return torch.ones(1, 1, 1, self.length + 1, dtype=torch.bool, device=self._device)

    def follow(self, rows: Tensor) -> None:
        """After a step: row i goes on from what row rows[i] read."""
        self._rows = rows
        self.length += 1


def padded(sequences: Sequence[Sequence[int]], pad: int) -> tuple[Tensor, Tensor]:
    """Ids filled up on the right [B, S], and where they are no padding."""
    lengths = torch.tensor([len(ids) for ids in sequences])
    real = torch.arange(int(lengths.max())) < lengths[:, None]
    ids = torch.full(real.shape, pad)
    ids[real] = torch.tensor([token for sequence in sequences for token in sequence])
    return ids, real


@torch.inference_mode()
def search(
    model: EncoderDecoder, sources: Sequence[Sequence[int]], *, end: int, beams: Beams = Beams()
) -> list[list[Hypothesis]]:
    """The best targets of each source, at most `beams.width` of them, best first. Sources close with the end token.

    What is found for a source does not depend on those beside it. A sentence that is finished leaves the batch.
    Raises UserError when scores are not numbers.
    """
    device = model.embedding.weight.device
    source, real = (x.to(device) for x in padded(sources, model.config.pad))
    memory = model.memory(model.encode(source, real))
    B, W, limit = len(sources), beams.width, min(beams.max_tokens, model.config.context)
    cache = BeamCache(model.config.decoder_layers, device)
    place = torch.arange(B, device=device)  # of the sentences that are left, in `found`
    tokens = torch.full((B, W), model.config.pad, device=device)
    written = torch.empty(B, W, 0, dtype=torch.long, device=device)
    running = torch.full((B, W), -math.inf, device=device)
    running[:, 0] = 0.0  # all begin alike: only one of them may be continued
    ended = torch.full((B, W), -math.inf, device=device)
    texts = torch.full((B, W, limit), end, device=device)
    found: list[list[Hypothesis]] = [[] for _ in sources]
    for length in range(1, limit + 1):
        logits = model.head(model.decode(tokens.view(-1, 1), memory, real, cache)[:, -1]).float()
        scores = logits.log_softmax(dim=-1).view(len(place), W, -1) + running[:, :, None]
        # Of twice as many candidates as beams, at most half end.
        best, flat = scores.flatten(1).topk(2 * W)
        origin, token = flat // logits.shape[-1], flat % logits.shape[-1]
        candidates = torch.cat([_rows(written, origin), token[:, :, None]], dim=2)
        stops = (token == end) | (length == limit)

        closing = (best / length**beams.length_penalty).masked_fill(~stops, -math.inf)[:, :W]
        ended, order = torch.cat([ended, closing], dim=1).topk(W)
        longer = texts.new_full((len(place), W, limit), end)
        longer[:, :, :length] = candidates[:, :W]
        texts = _rows(torch.cat([texts, longer], dim=1), order)

        running, order = best.masked_fill(stops, -math.inf).topk(W)
        tokens, written = token.gather(1, order), _rows(candidates, order)
        origin = origin.gather(1, order)

        worst = ended[:, -1]
        over = (worst > -math.inf) & (beams.early | (running[:, 0] / length**beams.length_penalty <= worst))
        over |= length == limit
        for index in over.nonzero()[:, 0].tolist():
            found[int(place[index])] = _hypotheses(texts[index].tolist(), ended[index].tolist(), end)
        left = (~over).nonzero()[:, 0]
        if not len(left):
            break
        cache.follow((left[:, None] * W + origin[left]).flatten())
        if len(left) < len(place):
            place, tokens, written, running, ended, texts, real = (
                x[left] for x in (place, tokens, written, running, ended, texts, real)
            )
            memory = [(k[left], v[left]) for k, v in memory]
    return found


def _rows(x: Tensor, order: Tensor) -> Tensor:
    """x [B, N, L], order [B, W] of its rows -> [B, W, L]"""
    return x.gather(1, order[:, :, None].expand(-1, -1, x.shape[2]))


def _hypotheses(texts: list[list[int]], scores: list[float], end: int) -> list[Hypothesis]:
    """Texts are filled up with end tokens, of which the first is their own."""
    require_numbers(np.array([score for score in scores if score != -math.inf]))
    return [
        Hypothesis(ids[: ids.index(end) + 1] if end in ids else ids, score)
        for ids, score in zip(texts, scores, strict=True)
        if score > -math.inf
    ]


@torch.inference_mode()
def search_reference(
    model: EncoderDecoder, source: Sequence[int], *, end: int, beams: Beams = Beams()
) -> list[Hypothesis]:
    """The slow twin, for one source: reads everything again for each token, and sorts all continuations there are."""
    ids, real = padded([source], model.config.pad)
    limit = min(beams.max_tokens, model.config.context)
    running, ended = [Hypothesis([], 0.0)], list[Hypothesis]()
    for length in range(1, limit + 1):
        targets = torch.tensor([[model.config.pad, *beam.ids] for beam in running])
        logits = model(ids.expand(len(running), -1), real.expand(len(running), -1), targets)[:, -1]
        continued = [
            Hypothesis([*beam.ids, token], beam.score + score)
            for beam, row in zip(running, logits.log_softmax(dim=-1).tolist(), strict=True)
            for token, score in enumerate(row)
        ]
        continued.sort(key=lambda beam: -beam.score)
        closing = [beam for beam in continued[: beams.width] if beam.ids[-1] == end or length == limit]
        ended += [Hypothesis(beam.ids, beam.score / length**beams.length_penalty) for beam in closing]
        ended = sorted(ended, key=lambda beam: -beam.score)[: beams.width]
        running = [beam for beam in continued if beam.ids[-1] != end][: beams.width]
        hope = running[0].score / length**beams.length_penalty
        if len(ended) == beams.width and (beams.early or hope <= ended[-1].score):
            break
    return ended
