"""GGUF files of ours: numbers rounded as well as the reference does, and models and tokenizers that come back."""

from __future__ import annotations

import json
import math
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
import torch
from gguf_files import F32, MODELS, Q8_0, SHAPE, gguf_bytes, model_metadata, model_tensors
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from tokenizers import AddedToken, pre_tokenizers

from bimo.models.config import RotaryScaling
from bimo.models.transformer import Decoder
from bimo.runtime import UserError
from bimo.tokens.tokenizer import END_OF_TEXT, QWEN2_PATTERN, Tokenizer, load_tokenizer
from bimo.weights.gguf import read_gguf
from bimo.weights.gguf_blocks import FORMATS, dequantise, quantise
from bimo.weights.gguf_shapes import ARCHITECTURES
from bimo.weights.gguf_tokenizer import CUTTINGS, gguf_tokenizer, tokenizer_to_gguf
from bimo.weights.gguf_writer import write_gguf
from bimo.weights.quantize import WRITTEN_FORMATS, in_format, quantised, stored_weights

# ------------------------------------------------------------------------------------------------ number formats

STEPS = {"F16": 2**-11, "BF16": 2**-8}
"""Half the distance of neighbours, as a share of the number."""


def rounded(numbers: np.ndarray, form: str) -> np.ndarray:
    return dequantise(quantise(numbers, form), form)


BLOCKS = arrays(np.float32, (2, 32), elements=st.floats(-1000, 1000, width=32))


@given(numbers=BLOCKS)
def test_every_number_is_near_its_own(numbers: np.ndarray) -> None:
    np.testing.assert_array_equal(rounded(numbers, "F32"), numbers)
    for form, share in STEPS.items():
        np.testing.assert_allclose(rounded(numbers, form), numbers, rtol=share, atol=2**-24)
    largest = np.abs(numbers).max(axis=1, keepdims=True)
    # Half a step, and what the scale loses as an f16; below the least f16 there is no scale.
    assert (np.abs(rounded(numbers, "Q8_0") - numbers) <= largest / 127 * 0.51 + 127 * 2**-24).all()
    spread = numbers.max(axis=1, keepdims=True) - numbers.min(axis=1, keepdims=True)
    squares = ((rounded(numbers, "Q4_1") - numbers) ** 2).sum(axis=1, keepdims=True)
    assert (squares <= 32 * (spread / 15 * 0.51 + largest * 2**-10 + 15 * 2**-24) ** 2).all()


@given(numbers=BLOCKS)
def test_what_is_rounded_already_stays(numbers: np.ndarray) -> None:
    for form in ("F32", "F16", "BF16"):
        once = rounded(numbers, form)
        np.testing.assert_array_equal(rounded(once, form), once)
    once = rounded(np.sign(numbers) * np.maximum(np.abs(numbers), 1), "Q8_0")
    np.testing.assert_array_equal(rounded(once, "Q8_0"), once)


@pytest.mark.parametrize("form", WRITTEN_FORMATS)
def test_rounding_is_at_least_as_good_as_that_of_the_gguf_package(form: str) -> None:
    gguf = pytest.importorskip("gguf")
    random = np.random.default_rng(0)
    numbers = random.standard_normal((200, 256)).astype(np.float32) * random.lognormal(-4, 2, (200, 1)).astype("f4")
    numbers[0] = 0
    theirs = gguf.quants.quantize(numbers, gguf.GGMLQuantizationType[form])
    ours = quantise(numbers, form)
    if form in ("F32", "F16", "BF16"):
        np.testing.assert_array_equal(ours, theirs.view(np.uint8))
        return
    mine, other = (((dequantise(data, form) - numbers) ** 2).reshape(-1, 32).sum(axis=1) for data in (ours, theirs))
    assert (mine <= other * (1 + 1e-6)).all()
    if form == "Q4_1":
        assert mine.sum() < 0.9 * other.sum()


@pytest.mark.parametrize("form", ["F16", "BF16", "Q8_0", "Q4_1"])
def test_numbers_that_do_not_fit_are_refused(form: str) -> None:
    good = np.ones((3, 32), dtype=np.float32)
    for bad in (np.nan, np.inf, -np.inf, 3.4e38):
        numbers = good.copy()
        numbers[1, 5] = bad
        with pytest.raises(UserError, match=f"infinite, no numbers, or too large for {form}"):
            quantise(numbers, form)


def test_blocks_of_one_number_keep_it() -> None:
    for number in (0.0, 1.0, -0.25, 1e-30):
        numbers = np.full((1, 32), number, dtype=np.float32)
        for form in ("Q8_0", "Q4_1"):
            np.testing.assert_allclose(rounded(numbers, form), numbers, rtol=1e-3, atol=2**-24)


