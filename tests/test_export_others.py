"""Encoders as ONNX and encoder-decoders for CTranslate2: kept when they are the same there, else not."""

from __future__ import annotations

import dataclasses
import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from bimo.console import Console
from bimo.doctor.abilities import EXPORTS
from bimo.doctor.lines import model_lines
from bimo.doctor.model import examine_model
from bimo.export.lines import export_lines
from bimo.export.targets import OTHER_TARGETS, require_target, targets_of
from bimo.export.verb import export
from bimo.models.encoder import Encoder, EncoderConfig
from bimo.models.families import FAMILIES
from bimo.models.heads import Head
from bimo.models.seq2seq import EncoderDecoder, Seq2SeqConfig
from bimo.runtime import USAGE, UserError
from bimo.tasks.embed.embedder import open_embedder
from bimo.tokens.masking import with_mask_token
from bimo.tokens.tokenizer import Tokenizer, with_padding
from bimo.weights.huggingface import load_encoder, load_translator, save_encoder, save_translator
from bimo.weights.sentence_transformers import SentenceLayout, read_layout, write_layout

pytest.importorskip("ctranslate2")
pytest.importorskip("onnxruntime")
onnx = pytest.importorskip("onnx")

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


@pytest.fixture
def models(translator: Path, tmp_path: Path, tiny_tokenizer: Tokenizer) -> dict[str, Path]:
    """By family."""
    return {
        "encoder": write_encoder_folder(tmp_path / "words", tiny_tokenizer, HEADS["words"]),
        "seq2seq": translator,
    }


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
    assert found["largest_difference"] < 1e-4
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
        with pytest.raises(UserError, match="predictions differ by"):
            export(folder, to=to, out=out, check=True)


def alter_onnx(path: Path, name: str, by: float) -> None:
    """Add to one tensor of a file that was written."""
    graph = onnx.load(path)
    tensor = next(each for each in graph.graph.initializer if each.name == name)
    tensor.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor) + np.float32(by), name))
    onnx.save(graph, path)


def alter_ctranslate2(
    folder: Path, name: bytes = b"decoder/layer_0/ffn/linear_0/weight", row: int = 0, rows: int = 8
) -> None:
    """Turn rows of a matrix around, in the engine's own file."""
    stored = (folder / "model.bin").read_bytes()
    # Behind the name: a zero, the rank (1 byte), two sizes (4 each), the type (1), the bytes that follow (4).
    place = stored.index(name + b"\0") + len(name) + 15 + row * 24 * 4
    size = rows * 24 * 4
    numbers = np.frombuffer(stored[place : place + size], "<f4")
    assert 0.01 < numbers.std() < 1.0  # these are the weights
    (folder / "model.bin").write_bytes(stored[:place] + (-numbers).tobytes() + stored[place + size :])


def alter_names(folder: Path) -> None:
    names = json.loads((folder / "shared_vocabulary.json").read_text())
    names[5], names[300] = names[300], names[5]
    (folder / "shared_vocabulary.json").write_text(json.dumps(names))


def alter_folder(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    name = next(name for name in sorted(weights) if name.endswith("fc1.weight") or "query.weight" in name)
    weights[name][0] *= -3.0
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def alter_search(folder: Path) -> None:
    settings = json.loads((folder / "generation_config.json").read_text())
    (folder / "generation_config.json").write_text(json.dumps({**settings, "num_beams": 2}))


def alter_ids(folder: Path) -> None:
    """Two letters change their ids."""
    tokenizer = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    names = tokenizer["model"]["vocab"]
    names["e"], names["t"] = names["t"], names["e"]
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer), encoding="utf-8")


def alter_kinds(folder: Path) -> None:
    settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    del settings["model_input_names"]
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")


