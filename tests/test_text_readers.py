"""Every format, encoding and packing gives its text; every bad piece is refused with its place and reason."""

from __future__ import annotations

import gzip
import io
import json
import os
import tracemalloc
from collections import Counter
from pathlib import Path

import pytest
import zstandard
from printed import pdf

from bimo.runtime import set_language
from bimo.text import encodings, readers
from bimo.text.documents import Document, Rejected
from bimo.text.encodings import SAMPLE_BYTES, find_encoding
from bimo.text.opening import Reading
from bimo.text.sources import find_sources

SIMPLE = "天下大势，分久必合，合久必分。\n话说周末七国分争，并入于秦。\nThe end, 完。\n"
TRADITIONAL = "話說天下大勢，分久必合，合久必分。\n周末七國分爭，並入於秦。及秦滅之後，楚、漢分爭。\n"


@pytest.fixture(autouse=True)
def english():
    set_language("en")
    yield
    set_language(None)


def read(*paths: Path, **options) -> tuple[list[Document], list[Rejected]]:
    refused: list[Rejected] = []
    reading = Reading(refused.append, **options)
    documents = [document for file in find_sources(paths) for document in readers.read_file(file, reading)]
    return documents, refused


def texts(*paths: Path, **options) -> list[str]:
    documents, refused = read(*paths, **options)
    assert refused == []
    return [document.text for document in documents]


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def parquet(rows: list[dict]) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    target = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), target)
    return target.getvalue()


# Encodings


@pytest.mark.parametrize("repeat", [1, 12_000])
@pytest.mark.parametrize(
    ("encoding", "text", "found"),
    [
        ("utf-8", SIMPLE, "utf-8"),
        ("utf-8-sig", SIMPLE, "utf-8-sig"),
        ("utf-16", SIMPLE, "utf-16"),
        ("utf-16-le", SIMPLE, "utf-16-le"),
        ("utf-16-be", SIMPLE, "utf-16-be"),
        ("utf-16-le", "Plain English\n", "utf-16-le"),
        ("gb18030", SIMPLE, "gb18030"),
        ("gbk", "你好\n", "gb18030"),
        ("big5", TRADITIONAL, "big5"),
        ("big5", "你好\n", "big5"),
        ("windows-1252", "He said “café” – and left.\n", "windows-1252"),
        ("ascii", "Nothing special.\n", "utf-8"),
    ],
)
def test_encodings_are_found(tmp_path, encoding, text, found, repeat):
    data = (text * repeat).encode(encoding)
    assert find_encoding(data[:SAMPLE_BYTES]) == found
    read_back = texts(write(tmp_path / "a.txt", data), passage_characters=10**9)
    assert read_back == [(text * repeat).strip("\n")]


