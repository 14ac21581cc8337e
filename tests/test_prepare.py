"""Preparing: nothing is done twice, nothing stale is used, nothing of the user's is lost, memory stays bounded."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from stories import stories, write_stories

import bimo
from bimo.files import locked, read_json
from bimo.prepare import PrepareConfig, prepare
from bimo.runtime import DATA_REFUSED, NO_ROOM, UserError
from bimo.stages import Stages
from bimo.text.options import TextOptions
from bimo.text.store import read_rejected, read_stored
from bimo.tokens.shards import TokenShards
from bimo.tokens.tokenizer import load_tokenizer

STAGES = ("documents", "tokenizer", "tokens")
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(bimo.__file__).parents[1]), "OMP_NUM_THREADS": "1"}


@pytest.fixture
def source(tmp_path):
    write_stories(tmp_path / "notes" / "english.txt", 60)
    write_stories(tmp_path / "notes" / "中文.txt", 40, chinese=True)
    return tmp_path / "notes"


@pytest.fixture
def out(tmp_path):
    return tmp_path / "data"


def stamps(folder: Path) -> dict[str, tuple[int, int]]:
    """Of each file: the inode, which a rewritten file does not keep, and the time of its last change.

    The report is left out: it is made anew from the facts, in the language of the moment.
    """
    return {
        path.relative_to(folder).as_posix(): (path.stat().st_ino, path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file() and path.name not in (".lock", "report.html")
    }


def redone(out: Path, change: Callable[[], Any]) -> set[str]:
    """Which stages write their files anew when `change` is called."""
    before = stamps(out)
    change()
    after = stamps(out)
    changed = {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
    parts = {"documents": "documents/", "tokenizer": "tokenizer", "tokens": "tokens/"}
    return {stage for stage, start in parts.items() if any(name.startswith(start) for name in changed)}


def test_a_folder_of_text_becomes_documents_tokenizer_and_tokens(source, out):
    facts = prepare([source], out=out)
    assert set(facts) == set(STAGES)
    tokenizer = load_tokenizer(out)
    for split in ("train", "validation"):
        texts = [document.text for document in read_stored(out / "documents", split)]
        shards = TokenShards(out / "tokens", split)
        shards.verify()
        assert [tokenizer.decode(ids.tolist()) for ids in shards.documents()] == texts
        assert facts["tokens"][split] == {
            "tokens": len(shards),
            "documents": len(texts),
            "bytes": sum(len(text.encode()) for text in texts),
        }
        assert facts["documents"][split]["documents"] == len(texts)
    assert set(facts["documents"]["languages"]) == {"zh", "en"}
    assert facts["tokenizer"]["vocabulary"] == tokenizer.vocabulary
    assert facts["tokenizer"]["source"] == "trained"
    assert json.loads(json.dumps(facts)) == facts
    train = {document.text for document in read_stored(out / "documents", "train")}
    assert not train & {document.text for document in read_stored(out / "documents", "validation")}


def test_unchanged_input_is_not_prepared_again(source, out):
    first = prepare([source], out=out)
    before = stamps(out)
    assert prepare([source], out=out) == first
    assert stamps(out) == before


def test_the_same_text_gives_the_same_data_in_another_place(source, out, tmp_path):
    prepare([source], out=out)
    source.rename(tmp_path / "moved")
    prepare([tmp_path / "moved"], out=tmp_path / "again")
    one, two = read_json(out / "manifest.json"), read_json(tmp_path / "again" / "manifest.json")
    assert {name: one["stages"][name]["key"] for name in STAGES} == {
        name: two["stages"][name]["key"] for name in STAGES
    }
    for name in ("tokenizer.json", "tokens/train-00000.bin", "tokens/validation-00000.bin"):
        assert (out / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_a_touched_file_is_the_same_file(source, out):
    prepare([source], out=out)
    os.utime(source / "english.txt", (1, 1))
    assert redone(out, lambda: prepare([source], out=out)) == set()


@pytest.mark.parametrize(
    "change",
    [
        lambda source: (source / "english.txt").write_text(stories(60, seed=1)),
        lambda source: write_stories(source / "more.txt", 3, seed=9),
        lambda source: (source / "english.txt").unlink(),
        lambda source: (source / "english.txt").rename(source / "renamed.txt"),
    ],
    ids=["changed", "added", "removed", "renamed"],
)
def test_changed_text_is_prepared_again_and_nothing_stale_is_left(source, out, tmp_path, change):
    prepare([source], out=out)
    change(source)
    assert redone(out, lambda: prepare([source], out=out)) >= {"documents"}
    prepare([source], out=tmp_path / "fresh")
    for split in ("train", "validation"):
        assert list(read_stored(out / "documents", split)) == list(read_stored(tmp_path / "fresh/documents", split))
        assert (
            TokenShards(out / "tokens", split).fingerprint == TokenShards(tmp_path / "fresh/tokens", split).fingerprint
        )
    assert (out / "tokenizer.json").read_bytes() == (tmp_path / "fresh" / "tokenizer.json").read_bytes()


def test_another_vocabulary_keeps_the_documents(source, out):
    prepare([source], out=out)
    smaller = PrepareConfig(vocabulary=300)
    assert redone(out, lambda: prepare([source], out=out, settings=smaller)) == {"tokenizer", "tokens"}
    assert load_tokenizer(out).vocabulary == 300
    assert max(int(ids.max()) for ids in TokenShards(out / "tokens", "train").documents()) < 300


@pytest.mark.parametrize(
    "options",
    [{"languages": ("zh",)}, {"seed": 3}, {"validation_share": 0.3}, {"strict": True}, {"text_column": "body"}],
    ids=lambda options: next(iter(options)),
)
def test_another_option_of_reading_starts_from_the_documents(source, out, options):
    prepare([source], out=out)
    settings = PrepareConfig(text=replace(TextOptions(), **options))
    assert "documents" in redone(out, lambda: prepare([source], out=out, settings=settings))


@pytest.mark.parametrize("damage", ["delete", "cut", "empty"])
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("documents/train-00000.parquet", {"documents"}),
        ("documents/validation-00000.parquet", {"documents"}),
        ("tokenizer.json", {"tokenizer"}),
        ("tokenizer_config.json", {"tokenizer"}),
        ("tokens/train-00000.bin", {"tokens"}),
        ("tokens/validation-00000.bin", {"tokens"}),
    ],
)
def test_a_damaged_output_is_made_again_and_no_other(prepared, name, expected, damage):
    source, out = prepared
    path = out / name
    whole = path.read_bytes()
    if damage == "delete":
        path.unlink()
    else:
        path.write_bytes(whole[: len(whole) // 2] if damage == "cut" else b"")
    assert redone(out, lambda: prepare([source], out=out)) == expected
    if not name.startswith("documents"):
        assert path.read_bytes() == whole
    assert redone(out, lambda: prepare([source], out=out)) == set()


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A small source and the data made of it, for tests that leave them as they were."""
    folder = tmp_path_factory.mktemp("prepared")
    source = write_stories(folder / "notes" / "a.txt", 40).parent
    prepare([source], out=folder / "data")
    return source, folder / "data"


