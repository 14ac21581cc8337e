"""Documents on disk, and the whole way from a folder to train, validation and rejected documents with their facts."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from bimo.config import from_mapping, to_mapping
from bimo.runtime import DATA_REFUSED, USAGE, UserError, set_language
from bimo.stages import Stages
from bimo.text import (
    Document,
    DocumentWriter,
    Rejected,
    TextOptions,
    collect_documents,
    read_rejected,
    read_stored,
)
from bimo.text.documents import ALLOWABLE, REASONS
from bimo.text.faults import FAULTS
from bimo.text.split import split_position


@pytest.fixture(autouse=True)
def english():
    set_language("en")
    yield
    set_language(None)


def documents(count: int) -> list[Document]:
    return [Document(f"文本 {number}", "a.txt", number, "zh") for number in range(1, count + 1)]


def folder_of(tmp_path: Path, **files: str | bytes) -> Path:
    folder = tmp_path / "notes"
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        path = folder / name.replace("__", ".")
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def rows(count: int, start: int = 0) -> str:
    return "".join(
        json.dumps({"text": f"这是第 {number} 个文件里的句子。"}) + "\n" for number in range(start, start + count)
    )


# The store


def test_what_is_written_is_read(tmp_path):
    with DocumentWriter(tmp_path, "train") as writer:
        for document in documents(10):
            writer.write(document)
    assert list(read_stored(tmp_path, "train")) == documents(10)
    assert [path.name for path in tmp_path.iterdir()] == ["train-00000.parquet"]


def test_shards_follow_the_number_of_rows(tmp_path):
    with DocumentWriter(tmp_path, "train", rows_per_file=4) as writer:
        for document in documents(10):
            writer.write(document)
    sizes = [pq.ParquetFile(path).metadata.num_rows for path in sorted(tmp_path.iterdir())]
    assert sizes == [4, 4, 2]
    assert list(read_stored(tmp_path, "train")) == documents(10)


def test_row_groups_are_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr("bimo.text.store._GROUP_CHARACTERS", 1000)
    with DocumentWriter(tmp_path, "train") as writer:
        for number in range(50):
            writer.write(Document("字" * 100, "a", number))
    metadata = pq.ParquetFile(tmp_path / "train-00000.parquet").metadata
    assert metadata.num_row_groups == 5
    assert metadata.row_group(0).column(0).compression == "ZSTD"


def test_nothing_written_is_an_empty_file(tmp_path):
    with DocumentWriter(tmp_path, "rejected", kind=Rejected):
        pass
    assert list(read_rejected(tmp_path)) == []
    assert pq.read_schema(tmp_path / "rejected-00000.parquet").names == ["source", "line", "reason", "detail", "text"]


def test_an_error_leaves_no_file(tmp_path):
    def write_and_fail() -> None:
        with DocumentWriter(tmp_path, "train", rows_per_file=2) as writer:
            writer.write(documents(1)[0])
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_and_fail()
    assert list(tmp_path.iterdir()) == []


def test_missing_and_damaged_files_say_so(tmp_path):
    with pytest.raises(UserError, match="holds no train documents"):
        read_stored(tmp_path, "train")
    (tmp_path / "train-00000.parquet").write_bytes(b"PAR1 nonsense")
    with pytest.raises(UserError, match="is damaged"):
        list(read_stored(tmp_path, "train"))


# From a folder to documents


def test_the_facts_add_up(tmp_path):
    folder = folder_of(
        tmp_path,
        a__txt="The old man went to the sea, and he was happy.\n",
        b__jsonl=rows(300) + rows(20) + '{"text": "!"}\n{broken\n',
        c__txt="春眠不觉晓，处处闻啼鸟。".encode("gb18030"),
        d__docx=b"PK",
    )
    facts = collect_documents([folder], tmp_path / "out")
    json.dumps(facts)
    train, validation = (list(read_stored(tmp_path / "out" / "documents", name)) for name in ("train", "validation"))
    rejected = list(read_rejected(tmp_path / "out" / "rejected"))
    for name, kept in (("train", train), ("validation", validation)):
        assert facts[name] == {
            "documents": len(kept),
            "characters": sum(len(document.text) for document in kept),
            "bytes": sum(len(document.text.encode()) for document in kept),
        }
    assert len(train) + len(validation) == 302
    assert facts["files"] == 4
    assert facts["files_unreadable"] == 1
    assert facts["encodings"] == {"gb18030": 1, "utf-8": 2}
    assert facts["languages"]["zh"]["documents"] == 301
    assert facts["languages"]["en"] == {"documents": 1, "characters": 46, "bytes": 46}
    assert facts["rejected"] == {"duplicate": 20, "too_short": 1, "bad_row": 1, "unknown_format": 1}
    assert {row.reason for row in rejected} == set(facts["rejected"])
    assert len(rejected) == 23
    examples = [example for example in facts["rejected_examples"] if example["reason"] == "duplicate"]
    assert len(examples) == 3
    assert (examples[0]["source"], examples[0]["line"]) == ("b.jsonl", 301)
    assert examples[0]["text"] == "这是第 0 个文件里的句子。"
    everything = "".join(document.text for document in train + validation)
    kinds = facts["character_kinds"]
    assert sum(kinds.values()) == len(everything) == facts["train"]["characters"] + facts["validation"]["characters"]
    assert kinds["han"] == sum("\u4e00" <= character <= "\u9fff" for character in everything)
    assert facts["common_characters"][0][1] == max(map(everything.count, "这是第个文件里的句子"))
    assert all(character.isalpha() for character, _ in facts["common_characters"])
    histogram = facts["length_histogram"]
    assert sum(histogram["counts"]) == 302
    for edge, following, count in zip(histogram["edges"], histogram["edges"][1:], histogram["counts"], strict=False):
        assert count == sum(edge <= len(document.text) < following for document in train + validation)


def test_the_split_follows_content_and_both_sides_have_texts(tmp_path):
    collect_documents([folder_of(tmp_path, a__jsonl=rows(200))], tmp_path / "out", TextOptions(validation_share=0.3))
    sides = {name: list(read_stored(tmp_path / "out" / "documents", name)) for name in ("train", "validation")}
    assert 30 < len(sides["validation"]) < 90
    assert all(split_position(document.text, 0) < 0.3 for document in sides["validation"])
    assert not any(split_position(document.text, 0) < 0.3 for document in sides["train"])


def test_names_that_are_no_text_are_told_of(tmp_path):
    """JSON can spell half a character, and what is wrong with a table names its columns."""
    folder = folder_of(tmp_path, a__jsonl='{"\\ud800half": "some words"}\n', b__jsonl='{"note": "more words"}\n' * 2)
    collect_documents([folder], tmp_path / "out", TextOptions(text_column="note", allow=("near_duplicate",)))
    (rejected,) = (one for one in read_rejected(tmp_path / "out" / "rejected") if one.reason == "no_column")
    assert rejected.detail == "a.jsonl has no column note. It has: half."


@pytest.mark.parametrize("count", [2, 3, 5])
@pytest.mark.parametrize("share", [0.001, 0.999])
def test_few_documents_still_give_both_sides(tmp_path, count, share):
    options = TextOptions(validation_share=share)
    facts = collect_documents([folder_of(tmp_path, a__jsonl=rows(count))], tmp_path / "out", options)
    assert min(facts["train"]["documents"], facts["validation"]["documents"]) == 1
    assert facts["train"]["documents"] + facts["validation"]["documents"] == count
    smaller = min(("train", "validation"), key=lambda name: facts[name]["documents"])
    moved = list(read_stored(tmp_path / "out" / "documents", smaller))
    lines = rows(count).splitlines(keepends=True)
    collect_documents([folder_of(tmp_path, a__jsonl="".join(reversed(lines)))], tmp_path / "two", options)
    assert [d.text for d in read_stored(tmp_path / "two" / "documents", smaller)] == [d.text for d in moved]


def test_one_document_is_for_training(tmp_path):
    facts = collect_documents(
        [folder_of(tmp_path, a__txt="一句话而已。")], tmp_path / "out", TextOptions(validation_share=0.001)
    )
    assert (facts["train"]["documents"], facts["validation"]["documents"]) == (1, 0)


def test_two_runs_write_the_same_bytes(tmp_path):
    folder = folder_of(tmp_path, a__jsonl=rows(50), b__txt="第一段。\n" * 3)
    facts = [collect_documents([folder], tmp_path / name) for name in ("one", "two")]
    assert facts[0] == facts[1]
    for path in sorted((tmp_path / "one").rglob("*.parquet")):
        assert path.read_bytes() == (tmp_path / "two" / path.relative_to(tmp_path / "one")).read_bytes()


def test_languages_are_kept_or_refused(tmp_path):
    folder = folder_of(
        tmp_path, a__txt="中文句子在这里。", b__txt="An English sentence for us.", c__txt="안녕하세요 여러분"
    )
    facts = collect_documents([folder], tmp_path / "out", TextOptions(languages=("zh", "en")))
    assert facts["rejected"] == {"language": 1}
    assert sorted(facts["languages"]) == ["en", "zh"]
    assert facts["languages_left_out"] == {"ko": 1}


@pytest.mark.parametrize(
    ("script", "expected"), [("simplified", "头发和后来发现的事"), ("traditional", "頭髮和後來發現的事"), ("", None)]
)
def test_chinese_is_brought_into_one_script(tmp_path, script, expected):
    texts = {"頭髮和後來發現的事", "头发和后来发现的事"}
    lines = "".join(json.dumps({"text": text}) + "\n" for text in sorted(texts))
    folder = folder_of(tmp_path, a__jsonl=lines, b__txt="The 頭 stays as it is in this English sentence.")
    facts = collect_documents([folder], tmp_path / "out", TextOptions(chinese=script))
    kept = {d.text for name in ("train", "validation") for d in read_stored(tmp_path / "out" / "documents", name)}
    assert kept == (texts if expected is None else {expected}) | {"The 頭 stays as it is in this English sentence."}
    assert facts["converted_documents"] == (script != "")
    assert facts["rejected"] == ({"duplicate": 1} if script else {})


def test_another_script_is_refused(tmp_path):
    with pytest.raises(UserError, match="--chinese must be simplified or traditional"):
        collect_documents([folder_of(tmp_path, a__txt="x")], tmp_path / "out", TextOptions(chinese="old"))


def test_boilerplate_is_counted(tmp_path):
    folder = folder_of(tmp_path, a__txt="今天很好。\n京ICP备12345678号\n", b__txt="京ICP备12345678号\n")
    facts = collect_documents([folder], tmp_path / "out")
    assert facts["boilerplate_lines"] == 2
    assert facts["rejected"] == {"boilerplate": 1}


def test_a_book_ten_times_over_is_mostly_duplicates_on_one_side(tmp_path):
    book = "".join(f"第{number}段，话说那{number * 7919 % 1000}年的事情，谁也说不清楚了。\n\n" for number in range(900))
    facts = collect_documents([folder_of(tmp_path, a__txt=book * 10)], tmp_path / "out")
    kept = facts["train"]["characters"] + facts["validation"]["characters"]
    assert kept < 1.3 * len(book)
    train, validation = (
        {d.text for d in read_stored(tmp_path / "out" / "documents", n)} for n in ("train", "validation")
    )
    assert validation
    assert not train & validation


def test_a_table_without_the_column_is_set_aside_unless_none_has_it(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "notes.txt").write_text("Plain words of its owner.", "utf-8")
    (folder / "package.json").write_text('{"name": "{x}", "description": "no text of ours"}', "utf-8")
    (folder / "rows.csv").write_text("id,body\n1,The cat sat on the mat.\n2,The dog lay on the rug.\n", "utf-8")
    facts = collect_documents([folder], tmp_path / "out", TextOptions(text_column="body"))
    assert facts["rejected"] == {"no_column": 1}
    assert facts["train"]["documents"] + facts["validation"]["documents"] == 3
    with pytest.raises(UserError, match=r"package\.json .* has no column body"):
        collect_documents([folder], tmp_path / "out", TextOptions(text_column="body", strict=True))
    with pytest.raises(UserError, match=r"No table has the column bodi\..* package\.json has no column bodi"):
        collect_documents([folder], tmp_path / "out", TextOptions(text_column="bodi"))


def test_strict_stops_at_the_first_bad_row(tmp_path):
    folder = folder_of(tmp_path, a__jsonl=rows(3) + "{broken\n" + rows(2, 9))
    with pytest.raises(UserError, match=r"a\.jsonl:4 cannot be read.*not valid JSON") as caught:
        collect_documents([folder], tmp_path / "out", TextOptions(strict=True))
    assert caught.value.code == DATA_REFUSED
    assert not list((tmp_path / "out").rglob("*.parquet*"))
    collect_documents([folder_of(tmp_path, a__jsonl=rows(3) + rows(1))], tmp_path / "out", TextOptions(strict=True))


def test_nothing_left_says_why(tmp_path):
    folder = folder_of(tmp_path, a__txt="!!!", b__docx=b"PK", c__docx=b"PK")
    with pytest.raises(UserError, match=r"3 pieces were set aside \(2 x the format.*a\.txt:1") as caught:
        collect_documents([folder], tmp_path / "out")
    assert caught.value.code == DATA_REFUSED


def test_impossible_shares_are_refused(tmp_path):
    with pytest.raises(UserError, match="between 0 and 1") as caught:
        collect_documents([folder_of(tmp_path, a__txt="x")], tmp_path / "out", TextOptions(validation_share=1.5))
    assert caught.value.code == USAGE


def test_out_below_the_source_is_not_read_again(tmp_path):
    folder = folder_of(tmp_path, a__jsonl=rows(20))
    Stages(folder / "data").begin()
    first = collect_documents([folder], folder / "data")
    assert collect_documents([folder], folder / "data") == first
    assert collect_documents([folder], folder / "other") == first


def test_progress_goes_from_none_to_all(tmp_path):
    seen: list[float] = []
    folder = folder_of(tmp_path, a__jsonl=rows(1500), b__txt="最后一个。")
    collect_documents([folder], tmp_path / "out", progress=lambda done, text: seen.append(done))
    assert seen == sorted(seen)
    assert (seen[0], seen[-1]) == (0.0, 1.0)
    assert len(seen) > 5


def test_options_are_settings():
    options = from_mapping(TextOptions, {"languages": ["zh"], "validation_share": 0.2, "strict": True})
    assert options == TextOptions(languages=("zh",), validation_share=0.2, strict=True)
    assert from_mapping(TextOptions, to_mapping(options)) == options


def test_importing_is_light():
    heavy = "pyarrow rjieba ftfy trafilatura pypdf py3langid zstandard torch"
    code = f"import sys, bimo.text; print([name for name in {heavy.split()} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("number", range(20))
def test_a_single_document_is_trained_on(tmp_path, number):
    (tmp_path / "only.txt").write_text(f"The only document there is, number {number}.", encoding="utf-8")
    facts = collect_documents([tmp_path / "only.txt"], tmp_path / "out")
    assert (facts["train"]["documents"], facts["validation"]["documents"]) == (1, 0)


def test_rules_are_turned_off_by_their_reasons(tmp_path):
    links = "\n".join(f"https://example.org/page/{number}" for number in range(20))
    sentence = "The river runs through the old garden where the teacher reads her letters every morning in winter. "
    lines = [
        links,
        sentence * 3,
        sentence * 3 + "And then it rained.",
        "Copyright 2020 Example. All rights reserved.",
        "哦",
    ]
    folder = folder_of(tmp_path, a__jsonl="".join(json.dumps({"text": line}) + "\n" for line in lines))
    strict = collect_documents([folder], tmp_path / "strict")
    assert strict["rejected"] == {"links": 1, "near_duplicate": 1, "boilerplate": 1, "too_short": 1}
    for reason in strict["rejected"]:
        facts = collect_documents([folder], tmp_path / reason, TextOptions(allow=(reason,)))
        assert facts["rejected"] == {other: 1 for other in strict["rejected"] if other != reason}
    with pytest.raises(UserError, match="--allow cannot turn off 'unreadable'"):
        collect_documents([folder], tmp_path / "out", TextOptions(allow=("unreadable",)))


def test_what_may_be_allowed_is_a_reason():
    assert set(ALLOWABLE) <= set(REASONS)
    assert set(FAULTS) <= set(ALLOWABLE)
