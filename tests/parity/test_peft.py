"""Adapters go both ways between Bimo and PEFT, with the logits that each side computes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from random_models import GPT2_FIELDS

from bimo.files import read_json, write_json
from bimo.models.lora import LoRAConfig, adapter_of, attach_adapter, detach_adapter, new_adapter
from bimo.runtime import UserError
from bimo.weights.adapters import load_adapter, merged, save_adapter
from bimo.weights.huggingface import load_model, save_model

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
