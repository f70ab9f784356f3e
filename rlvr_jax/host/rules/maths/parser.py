"""What an answer says: a value, a list, a range, a matrix, a name with its value, and so on.

`read` gives nested tuples, and raises Unreadable for text that says none of these:

    ("value", tree, unit, is_percent)        ("list", opening, closing, (item, ...))
    ("named", name, item)                    ("range", name, ((low, closed, high, closed), ...))
    ("matrix", ((item, ...), ...))           ("ratio", (item, ...))
    ("equation", tree, tree)                 ("not", name, item)
    ("time", text)                           ("empty",)
"""

from __future__ import annotations

import re

from rlvr_jax.host.rules.maths import formula, units, value
from rlvr_jax.host.rules.maths.formula import Unreadable

MAX_ITEMS = 32
Item = tuple

_NAME = re.compile(
    r"\\frac\s*\{d\w*\}\s*\{d\w\}|(?:\\?[A-Za-z]+(?:\s*_\s*(?:\{[^{}]*\}|\w))?'*|\\angle\s*\w+)(?:\s*\([^()]*\))?(?:\s*\^\s*\{?-1\}?\s*\([^()]*\))?"
)
_RELATION = re.compile(r"<=|>=|!=|<|>")
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
_ALL = re.compile(r"\\R|(?:all )?real numbers|all reals?", re.I)
_INFINITE = (("const", "infty"), ("neg", ("const", "infty")))


def read(text: str, depth: int = 0) -> Item:
    """The meaning of an answer in plain spelling.

    Raises:
      Unreadable: it has none of the forms above.
    """
    text = _trim(text)
    if not text or depth > 6 or len(text) > 4 * formula.MAX_LENGTH:
        raise Unreadable("empty, too deep or too long")
    for reader in (_special, _union, _sequence, _related, _equated, _ratio, _enclosed):
        item = reader(text, depth)
        if item is not None:
            return item
    return quantity(text)


def _trim(text: str) -> str:
    text = text.strip().rstrip(".").strip()
    while text.startswith("$") and text.endswith("$") and len(text) > 1:
        text = text[1:-1].strip()
    return text.rstrip(",;").strip() if text.count("$") != 1 else text


def quantity(text: str) -> Item:
    """A formula with an optional unit or percent sign."""
    if text.endswith("$") and not re.search(r"\d\s*\$$", text):
        text = text[:-1]
    text = _THOUSANDS.sub(lambda m: m[0].replace(",", ""), text)
    text = re.sub(r"(?<=\d)\s*[xX]\s*(?=10\s*\^)", "*", text)
    text = re.sub(r"\s*(?:percent|per cent)$", "%", text)
    text = re.sub(r"(?<=[\d}])\s*\(([A-Za-z]{2,}[^()\d]*)\)$", r" \1", text)  # 9 (units)
    text = re.sub(r"^(\d+)(?:st|nd|rd|th)$", r"\1", text)
    number, unit = units.split(text)
    if number.endswith("%") and not re.search(r"[%+]|\d\s*-", number[:-1]):  # 9 1/2 %
        return ("value", ("/", formula.read(number[:-1]), formula.number("100")), unit)
    return ("value", formula.read(number), unit)


def _special(text: str, depth: int) -> Item | None:
    if text in ("\\emptyset", "\\{\\}", "\\{ \\}", "{}"):
        return ("empty",)
    if _ALL.fullmatch(text):
        return ("range", None, ((_INFINITE[1], False, _INFINITE[0], False),))
    if described := _DESCRIBED.fullmatch(text):
        return read(described[1], depth + 1)
    if time := _TIME.fullmatch(text):
        return ("time", f"{int(time[1])}:{time[2]}:{time[3] or '00'}", (time[4] or "").lower())
    matrix = _MATRIX.fullmatch(text)
    if matrix and matrix[1] not in ("v", "V"):
        rows = re.split(r"\\\\", (matrix[2] or matrix[3] or "").strip().rstrip("\\ "))
        if len(rows) * rows[0].count("&") > MAX_ITEMS:
            raise Unreadable("a large matrix")
        return ("matrix", tuple(tuple(read(c, depth + 1) for c in r.split("&")) for r in rows))
    return None


