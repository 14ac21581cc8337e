"""`bimo plan`: what this machine can make of this text in the time given, before any of it is spent."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from bimo.baselines import measure_baselines
from bimo.config import from_mapping, to_mapping
from bimo.console import SILENT, Console
from bimo.files import digest_json, locked, read_json, write_json
from bimo.machine import Machine, measure_machine, peak_memory_bytes
from bimo.models.encoder import EncoderConfig
from bimo.models.families import PAIRED, LanguageShape, build, choose_family, family_of
from bimo.models.scaling import expected_ratio, order_gain
from bimo.report.planned import plan_reasons
from bimo.runtime import USAGE, UserError, keep_freed_memory, pick_device, require_least, t
from bimo.sizes import PROCESS_BYTES, affordable, fits, packed_text, possible_sizes, shape_of_start
from bimo.stages import Stages
from bimo.train.checkpoint import disk_bytes
from bimo.train.objectives import trial_loss
from bimo.train.optim import build_optimizers
from bimo.train.recipe import masked_recipe, recipe, restart_recipe
from bimo.train.settings import TrainConfig
from bimo.weights.opening import stored_digests

__all__ = ["Plan", "check_choices", "plan", "refuse_another_plan", "stored_plan"]

LEAST_MINUTES = 0.001

MOST_STEPS = 6_000
"""Beyond so many steps larger batches waste little, and every step costs an update of all weights."""

OVERHEAD = 0.05
"""The share of the time that validations, samples and checkpoints take."""

USUAL_SHARE_OF_PEAK = 0.4

NOTHING_FIXED: Mapping[str, Any] = MappingProxyType({})

CANDIDATES = 3
RANGE = 0.12
"""Expected bits per byte are given as a range of this share on both sides: what constants fitted to other texts miss by
(docs/log.md: the expectation counts from a megabyte)."""


@dataclass(frozen=True)
class Plan:
    """What to train and how, and `facts` for people: machine, speed, memory, expectation, reasons."""

    model: LanguageShape
    train: TrainConfig
    facts: dict[str, Any]


def plan(
    data: str | Path,
    *,
    minutes: float = 10.0,
    family: str = "decoder",
    preset: str = "",
    start: str = "",
    fixed: Mapping[str, Any] = NOTHING_FIXED,
    seed: int = 0,
    device: str = "auto",
    console: Console = SILENT,
) -> Plan:
    """Choose size, context, batch, steps and rates for a training of `minutes` on prepared data.

    `preset` fixes the size, `fixed` any fields of the model's shape, and `start`, a model to go on with, all of them.
    Raises UserError when the text is too small, or nothing fits this machine's memory.
    """
    data = Path(data)
    check_choices(minutes=minutes, family=family, preset=preset, device=device, seed=seed, start=start)
    packed = packed_text(data)
    full = shape_of_start(Path(start), data, fixed) if start else None
    sizes = possible_sizes(data, packed["tokens"], family, preset, fixed, full)
    corpus = _Corpus.read(data, packed, console)
    target = pick_device(device)
    with console.progress("Plan", CANDIDATES + 1) as update:
        machine = measure_machine(target)
        update(1, t("measuring this machine"))
        seconds = 60 * minutes
        shapes = affordable(machine, sizes, fixed)
        guesses = [
            _Candidate(
                name, shape, batch, USUAL_SHARE_OF_PEAK * machine.matrix_flops[machine.dtype] / shape.flops_per_token
            )
            for name, shape, batch in shapes
        ]
        guesses.sort(key=lambda candidate: candidate.expected(corpus, seconds))
        measured = []
        for number, candidate in enumerate(guesses[:CANDIDATES]):
            update(1 + number, t("timing the size “{name}”", name=candidate.name))
            rate = _tokens_per_second(candidate.shape, candidate.batch, machine.dtype, target)
            measured.append(replace(candidate, tokens_per_second=rate))
    best = min(measured, key=lambda candidate: candidate.expected(corpus, seconds))
    settings = {"minutes": minutes, "seed": seed, "device": device}
    if full is not None:
        settings |= {"start": start, "window": best.shape.context}
    return _settle(best, measured, corpus, machine, full or best.shape, settings)


def check_choices(
    *, minutes: float, family: str, preset: str, device: str, seed: int, start: str = "", pairs: bool = False
) -> None:
    """Raises UserError for a time, family, size, device or seed that cannot be, before any work is done.

    `pairs` says that there are pairs of texts to learn from.
    """
    if not LEAST_MINUTES <= minutes < math.inf:
        sentence = "--minutes must be a number from {least} up, but is {minutes}."
        raise UserError(sentence, code=USAGE, least=LEAST_MINUTES, minutes=minutes)
    require_least({"seed": (seed, 0)})
    choose_family(family, preset=preset)
    if start and (preset or family != "decoder"):
        raise UserError(
            "--from takes family and size from the model that it names, so --family and --preset have no place beside "
            "it.",
            code=USAGE,
        )
    if family == PAIRED and not pairs:
        raise UserError(
            "The family {family} learns from pairs of texts: bimo train PAIRS --out MODEL --family {family}.",
            code=USAGE,
            family=family,
        )
    pick_device(device)


def stored_plan(
    data: Path,
    path: Path,
    *,
    minutes: float,
    family: str = "decoder",
    preset: str = "",
    start: str = "",
    fixed: Mapping[str, Any] = NOTHING_FIXED,
    seed: int = 0,
    device: str = "auto",
    console: Console = SILENT,
) -> Plan:
    """The plan kept at `path` if it was made for the same tokens and choices, else a new one, kept there.

    Measuring again would choose other steps, and an interrupted training could not go on: raises UserError where one
    was begun by another plan.
    """
    weights = stored_digests(Path(start)) if start else ""
    choices = [minutes, family, preset, weights, seed, device, *([dict(fixed)] if fixed else [])]
    key = digest_json([Stages(data).key("tokens"), *choices])
    if (kept := _kept_plan(path, key, start)) is not None:
        return kept
    refuse_another_plan(path)
    chosen = plan(
        data,
        minutes=minutes,
        family=family,
        preset=preset,
        start=start,
        fixed=fixed,
        seed=seed,
        device=device,
        console=console,
    )
    with locked(path.parent):
        # Another process may have planned, or begun, while this one measured.
        if (kept := _kept_plan(path, key, start)) is not None:
            return kept
        refuse_another_plan(path)
        write_json(path, {"key": key, **chosen.facts})
        # Measured again, the machine might choose another number format than the one that was timed.
        write_json(path.with_name("machine.json"), chosen.facts["machine"])
    return chosen


def _kept_plan(path: Path, key: str, start: str) -> Plan | None:
    """The plan that was kept under a key, with the model to go on with where it lies now."""
    facts = read_json(path) if path.exists() else {}
    if facts.get("key") != key:
        return None
    settings = {name: value for name, value in facts["train"].items() if name != "context"} | {"start": start}
    return Plan(from_mapping(choose_family(facts["family"]).shape, facts["model"]), TrainConfig(**settings), facts)


def refuse_another_plan(path: Path) -> None:
    """Raises UserError when a training was begun by the plan that stands at `path`."""
    if path.exists() and path.with_name("manifest.json").exists():
        raise UserError(
            "{out} holds a training that was planned for other text or with other choices. Continue that one with its "
            "own command, choose another folder with --out, or delete it.",
            code=USAGE,
            out=path.parent.parent,
        )


@dataclass(frozen=True)
class _Corpus:
    """What of the prepared data matters for the plan."""

    tokens: int
    kneser_ney: float
    after_a_megabyte: float
    order_gain: float

    @classmethod
    def read(cls, data: Path, packed: Mapping[str, int], console: Console) -> _Corpus:
        baselines = measure_baselines(data, key=Stages(data).key("documents"), console=console)
        by_order = list(baselines["kneser_ney"]["after_a_megabyte"].values())
        return cls(
            tokens=packed["tokens"],
            kneser_ney=baselines["kneser_ney"]["bits_per_byte"],
            after_a_megabyte=min(by_order),
            order_gain=order_gain(by_order),
        )


@dataclass(frozen=True)
class _Candidate:
    name: str
    shape: LanguageShape
    batch: int
    tokens_per_second: float

    def tokens(self, seconds: float) -> int:
        return max(1, int(self.tokens_per_second * seconds * (1 - OVERHEAD)))

    def expected(self, corpus: _Corpus, seconds: float) -> float:
        """Bits per byte at the end."""
        return corpus.after_a_megabyte * expected_ratio(
            self.shape.parameters,
            tokens=self.tokens(seconds),
            unique=corpus.tokens,
            order_gain=corpus.order_gain,
        )


def _tokens_per_second(
    shape: LanguageShape, batch: int, dtype: str, device: torch.device, seconds: float = 1.5
) -> float:
    """Real training steps on random tokens, for about so many seconds; the median step counts."""
    keep_freed_memory()
    model = build(shape, compute_dtype=getattr(torch, dtype)).initialise(0).to(device)
    optimizers = build_optimizers(model, muon_rate=1e-3, adam_rate=1e-3, weight_decay=0.0)
    times: list[float] = []
    while len(times) < 3 or sum(times) < seconds:
        start = time.perf_counter()
        loss = trial_loss(model, shape, batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        loss.item()
        times.append(time.perf_counter() - start)
    usual = sorted(times[1:])[len(times[1:]) // 2]
    return batch * shape.context / usual


def _settle(
    best: _Candidate,
    measured: list[_Candidate],
    corpus: _Corpus,
    machine: Machine,
    model: LanguageShape,
    given: dict[str, Any],
) -> Plan:
    """Turn the chosen candidate into settings and sentences. `model` is its shape with all the positions it reads."""
    minutes: float = given["minutes"]
    seconds = 60 * minutes
    tokens = best.tokens(seconds)
    shape, batch = best.shape, best.batch
    while tokens / (batch * shape.context) > MOST_STEPS and fits(shape, 2 * batch, machine):
        batch *= 2
    epochs = tokens / corpus.tokens
    elsewhere = "start" in given and not (Path(given["start"]) / "bimo" / "training.json").exists()
    choose = restart_recipe if elsewhere else masked_recipe if isinstance(shape, EncoderConfig) else recipe
    settings = TrainConfig(
        steps=max(20, tokens // (batch * shape.context)),
        batch=batch,
        **choose(shape.parameters, tokens=tokens, unique=corpus.tokens),
        validations=round(min(max(minutes, 4), 10)),
        **given,
    )
    middle = best.expected(corpus, seconds)
    usual = family_of(shape) == "decoder" and "start" not in given
    facts = {
        "minutes": minutes,
        "family": family_of(shape),
        "preset": best.name,
        "machine": machine.facts(),
        "model": to_mapping(model),
        "train": {**asdict(settings), "context": shape.context},
        "parameters": shape.parameters,
        "tokens": tokens,
        "epochs": epochs,
        "tokens_per_parameter": tokens / shape.parameters,
        "tokens_per_second": best.tokens_per_second,
        "share_of_peak": best.tokens_per_second * shape.flops_per_token / machine.matrix_flops[machine.dtype],
        "seconds": seconds,
        # Preparing and counting came before, in this process: of much text they took more than training will.
        "memory_bytes": max(peak_memory_bytes(), PROCESS_BYTES + shape.training_bytes(batch)),
        "disk_bytes": disk_bytes(shape.parameters),
        # Fitted to runs of decoders; what it says of others is good for choosing a size, not for a promise.
        "bits_per_byte": [(1 - RANGE) * middle, (1 + RANGE) * middle] if usual else None,
        "kneser_ney": corpus.kneser_ney,
        "candidates": [
            {
                "preset": candidate.name,
                "parameters": candidate.shape.parameters,
                "tokens_per_second": candidate.tokens_per_second,
                "bits_per_byte": candidate.expected(corpus, seconds),
            }
            for candidate in measured
        ],
    }
    facts["reasons"] = plan_reasons(facts)
    return Plan(model, settings, facts)
