"""Encoder-decoders for CTranslate2 and as Marian's folders, and whether they translate there as here.

B texts, S tokens of a source, T of a target, V vocabulary.
"""

from __future__ import annotations

import filecmp
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bimo.export.comparison import other_ids, other_model, other_predictions
from bimo.export.hf import load_there
from bimo.files import read_json, read_settings, write_json
from bimo.generate.beam import Beams, Hypothesis, padded, search
from bimo.generate.translator import copy_learned
from bimo.models.seq2seq import EncoderDecoder
from bimo.runtime import t
from bimo.tokens.directions import tags_of
from bimo.tokens.tokenizer import Tokenizer, load_tokenizer
from bimo.weights.ctranslate import VOCABULARY, WEIGHTS, beam_outputs, names_of_ids, token_scores, write_ctranslate2
from bimo.weights.huggingface import load_translator, save_translator

__all__ = ["compare_ctranslate2", "compare_marian", "write_ctranslate2", "write_translator"]

GENERATION = "generation_config.json"
TOLERANCE = 1e-3
"""By how much log-probabilities may differ: all compute in float32, in another order."""

MOST_TOKENS = 128
MOST_BEAMS = 16
"""A folder may ask for any number; a comparison needs no more."""

TIE = 1e-4
"""Of scores: nearer than this two translations are equally good in float32."""


def write_translator(path: Path, folder: Path) -> None:
    """The translation model in a folder, with its tokenizer and how it searches, as a folder of Marian's."""
    model, tokenizer = load_translator(folder), load_tokenizer(folder)
    save_translator(path, model, end=tokenizer.end)
    if (folder / GENERATION).is_file():
        write_json(path / GENERATION, read_settings(folder / GENERATION))
    tokenizer.save(path, context=model.config.context)
    copy_learned(folder, path)


def compare_ctranslate2(folder: Path, path: Path, texts: list[str]) -> tuple[dict[str, Any], list[str]]:
    """(What was compared, in words what differs): names of ids, the best translation of each text, its scores."""
    ours = _translate(folder, texts)
    # Names go in and come out by the file that was written: if it is wrong, both ways are, and ids stay the same.
    if not (path / VOCABULARY).is_file() or read_json(path / VOCABULARY) != names_of_ids(ours.tokenizer, ours.pad):
        return {"engine": "CTranslate2", "prompts": len(texts)}, [t("the tokens are others")]
    beams = ours.beams
    found = beam_outputs(
        path, ours.sources, width=beams.width, length_penalty=beams.length_penalty, max_tokens=beams.max_tokens
    )
    scores = token_scores(path, ours.sources, [ids[:-1] for ids in ours.closed])
    facts, faults = _compared(ours, "CTranslate2", [best for best, *_ in found], scores)
    # Texts show few ids and places. All of them take minutes, and need not be tried where the bytes are the same.
    return facts, faults or ([] if _is_written_so(folder, path) else _other_sweep(ours, path))


def _is_written_so(folder: Path, path: Path) -> bool:
    """Whether the weights are, to the byte, what the library writes of the model now; another version may not."""
    with tempfile.TemporaryDirectory() as place:
        again = Path(place) / "again"
        write_ctranslate2(again, folder)
        return filecmp.cmp(path / WEIGHTS, again / WEIGHTS, shallow=False)


def _other_sweep(ours: _Translated, path: Path) -> list[str]:
    """In words, what differs where every id is read and written once, at all places."""
    end, length = ours.tokenizer.end, ours.model.config.context - 1
    ids = [number for number in range(ours.pad) if number != end]
    rows = [ids[start : start + length] for start in range(0, len(ids), length)]
    # The last ids are written where the first ones are read, so that no row is read and written at one place.
    sources, targets = [[*row, end] for row in rows], [row[::-1] for row in rows]
    found = token_scores(path, sources, targets)
    differences = []
    for source, target, theirs in zip(sources, targets, found, strict=True):
        (mine,) = _scores(ours.model, [source], [[*target, end]], ours.pad)
        differences.append(_difference(mine, theirs))
    return other_predictions(float(np.max(differences)), TOLERANCE)


def compare_marian(folder: Path, path: Path, texts: list[str]) -> tuple[dict[str, Any], list[str]]:
    """As compare_ctranslate2, with ids of texts and all weights; where transformers is missing, by our reader alone."""
    ours, written = _translate(folder, texts), _translate(path, texts)
    faults = other_model(ours.model, written.model)
    if written.beams != ours.beams:
        faults.append(t("the settings of the search are others"))
    same = [mine == found for mine, found in zip(ours.ids, written.ids, strict=True)]
    try:
        engine, theirs, their_tokenizer = load_there(path, "MarianMTModel")
    except ImportError:
        scores = _scores(written.model, ours.sources, ours.closed, ours.pad)
        facts, more = _compared(ours, "bimo", [best.ids for best in written.best], scores)
    else:
        scores = _scores(_logits_there(theirs), ours.sources, ours.closed, ours.pad)
        facts, more = _compared(ours, engine, _search_there(theirs, ours), scores)
        same = [
            equal and [*mine, ours.tokenizer.end] == their_tokenizer(text).input_ids
            for equal, mine, text in zip(same, ours.ids, texts, strict=True)
        ]
    return facts | {"equal_ids": sum(same)}, faults + more + other_ids(texts, same)


