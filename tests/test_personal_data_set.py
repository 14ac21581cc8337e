"""The frozen sentences are what their README says, are made again from their templates, and hold valid numbers."""

from __future__ import annotations

import gzip
import hashlib
import importlib.util
import json
import re
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent / "personal_data"
PARTS = ("development", "test")


def sentences(part: str) -> list[dict]:
    with gzip.open(FOLDER / f"{part}.jsonl.gz", "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


@pytest.mark.parametrize("part", PARTS)
def test_the_set_is_frozen(part):
    digest = hashlib.sha256((FOLDER / f"{part}.jsonl.gz").read_bytes()).hexdigest()
    assert f"| `{part}.jsonl.gz` " in (FOLDER / "README.md").read_text("utf-8")
    assert f"`{digest}`" in (FOLDER / "README.md").read_text("utf-8")


def test_the_set_is_made_from_its_templates():
    place = Path(__file__).resolve().parents[1] / "benchmarks" / "personal_data_set.py"
    spec = importlib.util.spec_from_file_location("personal_data_set", place)
    module = importlib.util.module_from_spec(spec)
    sys.modules["personal_data_set"] = module
    spec.loader.exec_module(module)
    for part in PARTS:
        assert list(module.sentences(part)) == sentences(part)


def test_the_set_is_as_large_as_it_must_be():
    test = sentences("test")
    personal = [each for each in test if each["spans"]]
    assert len(personal) >= 3000
    assert len(test) - len(personal) >= 3000
    assert 4 * sum(each["adversarial"] for each in personal) >= len(personal)
    kinds = [span["kind"] for each in personal for span in each["spans"]]
    assert len(set(kinds)) == 16
    assert min(map(kinds.count, set(kinds))) >= 99


def test_numbers_keep_to_their_standards():
    from stdnum import iban, luhn
    from stdnum.cn import ric, uscc
    from stdnum.us import ssn

    checks = {
        "id_number": lambda value: ric.calc_check_digit(value) == value[-1].upper(),
        "credit_code": uscc.is_valid,
        "bank_card": luhn.is_valid,
        "iban": lambda value: iban.is_valid(value, check_country=False),
        "ssn": ssn.is_valid,
    }
    for part in PARTS:
        for each in sentences(part):
            for span in each["spans"]:
                if span["kind"] in checks and not each["adversarial"]:
                    value = re.sub(r"[\s-]", "", each["text"][span["start"] : span["end"]])
                    assert checks[span["kind"]](value), (span["kind"], value)


def test_the_halves_share_no_template():
    import tomllib

    halves = tomllib.loads((FOLDER / "templates.toml").read_text("utf-8"))
    for group in ("zh", "en", "clean"):
        assert not set(halves["development"][group]) & set(halves["test"][group])
