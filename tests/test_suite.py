"""Evaluation: the figures are what their definitions say, and are measured again exactly when something changed."""

from __future__ import annotations

import json
import math
import re
import shlex
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from gguf_files import SHAPE, tokenizer_metadata, write_model
from random_models import split_weights
from stories import stories, write_stories

from bimo.console import SILENT, Console
from bimo.evaluate import keeping, prediction, suite
from bimo.evaluate.prediction import predict_texts
from bimo.evaluate.suite import evaluate, evaluation_lines
from bimo.files import digest_file, read_json, write_json
from bimo.generate.engine import LanguageModel, load
from bimo.models.scoring import Score
from bimo.prepare import prepare
from bimo.run import _say_result
from bimo.runtime import DATA_REFUSED, UserError, set_language
from bimo.tasks.folder import learned_from
from bimo.text.controls import Controls
from bimo.text.store import read_stored
from bimo.tokens.shards import TokenShards
from bimo.tokens.tokenizer import load_tokenizer
from bimo.weights.huggingface import save_model

SMALL = {"FREE_SAMPLES": 4, "SAMPLES_AT_ONCE": 2, "SAMPLE_TOKENS": 24, "SHOWN_SAMPLES": 2}


@pytest.fixture(autouse=True)
def _english_and_small(monkeypatch):
    set_language("en")
    for name, value in SMALL.items():
        monkeypatch.setattr(suite, name, value)
    yield
    set_language(None)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("suite")
    write_stories(folder / "notes" / "a.txt", 60)
    write_stories(folder / "notes" / "b.txt", 40, chinese=True)
    prepare([folder / "notes"], out=folder / "data")
    return folder / "data"


@pytest.fixture
def model_folder(data, make_model, tmp_path):
    """A folder with random weights and the tokenizer of the data."""
    tokenizer = load_tokenizer(data)
    model = make_model(vocabulary=tokenizer.vocabulary, context=64)
    save_model(tmp_path / "model", model, end=tokenizer.end)
    tokenizer.save(tmp_path / "model")
    return tmp_path / "model"


def language_model(tokenizer: Any, make_model: Any, **fields: Any) -> LanguageModel:
    return LanguageModel(make_model(vocabulary=tokenizer.vocabulary, **fields), tokenizer)


TEXTS = ["The fox found a lantern.", "小狐狸找到了灯笼。🏮", "A naïve café, 2024.", "x"]


def test_a_model_without_preferences_needs_the_logarithm_of_its_vocabulary(tiny_tokenizer, make_model):
    model = language_model(tiny_tokenizer, make_model)
    with torch.no_grad():
        model.model.head.weight.zero_()
    facts = predict_texts(model, TEXTS)
    tokens = sum(len(tiny_tokenizer.encode(text)) + 1 for text in TEXTS)
    bits = tokens * math.log2(tiny_tokenizer.vocabulary)
    bytes_ = sum(len(text.encode()) for text in TEXTS)
    assert facts["bits_per_byte"] == pytest.approx(bits / bytes_, rel=1e-6)
    assert facts["bits_per_character"] == pytest.approx(bits / sum(map(len, TEXTS)), rel=1e-6)
    assert facts["perplexity"] == pytest.approx(tiny_tokenizer.vocabulary, rel=1e-6)
    sizes = {"documents": 4, "bytes": bytes_, "characters": sum(map(len, TEXTS)), "tokens": tokens}
    assert facts["validation"] == sizes


def test_bits_are_those_of_the_plain_cross_entropy(tiny_tokenizer, make_model):
    model = language_model(tiny_tokenizer, make_model, context=128)
    nats = 0.0
    for text in TEXTS:
        ids = torch.tensor([[tiny_tokenizer.end, *tiny_tokenizer.encode(text), tiny_tokenizer.end]])
        with torch.no_grad():
            logits = model.model(ids[:, :-1])
        nats += torch.nn.functional.cross_entropy(logits[0], ids[0, 1:], reduction="sum").item()
    expected = nats / math.log(2) / sum(len(text.encode()) for text in TEXTS)
    assert predict_texts(model, TEXTS)["bits_per_byte"] == pytest.approx(expected, rel=1e-5)


def test_accuracy_counts_the_tokens_that_were_the_likeliest(tiny_tokenizer, make_model):
    model = language_model(tiny_tokenizer, make_model, context=128)
    hits = tokens = 0
    for text in TEXTS:
        ids = torch.tensor([tiny_tokenizer.end, *tiny_tokenizer.encode(text), tiny_tokenizer.end])
        # A step at a time: the texts are shorter than the context.
        guesses = [int(model.model(ids[None, :place])[0, -1].argmax()) for place in range(1, len(ids))]
        hits += sum(guess == real for guess, real in zip(guesses, ids[1:].tolist(), strict=True))
        tokens += len(ids) - 1
    assert predict_texts(model, TEXTS)["accuracy"] == hits / tokens


