r"""The domain behind an answer: x = pi/4 + k pi, k \in \Z; f(x) = x for all x \in \R."""

from __future__ import annotations

import re

_BEHIND = re.compile(r"(for all|for any|for every)\s+(integer|real number)s?\s+([a-z])\s*$")
_DOMAIN = re.compile(
    r"[\s,;(]*(?:(?:where|with|for)\s+)?(?:(?:all|any|every|each)\s+|\\forall\s*)?"
    r"([a-z])\s*(?:\\in(?![A-Za-z])|is an?|in|:)\s*"
    r"(?:\\(?P<set>[RZ])|(?P<word>integer|real number)s?)[)\s]*"
)


def without_domain(text: str) -> str:
    r"""Return a text without "for all x \in \R" or "k \in \Z" behind it, if it holds for these.

    Whole numbers are understood of k, l, m and n, and real ones of other letters.
    """
    text = _BEHIND.sub(r"\1 \3 in \2", text)
    for match in _DOMAIN.finditer(text):
        name, rest = match[1], text[: match.start()]
        integers = "Z" in (match["set"] or "") or match["word"] == "integer"
        if match.end() == len(text) and rest and integers == (name in "klmn"):
            is_used = re.search(rf"(?<![A-Za-z\\]){name}(?![a-z])", rest)
            return rest.rstrip(" ,;(") if is_used and "=" in rest else text
    return text
