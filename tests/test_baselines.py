"""The simple methods: honest costs, even samples, figures kept while the documents stay the same."""

from __future__ import annotations

import lzma
import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bimo import baselines
from bimo.baselines import kneser_ney_bits, measure_baselines, sample_evenly, spread_bytes, xz_bits
from bimo.files import read_json
from bimo.runtime import DATA_REFUSED, UserError

SHARED = Path(__file__).resolve().parents[1].parent / "shared" / "data" / "lm"


def write_documents(data: Path, **parts: list[str]) -> None:
    for name, texts in parts.items():
        size = len(texts)
        table = {"text": texts, "source": ["notes.txt"] * size, "line": list(range(size)), "language": ["en"] * size}
        schema = pa.schema({"text": pa.string(), "source": pa.string(), "line": pa.int64(), "language": pa.string()})
        (data / "documents").mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table(table, schema=schema), data / "documents" / f"{name}-00000.parquet")


def sentences(seed: int, count: int) -> list[str]:
    choose = random.Random(seed).choice
    names, verbs, things = ("Ann", "Ben", "小明"), ("sees", "likes", "买了"), ("a tree", "the river", "一本书")
    return [f"{choose(names)} {choose(verbs)} {choose(things)}." for _ in range(count)]


def test_facts_are_measured_and_stored(tmp_path):
    train, valid = sentences(1, 400), sentences(2, 60)
    write_documents(tmp_path, train=train, validation=valid)
    facts = measure_baselines(tmp_path, key="one")
    valid_bytes = sum(len(text.encode()) for text in valid)
    wanted = {str(order): bits / valid_bytes for order, bits in kneser_ney_bits(train, valid).items()}
    assert facts["kneser_ney"]["by_order"] == wanted
    assert facts["kneser_ney"]["after_a_megabyte"] == wanted  # there is less
    assert facts["unigram"] == wanted["1"]
    assert (
        facts["kneser_ney"]["bits_per_byte"] == min(wanted.values()) == wanted[str(facts["kneser_ney"]["best_order"])]
    )
    assert facts["xz"] == xz_bits(train, valid) / valid_bytes
    assert facts["train_bytes_used"] == sum(len(text.encode()) for text in train)
    assert facts["validation_bytes_used"] == valid_bytes
    assert facts["kneser_ney"]["bits_per_byte"] < facts["xz"] < facts["unigram"]
    assert read_json(tmp_path / "baselines.json")["facts"] == facts


def test_a_megabyte_is_spread_over_the_text_and_cut_between_characters():
    texts = [f"{number}笔" for number in range(10)]
    assert spread_bytes(texts, 100) == texts
    assert spread_bytes(texts, 18) == ["0笔", "2笔", "4笔", "6笔", "8"]
    assert spread_bytes(["笔墨"], 4) == ["笔"]


def test_stored_facts_serve_the_same_documents_only(tmp_path, monkeypatch):
    write_documents(tmp_path, train=sentences(1, 100), validation=sentences(2, 20))
    first = measure_baselines(tmp_path, key="one")
    write_documents(tmp_path, train=sentences(3, 20), validation=sentences(4, 20))
    assert measure_baselines(tmp_path, key="one") == first
    second = measure_baselines(tmp_path, key="two")
    assert second != first
    assert measure_baselines(tmp_path, key="two") == second
    write_documents(tmp_path, train=sentences(1, 100), validation=sentences(2, 20))
    monkeypatch.setattr(baselines, "METHOD", -1)
    assert measure_baselines(tmp_path, key="two") == first


def test_large_text_is_sampled(tmp_path, monkeypatch):
    train, valid = sentences(1, 300), sentences(2, 300)
    write_documents(tmp_path, train=train, validation=valid)
    monkeypatch.setattr(baselines, "MOST_CHARACTERS", 3000)
    monkeypatch.setattr(baselines, "MOST_VALIDATION_CHARACTERS", 2000)
    facts = measure_baselines(tmp_path, key="one")
    assert facts["train_bytes_used"] == sum(len(text.encode()) for text in sample_evenly(train, 3000))
    assert facts["validation_bytes_used"] == sum(len(text.encode()) for text in sample_evenly(valid, 2000))


