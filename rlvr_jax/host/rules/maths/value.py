"""The value of a formula, exactly where it can be, and whether two formulas are equal.

Rational arithmetic is exact up to MAX_BITS; roots, powers and functions are taken to 60 digits.
Whatever would be larger raises Unreadable before it is computed: no answer needs it.  Formulas
with variables are compared at fixed points: no algebra is done, so none can hang.
"""

from __future__ import annotations

import functools
import threading
import zlib
from fractions import Fraction
from typing import Any

from rlvr_jax.host.rules.maths import formula
from rlvr_jax.host.rules.maths.formula import Tree, Unreadable

MAX_BITS = 100_000  # of a numerator or denominator
MAX_FACTORIAL = 5000  # whose factorial has half as many bits
DIGITS = 60
CLOSE = 40  # decimal places, relative, at which two irrational values are the same
WRITTEN = 8  # significant digits from which a decimal may stand for an irrational value
POINTS = 5

_local = threading.local()


def equal(gold: Tree, found: Tree) -> bool:
    """Whether two formulas have the same value, wherever both have one.

    A decimal equals an irrational or periodic value only if it is its correct rounding to at least
    WRITTEN digits: 3.1416 is not pi.  Values that cannot be computed are not equal.
    """
    variables = formula.names(gold)
    if variables != formula.names(found):
        return False
    seen = 0
    for point in range(POINTS if variables else 1):
        values = [evaluate(tree, _environment(variables, point)) for tree in (gold, found)]
        if not _same(values[0], values[1], not variables and _rounded(gold, found)):
            return False
        seen += 1
    return seen > 0


def evaluate(tree: Tree, env: dict[str, Fraction]) -> Any:
    """A Fraction, or a number of 60 digits; infinity is the text "inf" or "-inf".

    Raises:
      Unreadable: it has no value, or one too large to be computed.
    """
    try:
        return _value(tree, env)
    except Unreadable:
        raise
    except Exception as error:  # poles, domains: mpmath has many ways to say it
        raise Unreadable(str(error)) from error


def _rounded(gold: Tree, found: Tree) -> Tree | None:
    """The side that is nothing but a decimal, if the other one has no decimal point."""
    sides = [tree[1] if tree[0] == "neg" else tree for tree in (gold, found)]
    for side, other in (sides, sides[::-1]):
        if side[0] == "num" and side[2] and not formula.has_decimal(other):
            return side
    return None


def _same(a: Any, b: Any, decimal: Any = None) -> bool:
    if isinstance(a, str) or isinstance(b, str):
        return isinstance(a, str) and isinstance(b, str) and a == b
    exact = isinstance(a, Fraction) and isinstance(b, Fraction)
    if exact and a == b:
        return True
    if decimal:
        return _rounds_to(a, b, decimal[1])
    if exact:
        return False
    mp = _context()
    a, b = _float(a), _float(b)
    scale = max(abs(a), abs(b))
    # Beside an exact zero only the size of rounding errors tells: cos(pi/2) is 1e-61, not 0.
    return abs(a - b) <= mp.mpf(10) ** -CLOSE * (1 if not (a and b) else scale)


def _rounds_to(a: Any, b: Any, written: Fraction) -> bool:
    """Whether the written decimal is the other value to its last digit, and has digits enough."""
    places, value = 0, written
    while value.denominator != 1 and places <= 60:
        places, value = places + 1, value * 10
    if len(str(abs(value.numerator)).lstrip("0")) < WRITTEN:
        return False
    a, b = _float(a), _float(b)
    return bool(abs(a - b) <= _context().mpf(10) ** -places / 2)


def _environment(variables: set[str], point: int) -> dict[str, Fraction]:
    """Fixed, odd values: positive and negative, small and large, a name's own."""
    out = {}
    for name in variables:
        seed = zlib.crc32(f"{name}/{point}".encode())
        sign = -1 if point == 1 else 1
        out[name] = sign * Fraction(seed % 9973 + 101, (seed >> 13) % 2011 + 211)
    return out


def _value(tree: Tree, env: dict[str, Fraction]) -> Any:
    kind = tree[0]
    if kind == "num":
        return tree[1]
    if kind == "var":
        return env[tree[1]]
    if kind == "const":
        return _constant(tree[1])
    if kind == "call":
        return _call(tree[1], _finite(_value(tree[2], env)))
    if kind == "based":
        raise Unreadable("a number of another base")
    values = [_value(part, env) for part in tree[1:]]
    if kind == "neg":
        return {"inf": "-inf", "-inf": "inf"}[values[0]] if values[0] in _INF else -values[0]
    operator: Any = _OPERATORS[kind]
    return operator(*map(_finite, values))


_INF = ("inf", "-inf")


def _finite(value: Any) -> Any:
    if isinstance(value, str):
        raise Unreadable("infinity inside a formula")
    return value


def _constant(name: str) -> Any:
    mp = _context()
    return {"pi": +mp.pi, "e": +mp.e, "i": mp.mpc(0, 1), "infty": "inf"}[name]