def test_neither_order_nor_company_of_texts_changes_the_figure(tiny_tokenizer, make_model):
    model = language_model(tiny_tokenizer, make_model, context=16)
    texts = [*TEXTS, *stories(70).strip().split("\n\n")]
    together = predict_texts(model, texts)
    backwards = predict_texts(model, texts[::-1])
    assert backwards["bits_per_byte"] == pytest.approx(together["bits_per_byte"], rel=1e-6)
    alone = sum(predict_texts(model, [text])["bits_per_byte"] * len(text.encode()) for text in texts)
    assert alone / sum(len(text.encode()) for text in texts) == pytest.approx(together["bits_per_byte"], rel=1e-5)


def test_the_interval_holds_the_figure_and_narrows_with_more_text(tiny_tokenizer, make_model):
    model = language_model(tiny_tokenizer, make_model)
    passages = stories(120).strip().split("\n\n")
    widths = []
    for count in (8, 120):
        facts = predict_texts(model, passages[:count])
        low, high = facts["bits_per_byte_interval"]
        assert low < facts["bits_per_byte"] < high
        widths.append(high - low)
    assert widths[1] < 0.6 * widths[0]


@pytest.mark.parametrize(("count", "known"), [(1, False), (4, False), (5, True)])
def test_few_texts_have_no_interval(tiny_tokenizer, make_model, count, known):
    """Resamples of a single one are all that one, which would be certainty."""
    model = language_model(tiny_tokenizer, make_model)
    facts = predict_texts(model, stories(120).strip().split("\n\n")[:count])
    assert (facts["bits_per_byte_interval"] is not None) is known
    line = evaluation_lines(facts)[0]
    assert ("in 95 % of resamples" in line) is known
    assert ("(too few texts to say how sure that is)" in line) is not known


def test_prepared_data_are_judged_by_their_held_out_part(model_folder, data):
    facts = evaluate(model_folder, data)
    held_out = [document.text for document in read_stored(data / "documents", "validation")]
    assert facts["validation"]["documents"] == len(held_out)
    assert facts["validation"]["bytes"] == sum(len(text.encode()) for text in held_out)
    assert set(facts["baselines"]) >= {"unigram", "kneser_ney", "xz"}
    assert len(facts["samples"]) == SMALL["SHOWN_SAMPLES"]
    train = sum(len(document.text) for document in read_stored(data / "documents", "train"))
    assert sum(map(len, suite._searched(data, lambda done, text: None))) == train
    assert read_json(model_folder / "bimo" / "evaluation.json") == facts
    json.dumps(facts, allow_nan=False)
    assert facts["context"] == 64


def test_a_gguf_file_is_judged_and_nothing_is_kept_beside_it(data, make_model, tmp_path):
    tokenizer = load_tokenizer(data)
    model = make_model(**SHAPE, vocabulary=tokenizer.vocabulary, qk_norm=False)
    path = write_model(tmp_path / "model.gguf", model, "llama", **tokenizer_metadata(tokenizer))
    facts = evaluate(path, data)
    assert set(facts) >= {"bits_per_byte", "baselines", "copying"}
    assert [file.name for file in tmp_path.iterdir()] == ["model.gguf"]


def test_an_evaluation_is_kept_until_weights_or_text_change(model_folder, data, make_model, tmp_path, monkeypatch):
    counted = []
    predict = suite.predict_texts

    def counting(*arguments: Any, **options: Any) -> Any:
        counted.append(1)
        return predict(*arguments, **options)

    monkeypatch.setattr(suite, "predict_texts", counting)
    first = evaluate(model_folder, data)
    assert evaluate(model_folder, data) == first
    assert len(counted) == 1
    tokenizer = load_tokenizer(data)
    save_model(model_folder, make_model(vocabulary=tokenizer.vocabulary, context=64, seed=1), end=tokenizer.end)
    second = evaluate(model_folder, data)
    assert second["bits_per_byte"] != first["bits_per_byte"]
    assert len(counted) == 2
    prepare([write_stories(tmp_path / "c.txt", 30, seed=8)], out=tmp_path / "other")
    evaluate(model_folder, tmp_path / "other")
    assert len(counted) == 3


