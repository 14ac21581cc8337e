"""What a model folder or file is, what Bimo can do with it, and what is wrong with it: all of it, not the first thing.

Everything goes through the same checks as when a model is used. No program that came with a model is run.
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from bimo.doctor.abilities import abilities, exports
from bimo.doctor.tokenizer import describe_tokenizer
from bimo.files import digest_file, read_settings
from bimo.generate.native import FORMATS
from bimo.kernel import best_instructions
from bimo.models.config import ModelConfig
from bimo.models.encoder import EncoderConfig
from bimo.models.families import StoredShape
from bimo.models.recurrent_classifier import RecurrentClassifierConfig
from bimo.runtime import UserError, t
from bimo.tasks.classify.classifier import open_classifier
from bimo.tasks.classify.linear import MODEL_TYPE, VECTORS_TYPE
from bimo.tokens.chat import ChatFormat
from bimo.tokens.tokenizer import Tokenizer, load_tokenizer
from bimo.weights.adapters import adapter_config, require_usable
from bimo.weights.chat_templates import TEMPLATE_FILE, TEMPLATE_KEY, folder_chat_format, gguf_chat_format
from bimo.weights.finite import require_finite
from bimo.weights.gguf import read_gguf
from bimo.weights.gguf_tokenizer import gguf_tokenizer
from bimo.weights.huggingface import end_ids, read_model
from bimo.weights.layouts import model_config_from_hf
from bimo.weights.names import require_fitting
from bimo.weights.safetensors_files import (
    ADAPTER_SETTINGS,
    ADAPTER_WEIGHTS,
    PICKLED,
    StoredTensor,
    holds_adapter,
    read_header,
    read_weights_of_one,
    weight_files,
)

__all__ = ["examine_model"]

Found = TypeVar("Found")

ADAPTER = (ADAPTER_SETTINGS, ADAPTER_WEIGHTS)
DESCRIPTIONS = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "*.jinja")
GENERATION = ("do_sample", "temperature", "top_k", "top_p", "min_p", "repetition_penalty", "max_new_tokens")
TALK = [
    {"role": "user", "content": "你好！ Who are you?"},
    {"role": "assistant", "content": "A model."},
    {"role": "user", "content": "好。"},
]
PROGRAMS = ("*.py", "*.so", "*.dll", "*.sh")
LONGEST_SHOWN = 200


@dataclass
class Report:
    """Facts as they are found; `problems` keep a model from being used, `notes` do not."""

    facts: dict[str, Any]
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def attempt(self, work: Callable[[], Found]) -> Found | None:
        """What `work` gives, or None and one problem more. What is found out twice is said once."""
        try:
            return work()
        except UserError as error:
            problem = str(error)
        except OSError as error:
            problem = t("{path} cannot be used: {reason}.", path=error.filename, reason=error.strerror)
        if problem not in self.problems:
            self.problems.append(problem)
        return None


def examine_model(path: Path) -> dict[str, Any]:
    """Everything that can be said of a model folder, a GGUF or safetensors file, or a folder with an adapter.

    Raises UserError when it is nothing of these.
    """
    report = Report({"path": str(path)})
    if path.is_dir() and holds_adapter(path):
        _look_at_adapter(path, report)
    elif path.is_dir() and _holds_our_classifier(path):
        _look_at_classifier(path, report)
    elif path.is_dir():
        _look_at_folder(path, report)
    elif path.suffix == ".gguf" and path.is_file():
        _look_at_gguf(path, report)
    elif path.suffix == ".safetensors" and path.is_file():
        _look_at_tensors(path, report)
    else:
        raise UserError(
            "{path} is no model: name a folder with config.json, or a .gguf or .safetensors file.", path=path
        )
    if not report.problems:
        report.attempt(lambda: report.facts.update(sha256=_digests(path)))
    return {**report.facts, "usable": not report.problems, "problems": report.problems, "notes": report.notes}


def _look_at_folder(folder: Path, report: Report) -> None:
    report.facts["kind"] = "folder"
    _note_programs(folder, report)
    settings_path = folder / "config.json"
    settings = report.attempt(lambda: read_settings(settings_path)) if settings_path.is_file() else None
    config = None
    if settings is not None:
        _describe_family(settings, report)
        config = report.attempt(lambda: model_config_from_hf(settings, where=settings_path))
    sound = [path for path in report.attempt(lambda: weight_files(folder)) or [] if _look_at_header(path, report)]
    if not report.problems:
        report.attempt(lambda: read_model(folder))
    else:  # what reading the model would see as well
        for path in sound:
            _require_finite(path, report)
    ends = report.attempt(lambda: end_ids(folder)) or frozenset()
    tokenizer = report.attempt(lambda: load_tokenizer(folder))
    _describe_use(folder, report, config, tokenizer, ends)
    if tokenizer is not None:
        _try_template(lambda: folder_chat_format(folder, tokenizer), _has_template(folder), report)
    generation = folder / "generation_config.json"
    chosen = (report.attempt(lambda: read_settings(generation)) if generation.is_file() else None) or {}
    report.facts["generation"] = {
        name: chosen[name] for name in GENERATION if type(chosen.get(name)) in (bool, int, float)
    }


def _holds_our_classifier(folder: Path) -> bool:
    """One that is no model of another library's kind."""
    try:
        settings = read_settings(folder / "config.json")
    except (UserError, OSError):
        return False
    return settings.get("model_type") in (MODEL_TYPE, VECTORS_TYPE)


