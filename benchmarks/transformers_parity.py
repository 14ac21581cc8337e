"""Does transformers compute what Bimo computes? Logits and 64 greedy tokens for 20 prompts from held-out text.

    python benchmarks/transformers_parity.py MODEL [MODEL...]

Each model folder must hold its data (`bimo run` leaves it in MODEL/bimo/data). Exits with 1 when a model differs.
"""

from __future__ import annotations

import itertools
import json
import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

import bimo
from bimo.generate.batching import Request
from bimo.generate.sample import Sampling
from bimo.text.store import read_stored

PROMPTS = 20
PROMPT_CHARACTERS = 60
NEW_TOKENS = 64
TOLERANCE = 1e-4


def compare(folder: Path) -> dict:
    """Largest difference of logits over all prompts, and how many prompts have equal ids and equal greedy tokens."""
    ours = bimo.load(folder, device="cpu")
    theirs = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    their_tokenizer = AutoTokenizer.from_pretrained(folder)
    documents = read_stored(folder / "bimo" / "data" / "documents", "validation")
    prompts = [document.text[:PROMPT_CHARACTERS] for document in itertools.islice(documents, PROMPTS)]
    # Without an end token both go on for all 64 tokens.
    settings = GenerationConfig(max_new_tokens=NEW_TOKENS, do_sample=False, pad_token_id=ours.tokenizer.end)
    theirs.generation_config = settings
    largest, same_ids, same_tokens = 0.0, 0, 0
    for prompt in prompts:
        ids = [ours.tokenizer.end, *ours.tokenizer.encode(prompt)]
        same_ids += ids == their_tokenizer(prompt).input_ids
        inputs = torch.tensor([ids])
        with torch.no_grad():
            difference = (ours.model(inputs) - theirs(inputs).logits).abs().max().item()
        largest = max(largest, difference)
        (mine,) = ours.answers([Request(ids, NEW_TOKENS, Sampling(temperature=0.0))])
        expected = theirs.generate(inputs, attention_mask=torch.ones_like(inputs), generation_config=settings)
        same_tokens += mine == expected[0, len(ids) :].tolist()
    return {
        "model": folder.name,
        "prompts": len(prompts),
        "largest_logit_difference": largest,
        "equal_ids": same_ids,
        "equal_greedy": same_tokens,
    }


def main() -> int:
    rows = [compare(Path(name)) for name in sys.argv[1:]]
    for row in rows:
        print("  ".join(f"{key} {value}" for key, value in row.items()))
    print(json.dumps(rows))
    fine = all(
        row["largest_logit_difference"] <= TOLERANCE and row["equal_ids"] == row["equal_greedy"] == row["prompts"]
        for row in rows
    )
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