def test_an_evaluation_of_weights_in_several_files_is_kept_until_they_change(model_folder, data, make_model):
    whole = evaluate(model_folder, data)
    split_weights(model_folder)
    first = evaluate(model_folder, data)
    assert first["bits_per_byte"] == whole["bits_per_byte"]
    assert evaluate(model_folder, data) == first
    tokenizer = load_tokenizer(data)
    save_model(model_folder, make_model(vocabulary=tokenizer.vocabulary, context=64, seed=1), end=tokenizer.end)
    split_weights(model_folder)
    second = evaluate(model_folder, data)
    assert (second["key"] != first["key"], second["bits_per_byte"] != first["bits_per_byte"]) == (True, True)
    next(model_folder.glob("model-00002*")).unlink()
    with pytest.raises(UserError, match="cannot be used: there is no such file"):
        evaluate(model_folder, data)


def test_pages_are_those_of_a_run_on_the_data_that_it_learned_from(model_folder, data, tmp_path):
    prepare([write_stories(tmp_path / "c.txt", 30, seed=8)], out=tmp_path / "other")
    shards = TokenShards(data / "tokens", "train")
    manifest = {"created": "2026-01-02T03:04:05+00:00", "inputs": {"tokens": shards.fingerprint}}
    write_json(model_folder / "bimo" / "manifest.json", manifest)
    pages = [model_folder / name for name in ("bimo/evaluation.json", "bimo/report.html", "README.md")]
    assert evaluate(model_folder, tmp_path / "other")["bits_per_byte"] > 0
    assert not any(page.exists() for page in pages)
    evaluate(model_folder, data)
    before = [page.read_bytes() for page in pages]
    evaluate(model_folder, tmp_path / "other")
    assert [page.read_bytes() for page in pages] == before


def test_the_report_of_a_tuning_stays(model_folder, data):
    report = model_folder / "bimo" / "report.html"
    write_json(model_folder / "bimo" / "manifest.json", {"inputs": {"file": "digest"}})
    report.write_text("before and after", encoding="utf-8")
    evaluate(model_folder, data)
    assert report.read_text(encoding="utf-8") == "before and after"
    assert not (model_folder / "README.md").exists()


def test_an_evaluation_is_the_same_every_time(model_folder, data):
    first = evaluate(model_folder, data)
    (model_folder / "bimo" / "evaluation.json").unlink()
    assert evaluate(model_folder, data) == first


def test_copies_are_looked_for_in_what_the_model_writes(model_folder, data, monkeypatch):
    texts = [document.text for document in read_stored(data / "documents", "train")]

    def parrot(self: Any, prompt: str = "", *, count: int, **options: Any) -> list[str]:
        return texts[:count]

    monkeypatch.setattr(LanguageModel, "samples", parrot)
    facts = evaluate(model_folder, data)["copying"]
    assert facts["share_of_windows_copied"] == 1.0
    assert facts["longest_run"] >= 0.95 * max(map(len, texts[:2]))


def test_tags_are_taken_off_whatever_the_model_wrote(model_folder, data, monkeypatch):
    def tagged(self: Any, prompt: str = "", *, count: int, **options: Any) -> list[str]:
        return ["length: short\n\nA fox."] * count

    monkeypatch.setattr(LanguageModel, "samples", tagged)
    monkeypatch.setattr(suite, "read_controls", lambda folder: Controls({}, short=10, medium=20))
    facts = evaluate(model_folder, data)
    assert [sample["text"] for sample in facts["samples"]] == ["A fox."] * SMALL["SHOWN_SAMPLES"]


@pytest.mark.parametrize("text", ["$(rm) `ls` on", 'say "no" or', "it's", "什么“是”？"])
def test_what_to_try_next_is_safe_to_copy(text, model_folder, data, capsys):
    facts = evaluate(model_folder, data) | {"samples": [{"prompt": "", "text": text}]}
    capsys.readouterr()
    _say_result(facts, Path("my $notes"), Console())
    command = capsys.readouterr().err.splitlines()[-1].removeprefix("Try").strip()
    *verb, prompt = shlex.split(command)
    assert verb == ["bimo", "generate", "my $notes"]
    assert text.startswith(prompt)
    assert "$" not in re.sub("'[^']*'", "", command)


def test_a_plain_file_or_folder_is_judged_as_it_is(model_folder, tmp_path):
    file = write_stories(tmp_path / "texts" / "a.txt", 3)
    facts = evaluate(model_folder, file)
    assert facts["validation"]["characters"] == pytest.approx(len(file.read_text()), abs=8)
    assert "baselines" not in facts
    assert not (model_folder / "bimo" / "evaluation.json").exists()
    write_stories(tmp_path / "texts" / "b.txt", 3, seed=1, chinese=True)
    both = evaluate(model_folder, tmp_path / "texts")
    assert both["validation"]["bytes"] > facts["validation"]["bytes"]


