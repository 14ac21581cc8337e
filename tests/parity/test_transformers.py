"""Folders go both ways: what transformers saved we load, what we saved transformers loads, with the same numbers."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from random_models import THEIR_SHAPE, randomised
from safetensors.torch import load_file, save_file
from writing import write

from bimo.generate.engine import load
from bimo.generate.sample import Sampling
from bimo.kernel import best_instructions
from bimo.models.transformer import Decoder
from bimo.runtime import UserError
from bimo.tokens.tokenizer import Tokenizer
from bimo.weights.huggingface import load_model, save_model
from bimo.weights.layouts import from_hf, model_config_from_hf, model_config_to_hf, to_hf

transformers = pytest.importorskip("transformers")

GREEDY = Sampling(0.0)
TOLERANCE = {"atol": 1e-4, "rtol": 1e-4}

SHAPE = {**THEIR_SHAPE, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
VARIANTS = {
    "tied": {"tie_word_embeddings": True},
    "untied": {"tie_word_embeddings": False},
    "one group a head": {"num_key_value_heads": 6, "tie_word_embeddings": False},
    "three groups": {"num_key_value_heads": 3, "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0}},
}
FAMILIES = {"qwen3": "Qwen3", "qwen2": "Qwen2", "llama": "Llama"}
ROPE = {"rope_theta": 10_000.0, "original_max_position_embeddings": 32}
FEATURES = {
    "llama with biases of attention": ("llama", {"attention_bias": True}),
    "llama with all biases": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "qwen3 with biases": ("qwen3", {"attention_bias": True}),
    "linear": ("llama", {"rope_parameters": {"rope_type": "linear", "rope_theta": 5e4, "factor": 4.0}}),
    "dynamic": ("llama", {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 5e4, "factor": 4.0}}),
    "llama3": (
        "llama",
        {
            "rope_parameters": {
                **ROPE,
                "rope_type": "llama3",
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
            }
        },
    ),
    "yarn": ("qwen2", {"rope_parameters": {**ROPE, "rope_type": "yarn", "factor": 4.0}}),
    "yarn with all its settings": (
        "qwen3",
        {
            "rope_parameters": {
                **ROPE,
                "rope_type": "yarn",
                "factor": 4.0,
                "beta_fast": 16.0,
                "beta_slow": 2.0,
                "attention_factor": 1.3,
                "truncate": False,
            }
        },
    ),
    "yarn as DeepSeek has it": (
        "llama",
        {"rope_parameters": {**ROPE, "rope_type": "yarn", "factor": 4.0, "mscale": 0.7, "mscale_all_dim": 1.1}},
    ),
}
"""What published configs ask for beyond the plain shape."""


def their_model(family: str, **changes: Any) -> Any:
    """A model of transformers whose every weight is random, norms too."""
    config = getattr(transformers, FAMILIES[family] + "Config")(**{**SHAPE, **changes})
    return randomised(getattr(transformers, FAMILIES[family] + "ForCausalLM")(config), size=0.15)


def their_gpt2(**changes: Any) -> Any:
    """A GPT-2 of transformers whose every weight is random."""
    sizes = {"vocab_size": 131, "n_embd": 72, "n_layer": 3, "n_head": 6, "n_positions": 128}
    ids_ = {"bos_token_id": 0, "eos_token_id": 0}
    return randomised(transformers.GPT2LMHeadModel(transformers.GPT2Config(**{**sizes, **ids_, **changes})), size=0.15)


def check_same(theirs: Any, folder: Path) -> None:
    """What transformers saved in the folder computes the same here, and what we save of it the same there again."""
    ours = load_model(folder)
    assert ours.config.parameters == sum(weight.numel() for weight in theirs.parameters())
    prompts = ids(20, 100)
    with torch.no_grad():
        logits = theirs(prompts).logits
        assert logits.std() > 0.3
        torch.testing.assert_close(ours(prompts), logits, **TOLERANCE)
    tokens = their_tokens(theirs, prompts[:, :30], 64)
    check_tokens(theirs, prompts[:, :30], our_tokens(ours, prompts[:, :30], 64), tokens)
    back = folder / "back"
    save_model(back, ours, end=0)
    again = transformers.AutoModelForCausalLM.from_pretrained(back)
    assert type(again) is type(theirs)
    with torch.no_grad():
        torch.testing.assert_close(again(prompts).logits, logits, **TOLERANCE)
    assert their_tokens(again, prompts[:, :30], 64) == tokens
    assert load_model(back).config == ours.config


@pytest.mark.parametrize("feature", list(FEATURES))
def test_features_of_published_configs_go_both_ways(feature: str, tmp_path: Path) -> None:
    family, changes = FEATURES[feature]
    theirs = their_model(family, **changes)
    theirs.save_pretrained(tmp_path)
    check_same(theirs, tmp_path)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"n_inner": 100},
        {"activation_function": "relu"},
        {"activation_function": "gelu", "tie_word_embeddings": False},
    ],
)
def test_gpt2_goes_both_ways(changes: dict[str, Any], tmp_path: Path) -> None:
    theirs = their_gpt2(**changes)
    theirs.save_pretrained(tmp_path)
    check_same(theirs, tmp_path)


def test_gpt2_as_it_was_first_published_is_read(tmp_path: Path) -> None:
    """Without the prefix of its names, and with its masks among the weights."""
    theirs = their_gpt2()
    theirs.save_pretrained(tmp_path)
    old = {name.removeprefix("transformer."): w for name, w in theirs.state_dict().items() if name != "lm_head.weight"}
    masks = {f"h.{layer}.attn.bias": torch.ones(1, 1, 128, 128) for layer in range(3)}
    save_file({**{name: w.contiguous() for name, w in old.items()}, **masks}, tmp_path / "model.safetensors")
    with torch.no_grad():
        torch.testing.assert_close(load_model(tmp_path)(ids(2, 50)), theirs(ids(2, 50)).logits, **TOLERANCE)


def heads_changed(theirs: Any, folder: Path, *, keep: str = "") -> dict[str, torch.Tensor]:
    """What the folder holds once its weights name the output matrix too: another than the embedding, or it alone."""
    theirs.save_pretrained(folder)
    weights = load_file(folder / "model.safetensors")
    (embedding,) = (name for name in weights if name.endswith(("embed_tokens.weight", "wte.weight")))
    weights["lm_head.weight"] = weights[embedding].flip(0).contiguous() if keep == "both" else weights.pop(embedding)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return weights


@pytest.mark.parametrize("keep", ["both", "the head alone"])
@pytest.mark.parametrize("family", ["qwen2", "gpt2"])
def test_an_output_matrix_in_the_weights_counts_above_what_the_config_says(
    family: str, keep: str, tmp_path: Path
) -> None:
    theirs = their_gpt2() if family == "gpt2" else their_model(family, tie_word_embeddings=True)
    heads_changed(theirs, tmp_path, keep=keep)
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert load_model(tmp_path).config.tied == (keep != "both")
    check_same(again, tmp_path)


def test_a_copy_of_the_embedding_is_no_output_matrix_of_its_own(tmp_path: Path) -> None:
    theirs = their_model("qwen2", tie_word_embeddings=True)
    weights = heads_changed(theirs, tmp_path)
    save_file(
        {**weights, "model.embed_tokens.weight": weights["lm_head.weight"].clone()}, tmp_path / "model.safetensors"
    )
    assert load_model(tmp_path).config.tied


def test_frequencies_among_the_weights_are_left_out(tmp_path: Path) -> None:
    """As in Llamas that were made before transformers 4.32."""
    theirs = their_model("llama")
    theirs.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    weights |= {f"model.layers.{layer}.self_attn.rotary_emb.inv_freq": torch.ones(6) for layer in range(3)}
    save_file(weights, tmp_path / "model.safetensors")
    with torch.no_grad():
        torch.testing.assert_close(load_model(tmp_path)(ids(2, 50)), theirs(ids(2, 50)).logits, **TOLERANCE)


def test_weights_in_several_files_are_read(tmp_path: Path) -> None:
    theirs = their_model("qwen2")
    theirs.save_pretrained(tmp_path, max_shard_size="100KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    with torch.no_grad():
        torch.testing.assert_close(load_model(tmp_path)(ids(2, 50)), theirs(ids(2, 50)).logits, **TOLERANCE)
    index = tmp_path / "model.safetensors.index.json"
    for bad in ('{"weight_map": {"a": "../elsewhere.safetensors"}}', '{"weight_map": 3}', "[]"):
        index.write_text(bad, encoding="utf-8")
        with pytest.raises(UserError, match="in which files"):
            load_model(tmp_path)
    index.write_text('{"weight_map": {"a": "model-9.safetensors"}}', encoding="utf-8")
    with pytest.raises(UserError, match=r"model-9\.safetensors cannot be used: there is no such file"):
        load_model(tmp_path)


def ids(*shape: int) -> torch.Tensor:
    return torch.randint(1, 131, shape, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def check_tokens(theirs: Any, prompts: torch.Tensor, found: list[list[int]], expected: list[list[int]]) -> None:
    """The same greedy tokens, or other ones from where their model holds two tokens to be equally good.

    Random models come to such ties, and which token wins then depends on the order in which a processor adds.
    """
    for prompt, mine, other in zip(prompts.tolist(), found, expected, strict=True):
        parted = next((place for place, pair in enumerate(zip(mine, other, strict=True)) if pair[0] != pair[1]), None)
        if parted is not None:
            logits = theirs(torch.tensor([[*prompt, *other[:parted]]])).logits[0, -1]
            assert abs(float(logits[mine[parted]] - logits[other[parted]])) < 2 * TOLERANCE["atol"]


def their_tokens(model: Any, prompt: torch.Tensor, count: int) -> list[list[int]]:
    model.generation_config = transformers.GenerationConfig(do_sample=False, pad_token_id=0)
    found = model.generate(prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=count)
    return found[:, prompt.shape[1] :].tolist()


def our_tokens(model: Decoder, prompt: torch.Tensor, count: int) -> list[list[int]]:
    way = best_instructions() if model.config.runs_in_kernel else None
    return write(model, prompt.tolist(), max_tokens=count, sampling=GREEDY, way=way or "torch")


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
    check_tokens(theirs, batch[:, :30], our_tokens(ours, batch[:, :30], 64), their_tokens(theirs, batch[:, :30], 64))


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
    check_tokens(theirs, batch[:, :30], our_tokens(ours, batch[:, :30], 64), their_tokens(theirs, batch[:, :30], 64))


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
    config = load_config(theirs, tmp_path)
    there = from_hf(weights, config)
    assert set(there) == {name for name, _ in Decoder(config).named_parameters()}
    back = to_hf(there, config)
    assert list(back) == list(weights)
    assert all(back[name] is weights[name] for name in weights)
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
    "rope",
    [
        {"rope_parameters": {"rope_type": "default"}, "rope_scaling": {"rope_type": "linear", "factor": 2.0}},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}, "rope_theta": 1e6},
        {"rope_scaling": {"type": "linear", "factor": 2.0}, "rope_theta": 1e6},
    ],
)
def test_what_is_said_twice_of_rotary_positions_is_read_as_transformers_reads_it(rope: dict, tmp_path: Path) -> None:
    settings = {name: value for name, value in SHAPE.items() if name != "rope_parameters"} | {"model_type": "llama"}
    theirs = transformers.LlamaConfig.from_dict(copy.deepcopy(settings | rope)).rope_parameters
    ours = model_config_from_hf(settings | rope, where=tmp_path)
    scaling = ours.rope_scaling
    assert (ours.rope_theta, scaling.kind if scaling else "default") == (theirs["rope_theta"], theirs["rope_type"])
    assert (scaling.factor if scaling else None) == theirs.get("factor")


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"model_type": "mamba"}, "mamba"),
        ({"model_type": None}, "None"),
        ({"rope_parameters": {"rope_type": "longrope", "factor": 4.0, "rope_theta": 1e6}}, "rope_type"),
        ({"rope_parameters": None, "rope_scaling": {"type": "linear"}}, "not complete: 'factor'"),
        ({"rope_parameters": None, "rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, "not complete: 'low_freq"),
        (
            {"rope_parameters": {**ROPE, "rope_type": "yarn", "factor": 4.0, "beta_fast": 1e308}},
            "cannot be computed with",
        ),
        ({"rope_parameters": {**ROPE, "rope_type": "yarn", "factor": 4.0, "beta_slow": 1e-320}}, "cannot be computed"),
        ({"rope_parameters": {**ROPE, "rope_type": "yarn", "factor": 4.0, "rope_theta": 1}}, "cannot be computed with"),
        ({"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}}, "partial_rotary_factor"),
        ({"mlp_bias": True}, "mlp_bias"),
        ({"hidden_act": "gelu"}, "hidden_act"),
        ({"use_sliding_window": True, "sliding_window": 8}, "use_sliding_window"),
        ({"model_type": "gpt2", "add_cross_attention": True}, "add_cross_attention"),
    ],
)
def test_what_we_do_not_compute_is_refused_by_name(changes: dict, named: str, tmp_path: Path) -> None:
    settings = {**SHAPE, "model_type": "llama", **changes}
    with pytest.raises(UserError, match=named):
        model_config_from_hf(settings, where=tmp_path / "config.json")


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("GPTNeo", {"hidden_size": 32, "num_layers": 1, "attention_types": [[["global"], 1]], "num_heads": 2}),
        ("Llama", {**SHAPE, "hidden_act": "gelu"}),
    ],
)
def test_folders_of_other_models_are_refused(kind: str, changes: dict, tmp_path: Path) -> None:
    config = getattr(transformers, kind + "Config")(**changes)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"config\.json (is a model of type|uses)"):
        load(tmp_path)
