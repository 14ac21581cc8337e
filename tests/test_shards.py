"""Packed tokens: what is read is what was written, across files; damaged and foreign files are refused by name."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bimo.runtime import UserError
from bimo.tokens.shards import HEADER_BYTES, MAGIC, TokenShards, TokenWriter

END = 7
DOCUMENTS = [[1, 2, 3], [], [4] * 10, [5, 6], [8], [9, 10, 11, 12], list(range(100, 130))]


def write(
    folder: Path, documents: list[list[int]] = DOCUMENTS, *, vocabulary: int = 500, **options: int
) -> TokenShards:
    with TokenWriter(folder, "train", vocabulary=vocabulary, end=END, **options) as writer:
        for document in documents:
            writer.write([document])
    shards = TokenShards(folder, "train")
    assert (writer.documents, writer.tokens) == (len(documents), len(shards))
    return shards


def header_of(path: Path) -> dict:
    head = path.read_bytes()[:HEADER_BYTES]
    assert head.startswith(MAGIC)
    return json.loads(head[len(MAGIC) :])


def with_header(path: Path, **changes: object) -> None:
    data = path.read_bytes()
    header = {name: value for name, value in {**header_of(path), **changes}.items() if value is not None}
    path.write_bytes((MAGIC + json.dumps(header).encode()).ljust(HEADER_BYTES) + data[HEADER_BYTES:])


def test_one_file_holds_documents_between_ends(tmp_path: Path) -> None:
    shards = write(tmp_path)
    expected = [END, *(token for document in DOCUMENTS for token in [*document, END])]
    assert shards.read(0, len(shards)).tolist() == expected
    assert shards.read(0, 3).dtype == np.int64
    assert (shards.end, [path.name for path in tmp_path.iterdir()]) == (END, ["train-00000.bin"])


def test_header_describes_the_ids(tmp_path: Path) -> None:
    shards = write(tmp_path)
    path = tmp_path / "train-00000.bin"
    ids = path.read_bytes()[HEADER_BYTES:]
    assert header_of(path) == {
        "dtype": "uint16",
        "tokens": len(shards),
        "documents": len(DOCUMENTS),
        "end": END,
        "sha256": hashlib.sha256(ids).hexdigest(),
    }
    assert np.frombuffer(ids, "<u2").tolist() == shards.read(0, len(shards)).tolist()


@pytest.mark.parametrize(("vocabulary", "bytes_"), [(2**16, 2), (2**16 + 1, 4)])
def test_ids_are_as_wide_as_the_vocabulary_needs(tmp_path: Path, vocabulary: int, bytes_: int) -> None:
    document = [0, vocabulary - 1, vocabulary // 2]
    shards = write(tmp_path, [document], vocabulary=vocabulary)
    assert shards.read(1, 3).tolist() == document
    assert (tmp_path / "train-00000.bin").stat().st_size == HEADER_BYTES + 5 * bytes_


documents_ = st.lists(st.lists(st.integers(0, 499).filter(lambda token: token != END), max_size=12), max_size=12)


@given(documents_, st.integers(2, 30), st.data())
def test_several_files_read_as_one(
    tmp_path_factory: pytest.TempPathFactory, documents: list[list[int]], tokens_per_file: int, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("shards")
    shards = write(folder, documents, tokens_per_file=tokens_per_file)
    assert [document.tolist() for document in shards.documents()] == documents
    whole: list[int] = []
    for path in sorted(folder.glob("train-*.bin")):
        ids = np.frombuffer(path.read_bytes()[HEADER_BYTES:], "<u2").tolist()
        assert ids[0] == ids[-1] == END
        assert header_of(path)["documents"] == ids.count(END) - 1
        # Only a document that is too long by itself makes a file longer than asked.
        assert len(ids) <= tokens_per_file or ids.count(END) == 2
        whole += ids
    assert shards.read(0, len(shards)).tolist() == whole
    start = data.draw(st.integers(0, len(whole)))
    count = data.draw(st.integers(0, len(whole) - start))
    assert shards.read(start, count).tolist() == whole[start : start + count]
    shards.verify()


def files_of(documents: list[list[int]], tokens_per_file: int) -> list[list[int]]:
    """The slow twin of the writer: what each file holds, document by document."""
    files = [[END]]
    for document in documents:
        if len(files[-1]) + len(document) >= tokens_per_file and len(files[-1]) > 1:
            files.append([END])
        files[-1] += [*document, END]
    return files


@given(st.lists(documents_, max_size=4), st.integers(2, 40))
def test_batches_are_packed_as_documents_one_by_one(
    tmp_path_factory: pytest.TempPathFactory, batches: list[list[list[int]]], tokens_per_file: int
) -> None:
    folder = tmp_path_factory.mktemp("shards")
    with TokenWriter(folder, "train", vocabulary=500, end=END, tokens_per_file=tokens_per_file) as writer:
        for batch in batches:
            ids = np.array([token for document in batch for token in document], dtype=np.uint32)
            writer.write_flat(ids, np.cumsum([len(document) for document in batch], dtype=np.int64))
    paths = sorted(folder.glob("train-*.bin"))
    found = [np.frombuffer(path.read_bytes()[HEADER_BYTES:], "<u2").tolist() for path in paths]
    documents = [document for batch in batches for document in batch]
    assert found == files_of(documents, tokens_per_file)
    assert [header_of(path)["documents"] for path in paths] == [file.count(END) - 1 for file in found]
    assert (writer.documents, writer.tokens) == (len(documents), sum(map(len, found)))


def test_reading_beyond_the_end_is_an_error(tmp_path: Path) -> None:
    shards = write(tmp_path, tokens_per_file=8)
    assert len(list(tmp_path.glob("*.bin"))) > 3
    assert shards.read(len(shards), 0).tolist() == []
    for start, count in ((-1, 2), (len(shards) - 1, 2), (len(shards), 1)):
        with pytest.raises(IndexError):
            shards.read(start, count)


def test_fingerprint_names_the_content(tmp_path: Path) -> None:
    first = write(tmp_path / "a").fingerprint
    assert write(tmp_path / "b").fingerprint == first
    assert write(tmp_path / "c", [*DOCUMENTS[:-1], [1]]).fingerprint != first


def test_splits_do_not_mix(tmp_path: Path) -> None:
    write(tmp_path)
    with TokenWriter(tmp_path, "validation", vocabulary=500, end=END) as writer:
        writer.write([[42]])
    assert TokenShards(tmp_path, "validation").read(0, 3).tolist() == [END, 42, END]
    assert len(TokenShards(tmp_path, "train")) == sum(map(len, DOCUMENTS)) + len(DOCUMENTS) + 1


def test_nothing_there_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no packed train tokens"):
        TokenShards(tmp_path, "train")


def test_a_writer_that_died_leaves_no_file_that_is_believed(tmp_path: Path) -> None:
    def die() -> None:
        with TokenWriter(tmp_path, "train", vocabulary=500, end=END) as writer:
            writer.write(DOCUMENTS)
            raise RuntimeError("power cut")

    with pytest.raises(RuntimeError):
        die()
    with pytest.raises(UserError, match="not a file of packed tokens"):
        TokenShards(tmp_path, "train")


@pytest.mark.parametrize("kept", [0, 5, 100, HEADER_BYTES - 1, HEADER_BYTES, HEADER_BYTES + 9, -1])
def test_a_file_cut_short_is_refused(tmp_path: Path, kept: int) -> None:
    write(tmp_path)
    path = tmp_path / "train-00000.bin"
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(UserError, match=r"train-00000\.bin is (damaged|not a file of packed tokens)"):
        TokenShards(tmp_path, "train")


def test_a_file_with_more_than_was_written_is_refused(tmp_path: Path) -> None:
    write(tmp_path)
    path = tmp_path / "train-00000.bin"
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(UserError, match=r"train-00000\.bin"):
        TokenShards(tmp_path, "train")


@pytest.mark.parametrize(
    "content", [b"", b"\0" * 5000, b"PK\x03\x04" + b"x" * 9000, MAGIC, MAGIC + b"[1, 2]".ljust(9000)]
)
def test_a_foreign_file_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "train-00000.bin").write_bytes(content)
    with pytest.raises(UserError, match="not a file of packed tokens"):
        TokenShards(tmp_path, "train")


# A dtype of "object" would make numpy follow the bytes of the file as pointers.
@pytest.mark.parametrize(
    "changes",
    [
        {"tokens": 2, "dtype": "object"},
        {"dtype": "int16"},
        {"dtype": "float16"},
        {"dtype": "no such thing"},
        {"dtype": None},
        {"tokens": 8.0},
        {"tokens": -1},
        {"tokens": 9},
        {"tokens": "8"},
        {"tokens": None},
        {"end": None},
        {"end": "x"},
        {"sha256": None},
        {"sha256": 5},
    ],
)
def test_a_header_that_makes_no_sense_is_refused(tmp_path: Path, changes: dict) -> None:
    assert len(write(tmp_path, [[1, 2, 3, 4, 5, 6]])) == 8
    path = tmp_path / "train-00000.bin"
    with_header(path)
    TokenShards(tmp_path, "train").verify()
    with_header(path, **changes)
    with pytest.raises(UserError, match=r"train-00000\.bin is (not a file of packed tokens|damaged)"):
        TokenShards(tmp_path, "train")


def test_changed_ids_are_found_by_verify(tmp_path: Path) -> None:
    write(tmp_path, tokens_per_file=8)
    path = sorted(tmp_path.glob("*.bin"))[1]
    data = bytearray(path.read_bytes())
    data[HEADER_BYTES + 3] ^= 1
    path.write_bytes(data)
    with pytest.raises(UserError, match=rf"{path.name} is damaged"):
        TokenShards(tmp_path, "train").verify()