ALTERATIONS: dict[str, tuple[str, str, Callable[[Path], None], str]] = {
    "onnx, a weight": (
        "encoder",
        "onnx",
        lambda path: alter_onnx(path, "layers.1.attention.query.weight", 0.1),
        "diff",
    ),
    "onnx, no number": ("encoder", "onnx", lambda path: alter_onnx(path, "head.bias", math.nan), "differ by nan"),
    "ctranslate2, a weight": ("seq2seq", "ctranslate2", alter_ctranslate2, "predictions differ by"),
    "ctranslate2, names": ("seq2seq", "ctranslate2", alter_names, "the tokens are others"),
    "bert, a weight": ("encoder", "hf", alter_folder, "1 tensors hold other numbers, .*; predictions differ by"),
    "bert, kinds of tokens": ("encoder", "hf", alter_kinds, "a second text is told from the first in another way"),
    "bert, ids": ("encoder", "hf", alter_ids, "prompts get other ids"),
    "marian, a weight": ("seq2seq", "hf", alter_folder, "1 tensors hold other numbers, .*; predictions differ by"),
    "marian, ids": ("seq2seq", "hf", alter_ids, "prompts get other ids"),
    "marian, the search": ("seq2seq", "hf", alter_search, "the settings of the search are others"),
}


