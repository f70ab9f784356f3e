r"""The rule `math`: whether an answer says the same as the reference, mathematically.

Both are read into small structures (`reading`) and compared by exact or 60-digit values (`value`),
in bounded time: nothing is simplified and no large number is computed.  Only a pair of formulas
that this cannot read goes to the library math-verify, inside a killable worker and if it is short.
The policy (docs/rewards.md) is the reader's, so both ways of comparing keep to it.
"""

from __future__ import annotations

import re

from rlvr_jax.host.rules import text
from rlvr_jax.host.rules.maths import choice, library, notation, parser, sentence, units, value
from rlvr_jax.host.rules.maths.formula import Tree, Unreadable, number
from rlvr_jax.host.rules.maths.parser import Item
from rlvr_jax.host.text import answers

_UNCOMPUTED = re.compile(
    r"\\(?:int|sum|prod|lim|iint|oint|infty)(?![A-Za-z])|\^\s*\(?\{?.{0,20}\^|!"
)
_SPACE = re.compile(r"\s+(?![0-9A-Za-z])|(?<![0-9A-Za-z])\s+")
_PROSE = re.compile(
    r"\d{16}|[<>%,;:?~\"\u00b0]|\\pm|\.\.|[-+*/^=_]\s*$"
    r"|(?<![\\A-Za-z])(?!(?:sin|cos|tan|log|ln|exp|sqrt)(?![A-Za-z]))[A-Za-z]{2,}"
)
_FORMULA = re.compile(r"[-+*/^=\\\d(){}\[\]|]")


def score(completion: str, reference: str) -> float:
    """1.0 when the final answer is equal to the reference, else 0.0."""
    found = answers.extract(completion)
    gold = reference.strip()
    if answers.boxed(gold) is not None:
        gold = answers.boxed(gold) or ""
    if found is None or not gold:
        return 0.0
    return float(same(gold, found))


def same(gold: str, found: str) -> bool:
    """Whether an extracted answer is equal to the reference."""
    if gold == found and _says_something(gold):
        return True
    if choice.is_letter(gold):
        return choice.letter(found) == choice.letter(gold)
    gold = text.digits(sentence.bare(notation.plain(gold)))
    try:
        wanted = parser.read(gold)
    except Unreadable:
        wanted = None
    if wanted is None or wanted[0] == "value" and _is_word(gold):
        return _same_text(gold, found) or wanted is None and _by_library(gold, found)
    texts = sentence.candidates(found) + sentence.candidates(notation.plain(found))
    for candidate in dict.fromkeys(texts):
        spelled = text.digits(notation.plain(candidate))
        try:
            item = parser.read(_decimal_comma(spelled, wanted))
        except Unreadable:
            continue
        return equal(wanted, item)
    return _by_library(gold, notation.plain(sentence.bare(found)))


def _says_something(text_: str) -> bool:
    return any(char.isalnum() for char in text_)


def _is_word(gold: str) -> bool:
    """Words, not products of letters: "no" is not "on"."""
    if gold == "pi" or re.fullmatch(r"[a-df-hj-np-tv-zA-Z]{2,3}", gold):
        return False  # ab, xyz
    return bool(re.fullmatch(r"[^\W\d_]{2,}(?:[\s'-]+[^\W\d_]+)*\.?", gold))


def _same_text(gold: str, found: str) -> bool:
    wanted = text.normal(gold)
    says = [text.normal(notation.plain(says)) for says in sentence.candidates(found)]
    return bool(wanted) and wanted in says


def _decimal_comma(answer: str, wanted: Item) -> str:
    """3,14 where a single decimal number is asked for; elsewhere a comma separates."""
    item = wanted[2] if wanted[0] == "named" else wanted
    if item[0] != "value" or item[1][0] not in ("num", "neg"):
        return answer
    written = re.fullmatch(r"(-?\s*)(\d{1,3}(?:\.\d{3})+|\d+),(\d+)(\D*)", answer)
    if written is None or len(written[3]) == 3 and "." not in written[2]:
        return answer
    return f"{written[1]}{written[2].replace('.', '')}.{written[3]}{written[4]}"


