"""Parse numbers with a base after their digits: 1010_2, 3A7_{16}, 4210 base five."""

from __future__ import annotations

import re

from rlvr_jax.host.problems.number_words import parse_number_words
from rlvr_jax.host.rules.maths.tree import BasedNumber, Variable, number

_BASED = re.compile(
    r"([0-9A-Z]*\d[0-9A-Z]*)\s*"
    r"(?:_\s*\{\s*\(?\s*(\w+)\s*\)?\s*\}|_\s*(\d+)|\(?\s*base\s+(\w+)\)?)",
    re.ASCII,
)


def parse_based_number(text: str) -> BasedNumber | None:
    """Return the digits and the base of a text such as 3A7_{16}, 1010_2 or "1010 base two".

    The result is None for another text.

    Raises:
      Unreadable: the number has more digits than an answer has.
    """
    match = _BASED.fullmatch(text)
    if match is None:
        return None
    written = match[2] or match[3] or match[4]
    base = written if written.isdigit() else str(parse_number_words(written.lower()))
    if not base.isdigit() or not 2 <= int(base[:4]) <= 36:
        return None
    if any(int(digit, 36) >= int(base) for digit in match[1]):
        return None
    return BasedNumber(number(match[1]) if match[1].isdigit() else Variable(match[1]), base)
