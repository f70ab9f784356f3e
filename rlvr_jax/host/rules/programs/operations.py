"""Define the Python that the assertions of tests may use, on plain data and with bounded results.

`assertions` rewrites a test so that it calls these functions.  Their arguments come from an
untrusted program: no argument has methods of the program, and no result may grow without bound.
"""

from __future__ import annotations

import cmath
import collections
import copy
import math
import operator
import random
import string
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, Protocol

from rlvr_jax.host.rules.programs.plain import Remote, is_equal

MAX_SIZE = 1_000_000  # items of a range or a product
MAX_BITS = 100_000  # of a power

_PLAIN: tuple[type, ...] = (
    str,
    list,
    dict,
    tuple,
    set,
    frozenset,
    int,
    float,
    complex,
    bytes,
    collections.Counter,
)
_PLAIN += (collections.OrderedDict, collections.defaultdict, bool)
_METHODS = (
    "lower upper title capitalize strip lstrip rstrip split rsplit splitlines startswith endswith "
    "count find rfind index isdigit isalpha isalnum islower isupper isspace isnumeric join append "
    "extend insert pop remove sort reverse copy keys values items get setdefault update add union "
    "intersection difference symmetric_difference issubset issuperset isdisjoint most_common "
    "elements bit_length is_integer real imag dtype"
).split()
MODULES: dict[str, tuple[str, ...]] = {
    "math": tuple(
        "isclose sqrt isqrt floor ceil fabs isnan isinf isfinite log log2 log10 exp sin cos tan "
        "asin acos atan atan2 radians degrees hypot gcd trunc pi e inf nan tau".split()
    ),
    "cmath": ("isclose", "sqrt", "pi"),
    "collections": ("Counter", "OrderedDict", "defaultdict"),
    "copy": ("copy", "deepcopy"),
    "string": ("ascii_letters", "ascii_lowercase", "ascii_uppercase", "digits", "punctuation"),
    "random": ("randint", "choice", "random", "uniform", "shuffle", "sample", "seed"),
    "numpy": ("allclose", "isclose", "ndarray", "float32", "float64", "nan", "inf"),
}
ATTRIBUTES = frozenset(_METHODS).union(*MODULES.values())


class UnfitTest(ValueError):
    """UnfitTest is raised for a test that cannot be evaluated outside of any program."""


class Array:
    """An Array stands for the type of NumPy's arrays, of which no plain value is an instance."""


class Program(Protocol):
    """A Program is a running program whose functions a test calls.

    `calls` and `assertions` count the calls and the assertions of the test.
    """

    calls: int
    assertions: int

    def call(self, path: tuple[Any, ...], arguments: Any, keywords: dict[str, Any]) -> Any:
        """Call a function of the program, and return its result as plain data."""


class Callee:
    """A Callee is a function, class or method of the program; calling it calls the program."""

    def __init__(self, program: Program, path: tuple[Any, ...], has_methods: bool = False):
        self._program, self.path, self.has_methods = program, path, has_methods

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        self._program.calls += 1
        value = self._program.call(self.path, arguments, keywords)
        if isinstance(value, Remote):
            value.has_methods = self.has_methods
        return value

    def __bool__(self) -> bool:
        raise UnfitTest("a test asks whether a function of the program is true")

    def __eq__(self, other: object) -> bool:
        raise UnfitTest("a test compares a function of the program")

    __hash__ = None  # type: ignore[assignment]


def compare(kinds: list[str], *values: Any) -> bool:
    """Return whether a chain of comparisons holds.

    `kinds` are the class names of the comparisons in `ast`, such as "Lt", one between each two
    values.
    """
    return all(
        _COMPARE[kind](left, right)
        for kind, left, right in zip(kinds, values, values[1:], strict=False)
    )


def contains(value: Any, container: Any) -> bool:
    """Return whether a value is in a container, where `plain.is_equal` compares items."""
    if isinstance(container, str | bytes):
        return value in container
    return any(is_equal(part, value) for part in container)


def _in_order(operation: Callable[[Any, Any], bool], left: Any, right: Any) -> bool:
    """Return whether two values are in an order; nan has no order and raises ValueError."""
    if left != left or right != right:
        raise ValueError("nan has no order")
    return operation(left, right)


def type_of(value: Any) -> type:
    """Return the type of a plain value.

    Raises:
      TypeError: the value is not plain data, so that its type belongs to the program.
    """
    if type(value) not in _PLAIN and value is not None:
        raise TypeError("no plain value")
    return type(value)


def is_instance(value: Any, kinds: Any) -> bool:
    """Return whether a plain value is an instance of a type, or of one type of a tuple.

    Raises:
      TypeError: the value is not plain data.
    """
    type_of(value)
    return isinstance(value, kinds)


_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "Eq": is_equal,
    "NotEq": lambda left, right: not is_equal(left, right),
    "Is": is_equal,
    "IsNot": lambda left, right: not is_equal(left, right),
    "In": contains,
    "NotIn": lambda left, right: not contains(left, right),
    "Lt": lambda left, right: _in_order(operator.lt, left, right),
    "LtE": lambda left, right: _in_order(operator.le, left, right),
    "Gt": lambda left, right: _in_order(operator.gt, left, right),
    "GtE": lambda left, right: _in_order(operator.ge, left, right),
}


