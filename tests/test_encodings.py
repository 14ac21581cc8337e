"""Chinese of every kind is known by its bytes in each encoding; what is in another script or encoding is refused."""

from __future__ import annotations

import pytest

from bimo.cli.words import segment
from bimo.runtime import UserError
from bimo.text.encodings import SAMPLE_BYTES, find_encoding, lines_as_they_come, utf8_as_it_comes

MODERN = "這個軟體需要網際網路連線，請檢查您的設定並重新啟動電腦。臺灣的經濟發展與環境保護，是大家都關心的問題。\n"
CLASSICAL = "學而時習之，不亦說乎？有朋自遠方來，不亦樂乎？人不知而不慍，不亦君子乎？\n"
POEM = "錦瑟無端五十絃，一絃一柱思華年。莊生曉夢迷蝴蝶，望帝春心託杜鵑。滄海月明珠有淚，藍田日暖玉生煙。\n"
NAMES = "赵钱孙李 周吴郑王 冯陈褚卫 蒋沈韩杨 朱秦尤许 何吕施张 孔曹严华 金魏陶姜 戚谢邹喻 柏水窦章 云苏潘葛\n"
PINYIN = (
    "tiān dì xuán huáng yǔ zhòu hóng huāng 天地玄黄 宇宙洪荒\nrì yuè yíng zè chén xiù liè zhāng 日月盈昃 辰宿列张\n"
)

KOREAN = (
    "옛날 어느 마을에 가난하지만 마음씨 착한 나무꾼이 홀어머니를 모시고 살고 있었습니다. 그는 날마다 산에 올라가 "
    "나무를 베어 장터에 내다 팔았고, 저녁이 되면 따뜻한 밥을 지어 어머니께 드렸습니다.\n"
)
RUSSIAN = (
    "Жил старик со своею старухой у самого синего моря; они жили в ветхой землянке ровно тридцать лет и три года. "
    "Старик ловил неводом рыбу, старуха пряла свою пряжу.\n"
)
JAPANESE = (
    "むかしむかし、あるところにおじいさんとおばあさんが住んでいました。おじいさんは山へ柴刈りに、おばあさんは川へ洗濯に"
    "行きました。すると大きな桃がどんぶらこ、どんぶらこと流れてきました。カメラとテレビはまだありません。\n"
)


@pytest.mark.parametrize("repeat", [1, 500])
@pytest.mark.parametrize("text", [MODERN, CLASSICAL, POEM, NAMES, PINYIN, MODERN + "plain words\n" * 40])
def test_chinese_of_every_kind_is_known_in_gb18030(text, repeat):
    data = (text * repeat).encode("gb18030")
    assert find_encoding(data[:SAMPLE_BYTES]) == "gb18030"


@pytest.mark.parametrize("text", [MODERN, CLASSICAL, POEM])
def test_the_same_texts_are_known_in_big5(text):
    assert find_encoding(text.encode("big5hkscs")) == "big5"


@pytest.mark.parametrize("repeat", [1, 500])
@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        (KOREAN, "euc-kr"),
        (KOREAN, "cp949"),
        (RUSSIAN, "koi8-r"),
        (RUSSIAN, "windows-1251"),
        (JAPANESE, "euc-jp"),
        (JAPANESE, "shift_jis"),
    ],
)
def test_other_scripts_are_not_read_as_chinese(text, encoding, repeat):
    data = (text * repeat).encode(encoding)
    assert find_encoding(data[:SAMPLE_BYTES]) is None


def test_other_scripts_among_english_are_no_western_words():
    """Their lines are refused one by one, as lines that are not valid."""
    english = "An English sentence that stands around it, as long as the other one is.\n" * 6
    for text, encoding in ((KOREAN, "euc-kr"), (RUSSIAN, "windows-1251")):
        assert find_encoding((english + text).encode(encoding)) == "utf-8"


def test_a_western_letter_is_no_half_of_a_pair():
    assert find_encoding("Die Größe der Wörter ändert sich für Bären und Löwen.\n".encode("windows-1252")) == (
        "windows-1252"
    )


# Streams


def test_what_follows_ascii_in_a_stream_is_read_in_its_encoding():
    """Whatever of it comes first: half a character alone is valid UTF-8."""
    text = "软件需要连接网络，请检查设置。\n"
    for encoding in ("gb18030", "utf-8"):
        data = text.encode(encoding)
        for cut in range(len(data)):
            blocks = [b"hello\n", b"and " + data[:cut], data[cut:]]
            lines = lines_as_they_come(filter(None, blocks), "stdin")
            assert [*lines] == ["hello\n", "and " + text]


def test_lines_come_before_the_stream_ends():
    blocks = iter([b"hello\n", "你好，".encode("gb18030"), "世界。\n再见".encode("gb18030"), "。".encode("gb18030")])
    lines = lines_as_they_come(blocks, "stdin")
    assert next(lines) == "hello\n"
    assert next(lines) == "你好，世界。\n"
    assert [*blocks] == ["。".encode("gb18030")]


@pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf", b"plain\n"])
def test_bytes_that_are_no_utf8_can_be_given_back(start):
    data = "你好\r\n".encode() * 9 + b"bad \xc4\xe3\xff byte\rlast"
    text = "".join(lines_as_they_come(iter([start, data]), "stdin"))
    given = text.encode("utf-8", "surrogateescape")
    assert given == start.lstrip(b"\xef\xbb\xbf") + data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")


def test_damage_in_other_encodings_is_marked():
    (line,) = lines_as_they_come(iter(["天下大势，分久必合".encode("gb18030") + b"\xff\n"]), "stdin")
    assert line == "天下大势，分久必合\ufffd\n"


def test_a_stream_that_is_no_text_is_named():
    with pytest.raises(UserError, match=r"picture\.png"):
        list(lines_as_they_come(iter([bytes(range(256)) * 9]), "picture.png"))
    plain = b"plain\n" + bytes(range(128, 256)) * 9
    assert b"".join(utf8_as_it_comes(iter([plain[:6], plain[6:]]))) == plain


def test_words_are_cut_after_much_ascii(tmp_path, capfd):
    path = tmp_path / "log.txt"
    path.write_bytes(
        b"x" * 63 + b"\n" + b"plain text\n" * (SAMPLE_BYTES // 10) + "我们学习语言。\n".encode("gb18030") * 3
    )
    segment([path])
    assert capfd.readouterr().out.splitlines()[-3:] == ["我们 学习 语言 。"] * 3
