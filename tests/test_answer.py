"""Answering: tokens know their characters, spans and passages are found, what was taught is what is loaded and used."""

from __future__ import annotations

import itertools
import json
import math
import shutil
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

import bimo
from bimo.files import read_json
from bimo.models.encoder import Encoder, EncoderConfig, with_head
from bimo.models.heads import Head
from bimo.models.lora import LoRAConfig
from bimo.runtime import UserError
from bimo.tasks.answer import answering, writing
from bimo.tasks.answer.lessons import answerable_lessons, others, split_questions, stranger_lessons
from bimo.tasks.answer.measuring import Attempt, Trial, baseline_answer, calibrate, score
from bimo.tasks.answer.passages import LONGEST, Passage, cut_passages, read_passages
from bimo.tasks.answer.reading import Calibration, Reader, best_spans, best_spans_reference, load_reader
from bimo.tasks.answer.retrieval import PassageIndex, fuse, terms
from bimo.tasks.answer.vectors import load_embed
from bimo.tasks.tune import tune, tune_lines
from bimo.text.questions import Question, Span
from bimo.tokens.framing import Framing
from bimo.tokens.masking import with_mask_token
from bimo.tokens.spans import SpanFraming, locate
from bimo.tokens.tokenizer import Tokenizer, load_tokenizer
from bimo.tokens.wordpiece import read_wordpiece
from bimo.train.spans import SpanBatches, Spans, span_logits
from bimo.train.tune import TuneConfig
from bimo.weights.huggingface import load_encoder, save_encoder

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
    marked = answerable_lessons(asked, spans)
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


def test_a_new_head_keeps_the_layers_and_an_old_one_its_weights(bytes_framing):
    words = Encoder(encoder_config(bytes_framing)).initialise(1)
    spans = with_head(words, Head("span"), seed=2)
    assert torch.equal(spans.layers[1].feed_forward.up.weight, words.layers[1].feed_forward.up.weight)
    assert spans.head.weight.shape == (2, 32)
    again = with_head(spans, Head("span"), seed=3)
    assert torch.equal(again.head.weight, spans.head.weight)
    assert not torch.equal(with_head(words, Head("span"), seed=3).head.weight, spans.head.weight)


def test_terms_find_words_pairs_and_runs():
    assert terms("The Newton-Raphson 方法，1990年") == [
        *("newton", "raphson", "方法", "1990", "年", "方法"),
        *("^new", "newt", "ewto", "wton", "ton$", "^rap", "raph", "aphs", "phso", "hson", "son$"),
        *("^199", "1990", "990$"),
    ]
    assert terms("的 the ，。!") == []


def test_bm25_is_as_it_is_written():
    """Robertson and Zaragoza 2009, with the idf of Lucene, as bm25s computes it."""
    texts = ["猫坐在垫子上", "狗追猫，猫跑了", "the dog sat", ""]
    index, question = PassageIndex(texts), "猫在哪里 dogs"
    bags = [Counter(terms(text)) for text in texts]
    mean = sum(bag.total() for bag in bags) / len(bags)
    expected = np.zeros(len(texts))
    for term in terms(question):
        holding = sum(term in bag for bag in bags)
        if holding:
            weight = math.log(1 + (len(texts) - holding + 0.5) / (holding + 0.5))
            for number, bag in enumerate(bags):
                expected[number] += weight * bag[term] / (bag[term] + 1.5 * (0.25 + 0.75 * bag.total() / mean))
    np.testing.assert_allclose(index.scores(question), expected, rtol=1e-5)
    assert index.search(question, 9) == [number for number in (-expected).argsort() if expected[number] > 0]
    assert index.search("完全无关 zzz", 5) == []
    assert PassageIndex(["，。"]).search("猫", 3) == []


def test_vectors_help_where_words_are_others():
    vectors = {"cat": [1.0, 0.0], "feline": [1.0, 0.0], "dog": [0.0, 1.0], "tree": [0.6, 0.8]}
    embed = lambda texts: np.array([vectors[text] for text in texts])  # noqa: E731
    index = PassageIndex(["dog", "cat", "tree"], embed=embed)
    assert PassageIndex(["dog", "cat", "tree"]).search("feline", 3) == []
    assert index.search("feline", 1) == [1]
    assert fuse(np.array([0.0, 2.0, 4.0]), np.array([5.0, 5.0, 5.0])).tolist() == [0.0, 0.5, 1.0]


