"""Tokens know their characters, windows hold every token, lessons point at answers and the loss is that of each."""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from bimo.models.encoder import Encoder, EncoderConfig, with_head, with_kinds
from bimo.models.heads import Head
from bimo.models.layers import Embedding
from bimo.tasks.answer.lessons import (
    all_windows,
    answerable_lessons,
    others,
    split_questions,
    stranger_lessons,
    validation_windows,
)
from bimo.tasks.answer.reading import best_spans, best_spans_reference
from bimo.tasks.answer.retrieval import PassageIndex
from bimo.text.matches import ALONE, IN_A_ROW, mark_matches
from bimo.text.questions import Question, Span
from bimo.tokens.framing import Framing
from bimo.tokens.masking import with_mask_token
from bimo.tokens.spans import KINDS, SpanFraming, locate
from bimo.tokens.tokenizer import Tokenizer
from bimo.tokens.wordpiece import read_wordpiece
from bimo.train.spans import SpanBatches, Spans, span_logits

WORDS = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    "the",
    "cat",
    "sat",
    "##s",
    "##a",
    "##t",
    "c",
    "m",
    "s",
    *".,?猫坐在垫子上",
]


@pytest.fixture(scope="module")
def bytes_framing(tiny_tokenizer):
    return Framing(with_mask_token(tiny_tokenizer), context=48)


@pytest.fixture(scope="module")
def pieces_framing(tmp_path_factory):
    """WordPiece, as BERT has it: blanks vanish, capitals become small, what is unknown is one token."""
    path = tmp_path_factory.mktemp("pieces") / "vocab.txt"
    path.write_text("\n".join(WORDS), encoding="utf-8")
    return Framing(Tokenizer(*read_wordpiece(path, {})), context=48)


TEXTS = st.text(
    st.one_of(st.sampled_from("the cat sat 猫坐在垫子上,.?\n é👍🏽ｆ\u0301"), st.characters(codec="utf-8")), max_size=60
)


@hypothesis_settings(max_examples=150)
@given(TEXTS, st.integers(0, 60), st.integers(1, 20))
def test_tokens_are_those_that_stand_for_the_characters(bytes_framing, pieces_framing, text, start, length):
    """The slow twin looks at every token. Of byte-level tokens each character is in one at least."""
    start, end = min(start, len(text)), min(start + length, len(text))
    for framing, whole in ((bytes_framing, True), (pieces_framing, False)):
        (located,) = locate(framing, [text])
        pairs = list(zip(located.starts.tolist(), located.ends.tolist(), strict=True))
        assert all(0 <= first <= last <= len(text) for first, last in pairs)
        touching = [number for number, (first, last) in enumerate(pairs) if first < end and last > start]
        if start < end:
            assert located.tokens_of(start, end) == ((touching[0], touching[-1]) if touching else None)
        if whole and start < end:
            tokens = located.tokens_of(start, end)
            assert tokens is not None
            first, last = located.characters_of(*tokens)
            assert first <= start < end <= last
            assert framing.tokenizer.encode(text) == located.ids


def test_windows_overlap_and_hold_every_token(bytes_framing):
    text = "The committee met on Thursday. 会议决定由研发部提交报告。" * 8
    spans = SpanFraming(bytes_framing)
    windows = spans.windows(["Who met?", "谁？"], [text, "short"])
    located = locate(bytes_framing, [text])[0]
    long = [window for window in windows if window.pair == 0]
    covered = Counter(token for window in long for token in range(window.offset, window.offset + window.room))
    assert sorted(covered) == list(range(len(located.ids)))
    assert all(len(window.framed.ids) <= 48 for window in windows)
    for before, after in itertools.pairwise(long):
        assert 0 < before.offset + before.room - after.offset <= before.room // 2
    start = text.index("Thursday", 200)
    holding = [window for window in long if window.places_of(start, start + 8)]
    assert holding
    for window in holding:
        first, last = window.characters_at(*window.places_of(start, start + 8))
        assert text[first:last].strip() == "Thursday"
    assert long[0].places_of(start, start + 8) is None
    assert [window.room for window in windows if window.pair == 1] == [len(bytes_framing.tokenizer.encode("short"))]
    framed, of_text = spans.batch(windows)
    assert of_text.sum() == sum(window.room for window in windows)
    assert not of_text[:, 0].any()
    assert (framed.ids[of_text] != bytes_framing.closing).all()


