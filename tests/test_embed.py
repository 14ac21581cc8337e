"""Vectors of texts: how they are made, learned, kept, searched and judged."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import torch
from random_models import randomised
from typer.testing import CliRunner

import bimo
from bimo.cli import app
from bimo.console import Console
from bimo.correlation import pearson, ranks, spearman
from bimo.evaluate.similarity import measure_similarity
from bimo.evaluate.suite import evaluate, evaluation_lines
from bimo.files import digest_file, read_json, write_json
from bimo.models.encoder import Encoder, EncoderConfig
from bimo.models.lora import LoRAConfig
from bimo.models.pooling import POOLINGS, pool, pool_reference
from bimo.runtime import DATA_REFUSED, INTERRUPTED, USAGE, UserError
from bimo.tasks.embed.embedder import open_embedder
from bimo.tasks.embed.examples import Columns, choose_columns, read_examples, read_lines
from bimo.tasks.embed.rows import write_rows
from bimo.tasks.embed.similar import apart, cluster, groups, near_pairs, near_pairs_reference, nearest, units
from bimo.tasks.tune import tune, tune_lines
from bimo.tokens.framing import Framing
from bimo.tokens.lengths import MixedBatches
from bimo.tokens.masking import with_mask_token
from bimo.train import tune as train_tune
from bimo.train.contrastive import (
    MOST_TOKENS,
    Couple,
    CoupleBatches,
    info_nce,
    info_nce_reference,
    ranking_loss,
    ranking_loss_reference,
)
from bimo.train.tune import TuneConfig
from bimo.weights.huggingface import save_encoder, save_model
from bimo.weights.sentence_transformers import SentenceLayout, read_layout, write_layout

SETTINGS = TuneConfig(epochs=6, batch=8, rate=3e-3, validations=2)
SUBJECTS = ("the cat", "a dog", "the king", "一只猫", "国王", "our house", "my friend", "那条河")
DEEDS = ("sleeps", "runs away", "is old", "很高兴", "回来了", "grows")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer) -> Path:
    """A folder with a small encoder `model`, and files to learn from: `texts.txt`, `pairs.tsv`, `scored.csv`."""
    folder = tmp_path_factory.mktemp("embed")
    tokenizer = with_mask_token(tiny_tokenizer)
    shape = EncoderConfig(vocabulary=tokenizer.vocabulary, layers=1, width=24, heads=3, hidden=40, context=32)
    save_encoder(folder / "model", randomised(Encoder(shape)), pad=tokenizer.special_id("pad_token"))
    tokenizer.save(folder / "model")
    texts = [f"{subject} {deed}" for subject in SUBJECTS for deed in DEEDS]
    again = [(subject, deed, number) for number in range(4) for subject in SUBJECTS for deed in DEEDS]
    (folder / "texts.txt").write_text("\n".join([*texts, "", texts[0]]) + "\n", encoding="utf-8")
    rows = [f"{subject} {deed} {number}\t{number} {deed}, {subject}" for subject, deed, number in again]
    (folder / "pairs.tsv").write_text("question\tanswer\n" + "\n".join(rows) + "\n", encoding="utf-8")
    scored = []
    for place, (subject, deed, number) in enumerate(again):
        other = subject if place % 3 == 0 else SUBJECTS[place % 8 - 1]
        score = 5 if other == subject else place % 2
        scored.append(f'"{subject} {deed} {number}","{other}, {place}",{score}')
    (folder / "scored.csv").write_text("\n".join(scored) + "\n", encoding="utf-8")
    return folder


# --- how vectors are made


@pytest.mark.parametrize("how", POOLINGS)
@pytest.mark.parametrize("normalize", [False, True])
def test_pooling_sees_no_padding(how: str, normalize: bool) -> None:
    hidden = torch.randn(3, 5, 4)
    lengths = [5, 2, 1]
    real = torch.arange(5) < torch.tensor(lengths)[:, None]
    hidden[~real] = 1e6
    found = pool(hidden, real, how=how, normalize=normalize)
    for row, length in enumerate(lengths):
        expected = pool_reference(hidden[row, :length], how=how, normalize=normalize)
        torch.testing.assert_close(found[row], expected)


@pytest.mark.parametrize(
    "layout", [SentenceLayout(), SentenceLayout("cls", True, 6), SentenceLayout("max", lower=True)]
)
def test_batches_say_what_each_text_by_itself_says(place: Path, layout: SentenceLayout, tmp_path: Path) -> None:
    embedder = open_embedder(place / "model")
    embedder = type(embedder)(embedder.model, embedder.tokenizer, layout)
    texts = ["", "The cat", "国王回来了" * 30, *[f"{word} is OLD" for word in SUBJECTS]]
    found = embedder.embed(texts)
    np.testing.assert_allclose(found, embedder.embed_reference(texts), atol=1e-5)
    assert found.dtype == np.float32
    assert max(map(len, embedder.ids(texts))) == (layout.context or 32)
    assert (embedder.ids(["The CAT"]) == embedder.ids(["the cat"])) == layout.lower
    parts = [*embedder.stream(iter(texts))]
    assert parts[0][0] == texts
    np.testing.assert_array_equal(parts[0][1], found)
    assert embedder.embed([]).shape == (0, 24)


def test_a_language_model_has_vectors_too(tmp_path: Path, make_model, tiny_tokenizer) -> None:
    save_model(tmp_path, make_model(vocabulary=tiny_tokenizer.vocabulary), end=tiny_tokenizer.end)
    tiny_tokenizer.save(tmp_path)
    embedder = open_embedder(tmp_path)
    texts = ["", "the cat sleeps", "国王", "a dog runs away and comes back"]
    np.testing.assert_allclose(bimo.embed(tmp_path, texts), embedder.embed_reference(texts), atol=1e-5)


def test_layouts_come_back(tmp_path: Path) -> None:
    assert read_layout(tmp_path) == SentenceLayout()
    for layout in (SentenceLayout("cls", True, 128, True), SentenceLayout("mean", False, 64), SentenceLayout("max")):
        write_layout(tmp_path, layout, width=8)
        assert read_layout(tmp_path) == layout


def test_newer_files_are_read(tmp_path: Path) -> None:
    write_layout(tmp_path, SentenceLayout("cls", True), width=8)
    write_json(tmp_path / "1_Pooling" / "config.json", {"embedding_dimension": 8, "pooling_mode": "lasttoken"})
    write_json(tmp_path / "sentence_bert_config.json", {"transformer_task": "feature-extraction"})
    write_json(tmp_path / "tokenizer_config.json", {"model_max_length": 77})
    assert read_layout(tmp_path) == SentenceLayout("lasttoken", True, 77)
    write_json(tmp_path / "tokenizer_config.json", {"model_max_length": 10**30})
    assert read_layout(tmp_path).context == 0


@pytest.mark.parametrize(
    ("file", "value", "sentence"),
    [
        ("1_Pooling/config.json", {"pooling_mode": ["mean", "max"]}, "pools by .* one of mean, cls"),
        ("1_Pooling/config.json", {"pooling_mode_weightedmean_tokens": True}, "weightedmean"),
        ("modules.json", [{"type": "a.Transformer", "path": ""}], "makes vectors by Transformer;"),
        ("modules.json", [{"type": f"a.{name}", "path": ""} for name in ("Transformer", "Pooling", "Dense")], "Dense"),
        (
            "modules.json",
            [{"type": "a.Transformer", "path": "../x"}, {"type": "Pooling", "path": "1_Pooling"}],
            "one f",
        ),
        (
            "modules.json",
            [{"type": "a.Transformer", "path": ""}, {"type": "a.Pooling", "path": "../x"}],
            "not describe",
        ),
        ("modules.json", {"a": 1}, "does not describe"),
        ("config_sentence_transformers.json", {"default_prompt_name": "query"}, "default_prompt_name"),
    ],
)
def test_layouts_that_are_not_ours_are_refused(tmp_path: Path, file: str, value: object, sentence: str) -> None:
    write_layout(tmp_path, SentenceLayout("cls", True, 128), width=8)
    write_json(tmp_path / file, value)
    with pytest.raises(UserError, match=sentence):
        read_layout(tmp_path)


# --- losses and batches


def test_contrast_is_that_of_its_formula() -> None:
    torch.manual_seed(0)
    first, second = torch.randn(6, 5, requires_grad=True), torch.randn(6, 5)
    same = torch.zeros(6, 6, dtype=torch.bool)
    same[1, 4] = same[2, 2] = True
    for known in (torch.zeros_like(same), same):
        fast = info_nce(first, second, known)
        slow = info_nce_reference(first, second, known)
        torch.testing.assert_close(fast, slow)
        torch.testing.assert_close(*(torch.autograd.grad(loss, first)[0] for loss in (fast, slow)))
    assert info_nce(first, second, same) < info_nce(first, second, torch.zeros_like(same))


def test_ranking_is_that_of_its_formula() -> None:
    torch.manual_seed(0)
    cosines, scores = torch.rand(7, requires_grad=True), torch.tensor([0.0, 1, 1, 2.5, 0, 5, 4])
    fast, slow = ranking_loss(cosines, scores), ranking_loss_reference(cosines, scores)
    torch.testing.assert_close(fast, slow)
    torch.testing.assert_close(*(torch.autograd.grad(loss, cosines)[0] for loss in (fast, slow)))
    assert ranking_loss(cosines, torch.ones(7)) == 0
    assert ranking_loss(scores / 5, scores) < ranking_loss(-scores / 5, scores)


def test_every_text_comes_once_an_epoch_in_another_company() -> None:
    batches = MixedBatches([*range(20, 70)], rows=8, seed=1)
    assert batches.steps_per_epoch == 6
    epochs = [[batches.at(6 * epoch + step).tolist() for step in range(6)] for epoch in (0, 1)]
    for epoch in epochs:
        assert len({number for batch in epoch for number in batch}) == 48
    assert len({frozenset(batch) for epoch in epochs for batch in epoch}) == 12
    again = MixedBatches([*range(20, 70)], rows=8, seed=1)
    assert again.at(9).tolist() == epochs[1][3]
    alike = MixedBatches([1, 90] * 64, rows=8, seed=0)
    assert all(len({number % 2 for number in alike.at(step).tolist()}) == 1 for step in range(alike.steps_per_epoch))


def test_who_shares_a_text_is_no_stranger(place: Path) -> None:
    embedder = open_embedder(place / "model")
    framing = Framing(embedder.tokenizer, context=32)
    framed = framing.texts(["a", "b", "c", "d"])
    couples = [Couple(framed[i], framed[j], (i, j)) for i, j in ((0, 1), (0, 2), (3, 1), (2, 3))]
    (batch,) = CoupleBatches(couples, framing, batch=9, seed=0)
    expected = [[1, 1, 1, 0], [1, 1, 0, 0], [1, 0, 1, 1], [0, 1, 0, 1]]  # (3, 1) and (2, 3): 3 is its own partner's
    assert batch.same.astype(int).tolist() == expected
    assert not batch.first.segments.any()
    assert not batch.second.segments.any()


def test_texts_are_read_without_some_of_their_tokens(place: Path) -> None:
    framing = Framing(open_embedder(place / "model").tokenizer, context=2000)
    texts = framing.texts(["the cat sleeps " * 100] * 8)
    couples = [Couple(text, text, (number, number)) for number, text in enumerate(texts)]
    batches, again = (CoupleBatches(couples, framing, batch=4, seed=3, dropped=0.25) for _ in range(2))
    batch = batches.at(5)
    shares = np.concatenate([side.real.sum(axis=1) / len(texts[0].ids) for side in (batch.first, batch.second)])
    assert shares.mean() == pytest.approx(0.75, abs=0.03)
    assert len({*shares.tolist()}) > 1
    ids = batch.first.ids[0][batch.first.real[0]]
    assert (ids[0], ids[-1]) == (framing.opening, framing.closing)
    assert np.array_equal(again.at(5).first.ids, batch.first.ids)
    assert not np.array_equal(batches.at(7).first.ids, batch.first.ids)
    first, repeated = (next(iter(batches)).second.ids for _ in range(2))
    assert np.array_equal(first, repeated)


def test_batches_are_bounded_by_tokens(place: Path) -> None:
    framing = Framing(open_embedder(place / "model").tokenizer, context=2000)
    long = framing.texts(["word " * 1500])[0]
    couples = [Couple(long, long, (number, number)) for number in range(20)]
    assert CoupleBatches(couples, framing, batch=16, seed=0).rows == MOST_TOKENS // (2 * len(long.ids))


# --- files


def test_columns_are_found_by_what_stands_in_them() -> None:
    rows = [
        {"id": n, "a": f"text {n}", "kind": "x", "b": f"other {n}", "stars": n % 3, "score": n / 2} for n in range(20)
    ]
    path = Path("x.csv")
    assert choose_columns(path, rows, {}) == Columns("a", "b", "score")
    without = [{name: row[name] for name in row if name not in ("score", "stars")} for row in rows]
    assert choose_columns(path, without, {}) == Columns("a", "b")
    assert choose_columns(path, without, {"first": "b", "second": "a"}) == Columns("b", "a")
    assert choose_columns(path, rows, {"score": "stars"}) == Columns("a", "b", "stars")
    assert choose_columns(path, rows, {"text": "b"}) == Columns("b")
    assert choose_columns(path, [{"n": row["id"], "a": row["a"]} for row in rows], {}) == Columns("a")


def test_files_are_what_they_are_taken_for(place: Path) -> None:
    texts, pairs, scored = (read_examples(place / name) for name in ("texts.txt", "pairs.tsv", "scored.csv"))
    assert texts.describe() == "48 texts without partners, from text"
    assert pairs.describe() == "192 pairs of texts that belong together, from question and answer"
    assert scored.describe() == "192 pairs of texts with scores from 0 to 5, from 1, 2 and 3"
    assert [(str(one.line), one.detail) for one in texts.refused] == [("50", "the same text was there before")]
    for examples in (texts, pairs, scored):
        train, held_out = examples.split(seed=0)
        sides = [{text for pair in part.rows for text in (pair.source, pair.target)} for part in (train, held_out)]
        assert sides[0].isdisjoint(sides[1])
        assert len(train.rows) + len(held_out.rows) == len(examples.rows)
        assert len(train.scores) == (len(train.rows) if examples is scored else 0)


def test_rows_that_cannot_be_used_are_set_aside(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    rows = [{"first": f"one {n}", "second": f"two {n}", "score": n} for n in range(9)]
    bad = [{"first": "x", "second": "", "score": 1}, {"first": "x", "second": "y", "score": None}, rows[0], [1]]
    path.write_text("".join(json.dumps(row) + "\n" for row in [*rows, *bad]) + "{\n")
    found = read_examples(path)
    assert [(one.line, one.detail) for one in found.refused[:4]] == [
        (10, "a text is missing"),
        (11, "its score is no number"),
        (12, "the same text was there before"),
        (13, "not an object with names"),
    ]
    assert len(found.refused) == 5
    assert len(read_examples(path, repeats=True).rows) == 10


@pytest.mark.parametrize(("name", "kept", "bad"), [("score", 40, "N/A"), ("c", 40, "nan"), ("score", 3, "无")])
def test_a_score_that_is_none_costs_its_row_alone(name: str, kept: int, bad: str, tmp_path: Path) -> None:
    lines = [f"a,b,{name}", f"one,two,{bad}", *(f"one {n},two {n},{n % 5}" for n in range(kept))]
    (tmp_path / "a.csv").write_text("\n".join(lines), encoding="utf-8")
    found = read_examples(tmp_path / "a.csv")
    assert (found.kind, len(found.rows)) == ("scored", kept)
    assert [(one.line, one.detail) for one in found.refused] == [(2, "its score is no number")]


def test_labels_in_words_are_no_scores(tmp_path: Path) -> None:
    lines = ["a,b,label", *(f"one {n},two {n},{('same', 'other')[n % 2]}" for n in range(40))]
    (tmp_path / "a.csv").write_text("\n".join(lines))
    with pytest.raises(UserError, match=r"says in words which pairs belong together \(other, same\)"):
        read_examples(tmp_path / "a.csv")
    assert read_examples(tmp_path / "a.csv", {"first": "a", "second": "b"}).kind == "pairs"
    asked = "\n".join(lines).replace("a,b,label", "question,answer,label")
    (tmp_path / "asked.csv").write_text(asked)  # those have topics
    assert read_examples(tmp_path / "asked.csv").kind == "pairs"
    (tmp_path / "b.csv").write_text("\n".join(line.replace("other", "same") for line in lines))
    assert read_examples(tmp_path / "b.csv").kind == "pairs"


def test_what_follows_from_what_is_no_likeness(tmp_path: Path) -> None:
    lines = ["premise,hypothesis,label", *(f"one {n},two {n},{n % 3}" for n in range(40))]
    (tmp_path / "a.csv").write_text("\n".join(lines))
    with pytest.raises(UserError, match="may say what follows from what"):
        read_examples(tmp_path / "a.csv")
    assert read_examples(tmp_path / "a.csv", {"score": "label"}).kind == "scored"
    (tmp_path / "b.csv").write_text("\n".join(lines).replace("premise,hypothesis", "sentence1,sentence2"))
    assert read_examples(tmp_path / "b.csv").kind == "scored"


@pytest.mark.parametrize(
    ("header", "row", "columns"),
    [
        ("id,text", "doc-{n},some words {n}", ("text", "")),
        ("id,question,answer", "FAQ-{n},what is {n},it is {n}", ("question", "answer")),
        ("captionID,pairID,text1,text2", "{n}.jpg#4,{n}.jpg#4r1n,a dog {n},a cat {n}", ("text1", "text2")),
        ("source,target", "a{n},b{n}", ("source", "target")),
    ],
)
def test_codes_of_rows_are_no_texts(header: str, row: str, columns: tuple[str, str], tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("\n".join([header, *(row.format(n=n) for n in range(40))]))
    found = read_examples(tmp_path / "a.csv").columns
    assert (found.first, found.second) == columns


def test_columns_of_what_is_measured_can_be_named(place: Path, tmp_path: Path) -> None:
    rows = (place / "scored.csv").read_text(encoding="utf-8")
    count = len(rows.splitlines())
    (tmp_path / "a.csv").write_text(
        "\n".join(["q,r,n,m", *(f"{line},{n}" for n, line in enumerate(rows.splitlines()))]), encoding="utf-8"
    )
    found = evaluate(place / "model", tmp_path / "a.csv", columns={"score": "m"})
    assert found["pairs"] == count
    assert found["spearman"] != evaluate(place / "model", tmp_path / "a.csv")["spearman"]


REFUSED = [
    ("none.csv", None, {}, USAGE, "There is no file"),
    ("a.csv", "a,b\n1,2\n3,4\n", {}, DATA_REFUSED, "has no column of texts"),
    ("a.csv", "x one,y two,3\nx two,y one,3\n", {}, DATA_REFUSED, "All pairs of .* have the score 3"),
    ("a.csv", "x one,y two,3\n", {"first": "q"}, DATA_REFUSED, "has no column q. It has: 1, 2, 3"),
    ("a.csv", "x one,y two,3\n", {"label": "1"}, USAGE, "--column names text, or first"),
    ("a.txt", "one\n\n", {"text": "1"}, USAGE, "is plain text"),
    ("a.txt", "\n\n", {}, DATA_REFUSED, "has no column of texts"),
    ("a.txt", b"good\nbad \xff\xfe\xfd\n" * 9, {}, DATA_REFUSED, "cannot be read"),
    ("a.txt", bytes(range(256)) * 9, {}, DATA_REFUSED, "cannot be read"),
]


def test_lines_are_read_whatever_their_encoding(tmp_path: Path) -> None:
    lines = ["国王回来了", "", "王后也回来了，大家都很高兴"]
    for name, raw in (
        ("a.txt", "\r\n".join(lines).encode("gb18030")),
        ("b.txt", "\n".join(lines).encode("utf-8-sig")),
        ("c.txt.gz", gzip.compress("\n".join(lines).encode())),
    ):
        (tmp_path / name).write_bytes(raw)
        assert [*read_lines(tmp_path / name)] == lines


@pytest.mark.parametrize(("name", "content", "columns", "code", "sentence"), REFUSED)
def test_files_that_will_not_do_are_refused(name, content, columns, code, sentence, tmp_path: Path) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=sentence) as caught:
        read_examples(tmp_path / name, columns)
    assert caught.value.code == code


def test_pairs_that_are_all_tied_are_split_by_their_first_texts(place: Path, tmp_path: Path) -> None:
    rows = [f"ask {one}\ttell them the story of {other}" for one in range(30) for other in range(6)]
    (tmp_path / "a.tsv").write_text("\n".join(rows) + "\n")
    train, held_out = read_examples(tmp_path / "a.tsv").split(seed=0)
    assert (len(train.rows), len(held_out.rows), held_out.shared) == (162, 18, True)
    assert {pair.source for pair in train.rows}.isdisjoint(pair.source for pair in held_out.rows)
    assert not read_examples(place / "pairs.tsv").split(seed=0)[1].shared
    chains = [f"tell the story of {one}\ttell the story of {one + 1}" for one in range(400) if one % 4 != 3]
    (tmp_path / "b.tsv").write_text("\n".join(chains) + "\n")
    sides = [
        {text for pair in half.rows for text in (pair.source, pair.target)}
        for half in read_examples(tmp_path / "b.tsv").split(seed=0)
    ]
    assert sides[0].isdisjoint(sides[1])


def test_too_few_examples_are_refused(place: Path, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one\ntwo\nthree\n")
    with pytest.raises(UserError, match="has 3 examples that can be used") as caught:
        tune(place / "model", tmp_path / "a.txt", out=tmp_path / "out", task="embed", settings=SETTINGS)
    assert caught.value.code == DATA_REFUSED


# --- tuning


@pytest.fixture(scope="module")
def tuned(place: Path):
    """The folder tuned on scored pairs, and the facts of that."""
    return place / "tuned", tune(
        place / "model", place / "scored.csv", out=place / "tuned", task="embed", settings=SETTINGS
    )


def test_scores_are_learned(place: Path, tuned) -> None:
    folder, facts = tuned
    held_out = facts["held_out"]
    assert held_out["after"]["spearman"] > held_out["before"]["spearman"] + 0.1
    assert facts == read_json(folder / "bimo" / "tune.json")
    assert facts["kind"] == "scored"
    assert not (folder / "bimo" / "checkpoints").exists()
    assert "Spearman" in tune_lines(facts)[0]
    assert read_layout(folder) == SentenceLayout("mean", normalize=True, context=32)
    _, held = read_examples(place / "scored.csv").split(seed=0)
    sides = [pair.source for pair in held.rows], [pair.target for pair in held.rows]
    found = measure_similarity(open_embedder(folder), *sides, np.array(held.scores))
    assert found["spearman"] == pytest.approx(held_out["after"]["spearman"], abs=1e-6)


def test_an_adapter_learns_scores(place: Path, tmp_path: Path) -> None:
    settings = replace(SETTINGS, lora=LoRAConfig(rank=16), rate=0.01)
    facts = tune(place / "model", place / "scored.csv", out=tmp_path / "out", task="embed", settings=settings)
    assert facts["held_out"]["after"]["spearman"] > facts["held_out"]["before"]["spearman"] + 0.1
    assert facts["trained_parameters"] < facts["parameters"]
    assert not (tmp_path / "out" / "model.safetensors").exists()
    _, held = read_examples(place / "scored.csv").split(seed=0)
    sides = [pair.source for pair in held.rows], [pair.target for pair in held.rows]
    found = measure_similarity(open_embedder(tmp_path / "out"), *sides, np.array(held.scores))
    assert found["spearman"] == pytest.approx(facts["held_out"]["after"]["spearman"], abs=1e-3)


@pytest.mark.parametrize(("file", "kind"), [("texts.txt", "texts"), ("pairs.tsv", "pairs")])
def test_partners_are_learned(place: Path, tmp_path: Path, file: str, kind: str) -> None:
    facts = tune(place / "model", place / file, out=tmp_path, task="embed", settings=replace(SETTINGS, epochs=20))
    assert facts["kind"] == kind
    held_out = facts["held_out"]
    assert held_out["after"]["loss"] < 0.7 * held_out["before"]["loss"]
    assert held_out["after"]["found"] >= held_out["before"]["found"]
    among = min(8, facts["examples"]["held_out"])
    assert f"partners found among {among}" in tune_lines(facts)[0]
    assert np.linalg.norm(bimo.embed(tmp_path, ["the cat"])) == pytest.approx(1)


def test_a_second_call_finds_it_done_and_another_is_refused(place: Path, tuned) -> None:
    folder, facts = tuned
    again = {"out": folder, "task": "embed"}
    assert tune(place / "model", place / "scored.csv", **again, settings=SETTINGS) == facts
    with pytest.raises(UserError, match="made from another model, file or settings"):
        tune(place / "model", place / "scored.csv", **again, settings=replace(SETTINGS, seed=1))


def test_an_interrupted_tuning_ends_with_the_same_numbers(place: Path, tmp_path: Path, monkeypatch) -> None:
    wish = {"task": "embed", "settings": replace(SETTINGS, epochs=3)}
    whole = tune(place / "model", place / "texts.txt", out=tmp_path / "whole", **wish)

    def stop(self, trainer, step_facts):
        if trainer.progress.step == 7:
            trainer._stop_asked.set()

    with monkeypatch.context() as patch:
        patch.setattr(train_tune.Tuning, "_log", stop)
        with pytest.raises(UserError, match="all is saved") as caught:
            tune(place / "model", place / "texts.txt", out=tmp_path / "parts", **wish)
        assert caught.value.code == INTERRUPTED
    parts = tune(place / "model", place / "texts.txt", out=tmp_path / "parts", **wish)
    assert parts["resumed"] == 1
    assert parts["held_out"] == whole["held_out"]
    digests = [digest_file(tmp_path / name / "model.safetensors") for name in ("whole", "parts")]
    assert digests[0] == digests[1]


def test_only_encoders_learn_vectors(place: Path, tmp_path: Path, make_model, tiny_tokenizer) -> None:
    save_model(tmp_path / "model", make_model(vocabulary=tiny_tokenizer.vocabulary), end=tiny_tokenizer.end)
    tiny_tokenizer.save(tmp_path / "model")
    with pytest.raises(UserError, match="is no encoder, and only those learn vectors") as caught:
        tune(tmp_path / "model", place / "texts.txt", out=tmp_path / "out", task="embed")
    assert caught.value.code == USAGE


# --- what is like what


def clouds(count: int, each: int, *, seed: int = 0, spread: float = 0.15) -> np.ndarray:
    """Vectors of length 1 in so many clouds [count * each, 16]."""
    random = np.random.default_rng(seed)
    middles = units(random.normal(size=(count, 16)))
    return units(np.repeat(middles, each, axis=0) + spread * random.normal(size=(count * each, 16))).astype(np.float32)


def test_near_pairs_are_those_of_every_pair(monkeypatch) -> None:
    vectors = clouds(5, 9)
    expected = near_pairs_reference(vectors, best=12)
    for cosines in (1, 4 * 45, 10**6):
        monkeypatch.setattr("bimo.tasks.embed.similar.COSINES_AT_ONCE", cosines)
        found = near_pairs(vectors, best=12)
        assert [pair[:2] for pair in found] == [pair[:2] for pair in expected]
        np.testing.assert_allclose([pair[2] for pair in found], [pair[2] for pair in expected], atol=1e-6)
    assert len(near_pairs(vectors[:3], best=50)) == 3
    assert near_pairs(vectors[:1], best=3) == []


def test_clusters_are_those_of_the_data_and_their_number_is_found() -> None:
    vectors = clouds(6, 20, seed=1)
    texts = [f"{place // 20}/{place % 20}" for place in range(120)]
    for count in (6, 0):
        found = groups(vectors, texts, count=count)
        assert sorted(map(len, (group.places for group in found))) == [20] * 6
        for group in found:
            assert len({place // 20 for place in group.places}) == 1
            middle = units(vectors[group.places].mean(axis=0, keepdims=True))[0]
            assert group.places[0] == group.places[int((vectors[group.places] @ middle).argmax())]
            assert group.nearest == [texts[place] for place in group.places[:3]]
    centres, members = cluster(vectors, 6, seed=0)
    assert apart(vectors, centres, members) > apart(vectors, *cluster(vectors, 3, seed=0))


def test_clustering_is_as_good_as_scikit_learn_s() -> None:
    sklearn = pytest.importorskip("sklearn.cluster")
    vectors = clouds(12, 30, spread=0.3)
    centres, members = cluster(vectors, 12, seed=0)
    ours = ((vectors - centres[members]) ** 2).sum()
    theirs = sklearn.KMeans(12, n_init=4, random_state=0).fit(vectors)
    middles = units(theirs.cluster_centers_)[theirs.labels_]
    assert ours <= 1.02 * ((vectors - middles) ** 2).sum()


def test_as_many_clusters_as_texts_and_equal_texts() -> None:
    same = np.ones((5, 4), dtype=np.float32) / 2
    found = groups(same, [*"abcde"], count=5)
    assert [len(group.places) for group in found] == [1] * 5
    assert [group.nearest for group in groups(same[:2], [*"ab"])] == [["a", "b"]]
    for count in (6, -1):
        with pytest.raises(UserError, match="cannot be put into"):
            groups(same, [*"abcde"], count=count)


def test_search_is_by_cosine(place: Path) -> None:
    texts = ["the cat sleeps", "国王回来了", "a dog runs away"]
    found = bimo.similar(place / "model", "the cat sleeps", texts, best=2)
    assert (found[0].place, found[0].text) == (0, "the cat sleeps")
    assert found[0].cosine == pytest.approx(1, abs=1e-6)
    assert len(found) == 2
    vectors = units(open_embedder(place / "model").embed(texts))
    assert next(match.place for match in nearest(vectors[2], vectors, texts, best=3)) == 2


# --- evaluation


def test_correlations_are_scipy_s() -> None:
    random = np.random.default_rng(0)
    one, other = random.integers(0, 6, size=(3, 40)), random.normal(size=(3, 40))
    for row in range(3):
        assert spearman(one[row], other[row]) == pytest.approx(scipy.stats.spearmanr(one[row], other[row]).statistic)
        assert pearson(one[row], other[row]) == pytest.approx(scipy.stats.pearsonr(one[row], other[row]).statistic)
        np.testing.assert_array_equal(ranks(one[row]), scipy.stats.rankdata(one[row]))
    np.testing.assert_allclose(spearman(one, other), [spearman(*sides) for sides in zip(one, other, strict=True)])
    assert pearson(np.ones(4), np.arange(4)) == 0


def test_a_file_that_was_learned_from_is_told(place: Path, tuned) -> None:
    console, said = Console(quiet=True), []
    console.warn = said.append
    for name in ("model", "tuned"):
        evaluate(place / name, place / "scored.csv", console=console)
    assert said == [f"{place / 'tuned'} learned from this very file, so it knows the answers."]


def test_evaluation_measures_likeness(place: Path, tuned) -> None:
    before, after = (evaluate(place / name, place / "scored.csv") for name in ("model", "tuned"))
    assert after["spearman"] > before["spearman"] + 0.2
    assert after["pairs"] == 192
    low, high = after["spearman_interval"]
    assert low < after["spearman"] < high
    lines = evaluation_lines(after)
    assert lines[0].startswith(f"Spearman {after['spearman']:.4f}")
    assert len(lines) == 6
    with pytest.raises(UserError, match="on pairs with scores"):
        evaluate(place / "model", place / "pairs.tsv")


# --- the command line


def run(*arguments: str, text: str = "") -> tuple[int, str, str]:
    """Exit code, stdout, stderr."""
    result = CliRunner().invoke(app, [str(one) for one in arguments], input=text)
    return result.exit_code, result.stdout, result.stderr


def test_vectors_of_lines(place: Path, tmp_path: Path) -> None:
    texts = ["the cat", "", "国王"]
    expected = bimo.embed(place / "model", texts)
    code, out, _ = run("embed", place / "model", text="\n".join(texts) + "\n")
    rows = [json.loads(line) for line in out.splitlines()]
    assert (code, [row["text"] for row in rows]) == (0, texts)
    np.testing.assert_allclose([row["vector"] for row in rows], expected, rtol=1e-5, atol=1e-6)
    (tmp_path / "a.txt").write_text("\r\n".join(texts) + "\n", encoding="utf-8")
    code, _, err = run("embed", place / "model", "--in", tmp_path / "a.txt", "--out", tmp_path / "a.npy")
    assert (code, f"3 vectors of 24 numbers in {tmp_path / 'a.npy'}" in err) == (0, True)
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), expected)
    assert run("embed", place / "model", "x", "--in", tmp_path / "a.txt")[0] == USAGE
    assert run("embed", place / "model", "x", "--out", tmp_path / "a.txt")[0] == USAGE


def test_rows_are_written_as_numpy_has_them(tmp_path: Path) -> None:
    parts = [np.random.default_rng(0).normal(size=(rows, 5)).astype(np.float32) for rows in (3, 0, 4)]
    assert write_rows(tmp_path / "a.npy", iter(parts), width=5) == 7
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), np.concatenate(parts))
    assert write_rows(tmp_path / "a.npy", iter([]), width=5) == 0
    assert np.load(tmp_path / "a.npy").shape == (0, 5)


def test_similar_answers(place: Path, tmp_path: Path) -> None:
    model, file = place / "model", tmp_path / "a.txt"
    file.write_text("the cat sleeps\n\na dog runs away\n国王回来了\nthe cat sleeps!\n", encoding="utf-8")
    assert run("similar", model, "the cat", "the cat") == (0, "1.0000\n", "")
    code, out, _ = run("similar", model, "--in", file, "a dog runs away", "--best", "1")
    assert (code, out) == (0, "1.0000\ta dog runs away\n")
    code, out, _ = run("similar", model, "--in", file, "--pairs", "--best", "1", "--json")
    assert {json.loads(out)["pairs"][0][side] for side in ("first", "second")} == {"the cat sleeps", "the cat sleeps!"}
    code, out, _ = run("similar", model, "--in", file, "--clusters", "3", "--json")
    assert sorted(group["texts"] for group in json.loads(out)["groups"]) == [1, 1, 2]
    (tmp_path / "empty.txt").write_text("\n")
    assert run("similar", model, "--in", tmp_path / "empty.txt", "--pairs")[0] == DATA_REFUSED


@pytest.mark.parametrize("wrong", [[], ["a"], ["a", "b", "c"], ["a", "b", "--pairs"], ["--clusters", "2"]])
def test_similar_says_what_it_wants(place: Path, wrong: list[str]) -> None:
    code, _, err = run("similar", place / "model", *wrong)
    assert (code, "Give two texts, or a file of texts with --in." in err) == (USAGE, True)


@pytest.mark.parametrize("wrong", [[], ["a", "b"], ["a", "--pairs"], ["--pairs", "--clusters", "0"]])
def test_similar_does_one_thing_with_a_file(place: Path, wrong: list[str]) -> None:
    code, _, err = run("similar", place / "model", "--in", place / "texts.txt", *wrong)
    assert (code, "With --in give one text to look for" in err) == (USAGE, True)
