"""BERT folders go both ways with the same numbers, whatever their head; WordPiece tokenizers give the same ids."""

from __future__ import annotations

import gzip
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from random_models import THEIR_SHAPE, randomised
from safetensors.torch import load_file, save_file

from bimo.models.encoder import Encoder
from bimo.runtime import UserError
from bimo.tokens.tokenizer import Tokenizer, load_tokenizer
from bimo.weights.bert import CLASSES
from bimo.weights.huggingface import load_encoder, load_model, save_encoder
from bimo.weights.layouts import model_config_from_hf

transformers = pytest.importorskip("transformers")

TOLERANCE = {"atol": 1e-4, "rtol": 1e-4}

SIZES = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
SHAPE = {**{name: THEIR_SHAPE[name] for name in SIZES}, "max_position_embeddings": 96}
LABELS = {"id2label": {0: "好", 1: "neutral", 2: "坏"}}
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "plain": ("BertModel", {}),
    "words": ("BertForMaskedLM", {}),
    "classes": ("BertForSequenceClassification", LABELS),
    "tokens": ("BertForTokenClassification", LABELS),
    "span": ("BertForQuestionAnswering", {}),
    "relu and one segment": ("BertForMaskedLM", {"hidden_act": "relu", "type_vocab_size": 1}),
    "gelu of GPT-2": ("BertModel", {"hidden_act": "gelu_new", "layer_norm_eps": 1e-5}),
}


def their_model(kind: str, **changes: Any) -> Any:
    """A model of transformers whose every weight is random: norms and biases too."""
    return randomised(getattr(transformers, kind)(transformers.BertConfig(**{**SHAPE, **changes})), size=0.15)


def batch(segments: int = 2, vocabulary: int = 131) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """ids, segments and what is no padding [4, 90]: of several lengths, one of them whole."""
    ids = torch.randint(vocabulary, (4, 90), generator=torch.Generator().manual_seed(1))
    lengths = torch.tensor([90, 1, 33, 64])
    places = torch.arange(90)
    return ids, (places > 20).long().expand(4, 90) % segments, places < lengths[:, None]