def test_passages_end_with_sentences_and_know_their_lines(tmp_path):
    text = "".join(f"第{number}句话说的是一些事情，后面还有一些字。\n" for number in range(100))
    pieces = list(cut_passages(text))
    assert "".join(piece for _, piece in pieces).replace("\n", "") == text.replace("\n", "")
    lines = text.split("\n")
    for line, piece in pieces:
        assert piece.startswith(lines[line])
        assert piece.endswith("。")
        assert len(piece) <= LONGEST
    assert max(len(piece) for _, piece in cut_passages("字" * 2000)) == LONGEST
    assert list(cut_passages("\n \n")) == []
    (tmp_path / "a.txt").write_text("\n\nThe cat sat on the mat.\n", encoding="utf-8")
    (tmp_path / "b.jsonl").write_text(json.dumps({"text": "One.\nTwo."}) + "\n" + json.dumps({"text": "Three."}))
    found = read_passages([tmp_path], unread=pytest.fail)
    assert found == [
        Passage("a.txt", 3, "The cat sat on the mat."),
        Passage("b.jsonl", 1, "One.\nTwo."),
        Passage("b.jsonl", 2, "Three."),
    ]


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
    for one in answerable_lessons(questions, spans):
        first, last = one.window.characters_at(one.first, one.last)
        question = questions[one.window.pair]
        assert question.answers[0].text in question.context[first:last]
    strangers = stranger_lessons(questions, texts, index, spans, seed=0)
    assert strangers
    assert all((one.first, one.last) == (0, 0) for one in strangers)
    for question in questions:
        assert question.context not in [texts[number] for number in others(question, texts, index, 5)]
    train, held_out = split_questions(questions * 3, seed=0)
    assert train
    assert held_out
    assert not {one.context for one in train} & {one.context for one in held_out}
    assert (train, held_out) == split_questions(questions * 3, seed=0)


def trial(margin, right, wrong):
    question = Question(1, "Who?", "The cat.", (Span("The cat", 0),), ("The cat",))
    own = Attempt("The cat" if right else "x", margin, right, float(right))
    return Trial(question, own, own, Attempt("y", wrong, False, 0.0))


def test_the_threshold_refuses_what_the_texts_do_not_hold():
    random = np.random.default_rng(0)
    trials = [trial(random.normal(4), True, random.normal(-4)) for _ in range(200)]
    calibration = calibrate(trials, longest=7)
    found = score(trials, calibration)
    assert found["refused"] > 0.95
    assert found["answered"] > 0.95
    assert found["exact"] == found["f1"] == 1.0
    assert calibration.confidence(6) > 0.95 > 0.05 > calibration.confidence(-6)
    assert calibration.longest == 7
    hopeless = calibrate([trial(0.0, False, 0.0) for _ in range(20)], longest=7)
    assert score([trial(0.0, False, 0.0)], hopeless)["refused"] in (0.0, 1.0)


def test_confidence_is_the_share_that_is_right():
    """Margins drawn so that an answer is right with the chance 1 / (1 + exp(-margin / 2))."""
    random = np.random.default_rng(1)
    margins = random.normal(0, 4, size=4000)
    right = random.random(4000) < 1 / (1 + np.exp(-margins / 2))
    trials = [trial(margin, bool(one), -np.inf) for margin, one in zip(margins, right, strict=True)]
    calibration = calibrate(trials, longest=1)
    assert calibration.slope == pytest.approx(0.5, abs=0.05)
    assert calibration.intercept == pytest.approx(0, abs=0.1)


def test_the_baseline_is_the_sentence_with_most_words_of_the_question():
    assert (
        baseline_answer("Where did the dog sit?", "The cat sat here. The dog sat on a log. End.")
        == "The dog sat on a log."
    )
    assert baseline_answer("谁追猫？", "鸟飞了。狗追猫。") == "狗追猫。"


NOTHING = "It was cold, and nothing happened for a long time. "
ROOMS = ["kitchen", "garden", "library", "cellar", "attic", "office"]


@pytest.fixture(scope="module")
def place(tmp_path_factory, tiny_tokenizer):
    """A folder with a small `encoder`, `questions.json` that are all alike, and the model `taught` with them."""
    folder = tmp_path_factory.mktemp("answering")
    tokenizer = with_mask_token(tiny_tokenizer)
    config = EncoderConfig(tokenizer.vocabulary, 2, 48, 4, 96, 64)
    save_encoder(folder / "encoder", Encoder(config).initialise(0), pad=tokenizer.special_id("pad_token"))
    tokenizer.save(folder / "encoder")
    articles = []
    for number in range(60):
        room = ROOMS[number % len(ROOMS)]
        text = f"Number {number}: they met in the {room} at noon."
        answer = {"text": f"the {room}", "answer_start": text.index("the " + room)}
        asked = {"question": f"Where did number {number} meet at noon?", "answers": [answer]}
        articles.append({"paragraphs": [{"context": text, "qas": [asked]}]})
    (folder / "questions.json").write_text(json.dumps({"data": articles}))
    facts = tune(folder / "encoder", folder / "questions.json", out=folder / "taught", task="answer", settings=SETTINGS)
    return folder, facts


