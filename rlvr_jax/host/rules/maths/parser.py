r"""Answers in plain notation (see `notation`), parsed into items (see `items`).

`parse_answer` tries the forms of an answer one after another.  Each form has a function that
returns an item, or None for a text of another form, or raises Unreadable for a text that begins
like the form but cannot be an answer.  The last form is a single value, whose formula `formula`
parses and whose unit `units` splits off.
"""

from __future__ import annotations

import re

from rlvr_jax.host.rules.maths import units, value
from rlvr_jax.host.rules.maths.formula import MAX_LENGTH, parse_formula
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
from rlvr_jax.host.rules.maths.tree import (
    Call,
    Constant,
    Negative,
    Operation,
    Tree,
    Unreadable,
    Variable,
    number,
    variables,
)

MAX_ITEMS = 32
MAX_DEPTH = 6  # of items inside items

_NAME = re.compile(
    r"\\frac\s*\{d\w*\}\s*\{d\w\}|(?:\\?[A-Za-z]+(?:\s*_\s*(?:\{[^{}]*\}|\w))?'*|\\angle\s*\w+)(?:\s*\([^()]*\))?(?:\s*\^\s*\{?-1\}?\s*\([^()]*\))?"
)
_RELATION = re.compile(r"<=|>=|!=|<|>")
_MIRRORED = str.maketrans("<>", "><")
_TIME = re.compile(r"(\d{1,2}):(\d\d)(?::(\d\d))?\s*([ap])?\.?\s*m?\.?", re.I)
_MATRIX = re.compile(
    r"\\begin\{([pbBvV]?)(?:small)?matrix\}(.*)\\end\{\1(?:small)?matrix\}"
    r"|\\begin\{array\}(?:\{[^{}]*\})?(.*)\\end\{array\}",
    re.DOTALL,
)
_CLOSING = {"(": ")", "[": "]", "\\{": "\\}", "\\langle": "\\rangle"}
_THOUSANDS = re.compile(r"(?<![\d.,])\d{1,3}(?:,\d{3})+(?![\d,])")
_DESCRIBED = re.compile(  # {x | x > 3}
    r"\\?\{\s*\\?[A-Za-z](?:\s*\\in\s*\\R)?\s*(?:\\?\||:)\s*(.*?)\s*\\?\}", re.DOTALL
)
_ALL_REALS = re.compile(r"\\R|(?:all )?real numbers|all reals?", re.I)
_INFINITY = Constant("infty")
_MINUS_INFINITY = Negative(_INFINITY)


def parse_answer(text: str, depth: int = 0) -> Item:
    """Return the item that an answer in plain notation denotes; `depth` counts enclosing items.

    Raises:
      Unreadable: the text has none of the forms of an answer.
    """
    text = _trimmed(text)
    if not text or depth > MAX_DEPTH or len(text) > 4 * MAX_LENGTH:
        raise Unreadable("empty, too deep or too long")
    for parse_form in (_special, _union, _sequence, _relation, _equation, _ratio, _enclosed):
        item = parse_form(text, depth)
        if item is not None:
            return item
    return parse_value(text)


def parse_value(text: str) -> Value:
    """Return a formula with an optional unit or percent sign.

    Raises:
      Unreadable: the text is not one formula.
    """
    if text.endswith("$") and not re.search(r"\d\s*\$$", text):
        text = text[:-1]
    text = _without_thousands(text)
    text = re.sub(r"(?<=\d)\s*[xX]\s*(?=10\s*\^)", "*", text)
    text = re.sub(r"\s*(?:percent|per cent)$", "%", text)
    text = re.sub(r"(?<=[\d}])\s*\(([A-Za-z]{2,}[^()\d]*)\)$", r" \1", text)  # 9 (units)
    text = re.sub(r"^(\d+)(?:st|nd|rd|th)$", r"\1", text)
    formula, unit = units.split_unit(text)
    if formula.endswith("%") and not re.search(r"[%+]|\d\s*-", formula[:-1]):  # 9 1/2 %
        return Value(Operation("/", (parse_formula(formula[:-1]), number("100"))), unit)
    return Value(parse_formula(formula), unit)


def _trimmed(text: str) -> str:
    text = text.strip().rstrip(".").strip()
    while text.startswith("$") and text.endswith("$") and len(text) > 1:
        text = text[1:-1].strip()
    return text.rstrip(",;").strip() if text.count("$") != 1 else text


def _without_thousands(text: str) -> str:
    """Return a text with the commas of 1,000,000 removed."""
    return _THOUSANDS.sub(lambda match: match[0].replace(",", ""), text)