def _union(text: str, depth: int) -> Item | None:
    parts = split(text, ("\\cup",))
    if len(parts) < 2:
        return None
    ranges = [as_range(read(part, depth + 1)) for part in parts]
    if all(found is not None for found in ranges):
        return ("range", None, tuple(piece for found in ranges if found for piece in found))
    items = [read(part, depth + 1) for part in parts]
    if all(item[0] == "list" and item[1] == "\\{" for item in items):
        return ("list", "\\{", "\\}", tuple(x for item in items for x in item[3]))
    raise Unreadable("a union of other things")


def _sequence(text: str, depth: int) -> Item | None:
    """a, b and c; x = 1 or x = 2; 3 and 4."""
    joined = re.search(r"(?:,| )\s*and ", text) is not None
    text = re.sub(r",\s*(?:and|or) ", ", ", text)
    words = split(text, (" or ", " and ", ";"))
    loose = _THOUSANDS.sub(lambda m: m[0].replace(",", ""), text) if depth == 0 else text
    spaced = ", " in re.sub(r"\(.*?\)", "", text)
    parts = [p for w in words for p in split(w if spaced or depth else w, (",",))]
    if len(words) == 1 and (depth == 0 or spaced) and loose != text:
        parts = split(loose, (",",))
    parts = [re.sub(r"^(?:and|or)\s+", "", part.strip()) for part in parts]
    if len(parts) < 2:
        return _plus_minus(text, depth)
    if len(parts) > MAX_ITEMS or not all(parts):
        raise Unreadable("too many parts, or an empty one")
    items = [read(part, depth + 1) for part in parts]
    ranges = [item for item in items if item[0] == "range"]
    if ranges and len(ranges) == len(items) and not joined:
        return ("range", items[0][1], tuple(piece for item in items for piece in item[2]))
    flat: list[Item] = []
    for item in items:  # 1, \pm 2
        flat += item[3] if item[0] == "list" and item[1] == "" else [item]
    return ("list", "", "", tuple(flat))


def _plus_minus(text: str, depth: int) -> Item | None:
    if not re.search(r"\\pm(?![A-Za-z])|\+/-|\+-", text):
        return None
    text = re.sub(r"\\pm(?![A-Za-z])|\+/-|\+-", "\\\\pm ", text)
    if text.count("\\pm") != 1:
        raise Unreadable("several signs to choose")
    both = [read(text.replace("\\pm", sign), depth + 1) for sign in ("+", "-")]
    return ("list", "", "", tuple(both))


def _related(text: str, depth: int) -> Item | None:
    """x < 5, 1 < x <= 2, x != 3, x \\in (1, 2)."""
    inside = re.fullmatch(r"(\\?[A-Za-z])(?:\s*\\in(?![A-Za-z])|\s+in\s)\s*(.+)", text)
    if inside:
        item = read(inside[2], depth + 1)
        found = as_range(item)
        return ("range", inside[1], found) if found else item
    marks = _RELATION.findall(text)
    if not marks:
        return None
    sides = [side.strip() for side in _RELATION.split(text)]
    trees = [formula.read(side) for side in sides]
    if marks == ["!="] and trees[0][0] == "var":
        return ("not", sides[0], quantity(sides[1]))
    if len(marks) == 1 and trees[0][0] == "var":
        return ("range", sides[0], (_ray(trees[1], marks[0]),))
    if len(marks) == 1 and trees[1][0] == "var":
        return ("range", sides[1], (_ray(trees[0], marks[0].translate(_TURN)),))
    if len(marks) == 2 and trees[1][0] == "var":
        low, high = (0, 2) if marks[0][0] == "<" else (2, 0)
        if marks[0][0] == marks[1][0] != "!":
            first, second = (marks[0], marks[1]) if low == 0 else (marks[1], marks[0])
            piece = (trees[low], "=" in first, trees[high], "=" in second)
            return ("range", sides[1], (piece,))
    raise Unreadable("a relation of other things")


_TURN = str.maketrans("<>", "><")


def _ray(tree: formula.Tree, mark: str) -> tuple:
    closed = "=" in mark
    if mark[0] == "<":
        return (_INFINITE[1], False, tree, closed)
    return (tree, closed, _INFINITE[0], False)


