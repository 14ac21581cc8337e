"""The tokenizer: any text comes back, merges stay inside words, streams cut no character, wrong files are named."""

from __future__ import annotations

import itertools
import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import tokenizers
from hypothesis import example, given
from hypothesis import strategies as st
from texts import CHINESE, ENGLISH
from tokenizers import AddedToken, models, normalizers, pre_tokenizers, processors

from bimo.files import write_json
from bimo.runtime import UserError
from bimo.text.segment import mark_words
from bimo.tokens.tokenizer import (
    END_OF_TEXT,
    LARGEST_VOCABULARY,
    LONGEST_TOKEN_BYTES,
    QWEN2_PATTERN,
    SMALLEST_VOCABULARY,
    WORD_MARK,
    StreamDecoder,
    Tokenizer,
    ahead,
    choose_vocabulary,
    in_batches,
    load_tokenizer,
    longest_tokens,
    train_tokenizer,
)
from bimo.tokens.wordpiece import read_wordpiece

TRICKY = [
    "",
    " ",
    "\x00\x01\x1f\x7f\x85\u2028\u2029",
    "\r\n\r\n \t x\r",
    "👨‍👩‍👧‍👦👍🏽🇨🇳🏴‍☠️",
    "e\u0301é ﬁ Å ①",
    "\ufeff\ufffd\ufffe\uffff\U0010ffff",
    "𠮷野家 〇々 﨑",
    "מה שלום\u200f؟ नमस्ते ไทย",
    f"a{WORD_MARK}b{WORD_MARK}{WORD_MARK}",
    f"one{END_OF_TEXT}two",
    "I'm you'RE  3.14159 100%   \n  ok",
]

characters = st.characters(exclude_categories=["Cs"])
texts = st.one_of(
    st.text(characters),
    st.text(st.sampled_from("会议决定模型 aAé\n\t,。👍\u200d\U0001f468"), max_size=40),
    st.sampled_from(TRICKY),
)


@given(texts)
@example(END_OF_TEXT)
@example(f"会议{END_OF_TEXT}{WORD_MARK}👍")
def test_any_text_comes_back(tiny_tokenizer: Tokenizer, text: str) -> None:
    ids = tiny_tokenizer.encode(text)
    assert tiny_tokenizer.decode(ids) == text
    assert tiny_tokenizer.encode_batch([text, "x"])[0] == ids
    assert tiny_tokenizer.end not in ids
    assert all(0 <= token < tiny_tokenizer.vocabulary for token in ids)


@given(texts)
def test_pieces_join_to_the_text(tiny_tokenizer: Tokenizer, text: str) -> None:
    pieces = tiny_tokenizer.pieces(text)
    assert "".join(pieces) == text
    assert len(pieces) <= max(1, len(tiny_tokenizer.encode(text)))


def test_pieces_are_the_tokens_where_characters_are_whole(tiny_tokenizer: Tokenizer) -> None:
    text = "The committee met on Thursday"
    assert tiny_tokenizer.pieces(text) == [tiny_tokenizer.decode([token]) for token in tiny_tokenizer.encode(text)]
    # A character of four bytes that was never learned is four tokens and one piece.
    assert len(tiny_tokenizer.encode("𝄞")) == 4
    assert tiny_tokenizer.pieces("𝄞3") == ["𝄞", "3"]


@given(st.lists(texts, max_size=6))
@example([])
@example(["", ""])
@example([END_OF_TEXT, "", f"{END_OF_TEXT} a"])
def test_many_texts_at_once_are_each_text_alone(tiny_tokenizer: Tokenizer, many: list[str]) -> None:
    alone = [tiny_tokenizer.encode(text) for text in many]
    assert tiny_tokenizer.encode_batch(many) == alone
    ids, ends = tiny_tokenizer.encode_flat(many)
    assert (ids.tolist(), ends.tolist()) == (
        [token for each in alone for token in each],
        list(itertools.accumulate(map(len, alone))),
    )
    assert (ids.dtype, ends.dtype) == ("uint32", "int64")


def test_tokenizers_of_our_making_have_the_fast_engine(tiny_tokenizer: Tokenizer, tmp_path: Path) -> None:
    tiny_tokenizer.save(tmp_path)
    assert tiny_tokenizer._encoder is not None
    assert load_tokenizer(tmp_path)._encoder is not None


def without_a_byte(settings: dict) -> None:
    settings["model"]["vocab"].pop("é")
    settings["model"]["merges"] = [pair for pair in settings["model"]["merges"] if "é" not in "".join(pair)]


