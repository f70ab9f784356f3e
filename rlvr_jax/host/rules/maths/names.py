r"""Normalise and compare the names of an answer's values: x, f(x), P(A), \bar x, area."""

from __future__ import annotations

import re
from collections.abc import Iterable

from rlvr_jax.host.rules.maths.formula import ACCENTS

_LETTERS = r"\\?[A-Za-z]+(?:\s*_\s*(?:\{[^{}]*\}|\w))?'*|\\angle\s*\w+"
_ACCENTED = rf"\\(?:{'|'.join(ACCENTS)})\s*(?:\{{[^{{}}]*\}}|\w)'*"
NAME = re.compile(
    rf"{_ACCENTED}|\\frac\s*\{{d\w*\}}\s*\{{d\w\}}"
    rf"|(?:{_LETTERS})(?:\s*\([^()]*\))?(?:\s*\^\s*\{{?-1\}}?\s*\([^()]*\))?"
)


def plain_name(text: str) -> str:
    """Return a name without blanks, braces and backslashes."""
    text = re.sub(r"\\overline\s*\{([A-Z]{2})\}", r"\1", text)  # a segment, by its ends
    return re.sub(r"[\s{}\\]", "", text)


def base_names(names: Iterable[str]) -> set[str]:
    """Return the set of the names without the numbers at their ends: {"x"} for x_1 and x_2."""
    return {re.sub(r"_?\d+$", "", name) for name in names}


def is_same_name(a: str, b: str) -> bool:
    """Return whether two names mean the same: y is the same as f(x), and Area as area."""
    if "y" in (a, b) and all(re.fullmatch(r"y|[A-Za-z]\(x\)", name) for name in (a, b)):
        return True
    return a == b or len(a) > 3 and a.casefold() == b.casefold()