# ------------------------------------------------------------------------------------------------ models


@pytest.mark.parametrize("form", WRITTEN_FORMATS)
@pytest.mark.parametrize(("architecture", "tied"), MODELS)
def test_a_model_comes_back(
    architecture: str, tied: bool, form: str, make_model: Callable[..., Decoder], tmp_path: Path
) -> None:
    model = make_model(**SHAPE, qk_norm=architecture == "qwen3", tied=tied, rope_theta=1e6, norm_epsilon=0.5)
    weights = stored_weights(model)
    write_gguf(tmp_path / "a.gguf", model.config, weights, form=form, metadata={"general.name": "笔墨"})
    loaded = read_gguf(tmp_path / "a.gguf")
    assert loaded.config == model.config
    assert loaded.metadata["general.name"] == "笔墨"
    assert loaded.weights.keys() == weights.keys()
    for name, matrix in quantised(weights, form).items():
        found = loaded.weights[name]
        assert (found.rows, found.columns, found.format) == (matrix.rows, matrix.columns, matrix.format)
        np.testing.assert_array_equal(found.data, matrix.data)


@pytest.mark.parametrize(("architecture", "tied"), MODELS)
def test_tensors_and_keys_are_those_of_a_file_written_by_the_description(
    architecture: str, tied: bool, make_model: Callable[..., Decoder], tmp_path: Path
) -> None:
    """`gguf_files` knows nothing of src: names, order of rows and keys are found twice."""
    gguf = pytest.importorskip("gguf")
    model = make_model(**SHAPE, qk_norm=architecture == "qwen3", tied=tied)
    path = tmp_path / "a.gguf"
    write_gguf(path, model.config, stored_weights(model), form="F32", metadata={})
    reader = gguf.GGUFReader(path)
    found = {tensor.name: (F32, tuple(tensor.shape.tolist()), tensor.data.tobytes()) for tensor in reader.tensors}
    assert found == model_tensors(model, architecture)
    assert {tensor.tensor_type.name for tensor in reader.tensors} == {"F32"}
    for key, entry in model_metadata(model, architecture).items():
        assert reader.fields[key].contents() == pytest.approx(entry), key


OTHERS: dict[str, dict[str, Any]] = {
    "qwen2": ARCHITECTURES["qwen2"],
    "gpt2": ARCHITECTURES["gpt2"] | {"kv_heads": 4},
    "gpt2, untied": ARCHITECTURES["gpt2"] | {"kv_heads": 4, "tied": False},
    "llama, biased attention": {"qk_norm": False, "biases": "attention"},
    "llama, biased": {"qk_norm": False, "biases": "all"},
    "linear": {"rope_scaling": RotaryScaling("linear", 4.0)},
    "llama3": {"qk_norm": False, "rope_theta": 5e5, "rope_scaling": RotaryScaling("llama3", 32.0, 8192, 1.0, 4.0)},
    "yarn": {"rope_scaling": RotaryScaling("yarn", 4.0, 24, 2.0, 16.0, attention=0.1 * math.log(4) + 1)},
}


@pytest.mark.parametrize("shape", OTHERS)
def test_other_shapes_come_back(shape: str, make_model: Callable[..., Decoder], tmp_path: Path) -> None:
    model = make_model(**SHAPE | OTHERS[shape])
    for form in ("F32", "Q8_0"):
        weights = stored_weights(model)
        write_gguf(tmp_path / "a.gguf", model.config, weights, form=form, metadata={})
        loaded = read_gguf(tmp_path / "a.gguf")
        assert loaded.config == model.config
        architecture = "qwen3" if model.config.qk_norm else shape.split(",")[0].removesuffix("3")
        assert loaded.metadata["general.architecture"] == architecture
        for name, matrix in quantised(weights, form).items():
            np.testing.assert_array_equal(loaded.weights[name].dequantised(), matrix.dequantised(), err_msg=name)


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"biases": "qkv"}, "has no architecture for a model of this shape"),
        (OTHERS["gpt2"] | {"feed_forward": "relu"}, "has no architecture for a model of this shape"),
        ({"rope_scaling": RotaryScaling("yarn", 4.0, 24, attention=1.0)}, "No key of GGUF says how"),
    ],
)
def test_shapes_that_no_key_can_say_are_refused(
    fields: dict[str, Any], sentence: str, make_model: Callable[..., Decoder], tmp_path: Path
) -> None:
    model = make_model(**SHAPE | fields)
    with pytest.raises(UserError, match=sentence):
        write_gguf(tmp_path / "a.gguf", model.config, stored_weights(model), form="F32", metadata={})
    assert list(tmp_path.iterdir()) == []