def their_outputs(model: Any, ids: torch.Tensor, segments: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        found = model(input_ids=ids, attention_mask=real.long(), token_type_ids=segments)
    if "start_logits" in found:
        return torch.stack([found.start_logits, found.end_logits], dim=-1)
    return found.logits if "logits" in found else found.last_hidden_state


def check_same(ours: torch.Tensor, theirs: torch.Tensor, real: torch.Tensor) -> float:
    """Where there is no padding; returns the largest difference."""
    if ours.shape[:2] == real.shape:
        ours, theirs = ours[real], theirs[real]
    assert theirs.std() > 0.1
    torch.testing.assert_close(ours, theirs, **TOLERANCE)
    return float((ours - theirs).abs().max())


@torch.no_grad()
def our_outputs(model: Encoder, ids: torch.Tensor, segments: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
    return model(ids, segments=segments, real=real)


@pytest.mark.parametrize("variant", list(VARIANTS))
def test_bert_goes_both_ways(variant: str, tmp_path: Path) -> None:
    kind, changes = VARIANTS[variant]
    theirs = their_model(kind, **changes)
    theirs.save_pretrained(tmp_path / "theirs")
    ours = load_encoder(tmp_path / "theirs")
    # The bias that stands twice in their masked model is one weight.
    assert ours.config.parameters == sum(weight.numel() for weight in theirs.parameters())
    assert ours.config.parameters == sum(weight.numel() for weight in ours.parameters())
    given = batch(ours.config.segments)
    expected = their_outputs(theirs, *given)
    check_same(our_outputs(ours, *given), expected, given[2])
    save_encoder(tmp_path / "ours", ours, pad=3)
    again = getattr(transformers, kind).from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(again[1][name] for name in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    check_same(their_outputs(again[0].eval(), *given), expected, given[2])
    assert again[0].config.architectures == [kind]
    assert again[0].config.pad_token_id == 3
    assert load_encoder(tmp_path / "ours").config == ours.config
    if changes is LABELS:
        assert ours.config.head.labels == ("好", "neutral", "坏")
        assert again[0].config.id2label == LABELS["id2label"]
        assert again[0].config.label2id == {label: number for number, label in LABELS["id2label"].items()}


def test_the_pooler_is_kept_where_there_is_one(tmp_path: Path) -> None:
    theirs = their_model("BertModel")
    theirs.save_pretrained(tmp_path / "with")
    ours = load_encoder(tmp_path / "with")
    ids, segments, real = batch()
    with torch.no_grad():
        expected = theirs(ids, attention_mask=real.long(), token_type_ids=segments).pooler_output
        assert ours.pooler is not None
        torch.testing.assert_close(
            ours.pooler(ours.hidden_states(ids, segments=segments, real=real)), expected, **TOLERANCE
        )
    without = transformers.BertModel(theirs.config, add_pooling_layer=False)
    without.save_pretrained(tmp_path / "without")
    ours = load_encoder(tmp_path / "without")
    assert ours.pooler is None
    assert not ours.config.head.pooler
    save_encoder(tmp_path / "back", ours, pad=0)
    assert load_file(tmp_path / "back" / "model.safetensors").keys() == without.state_dict().keys()


def test_folders_made_from_older_files_are_read(tmp_path: Path) -> None:
    """Norms called gamma and beta, constants among the weights, and heads that are not asked for."""
    theirs = their_model("BertForPreTraining")
    theirs.save_pretrained(tmp_path)
    weights = {}
    for name, weight in theirs.state_dict().items():
        if "LayerNorm" in name:
            name = name.replace(".weight", ".gamma").replace(".bias", ".beta")
        weights[name] = weight.clone()
    weights["bert.embeddings.position_ids"] = torch.arange(96)[None]
    save_file(weights, tmp_path / "model.safetensors")
    given = batch()
    with torch.no_grad():
        expected = theirs(given[0], attention_mask=given[2].long(), token_type_ids=given[1]).prediction_logits
    check_same(our_outputs(load_encoder(tmp_path), *given), expected, given[2])


@pytest.mark.parametrize("name", ["cls.predictions.decoder.weight", "cls.predictions.decoder.bias"])
def test_an_output_that_is_not_the_embedding_is_refused(name: str, tmp_path: Path) -> None:
    their_model("BertForMaskedLM").save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    original = weights["cls.predictions.bias" if name.endswith("bias") else "bert.embeddings.word_embeddings.weight"]
    save_file({**weights, name: original.clone()}, tmp_path / "model.safetensors")
    load_encoder(tmp_path)
    save_file({**weights, name: original + 1}, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=f"hold {name} with other numbers"):
        load_encoder(tmp_path)


def test_names_without_a_prefix_are_read_for_any_head(tmp_path: Path) -> None:
    theirs = their_model("BertForMaskedLM")
    theirs.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    save_file({name.removeprefix("bert."): w for name, w in weights.items()}, tmp_path / "model.safetensors")
    given = batch()
    check_same(our_outputs(load_encoder(tmp_path), *given), their_outputs(theirs, *given), given[2])


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"is_decoder": True}, "is_decoder"),
        ({"hidden_act": "mish"}, "hidden_act"),
        ({"architectures": ["BertForNextSentencePrediction"]}, "BertForNextSentencePrediction"),
        ({"architectures": ["BertForMaskedLM"], "tie_word_embeddings": False}, "tie_word_embeddings"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type"),
        ({"num_attention_heads": 7}, "multiple of its heads"),
        ({"type_vocab_size": 0}, "segments must be at least 1"),
        ({"architectures": "BertModel"}, "architectures is 'BertModel'"),
        ({"architectures": ["BertForSequenceClassification"], "id2label": {"0": "a", "2": "b"}}, "id2label"),
        ({"architectures": ["BertForSequenceClassification"], "id2label": ["a", "b"]}, "id2label is"),
        ({"hidden_size": "72"}, "not a whole number"),
    ],
)
def test_what_is_not_ours_is_refused_by_name(changes: dict[str, Any], named: str, tmp_path: Path) -> None:
    settings = {**SHAPE, "model_type": "bert", "architectures": ["BertModel"], **changes}
    with pytest.raises(UserError, match=named):
        model_config_from_hf(settings, where=tmp_path / "config.json")


def test_an_encoder_is_no_model_that_writes_and_the_other_way_round(tmp_path: Path) -> None:
    their_model("BertModel").save_pretrained(tmp_path / "bert")
    with pytest.raises(UserError, match="holds an encoder"):
        load_model(tmp_path / "bert")
    transformers.GPT2LMHeadModel(
        transformers.GPT2Config(vocab_size=13, n_embd=8, n_layer=1, n_head=2, n_positions=8)
    ).save_pretrained(tmp_path / "gpt2")
    with pytest.raises(UserError, match="holds no encoder"):
        load_encoder(tmp_path / "gpt2")


# --- all-MiniLM-L6-v2


TEXTS = ["A man is eating food.", "会议决定，下周三之前提交。", "def f(x): return x ** 2  # " + "naïve café 👍🏽 " * 9]


