"""Texts between special tokens: as the tokenizer itself frames them, cut where a model ends, filled up on the right."""

from __future__ import annotations

import numpy as np
import pytest

from bimo.runtime import UserError
from bimo.tokens.framing import Framing
from bimo.tokens.lengths import LengthBatches
from bimo.tokens.masking import with_mask_token

TEXTS = ["the cat", "", "一只猫坐在垫子上", "[CLS] the end [SEP]"]


@pytest.fixture(scope="module")
def framing(tiny_tokenizer):
    return Framing(with_mask_token(tiny_tokenizer), context=16)


def test_texts_and_pairs_are_framed_as_the_tokenizer_does(framing):
    """tokenizers' own template is the slow twin."""
    inner = framing.tokenizer.inner
    long = Framing(framing.tokenizer, context=1000)
    assert [one.ids for one in long.texts(TEXTS)] == [encoding.ids for encoding in inner.encode_batch(TEXTS)]
    pairs = long.pairs(TEXTS, TEXTS[::-1])
    encodings = inner.encode_batch(list(zip(TEXTS, TEXTS[::-1], strict=True)))
    batch = long.batch(pairs)
    for row, (one, encoding) in enumerate(zip(pairs, encodings, strict=True)):
        assert one.ids == encoding.ids
        assert batch.segments[row, : len(one.ids)].tolist() == encoding.type_ids
        assert batch.real[row].sum() == len(one.ids)
        assert set(batch.ids[row, len(one.ids) :]) <= {framing.padding}


def test_what_is_too_long_is_cut_where_it_does_least_harm(framing):
    long, short = "the cat sat " * 20, "the dog"
    (text,) = framing.texts([long])
    assert (len(text.ids), text.cut, text.ids[-1]) == (16, True, framing.closing)
    whole = framing.texts([short])[0].ids
    for first, second in ((long, short), (short, long), (long, long)):
        (pair,) = framing.pairs([first], [second])
        assert (len(pair.ids), pair.cut, pair.ids[pair.first - 1]) == (16, True, framing.closing)
        if first == short:
            assert pair.ids[: pair.first] == whole
        if second == short:
            assert pair.ids[pair.first :] == whole[1:]
    assert not framing.pairs([short], [short])[0].cut
    with pytest.raises(UserError, match="no room"):
        Framing(framing.tokenizer, context=3).pairs([short], [short])


def test_every_text_comes_once_an_epoch():
    lengths = [5, 100, 7, 7, 30, 2]
    batches = LengthBatches(lengths, rows=2, tokens=40, seed=1)
    for epoch in range(2):
        steps = [batches.at(epoch * batches.steps_per_epoch + step) for step in range(batches.steps_per_epoch)]
        assert sorted(np.concatenate(steps).tolist()) == list(range(6))
        assert all(len(step) <= 2 and (len(step) == 1 or 2 * max(lengths[i] for i in step) <= 40) for step in steps)
    by_length = [lengths[number] for batch in batches for number in batch]
    assert by_length == sorted(lengths)


def test_texts_of_like_length_change_company_from_epoch_to_epoch():
    lengths = [*range(49, 57)] * 8
    batches = LengthBatches(lengths, rows=4, tokens=10_000, seed=1)
    steps = batches.steps_per_epoch

    def company(batches: LengthBatches, epoch: int) -> set[frozenset[int]]:
        return {frozenset(batches.at(epoch * steps + step).tolist()) for step in range(steps)}

    first, second = company(batches, 0), company(batches, 1)
    assert not first & second
    # A training that is continued sees the same again.
    again = LengthBatches(lengths, rows=4, tokens=10_000, seed=1)
    assert company(again, 1) == second
    assert company(batches, 0) == first
