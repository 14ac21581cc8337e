"""`bimo evaluate`: how well a model predicts text that it never saw, beside simple methods, and how much it copies."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from bimo.baselines import measure_baselines
from bimo.console import SILENT, Console
from bimo.evaluate.answers import answers_lines, evaluate_answers
from bimo.evaluate.choices import choice_lines, evaluate_choices, form_in
from bimo.evaluate.classified import classified_lines, evaluate_classifier
from bimo.evaluate.copying import copying_facts
from bimo.evaluate.dialogue import conversation_lines, preference_lines, talk_in
from bimo.evaluate.keeping import learned_from_data, measure_once, model_digests
from bimo.evaluate.masked import blank_line, evaluate_masked, masked_line
from bimo.evaluate.prediction import certainty, compare_models, comparison_line, predict_texts, texts_to_predict
from bimo.evaluate.similarity import evaluate_similarity, measures_similarity, similarity_lines
from bimo.evaluate.steering import steering_facts
from bimo.evaluate.translations import evaluate_translations, translation_lines
from bimo.files import digest_json
from bimo.generate.engine import LanguageModel, load
from bimo.generate.sample import Sampling
from bimo.models.families import PAIRED
from bimo.report.facts import is_run
from bimo.report.judgement import copied_share
from bimo.runtime import USAGE, UserError, t
from bimo.stages import Stages, is_prepared
from bimo.tasks.classify.classifier import holds_classifier
from bimo.tasks.folder import learned_from
from bimo.text.controls import Controls, read_controls
from bimo.text.store import read_stored
from bimo.weights.huggingface import family_in, head_in

__all__ = ["evaluate", "evaluation_lines", "predict_texts"]

VERSION = 4
"""Goes up when the same model and text would give other figures."""

FREE_SAMPLES = 200
SAMPLE_TOKENS = 200
SAMPLES_AT_ONCE = 50
SHOWN_SAMPLES = 3

FREE = Sampling(temperature=1.0, top_p=1.0)
"""What the model itself says, not cut to its likeliest words: the fair setting for counting copies."""


def evaluate(
    model: str | Path,
    source: str | Path,
    *,
    against: str | Path | None = None,
    adapter: str | Path | None = None,
    columns: Mapping[str, str] | None = None,
    console: Console = SILENT,
) -> dict[str, Any]:
    """Measure a model at what it is for; returns facts as JSON, of which `task` says what was measured.

    A classifier on texts with labels, a translator on pairs or an encoder on pairs with scores of likeness, whose
    `columns` can be named; an encoder on masked words of prepared data, or on questions if it answers any; a language
    model on prepared data (its held-out part), on any files of text, on questions with choices, on conversations or on
    preferences; an `adapter` may be added to it. `against` is another model of the kind to compare with on the same
    examples. On prepared data baselines and copying are measured too, where no adapter is, and kept: see
    `measure_once`. Raises UserError when a model cannot be measured on the file.
    """
    model, source = Path(model), Path(source)
    other = None if against is None else Path(against)
    for one in dict.fromkeys(Path(one) for one in (model, adapter, against) if one is not None):
        if learned_from(one, source):
            console.warn(t("{model} learned from this very file, so it knows the answers.", model=one))
    if holds_classifier(model):
        _require_none(adapter=adapter)
        return evaluate_classifier(model, source, against=other, columns=columns, console=console)
    family = family_in(model)
    if family == PAIRED:
        _require_none(adapter=adapter)
        return evaluate_translations(model, source, against=other, columns=columns, console=console)
    if family == "encoder" and measures_similarity(model, source):
        _require_none(against=other, adapter=adapter)
        return evaluate_similarity(model, source, columns=columns, console=console)
    _require_none(column=columns)
    if family == "encoder":
        _require_none(against=other, adapter=adapter)
        if head_in(model) == "span":
            return evaluate_answers(model, source, console=console)
        return evaluate_masked(model, source, console=console)
    if is_prepared(source) and other is None and adapter is None:
        return _evaluate_on_data(model, source, console)
    return _evaluate_decoder(model, source, other, adapter, console)


def _evaluate_decoder(
    path: Path, source: Path, other: Path | None, adapter: str | Path | None, console: Console
) -> dict[str, Any]:
    """Measure a language model at what the file holds, perhaps beside the `other` one."""
    form, measure_talk = form_in(source), talk_in(source)
    model = load(path, adapter=adapter)
    against = None if other is None else load(other)
    for one in dict.fromkeys(filter(None, (path, other))) if is_prepared(source) else ():
        if is_run(one) and not learned_from_data(one, source):
            console.warn(t("{model} learned from other data, which may hold these held-out texts.", model=one))
    if form is not None:
        facts = evaluate_choices(model, source, form, against=against, console=console)
    elif measure_talk is not None:
        facts = measure_talk(model, source, against=against, console=console)
    elif against is not None:
        texts = texts_to_predict(source, console)
        return {**compare_models(model, against, texts, console=console), "against": str(other)}
    else:
        return predict_texts(model, texts_to_predict(source, console), console=console)
    if other is not None:
        facts["against"]["model"] = str(other)
    return facts


def _evaluate_on_data(model: Path, source: Path, console: Console) -> dict[str, Any]:
    """Measure a language model on prepared data, once for the same model and data; keep the facts and their pages."""
    made_of = model_digests(model) if model.is_dir() else {}  # beside a file nothing is kept
    key = digest_json({"version": VERSION, "model": made_of, "documents": Stages(source).key("documents")})
    return measure_once(model, source, key=key, measure=lambda: _measure(model, source, console), console=console)


def _measure(model: Path, source: Path, console: Console) -> dict[str, Any]:
    held_out = texts_to_predict(source, console)
    language_model = load(model)
    documents = [*read_stored(source / "documents", "validation")]
    controls = read_controls(source)
    facts = {
        **predict_texts(language_model, held_out, console=console),
        "baselines": measure_baselines(source, key=Stages(source).key("documents"), console=console),
        **_free_writing(language_model, source, [document.text for document in documents], controls, console),
    }
    if controls is not None:
        facts["steering"] = steering_facts(language_model, documents, controls)
    return facts


def _require_none(**given: Any) -> None:
    """Raises UserError when an option is given that this measure has no use for, by the option's name."""
    for option, value in given.items():
        if value:
            raise UserError("--{option} has no place in this task.", code=USAGE, option=option)


