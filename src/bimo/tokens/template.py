"""Chat templates: programs in Jinja that came with a model and that nobody here has read, run within bounds.

What they may do is listed: attributes, methods and filters that cannot grow a text beyond what they are given, or whose
growth is counted. Loops and macros look at the clock. Neither time nor memory depends on the good will of a template.
"""

from __future__ import annotations

import datetime
import functools
import json
import threading
import time
from collections.abc import Callable
from typing import Any

import jinja2
from jinja2 import ext, nodes, sandbox
from jinja2.visitor import NodeTransformer

from bimo.runtime import UserError, t

__all__ = ["ChatTemplate"]

LONGEST_TEMPLATE = 1 << 16
MOST_TEXT = 1 << 24
"""Characters that one rendering may handle on its way, what is thrown away again included."""
MOST_SECONDS = 0.5
"""Of processor time."""
LONGEST_STEP = 0.1
"""Seconds between two looks at the clock that count: what takes longer is Python, collecting garbage in this thread."""
LARGEST_NUMBER = 1 << 40
MOST_DIGITS = 15
"""That a number is rounded to: more a float does not have."""
LONGEST_SEPARATOR = 8
"""Characters between values of JSON."""

STRING_METHODS = frozenset(
    (
        *("capitalize", "count", "endswith", "find", "index", "isalpha", "isdigit", "isspace", "join", "lower"),
        *("lstrip", "partition", "removeprefix", "removesuffix", "replace", "rfind", "rpartition", "rsplit", "rstrip"),
        *("split", "splitlines", "startswith", "strip", "title", "upper"),
    )
)
FILTERS = (
    *("abs", "capitalize", "count", "d", "default", "dictsort", "first", "float", "int", "items", "last", "length"),
    *("list", "lower", "map", "max", "min", "reject", "rejectattr", "reverse", "round", "safe", "select", "selectattr"),
    *("sort", "title", "trim", "unique", "upper"),
)
PLAIN = (str, int, float, list, tuple, dict, jinja2.Undefined, type(None))


class _TooMuch(Exception):
    """A rendering that goes on for too long or grows too large."""


class ChatTemplate:
    """A template as transformers runs them. Raises UserError when it is none."""

    def __init__(self, source: str) -> None:
        if len(source) > LONGEST_TEMPLATE:
            raise UserError(
                "The chat template has {length:,} characters; Bimo reads at most {most:,}.",
                length=len(source),
                most=LONGEST_TEMPLATE,
            )
        self.source = source
        self._environment = _Bounded()
        self._one_at_a_time = threading.Lock()
        self._template = self._within_bounds(lambda: self._environment.compiled(source))
        self.constants: frozenset[str] = self._within_bounds(lambda: self._environment.constants(source))

    def render(self, messages: list[dict[str, Any]], *, answer: bool, **values: Any) -> str:
        """The text of messages; with `answer`, up to where the assistant's next message begins. Raises UserError."""
        values |= {"messages": messages, "add_generation_prompt": answer, "tools": None, "documents": None}
        return self._within_bounds(lambda: self._template.render(values))

    def _within_bounds(self, work: Callable[[], Any]) -> Any:
        with self._one_at_a_time:
            self._environment.begin()
            try:
                return work()
            except (_TooMuch, RecursionError):
                fault = t("it does not come to an end")
            except (jinja2.exceptions.SecurityError, jinja2.exceptions.TemplateAssertionError) as error:
                fault = t("it asks for something that templates may not do ({error})", error=str(error)[:200])
            except Exception as error:  # whatever a stranger's program runs into
                fault = str(error)[:200] or type(error).__name__
        raise UserError("The chat template cannot be used: {fault}.", fault=fault.rstrip("."))


