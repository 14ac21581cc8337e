"""Files of pairs: found columns, nothing lost, no sentence on both sides of the split, every pair once an epoch."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bimo.runtime import UserError
from bimo.text.pairs import Pair, read_pairs, split_pairs
from bimo.tokens.pairs import PairBatches, PairTokens, pack_pairs
from bimo.tokens.tokenizer import Tokenizer, with_padding

ENGLISH = [f"The {thing} is number {n}." for n, thing in enumerate(["dog", "cat", "house", "tree", "book"] * 8)]
CHINESE = [f"第{n}个是{thing}。" for n, thing in enumerate(["狗", "猫", "房子", "树", "书"] * 8)]
ROWS = list(zip(ENGLISH, CHINESE, strict=True))


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_a_table_without_names_gives_its_first_two_columns_of_text(tmp_path: Path) -> None:
    lines = "".join(f"{en}\t{zh}\tCC-BY, sentence {n}\n" for n, (en, zh) in enumerate(ROWS))
    path = tmp_path / "cmn.txt.gz"
    path.write_bytes(gzip.compress(lines.encode()))
    found = read_pairs(path)
    assert (found.columns.source, found.columns.target, found.columns.languages) == ("1", "2", ("en", "zh"))
    assert found.pairs == [Pair(*row) for row in ROWS]
    assert (found.rows, found.aside, found.first_unread) == (40, Counter(), "")


@pytest.mark.parametrize("target", ["1", "en", "English"])
def test_columns_are_named_by_place_or_language(target: str, tmp_path: Path) -> None:
    path = write(tmp_path / "a.tsv", "".join(f"{en}\t{zh}\n" for en, zh in ROWS))
    assert read_pairs(path, source="zh", target=target).pairs == [Pair(zh, en) for en, zh in ROWS]
    assert read_pairs(path, target=target).pairs == [Pair(zh, en) for en, zh in ROWS]


def test_columns_that_repeat_are_no_texts_whatever_they_are_called(tmp_path: Path) -> None:
    lines = "".join(f'book,"{zh * 3}","{zh[::-1] * 3}"\n' for _, zh in ROWS)
    found = read_pairs(write(tmp_path / "a.csv", "source,classical,modern\n" + lines))
    assert (found.columns.source, found.columns.target) == ("classical", "modern")
    assert len(found.pairs) == 40


@pytest.mark.parametrize(
    ("first", "row"),
    [
        ("id,en,zh\n", "{n},{en},{zh}\n"),
        ("", "{n}\t{en}\t1{n}\t{zh}\n"),
        ("", "doc_{n},{en},{zh}\n"),
        ("url,one,two\n", "https://example.org/{n},{en},{zh}\n"),
        ("title,en,zh\n", "About {n},{en},{zh}\n"),
    ],
)
@pytest.mark.parametrize("choice", [{}, {"target": "zh"}, {"source": "en"}])
def test_what_numbers_the_rows_is_no_text_of_theirs(first: str, row: str, choice: dict, tmp_path: Path) -> None:
    lines = "".join(row.format(n=n, en=en, zh=zh) for n, (en, zh) in enumerate(ROWS))
    assert read_pairs(write(tmp_path / "a.tsv", first + lines), **choice).pairs == [Pair(*row) for row in ROWS]


def test_a_language_alone_is_translated_from_or_into_another(tmp_path: Path) -> None:
    lines = "".join(f"{zh}\t{zh[::-1]}\t{en}\n" for en, zh in ROWS)
    path = write(tmp_path / "a.tsv", lines)
    for choice, columns in (
        ({}, ("1", "2")),
        ({"target": "zh"}, ("3", "1")),
        ({"source": "zh"}, ("1", "3")),
        ({"source": "1"}, ("1", "2")),
    ):
        found = read_pairs(path, **choice).columns
        assert (found.source, found.target) == columns


def test_a_column_of_numbers_is_translated_when_it_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tsv", "".join(f"{n}\t{zh}\n" for n, (_, zh) in enumerate(ROWS)))
    assert len(read_pairs(path, source="1", target="2").pairs) == 40
    with pytest.raises(UserError, match="no two columns of text"):
        read_pairs(path)


@pytest.mark.parametrize("wrapped", [False, True])
def test_json_lines_are_read(wrapped: bool, tmp_path: Path) -> None:
    rows = [{"zh": zh, "en": en} for en, zh in ROWS]
    text = "".join(json.dumps({"translation": row} if wrapped else {"id": 3, **row}) + "\n" for row in rows)
    found = read_pairs(write(tmp_path / "a.jsonl", text), source="en", target="zh")
    assert found.pairs == [Pair(*row) for row in ROWS]


def test_what_is_set_aside_is_counted(tmp_path: Path) -> None:
    bad = ["\t一\n", "One\t \n", "same\tsame\n", f"{ENGLISH[0]}\t{CHINESE[0]}\n", f" {ENGLISH[1]} \t{CHINESE[1]}\n"]
    text = "".join(f"{en}\t{zh}\n" for en, zh in ROWS) + "".join(bad) + "a\tb\tc\td\n"
    found = read_pairs(write(tmp_path / "a.tsv", text))
    assert found.aside == Counter(empty=2, same=1, duplicate=2, unread=1)
    assert found.rows == 46 == len(found.pairs) + found.aside.total()
    assert found.first_unread == "a.tsv:46: 4 columns instead of 2"


def test_chinese_comes_into_one_script_and_lines_stay_lines(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "en,zh\n" + "".join(f'"{en}","{zh} 學習\n\n漢語"\n' for en, zh in ROWS))
    assert read_pairs(path, chinese="simplified").pairs[0] == Pair(ENGLISH[0], f"{CHINESE[0]} 学习 汉语")


def test_a_column_says_into_which_language_each_row_goes(tmp_path: Path) -> None:
    rows = (
        [(en, zh, "zh") for en, zh in ROWS] + [(zh, en, " en ") for en, zh in ROWS] + [("a", "b", ""), ("c", "", "zh")]
    )
    path = write(tmp_path / "a.tsv", "text\tinto\tmeaning\n" + "".join(f"{a}\t{to}\t{b}\n" for a, b, to in rows))
    found = read_pairs(path, to="into")
    assert (found.columns.source, found.columns.target, found.columns.to) == ("text", "meaning", "into")
    assert found.pairs == [Pair(a, b, to.strip()) for a, b, to in rows[:-2]]
    assert found.aside == Counter(language=1, empty=1)
    assert read_pairs(path, known=["zh", "en", "fr"]).pairs == found.pairs
    assert {pair.to for pair in read_pairs(path, known=["zh", "fr"]).pairs} == {""}
    lines = "".join(f"zh\tmodern  zh\t{zh}\t{zh[::-1]}\n" for _, zh in ROWS)
    path = write(tmp_path / "b.tsv", f"from\tinto\tsource\ttarget\n{lines}")
    both = ["zh", "modern-zh"]
    assert {pair.to for pair in read_pairs(path, to="into", known=both).pairs} == {"modern-zh"}
    assert {pair.to for pair in read_pairs(path, known=both).pairs} == {""}


def test_names_of_columns_are_told_above_short_texts(tmp_path: Path) -> None:
    lines = "source\ttarget\tlanguage\n" + "".join(f"a{n}\t甲{n}\tzh\n" for n in range(50))
    found = read_pairs(write(tmp_path / "a.tsv", lines))
    assert (found.columns.source, found.columns.target, found.rows) == ("source", "target", 50)


def test_no_text_is_held_out_in_one_direction_and_learned_in_the_other() -> None:
    pairs = [Pair(f"en {n}", f"zh {n}", "zh") for n in range(200)] + [
        Pair(f"zh {n}", f"en {n}", "en") for n in range(200)
    ]
    splits = split_pairs(pairs, seed=0)
    texts = [{text for pair in part for text in (pair.source, pair.target)} for part in splits.values()]
    assert sum(map(len, texts)) == 400
    assert all(len(part) >= 10 for part in splits.values())


@pytest.mark.parametrize(
    ("text", "choice", "sentence"),
    [
        ("".join(f"a{n}\tb{n}\tc{n}\n" for n in range(101)), {"to": "3"}, "Column 3 of .* has 101 different values"),
        ("a\tb\nc\td\n", {"to": "language"}, "has no column language. It has: 1, 2"),
        ("only one column\nof text\n", {}, "no two columns of text"),
        ("", {}, "no two columns of text"),
        ("a\tb\nc\td\n", {"source": "zh"}, "has no column zh, and none with text in that language. It has: 1, 2"),
        ("a\tb\nc\td\n", {"source": "5"}, "has no column 5"),
        ("a\tb\nc\td\n", {"source": "1", "target": "1"}, "no two columns of text"),
        ("a\ta\nb\tb\n", {}, "holds no pair"),
    ],
)
def test_files_that_hold_no_pairs_are_refused(text: str, choice: dict, sentence: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=sentence):
        read_pairs(write(tmp_path / "a.tsv", text), **choice)


@given(
    st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), min_size=1, max_size=60, unique=True), st.integers(0, 5)
)
@settings(max_examples=60)
def test_no_sentence_crosses_the_split_and_no_pair_is_lost(numbers: list[tuple[int, int]], seed: int) -> None:
    pairs = [Pair(f"source {a}", f"target {b}") for a, b in numbers]
    splits = split_pairs(pairs, seed=seed)
    assert sorted(pair.source + pair.target for part in splits.values() for pair in part) == sorted(
        pair.source + pair.target for pair in pairs
    )
    for side in ("source", "target"):
        texts = [{getattr(pair, side) for pair in part} for part in splits.values()]
        assert sum(map(len, texts)) == len(set.union(*texts))
    assert len(splits["validation"]) <= max(1, round(0.05 * len(pairs)))
    assert len(splits["train"]) >= 0.8 * len(pairs) - 2
    assert {name: set(part) for name, part in split_pairs(pairs[::-1], seed=seed).items()} == {
        name: set(part) for name, part in splits.items()
    }


def test_independent_pairs_are_held_out_as_many_as_asked_for() -> None:
    splits = split_pairs([Pair(f"a{n}", f"b{n}") for n in range(1000)], seed=0)
    assert {name: len(part) for name, part in splits.items()} == {"train": 900, "validation": 50, "test": 50}


@pytest.fixture(scope="module")
def tokenizer(tiny_tokenizer: Tokenizer) -> Tokenizer:
    return with_padding(tiny_tokenizer)


@pytest.fixture(scope="module")
def packed(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("packed")
    texts = [Pair(f"{en} " * (1 + n % 3), zh * (1 + n % 4)) for n, (en, zh) in enumerate(ROWS)]
    facts = pack_pairs(folder, "train", texts, tokenizer, longest=40, tags={})
    assert facts["pairs"] + facts["too_long"] == 40
    assert facts["too_long"] > 0
    return folder


def test_padding_is_the_last_token_and_begins_nothing(tokenizer: Tokenizer, tiny_tokenizer: Tokenizer) -> None:
    assert tokenizer.vocabulary == tiny_tokenizer.vocabulary + 1
    assert tokenizer.inner.token_to_id("<pad>") == tokenizer.vocabulary - 1
    assert (tokenizer.begin, tiny_tokenizer.begin) == ([], [tiny_tokenizer.end])
    assert tokenizer.encode("<pad>你好") == tiny_tokenizer.encode("<pad>你好")


def test_packed_pairs_come_back(packed: Path, tokenizer: Tokenizer) -> None:
    pairs = PairTokens(packed, "train")
    pairs.verify()
    pad = tokenizer.vocabulary - 1
    source, target = pairs.batch([3, 0], pad=pad)
    assert tokenizer.decode(source[1].tolist()) == f"{ENGLISH[0]} "
    assert tokenizer.decode(target[1].tolist()) == CHINESE[0]
    for side, rows in enumerate((source, target)):
        for row, length in zip(rows, pairs.lengths[[3, 0], side], strict=True):
            assert row[length - 1] == tokenizer.end
            assert (row[length:] == pad).all()
            assert pad not in row[:length]
    assert len(pairs) == len(pairs.lengths)


@pytest.mark.parametrize("tokens", [1, 64, 300, 10_000])
def test_every_epoch_has_every_pair_once_in_batches_of_like_length(packed: Path, tokens: int) -> None:
    pairs = PairTokens(packed, "train")
    batches = PairBatches(pairs, tokens=tokens, pad=999, seed=1)
    longer = pairs.lengths.max(axis=1)
    orders = []
    for epoch in range(3):
        steps = [batches.numbers(epoch * batches.steps_per_epoch + place) for place in range(batches.steps_per_epoch)]
        assert sorted(np.concatenate(steps).tolist()) == list(range(len(pairs)))
        for numbers in steps:
            assert longer[numbers].max() <= 1.15 * longer[numbers].min() + 1
            assert len(numbers) * longer[numbers].max() <= max(tokens, longer[numbers].max())
        orders.append([tuple(numbers) for numbers in steps])
    assert orders[0] != orders[1] != orders[2]


def test_a_step_depends_on_seed_and_content_alone(packed: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    pairs = PairTokens(packed, "train")
    batches = [PairBatches(PairTokens(packed, "train"), tokens=200, pad=999, seed=4) for _ in range(2)]
    for step in (0, 3, 17, 1000):
        assert batches[0].numbers(step).tolist() == batches[1].numbers(step).tolist()
    other = PairBatches(pairs, tokens=200, pad=999, seed=5)
    assert any(other.numbers(step).tolist() != batches[0].numbers(step).tolist() for step in range(5))
    pack_pairs(tmp_path, "train", [Pair(zh, en) for en, zh in ROWS], tokenizer, longest=90, tags={})
    assert PairTokens(tmp_path, "train").fingerprint != pairs.fingerprint


def test_damaged_pairs_are_refused(packed: Path, tmp_path: Path) -> None:
    for path in packed.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    target = tmp_path / "train-target-00000.bin"
    data = bytearray(target.read_bytes())
    data[-3] ^= 1
    target.write_bytes(data)
    with pytest.raises(UserError, match="damaged"):
        PairTokens(tmp_path, "train").verify()
    target.unlink()
    with pytest.raises(UserError, match="no packed train-target tokens"):
        PairTokens(tmp_path, "train")


def test_a_language_that_only_its_letters_tell_can_be_named(tmp_path: Path) -> None:
    lines = "".join(f"{en}\tこれは{n}番の犬です。\n" for n, en in enumerate(ENGLISH))
    found = read_pairs(write(tmp_path / "a.tsv", lines), source="ja")
    assert (found.columns.source, found.columns.languages) == ("2", ("ja", "en"))