def test_the_kinds_of_tokens_tell_which_words_stand_in_the_question(bytes_framing):
    """Of every window, of texts that need several; the slow twin asks each token for its characters."""
    text = "The committee met on Thursday. 会议决定由研发部提交报告。" * 4
    spans = SpanFraming(bytes_framing, matching=True)
    question = "谁决定 that they meet, THURSDAY?"
    windows = spans.windows([question], [text])
    assert len(windows) > 1
    framed, of_text = spans.batch(windows)
    plain, _ = SpanFraming(bytes_framing).batch(SpanFraming(bytes_framing).windows([question], [text]))
    marks = mark_matches(question, text)
    seen = set()
    for row, window in enumerate(windows):
        for place in np.flatnonzero(of_text[row]):
            start, end = window.characters_at(place, place)
            expected = max(marks[start:end], default=0)
            assert framed.segments[row, place] == 1 + expected
            seen.add(expected)
    assert seen == {0, ALONE, IN_A_ROW}
    np.testing.assert_array_equal(framed.segments[~of_text], plain.segments[~of_text])
    assert framed.segments.max() < KINDS


def test_new_kinds_of_tokens_leave_the_old_as_they_are(bytes_framing):
    two = Encoder(encoder_config(bytes_framing)).initialise(1).eval()
    four = with_kinds(two, 4, seed=0).eval()
    ids, segments = torch.tensor([[5, 6, 7]]), torch.tensor([[0, 1, 1]])
    torch.testing.assert_close(four(ids, segments=segments), two(ids, segments=segments), atol=0, rtol=0)
    new = (four.segment_embedding.weight[2:] - two.segment_embedding.weight[1]).detach()
    assert new.std().item() == pytest.approx(two.embedding.weight.std().item(), rel=0.4)
    assert not torch.equal(new[0], new[1])


@pytest.mark.parametrize("known", [1, 2])
def test_kinds_that_a_model_does_not_know_are_its_last(bytes_framing, known):
    """Of a model of one kind as of two: it reads the tokens of a text as what it knows best of them."""
    spans = SpanFraming(bytes_framing, matching=True)
    windows = spans.windows(["Who met?"], ["They met."])
    framed, of_text = spans.batch(windows)
    model = Encoder(encoder_config(bytes_framing, head=Head("span"), segments=known)).initialise(1).eval()
    clamped = framed._replace(segments=np.minimum(framed.segments, known - 1))
    assert (framed.segments > clamped.segments).any()
    torch.testing.assert_close(span_logits(model, framed, of_text), span_logits(model, clamped, of_text))
    assert with_kinds(model, KINDS, seed=0).config.segments == KINDS


def test_an_empty_text_is_a_window_without_room(bytes_framing):
    (window,) = SpanFraming(bytes_framing).windows(["Who?"], [""])
    assert (window.room, window.places_of(0, 0)) == (0, None)


@pytest.mark.parametrize("longest", [1, 3, 100])
def test_the_best_span_is_that_of_all_pairs(longest):
    random = np.random.default_rng(longest)
    firsts, lasts = random.normal(size=(2, 20, 13)).astype(np.float32)
    of_text = random.random((20, 13)) < 0.7
    of_text[:, 4] = True
    fast = best_spans(firsts, lasts, of_text, longest=longest)
    slow = best_spans_reference(firsts, lasts, of_text, longest=longest)
    np.testing.assert_array_equal(fast, slow)


def encoder_config(framing, **fields):
    return EncoderConfig(framing.tokenizer.vocabulary, 2, 32, 4, 64, 48, **fields)