def _special(text: str, depth: int) -> Item | None:
    """Parse the empty set, the real line, {x | x > 3}, a time of the day or a matrix."""
    if text in ("\\emptyset", "\\{\\}", "\\{ \\}", "{}"):
        return Empty()
    if _ALL_REALS.fullmatch(text):
        return Intervals(None, (Interval(_MINUS_INFINITY, False, _INFINITY, False),))
    if described := _DESCRIBED.fullmatch(text):
        return parse_answer(described[1], depth + 1)
    if time := _TIME.fullmatch(text):
        return Time(f"{int(time[1])}:{time[2]}:{time[3] or '00'}", (time[4] or "").lower())
    matrix = _MATRIX.fullmatch(text)
    if matrix and matrix[1] not in ("v", "V"):
        rows = re.split(r"\\\\", (matrix[2] or matrix[3] or "").strip().rstrip("\\ "))
        if len(rows) * rows[0].count("&") > MAX_ITEMS:
            raise Unreadable("a large matrix")
        return Matrix(tuple(_parse_all(row.split("&"), depth) for row in rows))
    return None


def _parse_all(texts: list[str], depth: int) -> tuple[Item, ...]:
    return tuple(parse_answer(text, depth + 1) for text in texts)


def _union(text: str, depth: int) -> Item | None:
    """Parse a union of intervals or of sets."""
    parts = split_outside_brackets(text, ("\\cup",))
    if len(parts) < 2:
        return None
    pieces = [as_intervals(parse_answer(part, depth + 1)) for part in parts]
    if all(intervals is not None for intervals in pieces):
        return Intervals(None, tuple(piece for intervals in pieces for piece in intervals or ()))
    elements: list[Item] = []
    for item in _parse_all(parts, depth):
        if not (isinstance(item, Listing) and item.opening == "\\{"):
            raise Unreadable("a union of other things")
        elements += item.items
    return Listing("\\{", "\\}", tuple(elements))


def _sequence(text: str, depth: int) -> Item | None:
    r"""Parse several items without brackets: a, b and c; x = 1 or x = 2; 1 \pm 2."""
    joined = re.search(r"(?:,| )\s*and ", text) is not None
    text = re.sub(r",\s*(?:and|or) ", ", ", text)
    words = split_outside_brackets(text, (" or ", " and ", ";"))
    loose = _without_thousands(text) if depth == 0 else text
    spaced = ", " in re.sub(r"\(.*?\)", "", text)
    parts = [part for word in words for part in split_outside_brackets(word, (",",))]
    if len(words) == 1 and (depth == 0 or spaced) and loose != text:
        parts = split_outside_brackets(loose, (",",))
    parts = [re.sub(r"^(?:and|or)\s+", "", part.strip()) for part in parts]
    if len(parts) < 2:
        return _plus_minus(text, depth)
    if len(parts) > MAX_ITEMS or not all(parts):
        raise Unreadable("too many parts, or an empty one")
    items = _parse_all(parts, depth)
    ranges = [item for item in items if isinstance(item, Intervals)]
    if ranges and len(ranges) == len(items) and not joined:
        return Intervals(ranges[0].name, tuple(piece for item in ranges for piece in item.pieces))
    return Listing("", "", _flattened(items))


def _flattened(items: tuple[Item, ...]) -> tuple[Item, ...]:
    r"""Return the items with those of listings without brackets in their place: 1, \pm 2."""
    flat: list[Item] = []
    for item in items:
        flat += item.items if isinstance(item, Listing) and item.opening == "" else (item,)
    return tuple(flat)


def _plus_minus(text: str, depth: int) -> Item | None:
    if not re.search(r"\\pm(?![A-Za-z])|\+/-|\+-", text):
        return None
    text = re.sub(r"\\pm(?![A-Za-z])|\+/-|\+-", "\\\\pm ", text)
    if text.count("\\pm") != 1:
        raise Unreadable("several signs to choose")
    return Listing("", "", _parse_all([text.replace("\\pm", sign) for sign in "+-"], depth))


def _relation(text: str, depth: int) -> Item | None:
    r"""Parse x < 5, 1 < x <= 2, x != 3 or x \in (1, 2)."""
    inside = re.fullmatch(r"(\\?[A-Za-z])(?:\s*\\in(?![A-Za-z])|\s+in\s)\s*(.+)", text)
    if inside:
        item = parse_answer(inside[2], depth + 1)
        pieces = as_intervals(item)
        return Intervals(inside[1], pieces) if pieces else item
    marks = _RELATION.findall(text)
    if not marks:
        return None
    sides = [side.strip() for side in _RELATION.split(text)]
    trees = [parse_formula(side) for side in sides]
    match marks, trees:
        case ["!="], [Variable(), _]:
            return NotEqual(sides[0], parse_value(sides[1]))
        case [mark], [Variable(), bound]:
            return Intervals(sides[0], (_ray(bound, mark),))
        case [mark], [bound, Variable()]:
            return Intervals(sides[1], (_ray(bound, mark.translate(_MIRRORED)),))
        case [first, second], [left, Variable(), right] if first[0] == second[0] != "!":
            piece = Interval(left, "=" in first, right, "=" in second)
            if first[0] == ">":
                piece = Interval(right, "=" in second, left, "=" in first)
            return Intervals(sides[1], (piece,))
    raise Unreadable("a relation of other things")


