"""Do transformers and Bimo compute the same? A table with a row for each family and direction.

    python benchmarks/parity.py            writes docs/parity.md

Tiny models whose every weight is random, shaped as published configs are. `theirs to ours`: transformers saved the
folder, Bimo reads it; `ours to theirs`: the other way round. Largest difference of logits in float32 over 20 prompts of
100 ids, and how many of 20 prompts go on with the same 64 greedy tokens (Marian: with the same best of four beams).
Then real weights, in windows spread evenly over text: what float32 itself costs is how far either is from transformers
in float64. Then tokenizers: ids of 1,000 lines of Chinese, English, code and emoji. Exits with 1 when tiny models
differ by more than 1e-4, or tokens or ids differ at all; distances of real weights are only shown.
"""

from __future__ import annotations

import argparse
import gzip
import inspect
import itertools
import json
import random
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tokenizers
import torch
import transformers
from packaged import minilm, smollm2

from bimo.export.hf import write_hf
from bimo.export.llama_cpp import XLlamaCpp
from bimo.export.source import open_source
from bimo.generate.batching import Batch, Request
from bimo.generate.beam import Beams, padded, search
from bimo.generate.sample import Sampling
from bimo.generate.stepping import open_steps
from bimo.tokens.tokenizer import load_tokenizer, train_tokenizer
from bimo.weights.huggingface import (
    load_encoder,
    load_model,
    load_translator,
    save_encoder,
    save_model,
    save_translator,
)

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
PAGE = Path(__file__).resolve().parents[1] / "docs" / "parity.md"
TOLERANCE, PROMPTS, LENGTH, NEW = 1e-4, 20, 100, 64
IDS, PAD = 131, 130

LLAMA = {
    "vocab_size": IDS,
    "hidden_size": 72,
    "intermediate_size": 100,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 192,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 0,
}
ROPE = {"rope_theta": 1e4, "original_max_position_embeddings": 48, "factor": 4.0}
DECODERS: dict[str, tuple[str, dict[str, Any]]] = {
    "GPT-2": ("GPT2", {"vocab_size": IDS, "n_embd": 72, "n_layer": 3, "n_head": 6, "n_positions": 192}),
    "Llama, tied": ("Llama", {**LLAMA, "tie_word_embeddings": True}),
    "Llama, untied, biases": ("Llama", {**LLAMA, "attention_bias": True, "mlp_bias": True}),
    "Llama, linear positions": ("Llama", {**LLAMA, "rope_parameters": {**ROPE, "rope_type": "linear"}}),
    "Llama 3.1 positions": (
        "Llama",
        {
            **LLAMA,
            "rope_parameters": {**ROPE, "rope_type": "llama3", "low_freq_factor": 1.0, "high_freq_factor": 4.0},
        },
    ),
    "Qwen2": ("Qwen2", LLAMA),
    "Qwen2, YaRN": ("Qwen2", {**LLAMA, "rope_parameters": {**ROPE, "rope_type": "yarn"}}),
    "Qwen3": ("Qwen3", {**LLAMA, "tie_word_embeddings": True}),
}
BERT = {
    "vocab_size": IDS,
    "hidden_size": 72,
    "intermediate_size": 100,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "max_position_embeddings": 128,
}
ENCODERS = ("BertModel", "BertForMaskedLM", "BertForSequenceClassification", "BertForQuestionAnswering")
MARIAN = {
    "vocab_size": IDS,
    "d_model": 48,
    "encoder_layers": 3,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 80,
    "decoder_ffn_dim": 80,
    "max_position_embeddings": 128,
    "scale_embedding": True,
    "pad_token_id": PAD,
    "decoder_start_token_id": PAD,
    "eos_token_id": 0,
    "forced_eos_token_id": None,
}


