"""Adapters go both ways between Bimo and PEFT, with the logits that each side computes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from random_models import GPT2_FIELDS, randomised

from bimo.doctor.model import examine_model
from bimo.files import read_json, write_json
from bimo.models.encoder import Encoder, EncoderConfig, with_head
from bimo.models.heads import Head
from bimo.models.lora import LoRAConfig, adapter_of, attach_adapter, detach_adapter, new_adapter
from bimo.models.seq2seq import EncoderDecoder, Seq2SeqConfig
from bimo.runtime import UserError
from bimo.weights.adapters import load_adapter, merged, save_adapter
from bimo.weights.huggingface import (
    load_encoder,
    load_model,
    load_translator,
    save_encoder,
    save_model,
    save_translator,
)
from bimo.weights.layouts import settings_of

peft = pytest.importorskip("peft")
transformers = pytest.importorskip("transformers")

# PEFT asks transformers by a name that transformers is about to give up.
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")

FAMILIES = {
    "Llama": {"qk_norm": False},
    "Qwen2": {"qk_norm": False, "biases": "qkv"},
    "Qwen3": {"qk_norm": True},
    "GPT-2": GPT2_FIELDS,
}


@pytest.fixture(params=FAMILIES)
def folder(request: Any, make_model: Any, tmp_path: Path) -> Path:
    """A small model whose weights are all random, as Hugging Face keeps it."""
    save_model(tmp_path / "model", make_model(vocabulary=131, layers=3, context=64, **FAMILIES[request.param]), end=0)
    return tmp_path / "model"


def theirs(folder: Path) -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


def is_gpt2(folder: Path) -> bool:
    return read_json(folder / "config.json")["model_type"] == "gpt2"


def two(folder: Path) -> list[str]:
    """Two of the matrices that Hugging Face's model has."""
    return ["c_attn", "c_fc"] if is_gpt2(folder) else ["q_proj", "down_proj"]


def random_(tensors: Any, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in tensors:
            tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.1)


