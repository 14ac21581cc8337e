"""GGUF files compute what their originals compute: transformers' models converted, and a real chat model."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf_files import F32, TENSORS, gguf_bytes, paired_rows
from random_models import THEIR_SHAPE, randomised

from bimo.export.comparison import OurEngine, compare
from bimo.export.gguf import round_gguf, write_gguf_file
from bimo.export.hf import open_hf, round_hf, write_hf
from bimo.export.llama_cpp import XLlamaCpp
from bimo.export.source import Source, source_of_gguf
from bimo.export.verb import FORMATS, SENTENCES
from bimo.models.config import ModelConfig, RotaryScaling
from bimo.models.transformer import Decoder
from bimo.tokens.tokenizer import END_OF_TEXT, Tokenizer
from bimo.weights import llama
from bimo.weights.gguf import GGUFModel, read_gguf
from bimo.weights.gguf_shapes import ARCHITECTURES
from bimo.weights.gguf_tokenizer import gguf_tokenizer
from bimo.weights.names import renamed
from bimo.weights.quantize import stored_weights


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("family", ["Llama", "Qwen3"])
def test_a_converted_model_computes_the_same_here(family: str, tied: bool, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    config = getattr(transformers, family + "Config")(**THEIR_SHAPE, tie_word_embeddings=tied)
    theirs = randomised(getattr(transformers, family + "ForCausalLM")(config), size=0.15)
    path = tmp_path / "model.gguf"
    path.write_bytes(converted(theirs, family.lower()))
    ours = read_gguf(path).decoder()
    batch = torch.randint(1, 131, (3, 100), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        logits = theirs(batch).logits
        assert logits.std() > 0.5
        torch.testing.assert_close(ours(batch), logits, atol=1e-4, rtol=1e-4)


def converted(theirs: Any, architecture: str) -> bytes:
    """A model of transformers as llama.cpp's conversion writes it."""
    settings = {
        "block_count": THEIR_SHAPE["num_hidden_layers"],
        "context_length": THEIR_SHAPE["max_position_embeddings"],
        "embedding_length": THEIR_SHAPE["hidden_size"],
        "feed_forward_length": THEIR_SHAPE["intermediate_size"],
        "attention.head_count": THEIR_SHAPE["num_attention_heads"],
        "attention.head_count_kv": THEIR_SHAPE["num_key_value_heads"],
        "attention.key_length": THEIR_SHAPE["head_dim"],
        "attention.value_length": THEIR_SHAPE["head_dim"],
        "attention.layer_norm_rms_epsilon": THEIR_SHAPE["rms_norm_eps"],
        "rope.freq_base": THEIR_SHAPE["rope_parameters"]["rope_theta"],
    }
    tensors = {}
    for full_name, weight in renamed(dict(theirs.named_parameters()), llama.NAMES.to_ours).items():
        name, layer = full_name.removesuffix(".weight"), ""
        if name.startswith("layers."):
            _, number, name = name.split(".", 2)
            layer = f"blk.{number}."
        matrix = weight.detach().numpy()
        if architecture == "llama" and name in ("attention.query", "attention.key"):
            matrix = paired_rows(matrix, len(matrix) // THEIR_SHAPE["head_dim"])
        tensors[f"{layer}{TENSORS[name]}.weight"] = (F32, matrix.shape[::-1], matrix.tobytes())
    metadata = {f"{architecture}.{key}": entry for key, entry in settings.items()}
    return gguf_bytes({"general.architecture": architecture} | metadata, tensors)


# ------------------------------------------------------------------------------------------------ llama.cpp

TEMPLATE = (
    "{%- for m in messages %}{{ '<' + m.role + '>' + (m.content | trim) }}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
LINES = [
    *SENTENCES,
    "The committee met on Thursday; it's 3.14159, I'll say.",
    "  def f(x):\n\treturn x[0]  # 注释\r\n\n",
    "👨‍👩‍👧‍👦👍🏽🇨🇳 naïve café ﬁ①",
    "混合 mixed 文本text，without空格 and with\u3000全角。",
    "<|endoftext|> is text",
    " ",
]
SHAPES = {
    "qwen3, tied": {},
    "qwen3, untied": {"tied": False},
    "llama, tied": {"qk_norm": False, "rope_theta": 77.0, "norm_epsilon": 1e-3},
    "llama, untied": {"qk_norm": False, "tied": False, "kv_heads": 4},
    "llama, biased attention": {"qk_norm": False, "biases": "attention"},
    "llama, biased": {"qk_norm": False, "biases": "all"},
    "qwen2": {"qk_norm": False, "biases": "qkv"},
    "gpt2": ARCHITECTURES["gpt2"] | {"kv_heads": 4},
    "gpt2, untied": ARCHITECTURES["gpt2"] | {"kv_heads": 4, "tied": False},
    "linear": {"rope_scaling": RotaryScaling("linear", 4.0)},
    "llama3": {"qk_norm": False, "rope_theta": 5e5, "rope_scaling": RotaryScaling("llama3", 8.0, 8192, 1.0, 4.0)},
    "yarn": {"rope_scaling": RotaryScaling("yarn", 4.0, 64, attention=0.1 * math.log(4) + 1)},
}


def source_of(model: Decoder, tokenizer: Tokenizer) -> Source:
    return Source("ink", model.config, stored_weights(model), tokenizer, TEMPLATE, {}, frozenset([tokenizer.end]))


@pytest.mark.parametrize("shape", SHAPES)
def test_llama_cpp_computes_what_we_wrote(
    shape: str, make_model: Callable[..., Decoder], tiny_tokenizer: Tokenizer, tmp_path: Path
) -> None:
    """Ids, template, predictions and 64 greedy tokens, in float32; but its GELU comes from a table of float16."""
    pytest.importorskip("xllamacpp")
    lines = LINES if shape.endswith(", tied") else LINES[::5]
    tolerance = 1e-2 if shape.startswith("gpt2") else 1e-4
    usual = {"vocabulary": tiny_tokenizer.vocabulary, "width": 64, "head_width": 16, "hidden": 96, "context": 256}
    source = source_of(make_model(**usual | SHAPES[shape]), tiny_tokenizer)
    path = tmp_path / "model.gguf"
    write_gguf_file(path, source, "F32")
    engine = XLlamaCpp(path, source_of_gguf(path))
    try:
        facts, faults = compare(OurEngine(source), engine, lines, tolerance=tolerance, context=256)
    finally:
        engine.close()
    assert faults == []
    assert (facts["equal_ids"], facts["chats"]) == (len(lines), 3)
    assert facts["largest_difference"] < tolerance
    assert facts["equal_greedy"] == len(lines) or shape.startswith("gpt2")


@pytest.mark.parametrize("form", ["f16", "bf16", "q8_0", "q4_1"])
def test_llama_cpp_rounds_no_more_than_a_format_allows(
    form: str, make_model: Callable[..., Decoder], tiny_tokenizer: Tokenizer, tmp_path: Path
) -> None:
    pytest.importorskip("xllamacpp")
    usual = {"vocabulary": tiny_tokenizer.vocabulary, "width": 64, "head_width": 16, "hidden": 96, "context": 256}
    model = make_model(**usual)
    with torch.no_grad():
        model.embedding.weight.mul_(0.2)  # predictions as sure of themselves as those of a trained model
    source = source_of(model, tiny_tokenizer)
    path = tmp_path / "model.gguf"
    name = FORMATS[form].name
    write_gguf_file(path, source, name)
    engine = XLlamaCpp(path, source_of_gguf(path))
    rounded = source.with_weights(round_gguf(source, name))
    try:
        facts, faults = compare(OurEngine(rounded), engine, LINES[:6], tolerance=FORMATS[form].predictions, context=256)
    finally:
        engine.close()
    assert faults == []
    assert 0 < facts["largest_difference"] < FORMATS[form].predictions / 2


# ------------------------------------------------------------------------------------------------ SmolLM2


@pytest.fixture(scope="module")
def smollm2(smollm2_path: Path) -> GGUFModel:
    return read_gguf(smollm2_path)


@pytest.fixture(scope="module")
def smollm2_tokenizer(smollm2: GGUFModel) -> Tokenizer:
    return gguf_tokenizer(smollm2.metadata)


def test_a_real_file_is_read(smollm2: GGUFModel) -> None:
    assert smollm2.config == ModelConfig(
        vocabulary=49_152,
        layers=30,
        width=576,
        heads=9,
        kv_heads=3,
        head_width=64,
        hidden=1536,
        context=8192,
        qk_norm=False,
        rope_theta=100_000.0,
        norm_epsilon=1e-5,
    )
    formats = {name.split(".")[-2]: matrix.format for name, matrix in smollm2.weights.items()}
    assert (formats["embedding"], formats["query"], formats["norm"]) == ("Q8_0", "Q4_1", "F32")
    assert sum(matrix.rows * matrix.columns for matrix in smollm2.weights.values()) == smollm2.config.parameters
    norms = np.concatenate([smollm2.weights[f"layers.{n}.attention_norm.weight"].dequantised() for n in range(30)])
    assert np.isfinite(norms).all()


IDS = {
    "The committee met on Thursday; it's 3.14159, I'll say.": (
        [504, 8572, 1278, 335, 14963, 43, 357, 506, 216, 35, 30, 33, 36, 33, 37, 41, 28, 339, 3060, 1643, 30]
    ),
    "会议决定，下周三。": ([29836, 244, 22081, 123, 33031, 128, 36076, 12831, 42080, 48459, 118, 7906, 227, 19076]),
    "  def f(x):\n\treturn x[0]  # 12345\r\n\n": (
        [216, 753, 275, 24, 104, 727, 198, 197, 5406, 1792, 75, 32, 77, 216, 907, 216, 33, 34, 35, 36, 37, 201, 1116]
    ),
    "👍🏽 naïve café ½ Ⅷ x\u3000y": (
        [10813, 235, 231, 10813, 233, 138, 15486, 46494, 37366, 216, 16738, 216, 173, 223, 117, 1792, 12109, 218, 105]
    ),
    "<|im_start|>user": [44, 108, 306, 79, 3738, 108, 46, 4093],
}
"""What llama.cpp answers to /tokenize with parse_special false (October 2026)."""


def test_a_real_tokenizer_gives_the_ids_of_llama_cpp(smollm2_tokenizer: Tokenizer) -> None:
    assert smollm2_tokenizer.vocabulary == 49_152
    assert smollm2_tokenizer.begin == []
    assert smollm2_tokenizer.special["eos_token"] == smollm2_tokenizer.inner.id_to_token(2) == "<|im_end|>"
    for line, ids in IDS.items():
        assert smollm2_tokenizer.encode(line) == ids
        assert smollm2_tokenizer.decode(ids) == line


@pytest.mark.slow
def test_a_real_model_writes_sense(smollm2_path: Path, smollm2_tokenizer: Tokenizer) -> None:
    """The first tokens are also those of llama.cpp, which rounds what it multiplies to 8 bits."""
    model = read_gguf(smollm2_path).decoder()
    start = [smollm2_tokenizer.inner.token_to_id(END_OF_TEXT), *smollm2_tokenizer.encode("The capital of France is")]
    ids = list(start)
    with torch.no_grad():
        for _ in range(11):
            ids.append(int(model(torch.tensor([ids]))[0, -1].argmax()))
    written = smollm2_tokenizer.decode(ids[len(start) :])
    assert written == " Paris.\n\nThe capital of France is Paris."


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning")  # of transformers, about what peft does
def test_a_real_file_becomes_a_folder_that_transformers_and_peft_load(smollm2_path: Path, tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    peft = pytest.importorskip("peft")
    source = source_of_gguf(smollm2_path)
    write_hf(tmp_path, source, "BF16")
    engine = open_hf(tmp_path)
    rounded = source.with_weights(round_hf(source, "BF16"))
    facts, faults = compare(OurEngine(rounded), engine, LINES[:2], tolerance=1e-3, context=80)
    assert faults == []
    assert engine.name.startswith("transformers")
    assert (facts["equal_ids"], facts["chats"], facts["equal_greedy"]) == (2, 3, 2)
    assert facts["special"] == {"bos_token": 1, "eos_token": 2, "unk_token": 0, "pad_token": 2}
    from transformers import AutoModelForCausalLM

    adapted = peft.get_peft_model(
        AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32), peft.LoraConfig(task_type="CAUSAL_LM")
    )
    ids = source.tokenizer.encode("The capital of France is")
    with torch.no_grad():
        scores = adapted(torch.tensor([ids])).logits[0, -1].log_softmax(-1).numpy()
    np.testing.assert_allclose(scores, engine.predict(ids), atol=1e-4)
