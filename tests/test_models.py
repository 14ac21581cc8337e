"""The decoder: formulas against counts, fast parts against slow ones, caches and padding that change nothing."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from bimo.generate.cache import KeyValueCache
from bimo.models.config import ModelConfig, RotaryScaling, load_presets
from bimo.models.layers import (
    QUERIES_AT_ONCE,
    WRITTEN_OUT_CONTEXT,
    RMSNorm,
    attend,
    attend_reference,
    drop_columns,
    rms_norm_reference,
    rotary_tables,
    rotate,
    turned_heads,
)
from bimo.models.scoring import Score, Window, rolling_scores, rolling_windows, score_windows
from bimo.models.transformer import Decoder
from bimo.runtime import UserError
from bimo.train.losses import next_token_loss

MakeModel = Callable[..., Decoder]
SHAPE = {
    "vocabulary": 50,
    "layers": 2,
    "width": 12,
    "heads": 4,
    "kv_heads": 2,
    "head_width": 6,
    "hidden": 20,
    "context": 9,
}


def random_ids(*shape: int, vocabulary: int = 97, seed: int = 0) -> torch.Tensor:
    return torch.randint(vocabulary, shape, generator=torch.Generator().manual_seed(seed))


# --- the shape and what follows from it


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("name", list(load_presets()))
def test_parameters_of_presets_are_those_counted(name: str, tied: bool) -> None:
    check_parameters(ModelConfig(vocabulary=1000, context=64, tied=tied, **load_presets()[name]))


@given(
    st.integers(1, 60), st.integers(1, 3), st.integers(1, 20), st.integers(1, 3), st.integers(1, 3), st.integers(1, 5),
    st.integers(1, 30), st.booleans(), st.booleans(),
)  # fmt: skip
@settings(max_examples=30)
def test_parameters_of_any_shape_are_those_counted(
    vocabulary: int, layers: int, width: int, groups: int, kv: int, half: int, hidden: int, qk_norm: bool, tied: bool
) -> None:
    check_parameters(
        ModelConfig(vocabulary, layers, width, groups * kv, kv, 2 * half, hidden, 8, qk_norm=qk_norm, tied=tied)
    )


def check_parameters(config: ModelConfig) -> None:
    with torch.device("meta"):
        model = Decoder(config)
    weights = dict(model.named_parameters())
    assert config.parameters == sum(weight.numel() for weight in weights.values())
    inner = [weight.numel() for name, weight in weights.items() if name.startswith("layers.") and weight.ndim == 2]
    assert config.matrix_parameters == sum(inner)


@pytest.mark.parametrize("tied", [True, False])
def test_flops_are_those_that_torch_counts(make_model: MakeModel, tied: bool) -> None:
    model = make_model(tied=tied, context=16)
    model.train()
    windows = random_ids(3, 17).numpy()
    with FlopCounterMode(display=False) as counter:
        loss, _ = next_token_loss(model, windows)
        loss.backward()
    assert counter.get_total_flops() == 3 * 16 * model.config.flops_per_token


def test_presets_grow_and_stand_on_their_own() -> None:
    shapes = [ModelConfig(vocabulary=8192, context=256, **fields) for fields in load_presets().values()]
    assert [shape.matrix_parameters for shape in shapes] == sorted(shape.matrix_parameters for shape in shapes)
    assert all(shape.hidden % 64 == 0 and shape.heads % shape.kv_heads == 0 for shape in shapes)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"layers": 0}, "layers must be at least 1, but is 0"),
        ({"context": -3}, "context must be at least 1, but is -3"),
        ({"heads": 3}, r"heads \(3\) must be a multiple of its kv_heads \(2\)"),
        ({"head_width": 5}, "head_width must be even"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(changes: dict[str, int], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        ModelConfig(**{**SHAPE, **changes})


def test_positions_are_stretched_in_ways_that_there_are() -> None:
    with pytest.raises(UserError, match=r"rope_scaling\.kind must be one of linear, llama3, yarn, but is 'ntk'"):
        RotaryScaling("ntk", 2.0)


def test_memory_grows_with_what_it_holds() -> None:
    shape = ModelConfig(**SHAPE)
    assert shape.training_bytes(1) > 16 * shape.parameters
    one, two, four = (shape.training_bytes(batch) for batch in (1, 2, 4))
    assert four - two == 2 * (two - one) > 0


# --- layers


def attend_by_hand(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Causal attention, one query at a time; each group of queries shares a key/value head."""
    B, H, T, K = q.shape
    G, S = k.shape[1], k.shape[2]
    out = torch.empty_like(q)
    for b in range(B):
        for h in range(H):
            keys, values = k[b, h // (H // G)], v[b, h // (H // G)]
            for t in range(T):
                seen = S - T + t + 1
                weights = [math.exp(float(q[b, h, t] @ keys[s]) / math.sqrt(K)) for s in range(seen)]
                total = sum(weights)
                out[b, h, t] = sum((w / total * values[s] for s, w in enumerate(weights)), torch.zeros(K))
    return out.transpose(1, 2)


def causal(T: int, S: int) -> torch.Tensor | None:
    """What T queries at the end of S positions may see, where `attend` does not know it by itself."""
    return None if T == S else torch.ones(1, 1, T, S, dtype=torch.bool).tril(S - T)


@pytest.mark.parametrize(("T", "S"), [(1, 1), (5, 5), (1, 6), (3, 7)])
@pytest.mark.parametrize(("H", "G"), [(2, 2), (4, 2), (6, 1)])
def test_attention_is_as_written_by_hand(T: int, S: int, H: int, G: int) -> None:
    generator = torch.Generator().manual_seed(T * 100 + S)
    q = torch.randn(2, H, T, 4, generator=generator)
    k, v = torch.randn(2, 2, G, S, 4, generator=generator)
    torch.testing.assert_close(attend(q, k, v, causal(T, S)), attend_by_hand(q, k, v), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("T", [1, QUERIES_AT_ONCE, QUERIES_AT_ONCE + 1, 300, WRITTEN_OUT_CONTEXT + 3])
@pytest.mark.parametrize(("H", "G"), [(2, 2), (4, 2)])
@pytest.mark.parametrize("causal", [True, False])
def test_fast_attention_agrees(causal: bool, H: int, G: int, T: int) -> None:
    q = torch.randn(2, H, T, 8, requires_grad=True)
    k, v = (torch.randn(2, G, T, 8, requires_grad=True) for _ in range(2))
    fast = attend(q, k, v, causal=causal)
    repeated = (x.repeat_interleave(H // G, dim=1) for x in (k, v))
    slow = attend_reference(q, *repeated, causal=causal)
    torch.testing.assert_close(fast, slow, atol=2e-5, rtol=1e-4)
    toward = torch.randn_like(slow)
    for ours, theirs in zip(
        torch.autograd.grad(fast, (q, k, v), toward), torch.autograd.grad(slow, (q, k, v), toward), strict=True
    ):
        torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=1e-4)


def test_attention_to_all_agrees_without_the_compiled_core(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bimo.models.fused.fusible", lambda x: False)
    q, k, v = torch.randn(3, 2, 3, 200, 8)
    torch.testing.assert_close(
        attend(q, k, v, causal=False), attend_reference(q, k, v, causal=False), atol=2e-5, rtol=1e-4
    )


@pytest.mark.parametrize("S", [8, WRITTEN_OUT_CONTEXT + 8])
def test_attention_does_not_look_ahead(S: int) -> None:
    q, k, v = torch.randn(3, 1, 2, S, 4)
    before = attend(q, k, v)
    k[:, :, 5:], v[:, :, 5:] = 100.0, -100.0
    torch.testing.assert_close(attend(q, k, v)[:, :5], before[:, :5])
    torch.testing.assert_close(attend(q[:, :, 3:5], k[:, :, :5], v[:, :, :5], causal(2, 5)), before[:, 3:5])


def test_norm_is_the_formula() -> None:
    norm = RMSNorm(6, 1e-3)
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([1.0, -2, 0.5, 3, 0, 1]))
        x = torch.randn(4, 3, 6) * torch.tensor([1e-3, 1, 100, 0]).view(4, 1, 1)
        expected = x / (x.double().square().mean(-1, keepdim=True) + 1e-3).sqrt() * norm.weight
        torch.testing.assert_close(norm(x), expected.float())
    torch.testing.assert_close(norm(x), expected.float())


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 0.05)])
def test_norm_learns_as_torchs_own(dtype: torch.dtype, tolerance: float) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 5, 16).to(dtype).requires_grad_()
    norm = RMSNorm(16, 1e-6)
    with torch.no_grad():
        norm.weight.uniform_(0.5, 2)
    toward = torch.randn(2, 5, 16).to(dtype)
    fast = norm(x)
    slow = rms_norm_reference(x.float(), norm.weight, norm.epsilon)
    torch.testing.assert_close(fast.float(), slow, atol=tolerance, rtol=tolerance)
    ours = torch.autograd.grad(fast, (x, norm.weight), toward)
    theirs = torch.autograd.grad(slow, (x, norm.weight), toward.float())
    torch.testing.assert_close(ours[0].float(), theirs[0].float(), atol=tolerance, rtol=tolerance)
    torch.testing.assert_close(ours[1], theirs[1], atol=5 * tolerance, rtol=5 * tolerance)


