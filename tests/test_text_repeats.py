"""What repeats in a folder: near-duplicates, paragraphs; whoever cleans, and however often it is stopped."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bimo.runtime import INTERRUPTED, UserError, set_language
from bimo.text import Document, TextOptions, collect_documents, read_rejected, read_stored
from bimo.text.batch_store import CleanedBatches
from bimo.text.batches import Batch
from bimo.text.workers import clean_in_processes

WORDS = ["river", "stone", "garden", "letter", "winter", "morning", "music", "bridge", "paper", "window", "silver"]
WORDS += ["question", "travel", "mountain", "harbour", "teacher", "kitchen", "summer", "forest", "engine"]

CHARACTERS = "山水风云日月星辰花鸟鱼虫春夏秋冬东南西北人来去看听说走坐立行"


@pytest.fixture(autouse=True)
def english():
    set_language("en")
    yield
    set_language(None)


def english_text(chance: random.Random, words: int = 120) -> str:
    return " ".join(chance.choice(WORDS) for _ in range(words)).capitalize() + "."


def chinese_text(chance: random.Random, length: int = 200) -> str:
    return "".join(chance.choice(CHARACTERS) for _ in range(length)) + "。"


def write(folder: Path, name: str, texts: list[str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    lines = (json.dumps({"text": text}, ensure_ascii=False) for text in texts)
    (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")


def kept(out: Path) -> list[str]:
    return [one.text for name in ("train", "validation") for one in read_stored(out / "documents", name)]


def digests(out: Path) -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*.parquet"))}


def test_the_longest_of_a_cluster_is_kept(tmp_path):
    chance = random.Random(1)
    alone = [english_text(chance) for _ in range(10)] + [chinese_text(chance) for _ in range(10)]
    english, chinese = english_text(chance), chinese_text(chance)
    longer, shorter = english + " And then there was one more.", chinese.replace(chinese[100:104], "")
    write(tmp_path / "in", "a.jsonl", [english, *alone, chinese])
    write(tmp_path / "in", "b.jsonl", [shorter, longer])
    facts = collect_documents([tmp_path / "in"], tmp_path / "out")
    assert facts["rejected"] == {"near_duplicate": 2}
    assert facts["near_duplicates"]["clusters"] == 2
    assert sorted(kept(tmp_path / "out")) == sorted([*alone, longer, chinese])
    rejected = {row.text: row.detail for row in read_rejected(tmp_path / "out" / "rejected")}
    assert rejected == {english: "like b.jsonl:2", shorter: "like a.jsonl:22"}
    example = facts["near_duplicates"]["examples"][0]
    assert (example["documents"], example["kept"], example["other"]) == (2, "b.jsonl:2", "a.jsonl:1")
    assert longer.startswith(example["text"])


def test_what_differs_in_its_text_stays(tmp_path):
    chance = random.Random(2)
    texts = [english_text(chance) for _ in range(200)] + [chinese_text(chance, 60) for _ in range(200)]
    write(tmp_path / "in", "a.jsonl", texts)
    facts = collect_documents([tmp_path / "in"], tmp_path / "out")
    assert facts["rejected"] == {}
    assert len(kept(tmp_path / "out")) == 400


def test_repeated_paragraphs_stay_once(tmp_path):
    chance = random.Random(3)
    licence = "Permission is hereby granted, free of charge, to any person obtaining a copy of this text to use it."
    notice = "本站所有文章均为原创，未经作者书面许可，任何人不得以任何形式转载、摘编或者镜像。"
    texts = [f"{licence}\n{english_text(chance)}" for _ in range(6)] + [
        f"{chinese_text(chance)}\n{notice}" for _ in range(5)
    ]
    few = "This sentence stands in four texts only, and so it is nobody's header or disclaimer at all."
    texts += [f"{english_text(chance)}\n{few}" for _ in range(4)]
    texts += [f"    {licence}\n{english_text(chance)}" for _ in range(6)]
    write(tmp_path / "in", "a.jsonl", texts)
    facts = collect_documents([tmp_path / "in"], tmp_path / "out")
    everything = "\n".join(kept(tmp_path / "out"))
    assert facts["rejected"] == {}
    assert facts["repeated_paragraphs"] == {"removed": 9, "examples": [[licence, 5], [notice, 4]]}
    assert everything.count(notice) == 1
    assert everything.count(few) == 4
    assert everything.count(licence) == 7  # six of them are indented, as code is
    assert texts[0] in kept(tmp_path / "out")


def test_texts_alike_without_their_headers_are_near_duplicates(tmp_path):
    chance = random.Random(4)
    headers = [f"{number}: {english_text(chance, 60)}" for number in range(2)]
    story = english_text(chance, 60)
    others = [english_text(chance) for _ in range(10)]
    texts = [f"{headers[number % 2]}\n{other}" for number, other in enumerate(others)]
    texts += [f"{headers[0]}\n{story}", f"{headers[1]}\n{story}"]
    write(tmp_path / "in", "a.jsonl", texts)
    facts = collect_documents([tmp_path / "in"], tmp_path / "out")
    assert facts["rejected"] == {"near_duplicate": 1}
    assert sum(story in text for text in kept(tmp_path / "out")) == 1


def test_a_paragraph_outlives_its_keeper_and_a_cluster_counts_once(tmp_path):
    """The first text with the notice turns out to be like another one only when that has lost its header."""
    chance = random.Random(7)
    notice, header, story = english_text(chance, 10), english_text(chance, 80), english_text(chance, 150)
    keeper = f"{notice}\n{story}"
    texts = [f"{header}\n{english_text(chance)}" for _ in range(5)]
    texts += [f"{header}\n{story} {english_text(chance, 14)}", keeper, keeper.replace(story[-20:], ".")]
    texts += [f"{notice}\n{english_text(chance)}" for _ in range(5)]
    write(tmp_path / "in", "a.jsonl", texts)
    facts = collect_documents([tmp_path / "in"], tmp_path / "out")
    details = {row.line: row.detail for row in read_rejected(tmp_path / "out" / "rejected")}
    assert details == {7: "like a.jsonl:6", 8: "like a.jsonl:6"}
    assert facts["near_duplicates"]["clusters"] == 1
    assert [one["kept"] for one in facts["near_duplicates"]["examples"]] == ["a.jsonl:6"]
    everything = "\n".join(kept(tmp_path / "out"))
    assert (everything.count(notice), everything.count(header)) == (1, 1)


def test_a_text_of_nothing_but_repeated_paragraphs_is_set_aside(tmp_path):
    chance = random.Random(5)
    notice = "本站所有文章均为原创，未经作者书面许可，任何人不得以任何形式转载、摘编或者镜像。"
    write(tmp_path / "in", "a.jsonl", [f"{chinese_text(chance)}\n{notice}" for _ in range(5)] + [notice])
    facts = collect_documents([tmp_path / "in"], tmp_path / "out")
    assert facts["rejected"] == {"boilerplate": 1}


@pytest.fixture
def mixed(tmp_path, monkeypatch) -> Path:
    """A folder of many small batches, with everything that repeats, and formats of both kinds."""
    for name, size in (("BATCH_CHARACTERS", 20_000), ("BATCH_ROWS", 40), ("BATCH_FILES", 3)):
        monkeypatch.setattr(f"bimo.text.batches.{name}", size)
    chance = random.Random(6)
    texts = [english_text(chance) for _ in range(150)] + [chinese_text(chance) for _ in range(150)]
    texts += [text.replace(text[20:24], "") for text in texts[::7]] + texts[::11] + ["!", "x"]
    chance.shuffle(texts)
    folder = tmp_path / "in"
    write(folder, "a.jsonl", texts[:200])
    write(folder, "c.jsonl", texts[200:])
    with (folder / "c.jsonl").open("a", encoding="utf-8") as file:
        file.write("{broken\n")
    for number in range(8):
        body = "".join(f"<p>{english_text(chance, 60)}</p>" for _ in range(3))
        (folder / f"b{number}.html").write_text(f"<html><body><article>{body}</article></body></html>", "utf-8")
    (folder / "b9.html").write_text("", "utf-8")
    (folder / "z.docx").write_bytes(b"PK")
    return folder


def test_processes_change_nothing(tmp_path, mixed):
    facts = [collect_documents([mixed], tmp_path / str(workers), workers=workers) for workers in (1, 2, 3)]
    assert facts[0]["rejected"]["near_duplicate"] >= 20
    assert facts[0] == facts[1] == facts[2]
    assert digests(tmp_path / "1") == digests(tmp_path / "2") == digests(tmp_path / "3")
    assert not (tmp_path / "2" / ".cleaning").exists()


@pytest.mark.parametrize("name", ["c.jsonl", "b9.html"])
def test_strict_stops_whoever_reads(tmp_path, mixed, name):
    for other in {"c.jsonl", "b9.html", "z.docx"} - {name}:
        (mixed / other).unlink()
    for workers in (1, 2):
        with pytest.raises(UserError, match=f"{name}.* cannot be read"):
            collect_documents([mixed], tmp_path / "out", TextOptions(strict=True), key="k", workers=workers)
        assert not list((tmp_path / "out").rglob("*.arrow"))


class Stop(KeyboardInterrupt):
    pass


def test_a_stopped_run_goes_on_where_it_was(tmp_path, mixed, monkeypatch):
    import bimo.text.workers as workers

    cleaned: list[int] = []
    clean = workers.clean_batch

    def counting(batch, options, passage_characters):
        if len(cleaned) == 5:
            cleaned.append(-1)
            raise Stop
        cleaned.append(batch.number)
        return clean(batch, options, passage_characters)

    whole = collect_documents([mixed], tmp_path / "whole", workers=1)
    monkeypatch.setattr(workers, "clean_batch", counting)
    with pytest.raises(Stop):
        collect_documents([mixed], tmp_path / "out", key="one", workers=1)
    assert len(list((tmp_path / "out" / ".cleaning").glob("*.arrow"))) == 5
    assert collect_documents([mixed], tmp_path / "out", key="one", workers=1) == whole
    assert sorted(set(cleaned)) == [-1, *range(len(cleaned) - 1)]
    assert digests(tmp_path / "out") == digests(tmp_path / "whole")
    assert not (tmp_path / "out" / ".cleaning").exists()


def test_another_key_begins_anew(tmp_path, mixed, monkeypatch):
    left = tmp_path / "out" / ".cleaning"
    left.mkdir(parents=True)
    (left / "key").write_text("old", "utf-8")
    (left / "batch-0000000.arrow").write_bytes(b"of other sources")
    collect_documents([mixed], tmp_path / "out", key="new", workers=1)
    collect_documents([mixed], tmp_path / "whole", workers=1)
    assert digests(tmp_path / "out") == digests(tmp_path / "whole")


class _Deadly(str):
    """What ends the process that unpacks it, as the system does where memory runs out."""

    def __reduce__(self):
        return os._exit, (9,)


def test_what_was_finished_is_kept_when_the_system_ends_a_process(tmp_path):
    batches = [
        Batch(0, [Document("一个句子。", "a.txt", 1)], last="a.txt"),
        Batch(1, [Document(_Deadly(), "b.pdf", 1)], last="b.pdf"),
    ]
    with pytest.raises(UserError, match=r"cleaning b\.pdf") as caught, CleanedBatches(tmp_path / "c", "key") as cleaned:
        for _ in clean_in_processes(batches, cleaned, TextOptions(), 1000, 1):
            pass
    assert caught.value.code == INTERRUPTED
    with CleanedBatches(tmp_path / "c", "key") as cleaned:
        assert [cleaned.has(number) for number in (0, 1)] == [True, False]


def test_processes_end_with_a_killed_parent(tmp_path, mixed):
    script = (
        "import time, bimo.text.batch_cleaning as cleaning, bimo.text.workers as workers\n"
        "from pathlib import Path\n"
        "from bimo.text.batches import Batch\n"
        "from bimo.text.batch_store import CleanedBatches\n"
        "from bimo.text.options import TextOptions\n"
        "def batches():\n"
        "    for number in range(1000):\n"
        "        yield Batch(number)\n"
        "        time.sleep(0.05)\n"
        f"with CleanedBatches(Path({str(tmp_path / 'c')!r}), 'k') as cleaned:\n"
        "    for _ in workers.clean_in_processes(batches(), cleaned, TextOptions(), 1000, 2):\n"
        "        print('one', flush=True)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "one\n"
    process.kill()
    # The pipe is closed when the last process that has it is gone.
    process.communicate(timeout=20)


SCRIPT = """
import sys
from pathlib import Path
import bimo.text.batches as batches
batches.BATCH_CHARACTERS, batches.BATCH_ROWS, batches.BATCH_FILES = 20_000, 40, 3
from bimo.text import collect_documents
collect_documents([Path(sys.argv[1])], Path(sys.argv[2]), key="one", workers=2)
print("done")
"""


def test_a_killed_run_ends_with_the_same_bytes(tmp_path, mixed):
    """An unguarded script of the user's own, killed again and again, with processes of its own."""
    collect_documents([mixed], tmp_path / "whole", workers=1)
    script = tmp_path / "script.py"
    script.write_text(SCRIPT, "utf-8")
    command = [sys.executable, str(script), str(mixed), str(tmp_path / "out")]
    batches = tmp_path / "out" / ".cleaning"
    for wanted in (1, 4):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)
        while process.poll() is None and len(list(batches.glob("*.arrow"))) < wanted:
            time.sleep(0.005)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert len(list(batches.glob("*.arrow"))) >= 4
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "done\n"
    assert digests(tmp_path / "out") == digests(tmp_path / "whole")


