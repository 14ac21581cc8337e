"""Shingles, signatures and clusters beside slow twins that are written from the definitions."""

from __future__ import annotations

import random
import re

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bimo.text.near_duplicates import BANDS, SIMILAR, band_keys, find_clusters, shingle_set, sketched_jaccard
from bimo.text.shingles import jaccard, shingles

TOKEN = re.compile(r"[\u3041-\u3096\u30a1-\u30fa\u3400-\u4dbf\u4e00-\u9fff]|[a-z0-9\uac00-\ud7a3]+")
LETTERS = st.text("ab c,1。天下大势分久必合カ한국\n", max_size=40)


def slow_shingles(text: str, tokens: int) -> list[tuple[str, ...]]:
    """The shingles themselves, by a regular expression for tokens."""
    words = TOKEN.findall(text.lower())
    if not words:
        return []
    return [tuple(words[start : start + tokens]) for start in range(max(1, len(words) - tokens + 1))]


def slow_clusters(sets: list[set]) -> list[int]:
    """Connected components of all pairs whose Jaccard similarity is at least SIMILAR, each named by its first."""
    first = list(range(len(sets)))
    for one in range(len(sets)):
        for other in range(one):
            either = sets[one] | sets[other]
            if either and len(sets[one] & sets[other]) / len(either) >= SIMILAR:
                low, high = sorted((first[one], first[other]))
                first = [low if each == high else each for each in first]
    return first


@example(["1", "1"], 5)
@given(st.lists(LETTERS, max_size=6), st.sampled_from([1, 3, 5]))
def test_hashes_are_equal_where_shingles_are(texts, tokens):
    hashes, offsets = shingles(texts, tokens=tokens)
    expected = [shingle for text in texts for shingle in slow_shingles(text, tokens)]
    assert np.diff(offsets).tolist() == [len(slow_shingles(text, tokens)) for text in texts]
    assert len(hashes) == len(expected)
    assert len(set(zip(hashes.tolist(), expected, strict=True))) == len(set(expected)) == len(set(hashes.tolist()))


def test_long_words_and_characters_beyond_the_first_plane():
    words = ["x" * 200, "x" * 199 + "y", "y" + "x" * 199, "\U00020000\U00020001", "\U00020001\U00020000"]
    hashes, _ = shingles(words, tokens=3)
    assert len(set(hashes.tolist())) == 5


@given(st.sets(st.integers(0, 20)), st.sets(st.integers(0, 20)))
def test_jaccard_is_the_share_in_common(ours, theirs):
    got = jaccard(np.array(sorted(ours), np.uint64), np.array(sorted(theirs), np.uint64))
    assert got == pytest.approx(len(ours & theirs) / max(1, len(ours | theirs)))


@pytest.mark.parametrize("shingles_in_union", [90, 400, 4000])
def test_sketches_tell_similar_texts_from_those_of_one_mould(shingles_in_union):
    chance = np.random.default_rng(2)
    for similarity, lowest, highest in ((1.0, 1.0, 1.0), (SIMILAR, 0.6, 1.0), (0.3, 0.0, 0.6)):
        for _ in range(300):
            hashes = chance.integers(0, 1 << 64, shingles_in_union, np.uint64)
            common = round(similarity * shingles_in_union)
            alone = common + (shingles_in_union - common) // 2
            ours, theirs = np.sort(hashes[:alone]), np.sort(np.concatenate([hashes[:common], hashes[alone:]]))
            found = sketched_jaccard(ours[:128], theirs[:128])
            assert lowest <= found <= highest
            if len(ours) < 128:
                assert found == jaccard(ours, theirs)


def test_texts_of_one_mould_are_told_apart_without_being_read_again():
    chance = random.Random(7)
    mould = [f"word{number}" for number in range(40)]
    texts = [" ".join(chance.choice(mould) for _ in range(2000)) for _ in range(60)]
    keys = band_keys(texts, ["en"] * len(texts))
    keys[:, 3] = 1  # all of them may be alike
    asked: list[int] = []

    def shingles_of(row: int) -> np.ndarray:
        asked.append(row)
        return shingle_set(texts[row], "en")

    assert np.array_equal(find_clusters(keys, shingles_of), np.arange(len(texts)))
    assert len(asked) == len(texts)


def edited(words: list[str], share: float, chance: random.Random) -> list[str]:
    return [str(chance.random()) if chance.random() < share else word for word in words]


@pytest.mark.parametrize("language", ["en", "zh"])
def test_clusters_are_those_of_all_pairs(language):
    chance = random.Random(5)
    joint = " " if language == "en" else ""
    alphabet = [chr(0x4E00 + number) if language == "zh" else f"word{number}" for number in range(500)]
    texts = []
    for _ in range(60):
        words = [chance.choice(alphabet) for _ in range(200)]
        texts.append(joint.join(words))
        texts += [joint.join(edited(words, share, chance)) for share in (0.0, 0.01, 0.02, 0.1, 0.3)]
    chance.shuffle(texts)
    sets = [shingle_set(text, language) for text in texts]
    found = find_clusters(band_keys(texts, [language] * len(texts)), sets.__getitem__)
    expected = slow_clusters([set(each.tolist()) for each in sets])
    assert len(set(expected)) < len(texts) - 60
    assert sum(ours != theirs for ours, theirs in zip(found.tolist(), expected, strict=True)) <= 2
    again = find_clusters(band_keys(texts, [language] * len(texts)), sets.__getitem__)
    assert np.array_equal(found, again)


def test_parts_of_the_keys_give_the_same_clusters(monkeypatch):
    chance = random.Random(6)
    keys = np.array([[chance.randrange(1, 40) for _ in range(BANDS)] for _ in range(300)], np.uint64)
    sets = [np.array([chance.randrange(8)], np.uint64) for _ in range(300)]
    whole = find_clusters(keys, sets.__getitem__)
    monkeypatch.setattr("bimo.text.near_duplicates._KEYS_AT_ONCE", 32)
    monkeypatch.setattr("bimo.text.near_duplicates._REMEMBERED", 10)
    assert len(set(whole.tolist())) < 300
    assert np.array_equal(find_clusters(keys, sets.__getitem__), whole)


def test_keys_do_not_depend_on_the_company():
    texts = ["The quick brown fox jumps over the lazy dog.", "天下大势，分久必合，合久必分。", "...", "한국어 문장"]
    languages = ["en", "zh", "en", "ko"]
    together = band_keys(texts, languages)
    for row, (text, language) in enumerate(zip(texts, languages, strict=True)):
        assert np.array_equal(band_keys([text], [language])[0], together[row])
    assert not together[2].any()
    assert together[[0, 1, 3]].all()
    assert band_keys([], []).shape == (0, BANDS)


def test_nothing_to_compare_by_is_alone():
    keys = np.zeros((3, BANDS), np.uint64)
    assert find_clusters(keys, lambda row: np.zeros(0, np.uint64)).tolist() == [0, 1, 2]
