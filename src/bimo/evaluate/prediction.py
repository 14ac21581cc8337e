"""How well language models predict text that they never saw, one by itself or two on the same texts."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from bimo.baselines import MOST_VALIDATION_CHARACTERS, sample_evenly
from bimo.console import SILENT, Console
from bimo.generate.engine import LanguageModel
from bimo.generate.sample import require_numbers
from bimo.intervals import Statistic, interval_if_enough, paired_bootstrap
from bimo.models.scoring import Score
from bimo.runtime import DATA_REFUSED, UserError, t
from bimo.stages import is_prepared
from bimo.text.collect import read_texts
from bimo.text.passages import LONGEST_TARGET
from bimo.text.store import read_stored
from bimo.train.objectives import MOST_NATS

__all__ = ["bits_statistic", "certainty", "compare_models", "comparison_line", "predict_texts", "texts_to_predict"]


def texts_to_predict(source: Path, console: Console) -> list[str]:
    """What nothing was trained on in prepared data, else whatever text stands in a file or folder, as it is.

    Raises UserError when there is none.
    """
    if is_prepared(source):
        held_out = (document.text for document in read_stored(source / "documents", "validation"))
        texts = sample_evenly(held_out, MOST_VALIDATION_CHARACTERS)
    else:
        # A text has the same figure whatever lies beside it.
        found = read_texts([source], unread=lambda rejected: console.warn(str(rejected)), passage=LONGEST_TARGET)
        texts = list(found)
    if not texts:
        raise UserError("{source} holds no text to evaluate on.", code=DATA_REFUSED, source=source)
    return texts


def predict_texts(model: LanguageModel, texts: list[str], *, console: Console = SILENT) -> dict[str, Any]:
    """Bits per byte of whole texts, ends included, with a 95 % interval from a bootstrap over the texts, if those are
    enough for one.

    `accuracy` is the share of the tokens that the model held for the likeliest.
    """
    bytes_ = np.array([len(text.encode()) for text in texts])
    scores = _scores(model, texts, console)
    losses = np.array([score.nats for score in scores])
    tokens = sum(len(ids) + 1 for ids in model.tokenizer.encode_batch(texts))

    context = model.model.config.context
    return {
        "bits_per_byte": float(losses.sum() / bytes_.sum() / math.log(2)),
        "bits_per_byte_interval": interval_if_enough(bits_statistic(losses, bytes_), len(texts)),
        "bits_per_character": float(losses.sum() / sum(map(len, texts)) / math.log(2)),
        "perplexity": math.exp(min(float(losses.sum()) / tokens, MOST_NATS)),
        "accuracy": sum(score.hits for score in scores) / tokens,
        "context": context,
        "stride": context // 2,
        "validation": {
            "documents": len(texts),
            "bytes": int(bytes_.sum()),
            "characters": sum(map(len, texts)),
            "tokens": tokens,
        },
    }


def bits_statistic(nats: np.ndarray, bytes_: np.ndarray) -> Statistic:
    """Bits per byte of resamples [R, N] of texts that cost `nats` [N] and have so many bytes [N]: [R]."""
    return lambda drawn: nats[drawn].sum(axis=1) / bytes_[drawn].sum(axis=1) / math.log(2)


def certainty(interval: list[float] | None) -> str:
    """What is said in brackets of bits per byte: how sure they are."""
    if interval is None:
        return t("too few texts to say how sure that is")
    return t("{low:.3f}-{high:.3f} in 95 % of resamples", low=interval[0], high=interval[1])


def _scores(model: LanguageModel, texts: list[str], console: Console) -> list[Score]:
    """Of each text. Raises UserError when one is no number."""
    scores: list[Score] = []
    with console.progress("Evaluate", len(texts)) as update:
        for start in range(0, len(texts), 64):
            scores += model.rolling_scores(texts[start : start + 64])
            update(len(scores), "")
    require_numbers(np.array([score.nats for score in scores]))
    if changed := sum(model.tokenizer.decode(model.tokenizer.encode(text)).strip() != text.strip() for text in texts):
        sentence = "{count:,} of {texts:,} texts do not come back from this tokenizer: its bits per byte are too few"
        console.warn(t(sentence, count=changed, texts=len(texts)))
    return scores


def compare_models(
    model: LanguageModel, other: LanguageModel, texts: list[str], *, console: Console = SILENT
) -> dict[str, Any]:
    """Bits per byte of two models on the same texts, and how sure their difference is: a bootstrap over pairs."""
    bytes_ = np.array([len(text.encode()) for text in texts])
    nats = [np.array([score.nats for score in _scores(one, texts, console)]) for one in (model, other)]
    low, high, p = paired_bootstrap(
        bits_statistic(nats[0], bytes_),
        bits_statistic(nats[1], bytes_),
        len(texts),
        differing=int((nats[0] != nats[1]).sum()),
    )
    mine, theirs = (float(losses.sum() / bytes_.sum() / math.log(2)) for losses in nats)
    return {
        "task": "comparison",
        "bits_per_byte": mine,
        "against_bits_per_byte": theirs,
        "difference": mine - theirs,
        "difference_interval": [low, high],
        "p": p,
        "documents": len(texts),
    }


def comparison_line(facts: dict[str, Any]) -> str:
    """The comparison for people."""
    low, high = facts["difference_interval"]
    return t(
        "{mine:.4f} bits per byte, the other model {theirs:.4f}: a difference of {difference:+.4f} "
        "({low:+.4f} to {high:+.4f} in 95 % of resamples, p {p:.3f}) on {documents:,} documents",
        mine=facts["bits_per_byte"],
        theirs=facts["against_bits_per_byte"],
        difference=facts["difference"],
        low=low,
        high=high,
        p=facts["p"],
        documents=facts["documents"],
    )