def multiply(left: Any, right: Any) -> Any:
    """Return a product of bounded size.

    Raises:
      OverflowError: a sequence would have more than MAX_SIZE items, or a number more than MAX_BITS
        bits.
    """
    for sequence, number in ((left, right), (right, left)):
        if isinstance(number, int) and hasattr(sequence, "__len__"):
            if len(sequence) * number > MAX_SIZE:
                raise OverflowError("a sequence that is too long")
    _check_bits(_bits(left) + _bits(right))
    return left * right


def power(left: Any, right: Any, modulus: int | None = None) -> Any:
    """Return a power of bounded size, modulo `modulus` if given.

    Raises:
      OverflowError: the result may have more than MAX_BITS bits, or takes too long to compute.
    """
    if isinstance(left, int) and isinstance(right, int) and modulus is None:
        _check_bits(_bits(left) * max(0, right))
    _check_bits(_bits(left) * _bits(right) * _bits(modulus) // 1000)
    return pow(left, right) if modulus is None else pow(left, right, modulus)


def shift(left: int, right: int) -> int:
    """Return a number shifted to the left.

    Raises:
      OverflowError: the result may have more than MAX_BITS bits.
    """
    _check_bits(_bits(left) + right)
    return left << right


def modulo(left: Any, right: Any) -> Any:
    """Return a remainder.

    Raises:
      TypeError: the left side is text, of which % would be a format.
    """
    if isinstance(left, str | bytes):
        raise TypeError("no formats: a program could ask for a wide one")
    return left % right


def _bits(value: Any) -> int:
    return value.bit_length() if isinstance(value, int) else 0


def _check_bits(bits: int) -> None:
    if bits > MAX_BITS:
        raise OverflowError("a number that is too large")


def get_attribute(program: Program, value: Any, name: str) -> Any:
    """Return a method of a plain value, a member of a module, or a method of the program's object.

    Raises:
      AttributeError: the value has no such attribute, or tests may not use it.
    """
    if isinstance(value, Remote) and value.has_methods:
        return Callee(program, (value.number, name))
    if isinstance(value, Callee) and value.has_methods:
        return Callee(program, (*value.path, name))
    if isinstance(value, SimpleNamespace):
        return getattr(value, name)
    if type(value) in _PLAIN and name in _METHODS:
        return (lambda parts: _join(value, list(parts))) if name == "join" else getattr(value, name)
    raise AttributeError(name)


def _join(separator: str, parts: list[str]) -> str:
    if len(separator) * len(parts) > MAX_SIZE:
        raise OverflowError("a text that is too long")
    return separator.join(parts)


def bounded_range(*bounds: int) -> range:
    """Return a range of at most MAX_SIZE items.

    Raises:
      OverflowError: the range would be longer.
    """
    made = range(*bounds)
    if len(made) > MAX_SIZE:
        raise OverflowError("a range that is too long")
    return made


def all_close(values: Any, wanted: Any, rtol: float = 1e-5, atol: float = 1e-8) -> bool:
    """Return whether numbers, or those of nested lists, are as close as numpy.allclose requires."""
    if isinstance(wanted, list | tuple):
        same = isinstance(values, list | tuple) and len(values) == len(wanted)
        return same and all(
            all_close(*pair, rtol, atol) for pair in zip(values, wanted, strict=True)
        )
    return values == wanted or abs(values - wanted) <= atol + rtol * abs(wanted)


_FUNCTIONS: dict[str, Any] = {
    function.__name__: function
    for function in (
        *(abs, all, any, ascii, bin, bool, chr, complex, dict, divmod, enumerate, filter),
        *(float, frozenset, hex, int, len, list, map, max, min, oct, ord, reversed),
        *(round, set, sorted, str, sum, tuple, zip, repr),
    )
}
SCOPE = frozenset({*_FUNCTIONS, *MODULES, "range", "pow", "type", "isinstance", "print"})


def make_scope(program: Program) -> dict[str, Any]:
    """Return the scope in which a test runs, without names that the test or the program defines."""

    def check(test: Any) -> None:
        program.assertions += 1
        if not test:
            raise AssertionError

    modules = {name: _make_module(name) for name in MODULES}
    return {
        **_FUNCTIONS,
        **modules,
        **{"range": bounded_range, "pow": power, "print": lambda *_, **__: None},
        **{"type": type_of, "isinstance": is_instance, "__name__": "__main__", "__builtins__": {}},
        **{"__assert": check, "__compare": compare, "__module": modules.__getitem__},
        **{"__multiply": multiply, "__power": power, "__shift": shift, "__modulo": modulo},
        "__attribute": lambda value, name: get_attribute(program, value, name),
    }


def _make_module(name: str) -> SimpleNamespace:
    """Return the allowed members of a module; random numbers are the same in every grade."""
    if name == "numpy":
        members = {"ndarray": Array, "float32": float, "float64": float}
        close = {"allclose": all_close, "isclose": all_close}
        return SimpleNamespace(**members, **close, nan=math.nan, inf=math.inf)
    sources: dict[str, Any] = {
        "math": math,
        "collections": collections,
        "copy": copy,
        "string": string,
    }
    sources |= {"random": random.Random(0), "cmath": cmath}
    return SimpleNamespace(**{member: getattr(sources[name], member) for member in MODULES[name]})
