r"""Remove the domain at the end of an answer, as in x = pi/4 + k pi, k \in \Z."""

from __future__ import annotations

import re

_BEHIND = re.compile(r"(for all|for any|for every)\s+(integer|real number)s?\s+([a-z])\s*$")
_DOMAIN = re.compile(
    r"[\s,;(]*(?:(?:where|with|for)\s+)?(?:(?:all|any|every|each)\s+|\\forall\s*)?"
    r"([a-z])\s*(?:\\in(?![A-Za-z])|is an?|in|:)\s*"
    r"(?:\\(?P<set>[RZ])|(?P<word>integer|real number)s?)[)\s]*"
)


def without_domain(text: str) -> str:
    r"""Return a text without a domain at its end, such as "for all x \in \R" or "k \in \Z".

    A domain is removed only where readers assume it anyway: integers for k, l, m and n, and real
    numbers for other letters.  The rest of the text must use the letter and contain "=".
    """
    text = _BEHIND.sub(r"\1 \3 in \2", text)
    for match in _DOMAIN.finditer(text):
        name, rest = match[1], text[: match.start()]
        integers = "Z" in (match["set"] or "") or match["word"] == "integer"
        if match.end() == len(text) and rest and integers == (name in "klmn"):
            is_used = re.search(rf"(?<![A-Za-z\\]){name}(?![a-z])", rest)
            return rest.rstrip(" ,;(") if is_used and "=" in rest else text
    return text
