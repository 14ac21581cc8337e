"""How well a model translates: BLEU and chrF beside references, with the signatures that make them comparable."""

from __future__ import annotations

import importlib.util
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bimo.console import SILENT, Console
from bimo.files import digest_file
from bimo.generate.translator import Translation, Translator, careful_lines, load
from bimo.intervals import FEWEST, chance_of_agreement
from bimo.runtime import USAGE, UserError, t
from bimo.tasks.folder import tell_refused
from bimo.text.language import script_of
from bimo.text.pairs import COLUMNS, Pair, PairFile, describe_pairs
from bimo.text.tables import require_known

__all__ = ["evaluate_translations", "translation_lines"]

BOOTSTRAPS = 1000
SHOWN = 5


def evaluate_translations(
    model: Path,
    source: Path,
    *,
    against: Path | None = None,
    columns: Mapping[str, str] | None = None,
    console: Console = SILENT,
) -> dict[str, Any]:
    """Translate every pair of a file, in each direction that the model knows; returns facts as JSON.

    `against` is another model, compared on the same pairs by a paired bootstrap (Koehn 2004). `columns` says what
    `source`, `target` and `to`, the language of the target, are called in the file.
    """
    _require_sacrebleu()
    given = dict(columns or {})
    require_known(given, COLUMNS)
    translators = [load(path) for path in (model, *([against] if against else []))]
    first = translators[0]
    found = first.read_pairs(source, **given, repeats=True)
    if not all(_go_the_same_way(first, other, found) for other in translators[1:]):
        raise UserError("The two models do not translate in the same directions.", code=USAGE)
    console.say("Read", describe_pairs(found.name, found.rows, found.columns))
    tell_refused(found.refused, console, kept=False)
    ways = _directions(found, first)
    return {
        "task": "translate",
        "file": source.name,
        "sha256": digest_file(source),
        "columns": asdict(found.columns),
        "aside": dict(found.aside),
        "directions": [_direction(translators, to, pairs, console) for to, pairs in ways],
        "against": str(against) if against else "",
    }


def _go_the_same_way(one: Translator, other: Translator, found: PairFile) -> bool:
    """Two translators on these pairs, as far as is known which way they go."""
    known = bool(one.tags) or bool(one.scripts and other.scripts)
    return one.tags.keys() == other.tags.keys() and (not known or one.ways(found) == other.ways(found))


def _directions(found: PairFile, translator: Translator) -> list[tuple[str, list[Pair]]]:
    """The pairs of a file by the language that they are translated into; both ways, where a model knows both."""
    ways = translator.ways(found)
    pairs = [pair for way in ways for pair in way.of(found.pairs)]
    if not translator.tags:
        return [("", pairs)]
    order = dict.fromkeys([*(way.to for way in ways), *translator.tags])
    named = [(to, [pair for pair in pairs if pair.to == to]) for to in order]
    return [(to, there) for to, there in named if there]


def _require_sacrebleu() -> None:
    if importlib.util.find_spec("sacrebleu") is None:
        raise UserError("Translations are measured with sacrebleu: pip install 'bimo[eval]'", code=USAGE)


def _direction(translators: Sequence[Translator], to: str, pairs: list[Pair], console: Console) -> dict[str, Any]:
    """The measures of one direction, those of the first translator beside the others'."""
    from sacrebleu.metrics import BLEU, CHRF
    from sacrebleu.significance import PairedTest

    sources, references = [pair.source for pair in pairs], [pair.target for pair in pairs]
    translated = [_translated(translator, sources, to, console) for translator in translators]
    outputs = [[found.text for found in each] for each in translated]
    tokenize = "zh" if script_of(" ".join(references[:200])) == "zh" else "13a"
    metrics = {"bleu": BLEU(tokenize=tokenize), "chrf": CHRF()}
    scores = {name: metric.corpus_score(outputs[0], [references]).score for name, metric in metrics.items()}
    signatures = {name: str(metric.get_signature()) for name, metric in metrics.items()}
    halves: dict[str, float | None] = dict.fromkeys(metrics)
    if len(pairs) >= FEWEST:
        for name, metric in metrics.items():
            halves[name] = float(metric.corpus_score(outputs[0], [references], n_bootstrap=BOOTSTRAPS)._ci)
    left = [stretch for found in translated[0] for stretch in found.untranslated]
    unknown = Counter(word for found in translated[0] for word in found.unknown)
    every = max(1, len(pairs) // SHOWN)
    facts: dict[str, Any] = {
        "to": to,
        "pairs": len(pairs),
        **scores,
        "half_intervals": halves,
        "signatures": signatures,
        "untranslated": left,
        "unknown": [word for word, _ in unknown.most_common()],
        "cut": sum(found.cut for found in translated[0]),
        "unfinished": sum(found.unfinished for found in translated[0]),
        "samples": [
            {"source": sources[i], "translation": outputs[0][i], "reference": references[i]}
            for i in range(0, every * SHOWN, every)[: len(pairs)]
        ],
    }
    if len(outputs) > 1:
        named: list[tuple[str, Sequence[str]]] = [("against", outputs[1]), ("model", outputs[0])]
        _, columns = PairedTest(named, metrics, [references], test_type="bs", n_samples=BOOTSTRAPS)()
        results: dict[str, Any] = dict(columns)
        ours, theirs = ([results[key][place] for key in list(results)[1:]] for place in (1, 0))
        least = chance_of_agreement(sum(mine != other for mine, other in zip(*outputs, strict=True)))
        facts["other"] = {
            # Of two equal systems sacreBLEU says that no resample is as equal, so p would be the smallest there is.
            name: {"score": other.score, "p": 1.0 if other.score == mine.score else max(mine.p_value, least)}
            for name, mine, other in zip(metrics, ours, theirs, strict=True)
        }
    return facts


def _translated(translator: Translator, sources: list[str], to: str, console: Console) -> list[Translation]:
    done: list[Translation] = []
    with console.progress("Evaluate", len(sources)) as update:
        for found in translator.translate(sources, to=to):
            done.append(found)
            update(len(done), "")
    return done


def translation_lines(facts: dict[str, Any]) -> list[str]:
    """The measures for people."""
    lines = []
    for way in facts["directions"]:
        lines.append(
            t(
                "{to}BLEU {bleu}, chrF2 {chrf} on {pairs:,} pairs",
                to=f"→ {way['to']}: " if way["to"] else "",
                **{name: _with_half(way[name], half) for name, half in way["half_intervals"].items()},
                pairs=way["pairs"],
            )
        )
        if "other" in way:
            lines.append(
                t(
                    "the other model: BLEU {bleu:.1f} (p {bleu_p:.3f}), chrF2 {chrf:.1f} (p {chrf_p:.3f})",
                    bleu=way["other"]["bleu"]["score"],
                    bleu_p=way["other"]["bleu"]["p"],
                    chrf=way["other"]["chrf"]["score"],
                    chrf_p=way["other"]["chrf"]["p"],
                )
            )
        lines += careful_lines(way["untranslated"], way["unknown"], cut=way["cut"], unfinished=way["unfinished"])
        lines += [f"  {way['signatures']['bleu']}", f"  {way['signatures']['chrf']}"]
        for sample in way["samples"]:
            lines.append(f"  {sample['source']} → {sample['translation']} ({sample['reference']})")
    return lines


def _with_half(score: float, half: float | None) -> str:
    return f"{score:.1f}" if half is None else f"{score:.1f} ± {half:.1f}"
