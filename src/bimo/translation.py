"""`bimo train PAIRS --family seq2seq`: from a file of pairs to a model that translates."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch

from bimo.config import apply_settings, read_toml, to_mapping
from bimo.console import SILENT, Console
from bimo.files import (
    digest_file,
    digest_json,
    locked,
    read_json,
    write_json,
)
from bimo.generate.beam import Beams
from bimo.generate.translator import Translator, keep_learned
from bimo.machine import measure_machine
from bimo.models.config import load_presets
from bimo.models.families import PAIRED
from bimo.models.seq2seq import EncoderDecoder, Seq2SeqConfig
from bimo.plan import check_choices, refuse_another_plan
from bimo.run import RunConfig, claim, run_from_mapping, shape_asked_for
from bimo.runtime import USAGE, UserError, pick_device, t
from bimo.stages import Stages
from bimo.tasks.translate.preparing import TOKENS_PER_STEP, prepare_pairs, read_split
from bimo.text.chinese import check_script
from bimo.text.pairs import SPLITS, require_file_of_pairs
from bimo.tokens.directions import tags_of
from bimo.tokens.pairs import PairBatches, PairTokens
from bimo.tokens.tokenizer import Tokenizer, load_tokenizer
from bimo.train.losses import translation_loss
from bimo.train.objectives import SMOOTHING, Translate
from bimo.train.optim import build_optimizers
from bimo.train.pretrain import Course, check_output, train_on
from bimo.train.recipe import recipe

__all__ = ["train_translator"]

EPOCHS = 4
"""How often pairs are read, at least, before a larger model is worth it (docs/log.md)."""

MOST_SHARE_OF_PEAK = 0.15
"""No step on short sentences comes nearer to what the machine multiplies: what would need more is not measured."""

MEASURE_SECONDS = 1.5
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
    require_file_of_pairs(pairs)
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
        keep_learned(out, data, facts)
        if config is None:
            path = out / "bimo" / "plan.json"
            settings = _stored_plan(path, data, facts, minutes=minutes, preset=preset, seed=seed, device=device)
            _say_plan(read_json(path), console)
        else:
            settings = read_toml(config)
        chosen = run_from_mapping(apply_settings(settings, changes or []))
        course, sampler = _course(data, chosen)
        return train_on(course, out=out, model=chosen.model, settings=chosen.train, sampler=sampler, console=console)


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
    epoch = PairBatches(pairs, tokens=TOKENS_PER_STEP, pad=shape.pad, seed=seed).steps_per_epoch
    tokens = int(60 * minutes * rate)
    train = {
        "steps": max(20, tokens * epoch // unique),
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
