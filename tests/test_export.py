"""`bimo export`: what is written is what was trained, and what is not is caught and not kept."""

from __future__ import annotations

import dataclasses
import json
import shutil
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
import torch
from safetensors.numpy import load_file, save_file

from bimo.console import SILENT, Console
from bimo.export.comparison import CHATS, OurEngine, compare, render
from bimo.export.lines import export_lines
from bimo.export.llama_cpp import XLlamaCpp
from bimo.export.source import Source, open_source, source_of_gguf
from bimo.export.targets import FORMATS, TARGETS
from bimo.export.verb import SENTENCES, export
from bimo.files import read_json, write_json
from bimo.generate.engine import load
from bimo.models.config import RotaryScaling
from bimo.models.lora import LoRAConfig, new_adapter
from bimo.models.transformer import Decoder
from bimo.runtime import USAGE, UserError
from bimo.tasks.folder import own_data
from bimo.text.documents import Document
from bimo.text.store import DocumentWriter
from bimo.tokens.chat import own_template
from bimo.tokens.tokenizer import Tokenizer
from bimo.weights.adapters import save_adapter
from bimo.weights.gguf import read_gguf
from bimo.weights.gguf_tokenizer import BESIDE
from bimo.weights.huggingface import save_model

verb = sys.modules["bimo.export.verb"]
FOREIGN = ("transformers", "llama_cpp", "xllamacpp")
TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] == 'system' %}系统：{% else %}{{ message['role'] }}: {% endif %}"
    "{{ message['content'] }}{{ eos_token }}\n{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
)


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """No foreign engine is installed."""
    for name in FOREIGN:
        monkeypatch.setitem(sys.modules, name, None)


