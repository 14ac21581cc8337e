"""Personal data: recall and precision by kind on the frozen set, beside presidio and plain regular expressions; MB/s.

    python benchmarks/personal_data.py

A value counts as found when a finding of its kind covers it whole; names and addresses when both overlap by half of
what they cover together. A finding counts as right when it overlaps a value of its kind by half. Intervals are
Wilson's, 95 %. presidio runs with all of its recognisers and a blank spaCy model: the trained ones, which it needs for
names and places, are not on PyPI. Each contestant is a process of its own on one processor, in turns with the others.
"""

from __future__ import annotations

import argparse
import gzip
import json
import re
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from prepare import TEXT, mixed_documents, read_texts
from record import Comparison, conclude
from turns import Turns, contestants, interleave

from bimo.intervals import share_interval
from bimo.machine import measure_machine

ROOT = Path(__file__).resolve().parents[1]
SETS = {"frozen": ROOT / "tests" / "personal_data" / "test.jsonl.gz"}
SYNTHETIC = ROOT.parent / "shared" / "data" / "pii_ner" / "presidio_synth" / "synth_dataset_v2.json"
ORDINARY, ORDINARY_BYTES = "documents of the corpora", 1_000_000
"""Texts as they are: the two sets have something to look at in every line. For the rate alone."""
LOOSE = ("name", "address")
LEFT_OUT = {"presidio's own": {"birth_date"}}
"""Kinds that a set marks otherwise than we mean them, such as every date: neither values nor findings count."""

Span = tuple[int, int, str]

PRESIDIO_KINDS = {
    "PHONE_NUMBER": "phone",
    "CREDIT_CARD": "bank_card",
    "EMAIL_ADDRESS": "email",
    "IBAN_CODE": "iban",
    "IP_ADDRESS": "ip",
    "MAC_ADDRESS": "mac",
    "US_SSN": "ssn",
    "US_PASSPORT": "passport",
    "DATE_TIME": "birth_date",
    "PERSON": "name",
    "LOCATION": "address",
    "STREET_ADDRESS": "address",
}

PLAIN = {
    "email": r"[\w.+-]+@[\w-]+\.[\w.-]+",
    "id_number": r"\d{17}[\dXx]",
    "bank_card": r"\b(?:\d[ -]?){13,19}\b",
    "phone": r"1[3-9]\d{9}|0\d{2,3}-?\d{7,8}|\(?\d{3}\)?[ .-]\d{3}[ .-]\d{4}",
    "credit_code": r"[0-9A-HJ-NPQRTUWXY]{2}\d{6}[0-9A-HJ-NPQRTUWXY]{10}",
    "ssn": r"\d{3}-\d{2}-\d{4}",
    "iban": r"\b[A-Z]{2}\d{2}[A-Z0-9 ]{11,30}\b",
    "ip": r"\d{1,3}(?:\.\d{1,3}){3}",
    "mac": r"(?:[0-9A-Fa-f]{2}[:-]){5}[0-9A-Fa-f]{2}",
    "plate": r"[京津沪渝冀豫云辽黑湘皖鲁新苏浙赣鄂桂甘晋蒙陕吉闽贵粤青藏川宁琼][A-Z][A-Z0-9]{5,6}",
    "passport": r"[EG]\d{8}",
    "birth_date": r"\d{4}[-/年.]\d{1,2}[-/月.]\d{1,2}日?",
    "secret": r"sk-\w{20,}|AKIA\w{16}|ghp_\w{36}",
}
"""What is copied from one project to the next."""


def build_ours() -> Callable[[str], list[Span]]:
    """As `bimo prepare` finds it."""
    from bimo.text.personal import find_personal

    return lambda text: [(finding.start, finding.end, finding.kind) for finding in find_personal(text)]


def build_presidio() -> Callable[[str], list[Span]]:
    """All recognisers for English, without a trained model."""
    import spacy
    from presidio_analyzer import AnalyzerEngine, RecognizerRegistry
    from presidio_analyzer.nlp_engine import SpacyNlpEngine

    class Blank(SpacyNlpEngine):
        def load(self) -> None:
            self.nlp = {"en": spacy.blank("en")}

    engine = Blank(models=[{"lang_code": "en", "model_name": "blank"}])
    engine.load()
    registry = RecognizerRegistry(supported_languages=["en"])
    registry.load_predefined_recognizers(languages=["en"], nlp_engine=engine)
    analyzer = AnalyzerEngine(nlp_engine=engine, registry=registry, supported_languages=["en"])
    return lambda text: [
        (found.start, found.end, PRESIDIO_KINDS[found.entity_type])
        for found in analyzer.analyze(text, language="en")
        if found.entity_type in PRESIDIO_KINDS
    ]


def build_plain() -> Callable[[str], list[Span]]:
    """One expression for each kind, without checks."""
    rules = {kind: re.compile(rule) for kind, rule in PLAIN.items()}
    return lambda text: [(*found.span(), kind) for kind, rule in rules.items() for found in rule.finditer(text)]


BUILDERS = {"bimo": build_ours, "presidio": build_presidio, "plain expressions": build_plain}


def find(turns: Turns, name: str, texts: dict[str, list[str]]) -> None:
    """A worker: the task says which texts."""
    finder = BUILDERS[name]()
    for which in turns:
        before = time.perf_counter()
        spans = [finder(text) for text in texts[which]]
        seconds = time.perf_counter() - before
        turns.report({"rate": sum(len(text.encode()) for text in texts[which]) / 1e6 / seconds, "spans": spans})