def test_the_loss_is_that_of_each_window_by_itself(bytes_framing):
    """Filling up and those that share a batch change nothing; question and padding are nowhere chosen."""
    model = Encoder(encoder_config(bytes_framing, head=Head("span"))).initialise(1).eval()
    spans = SpanFraming(bytes_framing)
    asked = [Question(1, "Who met?", "The committee met.", (Span("The committee", 0),), ("The committee",))]
    asked.append(Question(2, "Where?", "The committee met on Thursday in the mountains.", (), ()))
    marked = answerable_lessons(asked, spans, seed=0)
    together = Spans(marked, spans, batch=4).validate(model)["loss"]
    total = 0.0
    for one in marked:
        framed, of_text = spans.batch([one.window])
        of_text[:, 0] = True
        logits = model(*map(torch.from_numpy, framed[:1]), segments=torch.from_numpy(framed.segments))[0]
        places = np.flatnonzero(of_text[0])
        for end, target in enumerate((one.first, one.last)):
            chances = logits[places, end].log_softmax(dim=0)
            total -= chances[list(places).index(target)].item()
    assert together == pytest.approx(total / 2 / len(marked), rel=1e-5)
    assert (marked[1].first, marked[1].last) == (0, 0)
    batch = next(iter(SpanBatches(marked, spans, batch=4, seed=0)))
    assert torch.isneginf(span_logits(model, batch.framed, batch.allowed)).sum() == 2 * (~batch.allowed).sum()


class Pointing:
    """Stands for an encoder: of each window it is told where it points, and how sure it is."""

    training, embedding = False, Embedding(1, 1)

    def __init__(self, framing, says):
        self.says, self.config = says, encoder_config(framing)

    def eval(self):
        pass

    def train(self, mode):
        pass

    def __call__(self, ids, *, segments, real):
        logits = torch.zeros(*ids.shape, 2)
        for row, window in enumerate(ids.tolist()):
            first, last, margin = self.says[tuple(one for one, there in zip(window, real[row], strict=True) if there)]
            logits[row, first, 0] = logits[row, last, 1] = margin
            logits[row, 0] = 1.0
        return logits


def test_a_question_counts_by_its_surest_window(bytes_framing):
    """One is right where it is surest, one where it is not; of two without an answer one is refused."""
    spans = SpanFraming(bytes_framing)
    text = "The committee met on Thursday, and again on Friday in the mountains, and went home after that." * 2
    asked = [
        Question(1, "Who met?", text, (Span("The committee", 0),), ("The committee",)),
        Question(2, "Who met again?", text, (Span("The committee", 0),), ("The committee",)),
        Question(3, "Why?", text, (), ()),
        Question(4, "How?", text, (), ()),
    ]
    marked = all_windows(asked, spans)
    sure_at = {0: 0, 1: 1}
    says = {}
    for pair in range(4):
        of_pair = [one for one in marked if one.window.pair == pair]
        assert len(of_pair) > 1
        for number, one in enumerate(of_pair):
            first = one.window.framed.first
            places = (one.first, one.last) if one.last else (first, first)
            margin = 2.0 if sure_at.get(pair, number) == number else 1.5
            says[tuple(one.window.framed.ids)] = (*places, margin if pair != 3 else 0.5)
    found = Spans(marked, spans, batch=3).validate(Pointing(bytes_framing, says))
    assert found["missed"] == pytest.approx(1 - (1 + 0 + 0 + 1) / 4)


def test_of_the_windows_without_the_answer_one_is_learned(bytes_framing):
    spans = SpanFraming(bytes_framing)
    text = "They met on Thursday. " * 12 + "The room was the attic."
    asked = [Question(1, "Where?", text, (Span("the attic", text.index("the attic")),), ("the attic",))]
    whole = all_windows(asked, spans)
    assert sum(not one.last for one in whole) > 2
    chosen = set()
    for seed in range(20):
        lessons = answerable_lessons(asked, spans, seed=seed)
        (refusing,) = [one for one in lessons if not one.last]
        assert [one.window.offset for one in lessons if one.last] == [one.window.offset for one in whole if one.last]
        chosen.add(refusing.window.offset)
    assert len(chosen) > 1


