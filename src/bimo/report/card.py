"""The model card: a README.md with the front matter that model hubs read, from the same facts as the report."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

from bimo.files import replacing
from bimo.report.examples import beginning, masked_sample
from bimo.report.facts import (
    Facts,
    baseline_rows,
    count,
    duration,
    is_encoder,
    join_sentences,
    language_name,
    learning_curves,
    model_shape,
    number,
    pair,
    parameters,
    part,
    passes,
    percent,
    read_facts,
    rounded,
    size,
)
from bimo.report.judgement import copied_share, copying_reading, verdict
from bimo.report.page import visible
from bimo.runtime import t

__all__ = ["write_card"]

Row = tuple[str, str] | list[str]

LANGUAGE_CODE = "(?!und)[a-z]{2,3}"

SAMPLE_LIMIT = 600
"""Characters shown of a sample."""


def write_card(model_folder: Path) -> Path:
    """Write the model card `README.md`: what it is, how it was trained, numbers, limits, how to use it.

    It travels with the model, so of the training data it holds counts, and no text or file name.
    """
    facts = read_facts(model_folder)
    languages = _languages(facts)
    blocks = [
        _front_matter(facts, languages),
        f"# {escape(facts['name'])}",
        escape(_what_it_is(facts, languages)),
        escape(join_sentences(verdict(facts))),
        _use_encoder(facts) if is_encoder(facts) else _use(facts),
        *_section(t("Training"), _training(facts)),
        *_section(t("Numbers"), _numbers(facts)),
        *_samples(facts),
        f"## {t('Limits')}",
        "\n".join(f"- {escape(limit)}" for limit in _limits(facts)),
    ]
    path = model_folder / "README.md"
    with replacing(path) as part_path:
        part_path.write_text("\n\n".join(blocks) + "\n", encoding="utf-8")
    return path


def escape(text: str) -> str:
    """Text that Markdown shows as it is, on one line, with invisible characters written out."""
    line = visible(" ".join(text.split()))
    line = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    line = re.sub(r"([\\`*_\[\]#|~$]|^[-+])", r"\\\1", line)
    return re.sub(r"^(\d+)([.)])(?=\s|$)", r"\1\\\2", line)


def fenced(text: str, info: str = "") -> str:
    """A code block whose fence is longer than any that the text holds."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{info}\n{visible(text)}\n{fence}"


def _translates(facts: Facts) -> bool:
    return facts["config"].get("model_type") == "marian"


def _languages(facts: Facts) -> list[str]:
    """Codes of the languages that make up at least a hundredth of the text, most frequent first; of pairs in turn."""
    if isinstance(pair_of := part(facts, "tokens", "columns").get("languages"), list):
        both = dict.fromkeys(map(str, [*pair_of, *_targets(facts)]))
        return [code for code in both if re.fullmatch(LANGUAGE_CODE, code)]
    found = part(facts, "documents", "languages")
    sizes = {code: number(inner, "characters") or 0 for code, inner in found.items()}
    total = sum(sizes.values())
    codes = sorted((code for code in sizes if re.fullmatch(LANGUAGE_CODE, code)), key=lambda code: -sizes[code])
    return [code for code in codes if sizes[code] >= total / 100]


def _targets(facts: Facts) -> list[str]:
    """What a translator of several directions can be asked for; empty where it goes one way."""
    targets = part(facts, "tokens").get("languages") if _translates(facts) else None
    return [str(target) for target in targets] if isinstance(targets, list) else []


def _sides(facts: Facts) -> tuple[str, str]:
    """What a translator of one direction goes from and to: languages or, where both are written alike, columns."""
    columns = part(facts, "tokens", "columns")
    codes = columns.get("languages")
    if isinstance(codes, list) and len({*map(str, codes), "und"}) == 3:
        source, target = (language_name(str(code)) for code in codes)
        return source, target
    return str(columns.get("source", "?")), str(columns.get("target", "?"))


def _runs_in_bimo_alone(facts: Facts) -> bool:
    """Whether the model is of a type of our own, which other libraries do not know."""
    return str(facts["config"].get("model_type")).startswith("bimo_")


def _task(facts: Facts) -> str:
    """What model hubs call it."""
    if is_encoder(facts):
        return "fill-mask"
    return "translation" if _translates(facts) else "text-generation"


def _front_matter(facts: Facts, languages: list[str]) -> str:
    listed = ["language:", *(f"- {json.dumps(code)}" for code in languages)] if languages else []
    task = _task(facts)
    tags = ["tags:", "- bimo", f"- {task}"]
    library = "bimo" if _runs_in_bimo_alone(facts) else "transformers"
    fixed = [f"library_name: {library}", f"pipeline_tag: {task}"]
    return "\n".join(["---", *listed, *tags, *fixed, "---"])


