"""The value of a formula, exactly where possible, and the equality of two formulas.

Rational arithmetic is exact up to MAX_BITS; roots, powers and functions are computed to DIGITS
digits.  Larger numbers raise Unreadable before they are computed: no answer needs them.  Formulas
with variables are compared at fixed points, and no algebra is done, so that no comparison can hang.
"""

from __future__ import annotations

import math
import threading
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from rlvr_jax.host.rules.maths import tree as trees
from rlvr_jax.host.rules.maths.tree import (
    BasedNumber,
    Call,
    Constant,
    Negative,
    Number,
    Operation,
    Tree,
    Unreadable,
    Variable,
)

MAX_BITS = 100_000  # of a numerator or denominator
MAX_FACTORIAL = 5000  # n! of a larger n is not computed: 5000! has half of MAX_BITS
DIGITS = 60
CLOSE = 40  # decimal places, relative, at which two irrational values are the same
WRITTEN = 8  # significant digits from which a decimal may stand for an irrational value
POINTS = 5  # at which formulas with variables are compared

_local = threading.local()


@dataclass(frozen=True)
class Infinity:
    """A value that is no number: plus or minus infinity."""

    is_negative: bool = False


# mpmath, which has no types, computes what is irrational: an mpf or, for complex values, an mpc.
Evaluated = Any  # Fraction | Infinity | mpf | mpc


def equal_values(gold: Tree, answer: Tree) -> bool:
    """Return whether two formulas have the same value at POINTS values of their variables.

    A decimal equals an irrational or periodic value only if it is the correct rounding to at least
    WRITTEN digits: 3.1416 is not pi.

    Raises:
      Unreadable: a formula has no value, or one too large to be computed.
    """
    names = trees.variables(gold)
    if names != trees.variables(answer):
        return False
    decimal = None if names else _rounding(gold, answer)
    for point in range(POINTS if names else 1):
        at = _values_of_variables(names, point)
        if not _same(evaluate(gold, at), evaluate(answer, at), decimal):
            return False
    return True


def is_nonzero_constant(tree: Tree) -> bool:
    """Return whether a formula has the same value, not zero, at POINTS values of its variables.

    Raises:
      Unreadable: the formula has no value there, or one too large to be computed.
    """
    names = trees.variables(tree)
    values = [evaluate(tree, _values_of_variables(names, point)) for point in range(POINTS)]
    return bool(values[0]) and all(_same(values[0], other) for other in values[1:])


def evaluate(tree: Tree, values: Mapping[str, Fraction]) -> Evaluated:
    """Return the value of a tree, given the values of its variables.

    The value is an exact Fraction where possible, else a number of DIGITS digits, or Infinity.

    Raises:
      Unreadable: the tree has no value, or one too large to be computed.
    """
    try:
        return _evaluate(tree, values)
    except Unreadable:
        raise
    except Exception as error:  # mpmath raises many kinds of errors for poles and domains
        raise Unreadable(str(error)) from error


def _rounding(gold: Tree, answer: Tree) -> Fraction | None:
    """Return the decimal that one side is, if the other side has no decimal point."""
    for tree, other in ((gold, answer), (answer, gold)):
        unsigned = tree.operand if isinstance(tree, Negative) else tree
        if isinstance(unsigned, Number) and unsigned.is_decimal and not trees.has_decimal(other):
            return unsigned.value
    return None


def _same(a: Evaluated, b: Evaluated, decimal: Fraction | None = None) -> bool:
    if isinstance(a, Infinity) or isinstance(b, Infinity):
        return isinstance(a, Infinity) and isinstance(b, Infinity) and a == b
    exact = isinstance(a, Fraction) and isinstance(b, Fraction)
    if exact and a == b:
        return True
    if decimal is not None:
        return _rounds_to(a, b, decimal)
    if exact:
        return False
    a, b = _float(a), _float(b)
    scale = max(abs(a), abs(b))
    # Beside an exact zero only the size of rounding errors tells: cos(pi/2) is 1e-61, not 0.
    return abs(a - b) <= _context().mpf(10) ** -CLOSE * (1 if not (a and b) else scale)


