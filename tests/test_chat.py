"""Messages become ids as a template lays them out; no text becomes a control token; what counts is what is answered."""

from __future__ import annotations

import time

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from bimo.files import write_json
from bimo.runtime import UserError
from bimo.tokens.chat import CHATML, PLAIN, ChatFormat, own_template
from bimo.tokens.template import ChatTemplate
from bimo.tokens.tokenizer import Tokenizer
from bimo.weights.chat_templates import folder_chat_format

TALK = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "你好 👍"},
    {"role": "assistant", "content": "Hello!"},
    {"role": "user", "content": "  and\n"},
    {"role": "assistant", "content": "\nBye.\n"},
]

CONTROLS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


@pytest.fixture(scope="module")
def chatml_tokenizer(tiny_tokenizer: Tokenizer) -> Tokenizer:
    inner = tokenizers.Tokenizer.from_str(tiny_tokenizer.inner.to_str())
    inner.add_special_tokens(["<|im_start|>", "<|im_end|>"])
    return Tokenizer(inner)


@pytest.fixture(scope="module")
def formats(tiny_tokenizer, chatml_tokenizer, smollm2_format) -> dict[str, ChatFormat]:
    """Three tokenizers, each with a template that goes with it, and one that writes contents next to each other."""
    bare = "{% for m in messages %}{{ m.content }}{% endfor %}<|im_end|>"
    return {
        "plain": ChatFormat(tiny_tokenizer, PLAIN),
        "chatml": ChatFormat(chatml_tokenizer, CHATML),
        "bare": ChatFormat(chatml_tokenizer, bare),
        "smollm2": smollm2_format,
    }


def control_ids(chat: ChatFormat, ids: list[int]) -> list[int]:
    return [id for id in ids if id in {control.id for control in chat._controls.values()}]


def said(chat: ChatFormat, lesson) -> list[str]:
    """The runs of tokens that count, as text with control tokens."""
    runs, before = [], False
    for id, counted in zip(lesson.ids, lesson.counted, strict=True):
        if counted:
            runs[-1:] = [[*runs[-1], id]] if before else [*runs[-1:], [id]]
        before = counted
    return [chat.tokenizer.inner.decode(run, skip_special_tokens=False) for run in runs]


def test_ids_spell_what_the_template_writes(formats):
    for chat in formats.values():
        ids = chat.prompt(TALK[:4])
        assert chat.tokenizer.inner.decode(ids, skip_special_tokens=False) == chat.text(TALK[:4], answer=True)


def test_what_counts_is_each_answer_with_the_token_that_closes_it(formats):
    for name, closing in (("plain", "<|endoftext|>"), ("chatml", "<|im_end|>"), ("smollm2", "<|im_end|>")):
        (lesson,) = formats[name].lessons(TALK)
        assert said(formats[name], lesson) == [f"Hello!{closing}", f"\nBye.\n{closing}"]
        assert formats[name].closing == formats[name].tokenizer.inner.token_to_id(closing)


def test_an_answer_is_learned_after_the_ids_that_ask_for_it(formats):
    """What is read before an answer in training is what stands before it in use."""
    for name in ("plain", "chatml", "smollm2"):
        chat = formats[name]
        (lesson,) = chat.lessons(TALK[:3])
        prompt = chat.prompt(TALK[:2])
        assert lesson.ids[: len(prompt)] == prompt
        assert lesson.counted[: len(prompt) + 1] == [False] * len(prompt) + [True]


PIECES = [*CONTROLS, "<", "|", ">", "<|", "|>", "im_end", "im_start", "endoftext", "</s>", " ", "\n", "笔"]
TEXTS = st.one_of(
    st.lists(st.sampled_from(PIECES), max_size=8).map("".join),
    st.lists(st.one_of(st.sampled_from(PIECES), st.text(max_size=3)), max_size=8).map("".join),
).filter(lambda text: not any("\ud800" <= character <= "\udfff" for character in text))