def test_minilm_computes_the_same(minilm: Path, tmp_path: Path) -> None:
    theirs = transformers.AutoModel.from_pretrained(minilm).eval()
    given = transformers.AutoTokenizer.from_pretrained(minilm)(TEXTS, TEXTS[::-1], padding=True, return_tensors="pt")
    ids, segments, real = given["input_ids"], given["token_type_ids"], given["attention_mask"].bool()
    expected = their_outputs(theirs, ids, segments, real)
    ours = load_encoder(minilm)
    assert check_same(our_outputs(ours, ids, segments, real), expected, real) < 2e-5
    save_encoder(tmp_path, ours, pad=0)
    again = transformers.AutoModel.from_pretrained(tmp_path).eval()
    check_same(their_outputs(again, ids, segments, real), expected, real)


# --- tokenizers


@pytest.fixture(scope="module")
def lines(shared_data: Path) -> list[str]:
    """A thousand lines: Chinese, English, code, and emoji among all of them."""
    folder = shared_data / "lm"
    with gzip.open(folder / "zh_modern_python_docs" / "zh_python_docs.txt.gz", "rt", encoding="utf-8") as file:
        modern = [line.rstrip("\n") for _, line in zip(range(150), file, strict=False)]
    novel = (folder / "zh_classic_novels" / "红楼梦.txt").read_text(encoding="utf-8").split("\n")
    stories = (folder / "tinystories_sample_2mb" / "tinystories_sample.txt").read_text(encoding="utf-8").split("\n")
    code = Path(shutil.__file__).read_text(encoding="utf-8").split("\n")
    found = [*modern, *[line for line in novel if line.strip()][:200], *stories[:300], *code[:250]]
    emoji = [f"{line[:30]}😀👍🏽{line[30:60]} 👨‍👩‍👧 e\u0301ÀÉ①ﬁ\u3000\u200b\ufeff" for line in found[::9]]
    return [*found, *emoji][:1000]


@pytest.mark.parametrize("lower", [True, False])
def test_words_of_a_vocabulary_file_are_those_of_bert_tokenizer(
    lower: bool, lines: list[str], shared_data: Path, tmp_path: Path
) -> None:
    assert len(lines) == 1000
    shutil.copy(shared_data / "models" / "bert_chinese_vocab" / "vocab.txt", tmp_path)
    settings = '{"do_lower_case": ' + str(lower).lower() + "}"
    (tmp_path / "tokenizer_config.json").write_text(settings, encoding="utf-8")
    theirs = transformers.BertTokenizer.from_pretrained(tmp_path)
    assert theirs.do_lower_case is lower
    check_ids(load_tokenizer(tmp_path), theirs, lines)


def check_ids(ours: Tokenizer, theirs: Any, lines: list[str]) -> None:
    found = [[*ours.begin, *ids, ours.end] for ids in ours.encode_batch(lines)]
    assert found == theirs(lines)["input_ids"]
    assert ours.special_id("mask_token") == theirs.mask_token_id
    assert ours.special_id("pad_token") == theirs.pad_token_id


def test_minilm_s_own_words(minilm: Path, lines: list[str], tmp_path: Path) -> None:
    theirs = transformers.AutoTokenizer.from_pretrained(minilm)
    ours = load_tokenizer(minilm)
    check_ids(ours, theirs, lines)
    shutil.copy(minilm / "vocab.txt", tmp_path)
    assert load_tokenizer(tmp_path).encode_batch(lines) == ours.encode_batch(lines)
    ours.save(tmp_path / "again")
    check_ids(load_tokenizer(tmp_path / "again"), theirs, lines)
    check_ids(ours, transformers.AutoTokenizer.from_pretrained(tmp_path / "again"), lines)


def test_text_that_spells_a_special_token_stays_text(minilm: Path) -> None:
    ours = load_tokenizer(minilm)
    ids = ours.encode("[CLS] a [MASK] [SEP]")
    assert not {ours.special_id(role) for role in ("cls_token", "mask_token", "sep_token")} & set(ids)


@pytest.mark.parametrize(
    ("text", "named"), [("[PAD]\n[UNK]\n[CLS]\n[SEP]\nx\n", r"no token \[MASK\]"), ("\udcff", "cannot|can be read")]
)
def test_a_bad_vocabulary_file_is_refused(text: str, named: str, tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(UserError, match=named):
        load_tokenizer(tmp_path)


def test_every_head_has_a_class_of_transformers() -> None:
    assert all(hasattr(transformers, name) for name in CLASSES.values())
