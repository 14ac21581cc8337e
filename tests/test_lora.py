"""Adapters: nothing at first, only they learn, they come and go beside one base, merged they are the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from gguf_files import Q8_0, tokenizer_metadata, write_model
from random_models import GPT2_FIELDS
from safetensors.torch import load_file, save_file

from bimo.files import read_json, write_json
from bimo.generate.engine import load
from bimo.generate.sample import Sampling
from bimo.models.families import build, choose_family
from bimo.models.lora import (
    Adapter,
    LoRAConfig,
    adapter_of,
    attach_adapter,
    detach_adapter,
    is_adapted,
    merge_adapter,
    new_adapter,
)
from bimo.runtime import UserError
from bimo.tokens.chat import PLAIN
from bimo.train.checkpoint import load_newest, save_checkpoint
from bimo.train.losses import IGNORED, answer_loss
from bimo.weights.adapters import _split, load_adapter, merged, save_adapter
from bimo.weights.gguf import read_gguf
from bimo.weights.huggingface import save_model
from bimo.weights.opening import adapter_chat_format, open_model

SHAPES: dict[str, dict[str, Any]] = {
    "Qwen3": {},
    "Qwen2": {"qk_norm": False, "biases": "qkv"},
    "GPT-2": GPT2_FIELDS,
}
IDS = torch.randint(1, 97, (2, 20), generator=torch.Generator().manual_seed(0))


def random_adapter(model: Any, seed: int = 0, **fields: Any) -> Adapter:
    """One that does something."""
    adapter = new_adapter(model, LoRAConfig(**{"rank": 3, **fields}), seed=seed)
    generator = torch.Generator().manual_seed(seed)
    weights = {
        name: (down, 0.2 * torch.randn(up.shape, generator=generator)) for name, (down, up) in adapter.weights.items()
    }
    return Adapter(adapter.config, weights)


@pytest.fixture(params=SHAPES)
def model(request: Any, make_model: Any) -> Any:
    return make_model(**SHAPES[request.param])


def test_a_new_adapter_does_nothing(model):
    before = model(IDS)
    attach_adapter(model, new_adapter(model, LoRAConfig(), seed=0))
    assert torch.equal(model(IDS), before)


def test_an_adapter_goes_where_its_matrix_is(model):
    elsewhere = model.to("meta")
    attach_adapter(elsewhere, new_adapter(elsewhere, LoRAConfig(), seed=0))
    assert {weight.device.type for weight in elsewhere.parameters()} == {"meta"}


def test_only_the_adapter_learns(model):
    adapter = new_adapter(model, LoRAConfig(targets=("query", "down")), seed=0)
    attach_adapter(model, adapter)
    trained = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    assert sum(weight.numel() for weight in trained.values()) == adapter.parameters
    assert {name.rsplit(".", 3)[-3] for name in trained} == {"query", "down"}
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    optimizer = torch.optim.AdamW([weight for weight in model.parameters() if weight.requires_grad], lr=0.1)
    targets = np.where(np.arange(19) > 9, IDS[:, 1:].numpy(), IGNORED)
    for _ in range(3):
        loss, counted = answer_loss(model, (IDS[:, :-1].numpy(), targets))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert counted == 18
    changed = {name for name, weight in model.named_parameters() if not torch.equal(weight, before[name])}
    assert changed == set(trained)


def test_a_checkpoint_holds_the_adapter_alone(model, tmp_path):
    adapter = random_adapter(model)
    attach_adapter(model, adapter)
    expected = model(IDS)
    path = save_checkpoint(tmp_path, model, [], {"step": 1}, step=1)
    saved = load_file(path / "weights.safetensors")
    assert sum(weight.numel() for weight in saved.values()) == adapter.parameters
    attach_adapter(model, new_adapter(model, adapter.config, seed=5))
    assert load_newest(tmp_path, model, []) == {"step": 1}
    assert torch.equal(model(IDS), expected)


def test_adapters_come_and_go_beside_one_base(model):
    before = model(IDS)
    weights = {name: weight.data_ptr() for name, weight in model.named_parameters()}
    one, other = random_adapter(model, 1), random_adapter(model, 2, targets=("out",))
    results = []
    for adapter in (one, other, one):
        attach_adapter(model, adapter)
        results.append(model(IDS))
    assert torch.equal(results[0], results[2])
    assert (results[0] - results[1]).abs().max() > 0.1
    assert is_adapted(model)
    detach_adapter(model)
    assert not is_adapted(model)
    assert torch.equal(model(IDS), before)
    assert {name: weight.data_ptr() for name, weight in model.named_parameters()} == weights
    assert all(weight.requires_grad for weight in model.parameters())


def test_merged_it_computes_the_same(model):
    adapter = random_adapter(model)
    attach_adapter(model, adapter)
    expected = model(IDS)
    detach_adapter(model)
    merge_adapter(model, adapter)
    torch.testing.assert_close(model(IDS), expected, atol=1e-4, rtol=1e-4)


def test_an_adapter_for_another_model_is_refused(make_model):
    adapter = random_adapter(make_model(width=32))
    with pytest.raises(UserError, match=r"another model: its layers.0.attention.query does not fit"):
        attach_adapter(make_model(), adapter)
    with pytest.raises(UserError, match="another model"):
        merge_adapter(make_model(layers=1), random_adapter(make_model()))


@pytest.mark.parametrize("wrong", [{"rank": 0}, {"alpha": 0.0}, {"alpha": float("nan")}])
def test_numbers_out_of_range_are_refused(wrong):
    with pytest.raises(UserError, match="rank must be at least 1 and its alpha above 0"):
        LoRAConfig(**wrong)


def test_an_unknown_target_is_refused_with_those_there_are(make_model):
    with pytest.raises(UserError, match=r"no matrix qeury to adapt. This model has: query, key, value, out, gate"):
        new_adapter(make_model(), LoRAConfig(targets=("query", "qeury")), seed=0)


def test_a_family_without_matrices_to_adapt_is_named():
    lstm = choose_family("lstm").shape(vocabulary=16, context=8, layers=1, width=8)
    with pytest.raises(UserError, match="has no matrices for an adapter: tune it without --lora"):
        new_adapter(build(lstm), LoRAConfig(), seed=0)


def test_files_keep_all_of_it(make_model, tmp_path):
    model = make_model()
    adapter = random_adapter(model, alpha=5.0, targets=("value", "gate"))
    attach_adapter(model, adapter)
    save_adapter(tmp_path, adapter_of(model, adapter.config), model.config, base="here")
    found = load_adapter(tmp_path, model.config)
    assert found.config == adapter.config
    assert found.weights.keys() == adapter.weights.keys()
    for name, pair in adapter.weights.items():
        assert all(torch.equal(one, other) for one, other in zip(pair, found.weights[name], strict=True))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]


@pytest.mark.parametrize("targets", [(), ("query", "value"), ("key", "up")])
def test_joined_matrices_are_parted_again(targets, make_model, tmp_path):
    """Hugging Face has GPT-2's queries, keys and values in one matrix, so its adapter is one, too."""
    model = make_model(**SHAPES["GPT-2"])
    adapter = random_adapter(model, targets=targets)
    attach_adapter(model, adapter)
    expected = model(IDS)
    save_adapter(tmp_path, adapter, model.config, base="here")
    attach_adapter(model, load_adapter(tmp_path, model.config))
    torch.testing.assert_close(model(IDS), expected, atol=1e-5, rtol=1e-5)


