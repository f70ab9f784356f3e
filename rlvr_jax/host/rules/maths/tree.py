"""Define the types of a formula: a tree of numbers, names, function calls and operations.

`formula` builds trees, and `value` evaluates them.  A tree has no more meaning than its notation
has: `1/2` is an Operation on two Numbers until `value` divides them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

MAX_DIGITS = 60  # of one written number


class Unreadable(ValueError):
    """Unreadable is raised for a text that cannot be read or evaluated in bounded time."""


@dataclass(frozen=True)
class Number:
    """A Number is a written number, held as an exact fraction."""

    value: Fraction
    is_decimal: bool = False  # whether it is written with a decimal point


@dataclass(frozen=True)
class Variable:
    r"""A Variable is an unknown with accent, subscript and primes: x, x_1, f', \theta, \bar z."""

    name: str


@dataclass(frozen=True)
class Constant:
    """A Constant is a number with a name: pi, e, i (the imaginary unit) or infty."""

    name: str


@dataclass(frozen=True)
class Call:
    """A Call applies a function of one argument: sin, ln, abs, floor and so on."""

    function: str
    argument: Tree


@dataclass(frozen=True)
class BasedNumber:
    """A BasedNumber is a number with its base, such as 1010_2.

    The type exists because the digits alone do not give the value.
    """

    digits: Tree
    base: str


@dataclass(frozen=True)
class Negative:
    """A Negative is a tree with a minus sign before it."""

    operand: Tree


@dataclass(frozen=True)
class Operation:
    """An Operation is an operator with its operands.

    The operators + - * / ^ `root` (radicand, degree) and `binom` (n, k) have two operands.  The
    operators ! and `degree` (an angle in degrees) have one.
    """

    operator: str
    operands: tuple[Tree, ...]


@dataclass(frozen=True)
class Series:
    """A Series is a finite sum or product of a term, such as the sum of k^2 for k from 1 to 4."""

    operator: str  # + or *
    index: str
    low: Tree
    high: Tree
    term: Tree


Tree = Number | Variable | Constant | Call | BasedNumber | Negative | Operation | Series


def number(text: str) -> Number:
    """Return a written number as an exact fraction.

    Raises:
      Unreadable: the number has more digits or a larger exponent than an answer has.
    """
    digits, _, exponent = text.lower().partition("e")
    if len(digits) > MAX_DIGITS or abs(int(exponent or 0)) > 400:
        raise Unreadable("a long number")
    exact = Fraction(digits.rstrip(".") + (f"e{exponent}" if exponent else ""))
    return Number(exact, "." in text)


def variables(tree: Tree) -> set[str]:
    """Return the names of the free variables of a tree."""
    if isinstance(tree, Variable):
        return {tree.name}
    if isinstance(tree, Series):
        free = variables(tree.term) - {tree.index}
        return free | variables(tree.low) | variables(tree.high)
    return set().union(*(variables(part) for part in _parts(tree)))


def whole_variables(tree: Tree) -> set[str]:
    """Return the names of the variables that have to be integers: in n!, a binomial or (-1)^n."""
    match tree:
        case Operation("!" | "binom", operands):
            return set().union(*map(variables, operands))
        case Operation("^", (base, exponent)) if _is_negative(base):
            return variables(exponent)
        case Series():
            return variables(tree)
        case _:
            return set().union(*map(whole_variables, _parts(tree)))


def _is_negative(tree: Tree) -> bool:
    return isinstance(tree, Negative) and not variables(tree)


def contains(tree: Tree, wanted: Callable[[Tree], bool]) -> bool:
    """Return whether `wanted` is true of a tree, or of any tree inside it."""
    return wanted(tree) or any(contains(part, wanted) for part in _parts(tree))


def rename(tree: Tree, old: str, new: str) -> Tree:
    """Return a tree in which the variable `old` has the name `new`; a Series stays unchanged."""
    match tree:
        case Variable(name):
            return Variable(new) if name == old else tree
        case Call(function, argument):
            return Call(function, rename(argument, old, new))
        case Negative(operand):
            return Negative(rename(operand, old, new))
        case Operation(operator, operands):
            return Operation(operator, tuple(rename(part, old, new) for part in operands))
        case _:
            return tree


def has_decimal(tree: Tree) -> bool:
    """Return whether a tree contains a number that is written with a decimal point."""
    if isinstance(tree, Number):
        return tree.is_decimal
    return any(has_decimal(part) for part in _parts(tree))


def _parts(tree: Tree) -> tuple[Tree, ...]:
    match tree:
        case Call(_, argument):
            return (argument,)
        case BasedNumber(digits, _):
            return (digits,)
        case Negative(operand):
            return (operand,)
        case Operation(_, operands):
            return operands
        case Series(_, _, low, high, term):
            return (low, high, term)
        case _:
            return ()