def _look_at_classifier(folder: Path, report: Report) -> None:
    report.facts |= {"kind": "classifier", "family": read_settings(folder / "config.json")["model_type"]}
    _note_programs(folder, report)
    classifier = report.attempt(lambda: open_classifier(folder))
    if classifier is not None:
        report.facts |= {"labels": [_shown(label) for label in classifier.labels], "several": classifier.several}
        report.facts["can"] = ["classify", "evaluate"]


def _look_at_gguf(path: Path, report: Report) -> None:
    report.facts["kind"] = "gguf"
    stored = report.attempt(lambda: read_gguf(path))
    if stored is None:
        return
    report.facts["family"] = stored.metadata["general.architecture"]
    report.facts["name"] = _shown(stored.metadata.get("general.name"))
    _count_bytes(((matrix.format, matrix.data.nbytes) for matrix in stored.weights.values()), report)
    tokenizer = report.attempt(lambda: gguf_tokenizer(stored.metadata))
    _describe_use(
        path, report, stored.config, tokenizer, stored.ends, formats={m.format for m in stored.weights.values()}
    )
    if tokenizer is not None:
        has = TEMPLATE_KEY in stored.metadata
        _try_template(lambda: gguf_chat_format(stored.metadata, tokenizer), has, report)


def _look_at_tensors(path: Path, report: Report) -> None:
    report.facts["kind"] = "safetensors"
    if _look_at_header(path, report):
        _require_finite(path, report)
    report.notes.append(t("These are weights without a description; a model is a folder with config.json beside them."))


def _look_at_adapter(folder: Path, report: Report) -> None:
    report.facts["kind"] = "adapter"
    _note_programs(folder, report)
    where = folder / ADAPTER[0]
    settings = report.attempt(lambda: read_settings(where)) or {}
    report.attempt(lambda: adapter_config(settings, where))
    rank, alpha = settings.get("r"), settings.get("lora_alpha")
    report.facts |= {
        "family": _shown(settings.get("peft_type")),
        "rank": rank if type(rank) is int else None,
        "alpha": alpha if type(alpha) in (int, float) else None,
        "base": _shown(settings.get("base_model_name_or_path")),
    }
    path = folder / ADAPTER[1]
    if not path.is_file():
        report.attempt(lambda: weight_files(folder))
    header = _look_at_header(path, report)
    if not header:
        return
    matrices = [name for name in header if ".lora_A." in name or ".lora_B." in name]
    report.facts["adapter_parameters"] = report.facts["parameters"]
    report.facts["targets"] = sorted({name.split(".lora_")[0].rpartition(".")[2] for name in matrices})
    report.attempt(lambda: require_usable(folder))
    if (folder / "config.json").is_file() and not report.problems:
        _look_at_adapted(folder, report)


def _look_at_adapted(folder: Path, report: Report) -> None:
    """An adapter that lies beside the description of a whole model is used as one, with its base."""
    tokenizer = report.attempt(lambda: load_tokenizer(folder))
    model = report.attempt(lambda: read_model(folder))
    if model is not None:
        _describe_use(folder, report, model[0], tokenizer, frozenset())


def _require_finite(path: Path, report: Report) -> None:
    def look() -> None:
        floats = {name: tensor for name, tensor in read_weights_of_one(path).items() if tensor.is_floating_point()}
        require_finite({name: tensor for name, tensor in floats.items() if tensor.itemsize > 1}, where=path)

    report.attempt(look)


def _describe_family(settings: dict[str, Any], report: Report) -> None:
    classes = settings.get("architectures")
    report.facts["family"] = _shown(settings.get("model_type"))
    report.facts["class"] = _shown(classes[0]) if isinstance(classes, list) and classes else None