def _free_writing(
    model: LanguageModel, data: Path, held_out: list[str], controls: Controls | None, console: Console
) -> dict[str, Any]:
    """Let the model write without a prompt, and look for what it writes in the text it learned from; tags apart."""
    samples: list[str] = []
    with console.progress("Writing", FREE_SAMPLES) as update:
        while len(samples) < FREE_SAMPLES:
            seed = len(samples)
            samples += model.samples(count=SAMPLES_AT_ONCE, max_tokens=SAMPLE_TOKENS, sampling=FREE, seed=seed)
            update(len(samples), t("to look for copies of the training text"))
    shown = model.samples(count=SHOWN_SAMPLES, max_tokens=SAMPLE_TOKENS, seed=1)
    if controls is not None:
        samples, shown = ([controls.without_header(text) for text in texts] for texts in (samples, shown))
    learned = Stages(data).known("documents")["train"]["characters"]
    with console.progress("Searching", learned) as update:
        copying = copying_facts(samples, _searched(data, update), reference_texts=held_out)
    return {
        "copying": copying,
        "samples": [{"prompt": "", "text": text} for text in shown],
    }


def _searched(data: Path, update: Callable[[float, str], None]) -> Iterator[str]:
    """All training text; a share of it would hide as large a share of the copies."""
    done = 0
    for document in read_stored(data / "documents", "train"):
        yield document.text
        done += len(document.text)
        update(done, t("the training text for what the model wrote"))


def evaluation_lines(facts: dict[str, Any]) -> list[str]:
    """An evaluation as lines for people."""
    return LINES.get(facts.get("task", ""), text_lines)(facts)


LINES: dict[str, Callable[[dict[str, Any]], list[str]]] = {
    "answer": answers_lines,
    "choices": choice_lines,
    "classify": classified_lines,
    "conversations": conversation_lines,
    "preferences": preference_lines,
    "comparison": lambda facts: [comparison_line(facts)],
    "masked": lambda facts: [masked_line(facts), *map(blank_line, facts["blanks"])],
    "similarity": similarity_lines,
    "translate": translation_lines,
}
"""By what was measured; without a name it was text."""


def text_lines(facts: dict[str, Any]) -> list[str]:
    """How well a language model predicts text."""
    validation = facts["validation"]
    lines = [
        t(
            "{bits:.4f} bits per byte ({certainty}), {per_character:.3f} bits per character, perplexity "
            "{perplexity:.2f} a token, {accuracy:.1%} of the tokens foreseen",
            bits=facts["bits_per_byte"],
            certainty=certainty(facts["bits_per_byte_interval"]),
            per_character=facts["bits_per_character"],
            perplexity=facts["perplexity"],
            accuracy=facts["accuracy"],
        ),
        t("on {documents:,} documents of {bytes:,} bytes, {tokens:,} tokens", **validation),
    ]
    if "baselines" in facts:
        baselines = facts["baselines"]
        lines.append(
            t(
                "Baselines: unigram {unigram:.3f}, Kneser-Ney of order {order} {kneser_ney:.3f}, xz {xz:.3f}",
                unigram=baselines["unigram"],
                order=baselines["kneser_ney"]["best_order"],
                kneser_ney=baselines["kneser_ney"]["bits_per_byte"],
                xz=baselines["xz"],
            )
        )
    if facts.get("steering"):
        lines.append(
            t(
                "Steering: {with_tags:.3f} bits per byte after the tags of a text, {without_tags:.3f} without them, "
                "on {documents:,} documents",
                **facts["steering"],
            )
        )
    if "copying" in facts:
        copying, share = facts["copying"], copied_share(facts["copying"])
        lines.append(
            t("Copied: what it wrote is too short to tell")
            if share is None
            else t(
                "Copied: {share:.2%} of {windows:,} windows of {window} characters; longest run {longest} characters",
                share=share,
                windows=copying["windows"],
                window=copying["window"],
                longest=copying["longest_run"],
            )
        )
    return lines
