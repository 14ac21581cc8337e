"""`bimo tune --task embed`: an encoder and texts -> one whose vectors are near where texts are alike."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bimo.config import to_mapping
from bimo.console import SILENT, Console
from bimo.files import digest_file, write_json
from bimo.models.encoder import Encoder, with_head
from bimo.models.heads import Head
from bimo.runtime import USAGE, UserError, t
from bimo.tasks.embed.embedder import Embedder, open_embedder
from bimo.tasks.embed.examples import Examples, read_examples
from bimo.tasks.folder import claimed, tell_cut, tell_refused, write_refused
from bimo.tasks.tune import Wish, require_base
from bimo.tokens.framing import Framing
from bimo.train.contrastive import Contrast, Couple, CoupleBatches, Pooling, Ranking
from bimo.train.pretrain import check_output
from bimo.train.tune import TuneConfig, Tuning
from bimo.weights.huggingface import save_encoder
from bimo.weights.safetensors_files import weight_digests
from bimo.weights.sentence_transformers import SentenceLayout, write_layout

__all__ = ["tune", "tune_lines"]

BATCH = 64
"""Examples a step: what each is told apart from."""

RATE_BY_AREA = 10.0
"""Learning rate of AdamW times the squared width of the model: 1e-3 for one of 96, 7e-5 for one of 384."""

LORA_GAIN = 10.0
"""How much faster an adapter learns, as that of a chat does."""

DROPOUT = 0.1
"""Of Gao et al. 2021; what makes two vectors of one text."""

DROPPED = 0.3
"""Share of the tokens that a text without a partner is read without, so that its words must tell of each other.

Without it encoders that were trained for minutes lost by dropout what they had (docs/log.md).
"""


def tune(wish: Wish) -> dict[str, Any]:
    """Let an encoder learn vectors; returns the facts of `bimo/tune.json`."""
    path, out, settings = wish.require_model(), wish.out, wish.settings
    wish.refuse(engine=wish.engine, beta=settings.beta, general=wish.general)
    require_base(path, settings)
    check_output(out)
    start = open_embedder(path, device=wish.device)
    if not isinstance(start.model, Encoder):
        raise UserError(
            "{path} is no encoder, and only those learn vectors. One is made by: bimo run SOURCE --out MODEL --family "
            "encoder.",
            code=USAGE,
            path=path,
        )
    found = read_examples(wish.file, wish.columns)
    wish.console.say("Read", found.describe())
    train, held_out = found.split(seed=settings.seed)
    tell_refused(found.refused, wish.console)
    if held_out.shared:
        wish.console.warn(
            t("nearly all pairs share texts with others: held-out ones have but their first text to themselves")
        )
    base = weight_digests(path)
    inputs = {"task": "embed", "model": base, "layout": start.layout.__dict__, "file": digest_file(wish.file)}
    with claimed(out, {**inputs, "columns": dict(wish.columns), "settings": to_mapping(settings)}) as finished:
        if finished is not None:
            wish.console.say("Tuning", t("was finished before; nothing to do"))
            return finished
        write_refused(out, found.refused)
        facts = {
            "task": "embed",
            "model": str(path),
            "kind": found.kind,
            "examples": {"train": len(train.rows), "held_out": len(held_out.rows), "refused": len(found.refused)},
            "settings": to_mapping(settings),
            **_tune(path, start, train, held_out, settings, out, wish.console),
        }
        write_json(out / "bimo" / "tune.json", facts)
    return facts


def _tune(
    path: Path, start: Embedder, train: Examples, held_out: Examples, settings: TuneConfig, out: Path, console: Console
) -> dict[str, Any]:
    """Tune, and write a folder that sentence-transformers reads as well."""
    rate = RATE_BY_AREA / start.width**2 * (1.0 if settings.lora is None else LORA_GAIN)
    settings = settings.filled(rate=rate, batch=BATCH)
    context = min(start.context, settings.context)
    framing, pooling = Framing(start.tokenizer, context=context), Pooling(start.layout.pooling)
    model = with_head(
        start.model, Head("none", pooler=start.model.config.head.pooler), seed=settings.seed, dropout=DROPOUT
    )
    batches, held = (
        CoupleBatches(
            _couples(part, framing, start, console if part is train else SILENT),
            framing,
            batch=settings.batch,
            seed=settings.seed,
            dropped=DROPPED if part.kind == "texts" else 0.0,
        )
        for part in (train, held_out)
    )
    objective = (
        Ranking(held, pooling) if train.kind == "scored" else Contrast(held, pooling, noisy=train.kind == "texts")
    )
    tuning = Tuning(model, objective, batches, settings, home=out / "bimo", console=console)
    facts = tuning.run()
    save_encoder(out, model, pad=framing.padding, adapter=tuning.adapter, base=path)
    start.tokenizer.save(out, context=context)
    layout = SentenceLayout(pooling.how, normalize=True, context=context, lower=start.layout.lower)
    write_layout(out, layout, width=model.config.width)
    return {**facts, "batch": batches.rows, "among": min(held.together, len(held_out.rows))}


def _couples(examples: Examples, framing: Framing, start: Embedder, console: Console) -> Sequence[Couple]:
    known: dict[str, int] = {}
    for pair in examples.rows:
        for text in (pair.source, pair.target):
            known.setdefault(text, len(known))
    framed = framing.texts([text.lower() if start.layout.lower else text for text in known])
    tell_cut(framed, framing.context, console)
    scores = examples.scores or [0.0] * len(examples.rows)
    return [
        Couple(framed[left], framed[right], (left, right), score)
        for (left, right), score in zip(
            ((known[pair.source], known[pair.target]) for pair in examples.rows), scores, strict=True
        )
    ]


def tune_lines(facts: dict[str, Any]) -> list[str]:
    """What a person wants to know of a tuning."""
    before, after = facts["held_out"]["before"], facts["held_out"]["after"]
    if facts["kind"] == "scored":
        first = t(
            "Held-out pairs: Spearman {before:.3f} before, {after:.3f} after",
            before=before["spearman"],
            after=after["spearman"],
        )
    else:
        first = t(
            "Held-out loss: {before:.3f} before, {after:.3f} after; partners found among {among}: {low:.1%}, "
            "{high:.1%}",
            before=before["loss"],
            after=after["loss"],
            among=facts["among"],
            low=before["found"],
            high=after["found"],
        )
    return [
        first,
        t(
            "Trained: {parameters:,} parameters on {examples:,} examples, {epochs:.1f} epochs in {minutes:.1f} min",
            parameters=facts["trained_parameters"],
            examples=facts["examples"]["train"],
            epochs=facts["epochs"],
            minutes=facts["seconds"] / 60,
        ),
    ]