def read_sets() -> dict[str, list[dict[str, Any]]]:
    """Sentences with their spans: the frozen set, and presidio's own where it is there."""
    sets = {}
    for name, path in SETS.items():
        with gzip.open(path, "rt", encoding="utf-8") as file:
            sets[name] = [json.loads(line) for line in file]
    if SYNTHETIC.exists():
        sets["presidio's own"] = [
            {
                "text": each["full_text"],
                "spans": [
                    {"start": span["start_position"], "end": span["end_position"], "kind": kind}
                    for span in each["spans"]
                    if (kind := PRESIDIO_KINDS.get(span["entity_type"])) and kind not in LEFT_OUT["presidio's own"]
                ],
            }
            for each in json.loads(SYNTHETIC.read_text(encoding="utf-8"))
        ]
    return sets


def overlap(one: Span, other: Span) -> float:
    """Of what both cover together, the share that both cover."""
    common = min(one[1], other[1]) - max(one[0], other[0])
    return max(0, common) / (max(one[1], other[1]) - min(one[0], other[0]))


def judge(sentences: list[dict[str, Any]], found: list[list[Span]]) -> dict[str, Counter[str]]:
    """Values, found values, findings and right findings, by kind."""
    counts = {name: Counter[str]() for name in ("values", "recalled", "findings", "right")}
    for sentence, spans in zip(sentences, found, strict=True):
        values = [(span["start"], span["end"], span["kind"]) for span in sentence["spans"]]
        for value in values:
            same = [span for span in spans if span[2] == value[2]]
            hit = (
                any(overlap(span, value) >= 0.5 for span in same)
                if value[2] in LOOSE
                else any(span[0] <= value[0] and value[1] <= span[1] for span in same)
            )
            counts["values"][value[2]] += 1
            counts["recalled"][value[2]] += hit
        for span in spans:
            counts["findings"][span[2]] += 1
            counts["right"][span[2]] += any(
                span[2] == value[2] and overlap(tuple(span), value) >= 0.5 for value in values
            )
    return counts


def wilson(hits: int, total: int) -> str:
    """A share with its interval of 95 %."""
    if not total:
        return "-"
    low, high = share_interval(np.arange(total) < hits)
    return f"{hits / total:.3f} ({low:.3f}-{high:.3f})"


def facts_of(name: str, set_name: str, counts: dict[str, Counter[str]]) -> dict[str, str]:
    """Recall and precision: structured kinds together, names, addresses, then each kind by itself.

    A finding of a kind that the set has no values of is a wrong one, unless that kind is LEFT_OUT.
    """
    kinds = sorted(counts["values"])
    structured = counts["values"].keys() | counts["findings"].keys() - LEFT_OUT.get(set_name, set())
    groups = {"structured": structured - {*LOOSE}, **{kind: {kind} for kind in LOOSE}}
    lines = {}
    for title, members in groups.items():
        recalled, values, right, findings = (
            sum(counts[which][kind] for kind in members) for which in ("recalled", "values", "right", "findings")
        )
        recall, precision = wilson(recalled, values), wilson(right, findings)
        lines[f"{set_name}, {name}: {title}"] = f"recall {recall} of {values}, precision {precision} of {findings}"
    each = ", ".join(
        f"{kind} {counts['recalled'][kind] / counts['values'][kind]:.3f}/"
        + (f"{counts['right'][kind] / counts['findings'][kind]:.3f}" if counts["findings"][kind] else "-")
        for kind in kinds
    )
    lines[f"{set_name}, {name}: recall/precision of each"] = each
    return lines


def main() -> None:
    """Measure, print, and keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--without", nargs="+", default=[], help="peers that are not there")
    parser.add_argument("--dry", action="store_true", help="keep nothing in results.jsonl")
    chosen = parser.parse_args()
    machine = measure_machine(torch.device("cpu"), seconds=1.0).facts()
    sets = read_sets()
    texts = {name: [sentence["text"] for sentence in sentences] for name, sentences in sets.items()}
    texts["warm-up"] = texts["frozen"][:50]
    texts[ORDINARY] = mixed_documents(read_texts(TEXT), ORDINARY_BYTES)
    names = [name for name in BUILDERS if name not in chosen.without]
    with contestants({name: (find, name, texts) for name in names}, threads=1) as started:
        interleave(started, ["warm-up"], what="warm-up")
        results = {name: interleave(started, [name] * chosen.rounds, what=name) for name in (*sets, ORDINARY)}
    facts = {
        line: value
        for set_name in sets
        for name, turns in results[set_name].items()
        for line, value in facts_of(name, set_name, judge(sets[set_name], turns[-1]["spans"])).items()
    }
    conclude(
        "personal_data",
        settings={"rounds": chosen.rounds, "sentences": {name: len(found) for name, found in sets.items()}},
        machine=machine,
        packages=("presidio-analyzer", "spacy"),
        comparisons=[
            Comparison(
                f"Texts searched, {set_name}, one processor",
                "MB/s",
                {name: [turn["rate"] for turn in turns] for name, turns in by_name.items()},
            )
            for set_name, by_name in results.items()
        ],
        facts=facts,
        keep=not chosen.dry,
    )


if __name__ == "__main__":
    main()
