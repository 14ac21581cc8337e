"""Classifiers made of neural models: an encoder that learned labels, and a language model that never did."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from random_models import randomised

from bimo.doctor.lines import model_lines
from bimo.doctor.model import examine_model
from bimo.evaluate.suite import evaluate
from bimo.export.verb import export
from bimo.files import read_settings, write_json
from bimo.generate.engine import LanguageModel
from bimo.models.encoder import Encoder, EncoderConfig
from bimo.models.heads import Head
from bimo.models.lora import LoRAConfig
from bimo.runtime import USAGE, UserError
from bimo.tasks.classify.classifier import classify, explain, open_classifier
from bimo.tasks.classify.decoder import DecoderClassifier, few_examples
from bimo.tasks.classify.measures import truth_matrix
from bimo.tasks.classify.neural import frame, load_neural_classifier
from bimo.tasks.classify.neural_tuning import judged_chances, open_start, usual
from bimo.tasks.classify.vectors import open_vectors, text_vectors
from bimo.tasks.tune import tune
from bimo.text.labelled import Labelled
from bimo.tokens.framing import Framing
from bimo.tokens.masking import with_mask_token
from bimo.tokens.tokenizer import load_tokenizer
from bimo.train.tune import TuneConfig
from bimo.weights.huggingface import load_encoder, save_encoder, save_model
from bimo.weights.safetensors_files import weight_digests

SHAPE = {"layers": 1, "width": 32, "heads": 2, "hidden": 64, "context": 48}


@pytest.fixture(scope="module")
def start(tiny_tokenizer, tmp_path_factory) -> Path:
    """The folder of an encoder with random weights that guesses masked words."""
    folder = tmp_path_factory.mktemp("encoder")
    tokenizer = with_mask_token(tiny_tokenizer)
    model = Encoder(EncoderConfig(vocabulary=tokenizer.vocabulary, **SHAPE)).initialise(0)
    save_encoder(folder, model, pad=tokenizer.special_id("pad_token"))
    tokenizer.save(folder, context=SHAPE["context"])
    return folder


def rows(path: Path, *, pairs: bool = False, several: bool = False) -> Path:
    """Texts of which one word tells the label; or pairs that are the same text or not."""
    lines = []
    for i in range(60):
        for word, label in (("the cat", "animal"), ("the house", "thing")):
            row = {"text": f"{word} number {i}", "label": [label, "all"] if several else label}
            if pairs:
                row |= {"text2": f"{word} number {i}" if i % 2 else f"quite another {i}", "label": "yn"[i % 2 == 0]}
                row["text1"] = row.pop("text")
            lines.append(json.dumps(row) + "\n")
    path.write_text("".join(lines))
    return path


def test_an_encoder_learns_labels_and_transformers_gives_the_same_logits(start, tmp_path):
    transformers = pytest.importorskip("transformers")
    settings = TuneConfig(epochs=20, batch=16, rate=5e-3, validations=2)
    out = tmp_path / "model"
    facts = tune(start, rows(tmp_path / "a.jsonl"), out=out, task="classify", engine="encoder", settings=settings)
    assert facts["engine"] == "encoder"
    assert facts["held_out"]["macro_f1"] > 0.95
    assert set(facts["baselines"]) == {"linear", "majority"}
    texts = ["the cat number 99", "the house number 7", "the cat and the house and the cat"]
    assert [verdict.labels for verdict in classify(out, texts)[:2]] == [("animal",), ("thing",)]
    theirs = transformers.BertForSequenceClassification.from_pretrained(out).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(out)
    with torch.no_grad():
        expected = theirs(**tokenizer(texts, padding=True, return_tensors="pt")).logits.numpy()
    np.testing.assert_allclose(load_neural_classifier(out).scores(texts), expected, atol=2e-5)
    assert theirs.config.id2label == {0: "animal", 1: "thing"}
    whole, without = load_neural_classifier(out).scores(["the cat number 99", "the   number 99"])
    words = {one.word: one.weight for one in explain(open_classifier(out), "the cat number 99")}
    likeliest = int(whole.argmax())
    expected = (whole - without)[likeliest] - (whole - without).mean()
    assert words["cat"] == pytest.approx(expected, abs=1e-4)
    assert not (out / "bimo" / "checkpoints").exists()


# PEFT asks transformers by a name that transformers is about to give up.
@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
def test_adapters_of_several_tasks_stand_beside_one_encoder(start, tmp_path):
    """Only what each has learned is written; folders of adapters are used, looked at and exported as any model."""
    peft, transformers = pytest.importorskip("peft"), pytest.importorskip("transformers")
    before = weight_digests(start)
    settings = TuneConfig(lora=LoRAConfig(rank=4), epochs=20, batch=16, rate=1e-2, validations=2)
    file = rows(tmp_path / "a.jsonl")
    one, pairs = tmp_path / "one", tmp_path / "pairs"
    facts = tune(start, file, out=one, task="classify", settings=settings)
    assert facts["engine"] == "encoder"
    assert facts["held_out"]["macro_f1"] > 0.95
    tune(start, rows(tmp_path / "p.jsonl", pairs=True), out=pairs, task="classify", settings=settings)
    assert weight_digests(start) == before
    assert [*one.glob("*.safetensors")] == [one / "adapter_model.safetensors"]
    assert open_classifier(pairs).labels == ("n", "y")
    texts = ["the cat number 99", "the house number 7"]
    assert [verdict.labels for verdict in classify(one, texts)] == [("animal",), ("thing",)]
    theirs = transformers.BertForSequenceClassification.from_pretrained(start, num_labels=2)
    adapted = peft.PeftModel.from_pretrained(theirs, one).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(one)
    with torch.no_grad():
        expected = adapted(**tokenizer(texts, padding=True, return_tensors="pt")).logits.numpy()
    scores = load_neural_classifier(one).scores(texts)
    np.testing.assert_allclose(scores, expected, atol=5e-5)
    found = examine_model(one)
    assert found["usable"], found["problems"]
    assert {"classify", "export"} <= {*found["can"]}
    assert found["head"]["labels"] == ("animal", "thing")
    assert evaluate(one, file)["held_out"]["accuracy"] > 0.95
    assert any(line.endswith(f"of {found['base']}") for line in model_lines(found))
    export(one, to="hf", out=tmp_path / "whole")
    np.testing.assert_allclose(load_neural_classifier(tmp_path / "whole").scores(texts), scores, atol=5e-5)
    with pytest.raises(UserError, match="is an adapter itself, and no other can learn beside it"):
        tune(one, file, out=tmp_path / "again", task="classify", settings=settings)


def test_an_adapter_finds_its_base_beside_itself_or_says_where_it_was(start, tmp_path, monkeypatch):
    settings = TuneConfig(lora=LoRAConfig(rank=2), epochs=0.1)
    shutil.copytree(start, tmp_path / "base")
    out = tmp_path / "model"
    tune(tmp_path / "base", rows(tmp_path / "a.jsonl"), out=out, task="classify", settings=settings)
    scores = load_neural_classifier(out).scores(["the cat"])
    (tmp_path / "elsewhere").mkdir()
    for name in ("base", "model"):
        shutil.move(tmp_path / name, tmp_path / "elsewhere" / name)
    moved = tmp_path / "elsewhere" / "model"
    monkeypatch.chdir(moved)
    for way in (moved, Path()):
        np.testing.assert_array_equal(load_neural_classifier(way).scores(["the cat"]), scores)
    (moved / "training_args.bin").write_bytes(b"")  # as transformers' trainer leaves one
    np.testing.assert_array_equal(load_neural_classifier(moved).scores(["the cat"]), scores)
    named = read_settings(moved / "adapter_config.json")
    for name in (str(tmp_path / "nowhere" / "base"), "x" * 5000 + "/base"):
        write_json(moved / "adapter_config.json", {**named, "base_model_name_or_path": name})
        np.testing.assert_array_equal(load_neural_classifier(moved).scores(["the cat"]), scores)
    write_json(moved / "adapter_config.json", named)
    shutil.rmtree(tmp_path / "elsewhere" / "base")
    with pytest.raises(UserError, match=r"needs its base model '.*base', which is not there"):
        open_classifier(moved)
    assert not examine_model(moved)["usable"]
    settings = {**read_settings(moved / "adapter_config.json"), "base_model_name_or_path": str(moved)}
    write_json(moved / "adapter_config.json", settings)
    with pytest.raises(UserError, match="holds no weights of its own"):
        open_classifier(moved)


@pytest.mark.parametrize(
    ("model", "options", "sentence"),
    [
        (False, {}, "An adapter learns beside a model"),
        (True, {"engine": "vectors"}, "--lora is about tuning an encoder"),
        (False, {"engine": "lstm"}, "--lora is about tuning an encoder"),
    ],
)
def test_an_adapter_where_there_is_nothing_to_adapt_is_refused(model, options, sentence, start, tmp_path):
    settings = TuneConfig(lora=LoRAConfig())
    file = rows(tmp_path / "a.jsonl")
    with pytest.raises(UserError, match=sentence):
        tune(start if model else None, file, out=tmp_path / "model", task="classify", settings=settings, **options)


def test_pairs_are_read_as_pairs(start, tmp_path):
    """Neither text by itself says whether they are the same."""
    settings = TuneConfig(epochs=1, batch=16)
    out = tmp_path / "model"
    file = rows(tmp_path / "a.jsonl", pairs=True)
    facts = tune(start, file, out=out, task="classify", engine="encoder", settings=settings)
    assert facts["labels"] == ["n", "y"]
    classifier = load_neural_classifier(out)
    one, other = classifier.scores(["the cat", "the cat"], ["the cat", "something else"])
    assert not np.allclose(one, other)
    with torch.no_grad():
        framed = classifier.framing.pairs(["the cat"], ["something else"])
        batch = classifier.framing.batch(framed)
        logits = classifier.model(
            torch.from_numpy(batch.ids), segments=torch.from_numpy(batch.segments), real=torch.from_numpy(batch.real)
        )
    np.testing.assert_allclose(logits[0].numpy(), other, atol=1e-5)


def test_only_texts_with_a_second_one_are_framed_as_pairs(tiny_tokenizer):
    framing = Framing(with_mask_token(tiny_tokenizer), context=16)
    found = frame(framing, ["the cat", "a dog", "a house"], ["", "a mat", ""])
    (alone, last), (pair,) = framing.texts(["the cat", "a house"]), framing.pairs(["a dog"], ["a mat"])
    assert found == [alone, pair, last]


def test_several_labels_stay_several(start, tmp_path):
    out = tmp_path / "model"
    settings = TuneConfig(epochs=20, batch=16, rate=5e-3, validations=2)
    file = rows(tmp_path / "a.jsonl", several=True)
    facts = tune(start, file, out=out, task="classify", engine="encoder", settings=settings)
    assert facts["several"]
    assert json.loads((out / "config.json").read_text())["problem_type"] == "multi_label_classification"
    assert set(classify(out, ["the cat number 3"])[0].labels) == {"animal", "all"}


def test_an_encoder_from_nothing_but_the_texts(tmp_path):
    out = tmp_path / "model"
    facts = tune(
        None,
        rows(tmp_path / "a.jsonl"),
        out=out,
        task="classify",
        engine="encoder",
        settings=TuneConfig(epochs=3, batch=16, context=32, validations=1),
    )
    assert facts["held_out"]["macro_f1"] > 0.9
    assert classify(out, ["the cat number 5"])[0].labels == ("animal",)


def test_an_lstm_learns_labels_from_nothing_but_the_texts(tmp_path):
    out, settings = tmp_path / "model", TuneConfig(epochs=6, batch=16, context=32, validations=1)
    file = rows(tmp_path / "a.jsonl")
    facts = tune(None, file, out=out, task="classify", engine="lstm", settings=settings)
    assert facts["held_out"]["macro_f1"] > 0.9
    assert classify(out, ["the cat number 5"])[0].labels == ("animal",)
    assert evaluate(out, file)["held_out"]["accuracy"] > 0.9
    words = {one.word: one.weight for one in explain(open_classifier(out), "the cat number 99")}
    assert max(words, key=words.__getitem__) == "cat"
    assert examine_model(out)["can"] == ["classify", "evaluate"]
    assert "writes_in" not in examine_model(out)
    with pytest.raises(UserError, match="The engine lstm begins with nothing"):
        tune(out, file, out=tmp_path / "b", task="classify", engine="lstm")


def test_no_text_helped_to_choose_the_temperature_that_it_is_judged_by():
    held_out = [Labelled(f"text {i}", ("ab"[i % 2],)) for i in range(40)]
    truth = truth_matrix([one.labels for one in held_out], ["a", "b"])
    scores = np.random.default_rng(0).normal(size=(40, 2)) + truth
    found = judged_chances(scores, truth, held_out, several=False)
    changed = truth.copy()
    changed[0] = ~changed[0]
    again = judged_chances(scores, changed, held_out, several=False)
    np.testing.assert_array_equal(found[0], again[0])
    assert (found != again).any()


def test_the_head_is_new_and_the_rest_as_it_was(start):
    begun = open_start(start, ["a", "b", "c"], several=False, context=16, seed=0)
    assert begun.model.config.head == Head("classes", labels=("a", "b", "c"), pooler=True)
    assert begun.framing.context == 16
    again = open_start(start, ["a", "b", "c"], several=False, context=16, seed=0)
    torch.testing.assert_close(begun.model.head.weight, again.model.head.weight)
    torch.testing.assert_close(
        begun.model.layers[0].attention.query.weight,
        load_weights(start)["bert.encoder.layer.0.attention.self.query.weight"],
    )


def load_weights(folder):
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")


def test_what_nobody_chose_is_what_is_usual_for_texts():
    assert usual(TuneConfig(), from_nothing=False).batch == 32
    assert usual(TuneConfig(batch=4, rate=1e-5), from_nothing=False).batch == 4
    assert usual(TuneConfig(batch=4, rate=1e-5), from_nothing=True).rate == 1e-5


def test_an_encoder_that_knows_no_classes_is_not_used_as_one(start):
    with pytest.raises(UserError, match="knows no classes yet") as error:
        classify(start, ["hello"])
    assert error.value.code == USAGE


@pytest.mark.parametrize(("labels", "problem"), [("a", None), ("a", "regression"), ("ab", "regression")])
def test_an_encoder_that_gives_a_number_is_not_used_as_a_classifier(start, tmp_path, labels, problem):
    """Of a single number softmax makes certainty, whatever the text."""
    encoder = load_encoder(start)
    head = Head(kind="classes", labels=tuple(labels), pooler=True)
    save_encoder(tmp_path, randomised(Encoder(replace(encoder.config, head=head))), pad=0)
    load_tokenizer(start).save(tmp_path)
    settings = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(settings | {"problem_type": problem}))
    with pytest.raises(UserError, match="gives texts a number each"):
        open_classifier(tmp_path)


@pytest.fixture(scope="module")
def language_model(make_model, tiny_tokenizer) -> LanguageModel:
    return LanguageModel(
        randomised(make_model(vocabulary=tiny_tokenizer.vocabulary, context=256), seed=3), tiny_tokenizer
    )


def test_a_language_model_says_how_much_likelier_a_label_is_than_below_nothing(language_model):
    classifier = DecoderClassifier(language_model, ("cat", "dog"))
    scores = classifier.scores(["the cat sat on the mat"])
    expected = [
        language_model.loglikelihood("Text: the cat sat on the mat\nLabel:", f" {label}")
        - language_model.loglikelihood("Text: N/A\nLabel:", f" {label}")
        for label in ("cat", "dog")
    ]
    np.testing.assert_allclose(scores[0], expected, rtol=1e-5)
    assert classifier.chances(["一只猫坐在垫子上"]).sum() == pytest.approx(1)


def test_examples_stand_above_the_text(language_model):
    shown = (Labelled("a dog", ("dog",)), Labelled("a cat", ("cat",)))
    classifier = DecoderClassifier(language_model, ("cat", "dog"), shown)
    above = "Text: a dog\nLabel: dog\n\nText: a cat\nLabel: cat\n\n"
    expected = language_model.loglikelihood(f"{above}Text: hm\nLabel:", " cat") - language_model.loglikelihood(
        f"{above}Text: N/A\nLabel:", " cat"
    )
    assert classifier.scores(["hm"])[0, 0] == pytest.approx(expected, rel=1e-5)


def test_a_text_is_asked_about_in_its_language_whatever_stands_beside_it(language_model):
    classifier = DecoderClassifier(language_model, ("cat", "dog"))
    texts = ["一只猫坐在垫子上", "the cat sat on the mat"]
    np.testing.assert_allclose(classifier.scores(texts), [classifier.scores([text])[0] for text in texts], rtol=1e-4)
    expected = language_model.loglikelihood("Text: the cat sat on the mat\nLabel:", " cat")
    expected -= language_model.loglikelihood("Text: N/A\nLabel:", " cat")
    assert classifier.scores(texts)[1, 0] == pytest.approx(expected, rel=1e-4)


def test_examples_that_do_not_fit_beside_a_text_are_left_out(language_model):
    """What exceeds the context was cut in front of a text, but not in front of the none that it is compared with."""
    shown = tuple(Labelled(f"{word} " * 6, (word,)) for word in ("dog", "cat") * 4)
    text = "hm " * 12
    few = [DecoderClassifier(language_model, ("cat", "dog"), shown[:count]).scores([text])[0] for count in range(9)]
    fitting = max(count for count in range(9) if not np.allclose(few[count], few[max(0, count - 1)]))
    assert 0 < fitting < 8
    above = "".join(f"Text: {one.text}\nLabel: {one.labels[0]}\n\n" for one in shown[:fitting])
    asked = [f"{above}Text: {one}\nLabel:" for one in (text, "N/A")]
    assert max(len(language_model.tokenizer.encode(prompt + " dog")) for prompt in asked) <= 257
    expected = np.subtract(*(language_model.loglikelihood(prompt, " cat") for prompt in asked))
    assert few[8][0] == pytest.approx(expected, rel=1e-4)


def test_few_examples_are_of_all_labels():
    many = [Labelled(f"text {i}", (str(i % 4),)) for i in range(100)]
    chosen = few_examples(many)
    assert len(chosen) == 16
    assert {one.labels for one in chosen} == {(str(k),) for k in range(4)}
    assert chosen == few_examples(many[::-1])


def test_vectors_and_ngrams_together(start, tmp_path):
    out = tmp_path / "model"
    facts = tune(start, rows(tmp_path / "a.jsonl"), out=out, task="classify")
    assert facts["engine"] == "vectors"
    assert facts["held_out"]["macro_f1"] > 0.95
    classifier = open_classifier(out)
    texts = ["the cat number 99", "the house number 7", "something else"]
    assert [verdict.labels for verdict in classify(out, texts)[:2]] == [("animal",), ("thing",)]
    model, framing = open_vectors(start)
    vectors = text_vectors(model, framing, texts)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
    alone = [model.hidden_states(torch.tensor([one.ids]))[0].mean(dim=0) for one in framing.texts(texts)]
    np.testing.assert_allclose(vectors, [(one / one.norm()).detach().numpy() for one in alone], atol=1e-5)
    expected = classifier.linear.scores(texts) + vectors @ classifier.weights
    np.testing.assert_allclose(classifier.scores(texts), expected, atol=1e-4)
    assert np.abs(classifier.weights).max() > 0
    assert explain(classifier, texts[0])[1].word == "cat"


def test_vectors_need_a_model(tmp_path):
    with pytest.raises(UserError, match="needs an encoder"):
        tune(None, rows(tmp_path / "a.jsonl"), out=tmp_path / "model", task="classify", engine="vectors")


def test_examples_have_the_labels_that_were_asked_for(tmp_path, make_model, tiny_tokenizer):
    """A prompt that shows others would say one thing and ask for another."""
    save_model(tmp_path / "model", make_model(vocabulary=tiny_tokenizer.vocabulary), end=tiny_tokenizer.end)
    tiny_tokenizer.save(tmp_path / "model")
    rows = [("a good day", "good"), ("a bad day", "bad"), ("a day", "plain")]
    (tmp_path / "rows.csv").write_text("\n".join(["text,label", *map(",".join, rows)]))
    classifier = open_classifier(tmp_path / "model", labels=["good", "bad"], examples=tmp_path / "rows.csv")
    assert {one.labels for one in classifier.examples} == {("good",), ("bad",)}
    with pytest.raises(UserError, match=r"None of the texts .* They have: bad, good, plain"):
        open_classifier(tmp_path / "model", labels=["x", "y"], examples=tmp_path / "rows.csv")