def _ray(bound: Tree, mark: str) -> Interval:
    """Return the numbers below or above a bound."""
    closed = "=" in mark
    if mark[0] == "<":
        return Interval(_MINUS_INFINITY, False, bound, closed)
    return Interval(bound, closed, _INFINITY, False)


def _equation(text: str, depth: int) -> Item | None:
    """Parse x = 5, f(x) = 2x, 2 + 3 = 5 or x^2 + y^2 = 1."""
    sides = [side.strip() for side in split_outside_brackets(text, ("=",))]
    if len(sides) < 2:
        return None
    if len(sides) > 8 or not all(sides):
        raise Unreadable("an equation without a side")
    last = parse_answer(sides[-1], depth + 1)
    if re.fullmatch(r"\(\s*[A-Za-z](?:\s*,\s*[A-Za-z])+\s*\)", sides[0]):  # (x, y) = (1, 2)
        return last
    if _NAME.fullmatch(sides[0]):
        _check_chain(sides[1:])
        if isinstance(last, Value) and re.sub(r"\W", "", sides[0]) in variables(last.tree):
            raise Unreadable("a name in terms of itself")
        return Named(_plain_name(sides[0]), last)
    if not isinstance(last, Value):
        raise Unreadable("an equation of other things")
    if len(sides) == 2 and _NAME.fullmatch(sides[1]):
        return Named(_plain_name(sides[1]), parse_answer(sides[0], depth + 1))
    left = parse_formula(sides[0])
    if len(sides) == 2 and variables(left) | variables(last.tree):
        if isinstance(left, Call) or _is_term(left) and not variables(last.tree):
            return Named(sides[0], last)
        return Equation(left, last.tree)
    _check_chain(sides)
    return last


def _plain_name(text: str) -> str:
    return re.sub(r"[\s{}\\]", "", text)


def _is_term(tree: Tree) -> bool:
    """Return whether a tree has variables only: a + b, ab, a/b, as a question asks for."""
    match tree:
        case Operation("+" | "-" | "*" | "/", operands):
            return all(_is_term(part) for part in operands)
        case _:
            return isinstance(tree, Variable)


def _check_chain(sides: list[str]) -> None:
    """Refuse a chain of equations whose numbers are not equal, such as 1 = 42.

    Raises:
      Unreadable: two sides are numbers and differ, or a side is not a formula.
    """
    if len(sides) < 2:
        return
    texts = [units.split_unit(_without_thousands(side))[0] for side in sides]
    trees = [parse_formula(text) for text in texts]
    numbers = [tree for tree in trees if not variables(tree)]
    for tree in numbers[:-1]:
        if not value.equal_values(tree, numbers[-1]):
            raise Unreadable("an equation that is wrong")


def _ratio(text: str, depth: int) -> Item | None:
    parts = split_outside_brackets(text, (":",))
    if len(parts) < 2:
        return None
    return Ratio(tuple(parse_value(part.strip()) for part in parts[:MAX_ITEMS]))


def _enclosed(text: str, depth: int) -> Item | None:
    """Parse (1, 2), [1, 2), {1, 2}, <1, 2>, [5], {5} and (x = 5)."""
    text = re.sub(r"^\{(.*,.*)\}$", r"\\{\1\\}", text)
    opening = next((mark for mark in _CLOSING if text.startswith(mark)), "")
    closing = next((mark for mark in _CLOSING.values() if text.endswith(mark)), "")
    if not opening or not closing or len(text) <= len(opening) + len(closing):
        return None
    inner = text[len(opening) : -len(closing)].strip()
    if not _is_balanced(inner):
        return None
    parts = split_outside_brackets(inner, (",", ";"))
    if len(parts) == 1:
        if opening == "\\{" or (opening, closing) == ("[", "]"):
            return Listing(opening, closing, (parse_answer(inner, depth + 1),))
        is_statement = _RELATION.search(inner) or "=" in inner
        return parse_answer(inner, depth + 1) if is_statement else None
    if len(parts) > MAX_ITEMS:
        raise Unreadable("too many parts")
    return Listing(opening, closing, _flattened(_parse_all(parts, depth)))


def split_outside_brackets(text: str, marks: tuple[str, ...]) -> list[str]:
    """Return the text cut at those of the marks that stand in no bracket."""
    parts, depth, start, at = [], 0, 0, 0
    while at < len(text):
        char = text[at]
        if text.startswith("\\langle", at) or char in "([{":
            depth += 1
        elif text.startswith("\\rangle", at) or char in ")]}":
            depth -= 1
        mark = next((m for m in marks if text.startswith(m, at)), "") if depth == 0 else ""
        if mark:
            parts.append(text[start:at])
            at = start = at + len(mark)
        else:
            at += 1
    return [*parts, text[start:]]


def _is_balanced(inner: str) -> bool:
    """Return whether no bracket closes before it opens: "1) + (2" stands in no pair of brackets."""
    depth = 0
    for char in inner:
        depth += (char in "([{") - (char in ")]}")
        if depth < 0:
            return False
    return depth == 0
