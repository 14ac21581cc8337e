"""Continuous batching: who comes and goes does not change what the others write; slots are freed and remembered."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from writing import WAYS, complete, open_way

from bimo.generate import batching
from bimo.generate.batching import PROMPT_ROWS, Batch, Request
from bimo.generate.engine import write_reference
from bimo.generate.sample import Sampling
from bimo.generate.stepping import Steps, TorchSteps
from bimo.models.transformer import Decoder

MakeModel = Callable[..., Decoder]
GREEDY = Sampling(0.0)
SAMPLINGS = (GREEDY, Sampling(1.0, top_p=1.0), Sampling(0.9, top_k=30, top_p=0.9, repetition_penalty=1.3))


class Counted:
    """Steps that note how many rows each step read, and what was copied."""

    def __init__(self, steps: Steps) -> None:
        self._steps, self.config = steps, steps.config
        self.slots, self.positions = steps.slots, steps.positions
        self.rows: list[int] = []
        self.copies: list[tuple[int, int, int]] = []

    def step(self, tokens: np.ndarray, *rest: np.ndarray) -> np.ndarray:
        self.rows.append(len(tokens))
        return self._steps.step(tokens, *rest)

    def copy(self, *arguments: int) -> None:
        self.copies.append(arguments)
        self._steps.copy(*arguments)


@pytest.fixture
def counted(make_model: MakeModel) -> Callable[..., Counted]:
    def opened(slots: int, positions: int = 64) -> Counted:
        steps = TorchSteps(make_model(context=positions))
        steps.reserve(slots, positions)
        return Counted(steps)

    return opened


def random_request(random: np.random.Generator) -> Request:
    prompt = random.integers(0, 97, random.integers(1, 30)).tolist()
    sampling = SAMPLINGS[random.integers(len(SAMPLINGS))]
    ends = frozenset(random.integers(0, 97, 3).tolist())
    return Request(prompt, int(random.integers(1, 25)), sampling, int(random.integers(100)), ends)


@pytest.mark.parametrize("way", WAYS)
def test_company_changes_nothing(make_model: MakeModel, way: str) -> None:
    """Twenty requests through four slots, coming at random moments: each gets what it gets alone."""
    model = make_model(context=64)
    steps = open_way(way, model)
    steps.reserve(4, 64)
    random = np.random.default_rng(8)
    batch, answers, requests = Batch(steps), {}, {}
    while len(requests) < 20 or batch.busy:
        for _ in range(int(random.integers(0, 3)) if len(requests) < 20 else 0):
            request = random_request(random)
            ticket = batch.add(request)
            requests[ticket], answers[ticket] = request, []
        for written in batch.step():
            answers[written.ticket].append(written.token)
            finished = written.token in requests[written.ticket].ends
            assert written.last is (finished or len(answers[written.ticket]) == requests[written.ticket].max_tokens)
    with torch.inference_mode():
        assert answers == {ticket: write_reference(model, request) for ticket, request in requests.items()}


def test_a_prompt_that_is_known_is_not_read_again(counted: Callable[..., Counted]) -> None:
    steps = counted(2)
    batch = Batch(steps)
    prompt = list(range(20))
    for request in (Request(prompt, 3, GREEDY), Request([*prompt, 50], 3, GREEDY)):
        batch.add(request)
        while batch.busy:
            batch.step()
    # 20 and two written ones; then of 21 only the last, which is not one of the three written.
    assert steps.rows == [20, 1, 1, 1, 1, 1]
    assert steps.copies == []


def test_what_another_slot_knows_is_copied(counted: Callable[..., Counted]) -> None:
    steps = counted(2)
    batch = Batch(steps)
    prompt = list(range(20))
    batch.add(Request(prompt, 30, GREEDY))
    batch.step()
    batch.add(Request([*prompt[:12], 60, 61], 1, GREEDY))
    assert [written.ticket for written in batch.step()] == [1, 2]
    assert steps.copies == [(0, 1, 12)]
    assert steps.rows == [20, 3]


def test_a_stranger_takes_the_slot_that_forgets_least(counted: Callable[..., Counted]) -> None:
    steps = counted(2)
    long, short = list(range(30)), [50, 51, 52]
    complete(steps, [Request(long, 1, GREEDY), Request(short, 1, GREEDY)])
    batch = Batch(steps)
    for prompt, rows in ((long, 30), (short, 3), ([70, 71], 2), (long, 1)):
        batch.add(Request(prompt, 1, GREEDY))
        batch.step()
        assert steps.rows[-1] == rows


def test_the_last_token_is_always_read(counted: Callable[..., Counted]) -> None:
    steps = counted(1)
    first = complete(steps, [Request([1, 2, 3], 1, GREEDY)])
    batch = Batch(steps)
    batch.add(Request([1, 2, 3], 1, GREEDY))
    batch.step()
    batch.add(Request([1, 2, 3], 1, GREEDY))
    assert [[written.token] for written in batch.step()] == first
    assert steps.rows == [3, 3, 1]


def test_cancelling_frees_the_slot_at_once(counted: Callable[..., Counted]) -> None:
    batch = Batch(counted(1))
    first, second, third = (batch.add(Request([5, 6], 50, GREEDY, seed)) for seed in range(3))
    assert [written.ticket for written in batch.step()] == [first]
    assert batch.free_slots == 0
    batch.cancel(first)
    batch.cancel(third)
    assert batch.free_slots == 1
    assert [written.ticket for written in batch.step()] == [second]
    batch.cancel(second)
    batch.cancel(second)
    assert not batch.busy
    assert batch.step() == []


@pytest.mark.parametrize("place", ["reading", "choosing"])
def test_a_step_that_was_interrupted_is_made_again(
    counted: Callable[..., Counted], place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = counted(2)
    expected = complete(steps, [Request([5, 6, 7], 9, GREEDY), Request([8], 4, GREEDY)])
    batch, answers = Batch(steps), {1: [], 2: []}
    batch.add(Request([5, 6, 7], 9, GREEDY))
    batch.add(Request([8], 4, GREEDY))
    owner, name = (steps, "step") if place == "reading" else (batching, "_choose_all")
    undisturbed = getattr(owner, name)

    def interrupted(*given: object) -> None:
        undisturbed(*given)
        monkeypatch.setattr(owner, name, undisturbed)
        raise KeyboardInterrupt

    for moment in range(12):
        if moment in (0, 3):
            monkeypatch.setattr(owner, name, interrupted)
            with pytest.raises(KeyboardInterrupt):
                batch.step()
        for written in batch.step():
            answers[written.ticket].append(written.token)
    assert [answers[1], answers[2]] == expected


def test_a_long_prompt_does_not_keep_others_waiting(counted: Callable[..., Counted]) -> None:
    steps = counted(2, positions=3 * PROMPT_ROWS)
    batch = Batch(steps)
    writer = batch.add(Request([1], 100, GREEDY))
    batch.step()
    reader = batch.add(Request([7] * (2 * PROMPT_ROWS + 10), 1, GREEDY))
    tickets = [[written.ticket for written in batch.step()] for _ in range(3)]
    assert tickets == [[writer], [writer], [writer, reader]]
    assert max(steps.rows) == PROMPT_ROWS + 1
