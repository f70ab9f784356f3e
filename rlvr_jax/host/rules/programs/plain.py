"""Hold the values that a program returned as plain data, and decide when two values are equal."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any


class Items:
    """An Items holds the items of an iterator that a program returned.

    As an iterator, it is equal only to itself.
    """

    def __init__(self, items: list[Any]):
        self._items = items

    def __iter__(self) -> Iterator[Any]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __bool__(self) -> bool:
        raise TypeError("an iterator is neither true nor false here")

    def __repr__(self) -> str:
        raise TypeError("an iterator has no text here")


class Remote:
    """A Remote is an object that stays in the program's process and is known by its number only.

    Its truth value, its text and comparisons with it raise TypeError, because the program's own
    methods would decide them.
    """

    def __init__(self, number: int, has_methods: bool = False):
        self.number, self.has_methods = number, has_methods

    def __bool__(self) -> bool:
        raise TypeError("an object of the program is no plain value")

    def __eq__(self, other: object) -> bool:
        raise TypeError("an object of the program is no plain value")

    def __repr__(self) -> str:
        raise TypeError("an object of the program has no text here")

    __hash__ = None  # type: ignore[assignment]


def is_equal(value: Any, expected: Any) -> bool:
    """Return whether two plain values are equal.

    A tuple equals a list of the same items, and floats are equal within 1e-9.  True does not equal
    1, and nan equals nan.

    Raises:
      TypeError: one of the values is an object of the program.
    """
    if isinstance(value, Remote) or isinstance(expected, Remote):
        raise TypeError("an object of the program is no plain value")
    if isinstance(value, bool) or isinstance(expected, bool):
        return value is expected
    if isinstance(value, float | int) and isinstance(expected, float | int):
        return _is_number(value, expected)
    if isinstance(value, list | tuple) and isinstance(expected, list | tuple):
        return len(value) == len(expected) and all(map(is_equal, value, expected))
    if isinstance(value, dict) and isinstance(expected, dict):
        return len(value) == len(expected) and all(
            key in expected and is_equal(part, expected[key]) for key, part in value.items()
        )
    if isinstance(value, set | frozenset) and isinstance(expected, set | frozenset):
        return _with_kinds(value) == _with_kinds(expected)
    return bool(value == expected)


def _with_kinds(parts: Iterable[Any]) -> set[tuple[bool, Any]]:
    return {(isinstance(part, bool), part) for part in parts}


def _is_number(value: float, expected: float) -> bool:
    if value == expected or (isinstance(value, int) and isinstance(expected, int)):
        return value == expected
    try:
        first, second = float(value), float(expected)
    except OverflowError:
        return False
    if math.isnan(first) or math.isnan(second):
        return math.isnan(first) and math.isnan(second)
    return math.isclose(first, second, rel_tol=1e-9, abs_tol=1e-9)


def convert_to_json(value: Any) -> Any:
    """Return a value as JSON would give it back: tuples as lists, and integer keys as text."""
    if isinstance(value, list | tuple):
        return [convert_to_json(part) for part in value]
    if isinstance(value, dict):
        return {
            str(key) if isinstance(key, int) else key: convert_to_json(part)
            for key, part in value.items()
        }
    return value
