"""Parse answers in plain notation (see `notation`) into items (see `items`).

`parse_answer` tries the forms of an answer one after another.  Each form has a function that
returns an item, or None for a text of another form, or raises Unreadable for a text that begins
like the form but cannot be an answer.  The last form is a single value, whose formula `formula`
parses and whose unit `units` splits off.
"""

from __future__ import annotations

import itertools
import re

from rlvr_jax.host.rules.maths import sentence, units, value
from rlvr_jax.host.rules.maths.based_number import parse_based_number
from rlvr_jax.host.rules.maths.brackets import is_balanced, split_outside_brackets
from rlvr_jax.host.rules.maths.domain import without_domain
from rlvr_jax.host.rules.maths.equality import equal_values
from rlvr_jax.host.rules.maths.formula import MAX_LENGTH, parse_formula
from rlvr_jax.host.rules.maths.items import (
    INFINITY,
    MINUS_INFINITY,
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
from rlvr_jax.host.rules.maths.names import NAME, base_names, plain_name
from rlvr_jax.host.rules.maths.tree import (
    Call,
    Negative,
    Number,
    Operation,
    Tree,
    Unreadable,
    Variable,
    number,
    variables,
)

MAX_ITEMS = 32
MAX_DEPTH = 6  # of items inside items

_RELATION = re.compile(r"<=|>=|!=|<|>")
_MIRRORED = str.maketrans("<>", "><")
_TIME = re.compile(
    r"(\d{1,2})(?::([0-5]\d)(?::([0-5]\d))?)?\s*(?:([ap])(?:\.\s?m|m)?\.?)?", re.I | re.ASCII
)
_FRENCH = re.compile(r"([\[\]])([^\[\];,]+)[;,]([^\[\];,]+)([\[\]])")
_LABEL = re.compile(r"([A-Z][a-z]{2,})\s+(\d+)", re.ASCII)
_DENIED = re.compile(
    r"(?<![\\A-Za-z])(?:not|no|nor|neither|never|except|unless|if)(?![A-Za-z])", re.I
)
_LARGE = {"thousand": 3, "million": 6, "billion": 9, "trillion": 12}
_MAGNITUDE = re.compile(rf"(?<=\d)\s*({'|'.join(_LARGE)})\b", re.I)
_MATRIX = re.compile(
    r"\\begin\{([pbBvV]?)(?:small)?matrix\}(.*)\\end\{\1(?:small)?matrix\}"
    r"|\\begin\{array\}(?:\{[^{}]*\})?(.*)\\end\{array\}",
    re.DOTALL,
)
_CLOSING = {"(": ")", "[": "]", "\\{": "\\}", "\\langle": "\\rangle"}
_THOUSANDS = re.compile(r"(?<![\d.,])\d{1,3}(?:,\d{3})+(?![\d,])")
_DESCRIBED = re.compile(  # {x | x > 3}
    r"\\?\{\s*(\\?[A-Za-z])(?:\s*\\in\s*\\R)?\s*(?:\\?\||:)\s*(.*?)\s*\\?\}", re.DOTALL
)
_ALL_REALS = re.compile(r"\\R|(?:all )?real numbers|all reals?", re.I)


def parse_answer(text: str, depth: int = 0) -> Item:
    """Return the item that an answer in plain notation denotes; `depth` counts enclosing items.

    Raises:
      Unreadable: the text has none of the forms of an answer, or is denied, too long or too deep.
    """
    text = _trimmed(text)
    if not text or depth > MAX_DEPTH or len(text) > 4 * MAX_LENGTH:
        raise Unreadable("empty, too deep or too long")
    if _DENIED.search(text):
        raise Unreadable("an answer that is denied or depends on a condition")
    text = without_domain(text)
    for parse_form in (
        _special,
        _compound,
        _union,
        _sequence,
        _relation,
        _equation,
        _ratio,
        _enclosed,
    ):
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
    text = _MAGNITUDE.sub(lambda match: f"*10^{_LARGE[match[1].lower()]}", text)
    text = re.sub(r"\\frac\s*\{\s*([A-Za-z]+)\s*\}\s*\{\s*([A-Za-z]+)\s*\}$", r" \1/\2", text)
    if (based := parse_based_number(text)) is not None:
        return Value(based)
    formula, unit = units.split_unit(text)
    if formula.endswith("%") and not re.search(r"[%+]|\d\s*-", formula[:-1]):  # 9 1/2 %
        return Value(Operation("/", (parse_formula(formula[:-1]), number("100"))), unit)
    return Value(parse_formula(formula), unit)


def _trimmed(text: str) -> str:
    text = text.strip()
    text = text if text.endswith("...") else text.rstrip(".").strip()
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
        return Intervals(None, (Interval(MINUS_INFINITY, False, INFINITY, False),))
    if described := _DESCRIBED.fullmatch(text):
        item = parse_answer(described[2], depth + 1)
        if isinstance(item, Intervals | NotEqual | Named) and item.name != described[1]:
            raise Unreadable("a condition on something else")
        return item
    if (time := _TIME.fullmatch(text)) and (time[2] or time[4]) and int(time[1]) <= 24:
        minute = int(time[2]) if time[2] else None
        return Time(int(time[1]), minute, int(time[3] or 0), (time[4] or "").lower())
    if (label := _LABEL.fullmatch(text)) and not sentence.HEDGE.search(label[1]):
        return Named(label[1], parse_value(label[2]))
    french = _FRENCH.fullmatch(text)
    if french and (french[1] == "]" or french[4] == "["):  # ]1, 2] is (1, 2]
        low, high = (parse_formula(end.strip()) for end in (french[2], french[3]))
        return Intervals(None, (Interval(low, french[1] == "[", high, french[4] == "]"),))
    matrix = _MATRIX.fullmatch(text)
    if matrix and matrix[1] not in ("v", "V"):
        rows = re.split(r"\\\\", (matrix[2] or matrix[3] or "").strip().rstrip("\\ "))
        if len(rows) * rows[0].count("&") > MAX_ITEMS:
            raise Unreadable("a large matrix")
        return Matrix(tuple(_parse_all(row.split("&"), depth) for row in rows))
    return None


def _compound(text: str, depth: int) -> Item | None:
    """Parse a quantity in several units, from the large to the small: 2 hours and 30 minutes."""
    parts = units.split_compound(text)
    if parts is None:
        return None
    first = parts[0][1]
    total: Tree = number("0")
    for count, unit in parts:
        term = Operation("*", (number(count), Number(unit.size / first.size)))
        total = Operation("+", (total, term))
    return Value(total, first)


def _parse_all(texts: list[str], depth: int) -> tuple[Item, ...]:
    return tuple(parse_answer(text, depth + 1) for text in texts)


def _union(text: str, depth: int) -> Item | None:
    """Parse a union of intervals or of sets."""
    whole, *without = split_outside_brackets(text, ("\\setminus",))
    if len(without) == 1 and _ALL_REALS.fullmatch(whole.strip()):
        return _reals_without(parse_answer(without[0], depth + 1))
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


def _reals_without(item: Item) -> Intervals:
    """Return the real numbers without those of a set, as intervals between them."""
    if not isinstance(item, Listing) or item.opening != "\\{":
        raise Unreadable("the real numbers without something else than a set")
    points = [part.tree for part in item.items if isinstance(part, Value)]
    if len(points) != len(item.items):
        raise Unreadable("the real numbers without other things than numbers")
    points.sort(key=lambda tree: float(value.evaluate(tree, {}, real=True)))
    ends = itertools.pairwise([MINUS_INFINITY, *points, INFINITY])
    return Intervals(None, tuple(Interval(low, False, high, False) for low, high in ends))


def _sequence(text: str, depth: int) -> Item | None:
    r"""Parse several items without brackets: a, b and c; x = 1 or x = 2; 1 \pm 2."""
    cases = text.split("\\lor")
    if len(cases) > 1 and all(re.search("[=<>]", case) for case in cases):  # p or q is no answer
        text = " or ".join(cases)
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
    if len({item.name for item in ranges} - {None}) > 1:
        raise Unreadable("ranges of several variables")
    if (
        re.search(r"\sor\s", text)
        and len(base_names(i.name for i in items if isinstance(i, Named))) > 1
    ):
        raise Unreadable("values of one variable or of another")
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
        case [mark], [Call("abs", Variable(name)), bound] if mark[0] in "<>":
            return _distances(name, bound, mark)
        case [mark], [bound, Variable()]:
            return Intervals(sides[1], (_ray(bound, mark.translate(_MIRRORED)),))
        case [first, second], [left, Variable(), right] if first[0] == second[0] != "!":
            piece = Interval(left, "=" in first, right, "=" in second)
            if first[0] == ">":
                piece = Interval(right, "=" in second, left, "=" in first)
            return Intervals(sides[1], (piece,))
    raise Unreadable("a relation of other things")


def _distances(name: str, bound: Tree, mark: str) -> Intervals:
    """Return the numbers whose absolute value is below or above a positive bound."""
    size = value.evaluate(bound, {}, real=True)
    if isinstance(size, value.Infinity) or size <= 0:
        raise Unreadable("no positive bound")
    closed = "=" in mark
    if mark[0] == "<":
        return Intervals(name, (Interval(Negative(bound), closed, bound, closed),))
    rays = (_ray(Negative(bound), "<" + mark[1:]), _ray(bound, mark))
    return Intervals(name, rays)


def _ray(bound: Tree, mark: str) -> Interval:
    """Return the numbers below or above a bound."""
    closed = "=" in mark
    if mark[0] == "<":
        return Interval(MINUS_INFINITY, False, bound, closed)
    return Interval(bound, closed, INFINITY, False)


def _equation(text: str, depth: int) -> Item | None:
    """Parse x = 5, f(x) = 2x, 2 + 3 = 5 or x^2 + y^2 = 1."""
    sides = [side.strip() for side in split_outside_brackets(text, ("=",))]
    if len(sides) < 2:
        return None
    if len(sides) > 8 or not all(sides):
        raise Unreadable("an equation without a side")
    last = parse_answer(sides[-1], depth + 1)
    if re.fullmatch(r"\(\s*\\?[A-Za-z]+(?:\s*,\s*\\?[A-Za-z]+)+\s*\)", sides[0]):  # (x, y) = (1, 2)
        names = sides[0].strip("() ").split(",")
        if not isinstance(last, Listing) or len(names) != len(last.items) or len(sides) > 2:
            raise Unreadable("other names than values")
        named = (Named(plain_name(n), i) for n, i in zip(names, last.items, strict=True))
        return Listing(last.opening, last.closing, tuple(named))
    if NAME.fullmatch(sides[0]):
        _check_chain(sides[1:])
        if isinstance(last, Value) and re.sub(r"\W", "", sides[0]) in variables(last.tree):
            raise Unreadable("a name in terms of itself")
        return Named(plain_name(sides[0]), last)
    if not isinstance(last, Value):
        raise Unreadable("an equation of other things")
    if len(sides) == 2 and NAME.fullmatch(sides[1]):
        return Named(plain_name(sides[1]), parse_answer(sides[0], depth + 1))
    left = parse_formula(sides[0])
    if len(sides) == 2 and variables(left) | variables(last.tree):
        if isinstance(left, Call) or _is_term(left) and not variables(last.tree):
            return Named(sides[0], last)
        return Equation(left, last.tree)
    _check_chain(sides)
    return last


def _is_term(tree: Tree) -> bool:
    """Return whether a tree has only variables, no numbers: a + b, ab or a/b."""
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
        if not equal_values(tree, numbers[-1]):
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
    if not is_balanced(inner):
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
