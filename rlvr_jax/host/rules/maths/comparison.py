"""Compare two answers, each an item (see `items`).

The kinds of the two items decide which comparison applies.  docs/maths.md gives the policy: which
notations of an answer are equal, and which similar notations are not.
"""

from __future__ import annotations

import string
from collections.abc import Callable, Sequence
from typing import TypeVar

from rlvr_jax.host.rules.maths import units
from rlvr_jax.host.rules.maths.equality import equal_values, is_nonzero_constant
from rlvr_jax.host.rules.maths.items import (
    Empty,
    Equation,
    Interval,
    Intervals,
    Item,
    Listing,
    Matrix,
    Named,
    NotEqual,
    Ratio,
    Time,
    Value,
    as_intervals,
)
from rlvr_jax.host.rules.maths.names import base_names, is_same_name
from rlvr_jax.host.rules.maths.tree import (
    BasedNumber,
    Constant,
    Negative,
    Number,
    Operation,
    Tree,
    Unreadable,
    Variable,
    contains,
    number,
    rename,
    variables,
)

_T = TypeVar("_T")


def equal_items(gold: Item, answer: Item) -> bool:
    """Return whether an answer is equal to the reference."""
    match gold, answer:
        case (Named(), _) | (_, Named()):
            return _equal_named(gold, answer)
        case Value(), Value():
            return _equal_quantities(gold, answer)
        case Listing(), Listing():
            return _equal_listings(gold, answer)
        case (Intervals(), _) | (_, Intervals()):
            return _equal_intervals(gold, answer)
        case Value(tree), Time(int(hour), None, _, _):
            return tree == number(str(hour))  # 3 p.m. for 3, as 3 cm for 3
        case (Ratio(), _) | (_, Ratio()):
            return _equal_ratios(gold, answer)
        case (Matrix(), _) | (_, Matrix()):
            return _equal_matrices(gold, answer)
        case Time(), Time():
            return _equal_times(gold, answer)
        case NotEqual(), NotEqual():
            return gold.name == answer.name and equal_items(gold.value, answer.value)
        case Equation(), Equation():
            return _equal_equations(gold, answer)
        case (Listing("\\{", _, (only,)), other) | (other, Listing("\\{", _, (only,))):
            return not isinstance(other, Empty) and equal_items(only, other)  # {5} for 5
        case _:
            return isinstance(gold, Empty) and isinstance(answer, Empty)


def _equal_times(gold: Time, answer: Time) -> bool:
    """Compare two times: 19:30 is 7:30 PM, and one side may leave its half of the day out."""
    if (gold.minute or 0, gold.second) != (answer.minute or 0, answer.second):
        return False
    if not gold.half and not answer.half:
        return gold.hour == answer.hour
    return bool(_possible_hours(gold) & _possible_hours(answer))


def _possible_hours(time: Time) -> set[int]:
    morning = time.hour % 12
    if not time.half:
        return {morning, morning + 12} if 1 <= time.hour <= 12 else {time.hour % 24}
    return {morning + 12 * (time.half == "p")}


# ---- single values -----------------------------------------------------------------------------


def _equal_quantities(gold: Value, answer: Value) -> bool:
    scale = units.conversion(gold.unit, answer.unit)
    if scale is None:
        return False
    tree: Tree = answer.tree
    if scale != 1:
        tree = Operation("*", (Number(scale), tree))
    try:
        if isinstance(gold.tree, BasedNumber) or isinstance(tree, BasedNumber):
            return _equal_based(gold.tree, tree)
        return equal_values(gold.tree, tree)
    except Unreadable:
        return False


def _equal_based(gold: Tree, answer: Tree) -> bool:
    """Return whether digits and base are the same; one side may leave the base out: 1010_2."""
    sides = (gold, answer)
    digits = [side.digits if isinstance(side, BasedNumber) else side for side in sides]
    bases = {side.base for side in sides if isinstance(side, BasedNumber)}
    return digits[0] == digits[1] and len(bases) == 1


