"""Answering: what was taught is what is loaded and used, doubts are honest, and every answer has its passage."""

from __future__ import annotations

import json
import math
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

import bimo
from bimo.console import Console
from bimo.evaluate.suite import evaluate, evaluation_lines
from bimo.files import read_json
from bimo.models.encoder import Encoder, EncoderConfig
from bimo.models.lora import LoRAConfig
from bimo.runtime import UserError
from bimo.tasks.answer import answering, tuning, writing
from bimo.tasks.answer.lessons import split_questions
from bimo.tasks.answer.measuring import Attempt, Trial, baseline_answer, calibrate, own_thresholds, score
from bimo.tasks.answer.passages import Passage
from bimo.tasks.answer.reading import Calibration, Reader, ReaderConfig, Reading, load_reader
from bimo.tasks.answer.retrieval import PassageIndex
from bimo.tasks.answer.scoring import exact_match, is_chinese
from bimo.tasks.tune import tune, tune_lines
from bimo.text.questions import Question, Span, read_questions
from bimo.tokens.framing import Framing
from bimo.tokens.masking import with_mask_token
from bimo.tokens.spans import KINDS, SpanFraming
from bimo.tokens.tokenizer import load_tokenizer
from bimo.train.tune import TuneConfig
from bimo.weights.huggingface import load_encoder, save_encoder
from bimo.weights.safetensors_files import weight_digests


def trial(margin, right, wrong):
    question = Question(1, "Who?", "The cat.", (Span("The cat", 0),), ("The cat",))
    own = Attempt("The cat" if right else "x", margin, right, float(right))
    return Trial(question, own, own, Attempt("y", wrong, False, 0.0))


def test_the_threshold_refuses_what_the_texts_do_not_hold():
    random = np.random.default_rng(0)
    trials = [trial(random.normal(4), True, random.normal(-4)) for _ in range(200)]
    calibration = calibrate(trials)
    found = score(trials, np.full(len(trials), calibration.threshold))
    assert found["refused"] > 0.95
    assert found["answered"] > 0.95
    assert found["exact"] == found["f1"] == 1.0
    assert calibration.confidence(6) > 0.95 > 0.05 > calibration.confidence(-6)
    hopeless = calibrate([trial(0.0, False, 0.0) for _ in range(20)])
    assert score([trial(0.0, False, 0.0)], np.array([hopeless.threshold]))["refused"] == 1.0


def test_what_is_refused_is_judged_by_a_threshold_chosen_on_other_texts():
    """Margins that say nothing: whoever chose and measured on the same ones would always refuse LEAST_REFUSED."""
    random = np.random.default_rng(0)
    trials = [trial(random.normal(), True, random.normal()) for _ in range(40)]
    for number, one in enumerate(trials):
        trials[number] = replace(one, question=replace(one.question, context=f"text {number // 2}"))
    thresholds = own_thresholds(trials)
    assert (thresholds[::2] == thresholds[1::2]).all()  # two questions on a text
    first, second = sorted(set(thresholds.tolist()))
    others = [one for one, threshold in zip(trials, thresholds, strict=True) if threshold == second]
    assert calibrate(others).threshold == first
    alone = trials[:1]
    assert own_thresholds(alone) == [calibrate(alone).threshold]


def test_confidence_is_the_share_that_is_right():
    """Margins drawn so that an answer is right with the chance 1 / (1 + exp(-margin / 2))."""
    random = np.random.default_rng(1)
    margins = random.normal(0, 4, size=4000)
    right = random.random(4000) < 1 / (1 + np.exp(-margins / 2))
    trials = [trial(margin, bool(one), -np.inf) for margin, one in zip(margins, right, strict=True)]
    calibration = calibrate(trials)
    assert calibration.slope == pytest.approx(0.5, abs=0.05)
    assert calibration.intercept == pytest.approx(0, abs=0.1)


