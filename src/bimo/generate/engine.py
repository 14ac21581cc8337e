"""A language model in use: text in, text out. B batch, T time (positions), V vocabulary."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bimo.generate.cache import KeyValueCache
from bimo.generate.sample import Sampling, choose
from bimo.models.scoring import Window, rolling_losses, score_windows
from bimo.models.transformer import Decoder
from bimo.runtime import USAGE, UserError, pick_device
from bimo.tokens.tokenizer import StreamDecoder, Tokenizer, load_tokenizer
from bimo.weights.huggingface import load_model

__all__ = ["LanguageModel", "decode", "decode_reference", "generate", "load"]


USUAL = Sampling()


class LanguageModel:
    """A decoder with its tokenizer. Evaluation sees it through `loglikelihood`, `rolling_loglikelihood`, `generate`."""

    def __init__(self, model: Decoder, tokenizer: Tokenizer) -> None:
        self.model, self.tokenizer = model, tokenizer

    def generate(
        self,
        prompt: str = "",
        *,
        max_tokens: int = 200,
        sampling: Sampling = USUAL,
        seed: int = 0,
        stop: tuple[str, ...] = (),
    ) -> Iterator[str]:
        """Stream what follows `prompt`, piece by piece, up to the end of the text, a stop string or max_tokens."""
        ids = [self._prompt_ids(prompt)]
        rows = decode(self.model, ids, end=self.tokenizer.end, max_tokens=max_tokens, sampling=sampling, seed=seed)
        return _until(stop, self._pieces(rows))

    def _pieces(self, rows: Iterator[Tensor]) -> Iterator[str]:
        pieces = StreamDecoder(self.tokenizer)
        for tokens in rows:
            if int(tokens[0]) == self.tokenizer.end:
                break
            yield pieces.push(int(tokens[0]))
        yield pieces.finish()

    def samples(
        self, prompt: str = "", *, count: int, max_tokens: int = 200, sampling: Sampling = USUAL, seed: int = 0
    ) -> list[str]:
        """What follows `prompt`, `count` times, computed together. Sample i is that of seed + i alone."""
        end = self.tokenizer.end
        prompts = [self._prompt_ids(prompt)] * count
        steps = decode(self.model, prompts, end=end, max_tokens=max_tokens, sampling=sampling, seed=seed)
        return [self.tokenizer.decode(_before_end(row, end)) for row in torch.stack(list(steps), dim=1).tolist()]

    def loglikelihood(self, context: str, continuation: str) -> float:
        """Natural logarithm of the probability of `continuation` after `context`, of which the nearest part is read.

        A continuation that is longer than the model's context is read in overlapping windows.
        """
        after = self.tokenizer.encode(continuation)
        limit = self.model.config.context
        ids = [*self._prompt_ids(context), *after][-max(limit, len(after)) - 1 :]
        if len(after) > limit:
            return -rolling_losses(self.model, [ids], context=limit, stride=max(1, limit // 2))[0]
        return -score_windows(self.model, [Window(ids, len(after))])[0]

    def rolling_loglikelihood(self, documents: list[str], *, stride: int | None = None) -> list[float]:
        """Natural logarithm of the probability of each whole document, its end included. `stride` as in scoring."""
        end = self.tokenizer.end
        context = self.model.config.context
        stride = stride or max(1, context // 2)
        ids = [[end, *document, end] for document in self.tokenizer.encode_batch(documents)]
        return [-loss for loss in rolling_losses(self.model, ids, context=context, stride=stride)]

    def _prompt_ids(self, prompt: str) -> list[int]:
        return [self.tokenizer.end, *self.tokenizer.encode(prompt)]


def _before_end(ids: list[int], end: int) -> list[int]:
    return ids[: ids.index(end)] if end in ids else ids


def _until(stop: tuple[str, ...], pieces: Iterator[str]) -> Iterator[str]:
    """Pass pieces on until a stop string is complete; what could be the start of one is held back."""
    stop = tuple(filter(None, stop))
    held = ""
    for piece in pieces:
        held += piece
        # The first to be complete counts, so that the cut does not depend on how the text came in pieces.
        found = [(held.index(text) + len(text), held.index(text)) for text in stop if text in held]
        if found:
            held = held[: min(found)[1]]
            break
        possible = max(
            (length for text in stop for length in range(1, len(text)) if held.endswith(text[:length])), default=0
        )
        ready, held = held[: len(held) - possible], held[len(held) - possible :]
        if ready:
            yield ready
    if held:
        yield held


@torch.inference_mode()
def decode(
    model: Decoder, prompts: list[list[int]], *, end: int, max_tokens: int, sampling: Sampling, seed: int
) -> Iterator[Tensor]:
    """Yields the next id of each row [B], `max_tokens` times or until all have met `end`. Prompts are of one length.

    When the context is full, its second half is read again and writing goes on from there.
    """
    if max_tokens < 1:
        raise UserError("max_tokens must be at least 1, but is {value}.", code=USAGE, value=max_tokens)
    context, device = model.config.context, next(model.parameters()).device
    seen = torch.tensor(prompts, dtype=torch.long, device=device)
    chances = torch.from_numpy(
        np.stack([np.random.default_rng(seed + row).random(max_tokens) for row in range(len(prompts))])
    )
    cache = KeyValueCache(model.config, batch=len(prompts), device=device, dtype=model.compute_dtype)
    new = seen[:, -context:]
    ended = torch.zeros(len(prompts), dtype=torch.bool, device=device)
    for position in range(max_tokens):
        if cache.seen + new.shape[1] > context:
            cache.clear()
            new = seen[:, -max(1, context // 2) :]
        hidden = model.hidden_states(new, cache)
        # The token that begins the document does not count as written, or a penalty would keep it from ending.
        tokens = choose(model.head(hidden[:, -1]), seen[:, 1:], sampling, chances[:, position])
        yield tokens
        ended |= tokens == end
        if bool(ended.all()):
            return
        new = tokens[:, None]
        seen = torch.cat([seen, new], dim=1)


@torch.inference_mode()
def decode_reference(
    model: Decoder, prompts: list[list[int]], *, max_tokens: int, sampling: Sampling, seed: int
) -> Iterator[Tensor]:
    """The slow twin of `decode` inside one context: reads everything again for each token, without a cache."""
    seen = torch.tensor(prompts, dtype=torch.long)
    generators = [np.random.default_rng(seed + row) for row in range(len(prompts))]
    for _ in range(max_tokens):
        chance = torch.tensor([generator.random() for generator in generators], dtype=torch.float64)
        tokens = choose(model(seen)[:, -1], seen[:, 1:], sampling, chance)
        yield tokens
        seen = torch.cat([seen, tokens[:, None]], dim=1)


def load(folder: str | Path, *, device: str = "auto") -> LanguageModel:
    """The model in a Hugging Face folder, ready to write. Raises UserError when the folder is none that Bimo reads."""
    path = Path(folder)
    if not path.is_dir():
        raise UserError("There is no model folder {folder}.", folder=path)
    model = load_model(path, device=pick_device(device))
    tokenizer = load_tokenizer(path)
    if tokenizer.vocabulary > model.config.vocabulary:
        raise UserError(
            "The tokenizer in {folder} has {tokens} tokens, but the model knows {vocabulary}: they do not fit.",
            folder=path,
            tokens=tokenizer.vocabulary,
            vocabulary=model.config.vocabulary,
        )
    return LanguageModel(model, tokenizer)


def generate(folder: str | Path, prompt: str = "", *, max_tokens: int = 200, seed: int = 0) -> str:
    """What the model in `folder` writes after `prompt`, with the default sampling."""
    return "".join(load(folder).generate(prompt, max_tokens=max_tokens, seed=seed))