def _what_it_is(facts: Facts, languages: list[str]) -> str:
    weights = parameters(facts)
    spoken = t(" and ").join(language_name(code) for code in languages)
    origin = _origin(facts)
    if weights is None:
        return t("A small language model, {origin}.", origin=origin)
    size_and_origin = {"parameters": rounded(weights), "origin": origin}
    if is_encoder(facts):
        return t(
            "An encoder (BERT) with {parameters} parameters for {languages}, {origin}.",
            languages=spoken or language_name("und"),
            **size_and_origin,
        )
    if targets := _targets(facts):
        return t(
            "A model with {parameters} parameters that translates into {languages}, {origin}.",
            languages=t(" and ").join(map(language_name, targets)),
            **size_and_origin,
        )
    if _translates(facts):
        source, target = _sides(facts)
        return t(
            "A model with {parameters} parameters that translates ({source} → {target}), {origin}.",
            source=source,
            target=target,
            **size_and_origin,
        )
    if not spoken:
        return t("A language model with {parameters} parameters, {origin}.", **size_and_origin)
    return t(
        "A language model with {parameters} parameters for {languages}, {origin}.",
        languages=spoken,
        **size_and_origin,
    )


def _start(facts: Facts) -> str:
    """The name of the model whose training went on; of where it stood nothing is told."""
    return Path(str(part(facts, "run", "train").get("start") or "")).name


def _origin(facts: Facts) -> str:
    if start := _start(facts):
        return t("further trained with Bimo from {name}", name=start)
    return t("trained from scratch with Bimo")


def _use(facts: Facts) -> str:
    if _translates(facts):
        return _use_for_translation(facts["name"], _targets(facts))
    name = facts["name"]
    samples = part(facts, "evaluation").get("samples") or learning_curves(facts)["sample"]
    first = samples[0] if samples and isinstance(samples[0], dict) else {}
    prompt = beginning(" ".join(str(first.get("prompt") or "").split()), 60) or t("Once upon a time")
    quoted_name, quoted_prompt = (json.dumps(text, ensure_ascii=False) for text in (name, prompt))
    lines = [
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        "",
        f"tokenizer = AutoTokenizer.from_pretrained({quoted_name})",
        f"model = AutoModelForCausalLM.from_pretrained({quoted_name})",
        f'ids = tokenizer({quoted_prompt}, return_tensors="pt")',
        "written = model.generate(**ids, max_new_tokens=100, do_sample=True)",
        "print(tokenizer.decode(written[0], skip_special_tokens=True))",
    ]
    if _runs_in_bimo_alone(facts):
        lines = ["import bimo", "", f'print("".join(bimo.load({quoted_name}).generate({quoted_prompt})))']
    python = "\n".join(lines)
    shell = f"bimo generate {shlex.quote(name)} {shlex.quote(prompt)}"
    return "\n\n".join([f"## {t('Use')}", fenced(shell, "bash"), fenced(python, "python")])


def _use_encoder(facts: Facts) -> str:
    name = json.dumps(facts["name"], ensure_ascii=False)
    python = "\n".join(
        [
            "from transformers import AutoModelForMaskedLM, AutoTokenizer, pipeline",
            "",
            f"tokenizer = AutoTokenizer.from_pretrained({name})",
            f"model = AutoModelForMaskedLM.from_pretrained({name})",
            'guess = pipeline("fill-mask", model=model, tokenizer=tokenizer)',
            f'print(guess("{t("Once upon a [MASK]")}"))',
        ]
    )
    return "\n\n".join([f"## {t('Use')}", fenced(python, "python")])


def _use_for_translation(name: str, targets: list[str]) -> str:
    tag, to = (f">>{targets[0]}<<", f" --to {shlex.quote(targets[0])}") if targets else ("", "")
    quoted, text = (json.dumps(each, ensure_ascii=False) for each in (name, f"{tag}..."))
    python = "\n".join(
        [
            "from transformers import AutoModelForSeq2SeqLM, AutoTokenizer",
            "",
            f"tokenizer = AutoTokenizer.from_pretrained({quoted})",
            f"model = AutoModelForSeq2SeqLM.from_pretrained({quoted})",
            f'ids = tokenizer([{text}], return_tensors="pt", padding=True)',
            "print(tokenizer.batch_decode(model.generate(**ids), skip_special_tokens=True))",
        ]
    )
    shell = f"bimo translate {shlex.quote(name)}{to} < lines.txt"
    return "\n\n".join([f"## {t('Use')}", fenced(shell, "bash"), fenced(python, "python")])


