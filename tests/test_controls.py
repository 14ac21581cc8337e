"""Tags in front of texts: read from columns and keys, counted, learned, asked for."""

from __future__ import annotations

import csv
import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bimo.evaluate.steering import steering_facts
from bimo.generate.engine import LanguageModel
from bimo.prepare import PrepareConfig, prepare
from bimo.runtime import DATA_REFUSED, USAGE, UserError
from bimo.text.controls import Controls, pack_tags, read_controls, tags_of
from bimo.text.documents import Document
from bimo.text.options import TextOptions
from bimo.text.store import read_stored
from bimo.tokens.shards import TokenShards
from bimo.tokens.tokenizer import Tokenizer, load_tokenizer

GENRES = ("诗", "news")


def test_half_characters_are_no_part_of_a_tag():
    assert tags_of({"genre": "诗\ud83d", "year": "\ud83d"}, ["genre", "year"]) == {"genre": "诗"}


def rows(count: int = 120) -> list[dict[str, Any]]:
    """Texts of two genres and all lengths, no two alike."""
    draw = random.Random(0)
    words = {
        "诗": "床前明月光疑是地上霜举头望低思故乡千里江陵一日还",
        "news": "market city water road school train price",
    }
    found = []
    for number in range(count):
        genre = GENRES[number % 2]
        pieces = list(words[genre]) if genre == "诗" else [f"{word} " for word in words[genre].split()]
        text = "".join(draw.choices(pieces, k=draw.randint(20, 90)))
        found.append({"text": text, "genre": genre, "year": 1900 + number % 2, "note": f"row {number}"})
    return found


def write(rows: list[dict[str, Any]], folder: Path, ending: str) -> Path:
    """The rows as a file of this kind."""
    path = folder / f"rows{ending}"
    if ending == ".jsonl":
        path.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8")
    elif ending == ".json":
        nested = [
            {
                "genre": genre,
                "part": [{"text": row["text"], "year": row["year"]} for row in rows if row["genre"] == genre],
            }
            for genre in GENRES
        ]
        path.write_text(json.dumps(nested, ensure_ascii=False), encoding="utf-8")
    elif ending == ".csv":
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, [*rows[0]])
            writer.writeheader()
            writer.writerows(rows)
    else:
        pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def settings(*names: str, **options: Any) -> PrepareConfig:
    return PrepareConfig(text=TextOptions(controls=names, allow=("repetition", "symbols", "machine"), **options))


@pytest.mark.parametrize("ending", [".jsonl", ".json", ".csv", ".parquet"])
def test_columns_and_keys_become_tags(tmp_path: Path, ending: str) -> None:
    source = write(rows(), tmp_path, ending)
    prepare([source], out=tmp_path / "data", settings=settings("genre", "year"))
    controls = read_controls(tmp_path / "data")
    assert controls is not None
    assert {*controls.values["genre"]} == {*GENRES}
    assert {*controls.values["year"]} == {"1900", "1901"}
    train = [*read_stored(tmp_path / "data" / "documents", "train")]
    assert sum(controls.values["genre"].values()) == len(train)
    lengths = Counter(controls.tags(document)["length"] for document in train)
    assert all(abs(count - len(train) / 3) < len(train) / 10 for count in lengths.values())
    for document in train:
        assert (controls.tags(document)["genre"] == "诗") is (document.text[0] > "市" or document.text[0] > "\u4e00")


def test_headers_are_trained_on_but_never_held_out(tmp_path: Path) -> None:
    prepare([write(rows(400), tmp_path, ".jsonl")], out=tmp_path / "data", settings=settings("genre", "year"))
    tokenizer = load_tokenizer(tmp_path / "data")
    packed = {
        split: [tokenizer.decode(ids.tolist()) for ids in TokenShards(tmp_path / "data" / "tokens", split).documents()]
        for split in ("train", "validation")
    }
    stored = {
        split: [document.text for document in read_stored(tmp_path / "data" / "documents", split)] for split in packed
    }
    assert packed["validation"] == stored["validation"]
    headers = [text.removesuffix(own) for text, own in zip(packed["train"], stored["train"], strict=True)]
    share = {kind: sum(map(test, headers)) / len(headers) for kind, test in KINDS.items()}
    assert share["none"] == pytest.approx(0.1, abs=0.05)
    assert share["all"] == pytest.approx(0.9 * (0.6 + 0.4 / 3), abs=0.1)
    assert share["some"] == pytest.approx(1 - share["none"] - share["all"])
    assert share["some"] > 0.1
    assert {header for header in headers if KINDS["all"](header)} > {"genre: 诗\nyear: 1900\nlength: short\n\n"}