@pytest.fixture
def ids() -> torch.Tensor:
    return torch.randint(1, 131, (3, 40), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("targets", [("query", "value"), ()], ids=["two", "all"])
def test_peft_computes_what_we_do_with_our_adapter(folder, targets, ids, tmp_path):
    model = load_model(folder)
    before = model(ids)
    config = LoRAConfig(rank=5, alpha=7.5, targets=targets)
    adapter = new_adapter(model, config, seed=0)
    random_([tensor for pair in adapter.weights.values() for tensor in pair], seed=2)
    attach_adapter(model, adapter)
    save_adapter(tmp_path / "adapter", adapter_of(model, adapter.config), model.config, base=str(folder))
    adapted = peft.PeftModel.from_pretrained(theirs(folder), tmp_path / "adapter")
    with torch.no_grad():
        ours = model(ids)
        assert (ours - before).abs().max() > 0.1
        torch.testing.assert_close(ours, adapted(ids).logits, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("rooted", [False, True], ids=["alpha over rank", "alpha over its root"])
@pytest.mark.parametrize("every", [False, True], ids=["two", "all"])
def test_we_compute_what_peft_does_with_its_adapter(folder, every, rooted, ids, tmp_path):
    settings = peft.LoraConfig(
        r=6,
        lora_alpha=9,
        target_modules="all-linear" if every else two(folder),
        use_rslora=rooted,
        rank_pattern={two(folder)[0]: 3},
        alpha_pattern={two(folder)[1]: 5},
        fan_in_fan_out=is_gpt2(folder),
        task_type="CAUSAL_LM",
    )
    adapted = peft.get_peft_model(theirs(folder), settings).eval()
    random_([weight for name, weight in adapted.named_parameters() if "lora_" in name], seed=3)
    adapted.save_pretrained(tmp_path / "adapter")
    model = load_model(folder)
    adapter = load_adapter(tmp_path / "adapter", model.config)
    with torch.no_grad():
        expected = adapted(ids).logits
        attach_adapter(model, adapter)
        torch.testing.assert_close(model(ids), expected, atol=1e-4, rtol=1e-4)
        detach_adapter(model)
        torch.testing.assert_close(merged(model, adapter)(ids), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("name", "setting"),
    [
        ("use_dora", {"use_dora": True}),
        ("modules_to_save", {"modules_to_save": ["norm"]}),
        ("bias", {"bias": "all"}),
        ("trainable_token_indices", {"trainable_token_indices": [1, 2]}),
    ],
)
def test_adapters_that_compute_otherwise_are_refused_by_name(folder, name, setting, tmp_path):
    settings = peft.LoraConfig(
        r=4, target_modules=two(folder)[:1], fan_in_fan_out=is_gpt2(folder), task_type="CAUSAL_LM", **setting
    )
    peft.get_peft_model(theirs(folder), settings).save_pretrained(tmp_path / "adapter")
    with pytest.raises(UserError, match=f"uses {name}, which Bimo does not compute"):
        load_adapter(tmp_path / "adapter", load_model(folder).config)


# What GPT-2 joins comes back in three parts, of three times the rank together.
@pytest.mark.parametrize("folder", sorted(FAMILIES.keys() - {"GPT-2"}), indirect=True)
def test_what_is_written_says_all_that_peft_would_say(folder, tmp_path):
    """Read and written again, PEFT's own settings mean the same."""
    settings = peft.LoraConfig(r=4, lora_alpha=8, target_modules=two(folder), task_type="CAUSAL_LM")
    peft.get_peft_model(theirs(folder), settings).save_pretrained(tmp_path / "theirs")
    shape = load_model(folder).config
    save_adapter(tmp_path / "ours", load_adapter(tmp_path / "theirs", shape), shape, base=str(folder))
    one, other = (read_json(tmp_path / place / "adapter_config.json") for place in ("theirs", "ours"))
    one["target_modules"].sort()
    assert {name: one[name] for name in other} == other


def test_a_config_without_a_rank_is_refused(folder, tmp_path):
    write_json(tmp_path / "adapter_config.json", {"peft_type": "LORA", "r": None, "lora_alpha": 8})
    (tmp_path / "adapter_model.safetensors").write_bytes(b"")
    with pytest.raises(UserError, match="does not describe a LoRA adapter"):
        load_adapter(tmp_path, load_model(folder).config)


ENCODER = {"vocabulary": 131, "layers": 2, "width": 48, "heads": 4, "hidden": 96, "context": 64}
HEADS = {
    "BertModel": Head("none", pooler=True),
    "BertForSequenceClassification": Head("classes", labels=("好", "so", "坏"), pooler=True),
    "BertForTokenClassification": Head("tokens", labels=("B", "O")),
    "BertForQuestionAnswering": Head("span"),
}
TYPES = {
    "BertModel": "FEATURE_EXTRACTION",
    "BertForSequenceClassification": "SEQ_CLS",
    "BertForTokenClassification": "TOKEN_CLS",
    "BertForQuestionAnswering": "QUESTION_ANS",
}


@pytest.fixture
def bert(tmp_path: Path) -> Path:
    """The folder of an encoder without a head, all of it random."""
    model = randomised(Encoder(EncoderConfig(**ENCODER, head=Head("none", pooler=True))))
    save_encoder(tmp_path / "bert", model, pad=0)
    return tmp_path / "bert"


def their_bert(name: str, folder: Path) -> Any:
    """Of a class of transformers, with a head that is drawn anew wherever it has one."""
    labels = dict(enumerate(HEADS[name].labels))
    named = {"id2label": labels, "num_labels": len(labels)} if labels else {}
    return getattr(transformers, name).from_pretrained(folder, dtype=torch.float32, **named).eval()


def what_it_says(outputs: Any) -> torch.Tensor:
    """As our heads say it."""
    if "start_logits" in outputs:
        return torch.stack([outputs.start_logits, outputs.end_logits], dim=-1)
    return outputs.logits if "logits" in outputs else outputs.last_hidden_state


@pytest.mark.parametrize("targets", [(), ("query", "value"), ("down",)], ids=["all", "two", "one"])
@pytest.mark.parametrize("name", HEADS)
def test_peft_computes_what_we_do_with_an_encoders_adapter(name, targets, bert, ids, tmp_path):
    """`down` is called output.dense there, as the end of another name is."""
    model = with_head(load_encoder(bert), HEADS[name], seed=1)
    adapter = new_adapter(model, LoRAConfig(rank=5, alpha=7.5, targets=targets), seed=0)
    attach_adapter(model, adapter)
    random_([weight for weight in model.parameters() if weight.requires_grad], seed=2)
    model.eval()
    save_encoder(tmp_path / "out", model, pad=0, adapter=adapter_of(model, adapter.config), base=bert)
    assert not (tmp_path / "out" / "model.safetensors").exists()
    with torch.no_grad():
        ours = model(ids)
        adapted = peft.PeftModel.from_pretrained(their_bert(name, bert), tmp_path / "out")
        torch.testing.assert_close(ours, what_it_says(adapted(ids)), atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(load_encoder(tmp_path / "out")(ids), ours, atol=1e-4, rtol=1e-4)
    low_rank = {key.split(".lora_")[0] for key, _ in adapted.named_parameters() if ".lora_A." in key}
    assert len(low_rank) == len(adapter.weights)


@pytest.mark.parametrize("targets", [["query", "output.dense"], ["dense"]], ids=["two", "pooler as well"])
@pytest.mark.parametrize("name", HEADS)
def test_we_compute_what_peft_does_with_an_encoders_adapter(name, targets, bert, ids, tmp_path):
    settings = peft.LoraConfig(r=3, lora_alpha=9, target_modules=targets, task_type=TYPES[name])
    torch.manual_seed(4)
    adapted = peft.get_peft_model(their_bert(name, bert), settings).eval()
    random_([weight for key, weight in adapted.named_parameters() if "lora_" in key], seed=3)
    adapted.save_pretrained(tmp_path / "out")
    examined = examine_model(tmp_path / "out")
    assert any("the config.json of the whole model" in problem for problem in examined["problems"])
    whole = adapted.get_base_model()
    whole.config.architectures = [type(whole).__name__]  # as docs/formats.md says
    whole.config.save_pretrained(tmp_path / "out")
    with torch.no_grad():
        expected = what_it_says(adapted(ids))
        torch.testing.assert_close(load_encoder(tmp_path / "out")(ids), expected, atol=1e-4, rtol=1e-4)


def test_adapters_of_an_encoder_decoder_go_both_ways(ids, tmp_path):
    shape = Seq2SeqConfig(vocabulary=131, layers=2, decoder_layers=1, width=48, heads=4, hidden=96, context=64)
    base, out = tmp_path / "base", tmp_path / "out"
    save_translator(base, randomised(EncoderDecoder(shape), size=0.1), end=0)
    model = load_translator(base)
    adapter = new_adapter(model, LoRAConfig(rank=4, targets=("query", "up")), seed=0)
    assert {name.split(".")[0] for name in adapter.weights} == {"encoder_layers", "decoder_layers"}
    random_([tensor for pair in adapter.weights.values() for tensor in pair], seed=2)
    attach_adapter(model, adapter)
    save_adapter(out, adapter, shape, base=str(base))
    write_json(out / "config.json", {**settings_of(shape), "eos_token_id": 0})
    real = torch.ones_like(ids, dtype=torch.bool)
    theirs = peft.PeftModel.from_pretrained(transformers.MarianMTModel.from_pretrained(base).eval(), out)
    with torch.no_grad():
        ours = model(ids, real, ids[:, :7])
        expected = theirs(input_ids=ids, attention_mask=real, decoder_input_ids=ids[:, :7]).logits
        torch.testing.assert_close(ours, expected, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(load_translator(out)(ids, real, ids[:, :7]), expected, atol=1e-4, rtol=1e-4)
