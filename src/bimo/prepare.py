"""`bimo prepare`: from sources to a data folder with documents, tokenizer and packed tokens. Nothing is done twice."""

from __future__ import annotations

import hashlib
import itertools
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from bimo.console import SILENT, Console
from bimo.files import digest_file, digest_json, locked, read_json, replacing_folder, require_room
from bimo.report.data_report import write_data_report
from bimo.report.data_sheet import write_data_sheet
from bimo.runtime import USAGE, UserError, require_least, t
from bimo.stages import Stages
from bimo.text.cluster import Executor
from bimo.text.collect import collect_documents
from bimo.text.controls import CONTROLS_FILE, Controls, read_controls
from bimo.text.inventory import estimate_bytes, file_digests, source_digest
from bimo.text.options import TextOptions
from bimo.text.personal import describe_kind, excerpt, redaction_key
from bimo.text.sources import SourceFile, find_sources
from bimo.text.store import read_stored
from bimo.tokens.shards import TokenWriter
from bimo.tokens.tokenizer import (
    Tokenizer,
    ahead,
    choose_vocabulary,
    in_batches,
    load_tokenizer,
    longest_tokens,
    train_tokenizer,
)

__all__ = ["PrepareConfig", "prepare"]

VERSION = 8
"""Goes into every key. Raise it when the same input would now give another result."""

TOKENIZER_CHARACTERS = 20_000_000
"""A tokenizer learns from about so many characters, spread over the corpus: more changes little and costs memory."""

STATISTICS_CHARACTERS = 400_000

REDACTED = {
    "report": "nothing, but found {kinds}",
    "mask": "{kinds}: each is now a mark of its kind",
    "pseudonymise": "{kinds}: each has a stand-in",
    "drop": "{kinds}: texts with any of them were set aside",
}

_KINDS_SHOWN = 6

LANGUAGES = {"zh": "Chinese", "en": "English"}


@dataclass(frozen=True)
class PrepareConfig:
    """How to prepare. `vocabulary` 0 chooses by the size of the corpus; `tokenizer` names one to use instead."""

    text: TextOptions = field(default_factory=TextOptions)
    vocabulary: int = 0
    tokenizer: str = ""

    def by_content(self) -> dict[str, Any]:
        """The settings with what stands in the files that they name, wherever those lie."""
        tokenizer = load_tokenizer(Path(self.tokenizer)).inner.to_str() if self.tokenizer else ""
        return {**asdict(self), "text": _text_by_content(self.text), "tokenizer": tokenizer}


def prepare(
    sources: list[str | Path],
    *,
    out: str | Path,
    settings: PrepareConfig | None = None,
    executor: str = "",
    licence: str = "",
    console: Console = SILENT,
) -> dict[str, Any]:
    """Read, clean, split, tokenize and pack `sources` into the data folder `out`. Returns the facts of each stage.

    `executor` has the text cleaned by datatrove's `local`, `slurm` or `ray` (Executor.parse); the result is the same.
    `licence` is what the data sheet says of the text; an empty one leaves what it said before.

    Raises UserError when nothing readable is found, or, with settings.text.strict, at the first bad file or row.
    """
    settings = settings or PrepareConfig()
    require_least({"vocabulary": (settings.vocabulary, 0)})
    out = Path(out)
    if out.exists() and not _is_ours_or_empty(out):
        raise UserError(
            "The folder {out} is taken: it holds files that are not prepared data. Choose another with --out.",
            code=USAGE,
            out=out,
        )
    cleaners = Executor.parse(executor) if executor else None
    brought = load_tokenizer(Path(settings.tokenizer)) if settings.tokenizer else None
    paths = [Path(source) for source in sources]
    files = find_sources(paths, out=out, cannot_open=lambda name, error: None)
    with locked(out):
        stages = Stages(out)
        stages.begin()
        digests = file_digests(files)
        documents = _documents(paths, files, digests, out, settings, cleaners, stages, console)
        tokenizer = _tokenizer(out, documents, settings, brought, stages, console)
        tokens = _tokens(out, stages, console)
        _data_sheet(out, files, digests, licence, settings, stages)
        write_data_report(out)
    return {"documents": documents, "tokenizer": tokenizer, "tokens": tokens}


def _text_by_content(options: TextOptions) -> dict[str, Any]:
    """See PrepareConfig.by_content."""
    found = asdict(options)
    if options.reference:
        reference = find_sources(list(map(Path, options.reference)), cannot_open=lambda name, error: None)
        found["reference"] = source_digest(reference, file_digests(reference))
    return found


