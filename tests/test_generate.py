"""Writing: cached decoding as the slow one, beyond the context, stop strings, batches, likelihoods, wrong folders."""

from __future__ import annotations

import itertools
import json
import math
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from typer.testing import CliRunner
from writing import WAYS, write

from bimo.cli import app
from bimo.generate.batching import Batch, Request, Written
from bimo.generate.constraints import Automaton, regex
from bimo.generate.engine import LanguageModel, _until, generate, load, write_reference
from bimo.generate.sample import Sampling, choose
from bimo.models.scoring import rolling_windows
from bimo.models.transformer import Decoder
from bimo.runtime import UserError
from bimo.tokens.tokenizer import Tokenizer
from bimo.weights.huggingface import save_model

MakeModel = Callable[..., Decoder]
GREEDY = Sampling(0.0)
WIDE = Sampling(1.0, top_p=1.0)
NARROW = Sampling(0.9, top_k=30, top_p=0.9, min_p=0.01, repetition_penalty=1.3)
PROMPTS = [[1, 2, 3, 4], [5, 6, 7, 8], [1, 2, 3, 4]]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("sampling", [GREEDY, WIDE, NARROW])
@pytest.mark.parametrize("fields", [{}, {"tied": False}, {"kv_heads": 4}, {"kv_heads": 1, "qk_norm": False}])
def test_decoding_with_a_cache_is_decoding_without(
    make_model: MakeModel, fields: dict, sampling: Sampling, way: str
) -> None:
    model = make_model(**fields)
    fast = write(model, PROMPTS, max_tokens=28, sampling=sampling, seed=4, way=way)
    slow = [write_reference(model, Request(prompt, 28, sampling, 4 + row)) for row, prompt in enumerate(PROMPTS)]
    assert fast == slow
    assert len(fast[0]) == 28
    if sampling is GREEDY:
        assert fast[0] == fast[2]
    else:
        assert fast[0] != fast[2], "rows of one prompt draw different numbers"


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("context", [1, 2, 7, 8])
@pytest.mark.parametrize("length", [1, 6, 8, 9, 30])
def test_beyond_the_context_it_goes_on(make_model: MakeModel, context: int, length: int, way: str) -> None:
    model = make_model(context=context)
    prompts = [[(7 * row + i) % 97 for i in range(length)] for row in range(2)]
    found = write(model, prompts, max_tokens=25, sampling=NARROW, seed=9, way=way)
    assert found == [write_reference(model, Request(prompt, 25, NARROW, 9 + i)) for i, prompt in enumerate(prompts)]


def test_each_row_ends_at_its_end_token(make_model: MakeModel) -> None:
    model = make_model(vocabulary=5)
    rows = write(model, [[1], [1], [1]], ends=frozenset([2]), max_tokens=200, sampling=WIDE)
    assert len({len(row) for row in rows}) > 1
    assert all(row.index(2) == len(row) - 1 for row in rows)
    assert rows == [write_reference(model, Request([1], 200, WIDE, seed, frozenset([2]))) for seed in range(3)]


def test_no_tokens_is_refused() -> None:
    with pytest.raises(UserError, match="max_tokens must be at least 1"):
        Request([1], 0, GREEDY)


# --- stop strings


def cut_before(text: str, stop: tuple[str, ...]) -> str:
    """What stands before the stop string that is complete first, read one character at a time."""
    for end in range(len(text) + 1):
        ends_here = [word for word in stop if word and text[:end].endswith(word)]
        if ends_here:
            return text[: end - max(map(len, ends_here))]
    return text


letters = st.text(st.sampled_from("ab\n会"), max_size=12)


@given(st.lists(letters, max_size=6), st.lists(letters, max_size=3).map(tuple))
@example(["abcd"], ("abcd", "bc"))
@example(["abc", "d"], ("abcd", "bc"))
@example(["a", "", "aab"], ("aab",))
@example(["ab"], ("",))
def test_stop_strings_never_leak(pieces: list[str], stop: tuple[str, ...]) -> None:
    assert "".join(_until(stop, iter(pieces))) == cut_before("".join(pieces), stop)


