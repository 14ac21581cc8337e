"""Encoder-decoders both ways: Marian folders of transformers compute the same here, ours the same there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import reversing
import tokenizers
import torch
from reversing import half_learned
from safetensors.torch import load_file, save_file

from bimo.generate.beam import Beams, padded, search
from bimo.models.layers import sinusoids
from bimo.models.seq2seq import EncoderDecoder
from bimo.runtime import UserError
from bimo.tokens.tokenizer import Tokenizer
from bimo.weights.ctranslate import beam_outputs, write_ctranslate2
from bimo.weights.huggingface import load_model, load_translator, save_translator

transformers = pytest.importorskip("transformers")

TOLERANCE = {"atol": 1e-4, "rtol": 1e-4}
PAD, END = 130, 0
SHAPE = {
    "vocab_size": 131,
    "d_model": 48,
    "encoder_layers": 3,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 80,
    "decoder_ffn_dim": 80,
    "max_position_embeddings": 80,
    "activation_function": "swish",
    "scale_embedding": True,
    "pad_token_id": PAD,
    "decoder_start_token_id": PAD,
    "eos_token_id": END,
    "forced_eos_token_id": None,
}


def their_model(**changes: Any) -> Any:
    """A MarianMTModel of transformers whose every weight is random, norms and biases too."""
    model = transformers.MarianMTModel(transformers.MarianConfig(**{**SHAPE, **changes}))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "embed_positions" not in name:
                noise = torch.randn(weight.shape, generator=generator)
                weight.copy_(noise * 0.2 + (weight.ndim < 2 and not name.endswith("bias")))
        model.final_logits_bias.copy_(0.3 * torch.randn(model.final_logits_bias.shape, generator=generator))
    return model.eval()


def sentences(count: int, *, longest: int = 20, seed: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    """Sources of mixed length, padded, and where they are no padding."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(2, longest + 1, (count, 1), generator=generator)
    real = torch.arange(longest) < lengths
    ids = torch.randint(1, PAD, (count, longest), generator=generator)
    ids[torch.arange(longest) == lengths - 1] = END
    return ids.masked_fill(~real, PAD), real


def their_greedy_tokens(model: Any, source: torch.Tensor, real: torch.Tensor) -> list[list[int]]:
    model.generation_config = transformers.GenerationConfig(
        do_sample=False, num_beams=1, pad_token_id=PAD, decoder_start_token_id=PAD, eos_token_id=END
    )
    found = model.generate(input_ids=source, attention_mask=real, max_new_tokens=64)[:, 1:].tolist()
    return [row[: row.index(END) + 1] if END in row else row for row in found]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"activation_function": "relu", "scale_embedding": False},
        {"activation_function": "gelu", "encoder_layers": 1, "decoder_layers": 3},
    ],
)
def test_marian_goes_both_ways(changes: dict[str, Any], tmp_path: Path) -> None:
    theirs = their_model(**changes)
    theirs.save_pretrained(tmp_path)
    ours = load_translator(tmp_path)
    places = 2 * 80 * 48
    assert ours.config.parameters == sum(w.numel() for w in theirs.parameters()) - places + PAD + 1
    source, real = sentences(20)
    target = torch.cat([torch.full((20, 1), PAD), sentences(20, seed=2)[0]], dim=1)
    with torch.no_grad():
        logits = theirs(input_ids=source, attention_mask=real, decoder_input_ids=target).logits
        assert logits.std() > 0.3
        torch.testing.assert_close(ours(source, real, target), logits, **TOLERANCE)
    texts = [row[mask].tolist() for row, mask in zip(source, real, strict=True)]
    greedy = [found[0].ids for found in search(ours, texts, end=END, beams=Beams(1, max_tokens=64))]
    assert greedy == their_greedy_tokens(theirs, source, real)
    assert sum(map(len, greedy)) > 64
    back = tmp_path / "back"
    save_translator(back, ours, end=END)
    again = transformers.AutoModelForSeq2SeqLM.from_pretrained(back)
    assert type(again) is type(theirs)
    with torch.no_grad():
        torch.testing.assert_close(
            again(input_ids=source, attention_mask=real, decoder_input_ids=target).logits, logits, **TOLERANCE
        )
    assert their_greedy_tokens(again, source, real) == greedy
    assert load_translator(back).config == ours.config
    assert load_file(back / "model.safetensors").keys() == load_file(tmp_path / "model.safetensors").keys()


