"""An environment of chat templates with a limit of work, which counts and reads no clock.

jinja2's sandbox keeps a template from files and attributes, but not from nested loops, or from
texts that double. Here each line that a template executes counts (see `limited`), and each
operation is refused whose arguments or result would be larger than any conversation.
"""

import contextlib
import functools
import math
import re
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from types import FrameType
from typing import Any

from jinja2 import nodes, sandbox
from jinja2.compiler import CodeGenerator, Frame

WORK = 300_000  # lines of templates that one rendering may execute
CHEAP = 100  # characters or values that a filter handles in the time of a line
SIZE = 10_000_000  # characters of a text, or values of a list with all that is inside
_CODE = "<template>"  # jinja2's name of the file of a template that has none


class WorkError(Exception):
    """A WorkError means that a template asks for more work than any conversation needs."""


class _Budget(threading.local):
    left = sys.maxsize  # outside `limited`


_budget = _Budget()
_GROWING = {"replace", "join", "indent"}  # the result may be as large as a product
_DEEP = {"join", "tojson", "pprint", "string", "sort", "unique"}  # they read all that is inside


def _spend(work: int) -> None:
    _budget.left -= work
    if _budget.left < 0:
        raise WorkError(f"it is more work than {WORK} lines")


def _refuse_above(size: int) -> None:
    if size > SIZE:
        raise WorkError(f"a value is larger than {SIZE}")


def _measure(value: Any) -> int:
    """Return the number of characters or values, or the number itself: it may become a size."""
    if isinstance(value, int) and not isinstance(value, bool):
        return min(abs(value), SIZE + 1)
    return len(value) if isinstance(value, str | bytes | range | list | tuple | dict) else 0


def _measure_all(value: Any) -> int:
    """Return the number of characters and values with all that is inside, at most about SIZE."""
    total = 30 if isinstance(value, int) else 30 + _measure(value)  # a value counts as a word
    if isinstance(value, list | tuple | dict):
        for part in value.values() if isinstance(value, dict) else value:
            total += _measure_all(part)
            _refuse_above(total)
    return total


def _check_call(name: str, values: list[Any]) -> None:
    """Refuse a filter or method whose values are large, or so many that its result is."""
    if name in ("format", "format_map") and _wide(values[0]):
        raise WorkError("a format asks for a wide field")
    sizes = [_measure(value) for value in values]
    if name in _GROWING:
        _refuse_above(math.prod(max(1, size) for size in sizes))
    _refuse_above(max(sizes, default=0))
    if name in _DEEP:
        sizes += [_measure_all(value) for value in values]
    _spend(1 + sum(sizes) // CHEAP)


def _bounded(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Return a filter that `_check_call` checks first."""

    @functools.wraps(function)
    def filtered(*args: Any, **named: Any) -> Any:
        _check_call(name, [*args, *named.values()])
        return function(*args, **named)

    return filtered


def _join(parts: Iterable[Any]) -> str:
    """Concatenate texts, one by one, so that the sum is never much above the limit."""
    texts: list[str] = []
    total = 0
    for part in parts:
        texts.append(str(part))
        total += len(texts[-1])
        _refuse_above(total)
    _spend(total // CHEAP)
    return "".join(texts)


class _Generator(CodeGenerator):
    def visit_Concat(self, node: nodes.Concat, frame: Frame) -> None:  # noqa: N802
        """Write the operator `~` as a call of `_join`, which jinja2 would not intercept."""
        self.write("environment.concat((")
        for part in node.nodes:
            self.visit(part, frame)
            self.write(", ")
        self.write("))")


class Environment(sandbox.ImmutableSandboxedEnvironment):
    """An `Environment` is jinja2's sandbox in which sizes are limited."""

    code_generator_class = _Generator
    concat = staticmethod(_join)
    intercepted_binops = frozenset(["+", "*", "**", "%"])

    def __init__(self, **options: Any):
        super().__init__(**options)
        self.filters = {name: _bounded(name, x) for name, x in self.filters.items()}

    def add_filter(self, name: str, function: Callable[..., Any]) -> None:
        """Add a filter, with the limits that all filters have."""
        self.filters[name] = _bounded(name, function)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """Compute a binary operation, unless its result would be too large."""
        numbers = isinstance(left, int | float) and isinstance(right, int | float)
        whole = isinstance(left, int) and isinstance(right, int)
        if whole and operator in ("*", "**"):
            times = abs(right) if operator == "**" else 1
            _refuse_above(left.bit_length() * times + right.bit_length() if times < SIZE else times)
        elif operator == "*" and not numbers:
            size = max(1, _measure(left)) * max(1, _measure(right))
            _refuse_above(size)
            _spend(size // CHEAP)
        elif operator in "+%" and not numbers:
            _spend((_measure(left) + _measure(right)) // CHEAP)
            if operator == "%" and _wide(left):
                raise WorkError("a format asks for a wide field")
            _refuse_above(_measure(left) + _measure(right))
        return super().call_binop(context, operator, left, right)

    def call(__self, __context: Any, __obj: Any, *args: Any, **named: Any) -> Any:  # noqa: N805
        """Call a function or method of a value, unless an argument is too large."""
        # The sandbox wraps `format`.
        owner = getattr(getattr(__obj, "__wrapped__", __obj), "__self__", None)
        if isinstance(owner, str | bytes):
            _check_call(getattr(__obj, "__name__", ""), [owner, *args, *named.values()])
        return super().call(__context, __obj, *args, **named)


_WIDE = re.compile(r"%[-#0 +]*\d*\.?(\*|\d{6})|\{[^{}]*\d{6}")


def _wide(form: object) -> bool:
    """Return whether a format may ask for a field of 100,000 characters or more."""
    return isinstance(form, str) and _WIDE.search(form) is not None


@contextlib.contextmanager
def limited() -> Iterator[None]:
    """Raise WorkError in this thread when templates have done more than WORK."""
    before, outer = sys.gettrace(), _budget.left

    def count(frame: FrameType, event: str, _: Any) -> Any:
        if frame.f_code.co_filename != _CODE:
            return None
        _spend(1)
        return count

    _budget.left = WORK
    sys.settrace(count)
    try:
        yield
    finally:
        sys.settrace(before)
        _budget.left = outer