def test_broken_adapters_are_refused_with_a_sentence(make_model, tmp_path):
    model = make_model()
    save_adapter(tmp_path, random_adapter(model, targets=("query",)), model.config, base="here")
    settings, tensors = read_json(tmp_path / "adapter_config.json"), load_file(tmp_path / "adapter_model.safetensors")
    first = next(iter(tensors))

    def refused(sentence: str, *, settings: Any = settings, tensors: Any = tensors) -> None:
        write_json(tmp_path / "adapter_config.json", settings)
        save_file(tensors, tmp_path / "adapter_model.safetensors")
        with pytest.raises(UserError, match=sentence):
            load_adapter(tmp_path, model.config)

    refused("does not describe a LoRA adapter", settings={**settings, "peft_type": "IA3"})
    refused("it is no JSON object", settings=[])
    refused("uses use_dora", settings={**settings, "use_dora": True})
    refused("uses init_lora_weights", settings={**settings, "init_lora_weights": "pissa"})
    refused("does not describe a LoRA adapter", settings={**settings, "r": 3.5})
    refused("does not describe a LoRA adapter", settings={**settings, "lora_alpha": None})
    refused("does not describe a LoRA adapter", settings={**settings, "lora_alpha": 10**400})
    refused("does not describe a LoRA adapter", settings={**settings, "lora_alpha": 5e-324})
    refused("uses modules_to_save", settings={**settings, "modules_to_save": ["lm_head"]})
    refused("uses modules_to_save", settings={**settings, "modules_to_save": "pooler"})
    refused(
        "lm_head..classifier",
        tensors={**tensors, "lm_head..classifier.weight": tensors[first].clone()},
        settings={**settings, "modules_to_save": ["classifier"]},
    )
    refused("does not describe a LoRA adapter", settings={**settings, "alpha_pattern": {"layers.*": 3}})
    refused("does not describe a LoRA adapter", settings={**settings, "rank_pattern": {"q_proj": "3"}})
    refused("do not go with its rank", settings={**settings, "rank_pattern": {"q_proj": 2}})
    refused("do not go with its rank", settings={**settings, "r": 4})
    refused("do not go with its rank", tensors={first: tensors[first]})
    refused("no matrix of finite numbers", tensors={**tensors, first: tensors[first] * float("nan")})
    refused("no matrix of finite numbers", tensors={**tensors, first: tensors[first][0].clone()})
    refused("holds no weights", tensors={})
    refused("holds lm_head.lora_magnitude.x", tensors={"lm_head.lora_magnitude.x": tensors[first]})
    refused("holds .*q_proj.lora_X", tensors={first.replace("lora_A", "lora_X"): tensors[first]})
    (tmp_path / "adapter_model.safetensors").write_bytes(b"12345678")
    with pytest.raises(UserError, match="is damaged"):
        load_adapter(tmp_path, model.config)
    (tmp_path / "adapter_model.safetensors").unlink()
    with pytest.raises(UserError, match="is not an adapter"):
        load_adapter(tmp_path, model.config)


