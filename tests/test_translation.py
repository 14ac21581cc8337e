"""From a file of pairs to a model that translates: the folder, exact resume, the commands, what is refused."""

from __future__ import annotations

import json
import math
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import stories
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from bimo import machine as machine_file
from bimo import translation
from bimo.cli import app
from bimo.console import SILENT, Console
from bimo.evaluate import translations
from bimo.evaluate.suite import evaluate, evaluation_lines
from bimo.files import digest_file, read_json, read_metrics
from bimo.generate.beam import Beams
from bimo.generate.translator import Translation, load
from bimo.machine import Machine
from bimo.runtime import UserError
from bimo.tasks.translate.preparing import prepare_pairs, read_split
from bimo.text.pairs import Pair
from bimo.text.untranslated import untranslated
from bimo.tokens.pairs import PairTokens
from bimo.train import objectives
from bimo.translation import train_translator

ROWS = stories.pairs()
SMALL = ["model.layers=1", "model.decoder_layers=1", "model.width=32", "model.heads=2", "model.hidden=32"]
CHANGES = [*SMALL, "train.steps=24", "train.minutes=0", "train.validations=2", "train.dtype=float32", "train.batch=4"]
CHANGES += ["train.dropout=0.1"]  # the plan chooses it by the speed of the machine


@pytest.fixture(scope="module", autouse=True)
def _unmeasured() -> Iterator[None]:
    """No time is spent on measuring the machine."""
    rates = {"float32": 1e11, "bfloat16": 1e11}
    machine = Machine("imaginary", cores=2, threads=2, memory_bytes=8 * 10**9, device="cpu", matrix_flops=rates)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(translation, "MEASURE_SECONDS", 0)
        for module in (translation, machine_file):
            patch.setattr(module, "measure_machine", lambda *given, **choices: machine)
        yield


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return stories.write_pairs(tmp_path_factory.mktemp("pairs") / "pairs.tsv")


def train(pairs: Path, out: Path, *, changes: list[str] = CHANGES, **choices: Any) -> dict[str, Any]:
    return train_translator(pairs, out=out, minutes=0.01, preset="dust", device="cpu", changes=changes, **choices)