FOREIGN = {
    "normalizer": lambda settings: settings.update(normalizer={"type": "Lowercase"}),
    "prefix space": lambda settings: settings["pre_tokenizer"]["pretokenizers"][1].update(add_prefix_space=True),
    "pattern": lambda settings: settings["pre_tokenizer"]["pretokenizers"][0].update(pattern={"Regex": r"\w+"}),
    "behavior": lambda settings: settings["pre_tokenizer"]["pretokenizers"][0].update(behavior="Removed"),
    "ignore_merges": lambda settings: settings["model"].update(ignore_merges=True),
    "byte_fallback": lambda settings: settings["model"].update(byte_fallback=True),
    "end of word": lambda settings: settings["model"].update(end_of_word_suffix="d"),
    "truncation": lambda settings: settings.update(
        truncation={"max_length": 3, "direction": "Right", "strategy": "LongestFirst", "stride": 0}
    ),
    "a byte too few": without_a_byte,
}


@pytest.mark.parametrize("change", FOREIGN.values(), ids=FOREIGN.keys())
def test_what_differs_from_our_making_goes_the_slow_way(tiny_tokenizer: Tokenizer, change: Callable) -> None:
    settings = json.loads(tiny_tokenizer.inner.to_str())
    change(settings)
    inner = tokenizers.Tokenizer.from_str(json.dumps(settings))
    check_slow(inner)


def test_added_words_go_the_slow_way(tiny_tokenizer: Tokenizer) -> None:
    inner = tokenizers.Tokenizer.from_str(tiny_tokenizer.inner.to_str())
    inner.add_tokens([AddedToken("week. A language", normalized=False)])
    check_slow(inner)
    assert len(Tokenizer(inner).encode_batch(["week. A language"])[0]) == 1


@pytest.mark.parametrize(
    "model",
    [
        models.WordPiece({"[UNK]": 0, END_OF_TEXT: 1, "the": 2, "##re": 3, "com": 4, "##mit": 5}, unk_token="[UNK]"),
        models.Unigram([("<unk>", 0.0), (END_OF_TEXT, 0.0), ("the", -1.0), ("com", -2.0), ("mit", -2.0)], unk_id=0),
        models.WordLevel({"[UNK]": 0, END_OF_TEXT: 1, "The": 2, "committee": 3}, unk_token="[UNK]"),
    ],
    ids=["WordPiece", "Unigram", "WordLevel"],
)
def test_other_models_go_the_slow_way(model: models.Model) -> None:
    inner = tokenizers.Tokenizer(model)
    inner.normalizer = normalizers.NFKC()
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.add_special_tokens([END_OF_TEXT])
    check_slow(inner)


def check_slow(inner: tokenizers.Tokenizer) -> None:
    tokenizer = Tokenizer(inner)
    assert tokenizer._encoder is None
    many = [*TRICKY, *ENGLISH, *CHINESE]
    assert tokenizer.encode_batch(many) == [tokenizer.encode(text) for text in many]
    assert tokenizer.encode_batch([]) == []


def streamed(tokenizer: Tokenizer, ids: list[int]) -> list[str]:
    stream = StreamDecoder(tokenizer)
    return [*(stream.push(token) for token in ids), stream.finish()]


@given(texts)
def test_a_stream_of_text_gives_whole_characters(tiny_tokenizer: Tokenizer, text: str) -> None:
    pieces = streamed(tiny_tokenizer, tiny_tokenizer.encode(text))
    assert "".join(pieces) == text


@given(st.data())
def test_a_stream_of_any_ids_is_what_decoding_gives(tiny_tokenizer: Tokenizer, data: st.DataObject) -> None:
    ids = data.draw(st.lists(st.integers(0, tiny_tokenizer.vocabulary - 1)))
    assert "".join(streamed(tiny_tokenizer, ids)) == tiny_tokenizer.decode(ids)


@given(st.lists(st.sampled_from([0xE4, 0xBD, 0xA0, 0xF0, 0x9F, 0x98, 0x80, 0xC3, 0xFF, 0x41]), max_size=16))
@example([0xE4, 0xF0, 0x9F, 0x98, 0x80])
@example([0xBD, 0xBD, 0xBD, 0xE4, 0xBD, 0xA0])
def test_a_stream_of_bytes_is_what_decoding_gives(tiny_tokenizer: Tokenizer, data: list[int]) -> None:
    ids = [byte_ids(tiny_tokenizer)[byte] for byte in data]
    assert tiny_tokenizer.decode(ids) == bytes(data).decode("utf-8", "replace")
    assert "".join(streamed(tiny_tokenizer, ids)) == tiny_tokenizer.decode(ids)