def test_other_ways_to_stretch_positions_are_not_taken_for_llama_3s(
    make_model: Callable[..., Decoder], tmp_path: Path
) -> None:
    """A file has only the factors; those that do not follow from the published numbers are refused."""
    strange = RotaryScaling("llama3", 8.0, 4096, 1.0, 2.0)
    model = make_model(**SHAPE, qk_norm=False, rope_theta=5e5, rope_scaling=strange)
    write_gguf(tmp_path / "a.gguf", model.config, stored_weights(model), form="F32", metadata={})
    with pytest.raises(UserError, match=r"uses rope_freqs\.weight, which Bimo does not compute"):
        read_gguf(tmp_path / "a.gguf")


def test_joined_tensors_that_are_no_three_are_refused(make_model: Callable[..., Decoder], tmp_path: Path) -> None:
    """Queries, keys and values of GPT-2, with a row or a number too many, or in blocks that no part ends with."""
    model = make_model(**SHAPE | OTHERS["gpt2"], layers=1)
    path = tmp_path / "a.gguf"
    write_gguf(path, model.config, stored_weights(model), form="F32", metadata={})
    gguf = pytest.importorskip("gguf")
    tensors = {
        tensor.name: (F32, tuple(tensor.shape.tolist()), tensor.data.tobytes())
        for tensor in gguf.GGUFReader(path).tensors
    }
    metadata = read_gguf(path).metadata
    for name, tensor in (
        ("blk.0.attn_qkv.weight", (F32, (32, 193), bytes(4 * 32 * 193))),
        ("blk.0.attn_qkv.bias", (F32, (193,), bytes(4 * 193))),
        ("blk.0.attn_qkv.bias", (Q8_0, (32,), bytes(34))),
        ("blk.0.attn_qkv.bias", (F32, (192, 2), bytes(4 * 192 * 2))),
    ):
        path.write_bytes(gguf_bytes(metadata, tensors | {name: tensor}))
        with pytest.raises(UserError, match=r"do not fit its keys, first at layers\.0\.attention\."):
            read_gguf(path)
    path.write_bytes(gguf_bytes(metadata, tensors | {"blk.0.attn_qkv.bias": (Q8_0, (192,), bytes(34 * 6))}))
    assert read_gguf(path).weights["layers.0.attention.value.bias"].dequantised().tolist() == [[0.0] * 64]


def test_the_numbers_of_a_gguf_file_can_be_written_anew(make_model: Callable[..., Decoder], tmp_path: Path) -> None:
    model = make_model(**SHAPE, qk_norm=False)
    write_gguf(tmp_path / "a.gguf", model.config, stored_weights(model), form="Q8_0", metadata={})
    stored = read_gguf(tmp_path / "a.gguf")
    write_gguf(tmp_path / "b.gguf", stored.config, stored.weights, form="Q8_0", metadata={})
    assert (tmp_path / "a.gguf").read_bytes() == (tmp_path / "b.gguf").read_bytes()


def test_rows_that_are_no_blocks_become_f16(make_model: Callable[..., Decoder]) -> None:
    model = make_model(width=24, hidden=64)
    weights = stored_weights(model)
    forms = {name.removesuffix(".weight"): matrix.format for name, matrix in quantised(weights, "Q4_1").items()}
    assert forms["layers.0.feed_forward.up"] == forms["embedding"] == "F16"
    assert forms["layers.0.feed_forward.down"] == "Q4_1"
    assert forms["norm"] == forms["layers.1.attention.query_norm"] == "F32"
    name = "layers.0.feed_forward.up.weight"
    np.testing.assert_array_equal(
        in_format(name, weights[name], "Q4_1").dequantised(), weights[name].dequantised().astype(np.float16)
    )


def test_with_four_bits_the_embedding_has_eight(make_model: Callable[..., Decoder]) -> None:
    forms = {name: matrix.format for name, matrix in quantised(stored_weights(make_model(**SHAPE)), "Q4_1").items()}
    assert forms["embedding.weight"] == "Q8_0"
    assert forms["layers.0.attention.query.weight"] == "Q4_1"