def _context() -> Any:
    """mpmath changes its precision while it works: every thread has a context of its own."""
    if not hasattr(_local, "context"):
        import mpmath

        _local.context = mpmath.MPContext()
        _local.context.dps = DIGITS
    return _local.context


def _float(value: Any) -> Any:
    mp = _context()
    if isinstance(value, Fraction):
        return mp.mpf(value.numerator) / value.denominator
    return value


def _checked(value: Any) -> Any:
    if isinstance(value, Fraction):
        if max(value.numerator.bit_length(), value.denominator.bit_length()) > MAX_BITS:
            raise Unreadable("a large number")
        return value
    mp = _context()
    if not mp.isfinite(value) or value and abs(mp.log(abs(value))) > MAX_BITS:
        raise Unreadable("a large number")
    return value


def _pair(a: Any, b: Any) -> tuple[Any, Any]:
    if isinstance(a, Fraction) and isinstance(b, Fraction):
        return a, b
    return _float(a), _float(b)


def _add(a: Any, b: Any) -> Any:
    a, b = _pair(a, b)
    return _checked(a + b)


def _subtract(a: Any, b: Any) -> Any:
    a, b = _pair(a, b)
    return _checked(a - b)


def _multiply(a: Any, b: Any) -> Any:
    a, b = _pair(a, b)
    return _checked(a * b)


def _divide(a: Any, b: Any) -> Any:
    a, b = _pair(a, b)
    return _checked(a / b)


def _power(base: Any, exponent: Any) -> Any:
    if isinstance(base, Fraction) and isinstance(exponent, Fraction) and exponent.denominator == 1:
        size = max(base.numerator.bit_length(), base.denominator.bit_length())
        if abs(exponent) * max(size, 1) > MAX_BITS:
            raise Unreadable("a large power")
        return _checked(base ** int(exponent))
    mp = _context()
    base, exponent = _float(base), _float(exponent)
    if base and abs(exponent) * abs(mp.log(base)) > MAX_BITS:
        raise Unreadable("a large power")
    return _checked(mp.power(base, exponent))


def _root(value: Any, degree: Any) -> Any:
    if isinstance(degree, Fraction) and degree.denominator == 1 and 0 < degree <= 100:
        n = int(degree)
        if isinstance(value, Fraction):
            exact = _exact_root(abs(value), n)
            if exact is not None and value >= 0:
                return exact
            if value < 0 and n % 2:  # the real root of a negative number
                return -_root(-value, degree)
        return _checked(_context().root(_float(value), n))
    return _power(value, Fraction(1) / degree)


def _exact_root(value: Fraction, n: int) -> Fraction | None:
    parts = []
    for part in (value.numerator, value.denominator):
        if part.bit_length() > 400:
            return None
        guess = round(_context().root(part, n))
        if int(guess) ** n != part:
            return None
        parts.append(int(guess))
    return Fraction(*parts)


def _factorial(value: Any) -> Any:
    if not isinstance(value, Fraction) or value.denominator != 1 or value < 0:
        raise Unreadable("the factorial of no natural number")
    if value > MAX_FACTORIAL:
        raise Unreadable("a large factorial")
    return Fraction(_product(1, int(value)))


@functools.lru_cache(64)
def _product(low: int, high: int) -> int:
    out = 1
    for factor in range(low, high + 1):
        out *= factor
    return out


def _degrees(value: Any) -> Any:
    return _float(value) * _context().pi / 180


def _binomial(n: Any, k: Any) -> Any:
    whole = all(isinstance(x, Fraction) and x.denominator == 1 for x in (n, k))
    if not whole or not 0 <= k <= n <= MAX_FACTORIAL:
        raise Unreadable("a large binomial")
    return _factorial(n) / (_factorial(k) * _factorial(n - k))


_OPERATORS = {
    **{"+": _add, "-": _subtract, "*": _multiply, "/": _divide, "^": _power},
    **{"root": _root, "!": _factorial, "binom": _binomial, "degree": _degrees},
}


def _call(name: str, value: Any) -> Any:
    mp = _context()
    if name == "abs":
        return abs(value)
    if name in ("floor", "ceil"):
        if not isinstance(value, Fraction):
            raise Unreadable("rounding of an irrational value")
        return Fraction(value.__floor__() if name == "floor" else value.__ceil__())
    value = _float(value)
    if value and abs(mp.log(abs(value))) > 200:
        raise Unreadable("a large argument")
    if name in ("exp", "sinh", "cosh", "tanh") and abs(value) > 5000:
        raise Unreadable("a large argument")
    calls = {
        **{"arcsin": mp.asin, "arccos": mp.acos, "arctan": mp.atan, "log": mp.log10},
        **{"exp": mp.exp},
    }
    return _checked((calls.get(name) or getattr(mp, name))(value))


def constant(tree: Tree) -> bool:
    """Whether a formula has one value, not zero, wherever it has any."""
    variables = formula.names(tree)
    values = [evaluate(tree, _environment(variables, point)) for point in range(POINTS)]
    return bool(values[0]) and all(_same(values[0], other) for other in values[1:])