def _look_at_header(path: Path, report: Report) -> dict[str, StoredTensor]:
    """What a file of weights holds, added to what the others of the model do; nothing when it is damaged."""
    header = report.attempt(lambda: read_header(path)) or {}
    _count_bytes(((stored.dtype, stored.end - stored.begin) for stored in header.values()), report)
    for name, more in (
        ("tensors", len(header)),
        ("parameters", sum(math.prod(stored.shape) for stored in header.values())),
    ):
        report.facts[name] = report.facts.get(name, 0) + more
    return header


def _count_bytes(sizes: Iterable[tuple[str, int]], report: Report) -> None:
    total = Counter(report.facts.get("bytes_by_format", {}))
    for form, size in sizes:
        total[form] += size
    report.facts["bytes_by_format"] = dict(total.most_common())


def _describe_use(
    path: Path,
    report: Report,
    config: StoredShape | None,
    tokenizer: Tokenizer | None,
    ends: frozenset[int],
    *,
    formats: set[str] | None = None,
) -> None:
    """Sizes, tokenizer, whether they fit, and what can be done with both."""
    if config is not None:
        stack = config.stack if isinstance(config, EncoderConfig) else config
        report.facts |= {"parameters": config.parameters, "sizes": dataclasses.asdict(stack)}
        if isinstance(config, EncoderConfig):
            report.facts["head"] = dataclasses.asdict(config.head)
    if tokenizer is not None:
        report.facts["tokenizer"] = describe_tokenizer(tokenizer, ends=ends)
        lost = [label for label, sample in report.facts["tokenizer"]["samples"].items() if sample["lost"]]
        if lost == [*report.facts["tokenizer"]["samples"]]:
            report.notes.append(t("The tokenizer brings no text back as it was."))
    if config is not None and tokenizer is not None:
        report.attempt(lambda: require_fitting(path, tokens=tokenizer.vocabulary, vocabulary=config.vocabulary))
        outside = sorted(id_ for id_ in ends if not 0 <= id_ < config.vocabulary)
        if outside:
            report.notes.append(t("The id {id}, which is said to end an answer, is none of this model.", id=outside[0]))
        if not report.problems:
            report.facts["exports"] = exports(config, tokenizer)
            report.facts["can"] = abilities(config) + ["export"] * bool(report.facts["exports"])
        if not report.problems and not isinstance(config, EncoderConfig | RecurrentClassifierConfig):
            fits = isinstance(config, ModelConfig) and config.runs_in_kernel and (formats or set()) <= {*FORMATS}
            report.facts["writes_in"] = "kernel" if fits and best_instructions() is not None else "torch"


def _try_template(chat: Callable[[], ChatFormat], has_template: bool, report: Report) -> None:
    """Lay a short conversation out. A template that cannot be used keeps a model from nothing but chatting."""
    report.facts["template"] = {"own": has_template, "rendered": None}
    if not has_template:
        return
    rendered = report.attempt(lambda: chat().text(TALK, answer=True))
    report.facts["template"]["rendered"] = rendered


def _has_template(folder: Path) -> bool:
    settings = folder / "tokenizer_config.json"
    if (folder / TEMPLATE_FILE).is_file():
        return True
    try:
        return settings.is_file() and bool(read_settings(settings).get("chat_template"))
    except UserError:
        return False  # which load_tokenizer has reported


def _note_programs(folder: Path, report: Report) -> None:
    """Name what is neither read nor run."""
    if programs := _names(folder, PROGRAMS):
        report.notes.append(t("Programs came with it, which Bimo does not run: {names}", names=programs))
    if pickled := _names(folder, PICKLED):
        report.notes.append(t("Pickled files came with it, which Bimo does not read: {names}", names=pickled))


def _names(folder: Path, patterns: Iterable[str]) -> str:
    found = sorted({path.name for pattern in patterns for path in folder.glob(pattern)})
    return ", ".join(_shown(name) or "" for name in found)[:LONGEST_SHOWN]


def _digests(path: Path) -> dict[str, str]:
    if path.is_file():
        return {path.name: digest_file(path)}
    found = (
        file for pattern in (*DESCRIPTIONS, *ADAPTER, "*.safetensors", "*.index.json") for file in path.glob(pattern)
    )
    return {file.name: digest_file(file) for file in sorted(set(found)) if file.is_file()}


def _shown(value: Any) -> str | None:
    """What a stranger's file calls something, fit to be shown."""
    if not isinstance(value, str):
        return None
    return value[:LONGEST_SHOWN] if value.isprintable() else ascii(value[:LONGEST_SHOWN])