@pytest.mark.parametrize("name", ["plain", "chatml", "bare", "smollm2"])
@given(system=TEXTS, user=TEXTS)
@settings(max_examples=400)
def test_no_text_becomes_a_control_token(formats, name, system, user):
    chat = formats[name]
    harmless = [{"role": role, "content": "x"} for role in ("system", "user")]
    hostile = [{"role": "system", "content": system}, {"role": "user", "content": user}]
    ids = chat.prompt(hostile)
    assert control_ids(chat, ids) == control_ids(chat, chat.prompt(harmless))
    if name != "smollm2":  # which has no token for some bytes, and leaves them out
        assert chat.tokenizer.inner.decode(ids, skip_special_tokens=False) == chat.text(hostile, answer=True)


def test_a_text_that_holds_the_mark_itself_is_kept(formats):
    content = "".join(map(chr, range(0xF0000, 0xF0010))) + "<|im_end|>"
    assert content in formats["chatml"].text([{"role": "user", "content": content}])


LAST_ALONE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' and loop.last %}(thought) {% endif %}"
    "{{ m.content }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def test_where_earlier_answers_are_laid_out_anew_each_answer_is_a_lesson(chatml_tokenizer):
    """As in templates that leave earlier thoughts out."""
    chat = ChatFormat(chatml_tokenizer, LAST_ALONE)
    first, second = chat.lessons(TALK)
    assert said(chat, first) == ["(thought) Hello!<|im_end|>"]
    assert said(chat, second) == ["(thought) \nBye.\n<|im_end|>"]


ROLE_BY_ROLE = (
    "{{% for m in messages %}}{{{{ m.role }}}}: {{{{ m.content }}}}\n{{% endfor %}}"
    "{{% if add_generation_prompt %}}{}{{% endif %}}"
)


def test_a_template_whose_answers_do_not_begin_as_asked_is_refused(chatml_tokenizer):
    wrong = (
        "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}A>{% endif %}"
    )
    talked_with = ChatFormat(chatml_tokenizer, wrong)
    talked_with.require_answering()
    assert talked_with.closing is None
    with pytest.raises(UserError, match="does not begin an answer as it asks for one"):
        ChatFormat(chatml_tokenizer, wrong).lessons(TALK)


def test_a_template_without_a_closing_token_has_none(chatml_tokenizer):
    chat = ChatFormat(chatml_tokenizer, ROLE_BY_ROLE.format("assistant: "))
    assert chat.closing is None
    assert said(chat, chat.lessons(TALK)[0]) == ["Hello!\n", "\nBye.\n\n"]


def test_our_own_template_needs_no_token_that_is_not_there(tiny_tokenizer, chatml_tokenizer):
    assert own_template(tiny_tokenizer) == PLAIN
    assert own_template(chatml_tokenizer) == CHATML


def test_a_folder_keeps_its_template_in_one_of_three_places(tmp_path, chatml_tokenizer):
    assert folder_chat_format(tmp_path, chatml_tokenizer).template.source == CHATML
    write_json(tmp_path / "tokenizer_config.json", {"chat_template": "settings"})
    assert folder_chat_format(tmp_path, chatml_tokenizer).template.source == "settings"
    several = [
        {"name": [], "template": "broken"},
        {"name": "tool_use", "template": "tools"},
        {"name": "default", "template": "default"},
    ]
    write_json(tmp_path / "tokenizer_config.json", {"chat_template": several})
    assert folder_chat_format(tmp_path, chatml_tokenizer).template.source == "default"
    (tmp_path / "chat_template.jinja").write_text("\ufefffile", encoding="utf-8")
    assert folder_chat_format(tmp_path, chatml_tokenizer).template.source == "file"


NESTED = (
    "{{% set ns = namespace(x=['ab']) %}}{{% for i in range(99) %}}{{% set ns.x = {} %}}{{% endfor %}}{{{{ ns.x{} }}}}"
)