@pytest.mark.parametrize("empty", ["train", "validation"])
def test_no_text_is_refused(tmp_path, empty):
    write_documents(tmp_path, **({"train": ["some text"], "validation": ["some text"]} | {empty: [""]}))
    with pytest.raises(UserError, match=empty) as refusal:
        measure_baselines(tmp_path, key="one")
    assert refusal.value.code == DATA_REFUSED
    assert not (tmp_path / "baselines.json").exists()


def test_an_unseen_character_costs_its_bytes_and_the_escape():
    train = ["abcabcabdabe"]
    bits = {text: kneser_ney_bits(train, [text])[1] for text in ("a", "z", "é", "笔", "🖌")}
    escape = bits["z"] - 8
    assert escape > bits["a"]
    assert bits["é"] == pytest.approx(escape + 16)
    assert bits["笔"] == pytest.approx(escape + 24)
    assert bits["🖌"] == pytest.approx(escape + 32)


def test_all_characters_together_have_probability_at_most_one():
    train, seen = ["abracadabra", "笔墨"], "abrcd笔墨"

    def chance(text: str) -> float:
        return 2 ** -kneser_ney_bits(train, [text], highest_order=1)[1]

    end = chance("")
    escape = chance("~") / end * 2**8
    characters = {1: 128, 2: 2048 - 128, 3: 65536 - 2048 - 2048, 4: 0x110000 - 65536}  # by their bytes in UTF-8
    spelled = sum(count * 2.0 ** (-8 * size) for size, count in characters.items())
    total = end + sum(chance(character) / end for character in seen) + escape * spelled
    assert total <= 1
    assert total + escape * (1 - spelled) == pytest.approx(1)


def test_xz_knows_what_it_has_read():
    noise = random.Random(1)
    old, new = (["".join(chr(noise.randrange(32, 127)) for _ in range(500)) for _ in range(40)] for _ in range(2))
    size = 40 * 500
    assert xz_bits(old, old) / size < 0.1  # 20,000 characters far back: only a window as long as the text finds them
    assert 6.5 < xz_bits(old, new) / size < 7.2  # log2(95) = 6.57
    plain = 8 * (len(lzma.compress("\n".join([*old, *new]).encode())) - len(lzma.compress("\n".join(old).encode())))
    assert xz_bits(old, new) == pytest.approx(plain, rel=0.02)


@given(texts=st.lists(st.text("ab", max_size=9), max_size=60), most=st.integers(1, 60))
def test_samples_are_even_and_bounded(texts, most):
    kept = sample_evenly(iter(texts), most)
    steps = [2**power for power in range(8)]
    assert any(kept == [text[:most] for text in texts[::step]] for step in steps)
    assert sum(map(len, kept)) <= most
    if sum(map(len, texts)) <= most:
        assert kept == texts


# Bits per byte of an independent earlier measurement with one discount an order, on another random tenth.
EARLIER = {
    "zh_classic_novels": ({3: 2.124, 4: 2.115, 5: 2.121}, 2.585),
    "tinystories_sample_2mb": ({3: 2.449, 4: 1.883, 5: 1.616}, 1.736),
}


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.exists(), reason="the folder shared/data is not beside the repository")
@pytest.mark.parametrize("name", EARLIER)
def test_real_text_gives_what_was_measured_before(name):
    lines = [line for file in sorted((SHARED / name).glob("*.txt")) for line in file.read_text("utf-8").splitlines()]
    blocks = ["\n".join(lines[begin : begin + 20]) for begin in range(0, len(lines), 20)]
    random.Random(0).shuffle(blocks)
    tenth = len(blocks) // 10
    valid, train = blocks[:tenth], blocks[tenth:]
    valid_bytes = sum(len(text.encode()) for text in valid)
    kneser_ney, xz = EARLIER[name]
    bits = kneser_ney_bits(train, valid)
    for order, earlier in kneser_ney.items():
        assert bits[order] / valid_bytes == pytest.approx(earlier, rel=0.03)
    assert xz_bits(train, valid) / valid_bytes == pytest.approx(xz, rel=0.03)
