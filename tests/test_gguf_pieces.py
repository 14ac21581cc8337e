"""Tokenizers of SentencePiece in GGUF files: the ids are those of joining by scores, as a plain twin joins."""

from __future__ import annotations

import argparse
import inspect
import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from texts import CHINESE, ENGLISH, MIXED
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, trainers

from bimo.export.llama_cpp import XLlamaCpp
from bimo.export.source import source_of_gguf
from bimo.export.verb import export
from bimo.models.transformer import Decoder
from bimo.runtime import UserError
from bimo.text.documents import Document
from bimo.text.store import DocumentWriter
from bimo.tokens.chat import ChatFormat
from bimo.tokens.tokenizer import Tokenizer, load_tokenizer
from bimo.weights.gguf_tokenizer import gguf_tokenizer, tokenizer_to_gguf
from bimo.weights.huggingface import save_model

CONTROLS = ["<unk>", "<s>", "</s>"]
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]


@pytest.fixture(scope="module")
def keys() -> dict[str, Any]:
    """As files of Llama 2 have them: control tokens, bytes, what was learned in its order, characters, one word more.

    Without merges: they follow from the order.
    """
    learned = tokenizers.Tokenizer(models.BPE())
    learned.pre_tokenizer = pre_tokenizers.Metaspace()
    learned.train_from_iterator([*ENGLISH, *CHINESE, MIXED], trainers.BpeTrainer(vocab_size=700, show_progress=False))
    words = sorted(learned.get_vocab(), key=learned.get_vocab().get)
    pieces = [word for word in words if len(word) > 1] + [word for word in words if len(word) == 1]
    tokens = [*CONTROLS, *BYTES, *pieces, "<tool>"]
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": [0.0] * 259 + [-float(number) for number in range(len(pieces))] + [0.0],
        "tokenizer.ggml.token_type": [2, 3, 3, *[6] * 256, *[1] * len(pieces), 4],
        "tokenizer.ggml.unknown_token_id": 0,
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
    }


@pytest.fixture(scope="module")
def found(keys: dict[str, Any]) -> Tokenizer:
    return gguf_tokenizer(keys)


def slow_twin(keys: dict[str, Any], text: str) -> list[int]:
    """The neighbours whose piece has the best score are joined, the first of equals; what is left over is bytes."""
    ids = {token: number for number, token in enumerate(keys["tokenizer.ggml.tokens"])}
    scores = keys["tokenizer.ggml.scores"]
    symbols = list(("▁" + text if text else "").replace(" ", "▁"))
    while True:
        joined = enumerate(map("".join, itertools.pairwise(symbols)))
        known = [(scores[ids[piece]], -place) for place, piece in joined if piece in ids]
        if not known:
            break
        place = -max(known)[1]
        symbols[place : place + 2] = ["".join(symbols[place : place + 2])]
    bytes_ = [[ids[symbol]] if symbol in ids else [3 + byte for byte in symbol.encode()] for symbol in symbols]
    return [number for numbers in bytes_ for number in numbers]


texts = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"])),
    st.lists(st.sampled_from([*" ".join(ENGLISH)[:400].split(), *CHINESE[0], " ", "  ", "\n", "👍"])).map("".join),
    st.lists(st.sampled_from(ENGLISH[0].split())).map(" ".join),
)


@given(texts)
def test_ids_are_those_of_the_slow_twin(keys: dict[str, Any], found: Tokenizer, text: str) -> None:
    if "<tool>" not in text and "▁" not in text:
        ids = found.encode(text)
        assert ids == slow_twin(keys, text)
        assert found.decode(ids) == text
        assert found.encode_batch([text, text]) == [ids, ids]


def test_texts_begin_with_the_token_that_does_unless_the_file_says_no(keys: dict[str, Any], found: Tokenizer) -> None:
    assert (found.begin, found.end) == ([1], 2)
    assert gguf_tokenizer(keys | {"tokenizer.ggml.add_bos_token": False}).begin == []
    bare = gguf_tokenizer(keys | {"tokenizer.ggml.add_space_prefix": False})
    assert bare.decode(bare.encode(" The The")) == " The The"
    assert bare.encode(" The") == found.encode("The")


def test_control_tokens_are_nowhere_in_a_text_and_user_defined_ones_everywhere(found: Tokenizer) -> None:
    ids = found.encode("a</s><tool>b<0x41>")
    assert not {0, 1, 2, 3 + 0x41} & {*ids}
    assert found.vocabulary - 1 in ids
    chat = ChatFormat(found, "{% for m in messages %}{{ bos_token }}[INST] {{ m.content }} [/INST]{% endfor %}")
    assert chat.prompt([{"role": "user", "content": "<s>"}]).count(1) == 1


def test_a_folder_keeps_it(found: Tokenizer, tmp_path: Any) -> None:
    found.save(tmp_path)
    again = load_tokenizer(tmp_path)
    for text in [*ENGLISH, *CHINESE, MIXED]:
        assert again.encode(text) == found.encode(text)
    assert (again.begin, again.end) == (found.begin, found.end)