def test_only_what_may_begin_a_stop_string_is_held_back() -> None:
    given_: list[str] = []

    def source() -> Iterator[str]:
        for piece in ("ab", "E", "N", "x", "EN", "D", "never"):
            yield piece
            given_.append(piece)

    stream = _until(("END",), source())
    assert next(stream) == "ab"
    assert given_ == []
    assert next(stream) == "ENx"
    assert given_ == ["ab", "E", "N"]
    assert list(stream) == []
    assert given_ == ["ab", "E", "N", "x", "EN"]


# --- a model with its tokenizer


@pytest.fixture(scope="module")
def language_model(make_model: MakeModel, tiny_tokenizer: Tokenizer) -> LanguageModel:
    return LanguageModel(make_model(vocabulary=tiny_tokenizer.vocabulary, context=24), tiny_tokenizer)


@pytest.mark.parametrize("prompt", ["", "会议决定，the committee 👍"])
def test_text_streams_as_the_ids_decode(language_model: LanguageModel, prompt: str) -> None:
    tokenizer, model = language_model.tokenizer, language_model.model
    ids = [tokenizer.end, *tokenizer.encode(prompt)]
    expected = write_reference(model, Request(ids, 60, WIDE, 3, frozenset([tokenizer.end])))
    pieces = list(language_model.generate(prompt, max_tokens=60, sampling=WIDE, seed=3))
    assert "".join(pieces) == tokenizer.decode(expected)
    assert len(pieces) > 20