@dataclass(frozen=True, eq=False)
class _Translated:
    """Texts as our own reader and search translate them: the slow twin of every engine.

    `ids` are those of the texts; `sources` are cut to what fits and closed with the end token.
    """

    model: EncoderDecoder
    tokenizer: Tokenizer
    beams: Beams
    ids: list[list[int]]
    sources: list[list[int]]
    best: list[Hypothesis]

    @property
    def pad(self) -> int:
        """Padding, the last id: no target holds it."""
        return self.model.config.pad

    @property
    def closed(self) -> list[list[int]]:
        """The best targets, each closed with the end token, whether or not the search met one."""
        end = self.tokenizer.end
        return [[*(token for token in best.ids if token not in (end, self.pad)), end] for best in self.best]


def _translate(folder: Path, texts: list[str]) -> _Translated:
    model, tokenizer = load_translator(folder), load_tokenizer(folder)
    tag = [*tags_of(tokenizer).values()][:1]  # of several ways one is as good as the other to compare engines
    beams, limit = saved_beams(folder, model), model.config.context - 1 - len(tag)
    ids = tokenizer.encode_batch(texts)
    sources = [[*tag, *each[:limit], tokenizer.end] for each in ids]
    best = [first for first, *_ in search(model, sources, end=tokenizer.end, beams=beams)]
    return _Translated(model, tokenizer, beams, ids, sources, best)


def saved_beams(folder: Path, model: EncoderDecoder) -> Beams:
    """How a folder says that it is searched, within bounds; where it does not, as we do."""
    settings = read_settings(folder / GENERATION) if (folder / GENERATION).is_file() else {}
    width, penalty = settings.get("num_beams"), settings.get("length_penalty")
    return Beams(
        width=width if type(width) is int and 1 <= width <= MOST_BEAMS else Beams.width,
        length_penalty=float(penalty) if isinstance(penalty, int | float) else Beams.length_penalty,
        max_tokens=min(MOST_TOKENS, model.config.context - 1),
    )


Logits = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
"""Of sources [B, S], where they are no padding [B, S], and targets [B, T]: [B, T, V]."""


@torch.inference_mode()
def _scores(logits: Logits, sources: list[list[int]], targets: list[list[int]], pad: int) -> list[list[float]]:
    """The log-probabilities of the tokens of each target, among all but padding."""
    given, _ = padded([[pad, *target[:-1]] for target in targets], pad)
    logs = logits(*padded(sources, pad), given)[..., :pad].float().log_softmax(dim=-1)
    return [row[range(len(target)), target].tolist() for row, target in zip(logs, targets, strict=True)]


def _logits_there(model: Any) -> Logits:
    """As a model of transformers says them."""
    return lambda ids, real, targets: model(input_ids=ids, attention_mask=real.long(), decoder_input_ids=targets).logits


def _search_there(model: Any, ours: _Translated) -> list[list[int]]:
    """The best that a model of transformers finds for each source, the end token included."""
    from transformers import GenerationConfig

    end = ours.tokenizer.end
    model.generation_config = GenerationConfig(
        do_sample=False,
        num_beams=ours.beams.width,
        length_penalty=ours.beams.length_penalty,
        early_stopping=ours.beams.early,
        max_new_tokens=ours.beams.max_tokens,
        pad_token_id=ours.pad,
        decoder_start_token_id=ours.pad,
        eos_token_id=end,
    )
    ids, real = padded(ours.sources, ours.pad)
    rows = model.generate(input_ids=ids, attention_mask=real.long())[:, 1:].tolist()
    return [row[: row.index(end) + 1] if end in row else row for row in rows]


def _compared(
    ours: _Translated, engine: str, found: list[list[int]], scores: list[list[float]]
) -> tuple[dict[str, Any], list[str]]:
    """Ours beside the best that an engine finds for each source, and beside its scores of our targets.

    Where it finds another target, our model must hold both to be equally good.
    """
    expected = _scores(ours.model, ours.sources, ours.closed, ours.pad)
    largest = float(np.max([_difference(mine, theirs) for mine, theirs in zip(expected, scores, strict=True)]))
    other = [
        number
        for number, (source, best, target) in enumerate(zip(ours.sources, ours.best, found, strict=True))
        if target != best.ids and not _are_as_good(ours, source, best.ids, target)
    ]
    facts = {
        "engine": engine,
        "prompts": len(found),
        "beams": ours.beams.width,
        "length_penalty": ours.beams.length_penalty,
        "equal_translations": len(found) - len(other),
        "tolerance": TOLERANCE,
        "largest_difference": largest,
    }
    faults = other_predictions(largest, TOLERANCE)
    if other:
        text = ours.tokenizer.decode(ours.sources[other[0]])
        sentence = "{count} of {texts} texts are translated otherwise, first “{text}”"
        faults.append(t(sentence, count=len(other), texts=len(found), text=text))
    return facts, faults


def _difference(expected: list[float], found: list[float]) -> float:
    """The largest one; NaN for another count."""
    return float(np.abs(np.subtract(expected, found)).max()) if len(expected) == len(found) else float("nan")


def _are_as_good(ours: _Translated, source: list[int], *targets: list[int]) -> bool:
    """Whether our model gives two targets the same score."""
    if not all(target and max(target) < ours.pad for target in targets):
        return False
    logs = _scores(ours.model, [source] * len(targets), list(targets), ours.pad)
    first, second = (sum(each) / len(each) ** ours.beams.length_penalty for each in logs)
    return abs(first - second) < TIE