# ------------------------------------------------------------------------------------------------ written


def mixed_lines() -> list[str]:
    """Chinese, English, code and emoji; every third begins with a blank, every fifth has doubled ones."""
    words = " ".join(ENGLISH).split()
    english = [" ".join(words[start : start + 12]) for start in range(0, len(words) - 12, 5)]
    chinese = "".join(CHINESE)
    parts = [chinese[start : start + 30] for start in range(0, len(chinese) - 30, 7)]
    code = inspect.getsource(argparse).splitlines()[:600]
    emoji = [
        f"{one[:20]} 👍🏽{other[:9]}👨‍👩‍👧‍👦 \u3000é①\t{one[-5:]}"
        for one, other in zip(code, itertools.cycle(parts), strict=False)
    ]
    lines = [line for line in [*english, *parts, *code, *emoji] if line]
    marked = [" " * (number % 3 == 0) + line for number, line in enumerate(lines)]
    return [line.replace(" ", "  ") if number % 5 == 0 else line for number, line in enumerate(marked)]


def of_merges(pieces: list[str], merges: list[tuple[str, str]], *, metaspace: str = "") -> Tokenizer:
    """As a `tokenizer.json` has it: after control tokens and bytes, pieces in their order."""
    vocabulary = {token: number for number, token in enumerate([*CONTROLS, *BYTES, *pieces])}
    inner = tokenizers.Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    if metaspace:
        inner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=metaspace, split=False)
    else:
        inner.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    inner.decoder = decoders.Sequence(steps)
    inner.add_special_tokens([AddedToken(token, normalized=False) for token in CONTROLS])
    return Tokenizer(inner, {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"})


def written_keys(tokenizer: Tokenizer) -> dict[str, Any]:
    return tokenizer_to_gguf(tokenizer, vocabulary=tokenizer.vocabulary)


@pytest.fixture(scope="module")
def trained() -> Tokenizer:
    """As the tokenizers library learns it: each piece of two parts alone, while scores join it of any two."""
    inner = tokenizers.Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
    inner.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    trainer = trainers.BpeTrainer(vocab_size=900, show_progress=False, max_token_length=12)
    inner.train_from_iterator([*ENGLISH, *CHINESE, MIXED], trainer)
    model = json.loads(inner.to_str())["model"]
    return of_merges(sorted(model["vocab"], key=model["vocab"].get), [tuple(merge) for merge in model["merges"]])


def test_scores_are_those_that_merges_were_made_of(keys: dict[str, Any], found: Tokenizer) -> None:
    written = written_keys(found)
    longer = [number for number, token in enumerate(keys["tokenizer.ggml.tokens"]) if number >= 259 and len(token) > 1]
    for key in ("tokens", "token_type", "unknown_token_id", "bos_token_id", "eos_token_id"):
        assert written[f"tokenizer.ggml.{key}"] == keys[f"tokenizer.ggml.{key}"]
    assert written["tokenizer.ggml.model"] == "llama"
    assert written["tokenizer.ggml.add_space_prefix"] is written["tokenizer.ggml.add_bos_token"] is True
    theirs, ours = (each["tokenizer.ggml.scores"] for each in (keys, written))
    assert [ours[number] for number in longer] == [theirs[number] for number in longer]
    assert {ours[number] for number in range(len(ours)) if number not in longer} == {0.0, min(ours)}


@pytest.mark.parametrize("merges", ["all", "one of each piece"])
def test_a_written_tokenizer_gives_the_same_ids(merges: str, found: Tokenizer, trained: Tokenizer) -> None:
    tokenizer = found if merges == "all" else trained
    written = written_keys(tokenizer)
    again = gguf_tokenizer(written)
    lines = mixed_lines()
    assert len(lines) > 1000
    for line in lines:
        ids = tokenizer.encode(line)
        assert again.encode(line) == ids
        assert again.decode(ids) == line
    for line in lines[::20]:
        assert slow_twin(written, line) == tokenizer.encode(line)


@st.composite
def any_merges(draw: st.DrawFn) -> Tokenizer:
    """Any pieces and merges over a few letters, also such that no training would learn; often all parts of a piece."""
    letters = "ab▁c"
    parts = [*letters]
    merges: list[tuple[str, str]] = []
    whole = draw(st.booleans())
    for left, right in draw(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20)), min_size=1, max_size=12)):
        pair = (parts[left % len(parts)], parts[right % len(parts)])
        piece = "".join(pair)
        if piece in parts or len(piece) > 12:
            continue
        parts.append(piece)
        cuts = [(piece[:place], piece[place:]) for place in range(1, len(piece))]
        merges += draw(st.permutations([cut for cut in cuts if {*cut} <= {*parts}])) if whole else [pair]
    return of_merges(parts, merges)