def test_an_interrupted_call_leaves_nothing_behind(
    language_model: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = language_model.samples("The", count=3, max_tokens=8, seed=1)
    step, steps = Batch.step, []

    def interrupted(batch: Batch) -> list[Written]:
        steps.append(step(batch))
        if len(steps) == 3:
            raise KeyboardInterrupt
        return steps[-1]

    with monkeypatch.context() as patch:
        patch.setattr(Batch, "step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            language_model.samples("The", count=3, max_tokens=8, seed=1)
    started = []
    with monkeypatch.context() as patch:
        patch.setattr(Batch, "step", lambda batch: (started.append(batch.slots - batch.free_slots), step(batch))[1])
        assert language_model.samples("The", count=3, max_tokens=8, seed=1) == expected
    assert started[0] == 0  # nobody sits there any more


@pytest.mark.parametrize("sampling", [GREEDY, WIDE, NARROW])
def test_a_sample_of_many_is_the_sample_alone(language_model: LanguageModel, sampling: Sampling) -> None:
    together = language_model.samples("The", count=5, max_tokens=40, sampling=sampling, seed=11)
    for index, text in enumerate(together):
        assert language_model.samples("The", count=1, max_tokens=40, sampling=sampling, seed=11 + index) == [text]
        assert "".join(language_model.generate("The", max_tokens=40, sampling=sampling, seed=11 + index)) == text
    assert (len(set(together)) == 1) is (sampling is GREEDY)


def test_streams_that_are_read_by_turns_do_not_meet(language_model: LanguageModel) -> None:
    """Among them one that is begun while another is under way and needs more room, and one that is given up."""
    settings = {"max_tokens": 30, "sampling": WIDE}
    alone = ["".join(language_model.generate(prompt, seed=9, **settings)) for prompt in ("The", "会议", "She said")]
    fresh = LanguageModel(language_model.model, language_model.tokenizer)
    first, second, third = (fresh.generate(prompt, seed=9, **settings) for prompt in ("The", "会议", "She said"))
    given_up = fresh.generate("山里", max_tokens=3, sampling=WIDE)
    found = [next(first), "", ""]
    next(given_up)
    for _ in range(4):
        found[1] += next(second)
        found[0] += next(first)
    given_up.close()
    found[2] = "".join(third)
    assert [found[0] + "".join(first), found[1] + "".join(second), found[2]] == alone
    assert not fresh._unread


def test_threads_write_what_they_write_alone(language_model: LanguageModel) -> None:
    def text(seed: int) -> str:
        return "".join(language_model.generate("会议", max_tokens=30, sampling=WIDE, seed=seed))

    alone = [text(seed) for seed in range(8)]
    many = language_model.samples("会议", count=8, max_tokens=30, sampling=WIDE)
    with ThreadPoolExecutor(4) as pool:
        samples = pool.submit(language_model.samples, "会议", count=8, max_tokens=30, sampling=WIDE)
        assert [*pool.map(text, range(8))] == alone
        assert samples.result() == many == alone
    assert language_model._unread == {}


def test_threads_share_a_form(language_model: LanguageModel) -> None:
    """Its table grows while others follow it."""
    pattern = "([a-z]{2,5} |[0-9]{1,4}-){3}(中|文|é)+"

    def text(seed: int, form: Automaton) -> str:
        return "".join(language_model.generate("会议", max_tokens=60, sampling=WIDE, seed=seed, constraint=form))

    alone = [text(seed, regex(pattern)) for seed in range(8)]
    assert all(re.fullmatch(pattern, one) for one in alone)
    form = regex(pattern)
    with ThreadPoolExecutor(4) as pool:
        assert [*pool.map(lambda seed: text(seed, form), range(8))] == alone


def test_room_is_taken_for_what_is_asked(language_model: LanguageModel) -> None:
    language_model.samples("会", count=70, max_tokens=2)
    assert language_model._batch.slots == 64  # the others wait
    many = language_model._batch.slots * language_model._batch.positions
    "".join(language_model.generate("会", max_tokens=20))
    assert language_model._batch.slots * language_model._batch.positions < many


def test_what_ends_a_message_is_not_penalised(make_model: MakeModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """It stands behind every earlier message, and a penalty would keep the next one from ending."""
    model, ends = make_model(), frozenset([7])
    request = Request([1, 7, 5, 7, 30], 12, Sampling(0.0, repetition_penalty=1.5), 0, ends)
    shown: list[list[int]] = []

    def choose_and_show(logits: Any, seen: list[list[int]], *others: Any) -> list[int]:
        shown.extend(map(list, seen))
        return choose(logits, seen, *others)

    for module in ("batching", "engine"):
        monkeypatch.setattr(sys.modules[f"bimo.generate.{module}"], "choose", choose_and_show)
    (found,) = write(model, [request.prompt], max_tokens=12, sampling=request.sampling, ends=ends)
    assert found == write_reference(model, request)
    assert len(shown) == 2 * len(found)
    assert all(seen[:3] == [1, 5, 30] and 7 not in seen for seen in shown)


def test_writing_stops_at_the_end_token(tiny_tokenizer: Tokenizer, make_model: MakeModel) -> None:
    model = make_model(vocabulary=tiny_tokenizer.vocabulary)
    end = tiny_tokenizer.end
    ids = [end, *tiny_tokenizer.encode("a")]
    first = write_reference(model, Request(ids, 6, WIDE))
    # A tokenizer whose end is the fourth token that the model writes.
    other = Tokenizer(tiny_tokenizer.inner)
    other.end = first[3]
    assert first.index(first[3]) == 3
    other_model = LanguageModel(model, other)
    other_model._prompt_ids = lambda prompt: ids
    assert "".join(other_model.generate("a", max_tokens=50, sampling=WIDE)) == tiny_tokenizer.decode(first[:3])
    assert other_model.samples("a", count=1, max_tokens=50, sampling=WIDE) == [tiny_tokenizer.decode(first[:3])]


def test_a_stop_string_cuts_what_is_written(language_model: LanguageModel) -> None:
    text = "".join(language_model.generate("The", max_tokens=60, sampling=WIDE, seed=1))
    stop = text[20:23]
    assert stop
    found = "".join(language_model.generate("The", max_tokens=60, sampling=WIDE, seed=1, stop=(stop, "\0never")))
    assert found == text[: text.index(stop)]


def log_p(model: Decoder, ids: list[int], last: int) -> float:
    """Natural logarithm of the probability of the last ids after those before."""
    logits = model(torch.tensor([ids[:-1]])).double().log_softmax(-1)[0]
    return sum(logits[t - 1, ids[t]].item() for t in range(len(ids) - last, len(ids)))


@pytest.mark.parametrize(
    ("context", "continuation"), [("", "会议"), ("The committee", " met on"), ("会议", "。👍🏽"), ("a", "")]
)
@torch.no_grad()
def test_likelihood_is_the_sum_over_the_continuation(
    language_model: LanguageModel, context: str, continuation: str
) -> None:
    tokenizer = language_model.tokenizer
    after = tokenizer.encode(continuation)
    ids = [tokenizer.end, *tokenizer.encode(context), *after]
    assert language_model.loglikelihood(context, continuation) == pytest.approx(
        log_p(language_model.model, ids, len(after)), rel=1e-5
    )


def test_likelihood_of_nothing_is_certain(language_model: LanguageModel) -> None:
    assert language_model.loglikelihood("", "") == 0
    assert language_model.loglikelihood("The committee", "") == 0


@torch.no_grad()
def test_a_long_context_is_read_from_its_end(language_model: LanguageModel) -> None:
    tokenizer = language_model.tokenizer
    context, continuation = "会议决定，下周三之前由研发部提交报告。" * 5, " The committee met"
    after = tokenizer.encode(continuation)
    ids = [tokenizer.end, *tokenizer.encode(context), *after]
    assert len(ids) > 30 > len(after)
    expected = log_p(language_model.model, ids[-25:], len(after))
    assert language_model.loglikelihood(context, continuation) == pytest.approx(expected, rel=1e-5)


@torch.no_grad()
def test_every_token_of_a_long_continuation_counts(language_model: LanguageModel) -> None:
    """All of it is predicted, even where it is longer than the context that the model can read."""
    tokenizer, model = language_model.tokenizer, language_model.model
    text = "The committee met on Thursday and decided to submit the report. 会议决定。" * 3
    ids = [tokenizer.end, *tokenizer.encode(text)]
    assert len(ids) > 2 * 24
    expected = sum(log_p(model, window.ids, window.scored) for window in rolling_windows(ids, context=24, stride=12))
    assert language_model.loglikelihood("", text) == pytest.approx(expected, rel=1e-5)


@torch.no_grad()
def test_rolling_likelihood_of_whole_documents(language_model: LanguageModel) -> None:
    tokenizer, model = language_model.tokenizer, language_model.model
    documents = ["会议", "The committee met", "", "He said: 👍"]
    expected = []
    for text in documents:
        ids = [tokenizer.end, *tokenizer.encode(text), tokenizer.end]
        assert len(ids) <= 25
        expected.append(log_p(model, ids, len(ids) - 1))
    assert language_model.rolling_loglikelihood(documents) == pytest.approx(expected, rel=1e-5)


def test_the_shortest_context_works_too(make_model: MakeModel, tiny_tokenizer: Tokenizer) -> None:
    model = LanguageModel(make_model(vocabulary=tiny_tokenizer.vocabulary, context=1), tiny_tokenizer)
    ids = [tiny_tokenizer.end, *tiny_tokenizer.encode("ab cd"), tiny_tokenizer.end]
    with torch.no_grad():
        expected = sum(log_p(model.model, list(pair), 1) for pair in itertools.pairwise(ids))
    assert model.rolling_loglikelihood(["ab cd"])[0] == pytest.approx(expected, rel=1e-5)
    assert math.isfinite(model.loglikelihood("ab", " cd"))


# --- folders


@pytest.fixture
def folder(tmp_path: Path, language_model: LanguageModel) -> Path:
    path = tmp_path / "model"
    path.mkdir()
    save_model(path, language_model.model, end=language_model.tokenizer.end)
    language_model.tokenizer.save(path, context=24)
    return path


def test_a_saved_model_writes_the_same(folder: Path, language_model: LanguageModel) -> None:
    loaded = load(folder, device="cpu")
    assert loaded.model.config == language_model.model.config
    assert loaded.samples("The", count=2, seed=5) == language_model.samples("The", count=2, seed=5)
    assert generate(folder, "The", max_tokens=30, seed=2) == "".join(
        language_model.generate("The", max_tokens=30, seed=2)
    )


def test_a_folder_that_is_no_model_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="There is no model folder"):
        load(tmp_path / "nothing")
    with pytest.raises(UserError, match="is not a model folder"):
        load(tmp_path)
    with pytest.raises(UserError, match="There is no model folder"):
        load(folder / "config.json")
    (folder / "tokenizer.json").unlink()
    with pytest.raises(UserError, match="There is no tokenizer"):
        load(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match="is not a model folder"):
        load(folder)


@pytest.mark.parametrize("content", [b"", b"\x00" * 100, b"PK\x03\x04", b"\xff" * 8 + b"{}"])
def test_broken_weights_are_refused(folder: Path, content: bytes) -> None:
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(UserError, match=r"model\.safetensors is damaged"):
        load(folder)


@pytest.mark.parametrize("content", ["", "{", "[]", '"llama"', '{"model_type": "llama"}', '{"model_type": ["llama"]}'])
def test_a_broken_config_is_refused(folder: Path, content: str) -> None:
    (folder / "config.json").write_text(content, encoding="utf-8")
    with pytest.raises(UserError, match=r"config\.json"):
        load(folder)


@pytest.mark.parametrize(
    "changes",
    [
        {"hidden_size": 32},
        {"num_hidden_layers": 3},
        {"num_hidden_layers": 1},
        {"vocab_size": 641},
        {"model_type": "llama"},
        {"tie_word_embeddings": False},
        {"num_key_value_heads": 4},
    ],
)
def test_weights_that_do_not_fit_the_config_are_refused(folder: Path, changes: dict) -> None:
    settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps({**settings, **changes}), encoding="utf-8")
    with pytest.raises(UserError, match=r"do not fit its config\.json: [\d,]+ numbers"):
        load(folder)


YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16, "rope_theta": 1e4}


