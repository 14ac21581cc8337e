"""Segmentation loses nothing, cuts Chinese into words and leaves everything else as it is."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bimo.runtime import UserError
from bimo.text.segment import (
    WordList,
    iter_words,
    mark_words,
    segment,
    segment_lines,
    split_sentences,
    word_offsets,
)

SHARED = Path(__file__).resolve().parents[1].parent / "shared" / "data"
MIXED = st.text(
    alphabet=st.one_of(st.characters(exclude_categories=["Cs"]), st.sampled_from("我们在学习人工智能ab1 .,'-\n"))
)


def test_words():
    assert segment("我们在学习GPT-4，don't stop 3.14 次！\n") == [
        *("我们", "在", "学习", "GPT-4", "，", "don't", " ", "stop", " ", "3.14", " ", "次", "！", "\n")
    ]


@pytest.mark.parametrize(
    "text",
    [
        "v1.2.3|和|Python3.11|，|A4|纸| |3D| |5km",
        "涨|３．５％|，|￥|1,299.00|，|25℃",
        "电话|138-0013-8000|，|2024-01-05| |12:30",
        "邮箱|a.b+c@d-e.com.cn|，|网址|https://例.com".replace("例", "ab"),
        "见|https://a.cn/b_(c)?d=1&e=%E4#f|。|好",
        "HTTPS://A.COM/x|，|www.example.com/a_(b)| |(|http://a.cn/b|)|，|http://a.cn/~b|！|http://a.cn|~",
        "1.5e-10| |6.02E23|米",
        "好|……|是|——|的|！！！|U|.|S|.|A|.",
        "cafe\u0301|和|naïve|，|co-op| |it’s",
        "我|👨‍👩‍👧‍👦|👍🏽|🇨🇳|🇫🇷|1️⃣|🏴\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f|❤️",
    ],
)
def test_what_belongs_together_stays_together(text):
    assert segment(text.replace("|", "")) == text.split("|")


URL = (
    r"([hH][tT][tT][pP]s?://|www\.)[a-z0-9\-]{1,9}(\.[a-z]{2,4}){1,2}(:[0-9]{2,4})?(/[A-Za-z0-9_~%\-]{0,9}[a-z]){0,3}"
    r"(\?[a-z]=[0-9&]*[0-9])?"
)
ITEMS = st.one_of(
    st.from_regex(URL, fullmatch=True),
    st.from_regex(r"[0-9]{1,9}([.,:/\-][0-9]{1,4}){0,4}%?", fullmatch=True),
    st.from_regex(r"[０-９]{1,5}([．，：][０-９]{1,3})?％?", fullmatch=True),
    st.sampled_from(["😀", "☀️", "👍🏿", "👩‍💻", "🏳️‍🌈", "👨‍👩‍👧‍👦", "🇨🇳", "🇬🇧", "5️⃣", "#️⃣", "♥", "✈️", "🧑🏽‍🚀", "©"]),
)
AROUND = st.text(alphabet="我们在学习人工智能的了年，。！？、（）“”… \n", max_size=8)


@settings(max_examples=500)
@given(AROUND, ITEMS, AROUND)
def test_addresses_numbers_and_pictures_are_never_split(before, item, after):
    start, end = len(before), len(before) + len(item)
    borders = {border for offsets in word_offsets(segment(before + item + after)) for border in offsets}
    assert {start, end} <= borders
    assert not borders & set(range(start + 1, end))


@pytest.mark.parametrize("text", ["a." * 100_000, "." * 200_000, "1" * 200_000, "\N{GRINNING FACE}\u200d" * 50_000])
def test_a_long_run_takes_no_longer_than_its_length(text):
    """Were each place in it searched to the end, this would take hours."""
    assert "".join(segment(text)) == text
    assert split_sentences(text) == [text]


def test_a_word_list_keeps_words_whole():
    words = WordList(["云原生数据湖", "卡拉OK", "New York", "C++", "", "云原生数据湖"])
    text = "去卡拉OK唱，New York和NewYorker学C++与云原生数据湖。OK"
    assert segment(text, words) == [
        *("去", "卡拉OK", "唱", "，", "New York", "和", "NewYorker", "学", "C++", "与", "云原生数据湖", "。", "OK")
    ]
    assert list(iter_words("云原生数据湖！", words)) == ["云原生数据湖"]
    assert len(segment("云原生数据湖")) > 1, "a word list is nobody else's"


@given(MIXED, st.lists(st.text(alphabet="我们学ab1 .+", max_size=5), max_size=4))
def test_nothing_is_lost_with_a_word_list(text, words):
    assert "".join(segment(text, WordList(words))) == text


@given(MIXED)
def test_cutting_by_runs_agrees_with_one_search_for_everything(text):
    assert segment(text) == segment(text, WordList(["no·such·word"]))


def test_dictionaries_of_jieba_are_read(tmp_path):
    file = tmp_path / "words.txt"
    file.write_text("云原生数据湖 3\n凱特琳 nz\neasy_install 3 eng\nEdu Trust认证 2000\n", encoding="utf-8")
    assert segment("凱特琳，easy_install，Edu Trust认证，云原生数据湖", WordList.read(file))[::2] == [
        *("凱特琳", "easy_install", "Edu Trust认证", "云原生数据湖")
    ]
    file.write_text("Windows 11\nopen source\n云原生数据湖\n", encoding="utf-8")
    assert segment("Windows 11，open source，云原生数据湖", WordList.read(file))[::2] == [
        *("Windows 11", "open source", "云原生数据湖")
    ]


def test_word_lists_are_read_from_files(tmp_path):
    file = tmp_path / "words.txt"
    file.write_text("\ufeff云原生数据湖 300 n\r\n\nNew York\n分布式训练框架\n", encoding="utf-8")
    assert segment("云原生数据湖，New York，分布式训练框架", WordList.read(file))[::2] == [
        *("云原生数据湖", "New York", "分布式训练框架")
    ]
    file.write_bytes("# 词表\r\n云原生数据湖\r\n".encode("gb18030"))
    assert "云原生数据湖" in segment("建云原生数据湖吧", WordList.read(file))
    file.write_bytes(bytes(range(256)))
    with pytest.raises(UserError, match=r"words\.txt is not a text file"):
        WordList.read(file)


@pytest.mark.parametrize(
    "text",
    [
        "他说：“走吧。”|然后走了！  |完了",
        'It is 3.14 p.m. today. |Dr. Smith left. |"Really?" she asked.\n|下一行\n|\n|又一行',
        "真的吗?|我不信!|好吧?)|好",
        "J. K. Rowling wrote No. 5. |Yes! |(Maybe.) |So...  what",
    ],
)
def test_sentences(text):
    assert split_sentences(text.replace("|", "")) == text.split("|")


@given(MIXED)
def test_joined_sentences_are_the_text(text):
    assert "".join(split_sentences(text)) == text


def test_lines_of_words():
    assert list(segment_lines(["我们学习。真的 \n", "\n"])) == [["我们", "学习", "。", "真的"], []]
    assert list(segment_lines(["我们\udcc4\udce3\udcba\n"])) == [["我们", "\udcc4\udce3\udcba"]]
    assert list(segment_lines(["我们学习。真的\n"], sentences=True)) == [["我们", "学习", "。"], ["真的"]]


@given(MIXED)
def test_joined_words_are_the_text(text):
    words = segment(text)
    assert "".join(words) == text
    assert all(words)


def test_iter_words_leaves_marks_and_blanks_out():
    assert list(iter_words("北京，you're 2 late…")) == ["北京", "you're", "2", "late"]


def test_marks_stand_between_chinese_words_only():
    assert mark_words("我们学习AI模型 today.", "|") == "|我们|学习|AI|模型| today."


def test_long_words_are_cut():
    marked = mark_words("中华人民共和国万岁", "|")
    assert marked.replace("|", "") == "中华人民共和国万岁"
    assert max(map(len, marked.split("|"))) <= 4
    assert "中华人民共和国" in mark_words("中华人民共和国万岁", "|", longest=7).split("|")


@given(MIXED, st.integers(min_value=1, max_value=6))
def test_without_its_marks_it_is_the_text(text, longest):
    mark = "\x00"
    text = text.replace(mark, "")
    marked = mark_words(text, mark, longest=longest)
    assert marked.replace(mark, "") == text
    for part in marked.split(mark):
        han = re.findall("[々〇\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]", part)
        assert len(han) in (0, len(part))
        assert not han or len(part) <= longest


@given(MIXED, st.integers(min_value=1, max_value=6))
def test_marking_all_runs_at_once_agrees_with_one_by_one(text, longest):
    import rjieba

    def slow(run: str) -> str:
        parts = [word[start : start + longest] for word in rjieba.cut(run) for start in range(0, len(word), longest)]
        return "\x00" + "\x00".join(parts) + "\x00"

    expected = re.sub("[々〇\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]+", lambda m: slow(m[0]), text)
    assert mark_words(text, "\x00", longest=longest) == expected


def test_as_many_words_agree_with_gold_segmentation_as_those_of_rjieba():
    import rjieba

    path = SHARED / "segment" / "ud_chinese_gsdsimp" / "zh_gsdsimp-ud-test.conllu"
    if not path.exists():
        pytest.skip("the gold segmentation is not beside the repository")
    sentences = [
        [row.split("\t")[1] for row in sentence.split("\n") if re.match(r"\d+\t", row)]
        for sentence in path.read_text(encoding="utf-8").split("\n\n")
    ]
    assert f1(segment, sentences) >= f1(rjieba.cut, sentences) > 0.79


def f1(cut, sentences: list[list[str]]) -> float:
    """As the SIGHAN bakeoff scores: a word is right if it begins and ends where one of the gold words does."""
    right = found = wanted = 0
    for gold in sentences:
        ours, theirs = spans(cut("".join(gold))), spans(gold)
        right, found, wanted = right + len(ours & theirs), found + len(ours), wanted + len(theirs)
    return 2 * right / (found + wanted)


def spans(words: list[str]) -> set[tuple[int, int]]:
    return set(word_offsets(words))
