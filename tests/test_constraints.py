"""Writing in a given form: automata beside Python's own, masks beside a slow twin, and texts that always parse."""

from __future__ import annotations

import itertools
import re
import sys
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
import torch
from writing import WAYS, complete, open_way

from bimo.generate.batching import Request
from bimo.generate.constraints import Automaton, choices, json_schema, regex
from bimo.generate.constraints.automaton import DEAD, FAR, START, _cut, compile_expression
from bimo.generate.constraints.json_numbers import integers, numbers
from bimo.generate.constraints.masks import REMEMBERED_BYTES, Constraint, Vocabulary, allowed_reference
from bimo.generate.engine import LanguageModel, write_reference
from bimo.generate.sample import Sampling
from bimo.models.transformer import Decoder
from bimo.runtime import DATA_REFUSED, USAGE, UserError
from bimo.tokens.spelling import Spelling, spelling_of
from bimo.tokens.tokenizer import Tokenizer

sys.path.append(str(Path(__file__).resolve().parents[1] / "benchmarks"))
from forms import Form, forms

MakeModel = Callable[..., Decoder]
WIDE = Sampling(1.0, top_p=1.0)


@pytest.fixture(scope="module")
def model(make_model: MakeModel, tiny_tokenizer: Tokenizer) -> LanguageModel:
    """Random, so that what it writes has its form from nowhere else."""
    return LanguageModel(make_model(vocabulary=tiny_tokenizer.vocabulary, context=128), tiny_tokenizer)


# --- automata


@pytest.mark.parametrize(
    "pattern",
    [
        *("a*b+", "(a|b)*中", "[^a]{2}", ".{1,3}", r"\d+", r"\D\w*", "(?:a{2,}|b?)[a1]", "^a|b$", "a{,2}b", "[]a]+"),
        *("a??b*?", r"\u4e2d+|\x61", "[一-龥]{2,3}", "(a{2}){2}", "", "(?P<one>a)|()", r"\Aa\Z", r"[^\Wa]+", r"a\141"),
        *("[a-b-]+", r"[\b-\n]", "(a|){3}", "x{0}a", "a{", "{a}", "a{,}b", "a{,", "b{}"),
    ],
)
def test_an_automaton_accepts_what_python_matches(pattern: str) -> None:
    automaton = regex(pattern)
    for length in range(5):
        for characters in itertools.product("ab中1\n{", repeat=length):
            text = "".join(characters)
            assert automaton.accepts(text) is (re.fullmatch(pattern, text) is not None), text


@pytest.mark.parametrize("pattern", [r"\w", r"\d", r"\s", r"\S", ".", "[^a-z\u0800-\U0001ffff]"])
def test_classes_hold_the_characters_that_python_means(pattern: str) -> None:
    automaton = regex(pattern)
    sampled = [*range(0x3000), *range(0x3000, 0x110000, 61), 0xD7FF, 0xE000, 0xFFFF, 0x10000, 0x10FFFF]
    for character in (chr(code) for code in sampled if not 0xD800 <= code < 0xE000):
        assert automaton.accepts(character) is (re.fullmatch(pattern, character) is not None), hex(ord(character))


def test_every_way_of_an_automaton_is_text() -> None:
    """Whatever bytes it lets pass, to the end they are UTF-8."""
    automaton = regex("[^a]{1,2}.")
    random = np.random.default_rng(0)
    for _ in range(500):
        state, written = START, bytearray()
        while not (automaton.accepting(state) and random.random() < 0.5) and automaton.table[state].any():
            written.append(random.choice(np.flatnonzero(automaton.table[state])))
            state = automaton.after(state, written[-1])
            automaton.expand(state)
        assert automaton.accepts(written.decode())
        assert automaton.accepting(state)


def test_distances_are_those_of_the_shortest_texts() -> None:
    automaton = regex("ab{3,}(c|中)?|aaaaa")
    assert automaton.distance[START] == 4
    assert automaton.distance[automaton.after(START, ord("a"))] == 3
    for state in range(START, automaton.complete()):
        if not automaton.accepting(state):
            byte, nearest = automaton.nearest(state)
            assert automaton.after(state, byte) == nearest
            assert automaton.distance[nearest] == automaton.distance[state] - 1


