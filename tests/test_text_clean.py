"""One tiny text per rule: what is repaired, what is taken out, what is refused, and what must stay."""

from __future__ import annotations

import base64
import hashlib
import random
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bimo.text.boilerplate import drop_boilerplate
from bimo.text.clean import normalize
from bimo.text.documents import REASONS
from bimo.text.faults import find_fault
from bimo.text.language import script_of
from bimo.text.measure import DIGIT, HAN, LATIN, OTHER, PUNCTUATION, SPACE, count_kinds

SHARED = Path(__file__).resolve().parents[1].parent / "shared" / "data"
POEM = "床前明月光，\n疑是地上霜。\n举头望明月，\n低头思故乡。"
ENGLISH = "It was the best of times, it was the worst of times, and we had everything before us. " * 4
FRENCH = "Nous sommes tous dans la même maison, mais elle n'est pas grande et les enfants jouent dehors. " * 4


@pytest.mark.parametrize(
    ("dirty", "clean"),
    [
        ("“你好”，（世界）！ＡＢＣ１２３", "“你好”，（世界）！ＡＢＣ１２３"),  # full width and curly quotes stay
        ("he said “no” – it’s ½ ② ㎏", "he said “no” – it’s ½ ② ㎏"),
        ("cafe\u0301", "café"),
        ("か\u3099", "が"),
        ("\u3000\u3000话说天下", "话说天下"),
        ("第一回\u3000灵根", "第一回\u3000灵根"),
        ("def f():\n    return 1", "def f():\n    return 1"),
        ("a \t\nb\u3000\n", "a\nb"),
        ("a\n\n\n\n\n\nb\n\n\nc", "a\n\n\nb\n\n\nc"),
        ("\ufeffa\u200bb\xadc\x00d\x07", "abcd"),
        ("a\u2028b\x85c\x0cd\r\ne\rf", "a\nb\nc\nd\ne\nf"),
        ("a\xa0b", "a b"),
        ("a\ue123b\ud800c", "abc"),
        ("👩\u200d💻 ❤\ufe0f 你\u200d好", "👩\u200d💻 ❤\ufe0f 你好"),
        ("\U0001f3f4\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f!",) * 2,  # the flag of England
        ("🏴\U000e0067\U000e0062 a\U000e0062\U000e007f", "🏴 a"),
        ("cafÃ© â€œquotedâ€\x9d", "café “quoted”"),
        ("å¤©ä¸‹å¤§åŠ¿ï¼Œåˆ†ä¹…", "天下大势，分久"),
        ("ä½\xa0å¥½", "你好"),
        ("Beyoncé’s cafÃ©, “Olé…”", "Beyoncé’s café, “Olé…”"),
        ("浣犲ソ锛屼笘鐣屻€", "浣犲ソ锛屼笘鐣屻€"),  # cut off, so not certain: left alone
        ("浣犲ソ锛屼腑鍥戒汉姘\n好", "浣犲ソ锛屼腑鍥戒汉姘\n好"),
        ("涓涓细流，涓涓不绝", "涓涓细流，涓涓不绝"),
        ("Île d’Orléans, São Paulo, naïve", "Île d’Orléans, São Paulo, naïve"),
    ],
)
def test_normalize(dirty, clean):
    assert normalize(dirty) == clean


def test_utf8_read_as_gb18030_is_repaired():
    text = "世界，你好，中国人的，是的！"
    damaged = text.encode().decode("gb18030")
    assert damaged.startswith("涓栫晫锛")
    assert normalize(damaged) == text


@given(
    st.text(
        alphabet=st.characters(exclude_categories=[], max_codepoint=0x10FFFF).filter(
            lambda c: not "\x80" <= c <= "\xff"
        )
    )
)
def test_normalizing_twice_changes_nothing_more(text):
    once = normalize(text)
    assert normalize(once) == once


@given(st.text(alphabet=st.characters(exclude_categories=[])))
def test_normalized_text_is_composed_and_can_be_stored(text):
    once = normalize(text)
    assert unicodedata.is_normalized("NFC", once)
    once.encode()


@given(st.text(alphabet="天地玄黄，。！？“”（）：；、abcXYZ019 \n\u3000"))
def test_ordinary_characters_are_never_lost(text):
    assert "".join(normalize(text).split()) == "".join(text.split())


