"""An encoder as ONNX says in onnxruntime what it says here, whatever its head, at any batch and length."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bimo.models.encoder import Encoder, EncoderConfig
from bimo.models.heads import Head
from bimo.runtime import UserError
from bimo.weights.huggingface import load_encoder
from bimo.weights.onnx import open_onnx, write_onnx

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

HEADS = {
    "none": Head("none"),
    "none, with a pooler": Head("none", pooler=True),
    "words": Head("words"),
    "classes": Head("classes", labels=("a", "b", "c"), pooler=True),
    "tokens": Head("tokens", labels=("a", "b")),
    "span": Head("span"),
}


def random_encoder(head: Head, **changes: Any) -> Encoder:
    """A small encoder whose every weight is random, none silent."""
    sizes = {"vocabulary": 97, "layers": 2, "width": 24, "heads": 3, "hidden": 40, "context": 40}
    model = Encoder(EncoderConfig(**{**sizes, **changes}, head=head))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            noise = torch.randn(weight.shape, generator=generator)
            weight.copy_(noise * 0.3 if weight.ndim == 2 or name.endswith("bias") else 1 + 0.2 * noise)
    return model.eval()


def inputs(B: int, T: int, vocabulary: int = 97) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """ids, what is no padding, segments [B, T]; each row is a token shorter than the one before."""
    random = np.random.default_rng(T)
    real = np.arange(T) < np.maximum(1, T - np.arange(B))[:, None]
    return random.integers(vocabulary, size=(B, T)), real, random.integers(2, size=(B, T))


def check_same(model: Encoder, path: Path, B: int, T: int, vocabulary: int = 97) -> float:
    """Returns the largest difference where there is no padding."""
    ids, real, segments = inputs(B, T, vocabulary)
    found = open_onnx(path, threads=1)(ids, real=real, segments=segments)
    given = {"segments": torch.from_numpy(segments), "real": torch.from_numpy(real)}
    with torch.no_grad():
        expected = model(torch.from_numpy(ids), **given)
        if "pooler_output" in found:
            assert model.pooler is not None
            pooled = model.pooler(model.hidden_states(torch.from_numpy(ids), **given))
            np.testing.assert_allclose(found.pop("pooler_output"), pooled, atol=1e-4)
    ours = np.stack([*found.values()], axis=-1) if len(found) == 2 else next(iter(found.values()))
    theirs = expected.numpy()
    assert ours.shape == theirs.shape
    if ours.shape[:2] == (B, T):
        ours, theirs = ours[real], theirs[real]
    assert theirs.std() > 0.1
    np.testing.assert_allclose(ours, theirs, atol=1e-4, rtol=1e-4)
    return float(np.abs(ours - theirs).max())


@pytest.mark.parametrize("kind", list(HEADS))
def test_every_head_says_the_same(kind: str, tmp_path: Path) -> None:
    model = random_encoder(HEADS[kind])
    write_onnx(tmp_path / "model.onnx", model)
    for B, T in ((1, 1), (3, 17), (5, 40)):
        check_same(model, tmp_path / "model.onnx", B, T)


@pytest.mark.parametrize("activation", ["gelu", "gelu_tanh", "relu", "silu"])
def test_every_activation_says_the_same(activation: str, tmp_path: Path) -> None:
    model = random_encoder(Head("words"), feed_forward=activation, segments=3, norm_epsilon=1e-3)
    write_onnx(tmp_path / "model.onnx", model)
    check_same(model, tmp_path / "model.onnx", 2, 9)


def test_what_a_mask_hides_changes_nothing(tmp_path: Path) -> None:
    write_onnx(tmp_path / "model.onnx", random_encoder(Head("words")))
    run = open_onnx(tmp_path / "model.onnx", threads=1)
    ids, real, segments = inputs(3, 12)
    before = run(ids, real=real, segments=segments)["logits"][real]
    after = run(np.where(real, ids, 5), real=real, segments=segments)["logits"][real]
    np.testing.assert_array_equal(before, after)
    plain = run(ids[:1, :4])["logits"]
    np.testing.assert_allclose(
        plain, run(ids[:1, :4], real=np.ones((1, 4)), segments=np.zeros((1, 4)))["logits"], atol=0
    )


def test_the_embedding_stands_in_the_file_once(tmp_path: Path) -> None:
    model = random_encoder(Head("words"), vocabulary=20_000)
    write_onnx(tmp_path / "model.onnx", model)
    assert (tmp_path / "model.onnx").stat().st_size < 4 * model.config.parameters + 20_000


def test_minilm_says_the_same(minilm: Path, tmp_path: Path) -> None:
    model = load_encoder(minilm)
    write_onnx(tmp_path / "model.onnx", model)
    for B, T in ((1, 5), (3, 64)):
        assert check_same(model, tmp_path / "model.onnx", B, T, 30_522) < 1e-4


def test_a_file_that_is_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"\x08\x07nothing of the kind")
    with pytest.raises(UserError, match="cannot be read"):
        open_onnx(tmp_path / "model.onnx")


def test_without_the_package_a_sentence_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(UserError, match=r"needs onnx: pip install 'bimo\[export\]'"):
        write_onnx(tmp_path / "model.onnx", random_encoder(Head("words")))
    assert not list(tmp_path.iterdir())