def test_folders_of_older_versions_are_read(tmp_path: Path) -> None:
    """They hold the embedding under every name, and the positions beside it."""
    theirs = their_model()
    theirs.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    places = sinusoids(80, 48)
    shared = weights.pop("model.shared.weight")
    copies = ("lm_head.weight", "model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight")
    weights |= {name: shared.clone() for name in copies}
    weights |= {f"model.{half}.embed_positions.weight": places.clone() for half in ("encoder", "decoder")}
    save_file(weights, tmp_path / "model.safetensors")
    source, real = sentences(3)
    with torch.no_grad():
        ours = load_translator(tmp_path)(source, real, source)
        torch.testing.assert_close(
            ours, theirs(input_ids=source, attention_mask=real, decoder_input_ids=source).logits, **TOLERANCE
        )
    for name in copies:
        save_file({**weights, name: shared + 1}, tmp_path / "model.safetensors")
        with pytest.raises(UserError, match="with other numbers than"):
            load_translator(tmp_path)
    weights["model.encoder.embed_positions.weight"][3] += 1
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match="embed_positions"):
        load_translator(tmp_path)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"decoder_attention_heads": 2}, "decoder_attention_heads"),
        ({"encoder_ffn_dim": 64}, "decoder_ffn_dim"),
        ({"decoder_vocab_size": 99}, "decoder_vocab_size"),
        ({"share_encoder_decoder_embeddings": False}, "share_encoder_decoder_embeddings"),
        ({"activation_function": "tanh"}, "activation_function"),
        ({"pad_token_id": 5}, "pad_token_id"),
        ({"decoder_start_token_id": 5}, "decoder_start_token_id"),
        ({"normalize_before": True}, "normalize_before"),
        ({"d_model": 49}, "multiple of its heads"),
        ({"d_model": None}, "not complete"),
        ({"encoder_layers": 0}, "at least 1"),
        ({"encoder_layers": 10**12}, "is too large"),
        ({"max_position_embeddings": 10**12}, "is too large"),
        ({"vocab_size": 10**12, "pad_token_id": 10**12 - 1, "decoder_start_token_id": 10**12 - 1}, "is too large"),
    ],
)
def test_what_we_do_not_compute_is_refused_by_name(changes: dict[str, Any], named: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({**SHAPE, "model_type": "marian", **changes}), encoding="utf-8")
    save_file({"model.shared.weight": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=named):
        load_translator(tmp_path)


def test_a_command_for_other_models_says_what_this_one_is_for(tmp_path: Path) -> None:
    their_model().save_pretrained(tmp_path)
    with pytest.raises(UserError, match="bimo translate"):
        load_model(tmp_path)


@pytest.fixture(scope="module")
def learned(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, EncoderDecoder]:
    """A folder with a model that is unsure of what it half learned, and the model."""
    folder = tmp_path_factory.mktemp("learned")
    save_translator(folder, half_learned(), end=reversing.END)
    return folder, half_learned()


def their_targets(folder: Path, texts: list[list[int]], **settings: Any) -> list[list[list[int]]]:
    """What transformers finds: for each source all its beams, without what stands in front and behind."""
    theirs = transformers.AutoModelForSeq2SeqLM.from_pretrained(folder)
    source, real = padded(texts, reversing.PAD)
    width = settings.get("num_beams", 4)
    settings = {"num_return_sequences": width, "max_length": None, "max_new_tokens": 20, **settings}
    found = theirs.generate(input_ids=source, attention_mask=real, **settings)[:, 1:].tolist()
    rows = [row[: row.index(reversing.END) + 1] if reversing.END in row else row for row in found]
    return [rows[i : i + width] for i in range(0, len(rows), width)]


@pytest.mark.parametrize(
    ("settings", "beams"),
    [
        ({}, Beams(max_tokens=20)),
        ({"early_stopping": False}, Beams(max_tokens=20, early=False)),
        ({"num_beams": 1}, Beams(1, max_tokens=20)),
        ({"num_beams": 3, "length_penalty": 0.0, "early_stopping": False}, Beams(3, 0.0, max_tokens=20, early=False)),
        ({"num_beams": 5, "length_penalty": 2.0, "early_stopping": False}, Beams(5, 2.0, max_tokens=20, early=False)),
        ({"num_beams": 2, "length_penalty": -1.0}, Beams(2, -1.0, max_tokens=20)),
        ({"num_beams": 7, "max_new_tokens": 3}, Beams(7, max_tokens=3)),
    ],
)
def test_all_beams_are_those_of_transformers(
    settings: dict[str, Any], beams: Beams, learned: tuple[Path, EncoderDecoder]
) -> None:
    folder, ours = learned
    texts = reversing.sources(40, seed=999)
    found = [[beam.ids for beam in each] for each in search(ours, texts, end=reversing.END, beams=beams)]
    assert found == their_targets(folder, texts, **settings)
    assert len({len(beams[0]) for beams in found}) > 1


@pytest.mark.parametrize(
    "beams",
    [Beams(max_tokens=20), Beams(1, max_tokens=20), Beams(3, 0.6, max_tokens=20), Beams(6, max_tokens=4)],
)
def test_all_beams_are_those_of_ctranslate2(
    beams: Beams, learned: tuple[Path, EncoderDecoder], tokenized: Path, tmp_path: Path
) -> None:
    pytest.importorskip("ctranslate2")
    write_ctranslate2(tmp_path / "written", tokenized)
    texts = reversing.sources(50, seed=998)
    theirs = beam_outputs(
        tmp_path / "written",
        texts,
        width=beams.width,
        length_penalty=beams.length_penalty,
        max_tokens=beams.max_tokens,
    )
    found = search(learned[1], texts, end=reversing.END, beams=beams)
    assert [[beam.ids for beam in each] for each in found] == theirs


@pytest.fixture(scope="module")
def tokenized(learned: tuple[Path, EncoderDecoder]) -> Path:
    """The folder with a tokenizer of as many tokens."""
    inner = tokenizers.Tokenizer(tokenizers.models.WordLevel({f"w{n}": n for n in range(reversing.PAD)}, "w1"))
    inner.add_special_tokens(["<pad>"])
    Tokenizer(inner, {"eos_token": f"w{reversing.END}", "pad_token": "<pad>"}).save(learned[0])
    return learned[0]


def test_the_engines_own_converter_takes_our_folders(
    learned: tuple[Path, EncoderDecoder], tokenized: Path, tmp_path: Path
) -> None:
    """It leaves out the padding and lets a target begin with zeros, which is right only if ours is zero."""
    ctranslate2 = pytest.importorskip("ctranslate2")
    settings = json.loads((tokenized / "tokenizer_config.json").read_text(encoding="utf-8"))
    (tokenized / "tokenizer_config.json").write_text(json.dumps({**settings, "unk_token": "w1"}), encoding="utf-8")
    ctranslate2.converters.TransformersConverter(str(tokenized)).convert(str(tmp_path / "theirs"))
    texts = reversing.sources(50, seed=997)
    found = search(learned[1], texts, end=reversing.END, beams=Beams(max_tokens=20))
    assert beam_outputs(tmp_path / "theirs", texts, max_tokens=20) == [[beam.ids for beam in each] for each in found]