SETTINGS = TuneConfig(epochs=15, batch=8, rate=0.003, validations=2)


def test_an_encoder_learns_to_answer(place):
    folder, facts = place
    assert json.loads(json.dumps(facts)) == read_json(folder / "taught" / "bimo" / "tune.json")
    assert facts["scores"]["f1"] > 0.9 > facts["scores"]["baseline_f1"]
    assert facts["questions"]["train"] + facts["questions"]["held_out"] == 60
    assert "exact match" in tune_lines(facts)[0]
    assert (
        tune(folder / "encoder", folder / "questions.json", out=folder / "taught", task="answer", settings=SETTINGS)
        == facts
    )
    with pytest.raises(UserError, match="made from another"):
        tune(
            folder / "encoder",
            folder / "questions.json",
            out=folder / "taught",
            task="answer",
            settings=replace(SETTINGS, seed=1),
        )


def test_transformers_reads_it_with_the_same_logits(place):
    transformers = pytest.importorskip("transformers")
    folder, _ = place
    theirs = transformers.BertForQuestionAnswering.from_pretrained(folder / "taught").eval()
    ours = load_encoder(folder / "taught")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder / "taught")
    questions, texts = ["Where?", "Who met?"], ["They met in the kitchen.", "They met in the garden at noon, and left."]
    asked = tokenizer(questions, texts, padding=True, return_tensors="pt")
    spans = SpanFraming(Framing(load_tokenizer(folder / "taught"), context=64))
    framed, _ = spans.batch(spans.windows(questions, texts))
    assert asked["input_ids"].tolist() == framed.ids.tolist()
    with torch.no_grad():
        found = theirs(
            input_ids=asked["input_ids"],
            attention_mask=asked["attention_mask"],
            token_type_ids=torch.from_numpy(framed.segments),
        )
        logits = ours(
            *map(torch.from_numpy, framed[:1]),
            segments=torch.from_numpy(framed.segments),
            real=torch.from_numpy(framed.real),
        )
    real = torch.from_numpy(framed.real)
    torch.testing.assert_close(logits[..., 0][real], found.start_logits[real], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(logits[..., 1][real], found.end_logits[real], atol=1e-4, rtol=1e-4)


def test_long_texts_are_read_in_windows(place):
    folder, _ = place
    reader = load_reader(folder / "taught")
    text = NOTHING * 12 + "Number 7: they met in the garden at noon."
    assert len(reader.framing.windows(["Where?"], [text])) > 1
    windows = reader.framing.windows(["Where?"], [text])
    best = max((reader._read([window])[0] for window in windows), key=lambda one: one.margin)  # the slow twin
    (reading,) = reader.read(["Where?"], [text])
    assert reading.margin == pytest.approx(best.margin, abs=1e-4)
    assert text[reading.start : reading.end] == text[best.start : best.end].strip()
    (nothing,) = reader.read(["Where?"], [""])
    assert nothing.margin == -math.inf
    assert Calibration().confidence(-math.inf) == pytest.approx(0, abs=1e-9)


def test_answers_come_with_their_passage(place, tmp_path):
    folder, _ = place
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "one.txt").write_text("\nNumber 3: they met in the attic at noon.\n")
    (facts,) = bimo.answer(folder / "taught", "Where did number 3 meet at noon?", documents=[tmp_path / "docs"])
    nearest = facts["nearest"]
    assert nearest["text"] == "the attic"
    assert nearest["passage"]["source"] == "one.txt"
    assert nearest["passage"]["text"][nearest["start"] : nearest["end"]] == "the attic"
    assert facts["answer"] in (None, "the attic")
    lines = answering.answer_lines({**facts, "answer": "the attic"})
    assert lines[0] == "the attic"
    assert lines[1].startswith("one.txt:2, confidence ")
    assert "in [the attic] at noon." in lines[1]
    sentences = [{"text": "In the attic.", "passage": 1}, {"text": "Or not.", "passage": None}]
    written = {"text": "", "sentences": sentences, "cited": [{"number": 1, "source": "one.txt", "line": 2}]}
    assert answering.answer_lines({**facts, "answer": "the attic", "written": written})[2:] == [
        *("", "In the attic. [1]", "Or not. [?]", "[1] one.txt:2", "[?] No passage that was read says so."),
    ]
    refused = answering.answer_lines({**facts, "answer": None})
    assert refused[0] == "This is not in the documents."
    assert "[the attic]" in refused[1]
    (unknown,) = bimo.answer(folder / "taught", ["zzz qqq"], documents=[tmp_path / "docs"])
    assert (unknown["answer"], unknown["confidence"]) == (None, 0.0)
    assert answering.answer_lines(unknown) == ["This is not in the documents: nothing in them has to do with it."]


