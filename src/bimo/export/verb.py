"""`bimo export`: write a model for other engines, open it there, compare, and keep it only when it is the same."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bimo
from bimo.baselines import sample_evenly
from bimo.console import SILENT, Console
from bimo.evaluate.suite import predict_texts
from bimo.export.comparison import Engine, OurEngine, compare, differing_weights
from bimo.export.encoders import compare_onnx, write_encoder
from bimo.export.gguf import open_with_llama_cpp, round_gguf, write_gguf_file
from bimo.export.hf import open_hf, round_hf, write_hf
from bimo.export.source import Source, open_gguf, open_source
from bimo.export.translators import compare_ctranslate2, write_ctranslate2
from bimo.files import read_json, replacing, replacing_folder, require_room, write_json
from bimo.runtime import USAGE, UserError, t
from bimo.text.store import read_stored
from bimo.tokens.tokenizer import Tokenizer
from bimo.weights.gguf_blocks import StoredMatrix
from bimo.weights.huggingface import family_in

__all__ = ["FORMATS", "TARGETS", "Target", "export", "export_lines"]

PROMPTS = 20
PROMPT_CHARACTERS = 60
LOSS_CHARACTERS = 20_000
"""Of held-out text on which the loss by rounding is measured."""

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


@dataclass(frozen=True)
class Format:
    """By how much what a format holds may differ from what was trained.

    `loss` is the share by which bits per byte may rise through rounding. `predictions` is by how much an engine's
    log-probabilities may differ from those of the rounded weights in float32: what it rounds while it computes.
    """

    name: str
    loss: float
    predictions: float


FORMATS = {
    "f32": Format("F32", 0.0001, 1e-3),
    "f16": Format("F16", 0.001, 0.05),
    "bf16": Format("BF16", 0.005, 0.4),
    "q8_0": Format("Q8_0", 0.005, 1.5),
    "q4_1": Format("Q4_1", 0.1, 1.5),
}
"""By the name that --weights gives; docs/formats.md has the reasons for the numbers."""

OTHER_NAMES = {"int8": "q8_0", "int4": "q4_1"}


@dataclass(frozen=True)
class Target:
    """How models are written for a kind of engine, and opened again. The first of `formats` is the usual one.

    `reopen` is our own reader, for an engine whose files we read; `predictions` says that the engine computes in
    float32 whatever the format.
    """

    formats: tuple[str, ...]
    folder: bool
    round: Callable[[Source, str], Mapping[str, StoredMatrix]]
    write: Callable[[Path, Source, str], None]
    open: Callable[[Path], Engine]
    reopen: Callable[[Path], Source] | None = None
    in_float32: bool = False


TARGETS = {
    "hf": Target(("f32", "f16", "bf16"), True, round_hf, write_hf, open_hf, open_source, in_float32=True),
    "gguf": Target(
        ("f16", "f32", "bf16", "q8_0", "q4_1"), False, round_gguf, write_gguf_file, open_with_llama_cpp, open_gguf
    ),
}


@dataclass(frozen=True)
class OtherTarget:
    """How a model that is no decoder is written for an engine, float32 as it is, and compared there.

    Both functions take the model's folder; `compare` also takes texts, and returns what it compared and, in words, what
    differs.
    """

    family: str
    folder: bool
    write: Callable[[Path, Path], None]
    compare: Callable[[Path, Path, list[str]], tuple[dict[str, Any], list[str]]]


OTHER_TARGETS = {
    "ctranslate2": OtherTarget("seq2seq", True, write_ctranslate2, compare_ctranslate2),
    "onnx": OtherTarget("encoder", False, write_encoder, compare_onnx),
}


def export(
    model: str | Path,
    *,
    to: str,
    out: str | Path,
    weights: str = "",
    data: str | Path | None = None,
    check: bool = False,
    console: Console = SILENT,
) -> dict[str, Any]:
    """Write `model`, a folder or a GGUF file, to `out` for the engines of `to`, a key of TARGETS or OTHER_TARGETS.

    What was written is opened again, by such an engine where one is installed, and compared with the model on prompts
    from the held-out part of `data` (by default what `bimo run` left beside the model). Returns the comparison, which
    is kept with the result. With `check` nothing is written: what stands at `out` is compared.

    Raises UserError, and leaves `out` as it was, when the two differ by more than the format allows.
    """
    model, out = Path(model), Path(out)
    _require_known_to(to, family_in(model) or "decoder")
    if to in OTHER_TARGETS:
        return _export_other(OTHER_TARGETS[to], model, to, out, weights, None if data is None else Path(data), check)
    target = TARGETS[to]
    kept = _kept(out, folder=target.folder)
    if check and not weights:
        weights = _kept_format(kept)
    form = _format(weights or target.formats[0], to, target)
    _require_place(out, kept, check=check)
    source = open_source(model)
    prompts, texts, where = _held_out(model, None if data is None else Path(data))
    if where is None:
        console.warn(
            t("There is no held-out text of this model: a few sentences of Bimo's own are used. Better: --data.")
        )
    rounded = source.with_weights(target.round(source, form.name))
    if uneven := [name for name, matrix in rounded.weights.items() if matrix.format == "F16" != form.name]:
        console.warn(
            t(
                "{count} matrices stay F16, since their rows are no multiple of the format's 32 numbers",
                count=len(uneven),
            )
        )
    facts: dict[str, Any] = {"bimo": bimo.__version__, "model": source.name, "to": to, "weights": form.name}
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
    target: OtherTarget, model: Path, to: str, out: Path, weights: str, data: Path | None, check: bool
) -> dict[str, Any]:
    """As `export`, for a model that is no decoder."""
    if weights not in ("", "f32"):
        raise UserError(
            "For {to} the weights can be {known}, but not {name}.", code=USAGE, to=to, known="f32", name=weights
        )
    kept = _kept(out, folder=target.folder)
    _require_place(out, kept, check=check)
    texts, _, where = _held_out(model, data)
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
        if folder:
            write_json(_kept(part, folder=True), facts)
    if not folder:
        write_json(_kept(out, folder=False), facts)


def _require_known_to(name: str, family: str) -> None:
    """Raises UserError when there is no such target, or none for models of this family."""
    others = {name: target.family for name, target in OTHER_TARGETS.items()}
    families = {**dict.fromkeys(TARGETS, "decoder"), **others}
    if name not in families:
        raise UserError("--to must be one of {known}, but is {name}.", code=USAGE, known=", ".join(families), name=name)
    known = [target for target, kind in families.items() if kind == family]
    if name not in known:
        raise UserError(
            "A model of the family {family} cannot become {name}. What it can become: {known}.",
            code=USAGE,
            family=family,
            name=name,
            known=", ".join(known) or "-",
        )


def _format(wanted: str, to: str, target: Target) -> Format:
    name = OTHER_NAMES.get(wanted.lower(), wanted.lower())
    if name not in target.formats:
        raise UserError(
            "For {to} the weights can be {known}, but not {name}.",
            code=USAGE,
            to=to,
            known=", ".join(target.formats),
            name=wanted,
        )
    return FORMATS[name]


def _kept_format(kept: Path) -> str:
    if not kept.is_file():
        raise UserError("There is no {path}. Say with --weights which format is to be checked.", code=USAGE, path=kept)
    return read_json(kept)["weights"]


def _require_place(out: Path, kept: Path, *, check: bool) -> None:
    """Nothing but an earlier export is overwritten."""
    if check and not out.exists():
        raise UserError("There is no {path} to check.", code=USAGE, path=out)
    if not check and out.exists() and not kept.exists():
        raise UserError("{path} exists and is no export of Bimo's. Choose another --out.", code=USAGE, path=out)


def _held_out(model: Path, data: Path | None) -> tuple[list[str], list[str], str | None]:
    """(Prompts, texts to measure the loss on, the folder they are from or None when they are our own sentences)."""
    folder = data or model / "bimo" / "data"
    pairs = folder / "pairs" / "validation.tsv"
    if pairs.is_file():
        lines = pairs.read_text(encoding="utf-8").splitlines()[:PROMPTS]
        sources = [line.split("\t")[0] for line in lines]
        return sources, sources, str(folder)
    if not (folder / "documents").is_dir():
        if data is not None:
            raise UserError("{path} is not prepared data. It is made by: bimo prepare SOURCE --out DATA.", path=data)
        return list(SENTENCES), ["\n".join(SENTENCES)], None
    documents = [document.text for document in read_stored(folder / "documents", "validation")]
    prompts = [text[:PROMPT_CHARACTERS] for text in itertools.islice(documents, PROMPTS)]
    return prompts, sample_evenly(documents, LOSS_CHARACTERS), str(folder)


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
        faults = _reopened(rounded, target.reopen(path))
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
    if written.config != rounded.config:
        faults.append(t("the shape is {found}", found=written.config))
    if names := differing_weights(written, rounded.weights):
        faults.append(t("{count} tensors hold other numbers, first {name}", count=len(names), name=names[0]))
    if not _same_tokens(rounded.tokenizer, written.tokenizer):
        faults.append(t("the tokens are others"))
    if written.template != rounded.template:
        faults.append(t("the chat template is another"))
    if (written.special, written.tokenizer.begin) != (rounded.special, rounded.tokenizer.begin):
        faults.append(t("special tokens are others"))
    return faults


def _same_tokens(expected: Tokenizer, found: Tokenizer) -> bool:
    """Whether all ids mean the same and merges are the same; ids that a model has beyond its tokens may have names."""
    merges = [json.loads(each.inner.to_str())["model"].get("merges") for each in (expected, found)]
    return expected.inner.get_vocab().items() <= found.inner.get_vocab().items() and merges[0] == merges[1]


def _size(path: Path) -> int:
    """Bytes of a file, or of the files of a folder."""
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files)


def export_lines(facts: dict[str, Any]) -> list[str]:
    """An export as lines for people."""
    found = facts["comparison"]
    return [
        t("{path}: {weights}, {size:.1f} MB", path=facts["path"], weights=facts["weights"], size=facts["bytes"] / 1e6),
        t("opened again with {engine}", engine=found["engine"]),
        *(_lines_of_decoder(facts) if "bits_per_byte" in facts else [_line_of_other(found)]),
    ]


def _line_of_other(found: dict[str, Any]) -> str:
    if "equal_translations" in found:
        return t(
            "{equal} of {texts} texts are translated alike", equal=found["equal_translations"], texts=found["prompts"]
        )
    return t(
        "{texts} texts: predictions differ by at most {largest:.2g} ({tolerance:.2g} allowed)",
        texts=found["prompts"],
        largest=found["largest_difference"],
        tolerance=found["tolerance"],
    )


def _lines_of_decoder(facts: dict[str, Any]) -> list[str]:
    found, bits = facts["comparison"], facts["bits_per_byte"]
    return [
        t(
            "{prompts} prompts: ids, special tokens and chat template are equal; predictions differ by at most "
            "{largest:.2g} ({tolerance:.2g} allowed); {equal} prompts go on with the same {tokens} tokens",
            prompts=found["prompts"],
            largest=found["largest_difference"],
            tolerance=found["tolerance"],
            equal=found["equal_greedy"],
            tokens=found["new_tokens"],
        ),
        t(
            "{before:.4f} bits per byte in float32, {after:.4f} as written ({loss:+.2%})",
            before=bits["before"],
            after=bits["after"],
            loss=bits["after"] / bits["before"] - 1,
        ),
    ]