def _is_ours_or_empty(out: Path) -> bool:
    return out.is_dir() and ((out / "manifest.json").exists() or {path.name for path in out.iterdir()} <= {".lock"})


def _documents(
    paths: list[Path],
    files: list[SourceFile],
    digests: dict[str, str],
    out: Path,
    settings: PrepareConfig,
    executor: Executor | None,
    stages: Stages,
    console: Console,
) -> dict[str, Any]:
    """Read, clean and split, unless that was done for the same content and options."""
    inputs = {"version": VERSION, "sources": source_digest(files, digests), "text": _text_by_content(settings.text)}
    secret = redaction_key(settings.text.redact)
    key = digest_json({**inputs, "pseudonyms": hashlib.sha256(secret).hexdigest()} if secret else inputs)
    facts = stages.facts("documents", key)
    if facts is None:
        require_room(out, 3 * estimate_bytes(files))
        with stages.anew("documents", key), console.progress("Read", 1.0) as update:
            facts = collect_documents(paths, out, settings.text, key=key, executor=executor, progress=update)
        (out / CONTROLS_FILE).unlink(missing_ok=True)
        if settings.text.controls:
            controls = Controls.of_documents(read_stored(out / "documents", "train"), settings.text.controls)
            controls.write(out)
            facts["controls"] = {name: len(values) for name, values in controls.values.items()}
        written = sorted(
            [*out.glob(CONTROLS_FILE), *(out / "documents").glob("*.parquet"), *(out / "rejected").glob("*.parquet")]
        )
        stages.record("documents", key, facts, written)
    _say_documents(facts, out, console)
    return facts


def _say_documents(facts: dict[str, Any], out: Path, console: Console) -> None:
    total = sum(language["bytes"] for language in facts["languages"].values())
    shares = ", ".join(
        f"{t(LANGUAGES.get(code, code))} {language['bytes'] / total:.0%}"
        for code, language in sorted(facts["languages"].items(), key=lambda item: -item[1]["bytes"])
    )
    text = t(
        "{files:,} files, {megabytes:.1f} MB: {shares}",
        files=facts["files"],
        megabytes=facts["bytes_read"] / 1e6,
        shares=shares,
    )
    if facts["files_unreadable"]:
        text += t("; {files:,} could not be read ({where})", files=facts["files_unreadable"], where=out / "rejected")
    console.say("Read", text)
    kept = facts["train"]["documents"] + facts["validation"]["documents"]
    duplicates = sum(facts["rejected"].get(reason, 0) for reason in ("duplicate", "near_duplicate"))
    console.say(
        "Cleaned",
        t(
            "{kept:,} passages kept, {held:,} held out to test; {duplicates:,} duplicates, {poor:,} others set aside",
            kept=kept,
            held=facts["validation"]["documents"],
            duplicates=duplicates,
            poor=sum(facts["rejected"].values()) - duplicates,
        ),
    )
    if "controls" in facts:
        named = [t("{name} with {count:,} values", name=name, count=count) for name, count in facts["controls"].items()]
        console.say("Controls", t("{tags}, and the length", tags=", ".join(named)))
    personal = facts["personal"]["counts"]
    if personal:
        named = [f"{describe_kind(kind)} {count:,}" for kind, count in personal.items()]
        kinds = ", ".join([*named[:_KINDS_SHOWN], *(["…"] if len(named) > _KINDS_SHOWN else [])])
        console.say("Redacted", t(REDACTED[facts["personal"]["mode"]], kinds=kinds))


def _tokenizer(
    out: Path,
    documents: dict[str, Any],
    settings: PrepareConfig,
    brought: Tokenizer | None,
    stages: Stages,
    console: Console,
) -> dict[str, Any]:
    """Train a tokenizer on the training text, or take the one that was brought."""
    train_bytes = documents["train"]["bytes"]
    vocabulary = settings.vocabulary or choose_vocabulary(train_bytes)
    key = digest_json(
        {
            "version": VERSION,
            "documents": stages.key("documents"),
            "tokenizer": brought.inner.to_str() if brought else vocabulary,
        }
    )
    facts = stages.facts("tokenizer", key)
    if facts is None:
        every = max(1, math.ceil(documents["train"]["characters"] / TOKENIZER_CHARACTERS))
        texts = _texts(out, "train", every=every)
        with stages.anew("tokenizer", key):
            tokenizer = brought or train_tokenizer(texts, vocabulary=vocabulary)
            tokenizer.save(out)
        facts = {**_tokenizer_facts(tokenizer, out), "source": settings.tokenizer or "trained"}
        stages.record("tokenizer", key, facts, [out / "tokenizer.json", out / "tokenizer_config.json"])
    per_token = ", ".join(
        t("{rate:.2f} characters a token in {language}", rate=rate, language=t(LANGUAGES.get(code, code)))
        for code, rate in facts["characters_per_token"].items()
    )
    console.say("Tokenizer", t("{vocabulary:,} tokens: {rates}", vocabulary=facts["vocabulary"], rates=per_token))
    return facts


