"""Vectors of texts beside those of sentence-transformers: its folders read here, ours read there."""

from __future__ import annotations

import csv
import warnings
from pathlib import Path

import numpy as np
import pytest
from random_models import randomised

from bimo.correlation import spearman
from bimo.evaluate.similarity import cosines_of
from bimo.models.encoder import Encoder, EncoderConfig
from bimo.models.heads import Head
from bimo.tasks.embed.embedder import open_embedder
from bimo.tasks.tune import tune
from bimo.tokens.masking import with_mask_token
from bimo.train.tune import TuneConfig
from bimo.weights.huggingface import save_encoder
from bimo.weights.sentence_transformers import SentenceLayout, read_layout, write_layout

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    sentence_transformers = pytest.importorskip("sentence_transformers")

TEXTS = ["", "The cat sleeps.", "国王和王后回来了！", "a dog runs away " * 40, "Café, naïve: 3.14"]


def theirs(folder: Path, texts: list[str]) -> np.ndarray:
    """What the library makes of texts."""
    model = sentence_transformers.SentenceTransformer(str(folder), device="cpu")
    return model.encode(texts, batch_size=4, show_progress_bar=False)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer) -> Path:
    """A folder with a random encoder, as pretraining leaves it."""
    folder = tmp_path_factory.mktemp("encoder")
    tokenizer = with_mask_token(tiny_tokenizer)
    sizes = {"layers": 2, "width": 24, "heads": 3, "hidden": 40, "context": 48}
    shape = EncoderConfig(vocabulary=tokenizer.vocabulary, head=Head("none", pooler=True), **sizes)
    save_encoder(folder, randomised(Encoder(shape)), pad=tokenizer.special_id("pad_token"))
    tokenizer.save(folder, context=48)
    return folder


@pytest.mark.parametrize("pooling", ["mean", "cls", "max", "lasttoken"])
@pytest.mark.parametrize("normalize", [False, True])
def test_layouts_say_the_same_there(encoder: Path, pooling: str, normalize: bool) -> None:
    layout = SentenceLayout(pooling, normalize, context=32, lower=pooling == "max")
    write_layout(encoder, layout, width=24)
    np.testing.assert_allclose(open_embedder(encoder).embed(TEXTS), theirs(encoder, TEXTS), atol=1e-5)


def test_what_it_saves_is_read(encoder: Path, tmp_path: Path) -> None:
    layout = SentenceLayout("cls", True, context=32)
    write_layout(encoder, layout, width=24)
    sentence_transformers.SentenceTransformer(str(encoder), device="cpu").save(str(tmp_path))
    assert read_layout(tmp_path) == layout
    np.testing.assert_allclose(open_embedder(tmp_path).embed(TEXTS), theirs(encoder, TEXTS), atol=1e-5)


def test_a_tuned_folder_makes_the_same_vectors_there(encoder: Path, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(
        "".join(f"the cat of {n} sleeps\n国王{n}回来了\n" for n in range(20)), encoding="utf-8"
    )
    write_layout(encoder, SentenceLayout(), width=24)
    tune(encoder, tmp_path / "a.txt", out=tmp_path / "out", task="embed", settings=TuneConfig(epochs=1, batch=8))
    ours = open_embedder(tmp_path / "out").embed(TEXTS)
    np.testing.assert_allclose(ours, theirs(tmp_path / "out", TEXTS), atol=1e-5)
    assert not np.allclose(ours, open_embedder(encoder).embed(TEXTS), atol=1e-3)


def test_minilm_makes_the_same_vectors(minilm: Path) -> None:
    assert read_layout(minilm) == SentenceLayout("mean", True, 256)
    np.testing.assert_allclose(open_embedder(minilm).embed(TEXTS), theirs(minilm, TEXTS), atol=1e-5)


def test_minilm_agrees_with_people_as_there(minilm: Path, shared_data: Path) -> None:
    file = shared_data / "similarity" / "stsb_en_zh" / "stsb-en-dev.csv"
    rows = [*csv.reader(file.read_text(encoding="utf-8").splitlines())][:200]
    firsts, seconds = [row[0] for row in rows], [row[1] for row in rows]
    scores = np.array([float(row[2]) for row in rows])
    one, other = theirs(minilm, firsts), theirs(minilm, seconds)
    ours = spearman(cosines_of(open_embedder(minilm), firsts, seconds), scores)
    assert ours == pytest.approx(spearman((one * other).sum(axis=1), scores), abs=1e-3)
    assert ours > 0.8
