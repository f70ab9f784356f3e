"""The types of an answer: a value, a list, intervals, a matrix, a name with its value, and so on.

`parser` builds items, `comparison` compares them.  An item is the notation of an answer, not yet
its value: its formulas are trees (`tree`).
"""

from __future__ import annotations

from dataclasses import dataclass

from rlvr_jax.host.rules.maths.tree import Constant, Negative, Tree
from rlvr_jax.host.rules.maths.units import Unit

INFINITY = Constant("infty")
MINUS_INFINITY = Negative(INFINITY)


@dataclass(frozen=True)
class Value:
    """A formula with its unit: 5 cm, x + 1.  A percent sign is part of the formula."""

    tree: Tree
    unit: Unit | None = None


@dataclass(frozen=True)
class Named:
    """A name and what it is equal to: x = 5, f(x) = 2x, P(A) = 1/4."""

    name: str
    item: Item


@dataclass(frozen=True)
class Listing:
    r"""Several items between brackets: a tuple, a set, a list; or "1, 2" and "1 or 2".

    The brackets are ( [ \{ or \langle with their counterparts, or "" for none.
    """

    opening: str
    closing: str
    items: tuple[Item, ...]


@dataclass(frozen=True)
class Interval:
    """All numbers from `low` to `high`; a closed end belongs to the interval."""

    low: Tree
    low_closed: bool
    high: Tree
    high_closed: bool


@dataclass(frozen=True)
class Intervals:
    """A union of intervals, with the name of its variable if it is written: 1 < x <= 2."""

    name: str | None
    pieces: tuple[Interval, ...]


@dataclass(frozen=True)
class Matrix:
    """A matrix, row by row."""

    rows: tuple[tuple[Item, ...], ...]


@dataclass(frozen=True)
class Ratio:
    """A proportion of two or more values: 1:2:3."""

    parts: tuple[Value, ...]


@dataclass(frozen=True)
class Equation:
    """Two formulas that are equal, with variables on either side: x^2 + y^2 = 1."""

    left: Tree
    right: Tree


@dataclass(frozen=True)
class NotEqual:
    """A variable and the one value that it does not have: x != 3."""

    name: str
    value: Value


@dataclass(frozen=True)
class Time:
    """A time of the day, its minutes None for "3 p.m."; `half` is "a", "p" or "" for none."""

    hour: int
    minute: int | None
    second: int
    half: str


@dataclass(frozen=True)
class Empty:
    """The empty set."""


Item = (
    Value | Named | Listing | Intervals | Matrix | Ratio | Equation | NotEqual | Time | Empty
)  # fmt: skip


def as_intervals(item: Item) -> tuple[Interval, ...] | None:
    """Return the intervals that an item is, or may be, as (1, 2] may; None for another item."""
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