def _texts(out: Path, split: str, *, every: int = 1) -> Iterator[str]:
    return (document.text for document in itertools.islice(read_stored(out / "documents", split), 0, None, every))


def _tokenizer_facts(tokenizer: Tokenizer, out: Path) -> dict[str, Any]:
    """Vocabulary, characters and bytes a token by language, the longest tokens, a sentence in tokens."""
    characters: Counter[str] = Counter()
    documents = []
    for document in read_stored(out / "documents", "validation"):
        documents.append(document)
        characters[document.language] += len(document.text)
        if characters.total() > STATISTICS_CHARACTERS:
            break
    tokens: Counter[str] = Counter()
    for document, ids in zip(documents, tokenizer.encode_batch([each.text for each in documents]), strict=True):
        tokens[document.language] += len(ids)
    bytes_ = sum(len(document.text.encode()) for document in documents)
    example = next((document.text for document in documents if document.text), "")
    return {
        "vocabulary": tokenizer.vocabulary,
        "characters_per_token": {code: characters[code] / max(1, tokens[code]) for code, _ in tokens.most_common()},
        "bytes_per_token": bytes_ / max(1, tokens.total()),
        "longest_tokens": longest_tokens(tokenizer, 30),
        "sample": tokenizer.pieces(" ".join(excerpt(example, 400).split())[:160]),
    }


def _tokens(out: Path, stages: Stages, console: Console) -> dict[str, Any]:
    """Encode both splits and pack them."""
    key = digest_json(
        {
            "version": VERSION,
            "documents": stages.key("documents"),
            "tokenizer": digest_file(out / "tokenizer.json"),
        }
    )
    facts = stages.facts("tokens", key)
    if facts is None:
        tokenizer = load_tokenizer(out)
        with stages.anew("tokens", key), replacing_folder(out / "tokens") as part:
            facts = {split: _pack(tokenizer, out, part, split) for split in ("train", "validation")}
        stages.record("tokens", key, facts, sorted((out / "tokens").glob("*.bin")))
    text = t(
        "{train:,} to train on, {validation:,} to test with",
        train=facts["train"]["tokens"],
        validation=facts["validation"]["tokens"],
    )
    console.say("Tokens", text)
    return facts


def _data_sheet(
    out: Path, files: list[SourceFile], digests: dict[str, str], licence: str, settings: PrepareConfig, stages: Stages
) -> None:
    """Write it, unless it is there for this data and licence."""
    path = out / "data_sheet.json"
    licence = licence or (read_json(path).get("licence", "") if path.is_file() else "")
    key = digest_json({"version": VERSION, "tokens": stages.key("tokens"), "licence": licence})
    if stages.facts("data_sheet", key) is None:
        write_data_sheet(out, files, digests, licence=licence, processing=asdict(settings))
        stages.record("data_sheet", key, {"licence": licence}, [path])


def _packed_texts(out: Path, split: str) -> Iterator[str]:
    """What is packed: on the training side with tags in front, where there are any; held-out text stays as it is."""
    controls = read_controls(out) if split == "train" else None
    if controls is None:
        return _texts(out, split)
    return map(controls.training_text, read_stored(out / "documents", split))


def _pack(tokenizer: Tokenizer, out: Path, folder: Path, split: str) -> dict[str, int]:
    bytes_ = 0
    with TokenWriter(folder, split, vocabulary=tokenizer.vocabulary, end=tokenizer.end) as writer:
        for texts in ahead(in_batches(_packed_texts(out, split))):
            writer.write_flat(*tokenizer.encode_flat(texts))
            bytes_ += sum(len(text.encode()) for text in texts)
    return {"tokens": writer.tokens, "documents": writer.documents, "bytes": bytes_}
