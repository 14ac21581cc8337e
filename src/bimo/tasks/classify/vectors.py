"""N-grams and the vectors of an encoder that stays as it is, judged by one linear classifier over both.

N texts, D width of the encoder, K labels. In a folder: `linear/` for the n-grams, `encoder/`, and `model.safetensors`
with the weights of the vectors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bimo.console import SILENT, Console
from bimo.files import replacing, write_json
from bimo.models.encoder import Encoder
from bimo.models.pooling import pool
from bimo.runtime import UserError
from bimo.tasks.classify.attribution import leave_one_out
from bimo.tasks.classify.linear import VECTORS_TYPE, LinearClassifier, joined, load_linear
from bimo.tasks.classify.measures import chances
from bimo.tasks.classify.neural import frame, length_batches, on_device
from bimo.tasks.folder import tell_cut
from bimo.tokens.framing import Framing
from bimo.tokens.tokenizer import load_tokenizer
from bimo.weights.huggingface import load_encoder, save_encoder
from bimo.weights.safetensors_files import read_weights, weight_files

__all__ = ["VectorsClassifier", "load_vectors_classifier", "open_vectors", "text_vectors"]

MOST_TOKENS = 256
"""Of a text that are read."""


@dataclass(frozen=True, eq=False)
class VectorsClassifier:
    """`weights` float32 [D, K] are those of the vectors; those of the n-grams and the biases are in `linear`."""

    linear: LinearClassifier
    weights: np.ndarray
    model: Encoder
    framing: Framing

    @property
    def labels(self) -> tuple[str, ...]:
        """In the order of the columns of `chances`."""
        return self.linear.labels

    @property
    def several(self) -> bool:
        """Whether a text may have more labels than one, or none."""
        return self.linear.several

    def chances(self, texts: Sequence[str], seconds: Sequence[str] = ()) -> np.ndarray:
        """How likely each label is, [N, K]."""
        return chances(self.scores(texts, seconds), several=self.several)

    def scores(self, texts: Sequence[str], seconds: Sequence[str] = ()) -> np.ndarray:
        """[N, K]"""
        vectors = text_vectors(self.model, self.framing, texts, seconds)
        return self.linear.scores(joined(texts, seconds)) + vectors @ self.weights

    def decisive(self, text: str, label: int) -> list[tuple[int, int, float]]:
        """(begins, ends, weight) of the first words of a text, each left out in turn."""
        return leave_one_out(self.scores, text, label, several=self.several)

    def save(self, folder: Path) -> None:
        """Write everything; `config.json` comes last."""
        from safetensors.numpy import save_file

        self.linear.save(folder / "linear")
        tokenizer = self.framing.tokenizer
        save_encoder(folder / "encoder", self.model, pad=tokenizer.special_id("pad_token"))
        tokenizer.save(folder / "encoder", context=self.framing.context)
        with replacing(folder / "model.safetensors") as part:
            save_file({"vectors": self.weights}, part)
        settings = {"model_type": VECTORS_TYPE, "labels": list(self.labels), "several": self.several}
        write_json(folder / "config.json", settings)


def open_vectors(folder: Path, *, device: torch.device | None = None) -> tuple[Encoder, Framing]:
    """The encoder of a folder, and how it reads texts."""
    model = load_encoder(folder, device=device)
    return model, Framing(load_tokenizer(folder), context=min(MOST_TOKENS, model.config.context))


@torch.inference_mode()
def text_vectors(
    model: Encoder,
    framing: Framing,
    texts: Sequence[str],
    seconds: Sequence[str] = (),
    *,
    console: Console = SILENT,
) -> np.ndarray:
    """Vectors [N, D] of texts, float32: the mean over the tokens of each, brought to length 1."""
    framed = frame(framing, texts, seconds)
    tell_cut(framed, framing.context, console)
    found = np.empty((len(framed), model.config.width), dtype=np.float32)
    with console.progress("Reading", len(framed)) as update:
        done = 0
        for numbers in length_batches(framed):
            given: dict[str, Any] = on_device(framing.batch([framed[number] for number in numbers]), model)
            hidden = model.hidden_states(**given)
            found[numbers] = pool(hidden, given["real"], how="mean", normalize=True).cpu().numpy()
            done += len(numbers)
            update(done, "")
    return found


def load_vectors_classifier(folder: Path, *, device: torch.device | None = None) -> VectorsClassifier:
    """What `save` wrote. Raises UserError when it is not whole."""
    linear = load_linear(folder / "linear")
    model, framing = open_vectors(folder / "encoder", device=device)
    stored = read_weights(weight_files(folder))
    shape = (model.config.width, len(linear.labels))
    found = stored.get("vectors")
    if found is None or tuple(found.shape) != shape or found.dtype != torch.float32 or not bool(found.isfinite().all()):
        sentence = "The weights in {folder} do not fit its config.json, first at {name}."
        raise UserError(sentence, folder=folder, name="vectors")
    return VectorsClassifier(linear, found.numpy().copy(), model, framing)
