"""Define the types of an answer, called items: a value, a list, intervals, a matrix and so on.

`parser` builds items, and `comparison` compares them.  An item is the notation of an answer, not
yet its value: its formulas are trees (`tree`).
"""

from __future__ import annotations

from dataclasses import dataclass

from rlvr_jax.host.rules.maths.tree import Constant, Negative, Tree
from rlvr_jax.host.rules.maths.units import Unit

INFINITY = Constant("infty")
MINUS_INFINITY = Negative(INFINITY)


@dataclass(frozen=True)
class Value:
    """A Value is a formula with an optional unit, such as 5 cm or x + 1.

    A percent sign is part of the formula.
    """

    tree: Tree
    unit: Unit | None = None


@dataclass(frozen=True)
class Named:
    """A Named is a name with the item that it equals: x = 5, f(x) = 2x, P(A) = 1/4."""

    name: str
    item: Item


@dataclass(frozen=True)
class Listing:
    r"""A Listing holds several items: a tuple, a set or a list in brackets, or "1, 2" and "1 or 2".

    The brackets are ( [ \{ or \langle with their counterparts, or "" for a listing without
    brackets.
    """

    opening: str
    closing: str
    items: tuple[Item, ...]


@dataclass(frozen=True)
class Interval:
    """An Interval holds all numbers from `low` to `high`; a closed end belongs to the interval."""

    low: Tree
    low_closed: bool
    high: Tree
    high_closed: bool


@dataclass(frozen=True)
class Intervals:
    """An Intervals is a union of intervals, with the name of its variable if given: 1 < x <= 2."""

    name: str | None
    pieces: tuple[Interval, ...]


@dataclass(frozen=True)
class Matrix:
    """A Matrix holds the rows of a matrix, from top to bottom."""

    rows: tuple[tuple[Item, ...], ...]


@dataclass(frozen=True)
class Ratio:
    """A Ratio is a proportion of two or more values, such as 1:2:3."""

    parts: tuple[Value, ...]


@dataclass(frozen=True)
class Equation:
    """An Equation says that two formulas with variables are equal: x^2 + y^2 = 1."""

    left: Tree
    right: Tree


@dataclass(frozen=True)
class NotEqual:
    """A NotEqual is a variable with the one value that the variable does not have: x != 3."""

    name: str
    value: Value


@dataclass(frozen=True)
class Time:
    """A Time is a time of the day, such as 3:30:00 or 3 p.m.

    `minute` is None if no minutes are written.  `half` is "a" for a.m., "p" for p.m., and "" if
    neither is written.
    """

    hour: int
    minute: int | None
    second: int
    half: str


@dataclass(frozen=True)
class Empty:
    """An Empty is the empty set."""


Item = (
    Value | Named | Listing | Intervals | Matrix | Ratio | Equation | NotEqual | Time | Empty
)  # fmt: skip


def as_intervals(item: Item) -> tuple[Interval, ...] | None:
    """Return the intervals that an item stands for; None if the item cannot be read so.

    An item stands for intervals if it is `Intervals`, a pair in brackets such as (1, 2], or x != 3.
    """
    match item:
        case NotEqual(_, Value(tree, None)):
            return (
                Interval(MINUS_INFINITY, False, tree, False),
                Interval(tree, False, INFINITY, False),
            )
        case Intervals(_, pieces):
            return pieces
        case Listing("(" | "[" as opening, ")" | "]" as closing, (Value(low), Value(high))):
            return (Interval(low, opening == "[", high, closing == "]"),)
        case _:
            return None
