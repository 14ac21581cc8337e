"""A real Llama, tiny and trained, with SentencePiece's tokenizer: karpathy's stories260K, from llama2.c.

Its origin says what it writes at temperature 0, word for word.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
import torch
from safetensors.numpy import save_file
from tokenizers import AddedToken, decoders, models, normalizers, processors

from bimo.evaluate.prediction import predict_texts
from bimo.export.comparison import GREEDY, OurEngine
from bimo.export.source import open_source
from bimo.export.verb import export
from bimo.generate.engine import load
from bimo.text.documents import Document
from bimo.text.store import DocumentWriter
from bimo.weights.huggingface import load_model

CONTROLS = ["<unk>", "<s>", "</s>"]
STORY = """Once upon a time, there was a little girl named Lily. She loved to play outside in the park. One day, \
she saw a big, red ball. She wanted to play with it, but it was too high.
Lily's mom said, "Lily, let's go to the park." Lily was sad and didn't know what to do. She said, "I want to play \
with your ball, but I can't find it."
Lily was sad and didn't know what to do. She said, "I'm sorry, Lily. I didn't know what to do."
Lily didn't want to help her mom, so she said, "I'm sorry, mom. I didn't know what to do." Her mom said, "Don't \
worry, Lily. We can help you."""
"""As doc/stories260K.md of llama2.c has it."""


@pytest.fixture(scope="module")
def stories(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model as Hugging Face would have it."""
    origin, folder = shared_data / "models" / "stories260K", tmp_path_factory.mktemp("models") / "stories"
    folder.mkdir()
    write_weights(folder, (origin / "stories260K.bin").read_bytes())
    write_tokenizer(folder, [*pieces_of((origin / "tok512.bin").read_bytes())])
    return folder


