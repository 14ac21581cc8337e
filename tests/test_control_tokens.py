"""No text of a user becomes a control token, however it spells one: ten thousand cases over tokenizers of all kinds."""

from __future__ import annotations

import json
import random
import unicodedata

import pytest
import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers

from bimo.runtime import UserError
from bimo.tokens.chat import CHATML, PLAIN, ChatFormat
from bimo.tokens.tokenizer import Tokenizer, load_tokenizer

CASES = 1250
"""For each of the eight formats."""

LLAMA_2 = (
    "{% if messages[0].role == 'system' %}{% set told = '<<SYS>>\n' ~ messages[0].content.strip() ~ '\n<</SYS>>\n\n' %}"
    "{% set rest = messages[1:] %}{% else %}{% set told = '' %}{% set rest = messages %}{% endif %}"
    "{% for m in rest %}{% if m.role == 'user' %}{{ bos_token ~ '[INST] ' ~ (told if loop.first else '') ~ "
    "m.content.strip() ~ ' [/INST]' }}{% else %}{{ ' ' ~ m.content.strip() ~ ' ' ~ eos_token }}{% endif %}{% endfor %}"
)
"""As that of Llama 2: contents are stripped, and the system's stands right before the user's."""

THOUGHTS = (
    "{% for m in messages %}{% set said = m.content.split('</think>')[-1].lstrip('\n') %}"
    "{{ '<|im_start|>' ~ m.role ~ '\n' ~ said ~ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""As that of Qwen 3: earlier thoughts are left out."""

JOINED = (
    "{% for m in messages %}{{ m.content | replace('<image>', '') | trim }}{{ m.content.split('<audio>') | join }}"
    "{% endfor %}<|im_end|>"
)
"""Contents side by side, out of which something was taken: what stood apart is joined."""

LOUD = "{% for m in messages %}{{ m.content | lower }}{{ m.content | upper }}{% endfor %}<|im_end|>"

WITHOUT_ANSWERS = {"joined", "loud"}
"""Their templates do not begin an answer as they ask for one, so that they have prompts and no lessons."""

BERT = "{% for m in messages %}{{ '[CLS]' ~ m.content ~ '[SEP]' }}{% endfor %}"


def with_chatml(tokenizer: Tokenizer, normalizer: normalizers.Normalizer | None = None) -> Tokenizer:
    inner = tokenizers.Tokenizer.from_str(tokenizer.inner.to_str())
    if normalizer is not None:
        inner.normalizer = normalizer
    normalized = normalizer is not None
    inner.add_special_tokens([AddedToken(token, normalized=normalized) for token in ("<|im_start|>", "<|im_end|>")])
    return Tokenizer(inner)


def wordlevel() -> Tokenizer:
    """The worst case: words between blanks are looked up as they are, control tokens among them."""
    controls = ["<unk>", "<|endoftext|>", "<|im_start|>", "<|im_end|>", "</s>"]
    inner = tokenizers.Tokenizer(models.WordLevel({w: n for n, w in enumerate([*controls, "a", "笔"])}, "<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    inner.add_special_tokens(controls)
    return Tokenizer(inner)


def unigram() -> Tokenizer:
    """As SentencePiece has it: control tokens are pieces like others."""
    pieces = ["<unk>", "<|endoftext|>", "<|im_start|>", "<|im_end|>", "</s>", *"<|>/_imendstarof tx笔"]
    inner = tokenizers.Tokenizer(models.Unigram([(piece, -1.0) for piece in dict.fromkeys(pieces)], 0))
    inner.add_special_tokens(pieces[:5])
    return Tokenizer(inner)


@pytest.fixture(scope="module")
def formats(tiny_tokenizer) -> dict[str, ChatFormat]:
    chatml = with_chatml(tiny_tokenizer)
    return {
        "plain": ChatFormat(tiny_tokenizer, PLAIN),
        "chatml": ChatFormat(chatml, CHATML),
        "thoughts": ChatFormat(chatml, THOUGHTS),
        "joined": ChatFormat(chatml, JOINED),
        "loud": ChatFormat(chatml, LOUD),
        "compatible": ChatFormat(with_chatml(tiny_tokenizer, normalizers.NFKC()), CHATML),
        "words": ChatFormat(wordlevel(), CHATML),
        "pieces": ChatFormat(unigram(), CHATML),
    }


@pytest.fixture(scope="module")
def gpt2(shared_data) -> ChatFormat:
    folder = shared_data / "models" / "gpt2_tokenizer"
    inner = tokenizers.Tokenizer(models.BPE.from_file(f"{folder}/gpt2_vocab.json", f"{folder}/gpt2_merges.txt"))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.add_special_tokens(["<|endoftext|>"])
    return ChatFormat(Tokenizer(inner), PLAIN)


@pytest.fixture(scope="module")
def bert(shared_data) -> ChatFormat:
    return ChatFormat(load_tokenizer(shared_data / "models" / "bert_chinese_vocab"), BERT)


def widened(text: str) -> str:
    """The full-width forms of ASCII characters, which NFKC takes back."""
    return "".join(chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c for c in text)


INVISIBLE = ["\u200b", "\u200d", "\ufeff", "\u2060", "\u00ad", "\u0301", "\u180e", "\ue000", "\U000f0000", "\0"]
REMOVED = ["<image>", "<audio>", "</think>", "[INST]", "<</SYS>>"]


def hostile(chance: random.Random, controls: list[str]) -> str:
    """A text that spells control tokens in one or several disguises."""
    token = chance.choice(controls)
    cut = chance.randrange(len(token) + 1)
    spellings = [
        lambda: token,
        lambda: token[:cut],
        lambda: token[cut:],
        lambda: token[:cut] + token + token[cut:],
        lambda: token[:cut] + chance.choice(INVISIBLE) + token[cut:],
        lambda: token[:cut] + chance.choice(REMOVED) + token[cut:],
        lambda: token[:1] + chance.choice(REMOVED) + token[1:-1] + chance.choice(REMOVED) + token[-1:],
        lambda: widened(token),
        lambda: token[:cut] + widened(token[cut:]),
        lambda: unicodedata.normalize("NFD", token.swapcase()),
        lambda: token.replace("i", "ı").replace("s", "ſ").replace("S", "ſ").replace("k", "\u212a"),
        lambda: token.title(),
        lambda: chance.choice(" \n\t") + token + chance.choice(" \n\t"),
        lambda: token[0] + " ",
        lambda: token[1:-1],
        lambda: " " + token[-1],
        lambda: token.encode().hex(),
        lambda: "&lt;" + token[1:-1] + "&gt;",
        lambda: "{{ eos_token }}" + "{{ '" + token + "' }}",
        lambda: "".join(chr(chance.choice([*range(32, 127), 0x7B14, 0x1F600])) for _ in range(4)),
    ]
    return "".join(chance.choice(spellings)() for _ in range(chance.randint(1, 3)))


def control_ids(chat: ChatFormat) -> set[int]:
    added = chat.tokenizer.inner.get_added_tokens_decoder()
    return {number for number, token in added.items() if token.special}


def require_none(chat: ChatFormat, *, cases: int, seed: int, lessons: bool = True) -> None:
    """As many control tokens in prompts and lessons of hostile conversations as in those of harmless ones."""
    chance, controls = random.Random(seed), control_ids(chat)
    names = sorted(chat.tokenizer.inner.id_to_token(number) for number in controls)
    roles = ("system", "user", "assistant", "user", "assistant")
    harmless = [{"role": role, "content": "a"} for role in roles]

    unknown = {chat.tokenizer.inner.token_to_id(token) for token in ("<unk>", "[UNK]")}

    def found(ids):
        return [number for number in ids if number in controls - unknown]

    prompt = found(chat.prompt(harmless[:4]))
    learned = [found(lesson.ids) for lesson in chat.lessons(harmless)] if lessons else []
    for case in range(cases):
        talk = [{"role": role, "content": hostile(chance, names)} for role in roles]
        assert found(chat.prompt(talk[:4])) == prompt, (case, talk)
        if lessons and case % 5 == 0:
            assert [found(lesson.ids) for lesson in chat.lessons(talk)] == learned, (case, talk)


@pytest.mark.parametrize("name", ["plain", "chatml", "thoughts", "joined", "loud", "compatible", "words", "pieces"])
def test_no_text_yields_a_control_token(formats, name):
    require_none(formats[name], cases=CASES, seed=len(name), lessons=name not in WITHOUT_ANSWERS)


@pytest.mark.parametrize("name", ["smollm2_format", "gpt2", "bert"])
def test_nor_with_the_tokenizers_of_others(request, name):
    require_none(request.getfixturevalue(name), cases=CASES, seed=len(name))


def test_nor_in_the_template_of_llama_2(smollm2_format):
    require_none(ChatFormat(smollm2_format.tokenizer, LLAMA_2), cases=CASES, seed=1)


@pytest.mark.parametrize("added", [None, AddedToken("EOS", special=False, rstrip=True)], ids=["a word", "added"])
def test_a_token_that_has_a_role_is_a_control_token(tiny_tokenizer, added):
    """Whether the tokenizer says so or not; here merges lead to it as well."""
    settings = json.loads(tiny_tokenizer.inner.to_str())
    settings["added_tokens"] = []
    merges = [("E", "O"), ("EO", "S")]
    for pair in merges:
        settings["model"]["vocab"].setdefault("".join(pair), len(settings["model"]["vocab"]))
    settings["model"]["merges"] = merges + settings["model"]["merges"]
    settings["post_processor"] = None
    inner = tokenizers.Tokenizer.from_str(json.dumps(settings))
    if added is not None:
        inner.add_tokens([added])
    assert inner.token_to_id("EOS") in inner.encode("1EOS2").ids
    tokenizer = Tokenizer(inner, {"eos_token": "EOS"})
    assert tokenizer.end not in tokenizer.encode("1EOS2")
    assert tokenizer.encode_batch(["1EOS2"]) == [tokenizer.encode("1EOS2")]
    assert tokenizer.decode([*tokenizer.encode("1EOS2"), tokenizer.end]) == "1EOS2"
    known = inner.get_added_tokens_decoder()[tokenizer.end]
    assert (known.special, known.rstrip) == (True, added is not None)
    chat = ChatFormat(tokenizer, PLAIN)
    assert chat.prompt([{"role": "user", "content": "1EOS"}]).count(tokenizer.end) == 2
    assert chat.closing == tokenizer.end


def test_a_role_takes_no_character_from_texts():
    """Some pad with an exclamation mark, or end at a line break. There may then be no control token at all."""
    words = {word: number for number, word in enumerate(["\n", "!", *"user asitnbc"])}
    inner = tokenizers.Tokenizer(models.BPE(words, []))
    inner.decoder = decoders.Fuse()
    tokenizer = Tokenizer(inner, {"eos_token": "\n", "pad_token": "!", "bos_token": "<s>"})
    assert tokenizer.decode(tokenizer.encode("a!\n")) == "a!\n"
    assert tokenizer.vocabulary == len(words)
    chat = ChatFormat(tokenizer, CHATML.replace("<|im_start|>", "").replace("<|im_end|>", ""))
    talk = [{"role": "user", "content": "ab!"}, {"role": "assistant", "content": "c"}]
    assert "".join(map(tokenizer.inner.id_to_token, chat.prompt(talk[:1]))) == "user\nab!\nassistant\n"
    assert chat.closing is None
    assert sum(chat.lessons(talk)[0].counted) == 2


def test_what_cannot_be_spelled_without_a_control_token_is_refused():
    """Here the end of a text stands for all that is unknown."""
    inner = tokenizers.Tokenizer(models.WordLevel({"<|endoftext|>": 0, "a": 1}, "<|endoftext|>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    inner.add_special_tokens(["<|endoftext|>"])
    tokenizer = Tokenizer(inner)
    assert tokenizer.encode("a a") == [1, 1]
    with pytest.raises(UserError, match="takes '笔' for a special token"):
        tokenizer.encode("a 笔")


def test_a_message_brings_nothing_but_its_role_and_its_text(formats):
    """A template may write a name as it stands, or the role."""
    chat = ChatFormat(formats["chatml"].tokenizer, "{% for m in messages %}{{ m.name }}{{ m.content }}{% endfor %}")
    assert "<|im_end|>" not in chat.text([{"role": "user", "content": "a", "name": "<|im_end|>"}])
    with pytest.raises(UserError, match="is none of system, user, assistant, tool"):
        formats["chatml"].prompt([{"role": "user<|im_end|>", "content": "a"}])


def test_what_a_template_looks_for_is_found(formats):
    chat = formats["thoughts"]
    talk = [{"role": "user", "content": "hm <think>\nso\n</think>\n\nyes < no >"}]
    assert chat.text(talk) == "<|im_start|>user\nyes < no ><|im_end|>\n"
