"""`bimo export`: write a model for other engines, open it there, compare, and keep it only when it is the same."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

import bimo
from bimo.baselines import sample_evenly
from bimo.console import SILENT, Console
from bimo.evaluate.prediction import predict_texts
from bimo.export.comparison import OurEngine, compare, differing_weights, other_tensors
from bimo.export.source import Source, open_source
from bimo.export.targets import (
    FORMATS,
    OTHER_TARGETS,
    TARGETS,
    Format,
    OtherTarget,
    Target,
    choose_format,
    require_target,
)
from bimo.files import read_json, replacing, replacing_folder, require_room, write_json
from bimo.models.config import ModelConfig
from bimo.runtime import USAGE, UserError, t
from bimo.tasks.folder import own_data
from bimo.text.store import read_stored
from bimo.tokens.tokenizer import Tokenizer
from bimo.weights.gguf_tokenizer import BESIDE
from bimo.weights.huggingface import family_in
from bimo.weights.opening import open_model

__all__ = ["FORMATS", "SENTENCES", "export"]

PROMPTS = 20
PROMPT_CHARACTERS = 60
LOSS_CHARACTERS = 20_000
"""Of held-out text on which the loss by rounding is measured."""

MOST_ENDS = 2
"""Tokens that end an answer which every format has room for."""

SENTENCES = (
    "会议决定，下周三之前由研发部提交报告。",
    "话说天下大势，分久必合，合久必分。",
    "春眠不觉晓，处处闻啼鸟。",
    "The committee met on Thursday and decided to",
    "It was a bright cold day in April; the clocks",
    "Once upon a time there was a little girl who",
    "def first(items):\n    return items[",
    "混合 mixed 文本 text，3.14 和 2026 年 👍🏽",
)
"""Where there is no text of the model's own."""


def export(
    model: str | Path,
    *,
    to: str,
    out: str | Path,
    weights: str = "",
    adapter: str | Path | None = None,
    data: str | Path | None = None,
    check: bool = False,
    console: Console = SILENT,
) -> dict[str, Any]:
    """Write `model`, a folder or a GGUF file, to `out` for the engines of `to`, one of targets_of its family.

    The adapter in a folder, as `bimo tune --lora` and PEFT write it, is added to the weights, and its template goes
    along: "the model" below is then both together.

    What was written is opened again, by such an engine where one is installed, and compared with the model on prompts
    from the held-out part of `data` (by default those that the model was made from). Returns the comparison, which
    is kept with the result. With `check` nothing is written: what stands at `out` is compared.

    Raises UserError, and leaves `out` as it was, when the two differ by more than the format allows.
    """
    model, out = Path(model), Path(out)
    if not out.name:
        raise UserError("{path} is no name for what is to be written. Choose another --out.", code=USAGE, path=out)
    family = _family(model)
    require_target(to, family)
    if other := OTHER_TARGETS.get((family, to)):
        if adapter is not None:
            raise UserError(
                "--adapter is for Transformer decoders. Other adapters are exported themselves: bimo export {path} "
                "--to hf --out MODEL.",
                code=USAGE,
                path=adapter,
            )
        data = None if data is None else Path(data)
        return _export_other(other, model, to, out, weights, data, check, console)
    target = TARGETS[to]
    kept = _kept(out, folder=target.folder)
    if check and not weights:
        weights = _kept_format(kept)
    form = choose_format(weights or target.formats[0], to, target)
    _require_place(out, kept, check=check)
    source = open_source(model, adapter=None if adapter is None else Path(adapter))
    prompts, texts, where = _held_out(model, None if data is None else Path(data), console)
    rounded = source.with_weights(target.round(source, form.name))
    if uneven := [name for name, matrix in rounded.weights.items() if matrix.format == "F16" != form.name]:
        console.warn(
            t(
                "{count} matrices stay F16, since their rows are no multiple of the format's 32 numbers",
                count=len(uneven),
            )
        )
    facts: dict[str, Any] = {"bimo": bimo.__version__, "model": source.name, "to": to, "weights": form.name}
    facts |= {} if adapter is None else {"adapter": str(adapter)}
    facts |= {"prompts_from": where or "sentences", **_loss(source, rounded, texts, form, console)}

    def write(part: Path) -> None:
        size = sum(matrix.data.nbytes for matrix in rounded.weights.values())
        require_room(out.parent, size + (16 << 20))
        target.write(part, source, form.name)

    def compare_there(part: Path) -> tuple[dict[str, Any], list[str]]:
        return _compared(rounded, part, target, form, prompts, console)

    _keep(out, facts, model, folder=target.folder, write=None if check else write, compare=compare_there)
    facts |= {"path": str(out), "bytes": _size(out)}
    return facts