@given(any_merges(), st.lists(st.text("ab cd", max_size=30), min_size=1, max_size=8))
def test_what_is_written_is_joined_as_the_merges_say(tokenizer: Tokenizer, texts: list[str]) -> None:
    try:
        written = written_keys(tokenizer)
    except UserError:
        return
    again = gguf_tokenizer(written)
    for text in texts:
        assert slow_twin(written, text) == tokenizer.encode(text) == again.encode(text)


@pytest.mark.parametrize(
    ("pieces", "merges", "strange"),
    [
        # "abc" comes of "a" and "bc" here, and of "ab" and "c" after another piece: one score cannot say both.
        ("a b c d ab bc cd abc", ["a b", "b c", "c d", "ab c", "c d", "a bc"], "abc"),
        # No merge joins these two, scores would: "bc" comes first.
        ("a b c ab bc abc", ["b c", "a b", "ab c"], "abc"),
        ("a b c ab", [], "ab"),
        # A character without a token is still a part in llama.cpp.
        ("a b ax", [], "ax"),
        # A text that spells a control token would become it.
        ("< s > s>", ["s >"], "<s>"),
        ("< s > s>", ["s >", "< s>"], "<s>"),
        # What stands for a byte is joined.
        ("<0x41><0x42>", ["<0x41> <0x42>"], "<0x41>"),
    ],
)
def test_merges_that_no_scores_can_follow_are_refused(pieces: str, merges: list[str], strange: str) -> None:
    tokenizer = of_merges(pieces.split(" "), [tuple(merge.split(" ")) for merge in merges])
    with pytest.raises(UserError, match=f"no score of '{strange}' says what its merges say"):
        written_keys(tokenizer)


def test_a_text_begins_as_metaspace_says(trained: Tokenizer) -> None:
    """But for a text that begins with a blank: Metaspace puts none before that, llama.cpp does."""
    model = json.loads(trained.inner.to_str())["model"]
    pieces = sorted(model["vocab"], key=model["vocab"].get)[259:]
    for scheme in ("never", "first", "always"):
        tokenizer = of_merges(pieces, [tuple(merge) for merge in model["merges"]], metaspace=scheme)
        written = written_keys(tokenizer)
        assert written["tokenizer.ggml.add_space_prefix"] is (scheme != "never")
        again = gguf_tokenizer(written)
        for line in mixed_lines():
            if scheme == "never" or not line.startswith(" "):
                assert again.encode(line) == tokenizer.encode(line)
        assert (again.encode(" The") == tokenizer.encode(" The")) is (scheme == "never")


@pytest.mark.parametrize(
    "change",
    [
        lambda settings: settings["model"].update(byte_fallback=False),
        lambda settings: settings["model"].update(ignore_merges=True),
        lambda settings: settings["normalizer"]["normalizers"].insert(0, {"type": "NFKC"}),
        lambda settings: settings.update(pre_tokenizer={"type": "Whitespace"}),
        lambda settings: settings.update(
            normalizer=None,
            pre_tokenizer={"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": True},
        ),
    ],
)
def test_other_forms_are_refused(change: Callable[[dict[str, Any]], None], trained: Tokenizer) -> None:
    settings = json.loads(trained.inner.to_str())
    change(settings)
    tokenizer = Tokenizer(tokenizers.Tokenizer.from_str(json.dumps(settings)), trained.special)
    with pytest.raises(UserError, match="it is neither SentencePiece's BPE with a token for every byte, nor"):
        written_keys(tokenizer)


def test_tokens_that_are_found_after_a_blank_alone_are_refused(trained: Tokenizer) -> None:
    inner = tokenizers.Tokenizer.from_str(trained.inner.to_str())
    inner.add_tokens([AddedToken("<tool>", normalized=True)])
    with pytest.raises(UserError, match=r"its token '<tool>' is found by what is beside it \(normalized\)"):
        written_keys(Tokenizer(inner, trained.special))


def test_llama_cpp_gives_the_ids_of_a_model_that_is_exported(
    trained: Tokenizer, make_model: Callable[..., Decoder], tmp_path: Path
) -> None:
    pytest.importorskip("xllamacpp")
    folder, path = tmp_path / "ink", tmp_path / "ink.gguf"
    save_model(folder, make_model(vocabulary=trained.vocabulary, context=128, width=64, hidden=96), end=trained.end)
    trained.save(folder)
    template = "{{ bos_token }}{% for m in messages %}[{{ m.role }}] {{ m.content }}{{ eos_token }}\n{% endfor %}"
    (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    with DocumentWriter(tmp_path / "data" / "documents", "validation") as writer:
        writer.write(Document(f"  {MIXED}", "a.txt", 0, "zh"))
    found = export(folder, to="gguf", out=path, weights="f32", data=tmp_path / "data")["comparison"]
    assert found["engine"].startswith("llama.cpp")
    assert (found["equal_ids"], found["equal_special"], found["chats"], found["equal_chat_ids"]) == (1, True, 3, True)
    engine = XLlamaCpp(path, source_of_gguf(path))
    try:
        for line in mixed_lines():
            assert engine.tokens(line) == trained.encode(line)
    finally:
        engine.close()
