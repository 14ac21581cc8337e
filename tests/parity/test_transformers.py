"""Folders go both ways: what transformers saved we load, what we saved transformers loads, with the same numbers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from writing import write

from bimo.generate.engine import load
from bimo.generate.sample import Sampling
from bimo.kernel import best_instructions
from bimo.models.transformer import Decoder
from bimo.runtime import UserError
from bimo.tokens.tokenizer import Tokenizer
from bimo.weights.huggingface import from_hf, load_model, model_config_from_hf, model_config_to_hf, save_model, to_hf

transformers = pytest.importorskip("transformers")

GREEDY = Sampling(0.0)
TOLERANCE = {"atol": 1e-4, "rtol": 1e-4}

# head_dim is nowhere hidden_size / num_attention_heads = 12, and 6 query heads share 2 or 3 key/value heads.
SHAPE = {
    "vocab_size": 131,
    "hidden_size": 72,
    "intermediate_size": 100,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 128,
    "rope_parameters": {"rope_type": "default", "rope_theta": 50_000.0},
    "rms_norm_eps": 1e-5,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 0,
}
VARIANTS = {
    "tied": {"tie_word_embeddings": True},
    "untied": {"tie_word_embeddings": False},
    "one group a head": {"num_key_value_heads": 6, "tie_word_embeddings": False},
    "three groups": {"num_key_value_heads": 3, "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0}},
}
FAMILIES = {"qwen3": "Qwen3", "llama": "Llama"}


def their_model(family: str, **changes: Any) -> Any:
    """A model of transformers whose every weight is random, norms too."""
    config = getattr(transformers, FAMILIES[family] + "Config")(**{**SHAPE, **changes})
    model = getattr(transformers, FAMILIES[family] + "ForCausalLM")(config).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            noise = torch.randn(weight.shape, generator=generator)
            weight.copy_(noise * 0.15 if weight.ndim == 2 else 1 + 0.2 * noise)
    return model


def ids(*shape: int) -> torch.Tensor:
    return torch.randint(1, 131, shape, generator=torch.Generator().manual_seed(1))


def their_tokens(model: Any, prompt: torch.Tensor, count: int) -> list[list[int]]:
    model.generation_config = transformers.GenerationConfig(do_sample=False, pad_token_id=0)
    found = model.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=count)
    return found[:, prompt.shape[1] :].tolist()


def our_tokens(model: Decoder, prompt: torch.Tensor, count: int) -> list[list[int]]:
    return write(model, prompt.tolist(), max_tokens=count, sampling=GREEDY, way=best_instructions() or "torch")


@pytest.mark.parametrize("variant", list(VARIANTS))
@pytest.mark.parametrize("family", list(FAMILIES))
def test_what_transformers_saved_computes_the_same_here(family: str, variant: str, tmp_path: Path) -> None:
    theirs = their_model(family, **VARIANTS[variant])
    theirs.save_pretrained(tmp_path)
    ours = load_model(tmp_path)
    assert ours.config.parameters == sum(weight.numel() for weight in theirs.parameters())
    batch = ids(3, 100)
    with torch.no_grad():
        logits = theirs(batch).logits
        assert logits.std() > 0.5
        torch.testing.assert_close(ours(batch), logits, **TOLERANCE)
    assert our_tokens(ours, batch[:, :30], 64) == their_tokens(theirs, batch[:, :30], 64)


@pytest.mark.parametrize(
    "fields", [{}, {"tied": False}, {"qk_norm": False, "rope_theta": 77.0}, {"kv_heads": 4, "norm_epsilon": 1e-3}]
)
def test_what_we_save_computes_the_same_there(
    fields: dict, tmp_path: Path, make_model: Callable[..., Decoder], tiny_tokenizer: Tokenizer
) -> None:
    ours = make_model(vocabulary=tiny_tokenizer.vocabulary, context=128, **fields)
    save_model(tmp_path, ours, end=tiny_tokenizer.end)
    tiny_tokenizer.save(tmp_path, context=128)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    assert type(theirs).__name__ == ("Qwen3ForCausalLM" if ours.config.qk_norm else "LlamaForCausalLM")
    assert {weight.dtype for weight in theirs.parameters()} == {torch.float32}
    assert theirs.config.tie_word_embeddings is ours.config.tied
    assert theirs.generation_config.eos_token_id == theirs.generation_config.bos_token_id == tiny_tokenizer.end
    batch = ids(2, 100)
    with torch.no_grad():
        torch.testing.assert_close(ours(batch), theirs(batch).logits, **TOLERANCE)
    assert our_tokens(ours, batch[:, :30], 64) == their_tokens(theirs, batch[:, :30], 64)


LINES = [
    "会议决定，下周三之前由研发部提交报告。",
    "The committee met on Thursday; it's 3.14159, I'll say.",
    "  def f(x):\n\treturn x[0]  # 注释\r\n\n",
    "👨‍👩‍👧‍👦👍🏽🇨🇳 naïve café e\u0301 ﬁ①",
    "混合 mixed 文本text，without空格 and with　全角。",
    "",
    " ",
    "\x00\ufeff\u2028\ufffd",
]


def test_their_tokenizer_gives_our_ids_with_an_end_in_front(tmp_path: Path, tiny_tokenizer: Tokenizer) -> None:
    tiny_tokenizer.save(tmp_path, context=99)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    end = tiny_tokenizer.end
    assert (theirs.bos_token_id, theirs.eos_token_id, theirs.pad_token_id) == (end, end, end)
    assert (theirs.model_max_length, len(theirs)) == (99, tiny_tokenizer.vocabulary)
    for line in LINES:
        found = theirs(line)["input_ids"]
        assert found == [end, *tiny_tokenizer.encode(line)], line
        assert theirs.decode(found, skip_special_tokens=True) == line
    together = theirs(LINES, padding=True)
    assert [sum(mask) for mask in together["attention_mask"]] == [
        1 + len(tiny_tokenizer.encode(line)) for line in LINES
    ]


def test_a_whole_folder_writes_the_same_text(
    tmp_path: Path, make_model: Callable[..., Decoder], tiny_tokenizer: Tokenizer
) -> None:
    save_model(tmp_path, make_model(vocabulary=tiny_tokenizer.vocabulary, context=128), end=tiny_tokenizer.end)
    tiny_tokenizer.save(tmp_path, context=128)
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    for prompt in ("", "会议决定，", "The committee"):
        inputs = tokenizer(prompt, return_tensors="pt")
        settings = transformers.GenerationConfig(
            max_new_tokens=40, do_sample=False, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
        )
        found = model.generate(inputs["input_ids"], attention_mask=inputs["attention_mask"], generation_config=settings)
        text = tokenizer.decode(found[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        assert "".join(load(tmp_path).generate(prompt, max_tokens=40, sampling=GREEDY)) == text


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_weights_are_widened(dtype: torch.dtype, tmp_path: Path) -> None:
    their_model("qwen3").to(dtype).save_pretrained(tmp_path)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    ours = load_model(tmp_path)
    assert {weight.dtype for weight in ours.parameters()} == {torch.float32}
    with torch.no_grad():
        torch.testing.assert_close(ours(ids(1, 20)), theirs(ids(1, 20)).logits, **TOLERANCE)


@pytest.mark.parametrize("family", list(FAMILIES))
def test_names_and_shapes_survive_the_way_there_and_back(family: str, tmp_path: Path) -> None:
    theirs = their_model(family, tie_word_embeddings=False)
    weights = theirs.state_dict()
    there = from_hf(weights)
    assert set(there) == {name for name, _ in Decoder(load_config(theirs, tmp_path)).named_parameters()}
    back = to_hf(there)
    assert list(back) == list(weights)
    assert all(back[name] is weights[name] for name in weights)
    config = load_config(theirs, tmp_path)
    assert model_config_from_hf(model_config_to_hf(config, end=3), where=tmp_path) == config


def load_config(theirs: Any, folder: Path) -> Any:
    theirs.config.save_pretrained(folder)
    return model_config_from_hf(json.loads((folder / "config.json").read_text(encoding="utf-8")), where=folder)


def test_configs_of_older_versions_are_read(tmp_path: Path) -> None:
    """Version 4 of transformers wrote rope_theta beside rope_scaling, and no head_dim for Llama."""
    old = {name: value for name, value in SHAPE.items() if name not in ("head_dim", "rope_parameters")}
    config = model_config_from_hf(
        {**old, "model_type": "llama", "rope_theta": 500_000.0, "rope_scaling": None, "tie_word_embeddings": False},
        where=tmp_path,
    )
    assert (config.head_width, config.rope_theta, config.qk_norm, config.tied) == (12, 500_000.0, False, False)
    del old["num_key_value_heads"]
    config = model_config_from_hf({**old, "model_type": "llama"}, where=tmp_path)
    assert (config.kv_heads, config.rope_theta) == (6, 10_000.0)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"model_type": "gpt2"}, "gpt2"),
        ({"model_type": "qwen2"}, "qwen2"),
        ({"model_type": None}, "None"),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 4.0, "rope_theta": 1e6}}, "rope_type"),
        ({"rope_parameters": None, "rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_type"),
        ({"rope_parameters": None, "rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, "rope_type"),
        ({"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}}, "partial_rotary_factor"),
        ({"attention_bias": True}, "attention_bias"),
        ({"mlp_bias": True}, "mlp_bias"),
        ({"hidden_act": "gelu"}, "hidden_act"),
        ({"use_sliding_window": True, "sliding_window": 8}, "use_sliding_window"),
    ],
)
def test_what_we_do_not_compute_is_refused_by_name(changes: dict, named: str, tmp_path: Path) -> None:
    settings = {**SHAPE, "model_type": "llama", **changes}
    with pytest.raises(UserError, match=named):
        model_config_from_hf(settings, where=tmp_path / "config.json")


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("GPT2", {"n_embd": 32, "n_layer": 1, "n_head": 2, "vocab_size": 50, "n_positions": 16}),
        ("Qwen2", {**SHAPE, "head_dim": 12}),
        ("Llama", {**SHAPE, "attention_bias": True}),
        ("Llama", {**SHAPE, "rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}}),
    ],
)
def test_folders_of_other_models_are_refused(kind: str, changes: dict, tmp_path: Path) -> None:
    config = getattr(transformers, kind + "Config")(**changes)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"config\.json (is a model of type|uses)"):
        load(tmp_path)
