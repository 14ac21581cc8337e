"""A model that makes a vector of each text: an encoder, as sentence-transformers would use it, or a language model.

N texts, D width, T ids of the longest text of a batch.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bimo.models.encoder import Encoder
from bimo.models.pooling import pool, pool_reference
from bimo.runtime import pick_device
from bimo.tokens.framing import Framing
from bimo.tokens.lengths import LengthBatches
from bimo.tokens.tokenizer import Tokenizer, load_tokenizer
from bimo.weights.gguf import GGUFModel
from bimo.weights.huggingface import family_in, load_encoder
from bimo.weights.names import require_fitting
from bimo.weights.opening import open_model
from bimo.weights.sentence_transformers import SentenceLayout, read_layout

__all__ = ["Embedder", "embed", "open_embedder"]

ROWS_AT_ONCE, TOKENS_AT_ONCE = 256, 2048
"""Of a batch: measured best on two cores, where what a layer makes of it stays in the cache."""

TEXTS_AT_ONCE = 4096
"""Of a stream: enough that those of like length find each other."""


class Embedder:
    """`model` with its tokenizer; `layout` says how hidden states become a vector."""

    def __init__(self, model: Any, tokenizer: Tokenizer, layout: SentenceLayout) -> None:
        self.model, self.tokenizer, self.layout = model.eval(), tokenizer, layout
        own = model.config.context
        self.context = min(layout.context, own) if layout.context else own
        self._framing = Framing(tokenizer, context=self.context) if isinstance(model, Encoder) else None

    @property
    def width(self) -> int:
        """Numbers of a vector."""
        return self.model.config.width

    def ids(self, texts: Sequence[str]) -> list[list[int]]:
        """What the model reads of each text, special tokens included; of one that is too long the beginning."""
        texts = [text.lower() for text in texts] if self.layout.lower else list(texts)
        if self._framing is not None:
            return [framed.ids for framed in self._framing.texts(texts)]
        tokenizer = self.tokenizer
        begin = tokenizer.begin or [tokenizer.end]  # so that an empty text is something to read as well
        return [[*begin, *ids][: self.context] for ids in tokenizer.encode_batch(texts)]

    @torch.inference_mode()
    def embed(self, texts: Sequence[str]) -> np.ndarray:
        """[N, D] in float32, in the order of the texts; those of like length are read together."""
        vectors = np.empty((len(texts), self.width), dtype=np.float32)
        ids = self.ids(texts)
        if not ids:
            return vectors
        for numbers in LengthBatches([*map(len, ids)], rows=ROWS_AT_ONCE, tokens=TOKENS_AT_ONCE, seed=0):
            vectors[numbers] = self._pooled([ids[number] for number in numbers]).cpu().numpy()
        return vectors

    @torch.inference_mode()
    def embed_reference(self, texts: Sequence[str]) -> np.ndarray:
        """`embed`, each text by itself."""
        how, normalize, device = self.layout.pooling, self.layout.normalize, self._device
        rows = [self.model.hidden_states(torch.tensor([ids], device=device))[0].float() for ids in self.ids(texts)]
        return torch.stack([pool_reference(row, how=how, normalize=normalize) for row in rows]).cpu().numpy()

    def stream(self, texts: Iterable[str]) -> Iterator[tuple[list[str], np.ndarray]]:
        """Texts and their vectors, some thousands at a time, so that it does not matter how many there are."""
        remaining = iter(texts)
        while some := list(itertools.islice(remaining, TEXTS_AT_ONCE)):
            yield some, self.embed(some)

    @property
    def _device(self) -> torch.device:
        return self.model.embedding.weight.device

    def _pooled(self, texts: Sequence[list[int]]) -> torch.Tensor:
        """[B, D] of a batch."""
        filled = np.zeros((len(texts), max(map(len, texts))), dtype=np.int64)
        real = np.zeros(filled.shape, dtype=bool)
        for row, ids in enumerate(texts):
            filled[row, : len(ids)] = ids
            real[row, : len(ids)] = True
        read, there = (torch.from_numpy(part).to(self._device) for part in (filled, real))
        seen = {"real": there} if self._framing is not None else {}  # who reads from left to right sees no padding
        hidden = self.model.hidden_states(read, **seen)
        return pool(hidden, there, how=self.layout.pooling, normalize=self.layout.normalize)


def open_embedder(path: str | Path, *, device: str = "auto") -> Embedder:
    """The model in a folder or a GGUF file. Raises UserError when it makes no vectors, or its parts do not fit."""
    path, where = Path(path), pick_device(device)
    if path.is_dir() and family_in(path) == "encoder":
        model, tokenizer = load_encoder(path, device=where), load_tokenizer(path)
        require_fitting(path, tokens=tokenizer.vocabulary, vocabulary=model.config.vocabulary)
        return Embedder(model, tokenizer, read_layout(path))
    opened = open_model(path, device=where)
    source = opened.source.decoder(device=where) if isinstance(opened.source, GGUFModel) else opened.source
    return Embedder(source, opened.tokenizer, SentenceLayout())


def embed(model: str | Path, texts: Sequence[str], *, device: str = "auto") -> np.ndarray:
    """A vector for each text, [N, D] in float32. For many calls open the model once: `open_embedder`."""
    return open_embedder(model, device=device).embed(texts)
