"""The encoder: what its shape says of it, what it may see, how it learns and what it shows of that."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from random_models import randomised, split_weights
from safetensors.torch import load_file, save_file
from stories import write_stories

from bimo.config import from_mapping, to_mapping
from bimo.console import Console
from bimo.doctor.lines import model_lines
from bimo.doctor.model import examine_model
from bimo.evaluate.masked import evaluate_masked, unigram_measures
from bimo.evaluate.suite import evaluate, evaluation_lines
from bimo.files import digest_file, read_json, read_metrics
from bimo.generate.blanks import blanks_in
from bimo.models import encoder
from bimo.models.config import load_presets
from bimo.models.encoder import Encoder, EncoderConfig
from bimo.models.families import build, family_of
from bimo.models.heads import Head, Words
from bimo.plan import plan
from bimo.prepare import prepare
from bimo.run import choose_sampler, run_from_mapping
from bimo.run import run as run_all
from bimo.runs import list_runs
from bimo.runtime import DATA_REFUSED, USAGE, UserError
from bimo.tokens.masking import LEARNED, Masking
from bimo.tokens.shards import TokenShards
from bimo.tokens.tokenizer import load_tokenizer
from bimo.train import losses, masked_words, objectives
from bimo.train.losses import masked_loss
from bimo.train.masked_words import MaskedWords, held_out_windows, masked_measures
from bimo.train.objectives import tokenizer_of
from bimo.train.pretrain import train
from bimo.train.settings import TrainConfig
from bimo.weights.huggingface import load_encoder

SIZES = {"vocabulary": 97, "layers": 2, "width": 24, "heads": 3, "hidden": 40, "context": 32}
SETTINGS = TrainConfig(steps=12, batch=2, validations=3, dtype="float32", device="cpu")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Prepared stories."""
    folder = tmp_path_factory.mktemp("encoder")
    prepare([write_stories(folder / "a.txt", 60)], out=folder / "data")
    return folder / "data"


def shape_for(data: Path, **fields: Any) -> EncoderConfig:
    vocabulary = tokenizer_of(data, "encoder").vocabulary
    return EncoderConfig(**{**SIZES, "layers": 1, "context": 24, "vocabulary": vocabulary, **fields})


# --- shape


@pytest.mark.parametrize(
    "head",
    [
        Head("none"),
        Head("none", pooler=True),
        Head("words"),
        Head("words", pooler=True),
        Head("classes", labels=("a", "b", "c"), pooler=True),
        Head("tokens", labels=("a", "b")),
        Head("span"),
    ],
    ids=str,
)
def test_parameters_are_as_many_as_the_formula_says(head: Head) -> None:
    shape = EncoderConfig(**SIZES, head=head, segments=3)
    assert sum(weight.numel() for weight in Encoder(shape).parameters()) == shape.parameters


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"width": 25}, "multiple of its heads"),
        ({"heads": 0}, "heads must be at least 1"),
        ({"segments": 0}, "segments must be at least 1"),
        ({"feed_forward": "mish"}, "feed_forward must be one of"),
        ({"head": {"kind": "next"}}, "head.kind must be one of"),
        ({"head": {"kind": "classes", "pooler": True}}, "classes and tokens need labels"),
        ({"head": {"kind": "classes", "labels": ["a"]}}, "classes need the pooler"),
        ({"head": {"kind": "span", "labels": ["a"]}}, "span and 1 labels"),
    ],
)
def test_shapes_that_cannot_be_are_refused(fields: dict[str, Any], named: str) -> None:
    with pytest.raises(UserError, match=named) as caught:
        from_mapping(EncoderConfig, {**SIZES, **fields})
    assert caught.value.code == USAGE


def test_a_run_file_holds_an_encoder() -> None:
    shape = EncoderConfig(**SIZES, head=Head("tokens", labels=("a", "b")))
    settings = {"model": {"family": "encoder", **to_mapping(shape)}, "train": {"steps": 3}}
    assert run_from_mapping(settings).model == shape
    assert family_of(shape) == "encoder"
    assert isinstance(build(shape), Encoder)


def test_presets_grow() -> None:
    sizes = [
        EncoderConfig(vocabulary=4096, context=256, **fields).parameters for fields in load_presets("encoder").values()
    ]
    assert sizes == sorted(sizes)
    assert len(sizes) == 8


# --- what it sees


def random_encoder(**fields: Any) -> Encoder:
    return randomised(Encoder(EncoderConfig(**{**SIZES, **fields})))