@pytest.fixture(scope="module")
def model(
    make_model: Callable[..., Decoder], tiny_tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A model folder as `bimo run` leaves it, with held-out text and a chat template."""
    folder = tmp_path_factory.mktemp("models") / "ink"
    decoder = make_model(vocabulary=tiny_tokenizer.vocabulary, context=128, width=64, hidden=96)
    save_model(folder, decoder, end=tiny_tokenizer.end)
    tiny_tokenizer.save(folder, context=128)
    (folder / "chat_template.jinja").write_text(TEMPLATE, encoding="utf-8")
    texts = [sentence * 3 for sentence in SENTENCES[:3]]
    with DocumentWriter(folder / "bimo" / "data" / "documents", "validation") as writer:
        for text in texts:
            writer.write(Document(text, "a.txt", 0, "zh"))
    return folder


@pytest.mark.usefixtures("alone")
def test_of_several_templates_the_one_called_default_goes_along(model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "several"
    shutil.copytree(model, folder)
    (folder / "chat_template.jinja").unlink()
    settings = read_json(folder / "tokenizer_config.json")
    settings["chat_template"] = [{"name": "tools", "template": "x"}, {"name": "default", "template": TEMPLATE}]
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    export(folder, to="hf", out=tmp_path / "out")
    assert (tmp_path / "out" / "chat_template.jinja").read_text(encoding="utf-8") == TEMPLATE


def there(to: str, folder: Path) -> Path:
    return folder / ("ink.gguf" if to == "gguf" else "ink-hf")


WAYS = [(to, form) for to, target in TARGETS.items() for form in target.formats]


@pytest.mark.parametrize(("to", "form"), WAYS)
@pytest.mark.usefixtures("alone")
def test_every_format_comes_back_to_our_own_reader(to: str, form: str, model: Path, tmp_path: Path) -> None:
    out = there(to, tmp_path)
    facts = export(model, to=to, out=out, weights=form)
    found = facts["comparison"]
    assert found["engine"] == "bimo"
    assert found["largest_difference"] < 1e-5
    assert (found["prompts"], found["equal_ids"], found["equal_greedy"]) == (3, 3, 3)
    assert (found["new_tokens"], found["chats"], found["partings"]) == (64, 3, [])
    bits = facts["bits_per_byte"]
    assert bits["before"] < 20
    assert (bits["before"] == bits["after"]) is (form == "f32")
    assert facts["prompts_from"] == str(model / "bimo" / "data")
    kept = read_json(out / "bimo" / "export.json" if to == "hf" else tmp_path / "ink.gguf.export.json")
    assert kept["comparison"] == found
    written = open_source(out)
    expected = open_source(model)
    assert (written.template, written.special) == (expected.template, expected.special)
    assert written.tokenizer.begin == expected.tokenizer.begin == [expected.tokenizer.end]
    assert facts["bytes"] > 0.9 * sum(matrix.data.nbytes for matrix in written.weights.values()) / (
        2 if to == "hf" else 1
    )
    # What was exported can be exported again, and used.
    assert "".join(load(out).generate("会议", max_tokens=5))
    lines = "\n".join(export_lines(facts))
    assert "opened again with bimo" in lines
    assert f"{bits['after']:.4f} as written" in lines


@pytest.mark.parametrize("to", ["gguf", "hf"])
@pytest.mark.usefixtures("alone")
def test_numbers_that_were_float32_once_are_no_other_shape(
    to: str, make_model: Callable[..., Decoder], tiny_tokenizer: Tokenizer, tmp_path: Path
) -> None:
    """As folders have them that were made from other formats: 9.999999974752427e-07 for a millionth."""
    stretched = RotaryScaling("linear", 8 / 3)
    decoder = make_model(
        vocabulary=tiny_tokenizer.vocabulary, norm_epsilon=float(np.float32(1e-6)), rope_scaling=stretched
    )
    save_model(tmp_path / "model", decoder, end=tiny_tokenizer.end)
    tiny_tokenizer.save(tmp_path / "model")
    export(tmp_path / "model", to=to, out=there(to, tmp_path), weights="f32")


@pytest.mark.usefixtures("alone")
def test_the_tokens_that_end_an_answer_go_along(model: Path, tmp_path: Path) -> None:
    """Also where `config.json` alone names them: transformers reads `generation_config.json` first."""
    folder = tmp_path / "two-ends"
    shutil.copytree(model, folder)
    (folder / "generation_config.json").unlink()
    end = open_source(model).tokenizer.end
    settings = read_json(folder / "config.json") | {"eos_token_id": [end, 40]}
    (folder / "config.json").write_text(json.dumps(settings), encoding="utf-8")
    export(folder, to="hf", out=tmp_path / "hf")
    assert read_json(tmp_path / "hf" / "generation_config.json")["eos_token_id"] == sorted([end, 40])
    export(tmp_path / "hf", to="gguf", out=tmp_path / "a.gguf")
    assert read_gguf(tmp_path / "a.gguf").ends == {end, 40}
    generation = tmp_path / "hf" / "generation_config.json"
    generation.write_text("{}", encoding="utf-8")
    with pytest.raises(UserError, match="other tokens end an answer"):
        export(folder, to="hf", out=tmp_path / "hf", check=True)


@pytest.mark.usefixtures("alone")
def test_an_export_takes_the_place_of_an_earlier_one_but_of_nothing_else(model: Path, tmp_path: Path) -> None:
    out = tmp_path / "hub"
    for _ in range(2):
        export(model, to="hf", out=out)
    (out / ".git").mkdir()
    (out / ".git" / "HEAD").write_text("ref: main", encoding="utf-8")
    with pytest.raises(UserError, match=r"holds what is not of the earlier export, such as \.git/HEAD") as refusal:
        export(model, to="hf", out=out)
    assert refusal.value.code == USAGE
    assert (out / ".git" / "HEAD").read_text(encoding="utf-8") == "ref: main"


@pytest.mark.usefixtures("alone")
def test_a_gguf_file_becomes_a_folder_and_a_file_again(model: Path, tmp_path: Path) -> None:
    export(model, to="gguf", out=tmp_path / "a.gguf", weights="f32")
    export(tmp_path / "a.gguf", to="hf", out=tmp_path / "folder")
    export(tmp_path / "folder", to="gguf", out=tmp_path / "b.gguf", weights="f32")
    first, last = read_gguf(tmp_path / "a.gguf"), read_gguf(tmp_path / "b.gguf")
    assert first.config == last.config
    for name, matrix in first.weights.items():
        np.testing.assert_array_equal(matrix.data, last.weights[name].data)
    changed = {key for key in first.metadata | last.metadata if first.metadata.get(key) != last.metadata.get(key)}
    assert changed == {"general.name"}
    generation = read_json(tmp_path / "folder" / "generation_config.json")
    assert generation["eos_token_id"] == generation["bos_token_id"] == open_source(model).tokenizer.end


@pytest.mark.usefixtures("alone")
def test_without_held_out_text_our_sentences_are_used_and_that_is_said(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    export(model, to="gguf", out=tmp_path / "a.gguf")
    facts = export(tmp_path / "a.gguf", to="gguf", out=tmp_path / "b.gguf", console=Console(quiet=True))
    assert facts["prompts_from"] == "sentences"
    assert facts["comparison"]["prompts"] == len(SENTENCES)
    assert "a few sentences of Bimo's own are used" in capsys.readouterr().err
    facts = export(tmp_path / "a.gguf", to="gguf", out=tmp_path / "b.gguf", data=model / "bimo" / "data")
    assert facts["prompts_from"] == str(model / "bimo" / "data")
    with pytest.raises(UserError, match="is not prepared data"):
        export(tmp_path / "a.gguf", to="gguf", out=tmp_path / "c.gguf", data=tmp_path)


@pytest.mark.parametrize("tuned", [False, True], ids=["trained", "tuned"])
@pytest.mark.usefixtures("alone")
def test_held_out_text_is_found_where_the_model_was_made_from(tuned: bool, model: Path, tmp_path: Path) -> None:
    """As after `bimo train DATA --out M`, and after tuning that one."""
    data, folder = tmp_path / "data", tmp_path / "trained"
    shutil.copytree(model / "bimo" / "data", data)
    shutil.copytree(model, folder, ignore=shutil.ignore_patterns("bimo"))
    write_json(folder / "bimo" / "manifest.json", {"data": str(data)})
    if tuned:
        shutil.copytree(folder, tmp_path / "tuned", ignore=shutil.ignore_patterns("bimo"))
        write_json(tmp_path / "tuned" / "bimo" / "manifest.json", {"inputs": {}})
        write_json(tmp_path / "tuned" / "bimo" / "tune.json", {"model": str(folder)})
        folder = tmp_path / "tuned"
    assert own_data(folder) == data
    facts = export(folder, to="gguf", out=tmp_path / "a.gguf")
    assert (facts["prompts_from"], facts["comparison"]["prompts"]) == (str(data), 3)
    shutil.rmtree(data)
    assert own_data(folder) is None
    (folder / "bimo" / "manifest.json").write_text("[", encoding="utf-8")
    assert export(folder, to="gguf", out=tmp_path / "a.gguf")["prompts_from"] == "sentences"


@pytest.mark.usefixtures("alone")
def test_no_chat_template_is_called_equal_where_there_is_none(model: Path, tmp_path: Path) -> None:
    shutil.copytree(model, tmp_path / "plain", ignore=shutil.ignore_patterns("chat_template.jinja"))
    facts = export(tmp_path / "plain", to="gguf", out=tmp_path / "a.gguf")
    assert facts["comparison"]["chats"] == 0
    assert "prompts: ids and special tokens are equal; predictions" in "\n".join(export_lines(facts))
    facts["comparison"]["chats"] = 3
    assert "prompts: ids, special tokens and chat template are equal;" in "\n".join(export_lines(facts))


@pytest.mark.parametrize("base", ["folder", "gguf"])
@pytest.mark.parametrize("to", TARGETS)
def test_a_model_leaves_with_its_adapter(
    to: str, base: str, model: Path, make_model: Callable[..., Decoder], tmp_path: Path
) -> None:
    """Engines that know no adapters get the model that `bimo tune --lora` made, with the template it learned with."""
    decoder = load(model).model
    adapter = new_adapter(decoder, LoRAConfig(rank=2, targets=("query", "down")), seed=0)
    for _, up in adapter.weights.values():
        up.normal_(generator=torch.Generator().manual_seed(1), std=0.2)
    folder, out = tmp_path / "verse", there(to, tmp_path)
    save_adapter(folder, adapter, decoder.config, base=str(model))
    (folder / "chat_template.jinja").write_text(TEMPLATE.replace("assistant", "poet"), encoding="utf-8")
    if base == "gguf":
        export(model, to="gguf", out=tmp_path / "base.gguf", weights="f32")
        model = tmp_path / "base.gguf"
    facts = export(model, to=to, out=out, weights="f32", adapter=folder)
    assert facts["adapter"] == str(folder)
    ids = torch.tensor([open_source(model).tokenizer.encode("会议决定 the committee")])
    expected = load(model, adapter=folder).model(ids)
    torch.testing.assert_close(load(out).model(ids), expected, atol=1e-5, rtol=1e-5)
    assert (load(model).model(ids) - expected).abs().max() > 0.1
    written = open_source(out)
    assert "poet: " in (written.template or "")
    export(model, to=to, out=out, adapter=folder, check=True)
    with pytest.raises(UserError, match="tensors hold other numbers"):
        export(model, to=to, out=out, check=True)
    other = make_model(vocabulary=decoder.config.vocabulary, width=32)
    save_adapter(folder, new_adapter(other, LoRAConfig(), seed=0), other.config, base="other")
    with pytest.raises(UserError, match="The adapter was made for another model"):
        export(model, to=to, out=out, adapter=folder)


def test_the_end_that_an_adapter_learned_ends_answers(
    make_model: Callable[..., Decoder], tiny_tokenizer: Tokenizer, tmp_path: Path
) -> None:
    """A base that knows no conversations names the end of a text alone."""
    tokenizer = Tokenizer(tokenizers.Tokenizer.from_str(tiny_tokenizer.inner.to_str()))
    tokenizer.inner.add_special_tokens(["<|im_start|>", "<|im_end|>"])
    decoder, folder = make_model(vocabulary=tokenizer.vocabulary, context=128), tmp_path / "verse"
    save_model(tmp_path / "base", decoder, end=tokenizer.end)
    tokenizer.save(tmp_path / "base", context=128)
    save_adapter(folder, new_adapter(decoder, LoRAConfig(), seed=0), decoder.config, base="base")
    (folder / "chat_template.jinja").write_text(own_template(tokenizer), encoding="utf-8")
    export(tmp_path / "base", to="gguf", out=tmp_path / "a.gguf", adapter=folder)
    assert read_gguf(tmp_path / "a.gguf").ends == {tokenizer.end, tokenizer.inner.token_to_id("<|im_end|>")}


def test_a_template_that_begins_as_every_text_is_the_same_in_llama_cpp(
    make_model: Callable[..., Decoder], tiny_tokenizer: Tokenizer, tmp_path: Path
) -> None:
    """llama.cpp leaves to its tokenizer what that puts in front of a text."""
    pytest.importorskip("xllamacpp")
    decoder = make_model(vocabulary=tiny_tokenizer.vocabulary, context=128)
    save_model(tmp_path / "base", decoder, end=tiny_tokenizer.end)
    tiny_tokenizer.save(tmp_path / "base", context=128)
    template = own_template(tiny_tokenizer)
    (tmp_path / "base" / "chat_template.jinja").write_text(template, encoding="utf-8")
    facts = export(tmp_path / "base", to="gguf", out=tmp_path / "a.gguf")
    assert facts["comparison"]["chats"] == 3
    assert XLlamaCpp(tmp_path / "a.gguf", source_of_gguf(tmp_path / "a.gguf")).chat(
        [{"role": "user", "content": "a"}]
    ) == ("<|endoftext|>user\na<|endoftext|>assistant\n")


@pytest.mark.usefixtures("alone")
def test_ends_for_which_a_format_has_no_room_are_said(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "many-ends"
    shutil.copytree(model, folder)
    tokenizer = open_source(model).tokenizer
    write_json(folder / "generation_config.json", {"eos_token_id": [tokenizer.end, 40, 41, 50]})
    export(folder, to="gguf", out=tmp_path / "a.gguf", console=Console(quiet=True))
    left_out = ", ".join(str(tokenizer.inner.id_to_token(number)) for number in (41, 50))
    assert f"Left out, so stop at them yourself: {left_out}\n" in capsys.readouterr().err
    export(folder, to="hf", out=tmp_path / "hf", console=Console(quiet=True))
    assert "Left out" not in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------ what is caught


def alter_weight(out: Path, *, by: float) -> None:
    """Change one number of a matrix by a share of itself."""
    if out.is_dir():
        tensors = load_file(out / "model.safetensors")
        tensors["model.layers.1.mlp.down_proj.weight"][3, 5] *= 1 + by
        save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
        return
    stored = read_gguf(out)
    number = stored.weights["layers.1.feed_forward.down.weight"].data[3, 20:24]
    raw = out.read_bytes()
    place = raw.index(stored.weights["layers.1.feed_forward.down.weight"].data.tobytes()) + 4 * (3 * 96 + 5)
    assert raw[place : place + 4] == number.tobytes()
    (old,) = struct.unpack("<f", number.tobytes())
    out.write_bytes(raw[:place] + struct.pack("<f", old * (1 + by)) + raw[place + 4 :])


def alter_template(out: Path) -> None:
    """`assistant: ` becomes `assistant! ` of the same length."""
    file = out / "chat_template.jinja" if out.is_dir() else out
    raw = file.read_bytes()
    assert raw.count(b"assistant: ") == 1
    file.write_bytes(raw.replace(b"assistant: ", b"assistant! "))


def alter_end(out: Path) -> None:
    """Another token ends texts."""
    if out.is_dir():
        path = out / "tokenizer_config.json"
        path.write_text(json.dumps(read_json(path) | {"eos_token": "a"}), encoding="utf-8")
        return
    raw, key = out.read_bytes(), b"tokenizer.ggml.eos_token_id" + struct.pack("<I", 4)
    place = raw.index(key) + len(key)
    out.write_bytes(raw[:place] + struct.pack("<I", 70) + raw[place + 4 :])


def alter_merge(out: Path) -> None:
    """Two tokens change places: ids are others, all numbers stay."""
    file = out / "tokenizer.json" if out.is_dir() else out
    raw = file.read_bytes()
    if out.is_dir():
        settings = json.loads(raw)
        vocabulary = settings["model"]["vocab"]
        vocabulary["e"], vocabulary["t"] = vocabulary["t"], vocabulary["e"]
        file.write_text(json.dumps(settings), encoding="utf-8")
        return
    e, t = (struct.pack("<Q", 1) + letter for letter in (b"e", b"t"))
    assert raw.count(e) == raw.count(t) == 1
    file.write_bytes(raw.replace(e, b"\0" * 9).replace(t, e).replace(b"\0" * 9, t, 1))


ALTERATIONS: dict[str, tuple[Callable[[Path], None], str]] = {
    "a weight": (
        lambda out: alter_weight(out, by=1e-6),
        "1 tensors hold other numbers, first layers.1.feed_forward.down",
    ),
    "the template": (alter_template, "the chat template is another"),
    "the end": (alter_end, "special tokens are others"),
    "two tokens": (alter_merge, "the tokens are others"),
}


@pytest.mark.parametrize("flag", BESIDE)
@pytest.mark.usefixtures("alone")
def test_how_added_tokens_are_found_is_compared(flag: str, model: Path, tmp_path: Path) -> None:
    """A folder has room for it; a GGUF file does not, and is refused instead of getting other ids."""
    folder, out = tmp_path / "stripping", tmp_path / "out"
    shutil.copytree(model, folder)
    tokenizer = open_source(model).tokenizer
    inner = tokenizers.Tokenizer.from_str(tokenizer.inner.to_str())
    inner.add_special_tokens([tokenizers.AddedToken("<|endoftext|>", normalized=False, **{flag: True})])
    settings = json.loads(inner.to_str())
    assert settings["added_tokens"][0][flag]
    (folder / "tokenizer.json").write_text(json.dumps(settings), encoding="utf-8")
    export(folder, to="hf", out=out)
    shutil.copyfile(model / "tokenizer.json", out / "tokenizer.json")
    with pytest.raises(UserError, match="the tokens are others"):
        export(folder, to="hf", out=out, check=True)
    with pytest.raises(UserError, match=rf"its token '<\|endoftext\|>' is found by what is beside it \({flag}\)"):
        export(folder, to="gguf", out=tmp_path / "a.gguf")


@pytest.mark.usefixtures("alone")
def test_generation_settings_that_are_no_object_are_a_sentence(model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "list"
    shutil.copytree(model, folder)
    (folder / "generation_config.json").write_text("[1]", encoding="utf-8")
    with pytest.raises(UserError, match=r"generation_config\.json is damaged: it is no JSON object"):
        export(folder, to="hf", out=tmp_path / "out")


@pytest.mark.parametrize("to", TARGETS)
@pytest.mark.parametrize("what", ALTERATIONS)
@pytest.mark.usefixtures("alone")
def test_what_was_altered_is_caught(what: str, to: str, model: Path, tmp_path: Path) -> None:
    out = there(to, tmp_path)
    export(model, to=to, out=out, weights="f32")
    assert export(model, to=to, out=out, check=True)["weights"] == "F32"
    alter, sentence = ALTERATIONS[what]
    alter(out)
    with pytest.raises(UserError, match=f"is not .* as F32: .*{sentence}"):
        export(model, to=to, out=out, check=True)


@pytest.mark.parametrize("to", TARGETS)
@pytest.mark.parametrize("what", ["a weight", "the template"])
def test_what_the_writer_got_wrong_is_not_kept(
    what: str, to: str, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With whatever engine is installed."""
    out = there(to, tmp_path)
    export(model, to=to, out=out, weights="f32")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    target = TARGETS[to]

    def write(path: Path, source: Source, form: str) -> None:
        target.write(path, source, form)
        ALTERATIONS[what][0](path)

    monkeypatch.setitem(TARGETS, to, dataclasses.replace(target, write=write))
    with pytest.raises(UserError, match=rf"is not what was trained: .*{ALTERATIONS[what][1]}.* It is not kept\."):
        export(model, to=to, out=out, weights="f32")
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("to", TARGETS)
def test_the_engines_catch_by_themselves_what_matters(
    to: str, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without our own reader: what a foreign engine computes and renders is compared, too."""
    pytest.importorskip("transformers" if to == "hf" else "xllamacpp")
    out = there(to, tmp_path)
    export(model, to=to, out=out, weights="f32")
    monkeypatch.setitem(TARGETS, to, dataclasses.replace(TARGETS[to], reopen=None))
    alter_weight(out, by=20.0)
    with pytest.raises(UserError, match=r"predictions differ by .*, where 0\.001 is allowed"):
        export(model, to=to, out=out, check=True)
    alter_weight(out, by=1 / 21 - 1)
    alter_template(out)
    with pytest.raises(UserError, match="the chat template gives other text"):
        export(model, to=to, out=out, check=True)


class Altered(OurEngine):
    """The model with one thing about it changed."""

    def __init__(self, source: Source, **changes: Any) -> None:
        super().__init__(source)
        for name, change in changes.items():
            setattr(self, name, change)


def test_a_comparison_says_what_differs(model: Path) -> None:
    source = open_source(model)
    ours = OurEngine(source)
    prompts, facts = list(SENTENCES[:2]), {"tolerance": 0.01, "context": 128}

    def faults(**changes: Any) -> str:
        return "; ".join(compare(ours, Altered(source, **changes), prompts, **facts)[1])

    nudge = np.zeros(source.config.vocabulary, dtype=np.float32)
    nudge[7] = 0.02
    assert faults() == ""
    assert "2 of 2 prompts get other ids, first “会议" in faults(tokens=lambda text: [1])
    assert "special tokens are {'eos_token': 9}" in faults(special=lambda: {"eos_token": 9})
    assert faults(special=lambda: {"eos_token": ours.special()["eos_token"], "mask_token": 3}) == ""
    assert "the chat template gives other text" in faults(chat=lambda messages: None)
    assert faults(chat_tokens=lambda text: ours.chat_tokens(text)[1:]) == "conversations get other ids"
    end = ours.special()["eos_token"]
    assert ours.chat_tokens(str(ours.chat(CHATS[0]))).count(end) == 1
    assert end not in ours.tokens("<|endoftext|>")[1:]  # what anybody writes is text as before
    assert "predictions differ by 0.02, where 0.01" in faults(predict=lambda ids: ours.predict(ids) + nudge)
    assert faults(predict=lambda ids: ours.predict(ids) + nudge / 4) == ""
    assert "predictions differ by nan" in faults(predict=lambda ids: ours.predict(ids) * np.nan)
    short = [ids[:-1] for ids in ours.write([ours.tokens(prompt) for prompt in prompts], 64)]
    assert "of 2 prompts 2 go on with other tokens, up to inf" in faults(write=lambda prompts, count: short)


def test_tokens_may_part_where_both_are_as_good(model: Path) -> None:
    source = open_source(model)
    ours = OurEngine(source)
    ids = ours.tokens(SENTENCES[0])
    (mine,) = ours.write([ids], 64)
    scores = ours.predict(ids + mine[:5])
    second = int(np.argsort(-scores)[1])
    gap = float(scores[mine[5]] - scores[second])
    other = Altered(source, write=lambda prompts, count: [[*mine[:5], second, *mine[6:]]])
    facts, faults = compare(ours, other, [SENTENCES[0]], tolerance=gap * 2.02, context=128)
    assert faults == []
    assert facts["partings"] == [{"place": 5, "gap": pytest.approx(gap)}]
    _, faults = compare(ours, other, [SENTENCES[0]], tolerance=gap * 1.98, context=128)
    assert faults == [f"of 1 prompts 1 go on with other tokens, up to {gap:.2g} less likely by their logarithm"]


def test_templates_are_rendered_in_a_sandbox(model: Path) -> None:
    source = open_source(model)
    end = source.tokenizer.special["eos_token"]
    assert render(source, CHATS[0]) == f"user: 你好，笔墨！{end}\nassistant: "
    assert "<b>'\"</b>" in (render(source, CHATS[2]) or "")
    for template in (
        "{{ messages.__class__.__mro__ }}",
        "{{ raise_exception('no') }}",
        "{% for",
        "{{ 1 / 0 }}",
        "{{ messages[9]['role'] + 1 }}",
        "{% for i in range(10**9) %}{% endfor %}",
        "{{ messages.append(1) }}",
        None,
    ):
        strange = dataclasses.replace(source, template=template)
        assert render(strange, CHATS[0]) is None, template


# ------------------------------------------------------------------------------------------------ what is refused


def test_wrong_usage_is_a_sentence(model: Path, tmp_path: Path) -> None:
    foreign = tmp_path / "mine.gguf"
    foreign.write_text("my own")
    for changes, sentence in (
        ({"to": "onyx"}, "--to must be one of hf, gguf, ctranslate2, onnx, but is onyx"),
        ({"to": "hf", "weights": "int8"}, "For hf the weights can be f32, f16, bf16, but not int8"),
        ({"to": "gguf", "weights": "q5_k"}, "For gguf the weights can be .*q4_1, but not q5_k"),
        ({"to": "gguf", "out": Path()}, "is no name"),
        ({"to": "gguf", "out": foreign}, "exists and is no export of Bimo's"),
        (
            {"to": "gguf", "out": tmp_path / "no.gguf", "check": True, "weights": "f16"},
            "There is no .*no.gguf to check",
        ),
        ({"to": "gguf", "out": foreign, "check": True}, r"There is no .*mine\.gguf\.export\.json\. Say with --weights"),
    ):
        with pytest.raises(UserError, match=sentence) as refusal:
            export(model, **{"out": tmp_path / "out", **changes})
        assert refusal.value.code == USAGE
    assert foreign.read_text() == "my own"
    with pytest.raises(UserError, match="There is no model folder"):
        export(tmp_path / "nothing", to="gguf", out=tmp_path / "out.gguf")


def test_a_loss_beyond_the_format_is_refused_with_the_numbers(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(FORMATS, "q4_1", dataclasses.replace(FORMATS["q4_1"], loss=-1.0))
    with pytest.raises(UserError, match=r"In Q4_1 the model needs \d+\.\d{4} bits per byte instead of \d+\.\d{4}, "):
        export(model, to="gguf", out=tmp_path / "a.gguf", weights="int4")
    assert list(tmp_path.iterdir()) == []


def test_matrices_that_stay_f16_are_said(
    make_model: Callable[..., Decoder], tiny_tokenizer: Tokenizer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "narrow"
    save_model(folder, make_model(vocabulary=tiny_tokenizer.vocabulary, context=128), end=tiny_tokenizer.end)
    tiny_tokenizer.save(folder, context=128)
    export(folder, to="gguf", out=tmp_path / "a.gguf", weights="int8", console=Console(quiet=True))
    # Of 15 matrices those that take 32 numbers or a multiple: the outputs of attention.
    assert "13 matrices stay F16" in capsys.readouterr().err


def test_silence_is_the_default() -> None:
    assert export.__kwdefaults__["console"] is SILENT
