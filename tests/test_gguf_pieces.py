"""Tokenizers of SentencePiece in GGUF files: the ids are those of joining by scores, as a plain twin joins."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from texts import CHINESE, ENGLISH, MIXED
from tokenizers import models, pre_tokenizers, trainers

from bimo.tokens.chat import ChatFormat
from bimo.tokens.tokenizer import Tokenizer, load_tokenizer
from bimo.weights.gguf_tokenizer import gguf_tokenizer

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