@pytest.mark.parametrize(
    ("pattern", "part"),
    [
        *((r"a\b", r"\\b"), ("(?=a)b", "look ahead"), ("(?<!a)b", "look ahead"), (r"(a)\1", "reference to a group")),
        *(("(?i)a", "holds"), ("(^a)b", r"holds \^"), ("a*+", "gives nothing back"), ("(?P<n>a)(?P=n)", "holds")),
        ("a$b", r"holds \$"),
        (r"\ud83d\ude00", r"holds \\ud83d"),
    ],
)
def test_what_asks_for_context_is_refused_by_name(pattern: str, part: str) -> None:
    with pytest.raises(UserError, match=part) as caught:
        regex(pattern)
    assert caught.value.code == USAGE


@pytest.mark.parametrize("pattern", ["(", "[", "a**", "*", "[z-a]", r"\q", "a{5,2}"])
def test_what_is_no_expression_is_refused(pattern: str) -> None:
    with pytest.raises(UserError, match="is no regular expression"):
        regex(pattern)


def test_what_would_fill_the_memory_is_refused_or_never_made() -> None:
    automaton = regex("(a|b)*a(a|b){30}")  # of two thousand million states
    assert automaton.accepts("ab" * 40 + "b")
    assert not automaton.accepts("ab" * 40)
    with pytest.raises(UserError, match="too large"):
        regex("(.{1000}){1000}")


# --- JSON


def test_integers_between_bounds() -> None:
    random = np.random.default_rng(1)
    for _ in range(60):
        least = int(random.integers(-300, 300))
        most = least + int(random.choice([0, 1, 5, 50, 400]))
        automaton = compile_expression(integers(Decimal(least), Decimal(most)))
        for number in range(-750, 750, 3):
            assert automaton.accepts(str(number)) is (least <= number <= most)


@pytest.mark.parametrize("open_below", [False, True])
@pytest.mark.parametrize(("least", "most"), [("0", "1"), ("-0.5", "0.25"), ("-3", "12"), ("2.5", "2.5"), (None, "-7")])
def test_numbers_between_bounds(least: str | None, most: str, open_below: bool) -> None:
    low, high = None if least is None else Decimal(least), Decimal(most)
    expression = numbers(low, high, open_below=open_below, open_above=False)
    if open_below and low == high:
        with pytest.raises(UserError, match="contradicts itself"):
            compile_expression(expression)
        return
    automaton = compile_expression(expression)
    for hundredths in range(-1300, 1300, 7):
        number = Decimal(hundredths) / 100
        within = (low is None or low < number or (low == number and not open_below)) and number <= high
        assert automaton.accepts(f"{number:.2f}") is (within and f"{number:.2f}" != "-0.00")


PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 3}, "age": {"type": "integer"}, "likes": {"type": "array"}},
    "required": ["age"],
}


