"""`bimo run`: from a folder of text to a model, a report and a model card, in one go."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bimo.config import apply_settings, check_mapping, from_mapping, read_toml, to_mapping
from bimo.console import SILENT, Console
from bimo.evaluate.masked import blank_line, held_out_blanks, masked_line
from bimo.evaluate.suite import evaluate
from bimo.files import digest_json, locked, read_json, write_json
from bimo.generate.engine import LanguageModel
from bimo.models.encoder import Encoder, EncoderConfig
from bimo.models.families import LanguageModule, Shape, choose_family, family_of
from bimo.plan import Plan, check_choices, stored_plan
from bimo.prepare import PrepareConfig, prepare
from bimo.report.judgement import copied_share
from bimo.report.planned import plan_summary, text_reasons
from bimo.runtime import USAGE, UserError, pick_device, t
from bimo.stages import Stages
from bimo.text.inventory import file_digests, source_digest
from bimo.text.sources import find_sources
from bimo.tokens.shards import TokenShards
from bimo.tokens.tokenizer import Tokenizer, load_tokenizer
from bimo.train.objectives import tokenizer_of
from bimo.train.pretrain import Sampler, check_output, train
from bimo.train.restart import open_start, tokenizer_file
from bimo.train.settings import TrainConfig
from bimo.vectors.store import read_vectors, vectors_digest
from bimo.weights.opening import stored_digests

__all__ = [
    "RunConfig",
    "another_model",
    "choose_sampler",
    "claim",
    "run",
    "run_from_mapping",
    "sample_text",
    "shape_asked_for",
    "train_settings",
]

SAMPLE_TOKENS = 60
BLANKS_TRIED = 8


def run(
    sources: list[str | Path],
    *,
    out: str | Path,
    minutes: float = 10.0,
    family: str = "decoder",
    preset: str = "",
    seed: int = 0,
    device: str = "auto",
    settings: PrepareConfig | None = None,
    start: str | Path = "",
    vectors: str | Path = "",
    console: Console = SILENT,
) -> dict[str, Any]:
    """Prepare, plan, train, evaluate and report. The same call continues what was interrupted.

    `start` is a model to go on with, in whose tokens the text is prepared; `vectors` are word vectors from which the
    model's embedding starts.

    Returns the facts of the evaluation. Raises UserError when the text, the disk or the folder will not do, or, with
    code INTERRUPTED, when a signal stopped it.
    """
    settings = settings or PrepareConfig()
    out = Path(out)
    home = out / "bimo"
    start, vectors = _absolute(start), _absolute(vectors)
    check_choices(minutes=minutes, family=family, preset=preset, device=device, seed=seed, start=start)
    if start:
        settings = replace(settings, tokenizer=str(tokenizer_file(Path(start))))
    check_output(out)
    files = find_sources([Path(source) for source in sources], out=out, cannot_open=lambda name, error: None)
    choices = {"minutes": minutes, "preset": preset, "seed": seed, "device": device, "prepare": settings.by_content()}
    if family != "decoder":
        choices["family"] = family
    if start:
        choices["start"] = stored_digests(Path(start))
    if vectors:
        choices["vectors"] = vectors_digest(read_vectors(Path(vectors)))
    with locked(home):
        claim(home, digest_json({"sources": source_digest(files, file_digests(files)), **choices}))
        data = home / "data"
        prepare(sources, out=data, settings=settings, console=console)
        chosen = stored_plan(
            data,
            home / "plan.json",
            minutes=minutes,
            family=family,
            preset=preset,
            start=start,
            seed=seed,
            device=device,
            console=console,
        )
        _say_plan(chosen, console)
        settings_of_training = replace(chosen.train, vectors=vectors)
        sampler = choose_sampler(chosen.model, data)
        train(data, out=out, model=chosen.model, settings=settings_of_training, sampler=sampler, console=console)
        facts = evaluate(out, data, console=console)
    _say_result(facts, out, console)
    return facts


def _absolute(path: str | Path) -> str:
    """The same place however it is named, from wherever a run is continued; "" stays that."""
    return str(Path(path).absolute()) if path else ""


def claim(home: Path, key: str) -> None:
    """Refuse a folder that something else made, such as a training of other text or with other choices."""
    path = home / "request.json"
    if (home / "manifest.json").exists() and (not path.exists() or read_json(path)["key"] != key):
        raise another_model(home.parent)
    write_json(path, {"key": key})


def another_model(out: Path) -> UserError:
    """What is said of a folder with a model that this call did not begin."""
    return UserError(
        "{out} holds a model of other text or settings. Choose another folder with --out, or delete that one.",
        code=USAGE,
        out=out,
    )


def _say_plan(chosen: Plan, console: Console) -> None:
    console.say("Plan", plan_summary(chosen.facts))
    for reason in text_reasons(chosen.facts):
        console.show(reason)


def _say_result(facts: dict[str, Any], out: Path, console: Console) -> None:
    if "masked_accuracy" in facts:
        console.say("Done", masked_line(facts))
        for blank in facts["blanks"]:
            console.show(blank_line(blank))
        console.say("Look", str(out / "bimo" / "report.html"))
        return
    share = copied_share(facts["copying"])
    console.say(
        "Done",
        t(
            "{bits:.3f} bits per byte on text it never saw (Kneser-Ney {kneser_ney:.3f}, xz {xz:.3f}); {copied}",
            bits=facts["bits_per_byte"],
            kneser_ney=facts["baselines"]["kneser_ney"]["bits_per_byte"],
            xz=facts["baselines"]["xz"],
            copied=t("what it writes is too short to tell how much is copied")
            if share is None
            else t("{share:.1%} of what it writes is copied word for word", share=share),
        ),
    )
    console.say("Look", str(out / "bimo" / "report.html"))
    console.say("Try", shlex.join(["bimo", "generate", str(out), *_as_argument(_first_words(facts))]))


def _as_argument(text: str) -> list[str]:
    """What begins like an option is told from one."""
    return ["--", text] if text.startswith("-") else [text]


def _first_words(facts: dict[str, Any]) -> str:
    text = " ".join(facts["samples"][0]["text"].split())
    return text[:12].rsplit(" ", 1)[0] if text.isascii() else text[:4]


def choose_sampler(shape: Shape, data: Path) -> Sampler:
    """What shows, while a model of this shape is trained, what it can do."""
    if not isinstance(shape, EncoderConfig):
        return sample_text
    validation = TokenShards(data / "tokens", "validation")

    def fill_blank(model: Encoder, tokenizer: Tokenizer) -> str:
        # The first places may have no word that is a single token: addresses, or code.
        blanks = held_out_blanks(model, tokenizer, validation, count=BLANKS_TRIED)
        return blank_line(blanks[0].facts()) if blanks else ""

    return fill_blank


def sample_text(model: LanguageModule, tokenizer: Tokenizer) -> str:
    """A short sample without a prompt, for looking at a training."""
    model.eval()
    text = LanguageModel(model, tokenizer).samples(count=1, max_tokens=SAMPLE_TOKENS)[0]
    model.train()
    return text


@dataclass(frozen=True)
class RunConfig:
    """What a run file holds: the shape of the model and how it is trained."""

    model: Shape
    train: TrainConfig


def train_settings(
    data: Path,
    out: Path,
    *,
    minutes: float,
    family: str,
    preset: str,
    start: str,
    seed: int,
    device: str,
    config: Path | None,
    changes: list[str],
    console: Console = SILENT,
) -> RunConfig:
    """Settings from a run file or else from a plan kept in `out`, with `changes` such as `train.batch=8` on top."""
    if config is not None:
        Stages(data).key("tokens")  # without a plan nothing else asks whether the data is complete
        settings = read_toml(config)
        if isinstance(model := settings.setdefault("model", {}), dict):
            model.setdefault("vocabulary", tokenizer_of(data, str(model.get("family", "decoder"))).vocabulary)
    else:
        path = out / "bimo" / "plan.json"
        check_output(out)
        asked = apply_settings({}, changes)
        known = family
        if start and asked.get("model"):
            known = family_of(open_start(Path(start), load_tokenizer(data)).source.config)
        chosen = stored_plan(
            data,
            path,
            minutes=minutes,
            family=family,
            preset=preset,
            start=_absolute(start),
            fixed=shape_asked_for(asked, known),
            seed=seed,
            device=device,
            console=console,
        )
        _say_plan(chosen, console)
        own = family_of(chosen.model)
        settings = {"model": {"family": own, **to_mapping(chosen.model)}, "train": to_mapping(chosen.train)}
    return run_from_mapping(apply_settings(settings, changes))


def shape_asked_for(settings: dict[str, Any], family: str) -> dict[str, Any]:
    """What of the shape of a planned model `settings` ask for, all of which are to be put over the plan.

    Raises UserError for names, types and numbers that cannot be in training a model of this family.
    """
    _require_groups(settings)
    train = from_mapping(TrainConfig, {"steps": 1, **settings.get("train", {})}, where="train.")
    train.require_use(family)
    pick_device(train.device)
    sizes = dict(settings.get("model", {}))
    named = sizes.pop("family", family)
    if named != family:
        raise UserError(
            "The setting model.family is {named}, but what is planned is of the family {family}. Leave the setting "
            "out: --family chooses, or the model that --from names.",
            code=USAGE,
            named=named,
            family=family,
        )
    check_mapping(choose_family(family).shape, sizes, where="model.")
    return sizes


def run_from_mapping(settings: dict[str, Any]) -> RunConfig:
    """Settings as a run file has them. `model.family` says which sizes a model has; a decoder need not say that."""
    _require_groups(settings)
    sizes = dict(settings.get("model", {}))
    kind = choose_family(str(sizes.pop("family", "decoder"))).shape
    return RunConfig(
        from_mapping(kind, sizes, where="model."),
        from_mapping(TrainConfig, settings.get("train", {}), where="train."),
    )


def _require_groups(settings: dict[str, Any]) -> None:
    for name, value in settings.items():
        if name not in ("model", "train") or not isinstance(value, dict):
            from_mapping(RunConfig, {name: value})  # which says what is wrong