def randomised(model: Any) -> Any:
    """The model with every weight random, norms and biases too."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "embed_positions" not in name:
                noise = torch.randn(weight.shape, generator=generator)
                centre = weight.ndim < 2 and not name.endswith("bias")
                weight.copy_(centre + noise * (0.15 if weight.ndim == 2 else 0.2))
    return model.eval()


def prompts() -> torch.Tensor:
    """[PROMPTS, LENGTH]"""
    return torch.randint(1, PAD, (PROMPTS, LENGTH), generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def decoder_row(theirs: Any, ours: Any, ids: torch.Tensor | None = None) -> tuple[float, int]:
    """(Largest difference of logits, how many prompts go on alike.)"""
    ids = prompts() if ids is None else ids
    largest = (ours(ids) - theirs(ids).logits).abs().max().item()
    theirs.generation_config = transformers.GenerationConfig(do_sample=False, pad_token_id=0)
    expected = theirs.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=NEW)[:, ids.shape[1] :].tolist()
    batch = Batch(open_steps(ours))
    batch.reserve(len(ids), ids.shape[1] + NEW)
    found: dict[int, list[int]] = {batch.add(Request(row, NEW, Sampling(0.0))): [] for row in ids.tolist()}
    while batch.busy:
        for written in batch.step():
            found[written.ticket].append(written.token)
    return largest, sum(a == b for a, b in zip(found.values(), expected, strict=True))


@torch.no_grad()
def encoder_row(theirs: Any, ours: Any, ids: torch.Tensor | None = None) -> tuple[float, int | None]:
    """With padding and two segments."""
    ids = prompts() if ids is None else ids
    real = torch.arange(LENGTH) < torch.arange(LENGTH, LENGTH - PROMPTS * 4, -4)[:, None]
    segments = (torch.arange(LENGTH) > 40).long().expand(PROMPTS, LENGTH)
    found = theirs(input_ids=ids, attention_mask=real.long(), token_type_ids=segments)
    if "start_logits" in found:
        expected = torch.stack([found.start_logits, found.end_logits], dim=-1)
    else:
        expected = found.logits if "logits" in found else found.last_hidden_state
    apart = (ours(ids, segments=segments, real=real) - expected).abs()
    return (apart[real] if apart.shape[:2] == real.shape else apart).max().item(), None


@torch.no_grad()
def marian_row(theirs: Any, ours: Any) -> tuple[float, int]:
    """Sources and targets of several lengths."""
    rows = [row[: 5 + 4 * number] for number, row in enumerate(prompts().tolist())]
    source, real = padded([[*row, 0] for row in rows], pad=PAD)
    before = torch.full((PROMPTS, 12), PAD)
    before[:, 1:] = prompts()[:, :11]
    expected = theirs(input_ids=source, attention_mask=real.long(), decoder_input_ids=before).logits
    apart = (ours(source, real, before) - expected)[..., :PAD].abs().max().item()
    beams = theirs.generate(
        source, attention_mask=real.long(), num_beams=4, max_new_tokens=NEW, do_sample=False, early_stopping=True
    )
    found = search(ours, [[*row, 0] for row in rows], end=0, beams=Beams(width=4, max_tokens=NEW))
    alike = [
        hypotheses[0].ids == [number for number in row[1:].tolist() if number != PAD]
        for hypotheses, row in zip(found, beams, strict=True)
    ]
    return apart, sum(alike)


def both_ways(
    name: str, theirs: Any, read: Callable[[Path], Any], save: Callable[[Path, Any], None], compare: Callable[..., Any]
) -> list[list[str]]:
    """Two rows of the table."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        first, second = Path(folder) / "theirs", Path(folder) / "ours"
        theirs.save_pretrained(first)
        ours = read(first)
        save(second, ours)
        again = type(theirs).from_pretrained(second).eval()
        for way, pair in (("theirs to ours", (theirs, ours)), ("ours to theirs", (again, ours))):
            largest, alike = compare(*pair)
            rows.append([name, way, f"{largest:.1e}", "-" if alike is None else f"{alike} of {PROMPTS}"])
            print("  ".join(rows[-1]), flush=True)
    return rows