@pytest.mark.parametrize(
    "changes",
    [
        {"vocab_size": "640"},
        {"hidden_size": 24.0},
        {"num_attention_heads": 0},
        {"head_dim": None, "num_attention_heads": 0},
        {"rope_scaling": "x", "rope_parameters": None},
        {"rope_parameters": {**YARN, "original_max_position_embeddings": 0}},
        {"rope_parameters": {**YARN, "rope_theta": 1.0}, "rope_theta": 1.0},
    ],
)
def test_numbers_that_are_none_are_refused(folder: Path, changes: dict) -> None:
    settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps({**settings, **changes}), encoding="utf-8")
    with pytest.raises(UserError):
        load(folder)


def test_a_tokenizer_larger_than_the_model_is_refused(
    tmp_path: Path, make_model: MakeModel, tiny_tokenizer: Tokenizer
) -> None:
    save_model(tmp_path, make_model(vocabulary=tiny_tokenizer.vocabulary - 1), end=0)
    tiny_tokenizer.save(tmp_path)
    with pytest.raises(UserError, match="has 640 tokens, but the model knows 639"):
        load(tmp_path)


def test_a_prompt_that_is_too_long_is_said_to_be(folder: Path) -> None:
    done = CliRunner().invoke(app, ["generate", str(folder), "会议" * 40, "--max-tokens", "2"])
    unread = load(folder).unread_tokens("会议" * 40)
    assert unread > 0
    assert f"its first {unread} tokens are not read" in done.stderr
    assert "not read" not in CliRunner().invoke(app, ["generate", str(folder), "会议", "--max-tokens", "2"]).stderr


