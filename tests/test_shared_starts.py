"""What windows begin with together is read once, and their scores are as if each had been read alone."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from random_models import randomised

from bimo.generate import shared_starts
from bimo.generate.shared_starts import scores_sharing_starts
from bimo.models.config import ModelConfig
from bimo.models.families import LanguageShape, build
from bimo.models.perceptron import PerceptronConfig
from bimo.models.recurrent import RecurrentConfig
from bimo.models.scoring import Window, all_scores

DECODER = {"vocabulary": 97, "layers": 2, "width": 24, "heads": 4, "kv_heads": 2, "head_width": 8, "hidden": 40}
SHAPES: dict[str, LanguageShape] = {
    "decoder": ModelConfig(**DECODER, context=128),
    "decoder, learned positions": ModelConfig(**DECODER, context=128, positions="learned"),
    "lstm": RecurrentConfig(vocabulary=97, layers=2, width=24, context=128),
    "mlp": PerceptronConfig(vocabulary=97, layers=2, width=24, embedding_width=12, window=5, context=128),
}


def windows() -> list[Window]:
    """Questions below the same examples, one below a part of them, answers to one question, and others."""
    draw = torch.Generator().manual_seed(0)

    def ids(count: int) -> list[int]:
        return torch.randint(97, (count,), generator=draw).tolist()

    examples, question = ids(60), ids(40)
    asked = [[*examples, *ids(count)] for count in (3, 30, 7)]
    return [
        *(Window([*below, *ids(count)], count) for below in asked for count in (1, 8, 3)),
        Window([*asked[1], *ids(2)], 2),
        *(Window([*examples, *ids(9 + n)], n) for n in range(5)),
        Window([*examples[:50], *ids(6)], 3),
        *(Window([*question, *ids(n)], n) for n in (1, 4, 2)),
        Window([*examples, *ids(9)], 68),
        Window(ids(50), 5),
        Window(examples[:20], 3),
        *[Window(ids(129), 0)] * 2,
        *[Window([*examples, *ids(69)], 0)] * 2,
    ]


@pytest.mark.parametrize("positions_at_once", [1, 150, 2**12])
@pytest.mark.parametrize("kind", SHAPES)
def test_scores_are_those_of_windows_read_alone(kind: str, positions_at_once: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(shared_starts, "POSITIONS_AT_ONCE", positions_at_once)
    monkeypatch.setattr(shared_starts, "READ_AT_ONCE", 17)
    model = randomised(build(SHAPES[kind]), seed=1)
    alone = [all_scores(model, [window])[0] for window in windows()]
    together = scores_sharing_starts(model, windows())
    assert [one.nats for one in together] == pytest.approx([one.nats for one in alone], rel=1e-5)
    assert [one.hits for one in together] == [one.hits for one in alone]
    assert scores_sharing_starts(model, []) == []


BELOW = [Window([*range(60), n, n + 1, n + 2], 1) for n in range(10)]
QUESTIONS = [
    Window([*range(35), *range(90 - 10 * question, 50 - 10 * question, -1), n], 1)
    for n in range(5)
    for question in range(3)
]


@pytest.mark.parametrize(
    ("windows", "expected"),
    [
        (BELOW, [10 * 2, 60]),
        ([*BELOW, Window([*range(40), 96, *range(10)], 2)], [10 * 2, 40 + 1 + 9, 60]),
        ([*BELOW, Window([*range(60), *range(66)], 1)], [10 * 2, 60, 60 + 65]),
        (QUESTIONS, [3, 3, 3, 3, 3, 35, 3 * (74 - 35)]),
    ],
    ids=["examples", "one with fewer", "one that is long", "questions"],
)
def test_what_windows_begin_with_is_read_once(
    windows: list[Window], expected: list[int], make_model: Callable, monkeypatch: pytest.MonkeyPatch
):
    model = make_model(context=128)
    read: list[int] = []
    hidden_states = model.hidden_states

    def counted(ids: torch.Tensor, cache: object = None) -> torch.Tensor:
        read.append(ids.numel())
        return hidden_states(ids, cache)

    monkeypatch.setattr(model, "hidden_states", counted)
    scores_sharing_starts(model, windows)
    assert sorted(read) == expected
