"""GGUF: every format against a scalar twin, models and tokenizers that come back, and files that lie."""

from __future__ import annotations

import contextlib
import json
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from changing import change
from gguf_files import (
    F16,
    F32,
    MODELS,
    Q8_0,
    SHAPE,
    gguf_bytes,
    model_metadata,
    model_tensors,
    paired_rows,
    text,
    tokenizer_metadata,
    value,
    write_model,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from bimo.export.source import source_of_gguf
from bimo.models.transformer import Decoder
from bimo.runtime import UserError
from bimo.tokens.tokenizer import END_OF_TEXT, Tokenizer
from bimo.weights.gguf import read_gguf
from bimo.weights.gguf_blocks import COLUMNS_AT_ONCE, FORMATS, OTHER_FORMATS, dequantise
from bimo.weights.gguf_tokenizer import ALIKE, CUTTINGS, gguf_tokenizer
from bimo.weights.opening import open_model

# ------------------------------------------------------------------------------------------------ number formats


def scalar_twin(form: str, block: bytes) -> list[np.float32]:
    """The numbers of one block, one by one, as the format is defined."""

    def f16(place: int) -> np.float32:
        return np.float32(struct.unpack_from("<e", block, place)[0])

    def four_bits(start: int, run: int, column: int) -> int:
        """Of each run of bytes the low halves are the first columns, the high halves the next."""
        byte = block[start + column // (2 * run) * run + column % run]
        return byte >> 4 if column % (2 * run) >= run else byte & 15

    def fifth_bit(column: int, start: int) -> int:
        return (struct.unpack_from("<I", block, start)[0] >> column & 1) << 4

    def group(column: int) -> tuple[int, int]:
        """6-bit scale and least value of the 32 columns around this one."""
        packed, g = block[4:16], column // 32
        if g < 4:
            return packed[g] & 63, packed[g + 4] & 63
        return packed[g + 4] & 15 | packed[g - 4] >> 6 << 4, packed[g + 4] >> 4 | packed[g] >> 6 << 4

    def grouped(q: int, column: int) -> np.float32:
        scale, least = group(column)
        return f16(0) * np.float32(scale) * np.float32(q) - f16(2) * np.float32(least)

    def one(j: int) -> np.float32:
        if form == "F32":
            return np.float32(struct.unpack("<f", block)[0])
        if form == "F16":
            return f16(0)
        if form == "BF16":
            return np.float32(struct.unpack("<f", b"\0\0" + block)[0])
        if form == "Q4_0":
            return f16(0) * np.float32(four_bits(2, 16, j) - 8)
        if form == "Q4_1":
            return f16(0) * np.float32(four_bits(4, 16, j)) + f16(2)
        if form == "Q5_0":
            return f16(0) * np.float32((four_bits(6, 16, j) | fifth_bit(j, 2)) - 16)
        if form == "Q5_1":
            return f16(0) * np.float32(four_bits(8, 16, j) | fifth_bit(j, 4)) + f16(2)
        if form == "Q8_0":
            return f16(0) * np.float32(struct.unpack_from("<b", block, 2 + j)[0])
        if form == "Q4_K":
            return grouped(four_bits(16, 32, j), j)
        if form == "Q5_K":
            return grouped(four_bits(48, 32, j) | (block[16 + j % 32] >> j // 32 & 1) << 4, j)
        assert form == "Q6_K"
        upper = block[128 + j // 128 * 32 + j % 32] >> 2 * (j % 128 // 32) & 3
        scale = struct.unpack_from("<b", block, 192 + j // 16)[0]
        return f16(208) * np.float32(scale) * np.float32((four_bits(0, 64, j) | upper << 4) - 32)

    return [one(j) for j in range(FORMATS[form].columns)]


SCALES = {"F16": (0,), "Q4_1": (0, 2), "Q5_1": (0, 2), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,)}
"""Where blocks have their f16; the others at the start, if at all."""


@pytest.mark.parametrize("form", FORMATS)
def test_numbers_are_those_of_the_scalar_twin(form: str) -> None:
    random = np.random.default_rng(0)
    rows, blocks = 3, 4 if FORMATS[form].columns > 1 else 40
    data = random.integers(0, 256, (rows, blocks, FORMATS[form].size), dtype=np.uint8)
    if form in ("F32", "BF16"):
        data[..., -1] &= 0xBF  # no infinities: what is not finite equals nothing
    else:
        for place in SCALES.get(form, (0,)):
            data[..., place + 1] &= 0xBF
    expected = [[number for block in row for number in scalar_twin(form, block.tobytes())] for row in data]
    found = dequantise(data.reshape(rows, -1), form)
    assert found.dtype == np.float32
    assert np.isfinite(found).all()
    assert found.std() > 0
    np.testing.assert_array_equal(found, np.array(expected, dtype=np.float32))


GOLDEN = {
    "Q4_0": {0: -0.1875, 1: 0.125, 15: -0.5, 16: -0.1875, 31: 0.0},
    "Q4_1": {0: -0.5625, 1: -1.25, 15: -0.875, 16: -0.9375, 31: -0.75},
    "Q5_0": {0: 0.5625, 1: -0.125, 15: -0.75, 16: 0.875, 31: 0.0625},
    "Q5_1": {0: -0.3125, 1: 0.0, 15: 0.375, 16: -0.3125, 31: -1.1875},
    "Q8_0": {0: 5.3125, 1: 7.625, 15: -8.0, 16: -5.6875, 31: -3.0},
    "Q4_K": {0: 19.71875, 33: 1.25, 100: 5.9375, 129: -0.375, 200: 8.65625, 255: 3.03125},
    "Q5_K": {0: 50.71875, 33: -0.25, 100: 14.6875, 129: -0.375, 200: 8.65625, 255: 6.78125},
    "Q6_K": {0: -89.4375, 33: -42.0, 100: 157.6875, 129: 26.0, 200: 68.0625, 255: -3.75},
}
"""What version 0.19 of the gguf package makes of `known_block`."""


def known_block(form: str) -> bytes:
    block = bytearray((37 * place + 11) % 256 for place in range(FORMATS[form].size))
    second = {"Q4_1": -1.5, "Q5_1": -1.5, "Q4_K": 1 / 32, "Q5_K": 1 / 32}
    struct.pack_into("<e", block, SCALES.get(form, (0,))[0], 1 / 16)
    if form in second:
        struct.pack_into("<e", block, 2, second[form])
    return bytes(block)


@pytest.mark.parametrize("form", GOLDEN)
def test_numbers_are_those_of_the_gguf_package(form: str) -> None:
    found = dequantise(np.frombuffer(known_block(form), np.uint8)[None], form)[0]
    assert {place: float(found[place]) for place in GOLDEN[form]} == GOLDEN[form]


def test_many_rows_are_widened_in_parts() -> None:
    columns = COLUMNS_AT_ONCE // 4 + 32
    data = np.random.default_rng(0).integers(0, 60, (9, columns // 32 * 34), dtype=np.uint8)
    whole = dequantise(data, "Q8_0")
    assert whole.shape == (9, columns)
    for row in range(9):
        np.testing.assert_array_equal(whole[row], dequantise(data[row : row + 1], "Q8_0")[0])


def test_scales_that_are_no_numbers_pass_without_a_warning() -> None:
    for form in FORMATS:
        dequantise(np.full((1, FORMATS[form].size), 0xFF, dtype=np.uint8), form)


def test_numbers_of_formats_are_used_once() -> None:
    numbers = [block.number for block in FORMATS.values()] + list(OTHER_FORMATS)
    assert len(set(numbers)) == len(numbers)


# ------------------------------------------------------------------------------------------------ models


@pytest.mark.parametrize(("architecture", "tied"), MODELS)
def test_a_model_comes_back(architecture: str, tied: bool, make_model: Callable[..., Decoder], tmp_path: Path) -> None:
    model = make_model(**SHAPE, qk_norm=architecture == "qwen3", tied=tied, rope_theta=1e6, norm_epsilon=0.5)
    path = write_model(tmp_path / "model.gguf", model, architecture)
    loaded = read_gguf(path).decoder()
    assert loaded.config == model.config
    assert not loaded.training
    weights = dict(loaded.named_parameters())
    for name, weight in model.named_parameters():
        assert torch.equal(weights[name], weight), name
    half = read_gguf(path).decoder(device=torch.device("cpu"), compute_dtype=torch.bfloat16)
    assert half(torch.tensor([[1, 2]])).dtype == torch.bfloat16


def test_raw_blocks_are_reachable_and_rows_are_in_our_order(make_model: Callable[..., Decoder], tmp_path: Path) -> None:
    model = make_model(**SHAPE, qk_norm=False)
    stored = read_gguf(write_model(tmp_path / "a.gguf", model, "llama", form=Q8_0)).weights
    ours = read_gguf(write_model(tmp_path / "b.gguf", model, "llama")).weights
    for name in ("layers.1.attention.query.weight", "layers.1.attention.key.weight", "embedding.weight"):
        matrix = stored[name]
        assert (matrix.format, matrix.data.dtype, matrix.data.shape[0]) == ("Q8_0", np.uint8, matrix.rows)
        assert matrix.data.shape[1] == matrix.columns // 32 * 34
        plain = ours[name].dequantised()
        np.testing.assert_allclose(matrix.dequantised(), plain, atol=np.abs(plain).max() / 127)
    norm = stored["layers.0.attention_norm.weight"]
    assert (norm.rows, norm.columns, norm.format) == (1, 32, "F32")
    assert not stored["embedding.weight"].data.flags.owndata  # a view of the mapped file


def test_the_order_of_rows_is_that_of_the_conversion() -> None:
    """Rows of one head with K = 4: first halves 0 1, second halves 2 3; llama.cpp has the pairs together."""
    assert paired_rows(np.arange(8), 2).tolist() == [0, 2, 1, 3, 4, 6, 5, 7]


def test_f16_is_read_and_usual_values_may_be_left_out(make_model: Callable[..., Decoder], tmp_path: Path) -> None:
    model = make_model(**SHAPE | {"kv_heads": 4, "head_width": 8}, qk_norm=False)
    left_out = ("attention__head_count_kv", "attention__key_length", "attention__value_length", "rope__freq_base")
    changes = dict.fromkeys([f"llama__{key}" for key in (*left_out, "rope__dimension_count")])
    loaded = read_gguf(write_model(tmp_path / "model.gguf", model, "llama", form=F16, **changes)).decoder()
    assert loaded.config == model.config
    assert torch.equal(loaded.embedding.weight, model.embedding.weight.half().float())


def test_older_versions_and_other_alignments_are_read(make_model: Callable[..., Decoder], tmp_path: Path) -> None:
    model = make_model(**SHAPE)
    metadata = model_metadata(model, "qwen3") | {"general.alignment": 256, "general.name": "笔墨"}
    path = tmp_path / "model.gguf"
    path.write_bytes(gguf_bytes(metadata, model_tensors(model, "qwen3"), alignment=256, version=2))
    assert read_gguf(path).metadata["general.name"] == "笔墨"
    assert torch.equal(read_gguf(path).decoder().embedding.weight, model.embedding.weight)


def test_what_just_fits_is_read(make_model: Callable[..., Decoder], tmp_path: Path) -> None:
    """Four dimensions of which some are 1, the least alignment, the longest key, the most positions, no layer more."""
    model = make_model(**SHAPE | {"head_width": 2}, qk_norm=False)
    tensors = {
        name: (form, (*shape, 1, 1, 1)[:4], raw) for name, (form, shape, raw) in model_tensors(model, "llama").items()
    }
    metadata = model_metadata(model, "llama") | {"general.alignment": 8, "k" * 256: 1, "llama.context_length": 2**26}
    path = tmp_path / "model.gguf"
    ones = struct.pack("<2f", 1, 1)
    path.write_bytes(gguf_bytes(metadata, tensors | {"rope_freqs.weight": (F32, (2,), ones)}, alignment=8))
    assert read_gguf(path).config.context == 2**26


def test_a_last_array_may_fill_the_file(tmp_path: Path) -> None:
    """Nine empty texts in 72 bytes are no lie: what is refused is what does not follow."""
    path = tmp_path / "model.gguf"
    path.write_bytes(with_value(struct.pack("<IIQ", 9, 8, 9) + bytes(72)))
    with pytest.raises(UserError, match=r"nothing usable for general\.architecture"):
        read_gguf(path)


def test_every_kind_of_value_is_read(make_model: Callable[..., Decoder], tmp_path: Path) -> None:
    kinds = {
        "a.u8": (struct.pack("<IB", 0, 200), 200),
        "a.i8": (struct.pack("<Ib", 1, -100), -100),
        "a.u16": (struct.pack("<IH", 2, 60_000), 60_000),
        "a.i16": (struct.pack("<Ih", 3, -30_000), -30_000),
        "a.u32": (struct.pack("<II", 4, 2**32 - 1), 2**32 - 1),
        "a.i32": (struct.pack("<Ii", 5, -7), -7),
        "a.f32": (struct.pack("<If", 6, 1e-6), 1e-6),
        "a.true": (struct.pack("<I?", 7, True), True),
        "a.text": (struct.pack("<I", 8) + text("é\n"), "é\n"),
        "a.u64": (struct.pack("<IQ", 10, 2**64 - 1), 2**64 - 1),
        "a.i64": (struct.pack("<Iq", 11, -(2**63)), -(2**63)),
        "a.f64": (struct.pack("<Id", 12, 0.1), 0.1),
        "a.texts": (value(["a", "", "中"]), ["a", "", "中"]),
        "a.truths": (value([True, False]), [True, False]),
        "a.floats": (value([0.5, -2.0]), [0.5, -2.0]),
        "a.ints": (value([1, -2]), [1, -2]),
        "a.bytes": (struct.pack("<IIQ3B", 9, 0, 3, 1, 2, 255), [1, 2, 255]),
        "a.nothing": (struct.pack("<IIQ", 9, 8, 0), []),
    }
    model = make_model(**SHAPE)
    path = tmp_path / "model.gguf"
    written = {key: raw for key, (raw, _) in kinds.items()}
    path.write_bytes(gguf_bytes(model_metadata(model, "qwen3") | written, model_tensors(model, "qwen3")))
    found = read_gguf(path).metadata
    for key, (_, expected) in kinds.items():
        assert found[key] == expected
        assert type(found[key]) is type(expected)


ONES, TWOS = (struct.pack("<8f", *[number] * 8) for number in (1.0, 2.0))


def test_rotary_factors_may_be_ones_only(make_model: Callable[..., Decoder], tmp_path: Path) -> None:
    model = make_model(**SHAPE, qk_norm=False)
    metadata, tensors = model_metadata(model, "llama"), model_tensors(model, "llama")
    path = tmp_path / "model.gguf"
    path.write_bytes(gguf_bytes(metadata, tensors | {"rope_freqs.weight": (F32, (8,), ONES)}))
    assert read_gguf(path).config == model.config
    for shape, raw in (((8,), TWOS), ((8, 64), ONES * 64)):
        path.write_bytes(gguf_bytes(metadata, tensors | {"rope_freqs.weight": (F32, shape, raw)}))
        with pytest.raises(UserError, match=r"uses rope_freqs\.weight, which Bimo does not compute"):
            read_gguf(path)


YARN = {"llama__rope__scaling__type": "yarn", "llama__rope__scaling__factor": 4.0}


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"general__architecture": "mamba"}, "is a model of type 'mamba'; Bimo reads models of type llama, qwen2"),
        ({"general__architecture": "gemma3"}, "is a model of type 'gemma3'"),
        ({"general__architecture": None}, r"says nothing usable for general\.architecture"),
        ({"llama__rope__scaling__type": "longrope"}, r"uses llama\.rope\.scaling\.type, which"),
        ({"llama__rope__scaling__type": "yarn"}, r"says nothing usable for llama\.rope\.scaling\.factor"),
        (YARN | {"llama__rope__freq_base": 1.0}, "numbers that cannot be computed with"),
        (YARN | {"llama__rope__scaling__yarn_attn_factor": 2.0}, r"uses llama\.rope\.scaling\.yarn_attn_factor, which"),
        (YARN | {"llama__rope__scaling__yarn_ext_factor": 0.0}, r"uses llama\.rope\.scaling\.yarn_ext_factor, which"),
        ({"llama__rope__scaling__factor": 4.0}, r"uses llama\.rope\.scaling\.factor, which"),
        ({"llama__rope__scale_linear": 2.0}, r"uses llama\.rope\.scale_linear, which"),
        ({"llama__rope__dimension_count": 8}, r"uses llama\.rope\.dimension_count, which"),
        ({"llama__attention__value_length": 8}, r"uses llama\.attention\.value_length, which"),
        ({"llama__attention__sliding_window": 16}, r"uses llama\.attention\.sliding_window, which"),
        ({"llama__attention__causal": False}, r"uses llama\.attention\.causal, which"),
        ({"llama__expert_count": 8}, r"uses llama\.expert_count, which"),
        ({"split__count": 3}, "one of several files"),
        ({"llama__block_count": None}, r"says nothing usable for llama\.block_count"),
        ({"llama__block_count": 2.0}, r"says nothing usable for llama\.block_count"),
        ({"llama__embedding_length": True}, r"says nothing usable for llama\.embedding_length"),
        ({"llama__attention__head_count": [4, 4]}, r"says nothing usable for llama\.attention\.head_count"),
        ({"llama__attention__layer_norm_rms_epsilon": None}, "layer_norm_rms_epsilon"),
        ({"llama__attention__layer_norm_rms_epsilon": float("nan")}, "layer_norm_rms_epsilon"),
        ({"llama__rope__freq_base": float("inf")}, r"says nothing usable for llama\.rope\.freq_base"),
        ({"llama__rope__freq_base": 0.0}, r"says nothing usable for llama\.rope\.freq_base"),
        ({"llama__attention__head_count": 3}, "must be a multiple of"),
        ({"llama__attention__head_count_kv": 4}, r"do not fit its keys, first at layers\.0\.attention\.key"),
        ({"llama__feed_forward_length": 63}, r"do not fit its keys, first at layers\.0\.feed_forward\.down"),
        ({"llama__block_count": 1}, r"do not fit its keys, first at layers\.1\.attention"),
        ({"llama__block_count": 3}, r"do not fit its keys, first at layers\.2\.attention"),
        ({"llama__block_count": 1000}, r"do not fit its keys, first at layers\.2\.attention"),
        ({"llama__block_count": 2**32 - 1}, "describes 4,294,967,295 layers; Bimo reads models of up to 1,024"),
        ({"llama__context_length": 2**32 - 1}, "4,294,967,295 positions; of this shape .* up to 8,388,608"),
    ],
)
def test_what_is_not_ours_is_refused_by_name(
    changes: dict[str, Any], sentence: str, make_model: Callable[..., Decoder], tmp_path: Path
) -> None:
    path = write_model(tmp_path / "model.gguf", make_model(**SHAPE, qk_norm=False), "llama", **changes)
    with pytest.raises(UserError, match=sentence):
        read_gguf(path)


def test_harmless_keys_are_accepted(make_model: Callable[..., Decoder], tmp_path: Path) -> None:
    harmless = {
        "llama__rope__scaling__type": "none",
        "llama__rope__scaling__factor": 1.0,
        "llama__rope__scaling__yarn_attn_factor": 1.0,
        "llama__rope__scaling__yarn_ext_factor": -1.0,
        "llama__attention__sliding_window": 0,
        "llama__attention__causal": True,
        "llama__expert_count": 0,
        "llama__vocab_size": 97,
        "split__count": 0,
    }
    path = write_model(tmp_path / "model.gguf", make_model(**SHAPE, qk_norm=False), "llama", **harmless)
    assert read_gguf(path).config.vocabulary == 97


def test_tensors_that_are_missing_or_too_many_are_named(make_model: Callable[..., Decoder], tmp_path: Path) -> None:
    model = make_model(**SHAPE, qk_norm=False)
    metadata, tensors = model_metadata(model, "llama"), model_tensors(model, "llama")
    bias = (F32, (64,), bytes(256))
    path = tmp_path / "model.gguf"
    for found, sentence in (
        (tensors | {"blk.0.attn_q.bias": bias}, r"first at layers\.0\.attention\.key\.bias"),
        (tensors | {"blk.0.attn_kv.weight": bias}, r"hold blk\.0\.attn_kv\.weight, which"),
        (tensors | {"blk.7.attn_norm.weight": bias}, r"first at layers\.7\.attention_norm"),
        (tensors | {"blk.00.attn_norm.weight": bias}, r"first at layers\.00\.attention_norm"),
        (tensors | {"blk.0.attn_q_norm.weight": bias}, r"first at layers\.0\.attention\.query_norm"),
        (without(tensors, "token_embd.weight"), r"has no tensor token_embd\.weight"),
        (without(tensors, "blk.1.ffn_up.weight"), r"first at layers\.1\.feed_forward\.up"),
        ({}, r"has no tensor token_embd\.weight"),
    ):
        path.write_bytes(gguf_bytes(metadata, found))
        with pytest.raises(UserError, match=sentence):
            read_gguf(path)


def without(entries: dict[str, Any], name: str) -> dict[str, Any]:
    return {other: entry for other, entry in entries.items() if other != name}


# ------------------------------------------------------------------------------------------------ damaged files


def header(tensors: int, keys: int, version: int = 3) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, tensors, keys)


ARCHITECTURE = text("general.architecture") + value("llama")
HUGE = 2**64 - 1


def one_tensor(
    *, name: str | bytes = "a", dims: tuple[int, ...] = (8,), count: int | None = None, form: int = F32, at: int = 0
) -> bytes:
    shape = struct.pack("<I", len(dims) if count is None else count) + struct.pack(f"<{len(dims)}Q", *dims)
    return text(name) + shape + struct.pack("<IQ", form, at)


def with_tensors(*tensors: bytes, alignment: bytes = b"", numbers: int = 64) -> bytes:
    file = header(len(tensors), 1 + bool(alignment)) + ARCHITECTURE + alignment + b"".join(tensors)
    return file + bytes(-len(file) % 32 + numbers)


def with_value(raw: bytes) -> bytes:
    return header(0, 1) + text("a.b") + raw


EARLY, MORE, KIND = "ends too early", "announces more than it holds", "of an unknown kind"
LIES = {
    "nothing": (b"", "is not a GGUF file"),
    "another file": (b"PK\x03\x04" + bytes(64), "is not a GGUF file"),
    "only its magic": (b"GGUF", EARLY),
    "no counts": (b"GGUF" + struct.pack("<I", 3), EARLY),
    "version 1": (header(0, 0, version=1), "of version 1"),
    "version 4": (header(0, 0, version=4), "of version 4"),
    "big-endian": (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "little-endian"),
    "nothing inside": (header(0, 0), r"nothing usable for general\.architecture"),
    "many tensors": (header(HUGE, 0), MORE),
    "many keys": (header(0, HUGE), MORE),
    "many keys in a long file": (header(0, 70_000) + bytes(70_000 * 13), MORE),
    "many tensors in a long file": (header(70_000, 0) + bytes(70_000 * 32), MORE),
    "a long key": (header(0, 1) + struct.pack("<Q", HUGE) + bytes(64), EARLY),
    "a key as long as what is left and one": (header(0, 1) + struct.pack("<Q", 9) + bytes(8), EARLY),
    "a key that is not UTF-8": (header(0, 1) + text(b"\xff\xfe\xff") + value(1), "not UTF-8"),
    "a key of many characters": (header(0, 1) + text("a" * 300) + value(1), "cannot be shown"),
    "a key that writes to the terminal": (header(0, 1) + text("\x1b[2Ja") + value(1), "cannot be shown"),
    "a key twice": (header(0, 2) + (text("a.b") + value(1)) * 2, r"a\.b stands in it twice"),
    "a text that is not UTF-8": (with_value(struct.pack("<I", 8) + text(b"\xc3")), "not UTF-8"),
    "a surrogate": (with_value(struct.pack("<I", 8) + text(b"\xed\xa0\x80")), "not UTF-8"),
    "a long text": (with_value(struct.pack("<IQ", 8, HUGE) + bytes(16)), EARLY),
    "a kind that is none": (with_value(struct.pack("<I", 13) + bytes(16)), KIND),
    "a truth of 2": (with_value(struct.pack("<IB", 7, 2)), KIND),
    "a half number": (with_value(struct.pack("<I", 10) + bytes(7)), EARLY),
    "a long array": (with_value(struct.pack("<IIQ", 9, 4, HUGE) + bytes(64)), MORE),
    "an array whose size overflows": (with_value(struct.pack("<IIQ", 9, 12, 2**61 + 1) + bytes(64)), MORE),
    "an array one too long": (with_value(struct.pack("<IIQ", 9, 4, 17) + bytes(64)), MORE),
    "a long array of texts": (with_value(struct.pack("<IIQ", 9, 8, HUGE) + bytes(64)), MORE),
    "texts that are too many": (with_value(struct.pack("<IIQ", 9, 8, 9) + bytes(64)), MORE),
    "more elements than are read": (with_value(struct.pack("<IIQ", 9, 0, 5_000_000) + bytes(5_000_000)), MORE),
    "an array of arrays": (with_value(struct.pack("<IIQ", 9, 9, 1) * 20), KIND),
    "an array of nothing known": (with_value(struct.pack("<IIQ", 9, 99, 1) + bytes(64)), KIND),
    "an array of bad truths": (with_value(struct.pack("<IIQ3B", 9, 7, 3, 0, 1, 2)), KIND),
    "a tensor with a size of 0": (with_tensors(one_tensor(dims=(8, 0))), "a has no usable shape"),
    "a tensor of no dimensions": (with_tensors(one_tensor(dims=())), "a has no usable shape"),
    "a tensor of five dimensions": (with_tensors(one_tensor(dims=(1,) * 5)), "a has no usable shape"),
    "dimensions without end": (with_tensors(one_tensor(dims=(1,) * 8, count=2**32 - 1)), "a has no usable shape"),
    "rows of half a block": (with_tensors(one_tensor(dims=(33,), form=Q8_0)), "a has no usable shape"),
    "a product that overflows to 0": (with_tensors(one_tensor(dims=(2**32, 2**32))), "a reaches beyond its end"),
    "a product that overflows to 8": (with_tensors(one_tensor(dims=(2**61 + 1, 8))), "a reaches beyond its end"),
    "a tensor too long": (with_tensors(one_tensor(dims=(17,))), "a reaches beyond its end"),
    "a tensor that begins outside": (with_tensors(one_tensor(at=64)), "a reaches beyond its end"),
    "an offset that wraps": (with_tensors(one_tensor(at=2**64 - 32)), "a reaches beyond its end"),
    "an offset of its own": (with_tensors(one_tensor(at=4)), "a does not begin at a multiple of 32"),
    "tensors on each other": (with_tensors(one_tensor(name="b"), one_tensor(dims=(4,))), "b lies on another tensor"),
    "a part shared": (with_tensors(one_tensor(dims=(9,)), one_tensor(name="b", at=32)), "b lies on another tensor"),
    "a tensor twice": (with_tensors(one_tensor(), one_tensor(at=32)), "a stands in it twice"),
    "a name that is not UTF-8": (with_tensors(one_tensor(name=b"\xff")), "not UTF-8"),
    "a format that is not read": (with_tensors(one_tensor(form=23)), "stores a in the format IQ4_XS; Bimo reads F32"),
    "a format that is none": (with_tensors(one_tensor(form=77)), "stores a in the format 77"),
    "no alignment": (
        with_tensors(one_tensor(), alignment=text("general.alignment") + value(0)),
        "its alignment is no power",
    ),
    "an odd alignment": (
        with_tensors(one_tensor(), alignment=text("general.alignment") + value(24)),
        "its alignment is no power",
    ),
    "an alignment that is a text": (
        with_tensors(one_tensor(), alignment=text("general.alignment") + value("32")),
        "its alignment is no power",
    ),
    "an alignment beyond everything": (
        with_tensors(one_tensor(), alignment=text("general.alignment") + struct.pack("<IQ", 10, 2**63)),
        "a reaches beyond its end",
    ),
    "a tensor of another model": (with_tensors(one_tensor()), "The weights hold a, which"),
}


@pytest.mark.parametrize("lie", LIES)
def test_files_that_lie_are_refused(lie: str, tmp_path: Path) -> None:
    raw, sentence = LIES[lie]
    path = tmp_path / "model.gguf"
    path.write_bytes(raw)
    tracemalloc.start()
    try:
        with pytest.raises(UserError, match=sentence) as refusal:
            read_gguf(path)
        assert tracemalloc.get_traced_memory()[1] < 4_000_000
    finally:
        tracemalloc.stop()
    assert len(str(refusal.value)) < len(str(path)) + 400
    with pytest.raises(UserError, match=sentence):
        read_gguf(path).decoder()


def test_elements_are_counted_over_all_arrays(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    array = struct.pack("<IIQ", 9, 0, 2_500_000) + bytes(2_500_000)
    path.write_bytes(header(0, 2) + text("a.a") + array + text("a.b") + array)
    with pytest.raises(UserError, match=MORE):
        read_gguf(path)


def test_a_long_file_is_not_read_into_memory(tmp_path: Path) -> None:
    """A text may not be longer than descriptions are, though the file would hold it."""
    path = tmp_path / "model.gguf"
    with path.open("wb") as file:
        file.write(with_value(struct.pack("<IQ", 8, 65 << 20)))
        file.truncate(66 << 20)  # takes no room on most disks
    with pytest.raises(UserError, match=EARLY):
        read_gguf(path)


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none.gguf"):
        with pytest.raises(UserError, match="cannot be used: there is no such file"):
            read_gguf(path)


@pytest.fixture(scope="module")
def small_file(make_model: Callable[..., Decoder], tiny_tokenizer: Tokenizer) -> bytes:
    """A whole valid file; all texts of its tokenizer but a few are gone, so that changes meet the rest too."""
    model = make_model(**SHAPE | {"layers": 1}, qk_norm=False)
    vocabulary = tokenizer_metadata(tiny_tokenizer)
    few = vocabulary["tokenizer.ggml.tokens"][:270]
    merges = [merge for merge in vocabulary["tokenizer.ggml.merges"] if merge.replace(" ", "") in few]
    vocabulary |= {
        "tokenizer.ggml.tokens": few,
        "tokenizer.ggml.token_type": vocabulary["tokenizer.ggml.token_type"][:270],
        "tokenizer.ggml.merges": merges,
    }
    return gguf_bytes(model_metadata(model, "llama") | vocabulary, model_tensors(model, "llama", Q8_0))


def test_a_file_is_the_same_model_for_whoever_opens_it(
    make_model: Callable[..., Decoder], tiny_tokenizer: Tokenizer, tmp_path: Path
) -> None:
    model = make_model(**SHAPE | {"vocabulary": tiny_tokenizer.vocabulary}, qk_norm=False)
    metadata = model_metadata(model, "llama") | tokenizer_metadata(tiny_tokenizer)
    path = tmp_path / "a.gguf"
    path.write_bytes(gguf_bytes(metadata | {"tokenizer.ggml.eot_token_id": 70_000}, model_tensors(model, "llama")))
    assert source_of_gguf(path).ends == open_model(path).ends == {tiny_tokenizer.end}
    few = make_model(**SHAPE | {"vocabulary": tiny_tokenizer.vocabulary - 1}, qk_norm=False)
    path.write_bytes(gguf_bytes(metadata, model_tensors(few, "llama")))
    for opened in (source_of_gguf, open_model):
        with pytest.raises(UserError, match="they do not fit"):
            opened(path)


def require_sound(path: Path) -> bool:
    """Read a file: a UserError, or a model whose every number is there. True for a model."""
    try:
        model = read_gguf(path)
    except UserError:
        return False
    assert sum(matrix.rows * matrix.columns for matrix in model.weights.values()) == model.config.parameters
    for matrix in model.weights.values():
        assert matrix.dequantised().shape == (matrix.rows, matrix.columns)
    with contextlib.suppress(UserError):
        gguf_tokenizer(model.metadata).encode("1 + 1 = 2")
    return True


def test_the_small_file_is_sound(small_file: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(small_file)
    assert require_sound(path)
    assert gguf_tokenizer(read_gguf(path).metadata).vocabulary == 270


WORDS = [0, 1, 2, 3, 4, 7, 8, 9, 12, 13, 31, 33, 255, 2**16, 2**31, 2**32 - 1]
LONG_WORDS = [*WORDS, 2**32, 2**61, 2**63 - 1, 2**63, 2**64 - 32, 2**64 - 1]
PATCHES = st.one_of(
    st.binary(min_size=1, max_size=9),
    st.sampled_from(WORDS).map(lambda number: struct.pack("<I", number)),
    st.sampled_from(LONG_WORDS).map(lambda number: struct.pack("<Q", number)),
)


@pytest.fixture(scope="module")
def fields(small_file: bytes) -> list[int]:
    """Where counts, keys, kinds and the descriptions of tensors stand: the beginnings of everything that has a name."""
    names = [b"general.", b"llama.", b"tokenizer.ggml.", b"token_embd", b"output_norm", b"blk.0."]
    found = [4, 8, 16]
    for name in names:
        place = small_file.find(name)
        while place >= 0:
            found += [place - 8, place, *range(place + 10, place + 60, 2)]
            place = small_file.find(name, place + 1)
    return found


@settings(max_examples=400)
@given(data=st.data())
def test_changed_files_are_refused_or_sound(
    data: st.DataObject, small_file: bytes, fields: list[int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    changed = bytearray(small_file)
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.one_of(st.sampled_from(fields), st.integers(0, len(small_file) - 1)))
        change(changed, place, PATCHES, data)
    path = tmp_path_factory.getbasetemp() / "changed.gguf"
    path.unlink(missing_ok=True)  # the old one may still be mapped
    path.write_bytes(changed)
    tracemalloc.start()
    try:
        require_sound(path)
        assert tracemalloc.get_traced_memory()[1] < 8_000_000
    finally:
        tracemalloc.stop()


# ------------------------------------------------------------------------------------------------ tokenizers


def test_the_tokenizer_comes_back(tiny_tokenizer: Tokenizer, tiny_texts: list[str]) -> None:
    found = gguf_tokenizer(tokenizer_metadata(tiny_tokenizer))
    assert (found.vocabulary, found.end) == (tiny_tokenizer.vocabulary, tiny_tokenizer.end)
    for line in [*tiny_texts, " \n\n x", f"a{END_OF_TEXT}b"]:
        assert found.encode(line) == tiny_tokenizer.encode(line)
        assert found.decode(found.encode(line)) == line
    assert found.decode([found.end]) == ""


LINE = "I'LL say: 12345½ + x\n\n\ty ==..  好的！ 's"
CUT = {
    "gpt-2": "I|'|LL| say|:| 12345½| +| x|\n\n|\t|y| ==..| | 好的|！| '|s",
    "smollm": "I|'|LL| say|:| |1|2|3|4|5|½| +| x|\n\n|\t|y| ==..| | 好的|！| '|s",
    "qwen2": "I|'LL| say|:| |1|2|3|4|5|½| +| x|\n\n|\ty| ==..| | 好的|！| '|s",
    "llama-bpe": "I|'LL| say|:| |123|45½| +| x|\n\n|\ty| ==..| | 好的|！| '|s",
    "default": "I|'|LL| say|:| |123|45½| |+| x|\n\n|\t|y| |==..| | 好的|！| |'|s",
}
"""As llama.cpp's expressions cut it, one after the other."""


@pytest.mark.parametrize("pre", CUTTINGS)
def test_text_is_cut_as_the_pre_tokenizer_says(pre: str, tiny_tokenizer: Tokenizer) -> None:
    found = gguf_tokenizer(tokenizer_metadata(tiny_tokenizer, pre))
    pieces = found.inner.pre_tokenizer.pre_tokenize_str(LINE)
    assert "|".join(LINE[start:end] for _, (start, end) in pieces) == CUT[pre]
    assert found.encode_batch([LINE, LINE]) == [found.encode(LINE)] * 2


def small_vocabulary(*, types: dict[str, int] | None = None, **changes: Any) -> dict[str, Any]:
    """Tokens a, b, c, ab, abc, the end, <x> and <y>."""
    tokens = ["a", "b", "c", "ab", "abc", END_OF_TEXT, "<x>", "<y>"]
    kinds = {END_OF_TEXT: 3, "<x>": 3, "<y>": 4} | (types or {})
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [kinds.get(token, 1) for token in tokens],
        "tokenizer.ggml.merges": ["a b"],
    } | {f"tokenizer.ggml.{key}": entry for key, entry in changes.items()}


def test_control_tokens_are_nowhere_in_a_text_and_user_defined_ones_everywhere() -> None:
    found = gguf_tokenizer(small_vocabulary())
    assert found.encode("ab<y>c") == [3, 7, 2]
    assert found.encode("<x>ab") == [3]  # < and > have no token here
    assert found.decode([0, 5, 6, 7, 3]) == "a<y>ab"
    # The end is a control token whatever its type says.
    plain = gguf_tokenizer(small_vocabulary(types={END_OF_TEXT: 1}))
    assert plain.decode([0, 5, 0]) == "aa"
    assert plain.encode(f"a{END_OF_TEXT}") == plain.encode("aendoftext") == [0]


def test_only_llama_takes_whole_words_past_the_merges() -> None:
    assert gguf_tokenizer(small_vocabulary(pre="llama-bpe")).encode("abc") == [4]
    assert gguf_tokenizer(small_vocabulary(pre="qwen2")).encode("abc") == [3, 2]


@pytest.mark.parametrize(("name", "like"), ALIKE.items())
def test_other_names_cut_as_llama_cpp_has_it(name: str, like: str, tiny_tokenizer: Tokenizer) -> None:
    other, same = (gguf_tokenizer(tokenizer_metadata(tiny_tokenizer, pre)) for pre in (name, like))
    assert json.loads(other.inner.to_str()) == json.loads(same.inner.to_str())
    assert other.begin == same.begin


def test_files_without_types_or_name_have_ordinary_tokens_and_the_old_cutting() -> None:
    vocabulary = small_vocabulary()
    del vocabulary["tokenizer.ggml.token_type"], vocabulary["tokenizer.ggml.pre"]
    found = gguf_tokenizer(vocabulary)
    assert found.encode("abc<y>") == [3, 2]
    assert found.decode([5, 6]) == "<x>"


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"model": "t5"}, "of type 't5' with the pre-tokenizer 'gpt-2'; Bimo reads type 'llama', and 'gpt2' with"),
        ({"model": "llama"}, r"tokenizer\.ggml\.scores does not fit the tokens"),
        ({"model": "llama", "scores": [float("nan")] * 8}, r"tokenizer\.ggml\.scores does not fit the tokens"),
        ({"model": "llama", "scores": [0.0]}, r"tokenizer\.ggml\.scores does not fit the tokens"),
        (
            {"model": "llama", "tokens": [f"{n:01024}" for n in range(5000)], "scores": [0.0] * 5000}
            | {"token_type": [1] * 5000},
            "more characters than 4,194,304",
        ),
        ({"model": None}, "of type None with"),
        ({"pre": "tekken"}, "with the pre-tokenizer 'tekken'; .* one of: gpt-2, smollm, qwen2, llama-bpe, default"),
        ({"pre": ["gpt-2"]}, "with the pre-tokenizer"),
        ({"model": "x" * 10_000}, "of type 'x{39} with"),
        ({"tokens": None}, r"cannot be used: tokenizer\.ggml\.tokens is missing"),
        ({"tokens": [1, 2]}, r"cannot be used: tokenizer\.ggml\.tokens is missing"),
        ({"merges": None}, r"cannot be used: tokenizer\.ggml\.merges is missing"),
        ({"tokens": ["a", "b", "a"]}, "a token stands in it twice"),
        ({"token_type": [1]}, r"tokenizer\.ggml\.token_type does not fit the tokens"),
        ({"token_type": "ones"}, r"tokenizer\.ggml\.token_type does not fit the tokens"),
        ({"merges": ["a z"]}, "a merge in it is not of two of its tokens"),
        ({"merges": ["ab"]}, "a merge in it is not of two of its tokens"),
        ({"merges": ["a b c"]}, "a merge in it is not of two of its tokens"),
        ({"merges": ["b c"]}, "a merge in it is not of two of its tokens"),
        ({"tokens": [f"<{n}>" for n in range(20_000)], "token_type": [3] * 20_000, "merges": []}, "adds more tokens"),
        ({"tokens": ["a" * 2000], "token_type": [4], "merges": []}, "longer than 1024 characters"),
        ({"tokens": ["a" * 2000], "token_type": [1], "merges": []}, "longer than 1024 characters"),
        ({"tokens": ["a", "b", "ab"], "token_type": [1, 1, 1]}, r"has no <\|endoftext\|> token"),
    ],
)
def test_other_tokenizers_are_refused(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence) as refusal:
        gguf_tokenizer(small_vocabulary(**changes))
    assert len(str(refusal.value)) < 300