def _equal_named(gold: Item, answer: Item) -> bool:
    """Compare items with names: x = 5 equals 5, and two names have to be the same name."""
    match gold, answer:
        case Named(), Named():
            return is_same_name(gold.name, answer.name) and _equal_families(gold.item, answer.item)
        case (Named(name, Value(tree, None)), Equation()) if len(name) == 1:
            return _equal_equations(Equation(Variable(name), tree), answer)
        case (Equation(), Named(name, Value(tree, None))) if len(name) == 1:
            return _equal_equations(gold, Equation(Variable(name), tree))
        case (Named(), other) | (other, Named()) if isinstance(
            other, Intervals | NotEqual | Empty | Equation
        ):
            return False
        case Named(), _:
            return _equal_families(gold.item, answer)
        case _, Named():
            return _equal_families(gold, answer.item)
    return False


def _equal_families(gold: Item, answer: Item) -> bool:
    """Compare the items after two names: in x = pi/4 + k pi, k is any integer, and so is n."""
    if isinstance(gold, Value) and isinstance(answer, Value):
        mine, theirs = variables(gold.tree), variables(answer.tree)
        both = mine | theirs
        has_pi = contains(gold.tree, lambda part: part == Constant("pi"))
        if has_pi and len(mine) == len(theirs) == 1 and len(both) == 2 and both <= set("kmnl"):
            answer = Value(rename(answer.tree, *theirs, *mine), answer.unit)
    return equal_items(gold, answer)


def _equal_equations(gold: Equation, answer: Equation) -> bool:
    """Return whether one equation is the other times a number: x + y = 1 and 2x = 2 - 2y."""
    mine, theirs = (Operation("-", (side.left, side.right)) for side in (gold, answer))
    try:
        if equal_values(mine, theirs) or equal_values(mine, Negative(theirs)):
            return True
        return is_nonzero_constant(Operation("/", (mine, theirs)))
    except Unreadable:
        return False


# ---- several items -----------------------------------------------------------------------------


def _equal_listings(gold: Listing, answer: Listing) -> bool:
    mine, theirs = gold.items, answer.items
    names, others = set(_names(mine)), set(_names(theirs))
    if any(len(_names(side.items)) > len(set(_names(side.items))) for side in (gold, answer)):
        if {"(", "\\langle"} & {gold.opening, answer.opening}:
            return False  # x = 1 or x = 2 is no pair
    if names and others:
        if not _is_same_one_name(names, others):
            named = len(_names(mine)) == len(mine) and len(_names(theirs)) == len(theirs)
            return names == others and named and _equal_in_any_order(mine, theirs)
    elif others:
        theirs = _in_order_of_names(theirs)
    mine, theirs = _without_names(mine), _without_names(theirs)
    marks = (gold.opening, answer.opening)
    if "\\{" in marks:
        return _equal_sets(gold, answer, mine, theirs)
    if len(mine) != len(theirs):
        return False
    if marks == ("", ""):
        ordered = _all_named(gold.items)
        return _equal_in_order(mine, theirs) or not ordered and _equal_in_any_order(mine, theirs)
    if "" in marks:  # 1, 2 may stand for (1, 2), but not for the interval [1, 2]
        other = marks[0] or marks[1]
        return (other != "[" or len(mine) != 2) and _equal_in_order(mine, theirs)
    tuples = {"(", "\\langle"}
    alike = set(marks) <= tuples and "]" not in (gold.closing, answer.closing)
    same = (gold.opening, gold.closing) == (answer.opening, answer.closing)
    return (alike or same) and _equal_in_order(mine, theirs)


def _equal_sets(
    gold: Listing, answer: Listing, mine: tuple[Item, ...], theirs: tuple[Item, ...]
) -> bool:
    """Compare two listings of which one at least is a set, given their items without names."""
    marks = (gold.opening, answer.opening)
    if marks != ("\\{", "\\{"):  # {(1, 2)} for (1, 2)
        one, other = (gold, answer) if gold.opening == "\\{" else (answer, gold)
        if len(one.items) == 1 and other.opening != "" and equal_items(one.items[0], other):
            return True
    return set(marks) <= {"\\{", ""} and _equal_in_any_order(_distinct(mine), _distinct(theirs))


def _names(items: tuple[Item, ...]) -> list[str]:
    return [item.name for item in items if isinstance(item, Named)]


def _is_same_one_name(names: set[str], others: set[str]) -> bool:
    """Return whether one side has one name, x, and the other the same or x_1, x_2."""
    bases = [base_names(side) for side in (names, others)]
    return 1 in (len(names), len(others)) and len(bases[0]) == 1 and bases[0] == bases[1]


