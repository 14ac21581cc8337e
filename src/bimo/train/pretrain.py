"""`bimo train`: from packed tokens to a model folder, resumable at every instant."""

from __future__ import annotations

import datetime
import platform
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
import torch

import bimo
from bimo.config import to_mapping, write_toml
from bimo.console import SILENT, Console, clock
from bimo.files import digest_file, digest_json, locked, read_json, require_room, write_json
from bimo.machine import kept_machine, peak_memory_bytes
from bimo.models.encoder import Encoder
from bimo.models.families import Shape, build, family_of
from bimo.models.seq2seq import EncoderDecoder
from bimo.report.facts import learned_alone, training_inputs
from bimo.report.model_report import write_card, write_report
from bimo.runtime import USAGE, UserError, pick_device, seed_everything, t
from bimo.text.controls import read_controls
from bimo.tokens.batches import Batches
from bimo.tokens.shards import TokenShards
from bimo.tokens.tokenizer import Tokenizer
from bimo.train.checkpoint import disk_bytes
from bimo.train.embedding import start_from_vectors
from bimo.train.following import Following
from bimo.train.health import LEAST_PROGRESS, MOST_WORSE
from bimo.train.loop import Progress, StepFacts, StepSource, Trainer, keep_to_time
from bimo.train.masked_words import MaskedWords
from bimo.train.metrics import Metrics
from bimo.train.objectives import VALIDATION_TOKENS, Pretraining, choose_objective, tokenizer_of
from bimo.train.optim import build_optimizers
from bimo.train.restart import open_start, take_weights
from bimo.train.settings import TrainConfig
from bimo.vectors.store import read_vectors, vectors_digest
from bimo.weights.huggingface import save_encoder, save_model, save_translator
from bimo.weights.layouts import require_storable

__all__ = ["Course", "Sampler", "check_output", "is_finished", "require_trainable", "train", "train_on"]

Sampler = Callable[[Any, Tokenizer], str]
"""Shows in a few words what a model that is being trained can do."""


def check_output(out: Path) -> None:
    """Raises UserError when `out` is a file, or a folder that holds something other than a model of ours."""
    if out.exists() and not out.is_dir():
        raise UserError("{out} is a file. Name a folder with --out.", code=USAGE, out=out)
    if out.is_dir() and any(out.iterdir()) and not (out / "bimo").is_dir():
        raise UserError(
            "The folder {out} is taken: it holds files that are not a model. Choose another with --out.",
            code=USAGE,
            out=out,
        )


def require_trainable(shape: Shape, *, vocabulary: int) -> None:
    """Raises UserError for a shape that fits into no folder, or lacks some of so many tokens."""
    require_storable(shape)
    if shape.vocabulary < vocabulary:
        raise UserError(
            "The model's vocabulary ({model}) is smaller than the tokenizer's ({tokenizer}).",
            code=USAGE,
            model=shape.vocabulary,
            tokenizer=vocabulary,
        )


def is_finished(out: Path) -> bool:
    """Whether training in this folder came to its end."""
    return (out / "bimo" / "training.json").exists() and (out / "model.safetensors").exists()


def train(
    data: str | Path,
    *,
    out: str | Path,
    model: Shape,
    settings: TrainConfig,
    sampler: Sampler | None = None,
    console: Console = SILENT,
) -> dict[str, Any]:
    """Train a model on prepared data and write a Hugging Face folder. Returns the facts of `bimo/training.json`.

    Continues where an earlier call with the same data and settings stopped; a finished one is not done again.
    Raises UserError when the folder holds another training, or, with code INTERRUPTED, when a signal stopped it.
    """
    data, out = Path(data), Path(out)
    shards, validation = TokenShards(data / "tokens", "train"), TokenShards(data / "tokens", "validation")
    tokenizer = tokenizer_of(data, family_of(model))
    window = settings.window or model.context
    if window > model.context:
        raise UserError(
            "The setting train.window ({window}) is more than the model reads ({context}).",
            code=USAGE,
            window=window,
            context=model.context,
        )
    objective = choose_objective(model, validation, tokenizer, settings)
    if isinstance(objective, MaskedWords):
        batches: StepSource = objective.batches(shards, batch=settings.batch, seed=settings.seed)
    else:
        batches = Batches(shards, batch=settings.batch, context=window, seed=settings.seed)
    course = Course(data, tokenizer, batches, objective, shards.fingerprint, shards.verify)
    return train_on(course, out=out, model=model, settings=settings, sampler=sampler, console=console)


@dataclass(frozen=True)
class Course:
    """What is learned, and from what: `fingerprint` names the tokens in `data`, `verify` reads and checks them."""

    data: Path
    tokenizer: Tokenizer
    batches: StepSource
    objective: Pretraining
    fingerprint: str
    verify: Callable[[], None]


def train_on(
    course: Course,
    *,
    out: Path,
    model: Shape,
    settings: TrainConfig,
    sampler: Sampler | None = None,
    console: Console = SILENT,
) -> dict[str, Any]:
    """As `train`, on any course."""
    check_output(out)
    with locked(out / "bimo"):
        run = _Run(course, out, model, settings, sampler, console)
        run.claim()
        if is_finished(out):
            run.tidy()
            console.say("Training", t("was finished before; nothing to do"))
            return read_json(out / "bimo" / "training.json")
        return run.train()


