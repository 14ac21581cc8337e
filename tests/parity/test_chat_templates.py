"""Conversations get the ids that transformers gives them, by templates written as published families write theirs."""

from __future__ import annotations

import pytest
import tokenizers
from tokenizers import AddedToken, decoders, models, pre_tokenizers

from bimo.tokens.chat import CHATML, PLAIN, ChatFormat
from bimo.tokens.tokenizer import Tokenizer, load_tokenizer
from bimo.weights.chat_templates import folder_chat_format

transformers = pytest.importorskip("transformers")

TEMPLATES = {
    "chatml": CHATML,
    "plain": PLAIN,
    "headers": (
        "{%- set loop_messages = messages %}{%- for message in loop_messages %}"
        "{%- set content = '<|start|>' + message['role'] + '<|middle|>\n\n' + message['content'] | trim + '<|eot|>' %}"
        "{%- if loop.index0 == 0 %}{%- set content = bos_token + content %}{%- endif %}{{- content }}{%- endfor %}"
        "{%- if add_generation_prompt %}{{- '<|start|>assistant<|middle|>\n\n' }}{%- endif %}"
    ),
    "thoughts": (
        "{%- set ns = namespace(last=messages | length - 1, seen=false) %}\n"
        "{%- for message in messages[::-1] %}\n"
        "    {%- if not ns.seen and message.role == 'user' and not (message.content.startswith('<tool>')) %}\n"
        "        {%- set ns.seen = true %}{%- set ns.last = messages | length - 1 - loop.index0 %}\n"
        "    {%- endif %}\n"
        "{%- endfor %}\n"
        "{%- for message in messages %}\n"
        "    {%- set content = message.content %}\n"
        "    {%- if message.role == 'assistant' and '</think>' in content %}\n"
        "        {%- set content = content.split('</think>')[-1].lstrip('\\n') %}\n"
        "    {%- endif %}\n"
        "    {{- '<|im_start|>' + message.role + '\n' + content + '<|im_end|>' + '\n' }}\n"
        "{%- endfor %}\n"
        "{%- if add_generation_prompt %}\n"
        "    {{- '<|im_start|>assistant\n' }}\n"
        "{%- endif %}\n"
    ),
    "turns": (
        "{{ bos_token }}{% if (messages | selectattr('role', 'equalto', 'nobody') | list | length) > 0 %}"
        "{{ raise_exception('Nobody may speak') }}{% endif %}{% for message in messages %}"
        "{% set role = 'model' if message['role'] == 'assistant' else message['role'] %}"
        "{{ '<|im_start|>' ~ role ~ '\n' ~ (message['content'] | trim) ~ '<|im_end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>model\n' }}{% endif %}"
    ),
    "blocks": """
{% for message in messages %}
    {% if message['role'] == 'user' %}
<|start|>{{ message['content'] }}<|eot|>
    {% else %}
    {% generation %}{{ message['content'] }}{{ eos_token }}{% endgeneration %}
    {% endif %}
{% endfor %}
""",
}

TALK = [
    {"role": "system", "content": " Be brief. "},
    {"role": "user", "content": "你好，<b>world</b>\n\n1 < 2 |> x"},
    {"role": "assistant", "content": "<think>\nhm\n</think>\n\nHello  there! 👍"},
    {"role": "user", "content": "  "},
    {"role": "assistant", "content": "再见\n"},
]


@pytest.fixture(scope="module")
def pair(tiny_tokenizer, tmp_path_factory):
    """A tokenizer with more control tokens, some of which take the blanks beside them, here and in transformers."""
    inner = tokenizers.Tokenizer.from_str(tiny_tokenizer.inner.to_str())
    inner.add_special_tokens(["<|im_start|>", "<|im_end|>", "<|start|>", AddedToken("<|eot|>", rstrip=True)])
    inner.add_special_tokens([AddedToken("<|middle|>", lstrip=True, rstrip=True)])
    ours = Tokenizer(inner)
    folder = tmp_path_factory.mktemp("tokenizer")
    ours.save(folder)
    return ours, transformers.PreTrainedTokenizerFast.from_pretrained(folder)


@pytest.mark.parametrize("asking", [True, False])
@pytest.mark.parametrize("name", TEMPLATES)
def test_ids_are_those_of_transformers(pair, name, asking):
    ours, theirs = pair
    chat = ChatFormat(ours, TEMPLATES[name])
    for length in (2, 4) if asking else (1, 3, 5):
        messages = TALK[:length]
        text = theirs.apply_chat_template(
            messages, chat_template=TEMPLATES[name], add_generation_prompt=asking, tokenize=False
        )
        assert chat.text(messages, answer=asking) == text
        ids = theirs(text, add_special_tokens=False)["input_ids"]
        assert [id for id, _ in chat._encode(text, "\uf8ff")] == ids
        if asking:
            assert chat.prompt(messages) == ids


def pieces(scheme: str) -> tokenizers.Tokenizer:
    """BPE over SentencePiece's blanks, as newer Llamas and Mistrals have it."""
    merges = [("▁", "H"), ("▁", "a"), ("a", "b")]
    words = dict.fromkeys(["<unk>", "<s>", "</s>", "▁", *map("".join, merges), *"Hab<>/s\nuserit"])
    inner = tokenizers.Tokenizer(models.BPE({word: n for n, word in enumerate(words)}, merges, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
    inner.decoder = decoders.Metaspace(prepend_scheme=scheme)
    inner.add_special_tokens(["<unk>", "<s>", "</s>"])
    return inner


@pytest.mark.parametrize("scheme", ["first", "always", "never"])
@pytest.mark.parametrize("template", [PLAIN, "{% for m in messages %}{{ m.content }}</s>{{ m.content }}{% endfor %}"])
def test_blanks_stand_where_transformers_puts_them(scheme, template, tmp_path):
    ours = Tokenizer(pieces(scheme), {"eos_token": "</s>", "bos_token": "<s>"})
    ours.save(tmp_path)
    theirs = transformers.PreTrainedTokenizerFast.from_pretrained(tmp_path)
    talk = [
        {"role": "user", "content": "Hab"},
        {"role": "assistant", "content": "ab a"},
        {"role": "user", "content": "b"},
    ]
    text = theirs.apply_chat_template(talk, chat_template=template, add_generation_prompt=True, tokenize=False)
    assert ChatFormat(ours, template).prompt(talk) == theirs(text, add_special_tokens=False)["input_ids"]


def test_a_text_that_spells_a_control_token_has_no_blank_where_it_is_cut():
    inner = pieces("first")
    inner.model = models.BPE(
        {**inner.get_vocab(), "</": 40, "</s": 41}, [("<", "/"), ("</", "s"), ("</s", ">")], unk_token="<unk>"
    )
    tokenizer = Tokenizer(inner, {"eos_token": "</s>"})
    assert tokenizer.decode(tokenizer.encode("a</s>b")) == "a</s>b"


def test_a_folder_that_tuning_wrote_asks_transformers_for_an_answer_in_the_same_ids(tiny_tokenizer, tmp_path):
    tiny_tokenizer.save(tmp_path)
    (tmp_path / "chat_template.jinja").write_text(PLAIN)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    ids = theirs.apply_chat_template(TALK[:4], add_generation_prompt=True)["input_ids"]
    assert folder_chat_format(tmp_path, load_tokenizer(tmp_path)).prompt(TALK[:4]) == ids