HOSTILE = {
    "loops in loops": "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "a loop over itself": "{% for x in messages recursive %}{{ loop(messages) }}{{ loop(messages) }}{% endfor %}",
    "a macro that calls itself": "{% macro f(n) %}{{ f(n) }}{{ f(n) }}{% endmacro %}{{ f(1) }}",
    "a macro that branches": (
        "{% macro f(n) %}{% if n < 99 %}{{ f(n + 1) }}{{ f(n + 1) }}{% endif %}{% endmacro %}{{ f(1) }}"
    ),
    "a text times a number": "{{ 'a' * 10000000000 }}",
    "a list times a number": "{{ ['a'] * 10000000000 }}",
    "a power": "{{ 9 ** 999999999 }}",
    "a wide field": "{{ '%1000000000d' % 1 }}",
    "a wide format": "{{ '{:1000000000}'.format(1) }}",
    "a wide margin": "{{ 'a'.ljust(1000000000) }}",
    "a wide filter": "{{ 'a' | center(1000000000) }}",
    "texts joined over and over": NESTED.format("[ns.x[0] ~ ns.x[0]]", ""),
    "a sum over and over": NESTED.format("ns.x + ns.x", ""),
    "a list in itself": NESTED.format("[ns.x, ns.x]", ""),
    "a list in itself, as text": NESTED.format("[ns.x, ns.x]", " ~ 'a'"),
    "a list in itself, as JSON": NESTED.format("[ns.x, ns.x]", " | tojson"),
    "a mapping in itself": NESTED.format("{1: ns.x, 2: ns.x}", " | string"),
    "a name space in itself": NESTED.format("namespace(a=ns.x, b=ns.x)", " | string"),
    "a name space in a list": NESTED.format("[namespace(a=ns.x, b=ns.x)]", " | string"),
    "replacing by itself": NESTED.format("ns.x | join('') | replace('', ns.x | join('')) ", ""),
    "replacing by its method": NESTED.format("(ns.x | join('')).replace('', ns.x | join(''))", ""),
    "joining by its method": NESTED.format("(ns.x | join('')).join(ns.x | join('') | list)", ""),
    "blocks that double": "{% set a %}" + 1000 * "x" + "{% endset %}" + 40 * "{% set a %}{{ a }}{{ a }}{% endset %}",
    "quotes of quotes": "{{ messages" + 60 * " | tojson" + " }}",
    "rounding to a power": "{{ 5 | round(-1000000000) }}",
    "rounding up to a power": "{{ 5.5 | round(1000000000, 'ceil') }}",
    "a long text in a loop": "{% set x %}{% for i in range(99999) %}" + 60000 * "y" + "{% endfor %}{% endset %}",
    "brackets": "{{" + 30000 * "(" + 30000 * ")" + "}}",
    "conditions in conditions": 3000 * "{% if a %}",
    "Python's insides": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "another file": "{% include '/etc/passwd' %}",
    "no template": "{% for %}",
    "too long": "x" * 100_000,
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_templates_end_in_a_sentence(kind):
    before = time.thread_time()
    with pytest.raises(UserError, match="chat template"):
        ChatTemplate(HOSTILE[kind]).render([{"role": "user", "content": "hi"}], answer=True)
    assert time.thread_time() - before < 2


def test_a_pause_to_collect_garbage_is_not_the_templates(monkeypatch):
    """In a process that holds much, a collection takes the thread that runs a template for half a second and more."""
    template = ChatTemplate("{% for m in messages %}{{ m.content }}{% endfor %}")
    talk = [{"role": "user", "content": "hi"}]
    clock = iter(range(10_000))
    monkeypatch.setattr("bimo.tokens.template.time.thread_time", lambda: 0 if next(clock) < 2 else 10)
    assert template.render(talk, answer=False) == "hi"
    monkeypatch.setattr("bimo.tokens.template.time.thread_time", lambda: next(clock) / 20)
    with pytest.raises(UserError, match="does not come to an end"):
        template.render(20 * talk, answer=False)


def test_separators_of_json_are_short():
    source = (
        "{% set ns = namespace(x='a') %}{% for i in range(19) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}"
        "{{ range(10000) | list | tojson(separators=(ns.x, ':')) | length }}"
    )
    assert int(ChatTemplate(source).render([], answer=False)) < 200_000
    assert ChatTemplate("{{ [1, 2] | tojson(separators=(',', ':')) }}").render([], answer=False) == "[1,2]"
    assert ChatTemplate("{{ 2.345 | round(2) }} {{ 7.1 | round(0, 'ceil') }}").render([], answer=False) == "2.35 8.0"


def test_a_template_may_refuse_messages_in_its_own_words():
    template = ChatTemplate("{{ raise_exception('No system message, please.') }}")
    with pytest.raises(UserError, match="No system message, please"):
        template.render([], answer=True)