@pytest.mark.parametrize("kind", ["folder", "gguf"])
def test_a_model_in_use_writes_with_an_adapter(kind, make_model, tiny_tokenizer, tmp_path):
    """The kernel on merged weights, and the torch model with the adapter beside them, choose the same tokens."""
    model = make_model(vocabulary=tiny_tokenizer.vocabulary, width=32, heads=2, head_width=32, hidden=64, qk_norm=False)
    adapter = random_adapter(model, targets=("query", "down"))
    save_adapter(tmp_path / "adapter", adapter, model.config, base="here")
    path = tmp_path / "model"
    if kind == "folder":
        save_model(path, model, end=tiny_tokenizer.end)
        tiny_tokenizer.save(path)
    else:
        path = write_model(path.with_suffix(".gguf"), model, "llama", **tokenizer_metadata(tiny_tokenizer))
    greedy = Sampling(temperature=0.0)
    plain = "".join(load(path).generate("The", max_tokens=20, sampling=greedy))
    adapted = load(path, adapter=tmp_path / "adapter")
    text = "".join(adapted.generate("The", max_tokens=20, sampling=greedy))
    attach_adapter(model, adapter)
    ids = [*adapted.tokenizer.begin, *tiny_tokenizer.encode("The")]
    start = len(ids)
    for _ in range(20):
        ids.append(int(model(torch.tensor([ids]))[0, -1].argmax()))
    assert text == tiny_tokenizer.decode(ids[start:])
    assert text != plain


@pytest.mark.parametrize("place", ["chat_template.jinja", "tokenizer_config.json"])
def test_an_adapter_may_bring_its_own_template(place, make_model, tiny_tokenizer, tmp_path):
    model = make_model(vocabulary=tiny_tokenizer.vocabulary)
    save_model(tmp_path, model, end=tiny_tokenizer.end)
    tiny_tokenizer.save(tmp_path)
    folder = tmp_path / "adapter"
    save_adapter(folder, random_adapter(model), model.config, base="here")
    base = open_model(tmp_path)
    assert adapter_chat_format(folder, base).template.source == PLAIN
    (folder / place).write_text("mine" if place.endswith("jinja") else '{"chat_template": "mine"}')
    assert adapter_chat_format(folder, base).template.source == "mine"


def test_of_a_gguf_file_only_what_changes_is_widened(make_model, tmp_path):
    model = make_model(width=32, heads=2, head_width=32, hidden=64, qk_norm=False)
    stored = read_gguf(write_model(tmp_path / "a.gguf", model, "llama", form=Q8_0))
    adapter = random_adapter(model, targets=("value",))
    result = merged(stored, adapter)
    formats = {name: matrix.format for name, matrix in result.weights.items() if matrix.rows > 1}
    widened = {name.removesuffix(".weight") for name, format in formats.items() if format == "F32"}
    assert widened == set(adapter.weights)
    base = stored.decoder()
    attach_adapter(base, adapter)
    torch.testing.assert_close(result.decoder()(IDS), base(IDS), atol=1e-4, rtol=1e-4)


def test_joined_matrices_that_are_no_three_are_refused() -> None:
    with pytest.raises(UserError, match="do not go with its rank"):
        _split("layers.0.attention.joined", torch.zeros(2, 8), torch.zeros(4, 2))
