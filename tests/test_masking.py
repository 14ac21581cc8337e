"""What is masked: whole words of the text, in the shares that were published, by seed and step alone."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from texts import CHINESE, ENGLISH, MIXED
from tokenizers import AddedToken, decoders, models, pre_tokenizers

from bimo.runtime import UserError
from bimo.text.segment import segment
from bimo.tokens.batches import Batches
from bimo.tokens.masking import FRAME, LEARNED, MEASURED, Masked, MaskedBatches, Masking, spellings, with_mask_token
from bimo.tokens.shards import TokenShards, TokenWriter
from bimo.tokens.tokenizer import Tokenizer, load_tokenizer

LONG = (" ".join(ENGLISH) + "".join(CHINESE) + MIXED) * 4


@pytest.fixture(scope="module")
def tokenizer(tiny_tokenizer: Tokenizer) -> Tokenizer:
    return with_mask_token(tiny_tokenizer)


@pytest.fixture(scope="module")
def masking(tokenizer: Tokenizer) -> Masking:
    return Masking(tokenizer)


@pytest.fixture(scope="module")
def windows(tokenizer: Tokenizer, masking: Masking) -> np.ndarray:
    """Framed windows [B, 40] of several texts, an end token between them."""
    ids = [*tokenizer.encode(LONG), tokenizer.end] * 6
    return masking.framed(np.array(ids[: len(ids) // 38 * 38]).reshape(-1, 38))


@pytest.fixture
def wordpiece(tmp_path: Path) -> Tokenizer:
    """A few pieces of words, and Chinese characters."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "un", "##believ", "##able", "cat", "，", ",", *"会议决定"]
    (tmp_path / "vocab.txt").write_text("\n".join(words) + "\n", encoding="utf-8")
    return load_tokenizer(tmp_path)


# --- the special tokens of an encoder


def test_ids_of_text_stay_and_special_tokens_follow(tiny_tokenizer: Tokenizer, tokenizer: Tokenizer) -> None:
    assert tokenizer.vocabulary == tiny_tokenizer.vocabulary + 3
    assert tokenizer.encode(LONG) == tiny_tokenizer.encode(LONG)
    assert tokenizer.end == tiny_tokenizer.end == tokenizer.special_id("sep_token")
    first = tokenizer.special_id("cls_token")
    assert tokenizer.begin == [first]
    assert first >= tiny_tokenizer.vocabulary
    assert tokenizer.inner.encode("a").ids == [first, *tokenizer.encode("a"), tokenizer.end]
    pair = tokenizer.inner.encode("a", "b")
    assert pair.ids == [first, *tokenizer.encode("a"), tokenizer.end, *tokenizer.encode("b"), tokenizer.end]
    assert pair.type_ids == [0, 0, 0, 1, 1]
    assert with_mask_token(tokenizer) is tokenizer


def test_text_that_spells_a_special_token_stays_text(tokenizer: Tokenizer) -> None:
    roles = {tokenizer.special_id(role) for role in ("cls_token", "mask_token", "pad_token", "sep_token")}
    assert not roles & set(tokenizer.encode("[MASK] [CLS] <|endoftext|>[PAD]"))


def test_a_role_that_no_token_has_is_missed(tiny_tokenizer: Tokenizer) -> None:
    with pytest.raises(UserError, match="no cls_token"):
        Masking(tiny_tokenizer)