def _in_order_of_names(items: tuple[Item, ...]) -> tuple[Item, ...]:
    """Return items in the order of their names, if these follow one another: (y, x) = (2, 1)."""
    names = "".join(sorted(_names(items)))
    if not _all_named(items) or len(names) != len(items) or names not in string.ascii_letters:
        return items
    return tuple(sorted(items, key=lambda item: item.name if isinstance(item, Named) else ""))


def _all_named(items: tuple[Item, ...]) -> bool:
    """Return whether each item has a name of its own."""
    return len(_names(items)) == len(items) == len(set(_names(items)))


def _without_names(items: tuple[Item, ...]) -> tuple[Item, ...]:
    return tuple(item.item if isinstance(item, Named) else item for item in items)


def _equal_in_order(mine: tuple[Item, ...], theirs: tuple[Item, ...]) -> bool:
    return len(mine) == len(theirs) and all(map(equal_items, mine, theirs))


def _equal_in_any_order(mine: tuple[Item, ...], theirs: tuple[Item, ...]) -> bool:
    return _pair_off(mine, theirs, equal_items)


def _pair_off(mine: Sequence[_T], theirs: Sequence[_T], same: Callable[[_T, _T], bool]) -> bool:
    """Return whether the elements pair off, each with the first equal one that is still free."""
    if len(mine) != len(theirs):
        return False
    free = list(theirs)
    for element in mine:
        match = next((at for at, other in enumerate(free) if same(element, other)), None)
        if match is None:
            return False
        free.pop(match)
    return True


def _distinct(items: tuple[Item, ...]) -> tuple[Item, ...]:
    distinct: list[Item] = []
    for item in items:
        if not any(equal_items(item, other) for other in distinct):
            distinct.append(item)
    return tuple(distinct)


def _equal_intervals(gold: Item, answer: Item) -> bool:
    mine, theirs = as_intervals(gold), as_intervals(answer)
    if mine is None or theirs is None:
        return False
    named = [item for item in (gold, answer) if isinstance(item, Intervals | NotEqual)]
    names = {item.name for item in named} - {None}
    return len(names) <= 1 and _pair_off(mine, theirs, _same_interval)


def _same_interval(a: Interval, b: Interval) -> bool:
    try:
        ends = equal_values(a.low, b.low) and equal_values(a.high, b.high)
    except Unreadable:
        return False
    return ends and a.low_closed == b.low_closed and a.high_closed == b.high_closed


def _equal_ratios(gold: Item, answer: Item) -> bool:
    """Compare 1:2 with 2:4, with 1/2 and with a time of the day."""
    mine, theirs = _proportion(gold), _proportion(answer)
    if mine is None or theirs is None or len(mine) != len(theirs):
        return False
    try:
        return all(
            equal_values(Operation("*", (a, theirs[0])), Operation("*", (b, mine[0])))
            for a, b in zip(mine[1:], theirs[1:], strict=True)
        ) and not equal_values(mine[0], number("0"))
    except Unreadable:
        return False


def _proportion(item: Item) -> list[Tree] | None:
    match item:
        case Ratio(parts):
            return [part.tree for part in parts]
        case Time(hour, int(minute), 0, "") if minute >= 10:  # 7:05 is no proportion
            return [number(str(hour)), number(str(minute))]
        case Value(tree, _):
            return [tree, number("1")]
        case _:
            return None


def _equal_matrices(gold: Item, answer: Item) -> bool:
    mine, theirs = _matrix_rows(gold), _matrix_rows(answer)
    if mine is None or theirs is None:
        return False
    has_listing = isinstance(gold, Listing) or isinstance(answer, Listing)
    if has_listing and 1 in (len(mine), len(theirs)):  # (1, 2) for a column
        flat = [tuple(item for row in rows for item in row) for rows in (mine, theirs)]
        return _equal_in_order(*flat)
    return len(mine) == len(theirs) and all(map(_equal_in_order, mine, theirs))


def _matrix_rows(item: Item) -> tuple[tuple[Item, ...], ...] | None:
    """Return the rows of a matrix, of a list of lists, or of a vector as one row."""
    if isinstance(item, Matrix):
        return item.rows
    if not isinstance(item, Listing) or item.opening not in ("[", "(", "\\langle"):
        return None
    rows = [row.items for row in item.items if isinstance(row, Listing) and row.opening == "["]
    return tuple(rows) if len(rows) == len(item.items) else (item.items,)
