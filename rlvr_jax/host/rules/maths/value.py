"""Compute the value of a formula, exactly where possible.

Rational arithmetic is exact up to MAX_BITS; roots, powers and functions are computed to DIGITS
digits.  Larger numbers raise Unreadable before they are computed, because no answer needs them.  A
formula of too many steps raises Unreadable too, so that no evaluation can hang, on a busy machine
or an idle one.

Roots and powers have their principal values, which may be complex.  If only real values are wanted,
they have their real values: the cube root of -8 is -2, and the square root of -1 is Undefined.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from rlvr_jax.host.rules.maths.tree import (
    BasedNumber,
    Call,
    Constant,
    Negative,
    Number,
    Operation,
    Series,
    Tree,
    Unreadable,
    Variable,
)

MAX_BITS = 100_000  # of a numerator or denominator
MAX_FACTORIAL = 5000  # n! of a larger n is not computed: 5000! has half of MAX_BITS
DIGITS = 60
MAX_TERMS = 100  # of a sum
MAX_STEPS = 3000  # operations, calls and names that one evaluation may need

_local = threading.local()


@dataclass(frozen=True)
class Infinity:
    """An Infinity is the value plus or minus infinity, which is no number."""

    is_negative: bool = False


# mpmath, which has no types, computes what is irrational: an mpf or, for complex values, an mpc.
Evaluated = Any  # Fraction | Infinity | mpf | mpc


class Undefined(Unreadable):
    """Undefined is raised where a formula has no real value: sqrt(-1), or the logarithm of -2."""


def evaluate(tree: Tree, values: Mapping[str, Fraction], real: bool = False) -> Evaluated:
    """Return the value of a tree, given the values of its variables.

    The value is an exact Fraction where possible, else a number of DIGITS digits, or Infinity.
    With `real`, roots and powers have their real values instead of their principal values.

    Raises:
      Undefined: `real` is true and the tree has no real value.
      Unreadable: the tree has no value, or a value that takes too many digits or steps to compute.
    """
    _local.real, _local.steps = real, 0
    try:
        return _evaluate(tree, values)
    except Unreadable:
        raise
    except Exception as error:  # mpmath raises many kinds of errors for poles and domains
        raise Unreadable(str(error)) from error


def _evaluate(tree: Tree, values: Mapping[str, Fraction]) -> Evaluated:
    _local.steps += 1
    if _local.steps > MAX_STEPS:
        raise Unreadable("a long computation")
    match tree:
        case Number(value):
            return value
        case Variable(name):
            return values[name]
        case Constant(name):
            return _constant(name)
        case Call(function, argument):
            return _call(function, _finite(_evaluate(argument, values)))
        case BasedNumber():
            raise Unreadable("a number of another base")
        case Negative(operand):
            value = _evaluate(operand, values)
            return Infinity(not value.is_negative) if isinstance(value, Infinity) else -value
        case Operation(operator, operands):
            parts = [_evaluate(part, values) for part in operands]
            return _OPERATORS[operator](*map(_finite, parts))
        case Series():
            return _series(tree, values)


def _series(tree: Series, values: Mapping[str, Fraction]) -> Evaluated:
    low, high = (_evaluate(end, values) for end in (tree.low, tree.high))
    whole = all(isinstance(end, Fraction) and end.denominator == 1 for end in (low, high))
    if not whole or high - low >= MAX_TERMS:
        raise Unreadable("a long sum")
    total = Fraction(tree.operator == "*")
    for index in range(int(low), int(high) + 1):
        term = _finite(_evaluate(tree.term, {**values, tree.index: Fraction(index)}))
        total = _OPERATORS[tree.operator](total, term)
    return total


def _finite(value: Evaluated) -> Evaluated:
    if isinstance(value, Infinity):
        raise Unreadable("infinity inside a formula")
    return value


def _constant(name: str) -> Evaluated:
    mp = context()
    return {"pi": +mp.pi, "e": +mp.e, "i": mp.mpc(0, 1), "infty": Infinity()}[name]


def context() -> Any:
    """Return the mpmath context of this thread.

    Each thread has its own context, because mpmath changes the precision of a context while it
    works.
    """
    if not hasattr(_local, "context"):
        import mpmath

        _local.context = mpmath.MPContext()
        _local.context.dps = DIGITS
    return _local.context


def as_float(value: Evaluated) -> Evaluated:
    """Return an exact fraction as a number of DIGITS digits; other values unchanged."""
    mp = context()
    if isinstance(value, Fraction):
        return mp.mpf(value.numerator) / value.denominator
    return value


def _checked(value: Evaluated) -> Evaluated:
    if isinstance(value, Fraction):
        if max(value.numerator.bit_length(), value.denominator.bit_length()) > MAX_BITS:
            raise Unreadable("a large number")
        return value
    mp = context()
    if _local.real and not isinstance(value, mp.mpf):
        raise Undefined("no real value")
    if not mp.isfinite(value) or value and abs(mp.log(abs(value))) > MAX_BITS:
        raise Unreadable("a large number")
    return value


def _pair(a: Evaluated, b: Evaluated) -> tuple[Evaluated, Evaluated]:
    if isinstance(a, Fraction) and isinstance(b, Fraction):
        return a, b
    return as_float(a), as_float(b)


def _add(a: Evaluated, b: Evaluated) -> Evaluated:
    a, b = _pair(a, b)
    return _checked(a + b)


def _subtract(a: Evaluated, b: Evaluated) -> Evaluated:
    a, b = _pair(a, b)
    return _checked(a - b)


def _multiply(a: Evaluated, b: Evaluated) -> Evaluated:
    a, b = _pair(a, b)
    return _checked(a * b)


def _divide(a: Evaluated, b: Evaluated) -> Evaluated:
    a, b = _pair(a, b)
    return _checked(a / b)


def _power(base: Evaluated, exponent: Evaluated) -> Evaluated:
    if isinstance(base, Fraction) and isinstance(exponent, Fraction) and exponent.denominator == 1:
        size = max(base.numerator.bit_length(), base.denominator.bit_length())
        if abs(exponent) * max(size, 1) > MAX_BITS:
            raise Unreadable("a large power")
        return _checked(base ** int(exponent))
    if _local.real and isinstance(exponent, Fraction) and exponent.denominator > 1:
        return _power(_root(base, Fraction(exponent.denominator)), Fraction(exponent.numerator))
    mp = context()
    base, exponent = as_float(base), as_float(exponent)
    if base and abs(exponent) * abs(mp.log(base)) > MAX_BITS:
        raise Unreadable("a large power")
    return _checked(mp.power(base, exponent))


def _root(value: Evaluated, degree: Evaluated) -> Evaluated:
    if isinstance(degree, Fraction) and degree.denominator == 1 and 0 < degree <= 100:
        n = int(degree)
        if isinstance(value, Fraction):
            exact = _exact_root(abs(value), n)
            if exact is not None and value >= 0:
                return exact
        if _is_real(value) and value < 0 and (n % 2 or _local.real):
            if n % 2 == 0:
                raise Undefined("an even root of a negative number")
            return -_root(-value, degree)
        return _checked(context().root(as_float(value), n))
    return _power(value, Fraction(1) / degree)


def _is_real(value: Evaluated) -> bool:
    """Return whether a value can be compared with zero; complex roots are principal."""
    return isinstance(value, Fraction) or _local.real and isinstance(value, context().mpf)


def _exact_root(value: Fraction, n: int) -> Fraction | None:
    parts = []
    for part in (value.numerator, value.denominator):
        if part.bit_length() > 400:
            return None
        guess = round(context().root(part, n))
        if int(guess) ** n != part:
            return None
        parts.append(int(guess))
    return Fraction(*parts)


def _factorial(value: Evaluated) -> Evaluated:
    if not isinstance(value, Fraction) or value.denominator != 1 or value < 0:
        raise Unreadable("a factorial of something else than a natural number")
    if value > MAX_FACTORIAL:
        raise Unreadable("a large factorial")
    return Fraction(math.factorial(int(value)))


def _degrees(value: Evaluated) -> Evaluated:
    return as_float(value) * context().pi / 180


def _binomial(n: Evaluated, k: Evaluated) -> Evaluated:
    whole = all(isinstance(x, Fraction) and x.denominator == 1 for x in (n, k))
    if not whole or not (0 <= k and 0 <= n <= MAX_FACTORIAL):
        raise Unreadable("a large binomial")
    if k > n:
        return Fraction(0)
    return _factorial(n) / (_factorial(k) * _factorial(n - k))


_OPERATORS: dict[str, Callable[..., Evaluated]] = {
    **{"+": _add, "-": _subtract, "*": _multiply, "/": _divide, "^": _power},
    **{"root": _root, "!": _factorial, "binom": _binomial, "degree": _degrees},
}


def _call(name: str, value: Evaluated) -> Evaluated:
    mp = context()
    if name == "abs":
        return abs(value)
    if name in ("floor", "ceil"):
        if not isinstance(value, Fraction):
            raise Unreadable("rounding of an irrational value")
        return Fraction(value.__floor__() if name == "floor" else value.__ceil__())
    value = as_float(value)
    if _local.real and name in ("ln", "log") and value <= 0:
        raise Undefined("the logarithm of a negative number")
    if value and abs(mp.log(abs(value))) > 200:
        raise Unreadable("a large argument")
    if name in ("exp", "sinh", "cosh", "tanh") and abs(value) > 5000:
        raise Unreadable("a large argument")
    calls = {
        **{"arcsin": mp.asin, "arccos": mp.acos, "arctan": mp.atan, "log": mp.log10},
        **{"exp": mp.exp},
    }
    return _checked((calls.get(name) or getattr(mp, name))(value))
