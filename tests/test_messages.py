"""Every sentence that a person sees has its Chinese, with the same values in it, and none is left over."""

from __future__ import annotations

import ast
import re
import string
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from bimo.runtime import UserError, language, set_language, t

SOURCE = Path(__file__).resolve().parents[1] / "src" / "bimo"
CATALOGUE = SOURCE / "assets" / "messages.zh.toml"

TRANSLATING = {"t", "UserError"}
LABELLED = {"say", "progress"}
"""Methods of Console whose first argument is a label that it translates."""

PASSED_ON = {
    ("runtime.py", "template"): (),
    ("console.py", "label"): (),
    ("train/following.py", "self.title"): (),
    ("runs.py", "run['state']"): ("done", "trained", "unfinished"),
}
"""Where a template comes from elsewhere: labels are found where they are given, states are listed here."""


def found_templates() -> dict[str, str]:
    """Every template in the source -> where it stands first."""
    found: dict[str, str] = {}
    for path in sorted(SOURCE.rglob("*.py")):
        place = path.relative_to(SOURCE).as_posix()
        text = path.read_text(encoding="utf-8")
        tree = ast.parse(text)
        for node, scope in calls(tree):
            known = PASSED_ON.get((place, ast.unparse(node.args[0])))
            templates = list(known) if known is not None else list(strings(node.args[0], scope, tree))
            assert templates or known is not None, f"{place}:{node.lineno} what does {ast.unparse(node)[:80]} say?"
            for template in templates:
                assert known is None or f'"{template}"' in text, f"{place} does not say {template}"
                found.setdefault(template, f"{place}:{node.lineno}")
    return found


def calls(tree: ast.Module) -> Iterator[tuple[ast.Call, ast.AST]]:
    """Calls that translate their first argument, each with the function around it."""
    scopes: dict[ast.AST, ast.AST] = {}
    for node in ast.walk(tree):
        scope = node if isinstance(node, ast.FunctionDef | ast.Module) else scopes.get(node, tree)
        for child in ast.iter_child_nodes(node):
            scopes[child] = scope
        if isinstance(node, ast.Call) and node.args:
            name = getattr(node.func, "id", None)
            method = node.func.attr if isinstance(node.func, ast.Attribute) else None
            if name in TRANSLATING or method in LABELLED:
                yield node, scope


def strings(node: ast.expr, scope: ast.AST, tree: ast.Module) -> Iterator[str]:
    """The texts that an expression can stand for; nothing when that cannot be said."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    elif isinstance(node, ast.IfExp):
        yield from strings(node.body, scope, tree)
        yield from strings(node.orelse, scope, tree)
    elif isinstance(node, ast.Tuple | ast.List):
        for element in node.elts:
            yield from strings(element, scope, tree)
    elif isinstance(node, ast.Dict):
        for value in node.values:
            yield from strings(value, scope, tree)
    elif isinstance(node, ast.Subscript):  # REASONS[code]
        yield from strings(node.value, scope, tree)
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "get":
        yield from strings(node.func.value, scope, tree)  # LANGUAGES.get(code, code)
    elif isinstance(node, ast.Name):
        for inner in [*ast.walk(scope), *tree.body]:
            if isinstance(inner, ast.Assign) and [ast.unparse(target) for target in inner.targets] == [node.id]:
                yield from strings(inner.value, scope, tree)
            elif isinstance(inner, ast.comprehension | ast.For) and ast.unparse(inner.target) == node.id:
                yield from strings(inner.iter, scope, tree)


def placeholders(template: str) -> set[str]:
    """What is filled in: `{n:,} files` -> {"n"}."""
    return {name for _, name, _, _ in string.Formatter().parse(template) if name is not None}


@pytest.fixture(scope="module")
def chinese() -> dict[str, str]:
    return tomllib.loads(CATALOGUE.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def templates() -> dict[str, str]:
    return found_templates()


def test_the_search_finds_what_it_should(templates: dict[str, str]) -> None:
    assert len(templates) > 200
    known = (
        "{path} is not valid JSON: {error}.",  # a plain UserError
        "Tokenizer",  # a label of the console
        "the same text was there before",  # a value of a table
        "unfinished",  # a state
        "bits/byte",  # a title of a column
        "Where to begin; nothing begins a new document.",  # help of the command line
    )
    for template in known:
        assert template in templates


def test_every_template_has_its_chinese(templates: dict[str, str], chinese: dict[str, str]) -> None:
    missing = [f"{place}: {template}" for template, place in templates.items() if template not in chinese]
    assert not missing, "\n".join(missing)


def test_no_translation_is_left_over(templates: dict[str, str], chinese: dict[str, str]) -> None:
    assert sorted(chinese.keys() - templates.keys()) == []


def test_translations_fill_in_the_same_values(chinese: dict[str, str]) -> None:
    for english, translated in chinese.items():
        assert placeholders(translated) == placeholders(english), english
        values = dict.fromkeys(placeholders(english), 1)
        assert english.format(**values)
        assert translated.format(**values)


def test_translations_are_chinese(chinese: dict[str, str]) -> None:
    half_width = re.compile(r"[\u4e00-\u9fff][,;:?!(]|[\u4e00-\u9fff]\.(\s|$)|\)[\u4e00-\u9fff]")
    for english, translated in chinese.items():
        assert not half_width.search(translated), f"{translated}: punctuation of half width"
        assert "  " not in translated.strip() or "  " in english, translated
        if english[-1:] == ".":
            assert translated[-1] in "。）”", f"{translated}: a sentence ends with 。"


def test_the_catalogue_is_in_order() -> None:
    lines = CATALOGUE.read_text(encoding="utf-8").splitlines()
    keys = [next(iter(tomllib.loads(line))) for line in lines if line and not line.startswith("#")]
    assert keys == sorted(keys)


def test_messages_come_in_the_language_that_was_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("BIMO_LANGUAGE", "LC_ALL", "LC_MESSAGES", "LANG"):
        monkeypatch.delenv(name, raising=False)
    try:
        set_language("zh")
        assert t("Tokenizer") == "分词器"
        assert t("no such sentence {n:,}", n=1234) == "no such sentence 1,234"
        assert "不是有效的 JSON" in str(UserError("{path} is not valid JSON: {error}.", path="a", error="{b}"))
        set_language("en")
        assert t("Tokenizer") == "Tokenizer"
        set_language(None)
        for name, value in (("LANG", "zh_CN.UTF-8"), ("LC_ALL", "en_US.UTF-8"), ("BIMO_LANGUAGE", "zh")):
            monkeypatch.setenv(name, value)
            assert language() == value[:2]
    finally:
        set_language(None)