@pytest.fixture(scope="module")
def whole(pairs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training that nobody disturbed."""
    out = tmp_path_factory.mktemp("whole") / "model"
    train(pairs, out)
    return out


def test_a_file_that_was_learned_from_is_told(whole: Path, pairs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("sacrebleu")
    said: list[str] = []
    console = Console(quiet=True)
    monkeypatch.setattr(console, "warn", said.append)
    evaluate(whole, whole / "bimo" / "data" / "pairs" / "test.tsv", console=console)
    assert said == []
    evaluate(whole, pairs, console=console)
    assert said == [f"{whole} learned from this very file, so it knows the answers."]


def test_a_training_leaves_a_marian_folder_and_what_it_was_made_from(whole: Path) -> None:
    config = read_json(whole / "config.json")
    pad = config["vocab_size"] - 1
    assert (config["model_type"], config["pad_token_id"], config["eos_token_id"]) == ("marian", pad, 0)
    facts = read_json(whole / "bimo" / "training.json")
    assert facts["steps"] == 24
    assert 0 < facts["validation_bits_per_byte"] < 8
    splits = {name: read_split(whole / "bimo" / "data", name) for name in ("train", "validation", "test")}
    assert sum(map(len, splits.values())) == len(ROWS)
    assert len(splits["test"]) == len(splits["validation"]) == 7
    found = [event for event in read_metrics(whole / "bimo" / "metrics.jsonl") if event["event"] == "validation"]
    assert [set(event) for event in found] == [
        {"event", "step", "tokens", "seconds", "loss", "bits_per_byte", "perplexity"}
    ] * 2
    assert found[1]["loss"] < found[0]["loss"]
    assert (whole / "README.md").read_text(encoding="utf-8").count("bimo translate") >= 1
    assert "bimo generate" not in (whole / "README.md").read_text(encoding="utf-8")


class Killed(BaseException):
    """Stands for the end of the process."""


@pytest.mark.parametrize("death", [1, 13, 20])
def test_a_killed_training_ends_as_if_nothing_had_happened(
    whole: Path, pairs: Path, tmp_path: Path, death: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    loss, calls = objectives.translation_loss, iter(range(death))

    def dying(model: Any, batch: Any, **choices: Any) -> Any:
        if choices and next(calls, None) is None:  # validation gives no choices
            raise Killed
        return loss(model, batch, **choices)

    with monkeypatch.context() as patch:
        patch.setattr(objectives, "translation_loss", dying)
        with pytest.raises(Killed):
            train(pairs, tmp_path / "model")
    train(pairs, tmp_path / "model")
    assert digest_file(tmp_path / "model" / "model.safetensors") == digest_file(whole / "model.safetensors")


def test_a_finished_training_is_not_done_again_and_another_one_is_refused(whole: Path, pairs: Path) -> None:
    before = digest_file(whole / "model.safetensors")
    assert train(pairs, whole) == read_json(whole / "bimo" / "training.json")
    assert digest_file(whole / "model.safetensors") == before
    data = {path: digest_file(path) for path in (whole / "bimo" / "data").rglob("*") if path.is_file()}
    for other in ({"source": "zh"}, {"chinese": "simplified"}, {"changes": [*CHANGES, "train.clip=2.0"]}):
        with pytest.raises(UserError, match="other text or settings"):
            train(pairs, whole, **other)
    assert {path: digest_file(path) for path in data} == data


def test_the_run_file_trains_the_same_model_again(whole: Path, pairs: Path, tmp_path: Path) -> None:
    again = train_translator(pairs, out=tmp_path / "model", config=whole / "bimo" / "run.toml", device="cpu")
    assert again["steps"] == 24
    assert digest_file(tmp_path / "model" / "model.safetensors") == digest_file(whole / "model.safetensors")


def test_transformers_translates_the_same_with_the_folder_alone(whole: Path) -> None:
    transformers = pytest.importorskip("transformers")
    tokenizer = transformers.AutoTokenizer.from_pretrained(whole)
    model = transformers.AutoModelForSeq2SeqLM.from_pretrained(whole)
    assert type(model).__name__ == "MarianMTModel"
    texts = [pair.source for pair in read_split(whole / "bimo" / "data", "test")] + ["你好 moon <pad>", "a"]
    ours = load(whole)
    for text in texts:
        assert tokenizer(text)["input_ids"] == [*ours.tokenizer.encode(text), ours.tokenizer.end] or "<pad>" in text
    found = model.generate(**tokenizer(texts[:-2], return_tensors="pt", padding=True), max_length=20)
    theirs = tokenizer.batch_decode(found, skip_special_tokens=True)
    assert [each.text for each in ours.translate(texts[:-2], Beams(max_tokens=19))] == theirs


def test_lines_come_in_order_whatever_their_length(whole: Path) -> None:
    translator = load(whole)
    texts = [en for en, _ in ROWS[::9]] + ["", "dog " * 500, ROWS[0][0]]
    found = list(translator.translate(texts))
    assert len(found) == len(texts)
    assert (found[-3].text, found[-3].cut, found[-2].cut) == ("", False, True)
    assert found[-1] == found[0]
    assert [each.text for each in translator.translate(iter(texts), ahead=1)] == [each.text for each in found]


def invoke(*arguments: str | Path, stdin: str = "") -> Any:
    return CliRunner().invoke(app, list(map(str, arguments)), input=stdin)


def test_what_is_translated_has_the_form_of_what_was_learned(whole: Path, tmp_path: Path) -> None:
    translator = load(whole)
    clean, raw = (list(translator.translate([text])) for text in ("a b 漢", "\ufeffa  \u200bb\xa0漢"))
    assert (clean[0].text, clean[0].score) == (raw[0].text, raw[0].score)
    assert [found.text for found in translator.translate(["", " "])] == ["", " "]
    shutil.copytree(whole, tmp_path / "copy")
    shutil.rmtree(tmp_path / "copy" / "bimo" / "data")  # nobody needs what it learned from
    stored = tmp_path / "copy" / "bimo" / "translating.json"
    learned = json.loads(stored.read_text())
    assert learned["chinese"] == load(tmp_path / "copy").chinese == ""
    stored.write_text(json.dumps({**learned, "chinese": "simplified"}))
    kept = load(tmp_path / "copy")
    assert kept.chinese == "simplified"
    one, other = (next(kept.translate([text])).score for text in ("漢語", "汉语"))
    assert one == other


def test_the_commands_train_and_translate(pairs: Path, whole: Path, tmp_path: Path) -> None:
    settings = [part for change in CHANGES for part in ("--set", change)]
    choices = ["--family", "seq2seq", "--preset", "dust", "--minutes", "0.01", "--device", "cpu", "--target", "en"]
    done = invoke("train", pairs, "--out", tmp_path / "model", *choices, *settings, "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["steps"] == 24
    assert "column 2 (Chinese) is translated into column 1 (English)" in done.stderr
    one = invoke("translate", whole, ROWS[0][0])
    lines = invoke("translate", whole, "--best", "2", stdin=f"{ROWS[0][0]}\n\n{ROWS[5][0]}\n")
    assert (one.exit_code, lines.exit_code) == (0, 0)
    assert lines.stdout.startswith(one.stdout)
    assert lines.stdout.count("\n") == 5
    found = json.loads(invoke("translate", whole, ROWS[0][0], "--json").stdout)
    assert found[0]["texts"] == [one.stdout.rstrip("\n")]


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["train", "{pairs}", "--out", "m", "--family", "seq2seq", "--source", "fr"], 3, "has no column fr"),
        (["train", "nothing.tsv", "--out", "m", "--family", "seq2seq"], 2, "There is no file nothing.tsv"),
        (["train", ".", "--out", "m", "--family", "seq2seq"], 2, "is a folder. Name the file with the pairs"),
        (["translate", "{whole}", "Hello", "--to", "zh"], 2, "This model goes one way"),
        (["train", "{few}", "--out", "m", "--family", "seq2seq"], 3, "has 3 pairs, where at least 100"),
        (
            ["train", "{tied}", "--out", "m", "--family", "seq2seq", "--source", "1", "--target", "2"],
            3,
            "There is no pair",
        ),
        (["train", "{pairs}", "--out", "m", "--source", "en"], 2, "add --family seq2seq"),
        (["train", "{pairs}", "--out", "m", "--family", "seq2seq", "--preset", "huge"], 2, "no preset huge"),
        (
            ["train", "{pairs}", "--out", "m", "--family", "seq2seq", "--preset", "dust", "--set", "model.context=4"],
            2,
            "does not read",
        ),
        (
            ["train", "{pairs}", "--out", "m", "--family", "seq2seq", "--both", "--to-column", "1"],
            2,
            "no place beside",
        ),
        (["train", "{pairs}", "--out", "m", "--to-column", "1"], 2, "add --family seq2seq"),
        (["run", "{pairs}", "--out", "m", "--family", "seq2seq"], 2, "learns from pairs of texts"),
        (["translate", "{whole}", "Hello", "--beams", "0"], 2, "width must be at least 1"),
        (["translate", "nowhere", "Hello"], 1, "no model folder"),
        (["generate", "{whole}", "Hello"], 2, "bimo translate"),
    ],
)
def test_what_cannot_be_is_refused_with_a_sentence(
    arguments: list[str], code: int, sentence: str, pairs: Path, whole: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    few = tmp_path / "few.tsv"
    few.write_text("a b\tc d\ne f\tg h\ni j\tk l\n", encoding="utf-8")
    tied = tmp_path / "tied.tsv"
    tied.write_text("".join(f"Sentence {(n + 1) // 2}.\t句子{n // 2}。\n" for n in range(300)), encoding="utf-8")
    done = invoke(*(argument.format(pairs=pairs, whole=whole, few=few, tied=tied) for argument in arguments))
    assert (done.exit_code, done.stdout) == (code, "")
    assert sentence in done.stderr
    assert "error in Bimo itself" not in done.stderr


@pytest.mark.parametrize("change", ["train.bacth=8", "train.batch=many", "train.window=8", "model.lairs=2"])
def test_changes_that_cannot_be_are_refused_before_anything_is_read(change: str, pairs: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="setting"):
        train(pairs, tmp_path / "model", changes=[change])
    assert not (tmp_path / "model").exists()


@pytest.fixture(scope="module")
def two_ways(pairs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of both directions that has learned its pairs by heart."""
    out = tmp_path_factory.mktemp("two") / "model"
    learned = [change for change in CHANGES if not change.startswith(("train.steps", "model.width", "model.hidden"))]
    train(pairs, out, both=True, changes=[*learned, "train.steps=600", "model.width=64", "model.hidden=128"])
    return out


def test_one_model_goes_both_ways(two_ways: Path) -> None:
    translator = load(two_ways)
    assert list(translator.tags) == ["zh", "en"]
    test = read_split(two_ways / "bimo" / "data", "train")[:20]
    there = list(translator.translate([pair.source for pair in test], to="zh"))
    back = list(translator.translate([pair.target for pair in test], to="en"))
    assert sum(found.text == pair.target for found, pair in zip(there, test, strict=True)) >= 15
    assert sum(found.text == pair.source for found, pair in zip(back, test, strict=True)) >= 15
    mixed = [test[0].source, test[1].target]
    assert [found.text for found in translator.translate(mixed)] == [there[0].text, back[1].text]
    assert [found.unknown for found in translator.translate(["The zorblax is here."])] == [("zorblax",)]
    with pytest.raises(UserError, match=r"does not translate to fr\. --to zh\|en"):
        list(translator.translate(mixed, to="fr"))
    numbers = list(translator.translate([ROWS[0][0], "2024", " ", ""]))
    assert [found.text for found in numbers[1:]] == ["2024", " ", ""]


def test_what_is_learned_both_ways_is_held_out_both_ways(tmp_path: Path) -> None:
    """Each text is a source here and a target there, as where both sides are of one language."""
    chains = [f"line {n} of the tale\tline {n + 1} of the tale\n" for n in range(400) if n % 4 != 3]
    (tmp_path / "a.tsv").write_text("".join(chains), encoding="utf-8")
    prepare_pairs(tmp_path / "a.tsv", out=tmp_path / "data", both=True)
    texts = [
        {text for pair in read_split(tmp_path / "data", name) for text in (pair.source, pair.target)}
        for name in ("train", "validation", "test")
    ]
    assert sum(map(len, texts)) == len(set.union(*texts)) == 400


def test_tags_are_tokens_that_no_text_can_spell(two_ways: Path) -> None:
    translator = load(two_ways)
    assert not set(translator.tokenizer.encode(">>zh<< hello >>en<<")) & set(translator.tags.values())
    assert max(translator.tags.values()) == translator.model.config.pad - 1
    packed = PairTokens(two_ways / "bimo" / "data" / "tokens", "train")
    source, target = packed.batch(range(len(packed)), pad=translator.model.config.pad)
    for row, other in zip(source.tolist(), target.tolist(), strict=True):
        chinese = translator.tokenizer.decode(other).strip()[-1] == "。"
        assert row[0] == translator.tags["zh" if chinese else "en"]


def test_a_translator_is_measured_beside_references_and_another(two_ways: Path, whole: Path, tmp_path: Path) -> None:
    """sacreBLEU on the same outputs is the slow twin."""
    sacrebleu = pytest.importorskip("sacrebleu")
    file = two_ways / "bimo" / "data" / "pairs" / "validation.tsv"
    facts = evaluate(two_ways, file)
    pairs = read_split(two_ways / "bimo" / "data", "validation")
    forward, back = facts["directions"]
    outputs = [found.text for found in load(two_ways).translate([pair.source for pair in pairs], to="zh")]
    references = [[pair.target for pair in pairs]]
    assert forward["bleu"] == sacrebleu.corpus_bleu(outputs, references, tokenize="zh").score
    assert forward["chrf"] == sacrebleu.corpus_chrf(outputs, references).score
    assert "tok:zh" in forward["signatures"]["bleu"]
    assert "tok:13a" in back["signatures"]["bleu"]
    text = "\n".join(evaluation_lines(facts))
    assert f"→ zh: BLEU {forward['bleu']:.1f}" in text
    assert pairs[0].source in text
    against = evaluate(whole, file, against=whole)["directions"][0]
    assert against["other"]["bleu"]["score"] == against["bleu"]
    assert against["other"]["bleu"]["p"] == 1.0
    with pytest.raises(UserError, match="do not translate in the same directions"):
        evaluate(two_ways, file, against=whole)


@pytest.mark.parametrize(("count", "p", "known"), [(1, 1.0, False), (4, 0.125, False), (40, 0.125, True)])
def test_pairs_on_which_two_translators_agree_tell_nothing_apart(
    count: int, p: float, known: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They say something else of the first four alone. Fewer than five have no interval."""
    pytest.importorskip("sacrebleu")
    pairs = [Pair(f"line {number}", f"this is what is said of line {number}") for number in range(count)]
    right = [pair.target for pair in pairs]
    outputs = {"good": right, "bad": ["no"] * min(4, count) + right[4:]}
    said = {who: [Translation(text, 0.0, []) for text in texts] for who, texts in outputs.items()}
    monkeypatch.setattr(translations, "_translated", lambda who, *given: said[who])
    named: Any = ["good", "bad"]
    found: Any = translations._direction(named, "", pairs, SILENT)
    assert [other["p"] for other in found["other"].values()] == [p, p]
    assert [half is not None for half in found["half_intervals"].values()] == [known, known]
    assert ("±" in translations.translation_lines({"directions": [found]})[0]) is known


def test_rows_to_measure_by_may_repeat_and_be_named_and_those_left_out_are_told(whole: Path, tmp_path: Path) -> None:
    pytest.importorskip("sacrebleu")
    again = [(en, zh + mark) for en, zh in ROWS[:8] for mark in ("", "！", "？")]
    rows = [*again, again[0], ("same", "same"), ("", "空")]
    lines = ["id,ask,say", *(f"{n},{en},{zh}" for n, (en, zh) in enumerate(rows))]
    (tmp_path / "test.csv").write_text("\n".join(lines), encoding="utf-8")
    done = invoke("evaluate", whole, tmp_path / "test.csv", "--json")
    assert done.exit_code == 0, done.output
    facts = json.loads(done.stdout)
    assert (facts["directions"][0]["pairs"], facts["aside"]) == (26, {"empty": 1})
    assert "27 rows of test.csv: column ask (English) is translated into column say (Chinese)" in done.stderr
    assert "test.csv:28 an empty side" in done.stderr
    lines = ["ask,say,other", *(f"{en},{zh},{zh[::-1]}" for en, zh in ROWS[:8])]
    (tmp_path / "two.csv").write_text("\n".join(lines), encoding="utf-8")
    named = evaluate(whole, tmp_path / "two.csv", columns={"source": "ask", "target": "other"})
    assert named["columns"]["target"] == "other"
    with pytest.raises(UserError, match="knows source, target, to, but not label"):
        evaluate(whole, tmp_path / "test.csv", columns={"label": "ask"})
    (tmp_path / "one.csv").write_text("ask\nhello there\n", encoding="utf-8")
    with pytest.raises(UserError, match="Name them with --column source=NAME --column target=NAME"):
        evaluate(whole, tmp_path / "one.csv")


def test_what_is_set_aside_is_kept_with_its_row_and_reason(tmp_path: Path) -> None:
    lines = [*(f"{en}\t{zh}" for en, zh in ROWS), f"{ROWS[0][0]}\t{ROWS[0][1]}", "alone\t"]
    (tmp_path / "a.tsv").write_text("\n".join(lines), encoding="utf-8")
    prepare_pairs(tmp_path / "a.tsv", out=tmp_path / "data")
    kept = [json.loads(line) for line in (tmp_path / "data" / "refused.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [(row["row"], row["reason"]) for row in kept] == [
        (len(ROWS) + 1, "there before"),
        (len(ROWS) + 2, "an empty side"),
    ]
    assert kept[0]["text"] == " | ".join(ROWS[0])


@pytest.fixture(scope="module")
def three_ways(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that goes where a column said, and has learned its pairs by heart."""
    folder = tmp_path_factory.mktemp("three")
    rows = [(en, zh, "zh") for en, zh in ROWS] + [(zh, en, "en") for en, zh in ROWS]
    rows += [(en, en.upper(), "loud") for en, _ in ROWS]
    lines = "".join("\t".join(row) + "\n" for row in rows)
    (folder / "rows.tsv").write_text(f"source\ttarget\tlanguage\n{lines}", encoding="utf-8")
    learned = [change for change in CHANGES if not change.startswith(("train.steps", "model.width", "model.hidden"))]
    learned += ["train.steps=600", "model.width=64", "model.hidden=128"]
    train(folder / "rows.tsv", folder / "model", to_column="language", changes=learned)
    return folder / "model"


def test_one_model_goes_where_a_column_said(three_ways: Path, pairs: Path) -> None:
    pytest.importorskip("sacrebleu")
    translator = load(three_ways)
    assert sorted(translator.tags) == ["en", "loud", "zh"]
    learned = read_split(three_ways / "bimo" / "data", "train")
    for to in translator.tags:
        some = [pair for pair in learned if pair.to == to][:20]
        found = translator.translate([pair.source for pair in some], to=to)
        assert sum(one.text == pair.target for one, pair in zip(found, some, strict=True)) >= 15, to
    with pytest.raises(UserError, match="Say with --to"):
        list(translator.translate([learned[0].source]))
    held_out = three_ways / "bimo" / "data" / "pairs" / "test.tsv"
    counts = Counter(pair.to for pair in read_split(three_ways / "bimo" / "data", "test"))
    assert {way["to"]: way["pairs"] for way in evaluate(three_ways, held_out)["directions"]} == counts
    assert [way["to"] for way in evaluate(three_ways, pairs)["directions"]] == ["zh", "en"]


def test_a_model_of_one_way_is_measured_that_way(whole: Path, tmp_path: Path) -> None:
    pytest.importorskip("sacrebleu")
    pairs = read_split(whole / "bimo" / "data", "validation")
    turned = tmp_path / "turned.tsv"
    turned.write_text("".join(f"{pair.target}\t{pair.source}\n" for pair in pairs), encoding="utf-8")
    straight = evaluate(whole, whole / "bimo" / "data" / "pairs" / "validation.tsv")["directions"]
    assert evaluate(whole, turned)["directions"] == straight


def test_what_diverges_has_a_perplexity_and_what_is_damaged_a_sentence(whole: Path, tmp_path: Path) -> None:
    tokens = PairTokens(whole / "bimo" / "data" / "tokens", "validation")
    translator = load(whole)
    objective = objectives.Translate(
        tokens, translator.tokenizer, pad=translator.model.config.pad, noise=0.0, smoothing=0.0
    )
    assert math.isfinite(objective.facts(1e6)["perplexity"])
    assert "perplexity" in objective.verdict(1e6, 1)
    shutil.copytree(whole, tmp_path / "damaged")
    weights = load_file(whole / "model.safetensors")
    weights["model.shared.weight"] = torch.tensor(1.0)
    save_file(
        {name: weight for name, weight in weights.items() if name != "final_logits_bias"},
        tmp_path / "damaged" / "model.safetensors",
    )
    with pytest.raises(UserError):
        load(tmp_path / "damaged")


def test_a_file_in_the_other_order_is_measured_the_right_way_round(two_ways: Path, tmp_path: Path) -> None:
    pytest.importorskip("sacrebleu")
    file = tmp_path / "turned.tsv"
    pairs = read_split(two_ways / "bimo" / "data", "validation")
    file.write_text("".join(f"{pair.target}\t{pair.source}\n" for pair in pairs), encoding="utf-8")
    turned = evaluate(two_ways, file)["directions"]
    assert [way["to"] for way in turned] == ["en", "zh"]
    straight = evaluate(two_ways, two_ways / "bimo" / "data" / "pairs" / "validation.tsv")["directions"]
    assert [way["bleu"] for way in turned] == [way["bleu"] for way in reversed(straight)]


@pytest.mark.parametrize(
    ("source", "target", "left"),
    [
        ("The quick brown fox ran.", "这只 quick brown fox 跑了。", ["quick brown fox"]),
        ("Tom ran.", "Tom 跑了。", []),
        ("他在北京大学读书。", "He studies at 北京大学.", ["北京大学"]),
        ("nobody knows why", "nobody knows why", ["nobody knows why"]),
        ("孙秀既恨石崇", "孙秀既恨石崇不", []),
        ("123", "123", []),
    ],
)
def test_what_was_left_as_it_was_is_found(source: str, target: str, left: list[str]) -> None:
    assert untranslated(source, target) == left


def test_what_ends_for_want_of_room_is_told(whole: Path, tmp_path: Path) -> None:
    pytest.importorskip("sacrebleu")
    done = invoke("translate", whole, ROWS[0][0], "--max-tokens", "1", "--json")
    assert json.loads(done.stdout)[0]["unfinished"]
    assert "without an end, for no more tokens were allowed: 1 translations" in done.stderr
    (tmp_path / "rows.tsv").write_text("".join(f"{'dog ' * 500}{en}\t{zh}\n" for en, zh in ROWS[:40]), encoding="utf-8")
    facts = evaluate(whole, tmp_path / "rows.tsv")
    assert facts["directions"][0]["cut"] == 40
    assert "longer than what this model reads, and cut there: 40 texts" in evaluation_lines(facts)


def test_a_folder_that_something_else_made_stays_as_it_is(whole: Path, pairs: Path, tmp_path: Path) -> None:
    """A tuned model has no request to go on with."""
    tuned = tmp_path / "tuned"
    shutil.copytree(whole, tuned)
    (tuned / "bimo" / "request.json").unlink()
    before = {path: digest_file(path) for path in tuned.rglob("*") if path.is_file() and path.name != ".lock"}
    with pytest.raises(UserError, match="other text or settings"):
        train(pairs, tuned, target="en")
    assert {path: digest_file(path) for path in before} == before


def test_models_of_opposite_ways_are_not_compared(whole: Path, pairs: Path, tmp_path: Path) -> None:
    pytest.importorskip("sacrebleu")
    train(pairs, tmp_path / "back", target="en", changes=[*CHANGES, "train.steps=1", "train.validations=1"])
    with pytest.raises(UserError, match="do not translate in the same directions"):
        evaluate(whole, pairs, against=tmp_path / "back")


def test_a_language_that_none_learned_is_told_wherever_it_stands(tmp_path: Path, pairs: Path) -> None:
    """Not passed over, as if there were no such column or row."""
    pytest.importorskip("sacrebleu")
    rows = [(en, zh, "zh") for en, zh in ROWS] + [(zh, en, "en") for en, zh in ROWS]

    def table(name: str, column: str, rows: list[tuple[str, ...]]) -> Path:
        lines = ["\t".join(row) for row in [("one", "two", column), *rows]]
        (tmp_path / name).write_text("\n".join(lines), encoding="utf-8")
        return tmp_path / name

    model = tmp_path / "model"
    changes = [*CHANGES, "train.steps=1", "train.validations=1"]
    train(table("all.tsv", "language", rows), model, to_column="language", changes=changes)
    strange = [*rows[:40], ("un chien", "a dog", "fr")]
    late = [*(rows * 20)[:2100], strange[-1]]
    for file in (table("first.tsv", "language", strange), table("late.tsv", "language", late)):
        with pytest.raises(UserError, match=r"does not name languages .* It knows: zh, en"):
            evaluate(model, file)
    named = table("named.tsv", "into", rows[:40])
    assert evaluate(model, named, columns={"to": "into"})["directions"][0]["pairs"] == 40