def write_weights(folder: Path, raw: bytes) -> None:
    """`config.json` and `model.safetensors` from a checkpoint of llama2.c: seven numbers, then tensors in float32."""
    width, hidden, layers, heads, kv_heads, vocabulary, context = struct.unpack_from("<7i", raw)
    numbers, place = np.frombuffer(raw, "<f4", offset=28), 0

    def take(*shape: int) -> np.ndarray:
        nonlocal place
        place += (size := int(np.prod(shape)))
        return numbers[place - size : place].reshape(shape)

    kv_width = width // heads * kv_heads
    weights = {"model.embed_tokens.weight": take(vocabulary, width)}
    for name, *shape in (
        ("input_layernorm", width),
        ("self_attn.q_proj", width, width),
        ("self_attn.k_proj", kv_width, width),
        ("self_attn.v_proj", kv_width, width),
        ("self_attn.o_proj", width, width),
        ("post_attention_layernorm", width),
        ("mlp.gate_proj", hidden, width),
        ("mlp.down_proj", width, hidden),
        ("mlp.up_proj", hidden, width),
    ):
        for layer, weight in enumerate(take(layers, *shape)):
            rows = in_halves(weight, width // heads) if name in ("self_attn.q_proj", "self_attn.k_proj") else weight
            weights[f"model.layers.{layer}.{name}.weight"] = np.ascontiguousarray(rows)
    weights["model.norm.weight"] = take(width)
    take(2, context, width // heads // 2)  # cosines and sines
    assert place == len(numbers)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": vocabulary,
        "num_hidden_layers": layers,
        "hidden_size": width,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "intermediate_size": hidden,
        "max_position_embeddings": context,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-5,
        "rope_theta": 10_000.0,
        "tie_word_embeddings": True,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")


def in_halves(matrix: np.ndarray, head_width: int) -> np.ndarray:
    """Rows (2 i, 2 i + 1) of each head, which Meta turns together, to (i, i + K/2)."""
    return matrix.reshape(-1, head_width // 2, 2, matrix.shape[1]).swapaxes(1, 2).reshape(matrix.shape)


def pieces_of(raw: bytes) -> Iterator[tuple[str, float]]:
    """(piece, score) of each token of a tokenizer of llama2.c, which has blanks for SentencePiece's marks."""
    place = 4  # behind the length of the longest
    while place < len(raw):
        score, size = struct.unpack_from("<fi", raw, place)
        piece = raw[place + 8 : place + 8 + size].decode()
        yield piece.strip("\n").replace(" ", "▁"), score
        place += 8 + size


def write_tokenizer(folder: Path, pieces: list[tuple[str, float]]) -> None:
    """`tokenizer.json` and `tokenizer_config.json`, merges made of scores as transformers did it for Llama 2."""
    ids = {piece: number for number, (piece, _) in enumerate(pieces)}
    assert [*ids][:4] == [*CONTROLS, "<0x00>"]
    cuts = [
        (-score, ids[piece[:at]], ids[piece[at:]])
        for piece, score in pieces[259:]
        for at in range(1, len(piece))
        if {piece[:at], piece[at:]} <= ids.keys()
    ]
    merges = [(pieces[left][0], pieces[right][0]) for _, left, right in sorted(cuts)]
    inner = tokenizers.Tokenizer(models.BPE(ids, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    inner.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    inner.decoder = decoders.Sequence(steps)
    inner.add_special_tokens([AddedToken(token, normalized=False) for token in CONTROLS])
    inner.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    inner.save(str(folder / "tokenizer.json"))
    settings: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "<unk>"}
    settings |= {"bos_token": "<s>", "eos_token": "</s>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")


def test_it_writes_what_its_origin_says(stories: Path) -> None:
    written = "".join(load(stories).generate("Once upon a time", max_tokens=260, sampling=GREEDY))
    assert ("Once upon a time" + written).startswith(STORY)


def test_stories_surprise_it_as_its_origin_says_and_other_text_more(stories: Path, shared_data: Path) -> None:
    """There held-out stories take 1.2968 nats a token, in windows that are packed full."""
    sample = shared_data / "lm" / "tinystories_sample_2mb" / "tinystories_sample.txt"
    told = [text.strip() for text in sample.read_text(encoding="utf-8")[:60_000].split("<|endoftext|>")]
    model = load(stories)
    facts = predict_texts(model, [text for text in told if 200 < len(text) < 1000][:30])
    assert math.log(facts["perplexity"]) == pytest.approx(1.2968, rel=0.05)
    assert facts["bits_per_byte"] == pytest.approx(0.908, abs=0.002)
    assert predict_texts(model, ["The committee met on Thursday; parliament adjourned."])["bits_per_byte"] > 2


def test_transformers_computes_the_same(stories: Path) -> None:
    transformers = pytest.importorskip("transformers")
    theirs = transformers.LlamaForCausalLM.from_pretrained(stories, dtype=torch.float32)
    read = transformers.PreTrainedTokenizerFast.from_pretrained(stories)
    ours = OurEngine(open_source(stories))
    ids = read(STORY).input_ids
    assert ours.tokens(STORY) == ids
    start = ours.tokens("Once upon a time")
    with torch.no_grad():
        logits = load_model(stories)(torch.tensor([ids]))
        torch.testing.assert_close(logits, theirs(torch.tensor([ids])).logits, atol=1e-4, rtol=0)
        greedy = theirs.generate(torch.tensor([start]), max_new_tokens=64, do_sample=False)[0, len(start) :].tolist()
    assert ours.write([start], 64) == [greedy]
    assert STORY.startswith(read.decode(start + greedy, skip_special_tokens=True))


def test_llama_cpp_reads_and_writes_the_same(stories: Path, tmp_path: Path) -> None:
    pytest.importorskip("xllamacpp")
    with DocumentWriter(tmp_path / "data" / "documents", "validation") as writer:
        for text in ("Once upon a time", "  Lily  and 小明 👍🏽\n\n met Zoë; <s></s> <0x41>"):
            writer.write(Document(text, "a.txt", 0, "en"))
    path = tmp_path / "stories.gguf"
    found = export(stories, to="gguf", out=path, weights="f32", data=tmp_path / "data")["comparison"]
    assert found["engine"].startswith("llama.cpp")
    assert (found["equal_ids"], found["equal_special"], found["equal_greedy"]) == (2, True, 2)
    assert found["largest_difference"] < 1e-3
    written = "".join(load(path).generate("Once upon a time", max_tokens=64, sampling=GREEDY))
    assert STORY.startswith("Once upon a time" + written)