def test_margins_that_mislead_say_nothing():
    trials = [trial(margin, margin < 0, -np.inf) for margin in np.linspace(-3, 3, 40)]
    calibration = calibrate(trials)
    assert calibration.slope == 0
    assert calibration.confidence(2.0) == calibration.confidence(-2.0) == pytest.approx(0.5, abs=0.01)


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


SETTINGS = TuneConfig(epochs=20, batch=8, rate=0.003, validations=2)


class Learned(Exception):
    """What would have been learned."""


def test_no_text_that_is_held_out_is_learned_from(place, tmp_path, monkeypatch):
    def stop(marked, framing, **choices):
        raise Learned(marked)

    monkeypatch.setattr(tuning, "SpanBatches", stop)
    folder, _ = place
    questions = folder / "questions.json"
    with pytest.raises(Learned) as caught:
        tune(folder / "encoder", questions, out=tmp_path / "out", task="answer", settings=SETTINGS)
    tokenizer = load_tokenizer(folder / "encoder")
    (learned,) = caught.value.args
    read = "".join(tokenizer.decode(one.window.framed.ids) for one in learned)
    train, held_out = split_questions(read_questions(questions).kept, seed=0)
    assert all(question.context[:20] in read for question in train)
    assert not any(question.context[:20] in read for question in held_out)


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


def test_an_adapter_learns_to_answer(place, tmp_path):
    folder, whole = place
    before, out = weight_digests(folder / "encoder"), tmp_path / "out"
    lora = replace(SETTINGS, lora=LoRAConfig(rank=16), rate=0.01, epochs=40)
    facts = tune(folder / "encoder", folder / "questions.json", out=out, task="answer", settings=lora)
    assert facts["scores"]["f1"] > 0.9
    assert facts["trained_parameters"] < whole["trained_parameters"]
    assert weight_digests(folder / "encoder") == before
    reader = load_reader(out)
    assert (reader.config.matching, reader.model.config.segments) == (False, 2)
    replace(reader.config, matching=True).save(out)
    with pytest.raises(UserError, match="is damaged: it marks matching words, which takes 4 kinds of tokens"):
        load_reader(out)
    reader.config.save(out)
    assert [*out.glob("*.safetensors")] == [out / "adapter_model.safetensors"]
    assert evaluate(out, folder / "questions.json")["scores"]["f1"] > 0.9


def test_what_was_taught_goes_on_being_told_of_matches(place, tmp_path):
    folder, _ = place
    taught = load_reader(folder / "taught")
    assert taught.config.matching
    assert taught.model.config.segments == KINDS
    for name, lora in (("whole", None), ("adapter", LoRAConfig(rank=4))):
        again = replace(SETTINGS, epochs=1, rate=1e-6, lora=lora)
        tune(folder / "taught", folder / "questions.json", out=tmp_path / name, task="answer", settings=again)
        reader = load_reader(tmp_path / name)
        assert reader.config.matching
        torch.testing.assert_close(
            reader.model.segment_embedding.weight, taught.model.segment_embedding.weight, atol=1e-3, rtol=0
        )