@pytest.mark.parametrize("tuned", [False, True], ids=["trained", "tuned"])
def test_text_that_a_model_was_trained_on_is_told(model_folder, data, tmp_path, tuned):
    said = []
    console = Console(quiet=True)
    console.warn = said.append
    notes = tmp_path / "notes"
    shutil.copytree(data.parent / "notes", notes)
    evaluate(model_folder, notes, console=console)
    assert said == []
    trained = tmp_path / "trained" if tuned else model_folder
    write_json(trained / "bimo" / "manifest.json", {"data": str(data)})
    if tuned:
        write_json(model_folder / "bimo" / "tune.json", {"model": str(trained)})
    write_stories(notes / "c.txt", 3, seed=9)
    for source, expected in ((notes, 1), (notes / "a.txt", 1), (notes / "c.txt", 0), (data, 0)):
        said.clear()
        evaluate(model_folder, source, console=console)
        known = [sentence for sentence in said if "learned from this very file" in sentence]
        assert len(known) == expected, source


def test_an_empty_file_is_nothing_that_was_learned_from(model_folder, tmp_path):
    (tmp_path / "empty.txt").touch()
    digest = digest_file(tmp_path / "empty.txt")
    sources = [{"name": "a.txt", "bytes": 0, "sha256": digest}, {"name": "b.txt", "bytes": 7, "sha256": "closed"}]
    write_json(model_folder / "bimo" / "data" / "data_sheet.json", {"sources": sources})
    assert not learned_from(model_folder, tmp_path / "empty.txt")
    write_json(model_folder / "bimo" / "data" / "data_sheet.json", {"sources": [7]})
    write_json(model_folder / "bimo" / "manifest.json", {"inputs": []})
    assert not learned_from(model_folder, tmp_path / "empty.txt")


@pytest.mark.parametrize("content", [b"", b" \n\n\t\n", bytes(range(256)) * 8], ids=["empty", "blank", "binary"])
def test_a_source_without_text_is_refused(model_folder, tmp_path, content):
    (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises(UserError, match="no text") as caught:
        evaluate(model_folder, tmp_path / "a.txt")
    assert caught.value.code == DATA_REFUSED


@pytest.mark.parametrize("beside", [{}, {"against": "model"}], ids=["alone", "compared"])
def test_data_of_a_single_document_hold_no_text_to_evaluate_on(model_folder, tmp_path, beside):
    (tmp_path / "a.txt").write_text(
        "The brave miller found a quick apple near the coat, and the king sold a quiet stone.", encoding="utf-8"
    )
    prepare([tmp_path / "a.txt"], out=tmp_path / "lone")
    with pytest.raises(UserError, match="holds no text to evaluate on") as caught:
        evaluate(model_folder, tmp_path / "lone", **{name: tmp_path / folder for name, folder in beside.items()})
    assert caught.value.code == DATA_REFUSED


def test_a_missing_model_or_source_is_named(model_folder, data, tmp_path):
    with pytest.raises(UserError, match="no model folder"):
        evaluate(tmp_path / "nothing", data)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="is not a model folder"):
        evaluate(tmp_path / "empty", data)
    assert list((tmp_path / "empty").iterdir()) == []
    with pytest.raises(UserError, match="nowhere"):
        evaluate(model_folder, tmp_path / "nowhere")


def test_a_model_with_the_tokenizer_of_another_is_refused(model_folder, data, make_model):
    save_model(model_folder, make_model(vocabulary=97, context=64), end=0)
    with pytest.raises(UserError, match="do not fit"):
        evaluate(model_folder, data)


def test_lines_for_people_hold_the_figures(model_folder, data):
    facts = evaluate(model_folder, data)
    text = "\n".join(evaluation_lines(facts))
    assert f"{facts['bits_per_byte']:.4f} bits per byte" in text
    assert f"Kneser-Ney of order {facts['baselines']['kneser_ney']['best_order']}" in text
    assert f"longest run {facts['copying']['longest_run']}" in text
    short = {**facts, "copying": {**facts["copying"], "windows": 0, "share_of_windows_copied": None}}
    assert "too short to tell" in evaluation_lines(short)[-1]
    plain = {name: facts[name] for name in facts if name not in ("baselines", "copying")}
    assert len(evaluation_lines(plain)) == 2