def _rounds_to(a: Evaluated, b: Evaluated, decimal: Fraction) -> bool:
    """Return whether two values agree to the last digit of a decimal of at least WRITTEN digits."""
    places, shifted = 0, decimal
    while shifted.denominator != 1 and places <= 60:
        places, shifted = places + 1, shifted * 10
    if len(str(abs(shifted.numerator)).lstrip("0")) < WRITTEN:
        return False
    a, b = _float(a), _float(b)
    return bool(abs(a - b) <= _context().mpf(10) ** -places / 2)


def _values_of_variables(names: set[str], point: int) -> dict[str, Fraction]:
    """Return fixed values, positive and negative, small and large, that depend on the names."""
    values = {}
    for name in names:
        seed = zlib.crc32(f"{name}/{point}".encode())
        sign = -1 if point == 1 else 1
        values[name] = sign * Fraction(seed % 9973 + 101, (seed >> 13) % 2011 + 211)
    return values


def _evaluate(tree: Tree, values: Mapping[str, Fraction]) -> Evaluated:
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


def _finite(value: Evaluated) -> Evaluated:
    if isinstance(value, Infinity):
        raise Unreadable("infinity inside a formula")
    return value


def _constant(name: str) -> Evaluated:
    mp = _context()
    return {"pi": +mp.pi, "e": +mp.e, "i": mp.mpc(0, 1), "infty": Infinity()}[name]


def _context() -> Any:
    """Return the mpmath context of this thread: mpmath changes its precision while it works."""
    if not hasattr(_local, "context"):
        import mpmath

        _local.context = mpmath.MPContext()
        _local.context.dps = DIGITS
    return _local.context


def _float(value: Evaluated) -> Evaluated:
    mp = _context()
    if isinstance(value, Fraction):
        return mp.mpf(value.numerator) / value.denominator
    return value


def _checked(value: Evaluated) -> Evaluated:
    if isinstance(value, Fraction):
        if max(value.numerator.bit_length(), value.denominator.bit_length()) > MAX_BITS:
            raise Unreadable("a large number")
        return value
    mp = _context()
    if not mp.isfinite(value) or value and abs(mp.log(abs(value))) > MAX_BITS:
        raise Unreadable("a large number")
    return value


def _pair(a: Evaluated, b: Evaluated) -> tuple[Evaluated, Evaluated]:
    if isinstance(a, Fraction) and isinstance(b, Fraction):
        return a, b
    return _float(a), _float(b)


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
    mp = _context()
    base, exponent = _float(base), _float(exponent)
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


def _factorial(value: Evaluated) -> Evaluated:
    if not isinstance(value, Fraction) or value.denominator != 1 or value < 0:
        raise Unreadable("a factorial of something else than a natural number")
    if value > MAX_FACTORIAL:
        raise Unreadable("a large factorial")
    return Fraction(math.factorial(int(value)))


def _degrees(value: Evaluated) -> Evaluated:
    return _float(value) * _context().pi / 180


def _binomial(n: Evaluated, k: Evaluated) -> Evaluated:
    whole = all(isinstance(x, Fraction) and x.denominator == 1 for x in (n, k))
    if not whole or not 0 <= k <= n <= MAX_FACTORIAL:
        raise Unreadable("a large binomial")
    return _factorial(n) / (_factorial(k) * _factorial(n - k))


_OPERATORS: dict[str, Callable[..., Evaluated]] = {
    **{"+": _add, "-": _subtract, "*": _multiply, "/": _divide, "^": _power},
    **{"root": _root, "!": _factorial, "binom": _binomial, "degree": _degrees},
}


def _call(name: str, value: Evaluated) -> Evaluated:
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
