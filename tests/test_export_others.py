"""Encoders as ONNX and encoder-decoders for CTranslate2: kept when they are the same there, else not."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from bimo.export.verb import OTHER_TARGETS, export, export_lines
from bimo.models.encoder import Encoder, EncoderConfig
from bimo.models.heads import Head
from bimo.models.seq2seq import EncoderDecoder, Seq2SeqConfig
from bimo.runtime import USAGE, UserError
from bimo.tokens.masking import with_mask_token
from bimo.tokens.tokenizer import Tokenizer, with_padding
from bimo.weights.huggingface import load_encoder, load_translator, save_encoder, save_translator

pytest.importorskip("ctranslate2")
pytest.importorskip("onnxruntime")

verb = sys.modules["bimo.export.verb"]
HEADS = {
    "none": Head("none", pooler=True),
    "words": Head("words"),
    "classes": Head("classes", labels=("a", "b"), pooler=True),
    "tokens": Head("tokens", labels=("a", "b")),
    "span": Head("span"),
}


def randomised(model: Any) -> Any:
    """The model with every weight random, none silent."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            noise = torch.randn(weight.shape, generator=generator)
            weight.copy_(noise * 0.3 if weight.ndim == 2 or name.endswith("bias") else 1 + 0.2 * noise)
    return model.eval()


def write_encoder_folder(folder: Path, tokenizer: Tokenizer, head: Head) -> Path:
    tokenizer = with_mask_token(tokenizer)
    sizes = {"vocabulary": tokenizer.vocabulary, "layers": 2, "width": 24, "heads": 3, "hidden": 40, "context": 32}
    save_encoder(folder, randomised(Encoder(EncoderConfig(**sizes, head=head))), pad=tokenizer.special_id("pad_token"))
    tokenizer.save(folder, context=32)
    return folder


@pytest.fixture
def translator(tmp_path: Path, tiny_tokenizer: Tokenizer) -> Path:
    tokenizer = with_padding(tiny_tokenizer)
    shape = Seq2SeqConfig(tokenizer.vocabulary, 1, 2, 24, 3, 40, context=64)
    model = EncoderDecoder(shape).initialise(0)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "layers." in name and weight.ndim == 2:
                weight.copy_(torch.randn(weight.shape, generator=generator) * 0.3)
    save_translator(tmp_path / "translator", model, end=tokenizer.end)
    tokenizer.save(tmp_path / "translator", context=64)
    return tmp_path / "translator"


@pytest.mark.parametrize("kind", list(HEADS))
def test_an_encoder_becomes_onnx_with_its_head(kind: str, tmp_path: Path, tiny_tokenizer: Tokenizer) -> None:
    folder = write_encoder_folder(tmp_path / "encoder", tiny_tokenizer, HEADS[kind])
    facts = export(folder, to="onnx", out=tmp_path / "encoder.onnx")
    assert facts["comparison"]["largest_difference"] < 1e-4
    assert export_lines(facts)[1] == "opened again with onnxruntime"
    assert (tmp_path / "encoder.onnx.export.json").is_file()


def test_a_translator_becomes_ctranslate2s(translator: Path, tmp_path: Path) -> None:
    facts = export(translator, to="ctranslate2", out=tmp_path / "out")
    found = facts["comparison"]
    assert found["equal_translations"] == found["prompts"] == 8
    assert (tmp_path / "out" / "model.bin").is_file()
    data = tmp_path / "data"
    (data / "pairs").mkdir(parents=True)
    (data / "pairs" / "validation.tsv").write_text("the red dog\t红狗\na cat\t猫\n", encoding="utf-8")
    assert export(translator, to="ctranslate2", out=tmp_path / "out", data=data)["comparison"]["prompts"] == 2


def test_what_was_altered_is_caught(translator: Path, tmp_path: Path, tiny_tokenizer: Tokenizer) -> None:
    """What stands at --out came from the model as it was; then one of its weights changes."""
    encoder = write_encoder_folder(tmp_path / "encoder", tiny_tokenizer, HEADS["words"])
    for folder, to in ((encoder, "onnx"), (translator, "ctranslate2")):
        out = tmp_path / f"out-{to}"
        export(folder, to=to, out=out)
        export(folder, to=to, out=out, check=True)
        model = load_encoder(folder) if to == "onnx" else load_translator(folder)
        with torch.no_grad():
            next(model.parameters())[:5] *= -2.0
        if to == "onnx":
            save_encoder(folder, model, pad=with_mask_token(tiny_tokenizer).special_id("pad_token"))
        else:
            save_translator(folder, model, end=tiny_tokenizer.end)
        with pytest.raises(UserError, match="is not"):
            export(folder, to=to, out=out, check=True)


@pytest.mark.parametrize("to", list(OTHER_TARGETS))
def test_nothing_half_written_stays(
    to: str, translator: Path, tmp_path: Path, tiny_tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = translator
    if to == "onnx":
        folder = write_encoder_folder(tmp_path / "encoder", tiny_tokenizer, HEADS["words"])
    target = OTHER_TARGETS[to]
    broken = verb.OtherTarget(target.family, target.folder, target.write, lambda *given: ({"engine": "x"}, ["wrong"]))
    monkeypatch.setitem(OTHER_TARGETS, to, broken)
    with pytest.raises(UserError, match="It is not kept"):
        export(folder, to=to, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()
    shutil.rmtree(folder)


def test_families_and_engines_that_do_not_go_together_are_refused(
    translator: Path, tmp_path: Path, tiny_tokenizer: Tokenizer
) -> None:
    encoder = write_encoder_folder(tmp_path / "encoder", tiny_tokenizer, HEADS["words"])
    for folder, to, known in (
        (translator, "onnx", "ctranslate2"),
        (translator, "gguf", "ctranslate2"),
        (encoder, "hf", "onnx"),
    ):
        with pytest.raises(UserError, match=f"What it can become: {known}") as caught:
            export(folder, to=to, out=tmp_path / "out")
        assert caught.value.code == USAGE
    with pytest.raises(UserError, match="the weights can be f32, but not int8"):
        export(encoder, to="onnx", out=tmp_path / "out", weights="int8")