def _export_other(
    target: OtherTarget,
    model: Path,
    to: str,
    out: Path,
    weights: str,
    data: Path | None,
    check: bool,
    console: Console,
) -> dict[str, Any]:
    """As `export`, for a model that is no decoder."""
    if weights not in ("", "f32"):
        raise UserError(
            "For {to} the weights can be {known}, but not {name}.", code=USAGE, to=to, known="f32", name=weights
        )
    kept = _kept(out, folder=target.folder)
    _require_place(out, kept, check=check)
    texts, _, where = _held_out(model, data, console)
    facts: dict[str, Any] = {"bimo": bimo.__version__, "model": model.name, "to": to, "weights": "F32"}
    facts["prompts_from"] = where or "sentences"
    _keep(
        out,
        facts,
        model,
        folder=target.folder,
        write=None if check else lambda part: target.write(part, model),
        compare=lambda part: target.compare(model, part, texts),
    )
    return {**facts, "path": str(out), "bytes": _size(out)}


def _family(model: Path) -> str:
    """As --family names it; GGUF files hold decoders. Raises UserError when there is no model."""
    family = "decoder" if model.suffix == ".gguf" else family_in(model)
    if not family:
        open_model(model)  # which says what is missing
    return family


def _kept(out: Path, *, folder: bool) -> Path:
    """Where the comparison stands: in the folder, or beside the file."""
    return out / "bimo" / "export.json" if folder else out.with_name(out.name + ".export.json")


def _keep(
    out: Path,
    facts: dict[str, Any],
    model: Path,
    *,
    folder: bool,
    write: Callable[[Path], None] | None,
    compare: Callable[[Path], tuple[dict[str, Any], list[str]]],
) -> None:
    """Write, compare, and keep with the comparison; without `write`, compare what stands at `out`.

    Raises UserError, and leaves `out` as it was, when `compare` finds faults.
    """
    if write is None:
        facts["comparison"], faults = compare(out)
        if faults:
            raise UserError(
                "{out} is not {model} as {form}: {faults}.",
                out=out,
                model=model,
                form=facts["weights"],
                faults=t("; ").join(faults),
            )
        return
    with replacing_folder(out) if folder else replacing(out) as part:
        write(part)
        facts["comparison"], faults = compare(part)
        if faults:
            raise UserError(
                "What was written for {engine} is not what was trained: {faults}. It is not kept.",
                engine=facts["comparison"]["engine"],
                faults=t("; ").join(faults),
            )
        # The note comes first: an export without one would be nobody's, and never be written over.
        if folder:
            write_json(_kept(part, folder=True), facts | {"files": _files(part)})
        else:
            write_json(_kept(out, folder=False), facts)


def _kept_format(kept: Path) -> str:
    if not kept.is_file():
        raise UserError("There is no {path}. Say with --weights which format is to be checked.", code=USAGE, path=kept)
    return read_json(kept)["weights"]


def _require_place(out: Path, kept: Path, *, check: bool) -> None:
    """Nothing but an earlier export is overwritten, and no file that somebody put beside it."""
    if check and not out.exists():
        raise UserError("There is no {path} to check.", code=USAGE, path=out)
    if not check and out.exists() and not kept.exists():
        raise UserError("{path} exists and is no export of Bimo's. Choose another --out.", code=USAGE, path=out)
    if not check and out.is_dir() and "files" in (earlier := read_json(kept)):
        others = {*_files(out)} - {*earlier["files"], kept.relative_to(out).as_posix()}
        if others:
            raise UserError(
                "{path} also holds what is not of the earlier export, such as {name}. Choose another --out.",
                code=USAGE,
                path=out,
                name=min(others),
            )


def _held_out(model: Path, data: Path | None, console: Console) -> tuple[list[str], list[str], str | None]:
    """(Prompts, texts to measure the loss on, the folder they are from or None when they are our own sentences)."""
    folder = data or own_data(model) or model / "bimo" / "data"
    pairs = folder / "pairs" / "validation.tsv"
    prompts, texts = list[str](), list[str]()
    if pairs.is_file():
        sources = (line.split("\t")[0] for line in pairs.read_text(encoding="utf-8").splitlines())
        prompts = texts = list(itertools.islice((source for source in sources if source.strip()), PROMPTS))
    elif (folder / "documents").is_dir():
        documents = [document.text for document in read_stored(folder / "documents", "validation")]
        prompts = [text[:PROMPT_CHARACTERS] for text in itertools.islice(documents, PROMPTS)]
        texts = sample_evenly(documents, LOSS_CHARACTERS)
    elif data is not None:
        raise UserError("{path} is not prepared data. It is made by: bimo prepare SOURCE --out DATA.", path=data)
    if prompts:
        return prompts, texts, str(folder)
    console.warn(t("There is no held-out text of this model: a few sentences of Bimo's own are used. Better: --data."))
    return list(SENTENCES), ["\n".join(SENTENCES)], None