def test_a_lost_manifest_does_not_make_the_folder_ours(prepared, tmp_path):
    source, data = prepared
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "tokenizer.json").write_bytes((data / "tokenizer.json").read_bytes())
    with pytest.raises(UserError, match="is taken"):
        prepare([source], out=taken)


@pytest.mark.parametrize("name", ["thesis.docx", "documents/thesis.docx", ".hidden", "tokens/mine.bin"])
def test_a_folder_that_holds_other_files_is_refused_and_left_alone(prepared, tmp_path, name):
    source, _ = prepared
    path = tmp_path / "taken" / name
    path.parent.mkdir(parents=True)
    path.write_text("precious")
    with pytest.raises(UserError, match="is taken: it holds files that are not prepared data"):
        prepare([source], out=tmp_path / "taken")
    assert [file.read_text() for file in (tmp_path / "taken").rglob("*") if file.is_file()] == ["precious"]


def test_an_out_that_is_a_file_is_refused(prepared, tmp_path):
    (tmp_path / "file").write_text("precious")
    with pytest.raises(UserError, match=r"taken|is a file"):
        prepare([prepared[0]], out=tmp_path / "file")
    assert (tmp_path / "file").read_text() == "precious"


def test_a_manifest_of_something_else_is_refused(prepared, tmp_path):
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "manifest.json").write_text('{"name": "my site"}')
    with pytest.raises(UserError, match=r"manifest\.json"):
        prepare([prepared[0]], out=tmp_path / "site")
    assert (tmp_path / "site" / "manifest.json").read_text() == '{"name": "my site"}'


def test_an_empty_folder_is_not_taken(prepared, tmp_path):
    (tmp_path / "empty").mkdir()
    assert prepare([prepared[0]], out=tmp_path / "empty")["tokens"]["train"]["tokens"] > 1000


