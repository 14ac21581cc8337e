"""`bimo tune --task translate`: a model that translates and more pairs -> one that translates such texts better."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bimo.config import to_mapping
from bimo.console import Console
from bimo.files import digest_file, write_json
from bimo.generate.translator import Translator, keep_learned, load
from bimo.models.seq2seq import EncoderDecoder
from bimo.runtime import t
from bimo.tasks.folder import claimed, number_format
from bimo.tasks.translate.preparing import TOKENS_PER_STEP, prepare_pairs, read_split
from bimo.tasks.tune import Wish, require_base
from bimo.text.pairs import COLUMNS, SPLITS, Pair, require_file_of_pairs
from bimo.text.tables import require_known
from bimo.tokens.pairs import PairBatches, PairTokens
from bimo.train.objectives import SMOOTHING, Translate
from bimo.train.pretrain import check_output
from bimo.train.tune import TuneConfig, Tuning
from bimo.weights.huggingface import save_translator
from bimo.weights.safetensors_files import weight_digests

__all__ = ["tune", "tune_lines"]

RATE_BY_AREA = 6.0
"""Learning rate of AdamW times the squared width of the model: 9e-5 for one of 256, 2.3e-5 for one of 512, which is
what Marian models are usually tuned with. Not measured on real pairs yet."""

LORA_GAIN = 10.0
"""How much faster an adapter learns, as that of a chat does."""

DROPOUT = 0.1
SAMPLES = 3


def tune(wish: Wish) -> dict[str, Any]:
    """Let a model that translates learn from more pairs; returns the facts of `bimo/tune.json`."""
    path, out, settings = wish.require_model(), wish.out, wish.settings
    wish.refuse(engine=wish.engine, beta=settings.beta, context=settings.context, general=wish.general)
    require_known(wish.columns, COLUMNS)
    require_base(path, settings)
    require_file_of_pairs(wish.file)
    check_output(out)
    start = load(path, device=wish.device)
    inputs = {"task": "translate", "model": weight_digests(path), "file": digest_file(wish.file)}
    with claimed(out, {**inputs, "columns": dict(wish.columns), "settings": to_mapping(settings)}) as finished:
        if finished is not None:
            wish.console.say("Tuning", t("was finished before; nothing to do"))
            return finished
        prepared = prepare_pairs(
            wish.file,
            out=out / "bimo" / "data",
            source=wish.columns.get("source", ""),
            target=wish.columns.get("target", ""),
            to_column=wish.columns.get("to", ""),
            chinese=start.chinese,
            seed=settings.seed,
            known=start,
            console=wish.console,
        )
        keep_learned(out, out / "bimo" / "data", prepared)
        facts = {
            "task": "translate",
            "model": str(path),
            "settings": to_mapping(settings),
            "pairs": prepared["pairs"],
            "examples": prepared["tokens"]["train"]["pairs"],
            **_tune(path, start, prepared["to"], settings, out, wish.console),
        }
        write_json(out / "bimo" / "tune.json", facts)
    return facts


def _tune(path: Path, start: Translator, to: str, settings: TuneConfig, out: Path, console: Console) -> dict[str, Any]:
    """Tune, write what was learned, and translate a few texts before and after, to `to` where pairs do not say."""
    tokenizer, shape, data = start.tokenizer, start.model.config, out / "bimo" / "data"
    rate = RATE_BY_AREA / shape.width**2 * (1.0 if settings.lora is None else LORA_GAIN)
    settings = settings.filled(rate=rate, batch=max(1, TOKENS_PER_STEP // shape.context))
    device = start.model.embedding.weight.device
    model = EncoderDecoder(shape, compute_dtype=number_format(out, device), dropout=DROPOUT).to(device)
    model.load_state_dict(start.model.state_dict())
    train, validation = (PairTokens(data / "tokens", split) for split in SPLITS[:2])
    tuning = Tuning(
        model,
        Translate(validation, tokenizer, pad=shape.pad, noise=0.0, smoothing=SMOOTHING),
        PairBatches(train, tokens=settings.batch * shape.context, pad=shape.pad, seed=settings.seed),
        settings,
        home=out / "bimo",
        console=console,
    )
    facts = tuning.run()
    save_translator(out, model, end=tokenizer.end, adapter=tuning.adapter, base=path)
    tokenizer.save(out, context=shape.context)
    return {**facts, "samples": _samples(read_split(data, "validation"), to, start, load(out))}


def _samples(pairs: Sequence[Pair], to: str, before: Translator, after: Translator) -> list[dict[str, str]]:
    """How a few pairs, from all over them, are translated before and after."""
    return [
        {
            "source": pair.source,
            "reference": pair.target,
            **{
                name: next(translator.translate([pair.source], to=pair.to or to)).text
                for name, translator in (("before", before), ("after", after))
            },
        }
        for pair in pairs[:: max(1, len(pairs) // SAMPLES)][:SAMPLES]
    ]


def tune_lines(facts: dict[str, Any]) -> list[str]:
    """What a person wants to know of a tuning."""
    before, after = facts["held_out"]["before"], facts["held_out"]["after"]
    lines = [
        t(
            "Targets not seen: {before:.3f} bits per byte before, {after:.3f} after; perplexity {low:.1f}, {high:.1f}",
            before=before["bits_per_byte"],
            after=after["bits_per_byte"],
            low=before["perplexity"],
            high=after["perplexity"],
        ),
        t(
            "Trained: {parameters:,} parameters on {examples:,} examples, {epochs:.1f} epochs in {minutes:.1f} min",
            parameters=facts["trained_parameters"],
            examples=facts["examples"],
            epochs=facts["epochs"],
            minutes=facts["seconds"] / 60,
        ),
    ]
    for sample in facts["samples"]:
        lines += ["", f"> {sample['source']}", f"{t('before')}: {sample['before']}", f"{t('after')}: {sample['after']}"]
        lines += [f"{t('reference')}: {sample['reference']}"]
    return lines
