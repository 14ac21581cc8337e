"""The checks that models from strangers go through: what is sound passes, and fast paths agree with slow ones."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
import torch
from hypothesis import given
from hypothesis import strategies as st
from random_models import GPT2_FIELDS
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from bimo.cli.app import app
from bimo.doctor import packages
from bimo.doctor.lines import model_lines
from bimo.doctor.model import examine_model
from bimo.export.verb import export
from bimo.models.encoder import Encoder, EncoderConfig
from bimo.models.families import build, family_of
from bimo.models.heads import Head
from bimo.models.lora import LoRAConfig, new_adapter
from bimo.models.perceptron import PerceptronConfig
from bimo.models.recurrent import RecurrentConfig
from bimo.models.seq2seq import EncoderDecoder, Seq2SeqConfig
from bimo.runtime import UserError
from bimo.tasks.answer.reading import load_reader
from bimo.tasks.classify.classifier import classify, open_classifier
from bimo.tasks.embed.embedder import open_embedder
from bimo.tokens import tokenizer_file
from bimo.tokens.masking import with_mask_token
from bimo.tokens.patterns import is_explosive, is_tame
from bimo.tokens.tokenizer import QWEN2_PATTERN, Tokenizer, with_padding
from bimo.tokens.tokenizer_file import require_harmless
from bimo.weights.adapters import load_adapter, save_adapter
from bimo.weights.finite import require_finite, require_finite_blocks
from bimo.weights.gguf_blocks import FORMATS, StoredMatrix, dequantise
from bimo.weights.gguf_tokenizer import GPT2_PATTERN, LLAMA3_PATTERN
from bimo.weights.huggingface import save_encoder, save_model, save_translator
from bimo.weights.safetensors_files import read_header

HERE = Path("here")
O200K = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|\p{N}{1,3}"
)


@pytest.mark.parametrize("pattern", [QWEN2_PATTERN, GPT2_PATTERN, LLAMA3_PATTERN, O200K, r"\p{N}", " ", r"[()+*]+"])
def test_patterns_of_known_tokenizers_are_tame(pattern: str) -> None:
    assert is_tame(pattern)
    assert not is_explosive(pattern)


@pytest.mark.parametrize(
    "pattern", ["(a+)+$", "(a|a)*b", "(?:x*)*", r"(\w+\s?)+", "((a{99}){99}){99}", "a{1000}", r"(?R)?a", "a" * 5000]
)
def test_explosive_patterns_are_known_by_their_form(pattern: str) -> None:
    assert is_explosive(pattern)
    assert not is_tame(pattern)


@pytest.mark.parametrize("pattern", [r"(a)\1", "a*a*a*a*b", "a?" * 24 + "a" * 24, "(?<!x)y", "[a[^b]]", "(ab)+"])
def test_other_patterns_have_to_be_tried(pattern: str) -> None:
    assert not is_tame(pattern)
    assert not is_explosive(pattern)


@pytest.mark.parametrize("form", FORMATS)
@given(data=st.data())
def test_blocks_are_finite_where_their_numbers_are(form: str, data: st.DataObject) -> None:
    size = FORMATS[form].size
    raw = bytearray(3 * size)
    for _ in range(data.draw(st.integers(0, 4))):
        place = data.draw(st.integers(0, len(raw) - 1))
        raw[place] = data.draw(st.sampled_from([0x7C, 0x7F, 0xFC, 0xFF, 0x80, 1]))
    matrix = StoredMatrix(1, 3 * FORMATS[form].columns, form, np.frombuffer(bytes(raw), np.uint8).reshape(1, -1))
    with np.errstate(all="ignore"):
        finite = bool(np.isfinite(dequantise(matrix.data, form)).all())
    assert _passes(require_finite_blocks, {"a": matrix}) == finite


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_tensors_are_finite_however_large_their_sum(dtype: torch.dtype) -> None:
    tensor = torch.full((3, 50_000), min(torch.finfo(dtype).max, 3e38), dtype=dtype)
    assert _passes(require_finite, {"a": tensor})
    for value in (math.nan, math.inf, -math.inf):
        tensor[2, 77] = value
        assert not _passes(require_finite, {"a": tensor})


def _passes(check: Any, weights: dict[str, Any]) -> bool:
    try:
        check(weights, where=HERE)
    except UserError:
        return False
    return True


def without_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(raw: bytes, *, characters: str) -> None:
        raise AssertionError("a process was begun")

    monkeypatch.setattr(tokenizer_file, "fault_of_trial", fail)


def test_known_tokenizers_begin_no_process(monkeypatch: pytest.MonkeyPatch, tiny_tokenizer: Tokenizer) -> None:
    without_trial(monkeypatch)
    settings = json.loads(tiny_tokenizer.inner.to_str())
    llama = {
        "normalizer": {
            "type": "Sequence",
            "normalizers": [
                {"type": "Prepend", "prepend": "▁"},
                {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
            ],
        },
        "pre_tokenizer": None,
        "decoder": {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"}]},
    }
    for changes in ({}, llama, {"pre_tokenizer": {"type": "Split", "pattern": {"Regex": O200K}}}):
        require_harmless(json.dumps(settings | changes).encode(), where=HERE)


def test_minilm_begins_no_process(monkeypatch: pytest.MonkeyPatch, minilm: Path) -> None:
    without_trial(monkeypatch)
    require_harmless((minilm / "tokenizer.json").read_bytes(), where=HERE)


def test_unusual_tokenizers_pass_when_the_trial_ends_well() -> None:
    vocabulary = {"a</w>": 0, "a": 1, "b": 2, "ab</w>": 3, "b</w>": 4, "?": 5}
    inner = tokenizers.Tokenizer(
        tokenizers.models.BPE(vocabulary, [("a", "b</w>")], end_of_word_suffix="</w>", unk_token="?")
    )
    inner.normalizer = tokenizers.normalizers.Replace(tokenizers.Regex(r"\s+"), " ")
    require_harmless(inner.to_str().encode(), where=HERE)
    unigram = tokenizers.Tokenizer(tokenizers.models.Unigram([("<unk>", 0.0), ("a", -1.0), ("ab", -2.0)], unk_id=0))
    require_harmless(unigram.to_str().encode(), where=HERE)


def test_headers_are_those_of_the_library(tmp_path: Path) -> None:
    tensors = {"a": torch.ones(2, 3), "中": torch.zeros(4, dtype=torch.int8), "empty": torch.ones(0, 5)}
    save_file(tensors, tmp_path / "a.safetensors", metadata={"format": "pt"})
    found = read_header(tmp_path / "a.safetensors")
    assert {name: stored.shape for name, stored in found.items()} == {n: tuple(w.shape) for n, w in tensors.items()}


def test_all_problems_are_named_and_sizes_are_right(tmp_path: Path, make_model: Any, tiny_tokenizer: Tokenizer) -> None:
    model = make_model(vocabulary=tiny_tokenizer.vocabulary)
    save_model(tmp_path, model, end=tiny_tokenizer.end)
    tiny_tokenizer.save(tmp_path)
    facts = examine_model(tmp_path)
    assert facts["usable"]
    assert facts["parameters"] == sum(weight.numel() for weight in model.parameters())
    assert facts["bytes_by_format"] == {"F32": 4 * facts["parameters"]}
    assert all(sample["same"] for sample in facts["tokenizer"]["samples"].values())
    assert set(facts["sha256"]) >= {"config.json", "model.safetensors", "tokenizer.json"}
    assert any(
        "Bimo can: generate, chat, evaluate, embed, similar, classify --labels, tune, export; it writes in " in line
        for line in model_lines(facts)
    )
    (tmp_path / "tokenizer.json").write_text("{}")
    (tmp_path / "config.json").write_text("[]")
    (tmp_path / "model.safetensors").write_bytes(b"")
    (tmp_path / "old.bin").write_bytes(b"")
    facts = examine_model(tmp_path)
    assert len(facts["problems"]) == 3
    assert sum(line.startswith("Problem: ") for line in model_lines(facts)) == 3
    assert "old.bin" in facts["notes"][0]
    json.dumps(facts)


@pytest.mark.parametrize(
    ("head", "verbs"),
    [
        (Head("none", pooler=True), ["evaluate"]),
        (Head("words"), ["evaluate"]),
        (Head("classes", labels=("a", "b"), pooler=True), ["classify", "evaluate"]),
        (Head("tokens", labels=("a", "b")), []),
        (Head("span"), ["answer", "evaluate"]),
    ],
    ids=lambda value: value.kind if isinstance(value, Head) else "",
)
def test_what_an_encoder_can_do_goes_by_its_head(
    head: Head, verbs: list[str], tmp_path: Path, tiny_tokenizer: Tokenizer
) -> None:
    tokenizer = with_mask_token(tiny_tokenizer)
    sizes = {"vocabulary": tokenizer.vocabulary, "layers": 1, "width": 24, "heads": 3, "hidden": 40, "context": 32}
    save_encoder(
        tmp_path, Encoder(EncoderConfig(**sizes, head=head)).initialise(0), pad=tokenizer.special_id("pad_token")
    )
    tokenizer.save(tmp_path, context=32)
    facts = examine_model(tmp_path)
    assert facts["can"] == [*verbs, "embed", "similar", "tune", "export"], facts["problems"]
    assert open_embedder(tmp_path).embed(["你好"]).shape == (1, 24)
    for verb, opens in (("classify", open_classifier), ("answer", load_reader)):
        if verb in verbs:
            opens(tmp_path)
        else:
            with pytest.raises(UserError):
                opens(tmp_path)


@pytest.mark.parametrize(
    "shape", [RecurrentConfig(640, 1, 24, 16), PerceptronConfig(640, 1, 24, 8, 3, 16)], ids=family_of
)
def test_language_models_of_other_families_do_what_is_said_of_them(
    shape: Any, tmp_path: Path, tiny_tokenizer: Tokenizer
) -> None:
    save_model(tmp_path, build(shape).initialise(0), end=tiny_tokenizer.end)
    tiny_tokenizer.save(tmp_path, context=16)
    facts = examine_model(tmp_path)
    assert facts["can"] == ["generate", "chat", "evaluate", "embed", "similar", "classify --labels"]
    assert facts["exports"] == []
    assert open_embedder(tmp_path).embed(["你好", ""]).shape == (2, 24)
    (verdict,) = classify(tmp_path, ["a good day"], labels=["good", "bad"])
    assert verdict.labels[0] in ("good", "bad")


def cut_otherwise(tokenizer: Tokenizer) -> Tokenizer:
    """The same tokens, but words end at every letter e."""
    inner = tokenizers.Tokenizer.from_str(tokenizer.inner.to_str())
    inner.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(
        [tokenizers.pre_tokenizers.Split("e", "isolated"), tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    return Tokenizer(inner)


@pytest.mark.parametrize(
    ("fields", "tokenized", "expected"),
    [
        ({}, lambda tokenizer: tokenizer, ["hf", "gguf"]),
        ({"biases": "attention"}, lambda tokenizer: tokenizer, ["hf"]),
        ({**GPT2_FIELDS, "feed_forward": "relu"}, lambda tokenizer: tokenizer, ["hf"]),
        ({}, cut_otherwise, ["hf"]),
    ],
    ids=["Qwen3", "Qwen3 with biases", "GPT-2 with ReLU", "other words"],
)
def test_gguf_is_named_where_export_writes_it(
    fields: dict[str, Any],
    tokenized: Any,
    expected: list[str],
    tmp_path: Path,
    make_model: Any,
    tiny_tokenizer: Tokenizer,
) -> None:
    tokenizer, folder = tokenized(tiny_tokenizer), tmp_path / "model"
    save_model(folder, make_model(vocabulary=tokenizer.vocabulary, **fields), end=tokenizer.end)
    tokenizer.save(folder, context=32)
    facts = examine_model(folder)
    assert facts["exports"] == expected, facts["problems"]
    for to in ("hf", "gguf"):
        if to in expected:
            export(folder, to=to, out=tmp_path / to)
        else:
            with pytest.raises(UserError, match=r"llama\.cpp has no architecture|A GGUF file cannot hold"):
                export(folder, to=to, out=tmp_path / to)


@pytest.mark.parametrize("settings", ['{"model_type": "t5"}', "[]", None], ids=["foreign", "broken", "missing"])
def test_weights_of_an_unknown_kind_are_described_all_the_same(
    tmp_path: Path, make_model: Any, tiny_tokenizer: Tokenizer, settings: str | None
) -> None:
    model = make_model(vocabulary=tiny_tokenizer.vocabulary)
    save_model(tmp_path, model, end=tiny_tokenizer.end)
    tiny_tokenizer.save(tmp_path)
    (tmp_path / "config.json").unlink()
    if settings is not None:
        (tmp_path / "config.json").write_text(settings)
    lines = model_lines(examine_model(tmp_path))
    weights = [weight.numel() for weight in model.parameters()]
    assert f"{sum(weights):,} parameters in {len(weights)} tensors" in lines


def test_a_translator_is_described(tmp_path: Path, tiny_tokenizer: Tokenizer) -> None:
    tokenizer = with_padding(tiny_tokenizer)
    shape = Seq2SeqConfig(tokenizer.vocabulary, layers=1, decoder_layers=2, width=24, heads=3, hidden=40, context=64)
    save_translator(tmp_path, EncoderDecoder(shape).initialise(0), end=tokenizer.end)
    tokenizer.save(tmp_path, context=64)
    facts = examine_model(tmp_path)
    assert facts["usable"], facts["problems"]
    lines = model_lines(facts)
    assert any(f"{shape.parameters:,} parameters: 1 layers that read and 2 that write, " in line for line in lines)
    assert "Bimo can: translate, evaluate, tune, export; it writes in torch" in lines


def test_an_adapter_is_described(tmp_path: Path) -> None:
    name = "base_model.model.model.layers.0.self_attn.q_proj.lora_{}.weight"
    save_file(
        {name.format("A"): torch.ones(2, 8), name.format("B"): torch.ones(8, 2)}, tmp_path / "adapter_model.safetensors"
    )
    settings = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "base_model_name_or_path": "base"}
    (tmp_path / "adapter_config.json").write_text(json.dumps(settings))
    facts = examine_model(tmp_path)
    assert facts["usable"], facts["problems"]
    assert (facts["targets"], facts["parameters"]) == (["q_proj"], 32)
    assert any("rank 2, alpha 4, for q_proj of base" in line for line in model_lines(facts))


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"use_dora": True}, "uses use_dora"),
        ({"modules_to_save": ["lm_head"]}, "uses modules_to_save"),
        ({"bias": "all"}, "uses bias"),
        ({"rank_pattern": {"v_proj": 4}, "r": 3}, "do not go with its rank"),
        ({"lora_alpha": 0}, "does not describe a LoRA adapter"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_an_adapter_that_is_not_opened_is_not_called_usable(
    changes: dict[str, Any], problem: str, tmp_path: Path, make_model: Any
) -> None:
    model = make_model()
    save_adapter(tmp_path, new_adapter(model, LoRAConfig(rank=2), seed=0), model.config, base="base")
    assert examine_model(tmp_path)["problems"] == []
    path = tmp_path / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(UserError) as refusal:
        load_adapter(tmp_path, model.config)
    assert problem in str(refusal.value)
    assert examine_model(tmp_path)["problems"] == [str(refusal.value)]


@pytest.mark.parametrize(
    ("module", "parts", "problem"),
    [
        ("model.layers.0.self_attn.q_proj", ("lora_A", "lora_B", "lora_magnitude_vector"), "which Bimo does not know"),
        ("model.layers.0.attn.wq", ("lora_A", "lora_B"), "which a model of this type does not have"),
        ("lm_head", ("lora_A", "lora_B"), "The adapter changes lm_head, and Bimo changes matrices in layers alone"),
        ("transformer.h.0.attn.c_attn", ("lora_A", "lora_B"), None),
    ],
)
def test_what_an_adapter_changes_must_be_known(
    module: str, parts: tuple[str, ...], problem: str | None, tmp_path: Path
) -> None:
    shapes = {"lora_A": (2, 8), "lora_B": (24, 2), "lora_magnitude_vector": (24, 1)}
    tensors = {f"base_model.model.{module}.{part}.weight": torch.ones(shapes[part]) for part in parts}
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 2, "lora_alpha": 4}))
    problems = examine_model(tmp_path)["problems"]
    assert len(problems) == (problem is not None)
    assert all(str(problem) in each for each in problems)


def test_a_model_in_several_files_is_sound(tmp_path: Path, make_model: Any, tiny_tokenizer: Tokenizer) -> None:
    save_model(tmp_path, make_model(vocabulary=tiny_tokenizer.vocabulary), end=tiny_tokenizer.end)
    tiny_tokenizer.save(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors").unlink()
    places = {name: f"{number % 2}.safetensors" for number, name in enumerate(weights)}
    for file in ("0.safetensors", "1.safetensors"):
        save_file({name: weights[name] for name in weights if places[name] == file}, tmp_path / file)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    assert examine_model(tmp_path)["problems"] == []
    assert examine_model(tmp_path / "1.safetensors")["problems"] == []


@pytest.mark.parametrize("spoil", ["rope_type", "tokenizer", "other header"])
def test_numbers_that_are_none_are_found_whatever_else_is_wrong(
    spoil: str, tmp_path: Path, make_model: Any, tiny_tokenizer: Tokenizer
) -> None:
    model = make_model(vocabulary=tiny_tokenizer.vocabulary)
    with torch.no_grad():
        next(model.parameters())[3, 5] = math.nan
    save_model(tmp_path, model, end=tiny_tokenizer.end)
    tiny_tokenizer.save(tmp_path)
    if spoil == "rope_type":
        path = tmp_path / "config.json"
        path.write_text(
            json.dumps(json.loads(path.read_text()) | {"rope_parameters": {"rope_type": "new", "factor": 2.0}})
        )
    elif spoil == "tokenizer":
        (tmp_path / "tokenizer.json").write_text("{}")
    else:
        weights = load_file(tmp_path / "model.safetensors")
        (tmp_path / "model.safetensors").rename(tmp_path / "one.safetensors")
        (tmp_path / "two.safetensors").write_bytes(b"damaged")
        places = {"weight_map": {**dict.fromkeys(weights, "one.safetensors"), "more": "two.safetensors"}}
        (tmp_path / "model.safetensors.index.json").write_text(json.dumps(places))
    problems = examine_model(tmp_path)["problems"]
    assert len(problems) == 2, problems
    assert sum("NaN or infinite" in problem for problem in problems) == 1, problems


def test_every_package_that_is_needed_is_asked_for_before_any_is_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = ["torch<2.14,>=2.11", "tomli-w>=1.0", "rensa", "uvicorn>=0.30; extra == 'serve'"]
    monkeypatch.setattr("importlib.metadata.requires", {"bimo": asked}.get)
    assert packages.needed_packages() == ["torch", "tomli-w", "rensa"]
    packages.require_packages()
    monkeypatch.setattr(packages, "version_of", lambda name: None if name in ("torch", "rensa") else "1")
    for name in ("torch", "bimo.doctor.machine", "bimo.doctor.model"):
        monkeypatch.setitem(sys.modules, name, None)
    result = CliRunner().invoke(app, ["doctor"])
    assert result.exit_code == 1
    assert "Missing and needed: torch, rensa." in result.output


def test_what_is_no_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is no model"):
        examine_model(tmp_path / "nothing")
