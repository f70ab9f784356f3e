r"""Patterns of a tokenizer that could take exponential time are refused before they are used.

A tokenizer.json splits and normalises text by regular expressions, which the package `tokenizers`
runs by backtracking, without a limit of time.  Time explodes where a part of a text can be matched
in many ways before something that may fail: by a repeated group that itself holds a quantifier or
an alternative, such as `(a+)+b`, or by several quantifiers, such as `a*a*a*b`.  What is accepted
takes a time that grows at most with the square of the text.  Nothing explodes where nothing
follows, so `(?:\p{L}|\p{M})+` at the end of an alternative is allowed.  The syntax is that of
Oniguruma.
"""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

_WAYS = 64  # in which bounded quantifiers and alternatives may match before what may fail
_LONG = 10  # a quantifier that chooses among more lengths counts as one without a bound
_COUNTS = 1000  # of a quantifier in braces
_OPEN = re.compile(r"\(\?(?:[:>=!]|<[=!]|<[A-Za-z_]\w*>|[imsa-]+:)|\((?!\?)")
_OPTION = re.compile(r"\(\?[ima-]+\)")
_ATOM = re.compile(r"\\[pPx]\{[^{}]*\}|\\[^\dkgGKyYcCM]|[^\\()\[*+?|]", re.DOTALL)
_TIMES = re.compile(r"\{(\d{1,9})?(,)?(\d{1,9})?\}|[*+?]")
_ATOMIC = ("(?>", "(?=", "(?!", "(?<=", "(?<!")


class _Refused(ValueError):
    """A pattern is refused; the text is the reason."""


@dataclass
class _Part:
    """A `_Part` is a group, or an atom, with the ways in which it can match.

    `endless` and `ways` belong to the alternative that is being read: the number of quantifiers
    without a bound, and the product of all other choices; `all_endless` and `all_ways` to the
    whole group.  `worst_endless` and `worst_ways` are the largest numbers before anything that may
    fail.
    """

    opened: str = ""
    endless: int = 0
    ways: int = 1
    all_endless: int = 0
    all_ways: int = 0
    worst_endless: int = 0
    worst_ways: int = 1

    def bar(self) -> None:
        """End an alternative and begin the next."""
        self.all_endless = max(self.all_endless, self.endless)
        self.all_ways += self.ways
        self.endless, self.ways = 0, 1

    def add(self, atom: "_Part", least: int, most: float, atomic: bool) -> None:
        """Add an atom that is repeated; refuse what can match in too many ways before failing."""
        before = (self.endless, self.ways) if least else (0, 1)
        self.worst_endless = max(self.worst_endless, before[0] + atom.worst_endless)
        self.worst_ways = max(self.worst_ways, before[1] * atom.worst_ways)
        if self.worst_endless > 1 or self.worst_ways > _WAYS:
            raise _Refused("too many quantifiers before what may fail")
        if not atomic and atom.opened not in _ATOMIC:
            long = most - least > _LONG
            self.endless += atom.all_endless + long
            self.ways *= atom.all_ways * (1 if long else int(most) - least + 1)


def explain(pattern: str) -> str | None:
    """Return why a pattern may take exponential time, or None if it does not."""
    try:
        _check(pattern)
    except _Refused as reason:
        return str(reason)
    return None


def list_patterns(state: Any) -> Iterator[str]:
    """Yield all regular expressions in the JSON of a normaliser, pre-tokenizer or decoder."""
    if isinstance(state, dict):
        if isinstance(state.get("Regex"), str):
            yield state["Regex"]
        state = list(state.values())
    if isinstance(state, list):
        for part in state:
            yield from list_patterns(part)


def _check(pattern: str) -> None:
    option = _OPTION.match(pattern)
    stack, at = [_Part()], option.end() if option else 0
    while at < len(pattern):
        char, atom = pattern[at], _Part(all_ways=1)
        if char == "|":
            stack[-1].bar()
            at += 1
            continue
        if char == "(":
            opened = _OPEN.match(pattern, at)
            if opened is None:
                raise _Refused(f"a group {pattern[at : at + 4]!r} that is not known here")
            stack.append(_Part(opened.group()))
            at = opened.end()
            continue
        if char == ")":
            if len(stack) == 1:
                raise _Refused("a bracket too many")
            stack[-1].bar()
            atom, at = stack.pop(), at + 1
        elif char == "[":
            at = _class_end(pattern, at)
        else:
            match = _ATOM.match(pattern, at)
            if match is None:
                raise _Refused(f"{pattern[at : at + 2]!r}, which is not known here")
            at = match.end()
        at = _repeat(pattern, at, stack, atom)
    if len(stack) > 1:
        raise _Refused("a bracket too few")


def _repeat(pattern: str, at: int, stack: list[_Part], atom: _Part) -> int:
    """Add an atom with the quantifier at `at`, if there is one; return where that ends."""
    match = _TIMES.match(pattern, at)
    if match is None or match.group() in ("{}", "{,}"):
        stack[-1].add(atom, 1, 1, False)
        return at
    least, most = _bounds(match)
    at = match.end()
    suffix = pattern[at : at + 1]
    atomic = suffix == "+" and match.group()[0] != "{"
    at += suffix == "?" or atomic
    choice = atom.opened not in _ATOMIC and (atom.all_endless > 0 or atom.all_ways > 1)
    if again := _TIMES.match(pattern, at):  # x{1,3}+ is (?:x{1,3})+
        at, most, choice, atomic = again.end(), math.inf, True, False
    last = len(stack) == 1 and pattern[at : at + 1] in ("", "|")
    if most > 1 and choice and not last:
        raise _Refused("a repeated group with a quantifier or an alternative in it")
    stack[-1].add(atom, least, most, atomic)
    return at


def _bounds(match: re.Match) -> tuple[int, float]:
    """Return the least and the largest number of times that a quantifier allows."""
    if match.group()[0] != "{":
        return {"*": (0, math.inf), "+": (1, math.inf), "?": (0, 1)}[match.group()]
    first, comma, second = match.groups()
    least = int(first or 0)
    most = (int(second) if second else math.inf) if comma else least
    if max(least, int(second or 0)) > _COUNTS:
        raise _Refused(f"a count above {_COUNTS}")
    return least, most


def _class_end(pattern: str, at: int) -> int:
    """Return where a character class ends, with the classes inside it."""
    depth, start = 0, at
    while at < len(pattern):
        char = pattern[at]
        if char == "[":
            depth += 1
            at += 2 if pattern[at + 1 : at + 2] == "^" else 1
            at += pattern[at : at + 1] == "]"  # a bracket in the first place is a character
            continue
        if char == "\\" and pattern[at + 1 : at + 2] in ("c", "C", "M"):
            break
        at += 2 if char == "\\" else 1
        depth -= char == "]"
        if not depth:
            return at
    raise _Refused(f"a class {pattern[start : start + 8]!r} that is not known here")
