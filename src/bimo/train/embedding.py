"""An embedding that starts from word vectors: tokens that are words begin near the words that are used like them."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from bimo.tokens.tokenizer import Tokenizer
from bimo.vectors.word_vectors import WordVectors

__all__ = ["start_from_vectors"]


def start_from_vectors(embedding: Tensor, tokenizer: Tokenizer, vectors: WordVectors) -> int:
    """Overwrite the rows of embedding [V, D] whose tokens are known words, in place; returns how many.

    Rows keep the mean length that they had. Wider vectors give their principal components, of narrower ones the last
    columns stay as they were.
    """
    words = [tokenizer.decode([token]).strip() for token in range(tokenizer.vocabulary)]
    known = {token: vector for token, word in enumerate(words) if word and (vector := vectors.vector(word)) is not None}
    if not known:
        return 0
    rows = np.stack(list(known.values()))
    rows = _principal_components(rows - rows.mean(0), embedding.shape[1])
    width = rows.shape[1]
    chosen = torch.tensor(list(known))
    with torch.no_grad():
        new = torch.from_numpy(rows).to(embedding)
        length = embedding[chosen, :width].norm(dim=1).mean()
        embedding[chosen, :width] = new * (length / new.norm(dim=1).mean().clamp_min(1e-12))
    return len(known)


def _principal_components(rows: np.ndarray, most: int) -> np.ndarray:
    """[N, D] -> [N, min(D, most)]: where there is not the room, the directions in which the rows differ most."""
    if rows.shape[1] <= most:
        return rows
    return rows @ np.linalg.svd(rows, full_matrices=False)[2][:most].T