@pytest.mark.parametrize(
    "line",
    [
        "京ICP备12345678号-1",
        "粤公网安备 44030502000000号",
        "Copyright © 2021 Example Ltd. All rights reserved.",
        "© 2019-2024 某某科技有限公司",
        "版权所有 © 某某公司",
        "We use cookies to improve your experience on our site.",
        "Accept all cookies",
        "点击阅读全文>>",
        "阅读原文",
        "长按识别二维码关注我们",
        "点击上方蓝字关注我们",
        "返回顶部",
        "责任编辑：张三",
        "上一篇：某新闻标题",
        "Skip to main content",
        "Read more...",
        "版权所有",
        "版权所有，未经许可不得转载。",
        "版权所有翻印必究",
        "版权所有 某某公司",
        "分享到：",
        "分享到：微信 新浪微博 QQ空间",
        "分享到微信朋友圈",
    ],
)
def test_page_furniture_goes_and_the_text_stays(line):
    assert drop_boilerplate(f"今天天气很好。\n{line}\nWe went out.") == ("今天天气很好。\nWe went out.", 1)


@pytest.mark.parametrize(
    "line",
    [
        "他点击鼠标，阅读全文之后，沉默了很久，才说出那句话。",
        "版权所有者享有复制权和发行权。",
        "版权所有权归作者。",
        "版权所有制度研究",
        "分享到这里就结束了，谢谢大家。",
        "分享到：这里就是结尾了，谢谢大家。",
        "分享到微信之后，他收到了很多回复。",
        "Copyright law protects authors.",
        "copyright",
        "She baked cookies for the whole class.",
        "Click the button (c) to read more about it in chapter 3.",
        "我扫码付了钱，就走了。",
        "The cookie policy of the bakery is simple: eat them all.",
    ],
)
def test_sentences_about_such_things_stay(line):
    assert drop_boilerplate(line) == (line, 0)


RANDOM = random.Random(5)
FAULTS = {
    "too_short": ["", "a", "好", "123 456", "——！？"],
    "mojibake": ["锟斤拷锟斤拷的文字", "damaged \ufffd\ufffd\ufffd words", "Ã¤Â½ Ã¥Â¥ Ã¤Â½ Ã¥Â¥x", "å¤©ä¸‹å åŠ ä½ å¥½"],
    "repetition": ["哈" * 800, "spam spam spam\n" * 200, "请支持正版，" * 300],
    "links": [
        "\n".join(f"https://example.com/path/{number}/page.html" for number in range(9)),
        "www.a.com www.b.com www.c.com",
    ],
    "machine": [
        base64.b64encode(RANDOM.randbytes(900)).decode(),
        "\n".join(hashlib.sha256(bytes([number])).hexdigest() for number in range(9)),
    ],
    "identifiers": [
        "\n".join(f"user_{number:06}" for number in range(0, 9000, 700)),
        "order,customer\n" + "\n".join(f"SO-2024-{number:04},{number * 7919:08}" for number in range(17, 40)),
        " ".join(hashlib.sha1(bytes([number])).hexdigest()[:9] + "1" for number in range(20)),
    ],
    "markup": [
        '<div class="row"><div class="cell"><span>你好</span></div></div>\n<ul><li><a href="/b">b</a></li></ul>',
        'ss="nav">\n<li><a href="/news">News</a></li><li><a href="/about">About us</a></li><img src="a.png',
        "<style>.a { color: red; margin: 0 }</style><br><br/><p>One</p><p>Two</p>",
    ],
    "symbols": ["@#$%^&*(){}[]<>~`|+=_-!?:;'/ " * 3 + "abc", "┌─┬─┐│░│▒│└─┴─┘" * 5 + "图例"],
}


@pytest.mark.parametrize(("reason", "text"), [(reason, text) for reason, texts in FAULTS.items() for text in texts])
def test_each_fault_has_its_reason(reason, text):
    fault = find_fault(text)
    assert fault is not None
    assert fault[0] == reason
    assert fault[1]


def test_every_reason_is_described():
    assert set(FAULTS) < set(REASONS)