@pytest.mark.parametrize(
    ("schema", "accepted", "refused"),
    [
        ({"type": "string"}, ['"a中\\n"', '"\\u00e9"', '""'], ['"a\n"', '"\\ud800"', '"\\x"', '"a', "a"]),
        (PERSON, ['{"age":3}', '{"name": "x", "age": 3}', '{"age":1,"likes":[1, {}]}'], ['{"name":"x"}', '{"age":3,}']),
        (PERSON, [], ['{"name":"four","age":3}', '{"age":3,"name":"x"}', '{"age":3.5}', '{"age":03}', "{}"]),
        ({"enum": ["红", 1, None]}, ['"红"', "1", "null"], ["红", "2", ""]),
        ({"enum": ["a", 1, True], "type": ["integer", "boolean"]}, ["1", "true"], ['"a"']),
        ({"type": ["string", "null"], "minLength": 1}, ["null", '"a"'], ['""']),
        ({"type": "array", "items": {"const": 7}, "minItems": 1, "maxItems": 2}, ["[7]", "[7, 7]"], ["[]", "[7,7,7]"]),
        ({"type": "string", "pattern": '^[a-z"]+$', "minLength": 2}, ['"ab"', '"a\\""'], ['"a"', '"AB"']),
        ({"type": "string", "pattern": "b"}, ['"abc"', '"b"'], ['"ac"']),
        ({"oneOf": [{"type": "integer"}, {"type": "string"}]}, ["5", '"x"'], ["null"]),
        ({"allOf": [{"$ref": "#/$defs/a~1b"}], "$defs": {"a/b": {"type": "null"}}}, ["null"], ["1"]),
        ({}, ["null", "[[1], {}]", '{"a": [2e3, "x"]}'], ["", "nul", "[[[[]]]]"]),
        ({"type": "object", "additionalProperties": {"type": "null"}}, ["{}", '{"k":null, "":null}'], ['{"k":1}']),
        ({"required": ["k"]}, ['{"k": [1]}'], ["{}", "[]"]),
        ({"enum": ["\ud800", "a"]}, ['"a"'], ['"\\ud800"']),
        ({"type": "string", "pattern": r"^[^\w\d]$"}, ['"-"', '"。"'], ['"中"', '"a"', '"１"']),
        ({"type": "string", "pattern": r"^[^\W_]$"}, ['"a"', '"1"'], ['"中"', '"_"', '"-"']),
        ({"type": "string", "pattern": r"^\d\w.$"}, ['"1a中"'], ['"１a中"', '"1中中"', '"1a\u2028"', '"1a\\r"']),
    ],
)
def test_schemas(schema: Any, accepted: list[str], refused: list[str]) -> None:
    automaton = json_schema(schema)
    assert [text for text in accepted if not automaton.accepts(text)] == []
    assert [text for text in refused if automaton.accepts(text)] == []
    assert all(Form("schema", schema).is_kept(text) for text in accepted)


def test_a_schema_inside_of_itself_ends() -> None:
    node = {
        "type": "object",
        "properties": {"next": {"anyOf": [{"$ref": "#"}, {"type": "null"}]}},
        "required": ["next"],
    }
    automaton = json_schema(node)
    assert automaton.accepts('{"next":{"next":{"next":null}}}')
    tree = {"type": "array", "items": {"anyOf": [{"$ref": f"#/$defs/{name}"} for name in "abcde"]}}
    automaton = json_schema({"$defs": dict.fromkeys("abcde", tree), "$ref": "#/$defs/a"})  # as deep as there is room
    assert automaton.accepts("[[[]], []]")
    deep: Any = {}
    for _ in range(400):
        deep = {"type": "array", "items": deep}
    with pytest.raises(UserError, match="too large"):
        json_schema(deep)
    with pytest.raises(UserError, match="contradicts itself"):
        json_schema({"type": "object", "properties": {"next": {"$ref": "#"}}, "required": ["next"]})


@pytest.mark.parametrize(
    ("schema", "sentence"),
    [
        ({"type": "string", "format": "date"}, "has format at #,"),
        ({"type": "object", "properties": {"a": {"not": {}}}}, "has not at #/properties/a"),
        ({"type": "array", "uniqueItems": True}, "has uniqueItems at #"),
        ({"anyOf": [{"type": "null"}], "minimum": 3}, "has minimum beside anyOf"),
        ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, "under oneOf at # .* Use anyOf"),
        ({"allOf": [{}, {}]}, "has allOf at #"),
        ({"type": "text"}, "its type 'text' is none of JSON"),
        ({"type": [["string"]]}, "is none of JSON"),
        ({"oneOf": [{"required": 3}, {"required": 4}]}, "required is no list"),
        ({"$ref": "other.json"}, "points out of the schema"),
        ({"$ref": "#/$defs/none"}, "points to nothing"),
        ({"minLength": -1}, "minLength is no count"),
        ({"minimum": "1"}, "minimum is no number"),
        ({"properties": {"a": {"pattern": "^\\p{L}+$"}}}, "at #/properties/a, .* is no regular expression"),
        ({"type": "integer", "minimum": 10**15}, "minimum has more than the 15 digits that are written"),
        ({"type": "number", "exclusiveMaximum": -(10**15)}, "exclusiveMaximum has more than the 15 digits"),
        ({"enum": 3}, "enum is no list"),
        ([], "neither an object nor true"),
    ],
)
def test_what_a_schema_asks_for_in_vain_is_said_by_name(schema: Any, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence) as caught:
        json_schema(schema)
    assert caught.value.code == DATA_REFUSED


