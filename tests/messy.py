"""A folder as people have it: many formats and encodings, things twice, personal data, and files that are broken."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path

HAN = "山水风云日月星辰花鸟鱼虫春夏秋冬东南西北人来去看听说走坐立行书画琴棋诗酒茶灯窗门桥船路城村田雨雪霜露"
WORDS = ["river", "stone", "garden", "letter", "winter", "morning", "music", "bridge", "paper", "window", "silver"]
WORDS += ["question", "travel", "mountain", "harbour", "teacher", "kitchen", "summer", "forest", "engine", "candle"]


def chinese(chance: random.Random, sentences: int = 6) -> str:
    """Sentences of no meaning."""
    return "".join("".join(chance.choices(HAN, k=chance.randint(8, 20))) + "。" for _ in range(sentences))


def english(chance: random.Random, sentences: int = 6) -> str:
    """The same in English."""
    parts = (" ".join(chance.choices(WORDS, k=chance.randint(6, 14))).capitalize() + "." for _ in range(sentences))
    return " ".join(parts)


def write_messy_folder(folder: Path) -> Path:
    """Always the same one."""
    chance = random.Random(20261124)
    folder.mkdir(parents=True)
    notes = [chinese(chance) for _ in range(40)]
    (folder / "笔记.txt").write_bytes("\n\n".join(notes).encode("gb18030"))
    (folder / "notes copy.txt").write_text("\n\n".join(notes), "utf-8")
    rows = [english(chance) for _ in range(60)]
    rows += [row.replace(" ", " creek ", 1) for row in rows[:8]] + rows[10:20]
    records = [
        "联系人：张伟，手机13800138000，身份证11010519491231002X。" + chinese(chance, 2),
        "请把发票寄到北京市海淀区中关村大街27号1203室，邮箱zhang.wei@163.com。" + chinese(chance, 2),
        "Name: Mary Watson, phone (415) 555-2671, card 4111 1111 1111 1111. " + english(chance, 2),
        "The key is AKIAIOSFODNN7EXAMPLE and the host 10.20.30.40. " + english(chance, 2),
    ]
    lines = [json.dumps({"text": text}, ensure_ascii=False) for text in rows + records]
    (folder / "rows.jsonl").write_text("\n".join([*lines, "{broken", '{"text": "!"}']) + "\n", "utf-8")
    licence = "Permission is granted to copy this page for private use, provided that this notice is kept with it."
    for number in range(6):
        paragraphs = "".join(f"<p>{english(chance)}</p>" for _ in range(4))
        page = (
            f"<html><head><title>Page</title></head><body><article>{paragraphs}<p>{licence}</p></article></body></html>"
        )
        (folder / f"page {number}.html").write_text(page, "utf-8")
    (folder / "table.csv").write_text("id,text\n" + "".join(f"{n},{chinese(chance)}\n" for n in range(20)), "utf-8")
    with gzip.open(folder / "old.txt.gz", "wt", encoding="utf-8") as file:
        file.write("안녕하세요 여러분. 오늘은 날씨가 좋습니다. 우리는 공원에 갑니다.\n")
    (folder / "broken.pdf").write_bytes(b"%PDF-1.4 broken")
    (folder / "broken.txt.gz").write_bytes(b"\x1f\x8b\x08\x00 nothing")
    (folder / "letter.docx").write_bytes(b"PK\x03\x04")
    (folder / "empty.md").write_text("", "utf-8")
    return folder
