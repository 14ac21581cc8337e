"""Writing with each of the ways that Bimo has, for tests that compare them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import pytest
import torch

from bimo.generate.batching import Batch, Request
from bimo.generate.native import NativeDecoder
from bimo.generate.sample import Sampling
from bimo.generate.stepping import Steps, TorchSteps
from bimo.kernel import INSTRUCTIONS, best_instructions
from bimo.models.transformer import Decoder
from bimo.weights.gguf_blocks import StoredMatrix
from bimo.weights.quantize import stored_weights

WAYS = ("torch", *INSTRUCTIONS)
"""What computes: torch, or the kernel with one of its instruction sets."""


def ways_here() -> Iterator[str]:
    """The ways that this machine has, unless BIMO_KERNEL allows one only."""
    best = best_instructions()
    yield "torch"
    yield from INSTRUCTIONS[: INSTRUCTIONS.index(best) + 1] if best else ()


def open_way(way: str, model: Decoder, weights: dict[str, StoredMatrix] | None = None, *, threads: int = 2) -> Steps:
    """A model's steps in a way; skips where this machine does not have it."""
    if way == "torch":
        return TorchSteps(model)
    if way not in ways_here():
        pytest.skip(f"the kernel with {way} is not here, or BIMO_KERNEL forbids it")
    return NativeDecoder(model.config, weights or stored_weights(model), threads=threads, instructions=way)


def complete(steps: Steps, requests: Iterable[Request]) -> list[list[int]]:
    """What each request is answered with, in their order, the end token included where one was met."""
    batch = Batch(steps)
    answers: dict[int, list[int]] = {batch.add(request): [] for request in requests}
    while batch.busy:
        for written in batch.step():
            answers[written.ticket].append(written.token)
    return list(answers.values())


def write(
    model: Decoder,
    prompts: list[list[int]],
    *,
    max_tokens: int,
    sampling: Sampling,
    seed: int = 0,
    ends: frozenset[int] = frozenset(),
    way: str = "torch",
) -> list[list[int]]:
    """What follows each prompt, all written together; row i draws with seed + i."""
    steps = open_way(way, model)
    steps.reserve(len(prompts), model.config.context)
    with torch.inference_mode():
        return complete(
            steps, [Request(prompt, max_tokens, sampling, seed + row, ends) for row, prompt in enumerate(prompts)]
        )