def test_vectors_of_an_encoder_are_means_of_length_one(place):
    folder, _ = place
    embed = load_embed(folder / "encoder")
    texts = ["the cat", "一只猫坐在垫子上", "The committee met on Thursday."]
    vectors = embed(texts)
    np.testing.assert_allclose((vectors**2).sum(axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(vectors, np.concatenate([embed([text]) for text in texts]), atol=1e-5)
    model, framing = load_encoder(folder / "encoder"), Framing(load_tokenizer(folder / "encoder"), context=64)
    mean = model.hidden_states(torch.tensor([framing.texts(texts[:1])[0].ids]))[0].mean(dim=0)
    np.testing.assert_allclose(vectors[0], (mean / mean.norm()).detach().numpy(), atol=1e-5)


class Writer:
    """Stands for a language model: it keeps what it was told, and says what it was made to say."""

    def __init__(self, context, says=""):
        self.config, self.chat, self.says = EncoderConfig(9, 1, 4, 1, 4, context), self, says
        self.told = ""

    def prompt(self, messages):
        return [0] * len(messages[0]["content"])

    def reply(self, messages, **options):
        self.told = messages[0]["content"]
        yield self.says


PASSAGES = [Passage("a.txt", 1, "The museum opens at nine."), Passage("b.txt", 5, "花园建于1874年，设计者是安娜。")]


@pytest.mark.parametrize(
    ("says", "sources"),
    [
        ("It opens at nine [1].", [1]),
        ("The museum opens at nine. [1] 花园建于1874年。【2】", [1, 2]),
        ("The museum opens at nine.", [1]),  # it names none, but the words do
        ("The museum opens at nine [2].", [None]),  # it names one that does not say so
        ("The museum opens at nine [7].", [1]),  # there is no such passage
        ("Elephants never forget anything [1].", [None]),
    ],
)
def test_every_written_sentence_is_traced_to_a_passage(says, sources):
    writer = Writer(1000, says)
    written = writing.written_answer(writer, "When does it open?", PASSAGES)
    assert [one["passage"] for one in written["sentences"]] == sources
    assert [one["number"] for one in written["cited"]] == sorted({source for source in sources if source})
    assert not any("[" in one["text"] or "【" in one["text"] for one in written["sentences"])
    assert "[1] The museum opens at nine.\n[2] 花园" in writer.told


def test_a_writer_is_shown_what_it_can_read_and_asked_in_the_language_of_the_question():
    writer = Writer(1000)
    writing.written_answer(writer, "花园是哪年建的？", PASSAGES)
    assert writer.told.startswith("段落：\n[1]")
    small = Writer(230)
    writing.written_answer(small, "When?", PASSAGES)
    assert "[1]" in small.told
    assert "[2]" not in small.told
    with pytest.raises(UserError, match="too few tokens"):
        writing.written_answer(Writer(150), "When?", PASSAGES)


def test_models_that_cannot_answer_are_refused(place, tmp_path):
    folder, _ = place
    with pytest.raises(UserError, match="was not taught to answer"):
        load_reader(folder / "encoder")
    lora, questions = TuneConfig(lora=LoRAConfig()), folder / "questions.json"
    with pytest.raises(UserError, match="--lora has no place"):
        tune(folder / "encoder", questions, out=tmp_path / "out", task="answer", settings=lora)
    one = {"data": [{"paragraphs": [{"context": "A cat.", "qas": [{"question": "Who?", "answers": ["A cat"]}]}]}]}
    (tmp_path / "one.json").write_text(json.dumps(one))
    with pytest.raises(UserError, match="Questions on two texts are needed"):
        tune(folder / "encoder", tmp_path / "one.json", out=tmp_path / "two", task="answer")


def test_a_damaged_calibration_is_named(place, tmp_path):
    folder, _ = place
    shutil.copytree(folder / "taught", tmp_path / "broken")
    (tmp_path / "broken" / "bimo" / "answering.json").write_text('{"slope": "steep"}')
    with pytest.raises(UserError, match="is damaged"):
        load_reader(tmp_path / "broken")


def test_a_folder_of_transformers_answers_by_the_rule_of_squad(place, tmp_path):
    folder, _ = place
    shutil.copytree(folder / "taught", tmp_path / "theirs", ignore=shutil.ignore_patterns("bimo"))
    assert load_reader(tmp_path / "theirs").calibration == Calibration()


def test_a_reader_takes_a_model_and_a_tokenizer(place):
    folder, _ = place
    loaded = load_reader(folder / "taught")
    reader = Reader(loaded.model, load_tokenizer(folder / "taught"), context=64, calibration=Calibration())
    assert reader.read(["Where?"], ["They met in the cellar."])[0].end > 0
