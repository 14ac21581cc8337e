"""An encoder with a head of classes, or a recurrent classifier, in use: texts -> how likely each label is.

N texts, K labels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bimo.files import read_settings
from bimo.models.encoder import Encoder, EncoderConfig
from bimo.models.recurrent_classifier import RecurrentClassifier
from bimo.runtime import USAGE, UserError
from bimo.tasks.classify.attribution import leave_one_out
from bimo.tasks.classify.measures import chances
from bimo.tokens.framing import Framed, FramedBatch, Framing
from bimo.tokens.lengths import LengthBatches
from bimo.tokens.tokenizer import load_tokenizer
from bimo.weights.huggingface import load_reader
from bimo.weights.names import require_fitting

__all__ = ["NeuralClassifier", "Reader", "frame", "length_batches", "load_neural_classifier", "logits_of", "on_device"]

Reader = Encoder | RecurrentClassifier

ROWS, TOKENS = 64, 8192
"""Of a batch, filled up."""


@dataclass(frozen=True, eq=False)
class NeuralClassifier:
    """Its labels are those of the model."""

    model: Reader
    framing: Framing

    @property
    def labels(self) -> tuple[str, ...]:
        """In the order of the columns of `chances`."""
        return self.model.config.labels

    @property
    def several(self) -> bool:
        """Whether a text may have more labels than one, or none."""
        return self.model.config.several

    def chances(self, texts: Sequence[str], seconds: Sequence[str] = ()) -> np.ndarray:
        """How likely each label is, [N, K]."""
        return chances(self.scores(texts, seconds), several=self.several)

    def scores(self, texts: Sequence[str], seconds: Sequence[str] = ()) -> np.ndarray:
        """Logits [N, K], float32."""
        return logits_of(self.model, self.framing, frame(self.framing, texts, seconds))

    def decisive(self, text: str, label: int) -> list[tuple[int, int, float]]:
        """(begins, ends, weight) of the first words of a text, each left out in turn."""
        return leave_one_out(self.scores, text, label, several=self.several)


def frame(framing: Framing, texts: Sequence[str], seconds: Sequence[str] = ()) -> list[Framed]:
    """Each text by itself, or as a pair where it has a second one."""
    given = list(zip(texts, seconds or [""] * len(texts), strict=True))
    pairs = [pair for pair in given if pair[1]]
    paired = iter(framing.pairs([one for one, _ in pairs], [other for _, other in pairs]) if pairs else ())
    alone = iter(framing.texts([one for one, other in given if not other]))
    return [next(paired if other else alone) for _, other in given]


def on_device(batch: FramedBatch, model: Reader) -> dict[str, Tensor]:
    """The arguments of the model."""
    device = model.embedding.weight.device
    ids, segments, real = (torch.from_numpy(part).to(device) for part in batch)
    known = model.config.segments if isinstance(model.config, EncoderConfig) else 1
    return {"ids": ids, "segments": segments.clamp(max=known - 1), "real": real}


@torch.inference_mode()
def logits_of(model: Reader, framing: Framing, framed: Sequence[Framed]) -> np.ndarray:
    """[N, K], float32; those of like length are computed together."""
    found = np.empty((len(framed), len(model.config.labels)), dtype=np.float32)
    for numbers in length_batches(framed):
        batch = framing.batch([framed[number] for number in numbers])
        found[numbers] = model(**on_device(batch, model)).float().cpu().numpy()
    return found


def length_batches(framed: Sequence[Framed]) -> Iterator[np.ndarray]:
    """The numbers of texts that are computed together."""
    if not framed:
        return iter(())
    return iter(LengthBatches([len(one.ids) for one in framed], rows=ROWS, tokens=TOKENS, seed=0))


def load_neural_classifier(folder: Path, *, device: torch.device | None = None) -> NeuralClassifier:
    """What a folder holds. Raises UserError when it tells no classes of texts, or gives a number instead."""
    model = load_reader(folder, device=device)
    if isinstance(model, Encoder) and model.config.head.kind != "classes":
        raise UserError(
            "{folder} holds an encoder that knows no classes yet. Teach it some: bimo tune {folder} FILE --out OUT "
            "--task classify.",
            code=USAGE,
            folder=folder,
        )
    one = len(model.config.labels) < 2 and not model.config.several
    if one or read_settings(folder / "config.json").get("problem_type") == "regression":
        raise UserError(
            "{folder} holds an encoder that gives texts a number each, no labels. Teach it some: bimo tune {folder} "
            "FILE --out OUT --task classify.",
            code=USAGE,
            folder=folder,
        )
    tokenizer = load_tokenizer(folder)
    require_fitting(folder, tokens=tokenizer.vocabulary, vocabulary=model.config.vocabulary)
    return NeuralClassifier(model, Framing(tokenizer, context=model.config.context))