def test_a_refused_corpus_can_be_mended_and_prepared_in_the_same_folder(tmp_path, out):
    source = tmp_path / "notes"
    source.mkdir()
    (source / "a.txt").write_text("....\n\n!!!!\n")
    with pytest.raises(UserError, match="No text is left") as caught:
        prepare([source], out=out)
    assert caught.value.code == DATA_REFUSED
    write_stories(source / "a.txt", 40)
    assert prepare([source], out=out)["documents"]["train"]["documents"] > 30


def test_a_refused_change_leaves_the_earlier_data_as_it_was(source, out):
    prepare([source], out=out)
    before = stamps(out)
    with pytest.raises(UserError, match="No text is left"):
        prepare([source], out=out, settings=PrepareConfig(text=TextOptions(languages=("fr",))))
    after = stamps(out)
    assert {name for name in after if before.get(name) != after[name]} == {"manifest.json"}
    assert redone(out, lambda: prepare([source], out=out)) == set()


@pytest.mark.parametrize("stopped_in", ["collect_documents", "train_tokenizer", "_pack"])
def test_a_stopped_change_leaves_no_tokens_to_train_on(source, out, monkeypatch, stopped_in):
    prepare([source], out=out)
    write_stories(source / "more.txt", 3, seed=9)

    def stop(*arguments: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(sys.modules["bimo.prepare"], stopped_in, stop)
    with pytest.raises(KeyboardInterrupt):
        prepare([source], out=out)
    with pytest.raises(UserError, match="not completely"):
        Stages(out).key("tokens")
    monkeypatch.undo()
    assert "tokens" in redone(out, lambda: prepare([source], out=out))


def test_what_is_set_aside_stands_in_rejected(tmp_path, out):
    source = tmp_path / "notes"
    text = stories(50)
    (source).mkdir()
    passages = [*text.strip().split("\n\n"), "!!!! ???? ****", text.split("\n\n")[3]]
    rows = [json.dumps({"text": passage}) for passage in passages]
    (source / "a.jsonl").write_text("\n".join([*rows, '{"text": broken']))
    (source / "b.bin").write_bytes(bytes(range(256)) * 20)
    facts = prepare([source], out=out)["documents"]
    rejected = list(read_rejected(out / "rejected"))
    assert facts["rejected"]["duplicate"] == 1
    assert {(each.source, each.line) for each in rejected} >= {("a.jsonl", 51), ("a.jsonl", 52), ("a.jsonl", 53)}
    assert sum(facts["rejected"].values()) == len(rejected)
    assert len(rejected) + facts["train"]["documents"] + facts["validation"]["documents"] == len(rows) + 2


def test_an_out_inside_the_source_is_not_read(source):
    inside = source / "prepared"
    first = prepare([source], out=inside)
    before = stamps(inside)
    assert prepare([source], out=inside) == first
    assert stamps(inside) == before


def test_a_tokenizer_that_is_brought_is_used_as_it_is(source, out, tmp_path, tiny_tokenizer):
    tiny_tokenizer.save(tmp_path / "own")
    for given in (tmp_path / "own", tmp_path / "own" / "tokenizer.json"):
        facts = prepare([source], out=out, settings=PrepareConfig(tokenizer=str(given)))
        assert load_tokenizer(out).inner.to_str() == tiny_tokenizer.inner.to_str()
        assert facts["tokenizer"]["vocabulary"] == tiny_tokenizer.vocabulary
        # The file holds what the folder does, so that there is nothing to do again.
        assert facts["tokenizer"]["source"] == str(tmp_path / "own")
    assert redone(out, lambda: prepare([source], out=out)) == {"tokenizer", "tokens"}


@pytest.mark.parametrize("content", [None, "{}", "not json", '{"model": 3}'])
def test_a_tokenizer_that_is_none_is_refused_before_the_text_is_read(source, out, tmp_path, content):
    path = tmp_path / "tokenizer.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError, match="tokenizer"):
        prepare([source], out=out, settings=PrepareConfig(tokenizer=str(path)))
    assert not (out / "documents").exists()


def test_too_small_a_disk_is_noticed_before_the_work(source, out, monkeypatch):
    from bimo import files

    monkeypatch.setattr(files.shutil, "disk_usage", lambda folder: type("usage", (), {"free": 1000}))
    with pytest.raises(UserError, match="MB free") as caught:
        prepare([source], out=out)
    assert caught.value.code == NO_ROOM
    assert not (out / "documents").exists()


def test_a_full_disk_does_not_stop_what_needs_no_more_room(prepared, monkeypatch):
    from bimo import files

    monkeypatch.setattr(files.shutil, "disk_usage", lambda folder: type("usage", (), {"free": 1000}))
    source, out = prepared
    assert redone(out, lambda: prepare([source], out=out)) == set()


def test_a_vocabulary_that_is_none_is_refused_before_the_work(prepared, tmp_path):
    with pytest.raises(UserError, match="--vocabulary must be at least 0"):
        prepare([prepared[0]], out=tmp_path / "out", settings=PrepareConfig(vocabulary=-1))
    assert not (tmp_path / "out").exists()


def test_a_reference_may_lie_in_a_folder_whose_name_is_no_text(prepared, tmp_path):
    source, _ = prepared
    reference = write_stories(tmp_path / os.fsdecode(b"\xc4\xe3") / "a.txt", 20).parent
    settings = PrepareConfig(text=TextOptions(reference=(str(reference),)))
    assert prepare([source], out=tmp_path / "out", settings=settings)["tokens"]["train"]["tokens"] > 1000


def test_what_settings_name_counts_by_its_content(prepared, tmp_path):
    out = prepared[1]
    reference = write_stories(tmp_path / "a" / "old.txt", 20).parent
    same, other = shutil.copytree(reference, tmp_path / "b"), write_stories(tmp_path / "c" / "old.txt", 21).parent
    tokenizer = shutil.copy(out / "tokenizer.json", tmp_path / "tokenizer.json")

    def content(reference: Path, tokenizer: Path) -> dict[str, Any]:
        return PrepareConfig(text=TextOptions(reference=(str(reference),)), tokenizer=str(tokenizer)).by_content()

    assert content(reference, out / "tokenizer.json") == content(same, Path(tokenizer))
    assert content(reference, out / "tokenizer.json") != content(other, out / "tokenizer.json")


def test_a_folder_in_use_is_refused(source, out):
    code = (
        "import sys\nfrom pathlib import Path\nfrom bimo.files import locked\n"
        "with locked(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, out]
    with subprocess.Popen(command, env=ENVIRONMENT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(UserError, match="Another bimo process is working"):
            prepare([source], out=out)
        other.kill()
    with locked(out):
        prepare([source], out=out)


PREPARE = """
import json, resource, sys
from bimo.prepare import prepare
prepare([sys.argv[1]], out=sys.argv[2])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def start(source: Path, out: Path, **environment: str) -> subprocess.Popen:
    command = [sys.executable, "-c", PREPARE, source, out]
    both = {**ENVIRONMENT, **environment}
    return subprocess.Popen(command, env=both, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_the_number_of_threads_changes_no_byte(source, tmp_path):
    found = []
    for threads in ("1", "3"):
        out = tmp_path / threads
        _, errors = start(source, out, RAYON_NUM_THREADS=threads, FASTOKENS_BPE_THREADS=threads).communicate()
        assert errors == ""
        found.append({name: (out / name).read_bytes() for name in stamps(out)})
    assert found[0] == found[1]
    assert "tokens/train-00000.bin" in found[0]


@pytest.mark.slow
@pytest.mark.parametrize(
    "seen", ["documents.bimo-part/train-00000.parquet.bimo-part", "tokenizer.json", "tokens.bimo-part"]
)
def test_a_killed_preparation_is_taken_up_again(tmp_path, out, seen):
    source = write_stories(tmp_path / "notes" / "a.txt", 40_000)
    process = start(source, out)
    deadline = time.monotonic() + 60
    while not (out / seen).exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL, "it was done before it could be killed"
    after = start(source, out)
    _, errors = after.communicate(timeout=120)
    assert after.returncode == 0, errors
    left = {path.name for path in out.iterdir()} - {".lock", "report.html", "data_sheet.json"}
    assert left == {"documents", "rejected", "tokens", "manifest.json", "tokenizer.json", "tokenizer_config.json"}


@pytest.mark.slow
def test_memory_does_not_grow_with_the_corpus(tmp_path):
    """Distinct text, so that neither the digests of duplicates nor the tokenizer can hide behind repetition."""
    peaks = []
    for times in (1, 10):
        source = write_stories(tmp_path / f"{times}.txt", 12_000 * times)
        process = start(source, tmp_path / f"data-{times}")
        output, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors
        peaks.append(int(output))
    assert peaks[1] < 1.3 * peaks[0]