def test_characters_that_a_terminal_does_not_have_are_spelled(folder: Path) -> None:
    program = "from bimo.cli import main; main()"
    command = [sys.executable, "-c", program, "generate", str(folder), "中", "--max-tokens", "1"]
    done = subprocess.run(command, env={**os.environ, "PYTHONIOENCODING": "ascii"}, capture_output=True, check=False)
    assert (done.returncode, done.stdout[:6]) == (0, rb"\u4e2d"), done.stderr


def test_a_chat_that_cannot_be_kept_is_refused_before_anything_is_said(folder: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["chat", str(folder), "--save", str(tmp_path)], input="Hello\n")
    assert (done.exit_code, done.stdout) == (1, "")
    assert "cannot be used" in done.stderr


def test_an_end_that_the_model_does_not_have_ends_nothing(folder: Path) -> None:
    """As in models that were cut down: their settings still name the end of the larger one."""
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [99_999, -1, 3]}), encoding="utf-8")
    model = load(folder)
    assert model._ends == {3, model.tokenizer.end}
    assert re.fullmatch("[ab]{3}", "".join(model.generate("", constraint=regex("[ab]{3}"), max_tokens=9)))


def test_a_model_with_room_to_spare_is_not(tmp_path: Path, make_model: MakeModel, tiny_tokenizer: Tokenizer) -> None:
    save_model(tmp_path, make_model(vocabulary=tiny_tokenizer.vocabulary + 60), end=0)
    tiny_tokenizer.save(tmp_path)
    assert isinstance("".join(load(tmp_path).generate("a", max_tokens=50, sampling=WIDE)), str)


def test_a_folder_can_move(folder: Path, tmp_path: Path) -> None:
    before = load(folder).samples(count=1)
    assert load(shutil.move(folder, tmp_path / "笔墨 model")).samples(count=1) == before