def test_losses_are_summed_in_double_precision():
    """Ten thousand documents of a million nats each: single precision would lose the last digits."""
    texts = ["a" * 10] * 10_000
    loss = -1_000_000.1  # so much that e to the power of it is no number
    fake = SimpleNamespace(
        rolling_scores=lambda batch: [Score(-loss, 1)] * len(batch),
        tokenizer=SimpleNamespace(encode_batch=lambda texts: [[1]] * len(texts), encode=list, decode="".join),
        model=SimpleNamespace(config=SimpleNamespace(context=8)),
    )
    with np.errstate(over="ignore"), pytest.MonkeyPatch.context() as patch:
        patch.setattr(prediction, "interval_if_enough", lambda bits, count: [0.0, 0.0])
        facts = predict_texts(fake, texts)
    assert facts["bits_per_byte"] == pytest.approx(100_000.01 / math.log(2), rel=1e-12)
    assert facts["accuracy"] == 0.5


def test_the_path_may_be_text(model_folder, tmp_path):
    file = write_stories(tmp_path / "a.txt", 2)
    assert evaluate(str(model_folder), str(file)) == evaluate(Path(model_folder), Path(file))


def test_two_models_are_compared_on_the_same_texts(model_folder, data, make_model, tmp_path):
    """Each figure is that of the model by itself; a model beside itself differs by nothing."""
    tokenizer = load_tokenizer(data)
    other = tmp_path / "other"
    save_model(other, make_model(vocabulary=tokenizer.vocabulary, seed=7), end=tokenizer.end)
    tokenizer.save(other)
    file = write_stories(tmp_path / "a.txt", 12)
    facts = evaluate(model_folder, file, against=other)
    assert facts["bits_per_byte"] == pytest.approx(evaluate(model_folder, file)["bits_per_byte"], abs=1e-9)
    assert facts["against_bits_per_byte"] == pytest.approx(evaluate(other, file)["bits_per_byte"], abs=1e-9)
    assert facts["against"] == str(other)
    low, high = facts["difference_interval"]
    assert low <= facts["difference"] <= high
    assert f"p {facts['p']:.3f}" in "\n".join(evaluation_lines(facts))
    same = evaluate(model_folder, file, against=model_folder)
    assert (same["difference"], same["p"]) == (0.0, 1.0)


def test_a_text_has_one_figure_whatever_lies_beside_it(tmp_path):
    write_stories(tmp_path / "alone" / "a.txt", 40, seed=1)
    shutil.copytree(tmp_path / "alone", tmp_path / "beside")
    write_stories(tmp_path / "beside" / "b.txt", 4000, seed=2)
    alone, beside = (prediction.texts_to_predict(tmp_path / name, SILENT) for name in ("alone", "beside"))
    assert len(beside) > len(alone) == len({*alone} & {*beside})


def test_a_tokenizer_that_loses_text_is_told(model_folder, monkeypatch):
    said = []
    console = Console(quiet=True)
    console.warn = said.append
    model = load(model_folder)
    texts = ["The King is back.", "A dog."]
    predict_texts(model, texts, console=console)
    assert said == []
    decode = model.tokenizer.decode
    monkeypatch.setattr(model.tokenizer, "decode", lambda ids: decode(ids).lower())
    predict_texts(model, texts, console=console)
    assert said == ["2 of 2 texts do not come back from this tokenizer: its bits per byte are too few"]


def test_another_shape_is_measured_anew(model_folder, data):
    first = evaluate(model_folder, data)
    settings = read_json(model_folder / "config.json")
    write_json(model_folder / "config.json", {**settings, "rope_theta": 2 * settings.get("rope_theta", 10_000.0)})
    assert evaluate(model_folder, data)["key"] != first["key"]


def test_whoever_learned_from_a_file_is_named(model_folder, data, tmp_path):
    """The one that a model is compared with as well, on prepared data that it did not learn from, too."""
    said = []
    console = Console(quiet=True)
    console.warn = said.append
    other = tmp_path / "other"
    shutil.copytree(model_folder, other)
    write_json(other / "bimo" / "manifest.json", {"data": str(data)})
    evaluate(model_folder, data.parent / "notes", against=other, console=console)
    assert said == [f"{other} learned from this very file, so it knows the answers."]


def test_a_folder_that_cannot_be_written_costs_no_figures(model_folder, data, monkeypatch):
    said = []
    console = Console(quiet=True)
    console.warn = said.append

    def refuse(path, facts):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(keeping, "write_json", refuse)
    assert evaluate(model_folder, data, console=console)["bits_per_byte"] > 0
    assert any("evaluation.json cannot be written: Permission denied" in sentence for sentence in said)