def _by_library(gold: str, found: str) -> bool:
    """What math-verify says, where it can be trusted: short formulas, both of one kind.

    Sums, integrals, limits, towers of powers and factorials are equal to themselves only.
    """
    if _FORMULA.search(gold) and _SPACE.sub("", gold) == _SPACE.sub("", found):
        return _says_something(gold)
    pair = (gold, found)
    if any(len(t) > 200 or _UNCOMPUTED.search(t) or not _FORMULA.search(t) for t in pair):
        return False
    if any(map(_PROSE.search, pair)):
        return False
    return library.verify(gold, found)


def equal(gold: Item, found: Item) -> bool:
    """Whether two answers say the same."""
    if "named" in (gold[0], found[0]):
        return _named(gold, found)
    if gold[0] == found[0] == "value":
        return _values(gold, found)
    if gold[0] == "list" and found[0] == "list":
        return _lists(gold, found)
    if "range" in (gold[0], found[0]):
        return _ranges(gold, found)
    if "ratio" in (gold[0], found[0]):
        return _ratios(gold, found)
    if "matrix" in (gold[0], found[0]):
        return _matrices(gold, found)
    if gold[0] == found[0] == "time":
        return gold[1] == found[1] and ("" in (gold[2], found[2]) or gold[2] == found[2])
    if gold[0] == found[0] == "not":
        return gold[1] == found[1] and equal(gold[2], found[2])
    if gold[0] == found[0] == "equation":
        return _equations(gold, found)
    if "list" in (gold[0], found[0]):  # {5} for 5
        one, other = (gold, found) if gold[0] == "list" else (found, gold)
        single = len(one[3]) == 1 and one[1] == "\\{" and other[0] != "empty"
        return single and equal(one[3][0], other)
    return gold[0] == found[0] == "empty"


def _values(gold: Item, found: Item) -> bool:
    scale = units.factor(gold[2], found[2])
    if scale is None:
        return False
    tree: Tree = found[1]
    if scale != 1:
        tree = ("*", ("num", scale, False), tree)
    try:
        if {gold[1][0], tree[0]} & {"based"}:
            return _based(gold[1], tree)
        return value.equal(gold[1], tree)
    except Unreadable:
        return False


def _based(gold: Tree, found: Tree) -> bool:
    """1010_2 has the digits and the base of the reference; the base may be left out."""
    digits = [tree[1] if tree[0] == "based" else tree for tree in (gold, found)]
    bases = [tree[2] for tree in (gold, found) if tree[0] == "based"]
    return digits[0] == digits[1] and len(set(bases)) == 1


def _named(gold: Item, found: Item) -> bool:
    if gold[0] == found[0] == "named":
        return _same_name(gold[1], found[1]) and equal(gold[2], found[2])
    one, other = (gold, found) if gold[0] == "named" else (found, gold)
    if other[0] in ("range", "not", "empty"):
        return False
    if other[0] == "equation":
        return False
    return equal(gold[2], found) if one is gold else equal(gold, found[2])


def _same_name(a: str, b: str) -> bool:
    functions = [bool(re.fullmatch(r"y|[A-Za-z]\([a-z]\)", name)) for name in (a, b)]
    return a == b or all(functions) or min(len(a), len(b)) > 1 and a.isalpha() and b.isalpha()


def _lists(gold: Item, found: Item) -> bool:
    mine, theirs = gold[3], found[3]
    marks = (gold[1], found[1])
    if _all_named(mine) and _all_named(theirs):
        names = [sorted(x[1] for x in items) for items in (mine, theirs)]
        return names[0] == names[1] and _any_order(mine, theirs)
    mine, theirs = _without_names(mine), _without_names(theirs)
    if "\\{" in marks and marks != ("\\{", "\\{"):  # {(1, 2)} for (1, 2)
        one, other = (gold, found) if gold[1] == "\\{" else (found, gold)
        if len(one[3]) == 1 and other[1] != "" and equal(one[3][0], other):
            return True
    if "\\{" in marks:
        return set(marks) <= {"\\{", ""} and _any_order(_distinct(mine), _distinct(theirs))
    if len(mine) != len(theirs):
        return False
    if marks == ("", ""):
        return _in_order(mine, theirs) or not _all_named(gold[3]) and _any_order(mine, theirs)
    if "" in marks:
        other = marks[0] or marks[1]
        return (other != "[" or len(mine) != 2) and _in_order(mine, theirs)
    tuples = ("(", "\\langle")
    alike = marks[0] in tuples and marks[1] in tuples and gold[2] != "]" and found[2] != "]"
    return (alike or gold[1:3] == found[1:3]) and _in_order(mine, theirs)