def test_transformers_reads_it_with_the_same_logits(place):
    transformers = pytest.importorskip("transformers")
    folder, _ = place
    theirs = transformers.BertForQuestionAnswering.from_pretrained(folder / "taught").eval()
    ours = load_encoder(folder / "taught")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder / "taught")
    questions, texts = ["Where?", "Who met?"], ["They met in the kitchen.", "They met in the garden at noon, and left."]
    asked = tokenizer(questions, texts, padding=True, return_tensors="pt")
    spans = SpanFraming(Framing(load_tokenizer(folder / "taught"), context=64), matching=True)
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
    question = "Where did number 3 meet at noon?"
    (facts,) = bimo.answer(folder / "taught", question, documents=[tmp_path / "docs"])
    nearest = facts["nearest"]
    assert nearest["text"] == "the attic"
    assert nearest["passage"]["source"] == "one.txt"
    assert nearest["passage"]["text"][nearest["start"] : nearest["end"]] == "the attic"
    reader = load_reader(folder / "taught")
    (reading,) = reader.read([question], [nearest["passage"]["text"]])
    assert facts["answer"] == ("the attic" if reading.margin >= reader.config.calibration.threshold else None)
    assert facts["confidence"] == pytest.approx(reader.config.calibration.confidence(reading.margin))
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
        ("It opens at nine [2, 1]. 花园建于1874年。【1，2】", [1, 2]),
        ("The museum opens at nine.", [1]),  # it names none, but the words do
        ("The museum opens at nine [2].", [None]),  # it names one that does not say so
        ("The museum opens at nine [7].", [1]),  # there is no such passage
        ("Elephants never forget anything [1].", [None]),
        ("It opens at 10 [1].", [None]),  # words alone would do, but it says a number that is not there
        ("花园建于1784年，设计者是安娜【2】。", [None]),
        ("花园建于１８７４年【2】。", [2]),  # digits may be full-width
        ("A museum has an opener [1].", [None]),  # parts of words do not count
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
    # Not even the first passage, or nothing but the question: it is not asked without one.
    for context in (150, len(writing._messages("When?", [])[0]["content"]) + writing.MOST_TOKENS):
        with pytest.raises(UserError, match="too few for a question, a passage and an answer"):
            writing.written_answer(Writer(context), "When?", PASSAGES)


class Knower:
    """Stands for an encoder that was taught: it is sure that the attic is the answer."""

    config = ReaderConfig()

    def read(self, questions, texts):
        return [Reading(0, len(text), 9.0 if "attic" in text else -9.0) for text in texts]

    def unread(self, question):
        return max(0, len(question) - 40)


def library_of(*texts):
    passages = [Passage(f"{number}.txt", 1, text) for number, text in enumerate(texts, 1)]
    return answering.Library(Knower(), passages, PassageIndex(texts))


def test_the_writer_is_shown_the_passage_that_answers_first():
    question, told = "Where did they meet at noon?", []
    library = library_of(question, "They sat in the attic at noon.", question * 2)
    (facts,) = answering._answers([question], library, lambda _, passages: told.extend(passages) or {}, count=3)
    best, second, third = library.find(question)
    assert facts["nearest"]["passage"] == third._asdict()
    assert told == [third, best, second]


def test_what_the_reader_doubts_is_no_answer_and_nothing_is_written_of_it():
    library = library_of("Dogs sleep here.")
    (facts,) = answering._answers(["Where do dogs sleep?"], library, pytest.fail, count=1)
    assert facts["answer"] is None
    assert facts["nearest"]["text"] == "Dogs sleep here."
    assert facts["confidence"] == library.reader.config.calibration.confidence(-9.0) < 0.001
    assert "written" not in facts


def test_few_passages_are_all_read_whatever_words_they_share():
    library = library_of("They sat in the attic.", "Dogs sleep.")
    assert [passage.source for passage in library.find("Where do dogs sleep?", count=2)] == ["2.txt", "1.txt"]
    (facts,) = answering._answers(["Which room?"], library, None, count=2)
    assert facts["answer"] == "They sat in the attic."
    (facts,) = answering._answers([f"Which room{'?' * 40}"], library, None, count=2)
    assert "This question is too long: its last 10 tokens are not read." in answering.answer_lines(facts)
    (unknown,) = answering._answers(["Which room?"], library, None, count=1)
    assert (unknown["answer"], unknown["confidence"]) == (None, 0.0)
    assert answering.answer_lines(unknown) == ["This is not in the documents: nothing in them has to do with it."]


