"""Model folders and files that are broken, that lie, or that mean harm: each made from a sound one by one change.

docs/untrusted_models.md lists them by their names.
"""

from __future__ import annotations

import base64
import json
import math
import os
import pickle
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gguf_files
import torch
from safetensors.torch import load_file, save_file

Change = Callable[[Path], Path | None]
"""Spoils the sound model in a folder. What it returns is what to open, where that is not the folder."""

CANARY = "canary"
"""A file that comes to be where a program is run that came with a model."""

PROGRAM = f"open({CANARY!r}, 'w').close()\n"


@dataclass(frozen=True)
class Hostile:
    """`sentence` is a pattern of what `bimo doctor` says; `writes` marks what does `bimo generate` no harm."""

    spoil: Change
    sentence: str
    writes: bool = False


class Bomb:
    """What runs a program when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return exec, (PROGRAM,)


def edited(name: str, change: Callable[[dict[str, Any]], Any]) -> Change:
    """A JSON file changed in place, or by what the change returns."""

    def spoil(folder: Path) -> None:
        path = folder / name
        value = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        changed = change(value)
        path.write_text(json.dumps(value if changed is None else changed), encoding="utf-8")

    return spoil


def config(**entries: Any) -> Change:
    return edited("config.json", lambda value: value.update(entries))


def replaced(name: str, content: bytes | str) -> Change:
    raw = content.encode() if isinstance(content, str) else content
    return lambda folder: (folder / name).write_bytes(raw) and None


def header(change: Callable[[dict[str, Any]], Any]) -> Change:
    """The header of the weights changed; the data stay."""

    def spoil(folder: Path) -> None:
        path = folder / "model.safetensors"
        raw = path.read_bytes()
        length = struct.unpack_from("<Q", raw)[0]
        value = json.loads(raw[8 : 8 + length])
        value.pop("__metadata__", None)
        changed = change(value)
        text = (changed if isinstance(changed, str) else json.dumps(value)).encode()
        path.write_bytes(struct.pack("<Q", len(text)) + text + raw[8 + length :])

    return spoil


def weights(change: Callable[[dict[str, torch.Tensor]], Any]) -> Change:
    def spoil(folder: Path) -> None:
        tensors = {name: tensor.clone() for name, tensor in load_file(folder / "model.safetensors").items()}
        change(tensors)
        save_file(tensors, folder / "model.safetensors")

    return spoil


def tokenizer(change: Callable[[dict[str, Any]], Any]) -> Change:
    return edited("tokenizer.json", change)


def model_part(**entries: Any) -> Change:
    return tokenizer(lambda value: value["model"].update(entries))


def first(value: dict[str, Any]) -> dict[str, Any]:
    return next(iter(value.values()))


def cut_short(name: str) -> Change:
    return lambda folder: os.truncate(folder / name, (folder / name).stat().st_size // 2)


def split_with(index: dict[str, Any]) -> Change:
    """The weights under another name, and an index before them."""

    def spoil(folder: Path) -> None:
        (folder / "model.safetensors").rename(folder / "model-1.safetensors")
        (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")

    return spoil


def longer_weights(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes() + PROGRAM.encode())


def endless_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").symlink_to("/dev/zero")


def pickled(*names: str, instead: str) -> Change:
    def spoil(folder: Path) -> None:
        (folder / instead).unlink()
        for name in names:
            (folder / name).write_bytes(pickle.dumps(Bomb()))

    return spoil


def with_program(name: str, entry: dict[str, Any]) -> Change:
    def spoil(folder: Path) -> None:
        (folder / "modeling.py").write_text(PROGRAM, encoding="utf-8")
        edited(name, lambda value: value.update(entry))(folder)

    return spoil


def more_tokens(value: dict[str, Any]) -> None:
    for _ in range(10):
        number = len(value["model"]["vocab"]) + len(value["added_tokens"]) - 1
        value["added_tokens"].append({**value["added_tokens"][0], "id": number, "content": f"<{number}>"})


def replacing(pattern: str, content: str, times: int = 1) -> Change:
    step = {"type": "Replace", "pattern": {"String": pattern}, "content": content}
    return tokenizer(lambda value: value.update(normalizer={"type": "Sequence", "normalizers": [step] * times}))


def splitting(regex: str) -> Change:
    step = {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False}
    return tokenizer(lambda value: value.update(pre_tokenizer=step))


def table(raw: bytes) -> Change:
    step = {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(raw).decode()}
    return tokenizer(lambda value: value.update(normalizer=step))


def framed(id_: int) -> Change:
    token = {"id": "x", "ids": [id_], "tokens": ["x"]}
    single = [{"SpecialToken": {"id": "x", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
    frame = {"type": "TemplateProcessing", "single": single, "pair": single, "special_tokens": {"x": token}}
    return tokenizer(lambda value: value.update(post_processor=frame))


def template(text: str) -> Change:
    return replaced("chat_template.jinja", text)


def gguf(raw: bytes) -> Change:
    def spoil(folder: Path) -> Path:
        path = folder / "model.gguf"
        path.write_bytes(raw)
        return path

    return spoil


def gguf_tensor(dims: tuple[int, ...], name: str = "a", at: int = 0) -> bytes:
    entry = gguf_files.text(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, gguf_files.F32, at)
    return b"GGUF" + struct.pack("<IQQ", 3, 1, 1) + ARCHITECTURE + entry + bytes(256)


ARCHITECTURE = gguf_files.text("general.architecture") + gguf_files.value("llama")


def adapter(change: Callable[[dict[str, Any], dict[str, torch.Tensor]], Any]) -> Change:
    """A folder with a LoRA adapter of rank 2 and nothing else."""

    def spoil(folder: Path) -> Path:
        path = folder / "adapter"
        path.mkdir()
        settings = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "base_model_name_or_path": ".."}
        name = "base_model.model.model.layers.0.self_attn.q_proj.lora_{}.weight"
        tensors = {name.format("A"): torch.ones(2, 24), name.format("B"): torch.ones(32, 2)}
        change(settings, tensors)
        (path / "adapter_config.json").write_text(json.dumps(settings), encoding="utf-8")
        save_file(tensors, path / "adapter_model.safetensors")
        return path

    return spoil


def pickled_adapter(folder: Path) -> Path:
    path = adapter(lambda settings, tensors: None)(folder)
    assert path is not None
    pickled("adapter_model.bin", instead="adapter_model.safetensors")(path)
    return path


DEEP = 100_000
HUGE = 2**63
NORM = "model.norm.weight"
UP = "model.layers.0.mlp.up_proj.weight"

CASES = {
    # weights
    "weights that were cut short": Hostile(cut_short("model.safetensors"), "reaches beyond its end"),
    "an empty file of weights": Hostile(replaced("model.safetensors", b""), "ends before the header does"),
    "a header longer than the file": Hostile(
        replaced("model.safetensors", struct.pack("<Q", HUGE) + b"{}"), "ends before the header does"
    ),
    "a header that is no JSON": Hostile(
        replaced("model.safetensors", struct.pack("<Q", 4) + b"PK\x03\x04"), "is not valid JSON"
    ),
    "a header that is nested without end": Hostile(header(lambda value: '{"a":' * DEEP), "nested without end"),
    "a tensor that stands in a header twice": Hostile(
        header(lambda value: json.dumps(value)[:-1] + f', "{NORM}": {json.dumps(value[NORM])}}}'), "stands in it twice"
    ),
    "a shape that says more than there are bytes": Hostile(
        header(lambda value: value[NORM].update(shape=[HUGE - 1, HUGE - 1])), "as many bytes as its shape says"
    ),
    "a negative size": Hostile(header(lambda value: value[NORM].update(shape=[-24])), "no usable shape"),
    "a tensor that reaches beyond the file": Hostile(
        header(lambda value: value.update({UP: {**value[UP], "data_offsets": [10**12, 10**12 + 3840]}})),
        "belong to no tensor|reaches beyond|belong to none",
    ),
    "two tensors in one place": Hostile(
        header(lambda value: value.update({"b": first(value)})), "lies on another tensor"
    ),
    "bytes that belong to no tensor": Hostile(longer_weights, "belong to none"),
    "a number format that nobody knows": Hostile(header(lambda value: value[NORM].update(dtype="F7")), "number format"),
    "a name that writes to the terminal": Hostile(
        header(lambda value: value.update({"\x1b[2J": value.pop(NORM)})), "a name in it cannot be shown"
    ),
    "weights that are no numbers (NaN)": Hostile(
        weights(lambda tensors: tensors[UP].view(-1)[7:8].fill_(math.nan)), r"\(NaN or infinite\), first in .*up"
    ),
    "an infinite weight": Hostile(
        weights(lambda tensors: tensors[NORM][3:4].fill_(-math.inf)), r"\(NaN or infinite\), first in (model\.)?norm"
    ),
    "a missing tensor": Hostile(weights(lambda tensors: tensors.pop(NORM)), "do not fit its config.json"),
    "a tensor of another model": Hostile(
        weights(lambda tensors: tensors.update(evil=torch.ones(3))), "which a model of this type does not have"
    ),
    "a tensor of the wrong shape": Hostile(
        weights(lambda tensors: tensors.update({UP: tensors[UP].T.contiguous()})), "first at layers.0.feed_forward.up"
    ),
    "weights that are integers": Hostile(
        weights(lambda tensors: tensors.update({NORM: tensors[NORM].int()})), "number formats that Bimo does not"
    ),
    "an index that points out of the folder": Hostile(
        split_with({"weight_map": {NORM: "../elsewhere.safetensors"}}), "does not say in which files"
    ),
    "an index that names what no file holds": Hostile(
        split_with({"weight_map": {"evil": "model-1.safetensors"}}), "do not hold the same tensors, first at 'evil'"
    ),
    "an index of a missing file": Hostile(
        split_with({"weight_map": {NORM: "model-9.safetensors"}}), "there is no such file"
    ),
    "weights that never end (a link to a device)": Hostile(endless_weights, "is not a model folder"),
    "pickled weights alone": Hostile(
        pickled("pytorch_model.bin", instead="model.safetensors"), r"are pickled \(pytorch_model.bin\)"
    ),
    # config.json
    "a billion layers": Hostile(config(num_hidden_layers=10**9), "1,000,000,000 layers"),
    "a width of a hundred digits": Hostile(config(hidden_size=10**100), "is too large"),
    "more positions than memory": Hostile(config(max_position_embeddings=4 * 10**9), "4,000,000,000 positions"),
    "a vocabulary that the embedding does not have": Hostile(config(vocab_size=10**9), "do not fit its config.json"),
    "a negative number of heads": Hostile(config(num_attention_heads=-4, head_dim=8), "must be at least 1"),
    "no heads at all": Hostile(config(num_attention_heads=0, head_dim=None), "is not complete|at least 1"),
    "sizes that are text": Hostile(config(hidden_size="24"), "'24' is not a whole number"),
    "sizes that are fractions": Hostile(config(num_hidden_layers=2.5), "2.5 is not a whole number"),
    "an angle that is no number": Hostile(
        config(rope_theta=math.nan, rope_parameters=None), "numbers that cannot be computed with"
    ),
    "a type that nobody knows": Hostile(config(model_type="x" * 10**6), "is a model of type 'x{30,40}"),
    "a config that is a list": Hostile(replaced("config.json", "[]"), "it is no JSON object"),
    "a config that is nested without end": Hostile(replaced("config.json", "[" * DEEP), "nested without end"),
    "a config with a key twice": Hostile(
        replaced("config.json", '{"model_type": "llama", "model_type": "qwen3"}'), "'model_type' stands in it twice"
    ),
    "a config of many values": Hostile(replaced("config.json", "[" + "[]," * (1 << 22) + "0]"), "larger than any"),
    "a program of the model's own (auto_map)": Hostile(
        with_program("config.json", {"auto_map": {"AutoModelForCausalLM": "modeling.Evil"}}), r"program .*\(auto_map\)"
    ),
    "a pipeline of the model's own (custom_pipelines)": Hostile(
        with_program("config.json", {"custom_pipelines": {"x": {"impl": "modeling.Evil"}}}), "custom_pipelines"
    ),
    # tokenizer
    "a tokenizer with a program of its own": Hostile(
        with_program("tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["modeling.Evil", None]}}),
        r"tokenizer_config.json asks for a program",
    ),
    "ids beyond the embedding": Hostile(tokenizer(more_tokens), "they do not fit"),
    "an id of a billion": Hostile(
        tokenizer(lambda value: value["model"]["vocab"].update({"a": 10**9})), "are not the numbers from 0 to"
    ),
    "two tokens with one id": Hostile(
        tokenizer(lambda value: value["model"]["vocab"].update({"a": 5, "b": 5})), "are not the numbers from 0 to"
    ),
    "an added token with another's id": Hostile(
        tokenizer(lambda value: value["added_tokens"][0].update(id=7)), "cannot have the id 7"
    ),
    "a merge of a token that is not there": Hostile(
        tokenizer(lambda value: value["model"]["merges"].append(["no such", "token"])), "a merge in it is not of two"
    ),
    "a token of a megabyte": Hostile(
        tokenizer(lambda value: value["added_tokens"][0].update(content="x" * 10**6)), "longer than|cannot have the id"
    ),
    "a normalizer that doubles a text thirty times": Hostile(replacing("a", "aa", 30), "a long text of a short one"),
    "a normalizer that puts a megabyte for a letter": Hostile(
        replacing("a", "b" * 10**6), "a long text of a short one"
    ),
    "an expression that takes for ever": Hostile(splitting(r"(?:a+)+$"), "repeats what repeats already"),
    "an expression that takes for ever in another way": Hostile(splitting(r"(?<=x)?a*a*a*a*[a-z]*1"), "tokenizer"),
    "an expression of a billion copies": Hostile(splitting(r"((a{250}){250}){250}"), "repeats what repeats already"),
    "a table that asks for eight gigabytes": Hostile(
        table(struct.pack("<I", 4) + b"\xff" * 40), "takes too much memory|is not a tokenizer that can be read"
    ),
    "a table of nonsense": Hostile(table(b"\xff" * 100), "its compiled table of characters is damaged"),
    "a prefix that the library stumbles over": Hostile(
        model_part(continuing_subword_prefix="#" * 100), "is not a tokenizer that can be read"
    ),
    "a frame of an id that is none": Hostile(framed(10**9), "puts tokens around a text that it does not have"),
    "a tokenizer nested without end": Hostile(replaced("tokenizer.json", '{"model":' * DEEP), "nested without end"),
    "a tokenizer of 100 MB": Hostile(lambda folder: os.truncate(folder / "tokenizer.json", 10**8), "larger than any"),
    # chat template
    "a template that goes round for ever": Hostile(
        template("{% for a in range(99999) %}{% for b in range(99999) %}x{% endfor %}{% endfor %}"),
        "The chat template cannot be used",
        writes=True,
    ),
    "a template that reaches for Python": Hostile(
        template("{{ ''.__class__.__mro__[1].__subclasses__() }}{{ cycler.__init__.__globals__.os.system('id') }}"),
        "The chat template cannot be used",
        writes=True,
    ),
    # GGUF
    "a GGUF file that ends after its magic": Hostile(gguf(b"GGUF"), "it ends too early"),
    "a GGUF file of 2^64 keys": Hostile(
        gguf(b"GGUF" + struct.pack("<IQQ", 3, 0, 2**64 - 1)), "announces more than it holds"
    ),
    "a GGUF file whose text is longer than it": Hostile(
        gguf(b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 2**64 - 1) + bytes(64)), "it ends too early"
    ),
    "a GGUF file whose array overflows": Hostile(
        gguf(b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + gguf_files.text("a") + struct.pack("<IIQ", 9, 12, 2**61 + 1)),
        "announces more than it holds",
    ),
    "a GGUF file with a key twice": Hostile(
        gguf(b"GGUF" + struct.pack("<IQQ", 3, 0, 2) + ARCHITECTURE * 2), "stands in it twice"
    ),
    "a GGUF tensor whose size overflows to nothing": Hostile(gguf(gguf_tensor((2**32, 2**32))), "beyond its end"),
    "a GGUF tensor that lies outside": Hostile(gguf(gguf_tensor((8,), at=2**63)), "reaches beyond its end"),
    # adapters
    "an adapter whose rank is another": Hostile(
        adapter(lambda settings, tensors: settings.update(r=10**8)), "do not go with its rank"
    ),
    "an adapter with half of a pair": Hostile(
        adapter(lambda settings, tensors: tensors.popitem()), "do not go with its rank"
    ),
    "an adapter that is no numbers": Hostile(
        adapter(lambda settings, tensors: first(tensors).fill_(math.nan)), "no matrix of finite numbers"
    ),
    "a pickled adapter": Hostile(pickled_adapter, "are pickled|there is no such file"),
}
