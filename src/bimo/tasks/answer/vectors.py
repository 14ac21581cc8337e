"""Vectors of texts: the mean of what an encoder says of their tokens (Reimers and Gurevych 2019)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from bimo.tasks.answer.retrieval import Embed
from bimo.tokens.framing import Framing
from bimo.tokens.lengths import LengthBatches
from bimo.tokens.tokenizer import load_tokenizer
from bimo.weights.huggingface import load_encoder

__all__ = ["load_embed"]

AT_ONCE, MOST_TOKENS, LONGEST = 64, 8192, 256


def load_embed(folder: Path, *, device: torch.device | None = None) -> Embed:
    """What makes vectors of texts by the encoder in a folder. Raises UserError when there is none."""
    model = load_encoder(folder, device=device)
    framing = Framing(load_tokenizer(folder), context=min(LONGEST, model.config.context))

    @torch.inference_mode()
    def embed(texts: Sequence[str]) -> np.ndarray:
        framed = framing.texts(texts)
        found = np.zeros((len(framed), model.config.width), dtype=np.float32)
        for numbers in LengthBatches([len(one.ids) for one in framed], rows=AT_ONCE, tokens=MOST_TOKENS, seed=0):
            batch = framing.batch([framed[number] for number in numbers])
            ids, segments, real = (torch.from_numpy(part).to(device or "cpu") for part in batch)
            hidden = model.hidden_states(ids, segments=segments, real=real).float() * real[..., None]
            means = torch.nn.functional.normalize(hidden.sum(dim=1) / real.sum(dim=1, keepdim=True), dim=1)
            found[numbers] = means.cpu().numpy()
        return found

    return embed