def _training(facts: Facts) -> list[Row | None]:
    documents, done = part(facts, "documents"), facts["training"]
    shape = [row for row in model_shape(part(facts, "run", "model")) if row]
    return [
        _row(t("Documents"), number(documents, "train", "documents"), count),
        _row(t("Pairs"), number(facts, "tokens", "pairs", "train"), count),
        _row(t("Characters"), number(documents, "train", "characters"), rounded),
        _row(t("Tokens learned from"), number(done, "tokens"), rounded),
        _row(t("Passes over the text"), passes(facts), "{:.2f}".format),
        _row(t("Steps"), number(done, "steps"), count),
        _row(t("Training time"), number(done, "seconds"), duration),
        _text(t("Processor"), facts["machine"].get("processor")),
        _row(t("Memory"), number(done, "peak_memory_bytes"), size),
        *shape,
        _text(t("Seed"), facts["manifest"].get("seed")),
        _text("Bimo", facts["manifest"].get("bimo")),
    ]


def _numbers(facts: Facts) -> list[Row | None]:
    evaluation = facts["evaluation"]
    interval = pair(evaluation, "bits_per_byte_interval")
    baselines = [(t("Bits per byte, {name}", name=name), f"{bits:.3f}") for _, name, bits in baseline_rows(evaluation)]
    return [
        _row(t("Bits per byte on unseen text"), number(evaluation, "bits_per_byte"), "{:.3f}".format),
        (t("95 % interval"), f"{interval[0]:.3f}–{interval[1]:.3f}") if interval else None,
        *baselines,
        _row(t("Bits per character"), number(evaluation, "bits_per_character"), "{:.3f}".format),
        _row(t("Perplexity of a token"), number(evaluation, "perplexity"), "{:,.2f}".format),
        _row(t("Tokens foreseen"), number(evaluation, "accuracy"), percent),
        _row(t("Hidden tokens guessed"), number(evaluation, "masked_accuracy"), percent),
        _row(t("Hidden tokens guessed by frequency"), number(evaluation, "unigram", "masked_accuracy"), percent),
        _row(t("Loss of a hidden token, nats"), number(evaluation, "masked_loss"), "{:.3f}".format),
        _row(t("Copied word for word"), copied_share(part(evaluation, "copying")), percent),
    ]


def _samples(facts: Facts) -> list[str]:
    samples = [sample for sample in part(facts, "evaluation").get("samples") or [] if isinstance(sample, dict)]
    if not samples:
        return []
    blocks = [fenced("".join(masked_sample(sample, SAMPLE_LIMIT)), "text") for sample in samples[:3]]
    return [f"## {t('Samples')}", *blocks]


def _limits(facts: Facts) -> list[str]:
    context = number(facts, "run", "model", "context")
    start = _start(facts)
    owner = (
        t(
            "Its licence and the right to share it depend on the licence of {name}, from which its training went on, "
            "and on the training text.",
            name=start,
        )
        if start
        else t("Its licence and the right to share it depend on the training text; whoever publishes it decides them.")
    )
    if _translates(facts):
        return [
            t("It translates in the manner of the pairs it learned from, one sentence at a time, and sees no other."),
            t("It can leave things out, add some, or turn numbers and names into others; nobody has checked its work."),
            owner,
        ]
    habits = t("It repeats whatever one-sidedness and errors its training text has.")
    if is_encoder(facts):
        limits = [t("It guesses hidden words; it writes nothing, and needs tuning for any task."), habits]
    else:
        limits = [
            t(
                "It continues text in the manner of its training text. It does not know what is "
                "true, and it invents facts, names and numbers."
            ),
            habits,
        ]
        if not start:
            limits.append(t("It was not taught to answer questions, to follow instructions or to refuse."))
    if context:
        limits.append(t("It sees at most {context} tokens at a time.", context=count(context)))
    if not is_encoder(facts):
        copying = copying_reading(part(facts, "evaluation", "copying"))
        unknown = t("How much it copies from its training text has not been measured.")
        limits.append(join_sentences(copying) if copying else unknown)
    return [*limits, owner]


def _section(title: str, rows: list[Row | None]) -> list[str]:
    kept = [row for row in rows if row]
    if not kept:
        return []
    lines = [f"| {escape(name)} | {escape(value)} |" for name, value in kept]
    return [f"## {title}", "\n".join(["| | |", "|---|---|", *lines])]


def _row(name: str, value: float | None, say: Any) -> Row | None:
    return None if value is None else (name, say(value))


def _text(name: str, value: Any) -> Row | None:
    return None if value is None else (name, str(value))