# --- tokens


def test_pieces_are_what_decoding_adds(tiny_tokenizer: Tokenizer) -> None:
    spelling = spelling_of(tiny_tokenizer)
    ids = tiny_tokenizer.encode("A fox, 一只狐狸 😀\n\tend")
    assert b"".join(spelling.pieces[id_] for id_ in ids) == "A fox, 一只狐狸 😀\n\tend".encode()
    assert spelling.pieces[tiny_tokenizer.end] == b""


def sentence_pieces() -> Tokenizer:
    """A tokenizer as Llama's: a sign for the blank, bytes in hexadecimal, no blank at the beginning of a text."""
    words = ["<unk>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "▁a", "a", "b", "▁ab", "▁▁a", "中"]
    inner = tokenizers.Tokenizer(
        tokenizers.models.BPE({word: id_ for id_, word in enumerate(words)}, [], byte_fallback=True)
    )
    steps = [tokenizers.decoders.Replace("▁", " "), tokenizers.decoders.ByteFallback(), tokenizers.decoders.Fuse()]
    inner.decoder = tokenizers.decoders.Sequence([*steps, tokenizers.decoders.Strip(" ", 1, 0)])
    inner.add_special_tokens(["<unk>", "</s>"])
    return Tokenizer(inner, {"eos_token": "</s>"})


def test_a_blank_that_decoding_drops_counts_for_nothing(make_model: MakeModel) -> None:
    tokenizer = sentence_pieces()
    assert tokenizer.decode([tokenizer.inner.token_to_id(token) for token in ("▁a", "▁ab", "<0xE4>")]) == "a ab�"
    model = LanguageModel(make_model(vocabulary=tokenizer.vocabulary), tokenizer)
    for automaton, pattern in ((regex(p), p) for p in ("a( a)?b*", "a{3}", "( a|中)+", "[^a]{2}", " a.")):
        for prompt, seed in itertools.product(("", "b"), range(20)):
            if pattern != " a." or prompt:  # at the beginning of a text the blank is dropped
                written = {"constraint": automaton, "max_tokens": 8, "sampling": WIDE, "seed": seed}
                text = "".join(model.generate(prompt, **written))
                assert re.fullmatch(pattern, text), (pattern, text)


def test_a_blank_after_a_prompt_is_not_dropped(make_model: MakeModel) -> None:
    tokenizer = sentence_pieces()
    model = LanguageModel(make_model(vocabulary=tokenizer.vocabulary), tokenizer)
    written = [tokenizer.inner.token_to_id(token) for token in ("▁ab", "a")]
    assert model._text_after(tokenizer.encode("b"), written) == " aba"
    assert model._text_after([tokenizer.end], written) == "aba"
    for before in ("中" * 9 + "é", "龙龙龙", "\ufffd", "“aaaaaa"):  # bytes, of which not all are seen
        assert model._text_after(tokenizer.encode(before), written) == " aba"


@torch.no_grad()
def test_what_goes_on_is_scored_as_the_whole_text_is_encoded(make_model: MakeModel) -> None:
    """Where encoding puts a blank before each text, that before what goes on would be one too many."""
    tokenizer = sentence_pieces()
    tokenizer.inner.normalizer = tokenizers.normalizers.Sequence(
        [tokenizers.normalizers.Prepend("▁"), tokenizers.normalizers.Replace(" ", "▁")]
    )
    tokenizer.inner.pre_tokenizer = tokenizers.pre_tokenizers.Metaspace(prepend_scheme="never", split=True)
    model = LanguageModel(make_model(vocabulary=tokenizer.vocabulary), tokenizer)
    ids = tokenizer.encode("a a")
    assert ids[: len(tokenizer.encode("a"))] == tokenizer.encode("a")
    logits = model.model(torch.tensor([ids[:-1]])).log_softmax(-1)[0]
    expected = sum(logits[place - 1, ids[place]].item() for place in range(len(tokenizer.encode("a")), len(ids)))
    assert model.loglikelihood("a", " a") == pytest.approx(expected, rel=1e-5)


def test_what_is_remembered_of_a_form_is_bounded() -> None:
    pieces = [bytes([byte]) for byte in range(256)]
    many = Spelling([*pieces, *(f"t{number}".encode() for number in range(50_000))])
    for spelling in (Spelling(pieces), many):
        constraint = Constraint(regex("a*"), Vocabulary(spelling))
        assert 8 <= constraint._mask.cache_info().maxsize * 8 * len(spelling.pieces) <= REMEMBERED_BYTES


def test_a_tokenizer_without_a_byte_writes_around_it(make_model: MakeModel) -> None:
    spelling = Spelling([b"", *(bytes([byte]) for byte in range(256) if byte != ord("b")), b"ab"])
    constraint = Constraint(regex("[ab]{4}|bbb"), Vocabulary(spelling))
    assert constraint.automaton.accepts("aaaa")
    assert not constraint.automaton.accepts("bbb")
    with pytest.raises(UserError, match="has no tokens for a text of this form"):
        Constraint(regex("bb"), Vocabulary(spelling))


def test_pieces_without_a_known_decoder_are_refused(tiny_tokenizer: Tokenizer) -> None:
    inner = tokenizers.Tokenizer.from_str(tiny_tokenizer.inner.to_str())
    inner.decoder = tokenizers.decoders.WordPiece()
    with pytest.raises(UserError, match="does not decode token by token"):
        spelling_of(Tokenizer(inner))


FEW = Spelling([b"", *(bytes([byte]) for byte in range(256)), b"ab", b"aba", "中".encode(), b'": ', b"bb", b"ab", b"}"])
"""Some tokens twice, as byte tokens are in the world."""


@pytest.mark.parametrize("drops_blank", [False, True])
@pytest.mark.parametrize(
    "automaton",
    [regex("(ab)*b?"), regex("a{3,5}中|bb"), regex(" ?a|  b"), json_schema({"properties": {"a": {"const": "b"}}})],
)
def test_masks_are_those_of_the_slow_twin(automaton: Automaton, drops_blank: bool) -> None:
    spelling = Spelling(FEW.pieces, drops_blank)
    constraint = Constraint(automaton, Vocabulary(spelling))
    logits, ends = np.zeros(len(FEW.pieces) + 5, dtype=np.float32), frozenset([0, len(FEW.pieces) - 1])
    for state in range(START, automaton.complete()):
        for first, left in itertools.product((False, True), (1, 2, 3, 40)):
            settings: dict[str, Any] = {"first": first, "left": left, "ends": ends}
            found = {*np.flatnonzero(np.isfinite(constraint.hide(logits, state, **settings))).tolist()}
            slow = allowed_reference(automaton, spelling, state, **settings)
            assert found <= slow
            assert found == slow or left < 40


@pytest.mark.parametrize("first", [False, True])
def test_the_tokens_that_are_found_are_those_of_the_slow_twin(tiny_tokenizer: Tokenizer, first: bool) -> None:
    """By the core where it was built; elsewhere it is the twin that is used."""
    spelling = Spelling(spelling_of(tiny_tokenizer).pieces, drops_blank=True)
    trie = Vocabulary(spelling).trie(first=first)
    met = 0
    for form in forms(60, seed=5):
        automaton = regex(form.said) if form.kind == "regex" else json_schema(form.said)
        for state in range(START, 40):
            if state < len(automaton.distance) and automaton.distance[state] < FAR:
                fast, slow = trie.mask(automaton, state), trie.mask_reference(automaton, state)
                assert all(itertools.starmap(np.array_equal, zip(fast, slow, strict=True)))
                met += len(fast.ids)
    assert met > 10_000


def test_arcs_apart_are_cut_as_they_are_where_arcs_overlap() -> None:
    arcs = [(48, 57, 3), (97, 102, 4), (103, 122, 3), (0, 8, 5)]
    assert _cut(arcs) == _cut([*arcs, arcs[0]]) == [(0, 9, {5}), (48, 58, {3}), (97, 103, {4}), (103, 123, {3})]


def test_enough_is_enough() -> None:
    """From every state there is a token after which the count of tokens that are needed has become less."""
    constraint = Constraint(json_schema(PERSON), Vocabulary(FEW))
    for state in range(START, constraint.automaton.complete()):
        assert (constraint.needed(state) == 0) is constraint.automaton.accepting(state)
        assert constraint.needed(state) <= constraint.automaton.distance[state]
        if constraint.needed(state):
            after = np.unique(constraint._make_mask(state, False).after).tolist()
            assert min(map(constraint.needed, after)) < constraint.needed(state)
    assert not constraint.automaton.table[DEAD].any()


# --- writing


def test_a_thousand_forms_are_kept(model: LanguageModel) -> None:
    """Some of the thousand here; benchmarks/constrained.py writes them all. Most of them have hardly enough tokens."""
    random = np.random.default_rng(0)
    written = 0
    for number, form in enumerate(forms(80, seed=7)):
        automaton = regex(form.said) if form.kind == "regex" else json_schema(form.said)
        constraint = model._constrained(automaton)
        tokens = constraint.needed(START) + 1 + int(random.choice([0, 2, 60]))
        text = "".join(model.generate("狐狸", constraint=automaton, max_tokens=tokens, sampling=WIDE, seed=number))
        assert form.is_kept(text), (form, text)
        written += len(text)
    assert written > 1000


@pytest.mark.parametrize("way", WAYS)
def test_every_way_of_writing_keeps_the_form(make_model: MakeModel, tiny_tokenizer: Tokenizer, way: str) -> None:
    """Beside others without one, and as the slow twin writes."""
    model = make_model(vocabulary=tiny_tokenizer.vocabulary, context=48)
    vocabulary, ends = Vocabulary(spelling_of(tiny_tokenizer)), frozenset([tiny_tokenizer.end])
    asked = [regex(r"[一-龥]{2,6}，?\d*"), None, json_schema(PERSON), choices(["yes", "no", "狐"])]
    narrow = Sampling(0.8, top_p=0.9, repetition_penalty=1.2)
    requests = [
        Request([5, 6], 40, sampling, seed, ends, automaton and Constraint(automaton, vocabulary))
        for seed, (automaton, sampling) in enumerate(itertools.product(asked, (Sampling(0.0), WIDE, narrow)))
    ]
    steps = open_way(way, model)
    steps.reserve(5, 48)
    with torch.inference_mode():
        answers = complete(steps, requests)
        assert answers == [write_reference(model, request) for request in requests]
    for request, ids in zip(requests, answers, strict=True):
        if request.constraint is not None:
            assert request.constraint.automaton.accepts(tiny_tokenizer.decode(ids))


def test_a_text_that_is_whole_ends_without_an_end_token(model: LanguageModel) -> None:
    (ids,) = model.answers([model._request("a", 50, WIDE, 0, choices(["狐狸"]))])
    assert model.tokenizer.end not in ids
    assert model.tokenizer.decode(ids) == "狐狸"


def test_the_end_token_comes_only_where_the_text_may_end(make_model: MakeModel, tiny_tokenizer: Tokenizer) -> None:
    decoder = make_model(vocabulary=tiny_tokenizer.vocabulary)
    with torch.no_grad():
        decoder.head.weight[tiny_tokenizer.end] = 100 * decoder.head.weight[5]
    eager = LanguageModel(decoder, tiny_tokenizer)
    for seed in range(10):
        text = "".join(eager.generate("a", constraint=regex("[a-c]{3,}"), max_tokens=30, sampling=WIDE, seed=seed))
        assert re.fullmatch("[a-c]{3,}", text)


def test_too_few_tokens_are_refused_before_anything_is_written(model: LanguageModel) -> None:
    with pytest.raises(UserError, match=r"needs \d+ tokens of this model, but max_tokens is 3") as caught:
        next(model.generate("a", constraint=regex("[0-9]{12}"), max_tokens=3))
    assert caught.value.code == USAGE
    assert len("".join(model.generate("a", constraint=regex("[0-9]{12}"), max_tokens=12))) == 12


def test_an_answer_of_an_assistant_keeps_the_form(model: LanguageModel) -> None:
    text = "".join(model.reply([{"role": "user", "content": "Yes?"}], constraint=choices(["yes", "no"])))
    assert text in ("yes", "no")
    samples = model.samples(count=40, constraint=choices(["1", "2"]), sampling=Sampling(100.0, top_p=1.0))
    assert {*samples} == {"1", "2"}
