"""Compare two formulas by their values.

Formulas with variables are compared at fixed points, and no algebra is done, so that no comparison
can hang.  Two formulas are equal if they have the same principal values at all these points.  They
are also equal if they are defined at the same points and have the same real values there.
"""

from __future__ import annotations

import zlib
from collections.abc import Set
from fractions import Fraction

from rlvr_jax.host.rules.maths import tree as trees
from rlvr_jax.host.rules.maths.tree import (
    Call,
    Constant,
    Negative,
    Number,
    Operation,
    Tree,
)
from rlvr_jax.host.rules.maths.value import (
    Evaluated,
    Infinity,
    Undefined,
    as_float,
    context,
    evaluate,
)

CLOSE = 40  # decimal places, relative, at which two irrational values are the same
WRITTEN = 8  # significant digits from which a decimal may stand for an irrational value
POINTS = 5  # at which formulas with variables are compared
REAL_POINTS = 10  # at which they are compared by real values; half of the variables are negative
DEFINED = 3  # points at which both have to be defined, at least
LENGTHS = frozenset("rRsdhlL")  # by custom a radius, a side, a distance, a height, a length: > 0


def equal_values(gold: Tree, answer: Tree) -> bool:
    """Return whether two formulas have the same values at fixed points of their variables.

    A decimal equals an irrational or periodic value only if the decimal is the correct rounding of
    the value to at least WRITTEN digits: 3.1416 is not pi.

    Raises:
      Unreadable: a formula has no value, or a value that is too large to be computed.
    """
    names = trees.variables(gold)
    if names != trees.variables(answer):
        return False
    whole = names & (trees.whole_variables(gold) | trees.whole_variables(answer))
    decimal = None if names else _rounding(gold, answer)
    for point in range(POINTS if names else 1):
        at = _values_of_variables(names, point, whole)
        if not _same(evaluate(gold, at), evaluate(answer, at), decimal):
            break
    else:
        return True
    if not any(trees.contains(tree, _is_partial) for tree in (gold, answer)):
        return False
    if any(trees.contains(tree, lambda part: part == Constant("i")) for tree in (gold, answer)):
        return False
    positive = names & LENGTHS
    return _equal_on_reals(gold, answer, set()) or (
        bool(positive) and _equal_on_reals(gold, answer, positive)
    )


def is_nonzero_constant(tree: Tree) -> bool:
    """Return whether a formula has the same nonzero value at POINTS points of its variables.

    Raises:
      Unreadable: the formula has no value there, or a value that is too large to be computed.
    """
    names = trees.variables(tree)
    values = [evaluate(tree, _values_of_variables(names, point)) for point in range(POINTS)]
    return bool(values[0]) and all(_same(values[0], other) for other in values[1:])


def _is_partial(tree: Tree) -> bool:
    """Return whether a tree is a root, a logarithm or a broken power: not defined everywhere."""
    match tree:
        case Operation("root", _) | Call("ln" | "log", _):
            return True
        case Operation("^", (_, exponent)):
            return not isinstance(exponent, Number) or exponent.value.denominator != 1
        case _:
            return False


def _equal_on_reals(gold: Tree, answer: Tree, positive: set[str]) -> bool:
    """Return whether two formulas are defined at the same points, and have the same real values."""
    names = trees.variables(gold)
    defined = 0
    for point in range(REAL_POINTS if names else 1):
        at = {
            name: value if name in positive or (zlib.crc32(name.encode()) + point) % 2 else -value
            for name, value in _values_of_variables(names, 2 * point).items()
        }
        values = [_real_value(tree, at) for tree in (gold, answer)]
        if values == [None, None]:
            continue
        if None in values or not _same(*values):
            return False
        defined += 1
    return defined >= (DEFINED if names else 1)


def _real_value(tree: Tree, at: dict[str, Fraction]) -> Evaluated | None:
    try:
        return evaluate(tree, at, real=True)
    except Undefined:
        return None


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
    a, b = as_float(a), as_float(b)
    scale = max(abs(a), abs(b))
    # Beside an exact zero only the size of rounding errors tells: cos(pi/2) is 1e-61, not 0.
    return bool(abs(a - b) <= context().mpf(10) ** -CLOSE * (1 if not (a and b) else scale))


def _rounds_to(a: Evaluated, b: Evaluated, decimal: Fraction) -> bool:
    """Return whether two values agree to the last digit of a decimal of at least WRITTEN digits."""
    places, shifted = 0, decimal
    while shifted.denominator != 1 and places <= 60:
        places, shifted = places + 1, shifted * 10
    if len(str(abs(shifted.numerator)).lstrip("0")) < WRITTEN:
        return False
    a, b = as_float(a), as_float(b)
    return bool(abs(a - b) <= context().mpf(10) ** -places / 2)


def _values_of_variables(
    names: set[str], point: int, whole: Set[str] = frozenset()
) -> dict[str, Fraction]:
    """Return fixed values, positive and negative, small and large, that depend on the names.

    Those of `whole` are natural numbers, odd and even ones.
    """
    values = {}
    for name in names:
        seed = zlib.crc32(f"{name}/{point}".encode())
        sign = -1 if point == 1 else 1
        values[name] = sign * Fraction(seed % 9973 + 101, (seed >> 13) % 2011 + 211)
        if name in whole:
            values[name] = Fraction(11 + zlib.crc32(name.encode()) % 9 + point)
    return values
