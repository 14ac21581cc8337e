"""Made-up text for tests: as much as is wanted, no passage twice, always the same."""

from __future__ import annotations

import random
from pathlib import Path

WHO = ["fox", "hen", "bear", "child", "king", "tailor", "miller", "wolf", "girl", "sailor", "farmer"]
HOW = ["small", "old", "red", "kind", "quick", "quiet", "brave", "tired", "happy", "hungry"]
DID = ["found", "lost", "carried", "watched", "painted", "followed", "mended", "sold", "hid", "opened"]
WHAT = ["lantern", "basket", "river", "garden", "door", "book", "bridge", "coat", "apple", "stone", "boat", "song"]
谁 = ["狐狸", "母鸡", "老熊", "孩子", "国王", "裁缝", "磨坊主", "水手", "农夫", "姑娘"]
怎样 = ["小小的", "古老的", "红色的", "安静的", "勇敢的", "疲倦的", "快乐的", "饥饿的"]
做 = ["找到", "丢失", "背着", "看着", "画了", "跟着", "修好", "卖掉", "藏起", "打开"]
什么 = ["灯笼", "篮子", "花园", "木门", "书本", "石桥", "外衣", "苹果", "小船", "歌谣"]


def stories(passages: int, *, seed: int = 0, chinese: bool = False) -> str:
    """So many passages of six sentences, some 300 bytes each, with blank lines between them."""
    draw = random.Random(seed).choice

    def sentence() -> str:
        if chinese:
            return f"{draw(怎样)}{draw(谁)}在{draw(什么)}旁边{draw(做)}{draw(怎样)}{draw(什么)}。"
        return f"The {draw(HOW)} {draw(WHO)} {draw(DID)} a {draw(HOW)} {draw(WHAT)} near the {draw(WHAT)}."

    between = "" if chinese else " "
    return "\n\n".join(between.join(sentence() for _ in range(6)) for _ in range(passages)) + "\n"


def pairs() -> list[tuple[str, str]]:
    """English sentences with their Chinese translations, each once."""
    things = [
        ("dog", "狗"),
        ("cat", "猫"),
        ("house", "房子"),
        ("tree", "树"),
        ("book", "书"),
        ("moon", "月亮"),
        ("ship", "船"),
    ]
    colours = [("red", "红"), ("blue", "蓝"), ("green", "绿"), ("white", "白"), ("black", "黑")]
    places = [("here", "这里"), ("there", "那里"), ("at home", "家里"), ("outside", "外面")]
    return [
        (f"The {colour} {thing} is {place}.", f"{颜色}色的{东西}在{地方}。")
        for colour, 颜色 in colours
        for thing, 东西 in things
        for place, 地方 in places
    ]


def write_pairs(path: Path) -> Path:
    """The pairs as a table without names."""
    path.write_text("".join(f"{english}\t{chinese}\n" for english, chinese in pairs()), encoding="utf-8")
    return path


def write_stories(path: Path, passages: int = 150, *, seed: int = 0, chinese: bool = False) -> Path:
    """The stories as a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(stories(passages, seed=seed, chinese=chinese), encoding="utf-8")
    return path
