"""The report of a messy folder: every count in it is that of the manifest, and those are what lies on the disk."""

from __future__ import annotations

from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import pytest
from messy import write_messy_folder

from bimo.prepare import PrepareConfig, prepare
from bimo.report.data_report import write_data_report
from bimo.report.facts import count, language_name, size
from bimo.runtime import set_language, t
from bimo.text import TextOptions, describe_reason, read_rejected, read_stored
from bimo.text.personal import describe_kind


class Rows(HTMLParser):
    """The cells of every row of every table."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self._inside = False
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
            self._inside = True

    def handle_endtag(self, tag: str) -> None:
        self._inside = self._inside and tag not in ("td", "th")

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.rows[-1][-1] += data


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> tuple[Path, dict]:
    folder = tmp_path_factory.mktemp("messy")
    source = write_messy_folder(folder / "in")
    settings = PrepareConfig(text=TextOptions(languages=("zh", "en")), vocabulary=400)
    set_language("en")
    facts = prepare([source], out=folder / "data", settings=settings)
    set_language(None)
    return folder / "data", facts["documents"]


def test_the_manifest_counts_what_is_there(prepared):
    data, facts = prepared
    rejected = list(read_rejected(data / "rejected"))
    assert dict(Counter(row.reason for row in rejected)) == facts["rejected"]
    kept = [row for name in ("train", "validation") for row in read_stored(data / "documents", name)]
    assert {code: inner["documents"] for code, inner in facts["languages"].items()} == Counter(
        row.language for row in kept
    )
    passages = sum(row.source == "notes copy.txt" for row in kept)
    assert passages > 10
    assert facts["rejected"] == {
        "duplicate": 10 + passages,
        "near_duplicate": 8,
        "bad_row": 1,
        "too_short": 1,
        "unknown_format": 1,
        "empty": 1,
        "unreadable": 2,
        "language": 1,
    }
    assert facts["rejected_bytes"] == {
        reason: sum(len(row.text.encode()) for row in rejected if row.reason == reason) for reason in facts["rejected"]
    }
    assert facts["files_unreadable"] == 4
    assert facts["languages_left_out"] == {"ko": 1}
    assert facts["repeated_paragraphs"]["removed"] == 5
    assert facts["near_duplicates"]["clusters"] == 8
    assert facts["encodings"] == {"gb18030": 1, "utf-8": 10}
    everything = "".join(row.text for row in [*kept, *rejected])
    for value in ("13800138000", "11010519491231002X", "4111 1111", "AKIAIOSFODNN7", "zhang.wei", "张伟", "Watson"):
        assert value not in everything
        assert value not in (data / "manifest.json").read_text("utf-8")
        assert value not in (data / "report.html").read_text("utf-8")


@pytest.mark.parametrize("language", ["en", "zh"])
def test_every_count_of_the_report_is_that_of_the_manifest(prepared, language):
    data, facts = prepared
    set_language(language)
    try:
        rows = Rows(write_data_report(data).read_text("utf-8")).rows
        for reason, number in facts["rejected"].items():
            assert [describe_reason(reason), count(number)] in [row[:2] for row in rows]
        for kind, number in facts["personal"]["counts"].items():
            assert [describe_kind(kind), count(number)] in [row[:2] for row in rows]
        for source, number in facts["personal"]["sources"].items():
            assert [source, count(number)] in rows
        for code, inner in facts["languages"].items():
            assert [language_name(code), count(inner["documents"]), count(inner["characters"])] in [
                row[:3] for row in rows
            ]
        for name, number in facts["encodings"].items():
            assert [name, count(number)] in [row[:2] for row in rows]
        for line, number in facts["repeated_paragraphs"]["examples"]:
            assert [line, count(number)] in rows
        kept = [facts[side][what] for what in ("documents", "bytes") for side in ("train", "validation")]
        steps = [row for row in rows if len(row) == 4 and row[0] in (t("Read"), t("After the rules"), t("Kept"))]
        gone = sum(facts["rejected"][reason] for reason in ("duplicate", "near_duplicate"))
        rules = sum(facts["rejected"][reason] for reason in ("too_short", "language"))
        assert [row[1] for row in steps] == [
            count(kept[0] + kept[1] + gone + rules),
            count(kept[0] + kept[1] + gone),
            count(kept[0] + kept[1]),
        ]
        assert steps[-1][2] == size(kept[2] + kept[3])
        single = [row[1] for row in rows if len(row) == 2]
        assert {count(facts["files"]), count(facts["files_unreadable"])} <= set(single)
        assert any(f"{language_name('ko')} 1" in row[-1] for row in rows)
        text = (data / "report.html").read_text("utf-8")
        assert count(sum(facts["rejected"].values())) in text
        assert count(facts["near_duplicates"]["clusters"]) in text
    finally:
        set_language(None)