class _Run:
    """One training in one folder: what the hooks of the loop share."""

    def __init__(
        self,
        course: Course,
        out: Path,
        shape: Shape,
        settings: TrainConfig,
        sampler: Sampler | None,
        console: Console,
    ) -> None:
        self.course, self.out, self.home = course, out, out / "bimo"
        self.shape, self.settings, self.sampler, self.console = shape, settings, sampler, console
        self.tokenizer, self.objective = course.tokenizer, course.objective
        require_trainable(shape, vocabulary=self.tokenizer.vocabulary)
        self.vectors = read_vectors(Path(settings.vectors)) if settings.vectors else None
        self.start = open_start(Path(settings.start), self.tokenizer) if settings.start else None
        self.metrics = Metrics(self.home / "metrics.jsonl")

    def claim(self) -> None:
        """Take the folder for this run, or find that it is this run's already. Raises UserError if it is another's."""
        # What a start and vectors are counts, not where they lie.
        content = {
            "model": asdict(self.shape),
            "train": asdict(replace(self.settings, start="", vectors="")),
            "tokens": self.course.fingerprint,
            "tokenizer": digest_file(self.course.data / "tokenizer.json"),
            **({"vectors": vectors_digest(self.vectors)} if self.vectors else {}),
            **({"start": self.start.digests()} if self.start else {}),
        }
        key = digest_json(content)
        path = self.home / "manifest.json"
        if path.exists():
            if read_json(path)["key"] != key:
                raise UserError(
                    "{out} holds a training with other text or settings. Continue that one with its own command, "
                    "choose another folder with --out, or delete it.",
                    code=USAGE,
                    out=self.out,
                )
            return
        require_room(self.out, disk_bytes(self.shape.parameters))
        place = self.course.data.resolve()
        inside = place.is_relative_to(self.out.resolve())
        model = {"family": family_of(self.shape), **to_mapping(self.shape)}
        write_toml(self.home / "run.toml", {"model": model, "train": to_mapping(self.settings)})
        write_json(
            path,
            {
                "bimo": bimo.__version__,
                "key": key,
                "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
                "data": (place.relative_to(self.out.resolve()) if inside else place).as_posix(),
                "seed": self.settings.seed,
                "inputs": {
                    "tokens": content["tokens"],
                    "tokenizer": content["tokenizer"],
                    **({"start_tokens": learned_alone(training_inputs(self.start.path))} if self.start else {}),
                },
                "versions": {
                    "python": platform.python_version(),
                    "torch": torch.__version__,
                    "tokenizers": tokenizers.__version__,
                },
            },
        )

    def train(self) -> dict[str, Any]:
        """Run the loop to its end and write the model."""
        self.course.verify()
        settings = self.settings
        if learned_alone(training_inputs(self.out)) != self.course.fingerprint:
            sentence = "{model} learned from other data, which may hold these held-out texts."
            self.console.warn(t(sentence, model=settings.start))
        device = pick_device(settings.device)
        self.machine = kept_machine(self.home / "machine.json", device)
        dtype = self.machine.dtype if settings.dtype == "auto" else settings.dtype
        seed_everything(settings.seed)
        model = build(self.shape, compute_dtype=getattr(torch, dtype), dropout=settings.dropout)
        model.initialise(settings.seed)
        if self.start:
            take_weights(model, self.start, self.shape)
        if self.vectors:
            known = start_from_vectors(model.embedding.weight, self.tokenizer, self.vectors)
            self.console.say("Training", t("{known:,} tokens begin as the words they are", known=known))
        self.model = model.to(device)
        optimizers = build_optimizers(
            model,
            muon_rate=settings.muon_rate,
            adam_rate=settings.adam_rate,
            weight_decay=settings.weight_decay,
        )
        self.peak_flops = self.machine.matrix_flops[dtype]
        # Attention costs by what is read at once, which may be less than the model can read.
        seen = replace(self.shape, context=settings.window) if settings.window else self.shape
        self.flops_per_token = seen.flops_per_token
        following = Following(
            model,
            self.objective,
            title="Training",
            times=settings.validations,
            metrics=self.metrics,
            console=self.console,
            tokens=self._tokens,
            show=self._show_sample,
        )
        trainer = Trainer(
            model,
            optimizers,
            self.course.batches,
            objective=self.objective.loss,
            folder=self.home / "checkpoints",
            steps=settings.steps,
            warmup=settings.warmup,
            decay=settings.decay,
            clip=settings.clip,
            on_step=[
                self.log,
                *keep_to_time(settings.minutes, self.metrics.write),
                following.validate,
                following.saving,
            ],
            on_event=following.note,
            remedy=t(
                "Lower the learning rates (--set train.muon_rate and train.adam_rate of bimo train), or compute in "
                "float32 (--set train.dtype=float32)."
            ),
            least_progress=MOST_WORSE if self.start else LEAST_PROGRESS,
        )
        with self.console.progress("Training", 1.0) as self.update:
            trainer.run()
        kept = trainer.take_best()
        if kept != trainer.progress.step:
            text = t("the weights of step {step:,} are kept: they did best on unseen text", step=kept)
            self.console.say("Training", text)
        return self._finish(trainer, kept)

    def log(self, trainer: Trainer, facts: StepFacts | None) -> None:
        """Show where the run stands; write a line of metrics now and then."""
        if facts is None:
            return
        progress = trainer.progress
        rate = self._tokens(progress) / progress.seconds
        if progress.step % max(1, progress.steps // 400) == 0 or progress.step == progress.steps:
            event = {
                "event": "step",
                "step": progress.step,
                "tokens": self._tokens(progress),
                "seconds": round(progress.seconds, 3),
                "loss": facts.loss,
                **self.objective.facts(facts.loss),
                "gradient_norm": facts.gradient_norm,
                "learning_rate": facts.rate * (self.settings.muon_rate or self.settings.adam_rate),
                "tokens_per_second": rate,
            }
            self.metrics.write(event)
        left = progress.seconds * (progress.steps / progress.step - 1)
        line = t(
            "{loss}, {rate:,.0f} tokens/s ({share:.0%} of this machine), {left} left",
            loss=self.objective.line(trainer.health.recent_loss),
            rate=rate,
            share=self._share_of_peak(rate),
            left=clock(left),
        )
        self.update(progress.step / progress.steps, line)

    def _show_sample(self, progress: Progress) -> None:
        if self.sampler is not None:
            sample = self.sampler(self.model, self.tokenizer)
            self.metrics.write({"event": "sample", "step": progress.step, "prompt": "", "text": sample})
            self.console.show("“" + " ".join(sample.split())[:100] + "”")

    def _tokens(self, progress: Progress) -> int:
        """How many tokens were read up to here, whether or not each was a target."""
        if isinstance(self.objective, MaskedWords):
            return progress.step * self.settings.batch * (self.settings.window or self.shape.context)
        return progress.targets

    def _share_of_peak(self, tokens_per_second: float) -> float:
        """Of the most that this machine was seen to do: its peak may have been measured while it was busy."""
        reached = tokens_per_second * self.flops_per_token
        return reached / max(reached, self.peak_flops)

    def _finish(self, trainer: Trainer, kept: int) -> dict[str, Any]:
        progress, health = trainer.progress, trainer.health
        if isinstance(self.model, Encoder):
            save_encoder(self.out, self.model, pad=self.tokenizer.special_id("pad_token"))
        elif isinstance(self.model, EncoderDecoder):
            save_translator(self.out, self.model, end=self.tokenizer.end)
        else:
            begin = self.tokenizer.begin[0] if self.tokenizer.begin else None
            save_model(self.out, self.model, end=self.tokenizer.end, begin=begin)
        self.tokenizer.save(self.out, context=self.shape.context)
        controls = read_controls(self.course.data)
        if controls is not None:
            controls.write(self.home)
        rate = self._tokens(progress) / progress.seconds
        facts = {
            "steps": progress.step,
            "weights_of_step": kept,
            "tokens": self._tokens(progress),
            "seconds": progress.seconds,
            "tokens_per_second": rate,
            "share_of_peak": self._share_of_peak(rate),
            "peak_memory_bytes": peak_memory_bytes(),
            f"validation_{self.objective.measure}": health.best_validation,
            f"training_{self.objective.measure}": self._on_training_text(progress),
            "skipped_steps": health.skipped,
            "roll_backs": health.roll_backs,
            "resumed": progress.resumed,
            "parameters": self.shape.parameters,
        }
        names = (
            "model.safetensors",
            "config.json",
            "generation_config.json",
            "tokenizer.json",
            "tokenizer_config.json",
        )
        manifest = read_json(self.home / "manifest.json")
        outputs = {name: digest_file(self.out / name) for name in names if (self.out / name).exists()}
        write_json(self.home / "manifest.json", {**manifest, "outputs": outputs})
        write_json(self.home / "training.json", facts)
        self.tidy()
        return facts

    @torch.no_grad()
    def _on_training_text(self, progress: Progress) -> float:
        """The objective's measure of some of what was read, taken as that of unseen text is, so that they compare."""
        count = max(1, min(progress.step, VALIDATION_TOKENS * progress.step // max(1, self._tokens(progress))))
        places = np.linspace(0, progress.step - 1, count).astype(int).tolist()
        self.model.eval()
        found = [self.objective.clean_loss(self.model, self.course.batches.at(place)) for place in places]
        nats = sum(mean.item() * counted for mean, counted in found) / sum(counted for _, counted in found)
        return self.objective.facts(nats)[self.objective.measure]

    def tidy(self) -> None:
        """What comes after the end, unless that was done: the pages, and no checkpoints any more."""
        if (self.home / "checkpoints").exists():
            write_card(self.out)
            write_report(self.out)
            shutil.rmtree(self.home / "checkpoints", ignore_errors=True)