@pytest.mark.parametrize("encoding", ["utf-8", "gb18030", "utf-16-le"])
@pytest.mark.parametrize("shift", range(4))
def test_a_character_cut_by_the_end_of_the_sample_is_whole(tmp_path, encoding, shift):
    text = "x" * shift + "龙马精神，" * (SAMPLE_BYTES // 10) + "\n好"
    assert texts(write(tmp_path / "a.txt", text.encode(encoding)), passage_characters=10**9) == [text]


@pytest.mark.parametrize(
    ("encoding", "text"), [("gb18030", SIMPLE), ("big5", TRADITIONAL), ("utf-8", SIMPLE), ("windows-1252", "Café\n")]
)
@pytest.mark.parametrize("before", [SAMPLE_BYTES, (1 << 20) - 1, 3 << 20])
def test_ascii_at_first_decides_no_encoding(tmp_path, encoding, text, before):
    """A log in English tells of something in Chinese only after megabytes."""
    start = ("x" * 63 + "\n") * (before // 64) + "x" * (before % 64)
    path = write(tmp_path / "a.txt.gz", gzip.compress((start + text * 3).encode(encoding), 1))
    counted = Counter()
    assert texts(path, passage_characters=10**9, encodings=counted) == [(start + text * 3).rstrip("\n")]
    assert counted == {encoding: 1}


def test_bad_bytes_after_ascii_and_later_text_refuse_their_line_alone(tmp_path):
    parts = [
        b"plain\n" * SAMPLE_BYTES,
        SIMPLE.encode("gb18030") * 9,
        b"bad \xff\xff here\n",
        "完了\n".encode("gb18030"),
    ]
    documents, refused = read(write(tmp_path / "a.txt", b"".join(parts)), passage_characters=10**9)
    assert [(r.line, r.reason) for r in refused] == [(SAMPLE_BYTES + 9 * SIMPLE.count("\n") + 1, "bad_bytes")]
    assert documents[-1].text.endswith(SIMPLE + "完了")


def test_a_page_of_ascii_at_first_is_in_the_encoding_it_names(tmp_path):
    page = '<meta charset="gb2312"><!--' + "x" * SAMPLE_BYTES + "--><p>" + "你好，世界。" * 9 + "</p>"
    assert texts(write(tmp_path / "a.html", page.encode("gb18030"))) == ["你好，世界。" * 9]


def test_a_lone_utf8_byte_does_not_change_the_encoding(tmp_path):
    data = SIMPLE.encode() + b"bad \xff\xfe here\n" + "完了\n".encode()
    documents, refused = read(write(tmp_path / "a.txt", data))
    assert [(r.source, r.line, r.reason, r.detail) for r in refused] == [("a.txt", 4, "bad_bytes", "not valid utf-8")]
    assert documents == [Document(SIMPLE + "完了", "a.txt", 1)]


def test_bad_bytes_in_english_refuse_their_line_alone(tmp_path):
    documents, refused = read(write(tmp_path / "a.txt", b"good line\nbad \xff\xfe line\nanother good\n"))
    assert [(r.line, r.reason) for r in refused] == [(2, "bad_bytes")]
    assert documents[0].text == "good line\nanother good"


@pytest.mark.parametrize("end", ["\r\n", "\r", "\n"])
def test_line_ends_are_one(tmp_path, end):
    text = end.join(["one", "", "two", "three"])
    assert texts(write(tmp_path / "a.txt", text)) == ["one\n\ntwo\nthree"]


def test_line_ends_cut_by_a_block_count_once():
    got = list(encodings.decode_lines(iter([b"a\r", b"\nb\r", b"c"]), "utf-8", lambda *refused: None))
    assert got == [(1, "a"), (2, "b"), (3, "c")]


@pytest.mark.parametrize("data", [bytes(range(256)) * 40, b"\x89PNG\r\n\x1a\n" + os.urandom(64) * 9, b"text\0binary"])
def test_binary_is_no_text(tmp_path, data):
    documents, refused = read(write(tmp_path / "a.txt", data))
    assert documents == []
    assert [(r.line, r.reason) for r in refused] == [(0, "unreadable")]


def test_a_line_without_end_is_refused_and_not_held(tmp_path, monkeypatch):
    monkeypatch.setattr(encodings, "LONGEST_LINE", 1000)
    data = b"before\n" + b"x" * 3_000_000 + b"\nafter\n"
    documents, refused = read(write(tmp_path / "a.txt", data))
    assert [(r.line, r.reason) for r in refused] == [(2, "too_long")]
    assert len(refused[0].text) < 5000
    assert documents[0].text == "before\nafter"


# Formats, each plain and packed

FORMATS = {
    "a.txt": "第一段。\n\n第二段。".encode(),
    "a.md": "# 题\n\n第二段。".encode(),
    "a.jsonl": '{"text": "第一段。"}\n\n{"text": "第二段。"}\n'.encode(),
    "a.json": '[{"content": "第一段。"}, {"content": "第二段。"}]'.encode(),
    "a.csv": 'id,text\n1,"第一段。"\n2,第二段。\n'.encode(),
    "a.tsv": "id\ttext\n1\t第一段。\n2\t第二段。\n".encode(),
    "a.parquet": parquet([{"id": 1, "text": "第一段。"}, {"id": 2, "text": "第二段。"}]),
    "a.html": "<html><body><p>第一段。</p><p>第二段。</p></body></html>".encode(),
    "a.pdf": pdf("First line.", "Second page."),
}


@pytest.mark.parametrize("packing", ["", ".gz", ".zst"])
@pytest.mark.parametrize("name", FORMATS)
def test_every_format_packed_and_plain(tmp_path, name, packing):
    pack = {"": bytes, ".gz": gzip.compress, ".zst": zstandard.ZstdCompressor().compress}[packing]
    whole = "\n".join(texts(write(tmp_path / (name + packing), pack(FORMATS[name]))))
    assert ("Second page." if name == "a.pdf" else "第二段。") in whole
    assert ("First line." in whole) or ("第一段。" in whole) or ("# 题" in whole)


def test_zst_of_several_frames_is_read_to_the_end(tmp_path):
    pack = zstandard.ZstdCompressor().compress
    assert texts(write(tmp_path / "a.txt.zst", pack(b"one\n") + pack(b"two\n"))) == ["one\ntwo"]


def test_file_names_need_not_be_text(tmp_path):
    for name in (b"\xc4\xe3.txt", b"\xba\xc3.txt"):
        write(tmp_path / os.fsdecode(name), "some text")
    assert [document.source for document in read(tmp_path)[0]] == [r"\xba\xc3.txt", r"\xc4\xe3.txt"]


@pytest.mark.parametrize("packing", [".gz", ".zst"])
def test_cut_off_packing_keeps_what_came_before(tmp_path, packing):
    rows = "".join(f'{{"text": "row {number} {os.urandom(40).hex()}"}}\n' for number in range(40_000)).encode()
    pack = {".gz": gzip.compress, ".zst": zstandard.ZstdCompressor().compress}[packing]
    packed = pack(rows)
    documents, refused = read(write(tmp_path / ("a.jsonl" + packing), packed[: len(packed) // 2]))
    assert [r.reason for r in refused] == ["unreadable"]
    assert refused[0].line == len(documents) + 1 > 1000


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("a.txt", b"", "empty"),
        ("a.txt", b" \n\n", "empty"),
        ("a.jsonl", b"", "empty"),
        ("a.csv", b"", "empty"),
        ("a.txt.gz", b"no gz", "unreadable"),
        ("a.txt.gz", gzip.compress(b"text", mtime=0)[:11], "unreadable"),
        ("a.parquet", b"no parquet", "unreadable"),
        ("a.pdf", b"%PDF-1.4 broken", "unreadable"),
        ("a.pdf", pdf("secret", password="lock"), "encrypted"),
        ("a.pdf", pdf("", ""), "no_text"),
        ("a.html", b"<html><body><script>x()</script></body></html>", "no_text"),
        ("a.docx", b"PK", "unknown_format"),
        ("a.json", b'{"a": 1}', "no_text"),
        ("a.json", b'[{"text": "x}', "bad_row"),
    ],
)
def test_files_without_text_are_refused_with_a_reason(tmp_path, name, data, reason):
    write(tmp_path / name, data)
    documents, refused = read(tmp_path)
    assert documents == []
    assert [(r.source, r.reason) for r in refused] == [(name, reason)]
    assert refused[0].detail


def test_what_a_person_names_is_read_whatever_its_ending(tmp_path):
    path = write(tmp_path / "corpus.en", "Some words.\n")
    assert texts(path) == ["Some words."]
    assert read(tmp_path)[1][0].reason == "unknown_format"


def test_files_too_large_to_hold_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("bimo.text.opening.WHOLE_FILE_BYTES", 1000)
    _, refused = read(write(tmp_path / "a.html", b"<p>" + b"word " * 1000))
    assert [(r.line, r.reason) for r in refused] == [(0, "too_long")]


# Plain text


def test_the_separator_divides_documents(tmp_path):
    data = "one\nstill one\n<|endoftext|>\ntwo<|endoftext|>three\n<|endoftext|>\n"
    documents, _ = read(write(tmp_path / "a.txt", data))
    assert [(d.text, d.line) for d in documents] == [("one\nstill one", 1), ("two", 4), ("three", 4)]


def test_long_text_is_cut_and_divided_text_is_not(tmp_path):
    lines = "".join(f"第{number}回，贾宝玉路谒北静王，王熙凤弄权铁槛寺。\n\n" for number in range(200))
    assert len(texts(write(tmp_path / "a.txt", lines), passage_characters=300)) > 8
    assert len(texts(write(tmp_path / "a.txt", "甲\n<|endoftext|>\n" + lines), passage_characters=300)) == 2


# Tables


def test_bad_rows_are_named_by_line(tmp_path):
    path = write(tmp_path / "a.jsonl", b'{"text": "one"}\n{"text": "two\n{"text": null}\n[1]\n{"text": "five"}\n')
    documents, refused = read(path)
    assert [(d.text, d.line) for d in documents] == [("one", 1), ("five", 5)]
    assert [(r.line, r.reason) for r in refused] == [(2, "bad_row"), (3, "no_text"), (4, "no_text")]
    assert refused[0].text == '{"text": "two'


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ([{"title": "春眠", "paragraphs": ["春眠不觉晓，", "处处闻啼鸟。"]}], ["春眠不觉晓，\n处处闻啼鸟。"]),
        ({"content": [{"type": "诗", "content": [{"paragraphs": ["甲"]}, {"paragraphs": ["乙"]}]}]}, ["甲", "乙"]),
        ({"abstract": "about", "content": [{"paragraphs": ["inside"]}]}, ["about", "inside"]),
        ([{"name": "李璟", "wiki": "即南唐元宗，初名景通。"}], ["即南唐元宗，初名景通。"]),
        ([{"instruction": "Add.", "input": "", "output": "Done."}], ["Add.\nDone."]),
        ([{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes?"}]}], ["Hi\nYes?"]),
        ({"data": [{"paragraphs": [{"context": "C", "qas": [{"question": "Q", "answer": "A"}]}]}]}, ["C"]),
        ({"content": "post", "replies": [{"content": "one", "replies": [{"content": "two"}]}]}, ["post", "one", "two"]),
        ({"text": "intro", "sections": [{"title": "a", "more": {"text": "part"}}]}, ["intro", "part"]),
        ({"content": [{"content": "one"}, {"content": "two"}], "role": "x"}, ["one\ntwo"]),
        ({"text": "Bob is here", "entities": [{"text": "Bob", "label": "name"}]}, ["Bob is here"]),
        (["one", "two"], ["one", "two"]),
        ("alone", ["alone"]),
    ],
)
def test_json_of_many_shapes(tmp_path, value, expected):
    assert texts(write(tmp_path / "a.json", json.dumps(value, ensure_ascii=False))) == expected


def test_json_lines_under_the_name_of_json(tmp_path):
    assert texts(write(tmp_path / "a.json", '{"text": "one"}\n{"text": "two"}\n')) == ["one", "two"]


def test_json_lists_are_read_item_by_item(tmp_path, monkeypatch):
    monkeypatch.setattr("bimo.text.opening._BLOCK_BYTES", 7)
    monkeypatch.setattr("bimo.text.opening.SAMPLE_BYTES", 7)
    monkeypatch.setattr(encodings, "LONGEST_LINE", 20)
    items = [{"text": f'第{number}句：“引号 " 与 [括号] 和逗号,”'} for number in range(60)]
    assert texts(write(tmp_path / "a.json", json.dumps(items, ensure_ascii=False))) == [item["text"] for item in items]
    assert len(texts(write(tmp_path / "a.json", json.dumps(items, indent=1)))) == 60


def test_a_broken_json_list_keeps_what_came_before(tmp_path):
    documents, refused = read(
        write(tmp_path / "a.json", b'[{"text": "one"}, {"text": "two"}, {"text": three}, {"text": "4"}]')
    )
    assert [(d.text, d.line) for d in documents] == [("one", 1), ("two", 2)]
    assert [(r.line, r.reason) for r in refused] == [(3, "bad_row")]
    documents, refused = read(write(tmp_path / "a.json", b'[{"text": "one"}, {"text": "two"}'))
    assert len(documents) == 2
    assert [(r.line, r.reason) for r in refused] == [(3, "bad_row")]


def test_json_nested_beyond_reason_is_refused(tmp_path):
    _, refused = read(write(tmp_path / "a.json", b'{"a":' * 100_000))
    assert [r.reason for r in refused] == ["bad_row"]
    _, refused = read(write(tmp_path / "a.json", b'{"a":' * 900 + b"1" + b"}" * 900))
    assert len(refused) == 1


@pytest.mark.parametrize("name", ["a.jsonl", "a.json"])
@pytest.mark.parametrize("deep", ['{"a":' * 700 + "1" + "}" * 700, "[" * 300 + '"x"' + "]" * 300])
def test_what_is_nested_too_deep_is_refused_alone(tmp_path, name, deep):
    good = '{"text": "好的", "more": ' + "[" * 100 + "{}" + "]" * 100 + "}"
    content = f"[{good}, {deep}, {good}]" if name == "a.json" else f"{good}\n{deep}\n{good}\n"
    documents, refused = read(write(tmp_path / name, content))
    assert [(r.line, r.reason) for r in refused] == [(2, "bad_row")]
    assert [(one.text, one.line) for one in documents] == [("好的", 1), ("好的", 3)]


def test_later_rows_keep_a_column_that_was_empty_at_first(tmp_path):
    rows = [{"instruction": "Do", "input": "", "output": "x"}] * 150 + [
        {"instruction": "Do", "input": "it", "output": "x"}
    ]
    found = texts(write(tmp_path / "a.jsonl", "\n".join(map(json.dumps, rows))))
    assert found[-1] == "Do\nit\nx"


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.parquet"])
def test_the_wanted_column_is_read_and_a_wrong_one_is_refused_with_a_suggestion(tmp_path, name):
    rows = [{"text": "no", "review": "yes"}]
    data = {"a.csv": b"text,review\nno,yes\n", "a.jsonl": json.dumps(rows[0]).encode(), "a.parquet": parquet(rows)}[
        name
    ]
    path = write(tmp_path / name, data)
    assert texts(path, text_column="review") == ["yes"]
    documents, refused = read(path, text_column="reviews")
    assert documents == []
    assert [(r.line, r.reason) for r in refused] == [(0, "no_column")]
    assert refused[0].detail == f"{name} has no column reviews. Did you mean review?"


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.parquet"])
def test_the_same_table_gives_the_same_texts_in_every_format(tmp_path, name):
    rows = [{"text": "first", "summary": "short"}, {"text": "", "summary": "alone"}, {"text": "", "summary": ""}]
    lines = ["text,summary", *(f"{row['text']},{row['summary']}" for row in rows)]
    data = {"a.csv": "\n".join(lines), "a.jsonl": "\n".join(map(json.dumps, rows)), "a.parquet": parquet(rows)}[name]
    documents, refused = read(write(tmp_path / name, data))
    assert [document.text for document in documents] == ["first", "alone"]
    assert [rejected.reason for rejected in refused] == ["no_text"]


def test_csv_without_known_names_reads_the_longest_column(tmp_path):
    data = "label,utterance\nham,Go until the point is reached\nspam,Win a prize now\n"
    assert texts(write(tmp_path / "a.csv", data)) == ["Go until the point is reached", "Win a prize now"]


def test_csv_without_header_loses_no_row(tmp_path):
    data = "一个人在跳舞。,一个戴着帽子的人在跳舞。,5.0\n孩子在骑马。,一个小孩子正在骑马。,4.75\n"
    assert texts(write(tmp_path / "a.csv", data)) == ["一个戴着帽子的人在跳舞。", "一个小孩子正在骑马。"]
    assert texts(write(tmp_path / "a.csv", data), text_column="1") == ["一个人在跳舞。", "孩子在骑马。"]


def test_csv_rows_over_several_lines_carry_their_first_line(tmp_path):
    documents, refused = read(
        write(tmp_path / "a.csv", 'id,text\n1,"one\ntwo, ""three"""\n2,four\n3,five,extra\n4,six\n')
    )
    assert [(d.text, d.line) for d in documents] == [('one\ntwo, "three"', 2), ("four", 4), ("six", 6)]
    assert [(r.line, r.reason, r.text) for r in refused] == [(5, "bad_row", "3,five,extra")]


def test_csv_of_one_column(tmp_path):
    assert texts(write(tmp_path / "a.csv", "text\nwell, yes, no\nso\n")) == ["well, yes, no", "so"]
    assert texts(write(tmp_path / "a.csv", '"well, yes"\n"so, no"\n')) == ["well, yes", "so, no"]
    assert texts(write(tmp_path / "a.csv", "alone\n")) == ["alone"]
    for first in ("text", "说的话", "utterance"):
        rows = texts(write(tmp_path / "a.csv", f"{first}\n他说,好的\n她说,不行\n天,地\n"), text_column=first)
        assert rows == ["他说,好的", "她说,不行", "天,地"]


def test_csv_delimiters_are_found(tmp_path):
    assert texts(write(tmp_path / "a.csv", "id;text\n1;well, yes, no\n2;so\n")) == ["well, yes, no", "so"]


def test_tsv_quotes_are_part_of_the_text(tmp_path):
    data = 'label\ttext\nham\t"Hello there\nham\tHe said "no"\nham\t"Quoted"\n'
    assert texts(write(tmp_path / "a.tsv", data)) == ['"Hello there', 'He said "no"', '"Quoted"']
    assert texts(write(tmp_path / "b.tsv", 'id\ttext\n1\t"a ""b"""\n2\t"c"\n')) == ['a "b"', "c"]


def test_a_quote_that_never_closes_costs_no_row(tmp_path):
    rows = "".join(f"{number},line {number}\n" for number in range(500))
    documents, refused = read(write(tmp_path / "a.csv", f'id,text\n{rows}500,"open\n501,after\n502,last\n'))
    assert len(documents) == 503
    assert refused == []
    assert documents[-1] == Document("last", "a.csv", 504)


def test_a_stray_quote_costs_no_cell_of_several_lines(tmp_path):
    path = write(tmp_path / "a.csv", 'id,text\n1,"open\n2,"multi\nline text"\n3,fine\n4,"never\n5,last\n')
    documents, refused = read(path)
    assert refused == []
    assert [(one.text, one.line) for one in documents] == [
        ("open", 2),
        ("multi\nline text", 3),
        ("fine", 5),
        ("never", 6),
        ("last", 7),
    ]


# Pages


def test_html_names_its_own_encoding(tmp_path):
    html = '<html><head><meta charset="gb2312"></head><body><p>今天天气很好。</p></body></html>'
    assert texts(write(tmp_path / "a.html", html.encode("gb18030"))) == ["今天天气很好。"]


@pytest.mark.parametrize(
    ("charset", "encoding", "text"),
    [
        ("utf-8", "gb18030", "今天天气很好，我们一起去公园。"),
        ("iso-8859-1", "gb18030", "今天天气很好，我们一起去公园。"),
        ("utf-8", "big5", "今天天氣很好，我們一起去公園。"),
        ("windows-1252", "big5", "今天天氣很好，我們一起去公園。"),
        ("UTF-8", "windows-1252", "Die Größe der Wörter ändert sich."),
        ("x-unknown", "gb18030", "今天天气很好，我们一起去公园。"),
        ("euc-kr", "euc-kr", "오늘은 날씨가 좋습니다."),
        ("shift_jis", "shift_jis", "今日はとても良い天気です。"),
        ("koi8-r", "koi8-r", "Сегодня хорошая погода."),
    ],
)
def test_an_encoding_that_html_names_counts_unless_the_bytes_know_better(tmp_path, charset, encoding, text):
    html = f'<html><head><meta charset="{charset}"></head><body><p>{text}</p></body></html>'
    counted = Counter()
    assert texts(write(tmp_path / "a.html", html.encode(encoding)), encodings=counted) == [text]
    assert [*counted] == [encoding]


def test_html_leaves_navigation_out(tmp_path):
    story = "".join(
        f"<p>Paragraph {number} tells a long story about the old town and its people.</p>" for number in range(9)
    )
    html = (
        f"<html><body><nav><a href='/'>Home</a></nav><article>{story}</article><footer>Imprint</footer></body></html>"
    )
    (text,) = texts(write(tmp_path / "a.html", html))
    assert "Paragraph 8" in text
    assert "Imprint" not in text


def test_pdf_paragraphs_are_put_together(tmp_path):
    page = "A paragraph that fills the line and goes on in\nthe next one until it ends with a stop at last.\nNew one."
    (text,) = texts(write(tmp_path / "a.pdf", pdf(page)))
    assert text == page.replace("in\nthe", "in the")


@pytest.mark.parametrize("name", ["a.txt.gz", "a.jsonl", "a.csv"])
def test_memory_does_not_grow_with_the_file(tmp_path, name, monkeypatch):
    monkeypatch.setattr("bimo.text.opening._BLOCK_BYTES", 1 << 14)
    monkeypatch.setattr("bimo.text.opening.SAMPLE_BYTES", 1 << 14)
    monkeypatch.setattr(readers, "SAMPLE_BYTES", 1 << 14)
    line = {
        "a.txt.gz": "{}，天下大势分久必合\n",
        "a.jsonl": '{{"text": "{} words"}}\n',
        "a.csv": "{},words and more\n",
    }[name]

    def peak(lines: int) -> int:
        content = "".join(line.format(number) for number in range(lines)).encode()
        path = write(tmp_path / name, gzip.compress(content, 1) if name.endswith("gz") else content)
        (file,) = find_sources([path])
        reading = Reading(lambda rejected: None, passage_characters=1000)
        tracemalloc.start()
        try:
            assert sum(1 for _ in readers.read_file(file, reading)) > 0
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(100)
    assert peak(30_000) < 1.2 * peak(10_000)