def test_rotation_is_multiplication_by_complex_numbers() -> None:
    T, K, theta = 40, 10, 500.0
    cos, sin = rotary_tables(T, K, theta)
    x = torch.randn(2, 3, T, K)
    position = torch.arange(T, dtype=torch.float64)[:, None]
    angle = position * theta ** (-2 * torch.arange(K // 2, dtype=torch.float64) / K)
    turned = torch.complex(x[..., : K // 2].double(), x[..., K // 2 :].double()) * torch.polar(
        torch.ones(()).double(), angle
    )
    torch.testing.assert_close(
        rotate(x, cos, sin), torch.cat([turned.real, turned.imag], -1).float(), atol=1e-5, rtol=1e-5
    )


@pytest.mark.parametrize("norm", [None, RMSNorm(10, 1e-6)])
def test_heads_are_turned_alike_with_positions_of_their_own(norm: RMSNorm | None) -> None:
    """The fast way knows one table for all sequences; a cache has one for each."""
    cos, sin = rotary_tables(9, 10, 100.0)
    x = torch.randn(2, 9, 3, 10)
    each = (table.expand(2, 1, 9, 10) for table in (cos, sin))
    torch.testing.assert_close(turned_heads(x, norm, cos, sin), turned_heads(x, norm, *each))


def test_rotated_products_depend_on_the_distance_alone() -> None:
    cos, sin = rotary_tables(64, 8, 100.0)
    q, k = torch.randn(2, 1, 1, 1, 8).expand(-1, -1, -1, 64, -1)
    products = rotate(q, cos, sin)[0, 0] @ rotate(k, cos, sin)[0, 0].T
    for distance in (0, 1, 17):
        along = products.diagonal(-distance)
        torch.testing.assert_close(along, along[:1].expand_as(along), atol=1e-4, rtol=1e-4)
    assert products[0].std() > 0.1


# --- the whole decoder


@pytest.mark.parametrize("fields", [{}, {"tied": False}, {"qk_norm": False}, {"kv_heads": 4}, {"kv_heads": 1}])
@pytest.mark.parametrize("cuts", [[12], [1] * 12, [5, 1, 6], [1, 11], [3, 4, 5]])
def test_a_cache_changes_nothing(make_model: MakeModel, fields: dict, cuts: list[int]) -> None:
    model = make_model(context=12, **fields)
    ids = random_ids(3, 12)
    cache = KeyValueCache(model.config, slots=5, positions=12, device=torch.device("cpu"), dtype=torch.float32)
    with torch.no_grad():
        whole = model.hidden_states(ids)
        parts, seen = [], 0
        for part in ids.split(cuts, dim=1):
            parts.append(model.hidden_states(part, cache.rows([4, 0, 2], [seen] * 3)))
            seen += part.shape[1]
        torch.testing.assert_close(torch.cat(parts, dim=1), whole, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(model(ids), whole @ model.head.weight.T)
        again = model.hidden_states(ids[:, :4].flip(0), cache.rows([4, 0, 2], [0] * 3))
        torch.testing.assert_close(again, model.hidden_states(ids[:, :4].flip(0)), atol=1e-5, rtol=1e-4)


def test_rows_of_a_cache_stand_where_they_like(make_model: MakeModel) -> None:
    model = make_model(context=12)
    ids = random_ids(3, 12)
    cache = KeyValueCache(model.config, slots=3, positions=12, device=torch.device("cpu"), dtype=torch.float32)
    lengths = [11, 4, 7]
    with torch.no_grad():
        for slot, length in enumerate(lengths):
            model.hidden_states(ids[slot : slot + 1, :length], cache.rows([slot], [0]))
        after = torch.stack([ids[slot, length] for slot, length in enumerate(lengths)])[:, None]
        found = model.hidden_states(after[[2, 0, 1]], cache.rows([2, 0, 1], [7, 11, 4]))
        whole = model.hidden_states(ids)
    expected = torch.stack([whole[slot, length] for slot, length in zip([2, 0, 1], [7, 11, 4], strict=True)])
    torch.testing.assert_close(found[:, 0], expected, atol=1e-5, rtol=1e-4)


def test_later_ids_do_not_change_earlier_logits(make_model: MakeModel) -> None:
    model = make_model()
    ids = random_ids(1, 20)
    other = ids.clone()
    other[:, 13:] = (other[:, 13:] + 1) % 97
    before, after = model(ids), model(other)
    torch.testing.assert_close(before[:, :13], after[:, :13])
    assert (before[:, 13:] - after[:, 13:]).abs().max() > 0.1


def test_every_weight_matters_and_gets_a_gradient(make_model: MakeModel) -> None:
    model = make_model(tied=False)
    model.train()
    loss, counted = next_token_loss(model, random_ids(4, 11).numpy())
    assert counted == 40
    loss.backward()
    for name, weight in model.named_parameters():
        assert weight.grad is not None, name
        assert weight.grad.abs().max() > 1e-6, name


def test_a_new_model_knows_nothing_and_begins_silent() -> None:
    config = ModelConfig(**{**SHAPE, "vocabulary": 300, "width": 64})
    model = Decoder(config).initialise(1)
    assert (model.embedding.weight.std() - 0.02).abs() < 0.001
    windows = random_ids(8, 9, vocabulary=300).numpy()
    loss, _ = next_token_loss(model, windows)
    assert abs(loss.item() - math.log(300)) < 0.1
    ids = random_ids(1, 5, vocabulary=300)
    expected = rms_norm_reference(F.embedding(ids, model.embedding.weight), model.norm.weight, config.norm_epsilon)
    torch.testing.assert_close(model.hidden_states(ids), expected)


def test_the_seed_alone_decides_the_first_weights() -> None:
    first, same, other = (Decoder(ModelConfig(**SHAPE)).initialise(seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[name], same[name]) for name in first)
    assert not torch.equal(first["embedding.weight"], other["embedding.weight"])
    assert not torch.equal(first["layers.0.attention.query.weight"], first["layers.1.attention.query.weight"])


def test_bfloat16_is_near_and_keeps_the_weights(make_model: MakeModel) -> None:
    exact = make_model()
    rough = make_model()
    rough.compute_dtype = torch.bfloat16
    ids = random_ids(2, 16)
    a, b = exact(ids).log_softmax(-1), rough(ids)
    assert b.dtype == torch.bfloat16
    assert (a - b.float().log_softmax(-1)).abs().mean() < 0.05
    assert {weight.dtype for weight in rough.parameters()} == {torch.float32}


# --- scoring


@given(st.integers(0, 60), st.integers(1, 12), st.data())
def test_rolling_windows_predict_each_id_once(length: int, context: int, data: st.DataObject) -> None:
    stride = data.draw(st.integers(1, context))
    predicted = []
    for window in rolling_windows(list(range(length)), context=context, stride=stride, owner=5):
        assert window.owner == 5
        assert window.ids == list(range(window.ids[0], window.ids[-1] + 1))
        assert 1 <= window.scored < len(window.ids) <= context + 1
        for place in range(len(window.ids) - window.scored, len(window.ids)):
            predicted.append(window.ids[place])
            assert place >= min(window.ids[place], context - stride)
    assert predicted == list(range(1, length))


def direct_loss(model: Decoder, ids: list[int], first: int = 1) -> float:
    logits = model(torch.tensor([ids[:-1]])).double()[0]
    return F.cross_entropy(logits[first - 1 :], torch.tensor(ids[first:]), reduction="sum").item()


def rolling_nats(model: Decoder, documents: Iterable[list[int]], **choices: int) -> list[float]:
    return [score.nats for score in rolling_scores(model, documents, **choices)]


def test_scores_are_cross_entropies_and_padding_does_not_matter(make_model: MakeModel) -> None:
    model = make_model()
    windows = [
        Window(random_ids(n, seed=n).tolist(), scored) for n, scored in ((5, 4), (33, 32), (20, 3), (2, 1), (7, 0))
    ]
    scores = [score.nats for score in score_windows(model, windows)]
    alone = [score_windows(model, [window])[0].nats for window in windows]
    direct = [direct_loss(model, w.ids, len(w.ids) - w.scored) if w.scored else 0.0 for w in windows]
    assert scores == pytest.approx(direct, rel=1e-5)
    assert alone == pytest.approx(direct, rel=1e-5)


def test_nothing_to_score_scores_zero(make_model: MakeModel) -> None:
    model = make_model()
    assert score_windows(model, [Window([3], 0)]) == [Score()]
    assert rolling_nats(model, [], context=8, stride=8) == []
    assert rolling_nats(model, [[3], [], [3]], context=8, stride=8) == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("logits_at_once", [1, 5_000, 2**25])
@pytest.mark.parametrize("stride", [1, 4, 8])
def test_rolling_losses_add_up(
    make_model: MakeModel, monkeypatch: pytest.MonkeyPatch, stride: int, logits_at_once: int
) -> None:
    monkeypatch.setattr("bimo.models.scoring.LOGITS_AT_ONCE", logits_at_once)
    model = make_model(context=8)
    documents = [random_ids(n, seed=n).tolist() for n in (9, 2, 30, 1, 8, 17)]
    losses = rolling_nats(model, iter(documents), context=8, stride=stride)
    expected = [
        sum(
            direct_loss(model, window.ids, len(window.ids) - window.scored)
            for window in rolling_windows(ids, context=8, stride=stride)
        )
        for ids in documents
    ]
    assert losses == pytest.approx(expected, rel=1e-5)
    assert losses[0] == pytest.approx(direct_loss(model, documents[0]), rel=1e-5)


def test_rolling_losses_leave_the_model_as_it_was(make_model: MakeModel) -> None:
    model = make_model(context=8)
    for training in (True, False):
        model.train(training)
        rolling_nats(model, [[1, 2, 3]], context=8, stride=4)
        assert model.training is training


def test_a_better_model_scores_better() -> None:
    """A model that was taught one sequence predicts it at less than its entropy under a uniform guess."""
    torch.manual_seed(0)
    model = Decoder(ModelConfig(**{**SHAPE, "vocabulary": 20, "width": 32, "context": 16})).initialise(0)
    sequence = np.arange(17)[None] % 5
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(30):
        loss, _ = next_token_loss(model, sequence)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert rolling_nats(model, [sequence[0].tolist()], context=16, stride=16)[0] < 0.2 * 16 * math.log(20)


def test_dropped_columns_are_the_same_at_all_positions_and_means_stay():
    torch.manual_seed(0)
    dropped = drop_columns(torch.ones(200, 3, 50), 0.25, training=True)
    assert torch.equal(dropped, dropped[:, :1].expand_as(dropped))
    assert dropped.unique().tolist() == pytest.approx([0.0, 4 / 3])
    assert float((dropped == 0).float().mean()) == pytest.approx(0.25, abs=0.02)
    assert float(dropped.mean()) == pytest.approx(1.0, abs=0.03)


def test_dropout_is_for_training_alone_and_reaches_both_parts_of_a_layer():
    shape = ModelConfig(vocabulary=20, layers=1, width=8, heads=1, kv_heads=1, head_width=8, hidden=8, context=16)
    model, plain = Decoder(shape, dropout=0.999).initialise(0), Decoder(shape).initialise(0)
    for each in (model, plain):
        torch.nn.init.ones_(each.layers[0].attention.out.weight)
        torch.nn.init.ones_(each.layers[0].feed_forward.down.weight)
    ids = torch.arange(16)[None]
    assert model.state_dict().keys() == plain.state_dict().keys()
    torch.manual_seed(0)
    silent = plain.norm(plain.embedding(ids))
    torch.testing.assert_close(model.train().hidden_states(ids), silent)
    assert not torch.allclose(plain.train().hidden_states(ids), silent)
    assert torch.equal(model.eval()(ids), plain.eval()(ids))