def _equated(text: str, depth: int) -> Item | None:
    """x = 5, f(x) = 2x, 2 + 3 = 5, x^2 + y^2 = 1."""
    sides = [side.strip() for side in split(text, ("=",))]
    if len(sides) < 2:
        return None
    if len(sides) > 8 or not all(sides):
        raise Unreadable("an equation without a side")
    last = read(sides[-1], depth + 1)
    if re.fullmatch(r"\(\s*[A-Za-z](?:\s*,\s*[A-Za-z])+\s*\)", sides[0]):  # (x, y) = (1, 2)
        return last
    if _NAME.fullmatch(sides[0]):
        name = re.sub(r"[\s{}\\]", "", sides[0])
        _agree(sides[1:])
        own = last[0] == "value" and re.sub(r"\W", "", sides[0]) in formula.names(last[1])
        if own:
            raise Unreadable("a name in terms of itself")
        return ("named", name, last)
    if len(sides) == 2 and _NAME.fullmatch(sides[1]) and last[0] == "value":
        return ("named", re.sub(r"[\s{}\\]", "", sides[1]), read(sides[0], depth + 1))
    if last[0] != "value":
        raise Unreadable("an equation of other things")
    left = formula.read(sides[0])
    if len(sides) == 2 and formula.names(left) | formula.names(last[1]):
        if left[0] == "call" or _is_plain(left) and not formula.names(last[1]):
            return ("named", sides[0], last)
        return ("equation", left, last[1])
    _agree(sides)
    return last


def _is_plain(tree: formula.Tree) -> bool:
    """a + b, ab, a/b: what a question asks for, without numbers of its own."""
    if tree[0] in ("+", "-", "*", "/"):
        return all(_is_plain(part) for part in tree[1:])
    return tree[0] == "var"


def _agree(sides: list[str]) -> None:
    """Sides of a chain that are numbers have to be equal: 1 = 42 says nothing."""
    if len(sides) < 2:
        return
    trees = [units.split(_THOUSANDS.sub(lambda m: m[0].replace(",", ""), s))[0] for s in sides]
    read_ones = [formula.read(text) for text in trees]
    plain = [tree for tree in read_ones if not formula.names(tree)]
    for tree in plain[:-1]:
        if not value.equal(tree, plain[-1]):
            raise Unreadable("an equation that is wrong")


def _ratio(text: str, depth: int) -> Item | None:
    parts = split(text, (":",))
    if len(parts) < 2:
        return None
    return ("ratio", tuple(quantity(part.strip()) for part in parts[:MAX_ITEMS]))


def _enclosed(text: str, depth: int) -> Item | None:
    """(1, 2), [1, 2), {1, 2}, <1, 2> and what is in one pair of brackets."""
    text = re.sub(r"^\{(.*,.*)\}$", r"\\{\1\\}", text)
    opening = next((o for o in _CLOSING if text.startswith(o)), "")
    closing = next((c for c in _CLOSING.values() if text.endswith(c)), "")
    if not opening or not closing or len(text) <= len(opening) + len(closing):
        return None
    inner = text[len(opening) : -len(closing)].strip()
    if not _balanced(inner):
        return None
    parts = split(inner, (",", ";"))
    if len(parts) == 1 and opening == "\\{":
        return ("list", opening, closing, (read(inner, depth + 1),))
    if len(parts) == 1:
        if (opening, closing) == ("[", "]"):
            return ("list", opening, closing, (read(inner, depth + 1),))
        return _bare_inner(inner, depth)
    if len(parts) > MAX_ITEMS:
        raise Unreadable("too many parts")
    items: list[Item] = []
    for part in parts:
        item = read(part, depth + 1)
        items += item[3] if item[0] == "list" and item[1] == "" else [item]
    return ("list", opening, closing, tuple(items))


def _bare_inner(inner: str, depth: int) -> Item | None:
    """(x = 5): a bracket around something that is not a formula."""
    return read(inner, depth + 1) if _RELATION.search(inner) or "=" in inner else None


def as_range(item: Item) -> tuple | None:
    """The pieces of an item that is a range, or can be read as an interval."""
    if item[0] == "range":
        return item[2]
    if item[0] == "list" and item[1] in ("(", "[") and item[2] in (")", "]") and len(item[3]) == 2:
        low, high = item[3]
        if low[0] == high[0] == "value":
            return ((low[1], item[1] == "[", high[1], item[2] == "]"),)
    return None


def split(text: str, marks: tuple[str, ...]) -> list[str]:
    """The text cut at marks that are in no bracket."""
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


def _balanced(inner: str) -> bool:
    """Whether brackets inside close before they open: "1) + (2" is not what a bracket holds."""
    depth = 0
    for char in inner:
        depth += (char in "([{") - (char in ")]}")
        if depth < 0:
            return False
    return depth == 0