def _loss(source: Source, rounded: Source, texts: list[str], form: Format, console: Console) -> dict[str, Any]:
    """Bits per byte before and after rounding. Raises UserError when they rise by more than the format allows."""
    before, after = (
        predict_texts(each.language_model(), texts, console=console)["bits_per_byte"] for each in (source, rounded)
    )
    loss = after / before - 1
    if not loss <= form.loss:
        raise UserError(
            "In {form} the model needs {after:.4f} bits per byte instead of {before:.4f}, {loss:+.2%}, where "
            "{allowed:.2%} is allowed. Choose a larger format with --weights.",
            form=form.name,
            after=after,
            before=before,
            loss=loss,
            allowed=form.loss,
        )
    return {"bits_per_byte": {"before": before, "after": after, "characters": sum(map(len, texts))}}


def _compared(
    rounded: Source, path: Path, target: Target, form: Format, prompts: list[str], console: Console
) -> tuple[dict[str, Any], list[str]]:
    """What was written beside what was to be written, by our own reader and by the engine it is for; as `compare`."""
    faults = []
    if target.reopen is not None:
        reopened = target.reopen(path)
        faults = _reopened(rounded, reopened)
        _tell_left_out(rounded, rounded.ends - reopened.ends, console)
    trained, written = OurEngine(rounded), target.open(path)
    own = isinstance(written, OurEngine) or target.in_float32
    # GPT-2's GELU is looked up in a table of float16 by llama.cpp, whatever the weights are.
    least = "f16" if rounded.config.feed_forward == "gelu_tanh" else "f32"
    tolerance = FORMATS["f32"].predictions if own else max(form.predictions, FORMATS[least].predictions)
    try:
        facts, more = compare(
            trained, written, prompts, tolerance=tolerance, context=rounded.config.context, console=console
        )
    finally:
        written.close()
    return facts, faults + more


def _reopened(rounded: Source, written: Source) -> list[str]:
    """In words, what our own reader finds to be other than it should."""
    faults = []
    if _in_float32(written.config) != _in_float32(rounded.config):
        faults.append(t("the shape is {found}", found=written.config))
    faults += other_tensors(differing_weights(written, rounded.weights))
    if not _same_tokens(rounded.tokenizer, written.tokenizer):
        faults.append(t("the tokens are others"))
    if written.template != rounded.template:
        faults.append(t("the chat template is another"))
    if (written.special, written.tokenizer.begin) != (rounded.special, rounded.tokenizer.begin):
        faults.append(t("special tokens are others"))
    unsaid = rounded.ends - written.ends
    if written.ends - rounded.ends or (unsaid and len(written.ends) < MOST_ENDS):
        faults.append(t("other tokens end an answer"))
    return faults


def _in_float32(config: ModelConfig) -> ModelConfig:
    """With numbers as a GGUF file holds them: 1e-06 and what it is in float32, 9.999999974752427e-07, are the same."""
    theta, epsilon = (float(np.float32(number)) for number in (config.rope_theta, config.norm_epsilon))
    scaling = config.rope_scaling
    if scaling is not None:
        numbers = (scaling.factor, scaling.low, scaling.high, scaling.attention)
        factor, low, high, attention = (float(np.float32(number)) for number in numbers)
        scaling = replace(scaling, factor=factor, low=low, high=high, attention=attention)
    return replace(config, rope_theta=theta, norm_epsilon=epsilon, rope_scaling=scaling)


def _tell_left_out(rounded: Source, left_out: frozenset[int], console: Console) -> None:
    """Warn of tokens that end an answer here, and there do not: an engine would write on behind them."""
    if left_out:
        names = [rounded.tokenizer.inner.id_to_token(number) or str(number) for number in sorted(left_out)]
        sentence = (
            "The format has room for {most} tokens that end an answer. Left out, so stop at them yourself: {names}"
        )
        console.warn(t(sentence, most=MOST_ENDS, names=", ".join(names)))


def _same_tokens(expected: Tokenizer, found: Tokenizer) -> bool:
    """Whether all ids mean the same, merges are the same, and tokens that were added are found in the same places.

    Ids that a model has beyond its tokens may have names.
    """
    models = [json.loads(each.inner.to_str())["model"] for each in (expected, found)]
    merges = [_joined(model) if model.get("byte_fallback") else model.get("merges") for model in models]
    added = [
        {number: tuple(getattr(token, flag) for flag in BESIDE) for number, token in each.items()}
        for each in (expected.inner.get_added_tokens_decoder(), found.inner.get_added_tokens_decoder())
    ]
    same = expected.inner.get_vocab().items() <= found.inner.get_vocab().items()
    return same and merges[0] == merges[1] and added[0].items() <= added[1].items()


def _joined(model: dict[str, Any]) -> list[str]:
    """Pieces in the order in which they are joined: scores name the pieces, and not of which parts they come."""
    return [*dict.fromkeys(map("".join, model.get("merges") or ()))]


def _files(folder: Path) -> list[str]:
    """Paths of the files in a folder, from there."""
    return sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*") if not file.is_dir())


def _size(path: Path) -> int:
    """Bytes of a file, or of the files of a folder."""
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files)