class _Bounded(sandbox.ImmutableSandboxedEnvironment):
    """Jinja's sandbox, in which work is counted as well."""

    intercepted_binops = frozenset(("+", "*", "**", "%"))

    def __init__(self) -> None:
        # Blocks and extensions as transformers sets them, or the text would have other blanks.
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[ext.loopcontrols, _GenerationBlock],
            finalize=self.plain,
            optimized=False,
            cache_size=0,
        )
        counted = {name: self._counting(self.filters[name]) for name in FILTERS}
        self.filters = {**counted, "join": self._join, "replace": self._replace}
        self.filters |= {"string": self.concatenate, "tojson": self._json, "round": self._round}
        kept = {name: self.globals[name] for name in ("range", "dict", "namespace")}
        self.globals = {**kept, "raise_exception": _refuse, "strftime_now": _now}
        self.begin()

    def begin(self) -> None:
        """A new rendering: nothing is spent."""
        self._text, self._seconds, self._looked = 0, 0.0, time.thread_time()

    def compiled(self, source: str) -> jinja2.Template:
        """The template, with a look at the clock wherever it goes round."""
        return self.from_string(_Watch(self).visit(self.parse(source)))

    def constants(self, source: str) -> frozenset[str]:
        """The texts that a template compares with, searches for or writes."""
        found = (node.value for node in self.parse(source).find_all(nodes.Const))
        return frozenset(value for value in found if isinstance(value, str))

    def spend(self, characters: int) -> str:
        """Count so many characters and look at the clock."""
        now = time.thread_time()
        self._seconds += min(now - self._looked, LONGEST_STEP)
        self._text, self._looked = self._text + characters, now
        if self._text > MOST_TEXT or self._seconds > MOST_SECONDS:
            raise _TooMuch
        return ""

    def counted(self, value: Any) -> Any:
        """The same value, its size counted; of lists, with all that is in them."""
        if isinstance(value, list | tuple | dict):
            for part in value.values() if isinstance(value, dict) else value:
                self.counted(part)
        self.spend(len(value) if isinstance(value, str) else 1)
        return value

    def plain(self, value: Any) -> Any:
        """The same, if it is made of texts, numbers and lists: others could hold themselves over and over."""
        if not isinstance(value, PLAIN):
            raise jinja2.exceptions.SecurityError(f"{type(value).__name__} as text")
        return self.counted(value)

    def collected(self, value: list[Any] | tuple[Any, ...] | dict[Any, Any]) -> Any:
        """A list, tuple or mapping that a template writes down. Counted as a tree, so that no knot is ever tied."""
        for part in value.values() if isinstance(value, dict) else value:
            self.plain(part)
        return value

    def concatenate(self, *values: Any) -> str:
        """What `~` does."""
        return "".join(str(self.plain(value)) for value in values)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """Sums of texts are counted; products are for numbers alone."""
        if operator == "+":
            return self.plain(super().call_binop(context, operator, left, right))
        numbers = all(isinstance(value, int | float) and abs(value) <= LARGEST_NUMBER for value in (left, right))
        if not numbers or operator == "**":
            raise jinja2.exceptions.SecurityError(f"{type(left).__name__} {operator} {type(right).__name__}")
        return super().call_binop(context, operator, left, right)

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """Of texts only what is listed, of everything else what Jinja's sandbox allows."""
        if isinstance(obj, str | bytes):
            return attr in STRING_METHODS
        return super().is_safe_attribute(obj, attr, value)

    def wrap_str_format(self, value: Any) -> None:
        """Jinja would allow `format` here, with fields of any width."""

    def call(self, context: Any, function: Any, /, *arguments: Any, **named: Any) -> Any:
        """Calls are counted, and methods that may grow a text are weighed first."""
        owner = getattr(function, "__self__", None)
        if isinstance(owner, str) and function.__name__ == "replace":
            return self._replace(owner, *arguments)
        if isinstance(owner, str) and function.__name__ == "join":
            return self._join(arguments[0], owner)
        return self.counted(super().call(context, function, *arguments, **named))

    def _counting(self, filter_: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(filter_)  # with the mark by which Jinja knows that a filter wants the environment
        def counting(*arguments: Any, **named: Any) -> Any:
            return self.counted(filter_(*arguments, **named))

        return counting

    def _replace(self, text: Any, old: Any, new: Any, count: int | None = -1) -> str:
        text, old, new = (str(self.plain(value)) for value in (text, old, new))
        self.spend(text.count(old) * len(new))
        return self.counted(text.replace(old, new, -1 if count is None else count))

    def _join(self, values: Any, between: Any = "", attribute: str | None = None) -> str:
        chosen = (value if attribute is None else self.getitem(value, attribute) for value in values)
        parts = [str(self.plain(value)) for value in chosen]
        self.spend(len(parts) * len(str(self.plain(between))))
        return str(between).join(parts)

    def _round(self, value: Any, precision: Any = 0, method: Any = "common") -> Any:
        # Python would raise 10 to the precision, whatever it is, and no clock is read meanwhile.
        if not isinstance(precision, int) or abs(precision) > MOST_DIGITS:
            raise _TooMuch
        return jinja2.filters.do_round(self.plain(value), precision, method)

    def _json(self, value: Any, indent: int | None = None, **options: Any) -> str:
        kept: dict[str, Any] = {"ensure_ascii": False, "indent": min(indent or 0, 8) or None}
        kept |= {name: options[name] for name in ("ensure_ascii", "sort_keys") if name in options}
        separators = self.plain(options.get("separators"))
        if separators is not None:
            kept["separators"] = tuple(str(one)[:LONGEST_SEPARATOR] for one in separators)
        return self.counted(json.dumps(self.plain(value), **kept))


class _GenerationBlock(ext.Extension):
    """`{% generation %}` marks answers for transformers; here it changes nothing."""

    def __init__(self, environment: Any) -> None:
        super().__init__(environment)
        self.tags = {"generation"}

    def parse(self, parser: Any) -> list[nodes.Node]:
        """What stands inside."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Watch(NodeTransformer):
    """Puts `spend` at the start of each round of a loop and call of a macro; `~`, `[]` and `{}` become calls, too."""

    def __init__(self, environment: _Bounded) -> None:
        self._environment = environment

    def visit_For(self, node: nodes.For) -> nodes.Node:
        return self._watched(node)

    def visit_Macro(self, node: nodes.Macro) -> nodes.Node:
        return self._watched(node)

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        return self._call("concatenate", node.nodes, node.lineno)

    def visit_List(self, node: nodes.List) -> nodes.Node:
        return self._collected(node)

    def visit_Dict(self, node: nodes.Dict) -> nodes.Node:
        return self._collected(node)

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Node:
        return self._collected(node) if node.ctx == "load" else node

    def _collected(self, node: Any) -> nodes.Node:
        self.generic_visit(node)
        return self._call("collected", [node], node.lineno)

    def _watched(self, node: Any) -> nodes.Node:
        self.generic_visit(node)
        written = sum(len(data.data) for data in node.find_all(nodes.TemplateData))
        spend = self._call("spend", [nodes.Const(1 + written)], node.lineno)
        node.body.insert(0, nodes.ExprStmt(spend, lineno=node.lineno))
        return node

    def _call(self, method: str, arguments: list[Any], line: int) -> nodes.Call:
        # An attribute of the environment has no name that a template could give another meaning.
        function = nodes.EnvironmentAttribute(method, lineno=line)
        call = nodes.Call(function, arguments, [], None, None, lineno=line)
        call.set_environment(self._environment)
        return call


def _refuse(message: str) -> None:
    raise jinja2.exceptions.TemplateError(message)


def _now(form: str) -> str:
    return datetime.datetime.now().strftime(form[:100])