def test_a_file_that_cannot_be_finished_leaves_the_old_one(make_model: Callable[..., Decoder], tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    path.write_text("old")
    model = make_model(**SHAPE)
    with torch.no_grad():
        model.layers[1].feed_forward.down.weight[3, 3] = float("nan")
    with pytest.raises(UserError, match="no numbers"):
        write_gguf(path, model.config, stored_weights(model), form="F16", metadata={})
    assert [file.name for file in tmp_path.iterdir()] == ["a.gguf"]
    assert path.read_text() == "old"


def test_tensors_are_written_one_after_the_other(make_model: Callable[..., Decoder], tmp_path: Path) -> None:
    model = make_model(layers=8, width=256, hidden=1024, heads=8, head_width=32)
    weights = stored_weights(model)
    largest, total = 256 * 1024 * 4, sum(matrix.data.nbytes for matrix in weights.values())
    tracemalloc.start()
    try:
        write_gguf(tmp_path / "a.gguf", model.config, weights, form="F16", metadata={})
        assert tracemalloc.get_traced_memory()[1] < 6 * largest < total / 2
    finally:
        tracemalloc.stop()


# ------------------------------------------------------------------------------------------------ tokenizers


def test_the_tokenizer_comes_back(tiny_tokenizer: Tokenizer, tiny_texts: list[str]) -> None:
    keys = tokenizer_to_gguf(tiny_tokenizer, vocabulary=tiny_tokenizer.vocabulary)
    found = gguf_tokenizer(keys)
    assert keys["tokenizer.ggml.pre"] == "qwen2"
    assert (found.vocabulary, found.end) == (tiny_tokenizer.vocabulary, tiny_tokenizer.end)
    for line in [*tiny_texts, " \n\n x", f"a{END_OF_TEXT}b"]:
        assert found.encode(line) == tiny_tokenizer.encode(line)
        assert found.decode(found.encode(line)) == line


def with_words_cut(tokenizer: Tokenizer, cut: object, **model: object) -> Tokenizer:
    settings = json.loads(tokenizer.inner.to_str())
    settings["model"] |= model
    inner = tokenizers.Tokenizer.from_str(json.dumps(settings))
    inner.pre_tokenizer = cut
    return Tokenizer(inner)


def sequence(*steps: object) -> object:
    return pre_tokenizers.Sequence(list(steps))


BYTES = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
GPT2 = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)


def split(pattern: str) -> object:
    return pre_tokenizers.Split(tokenizers.Regex(pattern), "isolated")


@pytest.mark.parametrize("name", CUTTINGS)
def test_every_way_to_cut_words_has_its_name(name: str, tiny_tokenizer: Tokenizer) -> None:
    keys = tokenizer_to_gguf(tiny_tokenizer, vocabulary=tiny_tokenizer.vocabulary)
    found = gguf_tokenizer(keys | {"tokenizer.ggml.pre": name})
    assert tokenizer_to_gguf(found, vocabulary=found.vocabulary)["tokenizer.ggml.pre"] == name


def test_ways_that_others_spell_are_known(tiny_tokenizer: Tokenizer, tiny_texts: list[str]) -> None:
    """As the files of GPT-2, SmolLM2 and Llama 3 have them."""
    digits = pre_tokenizers.Digits(individual_digits=True)
    three = QWEN2_PATTERN.replace(r"|\p{N}|", r"|\p{N}{1,3}|")
    for cut, model, name in (
        (GPT2, {}, "gpt-2"),
        (sequence(digits, GPT2), {}, "smollm"),
        (sequence(split(three), BYTES), {"ignore_merges": True}, "llama-bpe"),
    ):
        theirs = with_words_cut(tiny_tokenizer, cut, **model)
        keys = tokenizer_to_gguf(theirs, vocabulary=theirs.vocabulary)
        assert keys["tokenizer.ggml.pre"] == name
        ours = gguf_tokenizer(keys)
        for line in tiny_texts:
            assert ours.encode(line) == theirs.encode(line)


def test_tokenizers_that_no_key_can_say_are_refused(tiny_tokenizer: Tokenizer) -> None:
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel({END_OF_TEXT: 0, "a": 1}, unk_token="a"))
    for strange in (
        Tokenizer(words),
        with_words_cut(tiny_tokenizer, sequence(split(r"\w+"), BYTES)),
        with_words_cut(tiny_tokenizer, pre_tokenizers.ByteLevel(add_prefix_space=True)),
        with_words_cut(tiny_tokenizer, sequence(pre_tokenizers.Whitespace(), BYTES)),
        with_words_cut(tiny_tokenizer, sequence(split(QWEN2_PATTERN), BYTES), ignore_merges=True),
    ):
        with pytest.raises(UserError, match="A GGUF file cannot hold this tokenizer"):
            tokenizer_to_gguf(strange, vocabulary=700)
    lower = Tokenizer(tokenizers.Tokenizer.from_str(tiny_tokenizer.inner.to_str()))
    lower.inner.normalizer = tokenizers.normalizers.Lowercase()
    with pytest.raises(UserError, match="A GGUF file cannot hold this tokenizer"):
        tokenizer_to_gguf(lower, vocabulary=700)


