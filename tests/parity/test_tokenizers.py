"""Our wrapping changes no ids: the raw library, the known pattern of Qwen2 and GPT-2's own vocabulary agree with us."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, decoders, models, pre_tokenizers, processors

from bimo.tokens.tokenizer import END_OF_TEXT, Tokenizer, load_tokenizer, train_tokenizer

SENTENCES = [
    "Hello world! I'm fine, you're 42 years old...\n\n  Yes.",
    "会议决定，下周三之前提交。",
    "naïve café 👍🏽 \t tabs  and   spaces ",
    "def f(x):\n    return x ** 2\n",
]


@given(st.one_of(st.text(), st.sampled_from(SENTENCES)))
def test_ids_are_those_of_the_raw_library(tiny_tokenizer: Tokenizer, text: str) -> None:
    raw = tokenizers.Tokenizer.from_str(tiny_tokenizer.inner.to_str())
    raw.encode_special_tokens = True
    ids = tiny_tokenizer.encode(text)
    assert ids == raw.encode(text, add_special_tokens=False).ids
    assert [tiny_tokenizer.end, *ids] == raw.encode(text).ids
    assert tiny_tokenizer.encode_batch([text, text]) == [ids, ids]
    assert tiny_tokenizer.decode(ids) == raw.decode(ids)


def test_words_are_cut_as_qwen2_cuts_them(tiny_tokenizer: Tokenizer) -> None:
    transformers = pytest.importorskip("transformers")
    merges = [tuple(pair) for pair in json.loads(tiny_tokenizer.inner.to_str())["model"]["merges"]]
    reference = transformers.Qwen2Tokenizer(vocab=tiny_tokenizer.inner.get_vocab(), merges=merges)
    for text in [*SENTENCES, "I'LL 'Re 1234567 ½ ²\r\n\r\n x\u3000y", "a\u200db_c-d—e…f"]:
        ours = tiny_tokenizer.inner.pre_tokenizer.pre_tokenize_str(text)
        assert ours == reference.backend_tokenizer.pre_tokenizer.pre_tokenize_str(text)
        assert tiny_tokenizer.encode(text) == reference(text, add_special_tokens=False)["input_ids"]


@pytest.fixture(scope="module")
def gpt2(shared_data: Path) -> tokenizers.Tokenizer:
    """GPT-2's tokenizer, put together from its published vocabulary and merges."""
    folder = shared_data / "models" / "gpt2_tokenizer"
    files = [str(folder / name) for name in ("gpt2_vocab.json", "gpt2_merges.txt")]
    tokenizer = tokenizers.Tokenizer(models.BPE.from_file(*files))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=True)
    tokenizer.add_special_tokens([AddedToken(END_OF_TEXT, special=True)])
    return tokenizer


def test_a_tokenizer_that_was_brought_keeps_its_ids(gpt2: tokenizers.Tokenizer, tmp_path: Path) -> None:
    gpt2.save(str(tmp_path / "tokenizer.json"))
    ours = load_tokenizer(tmp_path)
    assert (ours.end, ours.vocabulary) == (50256, 50257)
    assert ours.encode("Hello world") == [15496, 995]
    for text in SENTENCES:
        assert ours.encode(text) == gpt2.encode(text, add_special_tokens=False).ids
        assert ours.decode(ours.encode(text)) == text
        assert "".join(ours.pieces(text)) == text
    ours.save(tmp_path / "again")
    again = load_tokenizer(tmp_path / "again")
    assert [again.encode(text) for text in SENTENCES] == [ours.encode(text) for text in SENTENCES]
    transformers = pytest.importorskip("transformers")
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "again")
    assert theirs(SENTENCES[1])["input_ids"] == [ours.end, *ours.encode(SENTENCES[1])]


def test_training_without_chinese_is_plain_training() -> None:
    """The borders of words stand only beside Chinese: on other text the merges are those that the library learns."""
    texts = ["low lower lowest newer wider, the new lows widen", "I'm 12 years old\n\nand you?"] * 5
    ours = train_tokenizer(texts, vocabulary=320)
    raw = tokenizers.Tokenizer(models.BPE())
    raw.pre_tokenizer = ours.inner.pre_tokenizer
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    raw.train_from_iterator(texts, trainer)
    assert json.loads(raw.to_str())["model"] == json.loads(ours.inner.to_str())["model"]


def raw_ids(tokenizer: Tokenizer, texts: list[str]) -> list[list[int]]:
    raw = tokenizers.Tokenizer.from_str(tokenizer.inner.to_str())
    raw.encode_special_tokens = True
    return [encoding.ids for encoding in raw.encode_batch_fast(texts, add_special_tokens=False)]


def test_the_fast_engine_gives_the_ids_of_the_raw_library_on_real_text(shared_data: Path) -> None:
    folder = shared_data / "lm"
    with gzip.open(folder / "zh_modern_python_docs" / "zh_python_docs.txt.gz", "rt", encoding="utf-8") as file:
        whole = [file.read(500_000)]
    names = ("zh_classic_novels/红楼梦.txt", "tinystories_sample_2mb/tinystories_sample.txt", "zh_poetry/chuci.json")
    whole += [(folder / name).read_text(encoding="utf-8")[:500_000] for name in names]
    texts = [text[start : start + 3000] for text in whole for start in range(0, len(text), 3000)]
    tokenizer = train_tokenizer(texts[::8], vocabulary=3000)
    assert tokenizer._encoder is not None
    # Cut at passages and whole: one long text takes another way through the engine than many short ones.
    for batch in (texts, whole):
        assert tokenizer.encode_batch(batch) == raw_ids(tokenizer, batch)


@pytest.mark.slow
def test_the_fast_engine_knows_every_character(tiny_tokenizer: Tokenizer) -> None:
    """Both put each character into the same class, beside letters, digits, marks and blanks; from 0x40000 on are none
    but a few tags and what is private."""
    points = [chr(point) for point in [*range(0xD800), *range(0xE000, 0x40000), *range(0xE0000, 0xE0200)]]
    for start in range(0, len(points), 20_000):
        texts = [f"a{point}1{point}! {point}\n{point}'{point}" for point in points[start : start + 20_000]]
        assert tiny_tokenizer.encode_batch(texts) == raw_ids(tiny_tokenizer, texts)


@st.composite
def learned(draw: st.DrawFn) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Any vocabulary and merges, also such that no training would learn: one token made in several ways, or in none."""
    names = [END_OF_TEXT, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    parts = list("abcĠĊ1ä½ł")
    merges: list[tuple[str, str]] = []
    for left, right in draw(st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)), max_size=60)):
        pair = (parts[left % len(parts)], parts[right % len(parts)])
        if pair not in merges and len("".join(pair)) <= 24:
            merges.append(pair)
            parts.append("".join(pair))
            names.append("".join(pair))
    return {name: number for number, name in enumerate(dict.fromkeys(names))}, merges


@settings(max_examples=200)
@given(learned(), st.lists(st.lists(st.sampled_from("abc \n1你"), max_size=60).map("".join), max_size=8))
def test_the_fast_engine_merges_in_the_same_order(
    tiny_tokenizer: Tokenizer, found: tuple[dict[str, int], list[tuple[str, str]]], texts: list[str]
) -> None:
    description = json.loads(tiny_tokenizer.inner.to_str())
    description["model"] |= {"vocab": found[0], "merges": found[1]}
    tokenizer = Tokenizer(tokenizers.Tokenizer.from_str(json.dumps(description)))
    assert tokenizer._encoder is not None
    assert tokenizer.encode_batch(texts) == raw_ids(tokenizer, texts)