def test_ctrl_c_leaves_a_sentence_and_what_is_finished(tmp_path, mixed):
    """All processes of the group get the signal, as from a terminal."""
    script = "import bimo.text.batches as b; b.BATCH_CHARACTERS, b.BATCH_ROWS, b.BATCH_FILES = 20_000, 40, 3\n"
    script += "import bimo.text.collect as c; c.cores = lambda: 2; c.BATCH_CHARACTERS = 1\n"
    script += "import time, bimo.text.workers as w; clean = w.clean_in_processes\n"
    script += "def slow(batches, *rest):\n"
    script += "    for batch in clean(batches, *rest):\n"
    script += "        yield batch\n"
    script += "        time.sleep(0.3)\n"
    script += "c.clean_in_processes = slow\n"
    script += "from bimo.cli import main; main()\n"
    out = tmp_path / "out"
    command = [sys.executable, "-c", script, "prepare", str(mixed), "--out", str(out), "--quiet"]
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, start_new_session=True, env={**os.environ, "BIMO_LANGUAGE": "en"}
    )
    while process.poll() is None and not list((out / ".cleaning").glob("*.arrow")):
        time.sleep(0.01)
    for _ in range(3):  # an impatient finger
        os.killpg(process.pid, signal.SIGINT)
        time.sleep(0.02)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 5
    assert errors.startswith("bimo: Interrupted. What is finished is kept.")
    assert errors.count("\n") == 1
    assert list((out / ".cleaning").glob("*.arrow"))