KINDS = {
    "none": lambda header: header == "",
    "all": lambda header: header.count("\n") == 4,
    "some": lambda header: header.count("\n") in (2, 3),
}


def test_values_of_single_persons_and_personal_data_are_no_tags(tmp_path: Path) -> None:
    tagged = [{**row, "contact": ("office", "li.ming@163.com")[n % 2]} for n, row in enumerate(rows())]
    tagged[0]["contact"] = "rare"
    prepare([write(tagged, tmp_path, ".jsonl")], out=tmp_path / "data", settings=settings("contact"))
    controls = read_controls(tmp_path / "data")
    assert controls is not None
    assert [*controls.values["contact"]] == ["office"]
    for split in ("train", "validation"):
        assert not any("163.com" in one.tags for one in read_stored(tmp_path / "data" / "documents", split))


@pytest.mark.parametrize(
    ("names", "sentence", "code"),
    [
        (("gnere",), "--control gnere gives no tags", DATA_REFUSED),
        (("note",), "--control note gives no tags", DATA_REFUSED),
        (("length",), "length is always there", USAGE),
        (("a:b",), "can be no tag", USAGE),
    ],
)
def test_what_can_be_no_tag_is_refused(tmp_path: Path, names: tuple[str, ...], sentence: str, code: int) -> None:
    with pytest.raises(UserError, match=sentence) as caught:
        prepare([write(rows(), tmp_path, ".jsonl")], out=tmp_path / "data", settings=settings(*names))
    assert caught.value.code == code


def test_without_controls_nothing_changes(tmp_path: Path) -> None:
    prepare([write(rows(), tmp_path, ".jsonl")], out=tmp_path / "data", settings=settings("genre"))
    prepare([write(rows(), tmp_path, ".jsonl")], out=tmp_path / "data", settings=settings())
    assert read_controls(tmp_path / "data") is None
    assert not any(document.tags for document in read_stored(tmp_path / "data" / "documents", "train"))


def test_only_short_plain_values_are_tags() -> None:
    row = {"a": "  x\ny ", "b": 3, "c": ["x"], "d": "z" * 41, "e": "", "f": None}
    assert tags_of(row, [*row, "g"]) == {"a": "x y", "b": "3"}
    assert pack_tags({}) == ""


CONTROLS = Controls({"genre": {"诗": 9, "poem": 7}, "year": {"1900": 8}}, 10, 20)


def test_headers_name_what_was_chosen_in_the_order_of_training() -> None:
    assert CONTROLS.header({"length": "long", "genre": "诗"}) == "genre: 诗\nlength: long\n\n"
    assert CONTROLS.header({}) == ""
    assert CONTROLS.without_header("genre: 诗\nlength: long\n\n床前\n\n明月") == "床前\n\n明月"
    assert CONTROLS.without_header("床前\n\n明月") == "床前\n\n明月"
    document = Document("x" * 15, "", 1, "", pack_tags({"year": "1900", "genre": "unheard of"}))
    assert CONTROLS.tags(document) == {"year": "1900", "length": "medium"}


def test_a_damaged_list_of_tags_is_said(tmp_path: Path) -> None:
    for text in ("[]", "{}", '{"values": {"genre": 3}, "length": {}}'):
        (tmp_path / "controls.json").write_text(text)
        with pytest.raises(UserError, match=r"controls\.json is no list of tags"):
            read_controls(tmp_path)


@pytest.mark.parametrize(
    ("chosen", "sentence"),
    [
        ({"gender": "x"}, "knows no control gender. It knows: genre, year, length"),
        ({"genre": "poems"}, "has met no genre poems. It has met, among others: poem"),
        ({"length": "shrot"}, "has met no length shrot. .*: short"),
    ],
)
def test_unknown_tags_are_refused_with_a_suggestion(chosen: dict[str, str], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence) as caught:
        CONTROLS.header(chosen)
    assert caught.value.code == USAGE


def test_tags_are_read_and_not_predicted(make_model: Any, tiny_tokenizer: Tokenizer) -> None:
    model = LanguageModel(make_model(vocabulary=tiny_tokenizer.vocabulary, context=64), tiny_tokenizer)
    documents = [Document(text, "", 1, "", pack_tags({"genre": "诗"})) for text in ("一只狐狸", "the fox", "x " * 200)]
    facts = steering_facts(model, documents, CONTROLS)
    bits = [-model.loglikelihood("genre: 诗\nlength: short\n\n", text) for text in ("一只狐狸", "the fox")]
    assert facts["documents"] == 2
    assert facts["with_tags"] == pytest.approx(sum(bits) / 19 / 0.6931472)
    assert facts["without_tags"] != facts["with_tags"]
    assert steering_facts(model, documents[2:], CONTROLS) == {}
