"""The report, the data report and the card: every figure, hostile text, missing facts, no network, both languages."""

from __future__ import annotations

import json
import math
import re
from html.parser import HTMLParser
from importlib import resources
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from run_facts import (
    DOCUMENTS,
    EVALUATION,
    MANIFEST,
    PLAN,
    TOKENIZER,
    TOKENS,
    TRAINING,
    card_of,
    metrics,
    report_of,
    write_facts,
)

from bimo import runtime
from bimo.console import Console
from bimo.report.charts import column_chart, line_chart, matrix_chart, thin, ticks
from bimo.report.examples import blank_rows
from bimo.report.facts import (
    duration,
    learning_curves,
    percent,
    read_facts,
    rounded,
    size,
)
from bimo.report.judgement import compare, copying_reading, learning_reading, verdict
from bimo.report.model_report import write_card, write_data_report, write_report
from bimo.report.page import element, render, visible
from bimo.run import _say_plan

HOSTILE = "<script>alert('x')</script> \"quoted\" & \u202etxt.exe\u202c \x07 ``` **bold** [a](http://evil)"


class Page(HTMLParser):
    """Reads a page: its words, its attributes, and whether every element that opens also closes."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in {"meta", "br"}:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append((self.open[-1] if self.open else "", data))

    @property
    def words(self) -> str:
        return "\n".join(text for tag, text in self.texts if tag != "style")


@pytest.fixture(autouse=True)
def english():
    runtime.set_language("en")
    yield
    runtime.set_language(None)


FIGURES = """
1.76|18 % better|29 % better|47 % better|0.4 %|12.4 million|3.11 million|9 min 50 s|9 min 36 s|1.762|2.148|2.481|3.311
Kneser-Ney, order 5|2.410|2.202|1.741 to 1.785|4.021|87.31|128|491 documents · 700,000 characters · 1.6 MB|8 MB|+2.5 %
32|50|12,001|48|83|17.5|0.6 %|由研发部负责人提交书面报告，并抄送办公室。|5,310|5,273|−0.7 %|1.4 GB|1.32 GB|1.71–1.83
as planned|760|12,400,000|0.51|0.25|210 MB|78 %|went on: 1.|skipped: 2.|十分钟内可以读三百万个词元。|1,204|38.2 MB|9,321
491|12.6 million|29.6 MB|6.1 million|330,000|7,001|2,811|9,100,000|4,200,000|68 %|32 %|utf-8|1,190|gb18030|14
500–999|60 %|25 %|9.0 %|3.8 %|1.5 %|0.8 %|的|400,000|1,243|1,031|140|72|旧稿/一.txt:12|会议决定提交。|8,192|1.61|4.43
4.87|研发部门负责人|会议|⏎|␣|Xeon 8370C|8.2 GB|110 GFLOP/s|340 GFLOP/s|bfloat16|384|64|1,024|256|shared|20240607
0.1.0|3.11.9|2.11.0|0.22.1|2025-11-23 15:40:12+00:00|learning_rate|0.0031|model.safetensors|abababab
step 760|下周由各部门提交。|Kneser-Ney 2.15|xz 2.48|best check
"""


def test_every_figure_appears(tmp_path):
    words = Page(report_of(write_facts(tmp_path / "notes-model"))).words.replace("\u2011", "-")
    figures = [figure for line in FIGURES.strip().splitlines() for figure in line.split("|")]
    assert [figure for figure in figures if not re.search(rf"(?<![0-9.,]){re.escape(figure)}(?![0-9])", words)] == []


def test_page_is_whole_accessible_and_loads_nothing(tmp_path):
    html = report_of(write_facts(tmp_path / "notes-model"))
    page = Page(html)
    assert html.startswith("<!doctype html>")
    assert not {"script", "link", "img", "iframe", "object", "base"} & set(page.tags)
    assert not [entry for entry in page.attributes if entry[1] in {"src", "srcset", "action"} or entry[1][:2] == "on"]
    anchors = {value for _, name, value in page.attributes if name == "id"}
    links = [value for _, name, value in page.attributes if name == "href"]
    assert links
    assert all(link[0] == "#" and link[1:] in anchors for link in links)
    assert "://" not in html
    style = next(text for tag, text in page.texts if tag == "style")
    assert "url(" not in style
    assert "@import" not in style
    assert ("meta", "content", "default-src 'none'; style-src 'unsafe-inline'") in page.attributes
    assert page.tags.count("th") == sum(name == "scope" for tag, name, _ in page.attributes if tag == "th")
    outer = [value for tag, name, value in page.attributes if (tag, name) == ("svg", "aria-label")]
    assert len(outer) == html.count('class="chart ') == 6
    assert all("character" in label or "1.7" in label for label in outer)


def test_hostile_text_stays_text(tmp_path):
    documents = DOCUMENTS | {
        "rejected": {HOSTILE: 2},
        "rejected_examples": [{"source": HOSTILE, "line": 1, "reason": HOSTILE, "detail": HOSTILE, "text": HOSTILE}],
        "near_duplicates": {
            "clusters": 1,
            "examples": [{"documents": 2, "kept": HOSTILE, "text": HOSTILE, "other": HOSTILE, "other_text": HOSTILE}],
        },
        "repeated_paragraphs": {"removed": 1, "examples": [[HOSTILE, 1]]},
        "encodings": {HOSTILE: 1},
        "languages": {HOSTILE: {"documents": 1, "characters": 1, "bytes": 1}},
        "common_characters": [[HOSTILE, 1]],
        "character_kinds": {HOSTILE: 1},
    }
    tokenizer = TOKENIZER | {"sample": [[HOSTILE]], "longest_tokens": [HOSTILE], "source": HOSTILE}
    evaluation = EVALUATION | {"samples": [{"prompt": HOSTILE, "text": HOSTILE + " on"}]}
    evaluation["copying"] = EVALUATION["copying"] | {"longest_examples": [HOSTILE, "\ud800"]}
    plan = PLAN | {"reasons": [HOSTILE], "machine": {"processor": HOSTILE}, "train": {HOSTILE: HOSTILE}}
    samples = [{"event": "sample", "step": step, "prompt": HOSTILE, "text": HOSTILE} for step in (1, 2)]
    folder = write_facts(
        tmp_path / "m<b>&`|_x_", documents=documents, tokenizer=tokenizer, evaluation=evaluation, plan=plan,
        metrics=samples, manifest=MANIFEST | {"seed": HOSTILE, "versions": {HOSTILE: HOSTILE}},
    )  # fmt: skip
    html = report_of(folder)
    page = Page(html)
    assert "script" not in page.tags
    assert "b&" not in "".join(page.tags)
    assert page.words.count("alert('x')") >= 18
    assert "<script>alert" in page.words
    assert not re.search("[\u202a-\u202e\x00-\x08\ud800-\udfff]", html)
    assert "[U+202E]" in page.words
    assert "␇" in page.words
    assert "[U+D800]" in page.words
    Page(write_data_report(folder / "data").read_text(encoding="utf-8"))

    card = card_of(folder)
    assert "# m&lt;b&gt;&amp;\\`\\|\\_x\\_\n" in card
    assert not re.search("[\u202a-\u202e\x00-\x08]", card)
    outside = re.sub(r"(?ms)^(`{3,})\w*\n.*?\n\1$", "", card)
    assert "alert('x')" in outside
    assert "<script>" not in outside
    assert "[a](" not in outside
    assert "language:" not in card


def test_missing_facts(tmp_path):
    nothing = dict.fromkeys(
        ["manifest", "plan", "training", "evaluation", "documents", "tokenizer", "tokens", "metrics"]
    )
    folder = write_facts(tmp_path / "empty", **nothing)
    assert "It has not been evaluated yet, so there is no verdict." in Page(report_of(folder)).words
    assert "How much it copies from its training text has not been measured." in card_of(folder)
    assert "No text has been prepared here yet." in write_data_report(folder / "data").read_text(encoding="utf-8")
    (tmp_path / "bare").mkdir()
    assert write_report(tmp_path / "bare") == tmp_path / "bare" / "bimo" / "report.html"
    assert write_card(tmp_path / "bare").name == "README.md"
    assert write_data_report(tmp_path / "bare").name == "report.html"

    interrupted = write_facts(tmp_path / "interrupted", training=None, evaluation=None, metrics=metrics(380))
    words = Page(report_of(interrupted)).words
    assert "Its last check in training gave 1.81" in words
    assert words.count("not measured") == 6
    assert "How good that is" not in words


def _variants(value: Any):
    """The value with each key in it taken away once; a number is read as None either way, the rest is None once."""
    if isinstance(value, dict):
        for key, inner in value.items():
            rest = {name: kept for name, kept in value.items() if name != key}
            yield rest
            if not isinstance(inner, int | float):
                yield {**value, key: None}
            yield from ({**value, key: changed} for changed in _variants(inner))


@pytest.mark.parametrize("subject", ["manifest", "plan", "training", "evaluation"])
def test_any_fact_may_be_missing(tmp_path, subject):
    folder = write_facts(tmp_path / "model", metrics=metrics(8))
    whole = {"manifest": MANIFEST, "plan": PLAN, "training": TRAINING, "evaluation": EVALUATION}[subject]
    for changed in _variants(whole):
        (folder / "bimo" / f"{subject}.json").write_text(json.dumps(changed), encoding="utf-8")
        report_of(folder)
        card_of(folder)


@pytest.mark.parametrize("subject", ["documents", "tokenizer", "tokens"])
def test_any_data_fact_may_be_missing(tmp_path, subject):
    whole = {"documents": DOCUMENTS, "tokenizer": TOKENIZER, "tokens": TOKENS}
    for changed in _variants(whole[subject]):
        stages = {name: {"facts": facts} for name, facts in (whole | {subject: changed}).items()}
        (tmp_path / "manifest.json").write_text(json.dumps({"stages": stages}), encoding="utf-8")
        Page(write_data_report(tmp_path).read_text(encoding="utf-8"))


ALLOWED = {"Bimo", "Kneser", "Ney", "GFLOP", "SHA", "Xeon", "float", "bfloat", "Python", "torch", "tokenizers", "txt"}


def test_chinese_page_has_no_english_left(tmp_path):
    runtime.set_language("zh")
    folder = write_facts(tmp_path / "笔记")
    for path in (write_report(folder), write_data_report(folder / "data")):
        html = path.read_text(encoding="utf-8")
        page = Page(html)
        assert '<html lang="zh-Hans">' in html
        spoken = [value for _, name, value in page.attributes if name in {"aria-label", "title", "alt"}]
        shown = [
            text
            for tag, text in page.texts
            if tag not in {"style", "code", "h1", "title"} and not re.fullmatch("[0-9a-f]{64}", text)
        ]
        assert set(re.findall(r"[A-Za-z]{3,}", " ".join(spoken + shown))) - ALLOWED == set()
    words = Page(report_of(folder)).words
    assert "比 Kneser\u2011Ney 好 18%，比 xz 好 29%。" in words
    assert "1,240 万" in words
    card = card_of(folder)
    prose = re.sub(r"(?ms)^```.*?^```", "", card.split("---\n", 2)[2])
    assert set(re.findall(r"[A-Za-z]{3,}", prose)) - ALLOWED == set()


@pytest.mark.parametrize(
    ("bits", "expected"),
    [
        (1.76, "1.76 bits per byte: 18 % better than Kneser-Ney, 29 % better than xz."),
        (2.35, "9.4 % worse than Kneser-Ney, 5.3 % better than xz. Plain counting still predicts"),
        (2.15, "about as good as Kneser-Ney, 13 % better than xz. 0.4 %"),
        (3.40, "58 % worse than Kneser-Ney, 37 % worse than xz. It has learned hardly anything"),
    ],
)
def test_verdict_is_honest(bits, expected):
    evaluation = EVALUATION | {"bits_per_byte": bits, "bits_per_byte_interval": [bits - 0.02, bits + 0.02]}
    assert expected in " ".join(verdict({"evaluation": evaluation}))


def test_what_is_about_as_good_is_not_better():
    evaluation = EVALUATION | {"bits_per_byte": 2.152, "bits_per_byte_interval": None, "copying": {}}
    (sentence,) = verdict({"evaluation": evaluation})
    assert "about as good as Kneser-Ney" in sentence


def test_a_single_document_is_no_certainty(tmp_path):
    validation = {"documents": 1, "bytes": 4000, "characters": 4000, "tokens": 900}
    evaluation = EVALUATION | {"bits_per_byte_interval": None, "validation": validation}
    folder = write_facts(tmp_path / "model", evaluation=evaluation)
    words = Page(report_of(folder)).words
    assert words.count("differences may be chance") == 2  # the verdict, and beside the bars
    assert "95 % certainty" not in words
    card = card_of(folder)
    assert "differences may be chance" in card
    assert "95 % interval" not in card
    assert "may be chance" not in Page(report_of(write_facts(tmp_path / "other"))).words


@pytest.mark.parametrize(("after", "expected"), [(1.6, "20 % fewer bits: it follows them."), (2.0, "no fewer bits")])
def test_steering_shows_what_tags_are_worth_and_which_there_are(tmp_path, after, expected):
    steering = {"documents": 9, "with_tags": after, "without_tags": 2.0}
    folder = write_facts(tmp_path / "model", evaluation=EVALUATION | {"steering": steering})
    values = {"genre": {f"kind {number}": 30 - number for number in range(21)}, HOSTILE: {HOSTILE: 7}}
    (folder / "bimo" / "controls.json").write_text(json.dumps({"values": values}), encoding="utf-8")
    html = report_of(folder)
    words = Page(html).words
    assert expected in words
    assert f"{after:.3f}" in words
    assert "kind 0 (30), kind 1 (29)" in words
    assert "kind 19 (11), …" in words
    assert "short, medium, long" in words
    assert "<script>alert" not in html
    (folder / "bimo" / "controls.json").unlink()
    assert "short, medium, long" not in Page(report_of(folder)).words


def test_no_share_of_copies_without_windows():
    copying = {"windows": 0, "share_of_windows_copied": 0.0, "reference_share": None}
    assert len(verdict({"evaluation": {"bits_per_byte": 2.0, "copying": copying}})) == 1
    assert copying_reading(copying) == []


def test_what_the_data_keep_of_people_is_masked_wherever_text_is_shown(tmp_path):
    """As after `--redact report`, in which the text itself stays as it is."""
    values = ("13800138000", "zhang.san@163.com")
    said = f"电话{values[0]}，邮箱{values[1]}。"
    evaluation = EVALUATION | {
        "copying": EVALUATION["copying"] | {"longest_examples": [{"sample": 3, "length": 40, "text": said}]},
        "samples": [{"prompt": "会议决定", "text": said}, {"prompt": said[:8], "text": said[8:]}],
    }
    events = [{"event": "sample", "step": step, "prompt": "我的", "text": said * step} for step in (1, 99)]
    folder = write_facts(tmp_path / "model", evaluation=evaluation, metrics=events)
    page, card = Page(report_of(folder)).words, card_of(folder)
    for shown in (page, card):
        assert "[电话]" in shown
        assert not [value for value in (*values, values[0][:6]) if value in shown]
    assert page.count("邮箱[邮箱]") >= 5
    assert page.count("…") >= 1


@pytest.mark.parametrize(
    ("blank", "expected"),
    [
        (("会议", "决定", "提交。"), ("会议[决定]提交。", "通知 50 %")),
        (("电话13800138000，", "决定", "提交。"), ("电话[电话]，[决定]提交。", "通知 50 %")),
        (("请打电话138", "001", "38000。"), ("请打电话[[电话]]。", "–")),
        (("call ", "13800138000", " or a.b@qq.com"), ("call [[PHONE]] or [EMAIL]", "–")),
    ],
)
def test_a_blank_inside_of_personal_data_shows_nothing_of_it(blank, expected):
    facts = dict(zip(("before", "word", "after"), blank, strict=True)) | {"guesses": [["通知", 0.5]]}
    assert blank_rows({"blanks": [facts]}) == [expected]


@pytest.mark.parametrize(
    ("share", "reference", "expected"),
    [
        (0.0, None, "hardly any"),
        (0.05, None, "some"),
        (0.3, None, "recites. Do not publish"),
        (0.06, 0.05, "about as much as people"),
        (0.1, 0.05, "somewhat more"),
        (0.4, 0.05, "recites. Do not publish"),
    ],
)
def test_copying_is_judged_beside_its_yardstick(share, reference, expected):
    facts = {"windows": 100, "share_of_windows_copied": share, "reference_share": reference}
    assert expected in copying_reading(facts)[-1]


@pytest.mark.parametrize(
    ("figures", "expected"),
    [
        ({"share_of_windows_copied": 0.0093, "longest_run": 1304}, "it has kept some passages"),
        ({"share_of_windows_copied": 0.0093}, "it has kept some passages"),
        ({"share_of_windows_copied": 0.0005, "longest_run": 101}, "it has kept some passages"),
        ({"share_of_windows_copied": 0.0005, "longest_run": 100}, "no sign"),
        ({"share_of_windows_copied": 0.0005, "longest_run": 139, "window": 70}, "no sign"),
        ({"share_of_windows_copied": 0.0005, "longest_run": 600, "reference_longest_run": 300}, "no sign"),
        ({"share_of_windows_copied": 0.0005, "longest_run": 601, "reference_longest_run": 300}, "kept some"),
        ({"share_of_windows_copied": 0.7, "longest_run": 101, "reference_share": 0.5}, "kept some"),
        ({"share_of_windows_copied": 0.0005, "reference_share": None, "longest_run": 101}, "kept a few passages"),
    ],
)
def test_a_long_passage_is_a_sign_however_few_windows_it_fills(figures, expected):
    assert expected in copying_reading({"windows": 134863, "reference_share": 0.0, **figures})[-1]


def curves_of(train: float, checks: list[float]) -> dict[str, list[dict[str, Any]]]:
    events = [{"event": "validation", "step": 10 * i, "bits_per_byte": bits} for i, bits in enumerate(checks)]
    return learning_curves({"metrics": [{"event": "step", "step": 0, "bits_per_byte": train}, *events]})


@pytest.mark.parametrize(
    ("train", "checks", "expected"),
    [
        (1.98, [5, 3, 2.2, 2.0], ["close", "still falling"]),
        (1.98, [5, 2.01, 2.0, 2.0], ["close", "levelled out"]),
        (1.80, [5, 2.0, 2.0, 2.0], ["The gap of 11 % is noticeable", "levelled out"]),
        (1.20, [5, 1.8, 1.9, 2.0], ["The gap of 67 % is wide", "step 10 with 1.80"]),
    ],
)
def test_learning_is_read_in_words(train, checks, expected):
    training = {"training_bits_per_byte": train, "validation_bits_per_byte": checks[-1]}
    reading = learning_reading(curves_of(train, checks), training)
    assert len(reading) == 3
    assert all(words in sentence for words, sentence in zip(expected, reading[1:], strict=True))


def test_steps_that_were_done_again_count_once():
    def step(number, bits):
        return {"event": "step", "step": number, "bits_per_byte": bits}

    events = [
        step(1, 5.0),
        step(2, 4.0),
        step(3, 3.0),
        {"event": "resumed", "step": 1},
        step(2, 4.5),
        step(3, math.nan),
    ]
    curves = learning_curves({"metrics": [*events, {"event": "step", "step": 4}]})
    assert [(event["step"], event["bits_per_byte"]) for event in curves["step"]] == [(1, 5.0), (2, 4.5)]


def test_steps_that_were_given_up_for_an_earlier_checkpoint_are_not_drawn():
    steps = [{"event": "step", "step": number, "bits_per_byte": 5.0 - number} for number in (1, 2, 3)]
    curves = learning_curves({"metrics": [*steps, {"event": "rolled back", "step": 4, "to": 1}, *steps[1:]]})
    assert curves["step"] == steps
    assert len(curves["rolled back"]) == 1


def test_a_tuning_that_went_back_is_drawn_once_as_well():
    steps = [{"event": "step", "step": number, "loss": 5.0 - number} for number in (1, 2, 3)]
    curves = learning_curves({"metrics": [*steps, {"event": "rolled back", "step": 4, "to": 1}, *steps[1:]]}, "loss")
    assert curves["step"] == steps


def test_what_befell_a_training_is_told_even_without_curves(tmp_path):
    stopped = {"event": "stopped", "step": 600, "reason": "Stopped early: it grew worse."}
    sample = {"event": "sample", "step": 500, "prompt": "", "text": "a line\u2028and another"}
    training = TRAINING | {"steps": 600, "weights_of_step": 500, "roll_backs": 3}
    for name, before in (("curves", metrics()), ("none", [])):
        folder = write_facts(tmp_path / name, training=training, metrics=[*before, sample, stopped])
        words = Page(report_of(folder)).words
        for said in ("Stopped early: it grew worse.", "checkpoint: 3.", "those of step 500", "skipped: 2."):
            assert said in words, name
    texts = [event["text"] for event in read_facts(folder)["metrics"] if event["event"] == "sample"]
    assert texts == [sample["text"]]


def test_no_difference_is_claimed_inside_the_interval():
    assert compare(2.0, 2.05, "xz", [1.9, 2.1]) == "about as good as xz"
    assert compare(2.0, 2.05, "xz", [1.99, 2.01]) == "2.4 % better than xz"
    assert compare(2.0, 1.9, "xz") == "5.3 % worse than xz"


def test_numbers_in_words():
    assert [percent(share) for share in (0, 0.0004, 0.004, 0.18)] == ["0 %", "under 0.1 %", "0.4 %", "18 %"]
    assert [duration(seconds) for seconds in (2.5, 42, 576, 7300)] == ["2.5 s", "42 s", "9 min 36 s", "2 h 1 min"]
    assert [size(n) for n in (12, 38_200_000, 2.5e12)] == ["12 bytes", "38.2 MB", "2.5 TB"]
    assert [rounded(n) for n in (999, 12_400_000, 3e9)] == ["999", "12.4 million", "3 billion"]
    runtime.set_language("zh")
    assert [rounded(n) for n in (9999, 12_400_000, 3e8)] == ["9,999", "1,240 万", "3 亿"]


def test_elements_escape_and_leave_out():
    node = element("p", 'a<b&"', None, [element("br")], class_="x", title='"<\x00', hidden=None)
    assert render(node) == '<p class="x" title="&quot;&lt;␀">a&lt;b&amp;&quot;<br></p>'
    assert visible("a\r\nb\tc\u200d\u2066\ufeff\x7f") == "a\nb\tc\u200d[U+2066][U+FEFF][U+007F]"
    assert render("\u202e") == '<span class="control">[U+202E]</span>'


CANDIDATE = {"preset": "drop", "parameters": 1e6, "tokens_per_second": 5310, "bits_per_byte": 1.8}


def test_what_the_text_lacks_is_said_where_one_size_was_timed(capsys):
    facts = PLAN | {"candidates": [CANDIDATE], "epochs": 40, "kneser_ney": 2.1}
    _say_plan(SimpleNamespace(facts=facts), Console())
    assert "The text is small for this much time" in capsys.readouterr().err


def test_the_reasons_of_a_plan_are_told_in_the_language_of_the_page(tmp_path):
    folder = write_facts(tmp_path / "model", plan=PLAN | {"candidates": 2 * [CANDIDATE], "reasons": ["Once said."]})
    assert "of the sizes that were timed" in report_of(folder)
    runtime.set_language("zh")
    html = report_of(folder)
    assert "Once said." not in html
    assert "that were timed" not in html


def test_ticks_and_thinning():
    assert ticks(0, 10) == [0, 2, 4, 6, 8, 10]
    assert ticks(1.66, 2.5) == [1.8, 2.0, 2.2, 2.4]
    assert ticks(3, 3) == [3]
    points = [(float(i), 2.0 * i) for i in range(1000)]
    thinned = thin(points, 100)
    assert len(thinned) == 100
    assert thinned[0] == (4.5, 9.0)
    assert thin(points[:7], 100) == points[:7]


def test_a_share_of_a_row_is_one_of_all_its_columns():
    html = render(matrix_chart(["a", "b"], [[1, 1], [0, 0]], totals=[4, 0], alternative="two of many"))
    assert re.findall(r'fill-opacity="([0-9.]+)"', html) == 2 * ["0.250", "0.250", "0.000", "0.000"]


@pytest.mark.parametrize("largest", [1, 2, 9, 14])
def test_counts_are_drawn_on_whole_steps(largest):
    nodes = column_chart([("a", largest)], titles=["a"], x_label="x", y_label="y", alternative="a")
    heights = re.findall(r'text-anchor="end">(\d+)</text>', render(nodes))
    assert len(heights) == 2 * len(set(heights)) >= 4, "two widths, no number twice"


@pytest.mark.parametrize("points", [[(0.0, 2.0)], [(0.0, 2.0), (0.0, 2.0)], [(1.0, 2.0), (2.0, 2.0)], []])
def test_a_flat_curve_is_drawn(points):
    nodes = line_chart({"step": points}, x_label="x", y_label="y", say_x=str, alternative="a")
    assert bool(nodes) == bool(points)
    assert "nan" not in render(nodes)


def _luminance(colour: str) -> float:
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in channels)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_contrast_in_both_themes():
    style = (resources.files("bimo.assets") / "report.css").read_text(encoding="utf-8")
    light, dark = (
        dict(re.findall(r"--(\w+): (#\w{6})", block)) for block in re.findall(r":root \{(.*?)\n *\}", style, re.DOTALL)
    )
    for theme in (light, dark):
        # WCAG 2.1: 4.5 for text, 3 for what carries meaning in a chart.
        pairs = [(name, "paper", 4.5) for name in ("ink", "soft", "seal")] + [("hue1", "paper", 3)]
        pairs += [("ink", f"chip{i}", 4.5) for i in range(5)]
        for front, back, least in pairs:
            lighter, darker = sorted((_luminance(theme[front]), _luminance(theme[back])), reverse=True)
            assert (lighter + 0.05) / (darker + 0.05) >= least, (front, back)


def data_report_of(folder: Path, documents: dict[str, Any]) -> str:
    """The page of prepared data with these facts about its documents."""
    folder.mkdir()
    (folder / "manifest.json").write_text(json.dumps({"stages": {"documents": {"facts": documents}}}), "utf-8")
    return write_data_report(folder).read_text("utf-8")


def test_words_and_samples_are_shown(tmp_path):
    html = data_report_of(tmp_path / "data", DOCUMENTS)
    for said in ("5,400,000 words", "研发部门", "会议纪要", "power 0.71", "power -1.04", "新稿/五.txt:8", "目录"):
        assert said in html
    bare = {name: facts for name, facts in DOCUMENTS.items() if name not in ("words", "sample")}
    html = data_report_of(tmp_path / "bare", bare)
    assert "Drawn by chance" not in html
    assert "What its words are" not in html


def test_a_law_is_drawn_from_its_first_point_to_its_last(tmp_path):
    html = data_report_of(tmp_path / "data", DOCUMENTS)
    drawn = re.findall(r'class="line validation" points="([^"]+)"', html)
    assert len(drawn) == 4, "two charts in two widths"
    assert re.search(r"\.line\.validation \{[^}]*stroke:", html), "the style sheet gives such lines no colour"
    for points in drawn:
        heights = [float(point.split(",")[1]) for point in points.split()]
        assert len(heights) == 3
        assert all(20 < height < 220 for height in heights), "a point lies outside the frame"


def test_what_repeats_is_shown(tmp_path):
    html = report_of(write_facts(tmp_path / "model"))
    for said in (
        "37 groups",
        "Texts like 新稿/一.txt:4: 2",
        "新稿/一.txt:4",
        "旧稿/四.txt:9 · set aside",
        "61 paragraphs",
        "版权所有，未经许可不得转载。",
    ):
        assert said in html
    without = DOCUMENTS | {"near_duplicates": {"clusters": 0, "examples": []}, "repeated_paragraphs": {"removed": 0}}
    assert "What was said twice" not in report_of(write_facts(tmp_path / "other", documents=without))