@pytest.mark.parametrize(
    "text",
    [
        POEM,
        "ok",
        "好的",
        "哈哈哈哈哈哈哈哈",
        "在吗？？？？？？",
        "(╯°□°）╯ 气死我了",
        "□□□雨绝风尘，小桥频过春渠满。□□离宫，□棱斗焕。",
        "第一章 引言 ................................ 1\n第二章 方法 ........................ 23\n附录 ........ 99",
        "| 名称 | 数量 |\n|------|------|\n| 苹果 | 12 |\n| 梨 | 3 |",
        "for (int i = 0; i < n; ++i) { a[i] += b[i] * c; }\nif (x != y) return -1;",
        "See https://example.com/docs for the manual, then call 555-0100.",
        "Zwanzigtausendfünfhundert, Donaudampfschifffahrtsgesellschaftskapitän",
        "commit 3b18e512dba79e4c8300dd08aeb37f8e728b8dad fixes the reader of empty files",
        "啦啦啦，啦啦啦，我是卖报的小行家。\n" * 6,
        "“去不去？”\n“去。”\n“几时？”\n“现在。”",
        ENGLISH[:86],
        "2023年1月2日 晴 气温12度",
        "sha1, sha224, sha256, sha384, sha512, sha3_224, sha3_256, sha3_384, sha3_512, blake2b are always there.",
        "1. e4 e5 2. Nf3 Nc6 3. Bb5 a6 4. Ba4 Nf6 5. O-O Be7 6. Re1 b5 7. Bb3 d6 8. c3 O-O 9. h3 Nb8 10. d4 Nbd7",
        "13800138000 是他的号码，62220212345678 是卡号，其余的我都忘了，明天再问。",
        "std::map<std::string, std::vector<int>> a; if (i <p && j> b) return List<String>(); x <a; y <b; z <i;",
        "Write <b> for bold, <i> for italics, <p> for a paragraph, <a> for a link and <script> for a program: "
        "these five are all that you need to know on your first day with web pages, and the rest comes by itself.",
        "قال المعلم إن الدرس انتهى",
        "Beyoncé’s new song is better than Beyoncé’s last one.",
        "“Café” et “Canapé”",
        "Désolé… j’ai oublié…",
        "“Olé…” “Touché…”",
    ],
)
def test_peoples_own_words_stay(text):
    assert find_fault(text) is None
    assert drop_boilerplate(normalize(text))[0] == text.strip()


@pytest.mark.parametrize(
    "name", ["tinyshakespeare/input.txt", "zh_classic_novels/西游记.txt", "zh_classic_novels/红楼梦.txt"]
)
def test_real_books_lose_nothing(name):
    path = SHARED / "lm" / name
    if not path.exists():
        pytest.skip(f"{path.name} is not beside the repository")
    text = path.read_text(encoding="utf-8")
    for start in range(0, len(text), 3000):
        part = text[start : start + 3000]
        assert find_fault(normalize(part)) is None
        bare = "".join(drop_boilerplate(normalize(part))[0].split())
        assert len(bare) >= len("".join(part.split())) - part.count("\ue000") - 20


@pytest.mark.parametrize(
    ("text", "language"),
    [
        (POEM, "zh"),
        ("我用 Python 写了一个小程序", "zh"),
        ("The word 道 means way, and it is old.", "en"),
        ("それはペンです。東京に行きます。", "ja"),
        ("안녕하세요 여러분", "ko"),
        (ENGLISH, "en"),
        ("Bonjour", "en"),
        (FRENCH, "fr"),
        ("Это было давно, и мы ничего не помним о том времени.", "ru"),
        ("123 —", "und"),
        ("他说：“の”字很流行，大家都在用。", "zh"),
    ],
)
def test_languages(text, language):
    assert script_of(text) == language


def test_kinds_are_counted():
    kinds = count_kinds("天地ab1，。 \n😀")
    assert (kinds[HAN], kinds[LATIN], kinds[DIGIT], kinds[PUNCTUATION], kinds[SPACE], kinds[OTHER]) == (
        2,
        2,
        1,
        2,
        2,
        1,
    )


@given(st.text(alphabet=st.characters(exclude_categories=["Cs"])))
def test_kinds_add_up(text):
    assert sum(count_kinds(text)) == len(text)


def test_marks_weigh_by_the_script_of_the_letters():
    """A third of it letters: few words of English, many of Chinese."""
    marks = "".join("()[]{}<>+=*/"[place % 12] for place in range(66))
    assert find_fault("abcdefghijklmnopqrstuvwxyzabcdefgh" + marks)[0] == "symbols"
    assert find_fault("今天天气很好我们一起去公园散步然后回家吃饭看书写字画画听音乐" + marks) is None
