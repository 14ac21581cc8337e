"""`bimo train PAIRS --family seq2seq`: from a file of pairs to a model that translates."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bimo.config import apply_settings, read_toml, to_mapping
from bimo.console import SILENT, Console
from bimo.files import (
    digest_file,
    digest_json,
    locked,
    read_json,
    replacing,
    replacing_folder,
    require_room,
    write_json,
)
from bimo.generate.beam import Beams
from bimo.generate.translator import WORDS, Translator
from bimo.machine import measure_machine
from bimo.models.config import load_presets
from bimo.models.families import PAIRED
from bimo.models.seq2seq import EncoderDecoder, Seq2SeqConfig
from bimo.plan import check_choices, refuse_another_plan
from bimo.run import RunConfig, claim, run_from_mapping, shape_asked_for
from bimo.runtime import DATA_REFUSED, USAGE, UserError, pick_device, t
from bimo.stages import Stages
from bimo.tasks.folder import keep_refused
from bimo.text.chinese import check_script
from bimo.text.pairs import SPLITS, Pair, PairColumns, PairFile, describe_aside, describe_pairs, read_pairs, split_pairs
from bimo.text.untranslated import words_in
from bimo.tokens.directions import tag_named, tags_of
from bimo.tokens.pairs import PairBatches, PairTokens, pack_pairs
from bimo.tokens.tokenizer import Tokenizer, choose_vocabulary, load_tokenizer, train_tokenizer, with_padding
from bimo.train.losses import translation_loss
from bimo.train.objectives import Translate
from bimo.train.optim import build_optimizers
from bimo.train.pretrain import Course, check_output, train_on
from bimo.train.recipe import recipe

__all__ = ["prepare_pairs", "read_split", "train_translator"]

VERSION = 3
"""Goes into every key. Raise it when the same input would now give another result."""

LEAST_PAIRS = 100
CONTEXTS = (32, 64, 128, 256)
TOO_LONG = 0.005
"""The share of pairs that may be longer than the context."""

EPOCHS = 4
"""How often pairs are read, at least, before a larger model is worth it (docs/log.md)."""

MOST_SHARE_OF_PEAK = 0.15
"""No step on short sentences comes nearer to what the machine multiplies: what would need more is not measured."""

TOKENS_PER_STEP = 2_048
MEASURE_SECONDS = 1.5
SMOOTHING = 0.1
ADAM_RATE = 0.004
WARMUP = 0.1

SAMPLES = 3


def train_translator(
    pairs: str | Path,
    *,
    out: str | Path,
    source: str = "",
    target: str = "",
    to_column: str = "",
    chinese: str = "",
    both: bool = False,
    minutes: float = 10.0,
    preset: str = "",
    seed: int = 0,
    device: str = "auto",
    config: Path | None = None,
    changes: list[str] | None = None,
    console: Console = SILENT,
) -> dict[str, Any]:
    """Read pairs, train a model that translates, write a Marian folder. Returns the facts of `bimo/training.json`.

    `source`, `target` and `chinese` as in text.pairs.read_pairs; with `both` one model learns to go back, too, and with
    `to_column` it learns to go wherever that column of the file says.
    `config` is a run file instead of a plan, `changes` are settings such as train.batch=8. The same call continues what
    was interrupted. Raises UserError when the file, the settings or the folder will not do, or, with code INTERRUPTED,
    when a signal stopped it.
    """
    pairs, out = Path(pairs), Path(out)
    check_choices(minutes=minutes, family=PAIRED, preset=preset, device=device, seed=seed, pairs=True)
    check_script(chinese)
    check_output(out)
    if both and to_column:
        raise UserError("With --to-column each row says where it goes, so --both has no place beside it.", code=USAGE)
    if not pairs.is_file():
        raise UserError("There is no file or folder {path}. Check how it is written.", code=USAGE, path=pairs)
    if config is None:
        shape_asked_for(apply_settings({}, changes or []), PAIRED)
    data = out / "bimo" / "data"
    with locked(out / "bimo"):
        choices: dict[str, Any] = {
            "source": source,
            "target": target,
            "chinese": chinese,
            "both": both,
            "seed": seed,
            **({"to_column": to_column} if to_column else {}),
        }
        claim(out / "bimo", digest_json({"pairs": digest_file(pairs), **choices}))
        facts = prepare_pairs(pairs, out=data, **choices, console=console)
        if config is None:
            path = out / "bimo" / "plan.json"
            settings = _stored_plan(path, data, facts, minutes=minutes, preset=preset, seed=seed, device=device)
            _say_plan(read_json(path), console)
        else:
            settings = read_toml(config)
        chosen = run_from_mapping(apply_settings(settings, changes or []))
        course, sampler = _course(data, chosen)
        return train_on(course, out=out, model=chosen.model, settings=chosen.train, sampler=sampler, console=console)


def prepare_pairs(
    pairs: Path,
    *,
    out: Path,
    source: str = "",
    target: str = "",
    to_column: str = "",
    chinese: str = "",
    both: bool = False,
    seed: int = 0,
    console: Console = SILENT,
) -> dict[str, Any]:
    """Read, split, tokenize and pack a file of pairs into `out`, unless that was done. Returns the facts.

    `out` gets `pairs/{train,validation,test}.tsv`, the rows set aside, a tokenizer for both languages, its words, and
    `tokens/`.
    """
    require_room(out, 6 * pairs.stat().st_size)
    stages = Stages(out)
    stages.begin()
    columns: dict[str, Any] = {"source": source, "target": target, **({"to": to_column} if to_column else {})}
    choices = {**columns, "chinese": chinese, "both": both, "seed": seed}
    file = digest_file(pairs)
    key = digest_json({"version": VERSION, "file": file, **choices})
    facts = stages.facts("tokens", key)
    if facts is None:
        with stages.anew("tokens", key):
            found = read_pairs(pairs, **columns, chinese=chinese)
            facts = {**_store(found, out, both=both, seed=seed), **_pack(out, found.columns.names if both else ())}
        facts |= {"chinese": chinese, "sha256": file}
        files = [
            out / "refused.jsonl",
            *(out / "pairs").glob("*.tsv"),
            *(out / "tokens").glob("*.bin"),
            out / "tokenizer.json",
            out / WORDS,
        ]
        stages.record("tokens", key, facts, sorted(files))
    _say_pairs(facts, console)
    return facts


def _store(found: PairFile, out: Path, *, both: bool, seed: int) -> dict[str, Any]:
    """Write the pairs of each split."""
    if len(found.pairs) < LEAST_PAIRS:
        raise UserError(
            "{path} has {pairs:,} pairs, where at least {least} are needed to learn anything from.",
            code=DATA_REFUSED,
            path=found.name,
            pairs=len(found.pairs),
            least=LEAST_PAIRS,
        )
    keep_refused(out / "refused.jsonl", found.refused)
    splits = split_pairs(found.pairs, seed=seed, alike=both)
    for name, pairs in splits.items():
        with replacing(out / "pairs" / f"{name}.tsv") as part:
            part.write_text("".join(map(_line, pairs)), encoding="utf-8")
    return {
        "file": found.name,
        "rows": found.rows,
        "columns": asdict(found.columns),
        "aside": dict(found.aside),
        "first_unread": found.first_unread,
        "pairs": {name: len(pairs) for name, pairs in splits.items()},
    }


def _line(pair: Pair) -> str:
    return "\t".join(filter(None, (pair.source, pair.target, pair.to))) + "\n"


def read_split(data: Path, split: str) -> list[Pair]:
    """The stored pairs of a split."""
    lines = (data / "pairs" / f"{split}.tsv").read_text(encoding="utf-8").split("\n")
    return [Pair(*line.split("\t")) for line in lines if line]


def _pack(out: Path, both: Sequence[str]) -> dict[str, Any]:
    """Train a tokenizer on all languages, and pack train and validation.

    `both` is what source and target are called where pairs are learned both ways, and empty otherwise.
    """
    stored = {split: read_split(out, split) for split in SPLITS}
    directed = {split: _directed(pairs, both) for split, pairs in stored.items()}
    languages = [*dict.fromkeys(pair.to for pairs in directed.values() for pair in pairs if pair.to)]
    texts = [text for pair in stored["train"] for text in (pair.source, pair.target)]
    vocabulary = choose_vocabulary(sum(len(text.encode()) for text in texts))
    tokenizer = with_padding(train_tokenizer(texts, vocabulary=vocabulary), before=[*map(tag_named, languages)])
    tags = tags_of(tokenizer)
    tokenizer.save(out)
    with replacing(out / WORDS) as part:
        part.write_text("".join(f"{word}\n" for word in sorted(words_in(texts))), encoding="utf-8")
    _, ends = tokenizer.encode_flat(texts)
    lengths = np.diff(ends, prepend=0).reshape(-1, 2).max(axis=1) + 1 + bool(tags)
    context = next((size for size in CONTEXTS if (lengths > size).mean() <= TOO_LONG), CONTEXTS[-1])
    packed = {}
    with replacing_folder(out / "tokens") as part:
        for split in SPLITS[:2]:
            packed[split] = pack_pairs(part, split, directed[split], tokenizer, longest=context, tags=tags)
    return {"vocabulary": tokenizer.vocabulary, "context": context, "languages": languages, "tokens": packed}


def _directed(pairs: list[Pair], both: Sequence[str]) -> list[Pair]:
    """Pairs in every direction that is learned: as they are, or there and back."""
    if not both:
        return pairs
    source, target = both
    there = [Pair(pair.source, pair.target, target) for pair in pairs]
    return there + [Pair(pair.target, pair.source, source) for pair in pairs]


def _say_pairs(facts: dict[str, Any], console: Console) -> None:
    console.say("Read", describe_pairs(facts["file"], facts["rows"], PairColumns(**facts["columns"])))
    aside = ", ".join(f"{describe_aside(reason)} {count:,}" for reason, count in facts["aside"].items())
    too_long = sum(split["too_long"] for split in facts["tokens"].values())
    text = t(
        "{train:,} pairs to learn from, {validation:,} to watch the learning, {test:,} for the end; none crosses",
        **facts["pairs"],
    )
    console.say("Pairs", text)
    if facts["languages"]:
        console.show(t("learned by language: --to {languages}", languages="|".join(facts["languages"])))
    if aside:
        console.show(t("set aside: {reasons}; all stand in {path}", reasons=aside, path="bimo/data/refused.jsonl"))
    if facts["first_unread"]:
        console.warn(t("the first row that could not be read: {where}", where=facts["first_unread"]))
    if too_long:
        console.show(t("left out as longer than {context} tokens: {pairs:,}", context=facts["context"], pairs=too_long))


def _stored_plan(
    path: Path, data: Path, facts: dict[str, Any], *, minutes: float, preset: str, seed: int, device: str
) -> dict[str, Any]:
    """Settings of a run file: those kept at `path` if they were chosen for the same pairs, else new ones."""
    key = digest_json([Stages(data).key("tokens"), minutes, preset, seed, device])
    if not path.exists() or read_json(path).get("key") != key:
        refuse_another_plan(path)
        plan = _plan(data, facts, minutes=minutes, preset=preset, seed=seed, device=device)
        write_json(path, {"key": key, **plan})
    stored = read_json(path)
    return {"model": stored["model"], "train": stored["train"]}


def _plan(data: Path, facts: dict[str, Any], *, minutes: float, preset: str, seed: int, device: str) -> dict[str, Any]:
    """The largest size that reads the pairs EPOCHS times in the time given, as fast as steps are measured to be."""
    unique = facts["tokens"]["train"]["target_tokens"]
    machine = measure_machine(pick_device(device))
    pairs = PairTokens(data / "tokens", "train")
    shapes = {
        name: Seq2SeqConfig(vocabulary=facts["vocabulary"], context=facts["context"], **fields)
        for name, fields in load_presets(PAIRED).items()
        if preset in ("", name)
    }
    most = MOST_SHARE_OF_PEAK * machine.matrix_flops[machine.dtype]
    for name, shape in reversed(shapes.items()):
        smallest = name == next(iter(shapes))
        if smallest or 60 * minutes * most / shape.flops_per_token >= EPOCHS * unique:
            rate = _tokens_per_second(shape, pairs, machine.dtype, pick_device(device))
            if smallest or 60 * minutes * rate >= EPOCHS * unique:
                break
    tokens = int(60 * minutes * rate)
    train = {
        "steps": max(20, tokens * PairBatches(pairs, tokens=TOKENS_PER_STEP, pad=shape.pad, seed=seed).epoch // unique),
        "batch": max(1, TOKENS_PER_STEP // shape.context),
        "dropout": recipe(shape.parameters, tokens=tokens, unique=unique)["dropout"],
        "smoothing": SMOOTHING,
        "adam_rate": ADAM_RATE,
        "warmup": WARMUP,
        "minutes": float(minutes),
        "validations": round(min(max(minutes, 4), 10)),
        "seed": seed,
        "device": device,
    }
    return {
        "minutes": minutes,
        "family": PAIRED,
        "preset": name,
        "machine": machine.facts(),
        "model": {"family": PAIRED, **to_mapping(shape)},
        "train": train,
        "parameters": shape.parameters,
        "tokens": tokens,
        "tokens_per_second": rate,
        "epochs": tokens / unique,
    }


def _tokens_per_second(shape: Seq2SeqConfig, pairs: PairTokens, dtype: str, device: torch.device) -> float:
    """Target tokens, in real training steps for about MEASURE_SECONDS; the first step does not count."""
    model = EncoderDecoder(shape, compute_dtype=getattr(torch, dtype)).initialise(0).to(device)
    optimizers = build_optimizers(model, muon_rate=1e-3, adam_rate=1e-3, weight_decay=0.0)
    batches = PairBatches(pairs, tokens=TOKENS_PER_STEP, pad=shape.pad, seed=0)
    seconds, tokens, step = 0.0, 0, 0
    while step < 2 or seconds < MEASURE_SECONDS:
        start = time.perf_counter()
        loss, counted = translation_loss(model, batches.at(step), smoothing=SMOOTHING)
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        if step:
            seconds += time.perf_counter() - start
            tokens += counted
        step += 1
    return tokens / seconds


def _say_plan(plan: dict[str, Any], console: Console) -> None:
    text = t(
        "{parameters:.1f} M parameters (“{preset}”), the pairs read about {epochs:.0f} times in {minutes:g} min",
        parameters=plan["parameters"] / 1e6,
        preset=plan["preset"],
        epochs=plan["epochs"],
        minutes=plan["minutes"],
    )
    console.say("Plan", text)


def _course(data: Path, chosen: RunConfig) -> tuple[Course, Any]:
    """What is learned from, and a sampler that translates a few sentences which are not."""
    shape, settings = chosen.model, chosen.train
    if not isinstance(shape, Seq2SeqConfig):
        raise UserError("The run file is for another family of models than {family}.", code=USAGE, family=PAIRED)
    settings.require_use(PAIRED)
    tokenizer = load_tokenizer(data)
    train, validation = (PairTokens(data / "tokens", split) for split in SPLITS[:2])
    longest = int(max(train.lengths.max(), validation.lengths.max()))
    if longest > shape.context or shape.vocabulary != tokenizer.vocabulary:
        raise UserError(
            "The pairs have up to {longest} tokens of {tokens:,} kinds, which a model with model.context={context} and "
            "model.vocabulary={vocabulary} does not read.",
            code=USAGE,
            longest=longest,
            tokens=tokenizer.vocabulary,
            context=shape.context,
            vocabulary=shape.vocabulary,
        )
    batches = PairBatches(train, tokens=settings.batch * shape.context, pad=shape.pad, seed=settings.seed)
    objective = Translate(validation, tokenizer, pad=shape.pad, noise=settings.noise, smoothing=settings.smoothing)
    to = next(iter(tags_of(tokenizer)), "")
    held = [pair for pair in read_split(data, "validation") if pair.to in ("", to)]
    texts = [pair.source for pair in held[:: max(1, len(held) // SAMPLES)][:SAMPLES]]

    def sample(model: EncoderDecoder, tokenizer: Tokenizer) -> str:
        model.eval()
        found = Translator(model, tokenizer).translate(texts, Beams(max_tokens=shape.context), to=to)
        lines = [f"{text} → {translation.text}" for text, translation in zip(texts, found, strict=True)]
        model.train()
        return "\n".join(lines)

    return Course(data, tokenizer, batches, objective, train.fingerprint, train.verify), sample
