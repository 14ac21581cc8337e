"""Whether the first row of a table names its columns, told from the names and from what stands below them."""

from __future__ import annotations

import pytest

from bimo.tasks.embed.examples import read_examples
from bimo.text.labelled import read_labelled
from bimo.text.pairs import read_pairs
from bimo.text.tables import find_layout


def table(first: str, row: str, *, rows: int = 36) -> list[str]:
    return [first, *(row.format(n=n, label="控制播放查询闲聊"[2 * (n % 4) :][:2]) for n in range(rows))]


@pytest.mark.parametrize(
    ("lines", "why"),
    [
        (table("query,intent", "打开空调{n},{label}"), "one known name among plain words is enough"),
        (table("comment,stars", "好{n},5", rows=5), "also above very little"),
        (table("sentence1,sentence2,label", "你好{n},您好{n},1"), "names of pairs and of labels are known"),
        (table("sentence1,sentence2,score", "你好{n},您好{n},4.5"), "names of scores are known"),
        (table("文本1,文本2,标签", "你好{n},您好{n},{label}"), "also in Chinese"),
        (table("instruction,output", "你好{n},您好{n}"), "names of questions and answers are known"),
        (table("one,two,liking", "a{n},b{n},-0.{n}"), "no number stands above decimals"),
        ([*table("one,two,liking", "a{n},b{n},", rows=3), "a,b,4.5"], "nor above numbers and gaps"),
        (table("utterance,reply", "how are you today {n},fine"), "plain words stand above longer texts"),
        (table("文言,modern", "学而时习之不亦说乎{n},学习并且时常温习{n}"), "names in two languages above one"),
    ],
)
def test_a_first_row_of_names_is_a_header(lines, why):
    layout = find_layout(lines, tabs=True)
    assert (layout.header, list(layout.names)) == (True, lines[0].split(",")), why


@pytest.mark.parametrize(
    ("lines", "why"),
    [
        (
            table("Stop\t停", "He stopped the car {n}.\t他停下了车{n}。"),
            "a word and its translation come first",
        ),
        (table("en\tHello.\tzh\t你好。", "en\tHello {n}.\tzh\t你好{n}。"), "what every row begins with names nothing"),
        (table("体育,球赛", "足球{n},体育"), "no name is known, and all is short"),
        (table("失恋怎么办,情感", "我很难过{n},情感"), "a known name that is a label further below"),
        (table("good,4.5", "bad {n},3"), "a number names no column"),
    ],
)
def test_a_first_row_like_the_others_is_none(lines, why):
    assert not find_layout(lines, tabs=True).header, why


def test_a_name_that_the_user_gives_makes_a_header(tmp_path):
    lines = table("gripe,dept", "坏{n},{label}")
    assert not find_layout(lines, tabs=False).header
    path = tmp_path / "a.csv"
    path.write_text("\n".join(lines), encoding="utf-8")
    found = read_labelled(path, columns={"label": "dept"})
    assert (found.columns.text, len(found.examples), len(found.labels)) == ("gripe", 36, 4)
    assert read_examples(path, {"text": "gripe"}).columns.first == "gripe"
    assert not find_layout(["1,2", "3,4"], tabs=False, named=("1",)).header


def test_a_title_above_a_table_is_no_column():
    """As of a list of words with how alike they are, or of a report."""
    for lines, delimiter in (
        (["# How alike words are", "Word 1\tWord 2\tmean", "love\tmoney\t6.8", "tiger\tcat\t7.3"], "\t"),
        (["Report of May", "id,text", "1,What was said", "2,What was done"], ","),
    ):
        assert find_layout(lines, tabs=True).delimiter == delimiter


def test_names_above_short_texts_are_no_texts_of_theirs(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("\n".join(table("query,intent", "打开空调{n},{label}")), encoding="utf-8")
    found = read_labelled(path)
    assert (found.columns.text, found.columns.label, len(found.examples)) == ("query", "intent", 36)
    path.write_text("\n".join(table("sentence1,sentence2,score", "你好{n},您好{n},4.{n}")), encoding="utf-8")
    assert read_examples(path).kind == "scored"


def test_quotes_enclose_cells_where_a_column_or_what_is_in_them_says_so(tmp_path):
    """What people say stands in quotes, too: read as cells, two rows in which it begins and ends would become one."""
    said = [
        '"Yes."\t“是。”',
        '"No."\t“不。”',
        *(f"Line {n}\t第{n}行" for n in range(120)),
        '"I came.\t来',
        'I saw."\t看',
    ]
    names = ("1", "2")
    for lines, quoted in (
        (said[:100], False),
        (['"a, b"\tx', "c\ty"], True),
        (['"a, b"\tx', "c, d\ty"], False),
        (['"a ""b"""\tx', "c\ty"], True),
        (['"a"\tx', '"b"\ty'], True),
    ):
        layout = find_layout(lines, tabs=True)
        assert (layout.quoted, layout.names) == (quoted, names)
    (tmp_path / "a.tsv").write_text("\n".join(said), encoding="utf-8")
    pairs = read_pairs(tmp_path / "a.tsv").pairs
    assert (len(pairs), pairs[0].source, pairs[-1].source) == (124, '"Yes."', 'I saw."')