def byte_ids(tokenizer: Tokenizer) -> dict[int, int]:
    """The token of each single byte. GPT-2's table: printable bytes stand for themselves, the rest follows 255."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    names = {byte: chr(byte) for byte in printable} | {byte: chr(256 + n) for n, byte in enumerate(others)}
    return {byte: tokenizer.inner.token_to_id(name) for byte, name in names.items()}


def test_a_stream_holds_back_no_more_than_it_must(tiny_tokenizer: Tokenizer) -> None:
    stream = StreamDecoder(tiny_tokenizer)
    ids = byte_ids(tiny_tokenizer)
    assert [stream.push(ids[byte]) for byte in "a𝄞b".encode()] == ["a", "", "", "", "𝄞", "b"]
    assert [stream.push(ids[byte]) for byte in b"\x80\x80\x80\xe4"] == ["", "\ufffd", "\ufffd", "\ufffd"]
    assert [stream.push(ids[byte]) for byte in "你".encode()[1:]] == ["", "你"]
    assert stream.push(ids[0xE4]) == ""
    assert stream.finish() == "\ufffd"
    assert stream.finish() == ""
    assert stream.push(ids[ord("c")]) == "c"


def test_text_never_becomes_a_control_token(tiny_tokenizer: Tokenizer, tmp_path: Path) -> None:
    tiny_tokenizer.save(tmp_path)
    for tokenizer in (tiny_tokenizer, load_tokenizer(tmp_path)):
        ids = tokenizer.encode(f"a{END_OF_TEXT}b")
        assert tokenizer.end not in ids
        assert tokenizer.decode(ids) == f"a{END_OF_TEXT}b"
        assert tokenizer.decode([tokenizer.end, *ids, tokenizer.end]) == f"a{END_OF_TEXT}b"


def test_merges_stay_inside_segmented_words() -> None:
    # Whole sentences repeated so often that without borders they would become tokens.
    sentences = [
        "中华人民共和国今天成立了研究所",
        "会议决定由研发部提交报告",
        "他们于是多住了几天，每天早上都去河边散步",
    ]
    learned = [f"{sentence}。model{sentence}" for sentence in sentences] * 20
    tokenizer = train_tokenizer(learned, vocabulary=900)
    words = {word for text in learned for word in mark_words(text, "\n").split("\n")}
    assert max(len(word) for word in words if is_han(word)) == 4
    found = [text for text in whole_tokens(tokenizer) if sum(map(is_han, text)) > 1]
    assert len(found) >= 10
    for text in found:
        assert is_han(text), f"{text} joins Chinese and something else"
        assert any(text in word for word in words), f"{text} crosses the border of a word"


def is_han(text: str) -> bool:
    return all("\u4e00" <= character <= "\u9fff" for character in text)


def whole_tokens(tokenizer: Tokenizer) -> list[str]:
    texts = (tokenizer.decode([token]) for token in range(tokenizer.vocabulary))
    return [text for text in texts if "\ufffd" not in text]


def test_tokens_are_at_most_so_long() -> None:
    tokenizer = train_tokenizer(["=" * 200 + " " + "abcdefghij" * 20] * 50, vocabulary=600)
    lengths = [len(name) for name in tokenizer.inner.get_vocab() if name != END_OF_TEXT]
    assert LONGEST_TOKEN_BYTES / 2 < max(lengths) <= LONGEST_TOKEN_BYTES


def test_vocabulary_is_as_asked_and_ids_have_no_gaps(tiny_tokenizer: Tokenizer) -> None:
    assert tiny_tokenizer.vocabulary == 640
    assert sorted(tiny_tokenizer.inner.get_vocab().values()) == list(range(640))
    assert tiny_tokenizer.inner.token_to_id(END_OF_TEXT) == tiny_tokenizer.end
    # Every byte is there, whatever the training text held.
    smallest, text = train_tokenizer(["aa"], vocabulary=1), "".join(map(chr, range(128))) + "汉é"
    assert smallest.decode(smallest.encode(text)) == text
    assert None not in byte_ids(train_tokenizer([], vocabulary=300)).values()


def test_training_gives_the_same_twice(tiny_texts: list[str], tiny_tokenizer: Tokenizer) -> None:
    again = train_tokenizer(iter(tiny_texts), vocabulary=640)
    assert json.loads(again.inner.to_str()) == json.loads(tiny_tokenizer.inner.to_str())


def test_encoding_uses_the_pattern_of_qwen2(tiny_tokenizer: Tokenizer) -> None:
    settings = json.loads(tiny_tokenizer.inner.to_str())
    split, byte_level = settings["pre_tokenizer"]["pretokenizers"]
    assert split == {"type": "Split", "pattern": {"Regex": QWEN2_PATTERN}, "behavior": "Isolated", "invert": False}
    assert (byte_level["type"], byte_level["add_prefix_space"], byte_level["use_regex"]) == ("ByteLevel", False, False)
    assert settings["normalizer"] is None
    pretokens = [text for text, _ in tiny_tokenizer.inner.pre_tokenizer.pre_tokenize_str("I'm  here: 123\n\n")]
    assert pretokens == ["I", "'m", "Ġ", "Ġhere", ":", "Ġ", "1", "2", "3", "ĊĊ"]


def test_saved_and_loaded_it_is_the_same(tiny_tokenizer: Tokenizer, tmp_path: Path) -> None:
    tiny_tokenizer.save(tmp_path, context=77)
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text(encoding="utf-8"))
    assert settings["model_max_length"] == 77
    for place in (tmp_path, tmp_path / "tokenizer.json"):
        loaded = load_tokenizer(place)
        assert (loaded.end, loaded.vocabulary) == (tiny_tokenizer.end, tiny_tokenizer.vocabulary)
        assert [loaded.encode(text) for text in TRICKY] == [tiny_tokenizer.encode(text) for text in TRICKY]


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"[1]", b"\xff\xfe\x00", b'{"version": "1.0", "model": {"type": "X"}}']
)
def test_a_wrong_file_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "tokenizer.json").write_bytes(content)
    with pytest.raises(UserError, match=r"tokenizer\.json is not (a tokenizer|valid JSON)"):
        load_tokenizer(tmp_path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    for place in (tmp_path, tmp_path / "nothing", tmp_path / "nothing.json"):
        with pytest.raises(UserError, match="There is no tokenizer at"):
            load_tokenizer(place)


def test_a_tokenizer_without_an_end_is_refused(tmp_path: Path) -> None:
    tokenizers.Tokenizer(models.BPE()).save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(UserError, match=r"has no <\|endoftext\|> token"):
        load_tokenizer(tmp_path)


def published(inner: tokenizers.Tokenizer, folder: Path, **files: dict) -> Path:
    """A folder with a tokenizer and what else it came with."""
    inner.save(str(folder / "tokenizer.json"))
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


def test_a_bert_whose_settings_name_no_roles_has_the_usual_ones(tmp_path: Path) -> None:
    words = tmp_path / "vocab.txt"
    words.write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\n", encoding="utf-8")
    inner, roles = read_wordpiece(words, {})
    settings = {"do_lower_case": False, "model_max_length": 512}
    loaded = load_tokenizer(published(inner, tmp_path, tokenizer_config=settings))
    assert (loaded.special, loaded.begin, loaded.end) == (roles, [2], 3)
    named = load_tokenizer(published(inner, tmp_path, tokenizer_config=settings | {"sep_token": "a"}))
    assert named.special == roles | {"sep_token": "a"}


def test_tokens_that_were_added_to_a_list_of_words_keep_their_ids(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_text("\ufeff[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\n", encoding="utf-8")
    write_json(tmp_path / "added_tokens.json", {"[E1]": 6})
    newer = {"7": {"content": "<USER>", "normalized": False}, "3": {"content": "[SEP]", "special": True}}
    write_json(tmp_path / "tokenizer_config.json", {"added_tokens_decoder": newer})
    loaded = load_tokenizer(tmp_path)
    assert loaded.encode("a [E1]a") == [5, 6, 5]
    assert loaded.encode("a <USER> a") == [5, 7, 5]
    assert 7 not in loaded.encode("a <user> a")
    write_json(tmp_path / "added_tokens.json", {"[E1]": 9})
    with pytest.raises(UserError, match=r"The token <USER> in .* has the id 7, which does not follow"):
        load_tokenizer(tmp_path)


def test_dropout_of_merges_is_for_whoever_trains(tiny_tokenizer: Tokenizer, tmp_path: Path) -> None:
    settings = json.loads(tiny_tokenizer.inner.to_str())
    settings["model"]["dropout"] = 0.9
    write_json(tmp_path / "tokenizer.json", settings)
    text = "the quick brown fox jumps over the lazy dog " * 4
    assert load_tokenizer(tmp_path).encode(text) == tiny_tokenizer.encode(text)


def without_frame(tokenizer: Tokenizer) -> tokenizers.Tokenizer:
    inner = tokenizers.Tokenizer.from_str(tokenizer.inner.to_str())
    inner.post_processor = processors.ByteLevel(trim_offsets=True)
    return inner


def test_nothing_is_put_before_texts_where_settings_of_others_name_no_roles(
    tiny_tokenizer: Tokenizer, tmp_path: Path
) -> None:
    """As GPT-2 was published."""
    loaded = load_tokenizer(
        published(without_frame(tiny_tokenizer), tmp_path, tokenizer_config={"model_max_length": 1024})
    )
    assert (loaded.begin, loaded.end) == ([], tiny_tokenizer.end)
    loaded.save(tmp_path / "again")
    assert load_tokenizer(tmp_path / "again").begin == []


def test_roles_are_read_from_the_older_file_too(tiny_tokenizer: Tokenizer, tmp_path: Path) -> None:
    inner = without_frame(tiny_tokenizer)
    inner.add_special_tokens(["<s>", "</s>"])
    roles = {"bos_token": {"content": "<s>", "lstrip": False}, "eos_token": "</s>"}
    newer = {"model_max_length": 8, "eos_token": "<s>"}
    loaded = load_tokenizer(published(inner, tmp_path, tokenizer_config=newer, special_tokens_map=roles))
    assert loaded.special == {"bos_token": "<s>", "eos_token": "</s>"}
    newer |= {"added_tokens_decoder": {}}
    loaded = load_tokenizer(published(inner, tmp_path, tokenizer_config=newer, special_tokens_map=roles))
    assert loaded.special == {"eos_token": "<s>"}


@given(st.integers(0, 10**13), st.integers(0, 10**13))
def test_larger_corpora_get_no_smaller_vocabularies(a: int, b: int) -> None:
    smaller, larger = choose_vocabulary(min(a, b)), choose_vocabulary(max(a, b))
    assert SMALLEST_VOCABULARY <= smaller <= larger <= LARGEST_VOCABULARY
    assert smaller % 256 == larger % 256 == 0


def test_vocabulary_by_size_of_the_corpus() -> None:
    assert [choose_vocabulary(n) for n in (0, 10_000, 1_000_000, 40_000_000, 10**12)] == [512, 512, 2560, 8704, 32_768]


def test_longest_tokens_are_whole_and_in_order(tiny_tokenizer: Tokenizer) -> None:
    longest = longest_tokens(tiny_tokenizer, 20)
    assert len(longest) == 20
    assert [len(text) for text in longest] == sorted(map(len, longest), reverse=True)
    assert len(longest[0]) == max(map(len, whole_tokens(tiny_tokenizer)))
    assert not any("\ufffd" in text for text in longest)


@given(st.lists(st.text(max_size=8)), st.integers(1, 20))
def test_batches_of_texts_keep_all_in_order(parts: list[str], characters_: int) -> None:
    batches = list(in_batches(iter(parts), characters=characters_))
    assert list(itertools.chain.from_iterable(batches)) == parts
    for batch in batches[:-1]:
        assert sum(map(len, batch)) >= characters_ > sum(map(len, batch[:-1]))


@given(st.lists(st.integers()), st.integers(1, 4))
def test_what_is_made_ahead_comes_in_order(items: list[int], count: int) -> None:
    assert list(ahead(iter(items), count=count)) == items


def test_no_more_is_made_ahead_than_asked() -> None:
    made = []
    another_thread = threading.Event()

    def make() -> Iterator[int]:
        for number in range(100):
            made.append(number)
            if threading.current_thread() is not threading.main_thread():
                another_thread.set()
            yield number

    items = ahead(make(), count=3)
    assert made == []
    assert next(items) == 0
    time.sleep(0.05)
    assert len(made) <= 1 + 3
    items.close()
    assert len(made) <= 1 + 3
    assert another_thread.is_set()


def test_an_error_ahead_is_raised_in_its_turn() -> None:
    def make() -> Iterator[int]:
        yield 1
        yield 2
        raise UserError("The file is damaged.")

    items = ahead(make(), count=3)
    assert [next(items), next(items)] == [1, 2]
    with pytest.raises(UserError, match="damaged"):
        next(items)