def test_kinds_of_tokens_come_back_and_missing_ids_are_filled(tiny_tokenizer: Tokenizer) -> None:
    inner = tokenizers.Tokenizer.from_str(tiny_tokenizer.inner.to_str())
    inner.add_special_tokens([AddedToken("<|im_end|>", normalized=False)])
    inner.add_tokens([AddedToken("笔墨纸砚", normalized=False)])
    tokenizer = Tokenizer(inner)
    size = tokenizer.vocabulary
    keys = tokenizer_to_gguf(tokenizer, vocabulary=size + 3)
    assert keys["tokenizer.ggml.token_type"][-5:] == [3, 4, 5, 5, 5]
    assert keys["tokenizer.ggml.token_type"][tokenizer.end] == 3
    found = gguf_tokenizer(keys)
    assert found.vocabulary == size + 3
    assert found.encode("用笔墨纸砚<|im_end|>") == tokenizer.encode("用笔墨纸砚<|im_end|>")
    assert found.inner.token_to_id("<|im_end|>") == size - 2


# ------------------------------------------------------------------------------------------------ special tokens


@pytest.mark.parametrize("begins", [True, False])
def test_special_tokens_come_back(begins: bool, tiny_tokenizer: Tokenizer, tmp_path: Path) -> None:
    keys = tokenizer_to_gguf(tiny_tokenizer, vocabulary=tiny_tokenizer.vocabulary)
    ids = {"bos": 7, "eos": 5, "padding": 6, "unknown": 0}
    theirs = {f"tokenizer.ggml.{name}_token_id": number for name, number in ids.items()}
    theirs["tokenizer.ggml.add_bos_token"] = begins
    found = gguf_tokenizer(keys | theirs)
    name = found.inner.id_to_token
    assert found.special == {"bos_token": name(7), "eos_token": name(5), "pad_token": name(6), "unk_token": name(0)}
    assert (found.end, found.begin) == (5, [7] if begins else [])
    again = tokenizer_to_gguf(found, vocabulary=found.vocabulary)
    assert {key: again[key] for key in theirs} == theirs
    found.save(tmp_path)
    saved = load_tokenizer(tmp_path)
    assert (saved.special, saved.begin, saved.end) == (found.special, found.begin, 5)


def test_our_own_keys_say_what_our_tokenizer_does(tiny_tokenizer: Tokenizer) -> None:
    keys = tokenizer_to_gguf(tiny_tokenizer, vocabulary=tiny_tokenizer.vocabulary)
    end = tiny_tokenizer.end
    assert keys["tokenizer.ggml.add_bos_token"] is True
    assert {keys[f"tokenizer.ggml.{name}_token_id"] for name in ("bos", "eos", "padding")} == {end}
    found = gguf_tokenizer(keys)
    assert (found.special, found.begin, found.end) == (tiny_tokenizer.special, [end], end)


def test_llama_3_begins_texts_without_being_told(tiny_tokenizer: Tokenizer) -> None:
    keys = tokenizer_to_gguf(tiny_tokenizer, vocabulary=tiny_tokenizer.vocabulary)
    del keys["tokenizer.ggml.add_bos_token"]
    assert gguf_tokenizer(keys).begin == []
    for name in ("llama-bpe", "llama-v3"):
        assert gguf_tokenizer(keys | {"tokenizer.ggml.pre": name}).begin == [tiny_tokenizer.end]


def test_ids_that_are_none_are_refused(tiny_tokenizer: Tokenizer) -> None:
    keys = tokenizer_to_gguf(tiny_tokenizer, vocabulary=tiny_tokenizer.vocabulary)
    for name, number in (("eos", tiny_tokenizer.vocabulary), ("bos", -1), ("padding", "0"), ("unknown", True)):
        key = f"tokenizer.ggml.{name}_token_id"
        with pytest.raises(UserError, match=f"cannot be used: {key} does not fit the tokens"):
            gguf_tokenizer(keys | {key: number})


def test_written_formats_are_those_that_can_be_read() -> None:
    assert WRITTEN_FORMATS == ("F32", "F16", "Q4_1", "Q8_0", "BF16")
    assert set(WRITTEN_FORMATS) < set(FORMATS)