def ids(*shape: int) -> torch.Tensor:
    return torch.randint(97, shape, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def test_every_place_sees_every_other_and_nothing_of_the_padding() -> None:
    model, given = random_encoder(), ids(1, 12)
    real = torch.arange(12)[None] < 9
    before = model(given, real=real)
    for place in range(9):
        changed = given.clone()
        changed[0, place] = (changed[0, place] + 1) % 97
        moved = (model(changed, real=real) - before).abs().amax(dim=-1)[0, :9]
        assert (moved > 1e-4).all()
    changed = given.clone()
    changed[0, 9:] = 3
    torch.testing.assert_close(model(changed, real=real)[:, :9], before[:, :9])
    torch.testing.assert_close(model(given[:, :9]), before[:, :9], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_bfloat16_is_near() -> None:
    exact, rough = random_encoder(), random_encoder()
    rough.compute_dtype = torch.bfloat16
    a, b = exact(ids(2, 32)).log_softmax(-1), rough(ids(2, 32)).float().log_softmax(-1)
    assert (a - b).abs().mean() < 0.05


# --- how it learns


def test_the_loss_is_that_of_the_chosen_tokens_alone(data: Path) -> None:
    shape = shape_for(data)
    model, masking = Encoder(shape).initialise(0), Masking(tokenizer_of(data, "encoder"))
    model.head.bias.data.normal_(generator=torch.Generator().manual_seed(0))
    windows = held_out_windows(TokenShards(data / "tokens", "validation"), masking, context=24, tokens=200)
    batch = masking.mask(windows, seed=(1,))
    loss, counted = masked_loss(model, batch)
    assert counted == batch.chosen.sum()
    logits = model(torch.from_numpy(batch.read))
    targets = torch.from_numpy(np.where(batch.chosen, batch.ids, losses.IGNORED))
    slow = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=losses.IGNORED)
    torch.testing.assert_close(loss, slow)
    weights = [weight for name, weight in model.named_parameters() if "pooler" not in name]
    for fast, exact in zip(torch.autograd.grad(loss, weights), torch.autograd.grad(slow, weights), strict=True):
        torch.testing.assert_close(fast, exact, atol=1e-6, rtol=1e-4)


class Killed(BaseException):
    """Stands for the end of the process."""


def run(data: Path, out: Path, settings: TrainConfig = SETTINGS, **changes: Any) -> dict[str, Any]:
    return train(data, out=out, model=shape_for(data), settings=settings, **changes)


@pytest.fixture(scope="module")
def whole(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An encoder whose training nobody disturbed."""
    out = tmp_path_factory.mktemp("whole") / "model"
    run(data, out, sampler=choose_sampler(shape_for(data), data))
    return out


def test_a_resumed_training_is_the_same_to_the_bit(
    data: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = iter(range(7))

    def dying(model: Any, batch: Any) -> Any:
        if next(steps, None) is None:
            raise Killed
        return masked_loss(model, batch)

    with monkeypatch.context() as patch:
        patch.setattr(masked_words, "masked_loss", dying)
        with pytest.raises(Killed):
            run(data, tmp_path / "model")
    facts = run(data, tmp_path / "model")
    assert facts["resumed"] == 1
    assert digest_file(tmp_path / "model" / "model.safetensors") == digest_file(whole / "model.safetensors")


def test_a_training_leaves_a_bert(data: Path, whole: Path) -> None:
    transformers = pytest.importorskip("transformers")
    names = {"README.md", "bimo", "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    assert {path.name for path in whole.iterdir()} == names
    ours, tokenizer = load_encoder(whole), load_tokenizer(whole)
    theirs = transformers.AutoModelForMaskedLM.from_pretrained(whole).eval()
    assert type(theirs).__name__ == "BertForMaskedLM"
    assert theirs.config.pad_token_id == tokenizer.special_id("pad_token")
    given = transformers.AutoTokenizer.from_pretrained(whole)(
        ["Once upon a [MASK] there was", "a dog [MASK]."], padding=True, return_tensors="pt"
    )
    real = given["attention_mask"].bool()
    with torch.no_grad():
        expected = theirs(**given).logits
        torch.testing.assert_close(ours(given["input_ids"], real=real)[real], expected[real], atol=1e-4, rtol=1e-4)


def test_what_is_measured_is_not_called_bits_per_byte(whole: Path) -> None:
    facts = read_json(whole / "bimo" / "training.json")
    assert facts["tokens"] == 12 * 2 * 24
    events = [*read_metrics(whole / "bimo" / "metrics.jsonl")]
    checks = [event for event in events if event["event"] == "validation"]
    assert [check["step"] for check in checks] == [4, 8, 12]
    assert checks[-1]["masked_loss"] < checks[0]["masked_loss"]
    assert facts["validation_masked_loss"] == min(check["masked_loss"] for check in checks)
    assert all(0 <= check["masked_accuracy"] <= 1 for check in checks)
    assert "guessed:" in next(event["text"] for event in events if event["event"] == "sample")
    for name in ("training.json", "metrics.jsonl", "report.html"):
        assert "bits_per_byte" not in (whole / "bimo" / name).read_text(encoding="utf-8")


def test_it_learns_what_stands_between(tmp_path: Path) -> None:
    """Words that both neighbours give away are guessed nearly always, which frequency alone cannot."""
    words = [f"{first}{middle}{first}" for first, middle in zip("abcdefgh", "stuvwxyz", strict=True)]
    text = "\n\n".join(" ".join(np.random.default_rng(seed).choice(words, 60)) for seed in range(60))
    (tmp_path / "a.txt").write_text(text.replace("", " "), encoding="utf-8")
    prepare([tmp_path / "a.txt"], out=tmp_path / "data")
    settings = replace(SETTINGS, steps=300, batch=16, validations=1, adam_rate=0.003, warmup=0.05)
    train(tmp_path / "data", out=tmp_path / "model", model=shape_for(tmp_path / "data", layers=2), settings=settings)
    facts = evaluate(tmp_path / "model", tmp_path / "data")
    assert facts["masked_accuracy"] > 0.75
    assert facts["unigram"]["masked_accuracy"] < 0.3


# --- what it shows


def test_evaluation_is_kept_and_said(data: Path, whole: Path) -> None:
    facts = evaluate(whole, data)
    assert facts == evaluate_masked(whole, data) == read_json(whole / "bimo" / "evaluation.json")
    assert "bits_per_byte" not in json.dumps(facts)
    shards = TokenShards(data / "tokens", "validation")
    masking = Masking(load_tokenizer(whole))
    windows = held_out_windows(shards, masking, context=24, tokens=200_000)
    found = masked_measures(load_encoder(whole), masking, windows)
    assert facts["masked_loss"] == pytest.approx(found["masked_loss"])
    assert facts["masked_accuracy"] == found["masked_accuracy"]
    first, *others = evaluation_lines(facts)
    assert "of masked tokens guessed" in first
    assert len(others) == len(facts["blanks"]) > 0
    card = (whole / "README.md").read_text(encoding="utf-8")
    assert "pipeline_tag: fill-mask" in card
    assert "AutoModelForMaskedLM" in card
    assert "bits per byte" not in card.lower()


def test_an_encoder_in_several_files_is_measured(data: Path, whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole, tmp_path / "model")
    split_weights(tmp_path / "model")
    measured = evaluate(tmp_path / "model", data)
    assert {**measured, "key": None} == {**evaluate(whole, data), "key": None}


def test_the_baseline_counts(data: Path) -> None:
    shards = TokenShards(data / "tokens", "train")
    tokenizer = tokenizer_of(data, "encoder")
    counts = shards.counts(tokenizer.vocabulary)
    assert counts.sum() == len(shards)
    ids = shards.read(0, len(shards))
    assert counts[ids[5]] == (ids == ids[5]).sum()
    masking = Masking(tokenizer)
    windows = held_out_windows(shards, masking, context=24, tokens=3000)
    found = unigram_measures(masking, windows, np.ones(tokenizer.vocabulary))
    assert found["masked_loss"] == pytest.approx(np.log((~masking.is_special).sum()))
    assert found["masked_accuracy"] < 0.1
    ends = np.where(np.arange(tokenizer.vocabulary) == tokenizer.end, 10 * len(shards), counts)
    assert unigram_measures(masking, windows, ends) == unigram_measures(masking, windows, counts)
    assert unigram_measures(masking, windows, counts)["masked_accuracy"] > 0


def test_blanks_hide_a_word_and_name_it(data: Path, whole: Path) -> None:
    model, tokenizer = load_encoder(whole), load_tokenizer(whole)
    masking = Masking(tokenizer)
    windows = held_out_windows(TokenShards(data / "tokens", "validation"), masking, context=24, tokens=100)
    blanks = blanks_in(model, tokenizer, windows)
    assert blanks == blanks_in(model, tokenizer, windows)
    for blank, window in zip(blanks, windows, strict=True):
        text = " ".join(tokenizer.decode(window.tolist()).split("\n"))
        assert blank.word.isalpha()
        assert blank.before + blank.word + blank.after in text
        shares = [share for _, share in blank.guesses]
        assert shares == sorted(shares, reverse=True)
        assert 0 < sum(shares) <= 1
        assert json.dumps(blank.facts())


def test_one_command_goes_from_text_to_an_encoder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_stories(tmp_path / "a.txt", 60)
    facts = run_all([source], out=tmp_path / "model", minutes=0.02, family="encoder", preset="dust", console=Console())
    assert facts["masked_accuracy"] >= 0
    said = capsys.readouterr().err
    assert "of masked tokens guessed" in said
    assert "bits per byte" not in said
    (listed,) = list_runs([tmp_path])
    assert (listed["state"], listed["bits_per_byte"]) == ("done", None)


def test_an_encoder_is_measured_on_its_own_data_alone(data: Path, whole: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is evaluated on prepared data"):
        evaluate(whole, write_stories(tmp_path / "b.txt", 3))
    (tmp_path / "c.txt").write_text("何以为家，四海为家。\n\n" * 400, encoding="utf-8")
    prepare([write_stories(tmp_path / "d.txt", 30, seed=9)], out=tmp_path / "other")
    with pytest.raises(UserError, match="another tokenizer"):
        evaluate(whole, tmp_path / "other")


def test_data_of_a_single_document_hold_no_text_to_evaluate_an_encoder_on(whole: Path, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("The brave miller found a quick apple near the coat of the king.", encoding="utf-8")
    prepare([tmp_path / "a.txt"], out=tmp_path / "lone")
    with pytest.raises(UserError, match="holds no text to evaluate on") as caught:
        evaluate(whole, tmp_path / "lone")
    assert caught.value.code == DATA_REFUSED


def test_the_doctor_knows_an_encoder(whole: Path) -> None:
    facts = examine_model(whole)
    assert facts["problems"] == []
    assert facts["head"]["kind"] == "words"
    assert facts["parameters"] == load_encoder(whole).config.parameters
    lines = model_lines(facts)
    assert any("reads from both sides" in line for line in lines)
    assert "Bimo can: evaluate, embed, similar, tune, export" in lines


def test_a_context_that_leaves_no_room_is_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="context must be at least 8"):
        train(data, out=tmp_path / "model", model=shape_for(data, context=4), settings=SETTINGS)


def test_the_plan_times_and_chooses_an_encoder(data: Path) -> None:
    chosen = plan(data, minutes=0.1, family="encoder", preset="dust", device="cpu")
    assert isinstance(chosen.model, EncoderConfig)
    assert chosen.model.vocabulary == tokenizer_of(data, "encoder").vocabulary
    assert chosen.facts["family"] == "encoder"
    assert chosen.facts["bits_per_byte"] is None
    assert asdict(chosen.model)["head"]["kind"] == "words"


def test_what_is_counted_of_a_training_is_what_it_guesses() -> None:
    assert encoder.GUESSED == LEARNED


def test_first_heads_begin_by_looking_beside() -> None:
    for width, heads in ((192, 3), (256, 4)):
        model = Encoder(EncoderConfig(97, layers=1, width=width, heads=heads, hidden=40, context=32)).initialise(0)
        ids = torch.randint(97, (8, 32), generator=torch.Generator().manual_seed(1))
        x = model.embedding_norm(model.embedding(ids) + model.position_embedding.weight)
        attention = model.layers[0].attention
        q, k = (part(x).view(8, 32, heads, -1).transpose(1, 2) for part in (attention.query, attention.key))
        seen = (q @ k.mT / q.shape[-1] ** 0.5).softmax(dim=-1).mean(dim=0)
        before = seen[0, 1:].argmax(dim=-1) == torch.arange(31)
        behind = seen[1, :-1].argmax(dim=-1) == torch.arange(1, 32)
        # What stands there has a say, too.
        assert min(before.float().mean(), behind.float().mean()) > 0.6


def test_the_model_has_the_head_that_its_shape_names() -> None:
    assert isinstance(Encoder(EncoderConfig(**SIZES)).head, Words)
    assert Encoder(EncoderConfig(**SIZES, head=Head("none"))).head is None


def test_its_trial_step_is_that_of_training(make_model: Callable[..., Any]) -> None:
    shape = EncoderConfig(**SIZES)
    assert objectives.trial_loss(Encoder(shape).initialise(0), shape, 2).item() == pytest.approx(np.log(97), abs=0.5)


def test_training_text_is_measured_as_unseen_text_is(data: Path) -> None:
    tokenizer, shape = tokenizer_of(data, "encoder"), shape_for(data, context=32)
    objective = MaskedWords(TokenShards(data / "tokens", "validation"), tokenizer, context=32)
    batch = objective.batches(TokenShards(data / "tokens", "train"), batch=8, seed=0).at(0)
    model = Encoder(shape).initialise(0)
    learned, measured = (loss(model, batch)[1] for loss in (objective.loss, objective.clean_loss))
    assert 2 * measured < learned < 4 * measured


def test_an_encoder_that_computes_no_numbers_is_no_figure(data: Path, whole: Path, tmp_path: Path) -> None:
    """Its weights are finite, and too large."""
    shutil.copytree(whole, tmp_path / "model")
    path = tmp_path / "model" / "model.safetensors"
    save_file({name: weight * 1e30 for name, weight in load_file(path).items()}, path)
    with pytest.raises(UserError, match="What this model computes is no number"):
        evaluate(tmp_path / "model", data)