@pytest.mark.parametrize("what", list(ALTERATIONS))
def test_what_the_writer_got_wrong_is_not_kept_and_the_old_stays(
    what: str, models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    family, to, alter, sentence = ALTERATIONS[what]
    out = tmp_path / "out"
    export(models[family], to=to, out=out)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    target = OTHER_TARGETS[family, to]

    def write(path: Path, folder: Path) -> None:
        target.write(path, folder)
        alter(path)

    monkeypatch.setitem(OTHER_TARGETS, (family, to), dataclasses.replace(target, write=write))
    with pytest.raises(UserError, match=rf"(?s)is not what was trained: .*{sentence}.* It is not kept\."):
        export(models[family], to=to, out=out)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("kind", ["words", "classes"])
@pytest.mark.parametrize(
    ("tensor", "row"), [("segment_embedding", 1), ("embedding", 639), ("position_embedding", 31), ("embedding", 77)]
)
def test_what_no_text_shows_is_compared_too(
    tensor: str, row: int, kind: str, tmp_path: Path, tiny_tokenizer: Tokenizer
) -> None:
    """The second kind of tokens, ids that are in no text, the last place."""
    folder, out = write_encoder_folder(tmp_path / "encoder", tiny_tokenizer, HEADS[kind]), tmp_path / "out.onnx"
    export(folder, to="onnx", out=out)
    shape = load_encoder(folder).get_submodule(tensor).weight.shape
    change = np.zeros(shape, np.float32)
    change[row] = 1e-4
    alter_onnx(out, f"{tensor}.weight", change)
    with pytest.raises(UserError, match=f"1 tensors hold other numbers, first {tensor}.weight"):
        export(folder, to="onnx", out=out, check=True)


def test_the_second_kind_of_tokens_is_computed_with(tmp_path: Path, tiny_tokenizer: Tokenizer) -> None:
    """Whatever the tensors are: here nothing is made of the kinds that come in."""
    folder, out = write_encoder_folder(tmp_path / "encoder", tiny_tokenizer, HEADS["tokens"]), tmp_path / "out.onnx"
    export(folder, to="onnx", out=out)
    graph = onnx.load(out)
    kinds = next(node for node in graph.graph.node if "token_type_ids" in node.input)
    graph.graph.node.insert(0, onnx.helper.make_node("Sub", ["token_type_ids", "token_type_ids"], ["nothing"]))
    kinds.input[1] = "nothing"
    onnx.save(graph, out)
    with pytest.raises(UserError, match="F32: predictions differ by"):
        export(folder, to="onnx", out=out, check=True)


@pytest.mark.parametrize(
    ("name", "row"), [(b"decoder/embeddings/weight", 630), (b"decoder/position_encodings/encodings", 63)]
)
def test_ids_and_places_of_no_text_are_caught_in_ctranslate2(
    name: bytes, row: int, translator: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, out = tmp_path / "data", tmp_path / "out"
    (data / "pairs").mkdir(parents=True)
    (data / "pairs" / "validation.tsv").write_text("a cat\t猫\n", encoding="utf-8")
    export(translator, to="ctranslate2", out=out, data=data)
    monkeypatch.setattr(sys.modules["bimo.export.translators"], "_is_written_so", lambda *paths: False)
    export(translator, to="ctranslate2", out=out, data=data, check=True)
    monkeypatch.undo()
    alter_ctranslate2(out, name, row, 1)
    with pytest.raises(UserError, match=r"F32: predictions differ by [\d.e-]+, where"):
        export(translator, to="ctranslate2", out=out, data=data, check=True)


@pytest.mark.parametrize(("kind", "tensor"), [("none", "pooler.dense.bias"), ("span", "head.bias")])
def test_no_output_hides_behind_another(kind: str, tensor: str, tmp_path: Path, tiny_tokenizer: Tokenizer) -> None:
    """The largest of several differences, where only the last is no number."""
    folder, out = write_encoder_folder(tmp_path / "encoder", tiny_tokenizer, HEADS[kind]), tmp_path / "out.onnx"
    export(folder, to="onnx", out=out)
    alter_onnx(out, tensor, np.array([0.0, math.nan]) if kind == "span" else math.nan)
    with pytest.raises(UserError, match="differ by nan"):
        export(folder, to="onnx", out=out, check=True)


def test_what_cannot_be_read_there_ends_in_a_sentence(
    models: dict[str, Path], tmp_path: Path, tiny_tokenizer: Tokenizer
) -> None:
    out = tmp_path / "out"
    export(models["seq2seq"], to="ctranslate2", out=out)
    stored = (out / "model.bin").read_bytes()
    (out / "model.bin").write_bytes(stored[: len(stored) // 2])
    with pytest.raises(UserError, match="cannot be read"):
        export(models["seq2seq"], to="ctranslate2", out=out, check=True)
    (out / "model.bin").write_bytes(stored)
    (out / "shared_vocabulary.json").unlink()
    with pytest.raises(UserError, match="the tokens are others"):
        export(models["seq2seq"], to="ctranslate2", out=out, check=True)
    spans = write_encoder_folder(tmp_path / "spans", tiny_tokenizer, HEADS["span"])
    export(models["encoder"], to="onnx", out=tmp_path / "words.onnx")
    with pytest.raises(UserError, match="differ by nan"):
        export(spans, to="onnx", out=tmp_path / "words.onnx", check=True)


@pytest.mark.parametrize("family", ["encoder", "seq2seq"])
@pytest.mark.parametrize("installed", [True, False])
def test_they_become_folders_of_transformers(
    installed: bool, family: str, models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if installed:
        pytest.importorskip("transformers")
    else:
        monkeypatch.setitem(sys.modules, "transformers", None)
    facts = export(models[family], to="hf", out=tmp_path / "out")
    found = facts["comparison"]
    assert found["engine"].startswith("transformers " if installed else "bimo")
    assert found["equal_ids"] == found["prompts"] == 8
    if family == "encoder":
        assert found["largest_difference"] < 1e-4
    else:
        assert found["equal_translations"] == 8
        assert found["largest_difference"] < 1e-4
    (tmp_path / "out" / "tokenizer.json").stat()
    export(tmp_path / "out", to="hf", out=tmp_path / "again")


def test_how_vectors_are_made_and_answers_judged_goes_along(tiny_tokenizer: Tokenizer, tmp_path: Path) -> None:
    folder = write_encoder_folder(tmp_path / "sentences", tiny_tokenizer, HEADS["none"])
    write_layout(folder, SentenceLayout(pooling="cls", normalize=True, context=16), width=24)
    (folder / "bimo").mkdir()
    (folder / "bimo" / "answering.json").write_text('{"threshold": 3.5}', encoding="utf-8")
    out = tmp_path / "out"
    export(folder, to="hf", out=out)
    assert read_layout(out) == read_layout(folder)
    np.testing.assert_allclose(open_embedder(out).embed(["hello"]), open_embedder(folder).embed(["hello"]), atol=1e-6)
    assert (out / "bimo" / "answering.json").read_bytes() == (folder / "bimo" / "answering.json").read_bytes()
    write_layout(out, SentenceLayout(pooling="mean", normalize=True, context=16), width=24)
    with pytest.raises(UserError, match="vectors of sentences are made in another way"):
        export(folder, to="hf", out=out, check=True)


@pytest.mark.parametrize(("family", "to"), [("encoder", "onnx"), ("seq2seq", "ctranslate2")])
def test_an_engine_that_is_missing_is_named_with_its_extra(
    family: str, to: str, models: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, to, None)
    with pytest.raises(UserError, match=r"pip install 'bimo\[export\]'"):
        export(models[family], to=to, out=tmp_path / "out")
    assert not list(tmp_path.glob("out*"))


def test_the_search_is_the_one_that_is_saved(models: dict[str, Path], tmp_path: Path) -> None:
    path = models["seq2seq"] / "generation_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "num_beams": 2, "length_penalty": 0.6}))
    for to in ("ctranslate2", "hf"):
        found = export(models["seq2seq"], to=to, out=tmp_path / to)["comparison"]
        assert (found["beams"], found["length_penalty"], found["equal_translations"]) == (2, 0.6, 8)
    assert json.loads((tmp_path / "hf" / "generation_config.json").read_text())["num_beams"] == 2


@pytest.mark.parametrize("pairs", ["", "\t空\n", " \tb\n"])
def test_sentences_of_our_own_are_said_aloud(
    pairs: str, models: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where held-out pairs hold nothing, too: a comparison of nothing would agree."""
    (tmp_path / "data" / "pairs").mkdir(parents=True)
    (tmp_path / "data" / "pairs" / "validation.tsv").write_text(pairs, encoding="utf-8")
    facts = export(
        models["seq2seq"], to="ctranslate2", out=tmp_path / "out", data=tmp_path / "data", console=Console(quiet=False)
    )
    assert (facts["prompts_from"], facts["comparison"]["prompts"]) == ("sentences", 8)
    assert "a few sentences of Bimo's own are used" in capsys.readouterr().err


def test_the_doctor_says_what_a_model_can_become(models: dict[str, Path]) -> None:
    assert {family: [*EXPORTS.get(family, ())] for family in FAMILIES} == {each: targets_of(each) for each in FAMILIES}
    for family, folder in models.items():
        facts = examine_model(folder)
        assert facts["exports"] == targets_of(family)
        assert f"Bimo exports it to: {', '.join(targets_of(family))}" in model_lines(facts)


@pytest.mark.parametrize("family", ["lstm", "mlp"])
def test_what_no_engine_computes_is_not_exported(family: str) -> None:
    for name in ("hf", "gguf", "onnx"):
        with pytest.raises(UserError, match=f"the family {family} is not exported"):
            require_target(name, family)


def test_a_folder_without_a_model_is_called_so(tmp_path: Path) -> None:
    for to in ("onnx", "hf"):
        with pytest.raises(UserError, match="There is no model folder"):
            export(tmp_path / "nothing", to=to, out=tmp_path / "out")


def test_families_and_engines_that_do_not_go_together_are_refused(models: dict[str, Path], tmp_path: Path) -> None:
    for family, to, known in (("seq2seq", "onnx", "hf, ctranslate2"), ("encoder", "gguf", "hf, onnx")):
        with pytest.raises(UserError, match=f"What it can become: {known}") as caught:
            export(models[family], to=to, out=tmp_path / "out")
        assert caught.value.code == USAGE
    with pytest.raises(UserError, match=r"cannot become ctranslate2\. What it can become: hf, gguf"):
        require_target("ctranslate2", "decoder")
    with pytest.raises(UserError, match="for Transformer decoders"):
        export(models["seq2seq"], to="hf", out=tmp_path / "out", adapter=tmp_path)
    with pytest.raises(UserError, match="the weights can be f32, but not int8"):
        export(models["encoder"], to="onnx", out=tmp_path / "out", weights="int8")
