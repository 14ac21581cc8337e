"""Word vectors: the kernel against its twin, what is learned, what is asked of them, and the files they are kept in."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from writing import ways_here

from bimo.kernel import best_instructions
from bimo.runtime import UserError
from bimo.vectors import corpus as corpus_module
from bimo.vectors import training
from bimo.vectors.corpus import END, Corpus, index_texts
from bimo.vectors.map import draw_map, lay_out
from bimo.vectors.parts import find_parts, parts_of
from bimo.vectors.store import read_vectors, write_vectors
from bimo.vectors.training import METHODS, VectorSettings, train_vectors
from bimo.vectors.word_vectors import WordVectors
from bimo.words.vectors import train_words

ANIMALS, TOOLS = ["猫", "狗", "老虎", "狮子"], ["锤子", "剪刀", "钳子", "锯子"]
KINDS = {"动物": (ANIMALS, ["捕食", "奔跑", "睡觉", "跳跃"]), "工具": (TOOLS, ["生锈", "修理", "打磨", "敲打"])}


def quiet(done: float, text: str = "") -> None:
    """No progress."""


def zoo(lines: int = 600) -> str:
    """Lines in which animals do what animals do, and tools what tools do."""
    drawn = random.Random(1)
    kinds = list(KINDS.values())
    return "\n".join(
        " ".join(drawn.choice(words) for words in (nouns, verbs, nouns, verbs))
        for nouns, verbs in (drawn.choice(kinds) for _ in range(lines))
    )


@pytest.fixture
def zoo_corpus(tmp_path: Path) -> Corpus:
    return index_texts([zoo()], tmp_path, least_count=5)


def learn(corpus: Corpus, *, threads: int = 1, **settings: Any) -> WordVectors:
    return train_vectors(corpus, VectorSettings(**settings), threads=threads, progress=quiet)


# --- the corpus


def test_texts_become_numbers_of_words(tmp_path: Path):
    texts = ["The cat saw the dog.\nThe cat ran", "A dog, a CAT!"]
    corpus = index_texts(texts, tmp_path, least_count=2, without={"a"})
    assert corpus.words == ["cat", "the", "dog"]
    assert corpus.counts.tolist() == [3, 3, 2]
    assert corpus.ids.tolist() == [1, 0, 1, 2, END, 1, 0, END, 2, 0, END]


def test_numbering_in_blocks_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    texts = [zoo(20), "", zoo(30)[::-1]]
    folders = [tmp_path / "one", tmp_path / "many"]
    for folder in folders:
        folder.mkdir()
    whole = index_texts(texts, folders[0], least_count=2)
    monkeypatch.setattr(corpus_module, "_BLOCK", 7)
    cut = index_texts(texts, folders[1], least_count=2)
    assert cut.words == whole.words
    assert cut.counts.tolist() == whole.counts.tolist()
    assert cut.ids.tolist() == whole.ids.tolist()


# --- parts of words


def test_parts_are_short_for_chinese_and_long_for_letters():
    assert parts_of("深圳") == ["深", "圳", "<深", "深圳", "圳>", "<深圳", "深圳>"]
    assert parts_of("cat") == ["<ca", "cat", "at>", "<cat", "cat>"]
    assert parts_of("a") == []


@given(st.text(min_size=1, max_size=9))
def test_parts_stand_in_their_word(word: str):
    assert all(part in f"<{word}>" and part != f"<{word}>" and part not in "<>" for part in parts_of(word))


def test_only_shared_parts_are_kept():
    found = find_parts(["深圳", "深山", "x"])
    assert set(found.names) == {"深", "<深"}
    assert found.offsets.tolist() == [0, 2, 4, 4]
    assert found.rows.tolist() == [0, 1, 0, 1]


# --- training


@pytest.mark.parametrize("way", [way for way in ways_here() if way != "torch"])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("parts", [False, True])
def test_kernel_agrees_with_its_twin(
    way: str, method: str, parts: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    corpus = index_texts([zoo(60), "一\n\n" * 5], tmp_path, least_count=1)
    settings = {"method": method, "parts": parts, "width": 20, "epochs": 4, "window": 3, "rate": 0.5, "sample": 0.03}
    monkeypatch.setenv("BIMO_KERNEL", way)
    fast = learn(corpus, **settings)
    monkeypatch.setenv("BIMO_KERNEL", "torch")
    slow = learn(corpus, **settings)
    assert np.abs(slow.vectors).max() > 0.1, "nothing was learned"
    np.testing.assert_allclose(fast.vectors, slow.vectors, atol=2e-5)
    np.testing.assert_allclose(fast.part_vectors, slow.part_vectors, atol=2e-5)


def test_one_thread_repeats_however_the_text_is_cut(zoo_corpus: Corpus, monkeypatch: pytest.MonkeyPatch):
    whole = learn(zoo_corpus)
    monkeypatch.setattr(training, "_BLOCK", 50)
    cut = learn(zoo_corpus)
    np.testing.assert_array_equal(whole.vectors, cut.vectors)
    assert not np.array_equal(whole.vectors, learn(zoo_corpus, seed=1).vectors)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("threads", [1, 2])
def test_words_that_are_used_alike_are_near(zoo_corpus: Corpus, method: str, threads: int):
    vectors = learn(zoo_corpus, method=method, threads=threads, epochs=60, parts=False, sample=0.0, width=16)
    for kind in map(sum, KINDS.values(), ([], [])):
        others = {word for word, _ in vectors.near(kind[0], 15)} - set(kind)
        own = [vectors.similarity(kind[0], word) for word in kind[1:]]
        assert np.mean(own) > np.mean([vectors.similarity(kind[0], word) for word in others]) + 0.3


@pytest.mark.skipif(best_instructions() is None, reason="threads are the kernel's")
def test_every_line_is_read_by_one_thread_alone(tmp_path: Path):
    """Lines of one word teach nothing, so all that moves is what the one other line moves: once, or it would differ."""
    settings = {"parts": False, "sample": 0.0, "epochs": 1}
    for place in range(40):
        lines = ["c"] * place + ["a b " * 9] + ["c"] * (39 - place)
        (folder := tmp_path / str(place)).mkdir()
        corpus = index_texts(["\n".join(lines)], folder, least_count=1)
        alone, *together = (learn(corpus, threads=threads, **settings).vectors for threads in (1, 2, 3, 40))
        assert not np.array_equal(alone, learn(corpus, **{**settings, "rate": 1e-30}).vectors)
        for vectors in together:
            np.testing.assert_array_equal(vectors, alone)


def test_words_are_drawn_as_their_weights_say():
    weights = np.array([50.0, 1, 1, 8, 40])
    keep, alias = training._alias_table(weights.copy())
    chances = keep / np.iinfo(np.uint32).max
    drawn = chances.copy()
    np.add.at(drawn, alias, 1 - chances)
    np.testing.assert_allclose(drawn / drawn.sum(), weights / weights.sum(), rtol=1e-6)


def test_common_words_are_read_less_often():
    share = training._kept_share(np.array([1_000_000, 1_000, 10]), 1e-3) / np.iinfo(np.uint32).max
    # The formula of word2vec by hand: t = count / (sample * total), sqrt(1 / t) + 1 / t, at most 1.
    assert share[0] == pytest.approx(0.001001 * 1.01 / 1 + (0.00100101) ** 0.5, rel=2e-3)
    assert share[1:].tolist() == [1, 1]


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"method": "glove"}, "There is no method 'glove'"),
        ({"width": 0}, "--width must be at least 1"),
        ({"window": 0}, "--window must be at least 1"),
        ({"epochs": 0}, "--epochs must be at least 1"),
        ({"least_count": 0}, "--least-count must be at least 1"),
        ({"seed": -1}, "--seed must be at least 0"),
    ],
)
def test_settings_that_cannot_be_are_refused(wrong: dict[str, Any], said: str):
    with pytest.raises(UserError, match=said):
        VectorSettings(**wrong)


# --- questions


@pytest.fixture
def plane() -> WordVectors:
    """Words on a plane: to the right what is royal, upward what is female."""
    places = {"man": (1, 0.1), "woman": (1, 1), "king": (3, 0.1), "queen": (3, 2.8), "apple": (-2, -1)}
    vectors = np.array([*places.values()], np.float32)
    parts = np.array([[3, 2.8], [-1, 0]], np.float32)
    return WordVectors([*places], np.array([50, 40, 9, 8, 7]), vectors, ["que", "<xy"], parts)


def test_analogy_is_an_arithmetic_of_unit_vectors(plane: WordVectors):
    assert plane.analogy("man", "king", "woman", 1)[0][0] == "queen"
    units = {word: vector / np.linalg.norm(vector) for word, vector in zip(plane.words, plane.vectors, strict=True)}
    wanted = units["king"] - units["man"] + units["woman"]
    cosine = units["queen"] @ wanted / np.linalg.norm(wanted)
    assert plane.analogy("Man", "King", "Woman", 1)[0][1] == pytest.approx(cosine, abs=1e-6)


def test_words_of_others_keep_their_capitals():
    vectors = np.array([[1, 0], [0, 1], [1, 1]], np.float32)
    found = WordVectors(["Paris", "paris", "The"], np.array([3, 2, 1]), vectors, [], np.zeros((0, 2), np.float32))
    assert found.vector("Paris").tolist() == [1, 0]
    assert found.vector("PARIS").tolist() == [0, 1]
    assert found.vector("The").tolist() == [1, 1]
    assert [word for word, _ in found.near("Paris")] == ["The"]


def test_near_leaves_the_word_itself_out_and_sorts(plane: WordVectors):
    found = plane.near("Queen", 9)
    assert [word for word, _ in found] == ["woman", "man", "king", "apple"]
    assert [cosine for _, cosine in found] == sorted((cosine for _, cosine in found), reverse=True)


def test_unknown_words_are_made_of_their_parts_or_refused(plane: WordVectors):
    assert plane.near("quest", 1)[0][0] == "queen"
    with pytest.raises(UserError, match=r"'kingg' is not known.*king"):
        plane.near("kingg")


def test_texts_are_alike_by_their_words(plane: WordVectors):
    assert plane.similarity("a king", "king?") == pytest.approx(1, abs=1e-6)
    assert plane.similarity("king", "queen") > plane.similarity("king", "apple")
    assert plane.text_vectors(["", "…"]).tolist() == [[0, 0], [0, 0]]
    with pytest.raises(UserError, match="No word of 'zzz'"):
        plane.similarity("king", "zzz")


def test_rare_words_weigh_more_in_a_text(plane: WordVectors):
    total = plane.counts.sum()
    weights = [1e-3 / (1e-3 + plane.counts[number] / total) for number in (0, 4)]
    expected = np.average(plane.vectors[[0, 4]], axis=0, weights=weights)
    np.testing.assert_allclose(plane.text_vectors(["man, apple"])[0], expected, rtol=1e-5)


def test_text_vectors_are_features_of_a_linear_classifier(zoo_corpus: Corpus):
    from sklearn.linear_model import LogisticRegression

    vectors = learn(zoo_corpus, epochs=40, parts=False, sample=0.0, width=16)
    texts = [(f"{noun} {verb}", kind) for kind, (nouns, verbs) in KINDS.items() for noun in nouns for verb in verbs]
    train, test = texts[::2], texts[1::2]
    model = LogisticRegression().fit(vectors.text_vectors([text for text, _ in train]), [kind for _, kind in train])
    assert model.predict(vectors.text_vectors([text for text, _ in test])).tolist() == [kind for _, kind in test]


# --- files


def test_vectors_survive_their_files(zoo_corpus: Corpus, tmp_path: Path):
    vectors = learn(zoo_corpus, width=10)
    write_vectors(vectors, tmp_path / "out", facts={})
    again = read_vectors(tmp_path / "out")
    assert (again.words, again.parts, again.counts.tolist()) == (vectors.words, vectors.parts, vectors.counts.tolist())
    np.testing.assert_array_equal(again.vectors, vectors.vectors)
    np.testing.assert_array_equal(again.part_vectors, vectors.part_vectors)
    text = read_vectors(tmp_path / "out" / "vectors.txt")
    assert text.words == vectors.words
    np.testing.assert_allclose(text.vectors, vectors.vectors, rtol=1e-5)


def test_gensim_reads_the_text_file(zoo_corpus: Corpus, tmp_path: Path):
    from gensim.models import KeyedVectors

    vectors = learn(zoo_corpus)
    write_vectors(vectors, tmp_path / "out", facts={})
    theirs = KeyedVectors.load_word2vec_format(str(tmp_path / "out" / "vectors.txt"))
    assert theirs.index_to_key == vectors.words
    for word in vectors.words:
        np.testing.assert_allclose(theirs[word], vectors.vector(word), rtol=1e-5)
    near = vectors.near("猫", 5)
    assert [word for word, _ in theirs.most_similar("猫", topn=5)] == [word for word, _ in near]
    np.testing.assert_allclose(
        [cosine for _, cosine in theirs.most_similar("猫", topn=5)], [cosine for _, cosine in near], atol=1e-5
    )


def cut_short(folder: Path) -> None:
    file = folder / "vectors.safetensors"
    file.write_bytes(file.read_bytes()[:-8])


def lose_a_word(folder: Path) -> None:
    names = json.loads((folder / "vocabulary.json").read_text())
    names["words"].pop()
    (folder / "vocabulary.json").write_text(json.dumps(names))


def put_nan(folder: Path) -> None:
    from safetensors.numpy import load_file, save_file

    tensors = load_file(folder / "vectors.safetensors")
    tensors["words"][0, 0] = np.nan
    save_file(tensors, folder / "vectors.safetensors")


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (cut_short, "does not hold word vectors that can be read: "),
        (lose_a_word, "names and vectors are not as many"),
        (put_nan, "a vector with numbers that are none"),
        (shutil.rmtree, "There are no word vectors at"),
    ],
)
def test_damaged_vectors_are_refused(damage: Any, said: str, zoo_corpus: Corpus, tmp_path: Path):
    write_vectors(learn(zoo_corpus, width=4), tmp_path / "out", facts={})
    damage(tmp_path / "out")
    with pytest.raises(UserError, match=said):
        read_vectors(tmp_path / "out")


@pytest.mark.parametrize("text", ["", "x y\n", "2 2\na 1 2\n", "1 2\na 1\n", "1 2\na 1 b\n", "1 1\na nan\n", "0 4\n"])
def test_text_files_that_are_none_are_refused(text: str, tmp_path: Path):
    (tmp_path / "vectors.txt").write_text(text)
    with pytest.raises(UserError, match="does not hold word vectors"):
        read_vectors(tmp_path / "vectors.txt")


def test_train_words_never_overwrites_what_is_not_vectors(tmp_path: Path):
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "zoo.txt").write_text(zoo(100), encoding="utf-8")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match="something else"):
        train_words([tmp_path / "text"], out=tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"
    for _ in range(2):
        train_words([tmp_path / "text"], out=tmp_path / "out", settings=VectorSettings(width=4))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "out", "text"]
    (tmp_path / "out" / "map.svg").write_text("drawn by hand")
    with pytest.raises(UserError, match="something else"):
        train_words([tmp_path / "text"], out=tmp_path / "out", settings=VectorSettings(width=4))
    assert (tmp_path / "out" / "map.svg").read_text() == "drawn by hand"
    with pytest.raises(UserError, match="No two words occur at least 5000 times"):
        train_words([tmp_path / "text"], out=tmp_path / "new", settings=VectorSettings(least_count=5000))


def test_stop_words_are_learned_where_they_are_taken_back(tmp_path: Path):
    (tmp_path / "a.txt").write_text("Not the cat but the dog was not at home, the cat was. " * 20, encoding="utf-8")

    def learned(**options: Any) -> set[str]:
        train_words([tmp_path / "a.txt"], out=tmp_path / "out", settings=VectorSettings(width=4, epochs=1), **options)
        return set(read_vectors(tmp_path / "out").words)

    assert learned() == {"cat", "dog", "home"}
    assert learned(without=["home"], keep=["Not"]) == {"cat", "dog", "not"}


# --- maps


def test_a_map_keeps_neighbours_together():
    drawn = np.random.default_rng(0)
    centres = np.eye(3, 20)
    vectors = np.concatenate([centre + 0.05 * drawn.normal(size=(8, 20)) for centre in centres]).astype(np.float32)
    places = lay_out(vectors)
    for group in range(3):
        own = places[8 * group : 8 * group + 8]
        others = np.delete(places, np.s_[8 * group : 8 * group + 8], 0)
        inside = np.linalg.norm(own - own.mean(0), axis=1).max()
        assert inside < np.linalg.norm(others - own.mean(0), axis=1).min()


def test_a_drawing_has_its_words_as_text_and_repeats(tmp_path: Path):
    words = [*ANIMALS, *TOOLS, "$cat_1$"]
    vectors = np.random.default_rng(0).normal(size=(len(words), 8)).astype(np.float32)
    shown = [draw_map(words, vectors, tmp_path / f"{name}.svg") for name in ("one", "two")]
    drawing = (tmp_path / "one.svg").read_text(encoding="utf-8")
    assert shown[0] == sum(f">{word}</text>" in drawing for word in words) >= 7
    assert drawing == (tmp_path / "two.svg").read_text(encoding="utf-8")


def test_a_picture_needs_a_font_for_its_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("bimo.vectors.map.FONTS", ("No Such Font",))
    vectors = np.random.default_rng(0).normal(size=(8, 8)).astype(np.float32)
    assert draw_map(list("abcdefgh"), vectors, tmp_path / "letters.png") > 4
    assert (tmp_path / "letters.png").read_bytes().startswith(b"\x89PNG")
    assert draw_map([*"abcdefg", "people’s"], vectors, tmp_path / "words.png") > 4
    with pytest.raises(UserError, match=r"no font with Chinese"):
        draw_map([*ANIMALS, *TOOLS], vectors, tmp_path / "words.png")
    with pytest.raises(UserError, match=r"\.svg, \.png"):
        draw_map(list("abcdefgh"), vectors, tmp_path / "words.bmp")


# --- the embedding of a model


def test_an_embedding_starts_from_the_vectors(zoo_corpus: Corpus, tmp_path: Path):
    from bimo.prepare import prepare
    from bimo.tokens.tokenizer import load_tokenizer
    from bimo.train.embedding import start_from_vectors

    (tmp_path / "zoo.txt").write_text(zoo(2000), encoding="utf-8")
    prepare([tmp_path / "zoo.txt"], out=tmp_path / "data")
    tokenizer = load_tokenizer(tmp_path / "data")
    vectors = learn(zoo_corpus, epochs=40, parts=False, sample=0.0, width=16)
    tokens = {tokenizer.decode([token]).strip(): token for token in range(tokenizer.vocabulary)}
    both = [(tokens[word], number) for number, word in enumerate(vectors.words) if word in tokens]
    assert len(both) > 8
    for width in (24, 16, 8):
        before = torch.randn(tokenizer.vocabulary, width, generator=torch.Generator().manual_seed(0)) * 0.02
        embedding = before.clone()
        assert start_from_vectors(embedding, tokenizer, vectors) >= len(both)
        changed = (embedding != before).any(1)
        assert changed[[token for token, _ in both]].all()
        assert not changed[tokenizer.end]
        if width == 24:
            torch.testing.assert_close(embedding[:, 16:], before[:, 16:])
        rows = embedding[[token for token, _ in both], :16].double()
        theirs = torch.from_numpy(vectors.vectors[[number for _, number in both]]).double()
        # The same directions up to the mean that was taken off and a turn: distances are as they were.
        ours = torch.pdist(rows) / torch.pdist(rows).mean()
        wanted = torch.pdist(theirs) / torch.pdist(theirs).mean()
        if width >= vectors.width:
            torch.testing.assert_close(ours, wanted, atol=1e-4, rtol=0)
        else:
            assert torch.corrcoef(torch.stack([ours, wanted]))[0, 1] > 0.98
