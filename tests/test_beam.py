"""Beam search: equal to its slow twin, to looking at everything there is, and untouched by its neighbours."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import reversing
import torch
from reversing import half_learned

from bimo.generate.beam import Beams, Hypothesis, padded, search, search_reference
from bimo.models.seq2seq import EncoderDecoder, Seq2SeqConfig
from bimo.runtime import UserError

END = 0


@pytest.fixture(scope="module")
def make_translator() -> Callable[..., EncoderDecoder]:
    """make_translator(vocabulary=..., seed=...): a small encoder-decoder whose every weight is random."""

    def make(*, vocabulary: int = 24, seed: int = 0, context: int = 16) -> EncoderDecoder:
        shape = Seq2SeqConfig(vocabulary, layers=2, decoder_layers=2, width=16, heads=2, hidden=24, context=context)
        model = EncoderDecoder(shape)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for weight in model.parameters():
                noise = torch.randn(weight.shape, generator=generator)
                weight.copy_(noise * 0.4 if weight.ndim == 2 else 1 + 0.2 * noise)
            model.head.bias[shape.pad] = -10_000.0
            model.head.bias[END] += 2.5
        return model.eval()

    return make


def sources(count: int, vocabulary: int, *, seed: int = 0) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, 9, (count,), generator=generator).tolist()
    return [[*torch.randint(1, vocabulary - 1, (n,), generator=generator).tolist(), END] for n in lengths]


def check_equal(ours: list[Hypothesis], twin: list[Hypothesis]) -> None:
    assert [hypothesis.ids for hypothesis in ours] == [hypothesis.ids for hypothesis in twin]
    assert [h.score for h in ours] == pytest.approx([h.score for h in twin], abs=1e-4)


@pytest.mark.parametrize("early", [True, False])
@pytest.mark.parametrize("width", [1, 2, 4])
@pytest.mark.parametrize("length_penalty", [0.0, 1.0, -0.5, 1.6])
def test_a_batch_finds_what_the_slow_twin_finds_for_each(make_translator, width, length_penalty, early) -> None:
    model = make_translator(seed=width)
    beams = Beams(width, length_penalty, max_tokens=9, early=early)
    texts = sources(7, 24)
    found = search(model, texts, end=END, beams=beams)
    for source, ours in zip(texts, found, strict=True):
        check_equal(ours, search_reference(model, source, end=END, beams=beams))


def test_a_beam_as_wide_as_all_there_is_finds_the_best_there_is(make_translator) -> None:
    V, limit = 5, 4
    model = make_translator(vocabulary=V, seed=3)
    source = [1, 2, 3, END]
    ids, real = padded([source], V - 1)
    words = [token for token in range(V) if token not in (END, V - 1)]
    everything = [[*text, END] for length in range(limit) for text in itertools.product(words, repeat=length)] + [
        list(text) for text in itertools.product(words, repeat=limit)
    ]
    best = (-float("inf"), [])
    for text in everything:
        with torch.no_grad():
            scores = model(ids, real, torch.tensor([[V - 1, *text[:-1]]])).log_softmax(dim=-1)
        score = sum(scores[0, place, token].item() for place, token in enumerate(text)) / len(text)
        best = max(best, (score, text))
    beams = Beams(width=3**limit, max_tokens=limit, early=False)
    for found in (
        search(model, [source], end=END, beams=beams)[0],
        search_reference(model, source, end=END, beams=beams),
    ):
        assert found[0].ids == best[1]
        assert found[0].score == pytest.approx(best[0], abs=1e-4)


def test_what_is_found_does_not_depend_on_the_neighbours() -> None:
    model = half_learned()
    texts = reversing.sources(30, seed=1)
    together = search(model, texts, end=END)
    assert len({len(found[0].ids) for found in together}) > 3, "sentences leave the batch at different times"
    for source, found in zip(texts, together, strict=True):
        check_equal(found, search(model, [source], end=END)[0])
        check_equal(found, search_reference(model, source, end=END))


def test_one_beam_is_greedy(make_translator) -> None:
    model = make_translator(seed=7)
    for source in sources(5, 24):
        ids, real = padded([source], model.config.pad)
        target = [model.config.pad]
        while len(target) <= 16 and (len(target) == 1 or target[-1] != END):
            with torch.no_grad():
                target.append(int(model(ids, real, torch.tensor([target]))[0, -1].argmax()))
        assert search(model, [source], end=END, beams=Beams(width=1))[0][0].ids == target[1:]


def test_padding_is_never_written_and_hypotheses_come_best_first(make_translator) -> None:
    model = make_translator(seed=9)
    for found in search(model, sources(6, 24), end=END, beams=Beams(width=6)):
        assert all(model.config.pad not in hypothesis.ids for hypothesis in found)
        assert all(hypothesis.ids.count(END) == (hypothesis.ids[-1] == END) for hypothesis in found)
        scores = [hypothesis.score for hypothesis in found]
        assert scores == sorted(scores, reverse=True)
        assert len({tuple(hypothesis.ids) for hypothesis in found}) == 6


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"width": 0}, "width must be at least 1"),
        ({"length_penalty": float("nan")}, "length_penalty must be from -10 to 10"),
    ],
)
def test_searches_that_cannot_be_are_refused(settings, sentence) -> None:
    with pytest.raises(UserError, match=sentence):
        Beams(**settings)


@pytest.mark.parametrize("early", [True, False])
def test_scores_that_are_no_numbers_end_in_a_sentence(make_translator, early: bool) -> None:
    model = make_translator()
    with torch.no_grad():
        model.head.bias.fill_(torch.inf)
    with pytest.raises(UserError, match="What this model computes is no number"):
        search(model, sources(3, 24), end=END, beams=Beams(2, early=early))