def test_of_what_cannot_be_read_the_first_are_told(tmp_path, monkeypatch):
    monkeypatch.setattr(answering, "load_reader", lambda *_, **options: Knower())
    for number in range(1, 6):
        (tmp_path / f"{number}.picture").write_text("?")
    console, said = Console(quiet=True), []
    console.warn = said.append
    with pytest.raises(UserError, match="There is no text in"):
        bimo.answer(tmp_path, "Where?", documents=[tmp_path], console=console)
    assert [line.partition(" ")[0] for line in said] == ["1.picture:", "2.picture:", "3.picture:", "2"]
    (tmp_path / "a.txt").write_text("They sat in the attic.")
    told, said[:] = said[:], []
    bimo.answer(tmp_path, "Where?", documents=[tmp_path], console=console)
    assert said == told


def test_models_that_cannot_answer_are_refused(place, tmp_path):
    folder, _ = place
    with pytest.raises(UserError, match="was not taught to answer"):
        load_reader(folder / "encoder")
    one = {"data": [{"paragraphs": [{"context": "A cat.", "qas": [{"question": "Who?", "answers": ["A cat"]}]}]}]}
    (tmp_path / "one.json").write_text(json.dumps(one))
    with pytest.raises(UserError, match="Questions on two texts are needed"):
        tune(folder / "encoder", tmp_path / "one.json", out=tmp_path / "two", task="answer")


def test_evaluation_measures_what_tuning_measures(place, tmp_path):
    """On the questions that were held out both must find the same; the slow twin asks one question at a time."""
    folder, facts = place
    _, held_out = split_questions(read_questions(folder / "questions.json").kept, seed=SETTINGS.seed)
    rows = [
        {"context": question.context, "question": question.question, "answers": question.references}
        for question in held_out
    ]
    (tmp_path / "held-out.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    evaluated = evaluate(folder / "taught", tmp_path / "held-out.jsonl")
    # What is refused depends on the other texts of the file.
    for name in ("questions", "exact", "exact_interval", "f1", "f1_interval", "baseline_f1"):
        assert evaluated["scores"][name] == facts["scores"][name], name
    reader = load_reader(folder / "taught")
    right = [
        exact_match(question.context[one.start : one.end], question.references, chinese=is_chinese(question.question))
        for question in held_out
        for one in reader.read([question.question], [question.context])
        if question.answers
    ]
    assert evaluated["scores"]["exact"] == pytest.approx(np.mean(right))
    assert evaluated["scores"]["questions"] == len(right)
    assert f"exact match {np.mean(right):.1%}" in evaluation_lines(evaluated)[0]


def test_a_file_that_was_learned_from_is_told(place):
    console, said = Console(quiet=True), []
    console.warn = said.append
    evaluate(place[0] / "taught", place[0] / "questions.json", console=console)
    assert said == [f"{place[0] / 'taught'} learned from this very file, so it knows the answers."]


@pytest.mark.parametrize(
    "stored", ['{"slope": "steep"}', '{"slope": null}', '{"longest": 0}', '{"longest": 1e999}', '{"depth": 1}', "[]"]
)
def test_a_damaged_calibration_is_named(place, tmp_path, stored):
    folder, _ = place
    shutil.copytree(folder / "taught", tmp_path / "broken")
    (tmp_path / "broken" / "bimo" / "answering.json").write_text(stored)
    with pytest.raises(UserError, match="is damaged"):
        load_reader(tmp_path / "broken")


def test_a_folder_of_transformers_answers_by_the_rule_of_squad(place, tmp_path):
    folder, _ = place
    shutil.copytree(folder / "taught", tmp_path / "theirs", ignore=shutil.ignore_patterns("bimo"))
    assert load_reader(tmp_path / "theirs").config == ReaderConfig()


def test_a_reader_takes_a_model_and_a_tokenizer(place):
    folder, _ = place
    loaded = load_reader(folder / "taught")
    reader = Reader(loaded.model, load_tokenizer(folder / "taught"), replace(loaded.config, calibration=Calibration()))
    questions, texts = ["Where did number 5 meet at noon?"], ["Number 5: they met in the cellar at noon."]
    (reading,) = reader.read(questions, texts)
    assert texts[0][reading.start : reading.end] == "the cellar"
    assert [reading] == loaded.read(questions, texts)