def test_the_saved_tokenizer_is_one_that_transformers_knows(tokenizer: Tokenizer, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    tokenizer.save(tmp_path, context=40)
    again = load_tokenizer(tmp_path)
    assert again.special == tokenizer.special
    assert (again.begin, again.end) == (tokenizer.begin, tokenizer.end)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    for text in [*ENGLISH, *CHINESE, MIXED]:
        assert theirs(text)["input_ids"] == [*tokenizer.begin, *tokenizer.encode(text), tokenizer.end]
    assert theirs.mask_token_id == tokenizer.special_id("mask_token")
    # The blank before a hidden word belongs to it, as it belongs to the tokens of words.
    (letter,) = tokenizer.encode("a")
    assert theirs("a [MASK]")["input_ids"] == [*tokenizer.begin, letter, theirs.mask_token_id, tokenizer.end]


# --- where words are


def test_spellings_joined_are_the_text(tokenizer: Tokenizer) -> None:
    found = spellings(tokenizer)
    assert b"".join(found[token] for token in tokenizer.encode(LONG)).decode() == LONG


@given(st.text(max_size=60))
def test_spellings_of_any_text_are_its_bytes(tokenizer: Tokenizer, text: str) -> None:
    found = spellings(tokenizer)
    assert b"".join(found[token] for token in tokenizer.encode(text)) == text.encode()


def words_slowly(tokenizer: Tokenizer, ids: list[int]) -> list[int]:
    """The twin of Masking.words for a text that no window cuts: characters, one by one."""
    text = tokenizer.decode(ids)
    begins = {0, *itertools.accumulate(len(word.encode()) for word in segment(text))}
    numbers, place, number = [], 0, -1
    for token in ids:
        number += place in begins
        numbers.append(number)
        place += len(spellings(tokenizer)[token])
    return numbers


@pytest.mark.parametrize("text", [*ENGLISH, *CHINESE, MIXED])
def test_words_are_those_of_the_segmentation(tokenizer: Tokenizer, masking: Masking, text: str) -> None:
    ids = tokenizer.encode(text)
    assert masking.words(np.array([ids]))[0].tolist() == words_slowly(tokenizer, ids)


def groups(tokenizer: Tokenizer, masking: Masking, ids: list[int]) -> list[str]:
    """The texts of tokens that count as one word."""
    numbers = masking.words(np.array([ids]))[0].tolist()
    parts = itertools.groupby(zip(numbers, ids, strict=True), key=lambda pair: pair[0])
    return [tokenizer.decode([token for _, token in part]) for number, part in parts if number >= 0]


def test_chinese_words_come_from_the_dictionary(tokenizer: Tokenizer, masking: Masking) -> None:
    found = groups(tokenizer, masking, tokenizer.encode("研究人员决定下周三之前提交报告。"))
    assert "".join(found) == "研究人员决定下周三之前提交报告。"
    # No word is cut: each group is one word of the segmentation, or several that share a token.
    borders = set(itertools.accumulate(map(len, segment("研究人员决定下周三之前提交报告。"))))
    assert set(itertools.accumulate(map(len, found))) <= borders
    assert len(found) > 4


def test_pieces_of_a_word_of_bert_belong_together(wordpiece: Tokenizer) -> None:
    ids = [wordpiece.inner.token_to_id(token) for token in ("un", "##believ", "##able", "cat", ",", *"会议决定")]
    assert groups(wordpiece, Masking(wordpiece), ids) == ["unbelievable", "cat", ",", "会 议", "决 定"]


def test_pieces_of_sentencepiece_belong_together() -> None:
    inner = tokenizers.Tokenizer(models.Unigram([("<unk>", 0.0), ("▁he", -1.0), ("llo", -1.0), ("▁you", -1.0)], 0))
    inner.pre_tokenizer, inner.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    inner.add_special_tokens([AddedToken("</s>", special=True)])
    tokenizer = with_mask_token(Tokenizer(inner, {"eos_token": "</s>"}))
    ids = tokenizer.encode("hello you")
    assert Masking(tokenizer).words(np.array([ids])).tolist() == [[0, 0, 1]]


def test_a_character_that_a_window_cuts_is_no_trouble(tokenizer: Tokenizer, masking: Masking) -> None:
    ids = tokenizer.encode("👨‍👩‍👧‍👦龘靐齉")
    assert len(ids) > 12
    for start in range(len(ids)):
        numbers = masking.words(np.array([ids[start:]]))[0]
        assert numbers[0] == 0
        assert set(np.diff(numbers)) <= {0, 1}


# --- what is chosen


def test_special_tokens_are_never_chosen_and_never_put_in(windows: np.ndarray, masking: Masking) -> None:
    special = {masking.first, masking.last, masking.mask_id}
    assert masking.last in windows[:, 1:-1]
    for seed in range(20):
        masked = masking.mask(windows, seed=(seed,))
        assert not special & set(masked.ids[masked.chosen].tolist())
        exchanged = masked.read[masked.chosen & (masked.read != masking.mask_id)]
        assert not masking.is_special[exchanged].any()


@given(st.integers(0, 2**63 - 1), st.integers(0, 10_000))
@settings(max_examples=40)
def test_whole_words_are_chosen(windows: np.ndarray, masking: Masking, seed: int, step: int) -> None:
    masked = masking.mask(windows, seed=(seed, step))
    words = masking.words(windows)
    for word in np.unique(words[masked.chosen]):
        assert masked.chosen[words == word].all()
    # As many words as fit into the share; the next one would not have.
    size = np.bincount(words[words >= 0]).max()
    wanted = MEASURED * (words >= 0).sum()
    assert wanted - size < masked.chosen.sum() <= wanted
    assert np.array_equal(masked.read[~masked.chosen], windows[~masked.chosen])


def test_the_shares_are_those_that_were_published(windows: np.ndarray, masking: Masking) -> None:
    counts = np.zeros(3)
    for seed in range(200):
        masked = masking.mask(windows, seed=(seed,))
        before, after = masked.ids[masked.chosen], masked.read[masked.chosen]
        hidden = after == masking.mask_id
        counts += [hidden.sum(), (~hidden & (after != before)).sum(), (after == before).sum()]
    assert counts.sum() > 20_000
    # A random token is the same by chance once in as many as there are.
    np.testing.assert_allclose(counts / counts.sum(), [0.8, 0.1, 0.1], atol=0.01)


def test_every_word_has_its_turn(windows: np.ndarray, masking: Masking) -> None:
    times = sum(masking.mask(windows, seed=(seed,)).chosen.astype(int) for seed in range(300))
    words = masking.words(windows)
    np.testing.assert_allclose(times[words >= 0].mean() / 300, MEASURED, atol=0.01)
    assert times[words >= 0].min() > 10


def test_one_long_word_is_still_a_word_to_guess(tokenizer: Tokenizer, masking: Masking) -> None:
    ids = masking.framed(np.array([tokenizer.encode("internationalization")]))
    masked = masking.mask(ids, seed=(0,))
    assert masked.chosen[0, 1:-1].all()


def test_nothing_but_special_tokens_leaves_nothing_to_guess(masking: Masking) -> None:
    assert not masking.mask(np.full((2, 5), masking.last), seed=(0,)).chosen.any()


# --- by step


def test_a_batch_is_a_function_of_seed_and_step(tokenizer: Tokenizer, masking: Masking, tmp_path: Path) -> None:
    with TokenWriter(tmp_path, "train", vocabulary=tokenizer.vocabulary, end=tokenizer.end) as writer:
        writer.write(tokenizer.encode_batch([*ENGLISH, *CHINESE, LONG]))
    shards = TokenShards(tmp_path, "train")

    def source(seed: int) -> MaskedBatches:
        return MaskedBatches(Batches(shards, batch=3, context=20 - FRAME - 1, seed=seed), masking, seed=seed)

    def same(one: Masked, other: Masked) -> bool:
        return all(np.array_equal(getattr(one, name), getattr(other, name)) for name in ("ids", "read", "chosen"))

    one, again = source(5), source(5)
    for step in (7, 0, 3):
        assert same(one.at(step), again.at(step))
    batch = one.at(3)
    assert batch.ids.shape == (3, 20)
    assert set(batch.ids[:, 0]) == {masking.first}
    assert set(batch.ids[:, -1]) == {masking.last}
    assert not same(batch, one.at(4))
    assert not same(batch, source(6).at(3))
    assert MEASURED * 54 < batch.chosen.sum() <= LEARNED * 54