def test_what_is_watched_is_whole_questions_that_can_be_answered(bytes_framing):
    spans = SpanFraming(bytes_framing)
    text = "They met on Thursday. " * 12 + "The room was the attic."
    asked = [Question(n, "Where?", text, (Span("the attic", 0),), ("the attic",)) for n in range(6)]
    asked = [replace(one, answers=(Span("the attic", text.index("the attic")),)) for one in asked]
    endless = Question(9, "Where?", text, (Span(text, 0),), (text,))
    unanswered = Question(10, "Where?", text, (), ())
    windows = validation_windows([*asked, endless, unanswered], spans, seed=0, count=96, most=10_000)
    each = Counter(one.window.pair for one in windows)
    assert len(each) == 7
    assert len({*each.values()}) == 1
    few = validation_windows([*asked, endless, unanswered], spans, seed=0, count=96, most=1)
    assert len({one.window.pair for one in few}) == 1
    assert len(validation_windows(asked, spans, seed=0, count=2, most=10_000)) == 2 * next(iter(each.values()))
    assert validation_windows([endless], spans, seed=0, count=96, most=10)


def test_a_new_head_keeps_the_layers_and_an_old_one_its_weights(bytes_framing):
    words = Encoder(encoder_config(bytes_framing)).initialise(1)
    spans = with_head(words, Head("span"), seed=2)
    assert torch.equal(spans.layers[1].feed_forward.up.weight, words.layers[1].feed_forward.up.weight)
    assert spans.head.weight.shape == (2, 32)
    again = with_head(spans, Head("span"), seed=3)
    assert torch.equal(again.head.weight, spans.head.weight)
    assert not torch.equal(with_head(words, Head("span"), seed=3).head.weight, spans.head.weight)


def test_lessons_point_at_answers_and_strangers_hold_none(bytes_framing):
    spans = SpanFraming(bytes_framing)
    questions = [
        Question(
            number,
            f"Where is box {number}?",
            f"Box {number} is in room {place}.",
            (Span(f"room {place}", 12),),
            (f"room {place}",),
        )
        for number, place in enumerate("abcdefgh")
    ]
    texts = sorted({question.context for question in questions})
    index = PassageIndex(texts)
    for one in answerable_lessons(questions, spans, seed=0):
        first, last = one.window.characters_at(one.first, one.last)
        question = questions[one.window.pair]
        assert question.answers[0].text in question.context[first:last]
    strangers = stranger_lessons(questions, texts, index, spans, seed=0)
    assert strangers
    assert all((one.first, one.last) == (0, 0) for one in strangers)
    for question in questions:
        assert question.context not in [texts[number] for number in others(question, texts, index, 5)]
    # A text that spells an answer otherwise holds it all the same; what answers a question without one is not known.
    shouting = replace(questions[0], references=("Room B",))
    assert texts.index(questions[1].context) not in others(shouting, texts, index, 8)
    unanswered = replace(questions[0], answers=(), references=())
    assert others(unanswered, texts, index, 5) == []
    assert stranger_lessons([unanswered] * 3, texts, index, spans, seed=0) == []
    train, held_out = split_questions(questions * 3, seed=0)
    assert train
    assert held_out
    assert not {one.context for one in train} & {one.context for one in held_out}
    assert (train, held_out) == split_questions(questions * 3, seed=0)
    # However a long text falls, it is not what is held out.
    for seed in range(4):
        train, held_out = split_questions([*[questions[0]] * 500, *questions[1:]], seed=seed)
        assert 0 < len(held_out) < len(questions) < len(train)


def test_how_much_of_a_question_is_not_read(bytes_framing):
    spans = SpanFraming(bytes_framing)
    read = spans.longest_question
    assert read <= bytes_framing.context // 2
    assert [spans.unread("a" * count) for count in (read - 1, read, read + 7)] == [0, 0, 7]