def _all_named(items: tuple) -> bool:
    return all(item[0] == "named" for item in items) and len({x[1] for x in items}) == len(items)


def _without_names(items: tuple) -> tuple:
    return tuple(item[2] if item[0] == "named" else item for item in items)


def _in_order(mine: tuple, theirs: tuple) -> bool:
    return len(mine) == len(theirs) and all(map(equal, mine, theirs))


def _any_order(mine: tuple, theirs: tuple) -> bool:
    left = list(theirs)
    for item in mine if len(mine) == len(theirs) else ():
        match = next((i for i, other in enumerate(left) if equal(item, other)), None)
        if match is None:
            return False
        left.pop(match)
    return len(mine) == len(theirs)


def _distinct(items: tuple) -> tuple:
    out: list[Item] = []
    for item in items:
        if not any(equal(item, other) for other in out):
            out.append(item)
    return tuple(out)


def _ranges(gold: Item, found: Item) -> bool:
    mine, theirs = parser.as_range(gold), parser.as_range(found)
    if mine is None or theirs is None or len(mine) != len(theirs):
        return False
    names = {item[1] for item in (gold, found) if item[0] == "range"} - {None}
    if len(names) > 1:
        return False
    left = list(theirs)
    for piece in mine:
        match = next((i for i, other in enumerate(left) if _same_piece(piece, other)), None)
        if match is None:
            return False
        left.pop(match)
    return True


def _same_piece(a: tuple, b: tuple) -> bool:
    try:
        ends = value.equal(a[0], b[0]) and value.equal(a[2], b[2])
    except Unreadable:
        return False
    return ends and a[1] == b[1] and a[3] == b[3]


def _ratios(gold: Item, found: Item) -> bool:
    first, second = _parts(gold), _parts(found)
    if first is None or second is None or len(first) != len(second):
        return False
    try:
        return all(
            value.equal(("*", a, second[0]), ("*", b, first[0]))
            for a, b in zip(first[1:], second[1:], strict=True)
        ) and not value.equal(first[0], number("0"))
    except Unreadable:
        return False


def _parts(item: Item) -> list[Tree] | None:
    if item[0] == "ratio":
        return [part[1] for part in item[1]]
    if item[0] == "time":
        return [number(part) for part in item[1].split(":")[:2]]
    if item[0] == "value":
        return [item[1], number("1")]
    return None


def _matrices(gold: Item, found: Item) -> bool:
    mine, theirs = _rows(gold), _rows(found)
    if mine is None or theirs is None:
        return False
    if "list" in (gold[0], found[0]) and 1 in (len(mine), len(theirs)):  # (1, 2) for a column
        mine, theirs = (tuple(x for row in side for x in row) for side in (mine, theirs))
        return _in_order(mine, theirs)
    return len(mine) == len(theirs) and all(map(_in_order, mine, theirs))


def _rows(item: Item) -> tuple | None:
    if item[0] == "matrix":
        return item[1]
    if item[0] != "list" or item[1] not in ("[", "(", "\\langle"):
        return None
    if all(row[0] == "list" and row[1] == "[" for row in item[3]):
        return tuple(row[3] for row in item[3])
    return (item[3],)


def _equations(gold: Item, found: Item) -> bool:
    """One is the other times a number: x^2 + y^2 = 1 and 2x^2 = 2 - 2y^2."""
    mine, theirs = (("-", item[1], item[2]) for item in (gold, found))
    try:
        if value.equal(mine, theirs) or value.equal(mine, ("neg", theirs)):
            return True
        return value.constant(("/", mine, theirs))
    except Unreadable:
        return False