def lines() -> list[str]:
    """A quarter each: Chinese, English, code, and all of it with emoji."""
    quarter = 250
    english = (SHARED / "lm/tinyshakespeare/input.txt").read_text(encoding="utf-8").splitlines()
    code = inspect.getsource(argparse).splitlines()
    with gzip.open(SHARED / "lm/zh_modern_python_docs/zh_python_docs.txt.gz", "rt", encoding="utf-8") as chinese:
        parts = [list(itertools.islice(filter(str.strip, text), quarter)) for text in (chinese, english, code)]
    random_ = random.Random(0)
    emoji = ["👍🏽", "👨‍👩‍👧‍👦", "🇨🇳", "😀", "①", "ﬁ", "é"]
    mixed = [
        f"{a[:30]} {random_.choice(emoji)}{b[:30]}{random_.choice(emoji)}" for a, b in zip(*parts[:2], strict=True)
    ]
    return [line.rstrip("\n") for part in (*parts, mixed) for line in part]


@torch.no_grad()
def real_rows(folder: Path) -> list[list[str]]:
    """MiniLM as published; SmolLM2 from its GGUF, which transformers reads too, and from the exported folder."""
    gguf = smollm2()
    opened = open_source(gguf)
    write_hf(folder, opened, "F32")
    published = minilm()
    text = "\n".join(lines())
    automatic = transformers.AutoModelForCausalLM.from_pretrained
    bert = transformers.BertModel.from_pretrained(published, dtype=torch.float32)
    read = automatic(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    decoder = opened.language_model().model
    cases = (
        (
            "MiniLM-L6",
            "theirs to ours",
            bert,
            load_encoder(published),
            load_tokenizer(published),
            encoder_row,
            LENGTH,
        ),
        ("SmolLM2-135M", "theirs to ours", read, decoder, opened.tokenizer, decoder_row, 32),
        ("SmolLM2-135M", "ours to theirs", automatic(folder), decoder, opened.tokenizer, decoder_row, 32),
    )
    rows = []
    for name, way, theirs, ours, tokenizer, compare, length in cases:
        encoded = torch.tensor(tokenizer.encode(text))
        starts = torch.linspace(0, len(encoded) - length, PROMPTS).long()
        ids = encoded[starts[:, None] + torch.arange(length)]
        largest, alike = compare(theirs.eval(), ours, ids)
        theirs_single, ours_single = theirs(ids)[0], ours(ids)
        exact = theirs.double()(ids)[0]
        apart = [(single - exact).abs().max().item() for single in (theirs_single, ours_single)]
        same = "-" if alike is None else f"{alike} of {PROMPTS}"
        rows.append([name, way, *(f"{number:.1e}" for number in (largest, *apart)), same])
        print("  ".join(rows[-1]), flush=True)
    return rows


def llama_like(folder: Path, texts: list[str]) -> None:
    """A tokenizer as Llama's: words begin with a mark, characters that no token has are spelt in bytes."""
    inner = tokenizers.Tokenizer(tokenizers.models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    inner.normalizer = tokenizers.normalizers.Sequence(
        [tokenizers.normalizers.Prepend("▁"), tokenizers.normalizers.Replace(" ", "▁")]
    )
    special = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=2000, special_tokens=special, limit_alphabet=1000, max_token_length=8, show_progress=False
    )
    inner.train_from_iterator(texts, trainer)
    settings = json.loads(inner.to_str())
    settings["added_tokens"] = settings["added_tokens"][:3]  # bytes are no special tokens
    inner = tokenizers.Tokenizer.from_str(json.dumps(settings))
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained(folder)


def tokenizer_rows(exported: Path) -> list[list[str]]:
    """Each kind: ids here beside those of transformers from the same folder, at last beside those of llama.cpp."""
    texts, rows = lines(), []
    with tempfile.TemporaryDirectory() as folder:
        trained, gpt2, bert, llama = (Path(folder) / name for name in ("trained", "gpt2", "bert", "llama"))
        trained.mkdir()
        train_tokenizer(texts, vocabulary=2000).save(trained)
        stored = SHARED / "models/gpt2_tokenizer"
        names = (str(stored / "gpt2_vocab.json"), str(stored / "gpt2_merges.txt"))
        transformers.GPT2Tokenizer(*names).save_pretrained(gpt2)
        transformers.BertTokenizer(str(SHARED / "models/bert_chinese_vocab/vocab.txt")).save_pretrained(bert)
        llama_like(llama, texts)
        for name, place in (
            ("byte-level BPE, trained here", trained),
            ("GPT-2", gpt2),
            ("BERT, Chinese", bert),
            ("MiniLM-L6", minilm()),
            ("like Llama's, with bytes for what it does not know", llama),
            ("SmolLM2, exported from its GGUF", exported),
        ):
            ours, theirs = load_tokenizer(place), transformers.AutoTokenizer.from_pretrained(place)
            same = sum(ours.encode(text) == theirs(text, add_special_tokens=False).input_ids for text in texts)
            rows.append([name, f"{same} of {len(texts)}"])
            print("  ".join(rows[-1]), flush=True)
        gguf = smollm2()
        opened = open_source(gguf)
        engine = XLlamaCpp(gguf, opened)
        same = sum(opened.tokenizer.encode(text) == engine.tokens(text) for text in texts)
        rows.append(["SmolLM2's GGUF in llama.cpp", f"{same} of {len(texts)}"])
        print("  ".join(rows[-1]), flush=True)
    return rows


def table(head: list[str], rows: list[list[str]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)]


def main() -> int:
    transformers.utils.logging.set_verbosity_error()
    rows: list[list[str]] = []
    for name, (family, fields) in DECODERS.items():
        kind = "GPT2LMHeadModel" if family == "GPT2" else f"{family}ForCausalLM"
        theirs = randomised(getattr(transformers, kind)(getattr(transformers, f"{family}Config")(**fields)))
        rows += both_ways(name, theirs, load_model, lambda f, m: save_model(f, m, end=0), decoder_row)
    for kind in ENCODERS:
        theirs = randomised(getattr(transformers, kind)(transformers.BertConfig(**BERT)))
        rows += both_ways(kind, theirs, load_encoder, lambda f, m: save_encoder(f, m, pad=0), encoder_row)
    theirs = randomised(transformers.MarianMTModel(transformers.MarianConfig(**MARIAN)))
    rows += both_ways("Marian", theirs, load_translator, lambda f, m: save_translator(f, m, end=0), marian_row)
    with tempfile.TemporaryDirectory() as folder:
        real = real_rows(Path(folder))
        same_ids = tokenizer_rows(Path(folder))
    fine = all(float(row[2]) <= TOLERANCE and row[3] in ("-", f"{PROMPTS} of {PROMPTS}") for row in rows)
    fine &= all(row[-1] in ("-", f"{PROMPTS} of {PROMPTS}") for row in real)
    fine &= all(row[1].split(" of ")[0] == row[1].split(" of ")[1] for row in same_ids)
    page = [
        "# The same numbers elsewhere",
        "",
        "Made by `python benchmarks/parity.py`: what is compared, and how, stands at its top. With transformers",
        f"{transformers.__version__}, torch {torch.__version__}.",
        "",
        *table(["family", "direction", "largest difference of logits", "same 64 greedy tokens"], rows),
        "",
        "Real weights, whose logits are larger. The last two distances are from transformers in float64: float32",
        "itself costs that much. SmolLM2 comes out of its GGUF by the reader of transformers (theirs to ours), or",
        "out of the folder that Bimo exported (ours to theirs).",
        "",
        *table(
            ["model", "direction", "difference", "theirs from float64", "ours from float64", "same greedy tokens"],
            real,
        ),
        "",
        *table(["tokenizer", "lines with the same ids"], same_ids),
    ]
    PAGE.write_text("\n".join(page) + "\n", encoding="utf-8")
    print(json.dumps({"parity": rows, "real": real, "tokenizers": same_ids, "fine": fine}, ensure_ascii=False))
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
